"""Receipts: who has the product, and whether the bytes are there still."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from daqlib import config, receipts, spool
from harness import make_spool

Document = dict[str, Any]
BYTES = b"product" * 100
DIGEST = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture
def on(tmp_path: Path) -> spool.Spool:
    """A spool with a job that is done."""
    root = make_spool(tmp_path / "spool")
    (root / "data" / "J").mkdir()
    (root / "data" / "J" / "merge.json").write_text(json.dumps(
        {"result": {"product": "P.fits", "sha256": DIGEST, "size": len(BYTES)}}))
    (root / "result" / "P.fits").write_bytes(BYTES)
    return spool.Spool(str(root), "test")


def ask(on: spool.Spool, *receivers: Document) -> None:
    """Let the job have receivers."""
    Path(on.job_path("done", "J")).write_text(json.dumps({"receivers": list(receivers)}))


def olas(path: object) -> Document:
    return {"type": "olasReceiver", "path": str(path)}


def receipt(on: spool.Spool, label: object, path: object, how: str = "copy",
            **more: object) -> None:
    """Record a delivery."""
    on.log("J", "delivered", **{"receiver": str(label), "path": str(path), "how": how, "try": 1,
                                "size": len(BYTES), "sha256": DIGEST, **more})


def problems(on: spool.Spool) -> list[str]:
    return receipts.verify(on, config.Config(), "J")


def test_no_receivers(on: spool.Spool) -> None:
    ask(on)
    assert receipts.of(on, "J") == [] and problems(on) == []


@pytest.mark.parametrize(("state", "told"), [
    ("there", ""), ("hardlink", ""), ("symlink", ""), ("gone", "is gone"),
    ("shorter", "other content"), ("changed", "other content"), ("directory", "other content"),
    ("fifo", "other content"), ("parent", "is gone"),
])
def test_files_of_this_host(on: spool.Spool, tmp_path: Path, state: str, told: str) -> None:
    box = tmp_path / "box"
    box.mkdir()
    there = box / "P.fits"
    ask(on, olas(box))
    receipt(on, box, there, state if state.endswith("link") else "copy")
    product = on.path("result", "P.fits")
    {"there": lambda: there.write_bytes(BYTES), "hardlink": lambda: os.link(product, there),
     "symlink": lambda: there.symlink_to(product), "gone": lambda: None,
     "shorter": lambda: there.write_bytes(BYTES[:-1]), "parent": box.rmdir,
     "changed": lambda: there.write_bytes(BYTES[:-1] + b"x"), "directory": there.mkdir,
     "fifo": lambda: os.mkfifo(there)}[state]()
    found = problems(on)
    assert (found == []) == (not told) and all(told in text and str(box) in text for text in found)
    assert receipts.dependent(on, "J") == ([str(box)] if state == "symlink" else [])


def test_who_has_not_got_it(on: spool.Spool, tmp_path: Path) -> None:
    ask(on, olas("/a"), olas("/b"))
    receipt(on, "/b", tmp_path / "x")
    assert [standing.receipt is not None for standing in receipts.of(on, "J")] == [False, True]
    assert problems(on)[0] == "/a: it has not got the product"


def test_a_receipt_of_an_earlier_product_does_not_count(on: spool.Spool, tmp_path: Path) -> None:
    ask(on, olas("/a"))
    receipt(on, "/a", tmp_path / "x")
    receipt(on, "/a", tmp_path / "x", sha256="0" * 64)
    assert receipts.of(on, "J")[0].receipt is None


def test_a_manifest_that_is_gone(on: spool.Spool) -> None:
    ask(on, olas("/a"))
    receipt(on, "/a", "/a/P.fits")
    os.unlink(on.data_path("J", "merge.json"))
    assert problems(on) == ["/a: it has not got the product"]


def test_the_word_of_a_program_counts(on: spool.Spool) -> None:
    ask(on, {"type": "commandReceiver", "command": "/bin/x", "args": ["a b"]})
    receipt(on, "/bin/x 'a b'", "", "command")
    assert problems(on) == []


def test_receivers_of_the_configuration(on: spool.Spool) -> None:
    Path(on.job_path("done", "J")).write_text("{}")
    Path(on.data_path("J", "specification.json")).write_text(
        json.dumps({"receivers": [olas("/a")]}))
    assert problems(on) == ["/a: it has not got the product"]


@pytest.mark.needs("rsync")
@pytest.mark.parametrize(("state", "good"), [("there", True), ("gone", False), ("changed", False),
                                             ("folder", False), ("product", False)])
def test_files_of_another_host(on: spool.Spool, tmp_path: Path, state: str, good: bool) -> None:
    from remote import HOST, stand_in

    box = tmp_path / "box"
    box.mkdir()
    there = box / "P.fits"
    there.write_bytes(BYTES)
    ask(on, {**olas(box), "host": HOST})
    receipt(on, f"{HOST}:{box}", there, "rsync")
    {"there": lambda: None, "gone": there.unlink, "folder": lambda: os.rename(box, f"{box}2"),
     "changed": lambda: there.write_bytes(b"x" * len(BYTES)),
     "product": lambda: os.unlink(on.path("result", "P.fits"))}[state]()
    made = config.Config({**config.DEFAULTS, "rsh": str(stand_in(tmp_path).command)})
    assert (receipts.verify(on, made, "J") == []) is good


def test_host_that_cannot_be_asked(on: spool.Spool) -> None:
    ask(on, {**olas("/a"), "host": "far"})
    receipt(on, "far:/a", "/a/P.fits", "rsync")
    made = config.Config({**config.DEFAULTS, "rsh": "no-such-shell"})
    text, = receipts.verify(on, made, "J")
    assert text.startswith("far:/a: it cannot be asked: ")

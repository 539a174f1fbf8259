"""daq-release dies at every point while it serves two receivers: each gets the product once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from bench import FILE_ID, JOB, Bench, digests, failures, prepare
from deaths import with_torn_lines
from forge import Forge


@pytest.fixture(scope="module")
def pair(forge: Forge, memory: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A job with two receivers, one of which gets a copy, being on another file system."""
    folder = tmp_path_factory.mktemp("pair")
    if os.stat(memory).st_dev == os.stat(folder).st_dev:
        pytest.skip("there is no other file system to copy to")
    (memory / "copies").mkdir()
    return prepare(Bench(forge, folder), receivers=[
        {"type": "olasReceiver", "path": f"{folder}/archive"},
        {"type": "olasReceiver", "path": f"{memory}/copies", "options": {"allowSymlink": False}}])


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def test_each_receiver_gets_the_product_once(pair: Bench, memory: Path) -> None:
    copies = memory / "copies"
    pair.clear("at-release")
    empty(copies)
    passed = pair.trace("release")
    assert {"deliver.placed", "deliver.copied"} <= {point for point, _ in passed}
    product, = digests(pair.spool / "result").values()

    def check(point: str, number: int) -> None:
        pair.clear("at-release")
        empty(copies)
        first = pair.run("release", DAQ_CRASH=f"{point}:{number}")
        # a child of the tool may be the one that dies: then the tool tells that, and goes on later
        assert first.code in (-signal.SIGKILL, 75), first
        done = "done" in pair.tree()
        pair.run("release").exits(66 if done else 0)
        assert pair.tree() == {"done": [f"{JOB}.json"]}
        for folder in (pair.folder / "archive", copies):
            assert digests(folder) == {f"{FILE_ID}.fits": product}, folder
        receipts = [e["receiver"] for e in pair.events() if e["event"] == "delivered"]
        assert sorted(receipts) == sorted({str(pair.folder / "archive"), str(copies)}), receipts
        assert len(pair.manifest("release")["result"]["receipts"]) == 2
        assert pair.temporaries() == [] and pair.locks() == []

    begun = passed.index(("stage.started", 1))  # what is before concerns all stages alike
    cases = list(dict.fromkeys(with_torn_lines(passed[begun:])))
    wrong = failures([(f"{p}:{n}", lambda p=p, n=n: check(p, n)) for p, n in cases])
    assert not wrong, f"{len(wrong)} of {len(cases)} cases\n" + "\n".join(wrong)

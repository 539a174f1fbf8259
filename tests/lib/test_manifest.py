from __future__ import annotations

import os
from pathlib import Path

import pytest

from daqlib import manifest, schema

INPUTS = {"job": "1", "collect": "2"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "result").mkdir()
    (tmp_path / "data/out").write_bytes(b"content")
    (tmp_path / "result/F.fits").write_bytes(b"product")
    return tmp_path / "data"


def written(folder: Path) -> manifest.Document:
    outputs = [manifest.output(str(folder), "out"),
               manifest.output(str(folder), str(folder.parent / "result/F.fits"))]
    manifest.write(str(folder / "merge.json"), "j", "merge", "daq-merge", INPUTS, outputs,
                   {"product": "F.fits"})
    made = manifest.read(str(folder / "merge.json"))
    assert made is not None
    return made


def test_describes_outputs(folder: Path) -> None:
    made = written(folder)
    schema.check("manifest", made, "the manifest")
    assert (made["id"], made["stage"]) == ("j", "merge")
    assert made["tool"].startswith("daq-merge ")
    assert [o["path"] for o in made["outputs"]] == ["out", "../result/F.fits"]
    assert made["outputs"][0]["size"] == 7
    assert made["outputs"][0]["mtime_ns"] == (folder / "out").stat().st_mtime_ns
    assert manifest.output(str(folder), "out", "known").sha256 == "known"


def test_is_true_while_nothing_changes(folder: Path) -> None:
    made = written(folder)
    assert manifest.still_true(made, str(folder), INPUTS)
    assert manifest.still_true(made, str(folder), dict(INPUTS), verify=True)
    assert not manifest.still_true(None, str(folder), INPUTS)


@pytest.mark.parametrize("inputs", [{}, {"job": "1"}, {**INPUTS, "more": "3"},
                                    {"job": "1", "collect": "3"}])
def test_other_inputs(folder: Path, inputs: dict[str, str]) -> None:
    assert not manifest.still_true(written(folder), str(folder), inputs)


def test_outputs_gone_touched_or_cut(folder: Path) -> None:
    made = written(folder)
    out = folder / "out"
    status = out.stat()
    os.utime(out, ns=(0, status.st_mtime_ns + 1))
    assert not manifest.still_true(made, str(folder), INPUTS)
    out.write_bytes(b"cut")
    os.utime(out, ns=(0, status.st_mtime_ns))
    assert not manifest.still_true(made, str(folder), INPUTS)
    out.unlink()
    assert not manifest.still_true(made, str(folder), INPUTS)


def test_only_verify_reads_the_bytes(folder: Path) -> None:
    made = written(folder)
    status = (folder / "out").stat()
    (folder / "out").write_bytes(b"CONTENT")
    os.utime(folder / "out", ns=(0, status.st_mtime_ns))
    assert manifest.still_true(made, str(folder), INPUTS)
    assert not manifest.still_true(made, str(folder), INPUTS, verify=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\xff"])
def test_what_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text, "latin-1")
    assert manifest.read(str(tmp_path / "m.json")) is None
    assert manifest.read(str(tmp_path / "none.json")) is None


def test_digest_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert manifest.digest(str(tmp_path / "none")) == ""
    (tmp_path / "a").touch()
    assert manifest.digest(str(tmp_path / "a")).startswith("e3b0c442")

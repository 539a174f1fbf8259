"""The benchmark of the merge runs, and its check of the products finds what it has to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import CHECKOUT, Daq

BENCH = CHECKOUT / "bench"
RIGHT = "every product of daq-merge was checked byte by byte and is right"


def bench(scratch: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / "bench.py"), "--group", "merge", "--scratch", str(scratch),
         *options], capture_output=True, text=True, check=False)


def test_a_smoke_run_of_the_merge_group(tmp_path: Path) -> None:
    rows = ("in-place", "grow", "durable", "tiny", "keywords")
    done = bench(tmp_path, "--quick", *(word for row in rows for word in ("--only", row)))
    assert (done.returncode, done.stderr) == (0, "")
    assert RIGHT in done.stdout and "WRONG" not in done.stdout
    summary = done.stdout.partition("\nsummary")[2]
    for words in ("daq-merge / astropy", "daq-merge / bare interpreter", "peak memory"):
        line = next(line for line in summary.splitlines() if words in line)
        assert "not measured" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_that_is_too_small(tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "new", "--size", str(10**9))
    assert done.returncode == 1
    assert "MiB are needed; choose another --scratch or a smaller --size" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def made(daq: Daq, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """A job of the benchmark with its product."""
    monkeypatch.syspath_prepend(str(BENCH))
    import jobs

    job = jobs.mosaic(str(daq.folder / "job"), 1, 1000).write()
    product = daq.folder / "job" / "product.fits"
    daq.run("daq-merge", "-q", "--stamp", "all", "-o", product, job.specification).ok()
    return job, product


def test_the_check_of_products(made: tuple[Any, Path]) -> None:
    import fidelity

    job, product = made
    assert fidelity.check(job, str(product)) == []
    whole = product.read_bytes()
    ext = whole.index(b"XTENSION")
    data = len(whole) - 2880 * 20
    swaps: dict[str, tuple[int, bytes]] = {
        "data differ": (data, bytes([whole[data] ^ 1])),
        "cards were changed": (whole.index(b"[V] A voltage", ext), b"[v]"),
        "primary: 1 cards are lost": (whole.index(b"[m] A length"), b"[M]"),
        "instead of 'NGC 1234'": (whole.index(b"NGC 1234"), b"NGX"),
        "DATASUM is wrong": (whole.index(b"DATASUM =", ext) + 11, b"9"),
        "CHECKSUM is wrong": (whole.index(b"CHECKSUM=") + 12, b"0"),
        "ARCFILE is wrong": (whole.index(b"ARCFILE =", ext) + 11, b"X"),
        "not there once each": (whole.index(b"ORIGFILE", ext), b"ORIGIN  ")}
    for text, (at, other) in swaps.items():
        product.write_bytes(whole[:at] + other + whole[at + len(other):])
        found = fidelity.check(job, str(product))
        assert any(text in one for one in found), (text, found)
    product.write_bytes(whole + bytes(2880))
    assert fidelity.check(job, str(product)) == ["2880 bytes too many"]
    product.write_bytes(whole[:-2880])
    assert "HDU 14: data differ" in fidelity.check(job, str(product))


def test_a_target_is_put_back(made: tuple[Any, Path]) -> None:
    job, product = made
    target = Path(job.paths[0])
    before = target.read_bytes()
    changed = bytearray(before) + b"more" * 720
    changed[800:810] = b"0123456789"  # headers, and what was appended
    target.write_bytes(changed)
    job.target.put_back(job.folder)
    assert target.read_bytes() == before
    target.write_bytes(bytes(2880) + before)  # all was moved
    job.target.put_back(job.folder)
    assert target.read_bytes() == before
    assert product.exists()

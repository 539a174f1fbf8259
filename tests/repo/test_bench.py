"""The benchmarks run, and their checks of what the tools made find what they have to find."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness import CHECKOUT, Daq
from ioc import required

BENCH = CHECKOUT / "bench"
RIGHT = "every product of daq-merge was checked byte by byte and is right"


def bench(scratch: Path, *options: str, group: str = "merge") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / "bench.py"), "--group", group, "--scratch", str(scratch),
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


SPOOL = {
    "turnaround": ("Stopped to Completed (simulated sources, daq-ctl), p99", "until merge starts"),
    "rate": ("jobs a second, limits of 2", "processor time of watcher and workers for a job"),
    "crowd": ("a spool with 100 waiting and 500 finished jobs",
              "processor of the idle watcher and its helpers, full spool",
              "ratio of the medians, full to empty"),
    "copy": ("local collect of 4 MiB", "daq-collect / cp, both durable"),
    "link": ("collect by hard link, 64 MiB beside 1 MiB", "64 MiB / 1 MiB"),
    "ssh": ("collect of 4 MiB by rsync over ssh", "daq-collect / rsync, both durable"),
    "session": ("4 files of 0.25 MiB of one host", "ssh logins, 4 single rsyncs, then sync",
                "ssh logins, daq-collect")}


@pytest.mark.parametrize("parts", [
    ["turnaround", "rate", "crowd"], ["copy", "link"],
    pytest.param(["ssh", "session"], marks=pytest.mark.needs("sshd", "rsync"))])
def test_a_smoke_run_of_the_spool_group(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="daq-") as scratch:  # names of sockets must be short
        done = bench(Path(scratch), "--quick", *(word for part in parts
                                                 for word in ("--only", part)), group="spool")
        assert (done.returncode, done.stderr) == (0, "")
        for part in parts:
            for text in SPOOL[part]:
                assert text in done.stdout, done.stdout
        assert done.stdout.count("meanwhile other programs used") == len(parts)
        assert "left out" not in done.stdout.replace("reflinks: left out", "")
        assert list(Path(scratch).iterdir()) == []


def test_a_smoke_run_of_the_instruments_group(tmp_path: Path) -> None:
    required("pvxslibs", "caproto")
    done = bench(tmp_path, "--quick", "--only", "epics", group="instruments")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("snapshot of 50 process variables", "StartDaqV2 of the process variables, median",
                 "ratio to (simulated source and caproto alone)"):
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs("indiserver")
@pytest.mark.parametrize(("part", "texts"), [
    ("indi", ("snapshot of 100 properties", "snapshot of the properties, median")),
    ("exposure", ("the protocol alone", "delivery local, median", "delivery client, median"))])
def test_a_smoke_run_with_indi(part: str, texts: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="daq-") as scratch:  # names of sockets must be short
        done = bench(Path(scratch), "--quick", "--only", part, group="instruments")
        assert (done.returncode, done.stderr) == (0, "")
        for text in texts:
            assert text in done.stdout
        assert list(Path(scratch).iterdir()) == []


@pytest.fixture
def course(daq: Daq, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A benchmark's spool with a job that was collected."""
    monkeypatch.syspath_prepend(str(BENCH))
    import fetching
    import spools

    origin = spools.image(str(daq.folder / "origin.fits"), 0.1)
    on = spools.Spool(str(daq.folder / "place"))
    on.put("collect", fetching.JOB, origin)
    daq.run("daq-collect", "--job", fetching.JOB, "--spool", on.root).ok()
    return fetching.Course(on, {"daq-collect": [origin]}, {"daq-collect": [origin]})


def test_a_collected_file_that_differs_is_wrong(course: Any) -> None:
    import fetching
    import race
    import spools

    tool = race.Tool("daq-collect", (), ours=True)
    course._after(tool)
    [made] = fetching.collected(course.on)
    with open(made, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(spools.Wrong, match="is not"):
        course._after(tool)
    fetching.forget(course.on)
    with pytest.raises(spools.Wrong, match="was not collected"):
        course._after(tool)


def test_the_generated_jobs_are_jobs(daq: Daq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    import spools

    on = spools.Spool(str(daq.folder / "place"))
    on.put_waiting(3, "/data/a.fits")
    on.put_done(4, "/data/a.fits")
    listed = daq.run("daq-status", "--all", "--json", "--spool", on.root).ok().jsonl()
    assert sorted((each["state"], each["substate"], each["error"]) for each in listed) == [
        *[("StateCompleted", "Completed", False)] * 4,
        *[("StateMerging", "NotScheduled", False)] * 3]
    daq.run("daq-watch", "--once", "--spool", on.root).exits(75).says("3 left for later")
    assert len(os.listdir(on.path("collect"))) == 3 and os.listdir(on.path("failed")) == []

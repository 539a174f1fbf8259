"""A spool whose file system is full, out of inodes, broken or read-only, at each write."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import smalldisk
from bench import FILE_ID, JOB, NEXT, WAY, Bench, prepare, undisturbed_picture
from forge import Forge

from faults.engine import BY_ITSELF, Row, cell
from faults.plain import plain
from harness import Result

#: A stage looks first whether its files fit; with so many blocks left they do.
_FIRST = {"collect": 22, "merge": 22}
_MOST = 80  # with so much left there is enough
_STEP = 4  # every one is done in tests/crash/test_small_disk.py
FILL = {"blocks": smalldisk.blocks_left, "inodes": smalldisk.inodes_left}


class Disk:
    """The crash tests' spool on a small disk, and what was seen of its runs."""

    def __init__(self, bench: Bench) -> None:
        self.bench = prepare(bench)
        self.whole = undisturbed_picture(bench)
        self.codes: set[int] = set()
        self.places: set[str] = set()
        self.said: set[str] = set()
        self.runs = 0

    def see(self, stage: str, told: Result) -> str:
        """Check that nothing is lost, note what was seen, and return where the job is."""
        bench, tree = self.bench, self.bench.tree()
        assert "Traceback" not in told.err, told
        assert sum(map(len, tree.values())) == 1, f"copies of the job: {tree}"
        assert smalldisk.half_written(bench.spool) == [], told
        assert bench.locks() == []
        for path in (bench.folder / "archive").glob("*.fits"):
            assert path.stat().st_size and path.stat().st_size % 2880 == 0
        place = next(iter(tree))
        self.runs += 1
        if told.code:
            self.codes.add(told.code)
            self.places.add({stage: "its stage", NEXT[stage]: "the next stage"}.get(
                place, f"`{place}/`"))
            self.said.add(self._plain(told))
        return place

    def _plain(self, told: Result) -> str:
        line = plain(told.err.splitlines()[-1], [(str(self.bench.folder), ""), (FILE_ID, "FILEID"),
                                                 (JOB, "ID")])
        line = re.sub(r"^ID: ", "", line)
        line = re.sub(r"mv failed/ID.json \w+/", "mv failed/ID.json STAGE/", line)
        line = re.sub(r"\b\d+ (are|bytes)\b", r"N \1", line)
        line = re.sub(r"(?<= )\d+ are needed", "N are needed", line)
        line = line.removesuffix("; next try in N s")
        return re.sub(r"^(\S*/\S+|\w+\.\w+): ", "FILE: ", line)

    def mended(self, stage: str, place: str) -> None:
        """Go on as the error line says; the outcome is that of a run in which nothing happened."""
        bench = self.bench
        if place == "failed":
            os.rename(bench.spool / "failed" / f"{JOB}.json", bench.spool / stage / f"{JOB}.json")
            place = stage
        if place == stage:
            os.utime(bench.spool / stage / f"{JOB}.json")
            bench.run(stage).ok()
        if stage != "release":
            bench.finish(NEXT[stage])
        elif bench.manifest("release")["result"].get("failed"):
            os.rename(bench.spool / "done" / f"{JOB}.json", bench.spool / stage / f"{JOB}.json")
            bench.run(stage).ok()
        assert bench.picture() == self.whole

    def row(self, fault: str, mend: str, then: str) -> Row:
        assert self.runs
        return Row(fault, ", ".join(map(str, sorted(self.codes))),
                   " or ".join(sorted(self.places)), " – or: ".join(sorted(self.said)), mend, then)


@contextmanager
def disk(forge: Forge, folder: Path) -> Iterator[Disk]:
    """Mount a small disk with a spool."""
    with smalldisk.mounted(folder) as place:
        config = folder / "daq.yaml"
        config.write_text("cfg:\n  floor: {spool_bytes: 0, result_bytes: 0}\n")
        yield Disk(Bench(forge, place, {"DAQ_CONFIG": str(config)}))


@contextmanager
def plain_disk(forge: Forge, folder: Path) -> Iterator[Disk]:
    yield Disk(Bench(forge, folder))


Place = tuple[Forge, Path]


def spool(fault: str, mend: str, then: str = BY_ITSELF, on: Any = disk) -> Callable[[Any], Any]:
    def enter(work: Callable[[Disk], None]) -> Callable[[Place], Row]:
        def run(place: Place) -> Row:
            with on(*place) as made:
                work(made)
                return made.row(fault, mend, then)

        cell("spool", fault, mend, slow=True)(run)
        return run
    return enter


def fill(what: str) -> Callable[[Disk], None]:
    def work(made: Disk) -> None:
        for stage in WAY:
            first = _FIRST.get(stage, 1) if what == "blocks" else 1
            for left in [0, *range(first, _MOST, _STEP)]:
                made.bench.clear(f"at-{stage}")
                with FILL[what](made.bench.folder, left):
                    told = made.bench.run(stage)
                    place = made.see(stage, told)
                made.mended(stage, place)
                if told.code == 0:
                    break
            else:
                pytest.fail(f"{stage}: not even {left} {what} were enough")
    return work


spool("it is full", "free some space, for example `daq-status --prune`")(fill("blocks"))
spool("it has no inodes left", "remove files")(fill("inodes"))


@spool("it is read-only, as after an error of its disk", "mend it, `mount -o remount,rw`")
def read_only(made: Disk) -> None:
    for stage in WAY:
        made.bench.clear(f"at-{stage}")
        subprocess.run(["mount", "-o", "remount,ro", made.bench.folder], check=True)
        try:
            told = made.bench.run(stage)
        finally:
            subprocess.run(["mount", "-o", "remount,rw", made.bench.folder], check=True)
        made.mended(stage, made.see(stage, told))


def inject(error: str) -> Callable[[Disk], None]:
    def work(made: Disk) -> None:
        for stage in WAY:
            made.bench.clear(f"at-{stage}")
            # what fails at a receiver is told of in the tables of receivers
            passed = [each for each in made.bench.trace(stage)
                      if not each[0].startswith("deliver.")]
            for point, number in passed:
                made.bench.clear(f"at-{stage}")
                told = made.bench.run(stage, DAQ_FAULT=f"{point}={error}:{number}")
                made.mended(stage, made.see(stage, told))
    return work


spool("its disk fails (EIO, injected)", "mend the disk, see the system's log",
      "`mv failed/ID.json STAGE/`, if it is there", plain_disk)(inject("EIO"))
spool("we may not write there (EACCES, injected)", "`chown`, `chmod`", BY_ITSELF,
      plain_disk)(inject("EACCES"))

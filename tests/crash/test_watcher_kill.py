"""A watcher that is killed wherever it has something to do; the next one brings all to its end."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from bench import JOB, Bench, failures, job, undisturbed_picture
from forge import Forge

from harness import CHECKOUT, Result, make_fits, wait_until

#: Its workers die in the middle of their work, so that it has to keep the books for them.
DEADLY = {"DAQ_CRASH": "stage.worked"}
NO_JOB = "no job's name.json"


class Yard:
    """A spool with a job and a file that is none, and a watcher for it."""

    def __init__(self, forge: Forge, folder: Path) -> None:
        self.bench = Bench(forge, folder)
        for name, extensions in (("a", 2), ("b", 1)):
            make_fits(folder / f"{name}.fits", extensions, cards={"OBJECT": name},
                      name=name.upper())
        (folder / "job.json").write_text(json.dumps(job(folder)))
        (folder / "daq.yaml").write_text(
            "cfg:\n  retry: {tries: 2, first_sec: 0.01, longest_sec: 0.02}\n")
        self.bench.env = {"DAQ_CONFIG": str(folder / "daq.yaml"), "DAQ_PYTHON": sys.executable,
                          "DAQ_CHECKOUT": str(CHECKOUT), "DAQ_BIN": str(CHECKOUT / "bin")}
        self.undisturbed = undisturbed_picture(self.bench)

    def clear(self) -> None:
        self.bench.clear()
        self.bench.run("start").ok()
        (self.bench.spool / "collect" / NO_JOB).write_text("{}")

    def watch(self, order: str = "-", **env: str) -> Result:
        made: Result = self.bench.forge.run(self.bench.spool, "sentry", order, "--once", "-q",
                                            env={**self.bench.env, **env})
        return made

    def points(self) -> list[str]:
        """Return the points that the watcher passes when its workers die."""
        path = self.bench.folder / "trace"
        path.unlink(missing_ok=True)
        self.watch(SENTRY_TRACE=str(path), **DEADLY).exits(65)
        return path.read_text().split()

    def dies(self, point: str) -> None:
        """Die there, and go on as a person who gives back what failed."""
        self.clear()
        told = self.watch(point, **DEADLY)
        assert told.code == -signal.SIGKILL, told
        wait_until(lambda: self.bench.locks() == [])  # its workers go on without it
        for _ in range(4):
            self.give_back()
            if self.watch().code == 0:
                break
        picture = self.bench.picture()
        assert picture["tree"].pop("bad") == [NO_JOB], "after the next watcher"
        assert picture == self.undisturbed

    def give_back(self) -> None:
        for place in ("failed", "collect", "merge", "release"):
            path = self.bench.spool / place / f"{JOB}.json"
            if path.exists():
                os.utime(path)
                if place == "failed":
                    os.rename(path, self.bench.spool / "collect" / path.name)


@pytest.fixture(scope="module")
def yard(forge: Forge, memory: Path) -> Yard:
    folder = memory / "watcher-kill"
    folder.mkdir()
    return Yard(forge, folder)


def die_at(yard: Yard, points: list[str]) -> None:
    cases: list[tuple[str, Any]] = [(point, lambda point=point: yard.dies(point))
                                    for point in points]
    wrong = failures(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)} cases\n" + "\n".join(wrong)


def test_a_watcher_dies_when_it_keeps_the_books(yard: Yard) -> None:
    yard.clear()
    passed = yard.points()
    assert {point.partition(":")[0] for point in passed} >= {
        "lock.taken", "append.begin", "append.written", "move.begin", "move.renamed"}
    die_at(yard, [passed[0], passed[len(passed) // 2], passed[-1]])


@pytest.mark.slow
def test_a_watcher_dies_at_each_point(yard: Yard) -> None:
    yard.clear()
    die_at(yard, yard.points())

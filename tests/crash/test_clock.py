"""The system clock steps while jobs run and wait: nothing is lost, no job waits beyond the rules.

Setting the clock of the machine would disturb everybody on it, so a library between the tools and
the kernel shifts the time of day and the times of files, see ``stepclock.c``. The rules: a job is
due at the mtime of its file; one further ahead than a day was dated by a wrong clock, unless the
history tells of it, and is due at once.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Daq, Process, make_fits, preloadable, wait_until
from remote import Stand, script, stand_in

pytestmark = pytest.mark.needs("cc")

HOUR, DAY = 3600.0, 86400.0
_ENTRY = struct.Struct("=qq")
_PROBE = ("import os, time; open('probe', 'w').close();"
          "print(time.time(), os.stat('probe').st_mtime);"
          "os.utime('probe', (7, 7)); print(os.stat('probe').st_mtime)")


class StepClock:
    """The clock that the tools see."""

    def __init__(self, library: Path, folder: Path) -> None:
        path = folder / "clock-steps"
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 4096)
        self.env = {"LD_PRELOAD": str(library), "CLOCK_STEPS": str(path)}
        self.offset = 0.0
        self._count = 0

    def step(self, seconds: float) -> None:
        """Step it, forward or back."""
        self.offset += seconds
        self._map[8 + 16 * self._count:24 + 16 * self._count] = _ENTRY.pack(
            time.time_ns(), int(self.offset * 1e9))
        self._count += 1
        self._map[:8] = struct.pack("=q", self._count)
        time.sleep(0.05)  # the kernel dates files by its last tick

    def now(self) -> float:
        return time.time() + self.offset


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preloadable(Path(__file__).with_name("stepclock.c"), tmp_path_factory.mktemp("clock"))


@pytest.fixture
def clock(library: Path, daq: Daq, tmp_path: Path) -> StepClock:
    made = StepClock(library, tmp_path)
    made.step(-HOUR)
    told = subprocess.run([sys.executable, "-S", "-c", _PROBE], env=made.env, cwd=tmp_path,
                          capture_output=True, text=True, check=True).stdout
    now, mtime, given = map(float, told.split())
    if abs(now - made.now()) > 60 or abs(mtime - made.now()) > 60 or given != 7:
        pytest.skip("this interpreter or this file system cannot be given another time")
    made.step(HOUR)
    daq.env.update(made.env)
    return made


class Site:
    """A spool whose release is paused, with a job that runs and jobs that wait."""

    def __init__(self, daq: Daq, clock: StepClock) -> None:
        self.daq, self.clock = daq, clock
        self.stand: Stand = stand_in(daq.folder)
        make_fits(daq.folder / "a.fits")
        (daq.folder / "daq.yaml").write_text(
            f"cfg:\n  rsh: {self.stand.command}\n  scan_interval_sec: 0.3\n"
            "  timeout: {base_sec: 600}\n  limits: {daq: 1}\n  breaker: {failures: 0}\n"
            "  retry: {first_sec: 120, longest_sec: 120}\n")
        daq.env["DAQ_CONFIG"] = str(daq.folder / "daq.yaml")
        self.gate(False)
        self.pause = daq.spool / "release" / ".pause"
        self.pause.touch()
        self.watcher: Process = daq.spawn("daq-watch", "-q")

    def gate(self, opened: bool) -> None:
        """Let the other host answer, or not."""
        self.stand.gate.touch() if opened else self.stand.gate.unlink()

    def drop(self, job: str, location: object = "") -> None:
        where = location or self.daq.folder / "a.fits"
        self.daq.drop("collect", job, {"sources": [
            {"type": "fitsFile", "sourceName": "a", "location": str(where)}]})

    def until(self, place: str, *jobs: str) -> None:
        wait_until(lambda: set(jobs) <= set(self.daq.tree().get(place, [])),
                   explain=lambda: f"{self.daq.tree()}\n{self.watcher.result()}")

    def begin(self) -> None:
        """Have two jobs wait in release/, and one run in collect/."""
        self.drop("W1")
        self.drop("W2")
        self.until("release", "W1", "W2")
        self.drop("RUN", f"far:{self.daq.folder}/a.fits")
        wait_until(lambda: "rsync" in self.stand.calls.read_text())

    def starts(self, stage: str, *jobs: str) -> list[str]:
        """Return the jobs in the order in which a stage began with them."""
        found = {}
        for job in jobs:
            (event,) = [e for e in self.daq.history(job)
                        if e["event"] == "start" and e["stage"] == stage]
            found[job] = event["time"]
        return sorted(jobs, key=lambda job: found[job])

    def sane(self, *jobs: str) -> None:
        """All are done, each was tried once, and nobody was killed or given up."""
        self.until("done", *jobs)
        assert self.daq.tree() == {"done": sorted(jobs)}
        for job in jobs:
            events = self.daq.events(job)
            assert events.count("start") == 3, events
            assert not {"killed", "overtime", "fail", "defer", "interrupted"} & set(events), events
        assert len(self.daq.results()) == len(jobs)
        assert self.watcher.running()
        self.watcher.stop().ok()


@pytest.fixture
def site(daq: Daq, clock: StepClock) -> Iterator[Site]:
    yield Site(daq, clock)


NEW = ("N1", "N2", "N3")


def test_an_hour_back(site: Site) -> None:
    site.begin()
    site.clock.step(-HOUR)
    site.gate(True)
    for job in NEW:
        site.drop(job)
    site.until("release", "RUN", *NEW)
    assert site.starts("collect", *NEW) == list(NEW)
    site.pause.unlink()
    site.until("done", "RUN", *NEW)  # these are not held up by those of the hour that comes again
    assert site.daq.tree()["release"] == ["W1", "W2"]
    told = site.daq.run("daq-release", "-n", "--all").ok()
    assert told.out == "", "due in an hour, as their times say"
    site.daq.run("daq-release", "--job", "W1").ok()  # whom a person asks for does not wait
    site.clock.step(HOUR)
    site.sane("RUN", "W1", "W2", *NEW)


@pytest.mark.slow
def test_an_hour_forward(site: Site) -> None:
    site.begin()
    site.clock.step(HOUR)
    site.gate(True)
    for job in NEW:
        site.drop(job)
    site.until("release", "RUN", *NEW)
    assert site.starts("collect", *NEW) == list(NEW)
    site.pause.unlink()
    site.sane("RUN", "W1", "W2", *NEW)


@pytest.mark.slow
def test_two_days_back(site: Site) -> None:
    """What is dated further ahead than a day does not wait for that day."""
    site.begin()
    site.clock.step(-2 * DAY)
    site.gate(True)
    site.drop("N1")
    site.until("release", "RUN", "N1")
    site.pause.unlink()
    site.sane("RUN", "W1", "W2", "N1")


def test_a_retry_that_was_to_come(site: Site) -> None:
    """A step back puts off what was to be tried again, a step forward brings it."""
    answers = site.stand.command.read_text()
    script(site.stand.command, "exit 255\n")
    site.drop("LATE", f"far:{site.daq.folder}/a.fits")
    wait_until((site.daq.spool / "log" / "LATE.jsonl").exists)
    wait_until(lambda: "defer" in site.daq.events("LATE"))
    site.stand.command.write_text(answers)
    site.gate(True)
    site.clock.step(-HOUR)
    site.drop("N1")
    site.until("release", "N1")
    assert site.daq.tree()["collect"] == ["LATE"]
    site.clock.step(HOUR + 180)
    site.until("release", "LATE")

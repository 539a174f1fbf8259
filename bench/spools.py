"""What the measurements of the spool run on: spools, watchers, and jobs by the thousand.

Jobs are written in the form in which ``daq-start`` leaves them, history included, so that the
tools find nothing odd. They are not synced: nobody measures how they are made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rig

MIB = 1 << 20
#: Seconds that a job may take before something is broken; nothing is measured by it.
PATIENCE_S = 600.0

_PLACES = ("acquire", "collect", "merge", "release", "done", "failed", "hold", "bad", "remote",
           "log", "lock", "data", "result", "run")
_WAY = (("daq-collect", "collect", "merge"), ("daq-merge", "merge", "release"),
        ("daq-release", "release", "done"))
_LOOK_S = 0.004  # between two looks for a job's end
_DEFERRED_S = 20 * 3600.0  # a job that waits is due in so many seconds: not while we measure

Event = dict[str, Any]


class Wrong(Exception):
    """A tool did its work wrong; the text says on which job and how."""


# -- files -------------------------------------------------------------------------------------


def image(path: str, mib: float, seed: int = 1) -> str:
    """Write a FITS file with one extension of noise and return its path."""
    import numpy
    from astropy.io import fits

    rows = max(1, round(mib * MIB / 2048))
    noise = numpy.random.default_rng(seed).integers(-30000, 30000, (rows, 1024), dtype=numpy.int16)
    primary = fits.PrimaryHDU()
    primary.header["OBJECT"] = f"field {seed}"
    fits.HDUList([primary, fits.ImageHDU(noise, name="CHIP")]).writeto(path)
    return path


def hollow_image(path: str, mib: int) -> str:
    """Write a FITS file whose data are a hole, and return its path: large, and on no disk."""
    from astropy.io import fits

    header = fits.Header([("XTENSION", "IMAGE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", MIB),
                          ("NAXIS2", mib), ("PCOUNT", 0), ("GCOUNT", 1)])
    with open(path, "wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode() + header.tostring().encode())
        file.truncate(file.tell() + -(-mib * MIB // 2880) * 2880)
    return path


# -- a spool -----------------------------------------------------------------------------------


class Spool:
    """A spool with a configuration; jobs are put into it and waited for."""

    def __init__(self, folder: str, **settings: Any) -> None:
        """Make the spool.

        Args:
            folder: an empty directory; the spool is its ``spool/``.
            settings: the configuration; the rest has its defaults.
        """
        self.root = os.path.join(folder, "spool")
        self.folder = folder
        self.config = os.path.join(folder, "watch.yaml")
        os.makedirs(self.root, exist_ok=True)
        marker = os.path.join(self.root, ".daqspool")
        if not os.path.exists(marker):
            with open(marker, "w") as file:
                file.write('{"daqspool": 1}\n')
        for place in _PLACES:
            os.makedirs(os.path.join(self.root, place), exist_ok=True)
        with open(self.config, "w") as file:  # JSON is YAML
            json.dump({"cfg": {"instrument_id": "BENCH", **settings}}, file)

    def path(self, place: str, name: str = "") -> str:
        """Return a path in the spool."""
        return os.path.join(self.root, place, name)

    def job(self, place: str, job: str) -> str:
        """Return the path of a job file."""
        return os.path.join(self.root, place, f"{job}.json")

    def options(self) -> list[str]:
        """Return the options by which a tool works on this spool."""
        return ["--spool", self.root, "--config", self.config]

    def events(self, job: str) -> list[Event]:
        """Return the history of a job."""
        with contextlib.suppress(FileNotFoundError), \
                open(os.path.join(self.root, "log", f"{job}.jsonl")) as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
        return []

    def finish(self, job: str, *watchers: rig.Process) -> list[Event]:
        """Wait until a job is done, and return its history.

        Raises:
            Wrong: it failed.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not os.path.exists(self.job("done", job)):
            if os.path.exists(self.job("failed", job)) or time.monotonic() > deadline:
                raise Wrong(f"{job} is not done: {self.events(job)[-3:]}")
            for watcher in watchers:
                watcher.check()
            time.sleep(_LOOK_S)
        while not is_done(events := self.events(job)):
            if time.monotonic() > deadline:
                raise Wrong(f"{job} is in done/ and its history does not say so: {events[-3:]}")
            time.sleep(_LOOK_S)
        return events

    def put(self, place: str, job: str, *locations: str, due: float = 0.0,
            history: Iterable[tuple[str, str, Event]] = ()) -> None:
        """Put a job of files into a place, as submitted and, when it is due later, deferred.

        Args:
            place: the directory.
            job: its id, which is its file id as well.
            locations: its files.
            due: seconds since the epoch; 0 is now.
            history: further events, as tool, name and facts.
        """
        sources = [{"type": "fitsFile", "sourceName": f"file{number}", "location": location}
                   for number, location in enumerate(locations)]
        data = json.dumps({"sources": sources, "id": job, "fileId": job}, indent=2).encode()
        lines = [_line("daq-start", "submitted", {
            "stage": "collect", "fileId": job, "digest": hashlib.sha256(data).hexdigest()})]
        lines += [_line(*each) for each in history]
        _write(os.path.join(self.root, "log", f"{job}.jsonl"), b"".join(lines))
        _write(os.path.join(self.root, "log", f".file-{job}"), job.encode())
        path = self.job(place, job)
        if place == "done":  # nobody waits for it
            _write(path, data)
            return
        hidden = os.path.join(self.root, place, f".{job}")
        _write(hidden, data)
        if due:
            os.utime(hidden, (due, due))
        os.rename(hidden, path)

    def put_waiting(self, count: int, location: str) -> None:
        """Put jobs into ``collect/`` that a host kept waiting and that are due much later."""
        for number in range(count):
            due = time.time() + _DEFERRED_S + number
            self.put("collect", f"BENCH.waits.{number:06}", location, due=due, history=[
                ("daq-collect", "start", {"stage": "collect", "try": 1}),
                ("daq-collect", "defer", {"stage": "collect", "try": 1, "code": 75, "until": due,
                                          "reason": "far: does not answer", "counts": False})])

    def put_done(self, count: int, location: str) -> None:
        """Put jobs into ``done/`` with the history of a job that went well."""
        went = [event for tool, stage, target in _WAY for event in (
            (tool, "start", {"stage": stage, "try": 1}), (tool, "ok", {"stage": stage,
                                                                       "to": target}))]
        for number in range(count):
            self.put("done", f"BENCH.done.{number:06}", location, history=went)


def _line(tool: str, event: str, facts: Event) -> bytes:
    line = {"time": iso(time.time()), "event": event, "by": tool, "pid": 1, "host": "bench"}
    return json.dumps({**line, **facts}).encode() + b"\n"


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


def iso(seconds: float) -> str:
    """Return a time as histories have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def when(event: Event) -> float:
    """Return the time of an event, seconds since the epoch."""
    return datetime.fromisoformat(event["time"]).timestamp()


def is_done(events: list[Event]) -> bool:
    """Tell whether a history has reached its end."""
    return any(each["event"] == "ok" and each.get("to") == "done" for each in events)


def moment(events: list[Event], name: str, **facts: Any) -> float:
    """Return the time of the last event of a name with some facts.

    Raises:
        Wrong: there is none.
    """
    for event in reversed(events):
        if event["event"] == name and facts.items() <= event.items():
            return when(event)
    raise Wrong(f"a history has no event {name} {facts}: {events[-3:]}")


def phases(events: list[Event], begin: float) -> dict[str, float]:
    """Return the seconds that the stages of a job took, and the ways to them."""
    made: dict[str, float] = {}
    at = begin
    for _tool, stage, target in _WAY:
        for name, mark in ((f"until {stage} starts", moment(events, "start", stage=stage)),
                           (stage, moment(events, "ok", stage=stage, to=target))):
            made[name], at = mark - at, mark
    return made


# -- a watcher ---------------------------------------------------------------------------------


class Watcher(rig.Process):
    """A daq-watch at work on a spool."""

    def __init__(self, bin_: str, on: Spool) -> None:
        super().__init__([os.path.join(bin_, "daq-watch"), *on.options()], on.folder, "daq-watch")
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise Wrong("daq-watch does not begin")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        with open(self.says) as file:
            return "watching " in file.read()

    def tree(self) -> list[int]:
        """Return its process id and those of its descendants."""
        return family(self.pid)

    def resting(self) -> float:
        """Return the processor seconds that it and its lasting helpers have used themselves."""
        return sum(_own_seconds(pid) for pid in self.tree())

    def spent(self) -> float:
        """Return the processor seconds of it, its helpers, and all workers that have ended."""
        return sum(_seconds(pid, children=True) for pid in self.tree())


def family(pid: int) -> list[int]:
    """Return a process id and those of its descendants."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (facts := _stat(int(name))):
            parents.setdefault(int(facts[1]), []).append(int(name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += parents.get(found[-1], [])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of a process after its name (proc(5)); none when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _own_seconds(pid: int) -> float:
    """Return the processor seconds of a process to the nanosecond, without its children."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9
    except OSError:
        return _seconds(pid, children=False)


def _seconds(pid: int, *, children: bool) -> float:
    facts = _stat(pid)[11:15 if children else 13]
    return sum(map(int, facts)) / os.sysconf("SC_CLK_TCK")


# -- the machine -------------------------------------------------------------------------------


@dataclass
class Others:
    """What was not ours of the processors' time: shares from 0 to 1, set at the end.

    Attributes:
        programs: used by programs that we did not start.
        host: withheld by the host of a virtual machine.
    """

    programs: float = 0.0
    host: float = 0.0


@contextlib.contextmanager
def others() -> Iterator[Others]:
    """Measure how much of the processors' time is not ours meanwhile.

    What we started must have ended and been waited for.
    """
    found, begin = Others(), time.monotonic()
    (busy, stolen), own = _busy(), sum(os.times()[:4])
    yield found
    passed = (time.monotonic() - begin) * (os.cpu_count() or 1)
    (busy_now, stolen_now), own_now = _busy(), sum(os.times()[:4])
    found.programs = max(0.0, (busy_now - busy - (own_now - own)) / passed)
    found.host = (stolen_now - stolen) / passed


def _busy() -> tuple[float, float]:
    """Return the seconds in which the processors worked, and those that the host withheld."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, soft, steal, *_ = map(
            int, file.readline().split()[1:])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + soft) / ticks, steal / ticks

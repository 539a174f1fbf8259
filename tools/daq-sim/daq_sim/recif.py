"""A simulated primary source, as ``recif.RecCmds`` (ESO-396401 sections 7 and 10.2).

Commands (path ``/rec``, also ``/RecCmds``)::

    RecStart(properties: RecProperties) -> RecStatus     with estimates
    RecStop() -> RecStatus                               with the files
    RecAbort() -> str                                    the data are discarded
    RecPause() -> RecStatus      RecContinue() -> RecStatus
    RecStatus(id: str) -> RecStatus                      empty: the current one, else the last
    RecWait(timeout: float) or RecWait(spec: {timeout}) -> RecWaitStatus

    RecProperties  {id: str, info: str, startTime: str}  all optional; others are ignored
    RecStatus      {id, info: str, status: str, dpFiles: [str], filesGenerated, framesProcessed,
                    framesRemaining, sizeRecorded: int (bytes),
                    timeElapsed, remainingTime: float (s), startTime: str (only if one was given)}
    RecWaitStatus  {status: "Success" or "Timeout", recStatus: RecStatus}

``status`` is one of Undefined, Inactive, Active, Paused, Completed, Stopped, Aborted, Failed.
A recording with a ``startTime`` (ISO 8601, UTC) is Inactive until then, or begins at once when
that is past; it is the current one all the while. An open-ended recording has no frames and no
time remaining. Stop, Abort, Pause, Continue and Wait act on the one current recording. Errors are
``recif::ExceptionErr``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from daq_sim import recording, service
from daqlib import cli, clock, errors, fsops, names, rpc

EXCEPTION = "recif::ExceptionErr"
PATHS = ("rec", "RecCmds")
KEPT = 100
_FRAMES_PER_S = 10
_RUNNING = ("Inactive", "Active", "Paused")


@dataclass
class Recording:
    """One recording.

    Attributes:
        id: from the client, or invented.
        info: from the client; in the end, why it failed.
        exposure: seconds after which it ends by itself; 0 means never.
        start_time: when to begin, as the client gave it; empty means at once.
        status: see the module.
        files: absolute paths.
        size: bytes in the files.
        elapsed: seconds of recording before the last pause.
        since: monotonic time of the last start or continuation; None while it is not recording.
        begun: for the header, seconds since the Unix epoch.
        ended: set when the status is final.
        ending: writes the files.
    """

    id: str
    info: str
    exposure: float
    start_time: str = ""
    status: str = "Inactive"
    files: list[str] = field(default_factory=list)
    size: int = 0
    elapsed: float = 0.0
    since: float | None = None
    begun: float = field(default_factory=clock.header_time)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Task[None] | None = None

    def seconds(self) -> float:
        """Return how long it has recorded."""
        return self.elapsed + (0.0 if self.since is None else time.monotonic() - self.since)

    def go(self) -> None:
        """Start the clock."""
        self.status, self.since = "Active", time.monotonic()

    def halt(self) -> None:
        """Stop the clock."""
        self.elapsed, self.since = self.seconds(), None


class Recorder:
    """The recorder: one recording at a time, the past ones remembered.

    Args:
        plan: what to write.
        exposure: seconds after which recordings end by themselves; 0 means never.
    """

    def __init__(self, plan: recording.Plan, exposure: float) -> None:
        self._plan, self._exposure = plan, exposure
        self._known: dict[str, Recording] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.standard: service.Standard | None = None

    def busy(self) -> bool:
        """Tell whether a recording goes on."""
        return self._current() is not None

    def _last(self) -> Recording | None:
        return next(reversed(self._known.values()), None)

    def _current(self) -> Recording | None:
        last = self._last()
        return last if last and last.status in _RUNNING else None

    def _needed(self, what: str) -> Recording:
        current = self._current()
        if not current:
            raise _error(f"{what}: no recording is active")
        return current

    async def RecStart(self, properties: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start a recording."""
        current = self._current()
        if current:
            raise _error(f"recording {current.id} is active", current.id)
        if self.standard and not self.standard.operational:
            raise _error("the source is not Operational")
        new = self._new(properties or {})
        self._known[new.id] = new
        for id in list(self._known)[:-KEPT]:
            del self._known[id]
        wait = clock.from_iso(new.start_time) - clock.now() if new.start_time else 0.0
        if wait > 0:
            self._timer = asyncio.get_running_loop().call_later(wait, self._begin, new)
        else:
            self._begin(new)
        return self._status(new)

    def _begin(self, new: Recording) -> None:
        new.begun = clock.header_time()
        new.go()
        self._arm(new)

    def _new(self, properties: dict[str, Any]) -> Recording:
        if not isinstance(properties, dict):
            raise _error("properties is not an object")
        id = properties.get("id") or clock.iso(clock.now())
        try:
            names.check_id(id)
        except errors.BadData as error:
            raise _error(str(error)) from error
        if id in self._known:
            raise _error(f"recording {id} exists already", id)
        return Recording(id, str(properties.get("info", "")), self._exposure,
                         _start_time(properties.get("startTime") or ""))

    def _arm(self, current: Recording) -> None:
        if current.exposure:
            self._timer = asyncio.get_running_loop().call_later(
                current.exposure - current.seconds(), self.complete)

    def _disarm(self) -> None:
        if self._timer:
            self._timer.cancel()

    def complete(self) -> None:
        """End the current recording as if it had reached its end."""
        current = self._current()
        if current:
            self._end(current, "Completed")

    def _end(self, current: Recording, outcome: str) -> asyncio.Task[None]:
        if not current.ending:
            self._disarm()
            current.halt()
            current.ending = asyncio.create_task(self._finish(current, outcome))
        return current.ending

    async def _finish(self, current: Recording, outcome: str) -> None:
        try:
            current.files = await asyncio.to_thread(
                recording.produce, self._plan, current.id, _cards(self._plan, current, outcome))
            current.size = sum(os.path.getsize(path) for path in current.files)
            current.status = outcome
        except (OSError, errors.DaqError) as error:
            current.status, current.info = "Failed", str(error)
        current.ended.set()
        reason = f": {current.info}" if current.status == "Failed" else ""
        cli.detail(f"recording {current.id}: {current.status}{reason}")

    async def RecStop(self) -> dict[str, Any]:
        """End the current recording and keep its data."""
        current = self._needed("RecStop")
        # a client that goes away or a shutdown must not stop the writing half way
        await asyncio.shield(self._end(current, "Stopped"))
        if current.status == "Failed":
            raise _error(current.info, current.id)
        return self._status(current)

    async def RecAbort(self) -> str:
        """End the current recording and discard its data."""
        current = self._needed("RecAbort")
        if current.ending:
            await asyncio.shield(current.ending)
        self._disarm()
        current.halt()
        recording.discard(current.files)
        current.files, current.size, current.status = [], 0, "Aborted"
        current.ended.set()
        return "OK"

    async def RecPause(self) -> dict[str, Any]:
        """Pause the current recording."""
        current = self._unended("RecPause", "Active")
        self._disarm()
        current.halt()
        current.status = "Paused"
        return self._status(current)

    async def RecContinue(self) -> dict[str, Any]:
        """Go on with a paused recording."""
        current = self._unended("RecContinue", "Paused")
        current.go()
        self._arm(current)
        return self._status(current)

    def _unended(self, what: str, status: str) -> Recording:
        current = self._needed(what)
        if current.status != status or current.ending:
            state = "about to end" if current.ending else current.status
            raise _error(f"{what}: recording {current.id} is {state}", current.id)
        return current

    async def RecStatus(self, id: str = "") -> dict[str, Any]:
        """Return the status of a recording."""
        found = self._known.get(id) if id else self._last()
        if not found:
            raise _error(f"no recording {id}" if id else "nothing was recorded yet", id,
                         errors.NoJob.code)
        return self._status(found)

    async def RecWait(self, timeout: float | None = None,
                      spec: dict[str, Any] | None = None) -> dict[str, Any]:
        """Wait until the current recording ended, or the time is over."""
        seconds = timeout if timeout is not None else (spec or {}).get("timeout", 10.0)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise _error(f"RecWait: timeout {seconds!r} is not a number of seconds")
        last = self._last()
        if not last:
            raise _error("nothing was recorded yet")
        if not last.ended.is_set():  # a wait of no time would time out before it looks
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(last.ended.wait(), seconds)
        outcome = "Success" if last.ended.is_set() else "Timeout"
        return {"status": outcome, "recStatus": self._status(last)}

    def _status(self, found: Recording) -> dict[str, Any]:
        seconds = found.seconds()
        left = max(0.0, found.exposure - seconds) if found.status in _RUNNING else 0.0
        return {
            "id": found.id,
            "info": found.info,
            "status": found.status,
            "dpFiles": recording.locations(self._plan, found.files),
            "filesGenerated": len(found.files),
            "framesProcessed": int(seconds * _FRAMES_PER_S),
            "framesRemaining": int(left * _FRAMES_PER_S),
            "sizeRecorded": found.size,
            "timeElapsed": round(seconds, 3),
            "remainingTime": round(left, 3),
            **({"startTime": found.start_time} if found.start_time else {}),
        }


def _start_time(text: Any) -> str:
    try:
        if text:
            clock.from_iso(text)
    except (ValueError, TypeError, AttributeError):
        raise _error(f"startTime {text!r} is no time such as 2026-11-21T02:30:00.000") from None
    return str(text)


def _error(message: str, id: str = "", code: int = 65) -> rpc.RemoteError:
    return rpc.RemoteError(message, exception=EXCEPTION, id=id, code=code)


def _cards(plan: recording.Plan, current: Recording, outcome: str) -> list[recording.Card]:
    # a full exposure has its nominal length, so that equal exposures make equal files
    seconds = current.exposure if outcome == "Completed" else 0.0
    seconds = seconds or round(current.elapsed, 3)
    return [
        ("INSTRUME", "SIM", "simulated instrument"),
        ("DATE-OBS", clock.iso(current.begun), "[UTC] start of the recording"),
        ("MJD-OBS", round(current.begun / 86400 + 40587, 8), "[d] start of the recording"),
        ("EXPTIME", seconds, "[s] integration time"),
        ("ESO DET ID", plan.name.upper()[:40], "detector system"),
        ("ESO DET EXP ID", current.id[:60], "recording"),
        ("ESO DET SEQ1 DIT", seconds, "[s] integration time"),
        ("ESO DET READ CURNAME", "SIMULATED", "read-out mode"),
    ]


def simulate(options: argparse.Namespace) -> int:
    """Run a simulated primary source; returns the exit code."""
    plan = recording.Plan(
        directory=service.directory(options), name=names.check_source(options.name),
        host=options.host, size=options.size, extensions=options.extensions or 0,
        copies=service.copies(options), seed=options.seed)
    fsops.sweep(plan.directory)
    return asyncio.run(_run(options, plan))


async def _run(options: argparse.Namespace, plan: recording.Plan) -> int:
    ended = asyncio.Event()
    recorders = {number: Recorder(replace(plan, name=plan.name + number), options.exposure)
                 for number in service.numbers(options)}
    standard = service.Standard(lambda: any(each.busy() for each in recorders.values()), ended)
    for each in recorders.values():
        each.standard = standard
    _follow_stdin(lambda: _complete(list(recorders.values())))
    return await service.serve(options, recorders, PATHS, standard, ended, EXCEPTION)


def _complete(recorders: list[Recorder]) -> None:
    busy = [each for each in recorders if each.busy()]
    for each in busy:
        each.complete()
    if not busy:
        cli.say("no recording is active")


def _follow_stdin(entered: Callable[[], None]) -> None:
    if sys.stdin is None:
        return
    loop, fd = asyncio.get_running_loop(), sys.stdin.fileno()
    # a background job that reads its terminal would be stopped; so the read fails instead
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)

    def read() -> None:
        try:
            data = os.read(fd, 4096)
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(fd)
        elif b"\n" in data:
            entered()

    try:
        loop.add_reader(fd, read)
    except PermissionError:
        cli.detail("stdin is a file: not followed")  # epoll takes neither files nor /dev/null

"""ESO's interfaces of the server: DpmControl and DpmDaqControl (ESO-396401, 13.2 and 13.3).

Method names and parameters are those of the interfaces; documents are plain JSON objects. What
blocks runs in threads, so that no request waits for another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from daq_watch import queueing
from daqlib import abort, alerts, cli, daemon, errors, history, names, status, storage
from daqlib.config import Config
from daqlib.dictionary import Dictionaries
from daqlib.feed import Feed
from daqlib.spool import STAGES, Spool, holder

Document = dict[str, Any]
T = TypeVar("T")

#: Where a job is in our hands, from its place in the queue until it has ended.
PLACES = ("collect", "merge", "release", "failed", "hold", "remote")
_ABORTS, _WRITERS = 64, 4  # threads at a time
_RECEIPT = ("receiver", "path", "how", "size", "sha256", "time")


class Control:
    """``daqif.DpmControl``: the server itself."""

    EXCEPTION = "daqif::RuntimeError"

    def __init__(self, on: Spool, leave: Callable[[], None]) -> None:
        """Take the spool, and what Exit calls."""
        self._spool = on
        self._leave = leave

    async def QueryStorageStatus(self) -> storage.Status:  # noqa: N802
        """Return the space of the spool's file system, in bytes."""
        return storage.status(self._spool)

    async def Exit(self) -> str:  # noqa: N802
        """End the watcher, or a server without one, after this reply."""
        self._leave()
        return "OK"


class Application(daemon.Standard):
    """What of ``stdif.StdCmds`` makes sense for a server without states (ours)."""

    EXCEPTION = "stdif::ExceptionErr"

    def __init__(self, is_active: Callable[[], bool], leave: Callable[[], None]) -> None:
        """Take what tells whether any job is on its way, and what Exit calls."""
        self._is_active = is_active
        self._leave = leave

    async def GetState(self) -> str:  # noqa: N802
        """Return ``Operational;Idle`` or ``Operational;Active``: who runs is operational."""
        return f"Operational;{'Active' if self._is_active() else 'Idle'}"

    async def GetStatus(self) -> str:  # noqa: N802
        """Return the same as GetState."""
        return await self.GetState()

    async def Exit(self) -> str:  # noqa: N802
        """End as DpmControl.Exit does."""
        self._leave()
        return "OK"


class DaqControl:
    """``daqif.DpmDaqControl``: the jobs that are merged."""

    EXCEPTION = "daqif::DaqException"

    def __init__(self, on: Spool, settings: Config, known: Dictionaries, feed: Feed) -> None:
        """Take the spool and the feed that follows it.

        Args:
            on: the spool.
            settings: the configuration; may be replaced.
            known: the dictionaries; may be replaced.
            feed: knows the jobs in :data:`PLACES`.
        """
        self._spool = on
        self.settings, self.known = settings, known
        self._feed = feed
        self._aborts, self._writers = _Threads(_ABORTS), _Threads(_WRITERS)

    async def QueueDaq(self, specification: str) -> Document:  # noqa: N802
        """Queue a Data Product Specification; its job is durable before the reply."""
        reply = await self._writers.run(lambda: queueing.queue(
            self._spool, self.settings, self.known, specification))
        self._feed.refresh(reply["id"], hinted=True)
        return reply

    async def AbortDaq(self, id: str) -> Document:  # noqa: N802
        """Abort a job that was queued; fails when its worker does not end, and holds then, too."""
        self._status(names.check_id(id), ended=True)
        await self._aborts.run(lambda: abort.abort(self._spool, id,
                                                   settings=self.settings))
        self._feed.refresh(id)
        now = status.derive(self._spool, id)
        return {"id": id, "error": bool(now and now["error"])}

    async def GetDaqStatus(self, id: str) -> Document:  # noqa: N802
        """Return the status of a job that was queued and has not ended."""
        return self._status(names.check_id(id))

    async def GetActiveDaqs(self) -> list[Document]:  # noqa: N802
        """Return the status of every job that was queued and has not ended, by id."""
        return [now for now in await self._feed.active() if is_ours(now)]

    async def GetInternalDaqStatus(self, id: str) -> Document:  # noqa: N802
        """Return what is known about a job that was queued and has not ended."""
        now = self._status(names.check_id(id))
        return internal(self._spool, id, self._spool.place(id), now)

    def _status(self, identifier: str, *, ended: bool = False) -> Document:
        """Return the status of a job in our hands.

        Args:
            identifier: its id.
            ended: whether one that has ended will do.

        Raises:
            errors.NoJob: it was never queued here, it has ended, or its file was taken away:
                nothing becomes of that one, whatever its history says.
        """
        now = status.derive(self._spool, identifier)
        place = self._spool.place(identifier)
        if now is None or not ((is_ours(now) and place in PLACES) or (ended and place == "done")):
            gone = "its job file was removed, or is in bad/" if now else "there is no such job"
            there = f"it is in {place}/" if place else gone
            raise errors.NoJob(f"{identifier!r} is not queued: {there}", "see daq-status",
                               identifier)
        return now


def is_ours(now: status.Status) -> bool:
    """Tell whether a job with this status is in our hands: beyond the acquisition, not ended."""
    return bool(now["state"] == "StateMerging")


def internal(on: Spool, identifier: str, place: str, now: status.Status) -> Document:
    """Return ``InternalDaqStatus``: the members of DaqStatus, and what the spool knows besides.

    Args:
        on: the spool.
        identifier: of the job.
        place: the directory that it lies in.
        now: its status.
    """
    events = on.events(identifier)
    stage = place if place in STAGES else status.left_stage(events)
    made: Document = {
        **now, "place": place, "stage": stage, "tries": history.tries(events, stage),
        "due": _due(on, identifier, place), "alerts": alerts.active(events, place),
        "receipts": _receipts(events)}
    if place != "done" and on.is_busy(identifier) and (who := holder(on.lock_path(identifier))):
        made["holder"] = who
    return made


def _due(on: Spool, identifier: str, place: str) -> float:
    try:
        return os.stat(on.job_path(place, identifier)).st_mtime
    except OSError:
        return 0.0  # moved just now


def _receipts(events: list[history.Event]) -> list[Document]:
    """Return the newest delivery to each receiver."""
    found = {(event.get("receiver"), event.get("path")): event for event in events
             if event["event"] == "delivered"}
    return [{name: event[name] for name in _RECEIPT if name in event} for event in found.values()]


class _Threads:
    """Runs what blocks, so many at a time, in threads whose end nobody has to wait for."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of some work.

        Raises:
            errors.DaqError: its own, or what stands for a system call that failed.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[T] = loop.create_future()

        def settle(act: Callable[[], None]) -> None:
            if not ended.done():
                act()

        def body() -> None:
            try:
                result = work()
                act = lambda: ended.set_result(result)  # noqa: E731
            except BaseException as error:
                failure = error
                act = lambda: ended.set_exception(failure)  # noqa: E731
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(settle, act)

        async with self._places:
            threading.Thread(target=body, daemon=True).start()
            try:
                return await ended
            except OSError as error:
                raise cli.from_os_error(error) from error

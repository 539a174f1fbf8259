"""One acquisition while it is in ``acquire/``: start, watch, stop or abort its live sources.

Everything that must survive a kill is in the job's log before the step that it announces: a
source is commanded only after its ``starting`` event is durable, and never started twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from daq_ctl import sources, states
from daqlib import alerts, errors, history, job, manifest, status
from daqlib.config import Config
from daqlib.spool import Spool

_RETRY_S = 2.0  # pause after a failed look at a source


@dataclass
class Live:
    """A live source of the acquisition.

    Attributes:
        name: its ``sourceName``.
        primary: whether it is a primary source.
        source: its adapter.
        phase: the last of ``starting, started, stopped, aborted`` in the log, else empty.
        delivery: what it brought, once stopped.
    """

    name: str
    primary: bool
    source: sources.Source
    phase: str = ""
    delivery: sources.Delivery | None = None


@dataclass(frozen=True)
class Site:
    """What every acquisition works with.

    Attributes:
        spool: the spool.
        settings: the configuration.
        changed: called with the id after every event.
        ended: called with the id when the job has left the acquisition's hands.
    """

    spool: Spool
    settings: Config
    changed: Callable[[str], None]
    ended: Callable[[str], None]


class Acquisition:
    """An acquisition under our control; holds the job's lock until it leaves ``acquire/``."""

    def __init__(self, site: Site, read: job.Job, lock: int) -> None:
        """Take over a job whose lock is held.

        Args:
            site: spool, configuration and listeners.
            read: the job file.
            lock: descriptor of the job's lock.

        Raises:
            errors.BadData: a source has no adapter.
        """
        self.site = site
        self.id = read.id
        self.place = read.place
        self.document = read.document
        self.ctime = read.status.st_ctime
        self._lock = lock
        self._task: asyncio.Task[Any] | None = None
        self._kind = ""
        self._monitors: set[asyncio.Task[None]] = set()
        timeout = float(site.settings["request_timeout_sec"])
        self.sources = [
            Live(entry["sourceName"], entry["type"] == "primarySource",
                 sources.make(entry, self.id, timeout))
            for entry in self.document["sources"] if entry["type"] in job.LIVE]
        self._recall()

    def _recall(self) -> None:
        """Take the sources' phases and deliveries from the log."""
        by_name = {live.name: live for live in self.sources}
        for event in self.site.spool.events(self.id):
            live = by_name.get(event.get("source", ""))
            if live and event["event"] in ("starting", "started"):
                live.phase = event["event"]
            elif live and event["event"] == "source-aborted":
                live.phase = "aborted"
            elif live and event["event"] == "stopped":
                live.phase = "stopped"
                live.delivery = sources.Delivery(event.get("files", []),
                                                 event.get("keywords", []),
                                                 event.get("fault", ""))

    @property
    def substate(self) -> str:
        """The last substate recorded."""
        return status.acquiring_substate(self.site.spool.events(self.id))

    def primary_uris(self) -> set[str]:
        """Return the URIs of its primary sources, which no other acquisition may share."""
        return {str(entry["rrUri"]).rstrip("/") for entry in self.document["sources"]
                if entry["type"] == "primarySource"}

    def _log(self, event: str, **facts: Any) -> None:
        self.site.spool.log(self.id, event, stage="acquire", **facts)
        self.site.changed(self.id)

    def _enter(self, substate: str, **facts: Any) -> None:
        if self.substate != substate or facts:
            self._log("state", substate=substate, **facts)

    def _alert(self, condition: str, subject: str, text: str) -> None:
        self._log("alert", **alerts.make(condition, subject, text))

    # -- operations, one at a time ------------------------------------------------------------

    async def start(self) -> None:
        """Start metadata sources, then primary ones, then watch for the end.

        Raises:
            errors.DaqError: a source did not start; what was started is aborted and the job is
                in ``failed/``.
        """
        await self._operate("start", self._start)

    async def stop(self, *, force: bool = False) -> bool:
        """Stop all sources and hand the job over; tell whether something went wrong.

        Raises:
            errors.DaqError: not accepted now, or every source failed (the state stays Stopping).
        """
        command = "ForceStopDaq" if force else "StopDaq"
        outcome = "forced" if force else "stopped"
        return bool(await self._operate(command, lambda: self._stop(outcome)))

    async def abort(self, *, force: bool = False) -> bool:
        """Abort all sources and lay the job to rest; tell whether something went wrong.

        Raises:
            errors.DaqError: a source failed (the state stays Aborting) and ``force`` is not set.
        """
        command = "ForceAbortDaq" if force else "AbortDaq"
        return bool(await self._operate(command, lambda: self._abort(force)))

    async def _operate(self, kind: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        forcing = kind.startswith("Force") or kind == "AbortDaq"
        while self._task and not self._task.done():
            if kind == self._kind or (kind, self._kind) == ("StopDaq", "automatic stop"):
                return await asyncio.shield(self._task)
            if forcing:
                self._task.cancel()
            await asyncio.wait([self._task])
        if kind in states.ACQUISITION:
            states.check_acquisition(self.id, self.substate, kind)
        self._kind = kind
        self._task = task = asyncio.create_task(make())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise errors.BadData(f"{kind} was overtaken by another command",
                                     job=self.id) from None
            raise

    async def _each(self, group: list[Live], act: Callable[[Live], Awaitable[None]],
                    ) -> list[tuple[Live, errors.DaqError]]:
        """Act on sources concurrently; return those that failed, with an alert for each."""
        results = await asyncio.gather(*(act(live) for live in group), return_exceptions=True)
        failed = []
        for live, result in zip(group, results, strict=True):
            if isinstance(result, errors.DaqError):
                failed.append((live, result))
                self._alert("source-failed", live.name, f"source {live.name}: {result.message}")
            elif isinstance(result, BaseException):
                raise result
        return failed

    def _groups(self) -> tuple[list[Live], list[Live]]:
        return ([live for live in self.sources if not live.primary],
                [live for live in self.sources if live.primary])

    # -- start --------------------------------------------------------------------------------

    async def _start(self) -> None:
        self.site.changed(self.id)  # NotStarted: registered, nothing initiated
        self._enter("Starting")
        for group in self._groups():  # metadata sources first (manual 9.2.2, eso-daq #47)
            failed = await self._each([live for live in group if not live.phase], self._start_one)
            if failed:
                await self._give_up(failed)
        self._enter("Acquiring")
        self.watch()

    async def _start_one(self, live: Live) -> None:
        self._log("starting", source=live.name)
        live.phase = "starting"
        await live.source.start()
        self._log("started", source=live.name)
        live.phase = "started"

    async def _give_up(self, failed: list[tuple[Live, errors.DaqError]]) -> None:
        reason = "; ".join(f"source {live.name} did not start: {error.message}"
                           for live, error in failed)
        await self.fail(reason)
        absent = all(isinstance(error, errors.Unavailable) for _, error in failed)
        kind = errors.Unavailable if absent else errors.BadData
        raise kind(reason, f"the job is in failed/; mend the source and start anew, or: "
                   f"daq-ctl daq.abort {self.id}", self.id)

    async def fail(self, reason: str) -> None:
        """Force-abort what was started and put the job into ``failed/`` with the reason."""
        self._enter("Aborting")
        await self._each([live for live in self.sources if live.phase in ("starting", "started")],
                         self._abort_one)
        self._log("fail", reason=reason)
        path = self.site.spool.job_path("acquire", self.id)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        self._leave("failed")

    async def archive(self, reason: str) -> None:
        """Put an acquisition that nobody answers for any more into ``failed/``."""
        self._alert("stale", "", reason)
        self._log("fail", reason=reason)
        self._leave("failed")

    # -- watch --------------------------------------------------------------------------------

    def watch(self) -> None:
        """Watch the primary sources; when all have ended, stop the rest (manual 9.2.1)."""
        if not self.sources:
            self._spawn(self._automatic_stop())
        primary = self._groups()[1]
        if primary:
            self._spawn(self._watch_all(primary))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._monitors.add(task)
        task.add_done_callback(self._monitors.discard)

    async def _watch_all(self, primary: list[Live]) -> None:
        await asyncio.gather(*(self._watch_one(live) for live in primary if not live.delivery))
        await self._automatic_stop()

    async def _watch_one(self, live: Live) -> None:
        interval = float(self.document.get("awaitCompletionInterval", 10.0))
        troubled = False
        while True:
            try:
                if await live.source.wait(interval):
                    break
            except errors.DaqError as error:
                if not troubled:
                    self._alert("source-failed", live.name,
                                f"source {live.name}: {error.message}")
                troubled = True
                await asyncio.sleep(_RETRY_S)
                continue
            if troubled:
                self._log("alert-cleared", id=f"source-failed:{live.name}")
            troubled = False
            await asyncio.sleep(0.05)  # a source that answers at once must not spin us
        if troubled:
            self._log("alert-cleared", id=f"source-failed:{live.name}")

    async def _automatic_stop(self) -> None:
        with contextlib.suppress(errors.DaqError):  # the alert is logged, the state tells
            await self._operate("automatic stop", lambda: self._stop("completed"))

    # -- stop ---------------------------------------------------------------------------------

    async def _stop(self, outcome: str) -> bool:
        if self.substate == "Stopped":
            return False
        self._enter("Stopping", outcome=outcome)
        failed: list[tuple[Live, errors.DaqError]] = []
        for group in reversed(self._groups()):  # metadata sources last (eso-daq #48)
            failed += await self._each(
                [live for live in group if live.phase in ("starting", "started")], self._stop_one)
        delivered = [live for live in self.sources if live.delivery]
        if failed and not delivered and outcome != "forced":
            raise errors.Unavailable(
                "every source failed to stop: " + "; ".join(e.message for _, e in failed),
                f"repeat daq.stop, or: daq-ctl daq.forcestop {self.id}", self.id)
        self._enter("Stopped")
        self._hand_over(outcome)
        return bool(failed) or any(live.delivery and live.delivery.fault for live in delivered)

    async def _stop_one(self, live: Live) -> None:
        delivery = await live.source.stop()
        self._log("stopped", source=live.name, files=delivery.files, keywords=delivery.keywords,
                  fault=delivery.fault or None)
        live.phase, live.delivery = "stopped", delivery
        if delivery.fault:
            condition = "source-keywords" if "keywords" in delivery.fault else "source-failed"
            self._alert(condition, live.name, f"source {live.name}: {delivery.fault}")

    def _hand_over(self, outcome: str) -> None:
        """Seal the inputs, write the manifest and move the job to ``collect/``."""
        spool = self.site.spool
        if not self.is_sealed():
            self._log("sealed", outcome=outcome)
        folder = spool.data_path(self.id)
        os.makedirs(folder, exist_ok=True)
        delivered = [{"sourceName": live.name, "files": live.delivery.files,
                      "keywords": live.delivery.keywords}
                     for live in self.sources if live.delivery]
        digest = manifest.digest(spool.job_path("acquire", self.id))
        manifest.write(os.path.join(folder, "acquire.json"), self.id, "acquire", spool.by,
                       {"job": digest}, [], {"outcome": outcome, "sources": delivered})
        if not digest:
            self._alert("moved-away", "", "the job was moved out of acquire/ while it recorded; "
                        "its outcome is written, the job is not moved")
        self._leave("collect")

    def is_sealed(self) -> bool:
        """Tell whether the inputs are complete: keyword updates are refused from then on."""
        events = self.site.spool.events(self.id)
        return history.last(events, "sealed", stage="acquire") is not None

    # -- abort --------------------------------------------------------------------------------

    async def _abort(self, force: bool) -> bool:
        self._cancel_monitors()
        self._enter("Aborting")
        failed = await self._each(
            [live for live in self.sources if live.phase in ("starting", "started")],
            self._abort_one)
        if failed and not force:
            raise errors.Unavailable(
                "not every source aborted: " + "; ".join(e.message for _, e in failed),
                f"repeat daq.abort, or: daq-ctl daq.forceabort {self.id}", self.id)
        self._log("aborted")
        self._leave("done")
        return bool(failed)

    async def _abort_one(self, live: Live) -> None:
        await live.source.abort()
        self._log("source-aborted", source=live.name)
        live.phase = "aborted"

    # -- leaving ------------------------------------------------------------------------------

    def _cancel_monitors(self) -> None:
        for task in self._monitors:
            if task is not asyncio.current_task():
                task.cancel()

    def _leave(self, place: str) -> None:
        """Move the job on if it is still where we found it, and give its lock back."""
        try:
            self.site.spool.move(self.id, self.place, place)
        except FileExistsError:
            self.site.spool.to_bad(self.place, f"{self.id}.json", f"{place}/ holds a copy")
        self.release()
        self.site.changed(self.id)

    def release(self) -> None:
        """Give the job's lock back; the sources go on, a later daemon takes over."""
        self._cancel_monitors()
        if self._lock >= 0:
            self.site.spool.release(self.id, self._lock)
            self._lock = -1
        self.site.ended(self.id)

    # -- after a restart ----------------------------------------------------------------------

    async def resume(self) -> None:
        """Go on where an earlier daemon was killed; query sources, never start them again."""
        substate = self.substate
        if substate in ("NotStarted", "Starting"):
            await self._operate("resume", self._resume_start)
        elif substate == "Acquiring":
            self.watch()
        elif substate in ("Stopping", "Stopped"):
            outcome = self._outcome()
            if substate == "Stopped":
                self._hand_over(outcome)
            else:
                with contextlib.suppress(errors.DaqError):
                    await self._operate("automatic stop", lambda: self._stop(outcome))
        elif substate == "Aborting":
            with contextlib.suppress(errors.DaqError):
                await self.abort()

    def _outcome(self) -> str:
        for event in reversed(self.site.spool.events(self.id)):
            if event["event"] == "state" and "outcome" in event:
                return str(event["outcome"])
        return "stopped"

    async def _resume_start(self) -> None:
        for live in self.sources:
            if live.phase == "starting" and await self._records(live):
                self._log("started", source=live.name)
                live.phase = "started"
        if self.sources and all(live.phase == "started" for live in self.sources):
            self._enter("Acquiring")
            self.watch()
            return
        await self.fail("daq-ctl ended while the sources were being started")

    async def _records(self, live: Live) -> bool:
        try:
            return await live.source.status() in (sources.RECORDING, sources.ENDED)
        except errors.DaqError:
            return False

    async def answers(self) -> bool:
        """Tell whether any source still records for us; such an acquisition is never stale."""
        found = await asyncio.gather(*(self._records(live) for live in self.sources))
        return any(found)

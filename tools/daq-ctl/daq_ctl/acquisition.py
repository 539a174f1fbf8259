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

from daq_ctl import live, states
from daq_ctl.live import COMMANDED, Live
from daqlib import alerts, cli, errors, history, job, manifest, status
from daqlib.config import Config
from daqlib.spool import WAY, Spool

_RETRY_S = 2.0  # pause after a failed look at a source
_STOP_RETRY_S = 5.0  # pause after an automatic stop in which every source failed
_STOP_PATIENCE = 6.0  # times the limit for a reply: the longest to wait for files being written


class Left(errors.BadData):
    """The acquisition is not in our hands any more; ask the spool."""


class Overtaken(errors.BadData):
    """A stronger command took the place of this one."""


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
        self._unwanted = False  # a stronger command waits for the start to come to a point
        self._monitors: set[asyncio.Task[None]] = set()
        self._timeout = float(site.settings["request_timeout_sec"])
        self.sources = live.of(self.document, self.id, self._timeout)
        events = site.spool.events(self.id)
        live.recall(self.sources, events)
        self._away = any(a["id"] == "moved-away" for a in alerts.active(events, self.place))

    @property
    def substate(self) -> str:
        """The last substate recorded."""
        return status.acquiring_substate(self.site.spool.events(self.id))

    def primary_endpoints(self) -> set[str]:
        """Return where its primary sources are, which no other acquisition may share."""
        return {each.source.endpoint for each in self.sources if each.primary}

    def has_begun(self) -> bool:
        """Tell whether any source was commanded."""
        return any(each.phase for each in self.sources)

    def _log(self, event: str, **facts: Any) -> None:
        self.site.spool.log(self.id, event, stage="acquire", **facts)
        self.site.changed(self.id)

    def _enter(self, substate: str, **facts: Any) -> None:
        newest = self._newest_state()
        if any(newest.get(key) != value for key, value in {"substate": substate, **facts}.items()):
            self._log("state", substate=substate, **facts)

    def _newest_state(self) -> history.Event:
        return history.last(self.site.spool.events(self.id), "state") or {}

    def _alert(self, condition: str, subject: str, text: str) -> None:
        self._log("alert", **alerts.make(condition, subject, text))

    def _trouble(self, each: Live, text: str) -> None:
        """Raise the alert that a source gives trouble, or clear it when the text is empty."""
        if text == each.trouble:
            return
        try:
            if text:
                self._alert("source-failed", each.name, text)
            else:
                self._log("alert-cleared", id=each.alert)
        except OSError as error:  # the watch goes on, and the next look tries again
            cli.fail(cli.from_os_error(error))
            return
        each.trouble = text

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
            Left: it is past that.
            errors.DaqError: not accepted now, or every source failed (the state stays Stopping).
        """
        command = "ForceStopDaq" if force else "StopDaq"
        outcome = "forced" if force else "stopped"
        return bool(await self._operate(command, lambda: self._stop(outcome)))

    async def abort(self, *, force: bool = False) -> bool:
        """Abort all sources and lay the job to rest; tell whether something went wrong.

        Raises:
            Left: it is past that.
            errors.DaqError: a source failed (the state stays Aborting) and ``force`` is not set.
        """
        command = "ForceAbortDaq" if force else "AbortDaq"
        return bool(await self._operate(command, lambda: self._abort(force)))

    async def _operate(self, kind: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        while self._task and not self._task.done():
            if kind == self._kind or (kind, self._kind) == ("StopDaq", "automatic stop"):
                return await asyncio.shield(self._task)
            self._overtake(kind)
            await asyncio.wait([self._task])
        if self._lock < 0:
            raise Left(f"{kind} comes too late", "see daq-status", self.id)
        if kind in states.ACQUISITION:
            states.check_acquisition(self.id, self.substate, kind)
        self._kind, self._unwanted = kind, False
        self._task = task = asyncio.create_task(make())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Overtaken(f"{kind} was overtaken by another command", job=self.id) from None
            raise
        except OSError as error:  # the log or the spool: what it announces has not happened
            raise cli.from_os_error(error) from error

    def _overtake(self, kind: str) -> None:
        """Interrupt the operation under way if this one is stronger; else it is waited for."""
        assert self._task
        if states.STRENGTH.get(kind, 0) <= states.STRENGTH.get(self._kind, 0):
            return
        states.check_acquisition(self.id, self.substate, kind)
        if self._kind == "start":
            # requests to start are out: a source that begins after we looked away would record
            # for ever, so their replies are waited for, and nothing more is started
            self._unwanted = True
        else:
            self._task.cancel()

    async def _each(self, group: list[Live], act: Callable[[Live], Awaitable[None]],
                    ) -> list[tuple[Live, errors.DaqError]]:
        """Act on sources concurrently; return those that failed, with an alert for each."""
        results = await asyncio.gather(*(act(each) for each in group), return_exceptions=True)
        failed = []
        for each, result in zip(group, results, strict=True):
            if isinstance(result, errors.DaqError):
                failed.append((each, result))
                self._trouble(each, f"source {each.name}: {result.message}")
            elif isinstance(result, BaseException):
                raise result
        return failed

    def _groups(self) -> tuple[list[Live], list[Live]]:
        return ([each for each in self.sources if not each.primary],
                [each for each in self.sources if each.primary])

    def _commanded(self) -> list[Live]:
        return [each for each in self.sources if each.phase in COMMANDED]

    # -- start --------------------------------------------------------------------------------

    async def _start(self) -> None:
        self.site.changed(self.id)  # NotStarted: registered, nothing initiated
        self._enter("Starting")
        for group in self._groups():  # metadata sources first (manual 9.2.2)
            failed = await self._each([each for each in group if not each.phase], self._start_one)
            if self._unwanted:
                raise Overtaken("the start was overtaken by another command", job=self.id)
            if failed:
                await self._give_up(failed)
        self._enter("Acquiring")
        self.watch()

    async def _start_one(self, each: Live) -> None:
        self._log("starting", source=each.name)
        each.phase = "starting"
        await live.asked(each.source.start())
        self._log("started", source=each.name)
        each.phase = "started"

    async def _give_up(self, failed: list[tuple[Live, errors.DaqError]]) -> None:
        reason = "; ".join(f"source {each.name} did not start: {error.message}"
                           for each, error in failed)
        await self.fail(reason)
        absent = all(isinstance(error, errors.Unavailable) for _, error in failed)
        kind = errors.Unavailable if absent else errors.BadData
        raise kind(reason, f"the job is in failed/; mend the source and start anew, or: "
                   f"daq-ctl daq.abort {self.id}", self.id)

    async def fail(self, reason: str) -> None:
        """Force-abort what was started and put the job into ``failed/`` with the reason."""
        self._enter("Aborting", reason=reason)
        await self._each(self._commanded(), self._abort_one)
        self._put_aside(reason)

    async def archive(self, reason: str) -> None:
        """Put an acquisition that nobody answers for any more into ``failed/``."""
        self._alert("stale", "", reason)
        self._put_aside(reason)

    def _put_aside(self, reason: str) -> None:
        self._log("fail", reason=reason)
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.site.spool.job_path(self.place, self.id))
        self._leave("failed")

    # -- watch --------------------------------------------------------------------------------

    def watch(self) -> None:
        """Watch the sources; when all primary ones have ended, stop the rest (manual 9.2.1)."""
        metadata, primary = self._groups()
        for each in metadata:
            self._spawn(self._tend(each))
        if primary or not self.sources:
            self._spawn(self._watch_all(primary))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._monitors.add(task)
        task.add_done_callback(self._monitors.discard)

    @property
    def _interval(self) -> float:
        return float(self.document.get("awaitCompletionInterval", 10.0))

    async def _tend(self, each: Live) -> None:
        """Tell when a metadata source has lost our session, and when it has it again."""
        while each.phase == "started":
            fault = await live.fault(each)
            if each.phase == "started":
                self._trouble(each, fault)
            await asyncio.sleep(max(self._interval, _RETRY_S))

    async def _watch_all(self, primary: list[Live]) -> None:
        await asyncio.gather(*(self._watch_one(each) for each in primary if not each.delivery))
        await self.stop_by_itself("completed")

    async def _watch_one(self, each: Live) -> None:
        while True:
            try:
                ended = await live.asked(each.source.wait(self._interval))
            except errors.DaqError as error:
                self._trouble(each, f"source {each.name}: {error.message}")
                await asyncio.sleep(_RETRY_S)
                continue
            self._trouble(each, "")
            if ended:
                return
            await asyncio.sleep(0.05)  # a source that answers at once must not spin us

    async def stop_by_itself(self, outcome: str) -> None:
        """Stop without a client; nobody would repeat it, so we do.

        Args:
            outcome: for the manifest: ``completed``, or what an earlier command wanted.
        """
        while True:
            try:
                await self._operate("automatic stop", lambda: self._stop(outcome))
                return
            except (Left, Overtaken):
                return
            except errors.DaqError as error:  # its alert is in the log
                cli.warn(f"{self.id}: {error}")
                await asyncio.sleep(_STOP_RETRY_S)

    # -- stop ---------------------------------------------------------------------------------

    async def _stop(self, outcome: str) -> bool:
        self._enter("Stopping", outcome=outcome)
        failed: list[tuple[Live, errors.DaqError]] = []
        patience = 0.0 if outcome == "forced" else _STOP_PATIENCE * self._timeout
        for group in reversed(self._groups()):  # metadata sources last (manual 9.2.1)
            failed += await self._each([each for each in group if each.phase in COMMANDED],
                                       lambda each: self._stop_one(each, patience))
        delivered = [each for each in self.sources if each.delivery]
        if failed and not delivered and outcome != "forced":
            raise errors.Unavailable(
                "every source failed to stop: " + "; ".join(e.message for _, e in failed),
                f"repeat daq.stop, or: daq-ctl daq.forcestop {self.id}", self.id)
        self._enter("Stopped")
        self._hand_over(outcome)
        return bool(failed) or any(each.delivery and each.delivery.fault for each in delivered)

    async def _stop_one(self, each: Live, patience: float) -> None:
        delivery = await live.asked(each.source.stop(patience))
        self._log("stopped", source=each.name, files=delivery.files, keywords=delivery.keywords,
                  fault=delivery.fault or None)
        each.phase, each.delivery = "stopped", delivery
        text = delivery.fault and f"source {each.name}: {delivery.fault}"
        if text.startswith(f"source {each.name}: its keywords"):
            self._alert("source-keywords", each.name, text)
            text = ""
        self._trouble(each, text)

    def _hand_over(self, outcome: str) -> None:
        """Seal the inputs, write the manifest and move the job to ``collect/``."""
        spool = self.site.spool
        if not self.is_sealed():
            self._log("sealed", outcome=outcome)
        folder = spool.data_path(self.id)
        os.makedirs(folder, exist_ok=True)
        delivered = [{"sourceName": each.name, "files": each.delivery.files,
                      "keywords": each.delivery.keywords}
                     for each in self.sources if each.delivery]
        digest = manifest.digest(spool.job_path(self.place, self.id))
        manifest.write(os.path.join(folder, "acquire.json"), self.id, "acquire", spool.by,
                       {"job": digest}, [], {"outcome": outcome, "sources": delivered})
        self.look(self.place if digest else "")
        self._leave("collect")

    def is_sealed(self) -> bool:
        """Tell whether the inputs are complete: keyword updates are refused from then on."""
        events = self.site.spool.events(self.id)
        return history.last(events, "sealed", stage="acquire") is not None

    def look(self, place: str) -> None:
        """Take note of where the job lies: an operator may move it while it records."""
        away = place != self.place
        if away == self._away or self._lock < 0:
            return
        self._away = away
        if away:
            self._alert("moved-away", "", "the job was moved out of acquire/ while it records; "
                        "its outcome will be written, the job will not be moved")
        else:
            self._log("alert-cleared", id="moved-away")

    # -- abort --------------------------------------------------------------------------------

    async def _abort(self, force: bool) -> bool:
        self._cancel_monitors()
        self._enter("Aborting", reason=None)
        failed = await self._each(self._commanded(), self._abort_one)
        if failed and not force:
            raise errors.Unavailable(
                "not every source aborted: " + "; ".join(e.message for _, e in failed),
                f"repeat daq.abort, or: daq-ctl daq.forceabort {self.id}", self.id)
        self._log("aborted")
        self._leave("done")
        return bool(failed)

    async def _abort_one(self, each: Live) -> None:
        await live.asked(each.source.abort())
        self._log("source-aborted", source=each.name)
        each.phase = "aborted"

    # -- leaving ------------------------------------------------------------------------------

    def _cancel_monitors(self) -> None:
        for task in self._monitors:
            if task is not asyncio.current_task():
                task.cancel()

    def _leave(self, place: str) -> None:
        """Move the job on if it is still where we found it, and give its lock back."""
        spool = self.site.spool
        source = self.place
        if place == "done" and self._away:
            # an abort is meant wherever the job lies; under our lock nobody is at work on it
            source = next((at for at in (*WAY[:-1], "hold", "failed")
                           if os.path.lexists(spool.job_path(at, self.id))), self.place)
        try:
            spool.move(self.id, source, place)
        except FileExistsError:
            spool.to_bad(source, f"{self.id}.json", f"{place}/ holds a copy")
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
        elif substate == "Stopped":
            self._hand_over(self._outcome())
        elif substate == "Stopping":
            self._spawn(self.stop_by_itself(self._outcome()))
        elif reason := str(self._newest_state().get("reason", "")):
            await self._operate("resume", lambda: self.fail(reason))
        else:
            with contextlib.suppress(errors.DaqError):  # it stays Aborting, with an alert
                await self.abort()

    def _outcome(self) -> str:
        for event in reversed(self.site.spool.events(self.id)):
            if event["event"] == "state" and "outcome" in event:
                return str(event["outcome"])
        return "stopped"

    async def _resume_start(self) -> None:
        for each in self.sources:
            if each.phase == "starting" and await live.records(each):
                self._log("started", source=each.name)
                each.phase = "started"
        if self.sources and all(each.phase == "started" for each in self.sources):
            self._enter("Acquiring")
            self.watch()
            return
        await self.fail("daq-ctl ended while the sources were being started")

    async def answers(self) -> bool:
        """Tell whether any source still records for us; such an acquisition is never stale."""
        found = await asyncio.gather(*(live.records(each) for each in self.sources))
        return any(found)

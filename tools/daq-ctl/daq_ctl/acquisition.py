"""One acquisition while it is in ``acquire/``: start, watch, stop or abort its live sources.

Everything that must survive a kill is in the job's log before the step that it announces: a
source is commanded only after its ``starting`` event is durable, and never started twice. What a
group of sources is told and answers is recorded in one append.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from daq_ctl import asking, departure, live, sources, states
from daq_ctl.asking import Answers, Failures
from daq_ctl.journal import Journal, durably, log
from daq_ctl.live import COMMANDED, Live
from daq_ctl.turns import Operation, Turns
from daq_ctl.watch import Progress, Watch
from daqlib import alerts, cli, errors, job
from daqlib.config import Config
from daqlib.crashpoints import passing
from daqlib.dictionary import Dictionaries
from daqlib.history import Told
from daqlib.spool import LIVE, Spool

_AGAIN_S = 5.0  # pause before what could not be recorded is tried again
_STOP_PATIENCE = 6.0  # times the limit for a reply: the longest to wait for files being written
_GONE_S = 1.0  # how long a job file may be missing: an editor that saves takes it away for a moment
_LATE_S = 120.0  # how long a source whose start was not answered is looked after

#: How an acquisition ended, for its manifest.
_OUTCOME = {"StopDaq": "stopped", "ForceStopDaq": "forced"}


@dataclass(frozen=True)
class Site:
    """What every acquisition works with.

    Attributes:
        spool: the spool.
        settings: the configuration.
        changed: called with the id after every event.
        ended: called with the id when the job has left the acquisition's hands.
        dictionaries: what keywords must comply with.
        afterwards: tasks that outlive their acquisition.
    """

    spool: Spool
    settings: Config
    changed: Callable[[str], None]
    ended: Callable[[str], None]
    dictionaries: Dictionaries = field(default_factory=Dictionaries)
    afterwards: set[asyncio.Task[None]] = field(default_factory=set)

    def later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something that outlives its acquisition."""
        task = asyncio.create_task(coroutine)
        self.afterwards.add(task)
        task.add_done_callback(self.afterwards.discard)


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
        self._timeout = float(site.settings["request_timeout_sec"])
        self.sources = live.of(self.document, self._order)
        self.journal = Journal(site.spool, self.id, self.sources, site.changed)
        self._turns = Turns(self.id, self.journal)
        self._away = self.journal.away
        self._leaving = self._aborts_later = self._restoring = False
        self._filing = asyncio.Lock()  # of the job file
        self._watch = Watch(self.journal, self.sources,
                            float(self.document.get("awaitCompletionInterval", 10.0)),
                            site.spool.data_path(self.id))

    @property
    def substate(self) -> str:
        """The last substate recorded."""
        return self.journal.substate

    def primary_endpoints(self) -> set[str]:
        """Return where its primary sources are."""
        return {each.source.endpoint for each in self.sources if each.primary}

    def occupied(self) -> set[str]:
        """Return where the primary sources are that it still needs: nobody else may use them."""
        if self.substate == "Stopped":
            return set()
        return {each.source.endpoint for each in self.sources
                if each.primary and each.phase not in ("stopped", "aborted")}

    def has_begun(self) -> bool:
        """Tell whether any source was commanded."""
        return any(each.phase for each in self.sources)

    def _order(self, description: job.Document) -> sources.Order:
        """Return what is asked of a source of the job."""
        name = str(description["sourceName"])

        async def say(text: str) -> None:
            await self.journal.write(("said", {"source": name, "text": text}))

        return sources.Order(description, self.id, self._timeout,
                             self.site.spool.data_path(self.id, LIVE, name),
                             self.site.settings, say)

    # -- operations, one at a time ------------------------------------------------------------

    async def start(self) -> None:
        """Start metadata sources, then primary ones, then watch for the end.

        Raises:
            errors.DaqError: a source did not start; what was started is aborted and the job is
                in ``failed/``.
        """
        await self._turns.take("start", self._start_or_undo)

    async def stop(self, *, force: bool = False) -> bool:
        """Stop all sources and hand the job over; tell whether something went wrong.

        Raises:
            Left: it is past that.
            errors.DaqError: not accepted now, or every source failed (the state stays Stopping).
        """
        command = "ForceStopDaq" if force else "StopDaq"
        return bool(await self._turns.take(command, lambda: self._stop(command, _OUTCOME[command])))

    async def abort(self, *, force: bool = False) -> bool:
        """Abort all sources and lay the job to rest; tell whether something went wrong.

        Raises:
            Left: it is past that.
            errors.DaqError: a source failed (the state stays Aborting) and ``force`` is not set.
        """
        command = "ForceAbortDaq" if force else "AbortDaq"
        return bool(await self._turns.take(command, lambda: self._abort(command)))

    async def pause(self) -> None:
        """Pause the primary sources.

        Raises:
            errors.DaqError: not accepted now, or a source did not; the others are paused.
        """
        await self._turns.take("PauseDaq", lambda: self._at_primaries(
            "paused", lambda primary: primary.pause()))

    async def proceed(self) -> None:
        """Go on with the primary sources that were paused.

        Raises:
            errors.DaqError: not accepted now, or a source did not; the others go on.
        """
        await self._turns.take("ContinueDaq", lambda: self._at_primaries(
            "continued", lambda primary: primary.resume()))

    async def update_keywords(self, keywords: list[dict[str, Any]]) -> None:
        """Add or replace keywords; they are durable when this returns.

        Raises:
            errors.DaqError: not accepted now, or they cannot be recorded.
        """
        try:
            await self.journal.write(("keywords", {"keywords": keywords}),
                                     command="UpdateKeywords")
        except OSError as error:
            raise cli.from_os_error(error) from error

    async def give_up(self, reason: str) -> None:
        """Force-abort what was started and put the job into ``failed/`` with the reason."""
        await self._turns.take("resume", lambda: self._fail(reason))

    async def archive(self, reason: str) -> None:
        """Put an acquisition that nobody answers for any more into ``failed/``."""
        await self._turns.take("resume", lambda: self._put_aside(
            reason, [("alert", alerts.make("stale", "", reason))]))

    def _groups(self) -> tuple[list[Live], list[Live]]:
        return ([each for each in self.sources if not each.primary],
                [each for each in self.sources if each.primary])

    def _commanded(self) -> list[Live]:
        return [each for each in self.sources if each.phase in COMMANDED]

    def _entering(self, substate: str, **facts: str | None) -> list[Told]:
        """Return the event that tells a new substate; none when the log says the same already."""
        if substate == self.substate and all(
                self.journal.fact(key) == (value or "") for key, value in facts.items()):
            return []
        return [("state", {"substate": substate, **facts})]

    # -- start --------------------------------------------------------------------------------

    async def _start_or_undo(self) -> None:
        try:
            await self._start()
        except OSError as error:
            # the client is told that it failed, so nothing may record, recorded or not
            await self._turns.ask(self._commanded(), lambda each: each.source.abort())
            reason = f"its start could not be recorded: {cli.from_os_error(error)}"
            self._watch.spawn(self._later("resume", lambda: self._fail(reason)))
            raise

    async def _start(self) -> None:
        self.site.changed(self.id)  # NotStarted: registered, nothing initiated
        told = self._entering(states.after(self.substate, "SourcesCommanded"))
        for group in self._groups():  # metadata sources first (manual 9.2.2)
            fresh = [each for each in group if not each.phase]
            if not fresh:
                continue
            await self.journal.write(*told, *asking.told_of("starting", fresh))
            passing("acquire.starting")
            self._turns.heed()
            answers = await self._begin(fresh)
            told = [*asking.told_of("started", (each for each, answer in answers
                                                if answer is None)), *asking.troubles(answers)]
            late = [each for each, answer in answers
                    if answer is not None and live.may_record(each, answer)]
            if failed := asking.failures(answers):
                await self._give_up(failed, told, late)
            self._silence_all(late)
            if self._turns.overtaken:
                await self.journal.write(*told)
                self._turns.heed()
        if self.substate != "Starting":  # there is no live source
            await self.journal.write(*told)
            told = []
        await self.journal.write(
            *told, *self._entering(states.after(self.substate, "SourcesStarted")))
        passing("acquire.started")
        self._watch.start(self.stop_by_itself)

    async def _begin(self, group: list[Live]) -> Answers[None]:
        """Have sources start together; none of them waits for an optional one."""
        async def alone(each: Live) -> None:
            await each.source.prepare()
            await each.source.start()

        found = await asyncio.gather(
            self._begin_together([each for each in group if not each.optional]),
            self._turns.ask([each for each in group if each.optional], alone))
        return [*found[0], *found[1]]

    async def _begin_together(self, group: list[Live]) -> Answers[None]:
        answers = await self._turns.prepare(group)
        failed = [(each, answer) for each, answer in answers if answer is not None]
        if failed or self._turns.overtaken:
            return list(failed)
        return await self._turns.ask(group, lambda each: each.source.start())

    async def _give_up(self, failed: Failures, told: list[Told], late: list[Live]) -> None:
        reason = asking.texts(failed, " did not start")
        await self._fail(reason, told, late)
        absent = all(isinstance(error, errors.Unavailable) for _, error in failed)
        kind = errors.Unavailable if absent else errors.BadData
        raise kind(reason, f"the job is in failed/; mend the source and start anew, or: "
                   f"daq-ctl daq.abort {self.id}", self.id)

    async def _fail(self, reason: str, told: Iterable[Told] = (),
                    late: Iterable[Live] = ()) -> None:
        substate = states.after(self.substate, "GivenUp")
        await self.journal.write(*told, *self._entering(substate, reason=reason))
        answers = await self._turns.ask(self._commanded(), lambda each: each.source.abort())
        if self._turns.kind != "start":
            self._turns.heed()
        await self._put_aside(reason, asking.aborted(answers))
        self._silence_all([*late, *(each for each, _ in asking.absent(answers))])

    def _silence_all(self, late: Iterable[Live]) -> None:
        for each in late:
            self.site.later(self._silence(each))

    async def _silence(self, each: Live) -> None:
        """Abort a source that records although we gave it up: nobody else would end it."""
        if await live.silence(each, _LATE_S):
            log.warning("%s: source %s recorded after it was given up; aborted", self.id,
                        each.name)
            with contextlib.suppress(OSError):
                await durably(lambda: self.site.spool.log(
                    self.id, "source-aborted", stage="acquire", source=each.name, late=True))

    async def _put_aside(self, reason: str, told: Iterable[Told]) -> None:
        await self.journal.write(*told, ("fail", {"reason": reason}))
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.site.spool.job_path(self.place, self.id))
        await self._leave("failed")

    # -- pause and continue -------------------------------------------------------------------

    async def _at_primaries(self, event: str,
                            act: Callable[[sources.Source], Awaitable[None]]) -> None:
        primary = self._groups()[1]
        if not primary:
            raise errors.BadData(f"it has no primary source that could be {event}",
                                 "metadata sources go on until they are stopped", self.id)
        answers = await self._turns.ask(
            primary, lambda each: act(each.source))
        self._turns.heed()
        if failed := asking.failures(answers):
            raise errors.BadData(f"not every primary source {event}: {asking.texts(failed)}",
                                 "mend the source and repeat the command; the others obeyed",
                                 self.id)
        await self.journal.write((event, {}))

    # -- stop ---------------------------------------------------------------------------------

    async def stop_by_itself(self, outcome: str = "completed") -> None:
        """Stop without a client; nobody would repeat it, so we do.

        Args:
            outcome: for the manifest: ``completed``, or what an earlier command wanted.
        """
        await self._turns.until_done("automatic stop",
                               lambda: self._stop("PrimarySourcesEnded", outcome))

    async def _stop(self, event: str, outcome: str) -> bool:
        told = self._entering(states.after(self.substate, event), outcome=outcome)
        failed: Failures = []
        patience = 0.0 if outcome == "forced" else _STOP_PATIENCE * self._timeout
        for group in reversed(self._groups()):  # metadata sources last (manual 9.2.1)
            commanded = [each for each in group if each.phase in COMMANDED]
            if not commanded:
                continue
            await self.journal.write(*told)
            self._turns.heed()
            answers = await self._turns.ask(commanded, lambda each: each.source.stop(patience))
            failed += asking.failures(answers)
            told = asking.stopped(answers, self.site.dictionaries)
            self._silence_all(each for each, _ in asking.absent(answers))
        if self.substate != "Stopping":  # there is nothing to stop
            await self.journal.write(*told)
            told = []
        kept = any(each.delivery for each in self.sources) or any(e == "stopped" for e, _ in told)
        if self._turns.overtaken or (failed and not kept and outcome != "forced"):
            states.after(self.substate, "StopFailed")
            await self.journal.write(*told)
            self._turns.heed()
            raise errors.Unavailable(
                f"every source failed to stop: {asking.texts(failed)}",
                f"repeat daq.stop, or: daq-ctl daq.forcestop {self.id}", self.id)
        stopped = self._entering(states.after(self.substate, "SourcesStopped"), outcome=outcome)
        await self.journal.write(*told, *stopped, ("sealed", {"outcome": outcome}))
        passing("acquire.sealed")
        try:
            await self._hand_over(outcome)
        except OSError:  # a full disk perhaps; StopDaq has done its part and cannot be repeated
            self._watch.spawn(self._later("hand-over", self._finish))
            raise
        return bool(failed) or any(each.delivery.fault or each.delivery.keyword_fault
                                   for each in self.sources if each.delivery and not each.optional)

    async def _finish(self) -> None:
        """Hand over what was stopped before."""
        outcome = self.journal.fact("outcome") or "stopped"
        if not self.journal.sealed:
            await self.journal.write(("sealed", {"outcome": outcome}))
        await self._hand_over(outcome)

    async def _hand_over(self, outcome: str) -> None:
        """Write the manifest and move the job to ``collect/``; the inputs are sealed."""
        delivered = [{"sourceName": each.name, "files": each.delivery.files,
                      "keywords": each.delivery.keywords}
                     for each in self.sources if each.delivery]
        there = await durably(lambda: departure.write_manifest(
            self.site.spool, self.id, self.place, self.document, outcome, delivered))
        await self._mind(self.place if there else self.site.spool.place(self.id))
        states.after(self.substate, "HandedOver")
        await self._leave("collect")

    def look(self, place: str) -> None:
        """Take note of where the job lies: an operator may move it while it records."""
        if (place != self.place) != self._away and not self._leaving:
            self._watch.spawn(self._mind(place))
        if not place and not self._leaving and not self._restoring:
            self._restoring = True
            self._watch.spawn(self._restore())

    async def _mind(self, place: str) -> None:
        away = place != self.place
        if away == self._away:
            return
        self._away = away
        text = ("the job was moved out of acquire/ while it records; its outcome will be written, "
                "the job will not be moved") if place else (
            "the job file was removed while it records; it is put back, as its sources "
            f"must be ended: daq-ctl daq.stop or daq.abort {self.id}")
        try:
            await self.journal.write(("alert", alerts.make("moved-away", "", text)) if away else
                                     ("alert-cleared", {"id": "moved-away"}))
        except OSError as error:
            log.error("%s: %s", self.id, cli.from_os_error(error))

    async def _restore(self) -> None:
        """Put a removed job file back: without it no later daemon would find the sources."""
        try:
            await asyncio.sleep(_GONE_S)
            while not await self._put_back():
                await asyncio.sleep(_AGAIN_S)
        finally:
            self._restoring = False

    async def _put_back(self) -> bool:
        """Return False when it has to be tried again."""
        async with self._filing:
            if self._leaving:
                return True
            try:
                if await durably(lambda: departure.restore(
                        self.site.spool, self.id, self.place, self.document)):
                    log.warning("%s: its job file was removed while it records; put back into %s/",
                                self.id, self.place)
            except OSError as error:
                log.error("%s: %s", self.id, cli.from_os_error(error))
                return False
            return True

    # -- abort --------------------------------------------------------------------------------

    async def _abort(self, command: str) -> bool:
        substate = states.after(self.substate, command)
        told = self._entering(substate, reason=None)
        try:
            await self.journal.write(*told)
            told = []
        except OSError as error:
            if command != "ForceAbortDaq":  # a full disk must not keep the sources going for ever
                raise self._not_aborted(cli.from_os_error(error)) from error
        self._watch.cancel()
        self._turns.heed()
        answers = await self._turns.ask(self._commanded(), lambda each: each.source.abort())
        failed = asking.failures(answers)
        self._silence_all(each for each, _ in asking.absent(answers))
        if self._turns.overtaken or (failed and command == "AbortDaq"):
            states.after(self.substate, "AbortFailed")
            await self.journal.write(*asking.aborted(answers))
            self._turns.heed()
            raise errors.Unavailable(
                f"not every source aborted: {asking.texts(failed)}",
                f"repeat daq.abort, or: daq-ctl daq.forceabort {self.id}", self.id)
        states.after(substate, "Discarded")
        try:
            await self.journal.write(*told, *asking.aborted(answers), ("aborted", {}))
        except OSError as error:
            raise self._unrecorded(command, failed, cli.from_os_error(error)) from error
        passing("acquire.aborted")
        await self._leave("done")
        return bool(failed)

    def _not_aborted(self, error: errors.DaqError) -> errors.DaqError:
        return type(error)(
            f"nothing was aborted, as it cannot be recorded: {error.message}",
            f"{error.remedy or 'look at the file'}, or end the sources all the same: "
            f"daq-ctl daq.forceabort {self.id}", self.id)

    def _unrecorded(self, command: str, failed: Failures,
                    error: errors.DaqError) -> errors.DaqError:
        """Return what to say of an abort that cannot be recorded; a forced one will be."""
        remedy = f"repeat daq.abort: daq-ctl daq.abort {self.id}"
        if command == "ForceAbortDaq":
            remedy = "daq-ctl goes on trying, repeat this if it is restarted before"
            if not self._aborts_later:
                self._aborts_later = True
                self.site.later(self._later(command, lambda: self._abort(command)))
        done = (f"not every source aborted ({asking.texts(failed)})" if failed
                else "the sources were aborted")
        return type(error)(f"{done}, which cannot be recorded: {error.message}",
                           f"{error.remedy or 'look at the file'}; {remedy}", self.id)

    # -- leaving ------------------------------------------------------------------------------

    async def _later(self, kind: str, make: Operation) -> None:
        """Do what a full disk has prevented, and what nobody else would repeat."""
        await asyncio.sleep(_AGAIN_S)
        await self._turns.until_done(kind, make)

    async def _leave(self, place: str) -> None:
        """Move the job on if it is still where we found it, and give its lock back."""
        # an abort is meant wherever the job lies; under our lock nobody is at work on it
        anywhere = place == "done" and self._away
        self._leaving = True  # the move is ours, not an operator's
        try:
            async with self._filing:
                await durably(lambda: departure.move(
                    self.site.spool, self.id, self.place, self.document, place, anywhere=anywhere))
        except OSError:
            self._leaving = False
            raise
        self._let_go()
        self.site.changed(self.id)

    def progress(self) -> Progress | None:
        """Return how far its primary sources are: of several the one that ends last."""
        return self._watch.progress()

    async def release(self) -> None:
        """Give the job's lock back; the sources go on, a later daemon takes over."""
        self._leaving = True
        self._watch.cancel()
        await self._turns.cancel()
        self._let_go()

    def _let_go(self) -> None:
        self._watch.cancel()
        if self._lock >= 0:
            self.site.spool.release(self.id, self._lock)
            self._lock = -1
        self._turns.closed = True
        for each in self.sources:
            self.site.later(live.let_go(each))
        self.site.ended(self.id)

    # -- after a restart ----------------------------------------------------------------------

    async def resume(self) -> None:
        """Go on where an earlier daemon was killed; query sources, never start them again."""
        substate = self.substate
        self._silence_all(each for each in self.sources if each.phase == "absent")
        if substate in ("NotStarted", "Starting"):
            await self._turns.take("resume", self._resume_start)
        elif substate == "Acquiring":
            self._watch.start(self.stop_by_itself)
        elif substate == "Stopped":
            self._watch.spawn(self._turns.until_done("resume", self._finish))
        elif substate == "Stopping":
            self._watch.spawn(self.stop_by_itself(self.journal.fact("outcome") or "stopped"))
        elif reason := self.journal.fact("reason"):
            await self.give_up(reason)
        else:
            with contextlib.suppress(errors.DaqError):  # it stays Aborting, with an alert
                await self.abort()

    async def _resume_start(self) -> None:
        reason = "daq-ctl ended while the sources were being started"
        records = await self._turns.ask(
            [each for each in self.sources if each.phase == "starting"], live.records)
        begun = [each for each, answer in records if answer is True]
        late = [each for each, answer in records if answer is not True]
        told = [*asking.told_of("started", begun), *asking.troubles(
            [(each, errors.Unavailable(reason)) for each in late if each.optional])]
        missing = [each for each in self.sources if each.phase != "started" and each not in begun
                   and not (each.optional and each.phase)]
        if self.sources and not missing:
            substate = states.after(self.substate, "SourcesStarted")
            await self.journal.write(*told, *self._entering(substate))
            self._watch.start(self.stop_by_itself)
            self._silence_all(late)
            return
        await self._fail(reason, told, late)

    async def answers(self) -> bool:
        """Tell whether any source still records for us; such an acquisition is never stale."""
        found = await asyncio.gather(*(live.records(each) for each in self.sources))
        return any(found)

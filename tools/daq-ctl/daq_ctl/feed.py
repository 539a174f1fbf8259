"""Follow the spool: publish every change of a job's status and answer those who wait for one.

Whoever changes a job (a stage tool, an operator's ``mv``), clients see one life of a DAQ. A hint
of inotify makes it prompt, a scan makes it true.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from daqlib import cli, errors, status
from daqlib.follow import Follower
from daqlib.spool import STAGES, Spool

log = logging.getLogger("daq.ocm.manager")
waiting_log = logging.getLogger("daq.ocm.manager.awaitstate")

Status = status.Status
#: Where a job is not yet at its end.
ACTIVE = (*STAGES, "failed", "hold")
_AT_A_TIME = 20  # jobs looked at, or waiters woken, between two looks at everything else


@dataclass(eq=False)
class _Waiter:
    wanted: tuple[str, str]
    woken: asyncio.Future[None]
    #: Known at once, told in turn; None: the job is gone.
    answer: tuple[Status, bool] | None = None


class Feed:
    """The followed spool; start it within the running loop."""

    def __init__(self, spool: Spool, publish: Callable[[Status], None],
                 seen: Callable[[str, str], None], interval: float) -> None:
        """Prepare to follow.

        Args:
            spool: the spool.
            publish: called with every new status.
            seen: called with the id of a job and the place that it was seen in.
            interval: seconds between scans.
        """
        self._spool = spool
        self._publish = publish
        self._seen = seen
        self._interval = interval
        #: Done once, before the first scan; set before :meth:`start`.
        self.before_scanning: Callable[[], Awaitable[None]] | None = None
        self._known: dict[str, Status] = {}
        self._signs: dict[str, tuple[int, ...]] = {}
        self._scanned = False
        self._waiters: dict[str, set[_Waiter]] = defaultdict(set)
        self._answered: deque[_Waiter] = deque()
        self._moving: set[str] = set()
        self._unreadable: dict[str, str] = {}
        self._wanted = asyncio.Event()  # a scan, before it is due
        self._follower: Follower | None = None
        self._scanner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow: watch first, then scan, so that nothing falls between."""
        self._follower = Follower(self._spool, (*ACTIVE, "done"), logs=True)
        descriptor = self._follower.fileno()
        if descriptor >= 0:
            asyncio.get_running_loop().add_reader(descriptor, self._hinted)
        for entry in self._spool.scan("acquire"):
            self.refresh(entry.id)  # before any request is served
        self._scanner = asyncio.create_task(self._scan_for_ever())

    def close(self) -> None:
        """Stop following."""
        if self._scanner:
            self._scanner.cancel()
        if self._follower:
            if self._follower.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(self._follower.fileno())
            self._follower.close()

    def _hinted(self) -> None:
        assert self._follower
        changed = self._follower.changed(0)
        if changed is None:
            self._wanted.set()
            return
        for job in changed:
            self.refresh(job)

    async def _scan_for_ever(self) -> None:
        try:
            if self.before_scanning:
                await self.before_scanning()
        except OSError as error:
            log.error("%s", cli.from_os_error(error))
        except Exception:  # what it was to do waits for the next start; to follow does not
            log.exception("internal error; report this")
        while True:
            self._wanted.clear()
            await self._scan()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._interval)

    async def _scan(self) -> None:
        """Look at every active job and at those that were active before."""
        try:
            entries = self._spool.scan(*ACTIVE)
        except OSError as error:
            log.warning("cannot scan the spool: %s", cli.from_os_error(error))
            return
        jobs = sorted({entry.id for entry in entries} | set(self._known))
        for number, job in enumerate(jobs):
            self.refresh(job)
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)  # thousands of jobs must not keep a source waiting
        self._scanned = True

    def refresh(self, job: str) -> None:
        """Derive a job's status, publish what is new in it and wake those who wait for it."""
        # whatever is odd about one job must not make us deaf for all others
        try:
            self._refresh(job)
        except (OSError, ValueError, errors.DaqError) as error:
            self._complain(job, str(error))
        except Exception as error:
            self._complain(job, f"internal error: {type(error).__name__}: {error}; report this",
                           error)
        else:
            self._unreadable.pop(job, None)

    def _complain(self, job: str, text: str, unexpected: Exception | None = None) -> None:
        if self._unreadable.get(job) != text:
            log.warning("%s: %s", job, text, exc_info=unexpected)
        self._unreadable[job] = text

    def _refresh(self, job: str) -> None:
        place = self._spool.place(job)
        if place and not _is_regular(self._spool.job_path(place, job)):
            return
        self._seen(job, place)
        before = self._known.get(job)
        sign = self._sign(job, place)
        if before is not None and sign and sign == self._signs.get(job):
            return
        if before is None and place not in ACTIVE and job not in self._waiters:
            return  # it came to rest before we began to look
        self._take_note(job, moving=place in STAGES)
        if not place:
            self._vanished(job)
            return
        now = status.of(self._spool, job, place, self._spool.events(job))
        self._remember(job, place, now, sign)
        if before is None or {**now, "timestamp": 0} != {**before, "timestamp": 0}:
            for step in _steps(before, now):
                self._publish(step)
                self._wake(job, step)

    def _take_note(self, job: str, *, moving: bool) -> None:
        if moving:
            self._moving.add(job)
            self._spool.follow_history(job)
        else:
            self._moving.discard(job)
            self._spool.leave_history(job)

    def _sign(self, job: str, place: str) -> tuple[int, ...]:
        """Return what changes with the status; empty when only a closer look can tell."""
        if place != "acquire":
            return ()
        try:  # there the log tells everything, and it only grows
            told = os.stat(self._spool.log_path(job))
        except FileNotFoundError:
            return ()
        return told.st_ino, told.st_size, told.st_mtime_ns

    def _remember(self, job: str, place: str, now: Status, sign: tuple[int, ...]) -> None:
        if place in ACTIVE:
            self._known[job], self._signs[job] = now, sign
        else:
            self._forget(job)

    def _forget(self, job: str) -> None:
        self._known.pop(job, None)
        self._signs.pop(job, None)

    def _vanished(self, job: str) -> None:
        """Tell those who wait for a job that was removed, or put into ``bad/``, that it is gone."""
        self._forget(job)
        self._tell(self._waiters.pop(job, set()))

    def _wake(self, job: str, step: Status) -> None:
        """Answer those who wait for this very step, or for what can no longer come."""
        waiting = self._waiters.get(job, set())
        for wanted in {waiter.wanted for waiter in waiting}:
            answer = status.await_answer(step, {step["substate"]}, *wanted)
            if answer is not None:
                told = {waiter for waiter in waiting if waiter.wanted == wanted}
                for waiter in told:
                    waiter.answer = step, answer
                waiting -= told
                self._tell(told)

    def _tell(self, answered: set[_Waiter]) -> None:
        idle = not self._answered
        self._answered.extend(answered)
        if idle and answered:
            self._tell_some()

    def _tell_some(self) -> None:
        """Let some go; thousands at once would keep everybody else waiting."""
        for _ in range(min(_AT_A_TIME, len(self._answered))):
            waiter = self._answered.popleft()
            if not waiter.woken.done():
                waiter.woken.set_result(None)
        if self._answered:
            asyncio.get_running_loop().call_soon(self._tell_some)

    def is_active(self) -> bool:
        """Tell whether any job is on its way (those that need a person are not)."""
        return bool(self._moving)

    async def active(self) -> list[Status]:
        """Return the status of every job that is not in StateCompleted, by id."""
        if not self._scanned:
            await self._scan()
        elif self._follower:
            self._hinted()  # what has happened until now
        return [self._known[job] for job in sorted(self._known)
                if self._known[job]["state"] != "StateCompleted"]

    async def wait(self, job: str, state: str, substate: str, seconds: float,
                   ) -> tuple[Status, bool | None]:
        """Wait until a job reaches a state or can no longer reach it.

        Returns:
            The status, and whether the state was reached: None when the time ran out.

        Raises:
            errors.NoJob: the spool does not know the job, or it is gone.
        """
        now, answer = self._answer(job, state, substate)
        if answer is not None:
            return now, answer
        waiter = _Waiter((state, substate), asyncio.get_running_loop().create_future())
        self._waiters[job].add(waiter)
        waiting_log.debug("%s: %d wait, one more for %s %s", job, len(self._waiters[job]), state,
                          substate)
        try:
            async with asyncio.timeout(seconds):
                await waiter.woken
        except TimeoutError:
            return waiter.answer or (self._answer(job, state, substate)[0], None)
        finally:
            self._waiters[job].discard(waiter)
            if not self._waiters[job]:
                del self._waiters[job]
        if waiter.answer is None:
            raise _gone(job)
        return waiter.answer

    def _answer(self, job: str, state: str, substate: str) -> tuple[Status, bool | None]:
        place, events = self._spool.place(job), self._spool.events(job)
        if not place and not events:
            raise errors.NoJob(f"no DAQ has the id {job!r}", "see daq.getactivelist", job)
        place = place or self._spool.place(job)  # moved between the two looks
        if not place:
            raise _gone(job)
        now = status.of(self._spool, job, place, events)
        been = status.reached(self._spool, job, place, events, now["substate"])
        return now, status.await_answer(now, been, state, substate)


def _gone(job: str) -> errors.NoJob:
    return errors.NoJob("the job is in no stage any more", "it was removed, or see bad/", job)


def _is_regular(path: str) -> bool:
    """Tell whether a job lies there; a link, a directory or a device is none."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True  # just moved: what follows finds out


def _steps(before: Status | None, now: Status) -> list[dict[str, Any]]:
    """Return what to publish: the substates passed since the last look, then the new status.

    Stages can be quicker than our looks; the order of substates tells what happened between.
    """
    order = status.ORDER
    if before is None or not {before["substate"], now["substate"]} <= set(order):
        return [now]
    passed = order[order.index(before["substate"]) + 1: order.index(now["substate"])]
    return [*({**now, "substate": name, "state": status.state_of(name),
               "result": now["result"] if name == "Releasing" else ""} for name in passed), now]

"""Follow a spool: publish every change of a job's status and answer those who wait for one.

Whoever changes a job (a stage tool, an operator's ``mv``), clients see one life of a DAQ. A hint
of inotify makes it prompt, a scan makes it true. For the daemons, within a running asyncio loop.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
import math
import os
import stat
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from daqlib import cli, clock, errors, history, status
from daqlib.follow import Follower
from daqlib.spool import STAGES, Spool

waiting_log = logging.getLogger("daq.ocm.manager.awaitstate")

Status = status.Status
#: Where a job is not yet at its end.
ACTIVE = (*STAGES, "failed", "hold", "remote")
#: Where it moves without a person.
_MOVING = (*STAGES, "remote")
_AT_A_TIME = 20  # jobs looked at, or waiters woken, between two looks at everything else
#: Jobs that a scan looks at although nothing hints at them; of more it takes so many in turn.
_IN_TURN = 200
_RESTED = 10_000  # ended jobs that are remembered as told of
#: Stage -> the substate that its events tell of.
_TOLD_BY = {"collect": "Collecting", "merge": "Merging", "release": "Releasing"}


@dataclass(eq=False)
class _Waiter:
    wanted: tuple[str, str]
    woken: asyncio.Future[None]
    #: Known at once, told in turn; None: the job is gone.
    answer: tuple[Status, bool] | None = None


class Feed:
    """The followed spool; start it within the running loop."""

    def __init__(self, spool: Spool, publish: Callable[[Status], None],
                 seen: Callable[[str, str], None], interval: float, *,
                 places: Sequence[str] = ACTIVE, log: str = "daq.ocm.manager") -> None:
        """Prepare to follow.

        Args:
            spool: the spool.
            publish: called with every new status.
            seen: called with the id of a job and the place that it was seen in.
            interval: seconds between scans.
            places: of :data:`ACTIVE` those whose jobs are followed until they have ended.
            log: name of the logger.
        """
        self._spool = spool
        self._publish = publish
        self._seen = seen
        #: Seconds between scans; may be changed at any time.
        self.interval = interval
        self._places = tuple(places)
        self._log = logging.getLogger(log)
        #: Done once, before the first scan; set before :meth:`start`.
        self.before_scanning: Callable[[], Awaitable[None]] | None = None
        #: Called with id, place and status of a job in which anything changed, if only a due time.
        self.looked: Callable[[str, str, Status], None] | None = None
        self._known: dict[str, Status] = {}
        self._signs: dict[str, tuple[object, ...]] = {}
        self._rested: dict[str, None] = {}
        self._since = 0.0
        self._scanned = False
        self._whole = True  # the next scan looks at every job
        self._watched: bool | None = None
        self._turn = ""  # the last id that a scan looked at in turn
        self._waiters: dict[str, set[_Waiter]] = defaultdict(set)
        self._answered: deque[_Waiter] = deque()
        self._moving: set[str] = set()
        self._unreadable: dict[str, str] = {}
        self._wanted = asyncio.Event()  # a scan, before it is due
        self._follower: Follower | None = None
        self._scanner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow: watch first, then scan, so that nothing falls between."""
        self._since = math.floor(clock.now() * 1000) / 1000  # events tell milliseconds
        self._follower = Follower(self._spool, (*self._places, "done"), logs=True)
        descriptor = self._follower.fileno()
        if descriptor >= 0:
            asyncio.get_running_loop().add_reader(descriptor, self._hinted)
        if "acquire" in self._places:
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
        if not self._heed(self._follower.changed(0)):
            self._wanted.set()

    def _heed(self, changed: set[str] | None) -> bool:
        """Look at the jobs that changed; False when it is not known which ones."""
        if changed is None:
            self._whole = True
            return False
        for job in changed:
            self.refresh(job, hinted=True)
        return True

    async def _scan_for_ever(self) -> None:
        try:
            if self.before_scanning:
                await self.before_scanning()
        except OSError as error:
            self._log.error("%s", cli.from_os_error(error))
        except Exception:  # what it was to do waits for the next start; to follow does not
            self._log.exception("internal error; report this")
        while True:
            self._wanted.clear()
            await self._scan()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self.interval)

    async def _scan(self) -> None:
        """Look at every job that lies where it did not, and at the others, if many, in turn."""
        if self._follower is None or not self._heed(self._follower.changed(0)):
            self._whole = True
        try:
            self._look_for_watcher()
            found = self._listed()
        except OSError as error:
            self._log.warning("cannot scan the spool: %s", cli.from_os_error(error))
            return
        for number, job in enumerate(self._chosen(found)):
            self.refresh(job)
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)  # thousands of jobs must not keep a source waiting
        self._scanned = True

    def _look_for_watcher(self) -> None:
        watched = self._spool.watched()
        if watched != self._watched:
            self._watched, self._whole = watched, True

    def _listed(self) -> dict[str, str]:
        """Return the names in the followed places, without ``.json``, each with its place."""
        found: dict[str, str] = {}
        for place in self._places:
            with contextlib.suppress(FileNotFoundError):
                found.update((name[:-5], place) for name in os.listdir(self._spool.path(place))
                             if name.endswith(".json") and name[0] != ".")
        return found

    def _chosen(self, found: dict[str, str]) -> list[str]:
        jobs = sorted({*found, *self._known})
        whole, self._whole = self._whole or len(jobs) <= _IN_TURN, False
        if whole:
            return jobs
        begin = bisect.bisect_right(jobs, self._turn)
        in_turn = (jobs[begin:] + jobs[:begin])[:_IN_TURN]
        self._turn = in_turn[-1]
        signs = self._signs
        moved = [job for job in jobs if job not in signs or signs[job][:1] != (found.get(job),)]
        return sorted({*in_turn, *moved})

    def refresh(self, job: str, *, hinted: bool = False) -> None:
        """Derive a job's status, publish what is new in it and wake those who wait for it.

        Args:
            job: its id.
            hinted: whether something has just happened to it: then what it passed since we began
                to look is told, too, even if it has ended already.
        """
        # whatever is odd about one job must not make us deaf for all others
        try:
            self._refresh(job, hinted)
        except (OSError, ValueError, errors.DaqError) as error:
            self._complain(job, str(error))
        except Exception as error:
            self._complain(job, f"internal error: {type(error).__name__}: {error}; report this",
                           error)
        else:
            self._unreadable.pop(job, None)

    def _complain(self, job: str, text: str, unexpected: Exception | None = None) -> None:
        if self._unreadable.get(job) != text:
            self._log.warning("%s: %s", job, text, exc_info=unexpected)
        self._unreadable[job] = text

    def _refresh(self, job: str, hinted: bool) -> None:
        place = self._spool.place(job)
        file = self._job_file(job, place)
        if file is not None and not stat.S_ISREG(file.st_mode):
            return  # a link, a directory or a device is no job
        self._seen(job, place)
        before = self._known.get(job)
        sign = self._sign(job, place, file)
        if before is not None and sign and sign == self._signs.get(job):
            return
        is_new = before is None and job not in self._waiters
        if is_new and not self._concerns(job, place, hinted):
            return
        self._take_note(job, moving=place in _MOVING and place in self._places)
        if not place:
            self._vanished(job)
            return
        events = self._spool.events(job)
        now = status.of(self._spool, job, place, events, watched=self._watched)
        is_unknown = is_new and hinted and job not in self._rested
        passed = self._passed(events, now["substate"]) if is_unknown else []
        if is_new and place not in self._places and not passed:
            return  # it came to rest before we began to look
        self._remember(job, place, now, sign)
        if before is None or {**now, "timestamp": 0} != {**before, "timestamp": 0}:
            for step in [*(_step(now, name) for name in passed), *_steps(before, now)]:
                self._publish(step)
                self._wake(job, step)
        if self.looked:
            self.looked(job, place, now)

    def _job_file(self, job: str, place: str) -> os.stat_result | None:
        try:
            return os.lstat(self._spool.job_path(place, job)) if place else None
        except FileNotFoundError:
            return None  # just moved: what follows finds out

    def _concerns(self, job: str, place: str, hinted: bool) -> bool:
        return place in self._places or (
            hinted and place == "done" and job not in self._rested)

    def _passed(self, events: list[history.Event], present: str) -> list[str]:
        """Return the substates before the present one that it passed since we began to look."""
        found: list[str] = []
        for event in events:
            name = self._substate_told(event)
            if name and found[-1:] != [name] and history.seconds(event) >= self._since:
                found.append(name)
        if "acquire" not in self._places:
            found = [name for name in found if status.STATE_OF.get(name) == "StateMerging"]
        return found[:-1] if found[-1:] == [present] else found

    def _substate_told(self, event: history.Event) -> str:
        name, stage = event["event"], event.get("stage")
        if name == "state":
            return str(event["substate"])
        if name == "start" and event.get("role") == history.HAND_OVER:
            return ""  # another host will collect it
        if name == "start" or (name in ("ok", "fail") and stage != "collect"):
            return _TOLD_BY.get(str(stage), "")
        if "collect" in (event.get("to") if name == "ok" else None,
                         stage if name in ("submitted", "accepted") else None):
            here = self._watched and not self._spool.hand_over
            return "Scheduled" if here else "NotScheduled"
        return ""

    def _take_note(self, job: str, *, moving: bool) -> None:
        if moving:
            self._moving.add(job)
            self._spool.follow_history(job)
        else:
            self._moving.discard(job)
            self._spool.leave_history(job)

    def _sign(self, job: str, place: str, file: os.stat_result | None) -> tuple[object, ...]:
        """Return what changes with the status; empty when only a closer look can tell."""
        if file is None or place not in self._places:
            return ()
        log = _identity(self._spool.log_path(job))
        if place == "acquire":  # there the log tells everything, and it only grows
            return place, log
        busy = place == "collect" and self._spool.is_busy(job)
        return (place, log, file.st_ino, file.st_mtime_ns, self._watched, busy,
                _identity(self._spool.lock_path(job)))

    def _remember(self, job: str, place: str, now: Status, sign: tuple[object, ...]) -> None:
        if place in self._places:
            self._known[job], self._signs[job] = now, sign
            self._rested.pop(job, None)
            return
        self._forget(job)
        self._rested[job] = None
        if len(self._rested) > _RESTED:
            del self._rested[next(iter(self._rested))]

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
        """Return the status of every job that is not in StateCompleted, by id.

        Raises:
            errors.IoFailure: the spool itself is gone.
        """
        self._spool.check_there()  # to an empty list one would start anew what runs
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


def _identity(path: str) -> tuple[int, ...]:
    """Return what changes with a file's content; empty when there is no such file."""
    try:
        told = os.stat(path)
    except FileNotFoundError:
        return ()
    return told.st_ino, told.st_size, told.st_mtime_ns


def _steps(before: Status | None, now: Status) -> list[dict[str, Any]]:
    """Return what to publish: the substates passed since the last look, then the new status.

    Stages can be quicker than our looks; the order of substates tells what happened between.
    """
    order = status.ORDER
    if before is None or not {before["substate"], now["substate"]} <= set(order):
        return [now]
    passed = order[order.index(before["substate"]) + 1: order.index(now["substate"])]
    return [*(_step(now, name) for name in passed), now]


def _step(now: Status, name: str) -> Status:
    return {**now, "substate": name, "state": status.state_of(name),
            "result": now["result"] if name == "Releasing" else ""}

"""Follow the spool: publish every change of a job's status and answer those who wait for one.

Whoever changes a job (a stage tool, an operator's ``mv``), clients see one life of a DAQ. A hint
of inotify makes it prompt, a scan makes it true.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daqlib import cli, errors, status
from daqlib.follow import Follower
from daqlib.spool import STAGES, Spool

Status = status.Status
#: Where a job is not yet at its end.
ACTIVE = (*STAGES, "failed", "hold")
_AT_A_TIME = 20  # jobs looked at between two looks at everything else


@dataclass(frozen=True, eq=False)
class _Waiter:
    state: str
    substate: str
    answered: asyncio.Future[tuple[Status, bool]]


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
        self._known: dict[str, Status] = {}
        self._waiters: dict[str, list[_Waiter]] = defaultdict(list)
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
            cli.warn(f"cannot scan the spool: {cli.from_os_error(error)}")
            return
        jobs = sorted({entry.id for entry in entries} | set(self._known))
        for number, job in enumerate(jobs):
            self.refresh(job)
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)  # thousands of jobs must not keep a source waiting

    def refresh(self, job: str) -> None:
        """Derive a job's status, publish what is new in it and wake those who wait for it."""
        try:
            self._refresh(job)
        except (OSError, ValueError, errors.DaqError) as error:
            # one odd or unreadable file must not make us deaf for all others
            if self._unreadable.get(job) != str(error):
                cli.warn(f"{job}: {error}")
            self._unreadable[job] = str(error)
        else:
            self._unreadable.pop(job, None)

    def _refresh(self, job: str) -> None:
        place = self._spool.place(job)
        if place and not _is_regular(self._spool.job_path(place, job)):
            return
        self._seen(job, place)
        before = self._known.get(job)
        if before is None and place not in ACTIVE and job not in self._waiters:
            return  # it came to rest before we began to look
        (self._moving.add if place in STAGES else self._moving.discard)(job)
        now = status.of(self._spool, job, place, self._spool.events(job))
        if place in ACTIVE:
            self._known[job] = now
        else:
            self._known.pop(job, None)
        if before is None or {**now, "timestamp": 0} != {**before, "timestamp": 0}:
            for step in _steps(before, now):
                self._publish(step)
                self._wake(job, step)

    def _wake(self, job: str, step: Status) -> None:
        """Answer those who wait for this very step, or for what can no longer come."""
        for waiter in self._waiters.get(job, ()):
            answer = status.await_answer(step, {step["substate"]}, waiter.state, waiter.substate)
            if answer is not None and not waiter.answered.done():
                waiter.answered.set_result((step, answer))

    def is_active(self) -> bool:
        """Tell whether any job is on its way (those that need a person are not)."""
        return bool(self._moving)

    def active(self) -> list[Status]:
        """Return the status of every job that is not in StateCompleted."""
        found = []
        for entry in self._spool.scan(*ACTIVE):
            now = status.derive(self._spool, entry.id)
            if now and now["state"] != "StateCompleted":
                found.append(now)
        return found

    async def wait(self, job: str, state: str, substate: str, seconds: float,
                   ) -> tuple[Status, bool | None]:
        """Wait until a job reaches a state or can no longer reach it.

        Returns:
            The status, and whether the state was reached: None when the time ran out.

        Raises:
            errors.NoJob: the spool does not know the job.
        """
        now, answer = self._answer(job, state, substate)
        if answer is not None:
            return now, answer
        waiter = _Waiter(state, substate, asyncio.get_running_loop().create_future())
        self._waiters[job].append(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter.answered
        except TimeoutError:
            return self._answer(job, state, substate)[0], None
        finally:
            self._waiters[job].remove(waiter)
            if not self._waiters[job]:
                del self._waiters[job]

    def _answer(self, job: str, state: str, substate: str) -> tuple[Status, bool | None]:
        now = status.derive(self._spool, job)
        if now is None:
            raise errors.NoJob(f"no DAQ has the id {job!r}", "see daq.getactivelist", job)
        been = status.reached(self._spool, job, self._spool.place(job), self._spool.events(job),
                              now["substate"])
        return now, status.await_answer(now, been, state, substate)


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

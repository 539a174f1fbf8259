"""One operation on an acquisition at a time; a stronger command interrupts a weaker operation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from daq_ctl import asking, states
from daq_ctl.asking import Answers
from daq_ctl.journal import Journal, log
from daq_ctl.live import Live
from daqlib import cli, errors

T = TypeVar("T")
Operation = Callable[[], Coroutine[Any, Any, Any]]

_RETRY_S = 5.0  # pause after an operation that failed and that nobody else would repeat


class Left(errors.BadData):
    """The acquisition is not in our hands any more; ask the spool."""


class Overtaken(errors.BadData):
    """A stronger command took the place of this one."""


class Turns:
    """Who may act on an acquisition now.

    Attributes:
        kind: of the operation under way, or of the last one.
        overtaken: whether a stronger command waits for it to come to a point.
        closed: whether the acquisition has left our hands.
    """

    def __init__(self, job: str, journal: Journal) -> None:
        """Begin with nothing under way.

        Args:
            job: the id.
            journal: tells the substate that decides which command is accepted.
        """
        self._job, self._journal = job, journal
        self._task: asyncio.Task[Any] | None = None
        self._asking: set[asyncio.Task[Any]] = set()
        self._preparing: set[asyncio.Task[Any]] = set()
        self._stronger = ""
        self.kind = ""
        self.overtaken = self.closed = False

    async def take(self, kind: str, make: Operation) -> Any:
        """Run an operation when it is its turn, and return its result.

        Args:
            kind: a command, or a name for what the daemon does of its own.
            make: the operation.

        Raises:
            Left: it came too late.
            errors.DaqError: the command is not accepted, or what the operation raises.
        """
        await self._journal.settled()  # who acts on a substate that was published has it here, too
        while self._task and not self._task.done():
            if kind == self.kind or (kind, self.kind) == ("StopDaq", "automatic stop"):
                return await self._end_of(self._task)
            self._check(kind)
            self._overtake(kind)
            await asyncio.wait([self._task])
        if self.closed:
            raise Left(f"{kind} comes too late", "see daq-status", self._job)
        self._check(kind)
        self.kind, self.overtaken = kind, False
        self._task = asyncio.create_task(_guarded(make))
        return await self._end_of(self._task)

    async def until_done(self, kind: str, make: Operation) -> None:
        """Repeat an operation that nobody else would repeat, until it succeeds or is not ours."""
        while True:
            try:
                await self.take(kind, make)
                return
            except Left:
                return
            except Overtaken:  # by what may fail before it has done anything: then it is our turn
                await asyncio.sleep(_RETRY_S)
                if self._journal.substate == "Aborting":
                    return
            except errors.DaqError as error:
                log.warning("%s: %s", self._job, error)
                await asyncio.sleep(_RETRY_S)

    async def _end_of(self, task: asyncio.Task[Any]) -> Any:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Left("daq-ctl ended before it was done", "start it again",
                           self._job) from None
            raise

    def _check(self, kind: str) -> None:
        if kind in states.COMMANDS:
            states.check_daq(self._job, self._journal.substate, kind)

    def _overtake(self, kind: str) -> None:
        """Interrupt the operation under way if this one is stronger; else it is waited for."""
        if states.STRENGTH.get(kind, 0) <= states.STRENGTH.get(self.kind, 0):
            return
        self.overtaken, self._stronger = True, kind
        # requests to start are out: a source that begins after we looked away would record for
        # ever, so their replies are waited for, and nothing more is started
        for request in self._preparing if self.kind == "start" else self._asking:
            request.cancel()

    def heed(self) -> None:
        """Give way to a stronger command; what has happened so far is on record.

        Raises:
            Overtaken: there is one.
        """
        if self.overtaken:
            raise Overtaken(f"{self.kind} was overtaken by {self._stronger}",
                            f"see what became of it: daq-ctl daq.getstatus {self._job}", self._job)

    async def ask(self, group: list[Live], act: Callable[[Live], Awaitable[T]]) -> Answers[T]:
        """Ask sources concurrently (:func:`daq_ctl.asking.ask`), until something stronger comes."""
        return await asking.ask(group, act, self._asking)

    async def prepare(self, group: list[Live]) -> Answers[None]:
        """Have sources set up what a start needs; nothing records yet, so nobody waits for them."""
        return await asking.ask(group, lambda each: each.source.prepare(), self._preparing)

    async def cancel(self) -> None:
        """End the operation under way; what it has begun to record is on record."""
        if self._task and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


async def _guarded(make: Operation) -> Any:
    try:
        return await make()
    except OSError as error:  # the log or the spool: what it announces has not happened
        raise cli.from_os_error(error) from error

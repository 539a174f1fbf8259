"""The cells of the matrix: an acquisition of four sources, a fault, a command, what a user sees."""
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import zmq.asyncio

from daqlib import errors, rpc
from harness import STAGES
from live import Live
from matrix.peers import FAULTS, INTERVAL, OWN_SOCKET, Host, Source
from rpc_peers import context

PRIMARY, METADATA, EVERY = "primary", "metadata", "every"
BY_ITSELF = "by itself"
#: What is asked after a StopDaq or an AbortDaq that failed; "mended" is without the fault.
AFTER_STOP = ("UpdateKeywords", "StopDaq", "StopDaq, mended", "ForceStopDaq", "AbortDaq",
              "ForceAbortDaq")
AFTER_ABORT = ("UpdateKeywords", "StopDaq", "ForceStopDaq", "AbortDaq", "AbortDaq, mended",
               "ForceAbortDaq")
MEANWHILE = ("UpdateKeywords", "StopDaq", "ForceStopDaq", "AbortDaq", "ForceAbortDaq")
WHILE_RECORDING = ("UpdateKeywords", BY_ITSELF, "StopDaq", "ForceStopDaq", "AbortDaq",
                   "ForceAbortDaq")
STARTS = ("StartDaq", "then AbortDaq", "StartDaqV2", "then ForceAbortDaq")

#: Faults with which a source keeps the one who starts it waiting for longer than the time limit.
SLOW_TO_START = ("hangs", "replies late", "acts late")
#: Faults of a query that leave a source in good standing.
UNNOTICED = ("none", "delays")
#: A wait is a query: doing it late and replying late are the same.
FAULTS_OF_WAIT = tuple(fault for fault in FAULTS if fault != "acts late")

_SOURCES = (("dcs1", True), ("dcs2", True), ("fcf1", False), ("fcf2", False))
#: The sources that have the fault.
FAULTY = {PRIMARY: ("dcs1",), METADATA: ("fcf1",), EVERY: tuple(n for n, _ in _SOURCES)}
_AT_A_TIME = 6  # commands begun together: enough to mix them, few enough to be answered in time
_LIVING = 100  # acquisitions that are alive together
_HEAD_START = 0.4  # seconds after which a command that hangs no longer counts among those
_PATIENCE = 20.0  # seconds for something to happen
_ON_ITS_WAY = ("Stopping", "Stopped")
_STUCK = 4.0  # seconds in which nothing happens that will not happen at all
#: What the alert of a query says in the end, when it says something else at first.
_FINALLY = {"returns": "does not know", "dies": "nobody answers", "hangs": "Status within"}
_KEYWORDS = [{"type": "valueKeyword", "name": "OBJECT", "value": "trouble"}]


@dataclass(frozen=True)
class Cell:
    """A place in the matrix.

    Attributes:
        moment: ``start``, ``starting``, ``wait``, ``stop``, ``stopping``, ``abort``, ``aborting``.
        fault: one of :data:`matrix.peers.FAULTS`.
        role: which source has it.
        column: the command, and what came before it.
    """

    moment: str
    fault: str
    role: str
    column: str

    def __str__(self) -> str:
        return f"{self.moment}-{self.fault}-{self.role}-{self.column}".replace(" ", "_")


@dataclass(frozen=True)
class Reply:
    """What a client gets.

    Attributes:
        word: ``ok``, ``error`` (a reply with the error flag), ``fails`` (an exception), or
            ``none`` when there was no command.
        code: exit code of the client.
        exception: the interface's exception.
        message: of the exception.
    """

    word: str = "none"
    code: int = 0
    exception: str = ""
    message: str = ""


@dataclass(frozen=True)
class Seen:
    """What a user sees in a cell.

    Attributes:
        reply: to the command.
        substate: afterwards.
        error: the error flag afterwards.
        place: the directory that the job lies in.
        others: what became of the sources without a fault.
        faulty: what became of the ones with it.
        data: how many sources brought data, and of how many; empty without a manifest.
        alerts: conditions and what they are about.
        texts: of the alerts, in the same order.
        begun: the most often that any source was started.
        left: names of the sources that record.
        keywords: how many updates of keywords are in the log.
    """

    reply: Reply
    substate: str
    error: bool
    place: str
    others: str
    faulty: str
    data: str
    alerts: tuple[str, ...]
    texts: tuple[str, ...]
    begun: int
    left: tuple[str, ...]
    keywords: int


@dataclass
class Daq:
    """An acquisition and its sources."""

    live: Live
    id: str
    fault: str
    role: str
    sources: dict[str, Source]
    interval: float
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.names = FAULTY[self.role]

    @property
    def faulty(self) -> list[Source]:
        return [self.sources[name] for name in self.names]

    async def ask(self, command: str, **params: Any) -> Reply:
        """Send a command as a client does."""
        try:
            reply = await rpc.acall(f"{self.live.requests}/daq", command, params, 60.0)
        except errors.DaqError as error:
            kind = getattr(error, "exception", "") or type(error).__name__
            return Reply("fails", error.code, kind, error.message)
        assert reply["id"] == self.id, reply
        return Reply("error" if reply["error"] else "ok")

    async def start(self, version: str = "StartDaqV2") -> Reply:
        if version == "StartDaqV2":
            document = {"id": self.id, "awaitCompletionInterval": self.interval, "sources": [
                source.described(name) for name, source in self.sources.items()]}
            return await self.ask(version, specification=json.dumps(document))
        words = {flag: " ".join(f"{name}@{source.uri}" for name, source in self.sources.items()
                                if source.primary is flag) for flag in (True, False)}
        return await self.ask(version, id=self.id, prim_sources=words[True],
                              meta_sources=words[False],
                              properties=json.dumps({"awaitInterval": self.interval}))

    async def command(self, name: str) -> Reply:
        """Send one of the commands that take an acquisition that exists."""
        if name == "UpdateKeywords":
            return await self.ask(name, id=self.id, keywords=json.dumps(_KEYWORDS))
        await self.out_of_its_way()
        return await self.ask(name, id=self.id)

    async def status(self) -> dict[str, Any]:
        made: dict[str, Any] = await rpc.acall(f"{self.live.requests}/daq", "GetStatus",
                                               {"id": self.id}, 60.0)
        return made

    async def until(self, condition: Callable[[dict[str, Any]], bool],
                    patience: float = _PATIENCE) -> bool:
        """Wait for something that need not happen; tell whether it did."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not condition(await self.status()):
            if loop.time() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True

    async def in_trouble(self) -> None:
        """Wait until the fault of a query has shown, and has come to its final form."""
        if self.fault in UNNOTICED:
            return
        word = _FINALLY.get(self.fault, "source-failed")
        await self.until(lambda status: word in status["message"])

    async def out_of_its_way(self) -> None:
        """Let what a source does wrong while it is waited for not fall together with a command.

        Bytes that belong to no request spoil all that are under way, and an alert of the watch
        that comes while the daemon hands over stays. So wait until the next round has begun.
        """
        source = self.faulty[0]
        before = len(source.asked)
        if source.at == "RecWait" and source.fault in ("babbles", "replies late"):
            while "RecWait" not in source.asked[before:]:
                await asyncio.sleep(0.02)

    async def all_asked(self) -> None:
        """Wait until the sources that are started together with the faulty one are recording."""
        group = [s for s in self.sources.values() if s.primary is self.faulty[0].primary]
        while not all(s.begun or s.struck.is_set() for s in group):
            await asyncio.sleep(0.02)

    async def see(self, reply: Reply, *, at_once: bool = False) -> Seen:
        """Look at everything that a user can look at, when it has come to rest or at once."""
        status = await (self.status() if at_once else self.settled(reply))
        alerts = sorted((a["id"], a["description"]) for a in json.loads(status["message"]))
        others = [source for name, source in self.sources.items() if name not in self.names]
        return Seen(
            reply=reply, substate=status["substate"], error=status["error"], place=self.place(),
            others=_fates(others), faulty=_fates(self.faulty), data=self.data(),
            alerts=tuple(name for name, _ in alerts), texts=tuple(text for _, text in alerts),
            begun=max(source.begun for source in self.sources.values()),
            left=tuple(name for name, source in self.sources.items() if source.records),
            keywords=self.live.daq.events(self.id).count("keywords"))

    async def settled(self, reply: Reply) -> dict[str, Any]:
        """Wait until all is done that follows the reply; return the status."""
        for source in self.faulty:
            await source.at_rest()
        status = await self.status()
        if self.fault == "acts late" and status["substate"] in ("Aborting", "Aborted"):
            await self.until(lambda _: not any(source.records for source in self.faulty))
        elif reply.word == "fails" and not any(
                source.records for source in self.sources.values() if source.primary):
            # all primary sources have ended, so it may stop by itself
            await self.until(lambda status: status["substate"] not in _ON_ITS_WAY, _STUCK)
        return await self.status()

    def place(self) -> str:
        spool = self.live.daq.spool
        found = [stage for stage in STAGES if (spool / stage / f"{self.id}.json").exists()]
        return ", ".join(found)

    def data(self) -> str:
        try:
            brought = self.live.manifest(self.id)["sources"]
        except FileNotFoundError:
            return ""
        full = [entry for entry in brought if entry["files"]]
        return f"{len(full)} of {len(self.sources)}"


def _fates(sources: list[Source]) -> str:
    return ", ".join(sorted({source.fate() for source in sources}))


class Matrix:
    """All cells, driven at the same time against one daemon.

    Attributes:
        seen: the outcomes.
        overtaken: what the client of a start was told whose DAQ was aborted meanwhile.
        bystanders: for each command that hung, whether a healthy DAQ lived its whole life before
            the command was answered.
    """

    def __init__(self, live: Live) -> None:
        self.live = live
        self.seen: dict[Cell, Seen] = {}
        self.overtaken: dict[Cell, Reply] = {}
        self.bystanders: list[bool] = []
        self._context = context(zmq.asyncio.Context)
        self._hosts: list[Host] = []
        self._number = 0
        self._gate = asyncio.Semaphore(_AT_A_TIME)

    async def run(self) -> Matrix:
        """Drive every cell."""
        self._shared = self._host()
        try:
            room = asyncio.Semaphore(_LIVING)

            async def one(scenario: Callable[..., Coroutine[Any, Any, None]], *what: str) -> None:
                async with room:
                    await scenario(*what)

            async with asyncio.TaskGroup() as group:
                for scenario in self._scenarios():
                    group.create_task(one(*scenario))
        finally:
            for host in self._hosts:
                host.end()
        return self

    def _scenarios(self) -> list[tuple[Any, ...]]:
        """Return all scenarios with their arguments; what takes longest comes first."""
        made: list[tuple[Any, ...]] = []
        for fault in ("hangs", *(fault for fault in FAULTS if fault != "hangs")):
            for role in (PRIMARY, METADATA):
                if fault in SLOW_TO_START:
                    made += [(self._starting, fault, role, column) for column in MEANWHILE]
                if fault in FAULTS_OF_WAIT:
                    made += [(self._wait, fault, role, column) for column in WHILE_RECORDING[1:]]
                made += [(self._start, fault, role, *STARTS[:2]),
                         (self._start, fault, role, *STARTS[2:]),
                         (self._abort, fault, role), (self._force_abort, fault, role)]
            for role in (EVERY, PRIMARY, METADATA):
                made += [(self._stop_by_itself, fault, role), (self._force_stop, fault, role),
                         (self._stop, fault, role)]
        return made

    # -- scenarios --------------------------------------------------------------------------------

    async def _start(self, fault: str, role: str, version: str, then: str) -> None:
        daq = self._daq("start", fault, role)
        await self._record(daq, Cell("start", fault, role, version), daq.start(version))
        await self._record(daq, Cell("start", fault, role, then),
                           daq.command(then.removeprefix("then ")))

    async def _starting(self, fault: str, role: str, command: str) -> None:
        daq = self._daq("start", fault, role)
        cell = Cell("starting", fault, role, command)
        async with self._gate:
            starting = asyncio.create_task(daq.start())
            await daq.all_asked()
            asking = asyncio.create_task(daq.command(command))
            await asyncio.wait([asking], timeout=_HEAD_START)
        reply = await asking
        self.seen[cell] = await daq.see(reply, at_once="Abort" not in command)
        self.overtaken[cell] = await starting

    async def _wait(self, fault: str, role: str, column: str) -> None:
        daq = await self._begun("wait", fault, role)
        await daq.in_trouble()
        if column == BY_ITSELF:
            await self._record(daq, Cell("wait", fault, role, "UpdateKeywords"),
                               daq.command("UpdateKeywords"))
            await self._by_itself(daq, Cell("wait", fault, role, column))
        else:
            await self._record(daq, Cell("wait", fault, role, column), daq.command(column))

    async def _stop_by_itself(self, fault: str, role: str) -> None:
        daq = await self._begun("stop", fault, role)
        await self._by_itself(daq, Cell("stop", fault, role, BY_ITSELF))

    async def _force_stop(self, fault: str, role: str) -> None:
        daq = await self._begun("stop", fault, role)
        await self._record(daq, Cell("stop", fault, role, "ForceStopDaq"),
                           daq.command("ForceStopDaq"))

    async def _stop(self, fault: str, role: str) -> None:
        daq = await self._begun("stop", fault, role)
        cell = Cell("stop", fault, role, "StopDaq")
        if (fault, role) == ("hangs", EVERY):
            await self._record(daq, cell, self._beside(daq, daq.command("StopDaq")))
        else:
            await self._record(daq, cell, daq.command("StopDaq"))
        if self.seen[cell].substate == "Stopping":
            await self._after("stopping", "stop", daq, "StopDaq", AFTER_STOP)

    async def _force_abort(self, fault: str, role: str) -> None:
        daq = await self._begun("abort", fault, role)
        await self._record(daq, Cell("abort", fault, role, "ForceAbortDaq"),
                           daq.command("ForceAbortDaq"))

    async def _abort(self, fault: str, role: str) -> None:
        daq = await self._begun("abort", fault, role)
        cell = Cell("abort", fault, role, "AbortDaq")
        await self._record(daq, cell, daq.command("AbortDaq"))
        if self.seen[cell].substate == "Aborting":
            await self._after("aborting", "abort", daq, "AbortDaq", AFTER_ABORT)

    async def _after(self, moment: str, at: str, daq: Daq, command: str,
                     columns: tuple[str, ...]) -> None:
        """Ask what can be asked after a command that failed, each but the harmless on a DAQ anew.

        Args:
            moment: of the cells.
            at: the moment of the fault.
            daq: the one on which it failed.
            command: that failed.
            columns: what to ask.
        """
        fault, role = daq.fault, daq.role

        async def once(daq: Daq, *asked: str) -> None:
            for column in asked:
                name, _, mended = column.partition(", ")
                for source in daq.faulty if mended else ():
                    source.mended()
                await self._record(daq, Cell(moment, fault, role, column), daq.command(name))

        async def anew(column: str) -> None:
            other = await self._begun(at, fault, role)
            async with self._paced(other.command(command)) as failing:
                await failing
            await once(other, column)

        harmless = columns[:1] if at == "stop" else columns[:3]  # refused while it aborts
        rest = columns[len(harmless):]
        await asyncio.gather(once(daq, *harmless, rest[0]), *(anew(c) for c in rest[1:]))

    async def _by_itself(self, daq: Daq, cell: Cell) -> None:
        for source in daq.sources.values():
            if source.primary:
                source.complete()
        lost = cell.moment == "wait" and cell.fault in _FINALLY and cell.role == PRIMARY
        await daq.until(lambda status: status["substate"] == "NotScheduled",
                        _STUCK if lost else _PATIENCE)
        self.seen[cell] = await daq.see(Reply())

    async def _beside(self, daq: Daq, hanging: Coroutine[Any, Any, Reply]) -> Reply:
        """Let a healthy DAQ live while a command hangs."""
        task = asyncio.create_task(hanging)
        await daq.faulty[0].struck.wait()
        other = self._daq("stop", "none", PRIMARY)
        replies = [await other.start(), await other.command("UpdateKeywords"),
                   await other.command("StopDaq")]
        assert all(reply == Reply("ok") for reply in replies), replies
        self.bystanders.append(not task.done())
        return await task

    # -- making and driving -----------------------------------------------------------------------

    def _host(self) -> Host:
        made = Host(self._context)
        self._hosts.append(made)
        return made

    def _daq(self, moment: str, fault: str, role: str) -> Daq:
        self._number += 1
        id = f"{moment}.{self._number}"
        # what one of them breaks must not spoil a connection of the others
        own = [name for name in FAULTY[role] if fault in OWN_SOCKET]
        sources = {
            name: (self._host() if name in own else self._shared).source(
                f"{name}-{self._number}", primary=primary)
            for name, primary in _SOURCES}
        for name in FAULTY[role]:
            sources[name].goes_wrong(fault, moment)
        # how long one wait takes matters only where the next look is waited for
        short = moment == "wait" and fault in ("hangs", "dies", "returns", "replies late")
        return Daq(self.live, id, fault, role, sources, INTERVAL if short else 60.0)

    async def _begun(self, moment: str, fault: str, role: str) -> Daq:
        daq = self._daq(moment, fault, role)
        async with self._paced(daq.start()) as starting:
            reply = await starting
        assert reply == Reply("ok"), f"{daq.id}: {reply} {await daq.status()}"
        return daq

    async def _record(self, daq: Daq, cell: Cell, asking: Coroutine[Any, Any, Reply]) -> None:
        async with self._paced(asking) as task:
            reply = await task
        self.seen[cell] = await daq.see(reply)

    @asynccontextmanager
    async def _paced(self, work: Coroutine[Any, Any, Reply],
                     ) -> AsyncIterator[asyncio.Task[Reply]]:
        """Begin few commands at a time; one that takes long makes room for the next."""
        async with self._gate:
            task = asyncio.create_task(work)
            await asyncio.wait([task], timeout=_HEAD_START)
        yield task

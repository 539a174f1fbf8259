"""A simulated metadata source, as ``metadaqif.MetaDaq`` (ESO-396401 sections 7 and 10.2).

Commands (path ``/daq``)::

    StartDaq(id: str) -> {id}                     an empty id invents one; reuse is an error
    StopDaq(id: str) -> {id, files, keywords}     the files are closed and durable
    AbortDaq(id: str) -> {id}                     the data are discarded
    GetDaqStatus(id: str) -> {id, state, files, keywords, message, timestamp}

``files`` are paths or ``host:path``; ``keywords`` is JSON text, a list of keywords as in the
specification of StartDaqV2; ``timestamp`` is seconds since the Unix epoch. ``state`` is one of
NotStarted, Starting, Acquiring, Stopping, Succeeded, Aborting, Aborted, Failed. Errors are
``metadaqif::DaqException``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

from daq_sim import recording, service
from daqlib import cli, clock, errors, fsops, names, rpc

EXCEPTION = "metadaqif::DaqException"
PATHS = ("daq",)
KEPT = 100
_RUNNING = ("NotStarted", "Starting", "Acquiring", "Stopping", "Aborting")
_KEYWORDS = [
    {"type": "valueKeyword", "name": "OBJECT", "value": "SIMULATED", "comment": "Target"},
    {"type": "esoKeyword", "name": "INS FILT1 NAME", "value": "K", "comment": "Filter"},
    {"type": "esoKeyword", "name": "INS TEMP1 VAL", "value": 273.15, "comment": "[K] Bench"},
    {"type": "esoKeyword", "name": "INS SHUT1 ST", "value": True, "comment": "Shutter open"},
]


@dataclass
class Session:
    """One session.

    Attributes:
        id: from the client, or invented.
        state: see the module.
        files: absolute paths.
        keywords: JSON text.
        message: why it failed.
        timestamp: of the last change of state, seconds since the Unix epoch.
        ending: writes the files.
    """

    id: str
    state: str = "Acquiring"
    files: list[str] = field(default_factory=list)
    keywords: str = "[]"
    message: str = ""
    timestamp: float = field(default_factory=clock.now)
    ending: asyncio.Task[None] | None = None

    def become(self, state: str) -> None:
        """Change the state."""
        self.state, self.timestamp = state, clock.now()
        cli.detail(f"session {self.id}: {state} {self.message}".rstrip())


class Collector:
    """The collector of metadata: sessions by id, the past ones remembered.

    Args:
        plan: what to write; None writes nothing.
        keywords: JSON text to reply.
        limit: sessions that may run at a time.
    """

    def __init__(self, plan: recording.Plan | None, keywords: str, limit: int) -> None:
        self._plan, self._keywords, self._limit = plan, keywords, limit
        self._known: dict[str, Session] = {}
        self.standard: service.Standard | None = None

    def busy(self) -> bool:
        """Tell whether a session runs."""
        return bool(self._running())

    def _running(self) -> list[str]:
        return [session.id for session in self._known.values() if session.state in _RUNNING]

    async def StartDaq(self, id: str = "") -> dict[str, str]:
        """Start a session."""
        id = id or clock.iso(clock.now())
        try:
            names.check_id(id)
        except errors.BadData as error:
            raise _error(str(error)) from error
        if id in self._known:
            raise _error("the id was used already", id)
        if self.standard and not self.standard.operational:
            raise _error("the source is not Operational", id)
        if len(self._running()) >= self._limit:
            raise _error(f"session {', '.join(self._running())} is running", id)
        self._known[id] = Session(id)
        self._forget()
        return {"id": id}

    def _forget(self) -> None:
        past = [id for id, session in self._known.items() if session.state not in _RUNNING]
        for id in past[: max(0, len(self._known) - KEPT)]:
            del self._known[id]

    def _session(self, id: str) -> Session:
        if id not in self._known:
            raise _error("no such session", id, errors.NoJob.code)
        return self._known[id]

    async def StopDaq(self, id: str) -> dict[str, Any]:
        """End a session and keep its data."""
        session = self._session(id)
        if session.state not in ("Acquiring", "Stopping"):
            raise _error(f"the session is {session.state}", id)
        if not session.ending:
            session.become("Stopping")
            session.ending = asyncio.create_task(self._finish(session))
        # a client that goes away or a shutdown must not stop the writing half way
        await asyncio.shield(session.ending)
        if session.state != "Succeeded":
            raise _error(session.message or f"the session is {session.state}", id)
        return {"id": id, "files": self._files(session), "keywords": session.keywords}

    async def _finish(self, session: Session) -> None:
        try:
            if self._plan:
                session.files = await asyncio.to_thread(
                    recording.produce, self._plan, session.id, _cards(self._plan, session))
            session.keywords = self._keywords
            session.become("Succeeded")
        except (OSError, errors.DaqError) as error:
            session.message = str(error)
            session.become("Failed")

    async def AbortDaq(self, id: str) -> dict[str, str]:
        """End a session and discard its data; harmless when it was aborted before."""
        session = self._session(id)
        if session.state == "Succeeded":
            raise _error("the session is Succeeded", id)
        if session.ending:
            await asyncio.shield(session.ending)
        recording.discard(session.files)
        session.files, session.keywords = [], "[]"
        session.become("Aborted")
        return {"id": id}

    async def GetDaqStatus(self, id: str) -> dict[str, Any]:
        """Return the status of a session that runs or ran."""
        session = self._session(id)
        return {"id": id, "state": session.state, "files": self._files(session),
                "keywords": session.keywords, "message": session.message,
                "timestamp": session.timestamp}

    def _files(self, session: Session) -> list[str]:
        return recording.locations(self._plan, session.files) if self._plan else []


def _error(message: str, id: str = "", code: int = 65) -> rpc.RemoteError:
    return rpc.RemoteError(message, exception=EXCEPTION, id=id, code=code)


def _cards(plan: recording.Plan, session: Session) -> list[recording.Card]:
    return [
        ("INSTRUME", "SIM", "simulated instrument"),
        ("ESO INS ID", plan.name.upper()[:40], "device manager"),
        ("ESO INS MODE", "SIMULATED", "instrument mode"),
        ("ESO INS PRES1 VAL", 77000.0, "[Pa] ambient pressure"),
        ("ESO INS LAMP1 ST", False, "lamp is on"),
        ("ESO INS SESSION ID", session.id[:60], "session"),
    ]


def simulate(options: argparse.Namespace) -> int:
    """Run a simulated metadata source; returns the exit code.

    Raises:
        errors.BadData: the keywords are no JSON list.
    """
    name = names.check_source(options.name)
    plan = None
    if not options.no_files:
        # telemetry is a table, and a table cannot stand in a primary HDU
        extensions = 1 if options.extensions is None else max(1, options.extensions)
        plan = recording.Plan(
            directory=service.directory(options), name=name, host=options.host, size=options.size,
            extensions=extensions, copies=service.copies(options), seed=options.seed, table=True)
        fsops.sweep(plan.directory)
    return asyncio.run(_run(options, plan, _keywords(options)))


def _keywords(options: argparse.Namespace) -> str:
    if options.no_keywords:
        return "[]"
    if not options.keywords:
        return json.dumps(_KEYWORDS)
    chosen = cli.json_argument(options.keywords, "--keywords")
    if not isinstance(chosen, list):
        raise errors.BadData("--keywords is not a JSON list",
                             'such as \'[{"type": "esoKeyword", "name": "INS ID", "value": 1}]\'')
    return json.dumps(chosen)


async def _run(options: argparse.Namespace, plan: recording.Plan | None, keywords: str) -> int:
    ended = asyncio.Event()
    collectors = {
        number: Collector(plan and replace(plan, name=plan.name + number), keywords,
                          options.sessions)
        for number in service.numbers(options)}
    standard = service.Standard(lambda: any(each.busy() for each in collectors.values()), ended)
    for each in collectors.values():
        each.standard = standard
    return await service.serve(options, collectors, PATHS, standard, ended, EXCEPTION)

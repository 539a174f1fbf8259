"""The daemon: binds the endpoints, takes over what an earlier one left, serves until told to end.

Killing it at any instant is harmless: the next one reads ``acquire/`` and goes on. SIGHUP opens the
log file anew and reads the log levels again; everything else takes a restart, which harms nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from daq_ctl.acquisition import Site
from daq_ctl.application import Application
from daq_ctl.control import Control
from daq_ctl.feed import Feed, Status
from daqlib import __version__, config, dictionary, errors, fsops, logs, names, uri
from daqlib.config import Config
from daqlib.rpcserver import Curve, Handled, Publisher, Server
from daqlib.spool import Spool, holder, holder_text

log = logging.getLogger("daq.ocm")

_READ_AGAIN = 100_000  # characters of a specification that is read once more for its id


@dataclass(frozen=True)
class Endpoints:
    """Where to serve."""

    requests: str
    topics: str


class Daemon:
    """Everything that lives while the daemon runs."""

    def __init__(self, spool: Spool, settings: Config, endpoints: Endpoints, name: str,
                 log_level: str) -> None:
        """Wire the parts together; only the endpoint for topics is bound."""
        self._settings = settings
        self._log_level = log_level
        self._leaving = asyncio.Event()
        curve = Curve(settings["curve.certificate"], settings["curve.authorized"] or None) if (
            settings["curve.certificate"]) else None
        secured: dict[str, Any] = {"curve": curve, "insecure": bool(settings["insecure"]),
                                   "log": log.warning}
        self._server = Server(endpoints.requests, audit=_audit, **secured)
        self.application = Application(name, self._entered, self._leaving.set, self._is_active)
        self._feed = Feed(spool, self._publish, self._seen,
                          float(settings["scan_interval_sec"]))
        site = Site(spool, settings, self._feed.refresh, self._ended,
                    dictionary.load(settings["dictionaries"]))
        self._control = Control(site, self._feed)
        self._said = ""
        # bound last, so that whatever is wrong with the rest leaves no socket behind
        self._publisher = Publisher(endpoints.topics, **secured)

    def _is_active(self) -> bool:
        return self._feed.is_active()

    def _seen(self, job: str, place: str) -> None:
        self._control.seen(job, place)

    def _ended(self, job: str) -> None:
        self._control.ended(job)

    def _publish(self, status: Status) -> None:
        if self._is_active():
            self._publish_application()  # a DAQ makes us Active before it is told of
        self._publisher.publish("/daq/status", status)
        log.log(logs.STATE, "%s: %s %s", status["id"], status["state"], status["substate"])
        self._publish_application()

    def _publish_application(self) -> None:
        now = self.application.text()
        if now != self._said:
            self._said = now
            log.log(logs.STATE, "%s", now)
            logs.event("application", state=now)
            self._publisher.publish("/std/status", self.application.status())

    def _entered(self, state: str) -> None:
        if state == "Operational":
            self._server.enable("daq", self._control)
        else:
            self._server.disable("daq")
        self._publish_application()

    async def serve(self, *, operational: bool) -> None:
        """Serve until SIGINT, SIGTERM or the Exit command.

        Args:
            operational: go straight to Operational, for people without a supervisor.

        Raises:
            errors.DaqError: an endpoint cannot be bound.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._leaving.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        self._server.enable("std", self.application)
        self._server.disable("daq")
        try:
            endpoint = self._server.start()
            self._publish_application()
            self._feed.start()
            if operational:
                await self.application.Init()
                await self.application.Enable()
            log.info("serving at %s, topics at %s", uri.with_path(endpoint, ""),
                     self._publisher.endpoint)
            await self._leaving.wait()
        finally:
            await self._server.close()
            self._feed.close()
            await self._control.release()
            self._publisher.close()

    def _hang_up(self) -> None:
        """Open the log file anew and set the levels that the configuration names now."""
        logs.reopen()
        before = self._settings
        try:
            now = config.load(before.path or None)
            _set_levels(self._log_level, now)
        except (errors.DaqError, OSError) as error:
            log.warning("the old configuration stays in force: %s", error)
            return
        later = [config.spelled(key) for key in config.KEYS
                 if now[key] != before[key] and key != "log_properties"]
        log.info("log levels read again: %s%s", now.path or "defaults",
                 f"; with a restart only: {', '.join(later)}" if later else "")


def _audit(handled: Handled) -> None:
    """Log a command: who sent it, what it was, and what came out."""
    daq = _daq_of(handled.params) or handled.named
    what = " ".join(filter(None, (handled.method or "a request", daq)))
    outcome = f"refused with {handled.code}: {handled.text}" if handled.code else "done"
    severity = logs.DEBUG if handled.method.rpartition(".")[2].startswith("Get") else logs.ACTION
    log.log(severity, "%s by %s: %s, %.3f s", what, handled.who, outcome, handled.seconds)
    logs.event_at(severity, "command", {
        "command": handled.method, **({"daq": daq} if daq else {}), "who": handled.who,
        "code": handled.code, "text": handled.text, "seconds": round(handled.seconds, 3)})


def _daq_of(params: dict[str, Any]) -> str:
    """Return the id of the DAQ that a command is about, or an empty text."""
    named, specification = params.get("id"), params.get("specification")
    if isinstance(specification, str) and len(specification) <= _READ_AGAIN:
        with contextlib.suppress(ValueError, RecursionError):
            specification = json.loads(specification)
    if isinstance(specification, dict):
        named = specification.get("id")
    return named[:128] if isinstance(named, str) else ""


def run(spool: Spool, settings: Config, endpoints: Endpoints, name: str, *,
        operational: bool, log_level: str = "") -> int:
    """Run the daemon; it is the only one on its spool.

    Args:
        spool: the spool.
        settings: the configuration.
        endpoints: where to serve.
        name: of this process instance; the log file is named after it.
        operational: go straight to Operational.
        log_level: one of :data:`daqlib.logs.LEVELS`; empty: as ``-q`` and ``-v`` say.

    Raises:
        errors.Usage: the name or the level is not allowed.
        errors.Later: another one runs on this spool.
        errors.DaqError: an endpoint cannot be bound.
    """
    if not names.SOURCE.fullmatch(name):
        raise errors.Usage(f"the process name {name!r} is not allowed",
                           "use letters, digits and ._+-")
    lock = fsops.lock(spool.path("lock", ".ctl"), holder_text("acquire"))
    if lock is None:
        other = holder(spool.path("lock", ".ctl")).get("pid", "?")
        raise errors.Later(f"daq-ctl runs on {spool.root} already (process {other})",
                           "end that one first, or use another spool")
    with contextlib.closing(os.fdopen(lock, "r+")), _logging(name, settings, log_level) as level:
        logs.event("begun", version=__version__, pid=os.getpid(), spool=spool.root,
                   configuration=settings.path)
        _raise_descriptor_limit()
        asyncio.run(_serve(spool, settings, endpoints, name, level, operational))
        logs.event("ended")
    return errors.OK


@contextlib.contextmanager
def _logging(name: str, settings: Config, log_level: str) -> Iterator[str]:
    """Log while the daemon runs; gives the level of the root logger."""
    level = (log_level or logs.verbosity_level()).upper()
    try:
        logs.start(name, level)
    except errors.BadData as error:
        raise errors.Usage(error.message, error.remedy) from error
    try:
        _set_levels(level, settings)
        if note := settings.note():
            log.info(note)
        yield level
    finally:
        logs.stop()


def _set_levels(root: str, settings: Config) -> None:
    """Set the levels as command line and ``log_properties`` say.

    Raises:
        errors.BadConfig: there is no such file, or it is not right.
    """
    own: dict[str, int] = {}
    note = ""
    if wanted := settings["log_properties"]:
        path = config.find(wanted, "cfg/log_properties", "correct the key, or set CFGPATH")
        own, note = logs.read_properties(path)
    logs.reset_levels(root, own)
    if note:
        log.info(note)


def _raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets us: every source and every client needs some."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(spool: Spool, settings: Config, endpoints: Endpoints, name: str, level: str,
                 operational: bool) -> None:
    await Daemon(spool, settings, endpoints, name, level).serve(operational=operational)

"""The daemon: binds the endpoints, takes over what an earlier one left, serves until told to end.

Killing it at any instant is harmless: the next one reads ``acquire/`` and goes on. SIGHUP opens the
log file anew and reads the log levels again; everything else takes a restart, which harms nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass

from daq_ctl.acquisition import Site
from daq_ctl.application import Application
from daq_ctl.control import Control
from daqlib import __version__, daemon, dictionary, errors, fsops, headerpolicy, logs, uri
from daqlib.config import Config
from daqlib.feed import Feed, Status
from daqlib.rpcserver import Publisher, Server
from daqlib.spool import Spool, holder, holder_text

log = logging.getLogger("daq.ocm")


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
        secured = daemon.secured(settings, log)
        self._server = Server(endpoints.requests, audit=daemon.auditor(log), **secured)
        self.application = Application(name, self._entered, self._leaving.set, self._is_active)
        self._feed = Feed(spool, self._publish, self._seen,
                          float(settings["scan_interval_sec"]))
        headerpolicy.of_site(settings)  # a mistake is told now, not when the first job is collected
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
        daemon.hang_up(self._settings, self._settings.path or None, self._log_level, log)


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
    daemon.check_name(name)
    lock = fsops.lock(spool.path("lock", ".ctl"), holder_text("acquire"))
    if lock is None:
        other = holder(spool.path("lock", ".ctl")).get("pid", "?")
        raise errors.Later(f"daq-ctl runs on {spool.root} already (process {other})",
                           "end that one first, or use another spool")
    with (contextlib.closing(os.fdopen(lock, "r+")),
          daemon.logging_as(name, settings, log_level, "daq.ocm") as level):
        if note := settings.note():
            log.info(note)
        logs.event("begun", version=__version__, pid=os.getpid(), spool=spool.root,
                   configuration=settings.path)
        daemon.raise_descriptor_limit()
        daemon.run(_serve(spool, settings, endpoints, name, level, operational))
        logs.event("ended")
    return errors.OK


async def _serve(spool: Spool, settings: Config, endpoints: Endpoints, name: str, level: str,
                 operational: bool) -> None:
    await Daemon(spool, settings, endpoints, name, level).serve(operational=operational)

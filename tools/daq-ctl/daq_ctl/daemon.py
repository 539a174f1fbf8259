"""The daemon: binds the endpoints, takes over what an earlier one left, serves until told to end.

Killing it at any instant is harmless: the next one reads ``acquire/`` and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass

from daq_ctl.acquisition import Site
from daq_ctl.application import Application
from daq_ctl.control import Control
from daq_ctl.feed import Feed, Status
from daqlib import cli, errors, fsops, uri
from daqlib.config import Config
from daqlib.rpcserver import Curve, Publisher, Server
from daqlib.spool import Spool, holder, holder_text


@dataclass(frozen=True)
class Endpoints:
    """Where to serve."""

    requests: str
    topics: str


class Daemon:
    """Everything that lives while the daemon runs."""

    def __init__(self, spool: Spool, settings: Config, endpoints: Endpoints, name: str) -> None:
        """Wire the parts together; nothing is bound yet."""
        self._leaving = asyncio.Event()
        curve = Curve(settings["curve.certificate"], settings["curve.authorized"] or None) if (
            settings["curve.certificate"]) else None
        keys = {"curve": curve, "insecure": bool(settings["insecure"])}
        self._publisher = Publisher(endpoints.topics, **keys)  # type: ignore[arg-type]
        self._server = Server(endpoints.requests, **keys)  # type: ignore[arg-type]
        self.application = Application(name, self._entered, self._leaving.set, self._is_active)
        self._feed = Feed(spool, self._publish, self._seen,
                          float(settings["scan_interval_sec"]))
        self._control = Control(Site(spool, settings, self._feed.refresh, self._ended), self._feed)
        self._said = ""

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
        cli.detail(f"{status['id']}: {status['state']} {status['substate']}")
        self._publish_application()

    def _publish_application(self) -> None:
        now = self.application.text()
        if now != self._said:
            self._said = now
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
        self._server.enable("std", self.application)
        self._server.disable("daq")
        endpoint = self._server.start()
        try:
            self._feed.start()
            if operational:
                await self.application.Init()
                await self.application.Enable()
            cli.say(f"serving at {uri.with_path(endpoint, '')}, "
                    f"topics at {self._publisher.endpoint}")
            await self._leaving.wait()
        finally:
            await self._server.close()
            self._feed.close()
            await self._control.release()
            self._publisher.close()


def run(spool: Spool, settings: Config, endpoints: Endpoints, name: str, *,
        operational: bool) -> int:
    """Run the daemon; it is the only one on its spool.

    Raises:
        errors.Later: another one runs on this spool.
        errors.DaqError: an endpoint cannot be bound.
    """
    lock = fsops.lock(spool.path("lock", ".ctl"), holder_text("acquire"))
    if lock is None:
        other = holder(spool.path("lock", ".ctl")).get("pid", "?")
        raise errors.Later(f"daq-ctl runs on {spool.root} already (process {other})",
                           "end that one first, or use another spool")
    with contextlib.closing(os.fdopen(lock, "r+")):
        asyncio.run(_serve(spool, settings, endpoints, name, operational))
    return errors.OK


async def _serve(spool: Spool, settings: Config, endpoints: Endpoints, name: str,
                 operational: bool) -> None:
    await Daemon(spool, settings, endpoints, name).serve(operational=operational)

"""The server of daq-watch: answers requests about the jobs of a spool and publishes their status.

It holds no lock and remembers nothing that the spool does not say, so that it may be killed and
started again at any instant. What is told of jobs is read from the spool; see
:mod:`daqlib.feed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

from daq_watch import dpm, telling
from daqlib import __version__, daemon, dictionary, errors, logs, storage, uri
from daqlib.config import Config
from daqlib.feed import Feed
from daqlib.rpcserver import Publisher, Server
from daqlib.spool import Spool, holder, process_start
from daqlib.status import Status

log = logging.getLogger("daq.dpm")
scheduler = logging.getLogger("daq.dpm.scheduler")

#: The keys that SIGHUP puts into force.
_HEEDED = ("scan_interval_sec", "storage_interval_sec", "dictionaries", "floor.spool_bytes")


def run(on: Spool, settings: Config, option_config: str | None, rr_uri: str | None,
        ps_uri: str | None, name: str = "dpm") -> int:
    """Serve until SIGTERM, SIGINT or the Exit command; return the exit code.

    Args:
        on: the spool.
        settings: the configuration.
        option_config: where it was read from, to read it again at SIGHUP.
        rr_uri: where to serve requests; None: ``cfg/dpm/req_endpoint``.
        ps_uri: where to publish topics; None: ``cfg/dpm/pub_endpoint``.
        name: of this process instance; the log file is named after it.

    Raises:
        errors.BadConfig: an endpoint cannot or must not be served, or is in use.
        errors.Usage: the name is not allowed.
    """
    with daemon.logging_as(name, settings, "", "daq.dpm") as level:
        if (note := settings.note()) and not _watcher(on):
            log.info(note)
        logs.event("begun", version=__version__, pid=os.getpid(), spool=on.root,
                   configuration=settings.path)
        daemon.raise_descriptor_limit()
        daemon.run(_serve(on, settings, option_config, rr_uri, ps_uri, level))
        logs.event("ended")
    return errors.OK


async def _serve(on: Spool, settings: Config, option: str | None, rr_uri: str | None,
                 ps_uri: str | None, level: str) -> None:
    with _naming("cfg/dpm/pub_endpoint", "--ps-uri"):
        topics = Publisher(ps_uri or settings["dpm.pub_endpoint"],
                           **daemon.secured(settings, log))
    try:
        await Serving(on, settings, option, level, topics).serve(
            rr_uri or settings["dpm.req_endpoint"])
    finally:
        topics.close()


@contextlib.contextmanager
def _naming(key: str, option: str) -> Iterator[None]:
    """Let a refusal to bind an endpoint name the key and the option that choose it."""
    try:
        yield
    except (errors.Later, errors.BadConfig, errors.BadData) as error:
        raise errors.BadConfig(error.message, f"{error.remedy}: see {key} and {option}") from error


class Serving:
    """Everything that lives while the server runs."""

    def __init__(self, on: Spool, settings: Config, option: str | None, level: str,
                 topics: Publisher) -> None:
        """Wire the parts together; what is served is told by :meth:`serve`."""
        self._spool, self._settings, self._option = on, settings, option
        self._level = level
        self._topics = topics
        self._leaving = asyncio.Event()
        self._asked_to_exit = False
        self._feed = Feed(on, self._publish, self._seen, float(settings["scan_interval_sec"]),
                          places=dpm.PLACES, log=scheduler.name)
        self._feed.looked = self._looked
        self._teller = telling.Teller(on)
        self._internal: dict[str, dict[str, Any]] = {}
        self._daq = dpm.DaqControl(on, settings, dictionary.load(settings["dictionaries"]),
                                   self._feed)

    async def serve(self, requests: str) -> None:
        """Serve requests at an endpoint until told to end.

        Raises:
            errors.BadConfig: it cannot be bound.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._leaving.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        services = {"dpm": dpm.Control(self._spool, self._exit), "daq": self._daq,
                    "std": dpm.Application(self._feed.is_active, self._exit)}
        with _naming("cfg/dpm/req_endpoint", "--rr-uri"):
            server = Server(requests, services, audit=daemon.auditor(log),
                            **daemon.secured(self._settings, log))
        storing = None
        try:
            with _naming("cfg/dpm/req_endpoint", "--rr-uri"):
                endpoint = server.start()
            self._feed.start()
            storing = asyncio.create_task(self._publish_storage())
            log.info("serving at %s, topics at %s", uri.with_path(endpoint, ""),
                     self._topics.endpoint)
            await self._leaving.wait()
        finally:
            if storing:
                storing.cancel()
            await server.close()
            self._feed.close()
        if self._asked_to_exit:
            self._end_watcher()

    # -- topics ----------------------------------------------------------------------------------

    def _seen(self, job: str, place: str) -> None:
        if not place:  # its file was removed
            self._internal.pop(job, None)
            self._teller.forget(job)

    def _publish(self, now: Status) -> None:
        if now["state"] == "StateAcquiring":
            return  # it failed before it came to us
        self._topics.publish("/daq/status", now)
        scheduler.log(logs.STATE, "%s: %s %s", now["id"], now["state"], now["substate"])

    def _looked(self, job: str, place: str, now: Status) -> None:
        self._teller.tell(job, ended=place == "done")
        if now["state"] == "StateAcquiring":
            return
        document = dpm.internal(self._spool, job, place, now)
        if document != self._internal.get(job):
            self._topics.publish("internal/daq/status", document)
        if place == "done":
            self._internal.pop(job, None)
        else:
            self._internal[job] = document

    async def _publish_storage(self) -> None:
        told = ""
        while True:
            try:
                self._topics.publish("/dpm/storage", storage.status(self._spool))
                told = ""
            except OSError as error:
                if told != str(error):
                    log.error("cannot ask for the free space: %s", error)
                told = str(error)
            await asyncio.sleep(float(self._settings["storage_interval_sec"]))

    # -- what it is told -------------------------------------------------------------------------

    def _hang_up(self) -> None:
        now = daemon.hang_up(self._settings, self._option, self._level, log, _HEEDED)
        if now is None:
            return
        try:
            known = dictionary.load(now["dictionaries"])
        except errors.DaqError as error:
            log.warning("the old configuration stays in force: %s", error)
            return
        self._settings = self._daq.settings = now
        self._daq.known = known
        self._feed.interval = float(now["scan_interval_sec"])

    def _exit(self) -> None:
        self._asked_to_exit = True
        self._leaving.set()

    def _end_watcher(self) -> None:
        """Tell the watcher that started us to end, now that the reply has left."""
        if pid := _watcher(self._spool):
            log.info("asked to exit: process %d is told to end", pid)
            os.kill(pid, signal.SIGTERM)


def _watcher(on: Spool) -> int:
    """Return the process id of the watcher that started us, 0 when nobody did."""
    facts, parent = holder(on.path("lock", ".watch")), os.getppid()
    # nobody else can have our parent's id while we are its child
    is_watcher = facts.get("pid") == parent and facts.get("started") == process_start(parent)
    return parent if is_watcher else 0

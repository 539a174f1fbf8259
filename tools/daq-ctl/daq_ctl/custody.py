"""The acquisitions under control: those started here, those that appear, those of a daemon before.

A job in ``acquire/`` that nobody controls is taken up, whoever put it there; what an earlier daemon
began is resumed, and what can no longer be begun goes to ``failed/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Iterator

from daq_ctl import keywords, stale
from daq_ctl.acquisition import Acquisition, Site
from daq_ctl.journal import durably
from daqlib import abort, capacity, cli, clock, errors, history, job, names

log = logging.getLogger("daq.ocm.manager")

_FRESH_S = 30.0  # a job without startBy that was put into acquire/ longer ago is refused


class Custody:
    """The acquisitions under control."""

    def __init__(self, site: Site) -> None:
        """Begin with none."""
        self._site = site
        self._spool = site.spool
        self._running: dict[str, Acquisition] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: list[set[str]] = []  # primary sources of starts that are being submitted

    def get(self, identifier: str) -> Acquisition | None:
        """Return an acquisition under control."""
        return self._running.get(identifier)

    @contextlib.contextmanager
    def claim(self, wanted: list[str], *, shared: bool) -> Iterator[None]:
        """Keep primary sources for an acquisition until it is under control.

        Args:
            wanted: their endpoints.
            shared: whether other acquisitions may have them, too.

        Raises:
            errors.BadData: one is named twice or in use: its commands act on whatever it records
                (ESO-396401, section 9.2).
        """
        self._check_primary(wanted, self._running.values(), shared=shared)
        claim = set(wanted)
        if not shared and any(claim & other for other in self._wanted):
            raise errors.BadData("a primary source is in use by an acquisition that is starting",
                                 "stop or abort that one first")
        self._wanted.append(claim)
        try:
            yield
        finally:
            # by identity: another start may want the very same
            self._wanted = [other for other in self._wanted if other is not claim]

    @staticmethod
    def _check_primary(wanted: list[str], others: Iterable[Acquisition], *, shared: bool) -> None:
        twice = {endpoint for endpoint in wanted if wanted.count(endpoint) > 1}
        if twice:
            raise errors.BadData(f"two primary sources are the same: {twice.pop()}",
                                 "name each source once")
        for acquisition in () if shared else others:
            used = set(wanted) & acquisition.occupied()
            if used:
                raise errors.BadData(f"primary source {used.pop()} is in use by {acquisition.id}",
                                     "stop or abort that one first, or allow it to be shared")

    def stray(self, identifier: str) -> Acquisition | None:
        """Take up an acquisition that is not in ``acquire/`` although a source may record still.

        It was moved away and an earlier daemon has ended, or its start failed and a source could
        not be aborted. A job in ``acquire/`` that was not looked at yet is taken as well, lest it
        be started while it is being aborted.

        Raises:
            errors.DaqError: it is being worked on, or not valid.
        """
        place = self._spool.place(identifier)
        if place in ("", "done"):
            return None
        if abort.recording(self._spool.events(identifier)):
            return self.take(identifier, place=place)
        if place == "acquire":
            with contextlib.suppress(errors.DaqError):
                return self.take(identifier)
        return None

    def take(self, identifier: str, lock: int | None = None, place: str = "acquire",
             ) -> Acquisition:
        """Take a job under control.

        Args:
            identifier: the job.
            lock: descriptor of its lock when it is held already; released on failure.
            place: the directory that it lies in.

        Raises:
            errors.DaqError: it is gone, being worked on, or not valid.
        """
        if lock is None:
            lock = self._spool.lock(identifier, "acquire")
        if lock is None:
            raise errors.Later("somebody is at work on this job", "see daq-status", identifier)
        try:
            acquisition = Acquisition(self._site, job.read(self._spool, identifier, place), lock)
        except BaseException:
            self._spool.release(identifier, lock)
            raise
        self._running[identifier] = acquisition
        return acquisition

    def ended(self, identifier: str) -> None:
        """Forget an acquisition that has left our hands."""
        self._running.pop(identifier, None)

    async def release(self) -> None:
        """Let go of every acquisition; the sources go on, the next daemon takes over."""
        await asyncio.gather(*(each.release() for each in list(self._running.values())))

    # -- jobs that appear ---------------------------------------------------------------------

    def seen(self, identifier: str, place: str) -> None:
        """Take note of where a job lies; look after one in ``acquire/`` that nobody controls."""
        acquisition = self._running.get(identifier)
        if acquisition is not None:
            acquisition.look(place)
        elif place == "acquire" and not self._spool.is_busy(identifier):
            self._arrived(identifier)

    def _arrived(self, identifier: str) -> None:
        try:
            if not names.ID.fullmatch(identifier):
                raise job.Unreadable(f"{identifier!r} is not allowed as an id")
            acquisition = self.take(identifier)
        except job.Unreadable as error:
            name = self._spool.to_bad("acquire", f"{identifier}.json", error.message)
            log.warning("%s: %s; moved to bad/%s", identifier, error.message, name)
            return
        except (errors.BadData, errors.BadConfig) as error:  # an adapter that is not installed
            self._refuse(identifier, error)
            return
        except errors.DaqError:
            return  # half-written or just gone: the next scan looks again
        task = asyncio.create_task(self._adopt(acquisition))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse(self, identifier: str, error: errors.DaqError) -> None:
        """Put a job that can never be started into ``failed/``."""
        # not in a thread: until it is moved every look at acquire/ would find it anew
        lock = self._spool.lock(identifier, "acquire")
        if lock is None:
            return
        try:
            self._spool.log(identifier, "fail", stage="acquire", reason=str(error),
                            code=error.code)
            os.utime(self._spool.job_path("acquire", identifier))
            self._spool.move(identifier, "acquire", "failed")
        except FileExistsError:
            self._spool.to_bad("acquire", f"{identifier}.json", "failed/ holds a copy")
        finally:
            self._spool.release(identifier, lock)
        log.warning("%s: %s; moved to failed/", identifier, error)

    async def _adopt(self, acquisition: Acquisition) -> None:
        try:
            await self._begin(acquisition)
        except errors.DaqError as error:  # its log tells, too; there is nobody to reply to
            log.warning("%s: %s", acquisition.id, error)
        except OSError as error:
            log.warning("%s: %s", acquisition.id, cli.from_os_error(error))

    async def _begin(self, acquisition: Acquisition) -> None:
        substate = acquisition.substate
        failed = history.last(self._spool.events(acquisition.id), "fail")
        if failed and acquisition.has_begun() and substate == "Aborting":
            again = "an acquisition is not repeated under its id: submit it anew"
            reason = str(failed.get("reason", ""))
            await acquisition.give_up(reason if again in reason else f"{reason} ({again})")
        elif acquisition.has_begun() or substate not in ("NotStarted", "Starting"):
            await self._resume(acquisition)
        elif reason := self._too_late(acquisition):
            await acquisition.give_up(reason)
        else:
            await durably(lambda: job.accept(
                self._spool, acquisition.id, acquisition.document, "acquire",
                self._site.settings["instrument_id"]))
            await acquisition.start()

    async def _resume(self, acquisition: Acquisition) -> None:
        hours = float(self._site.settings["daq.stale_acquiring_hours"])
        age = stale.hours(acquisition.document, acquisition.ctime)
        if 0 < hours < age and not await acquisition.answers():
            await acquisition.archive(f"given up after {age:.0f} h without an answer from its "
                                      "sources (cfg/daq/stale_acquiring_hours); when one is back, "
                                      f"go on with: mv failed/{acquisition.id}.json acquire/")
        else:
            await acquisition.resume()

    def _too_late(self, acquisition: Acquisition) -> str:
        """Return why a job that nobody began must not be started now, or an empty text."""
        events = self._spool.events(acquisition.id)
        if any(event["event"] == "submitted" and event.get("by") == self._spool.by
               for event in events):
            return "daq-ctl ended before it began; the client was not told that it started"
        text = str(acquisition.document.get("startBy", ""))
        try:
            # without a word the file tells: its ctime is that of the rename into acquire/
            deadline = clock.from_iso(text) if text else acquisition.ctime + _FRESH_S
        except ValueError:
            return f"startBy {text!r} is no time: write YYYY-MM-DDThh:mm:ssZ"
        if clock.now() > deadline:
            return f"too late to start: it was to begin by {clock.iso(deadline)}Z"
        return self._obstacle(acquisition)

    def _obstacle(self, acquisition: Acquisition) -> str:
        """Return what is in the way of a queued job, or an empty text."""
        try:
            self._check_primary(sorted(acquisition.primary_endpoints()),
                                self._before(acquisition),
                                shared=bool(acquisition.document.get("allowShared")))
            keywords.accepted_specification(self._site.dictionaries, acquisition.document)
            capacity.check_floor(self._spool, self._site.settings)
        except errors.DaqError as error:
            return error.message
        return ""

    def _before(self, acquisition: Acquisition) -> list[Acquisition]:
        """Return the acquisitions that have begun, or came before this one."""
        running = list(self._running.values())
        earlier = running[: running.index(acquisition)]
        return [other for other in running
                if other is not acquisition and (other in earlier or other.has_begun())]

"""The acquisition control interface ``daqif.OcmDaqControl`` (ESO-396401 section 13.1).

Method names and parameters are those of the interface; documents are plain JSON objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from typing import Any

from daq_ctl import sources
from daq_ctl.acquisition import Acquisition, Left, Site
from daq_ctl.feed import Feed
from daqlib import abort, capacity, cli, clock, errors, history, job, names, schema, status
from daqlib.product import fold

Document = dict[str, Any]
_V1_SOURCE = re.compile(r"([^@\s]+)@(\S+)")
_FRESH_S = 30.0  # a job without startBy that was put into acquire/ longer ago is refused


class Control:
    """The acquisitions under control, and the commands on them."""

    def __init__(self, site: Site, feed: Feed) -> None:
        """Take the site and the feed that the acquisitions are published through."""
        self._site = site
        self._feed = feed
        self._spool = site.spool
        self._running: dict[str, Acquisition] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- commands of the interface ------------------------------------------------------------

    async def StartDaq(self, id: str = "", file_prefix: str = "", prim_sources: str = "",  # noqa: N802
                       meta_sources: str = "", properties: str = "") -> Document:
        """Create and start an acquisition with the version 1 merge heuristics."""
        for name, text in (("prim_sources", prim_sources), ("meta_sources", meta_sources)):
            if not isinstance(text, str):
                raise errors.BadData(f"{name} is no text", "write '<name>@<uri> <name>@<uri> ...'")
        given = _json(properties, "properties") if properties else {}
        schema.check("startdaqv1", given, "properties")
        found = [*_v1_sources(prim_sources, "primarySource"),
                 *_v1_sources(meta_sources, "metadataSource")]
        if not found:
            raise errors.BadData("StartDaq needs at least one data source",
                                 "give '<name>@<uri>' in prim_sources or meta_sources")
        specification: Document = {
            "sources": found, "heuristics": "v1", "keywords": given.get("keywords", []),
            "awaitCompletionInterval": given.get("awaitInterval", 5.0)}
        if id:
            specification["id"] = id
        if file_prefix:
            specification["filePrefix"] = file_prefix
        return await self._start(specification)

    async def StartDaqV2(self, specification: str | Document) -> Document:  # noqa: N802
        """Create and start an acquisition from a StartDaqV2 specification."""
        return await self._start(_json(specification, "the specification"))

    async def StopDaq(self, id: str) -> Document:  # noqa: N802
        """Stop an acquisition and keep its data."""
        return await self._stop(id, "StopDaq", force=False)

    async def ForceStopDaq(self, id: str) -> Document:  # noqa: N802
        """Stop an acquisition even if sources fail."""
        return await self._stop(id, "ForceStopDaq", force=True)

    async def AbortDaq(self, id: str) -> Document:  # noqa: N802
        """Abort a DAQ in any phase and discard its data."""
        return await self._abort(id, force=False)

    async def ForceAbortDaq(self, id: str) -> Document:  # noqa: N802
        """Abort a DAQ in any phase even if sources fail."""
        return await self._abort(id, force=True)

    async def UpdateKeywords(self, id: str, keywords: str | list[Document]) -> Document:  # noqa: N802
        """Add or replace keywords of an acquisition; durable before the reply."""
        acquisition = self._get(id, "UpdateKeywords")
        given = _json(keywords, "keywords")
        schema.check("keywords", given, "keywords")
        if acquisition.is_sealed():
            raise errors.BadData("keywords are no longer accepted: the inputs are sealed",
                                 "give them before the acquisition stops", id)
        self._spool.log(id, "keywords", stage="acquire", keywords=fold([], given))
        self._feed.refresh(id)
        return self._reply(id, False)

    async def AwaitDaqState(self, id: str, state: str, substate: str = "",  # noqa: N802
                            timeout: float = 0.0) -> Document:
        """Reply when the DAQ reaches the state, no longer can, or time runs out."""
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise errors.BadData(f"timeout {timeout!r} is not allowed",
                                 "give seconds above 0", id)
        _check_state(state, substate, id)
        now, reached = await self._feed.wait(names.check_id(id), state, substate, float(timeout))
        return {"status": now, "timeout": reached is None, "reached": bool(reached)}

    async def GetStatus(self, id: str) -> Document:  # noqa: N802
        """Return the status of a DAQ, also of one that has ended."""
        now = status.derive(self._spool, names.check_id(id))
        if now is None:
            raise errors.NoJob(f"no DAQ has the id {id!r}", "see daq.getactivelist", id)
        return now

    async def GetDaqStatus(self, id: str) -> Document:  # noqa: N802
        """Return the status of a DAQ; the interface's older name of GetStatus."""
        return await self.GetStatus(id)

    async def GetActiveList(self) -> list[Document]:  # noqa: N802
        """Return the status of every DAQ that is not in StateCompleted."""
        return self._feed.active()

    # -- what they share ----------------------------------------------------------------------

    def _get(self, identifier: str, command: str) -> Acquisition:
        acquisition = self._running.get(names.check_id(identifier))
        if acquisition is not None:
            return acquisition
        now = status.derive(self._spool, identifier)
        if now is None:
            raise errors.NoJob(f"no DAQ has the id {identifier!r}", "see daq.getactivelist",
                               identifier)
        raise errors.BadData(f"{command} is not accepted in {now['state']} {now['substate']}",
                             "it is for DAQs in StateAcquiring", identifier)

    def _reply(self, identifier: str, trouble: bool) -> Document:
        now = status.derive(self._spool, identifier)
        return {"id": identifier, "error": trouble or bool(now and now["error"])}

    async def _start(self, specification: Any) -> Document:
        job.check(specification)
        # made only to refuse an unknown scheme or a bad URI before anything is written
        made_for = [(entry["type"], sources.make(entry, "", 1.0).endpoint)
                    for entry in specification["sources"] if entry["type"] in job.LIVE]
        wanted = [endpoint for kind, endpoint in made_for if kind == "primarySource"]
        self._check_primary(wanted, list(self._running.values()))
        capacity.check_floor(self._spool, self._site.settings)
        instrument = str(specification.get("instrument", self._site.settings["instrument_id"]))
        made = job.new({**specification, "instrument": instrument})
        identifier = self._submit(made, instrument)
        acquisition = self._running.get(identifier) or self._take(identifier)
        await acquisition.start()
        return self._reply(identifier, False)

    def _submit(self, made: Document, instrument: str) -> str:
        # asked before the job's lock is waited for, which would hold up everybody
        identifier = str(made.get("id", ""))
        fresh = not (identifier and self._spool.places(identifier))
        if fresh:
            identifier, fresh = job.submit(self._spool, made, "acquire", instrument)
        if not fresh:
            raise errors.BadData(f"the id {identifier} is in use", "use another id", identifier)
        return identifier

    @staticmethod
    def _check_primary(wanted: list[str], others: list[Acquisition]) -> None:
        """Refuse to share a primary source: its commands act on whatever it records (#55)."""
        twice = {endpoint for endpoint in wanted if wanted.count(endpoint) > 1}
        if twice:
            raise errors.BadData(f"two primary sources are the same: {twice.pop()}",
                                 "name each source once")
        for acquisition in others:
            shared = set(wanted) & acquisition.primary_endpoints()
            if shared:
                raise errors.BadData(f"primary source {shared.pop()} is in use by "
                                     f"{acquisition.id}", "stop or abort that one first")

    def _take(self, identifier: str) -> Acquisition:
        """Take a job in ``acquire/`` under control.

        Raises:
            errors.DaqError: it is gone, being worked on, or not valid.
        """
        lock = self._spool.lock(identifier, "acquire")
        if lock is None:
            raise errors.Later("somebody is at work on this job", "see daq-status", identifier)
        try:
            acquisition = Acquisition(self._site, job.read(self._spool, identifier, "acquire"),
                                      lock)
        except BaseException:
            self._spool.release(identifier, lock)
            raise
        self._running[identifier] = acquisition
        return acquisition

    async def _stop(self, identifier: str, command: str, *, force: bool) -> Document:
        acquisition = self._get(identifier, command)
        try:
            return self._reply(identifier, await acquisition.stop(force=force))
        except Left:
            self._get(identifier, command)  # tells where it went
            raise

    async def _abort(self, identifier: str, *, force: bool) -> Document:
        acquisition = self._running.get(names.check_id(identifier))
        if acquisition is not None:
            with contextlib.suppress(Left):
                return self._reply(identifier, await acquisition.abort(force=force))
        events = self._spool.events(identifier)
        if self._spool.place(identifier) == "done" and not history.last(events, "aborted"):
            raise errors.BadData("AbortDaq is not accepted in StateCompleted Completed",
                                 "its data are kept: see daq-status", identifier)
        # beyond acquire/: ends the worker, which takes a while, so not in the event loop
        await asyncio.to_thread(abort.abort, self._spool, identifier)
        self._feed.refresh(identifier)
        return self._reply(identifier, False)

    # -- jobs that appear in acquire/, and those of an earlier daemon ---------------------------

    def ended(self, identifier: str) -> None:
        """Forget an acquisition that has left our hands."""
        self._running.pop(identifier, None)

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
            acquisition = self._take(identifier)
        except job.Unreadable as error:
            name = self._spool.to_bad("acquire", f"{identifier}.json", error.message)
            cli.warn(f"{identifier}: {error.message}; moved to bad/{name}")
            return
        except errors.BadData as error:
            self._refuse(identifier, error)
            return
        except errors.DaqError:
            return  # half-written or just gone: the next scan looks again
        task = asyncio.create_task(self._adopt(acquisition))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse(self, identifier: str, error: errors.DaqError) -> None:
        """Put a job that can never be started into ``failed/``."""
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
        cli.warn(f"{identifier}: {error}; moved to failed/")

    async def _adopt(self, acquisition: Acquisition) -> None:
        try:
            await self._begin(acquisition)
        except errors.DaqError as error:  # its log tells, too; there is nobody to reply to
            cli.warn(f"{acquisition.id}: {error}")
        except OSError as error:
            cli.warn(f"{acquisition.id}: {cli.from_os_error(error)}")

    async def _begin(self, acquisition: Acquisition) -> None:
        events = self._spool.events(acquisition.id)
        failed = history.last(events, "fail")
        if failed and acquisition.has_begun():
            again = "an acquisition is not repeated under its id: submit it anew"
            reason = str(failed.get("reason", ""))
            await acquisition.fail(reason if again in reason else f"{reason} ({again})")
        elif acquisition.has_begun() or acquisition.substate not in ("NotStarted", "Starting"):
            await self._resume(acquisition)
        elif reason := self._too_late(acquisition):
            await acquisition.fail(reason)
        else:
            job.accept(self._spool, acquisition.id, acquisition.document, "acquire",
                       self._site.settings["instrument_id"])
            await acquisition.start()

    async def _resume(self, acquisition: Acquisition) -> None:
        limit = float(self._site.settings["daq.stale_acquiring_hours"]) * 3600.0
        age = clock.now() - _created(acquisition)
        if age > limit and not await acquisition.answers():
            await acquisition.archive(f"given up after {age / 3600.0:.0f} h without an answer")
        else:
            await acquisition.resume()

    def _too_late(self, acquisition: Acquisition) -> str:
        """Return why a job that nobody began must not be started now, or an empty text."""
        events = self._spool.events(acquisition.id)
        if any(event["event"] == "submitted" and event["by"] == self._spool.by
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
        try:
            self._check_primary(sorted(acquisition.primary_endpoints()),
                                self._before(acquisition))
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

    async def release(self) -> None:
        """Let go of every acquisition; the sources go on, the next daemon takes over."""
        for acquisition in list(self._running.values()):
            acquisition.release()


def _created(acquisition: Acquisition) -> float:
    """Return when a job was created, seconds since the epoch: its word, else its file's ctime."""
    try:
        return clock.from_iso(str(acquisition.document["created"]))
    except (KeyError, ValueError):
        return acquisition.ctime


def _json(text: Any, what: str) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.BadData(f"{what} is not JSON: {error}", "see the schema") from error


def _v1_sources(text: str, kind: str) -> list[Document]:
    found = []
    for word in text.split():
        match = _V1_SOURCE.fullmatch(word)
        if not match:
            raise errors.BadData(f"{word!r} is no source",
                                 "write <name>@<uri>, separated by blanks")
        found.append({"type": kind, "sourceName": match[1], "rrUri": match[2]})
    return found


def _check_state(state: str, substate: str, identifier: str) -> None:
    states = {**status.STATE_OF, **status.ABORT_STATE_OF}
    if state not in states.values() or (substate and substate not in states):
        raise errors.BadData(f"{state!r} {substate!r} is no state",
                             f"states: {', '.join(dict.fromkeys(states.values()))}; "
                             f"substates: {', '.join(states)}", identifier)
    if substate and states[substate] != state and substate != "Aborting":
        raise errors.BadData(f"{substate} is no substate of {state}",
                             f"it belongs to {states[substate]}", identifier)

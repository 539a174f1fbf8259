"""The acquisition control interface ``daqif.OcmDaqControl`` (ESO-396401 section 13.1).

Method names and parameters are those of the interface; documents are plain JSON objects. Which
command is accepted in which substate is told by :mod:`daq_ctl.states`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from daq_ctl import keywords as keyword_rules
from daq_ctl import sources, stale, states
from daq_ctl.acquisition import Acquisition, Site
from daq_ctl.custody import Custody
from daq_ctl.journal import durably
from daq_ctl.turns import Left
from daqlib import abort, capacity, cli, errors, job, names, schema, status, strictjson
from daqlib.feed import Feed
from daqlib.product import fold

log = logging.getLogger("daq.ocm.manager")

Document = dict[str, Any]
_V1_SOURCE = re.compile(r"([^@\s]+)@(\S+)")
_FORMATS = "docs/formats.md"  # where the arguments are described


class Control:
    """The commands on the acquisitions."""

    EXCEPTION = "daqif::DaqException"

    def __init__(self, site: Site, feed: Feed) -> None:
        """Take the site and the feed that the acquisitions are published through."""
        self._site = site
        self._feed = feed
        self._spool = site.spool
        self._custody = Custody(site)
        self._submitting: set[asyncio.Task[Acquisition]] = set()
        feed.before_scanning = self._archive_stale

    def seen(self, identifier: str, place: str) -> None:
        """Take note of where a job lies."""
        self._custody.seen(identifier, place)

    def ended(self, identifier: str) -> None:
        """Forget an acquisition that has left our hands."""
        self._custody.ended(identifier)

    async def release(self) -> None:
        """Let go of every acquisition; the sources go on, the next daemon takes over."""
        await self._custody.release()

    async def _archive_stale(self) -> None:
        limit = float(self._site.settings["daq.stale_merging_hours"])
        for identifier in await durably(lambda: stale.archive(self._spool, limit)):
            log.warning("%s: stale, moved to failed/", identifier)

    # -- commands of the interface ------------------------------------------------------------

    async def StartDaq(self, id: str = "", file_prefix: str = "", prim_sources: str = "",  # noqa: N802
                       meta_sources: str = "", properties: str = "",
                       allow_shared: bool = False) -> Document:
        """Create and start an acquisition with the version 1 merge heuristics."""
        for name, text in (("prim_sources", prim_sources), ("meta_sources", meta_sources)):
            if not isinstance(text, str):
                raise errors.BadData(f"{name} is no text", "write '<name>@<uri> <name>@<uri> ...'")
        given = strictjson.given(properties, "properties", _FORMATS) if properties else {}
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
        return await self._start(specification, allow_shared)

    async def StartDaqV2(self, specification: str | Document,  # noqa: N802
                         allow_shared: bool = False) -> Document:
        """Create and start an acquisition from a StartDaqV2 specification."""
        given = strictjson.given(specification, "the specification", _FORMATS)
        return await self._start(given, allow_shared)

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

    async def PauseDaq(self, id: str) -> Document:  # noqa: N802
        """Pause the primary sources of an acquisition."""
        await (await self._controlled(id, "PauseDaq")).pause()
        return self._reply(id, False)

    async def ContinueDaq(self, id: str) -> Document:  # noqa: N802
        """Go on with the primary sources of an acquisition that was paused."""
        await (await self._controlled(id, "ContinueDaq")).proceed()
        return self._reply(id, False)

    async def UpdateKeywords(self, id: str, keywords: str | list[Document]) -> Document:  # noqa: N802
        """Add or replace keywords of an acquisition; durable before the reply."""
        acquisition = await self._controlled(id, "UpdateKeywords")
        with _naming(id):
            given = strictjson.given(keywords, "keywords", _FORMATS)
            schema.check("keywords", given, "keywords")
            made = keyword_rules.accepted(self._site.dictionaries, given, "keywords")
        await acquisition.update_keywords(fold([], made))
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
        now = self._known(names.check_id(id))
        acquisition = self._custody.get(id)
        if acquisition is not None and (told := acquisition.progress()):
            now["progress"] = told._asdict()
        return now

    async def GetDaqStatus(self, id: str) -> Document:  # noqa: N802
        """Return the status of a DAQ; the interface's older name of GetStatus."""
        return await self.GetStatus(id)

    async def GetActiveList(self) -> list[Document]:  # noqa: N802
        """Return the status of every DAQ that is not in StateCompleted."""
        return await self._feed.active()

    # -- what they share ----------------------------------------------------------------------

    async def _submitted(self, identifier: str) -> None:
        """Wait while a start is writing this job: it is seen before it is under control."""
        pending = set(self._submitting)
        while (pending and self._custody.get(identifier) is None
               and self._spool.place(identifier) == "acquire"):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)

    async def _controlled(self, identifier: str, command: str) -> Acquisition:
        """Return an acquisition under control, on which a command may be tried.

        Raises:
            errors.NoJob: there is no such DAQ.
            errors.BadData: it is past the phase of the command, or at rest.
        """
        await self._submitted(names.check_id(identifier))
        acquisition = self._custody.get(identifier)
        if acquisition is not None:
            return acquisition
        now = self._known(identifier)
        where = f"{now['state']} {now['substate']}"
        states.check_daq(identifier, now["substate"], command, where)
        place = self._spool.place(identifier)
        if not place:
            raise errors.BadData(f"{command} is not accepted: the job file was removed, {where}",
                                 "put it back into acquire/", identifier)
        raise errors.BadData(f"{command} is not accepted: the job is in {place}, {where}",
                             f"put it back, or: daq-ctl daq.abort {identifier}", identifier)

    def _known(self, identifier: str) -> Document:
        """Return the status of a DAQ, wherever it is.

        Raises:
            errors.NoJob: there is none; an id that was reserved for a start that came to nothing
                is none, and the start can be repeated.
        """
        now = status.derive(self._spool, identifier)
        if now is None or (now["substate"] == "NotStarted" and not self._spool.place(identifier)):
            raise errors.NoJob(f"no DAQ has the id {identifier!r}", "see daq.getactivelist",
                               identifier)
        return now

    def _reply(self, identifier: str, trouble: bool) -> Document:
        now = status.derive(self._spool, identifier)
        return {"id": identifier, "error": trouble or bool(now and now["error"])}

    async def _start(self, given: Any, shared: bool) -> Document:
        if not isinstance(shared, bool):
            raise errors.BadData(f"allow_shared {shared!r} is not allowed", "give true or false")
        if shared and isinstance(given, dict):
            given = {**given, "allowShared": True}
        job.check(given)
        specification = keyword_rules.accepted_specification(self._site.dictionaries, given)
        wanted = await self._checked(
            [entry for entry in specification["sources"] if entry["type"] in job.LIVE])
        with self._custody.claim(wanted, shared=bool(specification.get("allowShared"))):
            capacity.check_floor(self._spool, self._site.settings)
            submitting = asyncio.create_task(self._submit(specification))
            self._submitting.add(submitting)
            submitting.add_done_callback(self._submitting.discard)
            acquisition = await submitting
        await acquisition.start()
        return self._reply(acquisition.id, False)

    async def _checked(self, entries: list[Document]) -> list[str]:
        """Return where the primary sources are; bad ones are refused before anything is written.

        A directory or a program may lie on a file system that hangs: in a thread of its own it
        holds nobody up.
        """
        limit = float(self._site.settings["request_timeout_sec"])
        thread = ThreadPoolExecutor(1, "check")
        try:
            async with asyncio.timeout(limit):
                return await asyncio.get_running_loop().run_in_executor(thread, lambda: [
                    made.endpoint for made, entry in [
                        (sources.make(sources.Order(entry, settings=self._site.settings)), entry)
                        for entry in entries] if entry["type"] == "primarySource"])
        except TimeoutError:
            raise errors.Unavailable(
                f"its sources could not be checked within {limit:g} s",
                "look at the file systems of the directories and programs that they name") from None
        finally:
            thread.shutdown(wait=False)

    async def _submit(self, specification: Document) -> Acquisition:
        """Write the job and take it under control; nobody else can take it up in between."""
        instrument = str(specification.get("instrument", self._site.settings["instrument_id"]))
        made = job.new({**specification, "instrument": instrument})
        identifier = str(made.get("id", ""))
        # asked before the job's lock is waited for
        if not (identifier and self._spool.places(identifier)):
            try:
                submitted = await durably(
                    lambda: job.submit_locked(self._spool, made, "acquire", instrument))
            except OSError as error:
                raise cli.from_os_error(error) from error
            if submitted.fresh:
                return self._custody.take(submitted.id, submitted.lock)
            self._spool.release(submitted.id, submitted.lock)
        raise errors.BadData(f"the id {identifier} is in use", "use another id", identifier)

    async def _stop(self, identifier: str, command: str, *, force: bool) -> Document:
        acquisition = await self._controlled(identifier, command)
        try:
            return self._reply(identifier, await acquisition.stop(force=force))
        except Left:
            await self._controlled(identifier, command)  # tells where it went
            raise

    async def _abort(self, identifier: str, *, force: bool) -> Document:
        await self._submitted(names.check_id(identifier))
        for _ in range(2):  # a start that it interrupts is given up, perhaps not by every source
            acquisition = self._with_sources(identifier, force=force)
            if acquisition is None:
                break
            with contextlib.suppress(Left):
                return self._reply(identifier, await acquisition.abort(force=force))
        now = self._known(identifier)
        states.check_daq(identifier, now["substate"], "ForceAbortDaq" if force else "AbortDaq",
                         f"{now['state']} {now['substate']}")
        # beyond acquire/: ends the worker, which takes a while, so not in the event loop
        left = abort.recording(self._spool.events(identifier))
        try:
            await asyncio.to_thread(abort.abort, self._spool, identifier, force=force,
                                    settings=self._site.settings)
        except OSError as error:
            raise cli.from_os_error(error) from error
        self._feed.refresh(identifier)
        return self._reply(identifier, bool(left))

    def _with_sources(self, identifier: str, *, force: bool) -> Acquisition | None:
        """Return the acquisition if it is one whose sources may record: they come first."""
        try:
            return self._custody.get(identifier) or self._custody.stray(identifier)
        except errors.DaqError:
            if force:
                return None
            raise


@contextlib.contextmanager
def _naming(identifier: str) -> Iterator[None]:
    """Let a refusal name the acquisition that the command was for (manual 13.4, DaqException)."""
    try:
        yield
    except errors.DaqError as error:
        error.job = error.job or identifier
        raise


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
    are_texts = isinstance(state, str) and isinstance(substate, str)
    if not are_texts or state not in states.values() or (substate and substate not in states):
        raise errors.BadData(f"{state!r} {substate!r} is no state",
                             f"states: {', '.join(dict.fromkeys(states.values()))}; "
                             f"substates: {', '.join(states)}", identifier)
    if substate and states[substate] != state and substate != "Aborting":
        raise errors.BadData(f"{substate} is no substate of {state}",
                             f"it belongs to {states[substate]}", identifier)

"""What the log says of an acquisition, and how it is told more: in batches, off the event loop.

An ``fsync`` can take long when the disk is busy. It happens in a thread, so that it delays this
acquisition and no other; one append covers a whole group of sources.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from daq_ctl import live, states
from daq_ctl.live import Live
from daqlib import logs
from daqlib.history import Event, Told
from daqlib.spool import Spool

T = TypeVar("T")
log = logging.getLogger("daq.ocm.controller")

# threads of our own: those of the loop may all be busy waiting for a worker to end
_WRITERS = ThreadPoolExecutor(8, thread_name_prefix="durable")


async def durably(work: Callable[[], T]) -> T:
    """Run what blocks on the disk in a thread; a cancelled caller learns so when it has ended.

    Otherwise a step that was cancelled could reach the log after the step that took its place.
    """
    task = asyncio.get_running_loop().run_in_executor(_WRITERS, work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        raise


class Journal:
    """The log of an acquisition and what it says now; one writer at a time.

    Attributes:
        job: the id.
        substate: the newest one.
        sealed: whether the inputs are complete.
        away: whether the job was moved out of ``acquire/`` while it recorded.
    """

    def __init__(self, spool: Spool, job: str, sources: list[Live],
                 changed: Callable[[str], None]) -> None:
        """Read what the log says.

        Args:
            spool: the spool.
            job: the id.
            sources: whose phases, deliveries and troubles follow the log.
            changed: called with the id after every write.
        """
        self._spool, self.job, self._changed = spool, job, changed
        self._sources = sources
        self._writing = asyncio.Lock()
        self._state: Event = {}
        self.substate = "NotStarted"
        self.sealed = self.away = False
        self._note(spool.events(job))

    def _note(self, events: list[Event]) -> None:
        live.recall(self._sources, events)
        for event in events:
            name = event["event"]
            if name == "state":
                self._state, self.substate = event, str(event["substate"])
            elif name == "sealed" and event.get("stage") == "acquire":
                self.sealed = True
            elif event.get("id") == "moved-away":
                self.away = name == "alert"

    def fact(self, name: str) -> str:
        """Return what belongs to the newest substate, such as its ``reason``, or an empty text."""
        return str(self._state.get(name) or "")

    async def settled(self) -> None:
        """Wait until what is being written is on record and known here."""
        async with self._writing:
            pass

    async def write(self, *told: Told, command: str = "") -> None:
        """Record events in one durable append; what they say then holds here, too.

        Args:
            told: the events; none is no write.
            command: the command that must be accepted at the moment of the write, if any.

        Raises:
            errors.BadData: the command is not accepted.
            OSError: nothing was recorded; what the events announce must then not happen.
        """
        if not told:
            return
        async with self._writing:
            if command:
                states.check_daq(self.job, self.substate, command)
            events = [(event, {"stage": "acquire", **facts}) for event, facts in told]
            recorded = False

            def record() -> None:
                nonlocal recorded
                self._spool.log_all(self.job, events)
                recorded = True

            try:
                await durably(record)
            finally:
                if recorded:
                    self._recorded(events)

    def _recorded(self, events: list[Told]) -> None:
        self._note([{"event": event, **facts} for event, facts in events])
        for event, facts in events:
            logs.event(event, daq=self.job, **facts)
            if event == "alert":
                log.warning("%s: %s", self.job, facts["description"])
        self._changed(self.job)

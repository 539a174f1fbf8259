"""Metadata sources with the metadaqif interface (ESO-396401, sections 7 and 9.2)."""

from __future__ import annotations

from typing import Any

from daq_ctl import sources
from daq_ctl.sources import Delivery, Metadata
from daq_ctl.sources.peer import Peer, Status
from daqlib import errors


class Metadaqif(Peer, Metadata):
    """A session of a metadata source."""

    path = "daq"
    query = "GetDaqStatus"
    key = "state"
    live = ("Starting", "Acquiring")
    stoppable = (*live, "Stopping")
    ended = ("Succeeded", "Stopping")
    failed = ("Failed", "Aborted", "Aborting")
    by_id = True

    def own(self, reply: Any) -> Status:
        """Return any status: the query is by id, and a reply need not repeat it."""
        return reply if isinstance(reply, dict) else {}

    async def start(self) -> None:
        """Begin a session under the acquisition's id."""
        await self.begin("StartDaq", id=self.job)

    async def stop(self, patience: float) -> Delivery:
        """Stop the session, or accept that it is stopped, and return what it brought."""
        status = await self.look_before()
        if not status or status.get(self.key) in self.stoppable:
            status = await self.end("StopDaq", patience, id=self.job)
        if not status:
            raise self.unknown()
        state = status.get(self.key)
        if state in ("Failed", "Aborted"):
            raise errors.BadData(f"its session has {state.lower()}: "
                                 f"{status.get('message', '')}".rstrip(": "))
        files, fault = sources.locations(status.get("files"))
        keywords, wrong = sources.keywords(status.get("keywords", ""))
        return Delivery(files, keywords, fault, wrong)

    async def abort(self) -> None:
        """Abort the session; one that is not there or has ended is left alone."""
        await self.discard("AbortDaq", id=self.job)

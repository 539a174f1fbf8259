"""Metadata sources with the metadaqif interface (ESO-396401 section 11.1; eso-daq section 5.2)."""

from __future__ import annotations

import json
from typing import Any

from daq_ctl import sources
from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Delivery
from daqlib import errors, rpc, schema

_LIVE = ("Starting", "Acquiring")
_STOPPABLE = (*_LIVE, "Stopping")


class Metadaqif:
    """A session of a metadata source; see :class:`daq_ctl.sources.Source`."""

    def __init__(self, name: str, endpoint: str, job: str, timeout: float) -> None:
        """See :class:`daq_ctl.sources.Source`."""
        self.name = name
        self.endpoint = sources.endpoint(endpoint, "daq")
        self.job = job
        self.timeout = timeout

    async def _call(self, command: str) -> Any:
        return await rpc.acall(self.endpoint, command, {"id": self.job}, self.timeout)

    async def _status(self) -> dict[str, Any]:
        try:
            status = await self._call("GetDaqStatus")
        except rpc.RemoteError:
            return {}
        return status if isinstance(status, dict) else {}

    async def start(self) -> None:
        """Begin a session under the acquisition's id."""
        try:
            await self._call("StartDaq")
        except (rpc.RpcTimeout, rpc.Lost) as error:
            # the request may have arrived: ask, never start twice
            if not await self._records():
                raise error from None

    async def _records(self) -> bool:
        try:
            return await self.status() == RECORDING
        except errors.DaqError:
            return False

    async def wait(self, seconds: float) -> bool:
        """Tell False: a metadata source never ends by itself."""
        return False

    async def stop(self, patience: float) -> Delivery:
        """Stop the session, or accept that it is stopped, and return what it brought."""
        status = await self._status()
        if status.get("state") in _STOPPABLE:
            status = await self._stopped(patience)
        state = status.get("state")
        if state in ("Failed", "Aborted"):
            raise errors.BadData(f"source {self.name}: its session has {state.lower()}: "
                                 f"{status.get('message', '')}".rstrip(": "))
        if not status:
            raise errors.Unavailable(f"source {self.name} does not know this session",
                                     "look at the source; daq.forcestop goes on without it")
        files, fault = sources.locations(status.get("files"))
        keywords, wrong = _keywords(status.get("keywords", ""))
        return Delivery(files, keywords, wrong or fault)

    async def _stopped(self, patience: float) -> dict[str, Any]:
        """Stop the session; return the reply, or its status when there was no good one."""
        try:
            reply = await self._call("StopDaq")
            return reply if isinstance(reply, dict) else await self._status()
        except (rpc.RemoteError, rpc.RpcTimeout) as error:
            # it ended a moment before, or is writing its files
            late = isinstance(error, rpc.RpcTimeout)
            status = await sources.settled(self._status, "state", _STOPPABLE,
                                           patience if late else 0)
            if status.get("state") in _STOPPABLE:
                raise error from None
            return status

    async def abort(self) -> None:
        """Abort the session; one that is not there or has ended is left alone."""
        if (await self._status()).get("state") not in (*_STOPPABLE, "Aborting"):
            return
        try:
            await self._call("AbortDaq")
        except rpc.RemoteError:
            if (await self._status()).get("state") in _STOPPABLE:  # else it ended a moment before
                raise

    async def status(self) -> str:
        """Return what the source says of our session."""
        state = (await self._status()).get("state")
        if state in _LIVE:
            return RECORDING
        if state in ("Succeeded", "Stopping"):
            return ENDED
        return FAILED if state in ("Failed", "Aborted", "Aborting") else ABSENT


def _keywords(text: Any) -> tuple[list[dict[str, Any]], str]:
    """Return valid keywords, or none and why (manual 9.1.3: invalid ones are an error)."""
    try:
        keywords = json.loads(text) if isinstance(text, str) and text else text or []
        schema.check("keywords", keywords, "keywords")
    except (ValueError, errors.BadData) as error:
        return [], f"its keywords are not valid: {error}"
    return keywords, ""

"""Metadata sources with the metadaqif interface (ESO-396401 section 11.1; eso-daq section 5.2)."""

from __future__ import annotations

import json
from typing import Any

from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Delivery
from daqlib import errors, rpc, schema, uri

_LIVE = ("Starting", "Acquiring")


class Metadaqif:
    """A session of a metadata source; see :class:`daq_ctl.sources.Source`."""

    def __init__(self, name: str, endpoint: str, job: str, timeout: float) -> None:
        """See :class:`daq_ctl.sources.Source`."""
        parsed = uri.parse(endpoint)
        self.name = name
        self.endpoint = str(parsed if parsed.path else uri.with_path(parsed, "daq"))
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
        except (rpc.RpcTimeout, rpc.Lost):
            # the request may have arrived: ask, never start twice
            if await self.status() != RECORDING:
                raise

    async def wait(self, seconds: float) -> bool:
        """Tell False: a metadata source never ends by itself."""
        return False

    async def stop(self) -> Delivery:
        """Stop the session, or accept that it is stopped, and return what it brought."""
        status = await self._status()
        state = status.get("state")
        if state in (*_LIVE, "Stopping"):
            status = await self._call("StopDaq")
        elif state in ("Failed", "Aborted"):
            raise errors.BadData(f"source {self.name}: its session has {state.lower()}: "
                                 f"{status.get('message', '')}".rstrip(": "))
        elif not status:
            raise errors.Unavailable(f"source {self.name} does not know this session",
                                     "look at the source; daq.forcestop goes on without it")
        keywords, fault = _keywords(status.get("keywords", ""))
        return Delivery([str(file) for file in status.get("files", [])], keywords, fault)

    async def abort(self) -> None:
        """Abort the session; one that is not there or has ended is left alone."""
        if (await self._status()).get("state") in (*_LIVE, "Stopping", "Aborting"):
            await self._call("AbortDaq")

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

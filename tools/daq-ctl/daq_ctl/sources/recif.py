"""Primary sources with the recif interface (ESO-396401 section 11.1; eso-daq section 5.1).

RecStop, RecAbort and RecWait act on the one current recording, whoever began it. The adapter
therefore gives every recording the acquisition's id and looks at it before it acts.
"""

from __future__ import annotations

from typing import Any

from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Delivery
from daqlib import errors, rpc, uri

_GONE_BY_ITSELF = ("Completed", "Stopped")
_LIVE = ("Active", "Paused")
_WAIT_MARGIN = 2.0  # seconds for the reply to a wait that ran its full time


class Recif:
    """A recording of a detector; see :class:`daq_ctl.sources.Source`."""

    def __init__(self, name: str, endpoint: str, job: str, timeout: float) -> None:
        """See :class:`daq_ctl.sources.Source`."""
        parsed = uri.parse(endpoint)
        self.name = name
        self.endpoint = str(parsed if parsed.path else uri.with_path(parsed, "rec"))
        self.job = job
        self.timeout = timeout

    async def _call(self, command: str, limit: float = 0.0, **params: Any) -> Any:
        return await rpc.acall(self.endpoint, command, params, limit or self.timeout)

    async def _status(self) -> dict[str, Any]:
        """Return the RecStatus of our recording, empty when the source does not know it."""
        try:
            status = await self._call("RecStatus", id=self.job)
        except rpc.RemoteError:
            return {}
        return status if isinstance(status, dict) and status.get("id") == self.job else {}

    async def start(self) -> None:
        """Begin a recording that bears the acquisition's id."""
        try:
            await self._call("RecStart", properties={"id": self.job})
        except (rpc.RpcTimeout, rpc.Lost):
            # the request may have arrived: ask, never start twice
            if await self.status() != RECORDING:
                raise

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the recording; a failed one has ended, too."""
        status = await self._status()
        if status.get("status") in _LIVE:
            reply = await self._call("RecWait", seconds + _WAIT_MARGIN, timeout=seconds)
            status = reply.get("recStatus", {}) if isinstance(reply, dict) else {}
        if not status:
            raise errors.Unavailable(f"source {self.name} does not know this recording",
                                     "look at the source; daq.forcestop goes on without it")
        return status.get("status") not in (*_LIVE, "Inactive", "Undefined")

    async def stop(self) -> Delivery:
        """Stop our recording if it still runs and return its files."""
        status = await self._status()
        if status.get("status") in _LIVE:
            reply = await self._call("RecStop")
            status = reply if isinstance(reply, dict) and "dpFiles" in reply else (
                await self._status())
        if not status:
            raise errors.Unavailable(f"source {self.name} does not know this recording",
                                     "look at the source; daq.forcestop goes on without it")
        ending = status.get("status")
        fault = "" if ending in _GONE_BY_ITSELF else f"its recording ended as {ending}"
        return Delivery([str(file) for file in status.get("dpFiles", [])], [], fault)

    async def abort(self) -> None:
        """Abort our recording; one of somebody else's is left alone."""
        status = await self._status()
        if status.get("status") in _LIVE:
            await self._call("RecAbort")

    async def status(self) -> str:
        """Return what the source says of our recording."""
        status = (await self._status()).get("status")
        if status in _LIVE:
            return RECORDING
        if status in _GONE_BY_ITSELF:
            return ENDED
        return FAILED if status in ("Failed", "Aborted") else ABSENT


"""Primary sources with the recif interface (ESO-396401 section 11.1; eso-daq section 5.1).

RecStop, RecAbort and RecWait act on the one current recording, whoever began it. The adapter
therefore gives every recording the acquisition's id and looks at it before it acts.
"""

from __future__ import annotations

from typing import Any

from daq_ctl import sources
from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Delivery
from daqlib import errors, rpc

_GONE_BY_ITSELF = ("Completed", "Stopped")
_LIVE = ("Active", "Paused")
_NOT_ENDED = (*_LIVE, "Inactive", "Undefined")
_WAIT_MARGIN = 2.0  # seconds for the reply to a wait that ran its full time


class Recif:
    """A recording of a detector; see :class:`daq_ctl.sources.Source`."""

    def __init__(self, name: str, endpoint: str, job: str, timeout: float) -> None:
        """See :class:`daq_ctl.sources.Source`."""
        self.name = name
        self.endpoint = sources.endpoint(endpoint, "rec")
        self.job = job
        self.timeout = timeout

    async def _call(self, command: str, limit: float = 0.0, **params: Any) -> Any:
        return await rpc.acall(self.endpoint, command, params, limit or self.timeout)

    def _own(self, reply: Any) -> dict[str, Any]:
        """Return a RecStatus if it is that of our recording, else an empty one."""
        return reply if isinstance(reply, dict) and reply.get("id") == self.job else {}

    async def _status(self) -> dict[str, Any]:
        """Return the RecStatus of our recording, empty when the source does not know it."""
        try:
            return self._own(await self._call("RecStatus", id=self.job))
        except rpc.RemoteError:
            return {}

    def _unknown(self) -> errors.Unavailable:
        return errors.Unavailable(f"source {self.name} does not know this recording",
                                  "look at the source; daq.forcestop goes on without it")

    async def start(self) -> None:
        """Begin a recording that bears the acquisition's id."""
        try:
            await self._call("RecStart", properties={"id": self.job})
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
        """Wait for the end of the recording; a failed one has ended, too."""
        status = await self._status()
        if status.get("status") in _LIVE:
            reply = await self._call("RecWait", seconds + _WAIT_MARGIN, timeout=seconds)
            # it waits for the current recording, which need not be ours any more
            waited = reply.get("recStatus") if isinstance(reply, dict) else None
            status = self._own(waited) or await self._status()
        if not status:
            raise self._unknown()
        return status.get("status") not in _NOT_ENDED

    async def stop(self, patience: float) -> Delivery:
        """Stop our recording if it still runs and return its files."""
        status = await self._status()
        if status.get("status") in _LIVE:
            status = await self._stopped(patience)
        if not status:
            raise self._unknown()
        files, fault = sources.locations(status.get("dpFiles"))
        ending = status.get("status")
        if ending not in _GONE_BY_ITSELF:
            fault = f"its recording ended as {ending}"
        return Delivery(files, [], fault)

    async def _stopped(self, patience: float) -> dict[str, Any]:
        try:
            return self._own(await self._call("RecStop")) or await self._status()
        except (rpc.RemoteError, rpc.RpcTimeout) as error:
            # it ended a moment before, or is writing its files
            late = isinstance(error, rpc.RpcTimeout)
            status = await sources.settled(self._status, "status", _LIVE, patience if late else 0)
            if status.get("status") in _LIVE:
                raise error from None
            return status

    async def abort(self) -> None:
        """Abort our recording; one of somebody else's is left alone."""
        if (await self._status()).get("status") not in _LIVE:
            return
        try:
            await self._call("RecAbort")
        except rpc.RemoteError:
            if (await self._status()).get("status") in _LIVE:  # else it ended a moment before
                raise

    async def status(self) -> str:
        """Return what the source says of our recording."""
        status = (await self._status()).get("status")
        if status in _LIVE:
            return RECORDING
        if status in _GONE_BY_ITSELF:
            return ENDED
        return FAILED if status in ("Failed", "Aborted") else ABSENT

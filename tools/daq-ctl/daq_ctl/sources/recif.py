"""Primary sources with the recif interface (ESO-396401, sections 7 and 9.2).

RecStop, RecAbort, RecPause, RecContinue and RecWait act on the one current recording, whoever
began it. The adapter therefore gives every recording the acquisition's id and looks at it before
it acts.
"""

from __future__ import annotations

from daq_ctl import sources
from daq_ctl.sources import Delivery
from daq_ctl.sources.options import Options
from daq_ctl.sources.peer import Peer

_WAIT_MARGIN = 2.0  # seconds for the reply to a wait that ran its full time


class Recif(Peer):
    """A recording of a detector."""

    path = "rec"
    query = "RecStatus"
    key = "status"
    live = ("Inactive", "Active", "Paused")  # one that is ours and Inactive waits for its startTime
    stoppable = live
    ended = ("Completed", "Stopped")
    failed = ("Failed", "Aborted")
    by_id = False

    def configure(self, options: Options) -> None:
        """See :class:`daq_ctl.sources.Source`."""
        super().configure(options)
        self.properties = {"id": self.job}
        if "startTime" in self.order.description:
            self.properties["startTime"] = str(self.order.description["startTime"])

    async def start(self) -> None:
        """Begin a recording that bears the acquisition's id, at its absolute time if it has one."""
        await self.begin("RecStart", properties=self.properties)

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the recording; a failed one has ended, too."""
        status = await self.look()
        if status.get(self.key) in self.live:
            reply = await self.ask("RecWait", seconds + _WAIT_MARGIN, timeout=seconds)
            # it waits for the current recording, which need not be ours any more
            waited = reply.get("recStatus") if isinstance(reply, dict) else None
            status = self.own(waited) or await self.look()
        if not status:
            raise self.unknown()
        return status.get(self.key) not in (*self.live, "Undefined")

    async def stop(self, patience: float) -> Delivery:
        """Stop our recording if it still runs and return its files."""
        status = await self.look()
        if status.get(self.key) in self.stoppable:
            status = self.own(await self.end("RecStop", patience)) or await self.look()
        if not status:
            raise self.unknown()
        files, fault = sources.locations(status.get("dpFiles"))
        ending = status.get(self.key)
        if ending not in self.ended:
            fault = f"its recording ended as {ending}"
        return Delivery(files, [], fault)

    async def abort(self) -> None:
        """Abort our recording; one of somebody else's is left alone."""
        await self.discard("RecAbort")

    async def pause(self) -> None:
        """Pause our recording unless it is paused."""
        await self._unless("Paused", "RecPause")

    async def resume(self) -> None:
        """Go on with our recording unless it goes on."""
        await self._unless("Active", "RecContinue")

    async def _unless(self, done: str, command: str) -> None:
        status = await self.look()
        if not status:
            raise self.unknown()
        if status.get(self.key) != done:
            await self.ask(command)

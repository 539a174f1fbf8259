"""What the adapters of ESO's two source interfaces share: ask, confirm, stop with patience.

Both interfaces lose replies in the same way, and both name a recording by the acquisition's id;
they differ in the names of commands and states, which a subclass gives.
"""

from __future__ import annotations

from typing import Any, ClassVar

from daq_ctl import sources
from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING
from daqlib import errors, rpc

Status = dict[str, Any]


class Peer:
    """A source behind a request endpoint; see :class:`daq_ctl.sources.Source`.

    Attributes:
        path: usual service path of the interface.
        query: command that returns the status of one recording by its id.
        key: member of the status that tells the state.
        live: states of a recording that goes on.
        stoppable: states in which a stop has something to wait for.
        ended: states of one that is over and whose files count.
        failed: states of one that is over otherwise.
    """

    path: ClassVar[str]
    query: ClassVar[str]
    key: ClassVar[str]
    live: ClassVar[tuple[str, ...]]
    stoppable: ClassVar[tuple[str, ...]]
    ended: ClassVar[tuple[str, ...]]
    failed: ClassVar[tuple[str, ...]]

    def __init__(self, name: str, endpoint: str, job: str, timeout: float) -> None:
        """See :class:`daq_ctl.sources.Source`."""
        self.name = name
        self.endpoint = sources.endpoint(endpoint, self.path)
        self.job = job
        self.timeout = timeout

    async def ask(self, command: str, limit: float = 0.0, **params: Any) -> Any:
        """Send one request; ``limit`` replaces the usual time for a reply."""
        return await rpc.acall(self.endpoint, command, params, limit or self.timeout)

    def own(self, reply: Any) -> Status:
        """Return a status if it is that of our recording, else an empty one."""
        return reply if isinstance(reply, dict) and reply.get("id") == self.job else {}

    async def look(self) -> Status:
        """Return the status of our recording, empty when the source does not know it."""
        try:
            return self.own(await self.ask(self.query, id=self.job))
        except rpc.RemoteError:
            return {}

    async def state(self) -> str:
        """Return the source's own word for the state of our recording."""
        return str((await self.look()).get(self.key, ""))

    def unknown(self) -> errors.Unavailable:
        """Return the error for a recording that the source does not know."""
        return errors.Unavailable(f"source {self.name} does not know this recording",
                                  "look at the source; daq.forcestop goes on without it")

    async def begin(self, command: str, **params: Any) -> None:
        """Send the start; when its reply is lost ask what became of it, never start twice."""
        try:
            await self.ask(command, **params)
        except (rpc.RpcTimeout, rpc.Lost) as error:
            if not await self._records():
                raise error from None

    async def _records(self) -> bool:
        try:
            return await self.status() == RECORDING
        except errors.DaqError:
            return False

    async def end(self, command: str, patience: float, **params: Any) -> Status:
        """Send the stop; return the final status even if the reply was none.

        Args:
            command: the stop.
            patience: seconds that the source may take to write its files.
            params: of the command.
        """
        try:
            reply = await self.ask(command, **params)
            return reply if isinstance(reply, dict) and reply else await self.look()
        except (rpc.RemoteError, rpc.RpcTimeout) as error:
            # it ended a moment before, or is writing its files
            late = isinstance(error, rpc.RpcTimeout)
            status = await sources.settled(self.look, self.key, self.stoppable,
                                           patience if late else 0)
            if status.get(self.key) in self.stoppable:
                raise error from None
            return status

    async def discard(self, command: str, **params: Any) -> None:
        """Send the abort if there is something to abort."""
        if await self.state() not in (*self.stoppable, "Aborting"):
            return
        try:
            await self.ask(command, **params)
        except rpc.RemoteError:
            if await self.state() in self.stoppable:  # else it ended a moment before
                raise

    async def status(self) -> str:
        """See :class:`daq_ctl.sources.Source`."""
        state = await self.state()
        if state in self.live:
            return RECORDING
        if state in self.ended:
            return ENDED
        return FAILED if state in self.failed else ABSENT

"""What the adapters of ESO's two source interfaces share: ask, confirm, stop with patience.

Both interfaces lose replies in the same way, and both name a recording by the acquisition's id;
they differ in the names of commands and states, which a subclass gives.
"""

from __future__ import annotations

from typing import Any, ClassVar

from daq_ctl import sources
from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Lacking, Source
from daq_ctl.sources.options import Options
from daqlib import errors, rpc

Status = dict[str, Any]

#: With these a service refuses that is suspended, busy, ending or broken: that says nothing of a
#: recording.
_NOT_ITSELF = (errors.Unavailable.code, errors.Later.code, errors.Bug.code)
#: After these nobody knows whether a command took effect, so the source is asked.
_UNSURE = (rpc.RemoteError, rpc.RpcTimeout, rpc.BadReply, Lacking)


class Peer(Source):
    """A source behind a request endpoint; see :class:`daq_ctl.sources.Source`.

    Attributes:
        path: usual service path of the interface.
        query: command that returns the status of one recording by its id.
        key: member of the status that tells the state.
        live: states of a recording that goes on.
        stoppable: states in which a stop has something to wait for.
        ended: states of one that is over and whose files count.
        failed: states of one that is over otherwise.
        by_id: whether stop and abort name the recording. They are then sent even if the source
            does not tell its state: it may yet obey. Otherwise they would act on whatever it
            records, which need not be ours.
    """

    path: ClassVar[str]
    query: ClassVar[str]
    key: ClassVar[str]
    live: ClassVar[tuple[str, ...]]
    stoppable: ClassVar[tuple[str, ...]]
    ended: ClassVar[tuple[str, ...]]
    failed: ClassVar[tuple[str, ...]]
    by_id: ClassVar[bool]

    takes_query = False

    def configure(self, options: Options) -> None:
        """Take the one spelling of its URI; it has no options."""
        self.endpoint = sources.endpoint(self.uri, self.path)

    async def ask(self, command: str, limit: float = 0.0, **params: Any) -> Any:
        """Send one request; ``limit`` replaces the usual time for a reply.

        Raises:
            Lacking: the source does not implement the command.
            errors.DaqError: it refused, or did not reply.
        """
        try:
            return await rpc.acall(self.endpoint, command, params, limit or self.timeout)
        except rpc.RemoteError as error:
            if not lacks(error):
                raise
            raise Lacking(f"it does not implement {command} ({error.message})") from error

    def own(self, reply: Any) -> Status:
        """Return a status if it is that of our recording, else an empty one."""
        return reply if isinstance(reply, dict) and reply.get("id") == self.job else {}

    async def look(self) -> Status:
        """Return the status of our recording, empty when the source does not know it.

        Raises:
            errors.DaqError: it was not told.
        """
        try:
            return self.own(await self.ask(self.query, id=self.job))
        except rpc.RemoteError as error:
            if error.code in _NOT_ITSELF:
                raise
            return {}

    async def look_before(self) -> Status:
        """Return the status before a command; empty when it is not told and need not be.

        Raises:
            errors.DaqError: it must be told, and is not.
        """
        try:
            return await self.look()
        except errors.DaqError:
            if self.by_id:
                return {}
            raise

    async def state(self) -> str:
        """Return the source's own word for the state of our recording."""
        return str((await self.look()).get(self.key, ""))

    def unknown(self) -> errors.Unavailable:
        """Return the error for a recording that the source does not know."""
        return errors.Unavailable("it does not know this recording",
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
        except _UNSURE as error:
            # it ended a moment before, or is writing its files
            late = isinstance(error, rpc.RpcTimeout)
            try:
                status = await sources.settled(self.look, self.key, self.stoppable,
                                               patience if late else 0)
            except errors.DaqError:
                raise error from None
            if status.get(self.key) in self.stoppable:
                raise error from None
            return status

    async def discard(self, command: str, **params: Any) -> None:
        """Send the abort if there is, or may be, something to abort."""
        state = str((await self.look_before()).get(self.key, ""))
        if state not in (*self.stoppable, "Aborting") and (state or not self.by_id):
            return
        try:
            await self.ask(command, **params)
        except _UNSURE as error:
            if await self._goes_on():  # else it ended a moment before, or did obey
                raise error from None

    async def _goes_on(self) -> bool:
        """Tell whether the recording goes on, as far as the source tells."""
        try:
            return await self.state() in self.stoppable
        except errors.DaqError:
            return True

    async def status(self) -> str:
        """See :class:`daq_ctl.sources.Source`."""
        state = await self.state()
        if state in self.live:
            return RECORDING
        if state in self.ended:
            return ENDED
        return FAILED if state in self.failed else ABSENT


def lacks(error: rpc.RemoteError) -> bool:
    """Tell whether a refusal means that the source does not have the command.

    Either it is not served, or the source says so in its own words: not every implementer of the
    recif interface has abort, pause and continue.
    """
    return error.rpc_code == rpc.METHOD_NOT_FOUND or "not implemented" in error.message.lower()

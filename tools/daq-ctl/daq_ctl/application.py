"""The standard interface ``stdif.StdCmds`` (ESO-396401 section 11.4): the daemon's own states."""

from __future__ import annotations

from collections.abc import Callable

from daq_ctl import states
from daqlib import daemon


class Application(daemon.Standard):
    """The application state machine; method names are those of the interface."""

    EXCEPTION = "stdif::ExceptionErr"

    def __init__(self, source: str, entered: Callable[[str], None], leave: Callable[[], None],
                 is_active: Callable[[], bool]) -> None:
        """Begin in NotOperational;NotReady.

        Args:
            source: name of this process instance, for the status topic.
            entered: called with the state after every transition.
            leave: called by Exit.
            is_active: tells whether any DAQ is on its way.
        """
        self.source = source
        self.state = "NotOperational;NotReady"
        self._entered = entered
        self._leave = leave
        self._is_active = is_active

    def text(self) -> str:
        """Return the state with the substate Idle or Active of Operational."""
        return states.application_text(self.state, self._is_active())

    def status(self) -> dict[str, str]:
        """Return ``stdif.Status``."""
        return {"status": self.text(), "source": self.source}

    def command(self, name: str) -> str:
        """Carry out a state command."""
        self.state = states.next_application(self.state, name)
        self._entered(self.state)
        return "OK"

    async def Init(self) -> str:  # noqa: N802
        """Go to NotOperational;Ready."""
        return self.command("Init")

    async def Reset(self) -> str:  # noqa: N802
        """Go back to NotOperational;NotReady."""
        return self.command("Reset")

    async def Enable(self) -> str:  # noqa: N802
        """Go to Operational: the acquisition control is served."""
        return self.command("Enable")

    async def Disable(self) -> str:  # noqa: N802
        """Leave Operational; acquisitions that run go on."""
        return self.command("Disable")

    async def Stop(self) -> str:  # noqa: N802
        """Leave Operational as Disable does."""
        return self.command("Stop")

    async def Exit(self) -> str:  # noqa: N802
        """End the daemon after this reply; sources that record go on recording."""
        self._leave()
        return "OK"

    async def GetState(self) -> str:  # noqa: N802
        """Return the state as ``State;Substate``."""
        return self.text()

    async def GetStatus(self) -> str:  # noqa: N802
        """Return the same as the status topic."""
        return self.text()

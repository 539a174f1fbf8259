"""The two state machines, each one table (ESO-396401 sections 9.2 and 11.3.1)."""

from __future__ import annotations

from daqlib import errors

#: Application: (state, command) -> next state. The substates Idle and Active of Operational
#: follow from the number of active acquisitions and are no transitions by command.
APPLICATION: dict[tuple[str, str], str] = {
    ("NotOperational;NotReady", "Init"): "NotOperational;Ready",
    ("NotOperational;NotReady", "Reset"): "NotOperational;NotReady",
    ("NotOperational;NotReady", "Stop"): "NotOperational;NotReady",
    ("NotOperational;Ready", "Init"): "NotOperational;Ready",
    ("NotOperational;Ready", "Enable"): "Operational",
    ("NotOperational;Ready", "Disable"): "NotOperational;Ready",
    ("NotOperational;Ready", "Reset"): "NotOperational;NotReady",
    ("NotOperational;Ready", "Stop"): "NotOperational;Ready",
    ("Operational", "Enable"): "Operational",
    ("Operational", "Disable"): "NotOperational;Ready",
    ("Operational", "Reset"): "NotOperational;NotReady",
    ("Operational", "Stop"): "NotOperational;Ready",
}

#: Acquisition: command -> the substates in which it is accepted.
ACQUISITION: dict[str, tuple[str, ...]] = {
    "StopDaq": ("Acquiring", "Stopping"),
    "ForceStopDaq": ("Starting", "Acquiring", "Stopping"),
    "AbortDaq": ("NotStarted", "Starting", "Acquiring", "Stopping", "Stopped", "Aborting"),
    "ForceAbortDaq": ("NotStarted", "Starting", "Acquiring", "Stopping", "Stopped", "Aborting"),
}

#: Which operation on an acquisition interrupts which: the stronger the weaker ones. The others
#: (start, automatic stop, resume, StopDaq) interrupt nothing.
STRENGTH: dict[str, int] = {"ForceStopDaq": 1, "AbortDaq": 2, "ForceAbortDaq": 3}


def next_application(state: str, command: str) -> str:
    """Return the application state that a command leads to.

    Raises:
        errors.BadData: the command is not accepted in this state.
    """
    target = APPLICATION.get((state, command))
    if target is None:
        possible = sorted(c for s, c in APPLICATION if s == state)
        raise errors.BadData(f"{command} is not accepted in {state}",
                             f"accepted now: {', '.join(possible)}")
    return target


def check_acquisition(job: str, substate: str, command: str) -> None:
    """Check that a command is accepted in the substate of an acquisition.

    Raises:
        errors.BadData: it is not.
    """
    allowed = ACQUISITION[command]
    if substate not in allowed:
        raise errors.BadData(f"{command} is not accepted in {substate}",
                             f"it is accepted in {', '.join(allowed)}", job)

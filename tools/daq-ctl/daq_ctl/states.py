"""The two state machines, each one table: (state, event) -> next state; what is absent is refused.

An event is a command of a client or something that happens. The daemon decides from these tables,
the tests walk them, and the documentation's diagrams are made from them (ESO-396401, sections 9.2,
9.3, 11.3.1 and 13.4.1).
"""

from __future__ import annotations

from collections.abc import Iterable

from daqlib import errors

Table = dict[tuple[str, str], str]

#: The daemon does not run; the DAQ does not exist.
OFF, NONE = "Off", ""

#: Application. A row of Operational holds in both of its substates.
APPLICATION: Table = {
    (OFF, "Run"): "NotOperational;NotReady",
    ("NotOperational;NotReady", "Init"): "NotOperational;Ready",
    ("NotOperational;NotReady", "Reset"): "NotOperational;NotReady",
    ("NotOperational;NotReady", "Stop"): "NotOperational;NotReady",
    ("NotOperational;NotReady", "Exit"): OFF,
    ("NotOperational;Ready", "Init"): "NotOperational;Ready",
    ("NotOperational;Ready", "Enable"): "Operational",
    ("NotOperational;Ready", "Disable"): "NotOperational;Ready",
    ("NotOperational;Ready", "Reset"): "NotOperational;NotReady",
    ("NotOperational;Ready", "Stop"): "NotOperational;Ready",
    ("NotOperational;Ready", "Exit"): OFF,
    ("Operational", "Enable"): "Operational",
    ("Operational", "Disable"): "NotOperational;Ready",
    ("Operational", "Reset"): "NotOperational;NotReady",
    ("Operational", "Stop"): "NotOperational;Ready",
    ("Operational", "Exit"): OFF,
    ("Operational;Idle", "AnyDaqActive"): "Operational;Active",
    ("Operational;Active", "AnyDaqActive"): "Operational;Active",
    ("Operational;Active", "AllDaqInactive"): "Operational;Idle",
    ("Operational;Idle", "AllDaqInactive"): "Operational;Idle",
}
APPLICATION_STATES = ("NotOperational;NotReady", "NotOperational;Ready", "Operational;Idle",
                      "Operational;Active")
APPLICATION_COMMANDS = ("Init", "Enable", "Disable", "Stop", "Reset", "Exit")

#: The substates of a DAQ in the order of a successful life, then those of the way out.
SUBSTATES = ("NotStarted", "Starting", "Acquiring", "Stopping", "Stopped", "NotScheduled",
             "Scheduled", "Collecting", "Merging", "Releasing", "Completed", "Aborting", "Aborted")
_UNSEALED = SUBSTATES[:4]
_UNDER_WAY = SUBSTATES[:10]

#: What clients can ask of a DAQ.
COMMANDS = ("StartDaq", "StartDaqV2", "StopDaq", "ForceStopDaq", "AbortDaq", "ForceAbortDaq",
            "UpdateKeywords", "PauseDaq", "ContinueDaq", "GetStatus", "AwaitDaqState")

#: What happens to a DAQ, and what it means.
HAPPENINGS: dict[str, str] = {
    "SourcesCommanded": "sources are about to be commanded to start",
    "SourcesStarted": "every source acknowledged the start",
    "GivenUp": "a source did not start, it was too late to start, or the daemon ended meanwhile",
    "PrimarySourcesEnded": "every primary source ended by itself, or there is no live source",
    "StopFailed": "no source could be stopped",
    "SourcesStopped": "every source was asked to stop, and one did, or the stop was forced",
    "HandedOver": "the job was moved to collect/",
    "WatcherCame": "daq-watch began to run on the spool",
    "WatcherLeft": "daq-watch ended",
    "CollectBegun": "a worker took the job",
    "CollectDeferred": "a try did not succeed; the next one follows",
    "Collected": "the inputs are in the spool",
    "InputsEdited": "the job was edited: its inputs are collected anew",
    "Merged": "the product is in result/",
    "Released": "the receivers have been served",
    "AbortFailed": "a source could not be aborted",
    "Discarded": "the sources are aborted (or that was forced), or the worker has ended",
}

_SAME = "="
_ROWS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("StartDaq", (NONE,), "NotStarted"),
    ("StartDaqV2", (NONE,), "NotStarted"),
    ("StopDaq", ("Acquiring", "Stopping"), "Stopping"),
    ("ForceStopDaq", ("Acquiring", "Stopping"), "Stopping"),
    ("AbortDaq", (*_UNDER_WAY, "Aborting"), "Aborting"),
    ("AbortDaq", ("Aborted",), _SAME),
    ("ForceAbortDaq", (*_UNDER_WAY, "Aborting"), "Aborting"),
    ("ForceAbortDaq", ("Aborted",), _SAME),
    ("UpdateKeywords", _UNSEALED, _SAME),
    ("PauseDaq", ("Acquiring",), _SAME),
    ("ContinueDaq", ("Acquiring",), _SAME),
    ("GetStatus", SUBSTATES, _SAME),
    ("AwaitDaqState", SUBSTATES, _SAME),
    ("SourcesCommanded", ("NotStarted", "Starting"), "Starting"),
    ("SourcesStarted", ("Starting",), "Acquiring"),
    ("GivenUp", ("NotStarted", "Starting", "Aborting"), "Aborting"),
    ("PrimarySourcesEnded", ("Acquiring", "Stopping"), "Stopping"),
    ("StopFailed", ("Stopping",), "Stopping"),
    ("SourcesStopped", ("Stopping",), "Stopped"),
    ("HandedOver", ("Stopped",), "NotScheduled"),
    ("WatcherCame", ("NotScheduled",), "Scheduled"),
    ("WatcherLeft", ("Scheduled",), "NotScheduled"),
    ("CollectBegun", ("NotScheduled", "Scheduled"), "Collecting"),
    ("CollectDeferred", ("Collecting",), "Scheduled"),
    ("Collected", ("Collecting",), "Merging"),
    ("InputsEdited", ("Merging",), "Scheduled"),
    ("Merged", ("Merging",), "Releasing"),
    ("Released", ("Releasing",), "Completed"),
    ("AbortFailed", ("Aborting",), "Aborting"),
    ("Discarded", ("Aborting",), "Aborted"),
)
#: DAQ.
DAQ: Table = {(state, event): state if target == _SAME else target
              for event, states, target in _ROWS for state in states}

#: Which operation on an acquisition interrupts which: the stronger the weaker ones. The others
#: (start, automatic stop, resume, pause, StopDaq) interrupt nothing.
STRENGTH: dict[str, int] = {"ForceStopDaq": 1, "AbortDaq": 2, "ForceAbortDaq": 3}


def next_application(state: str, command: str) -> str:
    """Return the application state that a command leads to.

    Args:
        state: with or without the substate of Operational.
        command: of the standard interface.

    Raises:
        errors.BadData: the command is not accepted in this state.
    """
    composite = state.partition(";")[0]
    target = APPLICATION.get((state, command)) or APPLICATION.get((composite, command))
    if target is None:
        possible = [c for c in APPLICATION_COMMANDS
                    if (state, c) in APPLICATION or (composite, c) in APPLICATION]
        raise errors.BadData(f"{command} is not accepted in {state}",
                             f"accepted now: {', '.join(possible)}")
    return target


def application_text(state: str, active: bool) -> str:
    """Return an application state with the substate that Operational has.

    Args:
        state: without that substate.
        active: whether any DAQ is on its way.
    """
    if state != "Operational":
        return state
    before, event = (("Operational;Idle", "AnyDaqActive") if active
                     else ("Operational;Active", "AllDaqInactive"))
    return APPLICATION[before, event]


def accepted_in(command: str) -> list[str]:
    """Return the substates of a DAQ in which a command is accepted."""
    return [state for state in SUBSTATES if (state, command) in DAQ]


def check_daq(job: str, substate: str, command: str, place: str = "") -> str:
    """Return the substate that a command leads to.

    Args:
        job: the id, for the error.
        substate: in which the DAQ is.
        command: one of :data:`COMMANDS`.
        place: how to tell where the DAQ is, when it takes more than the substate.

    Raises:
        errors.BadData: the command is not accepted.
    """
    target = DAQ.get((substate, command))
    if target is None:
        raise errors.BadData(f"{command} is not accepted in {place or substate}",
                             f"it is accepted in {', '.join(accepted_in(command))}", job)
    return target


def after(substate: str, happening: str) -> str:
    """Return the substate of a DAQ after one of :data:`HAPPENINGS`.

    Raises:
        errors.Bug: it cannot happen in this substate.
    """
    target = DAQ.get((substate, happening))
    if target is None:
        raise errors.Bug(f"{happening} cannot happen in {substate}", "report this")
    return target


# -- for the documentation ----------------------------------------------------------------------


def mermaid_application() -> str:
    """Return the application's states as a Mermaid ``stateDiagram-v2``."""
    names = {OFF: "[*]", **{state: state.partition(";")[2] for state in APPLICATION_STATES}}
    inner: dict[str, list[str]] = {"NotOperational": [], "Operational": ["[*] --> Idle"]}
    outer: list[str] = []
    for (state, event), target in APPLICATION.items():
        if state == target or event == "Exit":
            continue
        line = f"{names.get(state, state)} --> {names.get(target, target)}: {event}"
        home = state.partition(";")[0]
        (inner[home] if ";" in state and target.startswith(f"{home};") else outer).append(line)
    text = ["stateDiagram-v2", "  state On {"]
    for name, lines in inner.items():
        text += [f"    state {name} {{", *(f"      {line}" for line in lines), "    }"]
    text += [f"    {line}" for line in outer if not line.startswith("[*]")]
    return "\n".join([*text, "  }", *(f"  {line}" for line in outer if line.startswith("[*]")),
                      "  On --> [*]: Exit", ""])


def mermaid_daq() -> str:
    """Return a DAQ's substates as a Mermaid ``stateDiagram-v2``; what changes nothing is left out.

    Forced commands go where the others go, and are left out as well (ESO-396401, section 9.2.1).
    """
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), target in DAQ.items():
        if state != target and not event.startswith("Force"):
            arrows.setdefault((state or "[*]", target), []).append(event)
    lines = [f"{state} --> {target}: {', '.join(events)}"
             for (state, target), events in arrows.items()]
    ends = [f"{state} --> [*]" for state in ("Completed", "Aborted")]
    return "\n".join(["stateDiagram-v2", *(f"  {line}" for line in (*lines, *ends)), ""])


def markdown_application() -> str:
    """Return the application's table: a row per state, a column per command and event."""
    events = (*APPLICATION_COMMANDS, "AnyDaqActive", "AllDaqInactive")
    return _markdown("state", APPLICATION_STATES, events, {
        (state, event): APPLICATION.get((state, event))
        or APPLICATION.get((state.partition(";")[0], event), "")
        for state in APPLICATION_STATES for event in events})


def markdown_daq() -> str:
    """Return the commands' table of a DAQ: a row per substate, a column per command."""
    return _markdown("substate", SUBSTATES, COMMANDS, DAQ)


def markdown_happenings() -> str:
    """Return what can happen to a DAQ, in which substates, and where it leads."""
    rows = []
    for event, meaning in HAPPENINGS.items():
        states = [state for state in SUBSTATES if (state, event) in DAQ]
        rows.append((f"`{event}`", ", ".join(states), DAQ[states[0], event], meaning))
    return _lines(("event", "in", "leads to", "meaning"), rows)


def _markdown(corner: str, states: Iterable[str], events: tuple[str, ...], table: Table) -> str:
    def cell(state: str, event: str) -> str:
        target = table.get((state, event), "")
        return "stays" if target and target in (state, state.partition(";")[0]) else target or "–"

    return _lines((corner, *events), ((f"`{state}`", *(cell(state, event) for event in events))
                                      for state in states))


def _lines(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

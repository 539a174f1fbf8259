"""The status of the ESO interface (DaqStatus), derived from the spool and never stored.

State and substate follow from where the job lies, whether somebody holds its lock, whether a
watcher runs, and the history (ESO-396401 sections 9 and 13.4).
"""

from __future__ import annotations

import json
import os
from typing import Any

from daqlib import alerts, history, manifest
from daqlib.spool import STAGES, Spool, holder

Status = dict[str, Any]

#: Substate -> state, in the order of a successful life (manual, DaqSubState).
STATE_OF: dict[str, str] = {
    "NotStarted": "StateAcquiring",
    "Starting": "StateAcquiring",
    "Acquiring": "StateAcquiring",
    "Stopping": "StateAcquiring",
    "Stopped": "StateAcquiring",
    "NotScheduled": "StateMerging",
    "Scheduled": "StateMerging",
    "Collecting": "StateMerging",
    "Merging": "StateMerging",
    "Releasing": "StateMerging",
    "Completed": "StateCompleted",
}
#: The substates of the way out; no nominal substate follows them.
ABORT_STATE_OF: dict[str, str] = {"Aborting": "StateAcquiring", "Aborted": "StateCompleted"}
ORDER = tuple(STATE_OF)
_STAGE_SUBSTATE = {"merge": "Merging", "release": "Releasing"}


def derive(spool: Spool, job: str, *, watched: bool | None = None) -> Status | None:
    """Return the DaqStatus of a job, or None when the spool knows no such job.

    Args:
        spool: the spool.
        job: the id.
        watched: whether a watcher runs, when the caller has asked already.

    Raises:
        errors.IoFailure: the spool itself is gone.
    """
    place = spool.place(job)
    events = spool.events(job)
    if not place and not events:
        spool.check_there()  # without a spool nothing is known of any job
        return None
    if not place:
        place = spool.place(job)  # moved between the two looks: the log is complete by now
    return of(spool, job, place, events, watched=watched)


def there(place: str, events: list[history.Event]) -> str:
    """Return where a job lies: on the other host while it is in ``remote/``, else here."""
    said = history.far_state(events) if place == "remote" else None
    return str(said.get("place", "")) if said else place


def of(spool: Spool, job: str, place: str, events: list[history.Event], *,
       watched: bool | None = None) -> Status:
    """Return the DaqStatus of a job whose place and history are known."""
    substate = substate_of(spool, job, place, events, watched)
    found = alerts.active(events, there(place, events))
    newest = history.seconds(events[-1]) if events else _mtime(spool, place, job)
    return {
        "id": job,
        "fileId": history.file_id(events),
        "state": state_of(substate, _stage_of(place, events)),
        "substate": substate,
        "error": alerts.is_error(found),
        "message": json.dumps([_public(alert) for alert in found], ensure_ascii=False),
        "result": result_path(spool, job) or far_result(events),
        "timestamp": newest,
    }


def _public(alert: alerts.Alert) -> alerts.Alert:
    return {key: alert[key] for key in ("id", "severity", "description", "timestamp")}


def _mtime(spool: Spool, place: str, job: str) -> float:
    try:
        return os.stat(spool.job_path(place, job)).st_mtime
    except OSError:
        return 0.0


def state_of(substate: str, stage: str = "acquire") -> str:
    """Return the state that a substate belongs to; Aborting belongs to the phase it happens in."""
    if substate == "Aborting" and stage != "acquire":
        return "StateMerging"
    return STATE_OF.get(substate) or ABORT_STATE_OF.get(substate, "StateUndefined")


def substate_of(spool: Spool, job: str, place: str, events: list[history.Event],
                watched: bool | None = None) -> str:
    """Return the substate of a job; a resting job keeps that of the stage it left."""
    if place == "done":
        return _ending(events)
    stage = _stage_of(place, events)
    if stage != "acquire" and (history.abort_requested(events) or _is_leaving(spool, job, events)):
        return "Aborting"
    if place == "remote":
        return _far_substate(events)
    if stage in _STAGE_SUBSTATE:
        return _STAGE_SUBSTATE[stage]
    if stage == "collect":
        if place == "collect" and _is_collected(spool, job, events):
            return "Collecting"
        if spool.hand_over:
            return "NotScheduled"  # until the other host has it
        running = spool.watched() if watched is None else watched
        return "Scheduled" if running else "NotScheduled"
    if stage == "acquire":
        return acquiring_substate(events)
    return "Undefined"


def _ending(events: list[history.Event]) -> str:
    found = "Completed"
    for event in events:
        # a later try undoes an abort, but not a try of a host that was not told of it; that one
        # may complete the job all the same (ESO-396401, section 9.3)
        if event["event"] == "aborted":
            found = "Aborted"
        elif event["event"] == "start" and history.FAR not in event:
            found = "Completed"
        elif history.FAR in event and event["event"] == "state":
            found = "Completed" if event["substate"] == "Completed" else found
    return found


def _far_substate(events: list[history.Event]) -> str:
    said = history.far_state(events)
    # it was acknowledged there, whether a watcher runs there or not (ESO-396401, section 9.3.4)
    return "Scheduled" if said is None or said["substate"] == "NotScheduled" else str(
        said["substate"])


def _is_leaving(spool: Spool, job: str, events: list[history.Event]) -> bool:
    """Tell whether an aborted job is about to be moved to ``done/``."""
    return bool(events) and events[-1]["event"] == "aborted" and spool.is_busy(job)


def _is_collected(spool: Spool, job: str, events: list[history.Event]) -> bool:
    if not spool.is_busy(job):
        return False
    # others hold the lock, too: who submits, imports, aborts or hands it over, and daq-ctl until
    # the move into collect/ is durable
    said = holder(spool.lock_path(job)).get("stage")
    if said is not None:
        return bool(said == "collect")
    # it does not say so yet, or the disk is full
    return bool(events) and events[-1]["event"] == "start" and "role" not in events[-1]


def _stage_of(place: str, events: list[history.Event]) -> str:
    return place if place in STAGES else left_stage(events)


def acquiring_substate(events: list[history.Event]) -> str:
    """Return the last substate that the acquisition recorded."""
    event = history.last((e for e in events if history.FAR not in e), "state")
    return str(event["substate"]) if event else "NotStarted"


def left_stage(events: list[history.Event]) -> str:
    """Return the stage that a resting job left: the last one that an event names.

    A job that was parked before anything happened to it is taken as one for collect.
    """
    for event in reversed(events):
        stage = event.get("stage")
        if stage in STAGES:
            if event["event"] == "ok" and event.get("to") == "remote":
                return "collect"  # handed over before it was collected
            after = event["event"] == "ok"
            return {"acquire": "collect", "collect": "merge", "merge": "release"}.get(
                stage, "release") if after else str(stage)
    return "collect"


def result_path(spool: Spool, job: str) -> str:
    """Return the absolute path of the product, empty until the merge has ended."""
    made = manifest.read(spool.data_path(job, "merge.json"))
    name = str(made["result"].get("product", "")) if made else ""
    return spool.path("result", name) if name else ""


def far_result(events: list[history.Event]) -> str:
    """Return ``HOST:PATH`` of a product that another host made, or an empty text."""
    said = history.far_state(events)
    path = str(said.get("result", "")) if said else ""
    host = str(said[history.FAR]).partition(":")[0] if said else ""
    return f"{host}:{path}" if path else ""


def reached(spool: Spool, job: str, place: str, events: list[history.Event],
            now: str) -> set[str]:
    """Return every substate that the job has been in, as far as order tells.

    Awaiting compares with this set, so that a retry or a watcher's restart never undoes it: who
    is Merging has been Stopped. A substate on the way out counts only when it happened.
    """
    seen = {str(event["substate"]) for event in events if event["event"] == "state"} | {now}
    for event in events:
        stage, name = event.get("stage"), event["event"]
        if stage == "collect" and name == "start" and event.get("role") != history.HAND_OVER:
            seen.add("Collecting")
        elif stage in _STAGE_SUBSTATE and name in ("start", "ok", "fail"):
            seen.add(_STAGE_SUBSTATE[str(stage)])
        elif name == "aborted":
            seen.add("Aborted")
    furthest = max((ORDER.index(s) for s in seen if s in ORDER), default=-1)
    return seen | set(ORDER[: furthest + 1])


def await_answer(status: Status, been: set[str], state: str, substate: str) -> bool | None:
    """Answer whether an awaited state was reached: True, False (no longer possible), None (wait).

    Args:
        status: the present status.
        been: from :func:`reached`.
        state: the awaited state.
        substate: the awaited substate, or empty for any substate of the state.
    """
    wanted = {substate} if substate else {
        name for name in (*STATE_OF, *ABORT_STATE_OF) if state_of(name) == state}
    if been & wanted:
        return True
    if status["substate"] == "Aborting":
        return None if wanted & {"Aborted"} else False  # nothing nominal follows
    return False if status["state"] == "StateCompleted" else None

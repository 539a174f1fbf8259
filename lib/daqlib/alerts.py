"""Alerts: conditions that need attention, set and cleared by events of the log.

An alert is named by its condition, so that raising it twice is one alert. An alert that a stage
raised goes when that stage begins a new try: if the condition still holds, the try raises it again.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daqlib import history

    Alert = dict[str, Any]

ERROR, WARNING, INFO = "error", "warning", "info"
_SEVERITIES = (ERROR, WARNING, INFO)

#: Condition -> severity and meaning; the operator's guide prints it.
CONDITIONS: dict[str, tuple[str, str]] = {
    "source-failed": (ERROR, "a source failed to start, stop or abort, or died"),
    "source-absent": (WARNING, "an optional source is not there, or failed: the acquisition goes "
                               "on without it"),
    "source-keywords": (ERROR, "a source delivered keywords that are not valid"),
    "source-remarks": (WARNING, "a source delivered values that are flagged, or left some out"),
    "no-target": (WARNING, "the merge target delivered no file; a new file was made instead"),
    "unmergeable": (WARNING, "primary HDU data of a source was not merged"),
    "datasum": (ERROR, "data of a source does not match its DATASUM"),
    "header-resized": (INFO, "the primary header of the merge target did not fit its blocks; room "
                             "was made for it"),
    "short-block": (INFO, "the last block of a source was not filled up; the product's is"),
    "header-missing": (ERROR, "the header lacks keywords that the header policy requires; their "
                              "null value was written"),
    "header-default": (WARNING, "nobody gave keywords of the header policy; their default was "
                                "written"),
    "header-invalid": (WARNING, "keywords have a value that the header policy does not allow"),
    "release-failed": (ERROR, "a receiver did not get the product"),
    "suspicious-time": (WARNING, "a source file was modified after the acquisition stopped, or "
                                 "its copy after it was collected"),
    "lost-there": (ERROR, "the host that the job was handed over to does not know it any more"),
    "failed": (ERROR, "the job is in failed/"),
    "held": (INFO, "the job is parked in hold/"),
    "stale": (ERROR, "the job was given up after too long a time"),
    "moved-away": (WARNING, "the job was moved out of acquire/, or its file removed, while it was "
                            "recording"),
}


def make(condition: str, subject: str, description: str) -> Alert:
    """Return an alert.

    Args:
        condition: one of :data:`CONDITIONS`.
        subject: what it is about (a source, a receiver), part of the alert's identity.
        description: one sentence for people.
    """
    severity, _ = CONDITIONS[condition]
    return {"id": f"{condition}:{subject}" if subject else condition, "severity": severity,
            "description": description}


def active(events: list[history.Event], place: str) -> list[Alert]:
    """Return the alerts that hold now, oldest first.

    Args:
        events: the job's history.
        place: the directory that the job lies in.
    """
    from daqlib import history

    found: dict[str, Alert] = {}
    for event in events:
        name = event["event"]
        if name == "alert":
            key = str(event.get("id", ""))
            severity = event.get("severity")
            found[key] = {"id": key, "severity": severity if severity in _SEVERITIES else ERROR,
                          "description": event.get("description", ""),
                          "timestamp": history.seconds(event), "stage": event.get("stage", "")}
        elif name == "alert-cleared":
            found.pop(str(event.get("id", "")), None)
        elif name == "start":
            found = {k: a for k, a in found.items() if a["stage"] != event.get("stage")}
    return [*found.values(), *_of_place(events, place)]


def _of_place(events: list[history.Event], place: str) -> list[Alert]:
    if place == "hold":
        return [{**make("held", "", "parked in hold/ by an operator"), "timestamp": 0.0,
                 "stage": ""}]
    if place != "failed":
        return []
    from daqlib import history

    event = history.last(events, "fail") or {}
    reason = str(event.get("reason", "moved to failed/ by hand"))
    return [{**make("failed", "", reason), "timestamp": history.seconds(event),
             "stage": event.get("stage", "")}]


def is_error(found: list[Alert]) -> bool:
    """Tell whether an alert of severity error is among them: the ESO ``error`` flag."""
    return any(alert["severity"] == ERROR for alert in found)

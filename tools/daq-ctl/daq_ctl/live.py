"""The live sources of an acquisition: what its log says of each, and how one is asked."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from daq_ctl import sources
from daqlib import alerts, errors, history, job

T = TypeVar("T")

#: The phases in which a source may be recording for us.
COMMANDED = ("starting", "started")
_PHASE_OF = {"starting": "starting", "started": "started", "stopped": "stopped",
             "source-aborted": "aborted"}


@dataclass
class Live:
    """A live source of the acquisition.

    Attributes:
        name: its ``sourceName``.
        primary: whether it is a primary source.
        source: its adapter.
        phase: the last of ``starting, started, stopped, aborted`` in the log, else empty.
        delivery: what it brought, once stopped.
        trouble: the text of its active alert, else empty.
    """

    name: str
    primary: bool
    source: sources.Source
    phase: str = ""
    delivery: sources.Delivery | None = None
    trouble: str = ""

    @property
    def alert(self) -> str:
        """The id of the alert that it gives trouble."""
        return f"source-failed:{self.name}"


def of(document: job.Document, identifier: str, timeout: float) -> list[Live]:
    """Return the live sources of a job, none of them commanded yet.

    Raises:
        errors.BadData: a source has no adapter.
    """
    return [Live(entry["sourceName"], entry["type"] == "primarySource",
                 sources.make(entry, identifier, timeout))
            for entry in document["sources"] if entry["type"] in job.LIVE]


def recall(found: list[Live], events: list[history.Event]) -> None:
    """Take the sources' phases, deliveries and troubles from the log."""
    by_name = {live.name: live for live in found}
    for event in events:
        live = by_name.get(event.get("source", ""))
        if live and event["event"] in _PHASE_OF:
            live.phase = _PHASE_OF[event["event"]]
            if live.phase == "stopped":
                live.delivery = sources.Delivery(event.get("files", []), event.get("keywords", []),
                                                 event.get("fault", ""))
    texts = {alert["id"]: str(alert["description"]) for alert in alerts.active(events, "acquire")}
    for live in found:
        live.trouble = texts.get(live.alert, "")


async def asked(question: Awaitable[T]) -> T:
    """Await an adapter; whatever goes wrong in it is this source's failure and nobody else's.

    Raises:
        errors.DaqError: the adapter failed.
    """
    try:
        return await question
    except errors.DaqError:
        raise
    except Exception as error:
        raise errors.Bug(f"its adapter failed: {type(error).__name__}: {error}",
                         "report this") from error


async def records(live: Live) -> bool:
    """Tell whether a source says that it records for us, or has recorded."""
    return not await fault(live)


async def fault(live: Live) -> str:
    """Return why a source does not record for us, or an empty text."""
    try:
        state: Any = await asked(live.source.status())
    except errors.DaqError as error:
        return f"source {live.name}: {error.message}"
    if state in (sources.RECORDING, sources.ENDED):
        return ""
    what = "does not know this acquisition" if state == sources.ABSENT else f"has {state}"
    return f"source {live.name} {what}"

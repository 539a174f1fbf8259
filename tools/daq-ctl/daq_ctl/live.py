"""The live sources of an acquisition: what its log says of each, and how one is asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from daq_ctl import sources
from daqlib import alerts, cli, errors, history, job, rpc

T = TypeVar("T")
log = logging.getLogger("daq.ocm.controller")

#: The phases in which a source may be recording for us.
COMMANDED = ("starting", "started")
_LAST_WORD_S = 0.2  # what an adapter itself says when the time is up tells more
_LOOK_S = 2.0  # pause between two looks at a source that may begin late
_PHASE_OF = {"starting": "starting", "started": "started", "stopped": "stopped",
             "source-absent": "absent", "source-aborted": "aborted"}


@dataclass
class Live:
    """A live source of the acquisition.

    Attributes:
        name: its ``sourceName``.
        primary: whether it is a primary source.
        source: its adapter.
        optional: whether the acquisition goes on without it.
        phase: the last of ``starting, started, stopped, absent, aborted`` in the log, else empty.
        delivery: what it brought, once stopped.
        trouble: the text of its active alert, else empty.
    """

    name: str
    primary: bool
    source: sources.Source
    optional: bool = False
    phase: str = ""
    delivery: sources.Delivery | None = None
    trouble: str = ""

    def told(self, text: str) -> list[history.Told]:
        """Return the event that tells a new trouble, or that it is over when the text is empty."""
        if text == self.trouble:
            return []
        if text:
            return [("alert", alerts.make(self.condition, self.name, text))]
        return [("alert-cleared", {"id": self.alert})]

    @property
    def condition(self) -> str:
        """The condition of the alert that it gives trouble."""
        return "source-absent" if self.optional else "source-failed"

    @property
    def alert(self) -> str:
        """The id of the alert that it gives trouble."""
        return f"{self.condition}:{self.name}"


def of(document: job.Document, order: Callable[[job.Document], sources.Order]) -> list[Live]:
    """Return the live sources of a job, none of them commanded yet.

    Args:
        document: the job file.
        order: makes the order for a source object of it.

    Raises:
        errors.BadData: a source has no adapter.
    """
    return [Live(entry["sourceName"], entry["type"] == "primarySource", sources.make(order(entry)),
                 bool(entry.get("optional")))
            for entry in document["sources"] if entry["type"] in job.LIVE]


def recall(found: list[Live], events: list[history.Event]) -> None:
    """Take the sources' phases, deliveries and troubles from events, oldest first."""
    by_name = {live.name: live for live in found}
    by_alert = {live.alert: live for live in found}
    for event in events:
        name = event["event"]
        live = by_name.get(event.get("source", ""))
        if live and name in _PHASE_OF:
            live.phase = _PHASE_OF[name]
            if live.phase == "stopped":
                live.delivery = sources.Delivery(
                    event.get("files", []), event.get("keywords", []), event.get("fault") or "",
                    event.get("keywordFault") or "", event.get("remarks") or [])
        elif name in ("alert", "alert-cleared") and (live := by_alert.get(event.get("id", ""))):
            live.trouble = str(event.get("description", "")) if name == "alert" else ""


async def asked(question: Awaitable[T]) -> T:
    """Await an adapter; whatever goes wrong in it is this source's failure and nobody else's.

    Raises:
        errors.DaqError: the adapter failed.
    """
    try:
        return await question
    except errors.DaqError:
        raise
    except OSError as error:
        raise cli.from_os_error(error) from error
    except Exception as error:
        raise errors.Bug(f"its adapter failed: {type(error).__name__}: {error}",
                         "report this") from error


async def answered(live: Live, question: Awaitable[T]) -> T:
    """Await what a source is asked; for an optional one nobody waits longer than for one reply.

    Raises:
        errors.DaqError: the adapter failed.
    """
    if not live.optional:
        return await asked(question)
    try:
        async with asyncio.timeout(live.source.timeout + _LAST_WORD_S):
            return await asked(question)
    except TimeoutError as error:
        raise errors.Unavailable(f"it did not answer within {live.source.timeout:g} s",
                                 "look at the source") from error


async def let_go(live: Live) -> None:
    """Let an adapter close what it holds; nobody waits for that, so its failure is only told."""
    try:
        await asked(live.source.close())
    except errors.DaqError as error:
        log.warning("source %s: %s", live.name, error)


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


def may_record(live: Live, error: errors.DaqError) -> bool:
    """Tell whether a source that failed may record all the same, now or when it obeys late."""
    return live.phase == "started" or live.phase == "starting" and not isinstance(
        error, rpc.RemoteError | rpc.Unreachable | sources.Lacking)


async def silence(live: Live, patience: float) -> bool:
    """Abort a source that begins after all, looking for it for ``patience`` seconds.

    Returns:
        Whether there was something to abort.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        with contextlib.suppress(errors.DaqError):
            if await asked(live.source.status()) == sources.RECORDING:
                await asked(live.source.abort())
                return True
    return False

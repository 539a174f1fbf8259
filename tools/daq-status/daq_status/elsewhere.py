"""Jobs that another host has: where they are there, and how old the news are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daqlib import clock, history

if TYPE_CHECKING:
    from daq_status.facts import View

_OLD = 60.0  # seconds; while somebody listens the news are younger


@dataclass(frozen=True)
class Far:
    """Where a job is that was handed over.

    Attributes:
        to: the other spool, ``HOST:PATH``.
        sure: False when nobody knows whether it arrived.
        place: the directory there, empty when the file was removed there or nothing was heard yet.
        heard: when that host was heard of last, seconds since the epoch, 0: never.
        trouble: why it was not heard of since, or empty.
    """

    to: str
    sure: bool
    place: str
    heard: float
    trouble: str

    @property
    def host(self) -> str:
        """The name of the host."""
        return self.to.partition(":")[0]

    def is_old(self) -> bool:
        """Tell whether the news are older than they are while somebody listens."""
        return clock.now() - self.heard > _OLD

    def document(self) -> dict[str, Any]:
        """Return the JSON of it."""
        return {"spool": self.to, "arrived": self.sure, "place": self.place, "heard": self.heard,
                "trouble": self.trouble}


def of(view: View) -> Far | None:
    """Return where a job in ``remote/`` is, or None when no host has it."""
    event = history.handed_over(view.events) if view.place == "remote" else None
    if event is None:
        return None
    from daqlib import handover

    to = str(event.get("to", ""))
    heard, trouble = handover.last_contact(view.spool, to)
    said = history.far_state(view.events)
    return Far(to, event["event"] == "handed-over", str(said["place"]) if said else "", heard,
               trouble)

"""What is known about a job: its DaqStatus and what the spool says besides."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from daq_status import elsewhere
from daqlib import alerts, errors, fsops, history, names, progress, status
from daqlib.config import Config
from daqlib.job import LARGEST
from daqlib.spool import RESTS, STAGES, Entry, Spool, holder

Document = dict[str, Any]

#: What a plain listing shows; done/ may hold any number of jobs and is never scanned for it.
ACTIVE = (*STAGES, "remote", "failed", "hold")
ALL = (*STAGES, *RESTS)


@dataclass(frozen=True)
class View:
    """A job as it was found.

    Attributes:
        place: its directory, empty when the job file is gone and only its log is left.
        there: the same, or in which directory of another host's spool it is while it is in
            ``remote/``.
        stage: the stage that it is in, or that a resting job left.
        status: its DaqStatus.
        events: its history, oldest first.
        alerts: those that are active.
        tries: of that stage.
        due: mtime of the job file, seconds since the epoch: not before then is it tried again.
        holder: who holds its lock, empty when nobody does.
        spool: where it was found.
        progress: how far its worker says it is, see :mod:`daqlib.progress`; empty: it says nothing.
    """

    place: str
    there: str
    stage: str
    status: status.Status
    events: list[history.Event]
    alerts: list[alerts.Alert]
    tries: int
    due: float
    holder: Document
    spool: Spool
    progress: Document = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self.status["id"])

    def reached(self) -> set[str]:
        """Return every substate that the job has been in."""
        return status.reached(self.spool, self.id, self.place, self.events,
                              self.status["substate"])

    def document(self, *, history: bool = False) -> Document:
        """Return the JSON document of the job, the keys of DaqStatus first."""
        made = {**self.status, "place": self.place, "tries": self.tries, "due": self.due,
                "alerts": self.alerts, "holder": self.holder or None,
                "progress": self.progress or None}
        if far := elsewhere.of(self):
            made["far"] = far.document()
        return {**made, "history": self.events} if history else made


@dataclass
class Viewer:
    """Looks at jobs of a spool; asks only once whether a watcher runs."""

    spool: Spool
    settings: Config

    def __post_init__(self) -> None:
        """Ask whether a watcher runs."""
        self.watched = self.spool.watched()

    def view(self, job: str) -> View:
        """Return a job's view.

        Raises:
            errors.NoJob: the spool does not know it.
            errors.IoFailure: the spool itself is gone.
        """
        if not names.ID.fullmatch(job):
            raise errors.NoJob(f"no such job: {job!r} is no id", "see daq-status --all")
        place = self._place(job)
        events = self.spool.events(job)
        if not place and not events:
            self.spool.check_there()  # it may have gone while somebody waits
            raise errors.NoJob("no such job", "see daq-status --all", job)
        # moved between the two looks: look again, the log is complete by now
        return self._view(job, place or self._place(job), events)

    def _place(self, job: str) -> str:
        place = self.spool.place(job)
        return place or ("bad" if os.path.exists(self.spool.job_path("bad", job)) else "")

    def _view(self, job: str, place: str, events: list[history.Event]) -> View:
        there = status.there(place, events)
        stage = there if there in STAGES else status.left_stage(events)
        lock = self.spool.lock_path(job)
        busy = place != "done" and self.spool.is_busy(job)
        return View(
            place, there, stage,
            status.of(self.spool, job, place, events, watched=self.watched), events,
            alerts.active(events, there), history.tries(events, stage, far=place == "remote"),
            self._due(job, place), holder(lock) if busy else {}, self.spool,
            progress.read(self.spool.data_path(job)) or {} if busy else {})

    def _due(self, job: str, place: str) -> float:
        try:
            return os.stat(self.spool.job_path(place, job)).st_mtime
        except OSError:
            return 0.0

    def views(self, places: Iterable[str]) -> Iterator[View]:
        """Yield the jobs of some places by id; of two copies the one that counts."""
        seen = set()
        for entry in self.spool.scan(*places):
            # a file whose name is no id is none of ours, unless it was put aside as such
            if entry.id in seen or not names.ID.fullmatch(entry.id):
                continue
            seen.add(entry.id)
            view = self._seen(entry)
            if view.place in places:
                yield view

    def _seen(self, entry: Entry) -> View:
        place = entry.place if entry.place == "done" else self._place(entry.id)
        return self._view(entry.id, place, self.spool.events(entry.id))

    def document(self, view: View) -> Document:
        """Return what the job file says, empty when it cannot be read."""
        if not view.place:
            return {}
        try:
            data, _ = fsops.read_regular(self.spool.job_path(view.place, view.id), LARGEST)
            document = json.loads(data)
        except (OSError, ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    def others(self, view: View) -> list[str]:
        """Return the places that hold further copies of a job."""
        return self.spool.places(view.id)[1:]

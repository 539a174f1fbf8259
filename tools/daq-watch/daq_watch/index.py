"""The jobs of the stages in memory, so that a look costs what changed, not what waits.

A hint like inotify itself: what is started is looked at again, and the whole is read anew at
every scan.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator

from daq_watch.rests import Key
from daqlib import clock
from daqlib.spool import Entry, Spool

#: The stages that are advanced, the last one first, so that jobs finish before others begin.
STAGES = ("release", "merge", "collect")

_AT_ONCE = 0.0  # the due time of a job whose own one is not believed


class Index:
    """What lies in the stages, in the order in which it became due, then by id."""

    def __init__(self, on: Spool) -> None:
        """Know nothing yet: :meth:`scan`.

        Args:
            on: the spool.
        """
        self._on = on
        self._entries: dict[str, dict[str, Entry]] = {stage: {} for stage in STAGES}
        self._order: dict[str, list[tuple[float, str]]] = {stage: [] for stage in STAGES}
        self._due: dict[str, dict[str, float]] = {stage: {} for stage in STAGES}

    def __len__(self) -> int:
        """Return how many job files there are."""
        return sum(map(len, self._entries.values()))

    def keys(self) -> set[Key]:
        """Return stage and id of every job file."""
        return {(stage, job) for stage, jobs in self._entries.items() for job in jobs}

    def entry(self, key: Key) -> Entry | None:
        """Return a job file as it was when it was last looked at."""
        return self._entries[key[0]].get(key[1])

    def scan(self) -> list[Entry]:
        """Read the stages anew and return the job files that are new or changed."""
        changed: list[Entry] = []
        now = clock.now()
        for stage in STAGES:
            found = {entry.id: entry for entry in self._on.scan(stage)}
            before, self._entries[stage] = self._entries[stage], found
            changed += [entry for job, entry in found.items() if before.get(job) != entry]
            self._due[stage] = {job: self._due_of(entry, now) for job, entry in found.items()}
            self._order[stage] = sorted((due, job) for job, due in self._due[stage].items())
        return changed

    def update(self, jobs: Iterable[str]) -> list[Entry]:
        """Look at some jobs again and return the files of theirs that are new or changed.

        Args:
            jobs: ids, of files that may be there or not.
        """
        changed: list[Entry] = []
        for job in jobs:
            for stage in STAGES:
                entry = self._on.look(stage, job)
                if entry != self._entries[stage].get(job):
                    self._drop(stage, job)
                    if entry is not None:
                        self._add(entry)
                        changed.append(entry)
        return changed

    def drop(self, entry: Entry) -> None:
        """Forget a job file until it changes."""
        self._drop(entry.place, entry.id)

    def due(self, stage: str, now: float) -> Iterator[Entry]:
        """Yield the jobs of a stage that are due, in their order; it may change meanwhile."""
        order, entries = self._order[stage], self._entries[stage]
        for _, job in order[: self._count_due(stage, now)]:
            if (entry := entries.get(job)) is not None:
                yield entry

    def next_due(self, now: float) -> float:
        """Return the seconds until the next deferred job is due; infinite when there is none."""
        ahead = [self._order[stage][index][0] - now for stage in STAGES
                 if (index := self._count_due(stage, now)) < len(self._order[stage])]
        return min(ahead, default=math.inf)

    def _count_due(self, stage: str, now: float) -> int:
        return bisect.bisect_right(self._order[stage], (now, "\U0010ffff"))

    def _due_of(self, entry: Entry, now: float) -> float:
        """Return when a job is due."""
        return _AT_ONCE if entry.due > now and self._on.is_due(entry, now) else entry.due

    def _add(self, entry: Entry) -> None:
        due = self._due[entry.place][entry.id] = self._due_of(entry, clock.now())
        bisect.insort(self._order[entry.place], (due, entry.id))
        self._entries[entry.place][entry.id] = entry

    def _drop(self, stage: str, job: str) -> None:
        if self._entries[stage].pop(job, None) is not None:
            # the order is kept by what was said of it then, not by what would be said now
            order, mark = self._order[stage], (self._due[stage].pop(job), job)
            del order[bisect.bisect_left(order, mark)]

"""Pauses between starts of a job, so that a start that comes to nothing does not spin.

This is a courtesy to the machine and lives in memory only: what must survive, the next due time
of a try that failed, is the mtime of the job file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass

#: Seconds between two starts of a stage on one job.
LEAST = 1.0
_LONGEST = 30.0

Key = tuple[str, str]  # stage, job


@dataclass
class _Rest:
    until: float
    pause: float = 0.0


class Rests:
    """When each job may be started again (monotonic seconds)."""

    def __init__(self, *, for_good: bool) -> None:
        """Begin without any.

        Args:
            for_good: a start that came to nothing is not repeated at all.
        """
        self._for_good = for_good
        self._rests: dict[Key, _Rest] = {}

    def may(self, key: Key) -> bool:
        """Tell whether a job may be started now."""
        rest = self._rests.get(key)
        return rest is None or rest.until <= time.monotonic()

    def started(self, key: Key) -> None:
        """Note a start."""
        self._rests.setdefault(key, _Rest(0.0)).until = time.monotonic() + LEAST

    def fruitless(self, key: Key, pause: float) -> None:
        """Note that a start did not move the job on.

        Args:
            key: the stage and the job.
            pause: seconds until the next look at it; doubles when that comes to nothing, too.
        """
        rest = self._rests.setdefault(key, _Rest(0.0))
        rest.pause = min(max(pause, 2 * rest.pause), max(pause, _LONGEST))
        rest.until = math.inf if self._for_good else time.monotonic() + rest.pause

    def news(self, jobs: Collection[str]) -> None:
        """Note that others changed jobs: what kept them from going on may be over.

        What a worker of ours does to its own job, were it only to lock it, is no news.
        """
        for key, rest in self._rests.items():
            if rest.pause and key[1] in jobs:
                rest.until, rest.pause = 0.0, 0.0

    def free(self) -> None:
        """Note that a place of a limit or a host is free again; pauses go on doubling."""
        for rest in self._rests.values():
            if rest.pause and rest.until != math.inf:
                rest.until = 0.0

    def forget(self, key: Key) -> None:
        """Forget a job that has left its stage."""
        self._rests.pop(key, None)

    def keep(self, present: Collection[Key]) -> None:
        """Forget the jobs that have left their stage."""
        self._rests = {key: rest for key, rest in self._rests.items() if key in present}

    def wait(self) -> float:
        """Return the seconds until the next one ends; infinite when there is none."""
        now = time.monotonic()
        return min((rest.until - now for rest in self._rests.values() if rest.until > now),
                   default=math.inf)

"""Choose which jobs to start now: due, not paused, nobody at work, within the limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator

from daqlib import capacity, clock
from daqlib.config import Config
from daqlib.spool import Entry, Spool

#: The stages that are advanced, the last one first, so that jobs finish before others begin.
STAGES = ("release", "merge", "collect")
#: Workers at a time where no limit is set: each costs a process and some 30 MB.
_MOST = 64

Jobs = dict[str, list[Entry]]


def scan(on: Spool) -> Jobs:
    """Return the job files of each stage, by id."""
    return {stage: on.scan(stage) for stage in STAGES}


def next_due(jobs: Jobs, now: float) -> float:
    """Return the seconds until the next deferred job is due; infinite when there is none."""
    ahead = [e.due - now for entries in jobs.values() for e in entries if e.due > now]
    return min(ahead, default=math.inf)


def room(on: Spool, settings: Config, own: Collection[int],
         running: dict[str, int]) -> dict[str, float]:
    """Return how many workers more each limit allows; slots taken by others count.

    The stage tools take the slots themselves, so this only avoids starting what would turn round
    at once.

    Args:
        on: the spool.
        settings: the configuration.
        own: process ids of our workers, which may not hold their slots yet.
        running: our workers, counted by stage.
    """
    left: dict[str, float] = {}
    for limit in ("daq", "merge"):
        count = int(settings[f"limits.{limit}"])
        ours = sum(n for stage, n in running.items() if limit in capacity.LIMITS[stage])
        others = sum(pid not in own for pid in capacity.holders(on, settings, limit))
        left[limit] = count - ours - others if count else math.inf
    left["daq"] = min(left["daq"], _MOST - sum(running.values()))
    return left


def choose(on: Spool, jobs: Jobs, left: dict[str, float],
           may: Callable[[str, Entry], bool]) -> Iterator[tuple[str, Entry]]:
    """Yield what to start now, by id in each stage; a job that has to wait blocks no other.

    Args:
        on: the spool.
        jobs: from :func:`scan`.
        left: from :func:`room`; counted down.
        may: whether the caller has nothing against this start.
    """
    now = clock.now()
    for stage in STAGES:
        if on.paused(stage):
            continue
        for entry in jobs[stage]:
            if any(left[limit] <= 0 for limit in capacity.LIMITS[stage]):
                break
            if may(stage, entry) and on.is_due(entry, now) and not on.is_busy(entry.id):
                for limit in capacity.LIMITS[stage]:
                    left[limit] -= 1
                yield stage, entry


def explained(on: Spool, settings: Config) -> Iterator[tuple[str, Entry, str]]:
    """Yield every job of the stages in the order of starting, with what stands against it."""
    low = capacity.shortage(on, settings)
    for stage, entries in scan(on).items():
        paused = f"{stage}/.pause exists" if on.paused(stage) else ""
        for entry in entries:
            yield stage, entry, paused or low or _against(on, entry)


def _against(on: Spool, entry: Entry) -> str:
    if on.is_busy(entry.id):
        return "somebody is at work on it"
    if not on.is_due(entry, time.time()):
        return f"due at {clock.iso(entry.due, 0)}Z"
    return ""

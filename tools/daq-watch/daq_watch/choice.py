"""Choose which jobs to start now: due, not paused, nobody at work, within the limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator

from daq_watch.index import STAGES, Index
from daq_watch.needs import Needs, Reader
from daq_watch.worker import Worker
from daqlib import capacity, clock, errors, names
from daqlib.config import Config
from daqlib.spool import Entry, Spool

#: Workers at a time where no limit is set: each costs a process and some 30 MB.
_MOST = 64


class Room:
    """How many workers more each limit allows; places taken by others count.

    The stage tools take the places themselves, so this only avoids starting what would turn round
    at once. Places are looked at only while ours leave some: a look at one that is being taken
    holds its taker up.
    """

    def __init__(self, on: Spool, settings: Config, workers: Collection[Worker]) -> None:
        """Count nothing yet.

        Args:
            on: the spool.
            settings: ``limits.*``.
            workers: ours, which may not hold their places yet.
        """
        self._on = on
        self._settings = settings
        self._own = {each.pid for each in workers}
        self._running = [limit for each in workers for limit in each.needs.limits]
        self._most = _MOST - len(workers)
        self._left: dict[str, float] = {}

    def has(self, limits: Collection[str]) -> bool:
        """Tell whether one worker more may be started."""
        return self._most > 0 and all(self._of(limit) > 0 for limit in limits)

    def take(self, limits: Collection[str]) -> None:
        """Count a worker that is started."""
        self._most -= 1
        for limit in limits:
            self._left[limit] = self._of(limit) - 1

    def _of(self, limit: str) -> float:
        if limit not in self._left:
            self._left[limit] = self._count(limit)
        return self._left[limit]

    def _count(self, limit: str) -> float:
        places = int(self._settings[f"limits.{limit}"])
        left = places - self._running.count(limit)
        if not places:
            return math.inf
        if left <= 0:
            return 0
        holders = capacity.holders(self._on, self._settings, limit)
        return left - sum(pid not in self._own for pid in holders)


def choose(on: Spool, index: Index, needs: Reader, room: Room,
           may: Callable[[Entry, Needs], bool]) -> Iterator[tuple[Entry, Needs]]:
    """Yield what to start now, in each stage what became due first; nobody waits for another.

    Args:
        on: the spool.
        index: what lies in the stages.
        needs: of the jobs.
        room: counted down.
        may: whether the caller has nothing against this start.
    """
    now = clock.now()
    for stage in STAGES:
        if on.paused(stage):
            continue
        for entry in index.due(stage, now):
            if not room.has(capacity.LIMITS[stage]):
                break
            wanted = needs.of(entry)
            if wanted and may(entry, wanted) and room.has(wanted.limits) and (
                    not on.is_busy(entry.id)):
                room.take(wanted.limits)
                yield entry, wanted


def explained(on: Spool, settings: Config) -> Iterator[tuple[str, Entry, str]]:
    """Yield every job of the stages in the order of starting, with what stands against it."""
    low = capacity.shortage(on, settings)
    index, needs = Index(on), Reader(on, settings)
    index.scan()
    needs.look()
    for stage in STAGES:
        paused = f"{stage}/.pause exists" if on.paused(stage) else ""
        for entry in index.due(stage, math.inf):
            yield stage, entry, paused or low or _against(on, settings, needs, entry)


def _against(on: Spool, settings: Config, needs: Reader, entry: Entry) -> str:
    try:
        names.check_id(entry.id)
    except errors.BadData as error:
        return f"{error}; it is going to be put into bad/"
    now = time.time()
    if on.is_busy(entry.id):
        return "somebody is at work on it"
    if not on.is_due(entry, now):
        return f"due at {clock.iso(entry.due, 0)}Z"
    wanted = needs.of(entry)
    for circuit in needs.circuits:
        if wanted and circuit.host in wanted.hosts and circuit.wait(settings, now):
            return f"{circuit.host} is left alone until {clock.iso(circuit.probe, 0)}Z"
    return ""

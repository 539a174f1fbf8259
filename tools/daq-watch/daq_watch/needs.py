"""What a job needs in its stage beside a worker: places of the limits, and other hosts.

Only asked where it decides something: while a host is left alone, or transfers are limited. A
stage tool knows its needs better and turns round when they are not met; this saves the starts.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from daq_watch.rests import Key
from daqlib import breaker, capacity, errors, fsops, hostnames
from daqlib.config import Config
from daqlib.spool import Entry, Spool

#: Job files that are read in one look; the others have to wait for the next one.
_AT_ONCE = 200
_LARGEST = 1 << 20  # bytes of a job file that is read for this


@dataclass(frozen=True)
class Needs:
    """What a job needs in its stage.

    Attributes:
        limits: the limits that it counts against.
        hosts: without these nothing can be done, by :func:`daqlib.breaker.name_of`.
    """

    limits: tuple[str, ...]
    hosts: frozenset[str] = frozenset()


class Reader:
    """Finds the needs of jobs, and remembers them as long as the job files stay as they are."""

    def __init__(self, on: Spool, settings: Config) -> None:
        """Know nothing yet.

        Args:
            on: the spool.
            settings: ``hand_over``, ``receivers``, ``release.required``, ``limits.*``.
        """
        self._on = on
        self._settings = settings
        self._known: dict[Key, tuple[Entry, Needs]] = {}
        self._circuits: list[breaker.Circuit] = []
        self._stamp = -1
        self._left = 0
        self.postponed = False

    @property
    def circuits(self) -> list[breaker.Circuit]:
        """The hosts that are left alone."""
        return self._circuits

    def look(self) -> None:
        """Begin a look: learn which hosts are left alone."""
        self._left, self.postponed = _AT_ONCE, False
        stamp = breaker.stamp(self._on)
        if stamp != self._stamp:
            self._stamp = stamp
            self._circuits = [each for each in breaker.all_of(self._on)
                              if each.is_open(self._settings)]
        if not self._circuits and not self._counts_transfers():
            self._known.clear()

    def keep(self, present: Collection[Key]) -> None:
        """Forget the jobs that have left their stage."""
        self._known = {key: known for key, known in self._known.items() if key in present}

    def _counts_transfers(self) -> bool:
        return any(self._settings[f"limits.{name}"] for name in ("net_receive", "net_send"))

    def of(self, entry: Entry) -> Needs | None:
        """Return the needs of a job; None when they can only be told at the next look."""
        limits = capacity.LIMITS[entry.place]
        if entry.place == "merge" or not (self._circuits or self._counts_transfers()):
            return Needs(limits)
        key = (entry.place, entry.id)
        known = self._known.get(key)
        if known is None or known[0] != entry:
            if not self._left:
                self.postponed = True
                return None
            self._left -= 1
            known = self._known[key] = entry, self._read(entry)
        return known[1]

    def _read(self, entry: Entry) -> Needs:
        limits = capacity.LIMITS[entry.place]
        hosts: set[str] = set()
        try:
            document = self._document(entry)
            if entry.place == "collect":
                hosts = needed = set(hostnames.origins(self._on, self._settings, entry.id,
                                                       document))
            else:
                hosts, needed = hostnames.receiving(self._settings, document)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, errors.BadData):
            return Needs(limits)  # the stage tool says what is wrong with it
        transfers = {"collect": "net_receive", "release": "net_send"}[entry.place]
        return Needs((*limits, transfers) if hosts else limits,
                     frozenset(map(breaker.name_of, needed)))

    def _document(self, entry: Entry) -> dict[str, Any]:
        if entry.size > _LARGEST:
            raise ValueError("too large to be read for this")
        data, _ = fsops.read_regular(self._on.job_path(entry.place, entry.id))
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError("no object")
        return document

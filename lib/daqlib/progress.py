"""How far a stage is with a job's bytes: ``data/ID/.progress.json``, and a bar on a terminal.

The file is for whoever looks at a job; it is replaced at most once a second, never made durable,
removed at the end, and believed only while the process that wrote it lives and goes on writing.
All amounts are bytes, rates bytes per second, times seconds; of an exposure, which is no matter of
bytes, the amounts are seconds, and the member ``unit`` says so.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from typing import Any

from daqlib import cli, fsops

Document = dict[str, Any]

_NAME = ".progress.json"
_EVERY = 1.0  # seconds
_WINDOW = 5.0  # seconds over which the rate is taken
_STALE = 30.0  # seconds without a word from a process that still lives
_MEMBERS: dict[str, type | tuple[type, ...]] = {
    "stage": str, "what": str, "done": (int, float), "total": (int, float), "rate": (int, float),
    "left": (int, float), "time": (int, float), "pid": int}


class Reporter:
    """Tells how far something is."""

    def __init__(self, folder: str, stage: str, what: str, total: int = 0) -> None:
        """Begin with nothing.

        Args:
            folder: the job's data directory, absolute; its name is the job's id.
            stage: which stage is at work.
            what: what it is at, for people.
            total: bytes in all; 0 while that is not known.
        """
        self._path = os.path.join(folder, _NAME)
        self._stage, self._what, self._total = stage, what, total
        self._bar = cli.progress(f"{os.path.basename(folder)}: {stage}")
        self._seen = deque([(time.monotonic(), 0)])
        self._written = time.monotonic()

    def at(self, done: int, total: int = 0) -> None:
        """Say how far it is.

        Args:
            done: bytes.
            total: bytes in all, when that is known better now.
        """
        self._total = total or self._total
        if self._total:
            self._total = max(done, self._total)
            self._bar(done, self._total)
        now = time.monotonic()
        if now - self._written < _EVERY:
            return
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        self._written = now
        self._write(done)

    def _write(self, done: int) -> None:
        (began, before), (now, _) = self._seen[0], self._seen[-1]
        rate = max(0.0, (done - before) / (now - began)) if now > began else 0.0
        _write(self._path, {
            "stage": self._stage, "what": self._what, "done": done, "total": self._total,
            "rate": round(rate),
            "left": round(max(0, self._total - done) / rate, 1) if rate else 0.0})

    def close(self) -> None:
        """Say that it is over."""
        fsops.remove(self._path)


def tell(folder: str, stage: str, what: str, done: float, total: float, left: float) -> None:
    """Say how far an exposure is: seconds take the place of bytes.

    Args:
        folder: the job's data directory; it is made if it is not there yet.
        stage: which stage is at work.
        what: the source, for people.
        done: seconds that it has lasted.
        total: seconds that it will last.
        left: seconds that it still lasts.
    """
    os.makedirs(folder, exist_ok=True)
    _write(os.path.join(folder, _NAME), {"stage": stage, "what": what, "done": done,
                                         "total": total, "rate": 0, "left": left, "unit": "s"})


def _write(path: str, document: Document) -> None:
    embryo = fsops.temporary(path)
    try:
        with open(embryo, "x", encoding="utf-8") as file:
            file.write(json.dumps({**document, "time": time.time(), "pid": os.getpid()},
                                  ensure_ascii=False) + "\n")
        os.rename(embryo, path)
    except OSError:
        fsops.remove(embryo)  # nobody waits for these words


def forget(folder: str) -> None:
    """Remove what a dead process said of a job; the caller holds the job's lock."""
    fsops.remove(os.path.join(folder, _NAME))


def read(folder: str) -> Document | None:
    """Return what is said of a job now: the members that the class writes; None: nothing."""
    try:
        data, _ = fsops.read_regular(os.path.join(folder, _NAME))
        found = json.loads(data)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not all(
            isinstance(found.get(name), kind) for name, kind in _MEMBERS.items()):
        return None
    fresh = -_STALE < time.time() - found["time"] < _STALE
    return found if fresh and os.path.exists(f"/proc/{found['pid']}") else None


def percent(told: Document) -> int:
    """Return how much of it is done, 0 to 100."""
    return min(100, int(100 * told["done"] // told["total"])) if told["total"] > 0 else 0


def extent(told: Document) -> str:
    """Return how much of how much is done, for people: ``12 MB of 81 MB``, ``12.0 s of 30.0 s``."""
    if told.get("unit") == "s":
        return f"{told['done']:.1f} s of {told['total']:.1f} s"
    return f"{amount(told['done'])} of {amount(told['total'])}"


def amount(count: float) -> str:
    """Return a number of bytes for people, such as ``81 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.0f} TB" if count >= 10 else f"{count:.1f} TB"

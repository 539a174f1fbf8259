"""A real daq-watch, and what a person, a crash or the kernel may do to it and its children."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness import Daq, Process, Result

NURSERY = "daq_watch.cradle"


@dataclass
class Watched:
    """A watcher on a spool; a new one begins when one was killed.

    Attributes:
        daq: the tools and the spool.
        chance: decides whom to kill.
        options: of the watcher.
        kills: how often each kind of process was killed.
    """

    daq: Daq
    chance: random.Random
    options: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    process: Process | None = None

    def begin(self) -> Process:
        """Start a watcher."""
        self.process = self.daq.spawn("daq-watch", "-q", *self.options)
        return self.process

    @property
    def watcher(self) -> Process:
        assert self.process is not None
        return self.process

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        path = Path(f"/proc/{self.watcher.pid}/task/{self.watcher.pid}/children")
        with suppress(OSError):
            return list(map(int, path.read_text().split()))
        return []

    def nurseries(self) -> list[int]:
        """Return its helper that forks workers: one, or none."""
        return [pid for pid in self.children() if NURSERY in self.command(pid)
                and not self.name(pid).startswith("daq-")]  # what it forked has its command line

    def companions(self) -> list[int]:
        """Return what runs beside it: servers and the like."""
        return [pid for pid in self.children() if "-only " in self.command(pid)]

    def workers(self) -> list[int]:
        """Return its workers."""
        beside = {*self.companions(), *self.nurseries()}
        return [pid for pid in self.children() if pid not in beside]

    @staticmethod
    def command(pid: int) -> str:
        with suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return ""

    @staticmethod
    def name(pid: int) -> str:
        with suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text()
        return ""

    def _kill_child(self, kind: str, found: list[int]) -> None:
        if not found:
            return
        pid = self.chance.choice(found)
        with suppress(ProcessLookupError):
            pinned = os.pidfd_open(pid)  # so that it is still the child when it is killed
            try:
                if pid in self.children():
                    signal.pidfd_send_signal(pinned, signal.SIGKILL)
                    self.kills[kind] += 1
            finally:
                os.close(pinned)

    def kill_worker(self) -> None:
        """Kill one of the workers, if there is any."""
        self._kill_child("worker", self.workers())

    def kill_nursery(self) -> None:
        """Kill the helper that forks workers."""
        self._kill_child("nursery", self.nurseries())

    def kill_companion(self) -> None:
        """Kill one of those that run beside it."""
        self._kill_child("companion", self.companions())

    def kill(self) -> Result:
        """Kill the watcher alone; its workers go on."""
        told = self.watcher.kill()
        assert told.code == -signal.SIGKILL, f"the watcher ended by itself\n{told}"
        assert "Traceback" not in told.err and "internal error" not in told.err, told
        self.kills["watcher"] += 1
        return told

    def disturb(self) -> None:
        """Kill something, and see that a watcher runs."""
        kind: Callable[[], object] = self.chance.choices(
            [self.kill_worker, self.kill_nursery, self.kill, self.kill_companion],
            [6, 1, 1, 1 if self.options else 0])[0]
        kind()
        if not self.watcher.running():
            self.begin()

    def end(self) -> Result:
        """Tell it to stop, as an operator does."""
        told = self.watcher.stop()
        assert "Traceback" not in told.err and "internal error" not in told.err, told
        if told.code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return told  # it had only just begun, and nothing to end with grace
        return told.ok()

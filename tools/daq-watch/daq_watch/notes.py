"""What only the watcher knows, for people who ask: ``run/watch.json``.

It is no state: nobody acts on it, a crash may leave an old one, and who reads it compares the
process that wrote it with the one that holds the watcher's lock.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterable
from typing import Any

from daq_watch.companions import Companions
from daq_watch.worker import Worker
from daqlib import fsops
from daqlib.config import Config
from daqlib.spool import Spool, process_start

Facts = dict[str, Any]

_NAME = "watch.json"
_LEAST = 0.5  # seconds between two writings


class Notes:
    """The file, written some time after something changed."""

    def __init__(self, on: Spool, settings: Config, *, once: bool) -> None:
        """Write nothing yet.

        Args:
            on: the spool.
            settings: the configuration.
            once: whether the watcher ends when nothing is due.
        """
        self._on = on
        self._settings = settings
        self._fixed: Facts = {"pid": os.getpid(), "started": process_start(os.getpid()),
                              "since": time.time(), "host": socket.gethostname(), "once": once}
        self._written_at = -math.inf
        self.next_at = 0.0

    def take_over(self, settings: Config) -> None:
        """Tell of another configuration from now on."""
        self._settings = settings
        self.change()

    def change(self) -> None:
        """Note that something changed."""
        self.next_at = min(self.next_at, self._written_at + _LEAST)

    def write(self, workers: Iterable[Worker], companions: Companions, nursery: int) -> None:
        """Write the file anew; what cannot be written is not told.

        Args:
            workers: ours.
            companions: ours.
            nursery: its process id, 0 when there is none.
        """
        self._written_at, self.next_at = time.monotonic(), math.inf
        facts = {**self._fixed, "config": self._settings.path, "nursery": nursery,
                 "workers": [_worker(each) for each in workers], "companions": companions.facts()}
        path = self._on.path("run", _NAME)
        embryo = fsops.temporary(path)
        try:
            with open(embryo, "x", encoding="utf-8", errors="backslashreplace") as file:
                json.dump(facts, file, ensure_ascii=False)
                file.write("\n")
            os.rename(embryo, path)
        except OSError:
            fsops.remove(embryo)

    def remove(self) -> None:
        """Remove the file: the watcher ends."""
        fsops.remove(self._on.path("run", _NAME))


def _worker(each: Worker) -> Facts:
    limit = each.deadline - each.since
    return {"id": each.job, "stage": each.stage, "pid": each.pid, "since": each.began,
            "until": each.began + limit if limit < math.inf else None}


def read(on: Spool) -> Facts:
    """Return what a watcher wrote; empty when there is nothing that can be read."""
    with contextlib.suppress(OSError, ValueError):
        data, _ = fsops.read_regular(on.path("run", _NAME))
        facts = json.loads(data)
        return facts if isinstance(facts, dict) else {}
    return {}

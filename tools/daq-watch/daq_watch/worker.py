"""A worker: a stage tool at work on one job, in a session of its own, with a time limit."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from daq_watch.needs import Needs
from daqlib import cli, manifest, receivers
from daqlib.config import Config
from daqlib.spool import Entry, Spool

#: Seconds from TERM to KILL.
GRACE = 10.0

#: Starts a program, given its argument vector and arguments, and returns the process id or 0.
Bear = Callable[[list[str], list[str]], int]


@dataclass
class Worker:
    """A started stage tool, a child of ours.

    Attributes:
        stage: what it does.
        job: the job's id.
        mtime_ns: the job file's mtime when it was started.
        pid: the process id, which is the id of its process group as well.
        pidfd: readable when it has ended.
        since: start, monotonic seconds.
        needs: the limits that it counts against and the hosts that it wants.
        began: start, seconds since the epoch.
        deadline: when its time is up (monotonic seconds), unless it got on by then.
        kill_at: when it is killed for good (monotonic seconds).
    """

    stage: str
    job: str
    mtime_ns: int
    pid: int
    pidfd: int
    since: float
    needs: Needs
    began: float = field(default_factory=time.time)
    deadline: float = math.inf
    kill_at: float = math.inf

    def signal(self, signum: int) -> None:
        """Send a signal to its process group; it must not have been reaped."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signum)

    def terminate(self) -> None:
        """Ask it to end, and note when asking is over."""
        if self.kill_at == math.inf:
            self.signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + GRACE

    def kill(self) -> None:
        """End it and its children at once."""
        self.signal(signal.SIGKILL)
        self.kill_at = math.inf

    def reap(self) -> int:
        """Collect its end and return the exit code, negative for a signal.

        What it left running in its group is told to end, too, when a signal killed it: orphans
        would keep the claim and do work that nobody waits for.
        """
        dead = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        if dead is not None and dead.si_code != os.CLD_EXITED:
            self.signal(signal.SIGTERM)  # still a zombie: its group id cannot belong to others
        os.close(self.pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def start(on: Spool, settings: Config, entry: Entry, needs: Needs, tool: list[str],
          bear: Bear) -> Worker:
    """Start a stage tool on a job.

    Args:
        on: the spool.
        settings: the configuration.
        entry: the job, in its stage.
        needs: of this job in this stage.
        tool: the argument vector of the stage tool.
        bear: the nursery's way to start it, tried first.

    Raises:
        OSError: the process cannot be made, or the job is gone.
    """
    mtime_ns = os.stat(on.job_path(entry.place, entry.id)).st_mtime_ns
    arguments = ["--job", entry.id, "--spool", on.root, *cli.verbosity()]
    if settings.path:
        arguments += ["--config", settings.path]
    pid = bear(tool, arguments) or _run(tool, arguments)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)  # a worker that we cannot watch must not run
        os.waitpid(pid, 0)
        raise
    made = Worker(entry.place, entry.id, mtime_ns, pid, pidfd, time.monotonic(), needs)
    if settings["timeout.bytes_per_sec"]:
        made.deadline = made.since + settings["timeout.base_sec"]  # what it moves is counted then
    return made


def _run(tool: list[str], arguments: list[str]) -> int:
    # words only: a worker's stdout has no reader, so it goes where its stderr goes
    process = subprocess.Popen([*tool, *arguments], stdin=subprocess.DEVNULL, stdout=2,
                               start_new_session=True)
    process.returncode = 0  # it is ours to wait for, not that object's
    return process.pid


def allowance(on: Spool, settings: Config, worker: Worker) -> float:
    """Return the seconds that a worker may take, given the bytes that are there by now.

    What arrives counts: a transfer of unknown size that goes on at the configured rate never
    runs out of time, one that stalls does. Files outside of the spool are not asked for their
    size, because a dead network mount would hang the watcher with it; but what a tool that moves
    them says of their size is believed.

    Args:
        on: the spool.
        settings: ``timeout.base_sec`` and ``timeout.bytes_per_sec``; a rate of 0 is no limit.
        worker: the worker.
    """
    rate = settings["timeout.bytes_per_sec"]
    if not rate:
        return math.inf
    expected = max(_bytes_below(on.data_path(worker.job)), _bytes_announced(on, worker))
    seconds = settings["timeout.base_sec"]
    if worker.stage == "release":
        asked = _receivers(on, worker.job)
        expected += _size_of_product(on, worker.job) * max(1, len(asked))
        # programs have a time limit of their own; the receivers' run at once, the hook afterwards
        programs = any(each.get("type") == "commandReceiver" for each in asked)
        seconds += settings["release.program_sec"] * (programs + bool(settings["release.hook"]))
    return float(seconds + expected / rate)


def _bytes_below(folder: str) -> int:
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def _bytes_announced(on: Spool, worker: Worker) -> int:
    said = manifest.read(on.data_path(worker.job, ".progress.json")) or {}
    total = said.get("total")
    return total if said.get("pid") == worker.pid and isinstance(total, int) else 0


def _receivers(on: Spool, job: str) -> list[dict[str, Any]]:
    document = manifest.read(on.job_path("release", job)) or {}
    specification = manifest.read(on.data_path(job, "specification.json")) or {}
    return receivers.in_effect(document, specification)


def _size_of_product(on: Spool, job: str) -> int:
    made = manifest.read(on.data_path(job, "merge.json")) or {}
    return sum(int(item.get("size", 0)) for item in made.get("outputs", []))

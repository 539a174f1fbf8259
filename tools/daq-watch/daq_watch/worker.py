"""A worker: a stage tool at work on one job, in a session of its own, with a time limit."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from dataclasses import dataclass

from daqlib import cli, manifest
from daqlib.config import Config
from daqlib.spool import Entry, Spool

#: Seconds from TERM to KILL.
GRACE = 10.0


@dataclass
class Worker:
    """A started stage tool.

    Attributes:
        stage: what it does.
        job: the job's id.
        mtime_ns: the job file's mtime when it was started.
        process: the tool, leader of its session and process group.
        pidfd: readable when it has ended.
        since: start, monotonic seconds.
        deadline: when its time is up (monotonic seconds), unless it got on by then.
        kill_at: when it is killed for good (monotonic seconds).
    """

    stage: str
    job: str
    mtime_ns: int
    process: subprocess.Popen[bytes]
    pidfd: int
    since: float
    deadline: float = math.inf
    kill_at: float = math.inf

    @property
    def pid(self) -> int:
        """The process id, which is the id of its process group as well."""
        return self.process.pid

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
        return self.process.wait()


def start(on: Spool, settings: Config, stage: str, entry: Entry, tool: list[str]) -> Worker:
    """Start a stage tool on a job.

    Args:
        on: the spool.
        settings: the configuration.
        stage: the stage.
        entry: the job.
        tool: the argument vector of the stage tool.

    Raises:
        OSError: the process cannot be made, or the job is gone.
    """
    mtime_ns = os.stat(on.job_path(stage, entry.id)).st_mtime_ns
    command = [*tool, "--job", entry.id, "--spool", on.root, *cli.verbosity()]
    if settings.path:
        command += ["--config", settings.path]
    # words only: a worker's stdout has no reader, so it goes where its stderr goes
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2,
                               start_new_session=True)
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        process.kill()  # a worker that we cannot watch must not run
        process.wait()
        raise
    made = Worker(stage, entry.id, mtime_ns, process, pidfd, time.monotonic())
    made.deadline = made.since + allowance(on, settings, made)
    return made


def allowance(on: Spool, settings: Config, worker: Worker) -> float:
    """Return the seconds that a worker may take, given the bytes that are there by now.

    What arrives counts: a transfer of unknown size that goes on at the configured rate never
    runs out of time, one that stalls does. Files outside of the spool are not asked for their
    size, because a dead network mount would hang the watcher with it.

    Args:
        on: the spool.
        settings: ``timeout.base_sec`` and ``timeout.bytes_per_sec``; a rate of 0 is no limit.
        worker: the worker.
    """
    rate = settings["timeout.bytes_per_sec"]
    if not rate:
        return math.inf
    expected = _bytes_below(on.data_path(worker.job))
    if worker.stage == "release":
        expected += _bytes_to_deliver(on, worker.job)
    return float(settings["timeout.base_sec"] + expected / rate)


def _bytes_below(folder: str) -> int:
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def _bytes_to_deliver(on: Spool, job: str) -> int:
    made = manifest.read(on.data_path(job, "merge.json")) or {}
    specification = manifest.read(on.data_path(job, "specification.json")) or {}
    size = sum(int(item.get("size", 0)) for item in made.get("outputs", []))
    return size * max(1, len(specification.get("receivers", [])))

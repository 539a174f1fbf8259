"""What a worker's end means: what it recorded itself, and what has to be recorded for it."""

from __future__ import annotations

import os
import signal

from daq_watch.worker import Worker
from daqlib import cli, clock, errors, stage
from daqlib.config import Config
from daqlib.spool import Spool, holder

#: Ends that the stage tool has explained itself, on stderr and where need be in the log.
_EXPLAINED = (errors.OK, *(c.code for c in errors.CODES if c not in (errors.Bug, errors.Usage)),
              *(128 + number for number in (signal.SIGINT, signal.SIGTERM)))
_LOCK_PATIENCE = 0.5  # seconds for the orphans of a killed worker to go


def settle(on: Spool, settings: Config, worker: Worker, code: int) -> bool:
    """Record what a worker could not record itself; return whether its job failed for good.

    Args:
        on: the spool.
        settings: the configuration.
        worker: the worker, reaped.
        code: its exit code, negative for a signal.

    Raises:
        OSError: it could not be recorded.
    """
    if code not in _EXPLAINED:
        _record(on, settings, worker, code)
    wrong = code == errors.BadData.code  # a second copy in bad/ is wrong, too
    return wrong or (code != errors.OK and os.path.exists(on.job_path("failed", worker.job)))


def _record(on: Spool, settings: Config, worker: Worker, code: int) -> None:
    reason = (f"daq-{worker.stage} was killed by signal {-code} ({signal.strsignal(-code)})"
              if code < 0 else f"daq-{worker.stage} ended with exit code {code}")
    lock = on.wait_lock(worker.job, "watch", _LOCK_PATIENCE)
    if lock is None:
        cli.warn(f"{worker.job}: {reason}; {_who_has_it(on, worker)}")
        return
    try:
        if not _has_recorded(on, worker):
            place = stage.worker_died(on, settings, worker.stage, worker.job, worker.mtime_ns,
                                      reason, -code if code < 0 else None)
            _tell(on, worker, reason, place)
    finally:
        on.release(worker.job, lock)


def _who_has_it(on: Spool, worker: Worker) -> str:
    if holder(on.lock_path(worker.job)).get("pid") == worker.pid:
        return "what it started still runs, and holds the job until it ends"
    return "somebody else is at work on the job now"


def _has_recorded(on: Spool, worker: Worker) -> bool:
    own = [event["event"] for event in on.events(worker.job) if event.get("pid") == worker.pid]
    return own[-1:] in (["defer"], ["fail"], ["bad"], ["aborted"])


def _tell(on: Spool, worker: Worker, reason: str, place: str) -> None:
    if place == "failed":
        cli.warn(f"{worker.job}: {reason}; its tries are used up, moved to failed/; mend the "
                 f"cause, then: mv failed/{worker.job}.json {worker.stage}/")
    elif place:
        wait = os.stat(on.job_path(worker.stage, worker.job)).st_mtime - clock.now()
        cli.warn(f"{worker.job}: {reason}; next try in {max(0.0, wait):.0f} s")
    else:
        cli.warn(f"{worker.job}: {reason}, after the job had left {worker.stage}/")

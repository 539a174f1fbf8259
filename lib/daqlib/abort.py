"""Abort a job that has left ``acquire/``: ask, end the worker, and lay the job to rest.

The request is an event of the log, so that it holds whoever is alive; claim and commit obey it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from daqlib import errors, history
from daqlib.spool import STAGES, Spool, holder, process_start

_PLACES = (*STAGES, "failed", "hold")
#: Stages whose tools may be told to end. A daemon that holds the lock for a moment, or somebody
#: else who aborts the same job, is left alone.
_WORKERS = ("collect", "merge", "release")
#: Events of a live source -> whether it may record from then on.
_OF_SOURCES = {"starting": True, "started": True, "stopped": False, "source-aborted": False}


def recording(events: list[history.Event]) -> list[str]:
    """Return the live sources that may record still, by what the log of a job tells."""
    found: dict[str, bool] = {}
    for event in events:
        name = event["event"]
        if name in ("sealed", "aborted"):
            return []
        if name in _OF_SOURCES:
            found[str(event.get("source", ""))] = _OF_SOURCES[name]
    return [source for source, records in found.items() if records]


def abort(spool: Spool, job: str, patience: float = 15.0, *, force: bool = False) -> None:
    """Abort a job in collect, merge, release, failed or hold.

    The holder of the lock gets SIGTERM and ends its own children; then the job is moved to
    ``done/`` under its lock.

    Args:
        spool: the spool.
        job: the id.
        patience: seconds to wait for a worker to end.
        force: also if a live source of it may record still, which nobody would end then.

    Raises:
        errors.NoJob: the spool does not hold it, or it has ended meanwhile.
        errors.Unavailable: a live source may record still; only daq-ctl can end that, and not
            without the job file.
        errors.Later: the worker does not end; the request stands and will be obeyed.
    """
    place = spool.place(job)
    if place not in _PLACES:
        if place == "done" and history.last(spool.events(job), "aborted"):
            return
        if not place and (sources := recording(spool.events(job))):
            raise errors.Unavailable(
                f"its job file was removed, and these sources may record still: "
                f"{', '.join(sources)}", "put the file back into acquire/ and repeat this, or end "
                "the sources by hand", job)
        raise errors.NoJob(f"cannot abort a job in {place}/" if place else "no such job",
                           "see daq-status", job)
    events = spool.events(job)
    if not force and (sources := recording(events)):
        raise errors.Unavailable(f"these sources may record still: {', '.join(sources)}",
                                 "let daq-ctl run, which ends them, and repeat this", job)
    if not history.abort_requested(events):
        spool.log(job, "abort-requested", stage=place if place in STAGES else None)
    lock = _lock_after_asking(spool, job, patience)
    try:
        place = spool.place(job)
        if place in _PLACES:
            finish(spool, job, place)
        elif not history.last(spool.events(job), "aborted"):
            raise errors.NoJob("it ended before it could be aborted", "see daq-status", job)
    finally:
        spool.release(job, lock)


def _lock_after_asking(spool: Spool, job: str, patience: float) -> int:
    deadline = time.monotonic() + patience
    asked = 0
    while (lock := spool.lock(job, "abort")) is None:
        facts = holder(spool.lock_path(job))
        pid = int(facts.get("pid", 0) or 0)
        if pid and pid != asked and facts.get("stage") in _WORKERS:
            _terminate(pid, str(facts.get("started", "")))
            asked = pid
        if time.monotonic() > deadline:
            raise errors.Later(f"the worker (process {pid}) has not ended yet",
                               "the abort stands and is carried out when it ends", job)
        time.sleep(0.05)
    return lock


def _terminate(pid: int, started: str) -> None:
    # a pidfd pins the process, so that the comparison of the start time stays true for the signal
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            if started and process_start(pid) == started:
                signal.pidfd_send_signal(fd, signal.SIGTERM)
        finally:
            os.close(fd)


def finish(spool: Spool, job: str, place: str) -> None:
    """Record the abort and move the job to ``done/``; call with the job's lock held."""
    spool.log(job, "aborted", stage=place if place in STAGES else None)
    spool.move(job, place, "done")

"""Abort a job that has left ``acquire/``: ask, end the worker, and lay the job to rest.

The request is an event of the log, so that it holds whoever is alive; claim and commit obey it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from daqlib import errors, history
from daqlib.spool import STAGES, Spool, holder, process_start

if TYPE_CHECKING:
    from daqlib.config import Config

_PLACES = (*STAGES, "failed", "hold", "remote")
#: Stages whose tools may be told to end. A daemon that holds the lock for a moment, or somebody
#: else who aborts the same job, is left alone.
_WORKERS = ("collect", "merge", "release", history.HAND_OVER)
_TICK = 0.02  # seconds: the times of files have the resolution of a kernel tick
#: Events of a live source -> whether it may record from then on.
_OF_SOURCES = {"starting": True, "started": True, "stopped": False, "source-absent": False,
               "source-aborted": False}


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


def abort(spool: Spool, job: str, patience: float = 15.0, *, force: bool = False,
          settings: Config | None = None) -> None:
    """Abort a job in collect, merge, release, failed, hold or remote.

    The holder of the lock gets SIGTERM and ends its own children; then the job is moved to
    ``done/`` under its lock. What another host has is aborted there (ESO-396401, section 9.3):
    while that host is down only ``force`` helps, and it does not learn of it.

    Args:
        spool: the spool.
        job: the id.
        patience: seconds to wait for a worker to end.
        force: also if a live source of it may record still, which nobody would end then, or if
            the host that has it does not answer.
        settings: by which the host that has it is reached.

    Raises:
        errors.NoJob: the spool does not hold it, or it has ended meanwhile.
        errors.Unavailable: a live source may record still; only daq-ctl can end that, and not
            without the job file. Or the host that has the job does not answer.
        errors.Later: the worker does not end; the request stands and will be obeyed.
    """
    place = spool.place(job)
    if place == "remote":
        _elsewhere(spool, job, settings, force=force)
        return
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
    if _finished(spool, job, patience) == "remote":
        _elsewhere(spool, job, settings, force=force)


def _finished(spool: Spool, job: str, patience: float) -> str:
    """Lay a job to rest under its lock, when its worker has ended; return where it is then."""
    lock = _lock_after_asking(spool, job, patience)
    try:
        place = spool.place(job)
        if place in _PLACES:
            place = finish(spool, job, place)
        elif not history.last(spool.events(job), "aborted"):
            raise errors.NoJob("it ended before it could be aborted", "see daq-status", job)
        return place
    finally:
        spool.release(job, lock)


def _elsewhere(spool: Spool, job: str, settings: Config | None, *, force: bool) -> None:
    """Abort a job that another host has, or may have."""
    if history.handed_over(spool.events(job)) is None:
        raise errors.NoJob("cannot abort a job in remote/ that no other host has",
                           f"mv remote/{job}.json where it belongs", job)
    from daqlib import handover

    try:
        if settings is None:
            raise errors.Unavailable("another host has it", "use daq-ctl daq.abort", job)
        handover.abort(spool, settings, job, force=force)
    except errors.DaqError as error:
        error.job = error.job or job
        if not force or isinstance(error, errors.NoJob):
            raise
        handover.abandon(spool, job)


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
    # a pidfd pins the process, so that the comparison of the start time stays true for the signal;
    # somebody else's worker cannot be told, and obeys what is on record when it commits
    with contextlib.suppress(ProcessLookupError, PermissionError):
        fd = os.pidfd_open(pid)
        try:
            if started and process_start(pid) == started:
                signal.pidfd_send_signal(fd, signal.SIGTERM)
        finally:
            os.close(fd)


def was_cut_short(events: list[history.Event], moved: float) -> bool:
    """Tell whether the abort of a job ended between its record and the move to ``done/``.

    A job that a person has moved back since is another matter: that is younger than the record.

    Args:
        events: the history.
        moved: when the job file was changed or moved, its ctime, seconds since the epoch.
    """
    newest = history.last(events, "aborted", "start", "submitted", "received")
    return (newest is not None and newest["event"] == "aborted"
            and moved + _TICK < history.seconds(newest))


def finish(spool: Spool, job: str, place: str) -> str:
    """Record the abort and move the job to ``done/``; call with the job's lock held.

    What another host has, or may have, goes to ``remote/`` instead, the request standing: it is
    aborted there.

    Returns:
        The directory that the job is in now.
    """
    events = spool.events(job)
    if history.handed_over(events) is not None:
        if not history.abort_requested(events):
            spool.log(job, "abort-requested", stage=place if place in STAGES else None)
        if place != "remote":
            spool.move(job, place, "remote")
        return "remote"
    spool.log(job, "aborted", stage=place if place in STAGES else None)
    spool.move(job, place, "done")
    return "done"

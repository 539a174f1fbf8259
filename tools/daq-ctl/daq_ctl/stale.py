"""Stale jobs: what waited too long is put into ``failed/`` when the daemon starts.

ESO-396401, section 11.3.5, ``cfg/daq/stale_acquiring_hours`` and ``cfg/daq/stale_merging_hours``.
"""

from __future__ import annotations

import contextlib
import os

from daqlib import alerts, clock, errors, fsops, history, job, strictjson
from daqlib.spool import Entry, Spool

_STAGES = ("collect", "merge", "release")


def hours(document: job.Document, ctime: float) -> float:
    """Return the hours since a job was created: by its own word, else its file's ctime.

    Args:
        document: the job file.
        ctime: of the job file, seconds since the epoch.
    """
    try:
        created = clock.from_iso(str(document["created"]))
    except (KeyError, ValueError):
        created = ctime
    return (clock.now() - created) / 3600.0


def archive(spool: Spool, limit: float) -> list[str]:
    """Put jobs that nobody merges into ``failed/``; return their ids.

    Left alone are jobs that somebody works on, all of them while a ``daq-watch`` runs, those of a
    paused stage, and those that were brought back after they had been stale before.

    Args:
        spool: the spool.
        limit: hours since the job was created; 0 means never.
    """
    if not limit or spool.watched():
        return []
    stages = [stage for stage in _STAGES if not spool.paused(stage)]
    return [entry.id for entry in spool.scan(*stages) if _is_stale(spool, entry, limit)
            and _archived(spool, entry, limit)]


def _is_stale(spool: Spool, entry: Entry, limit: float) -> bool:
    try:
        age = hours(*_read(spool, entry))
    except (OSError, ValueError, errors.DaqError):
        return False  # gone, or nothing that can be told apart from a job that is being written
    return age > limit and not any(event.get("id") == "stale" for event in spool.events(entry.id))


def _read(spool: Spool, entry: Entry) -> tuple[job.Document, float]:
    data, status = fsops.read_regular(spool.job_path(entry.place, entry.id))
    document = strictjson.loads(data)
    return document if isinstance(document, dict) else {}, status.st_ctime


def _archived(spool: Spool, entry: Entry, limit: float) -> bool:
    lock = spool.lock(entry.id, "stale")
    if lock is None:
        return False
    try:
        if spool.place(entry.id) != entry.place or history.abort_requested(spool.events(entry.id)):
            return False
        text = (f"waited for more than {limit:g} h in {entry.place}/ and no daq-watch runs "
                f"(cfg/daq/stale_merging_hours); go on with: "
                f"mv failed/{entry.id}.json {entry.place}/")
        spool.log_all(entry.id, [
            ("alert", {"stage": entry.place, **alerts.make("stale", "", text)}),
            ("fail", {"stage": entry.place, "reason": text})])
        with contextlib.suppress(FileNotFoundError):
            os.utime(spool.job_path(entry.place, entry.id))
        return spool.move(entry.id, entry.place, "failed")
    except FileExistsError:
        return False  # failed/ holds a copy: a person has to look at both
    finally:
        spool.release(entry.id, lock)

"""Remove what is past its time: the one place where the tools delete of finished jobs.

The job's lock is held. What is going to go is on record first, and then the order is such that a
kill at any point leaves what the next prune finishes, and never a job that looks like an unfinished
one: sources leave their name in one step; a job leaves ``done/`` for a dot-file there, then its
data, the reservation of its file id, its history and at last the dot-file go.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

from daq_status.retention import COLLECTED, DOOMED, JOB, RESULT, SOURCES, Case, product_path
from daqlib import audit, clock, fsops, history
from daqlib.crashpoints import passing
from daqlib.spool import Spool

_SPARE = ".prune"  # in lock/
_MARK, _END = ".pruned-", ".json"


def prepare(on: Spool) -> None:
    """Have a file at hand for the day on which no more can be made, see :func:`lock`."""
    with contextlib.suppress(OSError):
        os.close(os.open(on.path("lock", _SPARE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664))


def lock(on: Spool, job: str) -> int | None:
    """Take a job's lock, on a file system that can hold no more files, too.

    Returns:
        None when somebody is at work on the job.

    Raises:
        OSError: the lock cannot be had.
    """
    try:
        return on.lock(job, "prune")
    except OSError as error:
        if error.errno not in fsops.NO_SPACE:
            raise
        try:
            # a further name of a file that is there takes no inode, and a lock is as good on it
            os.link(on.path("lock", _SPARE), on.lock_path(job))
        except OSError:
            raise error from None
    return on.lock(job, "prune")


def carry_out(on: Spool, case: Case) -> bool:
    """Remove what a case says; call with the job's lock held, under which it was examined.

    Returns:
        False when the job was moved out of ``done/`` meanwhile: the rest of it stays.

    Raises:
        OSError: something could not be removed; the next prune goes on from there.
    """
    for kind, remove in ((RESULT, _result), (SOURCES, _sources), (JOB, _job)):
        if kind in case.remove and not (os.path.lexists(on.job_path("done", case.id))
                                        and remove(on, case)):
            return False
    return True


def _told(case: Case, kind: str) -> dict[str, Any]:
    product = case.product if kind != SOURCES else {}
    return {"what": kind, "state": case.state, "ended": clock.iso(case.ended) + "Z", **product}


@contextlib.contextmanager
def _on_record(on: Spool, case: Case, kind: str) -> Iterator[None]:
    """Put on record what is going to be removed; afterwards only if there is no space before."""
    late = False
    try:
        on.log(case.id, "pruned", **_told(case, kind))
    except OSError as error:
        if error.errno not in fsops.NO_SPACE:
            raise
        late = True
    yield
    if late:
        on.log(case.id, "pruned", **_told(case, kind))


def _result(on: Spool, case: Case) -> bool:
    path = product_path(on, case)
    with _on_record(on, case, RESULT):
        passing("prune.announced")
        os.unlink(path)
        passing("prune.result")
        fsops.remove(on.data_path(case.id, "result"))  # the link that led to it
        fsops.fsync_dir(os.path.dirname(path))
    audit.record(on, case.id, case.fileId, _told(case, RESULT))
    return True


def _sources(on: Spool, case: Case) -> bool:
    data = on.data_path(case.id)
    doomed = os.path.join(data, DOOMED)
    with _on_record(on, case, SOURCES):
        if os.path.lexists(doomed):
            shutil.rmtree(doomed)  # of a prune that was killed
        for here in (os.path.join(data, name) for name in COLLECTED):
            if os.path.lexists(here):
                os.rename(here, doomed)
                fsops.fsync_dir(data)
                passing("prune.sources")
                shutil.rmtree(doomed)
    audit.record(on, case.id, case.fileId, _told(case, SOURCES))
    return True


def _job(on: Spool, case: Case) -> bool:
    with _on_record(on, case, JOB):
        if not fsops.move(on.job_path("done", case.id), _mark(on, case.id)):
            return False
        passing("prune.marked")
        _remove_data(on, case.id)
    _finish(on, case.id)
    return True


def _mark(on: Spool, job: str) -> str:
    return on.path("done", f"{_MARK}{job}{_END}")


def begun(on: Spool) -> list[str]:
    """Return the jobs whose removal was begun and not finished."""
    return sorted(name[len(_MARK):-len(_END)] for name in os.listdir(on.path("done"))
                  if name.startswith(_MARK) and name.endswith(_END))


def resume(on: Spool, job: str) -> bool:
    """Finish the removal of a job, or take it back; call with its lock held.

    Returns:
        Whether it is gone; False when it was put back, or when somebody uses the id anew.
    """
    events = on.events(job)
    here = [event for event in events if history.FAR not in event]
    ending = history.last(here, "pruned", "submitted", "accepted", "received", "state", "start")
    if on.places(job) or not events:
        fsops.remove(_mark(on, job))  # nothing but the mark is left of what was removed
        return not events
    if ending is None or ending["event"] != "pruned" or ending.get("what") != JOB:
        # killed before it was on record, on a full disk
        fsops.move(_mark(on, job), on.job_path("done", job))
        return False
    _remove_data(on, job)
    _finish(on, job)
    return True


def _remove_data(on: Spool, job: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(on.data_path(job))
    fsops.fsync_dir(on.path("data"))
    passing("prune.data")


def _finish(on: Spool, job: str) -> None:
    """Remove what makes a job known: from now on its ids may be used again."""
    events = on.events(job)
    told = history.last(events, "pruned") or {}
    file_id = history.file_id(events)
    audit.record(on, job, file_id, {key: value for key, value in told.items() if key in _FACTS})
    passing("prune.told")
    reserved = on.path("log", f".file-{file_id}")
    with contextlib.suppress(FileNotFoundError):
        if file_id and fsops.read_regular(reserved)[0] == job.encode():
            os.unlink(reserved)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(on.log_path(job))
    fsops.fsync_dir(on.path("log"))
    passing("prune.log")
    os.unlink(_mark(on, job))
    fsops.fsync_dir(on.path("done"))


_FACTS = ("what", "state", "ended", "product", "size", "sha256")

"""How a job leaves ``acquire/``; everything here blocks on the disk."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from daqlib import fsops, manifest
from daqlib import job as jobs
from daqlib.spool import WAY, Spool


def write_manifest(spool: Spool, job: str, place: str, document: jobs.Document, outcome: str,
                   delivered: list[dict[str, Any]]) -> bool:
    """Write ``data/ID/acquire.json`` durably; tell whether the job still lies in its place.

    Args:
        spool: the spool.
        job: the id.
        place: where the job was found.
        document: what its file said; the file is put back if it was removed.
        outcome: how the acquisition ended.
        delivered: of each source that brought something its name, files and keywords.
    """
    restore(spool, job, place, document)
    folder = spool.data_path(job)
    with contextlib.suppress(FileExistsError):
        os.makedirs(folder)
        fsops.fsync_dir(spool.path("data"))
    digest = manifest.digest(spool.job_path(place, job))
    manifest.write(os.path.join(folder, "acquire.json"), job, "acquire", spool.by,
                   {"job": digest}, [], {"outcome": outcome, "sources": delivered})
    return bool(digest)


def restore(spool: Spool, job: str, place: str, document: jobs.Document) -> bool:
    """Put back a job file that was removed from the spool; tell whether it was.

    Args:
        spool: the spool.
        job: the id; its lock is held.
        place: where the job was found.
        document: what its file said.
    """
    if spool.place(job):
        return False
    with contextlib.suppress(FileExistsError):
        fsops.put(spool.job_path(place, job), jobs.encode(document), replace=False)
    return True


def move(spool: Spool, job: str, source: str, document: jobs.Document, target: str, *,
         anywhere: bool = False) -> None:
    """Move a job on if it is still there; a second copy goes to ``bad/``.

    Args:
        spool: the spool.
        job: the id; its lock is held.
        source: where the job was found.
        document: what its file said; it moves on even if its file was removed.
        target: where it belongs now.
        anywhere: take it from wherever an operator has put it.
    """
    restore(spool, job, source, document)
    if anywhere:
        source = next((at for at in (*WAY[:-1], "hold", "failed")
                       if os.path.lexists(spool.job_path(at, job))), source)
    try:
        spool.move(job, source, target)
    except FileExistsError:
        spool.to_bad(source, f"{job}.json", f"{target}/ holds a copy")

"""Fetch files of other hosts, the files of one host together: a connection costs half a second."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence

from daq_collect.arrival import Arrivals
from daq_collect.origins import Origins
from daq_collect.plan import Input
from daqlib import errors, fitssums, progress, transfer
from daqlib.fitsfile import FitsFile

#: What the transfer folders in ``data/ID/sources/`` begin with.
PREFIX = ".fetch-"


def batches(items: Sequence[Input]) -> list[list[Input]]:
    """Group the remote files by host; a file that is wanted twice is fetched twice."""
    made: list[list[Input]] = []
    for item in items:
        for batch in made:
            paths = {other.path for other in batch}
            if batch[0].host == item.host and item.path not in paths:
                batch.append(item)
                break
        else:
            made.append([item])
    return made


def folder_name(batch: Sequence[Input]) -> str:
    """Return the name of a batch's transfer folder: another batch never finds its files."""
    text = "\0".join(["tree", *(f"{item.host}:{item.path}" for item in batch)])
    return PREFIX + hashlib.sha256(text.encode()).hexdigest()[:16]


def fetch(batch: Sequence[Input], folder: str, link: transfer.Link, origins: Origins,
          check: Callable[[Input, str], FitsFile], told: progress.Reporter, *, anew: bool = False,
          ) -> None:
    """Fetch the files of one host and give them their names in ``folder``.

    Args:
        batch: different files of one host.
        folder: ``data/ID/sources``, absolute.
        link: that host.
        origins: where to record what arrived.
        check: called with each file and the path of what arrived; returns its structure, or
            raises when it is no good.
        told: is told how far it is.
        anew: fetch everything again, whatever is here.

    Raises:
        errors.DaqError: see :func:`daqlib.transfer.fetch`; errors.Later: still being written.
        OSError: reading or writing here failed.
    """
    own = os.path.join(folder, folder_name(batch))
    if anew:
        shutil.rmtree(own, ignore_errors=True)
    os.makedirs(own, exist_ok=True)
    for item in batch:
        if not anew:
            _offer(item, folder, own, origins)
    paths = [item.path for item in batch]
    arrivals = Arrivals([transfer.arrived(own, path) for path in paths])
    transfer.fetch(link, paths, own, told.at, arrivals)
    late = transfer.changed(link, paths, own)
    if late:
        raise errors.Later(f"{link.host}: {', '.join(late)}: still being written",
                           "it is fetched again when it is complete")
    with origins.saving():
        for item in batch:
            _accept(item, folder, own, origins, check, arrivals)
    shutil.rmtree(own)


def _offer(item: Input, folder: str, own: str, origins: Origins) -> None:
    """Put a file that arrived in an earlier try where rsync sees that it need not be sent."""
    if origins.intact(item.name, item.origin):
        place = transfer.arrived(own, item.path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.rename(os.path.join(folder, item.name), place)


def _accept(item: Input, folder: str, own: str, origins: Origins,
            check: Callable[[Input, str], FitsFile], arrivals: Arrivals) -> None:
    path = transfer.arrived(own, item.path)
    file = check(item, path)
    sums = arrivals.of(path).sums
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        damaged = fitssums.damage(file, fd, sums)
    finally:
        os.close(fd)
    os.rename(path, os.path.join(folder, item.name))
    origins.record(item.name, item.origin, sums.total, damaged)

"""Fetch files of other hosts, the files of one host together: a connection costs half a second."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence

from daq_collect.origins import Origins
from daq_collect.plan import Input
from daqlib import errors, fsops, transfer

#: What the transfer folders in ``data/ID/sources/`` begin with.
PREFIX = ".fetch-"


def batches(items: Sequence[Input]) -> list[list[Input]]:
    """Group the remote files by host, so that no name occurs twice in a group."""
    made: list[list[Input]] = []
    for item in items:
        for batch in made:
            names = {os.path.basename(other.path) for other in batch}
            if batch[0].host == item.host and os.path.basename(item.path) not in names:
                batch.append(item)
                break
        else:
            made.append([item])
    return made


def folder_name(batch: Sequence[Input]) -> str:
    """Return the name of a batch's transfer folder: another batch never finds its files."""
    text = "\0".join(f"{item.host}:{item.path}" for item in batch)
    return PREFIX + hashlib.sha256(text.encode()).hexdigest()[:16]


def fetch(batch: Sequence[Input], folder: str, link: transfer.Link, origins: Origins,
          check: Callable[[Input, str], None], *, anew: bool = False) -> None:
    """Fetch the files of one host and give them their names in ``folder``.

    Args:
        batch: files of one host, with different names.
        folder: ``data/ID/sources``, absolute.
        link: that host.
        origins: where to record what arrived.
        check: called with each file and the path of what arrived; raises when it is no good.
        anew: fetch everything again, whatever is here.

    Raises:
        errors.DaqError: see :func:`daqlib.transfer.fetch`; errors.Later: still being written.
    """
    own = os.path.join(folder, folder_name(batch))
    if anew:
        shutil.rmtree(own, ignore_errors=True)
    os.makedirs(own, exist_ok=True)
    for item in batch:
        if not anew:
            _offer(item, folder, own, origins)
    paths = [item.path for item in batch]
    transfer.fetch(link, paths, own)
    late = transfer.changed(link, paths, own)
    if late:
        raise errors.Later(f"{link.host}: {', '.join(late)}: still being written",
                           "it is fetched again when it is complete")
    for item in batch:
        _accept(item, folder, own, origins, check)
    shutil.rmtree(own)


def _offer(item: Input, folder: str, own: str, origins: Origins) -> None:
    """Put a file that arrived in an earlier try where rsync sees that it need not be sent."""
    if origins.intact(item.name, item.origin):
        with contextlib.suppress(FileNotFoundError):
            os.rename(os.path.join(folder, item.name),
                      os.path.join(own, os.path.basename(item.path)))


def _accept(item: Input, folder: str, own: str, origins: Origins,
            check: Callable[[Input, str], None]) -> None:
    arrived = os.path.join(own, os.path.basename(item.path))
    check(item, arrived)
    digest = fsops.sha256(arrived)
    fd = os.open(arrived, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)  # rsync leaves that to us
    finally:
        os.close(fd)
    os.rename(arrived, os.path.join(folder, item.name))
    fsops.fsync_dir(folder)
    origins.record(item.name, item.origin, digest)

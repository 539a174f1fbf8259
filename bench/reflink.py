"""A directory on a file system that can share blocks between files, made for the while."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator

_FICLONE = 0x40049409
_PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
MIB = 1 << 20


class Unavailable(Exception):
    """There is no such file system here; the text says what is missing."""


def can_reflink(folder: str) -> bool:
    """Tell whether files of a directory can share their blocks."""
    one, two = (os.path.join(folder, f".reflink-{number}") for number in (1, 2))
    try:
        with open(one, "w+b") as source, open(two, "wb") as copy:
            source.write(bytes(4096))
            source.flush()
            try:
                fcntl.ioctl(copy, _FICLONE, source.fileno())
            except OSError:
                return False
            return True
    finally:
        os.unlink(one)
        os.unlink(two)


@contextlib.contextmanager
def directory(scratch: str, size: int) -> Iterator[str]:
    """Lend a directory below scratch whose files can share blocks.

    Args:
        scratch: an empty directory. If its file system cannot reflink, an image with XFS is made in
            it and mounted, and unmounted and removed at the end, whatever happens.
        size: MiB that will be needed.

    Raises:
        Unavailable: neither is possible.
    """
    if can_reflink(scratch):
        yield scratch
        return
    if os.geteuid():
        raise Unavailable("only root can mount an XFS image; or give a --scratch on XFS or Btrfs")
    if not shutil.which("mkfs.xfs", path=_PATH):
        raise Unavailable("mkfs.xfs is missing: apt-get install xfsprogs")
    image, place = os.path.join(scratch, "image"), os.path.join(scratch, "xfs")
    with open(image, "wb") as file:
        file.truncate(max(512, size) * MIB)
    os.mkdir(place)
    _run("mkfs.xfs", "-q", "-m", "reflink=1", image)
    _run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        _unmount(place)
        os.unlink(image)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False,
                          env={**os.environ, "PATH": _PATH})
    if done.returncode:
        raise Unavailable(f"{words[0]} failed: {done.stderr.strip()}")


def _unmount(place: str) -> None:
    """Unmount what we mounted; a tool that is just being ended may still hold it."""
    for _ in range(20):
        try:
            _run("umount", place)
            return
        except Unavailable:
            time.sleep(0.25)
    _run("umount", "--lazy", place)

"""Fetch a file of this host: reflink, else copy; a hard link where that is declared safe.

A file that is linked costs the same whatever its size, and is not read: its sums are compared when
it is merged. A file that is copied has them compared on the way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from daq_collect.plan import Input
from daqlib import cli, errors, fitsfile, fitssums, fsops
from daqlib.fitsfile import FitsFile

Check = Callable[[str], FitsFile]

_FICLONE = 0x40049409  # _IOW(0x94, 9, int), ioctl_ficlone(2)
_SYNC_EVERY = 64 * 2**20  # bytes; by less, the disk would rather wait for us
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_SERVER_AWAY = (errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
                errno.ENOTCONN, errno.EREMOTEIO)


@dataclass(frozen=True)
class How:
    """How a file is to be fetched.

    Attributes:
        stable: the origin is never rewritten, so that it may be linked.
        summed: its sum is wanted although it was linked: it is going to be changed in place.
        check: called with the path of the finished temporary; returns its structure, or raises
            when it is no good.
        told: called with the number of bytes that were copied since the last call.
    """

    stable: bool
    summed: bool
    check: Check
    told: Callable[[int], None]


@dataclass
class Fetched:
    """A file that was fetched.

    Attributes:
        how: ``hardlink``, ``reflink`` or ``copy``.
        sum: see :class:`daqlib.manifest.Output`.
        damaged: see :func:`daqlib.fitssums.damage`; empty when it was not looked for.
    """

    how: str
    sum: int | None = None
    damaged: dict[int, str] = field(default_factory=dict)


def fetch(item: Input, target: str, how: How) -> Fetched:
    """Bring a local file to ``target``, with its modification time.

    It is durable then, but for its name.

    Args:
        item: the file.
        target: absolute path in the job's data directory; an older file there is replaced.
        how: how.

    Raises:
        errors.BadData: the file is missing, not a regular file, a link that leads elsewhere, or
            ``check`` says so.
        errors.Later: it is still being written, its server is away, or there is no space.
        errors.NoPermission: it may not be read.
        errors.IoFailure: reading or writing failed.
    """
    try:
        source = fitsfile.open_input(item.path)
    except OSError as error:
        raise _no_input(item, error) from error
    embryo = fsops.temporary(target)
    try:
        _lies_there(item, source)
        before = fitsfile.identity(source)
        with fsops.Naming(target, embryo):
            made, sums = _bring(item, source, embryo, how)
        _unchanged(item, source, before)
        file = how.check(embryo)
        if sums is not None:
            made.sum = sums.total
            made.damaged = _damage(file, embryo, sums)
        os.rename(embryo, target)
    finally:
        os.close(source)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(embryo)
    return made


def status(item: Input) -> os.stat_result | None:
    """Return the status of a local file, or None when it is not there or cannot be seen."""
    try:
        return os.stat(item.path)
    except OSError:
        return None


def _no_input(item: Input, error: OSError) -> errors.DaqError:
    if error.errno in _MISSING:
        return errors.BadData(f"{item.label}: {error.strerror}",
                              "deliver the file there, or mend the location in the job")
    if error.errno in _SERVER_AWAY:
        return errors.Later(f"{item.label}: {error.strerror}", "see to its file server")
    made = cli.from_os_error(error)
    return type(made)(f"{item.label}: {error.strerror}", made.remedy)


def _lies_there(item: Input, source: int) -> None:
    """Check that an open file lies in, or below, the directory that its location names.

    A symbolic link that somebody puts into a directory of data must not make us read what lies
    elsewhere. The directory itself may be reached by links.

    Raises:
        errors.BadData: it lies elsewhere.
    """
    try:
        real = os.readlink(f"/proc/self/fd/{source}")
    except OSError:
        real = os.path.realpath(item.path)
    folder = os.path.realpath(os.path.dirname(item.path))
    if not real.startswith(folder.rstrip("/") + "/") and os.path.islink(item.path):
        raise errors.BadData(f"{item.label}: is a symbolic link that leads out of its directory, "
                             f"to {real}", "name the file itself in the job")


def _damage(file: FitsFile, path: str, sums: fitssums.Running) -> dict[int, str]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fitssums.damage(file, fd, sums)
    finally:
        os.close(fd)


def _bring(item: Input, source: int, embryo: str, how: How,
           ) -> tuple[Fetched, fitssums.Running | None]:
    if how.stable and not item.in_place and _hard_link(item.path, source, embryo):
        _settle(source)
        return Fetched("hardlink"), None
    made = os.open(embryo, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)
    try:
        old = os.fstat(source)
        if _reflink(source, made):
            fetched, sums = Fetched("reflink"), fitssums.running(made) if how.summed else None
        else:
            fetched, sums = Fetched("copy"), _copy(item, source, made, old.st_size, how.told)
        os.utime(made, ns=(old.st_atime_ns, old.st_mtime_ns))
        os.fsync(made)
    finally:
        os.close(made)
    return fetched, sums


def _settle(source: int) -> None:
    """Make the data of a linked file durable: its writer need not have done that."""
    try:
        os.fsync(source)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise


def _hard_link(path: str, source: int, embryo: str) -> bool:
    try:
        # the link must be to the file that was opened, not to a symbolic link to it
        os.link(os.path.realpath(path), embryo)
    except OSError:
        return False  # another file system, or one that cannot
    if os.path.samestat(os.stat(embryo), os.fstat(source)):
        return True
    os.unlink(embryo)
    return False


def _reflink(source: int, made: int) -> bool:
    try:
        fcntl.ioctl(made, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy(item: Input, source: int, made: int, size: int, told: Callable[[int], None],
          ) -> fitssums.Running:
    """Copy in one pass that also takes the sums: the file is read once."""
    if size:
        _reserve(made, size)
    sums = fitssums.Running(size)
    with _syncing(made, size) as sync:
        for piece in _read(item, source):
            sums.add(piece)
            told(len(piece))
            while piece:
                piece = piece[os.write(made, piece):]
            sync(sums.size)
    return sums


def _read(item: Input, source: int) -> Iterator[memoryview]:
    try:
        with fsops.Naming(item.path):  # of the two files that the caller has open
            yield from fitssums.pieces(source)
    except OSError as error:
        if error.errno in _SERVER_AWAY:
            raise _no_input(item, error) from error
        raise


@contextlib.contextmanager
def _syncing(made: int, size: int) -> Iterator[Callable[[int], None]]:
    """Let the disk write what there is while the rest is copied, instead of all at the end."""
    if size < 2 * _SYNC_EVERY:
        yield lambda done: None
        return
    more, over = threading.Event(), threading.Event()
    failures: list[OSError] = []

    def write() -> None:
        while more.wait() and not over.is_set():
            more.clear()
            try:
                os.fdatasync(made)
            except OSError as error:
                failures.append(error)  # the system tells it once, the last fsync would succeed

    next_at = _SYNC_EVERY

    def sync(done: int) -> None:
        nonlocal next_at
        if done >= next_at:
            next_at = done + _SYNC_EVERY
            more.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield sync
    finally:
        over.set()
        more.set()
        thread.join()
    if failures:
        raise failures[0]


def _reserve(made: int, size: int) -> None:
    try:
        os.posix_fallocate(made, 0, size)  # a full disk is better known before than after
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _unchanged(item: Input, source: int, before: tuple[int, int, int, int]) -> None:
    there = status(item)
    now = there and (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns)
    if before != fitsfile.identity(source) or before != now:
        raise errors.Later(f"{item.label}: is still being written",
                           "it is fetched again when it is complete")

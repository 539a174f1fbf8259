"""Fetch a file of this host: reflink, else copy; a hard link where that is declared safe."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable

from daq_collect.plan import Input
from daqlib import cli, errors, fitsfile, fsops

Check = Callable[[str], None]

_FICLONE = 0x40049409  # _IOW(0x94, 9, int), ioctl_ficlone(2)
_BUFFER = 512 * 1024
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_SERVER_AWAY = (errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
                errno.ENOTCONN, errno.EREMOTEIO)


def fetch(item: Input, target: str, *, stable: bool, check: Check) -> tuple[str, str]:
    """Bring a local file durably to ``target``, with its modification time.

    Args:
        item: the file.
        target: absolute path in the job's data directory; an older file there is replaced.
        stable: the origin is never rewritten, so that it may be linked.
        check: called with the path of the finished temporary; raises when it is no good.

    Returns:
        How it was done (``hardlink``, ``reflink`` or ``copy``) and the SHA-256 digest.

    Raises:
        errors.BadData: the file is missing, not a regular file, or ``check`` says so.
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
        before = fitsfile.identity(source)
        how, digest = _bring(item, source, embryo, stable and not item.in_place)
        _unchanged(item, source, before)
        check(embryo)
        os.rename(embryo, target)
    finally:
        os.close(source)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(embryo)
    fsops.fsync_dir(os.path.dirname(target))
    return how, digest


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


def _bring(item: Input, source: int, embryo: str, link: bool) -> tuple[str, str]:
    if link and _hard_link(item.path, source, embryo):
        return "hardlink", fsops.sha256(embryo)
    made = os.open(embryo, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)
    try:
        if _reflink(source, made):
            how, digest = "reflink", fsops.sha256(embryo)
        else:
            how, digest = "copy", _copy(source, made)
        old = os.fstat(source)
        os.utime(made, ns=(old.st_atime_ns, old.st_mtime_ns))
        os.fsync(made)
    finally:
        os.close(made)
    return how, digest


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


def _copy(source: int, made: int) -> str:
    """Copy in one pass that also takes the digest: the file is read once."""
    size = os.fstat(source).st_size
    if size:
        _reserve(made, size)
    digest = hashlib.sha256()
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    while count := os.readv(source, [buffer]):
        piece = view[:count]
        digest.update(piece)
        while piece:
            piece = piece[os.write(made, piece):]
    return digest.hexdigest()


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

"""Lets files share blocks, where the file system can (XFS, Btrfs and others on Linux)."""

from __future__ import annotations

import errno
import fcntl
import os
import sys

#: linux/fs.h: _IOW(0x94, 9, int) and _IOW(0x94, 13, struct file_clone_range)
_FICLONE = 0x40049409
_FICLONERANGE = 0x4020940D
_CANNOT = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM,
           errno.ETXTBSY)


def clone(fd: int, source: int) -> bool:
    """Let an empty file share all blocks of another one.

    Args:
        fd: the file to fill.
        source: the file to share.

    Returns:
        False when the file system cannot do that; nothing has changed then.

    Raises:
        OSError: it can, and failed.
    """
    return _asked(fd, _FICLONE, source)


def clone_range(fd: int, offset: int, source: int, begin: int, length: int) -> bool:
    """Let a range of a file share blocks with another one; all numbers are multiples of a block.

    Args:
        fd: the file to write.
        offset: where the range goes.
        source: the file to share.
        begin: where the range is.
        length: bytes.

    Returns:
        False when the file system cannot do that; nothing has changed then.

    Raises:
        OSError: it can, and failed.
    """
    fields = (source, begin, length, offset)
    return _asked(fd, _FICLONERANGE, b"".join(
        field.to_bytes(8, sys.byteorder, signed=True) for field in fields))


def _asked(fd: int, request: int, argument: int | bytes) -> bool:
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def block_size(fd: int) -> int:
    """Return the size of the blocks that files on this file system can share, bytes."""
    return os.fstatvfs(fd).f_bsize

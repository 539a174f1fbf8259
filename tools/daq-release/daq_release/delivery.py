"""Deliver a product into a directory: hard link, else symbolic link, else copy; or by rsync.

What is there already is never overwritten: the same content is a success, other content an error.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from dataclasses import dataclass

from daqlib import errors, fsops, transfer

_BUFFER = 512 * 1024
#: Errors by which a file system says that it cannot make such a link.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)


@dataclass(frozen=True)
class Product:
    """A finished data product.

    Attributes:
        path: absolute, in ``result/``.
        archive: the name under which it is delivered, ``{fileId}.fits`` whatever its prefix.
        size: bytes.
        sha256: hexadecimal digest.
    """

    path: str
    archive: str
    size: int
    sha256: str


def deliver(product: Product, folder: str, *, symlink: bool) -> str:
    """Deliver to an existing directory (ESO-396401 section 9.3.6).

    Args:
        product: what to deliver.
        folder: absolute path of the receiver's directory.
        symlink: whether a symbolic link will do where a hard link cannot be made.

    Returns:
        How: ``hardlink``, ``symlink`` or ``copy``.

    Raises:
        errors.Conflict: other content is there under this name.
        errors.BadConfig: the directory is not there.
        OSError: it could not be written.
    """
    if not os.path.isdir(folder):
        raise errors.BadConfig(f"{folder}: no such directory", "make it, or mend the receiver")
    target = os.path.join(folder, product.archive)
    _sweep(folder, product.archive)
    if os.path.lexists(target):
        return present(product, target)
    try:
        how = _place(product, target, symlink)
    except FileExistsError:
        return present(product, target)  # somebody was faster
    fsops.fsync_dir(folder)
    return how


def present(product: Product, target: str) -> str:
    """Return how the product lies at the receiver's already.

    Raises:
        errors.Conflict: it is something else that lies there.
    """
    with contextlib.suppress(FileNotFoundError):  # a symbolic link to nothing is no product
        there = os.stat(target)
        if os.path.samestat(there, os.stat(product.path)):
            return "symlink" if os.path.islink(target) else "hardlink"
        if there.st_size == product.size and fsops.sha256(target) == product.sha256:
            return "copy"
    raise errors.Conflict(f"{target} exists with other content and is not overwritten",
                          "compare the two and move one away")


def upload(product: Product, link: transfer.Link, folder: str) -> str:
    """Deliver to a directory of another host.

    Args:
        product: what to deliver.
        link: the host.
        folder: absolute path of an existing directory there.

    Returns:
        ``rsync``.

    Raises:
        errors.Conflict: other content is there under this name.
        errors.DaqError: as :func:`daqlib.transfer.fetch`.
    """
    target = os.path.join(folder, product.archive)
    sent = transfer.send(link, product.path, target)
    if not sent and not transfer.same(link, product.path, target):
        raise errors.Conflict(f"{link.host}:{target} exists with other content and is not "
                              "overwritten", "compare the two and move one away")
    return "rsync"


def _sweep(folder: str, archive: str) -> None:
    """Remove what dead tries left: we hold the job's lock, so nobody else is at work on it."""
    for name in os.listdir(folder):
        if fsops.is_temporary(name) and name.endswith(f"-{archive}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))


def _place(product: Product, target: str, symlink: bool) -> str:
    try:
        os.link(product.path, target)
        return "hardlink"
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    if symlink:
        try:
            os.symlink(product.path, target)
            return "symlink"
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    _copy(product, target)
    return "copy"


def _copy(product: Product, target: str) -> None:
    embryo = fsops.temporary(target)
    made = os.open(embryo, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            digest = _pour(product, made)
            os.fsync(made)
        finally:
            os.close(made)
        if digest != product.sha256:
            raise errors.IoFailure(f"{product.path}: changed while it was copied",
                                   "check the disk and the product")
        fsops.rename_noreplace(embryo, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(embryo)


def _pour(product: Product, made: int) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    with open(product.path, "rb", buffering=0) as file:
        old = os.fstat(file.fileno())
        if old.st_size:
            os.posix_fallocate(made, 0, old.st_size)
        while count := file.readinto(buffer):
            piece = view[:count]
            digest.update(piece)
            while piece:
                piece = piece[os.write(made, piece):]
    os.utime(made, ns=(old.st_atime_ns, old.st_mtime_ns))
    return digest.hexdigest()

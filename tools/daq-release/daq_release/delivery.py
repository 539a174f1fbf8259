"""Deliver a product into a directory: hard link, else symbolic link, else copy; or by rsync.

What is there already is never overwritten: the same content is a success, other content an error.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from daqlib import errors, fsops, names, transfer
from daqlib.crashpoints import passing

_BUFFER = 512 * 1024
#: Errors by which a file system says that it cannot make such a link.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)

#: Is told how many bytes have arrived.
Told = Callable[[int], None]


@dataclass(frozen=True)
class Product:
    """A finished data product.

    Attributes:
        path: absolute, in ``result/``.
        file_id: the file id; it is delivered as ``{fileId}.fits`` whatever its prefix is.
        size: bytes.
        sha256: hexadecimal digest.
    """

    path: str
    file_id: str
    size: int
    sha256: str

    @property
    def archive(self) -> str:
        """The name under which it is delivered (ESO-396401, section 1.3)."""
        return f"{self.file_id}.fits"


@dataclass(frozen=True)
class How:
    """How a product is placed into a directory of this host.

    Attributes:
        symlink: whether a symbolic link will do where a hard link cannot be made.
        sweep: whether a dead try can have left a half-made copy there.
    """

    symlink: bool
    sweep: bool = True


def deliver(product: Product, target: str, how: How, at: Told) -> str:
    """Deliver to an existing directory (ESO-396401 section 9.3.6).

    Args:
        product: what to deliver.
        target: absolute path that it gets.
        how: what may be done.
        at: is told of the progress of a copy.

    Returns:
        How it was done: ``hardlink``, ``symlink`` or ``copy``.

    Raises:
        errors.Conflict: other content is there under this name.
        errors.BadConfig: the directory is not there.
        OSError: it could not be written.
    """
    folder, name = os.path.split(target)
    check_folder(folder)
    if how.sweep:
        _sweep(folder, name)
    if os.path.lexists(target):
        made = present(product, target)
    else:
        try:
            made = _place(product, target, how, at)
        except FileExistsError:
            made = present(product, target)  # somebody was faster
    # also when it was there: who placed it may have died before this
    fsops.fsync_dir(folder)
    passing("deliver.placed")
    return made


def check_folder(folder: str) -> None:
    """Check that a receiver's directory is there.

    Raises:
        errors.BadConfig: it is not.
        OSError: it cannot be told.
    """
    try:
        found = stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise errors.BadConfig(f"{folder}: no such directory",
                               "make it, or mend the receiver") from None
    if not found:
        raise errors.BadConfig(f"{folder}: is no directory", "mend the receiver")


def present(product: Product, target: str) -> str:
    """Return how the product lies at the receiver's already.

    Raises:
        errors.Conflict: it is something else that lies there.
        OSError: it cannot be told.
    """
    with contextlib.suppress(FileNotFoundError):  # a symbolic link to nothing is no product
        there = os.stat(target)
        if os.path.samestat(there, os.stat(product.path)):
            return "symlink" if os.path.islink(target) else "hardlink"
        if (stat.S_ISREG(there.st_mode) and there.st_size == product.size
                and fsops.sha256(target) == product.sha256):
            _sync(target)
            return "copy"
    raise conflict(target)


def conflict(target: str) -> errors.Conflict:
    """Return the error for a name that other content has."""
    return errors.Conflict(f"{target} exists with other content and is not overwritten",
                           "compare the two and move one away")


def upload(product: Product, link: transfer.Link, target: str, at: Told, *,
           make_path: bool = False) -> str:
    """Deliver to another host.

    Args:
        product: what to deliver.
        link: the host.
        target: absolute path that it gets there.
        at: is told of the progress.
        make_path: make the directories that are missing there.

    Returns:
        ``rsync``.

    Raises:
        errors.Conflict: other content is there under this name.
        errors.DaqError: as :func:`daqlib.transfer.fetch`.
    """
    sent = transfer.send(link, product.path, target, make_path=make_path,
                         told=lambda done, _total: at(done))
    if not sent and not transfer.holds(link, product.path, target):
        raise conflict(names.location(link.host, target))
    passing("deliver.placed")
    return "rsync"


def _sync(path: str) -> None:
    """Make a file durable that somebody else, or a dead try, has written."""
    with contextlib.suppress(PermissionError), open(path, "rb") as file:
        os.fsync(file.fileno())


def _sweep(folder: str, name: str) -> None:
    """Remove what dead tries left: of this product, by processes of this host that run no more."""
    for found in os.listdir(folder):
        if fsops.is_dead(found) and found.endswith(f"-{name}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, found))


def _place(product: Product, target: str, how: How, at: Told) -> str:
    try:
        with fsops.Naming(target, product.path):  # it is not the product that cannot be written
            os.link(product.path, target)
        return "hardlink"
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    if how.symlink:
        try:
            with fsops.Naming(target, product.path):
                os.symlink(product.path, target)
            return "symlink"
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    _copy(product, target, at)
    return "copy"


def _copy(product: Product, target: str, at: Told) -> None:
    embryo = fsops.temporary(target)
    with fsops.Naming(target, embryo):
        made = os.open(embryo, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            digest = _pour(product, made, target, at)
            os.fsync(made)
        finally:
            os.close(made)
        if digest != product.sha256:
            raise errors.IoFailure(f"{product.path}: changed while it was copied",
                                   "check the disk and the product")
        passing("deliver.copied")
        fsops.rename_noreplace(embryo, target)
    finally:
        fsops.remove(embryo)


def _pour(product: Product, made: int, target: str, at: Told) -> str:
    digest, done = hashlib.sha256(), 0
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    with open(product.path, "rb", buffering=0) as file:
        old = os.fstat(file.fileno())
        if old.st_size:
            with fsops.Naming(target):
                os.posix_fallocate(made, 0, old.st_size)
        while count := file.readinto(buffer):
            piece = view[:count]
            digest.update(piece)
            with fsops.Naming(target):
                while piece:
                    piece = piece[os.write(made, piece):]
            done += count
            at(done)
    os.utime(made, ns=(old.st_atime_ns, old.st_mtime_ns))
    return digest.hexdigest()

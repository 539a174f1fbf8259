"""Where a merge without a spool writes: which paths it takes, and what speaks against them.

All is checked before work begins, so that a dry run says what the real run would say.
"""

from __future__ import annotations

import os
import time

from daqlib import errors, fsops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from daq_merge.plan import Plan

_OTHER_OUTFILE = "name another file with --outfile, or move it aside"
#: Bytes that the name of a temporary has beyond that of its file, and what every file system takes.
_TEMPORARY, _SHORT = 70, 200
_FITS, _GZIP = b"SIMPLE  =", b"\x1f\x8b"


class Place:
    """The files of a merge without a spool.

    Attributes:
        root: directory that relative paths start from.
        product: the file to write.
        log: the file to append status messages to; empty for none.
        manifest: the manifest to write; empty for none.
    """

    __slots__ = ("log", "manifest", "product", "root")

    def __init__(self, given: Namespace, document: dict[str, Any] | None) -> None:
        """Take the paths from the command line and, when it could be read, the specification."""
        name = given.outfile or (f"{document['target']['fileId']}.fits" if document else "")
        self.root = os.path.abspath(given.root or _default_root(given.files[0]))
        self.product = _below(self.root, name)
        self.log = _below(self.root, given.logfile)
        self.manifest = _below(self.root, given.manifest)

    def check_log(self, specification: str, inputs: list[str]) -> None:
        """Refuse a log file that is something else.

        Args:
            specification: the path of the specification, or ``-``.
            inputs: paths of the source files, as far as they are known.

        Raises:
            errors.Usage: it is another file of the merge, or a FITS file.
        """
        if not self.log:
            return
        if _real(self.log) in map(_real, filter(None, (self.product, self.manifest))) or any(
                _same(self.log, other) for other in (specification, *inputs)):
            raise errors.Usage(f"{self.log} is another file of this merge",
                               "name another one with --logfile")
        if _looks_like_data(self.log):
            raise errors.Usage(f"{self.log} is a FITS or compressed file, which status messages "
                               "would damage", "name another one with --logfile")

    def check(self, inputs: list[str]) -> None:
        """Check that product and manifest can be written where they are to be.

        Raises:
            errors.Usage: both are the same file.
            errors.Conflict: one of them exists.
            errors.IoFailure: its directory is missing.
            errors.NoPermission: its directory may not be written.
        """
        if self.manifest and _real(self.manifest) == _real(self.product):
            raise errors.Usage("--manifest and --outfile name the same file", "name two files")
        for path in filter(None, (self.product, self.manifest)):
            if os.path.lexists(path):
                what = "is one of the inputs" if any(
                    _same(path, other) for other in inputs) else "exists"
                raise errors.Conflict(f"{path} {what} and is never overwritten", _OTHER_OUTFILE
                                      if path == self.product else "name another file")
            _check_folder(*os.path.split(path))

    def check_space(self, planned: Plan, way: str) -> None:
        """Check that the product finds room, as far as that is known before it is built.

        Args:
            planned: the product.
            way: how it is to be built; one that may share blocks needs no more than what is added.

        Raises:
            errors.Later: there is too little room.
        """
        shared = planned.base.file.size if planned.base and way not in ("auto", "new") else 0
        needed = 0 if way == "share" else planned.size - shared
        status = os.statvfs(os.path.dirname(self.product))
        free = (status.f_bavail if os.geteuid() else status.f_bfree) * status.f_frsize
        if needed > free:
            raise errors.Later(f"{self.product} needs {needed} bytes, but only {free} are free "
                               "there", "free some space")

    def embryo(self) -> str:
        """Return a fresh temporary name beside the product that says whose it is."""
        folder, name = os.path.split(self.product)
        return fsops.temporary(os.path.join(folder, f"{_world()}-{name}"))

    def sweep(self) -> None:
        """Remove what runs for this product left that have died.

        Only what is certainly dead: made in this boot and this space of process ids by a process
        that is gone. The directory is the user's, and other hosts may be at work in it.
        """
        folder, name = os.path.split(self.product)
        ending = f"-{_world()}-{name}"
        for entry in os.listdir(folder):
            if entry.endswith(ending) and fsops.is_dead(entry):
                fsops.remove(os.path.join(folder, entry))


def _default_root(specification: str) -> str:
    # ESO-396401, 12.3.1: the folder of the specification if that is a regular file, else the
    # current one
    return os.path.dirname(specification) if os.path.isfile(specification) else "."


def _below(root: str, path: str | None) -> str:
    return os.path.join(root, path) if path else ""


def _real(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _looks_like_data(path: str) -> bool:
    if not os.path.isfile(path):
        return False  # not there yet, or a terminal or pipe
    with open(path, "rb", buffering=0) as file:
        return file.read(len(_FITS)).startswith((_FITS, _GZIP))


def _check_folder(folder: str, name: str) -> None:
    if not os.path.isdir(folder):
        raise errors.IoFailure(f"{folder}: no such directory", "make it, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise errors.NoPermission(f"{folder}: is not writable",
                                  "check owner and mode of the directory, or name another file")
    length = len(os.fsencode(name)) + _TEMPORARY
    if length > _SHORT and length > os.pathconf(folder, "PC_NAME_MAX"):
        raise errors.IoFailure(f"{name}: is too long a name", "name another file")


def _world() -> str:
    """Return a mark of this boot and this space of process ids: a pid means nothing without it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            boot = file.read(8).decode("ascii")
        return f"{boot}{os.readlink('/proc/self/ns/pid')[5:-1]}"
    except OSError:
        return f"{time.time_ns():x}"  # without /proc nothing can be known to be dead

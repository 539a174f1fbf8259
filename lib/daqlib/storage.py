"""How much space the file systems of a spool have (ESO-396401, StorageStatus)."""

from __future__ import annotations

import os
from typing import TypedDict

from daqlib.spool import Spool


class Status(TypedDict):
    """StorageStatus of the ESO interface.

    Attributes:
        capacity: size of the file system, bytes.
        free: unused, bytes.
        available: what of it a process without privileges may use, bytes; never more than free.
    """

    capacity: int
    free: int
    available: int


def status(on: Spool, *parts: str) -> Status:
    """Return the space of the file system that a path below the spool is on.

    Raises:
        OSError: it cannot be asked.
    """
    found = os.statvfs(on.path(*parts))
    unit, free = found.f_frsize, found.f_bfree
    return {"capacity": found.f_blocks * unit, "free": free * unit,
            "available": min(found.f_bavail, free) * unit}


def inodes(on: Spool, *parts: str) -> int | None:
    """Return how many files more that file system can hold; None when it sets no limit.

    Raises:
        OSError: it cannot be asked.
    """
    found = os.statvfs(on.path(*parts))
    return found.f_favail if found.f_files else None


def is_apart(on: Spool, *parts: str) -> bool:
    """Tell whether a path below the spool is on another file system than the spool.

    Raises:
        OSError: it cannot be asked.
    """
    return os.stat(on.path(*parts)).st_dev != os.stat(on.root).st_dev

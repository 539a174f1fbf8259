"""Whether there is room for more work: free space, and the places that the limits leave.

The stage tools enforce both themselves, whoever started them; this is for those that choose what
to start and for those that explain why nothing starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from daqlib import errors, fsops
from daqlib.config import Config
from daqlib.spool import Spool, holder

#: The limits that a stage counts against, as far as they are known before the job is read.
LIMITS: dict[str, tuple[str, ...]] = {
    "collect": ("daq",), "merge": ("daq", "merge"), "release": ("daq",)}


#: Configured floor -> the part of the spool that it is for.
_FLOORS = {"spool_bytes": "", "result_bytes": "result"}
#: Places of a limit of which each is looked at.
_MANY = 100


def below_floor(spool: Spool, settings: Config, key: str) -> str:
    """Return why too little space is free, or an empty text.

    Args:
        spool: the spool.
        settings: ``floor.spool_bytes`` and ``floor.result_bytes``.
        key: ``spool_bytes`` or ``result_bytes``.
    """
    place = _FLOORS[key]
    least, free = settings[f"floor.{key}"], spool.free_bytes(place)
    if free >= least:
        return ""
    return (f"only {free} bytes are free in {spool.path(place)}, less than cfg/floor/{key} "
            f"({least})")


def check_floor(spool: Spool, settings: Config) -> None:
    """Refuse to begin while the spool itself is nearly full.

    Raises:
        errors.Later: it is.
    """
    if low := below_floor(spool, settings, "spool_bytes"):
        raise errors.Later(low, "free some space")


def shortage(spool: Spool, settings: Config) -> str:
    """Return why nothing may start for lack of space, or an empty text."""
    return next(filter(None, (below_floor(spool, settings, key) for key in _FLOORS)), "")


def taken(spool: Spool, settings: Config, limit: str) -> list[dict[str, Any]]:
    """Return what is known of each taken place of a limit, see :func:`daqlib.spool.holder_text`.

    The process is the tool that took the place; a child that outlives it may hold it now.
    """
    count, start = int(settings[f"limits.{limit}"]), f".slot-{limit}-"
    numbers: Iterable[int] = range(count)
    if count > _MANY:  # a limit may be any number; places that nobody ever took have no file
        found = (name.removeprefix(start) for name in os.listdir(spool.path("lock"))
                 if name.startswith(start))
        numbers = sorted(int(text) for text in found if text.isdecimal() and int(text) < count)
    paths = [spool.path("lock", f"{start}{number}") for number in numbers]
    return [holder(path) for path in paths if fsops.is_locked(path)]


def holders(spool: Spool, settings: Config, limit: str) -> list[int]:
    """Return the process ids that took the places of a limit, 0 for one that does not say."""
    return [int(facts.get("pid", 0) or 0) for facts in taken(spool, settings, limit)]

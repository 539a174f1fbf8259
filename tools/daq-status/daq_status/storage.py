"""The space of the file systems of a spool: ``daq-status --storage``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from daqlib import capacity, cli, errors, storage
from daqlib.config import Config
from daqlib.spool import Spool

_HEAD = ("FILE SYSTEM OF", "CAPACITY", "FREE", "AVAILABLE", "FLOOR", "FILES")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def show(on: Spool, settings: Config, *, as_json: bool) -> int:
    """Print the space; return the exit code.

    Raises:
        OSError: a file system cannot be asked.
    """
    documents = list(facts(on, settings))
    if as_json:
        for document in documents:
            cli.emit(document)
    else:
        for line in _table(documents):
            cli.show(line)
    return errors.OK


def facts(on: Spool, settings: Config) -> Iterator[dict[str, Any]]:
    """Yield what is known of the file system of the spool, and of that of ``result/`` if another.

    On one file system both floors hold, and the higher one is told.
    """
    keys = ["spool_bytes", "result_bytes"]
    apart = storage.is_apart(on, "result")
    for part, floors in ((".", keys[:1]), ("result", keys[1:])) if apart else ((".", keys),):
        low = next(filter(None, (capacity.below_floor(on, settings, key) for key in floors)), "")
        yield {**storage.status(on, part), "path": on.path("" if part == "." else part).rstrip("/"),
               "floor": max(int(settings[f"floor.{key}"]) for key in floors),
               "below": bool(low), "files": storage.inodes(on, part)}


def _table(documents: list[dict[str, Any]]) -> Iterator[str]:
    rows = [_HEAD, *map(_row, documents)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        first, *others = (cell.ljust(width) if number == 0 else cell.rjust(width)
                          for number, (cell, width) in enumerate(zip(cells, widths, strict=True)))
        yield "  ".join([first, *others])
    for document in documents:
        if document["below"]:
            yield (f"{document['path']}: less is available than the floor: nothing is started "
                   "until there is more")


def _row(document: dict[str, Any]) -> tuple[str, ...]:
    sizes = (size(document[key]) for key in ("capacity", "free", "available", "floor"))
    files = document["files"]
    return (document["path"], *sizes, "any" if files is None else str(files))


def size(count: float) -> str:
    """Return a number of bytes for people, such as ``1.5 GiB``."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count} B"

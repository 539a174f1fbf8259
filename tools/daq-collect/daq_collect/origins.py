"""What was fetched from where, so that a later try fetches only what is missing or changed.

The record lies beside the files, ``data/ID/sources/.origins.json``, and is replaced whole. It is
believed only as far as size and modification time of both files agree with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection
from typing import Any

from daqlib import fsops, manifest, names

Entry = dict[str, Any]

_NAME = ".origins.json"
_PATIENCE = 2.0  # seconds of fetching that a crash may cost


class Origins:
    """The record of one job."""

    def __init__(self, folder: str) -> None:
        """Read the record, if there is one.

        Args:
            folder: ``data/ID/sources``, absolute.
        """
        self._folder = folder
        self._entries = _read(os.path.join(folder, _NAME))
        self._since = 0.0

    def find(self, name: str, origin: str) -> Entry | None:
        """Return the entry of a file that came from ``origin`` and is still as it arrived.

        An entry has ``origin``, ``size`` (bytes), ``mtime_ns`` (of origin and copy), ``sum``, see
        :class:`daqlib.manifest.Output`, and ``damaged``, see :func:`daqlib.fitssums.damage`.
        """
        entry = self._entries.get(name)
        if not isinstance(entry, dict) or entry.get("origin") != origin:
            return None
        try:
            there = os.stat(os.path.join(self._folder, name))
        except OSError:
            return None
        same = (there.st_size, there.st_mtime_ns) == (entry.get("size"), entry.get("mtime_ns"))
        return entry if same else None

    def intact(self, name: str, origin: str) -> bool:
        """Tell whether a file that came from ``origin`` still has the content that it had."""
        entry = self.find(name, origin)
        return entry is not None and manifest.has_content(os.path.join(self._folder, name), entry)

    def doubt(self, name: str) -> None:
        """Have a file fetched again that was given back, unless its content is what it was.

        It has the size and time of its arrival, whatever was done to it meanwhile.
        """
        entry = self._entries.get(name)
        if isinstance(entry, dict) and not self.intact(name, str(entry.get("origin"))):
            with contextlib.suppress(FileNotFoundError):
                os.utime(os.path.join(self._folder, name))

    def is_spare(self, name: str) -> bool:
        """Tell whether a file can be had again: it is as it arrived, and its origin is there.

        An origin on another host is taken to be there.
        """
        entry = self._entries.get(name)
        origin = str(entry.get("origin")) if isinstance(entry, dict) else ""
        if not self.find(name, origin):
            return False
        host, path = names.split_location(origin)
        return bool(host) or os.path.lexists(path)

    def adopt(self, name: str, origin: str, wanted: Collection[str]) -> None:
        """Give a copy that an earlier form of the job named otherwise the name that it has now.

        Its origin may be gone, so that it could not be fetched again.

        Args:
            name: as it is to be called.
            origin: where it came from.
            wanted: all names of the job as it is now, which stay as they are.
        """
        if os.path.lexists(os.path.join(self._folder, name)):
            return
        for other, entry in list(self._entries.items()):
            if other not in wanted and self.find(other, origin):
                # known by both names before it is renamed, so that no crash makes it unknown
                self._entries[name] = entry
                self.save()
                fsops.move(os.path.join(self._folder, other), os.path.join(self._folder, name))
                del self._entries[other]
                self.save()
                return

    def record(self, name: str, origin: str, sum: int | None, damaged: dict[int, str]) -> None:
        """Take down that a file has arrived, has its name, and is durable but for that name.

        :meth:`save` makes both durable.
        """
        there = os.stat(os.path.join(self._folder, name))
        self._entries[name] = {"origin": origin, "size": there.st_size,
                               "mtime_ns": there.st_mtime_ns, "sum": sum,
                               "damaged": {str(index): why for index, why in damaged.items()}}
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > _PATIENCE:
            self.save()

    @contextlib.contextmanager
    def saving(self) -> Any:
        """Make durable what arrived within the block, however it ends."""
        try:
            yield
        finally:
            if self._since:
                self.save()

    def save(self) -> None:
        """Make the record durable, and with it the names of the files: they share a directory."""
        self._since = 0.0
        text = json.dumps(self._entries, indent=1, ensure_ascii=False)
        fsops.put(os.path.join(self._folder, _NAME), text.encode() + b"\n")


def _read(path: str) -> dict[str, Entry]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""What was fetched from where, so that a later try fetches only what is missing or changed.

The record lies beside the files, ``data/ID/sources/.origins.json``, and is replaced whole after
each file. It is believed only as far as size and modification time of both files agree with it.
"""

from __future__ import annotations

import json
import os
from typing import Any

from daqlib import fsops

Entry = dict[str, Any]

_NAME = ".origins.json"


class Origins:
    """The record of one job."""

    def __init__(self, folder: str) -> None:
        """Read the record, if there is one.

        Args:
            folder: ``data/ID/sources``, absolute.
        """
        self._folder = folder
        self._entries = _read(os.path.join(folder, _NAME))

    def find(self, name: str, origin: str) -> Entry | None:
        """Return the entry of a file that came from ``origin`` and is still as it arrived.

        An entry has ``origin``, ``size`` (bytes), ``mtime_ns`` (of origin and copy) and
        ``sha256``.
        """
        entry = self._entries.get(name)
        if not isinstance(entry, dict) or entry.get("origin") != origin:
            return None
        try:
            there = os.stat(os.path.join(self._folder, name))
        except OSError:
            return None
        same = (there.st_size, there.st_mtime_ns) == (entry.get("size"), entry.get("mtime_ns"))
        return entry if same and entry.get("sha256") else None

    def intact(self, name: str, origin: str) -> bool:
        """Tell whether a file that came from ``origin`` still has the content that it had."""
        entry = self.find(name, origin)
        path = os.path.join(self._folder, name)
        return entry is not None and fsops.sha256(path) == entry["sha256"]

    def record(self, name: str, origin: str, sha256: str) -> None:
        """Record durably that a file has arrived."""
        there = os.stat(os.path.join(self._folder, name))
        self._entries[name] = {"origin": origin, "size": there.st_size,
                               "mtime_ns": there.st_mtime_ns, "sha256": sha256}
        text = json.dumps(self._entries, indent=1, ensure_ascii=False)
        fsops.put(os.path.join(self._folder, _NAME), text.encode() + b"\n")


def _read(path: str) -> dict[str, Entry]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

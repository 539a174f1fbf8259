"""What an adapter must know again after the daemon was killed: a small durable document.

A source with its own memory of a recording (ESO's, by id) needs none. The others keep here what
they did: it is written before the step that it announces, as the log of the job is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from typing import Any

from daq_ctl.journal import durably
from daqlib import fsops

#: The file of the document.
NAME = "recording.json"


class Memo:
    """A document and files of one source of one acquisition, in a directory of their own.

    Attributes:
        folder: absolute path of the directory.
        facts: what was kept last, empty when nothing was.
    """

    def __init__(self, folder: str) -> None:
        """Read what an earlier daemon has kept.

        Args:
            folder: see :class:`daq_ctl.sources.Order`; empty for a source that is only checked.
        """
        self.folder = folder
        self._writing = asyncio.Lock()
        self.facts: dict[str, Any] = self._read() if folder else {}

    def _read(self) -> dict[str, Any]:
        try:
            data, _ = fsops.read_regular(os.path.join(self.folder, NAME))
            found = json.loads(data)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def path(self, name: str) -> str:
        """Return the absolute path of a file in the directory."""
        return os.path.join(self.folder, name)

    async def keep(self, **facts: Any) -> None:
        """Add facts; they are durable when this returns.

        Raises:
            OSError: they could not be written.
        """
        async with self._writing:  # else what two methods keep at a time would be that of one
            made = {**self.facts, **facts}
            await durably(lambda: self._write(made))
            self.facts = made

    def _write(self, facts: dict[str, Any]) -> None:
        self.make()
        text = json.dumps(facts, ensure_ascii=False)
        fsops.put(self.path(NAME), text.encode("utf-8", "backslashreplace") + b"\n", replace=True)

    def make(self) -> None:
        """Make the directory, durably; it blocks on the disk."""
        above = os.path.dirname(self.folder)
        for folder in (os.path.dirname(above), above, self.folder):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
                fsops.fsync_dir(os.path.dirname(folder))

    async def discard(self) -> None:
        """Remove the directory with all that is in it."""
        async with self._writing:
            await durably(lambda: shutil.rmtree(self.folder, ignore_errors=True))
            self.facts = {}

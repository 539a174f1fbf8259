"""Status messages of a merge without a spool: words for people, JSON Lines, and a log file.

What the events are and what they hold is in ``docs/formats.md``.
"""

from __future__ import annotations

import os
import time

from daqlib import cli, clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROGRESS_S = 0.5


class Messages:
    """Where status messages go."""

    def __init__(self, as_json: bool) -> None:
        """Tell people; with ``as_json`` print the events on stdout, too."""
        self._json = as_json
        self._log = -1
        self._told = 0.0
        self._done = -1
        self._path = ""
        self._bar = cli.progress("merge")

    def keep_in(self, path: str) -> None:
        """Append the events to a file from now on; made when it is missing.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = path
        self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def close(self) -> None:
        """Close the log file."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def __call__(self, event: str, **facts: Any) -> None:
        """Tell an event."""
        if not self._json and self._log < 0:
            return
        line = {"time": clock.iso(clock.now()) + "Z", "event": event, **facts}
        if self._log >= 0:
            self._append(line)
        if self._json:
            try:
                cli.emit(line)
            except BrokenPipeError:
                cli.mute()  # whoever read the messages has gone: the merge goes on

    def end(self, code: int, message: str, remedy: str = "") -> None:
        """Tell that it did not work, as far as that can be told."""
        try:
            self("error", code=code, message=message, remedy=remedy)
        except OSError:
            return  # the error that is on its way says more

    def _append(self, line: dict[str, Any]) -> None:
        import json

        # one write a line, so that several merges can share a log
        text = json.dumps(line, ensure_ascii=False) + "\n"
        try:
            os.write(self._log, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            error.filename = self._path
            raise

    def progress(self, done: int, total: int) -> None:
        """Tell how far the work is: as a bar on a terminal, as an event twice a second."""
        self._bar(done, total)
        if not self._json:
            return
        now = time.monotonic()
        if now - self._told > _PROGRESS_S or done == total != self._done:
            self._told, self._done = now, done
            self("progress", done=done, total=total)

"""Follow a file that a program writes, and pass on some of its lines: a flood must harm nobody."""

from __future__ import annotations

import os

from daq_ctl.sources.program.dialogue import plain

_PIECE = 256 * 1024  # bytes that are read at a time
_MOST_SAID = 50  # lines of one program for the job's log


class Tail:
    """A growing file, read from where one was.

    Attributes:
        offset: bytes that were read.
    """

    def __init__(self, path: str, offset: int, most: int) -> None:
        """Begin to follow.

        Args:
            path: the file.
            offset: bytes that were read before.
            most: bytes that are read in all.
        """
        self.path, self.offset, self._most = path, offset, most

    def more(self) -> bytes:
        """Return the next piece, empty when there is none now."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                found = file.read(min(_PIECE, max(0, self._most - self.offset)))
        except FileNotFoundError:
            return b""
        self.offset += len(found)
        return found

    def last_line(self) -> str:
        """Return the last line that says something, or an empty text."""
        try:
            with open(self.path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return next((plain(line) for line in reversed(lines) if line.strip()), "")


class Words:
    """Chooses what of a program's words is told in the job's log: the first lines.

    Attributes:
        said: how many were.
        left: how many were not.
    """

    def __init__(self, said: int = 0, left: int = 0) -> None:
        self.said, self.left = said, left
        self._rest = b""

    def of(self, data: bytes, *, over: bool) -> list[str]:
        """Return the lines to tell of the next piece of standard error.

        Args:
            data: the piece.
            over: there will be no more.
        """
        *lines, rest = (self._rest + data).split(b"\n")
        if over or len(rest) > _PIECE:
            lines, rest = [*lines, rest], b""
        self._rest = rest
        return self._chosen([line for line in lines if line])

    @property
    def kept_back(self) -> int:
        """Bytes of a line whose end has not come."""
        return len(self._rest)

    def _chosen(self, lines: list[bytes]) -> list[str]:
        made = [plain(line.decode(errors="replace")) for line in lines[:_MOST_SAID - self.said]]
        self.said += len(made)
        self.left += len(lines) - len(made)
        return made

"""Reading what is inside a gzip file, forward only, in bounded memory (RFC 1952).

The check values of every member are compared when its end is read: a stream that was read to its
end is sound. Loaded for gzip files only.
"""

from __future__ import annotations

import os
import zlib

from daqlib import errors

MAGIC = b"\x1f\x8b"

_PIECE = 256 * 1024
#: zlib: the largest window, and a gzip header before the data
_GZIP = 31


class Stream:
    """The uncompressed bytes of a gzip file, from the beginning to the end.

    Attributes:
        position: how many uncompressed bytes have been read so far.

    Args:
        fd: the gzip file; it is read by position, never seeked.
        path: for messages.
    """

    def __init__(self, fd: int, path: str) -> None:
        self.position = 0
        self._fd = fd
        self._path = path
        self._at = 0
        self._rest = b""
        self._inflate = zlib.decompressobj(_GZIP)
        self._members = 0

    def read(self, length: int) -> bytes:
        """Return the next bytes, fewer than ``length`` only at the end.

        Raises:
            errors.BadData: the compressed data are damaged or end early.
            OSError: the file cannot be read.
        """
        got = self._some(length) if length > 0 else b""
        if len(got) < length:
            pieces, size = [got], len(got)
            while got and size < length:
                got = self._some(length - size)
                pieces.append(got)
                size += len(got)
            got = b"".join(pieces)
        self.position += len(got)
        return got

    def skip(self, length: int) -> int:
        """Read and forget that many bytes; return how many there were."""
        left = length
        while left:
            got = len(self.read(min(left, _PIECE)))
            if not got:
                break
            left -= got
        return length - left

    def _some(self, length: int) -> bytes:
        """Return at least one byte and at most ``length``, or nothing at the end."""
        while True:
            if self._inflate.eof and not self._next_member():
                return b""
            if not self._rest:
                self._rest = os.pread(self._fd, _PIECE, self._at)
                self._at += len(self._rest)
                if not self._rest:
                    raise errors.BadData(f"{self._path}: its gzip data end early",
                                         "the file is cut: deliver it again")
            try:
                got = self._inflate.decompress(self._rest, length)
            except zlib.error as error:
                raise errors.BadData(f"{self._path}: its gzip data are damaged: {error}",
                                     "deliver the file again") from error
            self._rest = self._inflate.unconsumed_tail or self._inflate.unused_data
            if got:
                return got

    def _next_member(self) -> bool:
        """Begin the next member; False at the end of the file, after which zeros may stand."""
        rest = self._rest.lstrip(b"\0")
        while len(rest) < len(MAGIC):
            more = os.pread(self._fd, _PIECE, self._at)
            if not more:
                break
            self._at += len(more)
            rest = (rest + more).lstrip(b"\0")
        if not rest:
            self._rest = b""
            return False
        if not rest.startswith(MAGIC):
            raise errors.BadData(f"{self._path}: bytes that are not gzip follow its gzip data",
                                 "cut them off, or deliver the file again")
        self._rest = rest
        self._members += 1
        self._inflate = zlib.decompressobj(_GZIP)
        return True

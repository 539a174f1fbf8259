"""Reads the data of an input: a plain file by position, a gzip file as a stream.

An input is opened once, and compared with the planned one before and after the work.
"""

from __future__ import annotations

import os

from daqlib import errors, fitsfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daq_merge.layout import Input


class Plain:
    """A file that is read by position.

    Attributes:
        fd: its descriptor.

    Args:
        one: the input.

    Raises:
        errors.Later: it is not the planned file any more.
        OSError: it cannot be read.
    """

    __slots__ = ("_fill", "_input", "_length", "fd")

    def __init__(self, one: Input) -> None:
        self._input = one
        self._length = one.file.length
        self._fill = one.file.hdus[-1].fill
        self.fd, found = fitsfile.opened(one.file.path)
        if found != one.file.identity:
            self.close()
            raise self._changed("changed while it was merged")

    def compare(self) -> None:
        """Make sure that it is still the planned file.

        Raises:
            errors.Later: it is not.
        """
        if fitsfile.identity(self.fd) != self._input.file.identity:
            raise self._changed("changed while it was merged")

    def _changed(self, how: str) -> errors.Later:
        one = self._input
        return errors.Later(f"source {one.source}: {one.file.path}: {how}",
                            "run again when it is complete")

    def into(self, view: memoryview, offset: int) -> None:
        """Fill the view with what is at ``offset``; what the last block lacks is added.

        Raises:
            errors.Later: the file became shorter.
            OSError: it cannot be read.
        """
        got, wanted = 0, len(view)
        while got < wanted:
            try:
                # Linux gives at most 2 GiB at a time
                count = os.preadv(self.fd, [view[got:] if got else view], offset + got)
            except OSError as error:
                if error.filename is None:
                    error.filename = self._input.file.path
                raise
            if not count:
                self._complete(view, got, offset)
                return
            got += count

    def _complete(self, view: memoryview, got: int, offset: int) -> None:
        # no more may be missing than the fill of the last block
        if offset + got != self._length or len(view) - got > self._input.file.short:
            raise self._changed("became shorter while it was merged")
        view[got:] = self._fill * (len(view) - got)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class Gzip(Plain):
    """A gzip file, which is read from the beginning to the end."""

    __slots__ = ("_stream",)

    def __init__(self, one: Input) -> None:
        from daqlib import gzipped

        super().__init__(one)
        self._stream = gzipped.Stream(self.fd, one.file.path)

    def into(self, view: memoryview, offset: int) -> None:
        """Fill the view with what is at ``offset`` of the uncompressed data.

        Raises:
            errors.BadData: the compressed data are damaged.
            errors.Later: the file became shorter.
            OSError: it cannot be read.
        """
        self._stream.skip(offset - self._stream.position)
        got = self._stream.read(len(view))
        view[:len(got)] = got
        if len(got) < len(view):
            self._complete(view, len(got), offset)


def opened(one: Input) -> Plain:
    """Open an input; see :class:`Plain`."""
    return Gzip(one) if one.file.gzipped else Plain(one)

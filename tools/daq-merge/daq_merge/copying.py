"""Copies HDUs into the product: one pass per byte, which sums while it copies.

Each HDU's data are read once, summed, and written at their final place. Small HDUs are joined and
written in large pieces, their headers before them; the header of a large one follows its data.
"""

from __future__ import annotations

import errno
import os

from daq_merge import readers
from daqlib import checksum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daq_merge.follower import Follower
    from daq_merge.layout import Input, Part
    from daq_merge.seal import Sealer

    #: Told the bytes written and the bytes in all.
    Progress = Callable[[int, int], None]
    Sum = Callable[[memoryview], int]

#: Read and written at a time: it fits the processor's cache, so that summing is free.
BUFFER = 512 * 1024
#: Data units below this are joined.
SMALL = 256 * 1024
_JOINED = 1024 * 1024
# writing back what is finished leaves less to wait for at the end
_WRITE_BACK = 16 * 1024 * 1024


class Target:
    """The file that is written, mostly from the beginning to the end.

    Attributes:
        fd: its descriptor.
        path: for messages.
        follower: told what is finished, in order; None for nobody.

    Args:
        fd: the file, open for writing.
        path: its path.
        sync: whether it is to be on disk in the end.
        follower: see above.
    """

    __slots__ = ("_asked", "_sync", "fd", "follower", "path")

    def __init__(self, fd: int, path: str, sync: bool, follower: Follower | None) -> None:
        self.fd = fd
        self.path = path
        self.follower = follower
        self._sync = sync
        self._asked = 0

    def write(self, piece: memoryview | bytes | bytearray, offset: int) -> None:
        """Write all of a piece.

        Raises:
            OSError: it cannot be written; names the file.
        """
        try:
            done = os.pwrite(self.fd, piece, offset)
            while done < len(piece):  # Linux takes at most 2 GiB at a time
                done += os.pwrite(self.fd, memoryview(piece)[done:], offset + done)
        except OSError as error:
            named(error, self.path)
            raise

    def finished(self, begin: int, end: int) -> None:
        """Say that a range will not be written again; ranges come in order."""
        if self.follower is not None:
            self.follower.range(self.fd, begin, end - begin)
        self.written(end)

    def begin(self, offset: int) -> None:
        """Say where writing begins: what lies before it is not new."""
        self._asked = offset

    def written(self, end: int) -> None:
        """Have what lies before ``end`` written back, in pieces of some size."""
        if self._sync and end - self._asked >= _WRITE_BACK:
            os.posix_fadvise(self.fd, self._asked, end - self._asked, os.POSIX_FADV_DONTNEED)
            self._asked = end

    def reserve(self, offset: int, length: int) -> None:
        """Claim space at once: a full disk shows before the first byte is copied.

        Raises:
            OSError: there is no space; names the file.
        """
        if length <= 0:
            return
        try:
            os.posix_fallocate(self.fd, offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                named(error, self.path)
                raise


def sync(fd: int, path: str) -> None:
    """Have a file on disk.

    Raises:
        OSError: it could not be written; names the file.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        named(error, path)
        raise


def named(error: BaseException, path: str) -> None:
    """Let a failed system call say which file it was about."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = path


class Copier:
    """Copies parts, those of one input after those of the other.

    Args:
        target: the product.
        sealer: makes the headers.
        total: length of the product in bytes, for progress.
        progress: told how far the work is.
    """

    def __init__(self, target: Target, sealer: Sealer, total: int,
                 progress: Progress | None) -> None:
        self._target = target
        self._sealer = sealer
        self._total = total
        self._progress = progress
        self._filled = 0
        self._begin = 0
        self._sum: Sum = checksum.data_sum
        self._buffer = self._joined = memoryview(b"")

    def copy(self, parts: Sequence[Part]) -> None:
        """Copy parts to their places, which follow each other.

        Raises:
            errors.BadData: a source is damaged.
            errors.Later: an input changed while it was read.
            OSError: reading or writing failed.
        """
        if not parts:
            return
        self._begin = parts[0].offset
        self._target.begin(self._begin)
        self._sum = checksum.summing(parts[-1].end - parts[0].offset)
        self._buffer = memoryview(bytearray(BUFFER))
        self._joined = memoryview(bytearray(_JOINED))
        done, count = 0, len(parts)
        while done < count:
            one, last = parts[done].input, done + 1
            while last < count and parts[last].input is one:
                last += 1
            self._copy_input(one, parts, done, last)
            done = last
        self._flush()

    def _copy_input(self, one: Input | None, parts: Sequence[Part], first: int, last: int) -> None:
        if one is None:
            for part in parts[first:last]:
                self._join(part, self._buffer[:0])
            return
        reader = readers.opened(one)
        try:
            while first < last:
                if parts[first].data_bytes >= SMALL or parts[first].header.size >= SMALL:
                    self._copy_large(parts[first], reader)
                    first += 1
                else:
                    first = self._copy_small(parts, first, last, reader)
            reader.compare()
        finally:
            reader.close()

    def _copy_small(self, parts: Sequence[Part], first: int, last: int, reader: readers.Plain
                    ) -> int:
        """Copy as many small parts as one read can bring; return the next one's index."""
        begin = end = _data(parts[first])[0]
        after = first
        while after < last:
            part = parts[after]
            there = _data(part)[1]
            if there - begin > BUFFER or part.data_bytes >= SMALL or part.header.size >= SMALL:
                break
            after, end = after + 1, there
        piece = self._buffer[:end - begin]
        reader.into(piece, begin)
        for part in parts[first:after]:
            at, end = _data(part)
            self._join(part, piece[at - begin:end - begin])
        return after

    def _join(self, part: Part, data: memoryview) -> None:
        total = self._sealer.believed(part)
        if total < 0:
            total = self._sum(data) if data else 0
        header = self._sealer.seal(part, total)
        size = len(header) + len(data)
        if self._filled + size > _JOINED:
            self._flush()
        joined, at = self._joined, self._filled
        joined[at:at + len(header)] = header
        joined[at + len(header):at + size] = data
        self._filled = at + size

    def _flush(self) -> None:
        if self._filled:
            end = self._begin + self._filled
            self._target.write(self._joined[:self._filled], self._begin)
            self._target.finished(self._begin, end)
            self._begin, self._filled = end, 0
            if self._progress:
                self._progress(end, self._total)

    def _copy_large(self, part: Part, reader: readers.Plain) -> None:
        self._flush()
        total = self._sealer.believed(part)
        summed = self._copy_data(part, reader, total < 0)
        self._target.write(self._sealer.seal(part, summed if total < 0 else total), part.offset)
        self._target.finished(part.offset, part.end)
        self._begin = part.end
        if self._progress:
            self._progress(part.end, self._total)

    def _copy_data(self, part: Part, reader: readers.Plain, summing: bool) -> int:
        begin, end = _data(part)
        shift, total = part.data_offset - begin, 0
        progress, told = self._progress, begin
        while begin < end:
            piece = self._buffer[:end - begin]
            reader.into(piece, begin)
            if summing:
                total = checksum.add(total, self._sum(piece))
            self._target.write(piece, begin + shift)
            begin += len(piece)
            if begin - told >= _WRITE_BACK:
                told = begin
                self._target.written(begin + shift)
                if progress:
                    progress(begin + shift, self._total)
        return total


def _data(part: Part) -> tuple[int, int]:
    hdu = part.hdu
    return (hdu.data_offset, hdu.end) if hdu else (0, 0)

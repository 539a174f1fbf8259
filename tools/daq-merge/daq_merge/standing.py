"""Sums the data of HDUs that stay where they are, and makes their headers; nothing is written.

Where the file is in the kernel's memory and large, a second thread takes its share; a file that has
to come from the disk is read from the beginning to the end.
"""

from __future__ import annotations

import _thread
import os

from daq_merge.copying import BUFFER, SMALL
from daqlib import checksum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daq_merge.copying import Progress, Sum
    from daq_merge.layout import Part
    from daq_merge.readers import Plain
    from daq_merge.seal import Sealer

#: Bytes to sum from which a second thread is worth its start.
TWO_THREADS_FROM = 128 * 1024 * 1024
#: A thread's share at a time; shares are taken in order.
SHARE = 64 * 1024 * 1024
_PROBES = 16
_PAGE = 4096


def headers(parts: Sequence[Part], reader: Plain, sealer: Sealer, total: int,
            progress: Progress | None) -> list[bytes]:
    """Return the final headers of parts whose data stay, without the blanks behind END.

    They are all kept in memory until they can be written, as are the headers of the file.

    Args:
        parts: parts of one input.
        reader: their file.
        sealer: makes the headers.
        total: length of the product in bytes, for progress.
        progress: told how far the work is.

    Raises:
        errors.BadData: a source is damaged.
        errors.Later: the file changed while it was read.
        OSError: reading failed.
    """
    believed = [sealer.believed(part) for part in parts]
    wanted = [part for part, known in zip(parts, believed, strict=True) if known < 0]
    sums = _Sums(wanted, reader, total, progress).take() if wanted else {}
    return [part.header.trimmed(sealer.seal(part, sums[part.index] if known < 0 else known))
            for part, known in zip(parts, believed, strict=True)]


class _Share:
    """What a thread sums at a time: one range of a large data unit, or some small units."""

    __slots__ = ("begin", "end", "parts")

    def __init__(self, begin: int, end: int, parts: list[Part]) -> None:
        self.begin = begin
        self.end = end
        self.parts = parts


class _Sums:
    """The sums of data units, by one thread or two."""

    def __init__(self, parts: Sequence[Part], reader: Plain, total: int,
                 progress: Progress | None) -> None:
        self._reader = reader
        self._total = total
        self._progress = progress
        self._amount = sum(part.data_bytes for part in parts)
        self._sum: Sum = checksum.summing(self._amount)
        self._shares = list(_shares(parts))
        self._next = iter(self._shares)
        self._found: list[tuple[int, int]] = [(part.index, 0) for part in parts]
        self._stop = False
        self._error: BaseException | None = None

    def take(self) -> dict[int, int]:
        """Return the sum of each part by its index."""
        if self._amount >= TWO_THREADS_FROM and self._is_cached():
            self._by_two()
        else:
            self._work(self._progress)
        if self._error is not None:
            raise self._error
        sums: dict[int, int] = {}
        for index, value in self._found:
            sums[index] = checksum.add(sums.get(index, 0), value)
        return sums

    def _is_cached(self) -> bool:
        """Look at some places whether the file could be read without waiting for the disk."""
        begin, end = self._shares[0].begin, self._shares[-1].end
        page = bytearray(_PAGE)
        try:
            for number in range(_PROBES):
                at = begin + (end - begin) * number // _PROBES
                os.preadv(self._reader.fd, [page], at, os.RWF_NOWAIT)
        except OSError:
            return False  # not there, or the file system cannot tell
        return True

    def _by_two(self) -> None:
        # loading threading would take as long as summing 100 MiB
        done = _thread.allocate_lock()
        done.acquire()
        _thread.start_new_thread(self._help, (done,))
        try:
            self._work(self._progress)
        except BaseException:
            self._stop = True
            raise
        finally:
            done.acquire()

    def _help(self, done: _thread.LockType) -> None:
        try:
            self._work(None)
        except BaseException as error:
            self._error = error
            self._stop = True
        finally:
            done.release()

    def _work(self, progress: Progress | None) -> None:
        buffer = memoryview(bytearray(BUFFER))
        for share in self._next:
            if len(share.parts) > 1:
                self._sum_small(share, buffer)
            else:
                self._sum_range(share, buffer)
            if self._stop:
                return
            if progress:
                progress(share.end, self._total)

    def _sum_small(self, share: _Share, buffer: memoryview) -> None:
        piece = buffer[:share.end - share.begin]
        self._reader.into(piece, share.begin)
        for part in share.parts:
            if part.hdu is not None and part.data_bytes:
                at = part.hdu.data_offset - share.begin
                self._found.append((part.index, self._sum(piece[at:at + part.data_bytes])))

    def _sum_range(self, share: _Share, buffer: memoryview) -> None:
        begin, total = share.begin, 0
        while begin < share.end and not self._stop:
            piece = buffer[:share.end - begin]
            self._reader.into(piece, begin)
            total = checksum.add(total, self._sum(piece))
            begin += len(piece)
        self._found.append((share.parts[0].index, total))


def _shares(parts: Sequence[Part]) -> Iterator[_Share]:
    small: list[Part] = []
    begin = end = 0
    for part in parts:
        if part.hdu is None or not part.data_bytes:
            continue
        there = part.hdu.end
        if small and (part.data_bytes >= SMALL or there - begin > BUFFER):
            yield _Share(begin, end, small)
            small = []
        if part.data_bytes >= SMALL:
            for at in range(part.hdu.data_offset, there, SHARE):
                yield _Share(at, min(at + SHARE, there), [part])
            continue
        if not small:
            begin = part.hdu.data_offset
        small.append(part)
        end = there
    if small:
        yield _Share(begin, end, small)

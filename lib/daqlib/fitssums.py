"""The sums of a FITS file, taken while its bytes pass by or from the file as it lies there.

The ones'-complement sum of DATASUM and CHECKSUM (FITS Standard 4.0, 4.4.2.7 and appendix J) costs a
fraction of a copy, and the sums of parts can be subtracted from each other. So one pass that
knows nothing of the file's structure is enough to compare every HDU with what it states.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator

from daqlib import checksum, errors, fitsfile
from daqlib.fitsfile import CARD, FitsFile, Hdu

_MODULUS = 0xFFFFFFFF
_PIECE = 256 * 1024


class Running:
    """The sum of a file up to each of many places, as it is read from its beginning."""

    def __init__(self, total: int) -> None:
        """Begin with nothing.

        Args:
            total: about how many bytes will come, see :func:`daqlib.checksum.summing`.
        """
        self._sum_of = checksum.summing(total)
        self._places = [0]
        self._sums = [0]

    @property
    def size(self) -> int:
        """How many bytes came so far."""
        return self._places[-1]

    @property
    def total(self) -> int:
        """The sum of all of them, 0 to 2^32 - 1."""
        return self._sums[-1]

    def add(self, piece: memoryview) -> None:
        """Take the next bytes; only the last piece may end within a word of four bytes."""
        assert self.size % 4 == 0, "a piece behind the last one"
        self._sums.append(checksum.add(self.total, self._sum_of(piece)))
        self._places.append(self.size + len(piece))

    def before(self, place: int, fd: int, fill: bytes) -> int:
        """Return the sum of what lies before a place, modulo 2^32 - 1.

        Args:
            place: a multiple of four; may lie behind the end by less than a block.
            fd: the file, to read what lies between the places that are known.
            fill: the byte that is taken to stand behind the end.
        """
        at = bisect.bisect_right(self._places, place) - 1
        if self._places[at] % 4:
            at -= 1  # the end of the file, within a word
        begin, total = self._places[at], self._sums[at]
        if begin != place:
            between = os.pread(fd, place - begin, begin).ljust(place - begin, fill)
            total = checksum.add(total, self._sum_of(between))
            # HDUs come in order: what was read once is not read again for the next one
            if place < self.size:
                self._places.insert(at + 1, place)
                self._sums.insert(at + 1, total)
        return total % _MODULUS


def pieces(fd: int, begin: int = 0) -> Iterator[memoryview]:
    """Yield what a file holds from a place on; only the last piece may end within a word."""
    buffer = memoryview(bytearray(_PIECE))
    while count := os.preadv(fd, [buffer], begin):
        while count % 4 and (more := os.preadv(fd, [buffer[count:]], begin + count)):
            count += more
        yield buffer[:count]
        begin += count


def running(fd: int) -> Running:
    """Return the sums of a file that lies there.

    Raises:
        OSError: it cannot be read.
    """
    made = Running(os.fstat(fd).st_size)
    for piece in pieces(fd):
        made.add(piece)
    return made


def damage(file: FitsFile, fd: int, sums: Running) -> dict[int, str]:
    """Compare each HDU with the sums that it states.

    DATASUM decides where it is; a CHECKSUM alone covers header and data. What states neither is
    believed, and so is what is inside a gzip file, which has check values of its own.

    Args:
        file: its structure.
        fd: the file, open for reading.
        sums: of the whole file.

    Returns:
        What is wrong, by the index of the HDU.

    Raises:
        OSError: the file cannot be read.
    """
    if file.gzipped:
        return {}
    found = {hdu.index: _wrong(hdu, fd, sums) for hdu in file.hdus}
    return {index: wrong for index, wrong in found.items() if wrong}


def _wrong(hdu: Hdu, fd: int, sums: Running) -> str:
    stated, sealed = _text(hdu, b"DATASUM "), _text(hdu, b"CHECKSUM")
    if not (stated or sealed) or hdu.data_offset > sums.size:
        return ""
    end = sums.before(hdu.data_offset, fd, b" ")
    data = (sums.before(hdu.end, fd, hdu.fill) - end) % _MODULUS
    if stated:
        good = stated.isascii() and stated.isdigit() and int(stated) % _MODULUS == data
        return "" if good else f"DATASUM is {stated}, the data sum to {data}"
    header = (end - sums.before(hdu.offset, fd, b" ")) % _MODULUS
    return "CHECKSUM does not match header and data" if (header + data) % _MODULUS else ""


def _text(hdu: Hdu, name: bytes) -> str:
    """Return the string value of the first card of a name (8 bytes), empty when there is none."""
    raw, at = hdu.text, hdu.text.find(name + b"=")
    while at >= 0 and at % CARD:
        at = raw.find(name + b"=", at + 1)
    if not 0 <= at < hdu.count * CARD:
        return ""
    value = raw[at + 9:at + CARD].decode("latin-1").strip()
    inner = value[1:].partition("'")[0] if value.startswith("'") else value.partition("/")[0]
    return inner.strip()


def is_sound(path: str) -> bool:
    """Tell whether a file is whole FITS and agrees with all sums that it states.

    Raises:
        OSError: it cannot be read.
    """
    fd = -1
    try:
        file = fitsfile.read_structure(path)
        fd = fitsfile.open_input(path)
        return not damage(file, fd, running(fd))
    except errors.BadData:
        return False
    finally:
        if fd >= 0:
            os.close(fd)


def total(path: str) -> int:
    """Return the sum of a whole file, 0 to 2^32 - 1.

    Raises:
        errors.BadData: not a regular file.
        OSError: it cannot be read.
    """
    fd = fitsfile.open_input(path)
    try:
        return running(fd).total
    finally:
        os.close(fd)

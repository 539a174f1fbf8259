"""The structure of a FITS file, read from its headers alone.

Only headers are read, in bounded pieces, so that a file of any size costs the same. Cards stay
the raw 80 bytes that they are in the file: nothing here interprets more than the cards that say
where the next header-data unit (HDU) begins (FITS Standard 4.0, sections 3 and 4.4.1).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from daqlib import errors

BLOCK = 2880
CARD = 80

_WINDOW = 8 * BLOCK
# a header beyond this is a file without END: stop before the whole file has been read as cards
_MAX_HEADER = 10_000 * BLOCK
_BITPIX = (8, 16, 32, 64, -32, -64)
_MAX_NAXIS = 999


@dataclass(frozen=True, slots=True)
class Hdu:
    """One header-data unit of a file.

    Attributes:
        index: 0 for the primary HDU.
        kind: ``SIMPLE`` for the primary HDU, else the value of XTENSION.
        header: the raw header, whole blocks, with END and its fill.
        count: number of cards before END.
        offset: where the header begins in the file, bytes.
        data_size: length of the data without the fill of the last block, bytes.
    """

    index: int
    kind: str
    header: bytes
    count: int
    offset: int
    data_size: int

    @property
    def data_offset(self) -> int:
        """Where the data begin in the file, bytes."""
        return self.offset + len(self.header)

    @property
    def padded_size(self) -> int:
        """Length of the data unit in whole blocks, bytes."""
        return -(-self.data_size // BLOCK) * BLOCK

    @property
    def end(self) -> int:
        """Where the next HDU begins, bytes."""
        return self.data_offset + self.padded_size

    @property
    def cards(self) -> list[bytes]:
        """The cards before END, 80 bytes each, as they are in the file."""
        return [self.header[at:at + CARD] for at in range(0, self.count * CARD, CARD)]


@dataclass(frozen=True, slots=True)
class FitsFile:
    """A file's HDUs, and by which marks to see whether it is still the same file.

    Attributes:
        path: as it was given.
        identity: device, inode, size in bytes and modification time in ns.
        hdus: in file order, the primary HDU first.
    """

    path: str
    identity: tuple[int, int, int, int]
    hdus: tuple[Hdu, ...]

    @property
    def size(self) -> int:
        """Length of the file, bytes."""
        return self.identity[2]


def identity(fd: int) -> tuple[int, int, int, int]:
    """Return device, inode, size and modification time (ns) of an open file."""
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def open_input(path: str) -> int:
    """Open a regular file for reading and return the descriptor.

    Raises:
        errors.BadData: not a regular file.
        OSError: it is not there or may not be read.
    """
    # O_NONBLOCK: a FIFO must be refused below, not waited for
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise errors.BadData(f"{path}: is not a regular file", "name a FITS file")
    return fd


def read_structure(path: str) -> FitsFile:
    """Read a file's HDUs from its headers.

    Raises:
        errors.BadData: not FITS, or damaged: says which HDU and how.
        OSError: the file cannot be read.
    """
    fd = open_input(path)
    try:
        mark = identity(fd)
        return FitsFile(path, mark, tuple(_hdus(fd, path, mark[2])))
    finally:
        os.close(fd)


def verify_structure(path: str) -> int:
    """Check that a file is FITS, complete, and ends where its last HDU ends.

    Returns:
        the number of HDUs.

    Raises:
        errors.BadData: it is not; says which HDU and how.
        OSError: the file cannot be read.
    """
    return len(read_structure(path).hdus)


def _hdus(fd: int, path: str, size: int) -> Iterator[Hdu]:
    offset = index = 0
    while offset < size or index == 0:
        hdu = _read_hdu(fd, path, offset, size, index)
        _check_extent(hdu, path, size)
        yield hdu
        offset, index = hdu.end, index + 1


def _read_hdu(fd: int, path: str, offset: int, size: int, index: int) -> Hdu:
    where = f"{path}: HDU {index}"
    raw = os.pread(fd, min(_WINDOW, size - offset), offset)
    _check_begin(raw, path, index, size - offset)
    raw, end = _to_end(fd, raw, offset, where)
    length = -(-(end + CARD) // BLOCK) * BLOCK
    if len(raw) < length:
        raw += os.pread(fd, length - len(raw), offset + len(raw))
    if len(raw) < length:
        raise errors.BadData(
            f"{where}: last block of its header is short by {length - len(raw)} bytes",
            "the file is cut: deliver it again")
    header, count = raw[:length], end // CARD
    cards = [header[at:at + CARD] for at in range(0, count * CARD, CARD)]
    return Hdu(index, _kind(cards[0]), header, count, offset, data_size(cards, where))


def _to_end(fd: int, raw: bytes, offset: int, where: str) -> tuple[bytes, int]:
    """Return the header read until END is in it, and where END is."""
    end = _find_end(raw, 0)
    while end < 0:
        more = os.pread(fd, len(raw), offset + len(raw)) if len(raw) < _MAX_HEADER else b""
        if not more:
            raise errors.BadData(f"{where}: its header has no END card",
                                 "the file is cut or damaged: deliver it again")
        checked = len(raw) - len(raw) % CARD
        raw += more
        end = _find_end(raw, checked)
    return raw, end


def _check_begin(raw: bytes, path: str, index: int, left: int) -> None:
    if raw.startswith(b"XTENSION=" if index else b"SIMPLE  ="):
        return
    if index:
        raise errors.BadData(
            f"{path}: the {left} bytes after HDU {index - 1} are no extension",
            "cut them off, or deliver the file again")
    if not raw:
        raise errors.BadData(f"{path}: is empty", "deliver it again")
    if raw.startswith(b"\x1f\x8b"):
        raise errors.BadData(f"{path}: is compressed by gzip", "deliver it uncompressed")
    raise errors.BadData(f"{path}: is not FITS: it does not begin with 'SIMPLE  ='",
                         "name a FITS file")


def _find_end(raw: bytes, start: int) -> int:
    at = raw.find(b"END     ", start)
    while at >= 0:
        if at % CARD == 0 and not raw[at + 3:at + CARD].strip(b" "):
            return at
        at = raw.find(b"END     ", at + 1)
    return -1


def _check_extent(hdu: Hdu, path: str, size: int) -> None:
    there = size - hdu.data_offset
    if there >= hdu.padded_size:
        return
    if there < hdu.data_size:
        raise errors.BadData(
            f"{path}: HDU {hdu.index}: its data are cut: only {there} of {hdu.data_size} bytes",
            "deliver the file again")
    raise errors.BadData(
        f"{path}: HDU {hdu.index}: last block is short by {hdu.padded_size - there} bytes",
        "fill it up to a multiple of 2880 bytes, or deliver the file again")


def _kind(card: bytes) -> str:
    if card.startswith(b"SIMPLE"):
        return "SIMPLE"
    return card[10:].decode("latin-1").strip().lstrip("'").partition("'")[0].strip()


def data_size(cards: list[bytes], where: str) -> int:
    """Return how many bytes of data follow a header (FITS Standard 4.0, equations 1, 2 and 4).

    Args:
        cards: the header's cards, the first being SIMPLE or XTENSION.
        where: file and HDU, for errors.

    Raises:
        errors.BadData: a card that says the size is missing or wrong.
    """
    sizes = _size_cards(cards)
    primary = cards[0].startswith(b"SIMPLE")
    if primary and _token(cards[0]) != b"T":
        raise errors.BadData(f"{where}: SIMPLE is not T: the file does not claim to be standard",
                             "have it written as standard FITS")
    bits = _integer(sizes, b"BITPIX", where)
    if bits not in _BITPIX:
        raise errors.BadData(f"{where}: BITPIX is {bits}", "it may be 8, 16, 32, 64, -32 or -64")
    naxis = _integer(sizes, b"NAXIS", where)
    if naxis > _MAX_NAXIS:
        raise errors.BadData(f"{where}: NAXIS is {naxis}", "it may be 0 to 999")
    axes = [_integer(sizes, b"NAXIS%d" % (n + 1), where) for n in range(naxis)]
    if not axes:
        return 0
    groups = primary and axes[0] == 0 and _token(sizes.get(b"GROUPS", b"")) == b"T"
    values = 1
    for axis in axes[1:] if groups else axes:
        values *= axis
    if primary and not groups:
        return abs(bits) // 8 * values
    pcount = _integer(sizes, b"PCOUNT", where, 0)
    return abs(bits) // 8 * _integer(sizes, b"GCOUNT", where, 1) * (pcount + values)


def _size_cards(cards: list[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for card in cards:
        if card[:5] in (b"NAXIS", b"BITPI", b"PCOUN", b"GCOUN", b"GROUP") and card[8:9] == b"=":
            found.setdefault(card[:8].rstrip(), card)
    return found


def _token(card: bytes) -> bytes:
    return card[10:].partition(b"/")[0].strip()


def _integer(cards: dict[bytes, bytes], name: bytes, where: str, default: int | None = None) -> int:
    label = name.decode()
    if name not in cards:
        if default is None:
            raise errors.BadData(f"{where}: its header has no {label} card", "it is not FITS")
        return default
    text = _token(cards[name])
    digits = text[1:] if text[:1] in (b"+", b"-") else text
    if not digits.isdigit() or (text[:1] == b"-" and name != b"BITPIX"):
        raise errors.BadData(
            f"{where}: {label} is '{text.decode('latin-1')}', not a size",
            "the header is damaged: deliver the file again")
    return int(text)

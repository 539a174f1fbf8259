"""The structure of a FITS file, read from its headers alone.

Only headers are read, in bounded pieces, so that a file of any size costs the same. Cards stay
the raw 80 bytes that they are in the file: nothing here interprets more than the cards that say
where the next header-data unit (HDU) begins (FITS Standard 4.0, sections 3 and 4.4.1). A file
compressed by gzip is read through to its end, so that its check values are compared.
"""

from __future__ import annotations

import os
import stat

from daqlib import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daqlib.gzipped import Stream

    #: Device, inode, size in bytes and modification time in ns.
    Identity = tuple[int, int, int, int]

BLOCK = 2880
CARD = 80

_WINDOW = 8 * BLOCK
# a header beyond this is a file without END: stop before the whole file has been read as cards
_MAX_HEADER = 5_000 * BLOCK
_PIECE = 128 * BLOCK
_BITPIX = (8, 16, 32, 64, -32, -64)
_WIDTHS = {b"%d" % bits: abs(bits) // 8 for bits in _BITPIX}
_MAX_NAXIS = 999
_END = b"END".ljust(CARD)
_BLANKS = b" " * BLOCK
_GZIP = b"\x1f\x8b"
_ENDLESS = 2**63


class Hdu:
    """One header-data unit of a file. Not to be changed.

    Attributes:
        index: 0 for the primary HDU.
        kind: ``SIMPLE`` for the primary HDU, else the value of XTENSION.
        text: the raw header without the blanks behind END: half of a small header is blank, and
            thousands may be in memory.
        count: number of cards before END.
        offset: where the header begins in the file, bytes.
        data_size: length of the data without the fill of the last block, bytes.
        short: how many bytes of fill the file lacks at the end of its last block; 0 for most.
        header_size: length of the header in whole blocks, bytes.
        data_offset: where the data begin in the file, bytes.
        padded_size: length of the data unit in whole blocks, bytes.
        end: where the next HDU begins, bytes.

    Offsets in a gzip file count uncompressed bytes.
    """

    __slots__ = ("count", "data_offset", "data_size", "end", "header_size", "index", "kind",
                 "offset", "padded_size", "short", "text")

    def __init__(self, index: int, kind: str, header: bytes, count: int, offset: int,
                 data_size: int, short: int = 0) -> None:
        self.index = index
        self.kind = kind
        used = count * CARD + len(b"END")
        filled = header.endswith(_BLANKS[:len(header) - used])
        self.text = header[:used] if filled else header
        self.header_size = len(header)
        self.count = count
        self.offset = offset
        self.data_size = data_size
        self.short = short
        self.data_offset = offset + self.header_size
        self.padded_size = -(-data_size // BLOCK) * BLOCK
        self.end = self.data_offset + self.padded_size

    @property
    def header(self) -> bytes:
        """The raw header, whole blocks, with END and its fill; made anew at each access."""
        return self.text.ljust(self.header_size)

    @property
    def cards(self) -> list[bytes]:
        """The cards before END, 80 bytes each, as they are in the file."""
        raw = self.header
        return [raw[at:at + CARD] for at in range(0, self.count * CARD, CARD)]

    @property
    def fill(self) -> bytes:
        """The byte that completes a last block (FITS Standard 4.0, sections 3.3.2 and 7.2.3)."""
        return b" " if self.kind == "TABLE" else b"\0"


class FitsFile:
    """A file's HDUs, and by which marks to see whether it is still the same file.

    Attributes:
        path: as it was given.
        identity: device, inode, size in bytes and modification time in ns, of the file itself.
        hdus: in file order, the primary HDU first.
        gzipped: whether the file is compressed by gzip.
    """

    __slots__ = ("gzipped", "hdus", "identity", "path")

    def __init__(self, path: str, identity: Identity, hdus: tuple[Hdu, ...],
                 gzipped: bool = False) -> None:
        self.path = path
        self.identity = identity
        self.hdus = hdus
        self.gzipped = gzipped

    @property
    def size(self) -> int:
        """Length of the file as it lies on disk, bytes."""
        return self.identity[2]

    @property
    def short(self) -> int:
        """How many bytes its last block lacks."""
        return self.hdus[-1].short

    @property
    def length(self) -> int:
        """Length of the FITS data in it, uncompressed and as far as they go, bytes."""
        return self.hdus[-1].end - self.hdus[-1].short


def identity(fd: int) -> Identity:
    """Return device, inode, size and modification time (ns) of an open file."""
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def opened(path: str) -> tuple[int, Identity]:
    """Open a regular file for reading; return the descriptor and its identity.

    Raises:
        errors.BadData: not a regular file.
        OSError: it is not there or may not be read.
    """
    # O_NONBLOCK: a FIFO must be refused below, not waited for
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise errors.BadData(f"{path}: is not a regular file", "name a FITS file")
    return fd, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def open_input(path: str) -> int:
    """Open a regular file for reading and return the descriptor.

    Raises:
        errors.BadData: not a regular file.
        OSError: it is not there or may not be read.
    """
    return opened(path)[0]


def read_structure(path: str) -> FitsFile:
    """Read a file's HDUs from its headers.

    Raises:
        errors.BadData: not FITS, or damaged: says which HDU and how.
        OSError: the file cannot be read.
    """
    fd, mark = opened(path)
    try:
        plain = _Plain(fd, mark[2])
        window = plain.read(_WINDOW, 0)
        if not window.startswith(_GZIP):
            return FitsFile(path, mark, tuple(_hdus(plain, window, path)))
        source = _unzipped(fd, path)
        return FitsFile(path, mark, tuple(_hdus(source, source.read(_WINDOW, 0), path)), True)
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise
    finally:
        os.close(fd)


def verify_structure(path: str) -> int:
    """Check that a file is FITS, complete, and ends where its last HDU ends.

    A last block whose fill is missing is accepted: no data are lost (:attr:`FitsFile.short`).

    Returns:
        the number of HDUs.

    Raises:
        errors.BadData: it is not; says which HDU and how.
        OSError: the file cannot be read.
    """
    return len(read_structure(path).hdus)


class _Plain:
    """A file that is read where it is needed."""

    __slots__ = ("_fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def read(self, length: int, offset: int) -> bytes:
        # not more than there is: thousands of large buffers cut small scatter the memory
        return os.pread(self._fd, max(0, min(length, self.size - offset)), offset)

    def reach(self, offset: int) -> int:
        """Return how far the file goes, at most to ``offset``."""
        return min(offset, self.size)


class _Unzipped:
    """A gzip file that is read forward; its size is known when its end has been seen."""

    __slots__ = ("_begin", "_kept", "_stream", "size")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._kept = b""
        self._begin = 0
        self.size = _ENDLESS

    def read(self, length: int, offset: int) -> bytes:
        # a header may begin in the window before: what was read ahead is kept
        kept = self._kept[max(0, offset - self._begin):]
        if len(kept) < length:
            self._stream.skip(max(0, offset - self._stream.position))
            kept += self._stream.read(length - len(kept))
            if len(kept) < length:
                self.size = self._stream.position
        self._kept, self._begin = kept, offset
        return kept[:length]

    def reach(self, offset: int) -> int:
        """Return how far the data go, at most to ``offset``."""
        ahead = offset - self._stream.position
        if ahead > 0 and self._stream.skip(ahead) < ahead:
            self.size = self._stream.position
        return min(offset, self._stream.position)


def _unzipped(fd: int, path: str) -> _Unzipped:
    from daqlib import gzipped

    return _Unzipped(gzipped.Stream(fd, path))


def _hdus(source: _Plain | _Unzipped, window: bytes, path: str) -> list[Hdu]:
    """Return the HDUs of a file.

    Args:
        source: the file.
        window: its first bytes.
        path: for messages.
    """
    found: list[Hdu] = []
    offset = begin = 0
    while offset < source.size or not found:
        if offset + BLOCK > begin + len(window) and offset > begin:
            window, begin = source.read(_WINDOW, offset), offset
            if not window:
                break
        at = offset - begin
        if not window.startswith(b"XTENSION= " if found else b"SIMPLE  = ", at):
            _refuse_begin(window, path, len(found), source.reach(_ENDLESS) - offset)
        hdu = _hdu(source, window, at, path, offset, len(found))
        there = source.reach(hdu.end)
        if there < hdu.end:
            hdu.short = _lacking(hdu, path, there)
        found.append(hdu)
        offset = hdu.end
    return found


def _hdu(source: _Plain | _Unzipped, window: bytes, at: int, path: str, offset: int, index: int
         ) -> Hdu:
    """Return the HDU whose header begins at ``at`` in the window, and at ``offset`` in the file."""
    end = _find_end(window, at, at)
    length = -(-(end + CARD - at) // BLOCK) * BLOCK
    if end < 0 or at + length > len(window):
        window, end = _to_end(source, window[at:], offset, f"{path}: HDU {index}")
        at, length = 0, -(-(end + CARD) // BLOCK) * BLOCK
    count = (end - at) // CARD
    # the last block of a header may lack its blanks at the end of a file
    header = window[at:at + length].ljust(length)
    size = _known_size(header, count, index)
    if size < 0:
        size = data_size([header[n:n + CARD] for n in range(0, count * CARD, CARD)],
                         f"{path}: HDU {index}")
    return Hdu(index, _kind(header) if index else "SIMPLE", header, count, offset, size)


def _find_end(raw: bytes | bytearray, start: int, begin: int) -> int:
    """Return where the END card is at or behind ``start``, cards being counted from ``begin``."""
    at = raw.find(_END, start)
    while at >= 0 and (at - begin) % CARD:
        at = raw.find(_END, at + 1)
    return at


def _to_end(source: _Plain | _Unzipped, raw: bytes, offset: int, where: str) -> tuple[bytes, int]:
    """Return the header read until the block with END is in it, and where END is."""
    text, checked, end = bytearray(raw), 0, _find_end(raw, 0, 0)
    while end < 0:
        more = source.read(_PIECE, offset + len(text)) if len(text) < _MAX_HEADER else b""
        checked = len(text) - len(text) % CARD
        if not more:
            # the blanks behind END may be what the file lacks
            text += b" " * (-len(text) % BLOCK)
            end = _find_end(text, checked, 0)
            break
        text += more
        end = _find_end(text, checked, 0)
    if end < 0:
        raise errors.BadData(f"{where}: its header has no END card",
                             "the file is cut or damaged: deliver it again")
    lacks = -(-(end + CARD) // BLOCK) * BLOCK - len(text)
    if lacks > 0:
        text += source.read(lacks, offset + len(text))
    return bytes(text), end


def _refuse_begin(raw: bytes, path: str, index: int, left: int) -> None:
    if index:
        raise errors.BadData(
            f"{path}: the {left} bytes after HDU {index - 1} are no extension",
            "cut them off, or deliver the file again")
    if not raw:
        raise errors.BadData(f"{path}: is empty", "deliver it again")
    if raw.startswith(_GZIP):
        raise errors.BadData(f"{path}: is compressed by gzip more than once",
                             "uncompress it once")
    raise errors.BadData(f"{path}: is not FITS: it does not begin with 'SIMPLE  = '",
                         "name a FITS file")


def _lacking(hdu: Hdu, path: str, there: int) -> int:
    """Return how many bytes of fill are missing when the file ends at ``there``."""
    got = max(0, there - hdu.data_offset)
    if got < hdu.data_size:
        raise errors.BadData(
            f"{path}: HDU {hdu.index}: its data are cut: only {got} of {hdu.data_size} bytes",
            "deliver the file again")
    return hdu.end - there


def _kind(header: bytes) -> str:
    text = header[10:CARD].decode("latin-1").strip()
    return text.lstrip("'").partition("'")[0].strip()


#: Size of the data by the cards that say it: thousands of HDUs of one kind are alike.
_known: dict[bytes, int] = {}
_MOST_KNOWN = 64


def _known_size(header: bytes, count: int, index: int) -> int:
    """Return what :func:`_quick_size` does; of the commonest kinds it is remembered."""
    # what is said up to GCOUNT after two axes, or up to NAXIS where there are none
    cards, naxis = (7, 2) if index else (3, 0)
    key = header[:cards * CARD]
    size = _known.get(key, -1)
    if size >= 0 and count >= cards:
        return size
    size = _quick_size(header, count, index)
    if size >= 0 and _number(header, 2 * CARD) == naxis:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = size
    return size


def _quick_size(header: bytes, count: int, index: int) -> int:
    """Return the size of the data when the cards that say it stand in the standard's order.

    FITS Standard 4.0, sections 4.4.1.1 and 4.4.1.2. Otherwise -1: :func:`data_size` then searches
    them, and finds the words for what is wrong.
    """
    if (not header.startswith(b"BITPIX  = ", CARD)
            or not header.startswith(b"NAXIS   = ", 2 * CARD)):
        return -1
    width = _WIDTHS.get(_token(header[CARD:2 * CARD]), -1)
    naxis = _number(header, 2 * CARD)
    at = (3 + naxis) * CARD
    if width < 0 or not 0 <= naxis <= _MAX_NAXIS or count * CARD < at + (2 * CARD if index else 0):
        return -1
    values = _product_of_axes(header, naxis)
    if not index:
        # no values but axes: perhaps random groups
        plain = values > 0 or not naxis
        return width * values if plain and _token(header[:CARD]) == b"T" else -1
    if (not header.startswith(b"PCOUNT  = ", at)
            or not header.startswith(b"GCOUNT  = ", at + CARD)):
        return -1
    before, times = _number(header, at), _number(header, at + CARD)
    if values < 0 or before < 0 or times < 0:
        return -1
    return width * times * (before + values) if naxis else 0


def _product_of_axes(header: bytes, naxis: int) -> int:
    """Return how many values an array has, 0 without axes; -1 when a card is out of place."""
    at, values = 3 * CARD, 1 if naxis else 0
    for number in range(1, naxis + 1):
        there = header.startswith(b"%-8b= " % (b"NAXIS%d" % number), at)
        axis = _number(header, at) if there else -1
        if axis < 0:
            return -1
        values *= axis
        at += CARD
    return values


def _number(header: bytes, at: int) -> int:
    """Return the unsigned integer of the card at ``at``, or -1."""
    token = _token(header[at:at + CARD])
    return int(token) if token.isdigit() else -1


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
    if primary and not _is_true(cards[0]):
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
    groups = primary and axes[0] == 0 and _is_true(sizes.get(b"GROUPS", b""))
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


def _is_true(card: bytes) -> bool:
    return card[8:10] == b"= " and _token(card) == b"T"


def _token(card: bytes) -> bytes:
    return card[10:].partition(b"/")[0].strip()


def _integer(cards: dict[bytes, bytes], name: bytes, where: str, default: int | None = None) -> int:
    label = name.decode()
    if name not in cards:
        if default is None:
            raise errors.BadData(f"{where}: its header has no {label} card", "it is not FITS")
        return default
    if cards[name][9:10] != b" ":  # FITS Standard 4.0, section 4.1.2.2
        raise errors.BadData(f"{where}: {label} has no value: columns 9 and 10 are not '= '",
                             "the header is damaged: deliver the file again")
    text = _token(cards[name])
    digits = text[1:] if text[:1] in (b"+", b"-") else text
    if not digits.isdigit() or (text[:1] == b"-" and name != b"BITPIX"):
        raise errors.BadData(
            f"{where}: {label} is '{text.decode('latin-1')}', not a size",
            "the header is damaged: deliver the file again")
    return int(text)

"""Headers with room for their seal: where CHECKSUM and DATASUM go, and filling them in.

Both cards have a fixed size, so a product's layout is known before any data is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from daq_merge import cards
from daq_merge.cards import Keyword
from daqlib import checksum, errors
from daqlib.fitsfile import BLOCK, CARD

if TYPE_CHECKING:
    from daqlib.fitsfile import Hdu

_ZEROS = "0" * 16
_SEAL = (b"CHECKSUM", b"DATASUM ")
_VALUE_AT = 11


@dataclass(slots=True)
class Header:
    """A header in the making.

    Attributes:
        raw: whole blocks, complete but for the two cards of the seal.
        checksum_at: where the CHECKSUM card begins, bytes.
        datasum_at: where the DATASUM card begins, bytes.
    """

    raw: bytearray
    checksum_at: int
    datasum_at: int

    def sealed(self, data_sum: int, stamp: str) -> bytes:
        """Return the header's bytes with DATASUM and CHECKSUM.

        Args:
            data_sum: the sum of the data unit.
            stamp: time to note in the comments, ISO 8601.
        """
        raw = bytearray(self.raw)
        raw[self.datasum_at:self.datasum_at + CARD] = _card(
            f"DATASUM = '{data_sum:<8}'", f"sum of the data unit, {stamp}")
        raw[self.checksum_at:self.checksum_at + CARD] = _card(
            f"CHECKSUM= '{_ZEROS}'", f"sum of the HDU, {stamp}")
        text = checksum.encode(checksum.add(checksum.data_sum(raw), data_sum))
        begin = self.checksum_at + _VALUE_AT
        raw[begin:begin + len(text)] = text.encode("ascii")
        return bytes(raw)


def _card(value: str, comment: str) -> bytes:
    return f"{value:<30} / {comment}".ljust(CARD).encode("ascii")


def fresh(lines: list[bytes]) -> Header:
    """Return a new header of these cards with the seal as last cards."""
    place = len(lines) * CARD
    raw = b"".join(lines) + b" " * 2 * CARD + b"END"
    return Header(bytearray(_filled(raw)), place, place + CARD)


def kept(hdu: Hdu) -> Header:
    """Return an HDU's own header, every card as it is, with places for the seal.

    Existing cards are replaced where they stand. Missing ones go behind the last card: onto blank
    cards before END if there are any, else END moves and the header may grow by a block.
    """
    raw, free = bytearray(hdu.header), _used(hdu)
    places: list[int] = []
    for name in _SEAL:
        at = _find(hdu, name)
        if at < 0:
            at, free = free * CARD, free + 1
        places.append(at)
    if free > hdu.count:
        fill = b" " * CARD * (free - _used(hdu))
        raw = bytearray(_filled(bytes(raw[:_used(hdu) * CARD]) + fill + b"END"))
    return Header(raw, places[0], places[1])


def _used(hdu: Hdu) -> int:
    count = hdu.count
    while count and not hdu.header[(count - 1) * CARD:count * CARD].strip(b" "):
        count -= 1
    return count


def _find(hdu: Hdu, name: bytes) -> int:
    """Where the card of that name begins, or -1."""
    at = hdu.header.find(name + b"=")
    while at >= 0 and at % CARD:
        at = hdu.header.find(name + b"=", at + 1)
    return at if at < hdu.count * CARD else -1


def _filled(raw: bytes) -> bytes:
    return raw + b" " * (-len(raw) % BLOCK)


def is_intact(hdu: Hdu, data_sum: int) -> bool:
    """Whether the HDU carries both sums and both are right: then it may stay as it is."""
    if _find(hdu, _SEAL[0]) < 0 or not _says(hdu, data_sum):
        return False
    total = checksum.add(checksum.data_sum(hdu.header), data_sum)
    return _text(hdu, _SEAL[0]) != "" and total in (0, 0xFFFFFFFF)


def broken_seal(hdu: Hdu, data_sum: int) -> str:
    """Return what is wrong with the sums that an HDU carries, or an empty string.

    DATASUM decides where it is; a CHECKSUM alone covers data and header together. A missing or
    empty value says nothing (FITS Standard 4.0, section 4.4.2.7).
    """
    stated = _text(hdu, _SEAL[1])
    if stated:
        return "" if _says(hdu, data_sum) else f"DATASUM is {stated}, the data sum to {data_sum}"
    if not _text(hdu, _SEAL[0]):
        return ""
    total = checksum.add(checksum.data_sum(hdu.header), data_sum)
    return "" if total in (0, 0xFFFFFFFF) else "CHECKSUM does not match header and data"


def _says(hdu: Hdu, data_sum: int) -> bool:
    stated = _text(hdu, _SEAL[1])
    # 0 and 2^32 - 1 are the same number in this arithmetic
    return (stated.isascii() and stated.isdigit()
            and int(stated) % 0xFFFFFFFF == data_sum % 0xFFFFFFFF)


def _text(hdu: Hdu, name: bytes) -> str:
    at = _find(hdu, name)
    if at < 0:
        return ""
    keyword = Keyword("value", name.decode(), (hdu.header[at:at + CARD],))
    try:
        return cards.split(keyword)[0].strip("'").strip()
    except errors.BadData:
        return "unreadable"

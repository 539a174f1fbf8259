"""Makes an extension of the primary HDU of a source that is not the merge target.

Most programs write their image into the primary HDU; a product has room for one primary array. The
data and the other cards stay as they are; what says that the HDU is the first of a file is replaced
(FITS Standard 4.0, sections 4.4.1.2 and 7.1).
"""

from __future__ import annotations

from daq_merge import cards, headers
from daqlib import cardname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daqlib.fitsfile import Hdu

_CONTINUE = b"CONTINUE  "
# what an image extension says in another way or must not say, and the seal, which is made anew
_REPLACED = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXISn", "PCOUNT", "GCOUNT", "GROUPS",
             "EXTEND", "NEXTEND", "BLOCKED", "CHECKSUM", "DATASUM")


def fits(hdu: Hdu) -> bool:
    """Tell whether a primary HDU has data that an image extension can hold.

    Random groups cannot: their first axis has no values (FITS Standard 4.0, section 6.1.1).
    """
    return hdu.data_size > 0 and _number(_first(hdu, b"NAXIS1")) > 0


def header(hdu: Hdu, name: str, version: int, stamps: Sequence[bytes] = ()) -> headers.Header:
    """Return the header of the extension, with places for its seal.

    Args:
        hdu: the primary HDU; it :func:`fits`.
        name: EXTNAME, unless the HDU says one itself.
        version: EXTVER, likewise; 1 is what readers take, and not written.
        stamps: cards to write into it, in place of those of the same names.
    """
    rest = list(_others(hdu, {*_REPLACED, *map(_shape, stamps)} - {"CONTINUE"}))
    while rest and not rest[-1].strip(b" "):
        rest.pop()  # the seal goes there
    said = {cardname.shape(name) for kind, name in map(cards.classify, rest) if kind == "value"}
    made: list[bytes] = []
    if "EXTNAME" not in said:
        printable = "".join(char if " " <= char <= "~" else "?" for char in name)
        made += _card("EXTNAME", printable, "source that delivered the image")
    if version > 1 and "EXTVER" not in said:
        made += _card("EXTVER", version, "number of the image of this source")
    lines = [*made, *rest, *stamps]
    if "LONGSTRN" not in said and any(card.startswith(_CONTINUE) for card in lines):
        # readers of the OGIP convention look for this card before they join CONTINUE cards
        lines[:0] = _card("LONGSTRN", "OGIP 1.0", "strings may go on in CONTINUE cards")
    return headers.fresh([*_structure(hdu), *lines], hdu)


def _structure(hdu: Hdu) -> Iterator[bytes]:
    """Yield the mandatory cards in their order; those of the array are the HDU's own."""
    yield from _card("XTENSION", "IMAGE", "image extension")
    yield _first(hdu, b"BITPIX")
    yield (axes := _first(hdu, b"NAXIS"))
    for number in range(1, _number(axes) + 1):
        yield _first(hdu, b"NAXIS%d" % number)
    yield from _card("PCOUNT", 0, "no parameters")
    yield from _card("GCOUNT", 1, "one group")


def _others(hdu: Hdu, shapes: set[str]) -> Iterator[bytes]:
    """Yield the cards of an HDU but for those of some names, and what goes on with those."""
    left_out = False
    for card in hdu.cards:
        if not card.startswith(_CONTINUE):
            left_out = _shape(card) in shapes
        if not left_out:
            yield card


def _shape(card: bytes) -> str:
    kind, name = cards.classify(card)
    return "" if kind == "eso" else cardname.shape(name)


def _first(hdu: Hdu, name: bytes) -> bytes:
    begin = name.ljust(8) + b"="
    return next(card for card in hdu.cards if card.startswith(begin))


def _number(card: bytes) -> int:
    return int(card[10:].partition(b"/")[0])


def _card(name: str, value: object, comment: str) -> tuple[bytes, ...]:
    return cards.make("value", name, value, comment, "the product", lambda _: None).cards

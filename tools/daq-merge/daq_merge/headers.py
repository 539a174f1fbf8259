"""Headers with room for their seal: where CHECKSUM and DATASUM go, before the sums are known.

Both cards have a fixed size, so a product's layout is known before any data is read. An extension
keeps its cards: those of the seal are replaced where they stand, missing ones go onto the blank
cards before END, or END moves. A header never gets fewer blocks than it had.
"""

from __future__ import annotations

from daqlib.fitsfile import BLOCK, CARD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from daqlib.fitsfile import Hdu

DATASUM = b"DATASUM ="
CHECKSUM = b"CHECKSUM="
_BLANK = b" " * CARD
_MOST = 0xFFFFFFFF
_CONTINUE = b"CONTINUE"
# where a value begins, also one without the blank behind '=' that the standard asks for
_VALUE_AT = 9


class Header:
    """A header in the making: what it is made from, and where its parts go.

    Attributes:
        text: the cards, or a whole header, that it begins with; blanks at its end are left out.
        keep: how many bytes of ``text`` stay at the beginning, ``size`` for all; blanks follow.
        size: length in whole blocks, bytes.
        end_at: where END goes, bytes.
        datasum_at: where the DATASUM card goes, bytes.
        checksum_at: where the CHECKSUM card goes, bytes.
        patches: cards to put over the text, with their places.
        stated: the DATASUM that the source states, as text; empty when it states none.
        has_checksum: whether the source states a CHECKSUM.
        keeps_datasum: whether the source's own DATASUM card is in the text.
        keeps_seal: whether both its cards are.
    """

    __slots__ = ("checksum_at", "datasum_at", "end_at", "has_checksum", "keep", "keeps_datasum",
                 "keeps_seal", "patches", "size", "stated", "text")

    def __init__(self, text: bytes, keep: int, end_at: int, datasum_at: int, checksum_at: int,
                 patches: tuple[tuple[int, bytes], ...], stated: str, has_checksum: bool,
                 keeps_datasum: bool = False, keeps_seal: bool = False) -> None:
        self.text = text
        self.keep = keep
        self.end_at = end_at
        self.size = -(-(end_at + CARD) // BLOCK) * BLOCK
        self.datasum_at = datasum_at
        self.checksum_at = checksum_at
        self.patches = patches
        self.stated = stated
        self.has_checksum = has_checksum
        self.keeps_datasum = keeps_datasum
        self.keeps_seal = keeps_seal

    def grow(self, blocks: int) -> None:
        """Add whole blocks of blank cards before END."""
        if blocks:
            self.keep = min(self.keep, self.end_at)
            self.end_at += blocks * BLOCK
            self.size += blocks * BLOCK

    def draft(self) -> bytearray:
        """Return the header's bytes but for the two cards of the seal."""
        raw = bytearray(self.text[:self.keep].ljust(self.size))
        raw[self.end_at:self.end_at + 3] = b"END"
        for at, cards in self.patches:
            raw[at:at + len(cards)] = cards
        return raw

    def trimmed(self, raw: bytes | bytearray) -> bytes:
        """Return a finished header without the blanks behind END."""
        used = self.end_at + len(b"END")
        return bytes(raw if min(self.keep, len(self.text)) > used else raw[:used])

    @property
    def is_untouched(self) -> bool:
        """Whether it is the source's own header, and both cards of the seal are in it."""
        return self.keeps_seal and self.keep == self.size and not self.patches

    @property
    def stated_sum(self) -> int:
        """The DATASUM that the source states, or -1 when it states none that can be one."""
        text = self.stated
        found = int(text) if text.isascii() and text.isdigit() else -1
        return found if found <= _MOST else -1


def fresh(lines: Sequence[bytes], base: Hdu | None = None) -> Header:
    """Return a new header of these cards with the seal as last cards.

    Args:
        lines: the cards, but for the seal.
        base: the HDU that gets this header; it keeps the blocks that it has.
    """
    text = b"".join(lines)
    place = len(text)
    end_at = place + 2 * CARD
    stated, has_checksum = "", False
    if base is not None:
        end_at = max(end_at, base.count * CARD)
        stated, has_checksum = _stated(base)
    return Header(text, place, end_at, place, place + CARD, (), stated, has_checksum)


def kept(hdu: Hdu, stamps: Sequence[bytes] = ()) -> Header:
    """Return an HDU's own header, every card as it is, with places for the seal.

    Args:
        hdu: the extension.
        stamps: cards to write into it, each in place of those of the same name; CONTINUE cards
            belong to the card before them.
    """
    own = text = hdu.header
    cut, added = hdu.count * CARD, b""
    if stamps:
        text, added = _stamped(own, cut, stamps)
        if text is not own:
            cut = len(text)
    datasum_at, checksum_at = _find(text, DATASUM, cut), _find(text, CHECKSUM, cut)
    # a card that says the right thing in an illegal way is written anew
    keeps_datasum = datasum_at >= 0 and text.startswith(DATASUM + b" '", datasum_at)
    keeps_seal = (keeps_datasum and checksum_at >= 0
                  and text.startswith(CHECKSUM + b" '", checksum_at))
    patches: tuple[tuple[int, bytes], ...] = ()
    stated, has_checksum = "", False
    if datasum_at >= 0:
        stated = _value(text, datasum_at)
        patches = _strays(text, DATASUM, datasum_at, cut)
    if checksum_at >= 0:
        has_checksum = _value(text, checksum_at) != ""
        patches += _strays(text, CHECKSUM, checksum_at, cut)
    free = used = -(-len(text[:cut].rstrip(b" ")) // CARD) * CARD
    if added:
        patches += ((used, added),)
        free += len(added)
    if datasum_at < 0:
        datasum_at, free = free, free + CARD
    if checksum_at < 0:
        checksum_at, free = free, free + CARD
    end_at = max(free, hdu.count * CARD)
    whole = text is own and end_at == hdu.count * CARD
    return Header(hdu.text if text is own else text, len(text) if whole else used, end_at,
                  datasum_at, checksum_at, patches, stated, has_checksum, keeps_datasum,
                  keeps_seal)


def _find(text: bytes, name: bytes, cut: int, start: int = 0) -> int:
    """Return where the card of that name begins, in any case as readers take it, or -1.

    Both ``start`` and ``cut`` are where cards begin.
    """
    # looking at first letters takes a tenth of the time of searching the text
    letters = text[start:cut:CARD].upper()
    number = letters.find(name[0])
    while number >= 0:
        at = start + number * CARD
        if text[at:at + len(name)].upper() == name:
            return at
        number = letters.find(name[0], number + 1)
    return -1


def _strays(text: bytes, name: bytes, at: int, cut: int) -> tuple[tuple[int, bytes], ...]:
    """Return blanks for what would contradict a card of the seal.

    That are further cards of its name, of which readers take one or the other, and the CONTINUE
    cards of a text that was never a sum.
    """
    found: list[tuple[int, bytes]] = []
    first = at
    while at >= 0:
        if at != first:
            found.append((at, _BLANK))
        at += CARD
        while text.startswith(_CONTINUE, at) and at < cut:
            found.append((at, _BLANK))
            at += CARD
        at = _find(text, name, cut, at)
    return tuple(found)


def _stated(hdu: Hdu) -> tuple[str, bool]:
    """Return the DATASUM that an HDU states and whether it states a CHECKSUM."""
    text, cut = hdu.header, hdu.count * CARD
    datasum_at, checksum_at = _find(text, DATASUM, cut), _find(text, CHECKSUM, cut)
    return ("" if datasum_at < 0 else _value(text, datasum_at),
            checksum_at >= 0 and _value(text, checksum_at) != "")


def _value(text: bytes, at: int) -> str:
    """Return the value of a card of the seal as text, without quotes and outer blanks."""
    field = text[at + _VALUE_AT:at + CARD].decode("latin-1").strip()
    if field.startswith("'"):
        return field[1:].partition("'")[0].strip()
    return field.partition("/")[0].strip()


def _stamped(text: bytes, cut: int, stamps: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the header with those stamps replaced whose names it has, and the others."""
    groups: dict[bytes, bytes] = {}
    name = b""
    for card in stamps:
        if not card.startswith(_CONTINUE):
            name = card[:9]
        groups[name] = groups.get(name, b"") + card
    added = b""
    for name, cards in groups.items():
        at = _find(text, name, cut)
        if at < 0:
            added += cards
            continue
        pieces, done = [text[:at], cards], at
        while at >= 0:
            pieces.append(text[done:at])
            at += CARD
            while text.startswith(_CONTINUE, at) and at < cut:
                at += CARD
            done, at = at, _find(text, name, cut, at)
        text = b"".join((*pieces, text[done:cut]))
        cut = len(text)
    return text, added

"""Header cards: the keywords that raw cards hold, and cards made from values.

A card that is only passed on keeps its 80 bytes: nothing is read into a number and written again.
How a name, a value and a comment become a card is told by :mod:`daqlib.cardlayout`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from daqlib import cardlayout, cardname, cardvalue, errors
from daqlib.cardlayout import Warn
from daqlib.cardname import Kind

__all__ = ["Keyword", "Kind", "Warn", "classify", "make", "read", "renamed", "split", "string"]


@dataclass(frozen=True, slots=True)
class Keyword:
    """A keyword with its card, and the CONTINUE cards that belong to it.

    Attributes:
        kind: ESO-396401 section 1.3: every card is a value, ESO or commentary keyword.
        name: logical name; of an ESO keyword without ``HIERARCH ESO``. A HIERARCH keyword of
            another domain counts as an ESO keyword and keeps ``HIERARCH`` in its name.
        cards: raw, 80 bytes each.
    """

    kind: Kind
    name: str
    cards: tuple[bytes, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What makes two keywords the same: kind and logical name."""
        return (self.kind, self.name)

    @property
    def label(self) -> str:
        """How to call it in messages."""
        return self.name or "(blank)"


def read(cards: Iterable[bytes]) -> list[Keyword]:
    """Return the keywords of raw cards; CONTINUE cards join the string before them.

    Cards without any text are room, not keywords, and are left out.
    """
    found: list[Keyword] = []
    for card in cards:
        if not card.strip(b" "):
            continue
        last = found[-1] if found else None
        if card.startswith(b"CONTINUE  ") and last is not None and _goes_on(last):
            found[-1] = Keyword(last.kind, last.name, (*last.cards, card))
        else:
            kind, name = classify(card)
            found.append(Keyword(kind, name, (card,)))
    return found


def classify(card: bytes) -> tuple[Kind, str]:
    """Return kind and logical name of a raw card, see :func:`daqlib.cardname.classify`."""
    return cardname.classify(card.decode("latin-1"))


def split(keyword: Keyword) -> tuple[str, str]:
    """Return the value of a keyword's first card as it is written, and its comment.

    Raises:
        errors.BadData: a string without closing quote.
    """
    card = keyword.cards[0].decode("latin-1")
    if keyword.kind == "commentary":
        return card[8:].rstrip(), ""
    rest = card[10:] if keyword.kind == "value" else card.partition("=")[2]
    return cardvalue.split(rest, f"keyword {keyword.label}")


def _goes_on(keyword: Keyword) -> bool:
    """Whether the keyword's last card ends in ``&'``: the sign of a CONTINUE to come."""
    if keyword.kind == "commentary":
        return False
    last = keyword.cards[-1].decode("latin-1")
    try:
        text = split(keyword)[0] if len(keyword.cards) == 1 else cardvalue.split(last[8:], "")[0]
    except errors.BadData:
        return False
    return len(text) > 2 and text.endswith("&'")


def string(keyword: Keyword) -> str | None:
    """Return the text of a string keyword, CONTINUE cards included; None for other values.

    Raises:
        errors.BadData: a string without closing quote.
    """
    text = split(keyword)[0]
    if not text.startswith("'"):
        return None
    whole = text[1:-1]
    for card in keyword.cards[1:]:
        part = cardvalue.split(card.decode("latin-1")[8:], f"keyword {keyword.label}")[0]
        whole = whole.rstrip(" ")[:-1] + part[1:-1]
    return cardvalue.unquoted(whole)


def make(kind: Kind, name: str, value: object, comment: str, where: str, warn: Warn,
         layout: str = "") -> Keyword:
    """Make a value or ESO keyword, see :func:`daqlib.cardlayout.make`."""
    return Keyword(kind, name,
                   cardlayout.make(kind, name, value, comment, where, warn, layout))


def renamed(keyword: Keyword, name: str, where: str, warn: Warn) -> Keyword:
    """Return the keyword under another logical name, its value as it was written.

    Raises:
        errors.BadData: the name is illegal, or name and value do not fit one card.
    """
    if name == keyword.name:
        return keyword
    cardname.check_name(keyword.kind, name, where)
    if keyword.kind != "eso":
        first = f"{name:8}".encode("ascii") + keyword.cards[0][8:]
        return Keyword(keyword.kind, name, (first, *keyword.cards[1:]))
    label = f"{where}: keyword {name}"
    token, comment = split(keyword)
    text = string(keyword)
    if text is not None:
        token = cardvalue.quoted(text)
        comment = _last_comment(keyword)
    return Keyword("eso", name, cardlayout.lay_out("eso", name, token, comment, label, warn))


def _last_comment(keyword: Keyword) -> str:
    if len(keyword.cards) == 1:
        return split(keyword)[1]
    rest = keyword.cards[-1].decode("latin-1")[8:]
    return cardvalue.split(rest, f"keyword {keyword.label}")[1]

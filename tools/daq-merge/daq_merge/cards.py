"""Header cards: the keywords that raw cards hold, and cards made from values.

A card that is only passed on keeps its 80 bytes: nothing is read into a number and written again.
How a name, a value and a comment become a card is told by :mod:`daqlib.cardlayout`.
"""

from __future__ import annotations

from daqlib import cardlayout, cardname, cardvalue, errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from daqlib.cardlayout import Warn
    from daqlib.cardname import Kind


_CONTINUE = ("commentary", "CONTINUE")
_ROOM: tuple[Kind, str] = ("commentary", "")
# thousands of small files have the same cards
_keys: dict[bytes, tuple[Kind, str]] = {}
_KEYS_MAX = 2000


class Keyword:
    """A keyword with its card, and the CONTINUE cards that belong to it; never changed.

    Attributes:
        kind: ESO-396401 section 1.3: every card is a value, ESO or commentary keyword.
        name: logical name; of an ESO keyword without ``HIERARCH ESO``. A HIERARCH keyword of
            another domain counts as an ESO keyword and keeps ``HIERARCH`` in its name.
        cards: raw, 80 bytes each.
        key: what makes two keywords the same: kind and logical name.
    """

    __slots__ = ("cards", "key", "kind", "name")

    def __init__(self, kind: Kind, name: str, cards: tuple[bytes, ...]) -> None:
        self.kind = kind
        self.name = name
        self.cards = cards
        self.key = (kind, name)

    def __repr__(self) -> str:
        return f"Keyword({self.kind!r}, {self.name!r}, {self.cards!r})"

    @property
    def label(self) -> str:
        """How to call it in messages."""
        return self.name or "(blank)"


def read(cards: Iterable[bytes], before: list[Keyword] | None = None) -> list[Keyword]:
    """Return the keywords of raw cards; CONTINUE cards join the string before them.

    Cards without any text are room, not keywords, and are left out.

    Args:
        cards: 80 bytes each.
        before: keywords to go on after; the list is extended and returned.
    """
    found: list[Keyword] = [] if before is None else before
    for card in cards:
        key = _keys.get(card) or _key(card)
        if key is _ROOM:
            continue
        if key == _CONTINUE and found and card.startswith(b"CONTINUE  ") and goes_on(found[-1]):
            last = found[-1]
            found[-1] = Keyword(last.kind, last.name, (*last.cards, card))
        else:
            found.append(Keyword(key[0], key[1], (card,)))
    return found


def _key(card: bytes) -> tuple[Kind, str]:
    """Return kind and logical name of a card, and remember them for cards like it."""
    key = classify(card) if card.strip(b" ") else _ROOM
    if len(_keys) >= _KEYS_MAX:
        _keys.clear()
    _keys[card] = key
    return key


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


def goes_on(keyword: Keyword) -> bool:
    """Tell whether the keyword's last card ends in ``&'``: the sign of a CONTINUE to come."""
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
        if classify(first) != (keyword.kind, name) or name == "CONTINUE":
            raise cardname.Unfit(f"{where}: keyword {name}",
                                 f"what {keyword.label} says would be read as something else")
        return Keyword(keyword.kind, name, (first, *keyword.cards[1:]))
    label = f"{where}: keyword {name}"
    token = split(keyword)[0]
    text = string(keyword)
    if text is not None:
        token = cardvalue.quoted(text)
    return Keyword("eso", name,
                   cardlayout.lay_out("eso", name, token, comment(keyword), label, warn))


def comment(keyword: Keyword) -> str:
    """Return the comment of a value or ESO keyword, those of its CONTINUE cards included.

    Raises:
        errors.BadData: a string without closing quote.
    """
    said = [split(keyword)[1]]
    for card in keyword.cards[1:]:
        said.append(cardvalue.split(card.decode("latin-1")[8:], f"keyword {keyword.label}")[1])
    return " ".join(part for part in said if part)

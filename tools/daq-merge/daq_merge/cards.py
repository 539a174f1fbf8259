"""Header cards: which keyword a raw card is, and cards made from values.

A card that is only passed on keeps its 80 bytes: nothing is read into a number and written again.
Values in JSON become cards by the rules of FITS Standard 4.0, section 4.2, and of the HIERARCH
convention; a value is never cut, a comment may be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from daqlib import errors
from daqlib.fitsfile import CARD

Kind = Literal["value", "eso", "commentary"]
Warn = Callable[[str], None]

NAME = re.compile(r"[A-Z0-9_-]{1,8}")
ESO_NAME = re.compile(r"[A-Z0-9_-]+( [A-Z0-9_-]+)*")
#: Longest logical name of an ESO keyword: a card less ``HIERARCH ESO `` and the shortest value.
ESO_NAME_MAX = 63
COMMENTARY = ("COMMENT", "HISTORY", "")

_ESO = "HIERARCH ESO "
# where VLT headers put '=' and end a number, so that columns of them line up
_ESO_EQUALS = 29
_ESO_NUMBER = 12
_INTEGERS = (-(2**63), 2**64 - 1)
_PRINTABLE = re.compile(r"[ -~]*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EDed][+-]?\d+)?")
_COMPLEX = re.compile(r"\([^(),]+,[^(),]+\)")


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
    """Return kind and logical name of a raw card.

    ESO-396401 section 1.3; COMMENT, HISTORY and blank names never have a value (FITS Standard 4.0,
    section 4.4.2.4).
    """
    text = card.decode("latin-1")
    name = text[:8].rstrip(" ")
    if name == "HIERARCH" and text[8] == " ":
        tokens = text[9:].partition("=")
        words = tokens[0].split()
        if tokens[1] and words and words != ["ESO"]:
            return "eso", " ".join(words[1:] if words[0] == "ESO" else ["HIERARCH", *words])
        return "commentary", name
    if text[8:10] == "= " and name not in (*COMMENTARY, "CONTINUE"):
        return "value", name
    return "commentary", name


def split(keyword: Keyword) -> tuple[str, str]:
    """Return the value of a keyword's first card as it is written, and its comment.

    Raises:
        errors.BadData: a string without closing quote.
    """
    card = keyword.cards[0].decode("latin-1")
    if keyword.kind == "commentary":
        return card[8:].rstrip(), ""
    return _split(card[10:] if keyword.kind == "value" else card.partition("=")[2], keyword.label)


def _split(text: str, label: str) -> tuple[str, str]:
    text = text.strip()
    if not text.startswith("'"):
        value, _, comment = text.partition("/")
        return value.rstrip(), comment.strip()
    end = 1
    while (end := text.find("'", end)) >= 0 and text[end + 1:end + 2] == "'":
        end += 2
    if end < 0:
        raise errors.BadData(f"keyword {label}: its string has no closing quote", "mend the card")
    return text[:end + 1], text[end + 1:].partition("/")[2].strip()


def _goes_on(keyword: Keyword) -> bool:
    """Whether the keyword's last card ends in ``&'``: the sign of a CONTINUE to come."""
    if keyword.kind == "commentary":
        return False
    last = keyword.cards[-1].decode("latin-1")
    try:
        text = split(keyword)[0] if len(keyword.cards) == 1 else _split(last[8:], "")[0]
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
        part = _split(card.decode("latin-1")[8:], keyword.label)[0]
        whole = whole.rstrip(" ")[:-1] + part[1:-1]
    return whole.replace("''", "'").rstrip(" ")


def make(kind: Kind, name: str, value: object, comment: str, where: str, warn: Warn) -> Keyword:
    """Make a value or ESO keyword.

    Args:
        kind: ``value`` or ``eso``.
        name: logical name.
        value: a str, bool, int or float; an int becomes a FITS integer, a float always a real.
        comment: may be cut to fit, with a warning.
        where: the source, for messages.
        warn: told what had to be cut.

    Raises:
        errors.BadData: the name is illegal or no card can hold the value.
    """
    check_name(kind, name, where)
    label = f"{where}: keyword {name}"
    comment = _plain_comment(comment, label, warn)
    token = _token(value, label)
    return Keyword(kind, name, lay_out(kind, name, token, comment, label, warn))


def check_name(kind: Kind, name: str, where: str) -> None:
    """Refuse an illegal name (FITS Standard 4.0, section 4.1.2.1; HIERARCH convention).

    Raises:
        errors.BadData: says which rule it breaks.
    """
    label = f"{where}: keyword {name!r}"
    if kind == "eso":
        if not ESO_NAME.fullmatch(name):
            raise _refusal(label, "an ESO name is words of A-Z 0-9 - _ with one blank between")
        if len(name) > ESO_NAME_MAX:
            raise _refusal(label, f"an ESO name has at most {ESO_NAME_MAX} characters")
    elif kind == "value":
        if not NAME.fullmatch(name):
            raise _refusal(label, "a name is 1 to 8 of A-Z 0-9 - _")
        if name in (*COMMENTARY, "CONTINUE", "HIERARCH", "END"):
            raise _refusal(label, "this name takes no value")
    elif name not in COMMENTARY and not NAME.fullmatch(name):
        raise _refusal(label, "a commentary name is blank or 1 to 8 of A-Z 0-9 - _")


def commentary(name: str, text: str, where: str) -> list[Keyword]:
    """Make commentary keywords, as many as the text needs.

    Raises:
        errors.BadData: the text is not printable ASCII, or the name is illegal.
    """
    check_name("commentary", name, where)
    _check_text(text, f"{where}: keyword {name or '(blank)'}")
    pieces = [text[at:at + CARD - 8] for at in range(0, len(text), CARD - 8)] or [""]
    return [Keyword("commentary", name, (_pad(f"{name:8}{piece}"),)) for piece in pieces]


def literal(text: str, where: str) -> bytes:
    """Return the raw card of a preformatted card text of up to 80 characters.

    Raises:
        errors.BadData: too long, not printable ASCII, an illegal name or an unreadable value.
    """
    text = text.rstrip()
    label = f"{where}: card {_short(text)}"
    _check_text(text, label)
    if len(text) > CARD:
        raise _refusal(label, f"a card has {CARD} characters, this has {len(text)}")
    card = _pad(text)
    kind, name = classify(card)
    if kind == "commentary" and text[8:9] == "=" and name not in COMMENTARY:
        raise _refusal(label, "a value begins with '= ' in columns 9 and 10")
    if not name.startswith("HIERARCH "):
        check_name(kind, name, where)
    if kind != "commentary":
        _check_token(split(Keyword(kind, name, (card,)))[0], label)
    return card


def renamed(keyword: Keyword, name: str, where: str, warn: Warn) -> Keyword:
    """Return the keyword under another logical name, its value as it was written.

    Raises:
        errors.BadData: the name is illegal, or name and value do not fit one card.
    """
    if name == keyword.name:
        return keyword
    check_name(keyword.kind, name, where)
    if keyword.kind != "eso":
        first = f"{name:8}".encode("ascii") + keyword.cards[0][8:]
        return Keyword(keyword.kind, name, (first, *keyword.cards[1:]))
    label = f"{where}: keyword {name}"
    token, comment = split(keyword)
    text = string(keyword)
    if text is not None:
        token = _quoted(text)
        comment = _last_comment(keyword)
    return Keyword("eso", name, lay_out("eso", name, token, comment, label, warn))


def _last_comment(keyword: Keyword) -> str:
    if len(keyword.cards) == 1:
        return split(keyword)[1]
    return _split(keyword.cards[-1].decode("latin-1")[8:], keyword.label)[1]


def lay_out(kind: Kind, name: str, token: str, comment: str, label: str, warn: Warn
            ) -> tuple[bytes, ...]:
    """Lay name, value token and comment out on as many cards as needed.

    Standard keywords keep to fixed format where the value allows it (FITS Standard 4.0, section
    4.2). An ESO keyword first gives up its alignment, then its comment, then the blanks round '='.

    Raises:
        errors.BadData: no layout holds the value.
    """
    heads = _value_heads(name, token) if kind == "value" else _eso_heads(name, token)
    remark = f" / {comment}" if comment else ""
    for head in heads:
        if len(head) + len(remark) <= CARD:
            return (_pad(head + remark),)
    # alignment goes before the comment, the comment before the blanks round '='
    for head in heads[2:] or heads[-1:]:
        if len(head) <= CARD:
            return (_cut_comment(head, comment, label, warn),)
    if not token.startswith("'"):
        raise _refusal(label, f"name and value {token} do not fit the 80 columns of a card")
    prefix = f"{name:8}= " if kind == "value" else f"{_ESO}{name}= "
    return _continued(prefix, token[1:-1], comment, label, warn)


def _value_heads(name: str, token: str) -> list[str]:
    # FITS Standard 4.0, 4.2.1 to 4.2.4: strings from column 11, the rest right in columns 11 to 30
    if token.startswith("'"):
        return [f"{name:8}= {token:<20}", f"{name:8}= {token}"]
    return [f"{name:8}= {token:>20}"]


def _eso_heads(name: str, token: str) -> list[str]:
    text = token if token.startswith("'") else f"{token:>{_ESO_NUMBER}}"
    prefix = _ESO + name
    return [f"{prefix:<{_ESO_EQUALS}}= {text}", f"{prefix} = {text}", f"{prefix} = {token}",
            f"{prefix}= {token}", f"{prefix}= {_unpadded(token)}", f"{prefix}={_unpadded(token)}"]


def _unpadded(token: str) -> str:
    return f"{token[:-1].rstrip(' ')}'" if token.startswith("'") else token


def _cut_comment(head: str, comment: str, label: str, warn: Warn) -> bytes:
    room = CARD - len(head) - 3
    kept = comment[:room].rstrip() if room > 0 else ""
    if kept != comment:
        warn(f"{label}: comment {'cut to ' + repr(kept) if kept else 'left out'}: the card is full")
    return _pad(f"{head} / {kept}" if kept else head)


def _continued(prefix: str, body: str, comment: str, label: str, warn: Warn) -> tuple[bytes, ...]:
    """Spread a string over CONTINUE cards (FITS Standard 4.0, section 4.2.1.2)."""
    units = _units(body.rstrip(" "))
    if units[-1:] == ["&"]:
        # else a reader takes this last & for the sign of a further card; CFITSIO overlooks a
        # CONTINUE card with neither text nor comment
        units, comment = [*units, ""], comment or "end of text"
    room = CARD - len(prefix) - 3
    if room < 2:
        raise _refusal(label, "the name leaves no room for the string")
    pieces = [""]
    for unit in units:
        if len(pieces[-1]) + len(unit) > room or not unit:
            pieces.append("")
            room = CARD - len("CONTINUE  ") - 3
        pieces[-1] += unit
    heads = [prefix, *["CONTINUE  "] * (len(pieces) - 1)]
    cards = [_pad(f"{head}'{piece}&'") for head, piece in zip(heads, pieces, strict=True)][:-1]
    return (*cards, _cut_comment(f"{heads[-1]}'{pieces[-1]}'", comment, label, warn))


def _units(body: str) -> list[str]:
    # a doubled quote must not be torn apart between two cards
    return re.findall(r"''|.", body)


def _token(value: object, label: str) -> str:
    """Return how FITS writes a value (FITS Standard 4.0, section 4.2)."""
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int):
        if not _INTEGERS[0] <= value <= _INTEGERS[1]:
            raise _refusal(f"{label}: value {value}", "an integer has at most 64 bits")
        return str(value)
    if isinstance(value, float):
        return _real(value, label)
    if isinstance(value, str):
        _check_text(value, f"{label}: value {_short(value)}")
        return _quoted(value)
    raise _refusal(f"{label}: value {_short(value)}", "a value is a string, a logical or a number")


def _real(value: float, label: str) -> str:
    if not math.isfinite(value):
        raise _refusal(f"{label}: value {value}", "FITS has no NaN and no infinity")
    mantissa, exponent, digits = repr(value).upper().partition("E")
    # fixed format wants the decimal point also where Python leaves it out (1E+16)
    return (mantissa if "." in mantissa else mantissa + ".0") + exponent + digits


def _quoted(text: str) -> str:
    body = text.rstrip(" ").replace("'", "''")
    # '' is a null string, blanks are an empty one: section 4.2.1.1
    return f"'{body:<8}'" if text else "''"


def _check_token(token: str, label: str) -> None:
    if token in ("", "T", "F") or token.startswith("'"):
        return
    numbers = token[1:-1].split(",") if _COMPLEX.fullmatch(token) else [token]
    if not all(_NUMBER.fullmatch(number.strip()) for number in numbers):
        raise _refusal(label, f"{token} is no FITS value")


def _check_text(text: str, label: str) -> None:
    if not _PRINTABLE.fullmatch(text):
        raise _refusal(label, "FITS headers hold printable ASCII only")


def _plain_comment(comment: str, label: str, warn: Warn) -> str:
    plain = "".join(char if " " <= char <= "~" else "?" for char in comment).strip()
    if plain != comment.strip():
        warn(f"{label}: comment changed to {plain!r}: FITS headers hold printable ASCII only")
    return plain


def _pad(text: str) -> bytes:
    return text.ljust(CARD).encode("latin-1")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else text[:60] + "..."


def _refusal(label: str, rule: str) -> errors.BadData:
    return errors.BadData(f"{label}: {rule}", "correct the keyword")

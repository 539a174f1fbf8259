"""Cards from keywords: name, value and comment laid out on 80 columns.

Values in JSON become cards by the rules of FITS Standard 4.0, section 4.2, and of the HIERARCH
convention; a value is never cut, a comment may be.
"""

from __future__ import annotations

from daqlib import cardname, cardvalue
from daqlib.cardname import CARD, COMMENTARY, Kind, Unfit
from daqlib.cardvalue import check_text, short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Warn = Callable[[str], None]
else:
    Warn = object

Cards = tuple[bytes, ...]

_VARIANTS = (*cardname.KINDS, "literalKeyword", "commentaryKeyword")

# where VLT headers put '=' and end a number, so that columns of them line up
_ESO_EQUALS = 29
_ESO_NUMBER = 12


def of_json(item: dict[str, Any], where: str, warn: Warn) -> Cards:
    """Return the cards of a JSON keyword (schema ``keywords``).

    Args:
        item: the keyword; its ``format`` is an ANSI C conversion for the value.
        where: its source, for messages.
        warn: told what of a comment had to be cut or changed.

    Raises:
        Unfit: it cannot be represented, or it would change the structure of the file.
    """
    check_shape(item, where)
    variant, name = item["type"], item.get("name", "")
    if variant in cardname.KINDS:
        kind = cardname.KINDS[variant]
        made = make(kind, name, item.get("value"), item.get("comment", ""), where, warn,
                    item.get("format", ""))
    else:
        text = item["value"]
        made = (literal(text, where),) if variant == "literalKeyword" else (
            commentary(name, text, where))
        kind, name = cardname.classify(made[0].decode("ascii"))
    if kind != "eso" and cardname.is_structural(kind, name):
        raise Unfit(f"{where}: keyword {name}", "it describes the structure of the file: "
                    "leave it out")
    return made


def check_shape(item: dict[str, Any], where: str) -> None:
    """Refuse a JSON object that has not the members of a keyword.

    Raises:
        Unfit: says which member is wrong.
    """
    variant, name = item.get("type"), item.get("name", "")
    if variant not in _VARIANTS:
        raise Unfit(f"{where}: type {variant!r}", "this is no kind of keyword: use valueKeyword, "
                    "esoKeyword or literalKeyword")
    if not (isinstance(name, str) and isinstance(item.get("comment", ""), str)
            and isinstance(item.get("format", ""), str)):
        raise Unfit(f"{where}: keyword {name!r}", "name and comment are not both text, or format "
                    "is not")
    if variant not in cardname.KINDS and not isinstance(item.get("value"), str):
        raise Unfit(f"{where}: {variant} {name!r}", "its value is not text")


def make(kind: Kind, name: str, value: object, comment: str, where: str, warn: Warn,
         layout: str = "") -> Cards:
    """Return the cards of a value or ESO keyword.

    Args:
        kind: ``value`` or ``eso``.
        name: logical name.
        value: a str, bool, int or float.
        comment: may be cut to fit, with a warning.
        where: the source, for messages.
        warn: told what had to be cut.
        layout: the format of the value, or empty for the standard one.

    Raises:
        Unfit: the name is illegal or no card can hold the value.
    """
    cardname.check_name(kind, name, where)
    label = f"{where}: keyword {name}"
    written = cardvalue.token(value, label, layout)
    return lay_out(kind, name, written, _plain(comment, label, warn), label, warn)


def undefined(kind: Kind, name: str, comment: str, where: str, warn: Warn) -> Cards:
    """Return the card of a keyword whose value is undefined (FITS Standard 4.0, section 4.1.2.3).

    Args are those of :func:`make`.

    Raises:
        Unfit: the name is illegal.
    """
    cardname.check_name(kind, name, where)
    label = f"{where}: keyword {name}"
    return lay_out(kind, name, "", _plain(comment, label, warn), label, warn)


def commentary(name: str, text: str, where: str) -> Cards:
    """Return commentary cards, as many as the text needs.

    Raises:
        Unfit: the text is not printable ASCII, or the name is illegal.
    """
    cardname.check_name("commentary", name, where)
    check_text(text, f"{where}: keyword {name or '(blank)'}")
    pieces = [text[at:at + CARD - 8] for at in range(0, len(text), CARD - 8)] or [""]
    return tuple(_pad(f"{name:8}{piece}") for piece in pieces)


def literal(text: str, where: str) -> bytes:
    """Return the raw card of a preformatted card text of up to 80 characters.

    Raises:
        Unfit: too long, not printable ASCII, an illegal name or an unreadable value.
    """
    text = text.rstrip()
    label = f"{where}: card {short(text)}"
    check_text(text, label)
    if len(text) > CARD:
        raise Unfit(label, f"a card has {CARD} characters, this has {len(text)}")
    kind, name = cardname.classify(text)
    if kind == "commentary" and text[8:9] == "=" and name not in COMMENTARY:
        raise Unfit(label, "a value begins with '= ' in columns 9 and 10")
    if not name.startswith("HIERARCH "):
        cardname.check_name(kind, name, where)
    if kind != "commentary":
        literal_value(text, where)
    return _pad(text)


def literal_value(text: str, where: str) -> cardvalue.Value:
    """Return the value that the text of a value or ESO card says.

    Raises:
        Unfit: it is no FITS value.
    """
    label = f"{where}: card {short(text)}"
    kind, _ = cardname.classify(text)
    rest = text[10:] if kind == "value" else text.partition("=")[2]
    return cardvalue.read(cardvalue.split(rest, label)[0], label)


def lay_out(kind: Kind, name: str, token: str, comment: str, label: str, warn: Warn) -> Cards:
    """Lay name, value token and comment out on as many cards as needed.

    Standard keywords keep to fixed format where the value allows it (FITS Standard 4.0, section
    4.2). An ESO keyword first gives up its alignment, then its comment, then the blanks round '='.

    Raises:
        Unfit: no layout holds the value.
    """
    prefix = cardname.prefix(name) if kind == "eso" else f"{name:8}"
    remark = f" / {comment}" if comment else ""
    card = _aligned(kind, prefix, token) + remark
    if len(card) <= CARD:
        return (_pad(card),)
    heads = _eso_heads(prefix, token) if kind == "eso" else _value_heads(prefix, token)
    for head in heads:
        if len(head) + len(remark) <= CARD:
            return (_pad(head + remark),)
    # alignment goes before the comment, the comment before the blanks round '='
    for head in heads[1:] or heads:
        if len(head) <= CARD:
            return (_cut_comment(head, comment, label, warn),)
    if not token.startswith("'"):
        raise Unfit(label, f"name and value {short(token)} do not fit the 80 columns of a card")
    return _continued(f"{prefix}= ", token[1:-1], comment, label, warn)


def _aligned(kind: Kind, prefix: str, token: str) -> str:
    if kind == "eso":
        text = token if token[:1] == "'" else f"{token:>{_ESO_NUMBER}}"
        return f"{prefix:<{_ESO_EQUALS}}= {text}"
    # FITS Standard 4.0, 4.2.1 to 4.2.4: strings from column 11, the rest right in columns 11 to 30
    return f"{prefix}= {token:<20}" if token[:1] == "'" else f"{prefix}= {token:>20}"


def _value_heads(prefix: str, token: str) -> list[str]:
    return [f"{prefix}= {token}" if token.startswith("'") else f"{prefix}= {token:>20}"]


def _eso_heads(prefix: str, token: str) -> list[str]:
    text = token if token.startswith("'") else f"{token:>{_ESO_NUMBER}}"
    return [f"{prefix} = {text}", f"{prefix} = {token}", f"{prefix}= {token}",
            f"{prefix}= {_unpadded(token)}", f"{prefix}={_unpadded(token)}"]


def _unpadded(token: str) -> str:
    return f"{token[:-1].rstrip(' ')}'" if token.startswith("'") else token


def _cut_comment(head: str, comment: str, label: str, warn: Warn) -> bytes:
    room = CARD - len(head) - 3
    kept = comment[:room].rstrip() if room > 0 else ""
    if kept != comment:
        warn(f"{label}: comment {'cut to ' + repr(kept) if kept else 'left out'}: the card is full")
    return _pad(f"{head} / {kept}" if kept else head)


def _continued(prefix: str, body: str, comment: str, label: str, warn: Warn) -> Cards:
    """Spread a string over CONTINUE cards (FITS Standard 4.0, section 4.2.1.2)."""
    units = _units(body.rstrip(" "))
    if units[-1:] == ["&"]:
        # else a reader takes this last & for the sign of a further card; CFITSIO overlooks a
        # CONTINUE card with neither text nor comment
        units, comment = [*units, ""], comment or "end of text"
    room = CARD - len(prefix) - 3
    if room < 2:
        raise Unfit(label, "the name leaves no room for the string")
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
    made: list[str] = []
    for piece in body.split("''"):
        made += ["''", *piece]
    return made[1:]


def _plain(comment: str, label: str, warn: Warn) -> str:
    if comment.isascii() and comment.isprintable():
        return comment.strip()
    plain = "".join(char if " " <= char <= "~" else "?" for char in comment).strip()
    if plain != comment.strip():
        warn(f"{label}: comment changed to {plain!r}: FITS headers hold printable ASCII only")
    return plain


def _pad(text: str) -> bytes:
    return text.ljust(CARD).encode("latin-1")

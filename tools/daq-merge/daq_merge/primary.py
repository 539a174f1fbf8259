"""The cards of a product's primary header, but for its seal."""

from __future__ import annotations

from daq_merge import cards, classes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daq_merge.cards import Keyword

_ORPHAN = ("commentary", "CONTINUE")
_SEPARATOR = b"COMMENT".ljust(80)


def structure(found: list[Keyword] | None, has_extensions: bool) -> list[bytes]:
    """Return the structural cards of the primary header, the target's own as they are.

    Args:
        found: all keywords of the target's primary header; None without a target.
        has_extensions: whether extensions follow.
    """
    extend = _own("EXTEND", True, "extensions may follow").cards
    if found is None:
        return [*_own("SIMPLE", True, "conforms to the FITS standard").cards,
                *_own("BITPIX", 8, "bits per data value").cards,
                *_own("NAXIS", 0, "no data in this HDU").cards, *extend]
    lines = [card for k in found if classes.role(k) == "structural" for card in k.cards]
    if not has_extensions:
        return lines
    states = [at for at, card in enumerate(lines) if card.startswith(b"EXTEND  =")]
    if not states:
        axes = [at for at, card in enumerate(lines) if card.startswith(b"NAXIS")]
        return [*lines[:axes[-1] + 1], *extend, *lines[axes[-1] + 1:]]
    if lines[states[0]][10:].partition(b"/")[0].strip() != b"T":
        lines[states[0]] = extend[0]
    return lines


def own(merged: list[Keyword], origin_name: str, archive_name: str, stamp: str) -> list[Keyword]:
    """Return the merger's own keywords: names and time of the product.

    Args:
        merged: the keywords of the sources.
        origin_name: ORIGFILE.
        archive_name: ARCFILE.
        stamp: DATE, ISO 8601 UTC.
    """
    made = [_own("ORIGFILE", origin_name, "original file name"),
            _own("ARCFILE", archive_name, "archive file name"),
            _own("DATE", stamp, "when this file was written (UTC)")]
    continued = any(len(k.cards) > 1 for k in merged) or any(len(k.cards) > 1 for k in made)
    if continued and not any(k.name == "LONGSTRN" and k.kind == "value" for k in merged):
        # readers of the OGIP convention look for this card before they join CONTINUE cards
        made.insert(0, _own("LONGSTRN", "OGIP 1.0", "strings may go on in CONTINUE cards"))
    return made


def body(merged: list[Keyword], own_keywords: list[Keyword]) -> list[bytes]:
    """Return the cards after the structure: values, the merger's own, ESO keywords, commentary."""
    values: list[bytes] = []
    others: list[bytes] = []
    for at, keyword in enumerate(merged):
        if keyword.kind == "value":
            values += keyword.cards
            continue
        before = merged[at - 1] if at else keyword
        if keyword.key == _ORPHAN and before.kind == "eso" and cards.goes_on(before):
            # an orphan of one header must not go on with a string of another
            others.append(_SEPARATOR)
        others += keyword.cards
    for keyword in own_keywords:
        values += keyword.cards
    return values + others


def _own(name: str, value: object, comment: str) -> Keyword:
    # our comments may be cut silently
    return cards.make("value", name, value, comment, "the product", lambda _: None)

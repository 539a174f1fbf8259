"""The cards of a product's primary header, but for its seal."""

from __future__ import annotations

from daq_merge import cards, classes
from daq_merge.cards import Keyword
from daqlib import fitsfile


def structure(primary: fitsfile.Hdu | None, has_extensions: bool) -> list[bytes]:
    """Return the structural cards of the primary header, the target's own as they are."""
    extend = _own("EXTEND", True, "extensions may follow")
    if primary is None:
        return [*_own("SIMPLE", True, "conforms to the FITS standard"),
                *_own("BITPIX", 8, "bits per data value"),
                *_own("NAXIS", 0, "no data in this HDU"), *extend]
    kept = [k for k in cards.read(primary.cards) if classes.is_structural(k)]
    lines = [card for k in kept for card in k.cards]
    if not has_extensions:
        return lines
    states = [at for at, card in enumerate(lines) if card.startswith(b"EXTEND  =")]
    if not states:
        axes = [at for at, card in enumerate(lines) if card.startswith(b"NAXIS")]
        return [*lines[:axes[-1] + 1], *extend, *lines[axes[-1] + 1:]]
    if lines[states[0]][10:].partition(b"/")[0].strip() != b"T":
        lines[states[0]] = extend[0]
    return lines


def body(merged: list[Keyword], origin_name: str, archive_name: str, stamp: str) -> list[bytes]:
    """Return the cards after the structure: values, the merger's own, ESO keywords, commentary."""
    own = [*_own("ORIGFILE", origin_name, "original file name"),
           *_own("ARCFILE", archive_name, "archive file name"),
           *_own("DATE", stamp, "when this file was written (UTC)")]
    continued = any(len(k.cards) > 1 for k in merged) or len(own) > 3
    if continued and ("value", "LONGSTRN") not in [k.key for k in merged]:
        # readers of the OGIP convention look for this card before they join CONTINUE cards
        own = [*_own("LONGSTRN", "OGIP 1.0", "strings may go on in CONTINUE cards"), *own]
    values = [card for k in merged if k.kind == "value" for card in k.cards]
    others = [card for k in merged if k.kind != "value" for card in k.cards]
    return [*values, *own, *others]


def _own(name: str, value: object, comment: str) -> tuple[bytes, ...]:
    # our comments may be cut silently
    return cards.make("value", name, value, comment, "the product", lambda _: None).cards

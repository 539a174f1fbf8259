"""Checks a product of the merge benchmark byte by byte, with nothing of the product's own code.

Every extension must have the data and the fill of its source and all its cards, unchanged and in
order; nothing but ORIGFILE, ARCFILE, the two sums and blank cards may be added. The primary header
must hold every card of the target, every ESO keyword of the sources, and the values from JSON. Both
sums must hold in every HDU (FITS Standard 4.0, section 4.4.2.7 and appendix J).
"""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO

import numpy
from jobs import BLOCK, CARD, FILE_ID, Job, Unit

_ADDED = (b"CHECKSUM", b"DATASUM ", b"ORIGFILE", b"ARCFILE ")
_ALL = 0xFFFFFFFF


def check(job: Job, path: str) -> list[str]:
    """Return what is wrong with a product, in sentences; nothing when it is right."""
    wrong: list[str] = []
    first = job.target.units[0] if job.target else Unit(b"END".ljust(CARD))
    units = [first, *(unit for file in job.files for unit in file.units[1:])]
    with open(path, "rb") as file:
        for index, unit in enumerate(units):
            raw = _header(file)
            if not raw:
                wrong.append(f"HDU {index} is missing")
                break
            wrong += [f"HDU {index}: {text}" for text in _unit(file, raw, unit, index)]
            if not index:
                wrong += _primary(job, raw)
        if file.tell() != os.path.getsize(path):
            wrong.append(f"{os.path.getsize(path) - file.tell()} bytes too many")
    return wrong


def _header(file: BinaryIO) -> bytes:
    raw = b""
    while block := file.read(BLOCK):
        raw += block
        if any(block[at:at + 8] == b"END     " for at in range(0, len(block), CARD)):
            return raw
    return b""


def _unit(file: BinaryIO, raw: bytes, unit: Unit, index: int) -> list[str]:
    wrong, total = [], 0
    for piece in _aligned(unit):
        got = file.read(len(piece))
        if got != piece and "data differ" not in wrong:
            wrong.append("data differ")
        total = _add(total, got)
    cards = Unit(raw).cards
    if index and _own(cards) != _own(unit.cards):
        wrong.append("its cards were changed")
    named: dict[bytes, list[bytes]] = {}
    for card in cards:
        named.setdefault(card[:8], []).append(card)
    if any(len(named.get(name, [])) != 1 for name in _ADDED):
        return [*wrong, "ORIGFILE, ARCFILE, CHECKSUM and DATASUM are not there once each"]
    if _value(named[b"ARCFILE "][0]) != f"{FILE_ID}.fits":
        wrong.append("ARCFILE is wrong")
    if int(str(_value(named[b"DATASUM "][0]))) != total:
        wrong.append("DATASUM is wrong")
    if _add(total, raw) not in (0, _ALL):
        wrong.append("CHECKSUM is wrong")
    return wrong


def _aligned(unit: Unit) -> Any:
    """Yield the data unit in pieces of whole 32-bit words."""
    held = b""
    for piece in unit.data():
        joined = held + bytes(piece)
        whole = len(joined) - len(joined) % 4
        yield joined[:whole]
        held = joined[whole:]
    assert not held


def _own(cards: list[bytes]) -> list[bytes]:
    return [card for card in cards if card[:8] not in _ADDED and card.strip()]


def _add(total: int, raw: bytes) -> int:
    """Add 32-bit words in ones' complement; 0 only when all of them are."""
    words = numpy.frombuffer(raw[:len(raw) - len(raw) % 4], ">u4")
    total += int(words.sum(dtype=numpy.uint64))
    return total and (total % _ALL or _ALL)


def _primary(job: Job, raw: bytes) -> list[str]:
    cards = Unit(raw).cards
    have = set(cards)
    values = {name: card for card in cards for name in [card.partition(b"=")[0].strip().decode()]}
    wrong = []
    kept = [card for file in job.files for card in file.units[0].cards
            if card.startswith(b"HIERARCH ")]
    lost = [card for card in kept if card not in have]
    if lost:
        wrong.append(f"primary: {len(lost)} cards are lost, {lost[0].decode().strip()} first")
    for one in job.keywords:
        name = f"HIERARCH ESO {one['name']}" if one["type"] == "esoKeyword" else one["name"]
        value = _value(values[name]) if name in values else None
        if value != one["value"] or isinstance(value, bool) != isinstance(one["value"], bool):
            wrong.append(f"primary: {name} is {value!r} instead of {one['value']!r}")
    return wrong


def _value(card: bytes) -> object:
    """Return the value of a card of the corpus, which has no quotes inside of texts."""
    text = card.decode("ascii").partition("=")[2].strip()
    if text.startswith("'"):
        return text[1:].partition("'")[0].rstrip()
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    return json.loads(f"{text}0" if text.endswith(".") else text)

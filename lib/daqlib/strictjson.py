"""JSON from outside, read so that what follows can rely on it.

Python's own reader takes more than RFC 8259 has: ``NaN``, a member that occurs twice, halves of
surrogate pairs, other encodings than UTF-8. What came in that way fails later, far from its cause:
when it is written to a log, compared with a schema or sent on.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from daqlib import errors

#: Levels of objects and arrays in each other; no document of ours comes near.
DEPTH = 64
#: Digits of the longest integer; more do not fit into a double.
DIGITS = 300

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(text: bytes | str) -> Any:
    """Read a JSON document.

    Args:
        text: UTF-8, without a byte order mark.

    Returns:
        The document; every number in it is finite, every text can be encoded.

    Raises:
        ValueError: it is not one JSON document as RFC 8259 has it, or out of bounds; the message
            tells why.
    """
    given = text.decode() if isinstance(text, bytes) else text
    try:
        document = json.loads(given, object_pairs_hook=_object, parse_constant=_constant,
                              parse_float=_float, parse_int=_int)
    except RecursionError:
        raise _too_deep() from None
    if given.count("[") + given.count("{") > DEPTH and _is_deeper(document, DEPTH):
        raise _too_deep()
    if not isinstance(text, bytes) or _SURROGATE.search(given):
        _check_text(document)
    return document


def given(value: Any, what: str, page: str) -> Any:
    """Return an argument of a command: a document, or what its JSON text says.

    Args:
        value: text, or a document already.
        what: how to call it in an error.
        page: where it is described.

    Raises:
        errors.BadData: the text is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except ValueError as error:
        raise errors.BadData(f"{what} is not JSON: {error}",
                             f"see {page} for what it may be") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the member {twice[:100]!r} occurs twice")
    return made


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _int(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise ValueError(f"the number {text[:20]}... has more than {DIGITS} digits")
    return int(text)


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(item, levels - 1) for item in inner)


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {DEPTH} levels deep")


def _check_text(document: Any) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it holds half of a surrogate pair") from None

"""JSON from outside as :mod:`daqlib.strictjson` reads it, without loading ``json`` and ``re``.

The scanner in C behind Python's own reader needs neither. It is a detail of CPython, so without it
the strict reader does all; that one also does whatever is refused here, and finds the words.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    make_scanner: Callable[[Any], Callable[[str, int], tuple[Any, int]]] | None
else:
    try:
        from _json import make_scanner
    except ImportError:
        make_scanner = None

_BLANKS = " \t\n\r"
#: Those of :mod:`daqlib.strictjson`, which only a refusal loads.
DEPTH, DIGITS = 64, 300
_BEYOND = 10 ** DIGITS


def loads(text: bytes) -> Any:
    """Read a JSON document, see :func:`daqlib.strictjson.loads`.

    Raises:
        ValueError: it is not one JSON document as RFC 8259 has it, or out of bounds; the message
            tells why.
    """
    try:
        return _scan(text.decode())
    except (ValueError, StopIteration, RecursionError, SystemError):
        # SystemError: the scanner cannot name an error while the module json is not loaded
        from daqlib import strictjson

        return strictjson.loads(text)


class _Rules:
    """What the scanner is to make of the parts of a document."""

    strict = True
    object_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def object_pairs_hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a member occurs twice")
        return made

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(name)


def _scan(text: str) -> Any:
    if make_scanner is None or "\\ud" in text or "\\uD" in text:  # perhaps half of a pair
        raise ValueError("not for the scanner")
    begin = len(text) - len(text.lstrip(_BLANKS))
    document, end = make_scanner(_Rules)(text, begin)
    if text[end:].strip(_BLANKS):
        raise ValueError("more than one document")
    if _is_out_of_bounds(document):
        raise ValueError("out of bounds")
    return document


def _is_out_of_bounds(document: Any) -> bool:
    level = [document]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is str:
                continue
            if kind is dict:
                below += value.values()
            elif kind is list:
                below += value
            elif kind is float:
                if value - value:  # infinite, and the difference no number
                    return True
            elif kind is int and not -_BEYOND < value < _BEYOND:
                return True
        level = below
    return bool(level)

"""Plain command lines, read without argparse: loading that costs more than a small merge takes.

A :class:`Reader` is told the arguments by the same calls as an argparse parser, so that there is
one table of them. It reads what needs no thought (whole option names with their values, flags,
positional arguments) and leaves everything else to argparse, the only authority on what is wrong
and how that is told.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any, Protocol

    class Adds(Protocol):
        """What takes descriptions of arguments: an argparse parser, or a :class:`Reader`."""

        def add_argument(self, *flags: str, **words: Any) -> Any:
            """Take the description of one argument."""
else:
    Namespace = object


class Options(Namespace):
    """Arguments by name, as argparse hands them out."""


class Reader:
    """Reads plain command lines; see :meth:`read`."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, dict[str, Any]]] = {}  # option -> its name and words
        self._defaults: dict[str, Any] = {}
        self._positional: list[str] = []

    def add_argument(self, *flags: str, **words: Any) -> None:
        """Take the description of an argument, in the terms of argparse."""
        if not flags[0].startswith("-"):
            self._positional.append(flags[0] if words.get("nargs") == "*" else "")
            return
        name = _name(flags) if "dest" not in words else words["dest"]
        action = words.get("action", "store")
        if action not in ("help", "version"):
            self._defaults[name] = words.get("default", False if action == "store_true" else None)
        if action == "store_true" or action == "store" and not {"nargs", "type"} & words.keys():
            for flag in flags:
                self._known[flag] = (name, words)

    def read(self, argv: list[str]) -> Options | None:
        """Return the arguments; None when argparse must be asked.

        Plain are positional arguments (at least one, all of one kind), flags, and options with
        their value behind them or, for long ones, after ``=``. A value that begins with a dash, an
        abbreviation, joined short options, ``--`` and all that is wrong are not.
        """
        positional: list[str] = []
        found = dict(self._defaults)
        words = iter(argv)
        for word in words:
            if not word.startswith("-") or word == "-":
                positional.append(word)
            elif not self._option(word, words, found):
                return None
        if len(self._positional) != 1 or not self._positional[0]:
            return None
        if not positional or "" in positional:
            return None
        found[self._positional[0]] = positional
        made = Options()
        made.__dict__.update(found)
        return made

    def _option(self, word: str, rest: Iterator[str], found: dict[str, Any]) -> bool:
        flag, equals, value = word.partition("=")
        if flag not in self._known or equals and not flag.startswith("--"):
            return False
        name, words = self._known[flag]
        if words.get("action") == "store_true":
            found[name] = True
            return not equals
        if not equals:
            value = next(rest, "")
            if value.startswith("-") and value != "-":
                return False
        found[name] = value
        return value not in ("", "--") and ("choices" not in words or value in words["choices"])


def _name(flags: tuple[str, ...]) -> str:
    """Return the name of an option, which argparse takes from the first long one."""
    first = next((flag for flag in flags if flag.startswith("--")), flags[0])
    return first.lstrip("-").replace("-", "_")

"""The options of a source: members of its ``options``, or of the query of its URI.

``indi://host/Camera?exposure=1.5&setup.POLLING_PERIOD.PERIOD_MS=100`` says the same as the
URI without query and ``"options": {"exposure": 1.5, "setup": {"POLLING_PERIOD.PERIOD_MS": 100}}``:
what follows the first dot is a member of an option that is an object.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from daqlib import errors

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Options:
    """Reads each option once, checks it, and in the end refuses those that nobody asked for.

    Attributes:
        source: the ``sourceName``, for messages.
    """

    def __init__(self, source: str, query: str, given: Any) -> None:
        """Take what was given.

        Args:
            source: the ``sourceName``, for messages.
            query: of the URI, without the question mark.
            given: the member ``options`` of the source object.

        Raises:
            errors.BadData: an option is given twice, or they are no object.
        """
        self.source = source
        self._known: list[str] = []
        if not isinstance(given, dict):
            raise errors.BadData(f"source {source!r}: its options are no object",
                                 'write "options": {"name": value}')
        self._given = dict(given)
        for name, text in parse_qsl(query, keep_blank_values=True, max_num_fields=1000):
            self._take(name, text)

    def _take(self, name: str, text: str) -> None:
        first, dot, rest = name.partition(".")
        holder, key = self._given, first
        if dot:
            holder, key = self._given.setdefault(first, {}), rest
        if not isinstance(holder, dict) or key in holder:
            self.refuse(name, "given twice", "give it in the URI, or in the options")
        holder[key] = text

    def refuse(self, name: str, why: str, remedy: str) -> NoReturn:
        """Raise the error for an option that is not allowed.

        Args:
            name: the option.
            why: what is wrong with it.
            remedy: what to give.

        Raises:
            errors.BadData: always.
        """
        raise errors.BadData(f"source {self.source!r}: option {name}: {why}", remedy)

    def _get(self, name: str) -> Any:
        self._known.append(name)
        return self._given.pop(name, None)

    def given(self, name: str) -> bool:
        """Tell whether an option is given."""
        return name in self._given

    def text(self, name: str, default: str = "", allowed: str = "text") -> str:
        """Return a text without control characters.

        Args:
            name: the option.
            default: what holds when it is not given.
            allowed: what to give, for the message.
        """
        value = self._get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self.refuse(name, f"{value!r} is no text", f"give {allowed}")
        if not str(value).isprintable():
            self.refuse(name, f"{value!r} holds control characters", f"give {allowed}")
        return str(value)

    def number(self, name: str, default: float | None = None, *, least: float = -math.inf,
               most: float = math.inf, unit: str = "") -> float | None:
        """Return a finite number within bounds, or the default.

        Args:
            name: the option.
            default: what holds when it is not given.
            least: the smallest that is allowed.
            most: the largest that is allowed.
            unit: its unit, for the message.
        """
        value = self._get(name)
        return default if value is None else self._number(name, value, least, most, unit)

    def _number(self, name: str, value: Any, least: float, most: float, unit: str) -> float:
        bounds = f" from {least:g}" if least > -math.inf else ""
        bounds += f" up to {most:g}" if most < math.inf else ""
        allowed = f"give a number{f' of {unit}' if unit else ''}{bounds}"
        try:
            made = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            made = math.nan
        if not math.isfinite(made):
            self.refuse(name, f"{value!r} is no number", allowed)
        if not least <= made <= most:
            self.refuse(name, f"{value!r} is out of bounds", allowed)
        return made

    def integer(self, name: str, default: int | None = None, *, least: float = -math.inf,
                most: float = math.inf) -> int | None:
        """Return a whole number within bounds, or the default; see :meth:`number`."""
        value = self.number(name, None, least=least, most=most)
        if value is not None and value != int(value):
            self.refuse(name, f"{value!r} is not whole", "give a whole number")
        return default if value is None else int(value)

    def numbers(self, name: str, *counts: int, least: float = -math.inf) -> list[float]:
        """Return a list of one of some lengths, empty when it is not given.

        Args:
            name: the option; in a query its numbers are separated by commas.
            counts: how many numbers it may have.
            least: the smallest that is allowed.
        """
        value = self._get(name)
        if value is None:
            return []
        parts = value.split(",") if isinstance(value, str) else (
            value if isinstance(value, list) else [value])
        if len(parts) not in counts:
            self.refuse(name, f"{value!r} has {len(parts)} values",
                        f"give {' or '.join(map(str, counts))} numbers")
        return [self._number(name, part, least, math.inf, "") for part in parts]

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self._get(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        if str(value).lower() not in (*_TRUE, *_FALSE):
            self.refuse(name, f"{value!r} is neither true nor false", "give true or false")
        return str(value).lower() in _TRUE

    def choice(self, name: str, *allowed: str) -> str:
        """Return one of some words; the first is the default."""
        value = self._get(name)
        if value is None:
            return allowed[0]
        if value not in allowed:
            self.refuse(name, f"{value!r} is not known", f"give one of {', '.join(allowed)}")
        return str(value)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, empty when it is not given; of one text a list of it alone."""
        value = self._get(name)
        found = [] if value is None else value if isinstance(value, list) else [value]
        for each in found:
            if not isinstance(each, str) or "\0" in each:
                self.refuse(name, f"{each!r} is no text", "give a list of texts")
        return list(found)

    def table(self, name: str) -> dict[str, Any]:
        """Return an object, empty when it is not given; its values are for the adapter to check."""
        value = self._get(name)
        if value is not None and not isinstance(value, dict):
            self.refuse(name, f"{value!r} is no object",
                        f"give an object, or {name}.MEMBER=VALUE in the URI")
        return dict(value or {})

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return a list of objects, empty when it is not given."""
        value = self._get(name)
        found = [] if value is None else value
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            self.refuse(name, "it is no list of objects", "see docs/sources.md")
        return list(found)

    def done(self) -> None:
        """Refuse options that nobody has asked for.

        Raises:
            errors.BadData: there are some.
        """
        if self._given:
            known = ", ".join(sorted(set(self._known)))
            self.refuse(sorted(self._given)[0], "not known",
                        f"known here: {known}" if known else "this kind of source has none")

"""An entry of a keyword dictionary: its name, and what it says of a value.

The members are those of ESO's Data Interface Dictionaries (ifw-core documentation, Data Interface
Dictionary). A name may hold ``#``, which stands for an index: digits, or nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from daqlib import cardvalue
from daqlib.cardname import ESO_NAME_MAX, ESO_PREFIX, Kind, Unfit
from daqlib.cardvalue import Format, Value

_INDEX = re.compile(r"\(#\)|#+")
_NAME = re.compile(r"[A-Z0-9_#-]{1,9}")
_ESO_NAME = re.compile(r"[A-Z0-9_#-]+( [A-Z0-9_#-]+)+")
_WORD = re.compile(r"[^#]")
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_PAIR = re.compile(rf"({_NUMBER})?\s*(?::|\.\.)\s*({_NUMBER})?")
_QUOTED = re.compile(r"""(["'])(.*)\1""")
_LOOSE = re.compile(r"""[\s"'()[\]{}]""")
_FORMS = ("write (min, max), [min:max] or a list of allowed values of the keyword's type, or () "
          "for no range")

#: The types, with the conversions that suit them.
LETTERS = {"Bool": "c", "String": "s", "Int": "diu", "Double": "fFeEdiu", "": "cdiufFeEs"}
_WORDS = {"bool": "Bool", "boolean": "Bool", "logical": "Bool", "string": "String",
          "str": "String", "text": "String", "int": "Int", "integer": "Int", "short": "Int",
          "long": "Int", "uint": "Int", "double": "Double", "float": "Double", "real": "Double"}
_SIZED = re.compile(r"(u?int|float|double)(8|16|32|64)")


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a keyword.

    Attributes:
        name: a key of :data:`LETTERS`; empty when it is not known, and not checked.
        low: smallest value of an Int.
        high: its largest value.
    """

    name: str
    low: int = cardvalue.INTEGERS[0]
    high: int = cardvalue.INTEGERS[1]


@dataclass(frozen=True, slots=True)
class Range:
    """Which values are allowed.

    Attributes:
        low: the smallest number, or None.
        high: the largest number, or None.
        among: the values to choose from; empty: an interval.
    """

    low: float | None = None
    high: float | None = None
    among: tuple[Value, ...] = ()

    def __contains__(self, value: Value) -> bool:
        if self.among:
            # in Python, True is equal to 1
            return any(value == one and (value is True) == (one is True) for one in self.among)
        number = value if isinstance(value, int | float) else 0
        return (self.low is None or number >= self.low) and (
            self.high is None or number <= self.high)

    def __str__(self) -> str:
        if self.among:
            return "one of " + ", ".join(map(repr, self.among))
        if self.low is None:
            return f"at most {self.high!r}"
        return f"at least {self.low!r}" if self.high is None else f"{self.low!r} to {self.high!r}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a dictionary says of a keyword.

    Attributes:
        name: logical name; of an ESO keyword without ``HIERARCH ESO``.
        kind: ``value`` or ``eso``.
        type: of its values.
        format: how values are written; None: as is usual.
        range: the values that are allowed; None: all.
        comment: for a keyword that comes without one; with the unit.
        place: file and line, for messages.
    """

    name: str
    kind: Kind
    type: Type
    format: Format | None
    range: Range | None
    comment: str
    place: str

    def says_the_same(self, other: Entry) -> bool:
        """Whether another entry of this name treats keywords alike."""
        return (self.type, self.format, self.range, self.comment) == (
            other.type, other.format, other.range, other.comment)

    def pattern(self) -> re.Pattern[str]:
        """Return the names that it stands for, as a regular expression without alternatives."""
        return re.compile("[0-9]*".join(map(re.escape, self.name.split("#"))))

    def accept(self, value: Value) -> Value:
        """Check a value; return it, an integer as a real where a real is wanted.

        Raises:
            Unfit: it has another type or is out of range.
        """
        made = self._typed(value)
        if self.range is not None and made not in self.range:
            raise Unfit(self.name, f"out of range: {self._says} {self.range}")
        return made

    @property
    def _says(self) -> str:
        return f"{os.path.basename(self.place)} wants"

    def _typed(self, value: Value) -> Value:
        wanted, found = self.type.name, kind_of(value)
        if wanted == "Double" and found == "Int" and isinstance(value, int):
            return cardvalue.as_real(value, self.name)
        if wanted and wanted != found:
            raise Unfit(self.name, f"invalid: {self._says} {_CALLED[wanted]}, this is "
                        f"{_CALLED.get(found, found)}")
        if wanted == "Int" and isinstance(value, int) and (
                not self.type.low <= value <= self.type.high):
            raise Unfit(self.name, f"invalid: {self._says} {self.type.low} to "
                        f"{self.type.high}")
        if isinstance(value, float):
            cardvalue.check_finite(value, self.name)
        return value


_CALLED = {"Bool": "a logical", "String": "a string", "Int": "an integer",
           "Double": "a real number"}


def kind_of(value: Value) -> str:
    """Return the name of a value's type, or what else it is."""
    if isinstance(value, complex):
        return "a complex number"
    return {bool: "Bool", str: "String", int: "Int", float: "Double"}.get(type(value), "no value")


def parse_type(word: str) -> Type | None:
    """Return the type for ``Bool``, ``Int32``, ``Double`` and the like; None for another word."""
    lower = word.lower()
    sized = _SIZED.fullmatch(lower)
    if not sized:
        return Type(_WORDS[lower]) if lower in _WORDS else None
    if "int" not in sized[1]:
        return Type("Double")
    bits = int(sized[2])
    return Type("Int", 0, 2**bits - 1) if sized[1] == "uint" else (
        Type("Int", -(2**(bits - 1)), 2**(bits - 1) - 1))


def parse_name(text: str) -> tuple[Kind, str]:
    """Return kind and logical name for the name of an entry.

    A name of several words, or one with ``HIERARCH ESO`` before it, is that of an ESO keyword.

    Raises:
        Unfit: says what a name looks like.
    """
    label = cardvalue.short(text)
    name = _INDEX.sub("#", text.strip())
    is_eso = name.startswith(ESO_PREFIX) or " " in name
    name = name.removeprefix(ESO_PREFIX)
    shape = _ESO_NAME if is_eso and " " in name else _NAME
    if is_eso and " " not in name:
        shape = re.compile(r"[A-Z0-9_#-]+")
    if not shape.fullmatch(name) or not all(map(_WORD.search, name.split(" "))):
        raise Unfit(label, "a name is words of A-Z 0-9 - _ with one blank between, and # or (#) "
                    "for an index; a standard keyword is one word of at most 8 characters")
    if len(name.replace("#", "")) > (ESO_NAME_MAX if is_eso else 8):
        raise Unfit(label, f"a name has at most {ESO_NAME_MAX if is_eso else 8} characters")
    return ("eso" if is_eso else "value"), name


def parse_format(text: str, kind: Type, label: str) -> Format:
    """Return the format of an entry; the percent sign may be missing.

    Raises:
        Unfit: it is no conversion, or none for values of this type.
    """
    layout = cardvalue.parse_format(text if text.startswith("%") else f"%{text}", label)
    if layout.letter not in LETTERS[kind.name]:
        suited = ", ".join(f"%{letter}" for letter in LETTERS[kind.name])
        raise Unfit(label, f"format {layout.text} does not suit {_CALLED[kind.name]}: use {suited}")
    return layout


def parse_range(text: str, kind: Type, label: str) -> Range | None:
    """Return the range that a text describes; None when it allows everything.

    ``(0, 360)``, ``[0:360]``, ``[0:]`` and ``0..360`` are intervals with their ends, for numbers;
    every other list is one of allowed values.

    Raises:
        Unfit: it is none of these forms.
    """
    body = text.strip()
    is_list = body[:1] + body[-1:] in ("()", "[]")
    if is_list:
        body = body[1:-1].strip()
    if not body or not kind.name:
        return None
    pair = _PAIR.fullmatch(body)
    if pair and (pair[1] or pair[2]):
        return _interval(pair[1], pair[2], kind, label)
    words = [word.strip() for word in body.split(",")]
    if text.strip().startswith("(") and len(words) == 2 and kind.name in ("Int", "Double") and (
            all(re.fullmatch(_NUMBER, word) for word in words)):
        return _interval(words[0], words[1], kind, label)
    if any(_LOOSE.search(word) and not _QUOTED.fullmatch(word) for word in words) or not (
            is_list or len(words) > 1):
        raise Unfit(label, f"range {cardvalue.short(text)}: {_FORMS}")
    return parse_choice([found[2] if (found := _QUOTED.fullmatch(word)) else word
                         for word in words], kind, label)


def parse_choice(words: list[str], kind: Type, label: str) -> Range | None:
    """Return the range of a list of allowed values.

    Raises:
        Unfit: a value has not the type of the keyword.
    """
    if not words or not kind.name:
        return None
    return Range(among=tuple(_choice(word, kind, label) for word in words))


def _choice(word: str, kind: Type, label: str) -> Value:
    if kind.name == "String" and word:
        return word
    if kind.name in ("Int", "Double") and re.fullmatch(_NUMBER, word):
        if re.fullmatch(r"[+-]?[0-9]+", word):
            return int(word)
        if kind.name == "Double":
            return float(word)
    if kind.name == "Bool" and word in ("T", "F", "true", "false"):
        return word in ("T", "true")
    raise Unfit(label, f"range has {cardvalue.short(word)}: {_FORMS}")


def _interval(low: str | None, high: str | None, kind: Type, label: str) -> Range:
    if kind.name not in ("Int", "Double"):
        raise Unfit(label, "range is an interval, which suits numbers only: list the allowed "
                    "values")
    ends = [None if end is None else _number(end) for end in (low, high)]
    if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
        raise Unfit(label, f"range has {low} above {high}: nothing would be allowed")
    return Range(ends[0], ends[1])


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else float(text)

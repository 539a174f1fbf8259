"""Which value becomes which keyword: a table in YAML, or in the options of a metadata source.

``docs/metadata.md`` describes a row. Whatever is wrong with a table is told before anything starts,
and no value that comes later makes a keyword that a merge refuses.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from daq_ctl.sources.options import Options
from daq_ctl.sources.readings import POINTS, SPANS, Reading, Span, Value
from daqlib import cardlayout, config, errors, fsops, yamlfile
from daqlib.cardname import Unfit
from daqlib.cardvalue import short

#: The types, with a value of each.
_TYPES: dict[str, Value] = {"float": 0.5, "integer": 1, "string": "x", "boolean": True}
#: The last letter of a format -> the type that it writes.
_WRITES = {**dict.fromkeys("diu", "integer"), **dict.fromkeys("fFeE", "float"), "s": "string",
           "c": "boolean"}
#: Where a number goes round: ``wrap`` -> its lower bound; one turn is what lies between them.
_WRAPS = {0: 0, 24: 0, 360: 0, 180: -180}
#: Of a row, beside the one with the name of what is read.
MEMBERS = ("keyword", "when", "type", "unit", "comment", "format", "scale", "add", "wrap", "names",
           "required", "maxAge")
_LARGEST = 256 * 1024  # bytes of a table: thousands of rows
_MANY = 2000  # rows
_DEEPEST = 20  # a row is at depth 3


@dataclass(frozen=True)
class Row:
    """One keyword and where its value comes from.

    Attributes:
        item: what is read, in the source's own terms.
        keyword: its name, ESO keywords with ``ESO`` and blanks.
        when: one of ``start, end, mean, min, max``.
        type: float, integer, string or boolean; empty: what the format writes, else as it is read.
        unit: replaces the unit that the source gives, which a scaled or shifted number has not.
        comment: of the card.
        format: an ANSI C conversion.
        scale: factor of a number.
        add: is added to it after that.
        wrap: the number is brought to [-180, 180) if that is 180, to [0, wrap) if it is 360 or
            24; 0 leaves it.
        names: values that are called otherwise.
        required: without a keyword of it the acquisition does not start.
        max_age: seconds after which a value is stale; 0 never.
    """

    item: str
    keyword: str
    when: str = "start"
    type: str = ""
    unit: str = ""
    comment: str = ""
    format: str = ""
    scale: float = 1.0
    add: float = 0.0
    wrap: float = 0.0
    names: dict[str, Value] = field(default_factory=dict)
    required: bool = False
    max_age: float = 0.0

    def converted(self, reading: Reading) -> Reading:
        """Return a reading with its value named, scaled and shifted as the row wants it."""
        value = reading.value
        if value is None:
            return reading
        value = self.names.get(_plain(value), value)
        if isinstance(value, bool | str) or (self.scale, self.add) == (1.0, 0.0):
            return replace(reading, value=value)
        # the unit that the source gives is not that of the new number
        return replace(reading, value=value * self.scale + self.add, unit="")

    def span(self) -> Span:
        """Return an empty span for converted readings."""
        low = _WRAPS[int(self.wrap)]
        return Span(self.wrap - low)

    def keyword_of(self, reading: Reading, *, keep: bool) -> tuple[dict[str, Any] | None, str]:
        """Return the keyword for a converted reading, or None, and what people should know of it.

        Args:
            reading: what was read, converted.
            keep: whether a flagged value is recorded, with its flag.
        """
        if reading.value is None:
            told = f"{self.item} has no value"
            return None, self._left_out(told + (f" ({reading.flag})" if reading.flag else ""))
        told = f"{self.item} is flagged {reading.flag}" if reading.flag else ""
        if told and not keep:
            return None, self._left_out(told)
        try:
            made = self._fitting(self._typed(self._wrapped(reading.value)), reading)
        except Unfit as error:
            return None, self._left_out(f"{self.item} is {short(reading.value)}: {error.rule}")
        except ValueError as error:
            return None, self._left_out(f"{self.item}: {error}")
        return made, told and f"{self.keyword}: {told}"

    def _left_out(self, why: str) -> str:
        return f"{self.keyword} is left out: {why}"

    def _fitting(self, value: Value, reading: Reading) -> dict[str, Any]:
        """Return a keyword whose card shows its flag, instead of all else that is too long.

        Raises:
            ValueError: no card can hold it, or none with its flag.
        """
        made = self._card(value, reading)
        if not self._shows(made, reading.flag):
            made["comment"] = reading.flag
            if not self._shows(made, reading.flag.split()[0]):
                raise ValueError(f"{short(value)} leaves no room for its flag {reading.flag}")
        return made

    def _shows(self, made: dict[str, Any], flag: str) -> bool:
        cards = b"".join(cardlayout.of_json(made, self.item, lambda _: None)).decode()
        return not flag or flag in cards.rpartition(" / ")[2]

    def _card(self, value: Value, reading: Reading) -> dict[str, Any]:
        # the unit stands in brackets before the comment (FITS Standard 4.0, section 4.3.2), the
        # flag between them, where it is not cut off
        unit = self.unit or reading.unit
        comment = " ".join(filter(None, (unit and f"[{unit}]", reading.flag and f"{reading.flag}:",
                                         self.comment)))
        is_eso = self.keyword.startswith("ESO ")
        return {"type": "esoKeyword" if is_eso else "valueKeyword",
                "name": self.keyword.removeprefix("ESO "), "value": value,
                **({"comment": comment.rstrip(":")} if comment else {}),
                **({"format": self.format} if self.format else {})}

    def _wrapped(self, value: Value) -> Value:
        if not self.wrap or isinstance(value, bool | str):
            return value
        low = _WRAPS[int(self.wrap)]
        made = (value - low) % (self.wrap - low) + low
        return made if made < self.wrap else low  # rounded up, from just below the lower bound

    def _typed(self, value: Value) -> Value:
        kind = self.type or _WRITES.get(self.format[-1:], "")
        if kind == "string" or (not kind and isinstance(value, str)):
            return "".join(char if " " <= char <= "~" else "?" for char in _plain(value)).rstrip()
        if kind == "boolean":
            if value in (0, 1):
                return bool(value)
            raise ValueError(f"{short(value)} is neither true nor false")
        if not kind:
            return value
        try:
            number = float(value)
            return round(number) if kind == "integer" else number
        except (ValueError, OverflowError):
            raise ValueError(f"{short(value)} is no number") from None

    def check(self) -> None:
        """Refuse a row none of whose values a card could hold.

        Raises:
            ValueError: says why.
        """
        sample = _TYPES[self.type or _WRITES.get(self.format[-1:], "float")]
        try:
            cardlayout.of_json(self._card(sample, Reading()), "", lambda _: None)
        except Unfit as error:
            raise ValueError(f"keyword {short(self.keyword)}: {error.rule}") from error


def _plain(value: Value) -> str:
    """Return a value as it is written in a table: ``1`` for 1.0, ``true`` for True."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def of_options(options: Options, member: str) -> list[Row]:
    """Return the rows that a source's options ask for.

    Args:
        options: ``keywords``, a list of rows, and ``mapping``, a Config Path of a YAML file with
            such a list; the source object wins, keyword by keyword.
        member: of a row, with the name of what is read.

    Raises:
        errors.BadData: says which row, why, and what is allowed.
    """
    file, inline = options.text("mapping", "", "a Config Path"), options.rows("keywords")
    try:
        rows = of_file(file, member) if file else []
        return combined(_rows(inline, member, "option keywords"), rows)
    except errors.BadData as error:
        raise errors.BadData(f"source {options.source!r}: {error.message}", error.remedy) from error


def combined(*tables: Iterable[Row]) -> list[Row]:
    """Return the rows of several tables; of those for one keyword the first table's."""
    made: dict[str, Row] = {}
    for table in tables:
        for row in table:
            made.setdefault(row.keyword, row)
    return list(made.values())


def of_file(name: str, member: str) -> list[Row]:
    """Return the rows of a table.

    Args:
        name: a Config Path, relative to an entry of ``$CFGPATH``: it comes from a job.
        member: of a row, with the name of what is read.

    Raises:
        errors.BadData: there is no such table, or it is not right.
    """
    if not name.isprintable() or os.path.isabs(name) or ".." in name.split("/"):
        raise errors.BadData(f"the mapping {name!r} is not allowed",
                             "give a path relative to an entry of $CFGPATH, without '..'")
    try:
        path = config.find(name, "mapping", "put it into a directory of $CFGPATH")
    except errors.BadConfig as error:
        raise errors.BadData(error.message, error.remedy) from error
    return of_path(path, member)


def of_path(path: str, member: str) -> list[Row]:
    """Return the rows of the table at a path; see :func:`of_file`."""
    try:
        # an operator's own links are followed, a device or a pipe is not read
        data, _ = fsops.read_regular(os.path.realpath(path), _LARGEST)
    except OSError as error:
        raise errors.BadData(f"the mapping {path} cannot be read: {error.strerror}",
                             "mend the file, or its permissions") from error
    return list(_table(data, path, member))


@functools.lru_cache(maxsize=8)  # each acquisition asks for it twice, in the daemon's event loop
def _table(data: bytes, path: str, member: str) -> tuple[Row, ...]:
    return tuple(_rows(_listed(data, path), member, path))


def _listed(data: bytes, path: str) -> list[Any]:
    import yaml  # here: only who has a table pays for it

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        """Takes no member twice, as a row whose dash was forgotten would be lost without a word.

        Nor a number with colons, which YAML 1.1 reads in base 60: 12:30:00 would be 45000.
        """

        def construct_scalar(self, node: yaml.ScalarNode) -> Any:
            if node.tag in yamlfile.NUMBERS and ":" in node.value:
                raise yaml.constructor.ConstructorError(
                    problem=f"{node.value[:64]} is no number: write a decimal one, or quotes",
                    problem_mark=node.start_mark)
            return super().construct_scalar(node)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key in (key for key, _ in node.value if key.id == "scalar"):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value[:64]} is there twice; does a row lack its dash?",
                        problem_mark=key.start_mark)
                seen.add(key.value)
            made: dict[Any, Any] = super().construct_mapping(node, deep)
            return made

    try:
        depth = 0
        for event in yaml.parse(data, base):
            depth += (isinstance(event, yaml.CollectionStartEvent)
                      - isinstance(event, yaml.CollectionEndEvent))
            if depth > _DEEPEST:  # libyaml ends the process when it is very much more
                raise ValueError("it is nested too deeply")
        document = yaml.load(data, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise errors.BadData(f"the mapping {path} is wrong as YAML: {told}",
                             "mend it; see docs/metadata.md") from error
    rows = document.get("keywords") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise errors.BadData(f"the mapping {path} is no list of rows", "see docs/metadata.md")
    return rows


def _rows(rows: list[Any], member: str, where: str) -> list[Row]:
    if len(rows) > _MANY:
        raise errors.BadData(f"{where}: {len(rows)} rows", f"give at most {_MANY}")
    made = [each for number, row in enumerate(rows, 1)
            for each in _row(row, member, f"{where}, row {number}")]
    seen: set[str] = set()
    for each in made:
        if each.keyword in seen:
            raise errors.BadData(f"{where}: keyword {each.keyword} is there twice",
                                 "give each row its own; see docs/metadata.md")
        seen.add(each.keyword)
    return made


def _row(row: Any, member: str, where: str) -> list[Row]:
    """Return the rows that one of a table stands for: one for each moment.

    Raises:
        errors.BadData: something in it is not allowed.
    """
    try:
        moments = _moments(row, member)
        made = Row(row[member], row["keyword"].removeprefix("HIERARCH "), **_values(row))
        found = [replace(made, when=when, keyword=made.keyword.replace("{when}", when.upper()))
                 for when in moments]
        for each in found:
            each.check()
    except ValueError as error:
        raise errors.BadData(f"{where}: {error}", "correct it; see docs/metadata.md") from error
    return found


def _moments(row: Any, member: str) -> list[str]:
    """Check the members that every row has, and return the moments it is for.

    Raises:
        ValueError: it is no row, or one of them is not right.
    """
    if not isinstance(row, dict):
        raise ValueError(f"this is no row, which is {{{member}: ..., keyword: ...}}")
    if unknown := sorted(str(key) for key in row if key not in (*MEMBERS, member)):
        raise ValueError(f"{unknown[0][:64]} is not known, but {', '.join((member, *MEMBERS))}")
    for name in (member, "keyword"):
        if not isinstance(row.get(name), str) or not row[name] or not row[name].isprintable():
            raise ValueError(f"it has no {name}, a text")
    given = row.get("when", "start")
    moments = given if isinstance(given, list) else [given]
    if not moments or any(when not in (*POINTS, *SPANS) for when in moments):
        raise ValueError(f"when is not one or more of {', '.join(POINTS + SPANS)}")
    if len(moments) > 1 and "{when}" not in row["keyword"]:
        raise ValueError(f"{len(moments)} values for one keyword: put {{when}} into it")
    return moments


def _values(row: dict[Any, Any]) -> dict[str, Any]:
    """Return the members of a row but the item, the keyword and the moments.

    Raises:
        ValueError: one has a value that is not allowed.
    """
    made: dict[str, Any] = {name: _text(row, name) for name in ("unit", "comment", "format")}
    made["type"] = row.get("type", "")
    if made["type"] not in ("", *_TYPES):
        raise ValueError(f"type is not one of {', '.join(_TYPES)}")
    for name, default in (("scale", 1.0), ("add", 0.0), ("wrap", 0.0), ("maxAge", 0.0)):
        made[name] = _number(row, name, default)
    made["max_age"] = made.pop("maxAge")
    if made["wrap"] not in _WRAPS:
        raise ValueError(f"wrap is not one of {', '.join(map(str, _WRAPS))}")
    if made["max_age"] < 0:
        raise ValueError("maxAge is negative")
    made["required"] = row.get("required", False)
    if not isinstance(made["required"], bool):
        raise ValueError("required is neither true nor false")
    made["names"] = _names(row.get("names", {}))
    return made


def _text(row: dict[Any, Any], name: str) -> str:
    text = row.get(name, "")
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise ValueError(f"{name} is no printable ASCII")
    return text


def _number(row: dict[Any, Any], name: str, default: float) -> float:
    number = row.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int | float) or not (
            math.isfinite(number)):
        raise ValueError(f"{name} is no number")
    return number


def _names(names: Any) -> dict[str, Value]:
    if not isinstance(names, dict) or not all(
            isinstance(key, str | int | float) and isinstance(value, str | int | float)
            for key, value in names.items()):
        raise ValueError("names is no table from values to values")
    return {_plain(key): value for key, value in names.items()}

"""Which value becomes which keyword: a table in YAML, or in the options of a metadata source.

``docs/metadata.md`` describes a row. Whatever is wrong with a table is told before anything starts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from daq_ctl.sources.options import Options
from daq_ctl.sources.readings import POINTS, SPANS, Reading, Value
from daqlib import cardlayout, config, errors, fsops
from daqlib.cardname import Unfit

_TYPES: dict[str, Value] = {"float": 0.5, "integer": 1, "string": "", "boolean": True}
_MEMBERS = ("keyword", "when", "type", "unit", "comment", "format", "scale", "add", "wrap", "names",
            "required", "maxAge")
_LARGEST = 1 << 20  # bytes of a table: thousands of rows
_MANY = 5000  # rows


@dataclass(frozen=True)
class Row:
    """One keyword and where its value comes from.

    Attributes:
        item: what is read, in the source's own terms.
        keyword: its name, ESO keywords with ``ESO`` and blanks.
        when: one of ``start, end, mean, min, max``.
        type: float, integer, string or boolean; empty: as it is read.
        unit: replaces the unit that the source gives.
        comment: of the card.
        format: an ANSI C conversion.
        scale: factor of a number.
        add: is added to it after that.
        wrap: the number is brought to [-wrap, wrap) if that is 180, to [0, wrap) if it is 360 or
            24; 0 leaves it.
        names: values that are called otherwise.
        required: without it the acquisition does not start.
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

    def card(self, value: Value, flag: str = "", unit: str = "") -> dict[str, Any]:
        """Return the JSON keyword (schema ``keywords``) for a value.

        The unit stands in brackets before the comment (FITS Standard 4.0, section 4.3.2), a flag
        between them, where it is not cut off.
        """
        is_eso = self.keyword.startswith("ESO ")
        unit = self.unit or unit
        comment = " ".join(filter(None, (unit and f"[{unit}]", flag and f"{flag}:", self.comment)))
        return {"type": "esoKeyword" if is_eso else "valueKeyword",
                "name": self.keyword.removeprefix("ESO "), "value": value,
                **({"comment": comment.rstrip(":")} if comment else {}),
                **({"format": self.format} if self.format else {})}

    def keyword_of(self, reading: Reading, *, keep: bool) -> tuple[dict[str, Any] | None, str]:
        """Return the keyword for a reading, or None, and what people should know of it.

        Args:
            reading: what was read.
            keep: whether a flagged value is recorded, with its flag.
        """
        try:
            value = self._converted(reading.value)
        except ValueError as error:
            return None, f"{self.keyword} is left out: {self.item}: {error}"
        if value is None:
            return None, (f"{self.keyword} is left out: {self.item} has no value"
                          f"{f' ({reading.flag})' if reading.flag else ''}")
        if not reading.flag:
            return self.card(value, "", reading.unit), ""
        told = f"{self.item} is flagged {reading.flag}"
        if not keep:
            return None, f"{self.keyword} is left out: {told}"
        return self.card(value, reading.flag, reading.unit), f"{self.keyword}: {told}"

    def _converted(self, value: Value | None) -> Value | None:
        if value is None:
            return None
        value = self.names.get(_plain(value), value)
        if isinstance(value, bool):
            return self._typed(value)
        if isinstance(value, int | float):
            if not math.isfinite(value):
                raise ValueError(f"{value} is no number that FITS can hold")
            if (self.scale, self.add, self.wrap) != (1.0, 0.0, 0.0):
                value = self._wrapped(value * self.scale + self.add)
        return self._typed(value)

    def _wrapped(self, value: float) -> float:
        if not self.wrap:
            return value
        low = -self.wrap if self.wrap == 180 else 0.0
        return (value - low) % (self.wrap - low) + low

    def _typed(self, value: Value) -> Value:
        if not self.type:
            return _ascii(value) if isinstance(value, str) else value
        if self.type == "string":
            return _ascii(_plain(value))
        if self.type == "boolean":
            if isinstance(value, bool) or value in (0, 1):
                return bool(value)
            raise ValueError(f"{value!r} is neither true nor false")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{value!r} is no number") from None
        return round(number) if self.type == "integer" else number


def _plain(value: Value) -> str:
    """Return a value as it is written in a table: ``1`` for 1.0, ``true`` for True."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _ascii(text: str) -> str:
    """Return a text as a card can hold it: printable ASCII (FITS Standard 4.0, section 4.2.1)."""
    return "".join(char if " " <= char <= "~" else "?" for char in text).rstrip()


def of_options(options: Options, member: str, standard: Iterable[Row] = ()) -> list[Row]:
    """Return the rows that a source's options ask for.

    Args:
        options: ``keywords``, a list of rows, and ``mapping``, a Config Path of a YAML file with
            such a list; the source object wins, keyword by keyword.
        member: of a row, with the name of what is read.
        standard: what holds when neither is given.

    Raises:
        errors.BadData: says which row, why, and what is allowed.
    """
    file, inline = options.text("mapping", "", "a Config Path"), options.rows("keywords")
    rows = of_file(file, member) if file else []
    found = {row.keyword: row for row in (*rows, *_rows(inline, member, "option keywords"))}
    return list(found.values()) or list(standard)


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
    import yaml  # here: only who has a table pays for it

    data, _ = fsops.read_regular(path, _LARGEST)
    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise errors.BadData(f"{path} is not YAML: {str(error).splitlines()[0]}",
                             "mend the table; see docs/metadata.md") from error
    rows = document.get("keywords") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise errors.BadData(f"{path} is no list of rows", "see docs/metadata.md")
    return _rows(rows, member, path)


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
    def wrong(why: str, remedy: str) -> errors.BadData:
        return errors.BadData(f"{where}: {why}", f"{remedy}; see docs/metadata.md")

    if not isinstance(row, dict):
        raise wrong(f"{row!r} is no row", f"write {{{member}: ..., keyword: ...}}")
    if unknown := sorted(str(key) for key in row if key not in (*_MEMBERS, member)):
        raise wrong(f"{unknown[0]} is not known", f"known: {', '.join((member, *_MEMBERS))}")
    for name in (member, "keyword"):
        if not isinstance(row.get(name), str) or not row[name] or not row[name].isprintable():
            raise wrong(f"it has no {name}", f"write {{{member}: ..., keyword: ...}}")
    moments = row.get("when", "start")
    moments = moments if isinstance(moments, list) else [moments]
    if not moments or any(when not in (*POINTS, *SPANS) for when in moments):
        raise wrong(f"when is {row['when']!r}", f"give one or more of {', '.join(POINTS + SPANS)}")
    if len(moments) > 1 and "{when}" not in row["keyword"]:
        raise wrong(f"{len(moments)} values for one keyword", "put {when} into the keyword")
    try:
        made = Row(row[member], row["keyword"].removeprefix("HIERARCH "), **_members(row))
    except (TypeError, ValueError) as error:
        raise wrong(str(error), "correct it") from error
    return [_checked(replace(made, when=when,
                             keyword=made.keyword.replace("{when}", when.upper())), where)
            for when in moments]


def _members(row: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a row but the item, the keyword and the moments.

    Raises:
        ValueError: one has a value that is not allowed.
    """
    made: dict[str, Any] = {}
    for name in ("unit", "comment", "format", "type"):
        made[name] = row.get(name, "")
        if not isinstance(made[name], str) or not (made[name].isascii()
                                                   and made[name].isprintable()
                                                   or not made[name]):
            raise ValueError(f"{name} is {row[name]!r}: not printable ASCII")
    if made["type"] not in ("", *_TYPES):
        raise ValueError(f"type is {made['type']!r}: not one of {', '.join(_TYPES)}")
    for name, key, default in (("scale", "scale", 1.0), ("add", "add", 0.0), ("wrap", "wrap", 0.0),
                               ("maxAge", "max_age", 0.0)):
        made[key] = row.get(name, default)
        if isinstance(made[key], bool) or not isinstance(made[key], int | float) \
                or not math.isfinite(made[key]):
            raise ValueError(f"{name} is {made[key]!r}: no number")
    if made["wrap"] not in (0, 24, 180, 360) or made["max_age"] < 0:
        raise ValueError("wrap is none of 24, 180, 360, or maxAge is negative")
    made["required"], names = row.get("required", False), row.get("names", {})
    if not isinstance(made["required"], bool):
        raise ValueError("required is neither true nor false")
    if not isinstance(names, dict) or not all(
            isinstance(value, str | int | float | bool) for value in names.values()):
        raise ValueError("names is no table of values")
    made["names"] = {_plain(key): value for key, value in names.items()}
    return made


def _checked(row: Row, where: str) -> Row:
    """Return a row whose keyword a card can hold."""
    sample = _TYPES[row.type or "float"] if not row.format else (
        "" if row.format[-1] in "sc" else 1 if row.format[-1] in "diu" else 0.5)
    if not sample and row.format.endswith("c"):
        sample = "x"
    try:
        cardlayout.of_json(row.card(sample), where, lambda _: None)
    except Unfit as error:
        raise errors.BadData(f"{where}: keyword {row.keyword}: {error.rule}",
                             "correct it; see docs/metadata.md") from error
    return row

"""Paths made of the keywords of a product: ``{DATE-OBS:%Y/%m}/{OBJECT|unknown}/{fileId}.fits``.

A template is text with places for values, ``{NAME}``, ``{NAME:FORMAT}``, ``{NAME|DEFAULT}`` or
both, format first. The manual page of ``daq-release`` tells the rules to users. What comes from a
header can be anything: of a value only harmless characters stay, no value holds a ``/``, and no
component of a path is hidden, an option, or ``..``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from daqlib import errors
from daqlib.cardvalue import Value

#: What a place may name beside keywords of the primary header.
FACTS = ("fileId", "id", "prefix", "instrument")
#: Conversions of a date, as in strftime(3).
CONVERSIONS = "YmdjHMS"
#: How the name of a product ends, whoever chose it.
SUFFIX = ".fits"
#: The longest component of a path, and the longest value in it (characters).
LONGEST, LONGEST_VALUE = 200, 80
#: The longest template, and the longest path that one makes (characters): of what is longer,
#: thousands of directories would be made before the file system refuses the rest.
LONGEST_PATH = 1000

_PLACE = re.compile(r"\{([^{}:|]*)(?::([^{}|]*))?(?:\|([^{}]*))?\}")
_TEXT = re.compile(r"[\w.:+=@,/-]*", re.ASCII)
_DEFAULT = re.compile(r"[A-Za-z0-9_][\w.+-]*", re.ASCII)
_FORMAT = re.compile(rf"(?:%[{CONVERSIONS}]|[\w.+/-])*", re.ASCII)
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}|ESO(?: [A-Z0-9_-]+)+")
_UNFIT = re.compile(r"[^\w.:+-]", re.ASCII)
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d):(\d\d)(?:\.\d*)?)?Z?", re.ASCII)

#: Returns the value of a fact or keyword, None when there is none. ESO keywords are named as
#: ``ESO DET NAME``.
Lookup = Callable[[str], Value]


@dataclass(frozen=True)
class _Place:
    name: str
    layout: str = ""
    default: str = ""

    def __str__(self) -> str:
        return "{" + self.name + "}"


def check(template: str) -> str:
    """Return a valid template.

    Raises:
        errors.BadData: it breaks a rule, which is named.
    """
    if not isinstance(template, str) or not template:
        raise _wrong(template, "it is no text", "give a path such as {OBJECT}/{fileId}.fits")
    if len(template) > LONGEST_PATH:
        raise _wrong(f"{template[:40]}...", "it is too long",
                     f"up to {LONGEST_PATH} characters are allowed")
    shape = ""
    for part in _parts(template):
        shape += re.sub("%.", "x", part.layout or "x") if isinstance(part, _Place) else part
    for component in shape.split("/"):
        if not component or component.startswith((".", "-")):
            raise _wrong(template, f"the component {component!r} is not allowed",
                         "give a relative path, no component of which is empty or begins with "
                         "'.' or '-'")
    # a product must never be taken for a key, a job or a program, wherever it is put
    if not template.endswith(SUFFIX):
        raise _wrong(template, f"it does not end in {SUFFIX}", f"give a path such as "
                     f"{{OBJECT}}/{{fileId}}{SUFFIX}")
    return template


def render(template: str, lookup: Lookup) -> str:
    """Return the relative path that a template makes.

    Args:
        template: one that :func:`check` accepts.
        lookup: knows the facts and the keywords.

    Raises:
        errors.BadData: a keyword is missing, or is no date where one is wanted; names it.
    """
    text = "".join(part if isinstance(part, str) else _filled(part, lookup)
                   for part in _parts(template))
    components = [_harmless(component) for component in text.split("/")]
    for component in components:
        if not component or len(component) > LONGEST:
            raise errors.BadData(f"template {template!r}: the component {component[:40]!r}... is "
                                 "empty or too long", f"up to {LONGEST} characters are allowed")
    path = "/".join(components)
    if len(path) > LONGEST_PATH:
        raise errors.BadData(f"template {template!r}: the path {path[:40]!r}... is too long",
                             f"up to {LONGEST_PATH} characters are allowed")
    return path


def _parts(template: str) -> Iterator[str | _Place]:
    at = 0
    while at < len(template):
        found = _PLACE.match(template, at)
        if found:
            yield _place(template, *(group or "" for group in found.groups()))
            at = found.end()
            continue
        end = template.find("{", at + 1)
        text = template[at:end if end > 0 else len(template)]
        if not _TEXT.fullmatch(text):
            raise _wrong(template, f"{text!r} is not allowed", "use letters, digits, ._:+=@,-/ "
                         "and places such as {OBJECT}")
        yield text
        at += len(text)


def _place(template: str, name: str, layout: str, default: str) -> _Place:
    made = _Place(name_of(name), layout, default)
    if made.name not in FACTS and not _KEYWORD.fullmatch(made.name):
        raise _wrong(template, f"{{{name}}} names nothing", f"use {', '.join(FACTS)} or a keyword, "
                     "such as OBJECT or ESO.DET.NAME")
    if layout and (made.name in FACTS or "%" not in layout or not _FORMAT.fullmatch(layout)):
        raise _wrong(template, f"{layout!r} formats no date",
                     f"use %{', %'.join(CONVERSIONS)} with letters, digits and ._+-/ between them")
    if default and not _DEFAULT.fullmatch(default):
        raise _wrong(template, f"the default {default!r} is not allowed",
                     "use letters, digits and ._+- beginning with a letter or digit")
    return made


def name_of(name: str) -> str:
    """Return the name of a fact or keyword as it is looked up: ``ESO.DET.NAME`` has blanks."""
    return name.replace(".", " ").removeprefix("HIERARCH ")


def _filled(place: _Place, lookup: Lookup) -> str:
    text = _text(lookup(place.name))
    if place.name in FACTS:
        return text  # ids and prefixes are harmless, and never cut
    if text and place.layout:
        return _dated(place, text)
    if not text and place.default:
        return place.default
    if not text:
        raise errors.BadData(f"the primary header has no value of {place.name}",
                             f"write {{{place.name}|unknown}}, or see that the keyword is there")
    return _UNFIT.sub("_", text)[:LONGEST_VALUE]


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "T" if value else "F"
    return value.strip() if isinstance(value, str) else str(value)


def _dated(place: _Place, text: str) -> str:
    import datetime

    found = _DATE.fullmatch(text)
    try:
        year, month, day = (found[1], found[2], found[3]) if found else ("", "", "")
        date = datetime.date(int(year), int(month), int(day))
    except ValueError:
        raise errors.BadData(f"{place.name} is {text[:40]!r}, which is no date",
                             "dates are YYYY-MM-DD, or YYYY-MM-DDThh:mm:ss") from None
    assert found
    values = {"Y": year, "m": month, "d": day, "j": f"{date.timetuple().tm_yday:03d}",
              "H": found[4], "M": found[5], "S": found[6]}
    made = place.layout
    for letter, value in values.items():
        if f"%{letter}" in made and value is None:
            raise errors.BadData(f"{place.name} is {text[:40]!r}, which has no time of day",
                                 f"leave out %{letter}")
        made = made.replace(f"%{letter}", value or "")
    return made


def _harmless(component: str) -> str:
    return "_" + component[1:] if component.startswith((".", "-")) else component


def _wrong(template: object, why: str, remedy: str) -> errors.BadData:
    return errors.BadData(f"template {template!r}: {why}", remedy)

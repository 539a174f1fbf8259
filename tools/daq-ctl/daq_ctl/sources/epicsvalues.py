"""What Channel Access says of a process variable, as a reading: pure conversion, without EPICS.

The meanings are those of the EPICS Application Developer's Guide: alarm status and severity, and
time stamps that a record has only once it was processed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daq_ctl.sources.readings import Reading, Value

#: Characters of a text that Channel Access calls a string; of a longer one the rest is missing.
STRING_MOST = 39

_EPOCH = 631152000.0  # of EPICS, 1990: the time stamp of a record that was never processed
_UNDEFINED = 17  # UDF
_SEVERITIES = ("", "MINOR", "MAJOR", "INVALID")
_STATUSES = ("", "READ", "WRITE", "HIHI", "HIGH", "LOLO", "LOW", "STATE", "COS", "COMM", "TIMEOUT",
             "HWLIMIT", "CALC", "SCAN", "LINK", "SOFT", "BAD_SUB", "UDF", "DISABLE", "SIMM",
             "READ_ACCESS", "WRITE_ACCESS")
_NAME = re.compile(r"[!#-&(-~]{1,200}")  # printable ASCII without blanks and quotes
_ELEMENT = re.compile(r"(.+)\[([0-9]{1,6})\]")


@dataclass(frozen=True)
class Control:
    """What of a process variable does not change while it is connected.

    Attributes:
        unit: printable ASCII, or empty.
        states: names of the states of an enumeration.
    """

    unit: str = ""
    states: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alarm:
    """What a value comes with.

    Attributes:
        status: of the record, 0 without alarm.
        severity: 0 none, 1 MINOR, 2 MAJOR, 3 INVALID.
        time: seconds since the epoch of UNIX, of the record's clock.
    """

    status: int
    severity: int
    time: float


def allowed(name: str) -> bool:
    """Tell whether a text can be the name of a process variable."""
    return _NAME.fullmatch(name) is not None


def split(item: str) -> tuple[str, int | None]:
    """Return the name, and the element of an array that is meant: ``LAB:wave[3]``."""
    found = _ELEMENT.fullmatch(item)
    return (found[1], int(found[2])) if found else (item, None)


def long_name(name: str) -> str:
    """Return what gives the whole text of a string that Channel Access has cut."""
    return f"{name}$" if "." in name else f"{name}.VAL$"


def text(data: bytes) -> str:
    """Return bytes as text: UTF-8, or Latin-1 as EPICS had it before; it ends at a NUL."""
    data = data.partition(b"\0")[0]
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def unit(data: bytes) -> str:
    """Return a unit as a card can hold it: ``°C`` becomes ``degC``."""
    made = text(data)
    for char, plain in (("°", "deg"), ("µ", "u"), ("μ", "u"), ("[", "("), ("]", ")")):
        made = made.replace(char, plain)
    return "".join(char if " " <= char <= "~" else "?" for char in made).strip()


def reading(values: Sequence[Any], alarm: Alarm, control: Control, index: int | None = None, *,
            single: bool = False) -> Reading:
    """Return what a process variable says.

    Args:
        values: its elements; bytes are texts.
        alarm: what comes with them.
        control: what is known of it.
        index: of the element that is meant; None is the only one.
        single: whether the numbers were of single precision.

    Returns:
        A record that was never processed has no value.
    """
    if alarm.status == _UNDEFINED or alarm.time < _EPOCH + 1:
        return Reading(None, "UNDEFINED", control.unit)
    if index is None and len(values) != 1:
        return Reading(None, f"ARRAY OF {len(values)}", control.unit, alarm.time)
    if (index or 0) >= len(values):
        return Reading(None, f"NO ELEMENT {index}", control.unit, alarm.time)
    return Reading(_plain(values[index or 0], control.states, single), _flag(alarm), control.unit,
                   alarm.time, off_limits=alarm.severity in (1, 2))


def _plain(value: Any, states: tuple[str, ...], single: bool) -> Value:
    if isinstance(value, bytes):
        return text(value)
    if states:
        number = int(value)
        return states[number] if number < len(states) and states[number] else number
    if isinstance(value, float):
        return shortest(value) if single else value
    return int(value)


def shortest(value: float) -> float:
    """Return a number of single precision as people write it: 23.7, not 23.700000762939453."""
    for digits in range(6, 9):
        made = float(f"{value:.{digits}g}")
        if struct.pack("f", made) == struct.pack("f", value):
            return made
    return value


def _flag(alarm: Alarm) -> str:
    if not alarm.severity:
        return ""
    known = alarm.status if 0 <= alarm.status < len(_STATUSES) else 0
    return f"{_SEVERITIES[min(alarm.severity, 3)]} {_STATUSES[known]}".strip()

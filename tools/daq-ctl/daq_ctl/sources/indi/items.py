"""Elements of INDI properties by name, and what of a value is worth to be recorded.

``DEVICE/PROPERTY.ELEMENT`` is an element. The device ends at the last slash, as devices are named
by their users; properties and elements are named by the standard, without slash or brace.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from daq_ctl.sources.indi.client import Vector
from daq_ctl.sources.readings import Reading, Value
from daqlib import clock

Vectors = Mapping[tuple[str, str], Vector]

_ITEM = re.compile(r"(?:(?P<device>.+)/)?(?P<name>[^./{}]+)"
                   r"(?:\.(?P<element>[^/{}]*(?:\{(?P<by>[^./{}]+)\.(?P<index>[^/{}]+)\})?))?")
CONNECTION, STATE = "CONNECTION", "_STATE"
# what they say while they are Busy is where they come from, or go to, and no moment of a movement
_CHOICES = {"FILTER_SLOT", "DOME_SHUTTER"}


@dataclass(frozen=True)
class Item:
    """What a row of a table names.

    Attributes:
        device: whose property it is.
        name: of the property.
        element: of the property; empty is its only one, or those of its switches that are on;
            ``_STATE`` is the state of the property.
            ``FILTER_SLOT_NAME_{FILTER_SLOT.FILTER_SLOT_VALUE}`` is an element that another
            property of the device chooses.
        by: that property, or empty.
        index: its element.
    """

    device: str
    name: str
    element: str
    by: str = ""
    index: str = ""

    @classmethod
    def parse(cls, text: str, device: str) -> Item:
        """Return the item that a text names.

        Args:
            text: ``[DEVICE/]PROPERTY[.ELEMENT]``.
            device: which is meant if the text does not say.

        Raises:
            ValueError: it is no such text, or no device is known.
        """
        match = _ITEM.fullmatch(text)
        if not match or match["element"] == "":
            raise ValueError(f"{text!r} is no property: write PROPERTY.ELEMENT, or "
                             "Device Name/PROPERTY.ELEMENT")
        if not (match["device"] or device):
            raise ValueError(f"{text!r} is of no device: write Device Name/{text}, or name the "
                             "device in the URI")
        return cls(match["device"] or device, match["name"], match["element"] or "",
                   match["by"] or "", match["index"] or "")

    def __str__(self) -> str:
        return f"{self.device}/{self.name}" + (f".{self.element}" if self.element else "")

    @property
    def keys(self) -> set[tuple[str, str]]:
        """What its value depends on, as keys of a client's properties."""
        return {(self.device, name) for name in (self.name, self.by) if name}

    def is_among(self, vectors: Vectors) -> bool:
        """Tell whether all that it needs is defined."""
        return all(key in vectors for key in self.keys)

    def is_defined(self, vectors: Vectors) -> bool:
        """Tell whether its property is defined, and has the element."""
        return self.is_among(vectors) and (
            self.element in ("", STATE) or bool(self.by)
            or self.element in vectors[self.device, self.name].elements)

    def reading(self, vectors: Vectors, *, busy: bool = False) -> Reading | None:
        """Return what it is, or None when that is not defined.

        Args:
            vectors: the properties.
            busy: whether a value that is still changing is flagged.
        """
        connected = is_connected(self.device, vectors)
        if not self.is_among(vectors):
            return None if connected else Reading(None, "DISCONNECTED")
        vector = vectors[self.device, self.name]
        value, flag = self._value(vector, vectors)
        made = Reading(value, flag, "", told_at(vector))
        states = {vectors[key].state for key in self.keys}
        if not connected:
            made = made.flagged("DISCONNECTED")
        if self.element == STATE or vector.kind == "Light":
            return made  # a state that is asked for is a good value even if it is Alert, or Busy
        if "Alert" in states:
            made = made.flagged("ALERT")
        choice = bool(_CHOICES & {self.name, self.by})
        if "Busy" in states and (busy or choice):
            # what still moves is right for its moment, and belongs to a mean
            made = replace(made.flagged("BUSY"), off_limits=not (made.flag or choice))
        return made

    def _value(self, vector: Vector, vectors: Vectors) -> tuple[Value | None, str]:
        element, elements = self.element, vector.elements
        if element == STATE:
            return vector.state, ""
        if vector.kind == "BLOB":
            return None, "BLOB"
        if self.by:
            index = vectors[self.device, self.by].elements.get(self.index, "")
            element = f"{element.partition('{')[0]}{index:.0f}" if isinstance(index, float) else ""
        if element or self.by:
            return (elements[element], "") if element in elements else (None, "ABSENT")
        if vector.kind == "Switch":
            return ",".join(name for name, on in elements.items() if on) or None, ""
        if len(elements) == 1:
            return next(iter(elements.values())), ""
        return None, "NO ELEMENT NAMED"


def is_connected(device: str, vectors: Vectors) -> bool:
    """Tell whether a driver has its device; one without that property always has."""
    connection = vectors.get((device, CONNECTION))
    return connection is None or connection.elements.get("CONNECT") is not False


def told_at(vector: Vector) -> float:
    """Return a property's time stamp in seconds since the epoch; 0 if it has none."""
    with contextlib.suppress(ValueError):
        return clock.from_iso(vector.timestamp)
    return 0.0

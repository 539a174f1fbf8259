"""The stream that an INDI server and its clients exchange: elements of XML without a root.

Nothing here reads or writes a socket. What comes from the server is bounded before it is kept:
depth, size of a tag, length of a value, number of elements; a document type, and with it every
entity, is refused. A BLOB's text is never gathered: a sink takes it piece by piece, or nobody.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from daqlib import errors

#: What an element holds: number, text, switch; a light's is its state, a BLOB's is not kept.
Value = float | str | bool

KINDS = ("Number", "Text", "Switch", "Light", "BLOB")
STATES = ("Idle", "Ok", "Busy", "Alert")

_VECTOR = re.compile(r"(def|set)(Number|Text|Switch|Light|BLOB)Vector")
_BETWEEN = re.compile(r"[\s:;]+")
_VECTOR_DEPTH, _ELEMENT_DEPTH = 1, 2
_TAG = 64 * 1024  # bytes of a tag, or of a comment, with all its attributes
_TEXT = 64 * 1024  # characters of a value
_ELEMENTS = 4096  # of a vector


@dataclass
class Message:
    """What a server said.

    Attributes:
        what: ``def``, ``set``, ``del`` or ``message``.
        kind: of a vector: Number, Text, Switch, Light or BLOB; else empty.
        attributes: of its tag, as they came.
        elements: the values of a vector by the names of its elements.
    """

    what: str
    kind: str
    attributes: Mapping[str, str]
    elements: dict[str, Value] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device that it is about; empty for the server itself."""
        return self.attributes.get("device", "")

    @property
    def name(self) -> str:
        """The property that it is about; empty for all of the device."""
        return self.attributes.get("name", "")


class Sink(Protocol):
    """Takes BLOBs, while they come."""

    def begin(self, vector: Message, attributes: Mapping[str, str]) -> None:
        """Take the attributes of a ``oneBLOB``: ``name``, ``size``, ``format``, perhaps ``len``."""

    def take(self, text: str) -> None:
        """Take a piece of its text, which is base64."""

    def end(self) -> None:
        """Know that all of it was taken."""


class Stream:
    """Makes messages of the bytes that a server sends."""

    def __init__(self, sink: Sink | None = None) -> None:
        """Begin.

        Args:
            sink: takes BLOBs; without one they are passed over.
        """
        self._sink = sink
        # as Latin-1 no byte is wrong; _decoded() makes of it what it was meant to be
        self._parser = parser = expat.ParserCreate("iso-8859-1")
        if hasattr(parser, "SetReparseDeferralEnabled"):
            parser.SetReparseDeferralEnabled(False)  # it would hold back what is complete
        parser.buffer_size = _TEXT
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        self._depth, self._fed = 0, 0
        self._vector: Message | None = None
        self._element: Mapping[str, str] = {}
        self._text: list[str] = []
        self._length = 0
        self._made: list[Message] = []
        self.feed(b"<indi>")  # the stream is many documents; within a root it is one

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes, return the messages that they complete.

        Raises:
            errors.BadData: this is not INDI; the stream cannot go on.
        """
        self._fed += len(data)
        try:
            self._parser.Parse(data, False)
        except expat.ExpatError as error:
            raise not_indi(f"its XML is broken: {error}") from error
        if self._fed - self._parser.CurrentByteIndex > _TAG + len(data):
            raise not_indi(f"it sent a tag of more than {_TAG} bytes")
        made, self._made = self._made, []
        return made

    def _doctype(self, *_declared: object) -> None:
        raise not_indi("it sent a document type")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._depth == _VECTOR_DEPTH:
            self._begin(tag, {name: _decoded(value) for name, value in attributes.items()})
        elif self._depth == _ELEMENT_DEPTH and self._vector:
            self._element = {name: _decoded(value) for name, value in attributes.items()}
            self._text, self._length = [], 0
            if tag == "oneBLOB" and self._sink:
                self._sink.begin(self._vector, self._element)
        elif self._depth > _ELEMENT_DEPTH:
            raise not_indi("its elements are nested deeper than the protocol has it")
        self._depth += 1
        self._parser.buffer_text = True  # within a vector: a BLOB has very many lines

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        self._vector = None
        if match := _VECTOR.fullmatch(tag):
            self._vector = Message(match[1], match[2], attributes)
        elif tag == "delProperty":
            self._made.append(Message("del", "", attributes))
        elif tag == "message":
            self._made.append(Message("message", "", attributes))
        # all others are what other clients ask, which the server repeats to everybody

    def _characters(self, text: str) -> None:
        if self._depth == _VECTOR_DEPTH and not text.isspace():
            raise not_indi(f"it begins with {text[:40]!r}")
        if self._depth <= _ELEMENT_DEPTH or not self._vector:
            return
        if self._vector.kind == "BLOB":
            if self._sink:
                self._sink.take(text)
            return
        self._length += len(text)
        if self._length > _TEXT:
            raise not_indi(f"it sent a value of more than {_TEXT} characters")
        self._text.append(text)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._parser.buffer_text = self._depth > _VECTOR_DEPTH
        vector = self._vector
        if not vector:
            return
        if self._depth == _VECTOR_DEPTH:
            self._made.append(vector)
            self._vector = None
        elif tag == "oneBLOB" and self._sink:
            self._sink.end()
        elif vector.kind != "BLOB":
            if len(vector.elements) >= _ELEMENTS:
                raise not_indi(f"it sent a vector of more than {_ELEMENTS} elements")
            vector.elements[self._element.get("name", "")] = _value(
                vector.kind, _decoded("".join(self._text)).strip())


def not_indi(why: str) -> errors.BadData:
    """Return the error for a server that does not speak the protocol."""
    return errors.BadData(f"what the INDI server sent cannot be read: {why}",
                          "look whether host and port are those of an indiserver")


def _decoded(text: str) -> str:
    """Return what was read as Latin-1 as the UTF-8 that it is, if it is."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _value(kind: str, text: str) -> Value:
    if kind == "Number":
        return number(text)
    return text == "On" if kind == "Switch" else text


def number(text: str) -> float:
    """Return a number, plain or sexagesimal (``-12:30:36``); NaN for what is neither.

    A sexagesimal number has up to three parts, separated by blanks, colons or semicolons; the sign
    is that of the whole, as in ``-0:30`` (white paper, "Numbers").
    """
    parts = _BETWEEN.split(text.strip())
    try:
        values = [float(part) for part in parts]
    except ValueError:
        return math.nan
    if len(values) == 1:
        return values[0]
    if len(values) > 3 or any(part.startswith(("-", "+")) for part in parts[1:]):
        return math.nan
    size = sum(abs(value) / math.pow(60, power) for power, value in enumerate(values))
    return -size if parts[0].startswith("-") else size


def get_properties(device: str = "", name: str = "") -> bytes:
    """Return the request to be told properties, and all their changes from now on."""
    return _tag("getProperties", version="1.7", device=device, name=name, close="/")


def enable_blob(how: str, device: str, name: str = "") -> bytes:
    """Return the request for BLOBs on this connection.

    Args:
        how: ``Never``, ``Also`` or ``Only``.
        device: whose.
        name: of the property; empty for all of them.
    """
    return _tag("enableBLOB", device=device, name=name) + f"{how}</enableBLOB>".encode()


def new(kind: str, device: str, name: str, elements: Mapping[str, Value]) -> bytes:
    """Return the command that gives elements of a property new values.

    Args:
        kind: Number, Text or Switch.
        device: whose.
        name: of the property.
        elements: by name; a switch's is true or false.
    """
    ones = b"".join(_tag(f"one{kind}", name=element) + escape(_written(value)).encode()
                    + f"</one{kind}>".encode() for element, value in elements.items())
    return _tag(f"new{kind}Vector", device=device, name=name) + ones + (
        f"</new{kind}Vector>\n".encode())


def _tag(tag: str, close: str = "", **attributes: str) -> bytes:
    told = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items() if value)
    return f"<{tag}{told}{close}>".encode()


def _written(value: Value) -> str:
    if isinstance(value, bool):
        return "On" if value else "Off"
    return f"{value:.17g}" if isinstance(value, float) else str(value)

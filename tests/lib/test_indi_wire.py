"""The stream of an INDI server: what it means, and what is refused before it does harm."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from daq_ctl.sources.indi import wire
from daq_ctl.sources.indi.client import address
from daqlib import errors

NUMBERS = (b'<defNumberVector device="CCD" name="GAIN" state="Idle" perm="rw" timestamp="t">'
           b'<defNumber name="A" format="%g" min="0" max="9" step="1">\n 1.5\n</defNumber>'
           b'<defNumber name="B">-0:30</defNumber></defNumberVector>')


def bytewise(data: bytes) -> list[wire.Message]:
    stream = wire.Stream()
    return [message for byte in data for message in stream.feed(bytes([byte]))]


@pytest.mark.parametrize("read", [bytewise, lambda data: wire.Stream().feed(data)])
def test_elements_without_a_root_become_messages(read: object) -> None:
    assert callable(read)
    made = read(
        NUMBERS
        + b'<setSwitchVector device="CCD" name="S" state="Ok"><oneSwitch name="X">On</oneSwitch>'
          b'<oneSwitch name="Y">\nOff\n</oneSwitch></setSwitchVector>\n'
        + b'<setTextVector device="CCD" name="T"><oneText name="E">a &lt; b</oneText>'
          b'</setTextVector><setLightVector device="W" name="L" state="Alert" message="wet">'
          b'<oneLight name="RAIN">Alert</oneLight></setLightVector>'
        + b'<message device="CCD" message="hello"/><delProperty device="CCD"/>')
    assert [(each.what, each.kind, each.device, each.name) for each in made] == [
        ("def", "Number", "CCD", "GAIN"), ("set", "Switch", "CCD", "S"),
        ("set", "Text", "CCD", "T"), ("set", "Light", "W", "L"),
        ("message", "", "CCD", ""), ("del", "", "CCD", "")]
    assert [each.elements for each in made[:4]] == [
        {"A": 1.5, "B": -0.5}, {"X": True, "Y": False}, {"E": "a < b"}, {"RAIN": "Alert"}]
    assert made[0].attributes["perm"] == "rw" and made[3].attributes["message"] == "wet"


def test_what_other_clients_ask_is_no_message() -> None:
    assert wire.Stream().feed(
        b'<getProperties version="1.7"/><enableBLOB device="CCD">Also</enableBLOB>'
        b'<newNumberVector device="CCD" name="GAIN"><oneNumber name="A">9</oneNumber>'
        b'</newNumberVector><pingRequest uid="1"/>') == []


@pytest.mark.parametrize(("text", "value"), [
    ("1", 1.0), (" -2.5e3 ", -2500.0), ("12:30", 12.5), ("-12:30:36", -12.51), ("-0:30", -0.5),
    ("12 30 36", 12.51), ("12;30;36.0", 12.51), ("+1:30", 1.5), ("0:0:-1", math.nan),
    ("1:2:3:4", math.nan), ("", math.nan), ("high", math.nan), ("1,5", math.nan)])
def test_numbers_are_plain_or_sexagesimal(text: str, value: float) -> None:
    assert wire.number(text) == pytest.approx(value, nan_ok=True)


def test_text_is_utf8_or_else_latin1() -> None:
    for encoding in ("utf-8", "latin-1"):
        data = ('<setTextVector device="Caméra" name="T"><oneText name="E">20 °C</oneText>'
                "</setTextVector>").encode(encoding)
        (made,) = wire.Stream().feed(data)
        assert (made.device, made.elements) == ("Caméra", {"E": "20 °C"})


@pytest.mark.parametrize("data", [
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n<html><p>no</html>",
    b'<!DOCTYPE a [<!ENTITY x "y">]><message device="&x;"/>',
    b"<message device='&x;'/>",
    b"</indi><indi>",
    b"<setTextVector device='a'></setNumberVector>",
    b"\0\0\0",
    b"<defTextVector device='a' name='b'><defText name='c'><d><e/></d></defText></defTextVector>",
    b"<a>" * 100])
def test_what_is_no_indi_is_refused(data: bytes) -> None:
    with pytest.raises(errors.BadData, match="what the INDI server sent cannot be read"):
        wire.Stream().feed(data)


@pytest.mark.parametrize(("head", "more"), [
    (b"<message message='", b"x" * 8192),
    (b"<!--", b"x" * 8192),
    (b"<defTextVector device='a' name='b'><defText name='c'>", b"x" * 8192),
    (b"<defNumberVector device='a' name='b'>", b"".join(
        b"<defNumber name='%d'>1</defNumber>" % number for number in range(512)))])
def test_what_never_ends_is_refused(head: bytes, more: bytes) -> None:
    stream = wire.Stream()
    stream.feed(head)
    with pytest.raises(errors.BadData):
        for number in range(100):
            stream.feed(more.replace(b"name='", b"name='%d-" % number))


def test_blanks_without_end_are_harmless() -> None:
    stream = wire.Stream()
    for _ in range(1000):
        assert stream.feed(b" \n" * 4096) == []
    assert len(stream.feed(NUMBERS)) == 1


class Pieces:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.told: list[str] = []

    def begin(self, vector: wire.Message, attributes: Mapping[str, str]) -> None:
        self.told += [vector.device, attributes["format"]]

    def take(self, text: str) -> None:
        self.sizes.append(len(text))

    def end(self) -> None:
        self.told.append("end")


def test_a_blob_is_given_away_in_pieces_or_passed_over() -> None:
    head = (b'<setBLOBVector device="CCD" name="CCD1" state="Ok"><oneBLOB name="CCD1" size="9" '
            b'format=".fits">')
    for sink in (Pieces(), None):
        stream = wire.Stream(sink)
        stream.feed(head)
        for _ in range(100):
            assert stream.feed(b"QUJD" * 16384) == []
        (made,) = stream.feed(b"</oneBLOB></setBLOBVector>")
        assert (made.kind, made.name, made.elements) == ("BLOB", "CCD1", {})
        if sink:
            assert (sum(sink.sizes), sink.told) == (100 * 65536, ["CCD", ".fits", "end"])
            assert max(sink.sizes) <= 65536


def test_commands_say_what_is_meant_whatever_the_words() -> None:
    assert wire.get_properties("A & <B>") == (
        b'<getProperties version="1.7" device="A &amp; &lt;B&gt;"/>')
    assert wire.enable_blob("Only", "C", "D") == (
        b'<enableBLOB device="C" name="D">Only</enableBLOB>')
    made = wire.new("Text", "C", "P", {"a": 'x"<&', "b": "c"})
    assert made == (b'<newTextVector device="C" name="P"><oneText name="a">x"&lt;&amp;</oneText>'
                    b'<oneText name="b">c</oneText></newTextVector>\n')
    assert b">On<" in wire.new("Switch", "C", "P", {"a": True})
    assert b">0.1000000000000000" in wire.new("Number", "C", "P", {"a": 0.1})


@pytest.mark.parametrize(("uri", "made"), [
    ("indi://host/A%20B", ("host", 7624, "A B", "indi://host:7624/A%20B")),
    ("indi://Host:1?x=1", ("Host", 1, "", "indi://host:1/")),
    ("indi://127.1/a%2Fb", ("127.1", 7624, "a/b", "indi://127.0.0.1:7624/a%2Fb"))])
def test_an_address_has_one_spelling(uri: str, made: tuple[str, int, str, str]) -> None:
    assert address(uri) == made


@pytest.mark.parametrize("uri", [
    "indi://", "indi:///CCD", "indi://h:0/x", "indi://h:99999/x", "indi://-h/x", "indi://u@h/x",
    "indi://h/a/b", "indi://h/%ff", "indi://h/a%0Ab", "indi://h/" + "x" * 300, "http://h/x"])
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(errors.BadData, match="not allowed"):
        address(uri)

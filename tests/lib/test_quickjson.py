"""Documents are read without ``json``, and exactly as the strict reader does it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqlib import quickjson, strictjson

SCALARS = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
           | st.sampled_from([10 ** 299, 10 ** 300, -10 ** 300, 1e308, "\ud800", "\\ud83d", "a\n"]))
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.text(max_size=3), inner, max_size=4), max_leaves=20)


def outcome(text: bytes, loads: object) -> object:
    try:
        return repr(loads(text))  # type: ignore[operator]
    except ValueError as error:
        return type(error), str(error)


def test_the_scanner_is_there() -> None:
    assert quickjson.make_scanner is not None


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]))
def test_reads_as_the_strict_reader(document: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "surrogatepass")
    assert outcome(text, quickjson.loads) == outcome(text, strictjson.loads)


@given(DOCUMENTS, st.data())
def test_refuses_as_the_strict_reader(document: object, data: st.DataObject) -> None:
    text = json.dumps(document).encode()
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.sampled_from([b"", b"{", b"]", b",", b'"', b"1", b"e9", b"e999", b"-", b"\\",
                                     b"\xff", b"\xef\xbb\xbf", b"NaN", b"\x00", b'"a":1,', b" "]))
    broken = text[:at] + put + text[at + cut:]
    assert outcome(broken, quickjson.loads) == outcome(broken, strictjson.loads)


@pytest.mark.parametrize("text", [
    b"", b" ", b"{", b"1 2", b"\xff", b"NaN", b"[-Infinity]", b"1e309", b"-1e309", b'{"a":1,"a":1}',
    b"1" * 300, b"1" * 301, b"-" + b"1" * 300, b"-" + b"1" * 301, b"1" * 5000, b'"\\ud800"',
    b'"\\ud83d\\ude00"', b'"\\uDC00"', b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"\t[ ]\r\n",
    b"\x0b1", b'"\n"', b"1.0e-400", b"-0", b"-0.0", b"01", b"[1,]", b"tru",
    *(b"[" * depth + b"]" * depth for depth in (63, 64, 65, 66, 500, 100_000)),
    *(b"[" * depth + b"1" + b"]" * depth for depth in (63, 64, 65, 66)),
    b'{"a":' * 64 + b"1" + b"}" * 64, b'{"a":' * 65 + b"1" + b"}" * 65, b'{"a":' * 100_000])
def test_bounds(text: bytes) -> None:
    assert outcome(text, quickjson.loads) == outcome(text, strictjson.loads)


def test_the_bounds_are_those_of_the_strict_reader() -> None:
    assert (quickjson.DEPTH, quickjson.DIGITS) == (strictjson.DEPTH, strictjson.DIGITS)


def test_a_python_without_the_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickjson, "make_scanner", None)
    assert quickjson.loads(b'{"a": [1, 2.5]}') == {"a": [1, 2.5]}
    with pytest.raises(ValueError, match="occurs twice"):
        quickjson.loads(b'{"a": 1, "a": 2}')

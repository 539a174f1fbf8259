from __future__ import annotations

import pytest

from daqlib import strictjson


@pytest.mark.parametrize(("text", "value"), [
    (b'{"a": [1, -2.5, "\\u00e9\\ud83d\\ude00", null, true]}', {"a": [1, -2.5, "é😀", None, True]}),
    ("7", 7), (b" [] ", []), ('"\\u0000"', "\0"),
    ("[" * 64 + "]" * 64, None), ("1" + "0" * 299, 10 ** 299), ("-1e308", -1e308),
])
def test_reads(text: bytes | str, value: object) -> None:
    made = strictjson.loads(text)
    assert value is None or made == value


@pytest.mark.parametrize(("text", "why"), [
    (b"", "Expecting value"), (b"{", "Expecting"), (b"1 2", "Extra data"), (b"\xff", "utf-8"),
    ("NaN", "NaN is no number"), ("[-Infinity]", "-Infinity is no number"),
    ("1e309", "1e309 is too large"), ("1" + "0" * 300, "more than 300 digits"),
    ("1" * 5000, "more than 300 digits"),
    ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' occurs twice"),
    ("[" * 66 + "]" * 66, "64 levels"), ('{"a":' * 100_000, "64 levels"),
    ("[" * 500 + "]" * 500, "64 levels"),
    (b'"\\ud800"', "surrogate"), (b'{"\\uDfff": 1}', "surrogate"), ('"\ud800"', "surrogate"),
    (b"\xef\xbb\xbf{}", "BOM"), ("{}".encode("utf-16"), "utf-8"),
])
def test_refuses(text: bytes | str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("+", r"\+")):
        strictjson.loads(text)

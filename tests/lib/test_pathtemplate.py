"""Path templates: what they may say, and that no header leads out of a directory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daqlib import errors, pathtemplate

FACTS = {"fileId": "X.2026", "id": "J", "prefix": "", "instrument": "X"}


@pytest.mark.parametrize(("template", "told"), [
    ("", "is no text"), (7, "is no text"), ("/a", "component ''"), ("a//b", "component ''"),
    ("a/", "component ''"), ("..", "component '..'"), ("a/../b", "component '..'"),
    (".a", "component '.a'"), ("-a", "component '-a'"), ("a/.{OBJECT}", "component '.x'"),
    ("{DAY:%Y//%m}", "component ''"), ("{DAY:%Y/.%m}", "component '.x'"),
    ("{object}", "names nothing"), ("{}", "names nothing"), ("{TOOLONGNAME}", "names nothing"),
    ("{a{b}}", "not allowed"), ("a}", "not allowed"), ("{A", "not allowed"),
    ("a b", "not allowed"), ("a\nb", "not allowed"), ("a\\b", "not allowed"), ("*", "not allowed"),
    ("ä", "not allowed"), ("{DAY:%q}", "formats no date"), ("{DAY:%}", "formats no date"),
    ("{DAY:y}", "formats no date"), ("{fileId:%Y}", "formats no date"),
    ("{OBJECT|../x}", "default"), ("{OBJECT|.x}", "default"), ("{OBJECT|-x}", "default"),
    ("authorized_keys2", "does not end in .fits"), ("{fileId}.json", "does not end in .fits"),
    ("{OBJECT|x.fits}", "does not end in .fits"), ("x.fits/y", "does not end in .fits"),
])
def test_refused(template: str, told: str) -> None:
    with pytest.raises(errors.BadData, match=told):
        pathtemplate.check(template)


@pytest.mark.parametrize(("template", "path"), [
    ("{fileId}", "X.2026"), ("{prefix}{id}", "J"),
    ("{HIERARCH ESO DET NAME}-{ESO.DET.NAME}", "red-red"),
    ("{DAY:%Y%m%d}/{DAY:%j}", "20240229/060"), ("{DAY:%Y/%m/%d}", "2024/02/29"),
    ("{TIME:%Y-%m-%dT%H-%M-%S}", "2024-02-29T23-59-60"), ("{TIME}", "2024-02-29T23:59:60.5"),
    ("{N}_{X}_{T}_{Z|none}_{NONE|0}", "7_1.5_T_none_0"), ("{UP}/x", "__.._etc/x"),
    ("{OPT}", "_rf"), ("{TEXT}", "a_b_c__"),
])
def test_rendered(template: str, path: str) -> None:
    values = {**FACTS, "ESO DET NAME": " red ", "DAY": "2024-02-29", "N": 7, "X": 1.5, "T": True,
              "TIME": "2024-02-29T23:59:60.5", "Z": "  ", "UP": "./../etc", "OPT": "-rf",
              "TEXT": "a b\x7fcä$"}
    made = pathtemplate.render(pathtemplate.check(f"{template}.fits"), values.get)
    assert made == f"{path}.fits"


@pytest.mark.parametrize(("value", "told"), [
    ("29/02/24", "no date"), ("2023-02-29", "no date"), ("2024-1-1", "no date"),
    ("2024-02-29T23", "no date"), (7, "no date"), ("2024-02-29", "no time of day"),
])
def test_no_date(value: object, told: str) -> None:
    with pytest.raises(errors.BadData, match=f"^DAY is .*{told}"):
        pathtemplate.render("{DAY:%Y/%H}", {"DAY": value}.get)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(errors.BadData, match="no value of ESO DET NAME"):
        pathtemplate.render("{ESO.DET.NAME}", FACTS.get)


def test_too_long() -> None:
    with pytest.raises(errors.BadData, match="too long"):
        pathtemplate.render("{A}{A}{A}", {"A": "x" * 100}.get)
    with pytest.raises(errors.BadData, match="is too long"):
        pathtemplate.render(pathtemplate.check("{A}/" * 20 + "x.fits"), {"A": "x" * 80}.get)
    assert pathtemplate.check("a/" * 497 + "x.fits")
    with pytest.raises(errors.BadData, match="it is too long"):
        pathtemplate.check("a/" * 498 + "x.fits")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_value_leads_anywhere_else(first: str, second: str) -> None:
    try:
        path = pathtemplate.render("a/{A|x}/{B|y}{A|x}/{C|z}", {"A": first, "B": second}.get)
    except errors.BadData:
        return
    components = path.split("/")
    assert len(components) == 4 and components[0] == "a" and components[3] == "z"
    for component in components:
        assert component and component.isascii() and component.isprintable()
        assert component[0] not in ".-" and " " not in component

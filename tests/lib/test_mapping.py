"""Tables of keywords: what a row means, and what is refused of it before anything starts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from daq_ctl.sources import mapping
from daq_ctl.sources.indi.items import Item
from daq_ctl.sources.mapping import Row
from daq_ctl.sources.options import Options
from daq_ctl.sources.readings import Reading, Span, Value
from daqlib import cardlayout, errors
from harness import CHECKOUT


def rows(*given: dict[str, Any], **options: Any) -> list[Row]:
    return mapping.of_options(Options("m", "", {"keywords": list(given), **options}), "pv")


def row(**members: Any) -> Row:
    (made,) = rows({"pv": "x", "keyword": "TEMP", **members})
    return made


def keyword(value: Value | None, flag: str = "", source_unit: str = "", *, keep: bool = True,
            **members: Any) -> tuple[Any, str]:
    made = row(**members)
    return made.keyword_of(made.converted(Reading(value, flag, source_unit)), keep=keep)


def card(value: Value, flag: str = "", source_unit: str = "", **members: Any) -> str:
    made, _ = keyword(value, flag, source_unit, **members)
    return b"".join(cardlayout.of_json(made, "test", lambda _: None)).decode().rstrip()


@pytest.mark.parametrize(("value", "members", "wanted"), [
    (1.5, {}, 1.5), (3, {}, 3), (True, {}, True), ("on  ", {}, "on"),
    (3.0, {"type": "integer"}, 3), ("4", {"type": "integer"}, 4), (3.7, {"format": "%d"}, 4),
    (2, {"type": "float"}, 2.0), ("1.5", {"format": "%.2f"}, 1.5),
    (3.0, {"type": "string"}, "3"), (True, {"type": "string"}, "true"),
    (1.0, {"type": "boolean"}, True), (0, {"format": "%c"}, False),
    (12.0, {"scale": 15}, 180.0), (20, {"scale": 1.8, "add": 32}, 68.0),
    (289.6, {"wrap": 180}, -70.4), (-70.4, {"wrap": 180}, -70.4), (180.0, {"wrap": 180}, -180.0),
    (-10.0, {"wrap": 360}, 350.0), (360, {"wrap": 360}, 0), (25.0, {"wrap": 24}, 1.0),
    (-1e-17, {"wrap": 360}, 0), (24.5, {"scale": 15, "wrap": 360}, 7.5),
    (2.0, {"names": {2: "V"}}, "V"), ("OPEN", {"names": {"OPEN": True}}, True),
    (False, {"names": {False: "shut"}}, "shut"), (9.0, {"names": {2: "V"}}, 9.0),
    ("V", {"names": {"V": 1}, "scale": 2.5}, 2.5), ("Zürich\n", {}, "Z?rich?")])
def test_values(value: Value, members: dict[str, Any], wanted: Value) -> None:
    made, remark = keyword(value, **members)
    assert made["value"] == pytest.approx(wanted) and type(made["value"]) is type(wanted)
    assert remark == ""


@pytest.mark.parametrize(("value", "members", "why"), [
    (None, {}, "TEMP is left out: x has no value"),
    ("warm", {"type": "float"}, "'warm' is no number"),
    ("nan", {"type": "float"}, "FITS has no NaN"), ("inf", {"type": "integer"}, "is no number"),
    (1e308, {"scale": 1e10}, "x has no value (NO NUMBER)"),
    (2, {"type": "boolean"}, "2 is neither true nor false"),
    ("maybe", {"format": "%c"}, "'maybe' is neither true nor false"),
    (1e30, {"type": "integer"}, "at most 64 bits"),
    (-1, {"format": "%u"}, "no negative number"),
    ("longer", {"format": "%.3s"}, "allows 3")])
def test_what_no_card_can_hold_is_left_out_and_told(
        value: Value | None, members: dict[str, Any], why: str) -> None:
    made, remark = keyword(value, **members)
    assert made is None
    assert remark.startswith("TEMP is left out: x") and why in remark


def test_a_card() -> None:
    assert card(1.5, "", "degC", comment="outside", format="%.2f") == (
        "TEMP    =                 1.50 / [degC] outside")
    assert card(1.5, "", "degC", unit="K") == "TEMP    =                  1.5 / [K]"
    assert card(True, keyword="HIERARCH ESO TEL TRACK") == (
        "HIERARCH ESO TEL TRACK       =            T")


@pytest.mark.parametrize("members", [{"scale": 0.001}, {"add": 273.15}])
def test_a_number_that_is_scaled_has_the_unit_of_its_row_only(members: dict[str, Any]) -> None:
    assert keyword(1.5, "", "mm", **members)[0].get("comment") is None
    assert keyword(1.5, "", "mm", unit="m", **members)[0]["comment"] == "[m]"


def test_a_flagged_value_says_so_before_the_comment() -> None:
    assert card(1.5, "ALERT", "K", comment="outside") == (
        "TEMP    =                  1.5 / [K] ALERT: outside")
    assert card(1.5, "ALERT") == "TEMP    =                  1.5 / ALERT"
    assert keyword(1.5, "ALERT")[1] == "TEMP: x is flagged ALERT"
    assert keyword(1.5, "ALERT", keep=False) == (None, "TEMP is left out: x is flagged ALERT")


def test_a_flag_is_shown_or_the_value_is_left_out() -> None:
    name = "ESO INS A VERY LONG NAME OF IT"
    assert card("y" * 25, "LOST", "mm", keyword=name, comment="words").endswith("' / LOST")
    assert card(1.23456789, "ALERT, LOST, 2 s MISSING STALE 7 s", "units", keyword=name).endswith(
        "= 1.23456789 / ALERT, LOST, 2 s MISSING")
    assert keyword("y" * 36, "LOST", keyword=name)[0] is None
    assert "no room for its flag LOST" in keyword("y" * 36, "LOST", keyword=name)[1]
    assert keyword("y" * 36, "", "mm", keyword=name)[0]["value"] == "y" * 36
    assert "LOST" in card("y" * 90, "LOST", "mm", keyword=name, comment="words")


def test_several_moments_of_one_row() -> None:
    made = rows({"pv": "x", "keyword": "ESO TEL AIRM {when}", "when": ["start", "end"]},
                {"pv": "x", "keyword": "RA-{when}", "when": "mean"})
    assert [(each.keyword, each.when) for each in made] == [
        ("ESO TEL AIRM START", "start"), ("ESO TEL AIRM END", "end"), ("RA-MEAN", "mean")]


def test_a_span_is_of_converted_numbers() -> None:
    made = row(when="max", scale=-1)
    span = made.span()
    for now, value in enumerate((1.0, 5.0, 3.0)):
        span.add(made.converted(Reading(value)), now)
    assert span.over("max", Reading()).value == -1.0


@pytest.mark.parametrize(("wrap", "turn"), [(0, 0), (24, 24), (180, 360), (360, 360)])
def test_one_turn(wrap: int, turn: int) -> None:
    assert row(wrap=wrap).span() == Span(turn)


def test_the_mean_of_an_angle_comes_back_into_its_bounds() -> None:
    made = row(when="mean", wrap=360)
    span = made.span()
    for now, value in enumerate((359.0, 2.0, 2.0)):
        span.add(made.converted(Reading(value)), now)
    found, _ = made.keyword_of(span.over("mean", Reading()), keep=True)
    assert found and found["value"] == pytest.approx(0.5)


@pytest.mark.parametrize(("members", "why"), [
    ({"keyword": "temp"}, "A-Z 0-9"), ({"keyword": "INS TEMP"}, "A-Z 0-9"),
    ({"keyword": "LONGERTHAN8"}, "A-Z 0-9"), ({"keyword": "NAXIS1"}, "structure"),
    ({"keyword": "END"}, "no value"), ({"keyword": ""}, "no keyword"),
    ({"keyword": 5}, "no keyword"), ({"pv": None}, "no pv"), ({"pv": "a\nb"}, "no pv"),
    ({"colour": 1}, "colour is not known, but"), ({5: 1}, "5 is not known"),
    ({"when": "noon"}, "when is not one"), ({"when": []}, "when is not one"),
    ({"when": [["start"]]}, "when is not one"),
    ({"when": ["start", "end"]}, "put {when}"), ({"type": "double"}, "type is not one"),
    ({"type": ["float"]}, "type is not one"),
    ({"format": "%g"}, "use %f"), ({"format": "%x"}, "no conversion"), ({"format": 3}, "ASCII"),
    ({"type": "string", "format": "%.3f"}, "format"), ({"unit": "µm"}, "printable ASCII"),
    ({"comment": "a\nb"}, "printable ASCII"), ({"scale": "2"}, "scale is no number"),
    ({"scale": float("inf")}, "scale is no number"), ({"add": True}, "add is no number"),
    ({"wrap": 90}, "wrap is not one"), ({"maxAge": -1}, "negative"),
    ({"required": "yes"}, "required is neither"), ({"names": ["a"]}, "no table"),
    ({"names": {"a": None}}, "no table")])
def test_a_row_that_is_not_right_is_refused(members: dict[Any, Any], why: str) -> None:
    with pytest.raises(errors.BadData) as caught:
        rows({"pv": "x", "keyword": "GOOD"}, {"pv": "x", "keyword": "TEMP", **members})
    assert "row 2" in caught.value.message and why in caught.value.message
    assert "docs/metadata.md" in caught.value.remedy


def test_a_keyword_is_there_once() -> None:
    with pytest.raises(errors.BadData, match="TEMP is there twice"):
        rows({"pv": "x", "keyword": "TEMP"}, {"pv": "y", "keyword": "TEMP"})


def test_there_is_a_limit_to_the_rows() -> None:
    with pytest.raises(errors.BadData, match="at most"):
        rows(*({"pv": "x", "keyword": f"K{number}"} for number in range(2001)))


# -- the page -------------------------------------------------------------------------------------


def test_examples_of_the_page_are_right(configured: Path) -> None:
    page = (CHECKOUT / "docs" / "metadata.md").read_text()
    found = re.findall(r"^```yaml (indi|epics)\n(.*?)^```$", page, re.M | re.S)
    assert len(found) == page.count("```yaml") > 2
    for kind, text in found:
        write(configured / "page.yaml", text)
        member = {"indi": "property", "epics": "pv"}[kind]
        for each in mapping.of_file("page.yaml", member):
            assert kind != "indi" or str(Item.parse(each.item, "")) == each.item


def test_the_page_tells_every_member() -> None:
    page = (CHECKOUT / "docs" / "metadata.md").read_text()
    told = re.findall(r"^\| (`.*?) \|", page.partition("## Flags")[0], re.M)
    members = set(re.findall(r"`(\w+)`", " ".join(told)))
    assert members == {*mapping.MEMBERS, "property", "pv"}


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CFGPATH", str(tmp_path))
    return tmp_path


def write(path: Path, text: str | bytes) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def test_a_file_and_rows_of_the_job_which_win(configured: Path) -> None:
    write(configured / "site.yaml", "keywords:\n- {pv: a, keyword: A}\n- {pv: b, keyword: B}\n")
    made = rows({"pv": "other", "keyword": "B"}, mapping="site.yaml")
    assert {each.keyword: each.item for each in made} == {"A": "a", "B": "other"}


def test_an_operators_link_is_followed(configured: Path) -> None:
    write(configured / "one.yaml", "- {pv: a, keyword: A}")
    (configured / "two.yaml").symlink_to("one.yaml")
    assert [each.keyword for each in rows(mapping="two.yaml")] == ["A"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.yaml", "a/../../b", "a\0b", "a\nb"])
def test_a_job_names_no_file_elsewhere(configured: Path, name: str) -> None:
    with pytest.raises(errors.BadData):
        rows(mapping=name)


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)),
                  ""])


@pytest.mark.parametrize(("text", "why"), [
    ("", "no list of rows"), ("a: b", "no list of rows"), ("keywords: 5", "no list of rows"),
    ("- [", "wrong as YAML"), ("\tx", "wrong as YAML"),
    (b"\xff\xfe\x00", "wrong as YAML"),
    ("!!python/object:os.system {}", "wrong as YAML"), ("- 5", "row 1: this is no row"),
    ("[" * 5000, "nested too deeply"), ("[" * 200_000, "nested too deeply"),
    ("- pv: x\n  keyword: A\n  pv: y\n  keyword: B\n", "pv is there twice"),
    ("- {pv: x, keyword: A, add: -24:30:00}", "-24:30:00 is no number"),
    (BOMB + "keywords: [*a59]", "row 1: this is no row"),
    (BOMB + "keywords: [{pv: x, keyword: A, unit: *a59}]", "row 1: unit is no printable"),
    ("#" * 300_000, "cannot be read")])
def test_a_file_that_is_not_right_is_refused(
        configured: Path, text: str | bytes, why: str) -> None:
    write(configured / "bad.yaml", text)
    with pytest.raises(errors.BadData) as caught:
        rows(mapping="bad.yaml")
    assert why in caught.value.message and len(caught.value.message) < 1000


def test_what_is_no_file_is_refused(configured: Path) -> None:
    os.mkfifo(configured / "pipe.yaml")
    for name in ("pipe.yaml", "none.yaml"):
        with pytest.raises(errors.BadData, match="not found"):
            rows(mapping=name)

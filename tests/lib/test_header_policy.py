"""What a header policy may say, and what the merger makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daq_merge import explain
from daq_merge.plan import BadSpecification, Plan, plan
from daqlib import cardvalue, dictionary, errors, headerpolicy
from harness import CHECKOUT
from merge_samples import eso, file_source, keyword_source, literal, primary, specification, value

OBJECT = {"name": "OBJECT", "type": "string", "required": True, "default": "UNKNOWN",
          "source": "tcs"}
RA = {"name": "RA", "type": "float", "required": True, "unit": "deg", "comment": "right ascension",
      "source": "tcs", "min": 0, "max": 360}
HUMIDITY = {"name": "TEL AMBI RHUM", "type": "float", "default": -1, "source": "weather"}


def table(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"file": "p.yaml", "keywords": list(entries)}


def planned(*sources: dict[str, Any], policy: dict[str, Any], **more: Any) -> Plan:
    return plan(specification(*sources, headerPolicy=policy, **more), "/")


def cards(made: Plan) -> list[str]:
    return [card.decode().rstrip() for keyword in made.merged for card in keyword.cards]


def alerts(made: Plan) -> dict[str, tuple[str, str]]:
    return {alert["id"]: (alert["severity"], alert["description"]) for alert in made.alerts}


# -- missing ---------------------------------------------------------------------------------------


def test_what_nobody_gives_is_written_and_told() -> None:
    made = planned(keyword_source("k", value("AIRMASS", 1.5), eso("INS MODE", "IMG")),
                   policy=table(OBJECT, RA, HUMIDITY))
    assert cards(made) == [
        "AIRMASS =                  1.5", "OBJECT  = 'UNKNOWN '",
        "RA      =                      / [deg] right ascension",
        "HIERARCH ESO TEL AMBI RHUM   =         -1.0", "HIERARCH ESO INS MODE        = 'IMG     '"]
    assert alerts(made) == {
        "header-missing": ("error", "required keywords are missing: OBJECT, RA (tcs); their null "
                           "values were written (policy p.yaml)"),
        "header-default": ("warning", "keywords are missing: TEL AMBI RHUM (weather); their "
                           "defaults were written (policy p.yaml)")}


def test_what_is_given_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "t.fits").write_bytes(primary("RA      =                 12.5 / mine"))
    made = planned(keyword_source("k", literal("OBJECT  = 'M 31'"), eso("TEL AMBI RHUM", 40)),
                   policy=table(OBJECT, RA, HUMIDITY, {"name": "ARCFILE", "type": "string"},
                                {"name": "CHECKSUM", "type": "string", "required": True},
                                {"name": "DATE", "type": "string", "required": True}),
                   target=file_source("t", tmp_path / "t.fits"))
    assert alerts(made) == {} and [source.spec["sourceName"] for source in made.sources] == [
        "t", "k"]
    assert "RA      =                 12.5 / mine" in cards(made)


def test_an_optional_keyword_without_default_is_only_checked() -> None:
    entry = {"name": "GAIN", "type": "float", "max": 10}
    assert cards(planned(policy=table(entry))) == [] == list(alerts(planned(policy=table(entry))))
    assert "GAIN = 11 is more than 10.0" in alerts(planned(
        keyword_source("k", value("GAIN", 11)), policy=table(entry)))["header-invalid"][1]


def test_the_two_kinds_of_a_name_are_two_keywords() -> None:
    made = planned(keyword_source("k", value("OBJECT", "M 31")), policy=table(
        {"name": "HIERARCH ESO OBJECT", "type": "string", "default": "none"},
        {"name": "HIERARCH ESO DATE", "type": "string", "default": "never"}))
    assert cards(made) == [
        "OBJECT  = 'M 31    '", "HIERARCH ESO DATE            = 'never   '",
        "HIERARCH ESO OBJECT          = 'none    '"]


def test_a_keyword_without_value(tmp_path: Path) -> None:
    (tmp_path / "t.fits").write_bytes(primary("OBJECT  =", "GAIN    =       / unknown"))
    made = planned(policy=table(OBJECT, {"name": "GAIN", "type": "float"}),
                   target=file_source("t", tmp_path / "t.fits"))
    assert alerts(made).keys() == {"header-missing"}
    assert cards(made) == ["OBJECT  =", "GAIN    =       / unknown"]


def test_a_long_default_goes_on_in_further_cards() -> None:
    made = planned(policy=table({"name": "REMARK", "type": "string", "default": "x" * 100}))
    assert len(cards(made)) == 2 and made.own[0].name == "LONGSTRN"


def test_a_rule_of_the_source_can_take_a_keyword_away() -> None:
    made = planned(keyword_source("k", value("RA", 1.5), keywordRules=[]), policy=table(RA))
    assert "RA (tcs)" in alerts(made)["header-missing"][1]


def test_many_missing_keywords_make_one_alert() -> None:
    made = planned(policy=table(*({"name": f"K{n}", "type": "integer", "default": n}
                                  for n in range(120))))
    ((name, (_, text)),) = alerts(made).items()
    assert name == "header-default" and "K0, K1, " in text and "K99; and 20 more; " in text


# -- wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "given", "why"), [
    ({"type": "string"}, 5, "5 is not a string"),
    ({"type": "integer"}, 5.0, "5.0 is not an integer"),
    ({"type": "integer"}, True, "True is not an integer"),
    ({"type": "float"}, "5", "'5' is not a number"),
    ({"type": "float"}, False, "False is not a number"),
    ({"type": "boolean"}, 1, "1 is not true or false"),
    ({"type": "float", "min": 0}, -1, "-1 is less than 0.0"),
    ({"type": "integer", "max": 3}, 4, "4 is more than 3"),
    ({"type": "string", "values": ["A", "B"]}, "C", "'C' is none of 'A', 'B'"),
    ({"type": "integer", "values": [1, 2]}, 3, "3 is none of 1, 2"),
    ({"type": "string"}, "A", ""), ({"type": "integer", "min": 0, "max": 0}, 0, ""),
    ({"type": "float", "min": 0, "max": 5}, 5, ""), ({"type": "boolean"}, False, ""),
    ({"type": "string", "values": ["A"]}, "A", ""), ({"type": "string"}, "y" * 100, "")])
def test_a_value_that_is_not_allowed_is_kept_and_told(entry: dict[str, Any], given: Any, why: str,
                                                      ) -> None:
    made = planned(keyword_source("k", value("KEY", given)), policy=table({"name": "KEY", **entry}))
    assert cards(made)[0].startswith("KEY     = ")
    if not why:
        assert alerts(made) == {}
        return
    severity, text = alerts(made)["header-invalid"]
    assert severity == "warning" and text == (
        f"values are not allowed: KEY = {why}; they were kept (policy p.yaml)")


@pytest.mark.parametrize("card", ["KEY     = 12abc", "KEY     = 'open", "KEY     = (1.5, 2)"])
def test_a_value_of_a_file_that_nobody_can_read(tmp_path: Path, card: str) -> None:
    (tmp_path / "t.fits").write_bytes(primary(card))
    made = planned(policy=table({"name": "KEY", "type": "float", "required": True}),
                   target=file_source("t", tmp_path / "t.fits"))
    assert alerts(made).keys() == {"header-invalid"} and cards(made) == [card]


# -- told ------------------------------------------------------------------------------------------


def test_an_explanation_names_the_policy() -> None:
    made = planned(keyword_source("k", value("AIRMASS", 1.5)), policy=table(OBJECT))
    told = {item["name"]: item for item in explain.document(made)["keywords"]}
    assert (told["OBJECT"]["source"], told["OBJECT"]["rule"]) == ("policy", "no source gives it")
    assert explain.document(made)["sources"][-1] == {"name": "policy", "priority": 2, "keywords": 1}


# -- the table -------------------------------------------------------------------------------------

WRONG = [
    ({"type": "string"}, "has no name"), ("OBJECT", "has no name"),
    ({"name": "OBJECT"}, "its type is None"), ({"name": "OBJECT", "type": "str"}, "its type is"),
    ({"name": "object", "type": "string"}, "a name is 1 to 8 of A-Z 0-9 - _"),
    ({"name": "TEL  ALT", "type": "float"}, "one blank between"),
    ({"name": "COMMENT", "type": "string"}, "takes no value"),
    ({"name": "NAXIS1", "type": "integer"}, "describes the structure"),
    ({"name": "BZERO", "type": "float"}, "what the numbers of the primary array mean"),
    ({**OBJECT, "requird": True}, "unknown member 'requird'"),
    ({**OBJECT, "required": "yes"}, "required 'yes' is not true or false"),
    ({**OBJECT, "default": 5}, "default 5 is not a string: put it in quotes"),
    ({**OBJECT, "default": "é"}, "printable ASCII"),
    ({**OBJECT, "comment": 5}, "comment 5 is no plain text"),
    ({**OBJECT, "source": "a\x1b[2J"}, "is no plain text"),
    ({**OBJECT, "min": 1}, "min and max are for numbers"),
    ({**OBJECT, "values": "A"}, "values is no list"),
    ({**OBJECT, "values": [1]}, "values 1 is not a string"),
    ({**RA, "default": True}, "default True is not a number"),
    ({**RA, "min": 361}, "no value is allowed"), ({**RA, "max": float("nan")}, "NaN"),
    ({**RA, "default": 2**60 + 1}, "loses digits"),
    ({**RA, "default": 1.5, "format": "%d"}, "wants a whole number"),
    ({**RA, "default": 1.5, "format": "%q"}, "is no conversion")]


@pytest.mark.parametrize(("entry", "text"), WRONG)
def test_an_entry_that_is_wrong(entry: Any, text: str) -> None:
    with pytest.raises(errors.BadData) as caught:
        headerpolicy.entries(table(OBJECT, entry), "it")
    assert "it, number 2" in caught.value.message and text in caught.value.message
    with pytest.raises(BadSpecification):
        planned(policy=table(entry))


@pytest.mark.parametrize("policy", [{}, {"keywords": {}}, {"keywords": [OBJECT, OBJECT]}])
def test_a_policy_that_is_wrong(policy: dict[str, Any]) -> None:
    with pytest.raises(BadSpecification, match="headerPolicy"):
        planned(policy=policy)


def test_a_null_value_need_not_be_allowed() -> None:
    (entry,) = headerpolicy.entries(table({**RA, "default": -999, "format": "%.2f"}), "it")
    assert entry.cards("", print)[0].startswith(b"RA      =              -999.00 / [deg] right")
    assert entry.fault(-999.0) == "is less than 0.0"


# -- the file --------------------------------------------------------------------------------------


def load(folder: Path, text: str) -> dict[str, Any]:
    (folder / "p.yaml").write_text(text)
    return headerpolicy.load(str(folder / "p.yaml"), "the test")


def test_the_sample_is_right() -> None:
    found = headerpolicy.load(str(CHECKOUT / "config" / "policy" / "primary.yaml"), "the test")
    assert len(headerpolicy.entries(json.loads(json.dumps(found)), "it")) == 5


@pytest.mark.parametrize(("text", "told"), [
    ("", "the file is empty"), ("a: [", "p.yaml:1"), ("[]", "the policy is no mapping"),
    ("keywords: {}", "one list named keywords"), ("other: []", "one list named keywords"),
    ("keywords: []\nother: []", "one list named keywords"),
    ("keywords:\n  - OBJECT", "p.yaml:2: an entry is no mapping"),
    ("keywords:\n  - {name: A, type: string, name: B}", "p.yaml:2: name occurs twice"),
    ("keywords:\n  - {name: A, type: float,\n     default: 12:30:00}",
     "p.yaml:3: default: 12:30:00 is no number"),
    ("keywords:\n  - {name: A, type: float, values: [1, 12:30.5]}", "12:30.5 is no number"),
    ("keywords:\n  - name: A\n    type: string\n    default: 2026-11-21", "put it in quotes"),
    ("keywords:\n  - name: A\n    type: string\n    default: 2026-13-41", "p.yaml:4: default: "),
    ("keywords:\n  - name: A\n    type: float\n    default: 1e-3", "'1e-3' is not a number"),
    ("keywords:\n  - name: A\n    type: !!python/name:os.system x", "p.yaml:3: type: "),
    ("keywords:\n  - &x {name: A, type: string}\n  - *x", "an alias (*name) refers to this"),
    ("keywords:\n  - {name: A B, type: string}\n\n  - {name: HIERARCH ESO A B, type: float}",
     "p.yaml:4: entry A B is there twice, first at"),
    ("keywords:\n  - {name: NAXIS, type: integer}", "p.yaml:2: entry NAXIS: it describes")])
def test_a_file_that_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(errors.BadConfig) as caught:
        load(tmp_path, text)
    assert told in caught.value.message and "p.yaml" in caught.value.message
    assert caught.value.remedy


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.BadConfig, match="not found"):
        headerpolicy.load(str(tmp_path / "none.yaml"), "the test")


# -- dictionaries ----------------------------------------------------------------------------------


def test_dictionaries_give_comment_and_format() -> None:
    known = dictionary.load(["config/dictionary/primary.did.yaml"], str(CHECKOUT))
    ours = {"name": "RA", "type": "float", "default": 83}
    found = headerpolicy.filled(table(ours, {**ours, "name": "DEC", "comment": "mine"},
                                      {**ours, "name": "OTHER"}), known)
    shown = [entry.cards("", print)[0].decode().rstrip()
             for entry in headerpolicy.entries(found, "it")]
    assert shown[0] == "RA      =            83.000000 / [deg] Right ascension"
    assert shown[1].endswith("/ mine") and shown[2] == "OTHER   =                 83.0"


def test_a_null_value_that_a_format_cannot_write_goes_without(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("header:\n  name: d\nFILTER: !cfg.type:DidStringKey\n"
                                     "  format: '%.3s'\n  comment: filter\n")
    known = dictionary.load(["d.yaml"], str(tmp_path))
    (item,) = headerpolicy.filled(table({"name": "FILTER", "type": "string",
                                         "default": "UNKNOWN"}), known)["keywords"]
    assert "format" not in item and item["comment"] == "filter"


def test_an_undefined_value_is_read_as_none() -> None:
    (entry,) = headerpolicy.entries(table({"name": "TEL RA", "type": "float", "comment": "a"}), "")
    card = entry.cards("", print)[0].decode()
    assert cardvalue.read(cardvalue.split(card.partition("=")[2], "")[0], "") is None

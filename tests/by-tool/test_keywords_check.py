"""daq-ctl keywords check, daq-start with dictionaries, and the commands of docs/dictionaries.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consolepage import assert_prints_what_is_shown, blocks
from daqlib import rpc
from harness import CHECKOUT, Daq, Result, make_fits
from live import Live

Keyword = dict[str, Any]
PAGE = CHECKOUT / "docs" / "dictionaries.md"

GOOD: list[Keyword] = [
    {"type": "valueKeyword", "name": "RA", "value": 83},
    {"type": "esoKeyword", "name": "INS TEMP1 VAL", "value": 281.567, "comment": "[K] air"},
    {"type": "literalKeyword", "value": "COMMENT as it is"}]
BAD: list[Keyword] = [
    {"type": "valueKeyword", "name": "RA", "value": "north"},
    {"type": "valueKeyword", "name": "EXPTME", "value": 1.0},
    {"type": "esoKeyword", "name": "INS MODE", "value": "IMAGE"}]


@pytest.fixture
def settings(daq: Daq) -> Path:
    """A configuration with the sample dictionaries; CFGPATH is that of the checkout."""
    path = daq.folder / "c.yaml"
    path.write_text("cfg:\n  dictionaries: [config/dictionary/primary.did.yaml, "
                    "config/dictionary/instrument.did.yaml]\n")
    return path


def check(daq: Daq, settings: Path | None, document: object, *options: str) -> Result:
    file = daq.folder / "k.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return daq.run("daq-ctl", "keywords", "check", file, *options, env={
        "CFGPATH": str(CHECKOUT), **({"DAQ_CONFIG": str(settings)} if settings else {})})


def test_valid_keywords_are_shown_as_they_will_be_written(daq: Daq, settings: Path) -> None:
    check(daq, settings, GOOD).ok().prints(
        "RA      =            83.000000 / [deg] Right ascension\n"
        "HIERARCH ESO INS TEMP1 VAL   =       281.57 / [K] air\n"
        "COMMENT as it is\n")
    told = json.loads(check(daq, settings, GOOD, "--json").ok().out)
    assert (told["ok"], told["failures"], len(told["cards"])) == (True, [], 3)
    assert told["keywords"][0] == {"type": "valueKeyword", "name": "RA", "value": 83.0,
                                   "comment": "[deg] Right ascension", "format": "%.6f"}
    assert daq.tree() == {}, "a dry run"


def test_all_failures_are_listed_a_line_each(daq: Daq, settings: Path) -> None:
    result = check(daq, settings, BAD).exits(1)
    assert result.out.splitlines() == [
        "keywords: RA = 'north': invalid: primary.did.yaml:73 wants a real number, "
        "this is a string",
        "keywords: EXPTME = 1.0: unknown keyword; the nearest known one is EXPTIME"]
    assert result.err == ""
    told = json.loads(check(daq, settings, BAD, "--json").exits(1).out)
    assert [f["keyword"] for f in told["failures"]] == ["RA", "EXPTME"]
    assert (told["ok"], told["keywords"], told["cards"]) == (False, [], [])


def test_a_specification_is_checked_in_all_places(daq: Daq, settings: Path) -> None:
    document = {"keywords": BAD, "sources": [
        {"type": "fitsKeywords", "sourceName": "own", "keywords": [*GOOD, *BAD]}]}
    result = check(daq, settings, document).exits(1)
    assert [line.partition(" = ")[0] for line in result.out.splitlines()] == [
        "keywords: RA", "keywords: EXPTME", "source own: RA", "source own: EXPTME"]
    document["sources"] = [{"type": "fitsKeywords", "sourceName": "own"}]
    document["keywords"] = GOOD
    check(daq, settings, document).fails(65, "'keywords' is a required property")


def test_what_is_no_keyword_at_all_is_listed_at_once_too(daq: Daq, settings: Path) -> None:
    shapeless = [{"type": "valueKeyword", "name": "lower", "value": 1}, 5, *GOOD,
                 {"type": "esoKeyword", "name": "HIERARCH ESO INS ID", "value": 1},
                 {"type": "valueKeyword", "name": "RA", "value": 1, "format": "%g"}]
    result = check(daq, settings, shapeless).exits(65)
    assert len(result.out.splitlines()) == 4
    told = json.loads(check(daq, settings, shapeless, "--json").exits(65).out)
    assert [f["value"] for f in told["failures"]] == [1, 5, 1, 1]
    assert all(f["rule"] for f in told["failures"])


@pytest.mark.parametrize(("text", "reason"), [
    ("{", "is not JSON"), ("{}", "neither a list of keywords nor a specification"),
    ("5", "neither"), ('{"sources": 5}', "neither"), ("[" * 100_000, "is not JSON")])
def test_what_is_no_json_is_told(daq: Daq, settings: Path, text: str, reason: str) -> None:
    check(daq, settings, text).fails(65, reason)


def test_standard_input_is_called_by_its_name(daq: Daq, settings: Path) -> None:
    told = daq.run("daq-ctl", "keywords", "check", "-", "--config", settings, stdin="{",
                   env={"CFGPATH": str(CHECKOUT)})
    told.fails(65, "standard input is not JSON")


def test_without_dictionaries_the_form_is_checked(daq: Daq) -> None:
    result = check(daq, None, BAD).ok()
    assert result.out.splitlines()[1].startswith("EXPTME  =                  1.0")
    result.says("no dictionaries are configured")
    check(daq, None, [{"type": "valueKeyword", "name": "NAXIS", "value": 2}]).exits(1).prints(
        "NAXIS = 2: it describes the structure of the file")


def test_a_keyword_cannot_steer_the_terminal(daq: Daq, settings: Path) -> None:
    result = check(daq, settings, [{"type": "valueKeyword", "name": "RA", "value": "\x1b[2J\x9b"},
                                   {"type": "valueKeyword", "name": "\x9b\x1b", "value": 1}])
    assert result.exits(65).out.replace("\n", "").isprintable()


def test_bad_dictionaries_and_words_are_told(daq: Daq, settings: Path) -> None:
    settings.write_text("cfg:\n  dictionaries: [config/dictionary/gone.did.yaml]\n")
    check(daq, settings, GOOD).fails(78, "gone.did.yaml not found")
    daq.run("daq-ctl", "keywords").fails(64, "keywords takes 'check <file>'")
    daq.run("daq-ctl", "keywords", "change", "x").fails(64, "keywords takes 'check <file>'")
    daq.run("daq-ctl", "keywords", "check", "gone.json").fails(64, "gone.json")


@pytest.mark.parametrize("word", ["-", "@-"])
def test_from_stdin(daq: Daq, settings: Path, word: str) -> None:
    daq.run("daq-ctl", "keywords", "check", word, stdin=json.dumps(GOOD), env={
        "CFGPATH": str(CHECKOUT), "DAQ_CONFIG": str(settings)}).ok().prints("[K] air")


# -- daq-start -------------------------------------------------------------------------------------


def start(daq: Daq, settings: Path, *arguments: object) -> Result:
    return daq.run("daq-start", *arguments, env={"CFGPATH": str(CHECKOUT),
                                                 "DAQ_CONFIG": str(settings)})


def test_daq_start_refuses_before_anything_is_written(daq: Daq, settings: Path) -> None:
    source = make_fits(daq.folder / "a.fits")
    start(daq, settings, "--file", source, "--keywords", json.dumps(BAD)).fails(
        65, "2 of 3 keywords are not valid: keywords: RA = 'north': invalid",
        "EXPTME = 1.0: unknown keyword; the nearest known one is EXPTIME").no_output()
    assert daq.tree() == {}


def test_daq_start_formats_and_the_product_is_written_so(daq: Daq, settings: Path) -> None:
    source = make_fits(daq.folder / "a.fits")
    made = json.loads(start(daq, settings, "--file", source, "--keywords", json.dumps(GOOD),
                            "--dry-run").ok().out)
    assert made["keywords"][0]["format"] == "%.6f"
    job = start(daq, settings, "--file", source, "--keywords", json.dumps(GOOD)).ok().line()
    for tool in ("daq-collect", "daq-merge"):
        daq.run(tool, "--job", job).ok()
    (product,) = (daq.spool / "result").glob("*.fits")
    header = product.read_bytes()[:5760].decode("latin-1")
    assert "RA      =            83.000000 / [deg] Right ascension" in header
    assert "HIERARCH ESO INS TEMP1 VAL   =       281.57 / [K] air" in header


def test_daq_merge_checks_a_format_again(daq: Daq) -> None:
    spec = daq.folder / "s.json"
    document = {"id": "x", "target": {"fileId": "F"}, "sources": [
        {"type": "fitsKeywords", "sourceName": "k", "keywords": [
            {"type": "valueKeyword", "name": "A", "value": 1.5, "format": "%d"}]}]}
    spec.write_text(json.dumps(document))
    result = daq.run("daq-merge", spec)
    assert result.code and "keyword A" in result.err and "%d wants a whole number" in result.err
    assert not list(daq.folder.glob("*.fits"))


# -- the daemon ------------------------------------------------------------------------------------


def refused(live: Live, command: str, *texts: str, **params: Any) -> None:
    with pytest.raises(rpc.RemoteError) as caught:
        live.call(command, **params)
    assert [text for text in texts if text not in str(caught.value)] == []


def test_the_commands_of_the_daemon_obey_the_dictionaries(daq: Daq) -> None:
    daq.env["CFGPATH"] = str(CHECKOUT)
    live = Live(daq, dictionaries=["config/dictionary/primary.did.yaml",
                                   "config/dictionary/instrument.did.yaml"])
    live.serve()
    dcs = live.sim("recif", "dcs")
    told = ["2 of 3 keywords are not valid", "RA = 'north': invalid", "EXPTME = 1.0: unknown"]
    before = daq.tree()
    refused(live, "StartDaqV2", *told, specification=json.dumps(
        {"sources": [dcs.source()], "keywords": BAD}))
    refused(live, "StartDaq", *told, id="", file_prefix="", prim_sources=dcs.at(), meta_sources="",
            properties=json.dumps({"keywords": BAD}))
    assert daq.tree() == before and not dcs.calls("RecStart")

    job = live.begin(dcs, keywords=GOOD)
    refused(live, "UpdateKeywords", *told, id=job, keywords=json.dumps(BAD))
    live.call("UpdateKeywords", id=job, keywords=json.dumps(
        [{"type": "literalKeyword", "value": "RA      = 84.5 / mine"},
         {"type": "valueKeyword", "name": "AIRMASS", "value": 2}]))
    live.call("StopDaq", id=job)
    header = live.product(job).read_bytes()[:5760].decode("latin-1")
    cards = [header[at:at + 80].rstrip() for at in range(0, 5760, 80)]
    ours = ("RA ", "AIRMASS", "INS", "HIERARCH ESO INS")
    assert [card for card in cards if card.startswith(ours)] == [
        "INSTRUME= 'TEST    '           / Instrument used.", "RA      = 84.5 / mine",
        "AIRMASS =                2.000 / Air mass",
        "HIERARCH ESO INS TEMP1 VAL   =       281.57 / [K] air"]


def test_keywords_of_a_source_that_break_the_rules_are_not_used(daq: Daq) -> None:
    daq.env["CFGPATH"] = str(CHECKOUT)
    live = Live(daq, dictionaries=["config/dictionary/primary.did.yaml"])
    live.serve()
    said = daq.folder / "said.json"
    said.write_text(json.dumps([*GOOD[:1], *BAD[1:2]]))
    fcf = live.sim("metadaqif", "fcf", "--keywords", f"@{said}")
    job = live.begin(fcf)
    assert live.call("StopDaq", id=job)["error"] is True
    assert "EXPTME = 1.0: unknown keyword" in live.alerts(job)["source-keywords:fcf"]
    assert "RA      =" not in live.product(job).read_bytes()[:2880].decode("latin-1")


# -- the page --------------------------------------------------------------------------------------


def test_the_dictionaries_of_the_page_are_right(tmp_path: Path) -> None:
    from daqlib import dictionary

    found = blocks(PAGE, "yaml")
    assert len(found) >= 2
    for text in found:
        if "cfg:\n" in text:
            continue
        whole = text if "eader:" in text else f"header:\n  name: x\n{text}"
        (tmp_path / "d.yaml").write_text(whole)
        assert dictionary.load(["d.yaml"], str(tmp_path)).entries


def test_the_commands_of_the_page_print_what_is_shown(tmp_path: Path) -> None:
    assert assert_prints_what_is_shown(PAGE, tmp_path) >= 8

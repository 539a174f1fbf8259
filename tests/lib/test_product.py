from __future__ import annotations

from typing import Any

import pytest

from daqlib import cardname, product, schema

Document = dict[str, Any]

DCS = {"type": "primarySource", "sourceName": "dcs", "rrUri": "zpb.rr://h:1/dcs"}
GUIDE = {"type": "primarySource", "sourceName": "guide", "rrUri": "zpb.rr://h:2/guide"}
TCS = {"type": "metadataSource", "sourceName": "tcs", "rrUri": "zpb.rr://h:3/tcs"}
FILE = {"type": "fitsFile", "sourceName": "f", "location": "far:/data/f.fits"}
SETTINGS: Document = {"instrument": "TEST", "receivers": [{"type": "olasReceiver", "path": "/r"}]}
SUBMITTED = {"event": "submitted", "fileId": "F.1"}


def eso(name: str, value: object) -> Document:
    return {"type": "esoKeyword", "name": name, "value": value}


def value(name: str, what: object) -> Document:
    return {"type": "valueKeyword", "name": name, "value": what}


def literal(text: str) -> Document:
    return {"type": "literalKeyword", "value": text}


def comment(text: str) -> Document:
    return {"type": "commentaryKeyword", "name": "COMMENT", "value": text}


def delivered(name: str, *files: str, keywords: list[Document] | None = None) -> Document:
    return {"sourceName": name, "files": list(files), "keywords": keywords or []}


def made(document: Document, *acquired: Document, events: list[Document] | None = None,
         **settings: Any) -> tuple[Document, list[Document]]:
    found, raised = product.specification(
        "j", document, {"sources": list(acquired)} if acquired else None,
        [SUBMITTED, *(events or [])], {**SETTINGS, **settings})
    schema.check("dpspec", found, "the specification")
    return found, raised


def names(specification: Document) -> list[tuple[str, str]]:
    return [(s["sourceName"], s["type"]) for s in specification["sources"]]


def own(specification: Document) -> list[Document]:
    """The keywords of users and of the control, wherever they stand."""
    return [k for s in specification["sources"] if s["sourceName"] == product.OWN_SOURCE
            for k in s["keywords"]]


def test_identity_and_target() -> None:
    found, raised = made({"sources": [FILE], "filePrefix": "P_"})
    assert found["id"] == "j"
    assert found["target"] == {"fileId": "F.1", "filePrefix": "P_"}
    assert raised == []
    assert found["sources"][-1]["location"] == FILE["location"], "the origin"


def test_sources_keep_their_order_which_is_their_priority() -> None:
    keywords = {"type": "fitsKeywords", "sourceName": "k", "keywords": [eso("A B", 1)]}
    found, _ = made({"sources": [FILE, TCS, keywords, DCS]}, delivered("dcs", "/d/1", "/d/2"),
                    delivered("tcs", keywords=[eso("TEL ALT", 45.0)]))
    assert names(found) == [("ocm", "fitsKeywords"), ("f", "fitsFile"), ("tcs", "fitsKeywords"),
                            ("k", "fitsKeywords"), ("dcs", "fitsFile"), ("dcs", "fitsFile")]
    assert [s.get("location") for s in found["sources"][-2:]] == ["/d/1", "/d/2"]


def test_a_source_gives_its_keywords_before_its_files() -> None:
    found, _ = made({"sources": [DCS]}, delivered("dcs", "/d/1", keywords=[eso("A B", 1)]))
    assert names(found)[1:] == [("dcs", "fitsKeywords"), ("dcs", "fitsFile")]


def test_a_source_that_delivered_nothing_is_not_there() -> None:
    found, _ = made({"sources": [DCS, FILE]}, delivered("dcs"))
    assert ("dcs", "fitsFile") not in names(found)
    assert ("f", "fitsFile") in names(found)


def test_rules_go_along_with_what_they_rule() -> None:
    rules: list[Document] = [{"type": "filter", "selectionPatterns": ["+e *"]}]
    found, _ = made({"sources": [{**DCS, "keywordRules": rules}]},
                    delivered("dcs", "/d/1", keywords=[eso("A B", 1)]))
    assert [s["keywordRules"] for s in found["sources"][1:]] == [rules, rules]


# -- the target ------------------------------------------------------------------------------------

V1, V2 = {"heuristics": "v1"}, {}
TARGET = {"mergeTarget": {"sourceName": "dcs"}}


@pytest.mark.parametrize(("sources", "acquired", "more", "target"), [
    # V2: as the specification says, else a new file
    ([DCS], [delivered("dcs", "/d/1")], V2, None),
    ([DCS], [delivered("dcs", "/d/1")], TARGET, "/d/1"),
    ([DCS], [delivered("dcs", "/d/1", "/d/2")], TARGET, "/d/1"),
    ([FILE], [], {"mergeTarget": {"sourceName": "f"}}, FILE["location"]),
    # V1: the only file of the only primary source, else a new file
    ([DCS], [delivered("dcs", "/d/1")], V1, "/d/1"),
    ([DCS, TCS], [delivered("dcs", "/d/1"), delivered("tcs", "/t/1")], V1, "/d/1"),
    ([DCS], [delivered("dcs", "/d/1", "/d/2")], V1, None),
    ([DCS], [delivered("dcs")], V1, None),
    ([DCS, GUIDE], [delivered("dcs", "/d/1"), delivered("guide", "/g/1")], V1, None),
    ([TCS], [delivered("tcs", "/t/1")], V1, None),
])
def test_what_is_merged_into(sources: list[Document], acquired: list[Document], more: Document,
                             target: str | None) -> None:
    found, raised = made({"sources": sources, **more}, *acquired)
    assert found["target"].get("source", {}).get("location") == target
    assert raised == []
    assert found.get("heuristics") == more.get("heuristics")


def test_a_target_that_delivered_nothing_is_an_alert() -> None:
    found, (alert,) = made({"sources": [DCS, FILE], **TARGET}, delivered("dcs"))
    assert "source" not in found["target"]
    assert (alert["id"], alert["severity"]) == ("no-target:dcs", "warning")


# -- keywords --------------------------------------------------------------------------------------


def test_users_keywords_come_first_and_updates_apply() -> None:
    events = [{"event": "keywords", "keywords": [eso("A B", 2), value("OBJECT", "x")]},
              {"event": "start", "keywords": [eso("NO", 1)]},
              {"event": "keywords", "keywords": [eso("A B", 3), literal("COMMENT x")]}]
    found, _ = made({"sources": [FILE], "keywords": [eso("A B", 1)]}, events=events)
    assert names(found)[0] == ("ocm", "fitsKeywords")
    assert {(k.get("name"), k["value"]) for k in own(found)} == {
        ("INSTRUME", "TEST"), ("A B", 3), ("OBJECT", "x"), (None, "COMMENT x")}


@pytest.mark.parametrize(("document", "instrument", "expected"), [
    ({}, "TEST", "TEST"), ({"instrument": "OWN"}, "TEST", "OWN"),
    ({"keywords": [value("INSTRUME", "USER")]}, "TEST", "TEST")])
def test_the_instrument_is_the_configured_one(
        document: Document, instrument: str, expected: str) -> None:
    found, _ = made({"sources": [FILE], **document}, instrument=instrument)
    assert [k["value"] for k in own(found) if k.get("name") == "INSTRUME"] == [expected]
    assert names(found)[0] == ("ocm", "fitsKeywords")


@pytest.mark.parametrize("given", [literal("INSTRUME= 'USER'"), value("INSTRUME", "USER")])
def test_no_form_of_keyword_replaces_the_instrument(given: Document) -> None:
    found, _ = made({"sources": [FILE], "keywords": [given, eso("INSTRUME", "other")]})
    assert [k["value"] for k in own(found)] == ["TEST", "other"]


def test_what_a_source_reports_replaces_what_was_known_at_start() -> None:
    initial = [value("A", 1), literal("COMMENT kept"), literal("B       = 1"), eso("A", 1)]
    reported = [literal("A       = 2"), literal("COMMENT new"), value("B", 2)]
    source = {**DCS, "initialKeywords": initial}
    found, _ = made({"sources": [source]}, delivered("dcs", "/d/1", keywords=reported))
    assert found["sources"][1]["keywords"] == reported
    assert found["sources"][2]["initialKeywords"] == [literal("COMMENT kept"), eso("A", 1)]
    found, _ = made({"sources": [source]}, delivered("dcs", keywords=reported))
    assert found["sources"][1]["keywords"] == [
        literal("A       = 2"), literal("COMMENT kept"), value("B", 2), eso("A", 1),
        literal("COMMENT new")]


def test_an_unconfigured_instrument_hides_nothing() -> None:
    """It comes last, so that what a source says of itself wins."""
    found, _ = made({"sources": [FILE]}, instrument=product.UNNAMED)
    assert names(found) == [("f", "fitsFile"), ("ocm", "fitsKeywords")]


@pytest.mark.parametrize(("given", "updates", "result"), [
    ([], [eso("A", 1)], [eso("A", 1)]),
    ([eso("A", 1), eso("B", 1)], [eso("A", 2)], [eso("A", 2), eso("B", 1)]),
    ([eso("A", 1)], [value("A", 2)], [eso("A", 1), value("A", 2)]),
    ([literal("COMMENT a")], [literal("COMMENT a")], [literal("COMMENT a")] * 2),
    ([], [eso("A", 1), eso("A", 2)], [eso("A", 2)]),
    # a literal is what its card is
    ([value("A", 1), value("B", 1)], [literal("A       = 2")], [literal("A       = 2"),
                                                               value("B", 1)]),
    ([literal("A       = 2 / c")], [value("A", 3)], [value("A", 3)]),
    ([eso("INS ID", 1)], [literal("HIERARCH ESO INS ID='x'")], [
        literal("HIERARCH ESO INS ID='x'")]),
    ([literal("HIERARCH ESO INS  ID = 1")], [eso("INS ID", 2)], [eso("INS ID", 2)]),
    ([value("INS", 1)], [literal("HIERARCH ESO INS = 1")], [value("INS", 1),
                                                           literal("HIERARCH ESO INS = 1")]),
    ([eso("PLATE", 1)], [literal("HIERARCH SDSS PLATE = 1")], [
        eso("PLATE", 1), literal("HIERARCH SDSS PLATE = 1")]),
    ([comment("A")], [comment("A"), literal("HISTORY A")], [
        comment("A"), comment("A"), literal("HISTORY A")]),
    ([literal("A       =")], [literal("A       = 'x'")], [literal("A       = 'x'")]),
    # a string goes on in its CONTINUE cards
    ([literal("A       = 'x&'"), literal("CONTINUE  'y'"), eso("B", 1)], [value("A", "z")], [
        value("A", "z"), eso("B", 1)]),
    ([value("A", "z"), eso("B", 1)], [literal("A       = 'x&'"), literal("CONTINUE  'y'")], [
        literal("A       = 'x&'"), literal("CONTINUE  'y'"), eso("B", 1)]),
])
def test_folds_updates(given: list[Document], updates: list[Document],
                       result: list[Document]) -> None:
    before = list(given)
    assert product.fold(given, updates) == result
    assert given == before


def test_thousands_of_updates_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    of_json = cardname.of_json
    monkeypatch.setattr(cardname, "of_json", lambda item: looks.append(item) or of_json(item))
    updates = [{"event": "keywords", "keywords": [eso(f"INS TEMP{number % 900} VAL", number)]}
               for number in range(1000)]
    own = made({"sources": [FILE]}, events=[SUBMITTED, *updates])[0]["sources"][0]["keywords"]
    assert [(each["name"], each["value"]) for each in own[1:]] == [
        (f"INS TEMP{number} VAL", number + (900 if number < 100 else 0)) for number in range(900)]
    assert len(looks) < 10 * len(updates)


def test_an_update_may_go_on_with_the_string_before_it() -> None:
    updates = [{"event": "keywords", "keywords": [literal(text)]}
               for text in ("A       = 'x&'", "CONTINUE  'y'", "A       = 'z'")]
    own = [made({"sources": [FILE]}, events=[SUBMITTED, *updates[:count]])[0]["sources"][0]
           for count in (2, 3)]
    assert [[each["value"] for each in source["keywords"][1:]] for source in own] == [
        ["A       = 'x&'", "CONTINUE  'y'"], ["A       = 'z'"]]


# -- receivers -------------------------------------------------------------------------------------


def test_receivers_of_the_job_win_even_when_there_are_none() -> None:
    assert made({"sources": [FILE]})[0]["receivers"] == SETTINGS["receivers"]
    assert made({"sources": [FILE], "receivers": []})[0]["receivers"] == []
    one = [{"type": "olasReceiver", "path": "/other"}]
    assert made({"sources": [FILE], "receivers": one})[0]["receivers"] == one


@pytest.mark.parametrize(("uri", "given", "wanted"), [
    ("zpb.rr://h:1/dcs", None, None), ("zpb://h:1", None, None), ("ipc:///d/s.sock", None, None),
    ("indi://h/CCD", None, "extension"), ("exec:take", None, "extension"),
    ("indi://h/CCD", "leave", "leave"), ("zpb.rr://h:1/dcs", "extension", "extension"),
    ("", None, None), ("", "extension", "extension")])
@pytest.mark.parametrize("kind", ["primarySource", "metadataSource"])
def test_what_becomes_of_primary_data(kind: str, uri: str, given: str | None, wanted: str | None
                                      ) -> None:
    source = {"type": kind, "sourceName": "s", "rrUri": uri} if uri else {**FILE, "sourceName": "s"}
    if given:
        source["primaryData"] = given
    found, _ = made({"sources": [source]}, delivered("s", "h:/a.fits", "h:/b.fits"))
    files = [part for part in found["sources"] if part["type"] == "fitsFile"]
    assert [part.get("primaryData") for part in files] == [wanted] * (2 if uri else 1)

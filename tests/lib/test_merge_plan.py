"""Plans as a whole: dictionaries, names, targets, and what is refused before data moves."""

from __future__ import annotations

import pytest

from daq_merge import cards, plan
from daq_merge.how import How
from daqlib import dictionary, errors
from harness import CHECKOUT
from merge_samples import (
    eso,
    file_source,
    image,
    keyword_source,
    literal,
    primary,
    specification,
    value,
)

DICTIONARY = "config/dictionary/instrument.did.yaml"
STANDARD = "config/dictionary/primary.did.yaml"


def header(made, index=0):
    raw = bytes(made.parts[index].header.draft())
    return cards.read(raw[at:at + 80] for at in range(0, len(raw), 80))


def card(made, name):
    (found,) = [k for k in header(made) if k.name == name]
    return found.cards[0].rstrip().decode()


@pytest.fixture
def dictionaries(monkeypatch):
    monkeypatch.setenv("CFGPATH", str(CHECKOUT))


def test_a_dictionary_that_is_named_formats_and_comments_json_keywords(tmp_path, dictionaries):
    (tmp_path / "a.fits").write_bytes(primary("RA      = 12.5 / as it is", "NOBODY  = 'knows'"))
    made = plan.plan(specification(
        keyword_source("ocm", value("DEC", 83), eso("INS TEMP2 VAL", 281.567)),
        file_source("a", "a.fits", initialKeywords=[value("EXPTIME", 10)]),
        keywordDictionaries=[STANDARD, DICTIONARY]), str(tmp_path))
    assert card(made, "DEC") == "DEC     =             83.00000 / [deg] Declination"
    assert card(made, "INS TEMP2 VAL") == (
        "HIERARCH ESO INS TEMP2 VAL   =       281.57 / [K] Temperature")
    assert card(made, "EXPTIME").startswith("EXPTIME =               10.000 / [s]")
    # what files say is not looked at
    assert card(made, "RA") == "RA      = 12.5 / as it is"
    assert card(made, "NOBODY") == "NOBODY  = 'knows'"


@pytest.mark.parametrize(("cards", "room"), [(27, 0), (26, 1), (0, 40)])
def test_a_target_whose_primary_header_grows_is_told(tmp_path, cards, room):
    # SIMPLE to NAXIS, EXTEND, three of the merger, two of the seal and END are ten of 36
    (tmp_path / "t.fits").write_bytes(
        primary(*[f"C{at:<7}= 1" for at in range(cards)], *[" "] * room) + image(b"x"))
    target = file_source("t", "t.fits")
    made = plan.plan(specification(target=target), str(tmp_path))
    grew = len(made.parts[0].header.draft()) > made.base.file.hdus[0].header_size
    assert grew == (cards == 27)
    assert [a["id"] for a in made.alerts] == ["header-resized:t:t.fits"] * grew
    if grew:
        assert "from 1 to 2 blocks" in made.alerts[0]["description"]
        assert made.alerts[0]["severity"] == "info"
    # what is no target gets a header of its own in any case
    assert plan.plan(specification(target), str(tmp_path)).alerts == []


def test_keywords_that_break_its_rules_are_refused_all_at_once(tmp_path, dictionaries):
    wrong = specification(keyword_source("ocm", value("RA", "north"), value("EXPTME", 1.0)),
                          keywordDictionaries=[STANDARD])
    with pytest.raises(errors.BadData) as caught:
        plan.plan(wrong, str(tmp_path))
    assert "source ocm: RA" in str(caught.value)
    assert "the nearest known one is EXPTIME" in str(caught.value)


def test_a_dictionary_is_looked_for_below_the_root_first(tmp_path, dictionaries):
    text = (CHECKOUT / STANDARD).read_text().replace("Right ascension", "our own")
    (tmp_path / "with:colon" / STANDARD).parent.mkdir(parents=True)
    (tmp_path / "with:colon" / STANDARD).write_text(text)
    made = plan.plan(specification(keyword_source("ocm", value("RA", 1.0)),
                                   keywordDictionaries=[STANDARD]), str(tmp_path / "with:colon"))
    assert card(made, "RA").endswith("/ [deg] our own")


@pytest.mark.parametrize(("name", "reason"), [
    ("missing.did", "dictionary missing.did not found"),
    ("/etc/passwd", "is not a path below"),
    ("bad.did", "bad.did"),
])
def test_a_dictionary_that_is_not_usable_is_a_fault_of_the_specification(tmp_path, name, reason,
                                                                         dictionaries):
    (tmp_path / "bad.did").write_text("- no mapping\n")
    with pytest.raises(plan.BadSpecification) as caught:
        plan.plan(specification(keyword_source("ocm", value("RA", 1.0)),
                                keywordDictionaries=[name]), str(tmp_path))
    assert reason in caught.value.message
    assert caught.value.remedy
    assert "cfg/dictionaries" not in str(caught.value)


def test_without_a_name_no_dictionary_is_loaded(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(dictionary, "load",
                        lambda names, *_, **__: loaded.append(names) or dictionary.Dictionaries())
    ocm = keyword_source("ocm", value("RA", 83))
    for named in ({}, {"keywordDictionaries": []}):
        made = plan.plan(specification(ocm, **named), str(tmp_path))
        assert card(made, "RA") == "RA      =                   83"
    assert loaded == []
    plan.plan(specification(ocm, keywordDictionaries=["x"]), str(tmp_path))
    assert loaded == [["x"]]


def test_the_names_of_the_product_are_those_of_the_specification(tmp_path):
    document = specification(keyword_source("ocm", value("ORIGFILE", "mine"),
                                            literal("ARCFILE = 'mine'")))
    document["target"]["filePrefix"] = "pre_"
    made = plan.plan(document, str(tmp_path))
    names = {k.name: cards.string(k) for k in header(made) if k.name.endswith("FILE")}
    file_id = document["target"]["fileId"]
    assert names == {"ORIGFILE": f"pre_{file_id}.fits", "ARCFILE": f"{file_id}.fits"}


def test_a_long_name_of_the_product_goes_on_in_continue_cards(tmp_path):
    document = specification()
    document["target"]["filePrefix"] = "p" * 90
    found = header(plan.plan(document, str(tmp_path)))
    assert [k.name for k in found][4:6] == ["LONGSTRN", "ORIGFILE"]
    assert cards.string(found[5]) == "p" * 90 + document["target"]["fileId"] + ".fits"


@pytest.mark.parametrize(("stamp", "there"), [("primary", False), ("all", True)])
def test_extensions_are_stamped_only_on_request(tmp_path, stamp, there):
    extension = image(b"abcd", "ARCFILE = 'older'", "KEY     = 1")
    (tmp_path / "a.fits").write_bytes(primary() + extension)
    made = plan.plan(specification(file_source("a", "a.fits")), str(tmp_path), How(stamp=stamp))
    told = {k.name: cards.split(k)[0] for k in header(made, 1)}
    assert ("ORIGFILE" in told) == there
    assert (told["ARCFILE"] != "'older'") == there
    assert told["KEY"] == "1"


def test_a_plan_says_what_it_was_made_from(tmp_path):
    (tmp_path / "t.fits").write_bytes(primary("MINE    = 1"))
    (tmp_path / "b.fits").write_bytes(primary("THEIRS  = 1") + image(b"abcd"))
    ocm = keyword_source("ocm", eso("OBS ID", 5))
    made = plan.plan(specification(ocm, file_source("b", "b.fits"),
                                   target=file_source("t", "t.fits")), str(tmp_path))
    assert [(s.spec["sourceName"], s.rank, s.is_target) for s in made.sources] == [
        ("t", -1, True), ("ocm", 0, False), ("b", 1, False)]
    assert made.base is made.inputs[0]
    assert [k.name for k in made.merged] == ["MINE", "THEIRS", "OBS ID"]
    assert [k.name for k in made.own] == ["ORIGFILE", "ARCFILE", "DATE"]
    assert made.size == made.parts[-1].end
    without = plan.plan(specification(ocm), str(tmp_path))
    assert without.base is None and without.inputs == []


def test_bytes_that_are_not_ascii_stay_and_are_told(tmp_path):
    odd = "OBSERVER= 'J\u00f6rg'"
    (tmp_path / "a.fits").write_bytes(primary(odd))
    made = plan.plan(specification(file_source("a", "a.fits")), str(tmp_path))
    assert odd.ljust(80).encode("latin-1") in [c for k in header(made) for c in k.cards]
    assert made.warnings == ["source a: its primary header holds bytes that are not ASCII; they "
                             "stay"]


@pytest.mark.parametrize(("document", "reason"), [
    ({}, "the specification has no target"),
    ({"target": []}, "target is []"),
    ({"target": {}}, "target has no fileId"),
    ({"target": {"fileId": "x"}, "sources": {}}, "sources is {}"),
    ({"target": {"fileId": "x"}, "sources": [{"type": "fitsFile"}]}, "source 1 has no sourceName"),
    ({"target": {"fileId": "x"}, "sources": [{"type": "fitsFile", "sourceName": "a"}]},
     "source a has no location"),
    ({"target": {"fileId": "x"}, "sources": [{"type": "fitsKeywords", "sourceName": "a"}]},
     "source a has no keywords"),
    ({"target": {"fileId": "x"}, "sources": [{"type": "primarySource", "sourceName": "a"}]},
     "type 'primarySource' cannot be merged"),
    ({"target": {"fileId": "x"}, "sources": [file_source("a", "host:/x.fits")]}, "on host host"),
    ({"target": {"fileId": "x"}, "keywordDictionaries": "x"}, "keywordDictionaries is 'x'"),
])
def test_what_is_no_specification_is_refused_by_name(tmp_path, document, reason):
    with pytest.raises(errors.BadData) as caught:
        plan.plan(document, str(tmp_path))
    assert reason in str(caught.value)
    assert caught.value.remedy

"""Explanations: they tell what the plan does, of every keyword and every HDU."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daq_merge import cards, explain, plan, provenance
from daqlib import checksum, errors
from fuzzing import quick
from merge_samples import (
    SAMPLES,
    eso,
    file_source,
    image,
    keyword_source,
    literal,
    primary,
    specification,
    value,
)

FIRST = "SIMPLE  =                    T"


def header(made):
    """The keywords of the primary header as the plan lays them out, with room for the seal."""
    raw = bytes(made.parts[0].header.draft())
    found = cards.read(raw[at:at + 80] for at in range(0, len(raw), 80))
    assert found.pop().name == "END"
    return [(k.name, provenance.value(k)) for k in found]


def keywords(made):
    """What is explained of the keywords, by name."""
    return {item["name"]: item for item in explain.document(made)["keywords"]}


@pytest.fixture
def planned(tmp_path):
    """A product in which much happens."""
    (tmp_path / "t.fits").write_bytes(image(
        b"abcd", "OBJECT  = 'target'", "MINE    = 1", "BZERO   = 7", "DATE    = '2020-01-01'",
        "COMMENT of the target", "HIERARCH ESO DET ID = 'CCD'", first=FIRST))
    (tmp_path / "b.fits").write_bytes(
        primary("OBJECT  = 'b'", "BSCALE  = 9", "HIERARCH ESO INS FILT1 ID = 'V'",
                "HIERARCH ESO INS LAMP = T", "HIERARCH ESO INS LONG = 'part&'",
                "CONTINUE  ' two''s'")
        + image(b"1234", "EXTNAME = 'B.SCI  '", "DATASUM = '825373492'") + image(
            b"1234", "DATASUM = '5'", "CHECKSUM= 'abcdefghijklmnop'"))
    rename = [{"type": "filter", "selectionPatterns": ["+ev *", "-e INS LAMP"]},
              {"type": "transform", "selectionPatterns": ["+e INS *"], "regex": "^INS ",
               "format": "INS2 "}]
    return plan.plan(specification(
        keyword_source("ocm", value("OBJECT", "ocm"), eso("OBS ID", 12), eso("OBS ID", 13),
                       literal("COMMENT by ocm"), value("BZERO", 3)),
        file_source("b", "b.fits", keywordRules=rename, initialKeywords=[
            value("EARLY", 1), value("OBJECT", "early"), eso("DET ID", "known")]),
        target=file_source("t", "t.fits")), str(tmp_path))


def test_each_keyword_has_its_source_and_rule(planned):
    found = keywords(planned)
    assert {name: (item["source"], item["rule"]) for name, item in found.items()} == {
        "SIMPLE": ("t", "structure of the target"), "BITPIX": ("t", "structure of the target"),
        "NAXIS": ("t", "structure of the target"), "NAXIS1": ("t", "structure of the target"),
        "EXTEND": ("merger", "structure of the product"),
        "OBJECT": ("t", "priority 1 of 3; target"),
        "MINE": ("t", "target"),
        "BZERO": ("t", "target; bound to its primary array"),
        "EARLY": ("b", "initialKeywords; keyword rules"),
        "ORIGFILE": ("merger", "written by the merger"),
        "ARCFILE": ("merger", "written by the merger"),
        "DATE": ("merger", "written by the merger"),
        "OBS ID": ("ocm", "default: all"),
        "DET ID": ("t", "priority 1 of 3; target"),
        "INS2 FILT1 ID": ("b", "keyword rule 2: renamed from INS FILT1 ID"),
        "INS2 LONG": ("b", "keyword rule 2: renamed from INS LONG"),
        "COMMENT": ("ocm", "commentary, kept from all; default: all"),
        "CHECKSUM": ("merger", "computed when the data are written"),
        "DATASUM": ("merger", "computed when the data are written")}
    assert found["INS2 LONG"]["value"] == "'part two''s'"


def test_losers_are_told_with_value_and_reason(planned):
    found = keywords(planned)
    assert found["OBJECT"]["lost"] == [
        {"source": "ocm", "value": "'ocm     '", "rule": "priority 2 of 3"},
        {"source": "b", "value": "'b'", "rule": "priority 3 of 3"}]
    assert found["OBS ID"]["lost"] == [
        {"source": "ocm", "value": "13", "rule": "occurs twice in its source"}]
    assert found["DET ID"]["lost"] == [
        {"source": "b", "value": "'known   '", "rule": "priority 3 of 3"}]
    assert found["DATE"]["lost"] == [
        {"source": "t", "value": "'2020-01-01'", "rule": "reserved for the merger"}]
    assert found["MINE"]["lost"] == []


def test_what_is_left_out_is_told_with_the_reason(planned):
    out = explain.document(planned)["leftOut"]
    assert {(item["source"], item["name"], item["rule"]) for item in out} == {
        ("ocm", "BZERO", "says what the numbers of its own primary array mean"),
        ("b", "BSCALE", "says what the numbers of its own primary array mean"),
        ("b", "SIMPLE", "describes the structure of its own file"),
        ("b", "BITPIX", "describes the structure of its own file"),
        ("b", "NAXIS", "describes the structure of its own file"),
        ("b", "INS LAMP", "keyword rule 1: not selected"),
        ("b", "OBJECT", "initialKeywords; the source says it itself")}


def test_each_hdu_has_its_source_and_sums(planned):
    hdus = explain.document(planned, sums=True)["hdus"]
    assert [(h["index"], h["kind"], h["extname"], h["source"], h["location"], h["sourceIndex"],
             h["data"], h["datasum"], h["agrees"]) for h in hdus] == [
        (0, "SIMPLE", "", "t", "t.fits", 0, 4, "", None),
        (1, "IMAGE", "B.SCI", "b", "b.fits", 1, 4, "825373492", True),
        (2, "IMAGE", "", "b", "b.fits", 2, 4, "5", False)]
    assert hdus[2]["checksum"] == "abcdefghijklmnop"
    assert [h["computed"] for h in hdus[1:]] == [825373492, 825373492]
    assert "computed" not in explain.document(planned)["hdus"][0]
    assert [h["grown"] for h in hdus] == [False, False, False]


def test_a_header_that_grows_is_told(tmp_path):
    (tmp_path / "t.fits").write_bytes(image(b"abcd", first=FIRST))
    made = plan.plan(specification(keyword_source("ocm", *(eso(f"A X{n}", n) for n in range(40))),
                                   target=file_source("t", "t.fits")), str(tmp_path))
    (hdu,) = explain.document(made)["hdus"]
    assert (hdu["grown"], hdu["sourceHeader"], hdu["header"]) == (True, 2880, 5760)
    assert any("grown from 2880" in line for line in explain.text(made))


def test_compressed_files_and_short_blocks_are_summed_as_they_are_merged(tmp_path):
    table = primary() + image(b"12345", "EXTNAME = 'X'").replace(b"'IMAGE   '", b"'TABLE   '")
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(table))
    (tmp_path / "b.fits").write_bytes(table[:-2880] + b"12345" + b" " * 2875)
    (tmp_path / "c.fits").write_bytes(table[:-2880] + b"12345")
    made = plan.plan(specification(*(file_source(name, f"{name}.fits{gz}") for name, gz in
                                     (("a", ".gz"), ("b", ""), ("c", "")))), str(tmp_path))
    first, second, third = (h["computed"] for h in explain.document(made, sums=True)["hdus"][1:])
    assert first == checksum.data_sum(table[-2880:])
    assert second == third == checksum.data_sum(b"12345" + b" " * 2875)


def test_a_file_that_changed_meanwhile_is_noticed(planned, tmp_path):
    (tmp_path / "b.fits").write_bytes(primary())
    assert explain.document(planned)
    with pytest.raises(errors.Later, match="changed meanwhile"):
        explain.document(planned, sums=True)


def test_lines_are_for_people(planned):
    lines = explain.text(planned, sums=True)
    assert max(map(len, lines)) <= 100
    # narrower, nothing else is said: words only move to the next line
    for columns in (80, 72):
        narrow = explain.text(planned, sums=True, columns=columns)
        assert max(map(len, narrow)) <= columns < 100
        assert " ".join(narrow).split() == " ".join(lines).split()
    assert lines[0] == f"{planned.origin_name}: 3 HDUs, {planned.size} bytes"
    assert "   1  t  10 keywords; t.fits, 1 HDU (merge target)" in lines
    assert ("  OBJECT                   = 'target'                t: priority 1 of 3; target"
            in lines)
    assert "      not 'ocm' of ocm (priority 2 of 3)" in lines
    assert ("  b: describes the structure of its own file: SIMPLE, BITPIX, NAXIS" in lines)
    assert any("DOES NOT AGREE" in line for line in lines)
    assert lines[lines.index("remarks") + 1].startswith("  source ")


def test_json_lines_say_the_same(planned):
    made = list(explain.events(planned))
    document = explain.document(planned)
    assert json.loads(json.dumps(made)) == made
    assert made[0] == {"event": "explain", **document["product"]}
    counts = {event: sum(line["event"] == event for line in made)
              for event in ("source", "keyword", "left-out", "hdu", "warning")}
    assert counts == {"source": 3, "keyword": len(document["keywords"]),
                      "left-out": len(document["leftOut"]), "hdu": 3,
                      "warning": len(document["warnings"])}


def test_the_classes_of_startdaq_are_told(tmp_path):
    (tmp_path / "a.fits").write_bytes(primary("RA      = 1.0", "MJD-OBS = 3", "COMMENT x"))
    made = plan.plan(specification(file_source("a", "a.fits"), heuristics="v1"), str(tmp_path))
    assert keywords(made)["RA"]["rule"] == "default: user class"
    assert [item["name"] for item in explain.document(made)["leftOut"] if "class" in item["rule"]
            ] == ["MJD-OBS", "COMMENT"]


def test_no_rules_copy_nothing_and_unreadable_values_are_shown_raw(tmp_path):
    (tmp_path / "a.fits").write_bytes(primary("RA      = 'open", "HISTORY h"))
    made = plan.plan(specification(file_source("a", "a.fits", keywordRules=[]),
                                   file_source("b", "a.fits")), str(tmp_path))
    assert keywords(made)["RA"]["value"] == "'open"
    assert [item["rule"] for item in explain.document(made)["leftOut"]
            if item["name"] in ("RA", "HISTORY")] == ["keywordRules is empty: copies nothing"] * 2


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_the_explained_header_is_that_of_the_product(path, tmp_path):
    rules = [{"type": "transform", "selectionPatterns": ["+v [A-M]*"], "regex": "^(.{1,6}).*",
              "format": "X$1"}]
    others = SAMPLES[0]
    made = plan.plan(specification(
        keyword_source("ocm", value("OBJECT", "x" * 100), literal("COMMENT c")),
        file_source("b", others, initialKeywords=[value("TELESCOP", "T")]),
        target=file_source("a", path, keywordRules=rules)), str(tmp_path))
    same_as_header(made)


LINES = st.lists(st.one_of(
    st.builds("{:8}= {}".format, st.sampled_from(["A", "B", "BZERO", "DATE", "CRVAL1"]),
              st.integers(0, 2)),
    st.builds("HIERARCH ESO {} = '{}'".format, st.sampled_from(["INS A", "OBS A", "XX A"]),
              st.integers(0, 2)),
    st.sampled_from(["COMMENT c", "HISTORY h", "NAXIS7  = 1", "DP1     = 'X: 1'",
                     "DP1     = 'Y: 1'", "CONTINUE  'stray'"])), max_size=6)
RULES = st.one_of(st.none(), st.lists(st.one_of(
    st.fixed_dictionaries({"type": st.just("filter"), "selectionPatterns": st.lists(
        st.sampled_from(["+evc *", "-e INS *", "+v A", "-c *"]), max_size=3)}),
    st.fixed_dictionaries({"type": st.just("transform"), "selectionPatterns": st.lists(
        st.sampled_from(["+ev *", "-v B"]), max_size=2), "regex": st.sampled_from(["A", "INS"]),
        "format": st.sampled_from(["B", "OBS"])})), max_size=3))


@quick(120)
@given(st.lists(st.tuples(LINES, RULES, LINES), min_size=1, max_size=3),
       st.integers(-1, 2), st.booleans(), st.sampled_from(["v1", "v2"]))
def test_any_explained_header_is_that_of_the_product(tmp_path_factory, given_, target, listed,
                                                     heuristics):
    folder = tmp_path_factory.mktemp("x")
    sources = []
    for number, (lines, rules, initial) in enumerate(given_):
        (folder / f"{number}.fits").write_bytes(primary(*lines))
        early = [literal(line) for line in initial if not line.startswith("NAXIS")]
        more = {"initialKeywords": early, **({} if rules is None else {"keywordRules": rules})}
        sources.append(file_source(f"s{number}", f"{number}.fits", **more))
    base = sources[target] if 0 <= target < len(sources) else None
    rest = [source for source in sources if listed or source is not base]
    same_as_header(plan.plan(specification(*rest, target=base, heuristics=heuristics),
                             str(folder)))


def same_as_header(made):
    document = explain.document(made)
    told = [(item["name"], item["value"]) for item in document["keywords"]
            if item["name"] not in ("CHECKSUM", "DATASUM")]
    found = [pair for pair in header(made) if pair != ("COMMENT", "")]
    assert found == [pair for pair in told if pair != ("COMMENT", "")]
    # nothing that a source has goes untold
    lost = sum(len(item["lost"]) for item in document["keywords"])
    from_sources = sum(item["source"] != provenance.MERGER for item in document["keywords"])
    repeated = sum(item["source"] == provenance.MERGER and item["rule"].startswith("structure")
                   for item in document["keywords"]) if made.base else 0
    given_ = sum(item["keywords"] for item in document["sources"])
    told_all = lost + from_sources + len(document["leftOut"])
    assert given_ - repeated <= told_all <= given_

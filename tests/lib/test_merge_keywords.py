"""Which keywords enter the primary header, who wins, and in which order they stand."""

from __future__ import annotations

import fnmatch
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daq_merge import cards, classes, keywords, plan, rules
from daq_merge.keywords import Block
from daqlib import errors
from fuzzing import quick
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

OWN = ["ORIGFILE", "ARCFILE", "DATE", "CHECKSUM", "DATASUM"]
STRUCTURE = ["SIMPLE", "BITPIX", "NAXIS", "EXTEND"]


@pytest.fixture
def merged(tmp_path):
    """Plan a product; the keywords of its primary header, without its own, and the plan."""

    def run(document):
        made = plan.plan(document, str(tmp_path))
        raw = bytes(made.parts[0].header.draft())
        found = cards.read(raw[at:at + 80] for at in range(0, len(raw), 80))
        assert found[-1].name == "END"
        return [k for k in found[:-1] if k.name not in [*OWN, *STRUCTURE]], made

    return run


def names(found):
    return [k.name for k in found]


def text(found, name):
    return next(cards.string(k) for k in found if k.name == name)


def read(*lines):
    return cards.read(line.ljust(80).encode() for line in lines)


def test_the_first_source_wins_and_order_is_that_of_sources(merged):
    found, _ = merged(specification(
        keyword_source("ocm", value("OBJECT", "ocm"), value("RA", 1.5), value("DEC", 2.5)),
        keyword_source("tcs", value("RA", 9.9), value("AIRMASS", 1.1), value("OBJECT", "tcs"),
                       value("AA", 1))))
    assert names(found) == ["OBJECT", "RA", "DEC", "AIRMASS", "AA"]
    assert text(found, "OBJECT") == "ocm"


def test_eso_keywords_are_sorted_by_category_then_name(merged):
    listed = ["ZZZ A", "DET1 X", "DET B", "DET A", "INS FILT2", "INS FILT10", "ADA X", "TEL X",
              "GEN X", "TPL X", "OBS X", "DPR X", "AAA X"]
    found, _ = merged(specification(keyword_source("a", *[eso(n, 1) for n in listed[:6]]),
                                    keyword_source("b", *[eso(n, 2) for n in listed[6:]])))
    assert names(found) == ["DPR X", "OBS X", "TPL X", "GEN X", "TEL X", "ADA X", "INS FILT10",
                            "INS FILT2", "DET A", "DET B", "AAA X", "DET1 X", "ZZZ A"]


def test_commentary_is_kept_from_all_in_order_behind_the_eso_keywords(merged):
    found, _ = merged(specification(
        keyword_source("a", literal("HISTORY one"), literal("COMMENT same"), eso("OBS X", 1)),
        keyword_source("b", literal("COMMENT same"), literal("HISTORY two"), value("V", 1))))
    assert names(found) == ["V", "OBS X", "HISTORY", "COMMENT", "COMMENT", "HISTORY"]


def test_the_cards_of_the_product_stand_where_dicd_wants_them(tmp_path):
    made = plan.plan(specification(keyword_source(
        "a", eso("OBS X", 1), value("V", "x" * 100), literal("COMMENT c"), value("DATE", "mine"),
        literal("CHECKSUM= 'mine'")), heuristics="v2"), str(tmp_path))
    raw = bytes(made.parts[0].header.draft())
    order = names(cards.read(raw[at:at + 80] for at in range(0, len(raw), 80)))
    # the places of CHECKSUM and DATASUM are blank until the sums are known
    assert order == ["SIMPLE", "BITPIX", "NAXIS", "EXTEND", "V", "LONGSTRN", "ORIGFILE", "ARCFILE",
                     "DATE", "OBS X", "COMMENT", "END"]
    assert len([w for w in made.warnings if "written by the merger" in w]) == 2


def test_untouched_cards_keep_their_bytes_and_structure_stays_out(tmp_path, merged):
    odd = ["OBJECT  = 'odd'/no blanks", "FREE    =   1.50   /  c", "HIERARCH ESO  INS  X='q'/c",
           "LONG    = 'ab&' / c", "CONTINUE  'cd&'", "CONTINUE  'ef' / d", "COMMENT  two  blanks"]
    out = ["EXTEND  = T", "PCOUNT  = 5", "TFORM1  = '1J'", "BZERO   = 5", "CHECKSUM= 'x'",
           "COMMENT   FITS (Flexible Image Transport System) format is defined in 'Astronomy"]
    (tmp_path / "a.fits").write_bytes(primary(*out, *odd, ""))
    found, made = merged(specification(file_source("a", "a.fits")))
    got = [card for k in found for card in k.cards]
    want = [line.ljust(80).encode() for line in odd]
    longstrn = [card for card in got if card.startswith(b"LONGSTRN")]
    assert len(longstrn) == 1
    assert sorted(got) == sorted(want + longstrn)
    assert made.warnings == []


def target_files(tmp_path):
    first = "SIMPLE  =                    T"
    (tmp_path / "t.fits").write_bytes(
        image(b"ab", "OBJECT  = 'target'", "MINE    = 1", "BZERO   = 7", "COMMENT t", first=first))
    (tmp_path / "b.fits").write_bytes(
        image(b"cd", "OBJECT  = 'b'", "THEIRS  = 1", "BSCALE  = 9", first=first))


def test_the_target_comes_first_and_wins_when_it_is_not_listed(tmp_path, merged):
    target_files(tmp_path)
    found, made = merged(specification(
        keyword_source("ocm", value("OBJECT", "ocm"), value("EXTRA", 1), literal("COMMENT o")),
        target=file_source("dcs", "t.fits")))
    assert names(found) == ["NAXIS1", "OBJECT", "MINE", "BZERO", "EXTRA", "COMMENT", "COMMENT"]
    assert text(found, "OBJECT") == "target"
    assert made.alerts == []
    assert found[-2].cards[0].startswith(b"COMMENT t")


def test_the_target_has_the_priority_of_its_place_when_it_is_listed(tmp_path, merged):
    target_files(tmp_path)
    dcs = file_source("dcs", "t.fits")
    found, made = merged(specification(
        keyword_source("ocm", value("OBJECT", "ocm"), value("EXTRA", 1)), dcs,
        keyword_source("low", value("MINE", 2)), target=dcs))
    assert names(found) == ["NAXIS1", "MINE", "BZERO", "OBJECT", "EXTRA", "COMMENT"]
    assert text(found, "OBJECT") == "ocm"
    assert len(made.inputs) == 1


def test_what_gives_meaning_to_the_array_comes_from_the_target_alone(tmp_path, merged):
    target_files(tmp_path)
    found, made = merged(specification(
        keyword_source("ocm", value("BZERO", 1)), file_source("b", "b.fits"),
        target=file_source("dcs", "t.fits", keywordRules=[])))
    assert names(found) == ["NAXIS1", "BZERO", "OBJECT", "THEIRS"]
    assert b"= 7" in found[1].cards[0]
    assert [a["id"] for a in made.alerts] == ["unmergeable:b:b.fits"]
    assert any("BZERO" in w for w in made.warnings)


def test_the_unmergeable_alert_can_be_silenced(tmp_path, merged):
    target_files(tmp_path)
    _, made = merged(specification(file_source("b", "b.fits", alertUnmergeable=False)))
    assert made.alerts == []


def test_v1_copies_the_user_class_of_files_only(tmp_path, merged):
    lines = ["OBJECT  = 'x'", "RA      = 1.0", "CRVAL1  = 1", "CD1_1   = 2", "MJD-OBS = 3",
             "DATE-OBS= '2026-11-21'", "EXTNAME = 'e'", "HIERARCH ESO INS X = 1", "HISTORY h"]
    (tmp_path / "a.fits").write_bytes(primary(*lines))
    ocm = keyword_source("ocm", value("MJD-OBS", 5.5), literal("COMMENT user"))
    found, _ = merged(specification(file_source("a", "a.fits"), ocm, heuristics="v1"))
    assert names(found) == ["OBJECT", "RA", "MJD-OBS", "INS X", "COMMENT"]
    found, _ = merged(specification(file_source("a", "a.fits"), ocm))
    assert len(found) == len(lines) + 1
    found, _ = merged(specification(target=file_source("a", "a.fits"), heuristics="v1"))
    assert len(found) == len(lines)


def test_keywords_known_at_start_give_way_to_those_reported(tmp_path, merged):
    (tmp_path / "a.fits").write_bytes(primary("OBJECT  = 'reported'"))
    first = [value("OBJECT", "initial"), value("EARLY", 1)]
    found, _ = merged(specification(file_source("a", "a.fits", initialKeywords=first),
                                    keyword_source("b", value("EARLY", 2))))
    assert [cards.split(k)[0] for k in found] == ["1", "'reported'"]


def filtered(patterns, keywords_):
    return names(rules.apply([{"type": "filter", "selectionPatterns": patterns}], keywords_,
                             "source t", lambda _: None))


def test_filters_select_by_class_and_glob_in_order():
    found = read("OBJECT  = 'x'", "ORIGIN  = 'y'", "COMMENT c", "HIERARCH ESO INS TEMP1 VAL = 1",
                 "HIERARCH ESO INS TEMP2 VAL = 1", "HIERARCH ESO INS TEMP3 VAL = 1",
                 "HIERARCH ESO DET X = 1")
    assert filtered(["+e INS *"], found) == [f"INS TEMP{n} VAL" for n in (1, 2, 3)]
    assert filtered(["+e INS *", "-e INS TEMP[12] *"], found) == ["INS TEMP3 VAL"]
    assert filtered(["-e INS *", "+e *"], found) == names(found)[3:]
    assert filtered(["+v OBJECT"], found) == ["OBJECT"]
    assert filtered(["+v OBJ"], found) == []
    assert filtered(["+v object"], found) == []
    assert filtered(["+cv O* ", "+cv O*", "+cv COMMENT"], found) == ["OBJECT", "ORIGIN", "COMMENT"]
    assert filtered(["+e DET ?"], found) == ["DET X"]
    assert filtered([], found) == []


def test_an_empty_list_of_rules_copies_nothing(merged):
    found, _ = merged(specification(keyword_source("a", value("X", 1), keywordRules=[])))
    assert found == []


def transformed(found, regex, form, patterns=("+evc *",)):
    told = []
    rule = {"type": "transform", "selectionPatterns": list(patterns), "regex": regex,
            "format": form}
    return rules.apply([rule], found, "source t", told.append), told


def test_transforms_rename_what_they_select():
    found = read("HIERARCH ESO INS FILT1 ID = 'a''b' / [u] comment", "HIERARCH ESO DET X = 1.50",
                 "OBJECT  = 'x'", "HIERARCH ESO INS L = 'part&' / c", "CONTINUE  'more' / last")
    made, _ = transformed(found, "^INS ", "INS2 ", ["+e INS *"])
    assert names(made) == ["INS2 FILT1 ID", "DET X", "OBJECT", "INS2 L"]
    assert made[0].cards[0].rstrip() == b"HIERARCH ESO INS2 FILT1 ID   = 'a''b    ' / [u] comment"
    assert made[1] is found[1]
    assert cards.string(made[3]) == "partmore"
    assert cards.split(made[3])[1] == "c last"
    made, _ = transformed(found, r"^(\w+) (\w)$", r"$2 \1", ["+e DET *"])
    assert names(made)[1] == "X DET"
    assert b"= 1.50".replace(b" ", b"") in made[1].cards[0].replace(b" ", b"")
    made, _ = transformed(found, "OBJECT", "TARGET", ["+v *"])
    assert made[2].cards[0].rstrip() == b"TARGET  = 'x'"


def test_renaming_into_a_fuller_card_cuts_comments_and_spreads_strings():
    long_text = "t" * 50
    found = read(f"HIERARCH ESO A = '{long_text}' / note")
    made, told = transformed(found, "^A$", "INS " + "N" * 30)
    assert cards.string(made[0]) == long_text
    assert len(made[0].cards) == 2
    made, told = transformed(read("HIERARCH ESO A = 12 / " + "c" * 50), "^A$", "INS " + "N" * 30)
    assert "comment cut" in told[0]


@pytest.mark.parametrize(("regex", "form", "reason"), [
    ("(", "x", "regex"),
    ("OBJECT", "TOOLONGNAME", "1 to 8"),
    ("OBJECT", "NAXIS", "may not become NAXIS"),
    ("OBJECT", "CHECKSUM", "may not become CHECKSUM"),
    ("OBJECT", "BZERO", "may not become BZERO"),
    ("OBJECT", "$3", "no group 3"),
    ("OBJECT", "", "1 to 8"),
])
def test_transforms_that_make_no_sense_are_refused(regex, form, reason):
    with pytest.raises(errors.BadData, match=reason):
        transformed(read("OBJECT  = 'x'"), regex, form)


@pytest.mark.parametrize("pattern", ["INS *", "+x INS", "+eINS", "e INS", "+e", ""])
def test_patterns_that_are_not_understood_are_refused(pattern):
    with pytest.raises(errors.BadData, match="not understood"):
        filtered([pattern], [])


def test_collisions_after_renaming_go_by_priority(merged):
    rename = [{"type": "transform", "selectionPatterns": ["+v B"], "regex": "B", "format": "A"}]
    found, _ = merged(specification(keyword_source("a", value("A", 1)),
                                    keyword_source("b", value("B", 2), keywordRules=rename)))
    assert [(k.name, cards.split(k)[0]) for k in found] == [("A", "1")]


def test_a_keyword_twice_in_one_source_is_told():
    told = []
    twice = read("A       = 1", "A       = 2", "B       = 1", "B       = 1")
    found = keywords.merge([Block("source t", 0, twice)], told.append)
    assert [cards.split(k)[0] for k in found] == ["1", "1"]
    assert len(told) == 1 and "occurs twice" in told[0]


@pytest.mark.parametrize("name", ["CRVAL1", "CTYPE2A", "CD1_2", "PV2_3", "EQUINOX", "BUNIT",
                                  "TDIM3", "EXTNAME", "DATE-OBS", "LONPOLE", "ZIMAGE", "TCTYP3"])
def test_what_cfitsio_knows_is_not_user_class(name):
    keyword, = read(f"{name:8}= 1")
    assert not classes.is_user(keyword)


@pytest.mark.parametrize("name", ["RA", "DEC", "EXPTIME", "CRSPLIT", "CDELTA", "TELESCOP"])
def test_the_rest_is(name):
    keyword, = read(f"{name:8}= 1")
    assert classes.is_user(keyword)


# -- what is easily lost ----------------------------------------------------------------------


def test_a_record_told_by_several_cards_stays_whole_and_is_not_mixed(tmp_path, merged):
    records = ["DP1     = 'NAXIS: 2'", "DP1     = 'AXIS.1: 1.5' / one", "DQ1     = 'A: 1'"]
    (tmp_path / "a.fits").write_bytes(primary(*records, "DP1     = 'AXIS.1: 1.5' / one",
                                                  "DP1     = 'NAXIS: 3'"))
    (tmp_path / "b.fits").write_bytes(primary("DP1     = 'AXIS.2: 7'", "DP2     = 'X: 1'"))
    found, made = merged(specification(file_source("a", "a.fits"), file_source("b", "b.fits")))
    assert [card.rstrip().decode() for k in found for card in k.cards] == [
        *records, "DP2     = 'X: 1'"]
    assert [w for w in made.warnings if "twice" in w] == [
        "source a: keyword DP1 occurs twice; the first is used"]


@pytest.mark.parametrize("line", ["DP1     = 'no: record'", "DP1     = 2", "DP1     = 'A: T'",
                                  "DP1     = 'a b: 2'", "DP1     = 'open"])
def test_other_values_are_no_records(line):
    told = []
    twice = read("DP1     = 'NAXIS: 2'", line)
    assert len(keywords.merge([Block("t", 0, twice)], told.append)) == 1
    assert len(told) == 1


def test_an_orphan_continue_does_not_go_on_with_a_string_of_another(tmp_path):
    (tmp_path / "a.fits").write_bytes(primary("COMMENT first", "CONTINUE  'stray'"))
    made = plan.plan(specification(
        keyword_source("ocm", eso("ZZZ", "ends in an ampersand &")),
        file_source("a", "a.fits", keywordRules=[
            {"type": "filter", "selectionPatterns": ["+c CONTINUE"]}])), str(tmp_path))
    raw = bytes(made.parts[0].header.draft())
    found = cards.read(raw[at:at + 80] for at in range(0, len(raw), 80))
    assert text(found, "ZZZ") == "ends in an ampersand &"
    assert names(found)[-3:] == ["COMMENT", "CONTINUE", "END"]


def test_a_long_string_of_a_source_stays_whole_through_rules_and_merges(tmp_path, merged):
    long_eso = ["HIERARCH ESO OCS LONG = 'part one, &' / c", "CONTINUE  'part two, &'",
                "CONTINUE  'end' / last"]
    long_value = ["LNGVAL  = 'one &'", "CONTINUE  'two'"]
    (tmp_path / "a.fits").write_bytes(primary("LONGSTRN= 'OGIP 1.0'", *long_eso, *long_value,
                                                  "COMMENT c"))
    (tmp_path / "b.fits").write_bytes(primary("LONGSTRN= 'OGIP 1.0' / b", *long_eso[:1],
                                                  "CONTINUE  'loses'"))
    rename = [{"type": "transform", "selectionPatterns": ["+e OCS *"], "regex": "^OCS",
               "format": "INS"},
              {"type": "transform", "selectionPatterns": ["+v LNGVAL"], "regex": "LNG",
               "format": "LONG"}]
    found, _ = merged(specification(file_source("a", "a.fits"), file_source("b", "b.fits"),
                                    file_source("c", "a.fits", keywordRules=rename)))
    assert names(found) == ["LONGSTRN", "LNGVAL", "LONGVAL", "INS LONG", "OCS LONG",
                            "COMMENT", "COMMENT"]
    assert found[0].cards[0].rstrip() == b"LONGSTRN= 'OGIP 1.0'"
    assert [card.rstrip().decode() for card in found[4].cards] == long_eso
    assert [card.rstrip().decode() for card in found[2].cards] == [
        "LONGVAL = 'one &'", "CONTINUE  'two'"]
    assert cards.string(found[3]) == "part one, part two, end"
    assert cards.comment(found[3]) == "c last"


def test_structure_is_structure_whatever_its_case(tmp_path, merged):
    odd = ["naxis   = 3", "Bitpix  = 16", "checksum= 'x'", "date    = 'then'", "bzero   = 5",
           "tform1  = '1J'"]
    (tmp_path / "a.fits").write_bytes(primary(*odd, "object  = 'small'", "OBJECT  = 'large'",
                                                  "HIERARCH eso ins Id = 1"))
    found, _ = merged(specification(file_source("a", "a.fits")))
    assert names(found) == ["object", "OBJECT", "HIERARCH eso ins Id"]


def test_keywords_of_other_domains_are_merged_behind_those_of_eso(tmp_path, merged):
    lines = ["HIERARCH SDSS PLATE = 1", "HIERARCH ESO XYZ A = 2", "HIERARCH CAHA A = 3"]
    (tmp_path / "a.fits").write_bytes(primary(*lines))
    found, _ = merged(specification(file_source("a", "a.fits"), file_source("b", "a.fits")))
    assert [k.cards[0].rstrip().decode() for k in found] == [lines[2], lines[0], lines[1]]


def test_inherit_and_history_of_the_target_keep_their_places(tmp_path, merged):
    (tmp_path / "t.fits").write_bytes(primary(
        "HISTORY one", "INHERIT = T", "COMMENT two", "", "HISTORY three", "        four"))
    (tmp_path / "b.fits").write_bytes(primary("INHERIT = F", "HISTORY other"))
    found, _ = merged(specification(file_source("b", "b.fits"),
                                    target=file_source("t", "t.fits")))
    assert [k.cards[0].rstrip().decode() for k in found] == [
        "INHERIT = T", "HISTORY one", "COMMENT two", "HISTORY three", "        four",
        "HISTORY other"]


def test_rules_are_for_the_keywords_known_at_start_as_well(tmp_path, merged):
    (tmp_path / "a.fits").write_bytes(primary("HIERARCH ESO INS ID = 'said'"))
    rename = [{"type": "transform", "selectionPatterns": ["+e INS *"], "regex": "^INS ",
               "format": "INS2 "}]
    initial = [eso("INS ID", "known"), eso("INS MODE", "m"), value("BZERO", 1), value("DATE", "x")]
    found, _ = merged(specification(
        file_source("a", "a.fits", initialKeywords=initial, keywordRules=rename)))
    assert [(k.name, cards.string(k)) for k in found] == [("INS2 ID", "said"), ("INS2 MODE", "m")]
    found, _ = merged(specification(
        file_source("a", "a.fits", initialKeywords=initial, keywordRules=[])))
    assert found == []


def test_several_files_of_a_source_and_sources_without_files(tmp_path, merged):
    for name in "ab":
        (tmp_path / f"{name}.fits").write_bytes(
            primary(f"KEY{name.upper()}    = 1", f"SAME    = '{name}'"))
    found, made = merged(specification(file_source("s", "a.fits"), keyword_source("k"),
                                       file_source("s", "b.fits")))
    assert names(found) == ["KEYA", "SAME", "KEYB"]
    assert text(found, "SAME") == "a"
    assert made.warnings == []
    assert merged(specification())[0] == []


# -- properties -------------------------------------------------------------------------------

LETTERS = st.sampled_from("ABC")
KEYWORDS = st.lists(st.one_of(
    st.builds("{:8}= {}".format, LETTERS, st.integers(0, 3)),
    st.builds("HIERARCH ESO {} {} = {}".format, st.sampled_from([*keywords.CATEGORIES, "XYZ", "A"]),
              LETTERS, st.integers(0, 3)),
    st.builds("{} {}".format, st.sampled_from(["COMMENT", "HISTORY"]), st.integers(0, 9))),
    max_size=8).map(lambda lines: read(*lines))
BLOCKS = st.lists(KEYWORDS, min_size=1, max_size=4).flatmap(lambda lists: st.builds(
    lambda ranks, target: [Block(f"s{n}", rank, mine, n == target) for n, (rank, mine)
                           in enumerate(zip(ranks, lists, strict=True))],
    st.permutations(range(len(lists))), st.integers(-1, len(lists) - 1)))


@quick(300)
@given(BLOCKS)
def test_every_keyword_is_kept_once_and_stands_in_its_place(blocks):
    merged_ = keywords.merge(blocks, lambda _: None)
    by_rank = sorted(blocks, key=lambda block: block.rank)
    expected = {}
    for block in by_rank:
        for keyword in block.keywords:
            if keyword.kind != "commentary":
                expected.setdefault(keyword.key, keyword)
    kept = [k for k in merged_ if k.kind != "commentary"]
    assert {k.key: k for k in kept} == expected
    assert len(kept) == len(expected)
    assert [k for k in merged_ if k.kind == "commentary"] == [
        k for block in by_rank for k in block.keywords if k.kind == "commentary"]
    assert [k.kind for k in merged_] == sorted(
        (k.kind for k in merged_), key=["value", "eso", "commentary"].index)
    in_order = [*(b for b in by_rank if b.is_target), *(b for b in by_rank if not b.is_target)]
    places = {id(k): place for place, k in enumerate(
        k for block in in_order for k in block.keywords)}
    values = [places[id(k)] for k in kept if k.kind == "value"]
    assert values == sorted(values)


@quick(200)
@given(BLOCKS)
def test_the_order_of_eso_keywords_does_not_depend_on_the_sources(blocks):
    orders = set()
    for ranks in itertools.islice(itertools.permutations(range(len(blocks))), 6):
        again = [Block(b.where, rank, b.keywords) for b, rank in zip(blocks, ranks, strict=True)]
        orders.add(tuple(k.name for k in keywords.merge(again, lambda _: None)
                         if k.kind == "eso"))
    assert len(orders) == 1
    known = [name for name in orders.pop() if name.split()[0] in keywords.CATEGORIES]
    ranks = [keywords.CATEGORIES.index(name.split()[0]) for name in known]
    assert ranks == sorted(ranks)


PATTERNS = st.lists(st.builds("{}{} {}".format, st.sampled_from("+-"),
                              st.sampled_from(["e", "v", "c", "ev", "evc"]),
                              st.sampled_from(["*", "A", "A *", "INS *", "?", "[AB]*", "* B"])),
                    max_size=4)


@quick(200)
@given(KEYWORDS, PATTERNS)
def test_a_filter_selects_a_part_in_order_and_once_is_enough(found, patterns):
    rule = {"type": "filter", "selectionPatterns": patterns}
    once = rules.apply([rule], found, "t", lambda _: None)
    assert rules.apply([rule, rule], found, "t", lambda _: None) == once
    remaining = iter(found)
    assert all(any(k is other for other in remaining) for k in once)
    rule = {"type": "filter", "selectionPatterns": [*patterns, "-evc *"]}
    assert rules.apply([rule], found, "t", lambda _: None) == []
    rule = {"type": "filter", "selectionPatterns": [*patterns, "+evc *"]}
    assert rules.apply([rule], found, "t", lambda _: None) == found
    assert rules.apply([], found, "t", lambda _: None) == []


@quick(200)
@given(KEYWORDS, PATTERNS)
def test_a_transform_changes_names_and_nothing_else(found, patterns):
    rule = {"type": "transform", "selectionPatterns": patterns, "regex": r"^(\w+) (\w)$",
            "format": r"\2 $1"}
    made = rules.apply([rule], found, "t", lambda _: None)
    assert [k.kind for k in made] == [k.kind for k in found]
    assert [cards.split(k) for k in made] == [cards.split(k) for k in found]
    chosen = rules.apply([{"type": "filter", "selectionPatterns": patterns}], found, "t",
                         lambda _: None)
    for before, after in zip(found, made, strict=True):
        if before.kind == "eso" and any(before is k for k in chosen):
            assert after.name.split() == before.name.split()[::-1]
        else:
            assert after is before


@quick(400)
@given(st.text("AB *?[]!", max_size=6), st.text("AB []", max_size=6))
def test_globs_are_those_of_the_shell(glob, name):
    if not glob.strip(" "):
        return
    (found,) = read("OBJECT  = 1")
    keyword = cards.Keyword("eso", name, found.cards)
    rule = {"type": "filter", "selectionPatterns": [f"+e {glob}"]}
    assert bool(rules.apply([rule], [keyword], "t", lambda _: None)) == (
        fnmatch.fnmatchcase(name, glob.lstrip(" ")))


@quick(400)
@given(st.text("+-evcx *", max_size=7))
def test_selection_patterns_are_those_of_the_grammar(pattern):
    fits = re.fullmatch(r"([+-])([evc]+) +(.+)", pattern)
    rule = {"type": "filter", "selectionPatterns": [pattern]}
    if fits:
        assert rules.apply([rule], [], "t", lambda _: None) == []
    else:
        with pytest.raises(errors.BadData, match="not understood"):
            rules.apply([rule], [], "t", lambda _: None)

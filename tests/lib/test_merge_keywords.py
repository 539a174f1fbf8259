"""Which keywords enter the primary header, who wins, and in which order they stand."""

from __future__ import annotations

import pytest

from daq_merge import cards, classes, keywords, plan, rules
from daq_merge.keywords import Block
from daqlib import errors
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
        raw = bytes(made.parts[0].header.raw)
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
    raw = bytes(made.parts[0].header.raw)
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
    assert cards.split(made[3])[1] == "last"
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

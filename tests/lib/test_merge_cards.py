"""Cards from values and back: what astropy reads is what was asked for."""

from __future__ import annotations

import json
import random
import re
import string as letters
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daq_merge import cards, classes, keywords
from daqlib import cardname, cardvalue, errors
from daqlib.fitsfile import CARD
from fuzzing import quick, thorough


def quiet(_: str) -> None:
    """Take warnings and forget them."""


def made(kind, name, value, comment="", warn=quiet):
    return cards.make(kind, name, value, comment, "source t", warn)


def parse(keyword):
    """What an independent reader makes of the cards: (value, comment)."""
    from astropy.io import fits

    header = fits.Header.fromstring("".join(card.decode("ascii") for card in keyword.cards))
    name = keyword.name if keyword.kind == "value" else f"ESO {keyword.name}"
    return header[name], header.comments[name]


def random_float(source):
    while True:
        value = struct.unpack("<d", source.randbytes(8))[0]
        if value - value == 0:
            return value


@pytest.mark.parametrize("kind", ["value", "eso"])
def test_floats_come_back_to_the_last_bit(kind):
    source = random.Random(1)
    values = [random_float(source) for _ in range(400)]
    values += [0.0, -0.0, 1e16, 1e15, 5e-324, 1.7976931348623157e308, 0.1, 1.0, -1e-7, 1e22]
    for value in values:
        keyword = made(kind, "X", value, "a comment")
        back, comment = parse(keyword)
        assert struct.pack(">d", back) == struct.pack(">d", value), keyword
        assert isinstance(back, float)
        assert comment == "a comment"


@pytest.mark.parametrize("kind", ["value", "eso"])
def test_integers_and_logicals_come_back_as_such(kind):
    for value in (0, -1, 2**64 - 1, -(2**63), 42, True, False):
        back, _ = parse(made(kind, "X", value))
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize("name", ["X", "INS FILT1 ID", "A" * 8 + " " + "B" * 20 + " C",
                                  "T" * 40, "T" * 58])
def test_strings_come_back_through_any_length(name):
    source = random.Random(2)
    alphabet = letters.ascii_letters + letters.digits + "   ''&&/=#"
    kind = "value" if len(name) == 1 else "eso"
    for length in [*range(0, 90), 130, 137, 200, 500]:
        ending = "x" * length + "&"
        assert parse(made(kind, name, ending))[0] == ending
        text = "".join(source.choice(alphabet) for _ in range(length)).rstrip() or "x"
        keyword = made(kind, name, text)
        assert all(len(card) == CARD for card in keyword.cards)
        assert parse(keyword)[0] == text, keyword.cards
        assert cards.string(keyword) == text


def test_strings_come_back_in_fitsio(tmp_path):
    fitsio = pytest.importorskip("fitsio")
    source = random.Random(3)
    want = {}
    lines = [b"SIMPLE  =                    T", b"BITPIX  =                    8",
             b"NAXIS   =                    0"]
    for number in range(40):
        text = "".join(source.choice("abc '&/") for _ in range(source.randint(1, 180))).strip()
        want[number] = text or "x"
        if number < 20:
            want[number] = "x" * (60 + number) + "&"
        lines += made("value" if number % 2 else "eso", f"K{number}", want[number]).cards
    path = tmp_path / "x.fits"
    raw = b"".join(line.ljust(CARD) for line in [*lines, b"END"])
    path.write_bytes(raw + b" " * (-len(raw) % 2880))
    header = fitsio.read_header(str(path))
    for number, text in want.items():
        assert header[f"K{number}" if number % 2 else f"ESO K{number}"].rstrip() == text


def test_standard_cards_are_in_fixed_format():
    assert made("value", "NUM", 42, "n").cards[0].rstrip() == (
        b"NUM     =                   42 / n")
    assert made("value", "FLAG", True).cards[0].rstrip() == b"FLAG    =                    T"
    assert made("value", "S", "it's", "c").cards[0].rstrip() == (
        b"S       = 'it''s   '           / c")
    assert made("value", "BIG", 1e16).cards[0].rstrip() == b"BIG     =              1.0E+16"
    assert made("value", "NULL", "").cards[0].rstrip() == b"NULL    = ''"


def test_eso_cards_give_up_alignment_then_comment_then_blanks_but_never_the_value():
    told = []

    def card(name, value, comment):
        keyword = made("eso", name, value, comment, told.append)
        assert len(keyword.cards) == 1
        assert parse(keyword)[0] == value
        return keyword.cards[0].decode().rstrip()

    assert card("OBS ID", 12, "block") == "HIERARCH ESO OBS ID          =           12 / block"
    assert card("OBS ID", 12, "c" * 40).endswith("= 12 / " + "c" * 40) or not told
    long_name = "INS " + "N" * 40
    assert card(long_name, 12, "c" * 14) == f"HIERARCH ESO {long_name} = 12 / {'c' * 14}"
    assert told == []
    assert card(long_name, 12, "c" * 30).endswith("= 12 / " + "c" * 15)
    assert "comment cut" in told.pop()
    assert "= 1234567890123456789" in card("T" * 44, 1234567890123456789, "gone")
    assert "comment left out" in told.pop()
    assert card("N" * 63, 1, "") == f"HIERARCH ESO {'N' * 63} = 1"


@pytest.mark.parametrize(("kind", "name", "value", "rule"), [
    ("value", "TOOLONGNAME", 1, "1 to 8"),
    ("value", "lower", 1, "1 to 8"),
    ("value", "", 1, "1 to 8"),
    ("value", "COMMENT", "x", "takes no value"),
    ("value", "END", 1, "takes no value"),
    ("value", "X", float("nan"), "no NaN"),
    ("value", "X", float("-inf"), "no infinity"),
    ("value", "X", 2**64, "64 bits"),
    ("value", "X", "caf\u00e9", "printable ASCII"),
    ("value", "X", "a\nb", "printable ASCII"),
    ("value", "X", None, "a string, a logical or a number"),
    ("value", "X", [1], "a string, a logical or a number"),
    ("eso", "INS  FILT", 1, "one blank between"),
    ("eso", "INS FILT\u00c4", 1, "one blank between"),
    ("eso", "N" * 64, 1, "at most 63"),
    ("eso", "N" * 63, 123456789, "do not fit"),
    ("eso", "N" * 63, "text that is long", "no room"),
])
def test_what_no_card_can_hold_is_refused_by_name_and_rule(kind, name, value, rule):
    with pytest.raises(errors.BadData) as caught:
        made(kind, name, value)
    assert rule in str(caught.value)
    assert "source t" in str(caught.value)
    assert name[:40] in str(caught.value) or not name


def test_a_comment_that_is_not_ascii_is_replaced_and_told():
    told = []
    keyword = made("value", "T", 1.5, "[\u00b0C] t", told.append)
    assert parse(keyword)[1] == "[?C] t"
    assert len(told) == 1


@pytest.mark.parametrize(("card", "kind", "name"), [
    ("OBJECT  = 'x'", "value", "OBJECT"),
    ("HIERARCH ESO INS FILT1 ID = 'x'", "eso", "INS FILT1 ID"),
    ("HIERARCH ESO INS  FILT1 ID='x'", "eso", "INS FILT1 ID"),
    ("HIERARCH SDSS PLATE = 3", "eso", "HIERARCH SDSS PLATE"),
    ("HIERARCH ESO no value", "commentary", "HIERARCH"),
    ("HIERARCH ESO = 1", "commentary", "HIERARCH"),
    ("COMMENT = looks like a value", "commentary", "COMMENT"),
    ("HISTORY text", "commentary", "HISTORY"),
    ("        text", "commentary", ""),
    ("NOVALUE  text", "commentary", "NOVALUE"),
    ("KEY     =5", "commentary", "KEY"),
    ("UNDEF   =", "value", "UNDEF"),
])
def test_a_raw_card_is_exactly_one_kind(card, kind, name):
    assert cards.classify(card.ljust(80).encode()) == (kind, name)


def test_continue_cards_travel_with_their_string_and_orphans_stay_commentary():
    lines = ["A       = 'one&'", "CONTINUE  'two&'", "CONTINUE  'three' / end",
             "CONTINUE  'orphan'", "B       = 'x'", "CONTINUE  'orphan too'", "",
             "HIERARCH ESO L = 'p&' / c", "CONTINUE  'q'"]
    found = cards.read(line.ljust(80).encode() for line in lines)
    assert [(k.kind, k.name, len(k.cards)) for k in found] == [
        ("value", "A", 3), ("commentary", "CONTINUE", 1), ("value", "B", 1),
        ("commentary", "CONTINUE", 1), ("eso", "L", 2)]
    assert cards.string(found[0]) == "onetwothree"
    assert cards.string(found[4]) == "pq"


def test_a_short_string_that_ends_in_an_ampersand_is_no_continuation():
    found = cards.read([*made("value", "A", "x&").cards, *made("value", "B", 1).cards])
    assert [cards.string(found[0]), len(found)] == ["x&", 2]


@pytest.mark.parametrize(("item", "reason"), [
    ({"type": "literalKeyword", "value": "END"}, "structure"),
    ({"type": "literalKeyword", "value": "NAXIS   = 2"}, "structure"),
    ({"type": "valueKeyword", "name": "BITPIX", "value": 8}, "structure"),
    ({"type": "literalKeyword", "value": "A" * 81}, "80 characters"),
    ({"type": "literalKeyword", "value": "COMMENT \u00e9"}, "printable ASCII"),
    ({"type": "literalKeyword", "value": "OBJECT  = 'open"}, "closing quote"),
    ({"type": "literalKeyword", "value": "OBJECT  = open"}, "no FITS value"),
    ({"type": "literalKeyword", "value": "OBJECT  =5"}, "columns 9 and 10"),
    ({"type": "literalKeyword", "value": "object  = 5"}, "1 to 8"),
    ({"type": "literalKeyword", "value": "HIERARCH ESO ins X = 5"}, "ESO name"),
    ({"type": "literalKeyword", "value": 5}, "not text"),
    ({"type": "otherKeyword", "name": "A", "value": "x"}, "no kind of keyword"),
    ({"type": "valueKeyword", "name": "A"}, "a string, a logical or a number"),
    ({"type": "valueKeyword", "name": 5, "value": 1}, "not both text"),
])
def test_json_keywords_that_would_damage_the_header_are_refused(item, reason):
    with pytest.raises(errors.BadData, match=reason):
        keywords.from_json([item], "source t", quiet)


def test_json_keywords_become_cards_in_order():
    told = []
    items = json.loads("""[
        {"type": "valueKeyword", "name": "EXPTIME", "value": 10.0, "comment": "[s]"},
        {"type": "esoKeyword", "name": "INS MODE", "value": "A"},
        {"type": "literalKeyword", "value": "COMMENT free"},
        {"type": "literalKeyword", "value": "RA      = 12.5 / [deg]"},
        {"type": "literalKeyword", "value": "LNG     = 'a&'"},
        {"type": "literalKeyword", "value": "CONTINUE  'b'"},
        {"type": "commentaryKeyword", "name": "HISTORY", "value": "done"},
        {"type": "valueKeyword", "name": "DATE", "value": "never"},
        {"type": "valueKeyword", "name": "BZERO", "value": 1}]""")
    found = keywords.from_json(items, "source t", told.append)
    assert [k.name for k in found] == ["EXPTIME", "INS MODE", "COMMENT", "RA", "LNG", "HISTORY",
                                       "DATE", "BZERO"]
    assert found[0].cards[0].startswith(b"EXPTIME =                 10.0 / [s]")
    assert found[3].cards[0] == b"RA      = 12.5 / [deg]".ljust(80)
    assert cards.string(found[4]) == "ab"
    assert ["DATE" in told[0], "BZERO" in told[1]] == [True, True]


def test_long_commentary_goes_over_several_cards():
    found = keywords.from_json(
        [{"type": "commentaryKeyword", "name": "COMMENT", "value": "x" * 100}], "t", quiet)
    assert [len(k.cards[0].rstrip()) for k in found] == [80, 8 + 28]


@pytest.mark.parametrize(("layout", "value", "card"), [
    ("%.3f", 1.23456, b"A       =                1.235"),
    ("%.0f", 2000, b"A       =                2000."),
    ("%.2e", -1.5e-7, b"A       =            -1.50E-07"),
    ("%04d", 7, b"A       =                 0007"),
    ("%d", 7.0, b"A       =                    7"),
    ("%c", True, b"A       =                    T"),
    ("%.5s", "it's", b"A       = 'it''s   '"),
])
def test_a_keyword_is_written_in_its_format(layout, value, card):
    items = [{"type": "valueKeyword", "name": "A", "value": value, "format": layout}]
    (found,) = keywords.from_json(items, "source t", quiet)
    assert found.cards[0].rstrip() == card
    (found,) = keywords.from_json([{**items[0], "type": "esoKeyword"}], "source t", quiet)
    assert found.cards[0].split(b"=")[1].strip() == card[10:].strip()


@pytest.mark.parametrize(("layout", "value", "rule"), [
    ("%g", 1.0, "use %f or %e"), ("%q", 1.0, "no conversion"), ("", 1.0, ""), ("5", 1, "no conv"),
    ("%.3f", "x", "format %.3f is not %s"), ("%s", 1, "not a number's"), ("%d", True, "not %c"),
    ("%c", "T", "not %s"), ("%d", 1.5, "whole number"), ("%u", -1, "no negative"),
    ("%.2s", "abc", "allows 2"), ("%.3f", 1e300, "do not fit"), ("%.99f", 1.0, "do not fit"),
    ("%f", float("nan"), "no NaN"), ("%d", float("nan"), "whole number"), ("%d", 2**64, "64 bits"),
    ("%.1f", 2**53 + 1, "loses digits"), ("%*d", 1, "no conversion"), ("%n", 1, "no conversion"),
    ("%.3f", None, "a value is a string"), (5, 1.0, "format is not"),
])
def test_a_value_that_does_not_survive_its_format_is_refused(layout, value, rule):
    item = {"type": "valueKeyword", "name": "AKEY", "value": value, "format": layout}
    if not rule:
        assert keywords.from_json([item], "source t", quiet)
        return
    with pytest.raises(errors.BadData) as caught:
        keywords.from_json([item], "source t", quiet)
    assert rule in str(caught.value)
    assert "AKEY" in str(caught.value)


def test_every_real_survives_a_format_with_digits_enough():
    source = random.Random(5)
    for _ in range(300):
        value = random_float(source)
        keyword = cards.make("eso", "X", value, "", "t", quiet, "%.16e")
        assert parse(keyword)[0] == value


def test_an_eso_name_is_written_without_its_prefix():
    with pytest.raises(errors.BadData, match="written without HIERARCH ESO"):
        made("eso", "HIERARCH ESO INS ID", 1)


@pytest.mark.parametrize(("written", "value"), [
    ("T", True), ("F", False), ("5", 5), ("-05", -5), ("5.", 5.0), (".5", 0.5), ("1D3", 1000.0),
    ("1.5e-3", 0.0015), ("'it''s '", "it's"), ("''", ""), ("", None), ("(1, 2.5)", 1 + 2.5j)])
def test_values_are_read_as_what_they_are(written, value):
    found = cardvalue.read(written, "x")
    assert found == value
    assert type(found) is type(value)


# -- any value, through astropy and back ------------------------------------------------------

PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
TEXTS = st.one_of(
    st.text(PRINTABLE, max_size=200),
    st.text(st.sampled_from("ab '&/="), max_size=160),
    st.builds(lambda length, end: "x" * length + end, st.integers(55, 75),
              st.sampled_from(["", "&", "'", "''", "&&", "'&", "&'", " &", "/"])))
VALUES = st.one_of(
    TEXTS, st.booleans(), st.integers(-(2**63), 2**64 - 1), st.integers(-9, 9),
    st.floats(allow_nan=False, allow_infinity=False))
STANDARD = st.text(st.sampled_from("ABCXYZ019_-"), min_size=1, max_size=8).filter(
    lambda name: not name.startswith("END"))
WORDS = st.text(st.sampled_from("ABCXYZ019_-"), min_size=1, max_size=9)
NAMES = st.one_of(
    st.tuples(st.just("value"), STANDARD),
    st.tuples(st.just("eso"), st.lists(WORDS, min_size=1, max_size=5).map(" ".join)))


def holds(keyword, value, comment, told):
    assert all(len(card) == CARD for card in keyword.cards)
    assert cards.read(keyword.cards)[0].cards == keyword.cards
    assert cards.classify(keyword.cards[0]) == keyword.key
    theirs = ours(keyword)
    # astropy takes a doubled quote before a slash for the end of the string
    misread = isinstance(value, str) and (
        re.search("' */", value) or (value.strip() == "" and "'" in comment))
    back = value.rstrip(" ") if misread else parse(keyword)[0]
    if isinstance(value, str):
        assert back == theirs == value.rstrip(" ")
        # a comment that is broken off between two cards may lose blanks there
        # and a text that ends in '&' needs one
        wanted = comment.split() or (["end", "of", "text"] if value.endswith("&") else [])
        assert cards.comment(keyword).split() in (comment.split(), wanted) or told
        return
    assert type(back) is type(theirs) is type(value)
    if isinstance(value, float):
        assert struct.pack(">d", back) == struct.pack(">d", theirs) == struct.pack(">d", value)
    assert back == theirs == value
    assert cards.comment(keyword) == comment.strip() or told


def ours(keyword):
    text = cards.string(keyword)
    return cardvalue.read(cards.split(keyword)[0], "x") if text is None else text


def any_value_comes_back(name, value, comment):
    told = []
    try:
        keyword = cards.make(*name, value, comment, "t", told.append)
    except errors.BadData:
        # only a name that leaves no room for the value may be refused
        assert name[0] == "eso" and len(name[1]) > 40
        return
    holds(keyword, value, comment, told)
    said = cards.comment(keyword)
    if told:
        assert comment.strip().startswith(said)
    elif len(keyword.cards) == 1:
        assert said == comment.strip()


test_any_value_comes_back = quick(300)(given(
    NAMES, VALUES, st.text(PRINTABLE, max_size=80))(any_value_comes_back))
test_any_value_comes_back_at_length = pytest.mark.slow(thorough(20_000)(given(
    NAMES, VALUES, st.text(PRINTABLE, max_size=80))(any_value_comes_back)))


@quick(150)
@given(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), VALUES,
       st.text(PRINTABLE, max_size=60))
def test_renaming_keeps_value_and_comment(name, value, comment):
    told = []
    keyword = made("eso", "A B", value, comment)
    try:
        other = cards.renamed(keyword, name, "t", told.append)
    except errors.BadData:
        assert len(name) > 40
        return
    assert ours(other) == ours(keyword)
    # a string that ends in & needs a comment on its last card
    assert cards.comment(other) in (cards.comment(keyword), "end of text") or told
    assert all(len(card) == CARD for card in other.cards)


@pytest.mark.parametrize(("value", "card"), [
    (-0.0, "-0.0"), (1e22, "1.0E+22"), (5e-324, "5.0E-324"), (2**64 - 1, "18446744073709551615"),
    (1.2345678901234568e-300, "1.2345678901234568E-300"), (0.1, "0.1"), (1e16, "1.0E+16"),
    (123456789.0, "123456789.0"), (-(2**63), "-9223372036854775808")])
def test_numbers_are_written_in_the_fewest_digits_that_come_back(value, card):
    keyword = made("value", "X", value)
    assert keyword.cards[0] == f"X       = {card:>20}".ljust(80).encode()
    assert type(parse(keyword)[0]) is type(value)
    assert repr(parse(keyword)[0]) == repr(value)


def test_a_number_wider_than_the_fixed_columns_is_written_free():
    assert made("value", "X", -1.7976931348623157e308, "c").cards[0].rstrip() == (
        b"X       = -1.7976931348623157E+308 / c")


def test_a_keyword_of_another_domain_keeps_it_when_renamed():
    (found,) = cards.read([b"HIERARCH SDSS PLATE ID=  1.50 / c".ljust(80)])
    assert found.key == ("eso", "HIERARCH SDSS PLATE ID")
    other = cards.renamed(found, "HIERARCH SDSS DISC", "t", quiet)
    assert other.cards[0].rstrip() == b"HIERARCH SDSS DISC           =         1.50 / c"
    assert cards.classify(other.cards[0]) == other.key
    own = cards.renamed(found, "PLATE ID", "t", quiet)
    assert own.cards[0].startswith(b"HIERARCH ESO PLATE ID ")


def test_domains_are_not_mixed_up():
    lines = ["HIERARCH SDSS X = 1", "HIERARCH ESO HIERARCH SDSS X = 2", "HIERARCH ESO SDSS X = 3",
             "HIERARCH ESO HIERARCH = 4", "HIERARCH ESO X = 5", "HIERARCH X = 6"]
    found = cards.read(line.ljust(80).encode() for line in lines)
    assert len({k.key for k in found}) == len(lines)


def test_comments_of_all_cards_of_a_string_survive_renaming():
    found = cards.read(line.ljust(80).encode() for line in [
        "HIERARCH ESO L = 'part&' / first", "CONTINUE  'more&'", "CONTINUE  '' / last"])
    assert cards.comment(cards.renamed(found[0], "M", "t", quiet)) == "first last"


@pytest.mark.parametrize(("card", "name"), [
    ("COMMENT = 5", "OBJECT"), ("NOVALUE  'x'", "CONTINUE"), ("COMMENT x", "HIERARCH")])
def test_renaming_never_turns_commentary_into_something_else(card, name):
    (found,) = cards.read([card.ljust(80).encode()])
    if name == "HIERARCH":
        assert cards.renamed(found, name, "t", quiet).key == ("commentary", name)
        return
    with pytest.raises(errors.BadData, match="something else"):
        cards.renamed(found, name, "t", quiet)


# -- what plain string work does, told by the patterns that it replaces -----------------------

FORMAT = re.compile(r"%([-+ #0]*)([0-9]{0,2})(\.[0-9]{0,2})?(?:hh|h|ll|l|L)?([diufFeEsc])")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([EDed][+-]?[0-9]+)?")
NOT_USER = re.compile(
    r"Z(IMAGE|CMPTYPE|MASKCMP|SIMPLE|TENSION|BITPIX|EXTEND|BLOCKED|PCOUNT|GCOUNT|QUANTIZ|DITHER0"
    r"|SCALE|ZERO|BLANK|TABLE|HECKSUM|DATASUM|NAXIS\d*|NAME\d+|VAL\d+|TILE\d+|FORM\d+|CTYP\d+)"
    r"|BSCALE|BZERO|BLANK|BUNIT|DATAMIN|DATAMAX"
    r"|T(SCAL|ZERO|NULL|DIM|LMIN|LMAX|DMIN|DMAX|UNIT|DISP|DESC)\d+|(PTYPE|PSCAL|PZERO)\d+"
    r"|EXTNAME|EXTVER|EXTLEVEL|HDUNAME|HDUVER|HDULEVEL|CHECKSUM|DATASUM"
    r"|EQUINOX|EPOCH|MJD-OBS|RADECSYS|RADESYS|DATE-OBS"
    r"|(CTYPE|CUNIT|CRVAL|CRPIX|CROTA|CDELT)\d+[A-Z]?|(CD|PC|PV|PS)\d+_\d+[A-Z]?"
    r"|(WCSAXES|WCSNAME|LONPOLE|LATPOLE|EQUINOX|RADESYS|SPECSYS|RESTFRQ|RESTWAV)[A-Z]?"
    r"|T(CTYP|CUNI|CRVL|CRPX|CROT|CDLT|CDE)\d+[A-Z]?|T(CTY|CUN|CRV|CRP|CDE|CRO)\d+[A-Z]?"
    r"|T(CD|C|PC|P|PV|V|PS|S)\d+_\d+[A-Z]?|\d+(CTYP|CUNI|CRVL|CRPX|CDLT|CROT)\d+[A-Z]?", re.ASCII)
STRUCTURAL = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|BLOCKED|GROUPS|PCOUNT|GCOUNT|TFIELDS|THEAP|END"
    r"|(TFORM|TTYPE|TBCOL)\d+|TFORM", re.ASCII)
BOUND = re.compile(r"BSCALE|BZERO|BLANK|(PTYPE|PSCAL|PZERO)\d+", re.ASCII)
CLASSED = st.one_of(st.from_regex(NOT_USER, fullmatch=True),
                    st.from_regex(STRUCTURAL, fullmatch=True),
                    st.from_regex(BOUND, fullmatch=True), STANDARD,
                    st.text(st.sampled_from("TZNCDPVS19_nA#ab"), max_size=8))


@quick(600)
@given(CLASSED, st.sampled_from(["", "A", "1", "_1", "n", "a", "#"]))
@example("ZDITHER0", "1")
@example("NAXISn", "")
@example("NAXIS#", "")
def test_classes_are_those_of_the_patterns(name, more):
    name += more
    keyword = cards.Keyword("value", name, (f"{name:8}= 1".ljust(80).encode(),))
    folded = name.upper()
    role = classes.role(keyword)
    assert (role == "structural") == bool(STRUCTURAL.fullmatch(folded))
    assert cardname.is_structural("value", name) == (role == "structural")
    assert (role == "bound") == bool(BOUND.fullmatch(folded))
    assert (role == "reserved") == (folded in classes.RESERVED)
    assert classes.is_user(keyword) == (not NOT_USER.fullmatch(folded))
    assert classes.role(cards.Keyword("eso", name, keyword.cards)) == ""


@quick(500)
@given(st.one_of(st.from_regex(NUMBER, fullmatch=True), st.text("0123456789+-.EDed", max_size=9),
                 st.text(max_size=4)))
def test_numbers_are_those_of_the_pattern(text):
    try:
        found = cardvalue.read(text, "x")
    except errors.BadData:
        found = None
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    assert is_number == bool(NUMBER.fullmatch(text))
    if is_number:
        assert isinstance(found, int) == bool(re.fullmatch("[+-]?[0-9]+", text))


@quick(500)
@given(st.one_of(st.from_regex(FORMAT, fullmatch=True), st.text("%-+ #019.hlLdufes", max_size=9),
                 st.text(max_size=4).map("%{}d".format)))
def test_formats_are_those_of_the_pattern(text):
    want = FORMAT.fullmatch(text)
    if want is None:
        with pytest.raises(cardname.Unfit):
            cardvalue.parse_format(text, "x")
        return
    flags, width, precision, letter = want.groups(default="")
    found = cardvalue.parse_format(text, "x")
    assert found.text == f"%{flags}{width}{precision}{letter}"
    assert found.letter == letter
    assert found.precision == (int(precision[1:] or 0) if precision else None)


@quick(500)
@given(st.sampled_from(["value", "eso", "commentary"]),
       st.one_of(st.text(st.sampled_from("AZ09_- a\n\u00c4\u0660"), max_size=10),
                 st.lists(WORDS, max_size=9).map(" ".join)))
def test_names_are_those_of_the_patterns(kind, name):
    if kind == "eso":
        fits = re.fullmatch(r"[A-Z0-9_-]+( [A-Z0-9_-]+)*", name) and len(name) <= 63
    else:
        fits = re.fullmatch(r"[A-Z0-9_-]{1,8}", name) or (kind == "commentary" and name == "")
    try:
        cardname.check_name(kind, name, "t")
    except cardname.Unfit:
        assert not fits
    else:
        assert fits


@quick(400)
@given(st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=80),
    st.builds("{}{}{}".format, st.sampled_from(["HIERARCH", "HIERARCH ESO ", "HIERARCH  ESO",
                                                "COMMENT ", "CONTINUE", "OBJECT  ", "        "]),
              st.sampled_from(["=", "= ", " = ", " A  B=", "  X = 1", ""]),
              st.text(st.sampled_from("AB =/'"), max_size=60))))
def test_a_card_is_classified_as_before(text):
    assert cardname.classify(text) == slowly_classified(text)


def slowly_classified(card):
    text = card.ljust(CARD)
    name = text[:8].rstrip(" ")
    if name == "HIERARCH" and text[8] == " ":
        head, equals, _ = text[9:].partition("=")
        words = head.split()
        if equals and words and words != ["ESO"]:
            if words[0] == "ESO" and not (words[1] == "HIERARCH" and len(words) > 2):
                return "eso", " ".join(words[1:])
            return "eso", " ".join(["HIERARCH", *words])
        return "commentary", name
    if text[8:10] == "= " and name not in ("COMMENT", "HISTORY", "", "CONTINUE"):
        return "value", name
    return "commentary", name

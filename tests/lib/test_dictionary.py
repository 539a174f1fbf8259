"""Keyword dictionaries: both forms of file, and what they say of keywords."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from daq_merge import cards, classes, keywords
from daqlib import cardname, dictionary, dictionary_entry, errors
from harness import CHECKOUT

Keyword = dict[str, Any]

HEAD = "!cfg.include schema/ifw/core/dit/did/did.schema.yaml:\nheader: !cfg.type:DidHeader\n" \
       "  name: x\n"
OLD_HEAD = "Header:\n  Name: x\n  Include: ()\n"
SAMPLES = [f"config/dictionary/{name}.did.yaml" for name in ("primary", "instrument", "older")]


def value(name: str, what: object, **more: object) -> Keyword:
    return {"type": "valueKeyword", "name": name, "value": what, **more}


def eso(name: str, what: object, **more: object) -> Keyword:
    return {"type": "esoKeyword", "name": name, "value": what, **more}


def literal(text: str) -> Keyword:
    return {"type": "literalKeyword", "value": text}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Load dictionaries from texts: the first is ``0.yaml``, and so on."""

    def run(*texts: str, **others: str) -> dictionary.Dictionaries:
        names = [f"{number}.yaml" for number, _ in enumerate(texts)]
        for name, text in [*zip(names, texts, strict=True), *others.items()]:
            (tmp_path / name.replace("_yaml", ".yaml")).write_text(text)
        return dictionary.load(names, str(tmp_path))

    return run


@pytest.fixture(scope="module")
def samples() -> dictionary.Dictionaries:
    return dictionary.load(SAMPLES, str(CHECKOUT))


def rules(known: dictionary.Dictionaries, *given: Any) -> list[str]:
    """Return the rules that keywords break."""
    with pytest.raises(dictionary.InvalidKeywords) as caught:
        known.formatted(list(given), "command")
    return [failure["rule"] for failure in caught.value.failures]


def one(known: dictionary.Dictionaries, given: Keyword) -> Keyword:
    (made,) = known.formatted([given], "command")
    return made


def card(made: Keyword) -> str:
    (found,) = keywords.from_json([made], "k", lambda _: None)
    return found.cards[0].decode().rstrip()


# -- files -----------------------------------------------------------------------------------------


def test_the_samples_load_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    known = dictionary.load(SAMPLES, str(CHECKOUT))
    assert [Path(path).name for path in known.paths] == [Path(name).name for name in SAMPLES]
    assert len(known.entries) > 30
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("tag", "good", "bad"), [
    ("Bool", True, 1), ("Boolean", False, "T"), ("String", "x", 1), ("Int", 5, 5.0),
    ("Int", 5, True), ("Int32", 2**31 - 1, 2**31), ("UInt8", 255, -1), ("Int64", -5, 2**63),
    ("Double", 1.5, "1.5"), ("Float", 1, True), ("Double", 1.5, None), ("Double", 1.5, [1]),
])
def test_types_are_those_of_the_tag_or_the_member(load: Any, tag: str, good: object,
                                                  bad: object) -> None:
    new = load(f"{HEAD}A: !cfg.type:Did{tag}Key\n  comment: c\n")
    old = load(f"{OLD_HEAD}A:\n  Class: (FITS)\n  Type: {tag}\n  Comment: c\n  Range: ()\n")
    for known in (new, old):
        assert one(known, value("A", good)) == value("A", good, comment="c")
        assert rules(known, value("A", bad))[0].startswith("invalid: 0.yaml:")


def test_an_integer_is_promoted_to_a_real_unless_digits_get_lost(load: Any) -> None:
    known = load(f"{HEAD}A: !cfg.type:DidDoubleKey\n")
    made = one(known, value("A", 5))["value"]
    assert (made, type(made)) == (5.0, float)
    assert rules(known, value("A", 2**53 + 1), value("A", 10**400)) == [
        "loses digits as a real number"] * 2


def test_a_type_that_is_not_known_is_told_and_not_checked(
        load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    known = load(f"{HEAD}A: !cfg.type:DidMoodKey\n  range: (x)\n  comment: c\n")
    assert "0.yaml:4: entry A: !cfg.type:DidMoodKey is not known" in capsys.readouterr().err
    assert one(known, value("A", 1))["comment"] == "c"


def test_an_entry_may_say_nothing_but_its_type(load: Any) -> None:
    assert one(load(f"{HEAD}A: !cfg.type:DidBoolKey\n"), value("A", True)) == value("A", True)


def test_a_member_that_is_not_known_is_told(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    load(f"{HEAD}A: !cfg.type:DidBoolKey\n  fromat: '%c'\n")
    assert "0.yaml:5: entry A: unknown member fromat ignored; did you mean format?" in (
        capsys.readouterr().err)


@pytest.mark.parametrize(("text", "line", "reason"), [
    ("", 0, "the file is empty"),
    ("just text", 1, "the dictionary is no mapping"),
    ("A: !cfg.type:DidBoolKey\n", 0, "no mapping 'header'"),
    ("header: {\n", 2, "flow node"),
    ("header: \x07\n", 0, "special characters"),
    (f"{HEAD}A: &x !cfg.type:DidBoolKey\nB: *x\n", 4, "alias"),
    (f"{HEAD}A: !cfg.type:DidBoolKey\nA: !cfg.type:DidIntKey\n", 5, "first at"),
    (f"{HEAD}INS(#) A: !cfg.type:DidBoolKey\nINS# A: !cfg.type:DidBoolKey\n", 5, "second time"),
    (f"{HEAD}header:\n  name: y\n", 4, "header occurs twice"),
    (f"{HEAD}A: !cfg.type:DidBoolKey\n  comment: a\n  Comment: b\n", 6, "Comment occurs twice"),
    (f"{HEAD}lower: !cfg.type:DidBoolKey\n", 4, "a name is words"),
    (f"{HEAD}NAXISn: !cfg.type:DidIntKey\n", 4, "# or (#) for an index"),
    (f"{HEAD}TOOLONGNAME: !cfg.type:DidIntKey\n", 4, "a name is words"),
    (f"{HEAD}'INS # A': !cfg.type:DidIntKey\n", 4, "a name is words"),
    (f"{HEAD}A B {'C' * 60}: !cfg.type:DidIntKey\n", 4, "at most 63"),
    (f"{HEAD}[A, B]: x\n", 4, "no plain text"),
    (f"{HEAD}A: text\n", 4, "entry A is no mapping"),
    (f"{HEAD}A:\n  comment: x\n", 4, "no type"),
    (f"{HEAD}A:\n  type: Mood\n", 4, "type Mood"),
    (f"{HEAD}A: !cfg.type:Other\n  comment: x\n", 4, "tag !cfg.type:Other"),
    (f"{HEAD}A: !!python/object/apply:os.system ['true']\n", 4, "entry A is no mapping"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  comment: [x]\n", 4, "comment: is not plain text"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  unit: µm\n", 4, "unit: FITS headers hold printable ASCII"),
    (f"{HEAD}A: !cfg.type:DidDoubleKey\n  format: '%g'\n", 4, "use %f or %e in place of %g"),
    (f"{HEAD}A: !cfg.type:DidDoubleKey\n  format: '%s'\n", 4, "does not suit a real number"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  format: '%.2f'\n", 4, "does not suit an integer"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  format: '%d%d'\n", 4, "no conversion"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  format: '%999d'\n", 4, "no conversion"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  range: about 5\n", 4, "range 'about 5': write (min, max)"),
    (f"{HEAD}A: !cfg.type:DidStringKey\n  range: (NORTH SOUTH)\n", 4, "write (min, max)"),
    (f"{HEAD}A: !cfg.type:DidStringKey\n  range: '[1:5]'\n", 4, "suits numbers only"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  range: (9, 1)\n", 4, "range has 9 above 1"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  range: (1, 2, x)\n", 4, "range has 'x'"),
    (f"{HEAD}A: !cfg.type:DidIntKey\n  range: {{low: 1}}\n", 4, "other names than min and max"),
    ("[" * 100_000, 0, "nested too deeply"),
])
def test_what_is_no_dictionary_is_told_with_its_line(load: Any, text: str, line: int,
                                                     reason: str) -> None:
    with pytest.raises(errors.BadConfig) as caught:
        load(text)
    assert reason in caught.value.message
    assert (f"0.yaml:{line}: " if line else "0.yaml: ") in caught.value.message
    assert caught.value.remedy


def test_a_huge_file_is_refused_before_it_is_read(load: Any) -> None:
    with pytest.raises(errors.BadConfig, match="larger than"):
        load(f"{HEAD}{'# x' * 400_000}")


@pytest.mark.parametrize("name", ["/etc/x.yaml", "../x.yaml", "a/../../x.yaml", ""])
def test_only_paths_below_cfgpath(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.BadConfig, match="not a path below"):
        dictionary.load([name], str(tmp_path))


def test_dictionaries_are_looked_for_along_cfgpath(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, kind in (("one", "Bool"), ("two", "Int"), ("two/deep", "Int")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "d.yaml").write_text(f"{HEAD}A: !cfg.type:Did{kind}Key\n")
    monkeypatch.setenv("CFGPATH", f"{tmp_path}/none:{tmp_path}/one:{tmp_path}/two")
    known = dictionary.load(["d.yaml", "deep/d.yaml"])
    assert known.paths == (f"{tmp_path}/one/d.yaml", f"{tmp_path}/two/deep/d.yaml")
    with pytest.raises(errors.BadConfig, match=r"gone.yaml not found \(tried .*none/gone.yaml"):
        dictionary.load(["gone.yaml"])
    monkeypatch.delenv("CFGPATH")
    with pytest.raises(errors.BadConfig, match="CFGPATH is empty"):
        dictionary.load(["d.yaml"])


def test_of_two_dictionaries_the_first_wins_and_the_difference_is_told(
        load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    same = "B: !cfg.type:DidIntKey\n  comment: same\n"
    known = load(f"{HEAD}A: !cfg.type:DidIntKey\n{same}", f"{HEAD}{same}A: !cfg.type:DidBoolKey\n")
    assert one(known, value("A", 5))["value"] == 5
    (told,) = capsys.readouterr().err.splitlines()
    assert re.search(r"1.yaml:6: A is defined differently at .*0.yaml:4, .* listed first", told)


def test_includes_are_followed_once_and_count_as_listed_behind(
        load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    inner = f"{OLD_HEAD.replace('()', '(0.yaml, absent.yaml)')}A:\n  Type: Int32\nC:\n  Type: Int32"
    known = load(f"!cfg.include inner.yaml:\n{HEAD}A: !cfg.type:DidBoolKey\n", inner_yaml=inner)
    assert [Path(path).name for path in known.paths] == ["0.yaml", "inner.yaml"]
    assert one(known, value("A", True))["value"] is True
    assert one(known, value("C", 5))["value"] == 5
    told = capsys.readouterr().err
    assert "inner.yaml:3: included dictionary absent.yaml not found" in told


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "matching", "others"), [
    ("INS(#) FILT# ID", ["INS FILT ID", "INS2 FILT12 ID", "INS FILT1 ID"],
     ["INS FILT ID2", "INS FILTX ID", "XINS FILT ID", "INS FILT", "INS FILT1 IDX"]),
    ("INS FILT1 ID", ["INS FILT1 ID"], ["INS FILT ID", "INS FILT2 ID"]),
    ("HIERARCH ESO INS# ID", ["INS ID", "INS7 ID"], ["INS ID1"]),
    ("HIERARCH ESO MOOD", ["MOOD"], ["MOOD1"]),
    ("DET WIN#STR# X", ["DET WIN1STR2 X", "DET WINSTR X"], ["DET WIN1 X"]),
])
def test_an_index_is_digits_or_nothing(load: Any, entry: str, matching: list[str],
                                       others: list[str]) -> None:
    known = load(f"{HEAD}{entry}: !cfg.type:DidIntKey\n")
    assert known.formatted([eso(name, 1) for name in matching], "k")
    assert len(rules(known, *[eso(name, 1) for name in others])) == len(others)


def test_an_exact_name_beats_an_index_and_few_beat_many(load: Any) -> None:
    known = load(f"{HEAD}INS# T#: !cfg.type:DidIntKey\n  comment: two\n"
                 "INS T#: !cfg.type:DidIntKey\n  comment: one\n",
                 f"{HEAD}INS T5: !cfg.type:DidIntKey\n  comment: none\n")
    assert [one(known, eso(name, 1))["comment"] for name in ("INS1 T1", "INS T1", "INS T5")] == [
        "two", "one", "none"]


def test_standard_and_eso_keywords_are_told_apart(samples: dictionary.Dictionaries) -> None:
    assert rules(samples, eso("RA", 1.0), value("DPR", "x")) == [
        "unknown keyword; RA is a standard keyword: use valueKeyword", "unknown keyword"]


def test_an_eso_name_may_be_a_single_word(load: Any) -> None:
    known = load(f"{HEAD}HIERARCH ESO MOOD: !cfg.type:DidIntKey\n")
    assert one(known, eso("MOOD", 1))
    assert rules(known, value("MOOD", 1)) == [
        "unknown keyword; MOOD is an ESO keyword: use esoKeyword"]


@pytest.mark.parametrize(("given", "near"), [
    (value("EXPTME", 1.0), "EXPTIME"), (eso("INS TEMP1 VALU", 1.0), "INS# TEMP# VAL"),
    (value("CRVAL1A", 1.0), "CRVAL#")])
def test_the_nearest_known_name_is_told(samples: dictionary.Dictionaries, given: Keyword,
                                        near: str) -> None:
    assert rules(samples, given) == [f"unknown keyword; the nearest known one is {near}"]


@pytest.mark.parametrize("name", ["NAXIS", "NAXIS1", "BITPIX", "SIMPLE", "TFORM", "TFORM12", "END",
                                  "EXTEND", "RA", "NAXISX", "BZERO", "COMMENT", "TTYPE", "ORIGIN"])
def test_the_library_and_the_merger_agree_on_what_is_structure(name: str) -> None:
    raw = f"{name:8}= 1".ljust(80).encode()
    found = cards.Keyword("value", name, (raw,))
    assert cardname.is_structural("value", name) == (classes.role(found) == "structural")
    assert not cardname.is_structural("eso", name)


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "text", "good", "bad"), [
    ("Double", "()", [-1e9, 5.0], []),
    ("Double", "[]", [1.0], []),
    ("Double", "(0, 360)", [0.0, 360.0, 12.5, 5], [-0.1, 360.5, 361]),
    ("Double", "[0:360]", [0.0, 360.0], [-1.0, 361.0]),
    ("Double", "'[0:]'", [0.0, 1e300], [-1.0]),
    ("Double", "'[:-5.5]'", [-5.5, -6.0], [-5.4]),
    ("Double", "0..1e3", [1000.0], [1000.5]),
    ("Double", "(0:10)", [10.0], [11.0]),
    ("Double", "{min: 0}", [0.0], [-1.0]),
    ("Double", "{min: 0, max: 1.5}", [1.5], [1.6]),
    ("Double", "[1, 2.5, 4]", [1, 2.5], [3.0, 2]),
    ("Int", "(1, 16)", [1, 16, 8], [0, 17]),
    ("Int", "(1, 2, 4)", [1, 4], [3, 0]),
    ("Int", "[1, 4]", [1, 4], [2]),
    ("Int", "\n  - 1\n  - 4", [1, 4], [2]),
    ("Int", "5, 6", [5, 6], [7]),
    ("String", "(ON, OFF)", ["ON", "OFF"], ["on", "O", ""]),
    ("String", "[ON, 'NOT ON']", ["ON", "NOT ON"], ["NOT"]),
    ("String", "(\"A B\", 'C')", ["A B", "C"], ["A", "'C'"]),
    ("String", "(ONE)", ["ONE"], ["TWO"]),
    ("Bool", "(T)", [True], [False]),
])
def test_ranges(load: Any, kind: str, text: str, good: list[Any], bad: list[Any]) -> None:
    known = load(f"{HEAD}A: !cfg.type:Did{kind}Key\n  range: {text}\n")
    assert known.formatted([value("A", what) for what in good], "k")
    if bad:
        found = rules(known, *[value("A", what) for what in bad])
        assert [rule.startswith("out of range: 0.yaml:4 wants ") for rule in found] == (
            [True] * len(bad))


def test_a_range_is_told_in_words() -> None:
    told = [str(dictionary_entry.parse_range(text, dictionary_entry.Type("Int"), "x"))
            for text in ("[1:5]", "[1:]", "[:5]", "(1, 2, 3)")]
    assert told == ["1 to 5", "at least 1", "at most 5", "one of 1, 2, 3"]


@pytest.mark.parametrize(("layout", "kind", "what", "written"), [
    ("%.3f", "Double", 1.23456, "1.235"), (".3f", "Double", -1, "-1.000"),
    ("f", "Double", 0.1, "0.100000"), ("%8.2f", "Double", 1.0, "1.00"),
    ("%08.2f", "Double", 1.0, "00001.00"), ("%.0f", "Double", 2000, "2000."),
    ("%.3e", "Double", 1.5e-7, "1.500E-07"), ("%.0E", "Double", 3.0, "3.E+00"),
    ("%d", "Double", 4.0, "4"), ("d", "Int", -7, "-7"), ("%ld", "Int", 5, "5"),
    ("%05d", "Int", 42, "00042"), ("%+i", "Int", 3, "+3"), ("% d", "Int", 3, "3"),
    ("%u", "Int", 3, "3"), ("c", "Bool", True, "T"), ("%c", "Bool", False, "F"),
    ("s", "String", "x", "'x       '"), ("%.5s", "String", "it's", "'it''s   '"),
    ("%20s", "String", "x", "'x       '"),
])
def test_formats(load: Any, layout: str, kind: str, what: Any, written: str) -> None:
    from astropy.io import fits

    known = load(f"{HEAD}A: !cfg.type:Did{kind}Key\n  format: '{layout}'\nINS A: "
                 f"!cfg.type:Did{kind}Key\n  format: '{layout}'\n")
    standard, hierarchical = (card(one(known, k)) for k in (value("A", what), eso("INS A", what)))
    assert standard == f"A       = {written if kind == 'String' else f'{written:>20}'}"
    assert hierarchical.partition("= ")[2].strip() == written
    for text in (standard, hierarchical):
        back = fits.Card.fromstring(text).value
        assert back == (what if kind == "String" else pytest.approx(what, rel=1e-3))
        assert isinstance(back, bool) == (kind == "Bool")


@pytest.mark.parametrize(("layout", "kind", "what", "rule"), [
    ("%d", "Double", 1.5, "format %d wants a whole number"),
    ("%u", "Int", -1, "no negative number"),
    ("%.3f", "Double", 1e300, "do not fit the 80 columns"),
    ("%.3f", "Double", float("nan"), "no NaN"),
    ("%.3f", "Double", float("inf"), "no infinity"),
    ("%d", "Double", float("inf"), "no infinity"),
    ("%.4s", "String", "12345", "has 5 characters, format %.4s allows 4"),
])
def test_what_does_not_survive_its_format(load: Any, layout: str, kind: str, what: Any,
                                          rule: str) -> None:
    known = load(f"{HEAD}A: !cfg.type:Did{kind}Key\n  format: '{layout}'\n")
    (found,) = rules(known, value("A", what))
    assert rule in found


def test_comments_and_units(load: Any) -> None:
    known = load(f"{HEAD}A: !cfg.type:DidIntKey\n  comment: c\n  unit: K\nB: !cfg.type:DidIntKey\n"
                 "  comment: '[s] own'\n  unit: K\nC: !cfg.type:DidIntKey\n  unit: '[m]'\n"
                 "D: !cfg.type:DidIntKey\n  unit: None\n  format: ~\n"
                 "  comment: |\n    two\n    lines\n")
    made = known.formatted([value(name, 1) for name in "ABCD"], "k")
    assert [k["comment"] for k in made] == ["[K] c", "[s] own", "[m]", "two lines"]
    assert one(known, value("A", 1, comment="mine"))["comment"] == "mine"
    assert one(known, value("A", 1, comment=""))["comment"] == "[K] c"


def test_formatting_twice_is_formatting_once(samples: dictionary.Dictionaries) -> None:
    given = [value("RA", 10), eso("INS TEMP1 VAL", 280), literal("COMMENT x")]
    made = samples.formatted(given, "k")
    assert samples.formatted(json.loads(json.dumps(made)), "k") == made
    assert given[0] == value("RA", 10), "the caller's keywords are left alone"


def test_a_format_of_the_caller_yields_to_that_of_the_dictionary(load: Any) -> None:
    known = load(f"{HEAD}A: !cfg.type:DidDoubleKey\n  format: '%.1f'\nB: !cfg.type:DidDoubleKey\n")
    assert one(known, value("A", 1, format="%.5f"))["format"] == "%.1f"
    assert one(known, value("B", 1, format="%.5f"))["format"] == "%.5f"
    assert rules(known, value("B", 1, format="%x"))[0].startswith("format '%x' is no conversion")


@pytest.mark.parametrize(("text", "rule"), [
    ("DEC     = 12.3 / as it is", ""), ("DEC     = 12", ""), ("DEC     = 1.2D1", ""),
    ("HIERARCH ESO INS LAMP1 ST = T", ""), ("COMMENT free", ""), ("HISTORY x", ""), ("", ""),
    ("DEC     = 120.", "out of range"), ("DEC     = 'x'", "invalid"), ("DEC     =", "invalid"),
    ("DEC     = (1, 2)", "invalid"), ("NOSUCH  = 1", "unknown keyword"),
    ("HIERARCH ESO INS LAMP1 ST = 1", "invalid"), ("HIERARCH SDSS PLATE = 1", "unknown keyword"),
    ("object  = 5", "1 to 8"), ("OBJECT  = 'open", "no closing quote"), ("END", "structure"),
    (f"OBJECT  = '{'x' * 31}'", "has 31 characters"), ("NAXIS   = 2", "structure"),
])
def test_literals_are_held_to_the_same_rules_and_keep_their_text(
        samples: dictionary.Dictionaries, text: str, rule: str) -> None:
    if not rule:
        assert one(samples, literal(text)) == literal(text)
    else:
        assert rule in rules(samples, literal(text))[0]


# -- all at once -----------------------------------------------------------------------------------


def test_all_failures_are_told_at_once(samples: dictionary.Dictionaries) -> None:
    given = [value("RA", 400.0), value("DEC", 1.0), eso("INS MODE", "X"), value("NOSUCH", 1)]
    with pytest.raises(errors.BadData) as caught:
        samples.formatted(given, "keywords")
    assert isinstance(caught.value, dictionary.InvalidKeywords)
    failures = caught.value.failures
    assert [(f["keyword"], f["value"]) for f in failures] == [
        ("RA", 400.0), ("INS MODE", "X"), ("NOSUCH", 1)]
    told = str(caught.value)
    assert told.startswith("3 of 4 keywords are not valid: keywords: RA = 400.0: out of range")
    assert told.count("; keywords: ") == 2
    assert all(f["rule"] in told for f in failures)


@pytest.mark.parametrize("given", [
    5, None, {}, {"type": "valueKeyword"}, {"type": "literalKeyword"}, {"type": []},
    {"type": "literalKeyword", "value": 5}, {"type": "esoKeyword", "name": 5, "value": 1},
    {"type": "valueKeyword", "name": "RA", "value": {}}, value("RA", 1.0, comment=5),
    value("RA", 1.0, format=5), value("OBJECT", "\u00e9"), eso("HIERARCH ESO INS MODE", "x"),
    {"type": "commentaryKeyword", "name": "COMMENT", "value": None},
])
def test_garbage_is_a_failure_and_no_crash(samples: dictionary.Dictionaries, given: Any) -> None:
    (rule,) = rules(samples, given)
    assert rule


def test_without_dictionaries_nothing_is_looked_at() -> None:
    known = dictionary.load([])
    given = [value("ANYTHING", float("nan")), {"what": "ever"}]
    assert known.formatted(given, "k") == given
    assert known.specification({"no": "sources"}) == {"no": "sources"}


def test_a_specification_is_checked_as_a_whole(samples: dictionary.Dictionaries) -> None:
    document = {"keywords": [value("RA", 1)], "id": "x", "sources": [
        {"type": "primarySource", "sourceName": "dcs", "initialKeywords": [eso("DET1 DIT", 2)]},
        {"type": "fitsKeywords", "sourceName": "own", "keywords": [value("EQUINOX", 2000)]},
        {"type": "fitsFile", "sourceName": "f", "location": "/f"}]}
    before = json.dumps(document)
    made = samples.specification(document)
    assert made["keywords"][0]["format"] == "%.6f"
    assert made["sources"][0]["initialKeywords"][0]["format"] == "%.4f"
    assert made["sources"][1]["keywords"][0]["value"] == 2000.0
    assert made["sources"][2] == document["sources"][2] and made["id"] == "x"
    assert json.dumps(document) == before

    bad = json.loads(before.replace('"RA", "value": 1', '"RA", "value": 999')
                     .replace('"value": 2}', '"value": "x"}').replace("EQUINOX", "EQINOX"))
    with pytest.raises(dictionary.InvalidKeywords) as caught:
        samples.specification(bad)
    assert [(f["where"], f["keyword"]) for f in caught.value.failures] == [
        ("keywords", "RA"), ("source dcs", "DET1 DIT"), ("source own", "EQINOX")]


def test_names_cannot_make_matching_slow(load: Any) -> None:
    import time

    known = load(f"{HEAD}{'A#' * 20} B: !cfg.type:DidIntKey\n")
    begin = time.monotonic()
    for _ in range(100):
        rules(known, eso("A1" * 10 + "1" * 20 + "A" * 10 + " BX", 1))
    assert time.monotonic() - begin < 10

"""The schema of specifications that the merger knows by heart is that of the schema files."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daq_merge import specification
from daqlib import errors, schema

FORMATS = ["%d", "%.3f", "%-+ #012.11llu", "%5s", "%.s", "%hhi", "%Le", "%c", "%%", "%g",
           "%123d", "%.123d", "%", "", "%lll", "%hlld", "%d ", "%d\n", "d", "%5", "%.", "%٣d"]
PATTERNS = ["+e DET .*", "-v ", "+evc *", "*e x", "+ x", "+ex", "+e  ", "+e x\ny", "+e x\n",
            "-c a b", "", "+", "+E x", "++e x"]
NAMES = ["A", "OBJECT", "", "A B", "a", "ABCDEFGHI", "DATE-OBS", "A_1", "A\n", "É", " A", "A ",
         "A  B", "HIERARCH ESO X", "HIERARCH ESO", "DET CHIP1 ID", "X" * 63, "X " * 31 + "Y",
         "X" * 64]
TEXTS = ["", "x", "x" * 80, "x" * 81, "a\x7f", "a\tb", "é", "a\n", "COMMENT x", "HISTORY", " "]

#: Values of all types, some of them right in one place or another.
JUNK = st.one_of(st.none(), st.booleans(), st.integers(-2, 10 ** 20), st.floats(allow_nan=False),
                 st.sampled_from(["filter", "fitsFile", "fitsKeywords", "v1", "v3"]),
                 st.sampled_from(TEXTS), st.sampled_from(NAMES), st.sampled_from(FORMATS),
                 st.sampled_from(PATTERNS), st.builds(list), st.builds(dict),
                 st.just([1]), st.just({"type": "filter"}), st.just(["a"]))


def members(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(required, optional=optional)


VALUES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
_LAID_OUT = {"comment": st.text(max_size=5), "format": st.sampled_from(FORMATS)}
KEYWORDS = st.lists(st.one_of(
    members({"type": st.just("valueKeyword"), "name": st.sampled_from(NAMES), "value": VALUES},
            _LAID_OUT),
    members({"type": st.just("esoKeyword"), "name": st.sampled_from(NAMES), "value": VALUES},
            _LAID_OUT),
    members({"type": st.just("literalKeyword"), "value": st.sampled_from(TEXTS)}, {}),
    members({"type": st.just("commentaryKeyword"), "value": st.sampled_from(TEXTS),
             "name": st.sampled_from(["COMMENT", "HISTORY", "", "OTHER"])}, {})), max_size=3)
RULES = st.lists(st.one_of(
    members({"type": st.just("filter"),
             "selectionPatterns": st.lists(st.sampled_from(PATTERNS), max_size=2)}, {}),
    members({"type": st.just("transform"), "regex": st.just("x"), "format": st.just("y"),
             "selectionPatterns": st.lists(st.sampled_from(PATTERNS), max_size=2)}, {})),
    max_size=2)
FILE = members({"type": st.just("fitsFile"), "sourceName": st.just("a"), "location": st.just("/a")},
               {"keywordRules": RULES, "initialKeywords": KEYWORDS,
                "alertUnmergeable": st.booleans(), "other": JUNK,
                "primaryData": st.sampled_from(["leave", "extension", "drop"])})
SOURCES = st.lists(st.one_of(FILE, members(
    {"type": st.just("fitsKeywords"), "sourceName": st.just("k"), "keywords": KEYWORDS},
    {"keywordRules": RULES, "alertUnmergeable": JUNK})), max_size=3)
FLAGS = {"allowSymlink": st.booleans(), "required": st.booleans(), "x": JUNK}
RECEIVERS = st.lists(st.one_of(
    members({"type": st.sampled_from(["olasReceiver", "directoryReceiver"]), "path": st.just("/x")},
            {"host": st.just("h"), "template": st.just("{OBJECT}"), "options": members({}, FLAGS)}),
    members({"type": st.just("commandReceiver"), "command": st.just("/x")},
            {"args": st.lists(st.just("a"), max_size=2), "options": members({}, FLAGS)}),
    members({"type": st.just("rsyncReceiver")}, {
        "host": st.just("h"), "path": st.just("/x"), "url": st.just("rsync://h/m"),
        "options": members({}, {**FLAGS, "bandwidth": st.sampled_from([-1, 0, 0.5, 7, True])})})),
    max_size=2)
DOCUMENTS = members(
    {"id": st.text(max_size=3), "target": members(
        {"fileId": st.just("F")}, {"filePrefix": st.just("P_"), "source": FILE})},
    {"sources": SOURCES, "keywordDictionaries": st.lists(st.just("d"), max_size=2),
     "headerPolicy": st.dictionaries(st.sampled_from(TEXTS), JUNK, max_size=1),
     "receivers": RECEIVERS, "heuristics": st.sampled_from(["v1", "v2"]), "more": JUNK})

#: A valid specification that has every member of the schemas.
WHOLE: dict[str, Any] = {
    "id": "x", "heuristics": "v1", "keywordDictionaries": ["d"], "more": 1,
    "headerPolicy": {"keywords": [{"name": "A", "type": "string"}]},
    "target": {"fileId": "F", "filePrefix": "P_", "source": {
        "type": "fitsFile", "sourceName": "a", "location": "/a", "initialKeywords": []}},
    "receivers": [
        {"type": "olasReceiver", "path": "/x", "host": "h",
         "options": {"allowSymlink": True, "required": False}},
        {"type": "directoryReceiver", "path": "/x", "template": "{OBJECT}", "host": "h",
         "options": {"allowSymlink": True, "required": False}},
        {"type": "commandReceiver", "command": "/x", "args": ["a"], "options": {"required": True}},
        {"type": "rsyncReceiver", "path": "/x", "host": "h", "url": "rsync://h/m",
         "options": {"bandwidth": 0.5, "required": False}}],
    "sources": [
        {"type": "fitsFile", "sourceName": "a", "location": "/a", "alertUnmergeable": False,
         "primaryData": "extension",
         "keywordRules": [{"type": "filter", "selectionPatterns": ["+e DET.*", "-vc X"]},
                          {"type": "transform", "selectionPatterns": ["+e .*"], "regex": "a",
                           "format": "b"}],
         "initialKeywords": [{"type": "literalKeyword", "value": "COMMENT x"}]},
        {"type": "fitsKeywords", "sourceName": "k", "keywordRules": [], "keywords": [
            {"type": "valueKeyword", "name": "A", "value": 1, "comment": "c", "format": "%d"},
            {"type": "esoKeyword", "name": "DET ID", "value": "x", "comment": "c",
             "format": "%.3s"},
            {"type": "commentaryKeyword", "name": "HISTORY", "value": "text"},
            {"type": "commentaryKeyword", "name": "", "value": ""}]}]}


def accepted(document: Any) -> bool:
    try:
        schema.check("dpspec", document, "it")
    except errors.BadData:
        return False
    return True


def assert_same(document: Any) -> None:
    """The two agree; a text that ends in a newline may be left to the schema."""
    by_heart = specification.fits_schema(document)
    by_schema = accepted(document)
    left_to_it = by_schema and not by_heart and "\\n\"" in json.dumps(document)
    assert by_heart == by_schema or left_to_it, document


def places(document: Any) -> list[tuple[Any, Any]]:
    """Return every place in a document: a container and a key or an index."""
    found: list[tuple[Any, Any]] = []
    todo = [document]
    while todo:
        here = todo.pop()
        keys = range(len(here)) if isinstance(here, list) else here
        for key in keys if isinstance(here, list | dict) else ():
            found.append((here, key))
            todo.append(here[key])
    return found


@st.composite
def mutated(draw: st.DrawFn, base: st.SearchStrategy[Any]) -> Any:
    document = copy.deepcopy(draw(base))
    for _ in range(draw(st.integers(1, 2))):
        where = places(document)
        container, key = where[draw(st.integers(0, len(where) - 1))]
        act = draw(st.sampled_from(["remove", "junk", "junk", "junk", "rename", "double"]))
        if act == "remove":
            del container[key]
        elif act == "junk" or isinstance(container, list):
            container[key] = copy.deepcopy(draw(JUNK))  # what is drawn may be shared
        elif act == "rename":
            container[draw(st.sampled_from(["type", "value", "name", "x"]))] = container.pop(key)
        else:
            container[key] = [container[key]]
        if not places(document):
            break
    return document


quick = settings(max_examples=150, deadline=None,
                 suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
long = settings(quick, max_examples=5000)


def test_a_whole_one_is_accepted_by_heart() -> None:
    assert specification.fits_schema(WHOLE)
    assert accepted(WHOLE)


@quick
@given(DOCUMENTS)
def test_agree_on_random_documents(document: Any) -> None:
    assert_same(document)


@quick
@given(mutated(st.just(WHOLE)))
def test_agree_on_mutations(document: Any) -> None:
    assert_same(document)


@pytest.mark.slow
@long
@given(st.one_of(DOCUMENTS, mutated(st.just(WHOLE)), mutated(DOCUMENTS), JUNK))
def test_agree_on_thousands(document: Any) -> None:
    assert_same(document)


def test_agree_on_every_member_left_out_or_of_another_type() -> None:
    for number in range(len(places(WHOLE))):
        for junk in (None, True, 7, 1.5, "", "x", "a\tb", [], {}, [7], {"type": "x"}, "remove"):
            document = copy.deepcopy(WHOLE)
            container, key = places(document)[number]
            if junk == "remove":
                del container[key]
            else:
                container[key] = junk
            assert specification.fits_schema(document) == accepted(document), (key, junk)


@pytest.mark.parametrize(("member", "values"), [
    ("format", FORMATS), ("name", NAMES), ("comment", TEXTS)])
def test_agree_on_texts_of_keywords(member: str, values: list[str]) -> None:
    for kind in ("valueKeyword", "esoKeyword", "literalKeyword", "commentaryKeyword"):
        for value in [*values, *TEXTS]:
            keyword = {"type": kind, "name": "A", "value": value, member: value}
            document = {"id": "", "target": {"fileId": "f"}, "sources": [
                {"type": "fitsKeywords", "sourceName": "k", "keywords": [keyword]}]}
            if not value.endswith("\n"):
                assert specification.fits_schema(document) == accepted(document), keyword


def test_agree_on_patterns() -> None:
    for pattern in PATTERNS:
        document = copy.deepcopy(WHOLE)
        document["sources"][0]["keywordRules"][0]["selectionPatterns"] = [pattern]
        if not pattern.endswith("\n"):
            assert specification.fits_schema(document) == accepted(document), pattern


def test_the_schemas_are_those_that_were_learnt() -> None:
    # mutations need not meet a rule that is new: who changes a schema looks at fits_schema, and
    # at what these tests make, and then puts the new digest here
    definitions = schema.load("startdaqv2")["$defs"]
    learnt = [schema.load("dpspec"), schema.load("keywords"), schema.load("keyword-rules"),
              schema.load("receivers"), definitions["FitsFileSource"],
              definitions["FitsKeywordsSource"]]
    text = json.dumps(_rules_of(learnt), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "f57a88f56b8d5dc1"


def _rules_of(document: Any) -> Any:
    if isinstance(document, list):
        return [_rules_of(item) for item in document]
    if isinstance(document, dict):
        words = ("title", "description", "wanted", "default", "$schema", "$id")
        return {key: _rules_of(value) for key, value in document.items()
                if key not in words or not isinstance(value, (str, bool, list))}
    return document


# -- loading ---------------------------------------------------------------------------------------


def test_loads_without_the_schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "check", None)
    (tmp_path / "s.json").write_text(json.dumps(WHOLE))
    assert specification.load(f"{tmp_path}/s.json") == WHOLE


def test_loads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(WHOLE).encode())))
    assert specification.load("-") == WHOLE


def test_what_only_the_schema_accepts_is_accepted(tmp_path: Path) -> None:
    document = copy.deepcopy(WHOLE)
    document["sources"][0]["keywordRules"][0]["selectionPatterns"] = ["+e x\n"]
    assert not specification.fits_schema(document)
    (tmp_path / "s.json").write_text(json.dumps(document))
    assert specification.load(f"{tmp_path}/s.json") == document


@pytest.mark.parametrize(("text", "code", "told"), [
    (None, 100, "No such file or directory"), (b"{", 101, "is not JSON: Expecting"),
    (b"", 101, "is not JSON"), (b'{"id": "a", "id": "b"}', 101, "'id' occurs twice"),
    (b"\xff", 101, "is not JSON"), (b"[" * 100_000, 101, "levels"), (b"[]", 102, "not valid"),
    (b"{}", 102, "'id' is a required property"),
    (b'{"id": "", "target": {"fileId": "../x"}}', 102, "'../x' is not allowed"),
    (b'{"id": "", "target": {"fileId": "x", "filePrefix": "/"}}', 102, "filePrefix '/'")])
def test_refuses(tmp_path: Path, text: bytes | None, code: int, told: str) -> None:
    path = tmp_path / "s.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(specification.Refused) as caught:
        specification.load(str(path))
    assert (caught.value.code, told in str(caught.value)) == (code, True), str(caught.value)


def test_a_folder_is_no_specification(tmp_path: Path) -> None:
    with pytest.raises(specification.Refused, match="Is a directory") as caught:
        specification.load(str(tmp_path))
    assert caught.value.code == 100

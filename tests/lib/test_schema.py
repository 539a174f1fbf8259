from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daqlib import errors, schema

FILE = {"type": "fitsFile", "sourceName": "a", "location": "/data/a.fits"}


def test_there_is_a_file_for_every_name_and_no_other() -> None:
    folder = Path(schema.__file__).parent / "schema"
    assert sorted(p.stem for p in folder.glob("*.json")) == sorted(schema.NAMES)


@pytest.mark.parametrize("name", schema.NAMES)
def test_every_schema_is_one(name: str) -> None:
    import jsonschema

    document = schema.load(name)
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["$id"] == f"daqspool:{name}"
    assert document["title"]


@pytest.mark.parametrize(("name", "document"), [
    ("startdaqv2", {"sources": [FILE]}),
    ("startdaqv2", {"sources": [
        {"type": "primarySource", "sourceName": "p", "rrUri": "zpb.rr://h:1/p"},
        {"type": "metadataSource", "sourceName": "m", "rrUri": "zpb.rr://h:1/m"},
        {"type": "fitsKeywords", "sourceName": "k", "keywords": []}],
        "mergeTarget": {"sourceName": "p"}, "filePrefix": "X_", "awaitCompletionInterval": 1.0}),
    ("job", {"sources": [FILE], "id": "j", "fileId": "f", "created": "now", "by": "me",
             "heuristics": "v1", "instrument": "X", "keywords": []}),
    ("keywords", [{"type": "valueKeyword", "name": "A", "value": 1},
                  {"type": "esoKeyword", "name": "DET ID", "value": "x", "comment": "c"},
                  {"type": "literalKeyword", "value": "COMMENT x"}]),
    ("receivers", [{"type": "olasReceiver", "path": "/x"}]),
])
def test_accepts(name: str, document: Any) -> None:
    schema.check(name, document, "the document")


@pytest.mark.parametrize(("name", "document", "told"), [
    ("job", {}, "'sources' is a required property"),
    ("job", {"sources": [FILE], "heuristics": "v3"}, "heuristics: 'v3' is not one of"),
    ("job", {"sources": [FILE], "id": 7}, "id: 7 is not of type 'string'"),
    ("keywords", {"a": 1}, "is not of type 'array'"),
    ("receivers", [{"path": "/x"}], "0: 'type' is a required property"),
])
def test_refuses_and_says_where(name: str, document: Any, told: str) -> None:
    with pytest.raises(errors.BadData, match="the document is not valid: ") as caught:
        schema.check(name, document, "the document")
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_huge_fault_makes_a_short_message() -> None:
    with pytest.raises(errors.BadData) as caught:
        schema.check("keywords", {str(n): "x" * 1000 for n in range(100)}, "it")
    assert len(str(caught.value)) < 400


def test_names_unknown_members() -> None:
    document = {"sources": [], "id": "x", "colour": "red", "version": 1}
    assert schema.unknown("startdaqv2", document, ("version",)) == ["colour"]


def test_names_unknown_members_of_sources() -> None:
    keywords = {"type": "fitsKeywords", "sourceName": "k", "keywords": [], "rrUri": ""}
    primary = {"type": "primarySource", "sourceName": "p", "initialkeywords": [], "startTime": ""}
    document = {"sources": [keywords, primary, {"type": "odd", "x": 1}, 5, {"x": 1}, {"type": []}],
                "version": 2, "fileId": "", "Id": ""}
    assert schema.unknown_in_job(document) == [
        "Id", "sources/0/rrUri", "sources/1/initialkeywords"]
    assert schema.unknown_in_job({"sources": 5}) == []


def _told(validator: Any, document: Any) -> list[tuple[str, list[Any]]]:
    return sorted((fault.message, list(fault.absolute_path))
                  for fault in validator.iter_errors(document))


def _sources(*sources: Any) -> dict[str, Any]:
    return {"sources": list(sources)}


@pytest.mark.parametrize(("name", "document"), [
    ("job", _sources(FILE, {**FILE, "location": 7})),
    ("job", _sources({"type": "primarySource"}, {"type": "metadataSource", "rrUri": []})),
    ("job", _sources({"type": "fitsKeywords", "sourceName": "k", "keywords": [
        {"type": "esoKeyword", "name": "det id", "value": 1}, {"type": "valueKeyword"},
        {"type": "commentaryKeyword", "name": "X", "value": "\n"}, {"type": "other"}, {}, 7]})),
    ("job", _sources({"type": "strange"}, {"sourceName": "x"}, {"type": []}, {"type": None}, 1,
                     "primarySource", ["type"])),
    ("job", {**_sources(FILE), "receivers": [{"type": "olasReceiver"}, {"type": 1}, None]}),
    ("keywords", [{"type": "literalKeyword", "value": ""}, {"value": ""}]),
    ("startdaqv1", {"keywords": [{"type": "esoKeyword"}]}),
])
def test_finds_what_the_general_validator_finds(name: str, document: Any) -> None:
    import jsonschema
    from referencing import Registry, Resource

    registry: Any = Registry().with_resources(
        [(f"daqspool:{n}", Resource.from_contents(schema.load(n))) for n in schema.NAMES])
    general = jsonschema.Draft202012Validator(schema.load(name), registry=registry)
    found = _told(schema._validator(name), document)
    assert found == _told(general, document)
    assert found


def test_a_condition_of_another_kind_is_left_to_the_general_validator() -> None:
    condition = {"if": {"properties": {"type": {"const": "a"}}, "required": ["type"]},
                 "then": {"required": ["x"]}}
    assert schema._type_wanted(condition) == "a"
    for other in ({"else": False}, {"if": {"properties": {"type": {"const": "a"}}}},
                  {"if": {"properties": {"type": {"const": 7}}, "required": ["type"]}},
                  {"if": True}, {"title": "x"}):
        assert schema._type_wanted({**condition, **other}) is None
    assert schema._type_wanted(True) is None


def test_a_source_is_checked_against_the_definition_of_its_type_only(
        monkeypatch: pytest.MonkeyPatch) -> None:
    descents = []
    kind = type(schema._validator("job"))
    descend = kind.descend
    monkeypatch.setattr(kind, "descend", lambda *words, **named: (
        descents.append(1), descend(*words, **named))[1])
    schema.check("job", _sources(*[FILE] * 100), "it")
    assert 500 < len(descents) < 1500

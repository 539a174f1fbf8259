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

"""What job a Data Product Specification becomes."""

from __future__ import annotations

from typing import Any

import pytest

from daq_watch import queueing
from daqlib import errors, job, product

CARD = {"type": "valueKeyword", "name": "A", "value": 1}


def words(name: str, value: int = 1) -> dict[str, Any]:
    return {"type": "fitsKeywords", "sourceName": name, "keywords": [{**CARD, "value": value}]}


def file(name: str, path: str, **members: Any) -> dict[str, Any]:
    return {"type": "fitsFile", "sourceName": name, "location": path, **members}


def specification(*sources: dict[str, Any], target: dict[str, Any] | None = None,
                  **members: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": "J", "target": {"fileId": "F.1"}, "sources": list(sources)}
    if target is not None:
        made["target"]["source"] = target
    return {**made, **members}


def derived(given: dict[str, Any]) -> dict[str, Any]:
    """Return the specification that daq-collect derives from the job of one."""
    document = queueing.job_of(given)
    job.check(document)
    events = [{"event": "submitted", "fileId": document["fileId"]}]
    made, raised = product.specification(
        "J", document, None, events, {"instrument": "KMOS", "receivers": []})
    assert raised == []
    return made


SOUND = [
    specification(words("ocm"), file("dcs", "/d/a.fits"), file("fcs", "host:/d/b.fits")),
    specification(words("ocm"), file("dcs", "/d/a.fits", keywordRules=[]),
                  target=file("dcs", "/d/a.fits", keywordRules=[])),
    specification(file("dcs", "/d/a.fits", initialKeywords=[CARD], alertUnmergeable=False)),
    specification(words("ocm"), keywordDictionaries=["dictionaries/a.did"],
                  receivers=[{"type": "olasReceiver", "path": "/olas"}]),
    specification(words("ocm"), file("dcs", "/d/a.fits"), heuristics="v1",
                  target=file("dcs", "/d/a.fits")),
]


@pytest.mark.parametrize("given", SOUND)
def test_the_job_leads_back_to_the_specification(given: dict[str, Any]) -> None:
    made = derived(given)
    assert made["sources"] == given["sources"]
    assert made["target"] == {"filePrefix": "", **given["target"]}
    for member in ("keywordDictionaries", "heuristics"):
        assert made.get(member) == given.get(member)
    assert made["receivers"] == given.get("receivers", [])


def test_a_target_beside_the_sources_comes_first() -> None:
    made = derived(specification(words("ocm"), target=file("dcs", "/d/a.fits")))
    assert made["sources"] == [file("dcs", "/d/a.fits"), words("ocm")]
    assert made["target"]["source"] == made["sources"][0]
    assert derived(specification(target=file("dcs", "/d/a.fits")))["sources"]


def test_of_a_target_among_the_sources_its_own_members_count() -> None:
    made = derived(specification(words("ocm"), file("dcs", "/d/a.fits", alertUnmergeable=False),
                                 target=file("dcs", "/d/a.fits", keywordRules=[])))
    assert made["sources"][1] == file("dcs", "/d/a.fits", alertUnmergeable=False, keywordRules=[])


def test_names_that_occur_again_get_a_number() -> None:
    long = "x" * 64
    given = specification(words("a"), words("a.2"), words("a"), file("a", "/d/a.fits"),
                          words(long), words(long), target=file("a", "/d/a.fits"))
    before = [dict(source) for source in given["sources"]]
    made = derived(given)
    names = [source["sourceName"] for source in made["sources"]]
    assert names == ["a", "a.2", "a.3", "a.4", long, f"{'x' * 56}.2"]
    assert made["target"]["source"]["sourceName"] == "a.4"
    assert given["sources"] == before


@pytest.mark.parametrize(("given", "told"), [
    (None, "is not of type 'object'"), (7, "is not of type 'object'"), ([], "type 'object'"),
    ({}, "'id' is a required property"), (specification(), "has no source"),
    (specification(words("a"), id="a/b"), "id 'a/b'"),
    (specification(words("a"), target=words("a")), "fitsFile"),
])
def test_what_is_wrong(given: Any, told: str) -> None:
    with pytest.raises(errors.BadData) as caught:
        queueing.job_of(given)
    assert told in str(caught.value)

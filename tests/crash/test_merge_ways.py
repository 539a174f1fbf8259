"""Deaths of a merge in each way of building: the product has the same bytes, whoever died."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from bench import JOB, Bench, digests, failures, prepare, undisturbed_picture
from deaths import Case, with_torn_lines
from forge import Forge

from daqlib.crashpoints import POINTS
from reflinks import reflink_folder

WAYS = ("new", "in-place", "clone")


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bench(way: str, forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp(way)
    if way != "clone":
        yield prepared(Bench(forge, folder), way)
        return
    with reflink_folder(folder) as place:
        yield prepared(Bench(forge, place), way)


def prepared(bench: Bench, way: str) -> Bench:
    settings = bench.folder / "settings.yaml"
    settings.write_text(f"cfg:\n  merge:\n    way: {way}\n")
    bench.env["DAQ_CONFIG"] = str(settings)
    return prepare(bench, mergeTarget={"sourceName": "a"})


@pytest.fixture(scope="module")
def undisturbed(bench: Bench, way: str) -> dict[str, Any]:
    made = undisturbed_picture(bench)
    assert made["merge"]["result"]["way"] == way
    assert len(made["inputs"]) == (1 if way == "in-place" else 2)
    return made


def test_a_merge_dies_and_is_run_again(bench: Bench, undisturbed: dict[str, Any], way: str) -> None:
    bench.clear("at-merge")
    passed = bench.trace("merge")
    points = {point for point, _ in passed if point.startswith("inplace.")}
    assert points == ({point for point in POINTS if point.startswith("inplace.")}
                      if way == "in-place" else set())
    cases = [Case("merge", passed, *pair) for pair in with_torn_lines(passed)]
    wrong = failures([(f"{c.point}:{c.number}", lambda c=c: c.check(bench, undisturbed))
                      for c in cases])
    assert not wrong, f"{len(wrong)} of {len(cases)} cases\n" + "\n".join(wrong)


def test_the_ways_make_the_same_product(bench: Bench, undisturbed: dict[str, Any]) -> None:
    bench.clear("at-merge")
    settings = bench.folder / "new.yaml"
    settings.write_text("cfg:\n  merge:\n    way: new\n")
    bench.run("merge", DAQ_CONFIG=str(settings)).ok()
    assert digests(bench.spool / "result") == undisturbed["result"]


@pytest.mark.parametrize("way", ["in-place"], indirect=True)
def test_an_undo_dies_at_each_of_its_points(bench: Bench, undisturbed: dict[str, Any]) -> None:
    """A death of the merge, one of the undoing of it, and a third run."""
    seen = set()
    for first in ("inplace.journal", "inplace.appended", "inplace.headers", "inplace.synced",
                  "publish.sealed"):
        for point in ("undo.length", "undo.headers"):
            bench.clear("at-merge")
            bench.run("merge", DAQ_CRASH=first).died(signal.SIGKILL)
            bench.run("merge", DAQ_CRASH=point).died(signal.SIGKILL)
            seen.add(point)
            bench.finish("merge")
            assert bench.picture() == undisturbed, (first, point)
    assert seen == {"undo.length", "undo.headers"}


@pytest.mark.parametrize("way", ["in-place"], indirect=True)
def test_the_copy_is_made_again_whoever_dies(bench: Bench, undisturbed: dict[str, Any]) -> None:
    before = None
    for point in ("undo.copied", "undo.renamed", ""):
        bench.clear("at-merge")
        copy = bench.spool / "data" / JOB / "sources" / "0_a_a.fits"
        before = before or digests(copy.parent, "[!.]*.fits")
        bench.run("merge").ok()
        if point:
            undo(bench, copy, DAQ_CRASH=point).died(signal.SIGKILL)
            assert digests(bench.spool / "result") == undisturbed["result"]
        undo(bench, copy).exits(0 if point != "undo.renamed" else 1)
        assert digests(copy.parent, "[!.]*.fits") == before
        bench.finish("release")
        assert digests(bench.spool / "result") == undisturbed["result"]
        # merged once more, to the same product
        os.rename(bench.spool / "done" / f"{JOB}.json", bench.spool / "merge" / f"{JOB}.json")
        shutil.rmtree(bench.spool / "result")
        bench.finish("merge")
        assert bench.picture() == undisturbed


def undo(bench: Bench, path: os.PathLike[str], **env: str) -> Any:
    return bench.forge.run(bench.spool, "daq-merge", "-q", "--undo", path,
                           env={**bench.env, **env})


@pytest.mark.slow
def test_killed_at_random(bench: Bench, undisturbed: dict[str, Any]) -> None:
    dice = random.Random(4)
    for _ in range(60):
        bench.clear("at-merge")
        for _ in range(3):
            run = bench.forge.start(bench.spool, "daq-merge", *bench.arguments("merge"),
                                    env=bench.env)
            pause(dice.uniform(0, 0.06))
            run.kill()
        if bench.tree() == {"merge": [f"{JOB}.json"]}:
            bench.run("merge").ok()
        bench.finish("release")
        made = bench.picture()
        assert (made["result"], made["archive"]) == (undisturbed["result"], undisturbed["archive"])
        assert made["inputs"] == undisturbed["inputs"] and made["temporaries"] == []


def pause(seconds: float) -> None:
    import time

    time.sleep(seconds)

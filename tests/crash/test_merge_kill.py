"""A merge that is killed, told to end or failed by the system, wherever that happens.

Whatever happened: the target can be had back to the last byte, or the product is complete under
its name; never is there half a product under a product's name, and the next run brings the same
bytes as one that nobody disturbed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import (
    JOB,
    Bench,
    digests,
    prepare,
    undisturbed_picture,
)
from forge import Forge
from yard import (
    CODES,
    GIBIBYTE,
    INTO,
    WAYS,
    Yard,
    folder_for,
    one_of_two_wins,
    run_all,
)

from daq_merge import undo
from daqlib import errors
from daqlib.crashpoints import POINTS


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of syncs would take minutes on a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < GIBIBYTE:
        yield tmp_path_factory.mktemp("scratch")
        return
    with tempfile.TemporaryDirectory(prefix="daq-kill-", dir=memory) as name:
        yield Path(name)


@pytest.fixture(scope="module", params=WAYS)
def yard(request: pytest.FixtureRequest, forge: Forge, scratch: Path) -> Iterator[Yard]:
    way = str(request.param)
    (scratch / f"yard-{way}").mkdir()
    with folder_for(way, scratch / f"yard-{way}") as folder:
        yield Yard(forge, folder, way, manifest=way == "in-place")


@pytest.fixture(scope="module", params=INTO)
def into(request: pytest.FixtureRequest, forge: Forge, scratch: Path) -> Iterator[Yard]:
    way = str(request.param)
    (scratch / f"into-{way}").mkdir()
    with folder_for(way, scratch / f"into-{way}") as folder:
        yield Yard(forge, folder, way)


# -- once ------------------------------------------------------------------------------------------


def test_killed_at_each_point(yard: Yard) -> None:
    points = {point for point, _ in yard.undisturbed}
    assert {"move.begin", "move.renamed", "move.synced"} <= points
    assert ("inplace.synced" in points) == (yard.way in INTO)

    def check(point: str, number: int) -> None:
        yard.clear()
        yard.merge(DAQ_CRASH=f"{point}:{number}").died(signal.SIGKILL)
        yard.goes_on()

    run_all([(f"{p}:{n}", lambda p=p, n=n: check(p, n)) for p, n in yard.undisturbed])


def test_killed_and_given_back(into: Yard) -> None:
    def check(point: str, number: int) -> None:
        into.clear()
        into.merge(DAQ_CRASH=f"{point}:{number}").died(signal.SIGKILL)
        named, journal = into.named(), into.journal()
        into.undo().exits(0 if journal else 1)
        assert into.named() is named, "the product stays, or does not come"
        assert into.state() == into.before
        assert not into.journal()

    run_all([(f"{p}:{n}", lambda p=p, n=n: check(p, n)) for p, n in into.undisturbed])


@pytest.mark.parametrize("errno", CODES)
def test_failed_at_each_point(yard: Yard, errno: str) -> None:
    renamed = yard.undisturbed.index(("move.renamed", 1))

    def check(place: int, point: str, number: int) -> None:
        yard.clear()
        told = yard.merge(DAQ_FAULT=f"{point}={errno}:{number}")
        # the manifest comes last: then it is the only thing that lacks
        told.fails(74 if point.startswith("put.") and place > renamed else CODES[errno])
        assert yard.named() == (place >= renamed)
        if place <= renamed + 1:
            yard.is_given_back()
        if errno == "EIO":
            yard.goes_on()

    run_all([(f"{p}:{n}", lambda i=i, p=p, n=n: check(i, p, n))
             for i, (p, n) in enumerate(yard.undisturbed)])


def test_told_to_end_at_each_point(yard: Yard) -> None:
    named = yard.undisturbed.index(("move.begin", 1))

    def check(place: int, point: str, number: int) -> None:
        yard.clear()
        told = yard.signalled(f"TERM@{point}:{number}")
        if place < named:
            told.exits(143)
            assert not yard.named()
            yard.is_given_back()
        else:
            told.ok()  # what is left is short, and done whole
            assert yard.named() and yard.left() == []
        yard.goes_on()

    run_all([(f"{p}:{n}", lambda i=i, p=p, n=n: check(i, p, n))
             for i, (p, n) in enumerate(yard.undisturbed)])


def test_told_to_end_when_the_product_is_finished(into: Yard) -> None:
    """Then the merge keeps others away from the target, but never itself."""
    for place in ("held", "built"):
        into.clear()
        into.signalled(f"TERM@{place}:1").exits(143)
        into.is_given_back()
        into.goes_on()


# -- more than once --------------------------------------------------------------------------------


def test_killed_again_while_it_is_undone(into: Yard) -> None:
    """Each death of a merge, and each of the next run in which it undoes that."""
    seen = set()

    def check(first: str, second: str) -> None:
        into.clear()
        into.merge(DAQ_CRASH=first).died(signal.SIGKILL)
        again = into.undo if into.named() else into.merge
        for _ in range(2):
            again(DAQ_CRASH=second).died(signal.SIGKILL)
            if second == "undo.renamed":
                break  # nothing is left to do but to forget
        seen.add(second)
        into.goes_on()

    back = ["undo.length", "undo.headers"]
    if into.way == "insert":
        back.append("undo.cut")
    cases = [(first, second) for first, _ in into.undisturbed for second in (
        ["undo.copied", "undo.renamed"] if first in ("move.renamed", "move.synced") else
        back if first in ("inplace.appended", "inplace.headers", "inplace.synced", "move.begin")
        else back[:2] if first == "inplace.journal" else [])]
    run_all([(f"{one}, {two}", lambda one=one, two=two: check(one, two)) for one, two in cases])
    assert seen == {point for point in POINTS if point.startswith("undo.")
                    and (point != "undo.cut" or into.way == "insert")}


def test_disturbed_while_it_rolls_back(into: Yard) -> None:
    """Told to end or failed, it rolls back, and is killed, told to end or failed at that."""
    def check(place: str, how: str, second: str) -> None:
        into.clear()
        if how == "told, killed":
            into.signalled(f"TERM@{place}:1,KILL@{second}:1").died(signal.SIGKILL)
        elif how == "told twice":
            into.signalled(f"TERM@{place}:1,TERM@{second}:1").exits(143)
            into.is_given_back()
        elif how == "failed, killed":
            into.merge(DAQ_FAULT=f"{place}=EIO", DAQ_CRASH=second).died(signal.SIGKILL)
        else:
            into.signalled(f"TERM@{place}:1", DAQ_FAULT=f"{second}=EIO").exits(74)
            assert into.journal()
        assert not into.named()
        into.goes_on()

    back = ["undo.length", "undo.headers", *(["undo.cut"] if into.way == "insert" else [])]
    run_all([(f"{place}, {how} at {second}",
              lambda place=place, how=how, second=second: check(place, how, second))
             for place in ("inplace.headers", "inplace.synced")
             for how in ("told, killed", "told twice", "failed, killed", "told, failed")
             for second in back])


def test_what_is_left_of_making_it_again_is_swept(into: Yard) -> None:
    into.clear()
    into.merge(DAQ_CRASH="move.synced").died(signal.SIGKILL)
    for _ in range(3):
        into.undo(DAQ_CRASH="undo.copied").died(signal.SIGKILL)
    assert len(into.left()) == 2, "a journal and one copy, not all"
    into.undo().ok()
    into.is_given_back()
    assert into.named()


# -- two at a time ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "forgets", "outcome"), [
    (1, True, False), (1, False, True), (2, True, False), (2, False, errors.Later)])
def test_an_undo_never_takes_the_product_of_a_merge_that_has_just_ended(
        into: Yard, monkeypatch: pytest.MonkeyPatch, call: int, forgets: bool, outcome: Any
        ) -> None:
    """While the undo looks and has not locked yet, the merge may end, by itself or by a death."""
    into.clear()
    into.merge(DAQ_CRASH="move.begin").died(signal.SIGKILL)
    lock, calls = undo.lock, itertools.count(1)

    def late(*arguments: Any) -> None:
        if next(calls) == call:
            os.rename(into.target, into.product)
            if forgets:
                os.unlink(undo.path_of(str(into.target)))
        lock(*arguments)

    monkeypatch.setattr(undo, "lock", late)
    if outcome is errors.Later:
        with pytest.raises(errors.Later, match="has just made it"):
            undo.restore(str(into.target))
    else:
        assert undo.restore(str(into.target)) is outcome
    assert into.named()
    monkeypatch.undo()
    assert undo.restore(str(into.target)) is (outcome is errors.Later)
    assert into.named()
    assert into.target.exists() is not forgets
    assert into.left() == []
    assert forgets or into.state() == into.before


def test_one_of_two_undos_makes_it_again(into: Yard) -> None:
    into.clear()
    into.merge(DAQ_CRASH="move.synced").died(signal.SIGKILL)
    runs = [into.forge.start(into.folder, "signalled", f"LINGER@{seed}", "-q", "--undo",
                             into.target) for seed in range(3)]
    codes = sorted(run.wait().code for run in runs)
    assert codes[0] == 0 and set(codes[1:]) <= {1, 75}, codes
    into.is_given_back()
    assert into.named()


def test_one_of_two_wins(into: Yard) -> None:
    one_of_two_wins(into, 4, 0.05)


# -- the stage tool --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(forge: Forge, scratch: Path) -> Bench:
    (scratch / "stage").mkdir()
    made = Bench(forge, scratch / "stage")
    settings = made.folder / "settings.yaml"
    settings.write_text("cfg:\n  merge:\n    way: in-place\n")
    made.env["DAQ_CONFIG"] = str(settings)
    return prepare(made, mergeTarget={"sourceName": "a"})


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> dict[str, Any]:
    made = undisturbed_picture(bench)
    assert made["merge"]["result"]["way"] == "in-place"
    return made


def copy_state(bench: Bench) -> tuple[dict[str, str], list[int], list[str]]:
    """The collected copies, their times, and what lies beside them."""
    folder = bench.spool / "data" / JOB / "sources"
    return (digests(folder, "[!.]*"), sorted(p.stat().st_mtime_ns for p in folder.glob("[!.]*")),
            sorted(p.name for p in folder.glob(".*")))


def merges(bench: Bench, undisturbed: dict[str, Any]) -> None:
    """The next run of the stage brings what an undisturbed one brings."""
    (place,) = bench.tree()
    if place == "failed":
        os.rename(bench.spool / "failed" / f"{JOB}.json", bench.spool / "merge" / f"{JOB}.json")
    if place != "release":
        bench.run("merge").ok()
    assert bench.tree() == {"release": [f"{JOB}.json"]}
    assert digests(bench.spool / "result") == undisturbed["result"]
    assert bench.manifest("merge") == undisturbed["merge"]
    assert bench.temporaries() == bench.locks() == []
    assert digests(bench.spool / "data" / JOB / "sources", "*.fits") == undisturbed["inputs"]


def test_a_job_that_fails_has_its_copy_again(bench: Bench, undisturbed: dict[str, Any]) -> None:
    bench.clear("at-merge")
    before, passed = copy_state(bench), bench.trace("merge")
    # renamed, though that failed afterwards
    renamed = passed.index(("publish.sealed", 1)) + 2

    def check(place: int, point: str, number: int) -> None:
        bench.clear("at-merge")
        errno = ("ENOSPC", "EIO")[place % 2]
        bench.run("merge", DAQ_FAULT=f"{point}={errno}:{number}").fails(CODES[errno])
        if place < renamed:
            assert copy_state(bench) == before
            assert digests(bench.spool / "result") == {}
        else:
            assert digests(bench.spool / "result") == undisturbed["result"]
        merges(bench, undisturbed)

    run_all([(f"{p}:{n}", lambda i=i, p=p, n=n: check(i, p, n))
             for i, (p, n) in enumerate(passed)])


def test_a_job_that_is_told_to_end(bench: Bench, undisturbed: dict[str, Any]) -> None:
    bench.clear("at-merge")
    before, passed = copy_state(bench), bench.trace("merge")
    sealed = passed.index(("publish.sealed", 1))

    def check(place: int, point: str, number: int) -> None:
        bench.clear("at-merge")
        bench.forge.run(bench.spool, "signalled", f"TERM@{point}:{number}",
                        *bench.arguments("merge"), env=bench.env).exits(143)
        if place <= sealed:
            assert copy_state(bench) == before
            assert digests(bench.spool / "result") == {}
        merges(bench, undisturbed)

    places = [*enumerate(passed), (0, ("held", 1)), (0, ("built", 1))]
    run_all([(f"{p}:{n}", lambda i=i, p=p, n=n: check(i, p, n)) for i, (p, n) in places])

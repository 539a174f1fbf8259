from __future__ import annotations

import math
import os
import random
import time
from pathlib import Path

import pytest

from daq_watch.index import STAGES, Index
from daq_watch.rests import Rests
from daqlib.spool import Spool
from harness import make_spool

DAY = 86400.0


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    return Spool(str(make_spool(tmp_path / "spool")), "test")


def put(on: Spool, job: str, ago: float = 0.0, stage: str = "merge") -> None:
    path = on.job_path(stage, job)
    Path(path).touch()
    when = time.time() - ago
    os.utime(path, (when, when))


def due(index: Index, stage: str = "merge", now: float | None = None) -> list[str]:
    return [entry.id for entry in index.due(stage, time.time() if now is None else now)]


def test_what_became_due_first_comes_first(on: Spool) -> None:
    for job, ago in {"a": 5, "b": 9, "c": 7, "d": -60}.items():
        put(on, job, ago)
    index = Index(on)
    assert [entry.id for entry in index.scan()] == ["a", "b", "c", "d"]
    assert due(index) == ["b", "c", "a"]
    assert 50 < index.next_due(time.time()) <= 60
    assert len(index) == 4
    assert index.scan() == []  # nothing is new


def test_due_together_the_lower_id_comes_first(on: Spool) -> None:
    for job in ("b", "a", "c"):
        put(on, job)
        os.utime(on.job_path("merge", job), (1e9, 1e9))
    index = Index(on)
    index.scan()
    assert due(index) == ["a", "b", "c"]


def test_changes_are_taken_in_one_by_one(on: Spool) -> None:
    put(on, "a", 5)
    index = Index(on)
    index.scan()
    put(on, "b", 9)
    put(on, "c", -60)
    assert [entry.id for entry in index.update(["b", "c", "gone"])] == ["b", "c"]
    assert due(index) == ["b", "a"]
    put(on, "a", 20)
    os.unlink(on.job_path("merge", "b"))
    os.rename(on.job_path("merge", "c"), on.job_path("release", "c"))
    assert [(e.place, e.id) for e in index.update("abc")] == [("merge", "a"), ("release", "c")]
    assert due(index) == ["a"] and due(index, "release") == []
    assert index.keys() == {("merge", "a"), ("release", "c")}
    assert index.next_due(time.time()) > 0


def test_a_time_that_nobody_set_is_not_believed(on: Spool) -> None:
    put(on, "strange", -3 * DAY)
    put(on, "deferred", -3 * DAY)
    on.log("deferred", "defer", stage="merge", until=time.time() + 3 * DAY)
    index = Index(on)
    index.scan()
    assert due(index) == ["strange"]
    index.update(["strange", "deferred"])
    assert due(index) == ["strange"]
    assert due(index, now=math.inf) == ["strange", "deferred"]


def test_a_clock_that_is_set_back_defers_and_forward_frees(on: Spool) -> None:
    put(on, "a", 100)
    index = Index(on)
    index.scan()
    now = time.time()
    assert due(index, now=now - 3600) == []
    assert index.next_due(now - 3600) == pytest.approx(3500, abs=60)
    assert due(index, now=now + DAY) == ["a"]


def test_whatever_happens_it_agrees_with_a_scan(on: Spool) -> None:
    chance = random.Random(5)
    index = Index(on)
    jobs = [f"j{number}" for number in range(12)]
    for _ in range(400):
        job, stage = chance.choice(jobs), chance.choice(STAGES)
        there = [place for place in STAGES if os.path.exists(on.job_path(place, job))]
        act = chance.choice(["put", "move", "remove"])
        if act == "put" or not there:
            put(on, job, chance.choice([-3 * DAY, -50, 0, 50, 1000]), stage)
        elif act == "move":
            os.rename(on.job_path(there[0], job), on.job_path(stage, job))
        else:
            os.unlink(on.job_path(there[0], job))
        if chance.random() < 0.9:
            index.update([job])
        else:
            index.scan()
        whole = Index(on)
        whole.scan()
        now = time.time() + 10
        for each in STAGES:
            assert sorted(due(index, each, now)) == sorted(due(whole, each, now))
        assert index.keys() == whole.keys()


# -- pauses between starts --------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: made[0])
    return made


def test_pauses_double_up_to_half_a_minute(clock: list[float]) -> None:
    rests, key = Rests(for_good=False), ("merge", "a")
    pauses = []
    for _ in range(6):
        rests.started(key)
        rests.fruitless(key, 2.0)
        pauses.append(rests.wait())
        assert not rests.may(key)
        clock[0] += rests.wait()
        assert rests.may(key)
    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_news_end_a_pause_and_begin_anew(clock: list[float]) -> None:
    rests, key = Rests(for_good=False), ("merge", "a")
    for _ in range(3):
        rests.fruitless(key, 2.0)
    rests.news({"b"})
    assert not rests.may(key)
    rests.news({"a"})
    assert rests.may(key)
    rests.fruitless(key, 2.0)
    assert rests.wait() == 2.0
    rests.free()
    assert rests.may(key)
    rests.fruitless(key, 2.0)
    assert rests.wait() == 4.0  # nobody changed the job


def test_once_a_fruitless_start_is_not_repeated(clock: list[float]) -> None:
    rests, key = Rests(for_good=True), ("merge", "a")
    rests.fruitless(key, 2.0)
    rests.free()
    clock[0] += 1e6
    assert not rests.may(key)
    rests.forget(key)
    assert rests.may(key)

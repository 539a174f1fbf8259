from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from daqlib import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the reporter sees; change the only item."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_tells_once_a_second(tmp_path: Path, clock: list[float]) -> None:
    told = progress.Reporter(str(tmp_path), "collect", "a.fits", 1000)
    told.at(100)
    assert progress.read(str(tmp_path)) is None
    for second in range(1, 4):
        clock[0] = 1000.0 + second
        told.at(100 * second)
    found = progress.read(str(tmp_path))
    assert found is not None
    assert (found["stage"], found["what"], found["pid"]) == ("collect", "a.fits", os.getpid())
    assert (found["done"], found["total"], found["rate"], found["left"]) == (300, 1000, 100, 7.0)
    assert progress.percent(found) == 30
    told.close()
    assert list(tmp_path.iterdir()) == []


def test_the_rate_is_that_of_the_last_seconds(tmp_path: Path, clock: list[float]) -> None:
    told = progress.Reporter(str(tmp_path), "collect", "a", 10**6)
    done = 0
    for second in range(1, 30):
        clock[0] = 1000.0 + second
        done += 1000 if second < 15 else 10
        told.at(done)
    found = progress.read(str(tmp_path))
    assert found is not None and found["rate"] == 10


def test_a_total_that_becomes_known(tmp_path: Path, clock: list[float]) -> None:
    told = progress.Reporter(str(tmp_path), "collect", "a")
    clock[0] += 1
    told.at(5, 0)
    found = progress.read(str(tmp_path))
    assert found is not None and (found["total"], progress.percent(found)) == (0, 0)
    clock[0] += 1
    told.at(10, 50)
    found = progress.read(str(tmp_path))
    assert found is not None and (progress.percent(found), found["left"]) == (20, 8.0)


def test_nobody_waits_for_the_words(tmp_path: Path, clock: list[float]) -> None:
    told = progress.Reporter(str(tmp_path / "gone"), "collect", "a", 10)
    clock[0] += 1
    told.at(5)
    told.close()


def good(**changes: object) -> dict[str, object]:
    return {"stage": "collect", "what": "x", "done": 1, "total": 2, "rate": 1, "left": 1.0,
            "time": time.time(), "pid": os.getpid(), **changes}


def dead() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("text", [
    "", "{", "[]", "7", json.dumps(good(time=0)), json.dumps(good(time=4e9)),
    json.dumps(good(done="1")), json.dumps({"stage": "collect"})])
def test_what_means_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / ".progress.json").write_text(text)
    assert progress.read(str(tmp_path)) is None


def test_only_a_living_process_is_believed(tmp_path: Path) -> None:
    file = tmp_path / ".progress.json"
    file.write_text(json.dumps(good()))
    assert progress.read(str(tmp_path)) is not None
    file.write_text(json.dumps(good(pid=dead())))
    assert progress.read(str(tmp_path)) is None
    progress.forget(str(tmp_path))
    assert not file.exists()
    progress.forget(str(tmp_path))


@pytest.mark.parametrize(("count", "text"), [
    (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (81_400_000, "81 MB"), (999_600, "1.0 MB"),
    (2**31, "2.1 GB"), (5e12, "5.0 TB"), (5e15, "5000 TB")])
def test_amounts(count: float, text: str) -> None:
    assert progress.amount(count) == text

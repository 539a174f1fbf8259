"""The follower: names that changed, or the honest answer that nobody knows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daqlib import config, fsops, spool
from daqlib.follow import Follower
from harness import make_spool


@pytest.fixture
def on(tmp_path: Path) -> spool.Spool:
    return spool.open_spool(str(make_spool(tmp_path / "spool")), config.Config(), "test")


@pytest.fixture
def follower(on: spool.Spool) -> Iterator[Follower]:
    made = Follower(on, ("collect", "merge"), logs=True)
    yield made
    made.close()


def test_nothing(follower: Follower) -> None:
    assert follower.changed() == set()
    assert follower.changed(0.05) == set()


def test_jobs_that_come_go_and_change(on: spool.Spool, follower: Follower) -> None:
    fsops.put(on.job_path("collect", "a"), b"{}")
    assert follower.changed(1) == {"a"}
    fsops.move(on.job_path("collect", "a"), on.job_path("merge", "a"))
    assert follower.changed(1) == {"a"}
    os.utime(on.job_path("merge", "a"))
    assert follower.changed(1) == {"a"}
    os.unlink(on.job_path("merge", "a"))
    assert follower.changed(1) == {"a"}
    assert follower.changed() == set()


def test_what_is_no_job_is_not_told(on: spool.Spool, follower: Follower) -> None:
    for name in (".a.json", "a.txt", ".tmp-1-2-a.json"):
        Path(on.path("merge", name)).touch()
    for name in (".slot-daq-0", "two words"):
        Path(on.path("lock", name)).touch()
    Path(on.path("log", ".file-a")).touch()
    assert follower.changed(0.1) == set()


def test_logs_and_locks(on: spool.Spool, follower: Follower) -> None:
    on.log("a", "start")
    assert follower.changed(1) == {"a"}
    held = on.lock("b", "merge")
    assert held is not None and follower.changed(1) == {"b"}
    assert on.is_busy("b") and follower.changed(0.05) == set()  # a look is no change
    os.close(held)
    assert follower.changed(1) == {"b"}


@pytest.mark.parametrize("name", ["merge/.pause", "lock/.watch"])
def test_what_concerns_all_jobs(on: spool.Spool, follower: Follower, name: str) -> None:
    Path(on.path(name)).write_text("x")
    assert follower.changed(1) is None
    assert follower.changed() == set()


def test_too_many_changes(on: spool.Spool, follower: Follower) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    paths = [on.job_path("merge", name) for name in "ab"]
    for path in paths:
        Path(path).touch()
    for number in range(limit + 10):
        os.utime(paths[number % 2])  # two names in turn: the kernel unites equal neighbours
    assert follower.changed() is None
    assert follower.changed() == set()
    os.utime(paths[0])
    assert follower.changed(1) == {"a"}


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_directory_that_goes_and_comes_back(on: spool.Spool, follower: Follower, how: str,
                                              tmp_path: Path) -> None:
    if how == "moved":
        os.rename(on.path("merge"), tmp_path / "elsewhere")
    else:
        os.rmdir(on.path("merge"))
    assert follower.changed(1) is None
    assert follower.changed() is None  # and as long as it is away
    os.mkdir(on.path("merge"))
    assert follower.changed() is None
    assert follower.changed() == set()
    fsops.put(on.job_path("merge", "a"), b"{}")
    assert follower.changed(1) == {"a"}
    if how == "moved":
        (tmp_path / "elsewhere" / "b.json").touch()
        assert follower.changed(0.05) == set()


def test_without_inotify(on: spool.Spool, monkeypatch: pytest.MonkeyPatch,
                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    made = Follower(on, ("merge",))
    assert "cannot use inotify" in capsys.readouterr().err
    assert made.fileno() >= 0 and made.changed(0.01) is None and made.changed() is None
    assert capsys.readouterr().err == ""
    made.close()


def test_a_place_that_is_not_there_at_the_start(on: spool.Spool) -> None:
    os.rmdir(on.path("merge"))
    made = Follower(on, ("merge",))
    assert made.changed() is None
    os.mkdir(on.path("merge"))
    assert made.changed() is None and made.changed() == set()
    made.close()

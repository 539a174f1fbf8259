from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from daqlib import breaker, config, errors
from daqlib.spool import Spool
from harness import make_spool

FILE = {"type": "fitsFile", "sourceName": "a", "location": "far:/data/a.fits"}


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    return Spool(str(make_spool(tmp_path / "spool")), "test")


def settings(failures: int = 2, probe: float = 60.0) -> config.Config:
    return config.Config({**config.DEFAULTS, "breaker.failures": failures,
                          "breaker.probe_sec": probe})


def fail(on: Spool, host: str = "far", times: int = 2) -> None:
    for _ in range(times):
        breaker.failed(on, settings(), host, "no route")


def is_left_alone(on: Spool, *hosts: str, probe: float = 60.0) -> bool:
    try:
        breaker.check(on, settings(probe=probe), *hosts or ("far",))
    except breaker.LeftAlone:
        return True
    return False


def put(on: Spool, host: str, **facts: object) -> None:
    Path(breaker.path_of(on, host)).write_text(json.dumps(
        {"host": host, "failures": 9, "reason": "gone", "since": 1.0, "probe": 0.0, **facts}))


def test_a_host_that_nobody_complained_of_may_be_tried(on: Spool) -> None:
    breaker.check(on, settings(), "far")
    breaker.succeeded(on, "far")
    assert not os.listdir(on.path("lock"))


def test_after_so_many_failures_in_a_row_it_is_left_alone(on: Spool) -> None:
    fail(on, times=1)
    assert not is_left_alone(on)
    fail(on, times=1)
    assert is_left_alone(on)
    assert not is_left_alone(on, "near")


def test_a_success_ends_the_row(on: Spool) -> None:
    fail(on, times=1)
    breaker.succeeded(on, "far")
    fail(on, times=1)
    assert not is_left_alone(on)


def test_the_error_names_host_reason_and_way_out(on: Spool) -> None:
    fail(on)
    with pytest.raises(errors.HostDown, match=r"far did not answer 2 times \(no route\)") as told:
        breaker.check(on, settings(), "far")
    assert breaker.path_of(on, "far") in told.value.remedy
    assert told.value.host == "far"
    assert told.value.code == 75
    os.unlink(breaker.path_of(on, "far"))
    assert not is_left_alone(on)


def test_one_in_each_probe_time_is_let_through(on: Spool) -> None:
    put(on, "far", probe=time.time() - 1)
    assert not is_left_alone(on)
    assert is_left_alone(on)


def test_a_host_that_waits_costs_no_other_its_turn(on: Spool) -> None:
    put(on, "far", probe=time.time() - 1)
    put(on, "near", probe=time.time() + 30)
    assert is_left_alone(on, "far", "near")
    assert not is_left_alone(on, "far")


def test_of_many_at_once_one_gets_the_turn(on: Spool) -> None:
    put(on, "far", probe=time.time() - 1)
    let: list[bool] = []
    threads = [threading.Thread(target=lambda: let.append(not is_left_alone(on)))
               for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(let) == [False] * 7 + [True]


def test_a_clock_that_was_set_back_does_not_close_the_way_for_ever(on: Spool) -> None:
    put(on, "far", probe=time.time() + 86400)
    assert not is_left_alone(on)
    assert is_left_alone(on)


def test_a_clock_that_was_set_forward_does_not_open_it_for_good(on: Spool) -> None:
    put(on, "far", since=time.time() - 1e9, probe=time.time() - 1e9)
    assert not is_left_alone(on)
    assert is_left_alone(on)


@pytest.mark.parametrize("text", [
    "", "{", "[]", "7", '{"host": "far"}', '{"failures": "nine"}', "\0\0\0", "\xff",
    '{"host": "far", "failures": 9, "reason": "", "since": 0, "probe": 1e999}',
    '{"host": "far", "failures": true, "reason": "", "since": 0, "probe": 9e99}',
    '{"host": "far", "failures": 9, "reason": "", "since": null, "probe": 0}'])
def test_a_spoiled_file_says_nothing(on: Spool, text: str) -> None:
    Path(breaker.path_of(on, "far")).write_text(text, encoding="latin-1")
    assert not is_left_alone(on)
    assert breaker.all_of(on) == []
    fail(on)
    assert is_left_alone(on)


def test_what_is_no_file_says_nothing(on: Spool) -> None:
    os.mkdir(breaker.path_of(on, "far"))
    assert not is_left_alone(on)
    fail(on)
    breaker.succeeded(on, "far")


@pytest.mark.parametrize("host", [
    "../../etc/passwd", "a/b", ".", "-rf", "a b\n", "*", "%2e", "h" * 253, "ünïcode", "rsync://h"])
def test_whatever_a_host_is_called_its_file_lies_in_the_spool(on: Spool, host: str) -> None:
    fail(on, host)
    assert is_left_alone(on, host)
    path = Path(breaker.path_of(on, host))
    assert path.parent == Path(on.path("lock"))
    assert path.is_file()
    assert [circuit.host for circuit in breaker.all_of(on)] == [breaker.name_of(host)]


def test_different_hosts_have_different_files(on: Spool) -> None:
    hosts = ["a/b", "a%2fb", "a.b", "a-b", "a:b", "h" * 253, "h" * 252]
    assert len({breaker.path_of(on, host) for host in hosts}) == len(hosts)


def test_the_user_does_not_matter(on: Spool) -> None:
    fail(on, "me@Far")
    assert is_left_alone(on, "you@far")


def test_a_daemon_is_one_host_whatever_the_module(on: Spool) -> None:
    fail(on, "rsync://me@far:8730/raw")
    assert is_left_alone(on, "rsync://far:8730/other")
    assert not is_left_alone(on, "far", "rsync://far/raw")


def test_it_can_be_switched_off(on: Spool) -> None:
    for _ in range(9):
        breaker.failed(on, settings(failures=0), "far", "no route")
    assert not os.listdir(on.path("lock"))
    put(on, "far", probe=time.time() + 30)
    breaker.check(on, settings(failures=0), "far")


def test_how_a_use_ended_is_noted(on: Spool) -> None:
    for error in (errors.HostDown("no route"), errors.Later("busy"), errors.HostDown("no route")):
        with pytest.raises(errors.Later), breaker.trying(on, settings(), "me@far"):
            raise error
        if isinstance(error, errors.HostDown):
            assert error.host == "far"
    assert is_left_alone(on)
    with pytest.raises(errors.HostDown), breaker.trying(on, settings(), "far"):
        breaker.check(on, settings(), "far")
    found = breaker.of(on, "far")
    assert found is not None and found.failures == 2
    with pytest.raises(errors.BadData), breaker.trying(on, settings(), "far"):
        raise errors.BadData("no such file there")
    assert breaker.of(on, "far") is None


def test_what_changed_can_be_told_from_a_number(on: Spool) -> None:
    stamps = [breaker.stamp(on)]
    for change in (lambda: fail(on, times=1), lambda: fail(on, times=1),
                   lambda: breaker.succeeded(on, "far")):
        change()
        stamps.append(breaker.stamp(on))
    assert len(set(stamps)) == 4


def test_nothing_fails_where_nothing_can_be_noted(on: Spool) -> None:
    fail(on)
    Path(on.path("lock", ".hosts")).unlink()
    os.mkdir(on.path("lock", ".hosts"))
    fail(on)
    breaker.succeeded(on, "far")
    breaker.check(on, settings(), "far")


def test_jobs_that_waited_for_a_host_are_due_when_it_answers(on: Spool) -> None:
    later = time.time() + 600
    deferred = {"far": ("far", later), "near": ("near", later), "other": (None, later),
                "touched": ("far", later + 100)}
    for job, (host, until) in deferred.items():
        path = Path(on.job_path("collect", job))
        path.write_text(json.dumps({"sources": [FILE]}))
        on.log(job, "defer", stage="collect", reason="x", host=host, until=later, counts=False)
        os.utime(path, (until, until))
    fail(on)
    breaker.succeeded(on, "far")
    now = time.time()
    due = {entry.id for entry in on.scan("collect") if on.is_due(entry, now)}
    assert due == {"far"}

"""daq-watch: what runs beside it, and what it says of itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from daqlib import breaker, config
from daqlib.spool import Spool
from fakestages import Fake, fake_stages
from harness import free_port, wait_until


@pytest.fixture
def fake(daq: Any) -> Fake:
    return fake_stages(daq)


def endpoints(port: int) -> str:
    return (f"dpm: {{req_endpoint: 'zpb.rr://127.0.0.1:{port}/', "
            f"pub_endpoint: 'zpb.ps://127.0.0.1:{free_port()}/'}}")


def listens(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


def facts(fake: Fake) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fake.run("daq-watch", "--status", "--json").out)
    return found


def companion(fake: Fake, name: str = "serve") -> int:
    """Wait until a companion runs and return its process id."""
    def pid() -> int:
        found = [each["pid"] for each in facts(fake)["companions"] if each["name"] == name]
        return int(found[0] or 0) if found else 0
    return wait_until(pid)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


# -- beside it ------------------------------------------------------------------------------------


def test_the_server_lives_as_long_as_the_watcher(fake: Fake) -> None:
    port = free_port()
    fake.configure(endpoints(port))
    watcher = fake.watch("--serve")
    first = companion(fake)
    wait_until(lambda: listens(port))
    os.kill(first, signal.SIGKILL)
    second = wait_until(lambda: (pid := companion(fake)) != first and pid)
    wait_until(lambda: listens(port))
    other = free_port()
    fake.configure(endpoints(other))
    watcher.signal(signal.SIGHUP)
    wait_until(lambda: listens(other) and not listens(port))
    third = wait_until(lambda: (pid := companion(fake)) != second and pid)
    wait_until(lambda: is_gone(second))
    watcher.kill()
    wait_until(lambda: is_gone(third))


def test_a_server_that_cannot_begin_is_told_of_once_and_jobs_go_on(fake: Fake) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fake.configure(endpoints(port))
        watcher = fake.watch("--serve")
        watcher.wait_for(f"127.0.0.1:{port}")
        fake.jobs("collect", ["a"])
        fake.wait_tree({"done": ["a"]})
        wait_until(lambda: facts(fake)["companions"][0]["code"])
        watcher.signal(signal.SIGHUP)  # try again now
        watcher.wait_for("read the configuration again")
    wait_until(lambda: listens(port))
    assert sum(str(port) in line and "in use" in line for line in watcher.err.splitlines()) == 1
    watcher.stop().exits(0)


def test_pruning_is_done_when_its_time_has_come(fake: Fake) -> None:
    told = fake.folder / "told"
    tool = fake.bin / "daq-status"
    tool.write_text(f'#!/bin/sh\necho "$*" >>{told}\necho pruned something >&2\n')
    tool.chmod(0o755)
    fake.configure("retention: {every_hours: 1.0}")
    watcher = fake.watch()
    watcher.wait_for("pruned something")
    path = fake.env["DAQ_CONFIG"]
    assert told.read_text().splitlines() == [
        f"--prune --yes --quiet --spool {fake.spool} --config {path}"]
    watcher.stop().exits(0)
    again = fake.watch()  # an hour has not gone by, whoever watches
    fake.jobs("collect", ["a"])
    fake.wait_tree({"done": ["a"]})
    assert len(told.read_text().splitlines()) == 1
    again.stop().exits(0)
    mark = fake.spool / "run" / ".pruned"
    os.utime(mark, (time.time() - 4000, time.time() - 4000))
    fake.watch().wait_for("pruned something")


def test_the_options_of_the_server_are_passed_on(fake: Fake) -> None:
    fake.configure(endpoints(free_port()))
    port = free_port()
    fake.watch("--serve", "--rr-uri", f"zpb.rr://127.0.0.1:{port}/", "--proc-name", "dpm1")
    wait_until(lambda: listens(port))
    words = Path(f"/proc/{companion(fake)}/cmdline").read_text().split("\0")
    assert "--serve-only" in words and "--proc-name=dpm1" in words


# -- what it says of itself -----------------------------------------------------------------------


def test_nobody_watches(fake: Fake) -> None:
    fake.jobs("merge", ["a", "b"])
    later = time.time() + 600
    os.utime(fake.spool / "merge" / "b.json", (later, later))
    (fake.spool / "merge" / ".pause").touch()
    result = fake.run("daq-watch", "--status").exits(1)
    result.prints("nobody watches").prints("merge: 1 due, 1 deferred (the first until ")
    result.prints(", paused\n").prints("collect: 0 due, 0 deferred\n")
    found = facts(fake)
    assert found["watcher"] is None and found["running"] == []
    assert found["stages"][1] == {"stage": "merge", "jobs": 2, "due": 1, "deferred": 1,
                                  "next": later, "paused": True}


def test_status_makes_no_spool(fake: Fake) -> None:
    fake.run("daq-watch", "--status", "--spool", fake.folder / "none").fails(78, "is no spool")
    assert not (fake.folder / "none").exists()


def test_who_is_at_work(fake: Fake) -> None:
    fake.configure("{limits: {daq: 3, merge: 2}, breaker: {failures: 1}, "
                   "floor: {spool_bytes: 1}, scan_interval_sec: 60.0}")
    fake.order("merge", "sleep 300")
    fake.jobs("merge", ["a"])
    watcher = fake.watch()
    pid = fake.working_pid("merge", "a")
    on = Spool(str(fake.spool), "test")
    breaker.failed(on, config.Config({**config.DEFAULTS, "breaker.failures": 1}), "far", "no route")
    wait_until(lambda: [each["until"] for each in facts(fake)["running"]] != [None])
    found = facts(fake)
    watching = found["watcher"]
    assert watching["pid"] == watcher.pid and watching["host"] == socket.gethostname()
    assert watching["config"] == fake.env["DAQ_CONFIG"] and watching["once"] is False
    running, = found["running"]
    assert (running["id"], running["stage"], running["pid"]) == ("a", "merge", pid)
    assert running["until"] > running["since"] and not running["orphaned"]
    assert (found["stages"][1]["jobs"], found["stages"][1]["due"]) == (1, 0)
    taken = {each["name"]: (each["places"], [it["id"] for it in each["taken"]])
             for each in found["limits"]}
    assert taken == {"daq": (3, ["a"]), "merge": (2, ["a"]), "net_receive": (0, []),
                     "net_send": (0, [])}
    host, = found["hosts"]
    assert (host["host"], host["failures"], host["reason"], host["open"]) == (
        "far", 1, "no route", True)
    assert host["since"] < host["probe"]
    spool, result = found["space"]
    assert spool["enough"] and spool["floor"] == 1 and result["path"] == str(fake.spool / "result")
    told = fake.run("daq-watch", "--status").ok()
    told.prints(f"watched by process {watcher.pid}").prints("limit daq: 1 of 3 taken: merge a")
    told.prints(f"at work: merge a, process {pid} since ").prints("host far: no answer 1 times")
    watcher.kill()
    told = fake.run("daq-watch", "--status").exits(1)  # the worker goes on
    told.prints("nobody watches").prints(f"at work: merge a, process {pid} since ")
    os.kill(pid, signal.SIGKILL)


def test_notes_of_a_watcher_that_was_killed_are_not_believed(fake: Fake) -> None:
    (fake.spool / "run" / "watch.json").write_text(json.dumps(
        {"pid": os.getpid(), "started": "1", "host": "elsewhere", "companions": [
            {"name": "serve", "pid": 1, "since": 0.0, "code": None}]}))
    found = facts(fake)
    assert found["watcher"] is None and found["companions"] == []
    watcher = fake.watch()
    wait_until(lambda: facts(fake)["watcher"]["host"] == socket.gethostname())
    watcher.stop().exits(0)
    assert not (fake.spool / "run" / "watch.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": 1, "workers": 7}', '{"workers": [1]}'])
def test_spoiled_notes_are_no_obstacle(fake: Fake, text: str) -> None:
    watcher = fake.watch()
    wait_until(lambda: facts(fake)["watcher"]["host"])
    (fake.spool / "run" / "watch.json").write_text(text)
    assert facts(fake)["watcher"]["pid"] == watcher.pid


def test_a_service_manager_is_told(fake: Fake) -> None:
    path = fake.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60)
        watcher = fake.spawn("daq-watch", env={"NOTIFY_SOCKET": str(path)})
        assert manager.recv(100) == b"READY=1"
        watcher.stop().exits(0)
        assert manager.recv(100) == b"STOPPING=1"

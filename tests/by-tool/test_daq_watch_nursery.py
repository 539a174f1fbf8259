"""daq-watch with the real stage tools: workers that are forked by the nursery."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from harness import CHECKOUT, Daq, Process, make_fits, wait_until
from remote import HOST, Stand, configure, stand_in

pytestmark = pytest.mark.needs("rsync")


@pytest.fixture
def stand(daq: Daq) -> Stand:
    """Another host whose answers the test holds up, so that workers are found at work."""
    made = stand_in(daq.folder)
    settings(daq, made)
    return made


def settings(daq: Daq, stand: Stand, **more: object) -> None:
    configure(daq, rsh=stand.command, limits={"daq": 4, "merge": 4}, **more)


def notes(daq: Daq) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((daq.spool / "run" / "watch.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts


def nursery(daq: Daq, watcher: Process) -> int:
    """Wait until the nursery of a watcher is ready and return its process id."""
    def ready() -> int:
        facts = notes(daq)
        return int(facts["nursery"]) if facts.get("pid") == watcher.pid else 0
    return wait_until(ready)


def submit(daq: Daq, name: str = "a", *, host: str = HOST + ":") -> str:
    source = daq.folder / f"{name}.fits"
    if not source.exists():
        make_fits(source)
    return daq.run("daq-start", "--id", name, "--file", f"{host}{source}").ok().line()


def worker(daq: Daq, job: str) -> int:
    """Wait until somebody is at work on a job and return the process id."""
    def found() -> int:
        event = [e for e in daq.history(job) if e["event"] == "start"]
        return int(event[-1]["pid"]) if event else 0
    return wait_until(found)


def status(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise AssertionError(f"no {name}")


def starts(daq: Daq, job: str) -> list[str]:
    return [e["stage"] for e in daq.history(job) if e["event"] == "start"]


def wait_done(daq: Daq, job: str) -> None:
    wait_until((daq.spool / "done" / f"{job}.json").exists)
    wait_until(lambda: daq.history(job)[-1]["event"] == "ok")


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_worker_is_a_child_of_the_watcher_and_has_only_what_is_its_own(
        daq: Daq, stand: Stand) -> None:
    watcher = daq.spawn("daq-watch", until="watching")
    nest = nursery(daq, watcher)
    stand.gate.unlink()
    pid = worker(daq, submit(daq))
    assert int(status(pid, "PPid")) == watcher.pid
    assert status(pid, "Name") == "daq-collect"
    assert os.getsid(pid) == pid == os.getpgid(pid)
    held = sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    assert "/dev/null" in held
    assert str(daq.spool / "lock" / ".watch") not in held
    assert not [name for name in held if "inotify" in name or "socket:" in name]
    assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{watcher.pid}/fd/2")
    assert int(status(nest, "VmRSS").split()[0]) < 60_000  # kB
    stand.gate.touch()
    wait_done(daq, "a")
    watcher.stop().exits(0)
    wait_until(lambda: is_gone(nest))


def test_a_nursery_that_dies_takes_nobody_along(daq: Daq, stand: Stand) -> None:
    watcher = daq.spawn("daq-watch", until="watching")
    nest = nursery(daq, watcher)
    stand.gate.unlink()
    pid = worker(daq, submit(daq))
    os.kill(nest, signal.SIGKILL)
    other = worker(daq, submit(daq, "b"))  # by the next one, or as a program
    assert not is_gone(pid) and other != pid
    stand.gate.touch()
    for job in "ab":
        wait_done(daq, job)
        assert starts(daq, job) == ["collect", "merge", "release"]
    assert wait_until(lambda: nursery(daq, watcher)) != nest
    watcher.stop().exits(0)


def test_workers_outlive_a_killed_watcher(daq: Daq, stand: Stand) -> None:
    first = daq.spawn("daq-watch", until="watching")
    nest = nursery(daq, first)
    stand.gate.unlink()
    pid = worker(daq, submit(daq))
    assert int(status(pid, "PPid")) == first.pid
    first.kill().died(signal.SIGKILL)
    wait_until(lambda: is_gone(nest))
    second = daq.spawn("daq-watch", until="watching")
    nursery(daq, second)
    assert not is_gone(pid)
    stand.gate.touch()
    wait_done(daq, "a")
    assert starts(daq, "a") == ["collect", "merge", "release"]
    second.stop().exits(0)


def test_told_to_end_a_worker_is_interrupted(daq: Daq, stand: Stand) -> None:
    watcher = daq.spawn("daq-watch", until="watching")
    nursery(daq, watcher)
    stand.gate.unlink()
    pid = worker(daq, submit(daq))
    watcher.stop().exits(0)
    assert is_gone(pid)
    assert daq.tree() == {"collect": ["a"]}
    assert daq.history("a")[-1]["event"] == "interrupted"
    stand.gate.touch()
    daq.run("daq-watch", "--once").ok()
    assert daq.tree() == {"done": ["a"]}


def test_an_abort_ends_the_worker(daq: Daq, stand: Stand) -> None:
    from daqlib import abort
    from daqlib.spool import Spool

    watcher = daq.spawn("daq-watch", until="watching")
    nursery(daq, watcher)
    stand.gate.unlink()
    pid = worker(daq, submit(daq))
    abort.abort(Spool(str(daq.spool), "test"), "a", 60.0)
    assert daq.tree() == {"done": ["a"]}
    assert daq.history("a")[-1]["event"] == "aborted"
    wait_until(lambda: is_gone(pid))
    watcher.stop().exits(0)


def test_a_killed_worker_is_a_try_and_its_children_end(daq: Daq, stand: Stand) -> None:
    settings(daq, stand, retry={"first_sec": 0.05})
    watcher = daq.spawn("daq-watch", until="watching")
    nursery(daq, watcher)
    stand.gate.unlink()
    pid = worker(daq, submit(daq))
    wait_until(lambda: stand.calls.read_text())  # rsync runs
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: [e for e in daq.history("a") if e["event"] == "killed"])
    stand.gate.touch()
    wait_done(daq, "a")
    assert starts(daq, "a") == ["collect", "collect", "merge", "release"]
    children = Path(f"/proc/{watcher.pid}/task/{watcher.pid}/children")  # nor a zombie is left
    wait_until(lambda: [*map(int, children.read_text().split())] == [nursery(daq, watcher)])
    watcher.stop().exits(0)


def test_without_a_nursery_workers_are_programs(daq: Daq) -> None:
    watcher = daq.spawn("daq-watch", until="watching")
    for _ in range(4):  # one that never gets ready is not tried for ever
        facts = wait_until(lambda: notes(daq))
        if facts["nursery"]:
            os.kill(facts["nursery"], signal.SIGKILL)
    submit(daq, host="")
    wait_done(daq, "a")
    assert starts(daq, "a") == ["collect", "merge", "release"]
    watcher.stop().exits(0)


@pytest.mark.slow
def test_a_nursery_that_hangs_is_done_without(daq: Daq) -> None:
    watcher = daq.spawn("daq-watch", until="watching")
    nest = nursery(daq, watcher)
    os.kill(nest, signal.SIGSTOP)
    submit(daq, host="")
    wait_done(daq, "a")
    assert is_gone(nest)
    watcher.stop().exits(0)


def test_what_was_upgraded_is_loaded_anew(daq: Daq) -> None:
    if daq.installed:
        pytest.skip("it would change the installation that other tests use")
    copy = daq.folder / "copy"
    for part in ("bin", "lib", "tools"):
        shutil.copytree(CHECKOUT / part, copy / part, symlinks=True)
    other = Daq(copy / "bin", daq.folder, daq.spool, env=daq.env, processes=daq.processes)
    watcher = other.spawn("daq-watch", until="watching")
    before = nursery(daq, watcher)
    submit(daq, host="")
    wait_done(daq, "a")
    now = time.time()
    os.utime(copy / "lib" / "daqlib" / "stage.py", (now, now))
    wait_until(lambda: time.time() > now + 1.5)  # it believes for a second that nothing changed
    submit(daq, "b", host="")
    wait_done(daq, "b")
    assert nursery(daq, watcher) != before or wait_until(
        lambda: nursery(daq, watcher) != before)
    watcher.stop().exits(0)


def test_loops_of_shell_and_cron_need_no_nursery(daq: Daq) -> None:
    submit(daq, host="")
    result = daq.run("daq-watch", "--once").ok()
    assert daq.tree() == {"done": ["a"]}
    assert not (daq.spool / "run" / "watch.json").exists()
    assert "nursery" not in result.err


def test_once_with_many_jobs(daq: Daq) -> None:
    for name in "abcdefgh":
        submit(daq, name, host="")
    daq.run("daq-watch", "--once").ok()
    assert daq.tree() == {"done": list("abcdefgh")}

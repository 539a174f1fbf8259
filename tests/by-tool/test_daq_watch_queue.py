"""daq-watch: who comes next, how many at a time, and what lies about in the stages."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from fakestages import Fake, fake_stages
from harness import CHECKOUT, FOLDERS, Daq, make_spool, wait_until


@pytest.fixture
def fake(daq: Daq) -> Fake:
    return fake_stages(daq)


def ticks(pid: int) -> int:
    """Return the processor time that a process has had, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def at_once(lines: list[str]) -> list[int]:
    """Return how many were at work after each line of a diary."""
    counts = [0]
    for line in lines:
        counts.append(counts[-1] + {"begin": 1, "end": -1}.get(line.split()[0], 0))
    return counts


# -- who comes next ---------------------------------------------------------------------------


def test_foreign_ids_start_in_the_order_in_which_they_became_due(fake: Fake) -> None:
    jobs = ["zebra", "10", "9", "NACO.2026-11-21T02:30:00.000", "a", "B"]
    fake.jobs("collect", jobs)
    now = time.time()
    for number, job in enumerate(jobs):
        os.utime(fake.spool / "collect" / f"{job}.json", (now, now - 100 + number))
    said = fake.run("daq-watch", "-n").ok().out.split()
    assert said[2::3] == jobs
    os.utime(fake.spool / "collect" / "10.json")  # to the end
    os.utime(fake.spool / "collect" / "B.json", (now, now - 1000))  # to the front
    said = fake.run("daq-watch", "-n").ok().out.split()
    assert said[2::3] == ["B", "zebra", *jobs[2:5], "10"]
    fake.run("daq-watch", "--once").ok()
    began = [line.split()[2] for line in fake.diary("begin", "collect")]
    assert began == ["B", "zebra", *jobs[2:5], "10"]


def test_a_thousand_deferred_jobs_are_in_nobodys_way(fake: Fake) -> None:
    fake.jobs("collect", [f"d{number:03}" for number in range(1000)])
    later = time.time() + 3600
    for path in (fake.spool / "collect").iterdir():
        os.utime(path, (later, later))
    process = fake.watch()
    fake.jobs("collect", ["a"])
    wait_until((fake.spool / "done" / "a.json").exists)
    os.utime(fake.spool / "collect" / "d500.json")
    wait_until((fake.spool / "done" / "d500.json").exists)
    assert len(fake.tree()["collect"]) == 999

    def idle() -> bool:
        before = ticks(process.pid)
        time.sleep(1.0)
        return ticks(process.pid) == before
    wait_until(idle)


# -- how many at a time -------------------------------------------------------------------------


def test_limits_hold_whoever_starts_the_work(fake: Fake) -> None:
    fake.configure("{limits: {daq: 2, merge: 2}, scan_interval_sec: 0.3}")
    fake.order("merge", "sleep 0.4")
    jobs = [f"j{number:02}" for number in range(14)]
    fake.jobs("merge", jobs)
    by_hand = {"PYTHONPATH": f"{CHECKOUT}/lib"}
    first = fake.watch()
    wait_until(lambda: len(fake.diary("begin", "merge")) >= 2)
    first.kill().died(signal.SIGKILL)  # its workers go on
    second = fake.watch()
    person = [fake.spawn("daq-merge", "--job", job, env=by_hand) for job in jobs[-3:]]
    cron = fake.spawn("daq-merge", "--all", "-q", env=by_hand)
    fake.wait_tree({"done": jobs})
    for each in (*person, cron):
        each.wait()
    second.stop().exits(0)
    diary = [line for line in fake.diary() if " merge " in line]
    assert max(at_once(diary)) == 2
    assert sorted(line.split()[2] for line in diary if line.startswith("end")) == jobs


def test_two_watchers_each_with_a_spool(fake: Fake) -> None:
    other = make_spool(fake.folder / "other")
    one = fake.watch()
    two = fake.watch("--spool", str(other))
    assert (fake.spool / "lock" / ".watch").read_text() != (other / "lock" / ".watch").read_text()
    fake.jobs("collect", ["a"])
    shutil.copy(fake.drop("hold", "b", {"sources": [
        {"type": "fitsKeywords", "sourceName": "k", "keywords": [
            {"type": "valueKeyword", "name": "OBJECT", "value": "M1"}]}]}),
        other / "collect" / "b.json")
    fake.wait_tree({"done": ["a"], "hold": ["b"]})
    wait_until((other / "done" / "b.json").exists)
    one.stop().exits(0)
    assert two.running()
    two.stop().exits(0)


# -- what lies about ------------------------------------------------------------------------------


def test_what_is_no_file_of_reasonable_size_is_harmless(fake: Fake) -> None:
    stage = fake.spool / "collect"
    os.mkfifo(stage / "fifo.json")
    (stage / "folder.json").mkdir()
    (stage / "link.json").symlink_to("/dev/zero")
    with open(stage / "huge.json", "wb") as file:
        file.truncate(2 << 30)
    fake.jobs("collect", ["a"])
    fake.run("daq-watch", "--once").exits(65).says("huge.json").says("2147483648 bytes")
    assert fake.tree() == {"done": ["a"], "bad": ["huge"], "collect": ["fifo", "folder", "link"]}


def test_a_lock_that_may_not_be_opened_keeps_no_other_job_waiting(daq: Daq) -> None:
    """As a tool leaves it that somebody ran as another user, once, with a strict umask."""
    daq.obey_permissions()
    for job in ("a", "b", "c"):
        daq.drop("collect", job, {"sources": [
            {"type": "fitsKeywords", "sourceName": "k", "keywords": []}]})
    (daq.spool / "lock" / "b").touch(mode=0)
    assert "collect: 3 due" in daq.run("daq-watch", "--status").exits(1).out
    assert daq.run("daq-watch", "-n").ok().out.count("--job") == 3
    daq.run("daq-status").ok()
    daq.run("daq-watch", "--once").exits(75).says("lock/b: Permission denied")
    assert daq.tree() == {"collect": ["b"], "done": ["a", "c"]}


def test_more_events_than_the_kernel_keeps(fake: Fake) -> None:
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if queue > 100_000:
        pytest.skip(f"the kernel keeps {queue} events: too many to be produced here")
    fake.configure("scan_interval_sec: 600.0")
    process = fake.watch()
    process.signal(signal.SIGSTOP)
    for number in range(queue // 2 + 100):  # each tells two events at least
        os.close(os.open(fake.spool / "merge" / f".{number}", os.O_CREAT | os.O_WRONLY))
    fake.jobs("release", ["a"])
    process.signal(signal.SIGCONT)
    fake.wait_tree({"done": ["a"]})


@pytest.mark.slow
def test_ten_thousand_jobs_dropped_at_once(fake: Fake) -> None:
    fake.configure("{limits: {daq: 2, merge: 2}, scan_interval_sec: 5.0}")
    source = fake.folder / "dropped"
    source.mkdir()
    ready = fake.drop("hold", "b", {"sources": [
        {"type": "fitsKeywords", "sourceName": "k", "keywords": [
            {"type": "valueKeyword", "name": "OBJECT", "value": "M1"}]}]})
    later = time.time() + 3600
    process = fake.watch()
    for number in range(10_000):
        path = source / f"j{number:05}.json"
        shutil.copy(ready, path)
        if number >= 20:
            os.utime(path, (later, later))
        os.rename(path, fake.spool / "collect" / path.name)
    wait_until(lambda: len(os.listdir(fake.spool / "done")) == 20)
    assert len(os.listdir(fake.spool / "collect")) == 9980
    assert sorted(os.listdir(fake.spool)) == sorted([*FOLDERS, ".daqspool"])
    process.stop().exits(0)

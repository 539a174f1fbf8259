"""daq-watch, with stage tools whose work is what a test orders."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fakestages import Fake, fake_stages
from harness import CHECKOUT, PATIENCE_S, Daq, make_fits, wait_until


@pytest.fixture
def fake(daq: Daq) -> Fake:
    return fake_stages(daq)


def ticks(pid: int) -> int:
    """Return how often a process gave the processor back of its own will: its wake-ups."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError("no such line")


# -- going on ---------------------------------------------------------------------------------


def test_once_takes_a_job_through_all_stages(fake: Fake) -> None:
    fake.jobs("collect", ["a"])
    result = fake.run("daq-watch", "--once").ok().no_output()
    assert fake.tree() == {"done": ["a"]}
    for stage in ("collect", "merge", "release"):
        result.says(f"daq-watch: a: {stage} started")
        result.says(f"daq-{stage}: a: {stage} done")


def test_quiet_is_passed_on(fake: Fake) -> None:
    fake.jobs("collect", ["a"])
    fake.run("daq-watch", "--once", "-q").ok().silent()
    assert fake.tree() == {"done": ["a"]}


def test_with_closed_standard_streams(fake: Fake) -> None:
    fake.jobs("collect", ["a"])
    command = " ".join(fake.command("daq-watch", "--once"))
    code = subprocess.run(["sh", "-c", f"exec {command} <&- >&- 2>&-"], env=fake.environment(),
                          check=False, timeout=PATIENCE_S).returncode
    assert code == 0 and fake.tree() == {"done": ["a"]}


def test_with_the_real_stage_tools(daq: Daq) -> None:
    source = make_fits(daq.folder / "a.fits")
    job = daq.run("daq-start", "--file", source).ok().line()
    daq.run("daq-watch", "--once").ok()
    assert daq.tree() == {"done": [job]}
    assert daq.results() == [f"{job}.fits"]


def test_a_dropped_job_is_seen_at_once(fake: Fake) -> None:
    fake.watch()
    fake.jobs("merge", ["a"])  # the next scan is a minute away
    fake.wait_tree({"done": ["a"]})


def test_a_job_moved_back_by_hand_runs_again(fake: Fake) -> None:
    fake.watch()
    fake.jobs("hold", ["a"])
    os.rename(fake.spool / "hold" / "a.json", fake.spool / "release" / "a.json")
    fake.wait_tree({"done": ["a"]})
    os.rename(fake.spool / "done" / "a.json", fake.spool / "release" / "a.json")
    fake.wait_tree({"done": ["a"]})


def test_idle_costs_nothing(fake: Fake) -> None:
    process = fake.watch()

    def idle() -> bool:  # it may have to finish its beginning first
        before = ticks(process.pid)
        time.sleep(1.0)
        return ticks(process.pid) - before <= 1
    wait_until(idle)


def test_a_deferred_job_blocks_no_other_and_starts_when_due(fake: Fake) -> None:
    fake.jobs("merge", ["a", "b"])
    path = fake.spool / "merge" / "a.json"
    os.utime(path, (time.time() + 600, time.time() + 600))
    process = fake.watch()
    fake.wait_tree({"merge": ["a"], "done": ["b"]})
    due = time.time() + 0.6
    os.utime(path, (due, due))
    process.wait_for("a: merge started")
    assert time.time() >= due
    fake.wait_tree({"done": ["a", "b"]})


def test_touch_means_now(fake: Fake) -> None:
    fake.jobs("merge", ["a"])
    due = time.time() + 600
    os.utime(fake.spool / "merge" / "a.json", (due, due))
    fake.watch()
    fake.jobs("release", ["z"])
    fake.wait_tree({"merge": ["a"], "done": ["z"]})
    os.utime(fake.spool / "merge" / "a.json")
    fake.wait_tree({"done": ["a", "z"]})


def test_the_last_stage_first_then_what_became_due_first(fake: Fake) -> None:
    fake.jobs("collect", ["a", "c", "b", "d"])
    fake.jobs("release", ["z"])
    now = time.time()
    for job, ago in {"a": 5, "b": 9, "c": 9, "d": 7}.items():  # alike: by id
        os.utime(fake.spool / "collect" / f"{job}.json", (now - ago, now - ago))
    fake.run("daq-watch", "--once").ok()
    order = [line.split()[1:3] for line in fake.diary("begin")]
    assert order == [["release", "z"]] + [
        [stage, job] for job in "bcda" for stage in ("collect", "merge", "release")]


def test_a_stage_directory_may_be_replaced(fake: Fake) -> None:
    fake.watch()
    os.rename(fake.spool / "merge", fake.spool / "merge.old")
    time.sleep(0.2)
    (fake.spool / "merge").mkdir()
    fake.jobs("release", ["wakes"])
    fake.wait_tree({"done": ["wakes"]})
    fake.jobs("merge", ["a"])
    fake.wait_tree({"done": ["a", "wakes"]})


def test_without_inotify_the_scan_finds_everything(fake: Fake) -> None:
    blocker = fake.folder / "site"
    blocker.mkdir()
    (blocker / "inotify_simple.py").write_text(
        "import errno\nclass flags: pass\n"
        "def INotify(**_): raise OSError(errno.EMFILE, 'Too many open files')\n")
    fake.configure("scan_interval_sec: 0.3")
    watch = fake.bin / "daq-watch"
    watch.write_text(watch.read_text().replace("PYTHONPATH=", f"PYTHONPATH={blocker}:")
                     if "PYTHONPATH" in watch.read_text() else watch.read_text().replace(
                         "export ", f"export PYTHONPATH={blocker} "))
    process = fake.watch()
    assert process.err.count("cannot use inotify (Too many open files)") == 1
    fake.jobs("collect", ["a"])
    fake.wait_tree({"done": ["a"]})


# -- one watcher, its end, its survivors --------------------------------------------------------


def test_a_second_watcher_is_refused(fake: Fake) -> None:
    first = fake.watch()
    fake.run("daq-watch").fails(75, "is watched already", f"process {first.pid}")
    fake.run("daq-watch", "--once").fails(75, f"process {first.pid}")
    first.stop().exits(0)
    fake.run("daq-watch", "--once").ok()


def test_workers_survive_the_watcher(fake: Fake) -> None:
    fake.configure("{limits: {daq: 0, merge: 0}, scan_interval_sec: 60.0}")
    fake.order("merge", "sleep 1.5")
    fake.jobs("merge", ["a"])
    first = fake.watch()
    worker = fake.working_pid("merge", "a")
    first.kill().died(signal.SIGKILL)
    second = fake.watch()
    time.sleep(0.5)
    assert fake.diary("begin", "merge", "a") == [f"begin merge a {worker}"]
    fake.wait_tree({"done": ["a"]})
    assert "merge started" not in second.err  # it saw that somebody was at work
    assert fake.diary("end", "merge", "a") == [f"end merge a {worker}"]
    second.stop().exits(0)
    assert fake.events("a").count("start") == 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop(fake: Fake, signum: int) -> None:
    fake.order("merge", "sleep 30")
    fake.jobs("merge", ["a"])
    process = fake.watch()
    worker = fake.working_pid("merge", "a")
    process.signal(signum)
    process.wait(25).exits(0).says("stopping")
    assert not Path(f"/proc/{worker}").exists()
    assert fake.tree() == {"merge": ["a"]}
    assert fake.events("a")[-1] == "interrupted"
    assert os.stat(fake.spool / "merge" / "a.json").st_mtime <= time.time()


def test_told_twice_kills_at_once(fake: Fake) -> None:
    fake.order("merge", "stubborn 300")
    fake.jobs("merge", ["a"])
    process = fake.watch()
    worker = fake.working_pid("merge", "a")
    wait_until(lambda: fake.diary("stubborn", "merge", "a"))
    process.signal(signal.SIGTERM)
    process.wait_for("stopping")
    process.signal(signal.SIGTERM)
    assert "does not end" not in process.wait().exits(0).err  # its patience was not used up
    assert not Path(f"/proc/{worker}").exists()


def test_once_interrupted_is_no_success(fake: Fake) -> None:
    fake.order("merge", "sleep 30")
    fake.jobs("merge", ["a"])
    process = fake.spawn("daq-watch", "--once")
    fake.working_pid("merge", "a")
    process.signal(signal.SIGTERM)
    process.wait(25).exits(128 + signal.SIGTERM)


# -- limits, pauses, space, configuration ---------------------------------------------------------


def most_at_once(lines: list[str]) -> int:
    now = most = 0
    for line in lines:
        now += {"begin": 1, "end": -1}[line.split()[0]]
        most = max(most, now)
    return most


@pytest.mark.parametrize(("limits", "most"), [("{daq: 0, merge: 1}", 1), ("{daq: 2, merge: 0}", 2)])
def test_limits(fake: Fake, limits: str, most: int) -> None:
    fake.configure(f"limits: {limits}")
    fake.order("merge", f"meet {most}")
    fake.jobs("merge", ["a", "b", "c"])
    result = fake.run("daq-watch", "--once").ok()
    assert "places" not in result.err  # nothing was started only to be turned back
    assert most_at_once([line for line in fake.diary() if " merge " in line]) == most


def test_workers_of_others_count(fake: Fake) -> None:
    fake.configure("{limits: {daq: 1}, scan_interval_sec: 0.3}")
    fake.order("a.merge", "sleep 1")
    fake.jobs("merge", ["a", "b"])
    by_hand = fake.spawn("daq-merge", "--job", "a", env={"PYTHONPATH": f"{CHECKOUT}/lib"})
    fake.working_pid("merge", "a")
    process = fake.watch()
    fake.wait_tree({"done": ["a", "b"]})
    by_hand.wait().ok()
    diary = [line.rsplit(" ", 1)[0] for line in fake.diary() if " merge " in line]
    assert diary == ["begin merge a", "end merge a", "begin merge b", "end merge b"]
    assert "places" not in process.err and process.err.count("merge started") == 1


def test_pause(fake: Fake) -> None:
    fake.configure("{limits: {daq: 0, merge: 0}, scan_interval_sec: 60.0}")
    (fake.spool / "merge" / ".pause").touch()
    process = fake.watch()
    fake.jobs("collect", ["a"])
    fake.wait_tree({"merge": ["a"]})
    fake.jobs("release", ["z"])
    fake.wait_tree({"merge": ["a"], "done": ["z"]})
    assert "merge started" not in process.err
    (fake.spool / "merge" / ".pause").unlink()
    fake.wait_tree({"done": ["a", "z"]})


def test_too_little_space_is_said_once(fake: Fake) -> None:
    huge = 1 << 60
    fake.configure(f"{{floor: {{result_bytes: {huge}}}, scan_interval_sec: 0.1}}")
    fake.jobs("merge", ["a"])
    process = fake.watch()
    process.wait_for(f"less than cfg/floor/result_bytes .{huge}.")
    time.sleep(0.5)
    assert process.err.count("floor") == 1 and fake.tree() == {"merge": ["a"]}
    fake.configure("scan_interval_sec: 0.1")
    process.signal(signal.SIGHUP)
    fake.wait_tree({"done": ["a"]})
    process.wait_for("enough free space again")


def test_a_bad_configuration_is_not_taken_over(fake: Fake) -> None:
    process = fake.watch()
    fake.configure("scan_interval_sec: often")
    process.signal(signal.SIGHUP)
    process.wait_for("old configuration stays in force: .*scan_interval_sec")
    fake.configure("limits: {daq: 0}")
    process.signal(signal.SIGHUP)
    process.wait_for("read the configuration again")
    fake.jobs("collect", ["a", "b"])
    fake.wait_tree({"done": ["a", "b"]})
    process.stop().exits(0)


def test_nothing_is_started_while_the_tools_cannot_read_the_configuration(fake: Fake) -> None:
    fake.configure("scan_interval_sec: 0.2")
    fake.run("daq-watch", "--once").ok()
    process = fake.watch()
    fake.configure("limits: {daq: many}")
    jobs = [f"j{number:02}" for number in range(20)]
    fake.jobs("merge", jobs)
    process.wait_for("nothing is started until this is mended: .*cfg/limits/daq")
    fake.configure("limits: {daq: 1}")
    process.wait_for("the configuration can be read again")
    fake.wait_tree({"done": jobs})
    # once, and once more if a worker that had read the broken file ends after it was mended
    assert process.err.count("until this is mended") <= 2
    assert process.err.count("daq-merge: ") - process.err.count("merge done") < len(jobs)
    process.stop().exits(0)


def test_who_only_looks_makes_no_spool(fake: Fake) -> None:
    new = fake.folder / "new"
    for option in ("--dry-run", "--status"):
        fake.run("daq-watch", option, "--spool", new).fails(78, "is no spool")
    assert not new.exists()


@pytest.mark.parametrize("words", [
    "--json", "--dry-run --json", "--once --json", "--rr-uri zpb.rr://127.0.0.1:1/",
    "--proc-name dpm", "--status --once", "--status --serve", "--serve-only --serve",
    "--dry-run --once", "--mirror-only --serve", "--serve-only --once", "--once --serve"])
def test_options_without_effect_are_refused(fake: Fake, words: str) -> None:
    named = words.split()
    fake.run("daq-watch", *named).fails(64, *[each for each in named if each.startswith("--")][-1:])


def test_a_missing_stage_tool_is_an_error_at_the_start(fake: Fake) -> None:
    (fake.bin / "daq-release").unlink()
    result = fake.run("daq-watch", env={"PATH": "/usr/bin:/bin"})
    result.fails(78, "daq-release is not installed")


def test_dry_run_starts_nothing(fake: Fake) -> None:
    fake.jobs("collect", ["a", "c", "b"])
    fake.jobs("release", ["r"])
    (fake.spool / "release" / ".pause").touch()
    due = time.time() + 600
    os.utime(fake.spool / "collect" / "c.json", (due, due))
    result = fake.run("daq-watch", "-n").ok()
    assert result.out.splitlines() == ["daq-collect --job a", "daq-collect --job b"]
    result.says("r: release not now: release/.pause exists").says("c: collect not now: due at")
    assert fake.tree() == {"collect": ["a", "b", "c"], "release": ["r"]}


def test_dry_run_prints_no_command_for_what_is_no_job(fake: Fake) -> None:
    """People pass the commands on to a shell."""
    (fake.spool / "collect" / "a; touch b.json").write_text("{}")
    result = fake.run("daq-watch", "-n").ok()
    assert result.out == ""
    result.says("id 'a; touch b' is not allowed").says("it is going to be put into bad/")


def test_old_temporaries_are_swept(fake: Fake) -> None:
    gone = 4194304  # beyond the largest process id
    for name in (f"merge/.tmp-{gone}-1-a.json", f"result/.tmp-{gone}-1-a.fits"):
        (fake.spool / name).touch()
    kept = fake.spool / "result" / f".tmp-{os.getpid()}-1-b.fits"
    kept.touch()
    fake.run("daq-watch", "--once").ok()
    assert os.listdir(fake.spool / "merge") == [] and os.listdir(fake.spool / "result") == [
        kept.name]


# -- what goes wrong --------------------------------------------------------------------------


def test_once_says_when_a_job_failed(fake: Fake) -> None:
    fake.order("a.merge", "bad")
    fake.jobs("collect", ["a", "b"])
    fake.run("daq-watch", "--once").exits(65).says("the data are wrong")
    assert fake.tree() == {"failed": ["a"], "done": ["b"]}


def test_once_says_when_something_is_left(fake: Fake) -> None:
    fake.order("a.merge", "later")
    fake.jobs("merge", ["a", "b"])
    fake.run("daq-watch", "--once").exits(75).says("1 left for later")
    assert fake.tree() == {"merge": ["a"], "done": ["b"]}
    assert fake.events("a").count("defer") == 1
    fake.run("daq-watch", "--once").exits(75)
    assert fake.events("a").count("defer") == 1  # it was not due yet


def test_a_start_that_comes_to_nothing_is_repeated_ever_more_seldom(fake: Fake) -> None:
    fake.configure("scan_interval_sec: 0.2")
    fake.order("merge", "host-down")
    fake.jobs("merge", ["a"])
    fake.watch()
    wait_until(lambda: len(fake.diary("preflight")) == 4)
    times = [float(line.split()[3]) for line in fake.diary("preflight")]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[0] >= 0.2 and pauses[1] >= 0.4 and pauses[2] >= 0.8
    assert fake.events("a") == ["accepted"]
    fake.order("merge", "ok")
    fake.wait_tree({"done": ["a"]})


def test_after_a_start_that_came_to_nothing_touch_means_now(fake: Fake) -> None:
    fake.configure("scan_interval_sec: 600.0")
    fake.order("merge", "host-down")
    fake.jobs("merge", ["a"])
    fake.watch()
    wait_until(lambda: len(fake.diary("preflight")) == 1)
    fake.order("merge", "ok")
    os.utime(fake.spool / "merge" / "a.json")
    fake.wait_tree({"done": ["a"]})


def test_once_asks_only_once(fake: Fake) -> None:
    fake.order("merge", "host-down")
    fake.jobs("merge", ["a"])
    fake.run("daq-watch", "--once").exits(75)
    assert len(fake.diary("preflight")) == 1


def test_a_tool_that_says_yes_and_does_nothing(fake: Fake) -> None:
    fake.order("merge", "exit 0")
    fake.jobs("merge", ["a"])
    fake.run("daq-watch", "--once").exits(75)


def test_a_killed_worker_is_a_try(fake: Fake) -> None:
    fake.configure("retry: {first_sec: 0.05, tries: 3}")
    fake.order("merge", "die")
    fake.jobs("merge", ["a", "b"])
    fake.order("b.merge", "ok")
    process = fake.watch()
    fake.wait_tree({"failed": ["a"], "done": ["b"]})
    events = fake.events("a")
    assert events == ["accepted", *["start", "killed"] * 3, "fail"]
    killed = [e for e in fake.history("a") if e["event"] == "killed"]
    assert [e["signal"] for e in killed] == [9, 9, 9] and [e["try"] for e in killed] == [1, 2, 3]
    process.wait_for("a: daq-merge was killed by signal 9 .*; next try in 0 s")
    process.wait_for("a: .*tries are used up, moved to failed/.*mv failed/a.json merge/")


def test_a_bug_does_not_drain_the_queue(fake: Fake) -> None:
    fake.order("merge", "exit 70")
    fake.jobs("merge", ["a"])
    fake.run("daq-watch", "--once").exits(75).says("daq-merge ended with exit code 70; next try")
    assert fake.events("a") == ["defer"]
    assert os.stat(fake.spool / "merge" / "a.json").st_mtime > time.time() + 10


def test_a_tool_that_always_breaks_down_early_ends_in_failed(fake: Fake) -> None:
    fake.configure("retry: {first_sec: 0.05, tries: 2}")
    fake.order("merge", "exit 70")
    fake.jobs("merge", ["a"])
    fake.watch()
    fake.wait_tree({"failed": ["a"]})
    assert fake.events("a") == ["defer", "defer", "fail"]


def test_the_children_of_a_killed_worker_end(fake: Fake) -> None:
    fake.order("merge", "child 47.11")
    fake.jobs("merge", ["a"])
    fake.watch()
    worker = fake.working_pid("merge", "a")
    child = wait_until(lambda: Path(f"/proc/{worker}/task/{worker}/children").read_text().split())
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "killed" in fake.events("a"))
    wait_until(lambda: not Path(f"/proc/{child[0]}").exists())


def test_overtime(fake: Fake) -> None:
    fake.configure("{timeout: {base_sec: 8.0}, retry: {first_sec: 600.0}}")
    fake.order("a.merge", "sleep 300")
    fake.jobs("merge", ["a"])
    result = fake.run("daq-watch", "--once").exits(75)
    result.says("took longer than 8 s")
    assert fake.events("a") == ["accepted", "start", "overtime", "defer"]
    assert "took longer" in fake.history("a")[-1]["reason"]


@pytest.mark.slow
def test_a_worker_that_does_not_end_is_killed(fake: Fake) -> None:
    fake.configure("timeout: {base_sec: 8.0}")
    fake.order("merge", "stubborn 300")
    fake.jobs("merge", ["a"])
    result = fake.run("daq-watch", "--once").exits(75).says("does not end: killed")
    result.says("daq-merge was killed by signal 9")
    assert fake.events("a") == ["accepted", "start", "overtime", "killed"]


def test_what_gets_on_is_given_time(fake: Fake) -> None:
    fake.configure("timeout: {base_sec: 0.3, bytes_per_sec: 1000}")
    fake.order("a.merge", "sleep 1")
    (fake.spool / "data" / "a").mkdir()
    (fake.spool / "data" / "a" / "arrived").write_bytes(bytes(60_000))
    fake.jobs("merge", ["a"])
    fake.run("daq-watch", "--once").ok()
    assert "overtime" not in fake.events("a")


def test_files_that_are_no_jobs(fake: Fake) -> None:
    (fake.spool / "collect" / "two words.json").write_text("{}")
    torn = time.time()
    fake.drop("collect", "torn", '{"sources": [')
    past = time.time() - 60
    os.utime(fake.spool / "collect" / "torn.json", (past, past))
    (fake.spool / "collect" / "notes.txt").touch()
    (fake.spool / "collect" / ".hidden.json").touch()
    fake.drop("merge", "wrong", {"sources": []})
    result = fake.run("daq-watch", "--once").exits(65)
    result.says("collect/two words.json: id 'two words' is not allowed")
    result.says("moved to bad/two words.json")
    bad = fake.tree()["bad"]
    assert "two words" in bad and "wrong" in bad
    # what does not parse may still be being written: its ctime decides, which nobody can set back
    left = sorted(os.listdir(fake.spool / "collect"))
    assert left[:2] == [".hidden.json", "notes.txt"]
    assert "torn.json" in left or time.time() > torn + 5  # a slow machine gives it all its time


def test_a_second_copy_goes_to_bad(fake: Fake) -> None:
    fake.jobs("collect", ["a"])
    fake.jobs("merge", ["a"])
    fake.order("merge", "sleep 0.3")
    fake.run("daq-watch", "--once").exits(65).says("a copy of this job is in")
    assert fake.tree() == {"done": ["a"], "bad": ["a"]}


def test_a_tool_that_cannot_run_is_said(fake: Fake) -> None:
    (fake.bin / "daq-merge").write_text("no program\n")
    fake.jobs("merge", ["a"])
    fake.run("daq-watch", "--once").exits(75).says("cannot start daq-merge")


def test_a_log_that_cannot_be_written_is_survived(fake: Fake) -> None:
    (fake.spool / "log" / "a.jsonl").mkdir()
    fake.jobs("merge", ["a", "b"])
    fake.run("daq-watch", "--once").exits(75)
    assert fake.tree() == {"merge": ["a"], "done": ["b"]}


def test_holder_says_who_watches(fake: Fake) -> None:
    process = fake.watch()
    facts = json.loads((fake.spool / "lock" / ".watch").read_text())
    assert facts["pid"] == process.pid and facts["stage"] == "watch"

"""daq-status: the table, one job in detail, following and waiting; it needs no daemon."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from harness import Daq, Process, wait_until

KEYS = ["id", "fileId", "state", "substate", "error", "message", "result", "timestamp"]
JOB = {"sources": [{"type": "fitsFile", "sourceName": "dcs", "location": "/data/dcs.fits"}]}


def put(daq: Daq, place: str, job: str, *events: dict[str, Any]) -> None:
    """Put a job into a place, with a history."""
    log(daq, job, {"event": "submitted", "stage": "collect", "fileId": f"F.{job}"}, *events)
    daq.drop(place, job, JOB)


def log(daq: Daq, job: str, *events: dict[str, Any]) -> None:
    """Add events to a job's history."""
    with open(daq.spool / "log" / f"{job}.jsonl", "a") as file:
        for event in events:
            stamp = {"time": "2026-11-21T02:30:00.000Z", "by": "test", "pid": 1}
            file.write(json.dumps({**stamp, **event}) + "\n")


def go(daq: Daq, job: str, place: str, target: str) -> None:
    """Move a job as a stage does."""
    os.rename(daq.spool / place / f"{job}.json", daq.spool / target / f"{job}.json")
    log(daq, job, {"event": "ok", "stage": place, "to": target})


LOCKER = """\
import fcntl, json, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
os.write(fd, json.dumps({"pid": os.getpid(), "stage": "collect", "since": 1795228200.0}).encode())
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a lock file as a worker does; yields the process id."""
    with subprocess.Popen([sys.executable, "-c", LOCKER, str(path)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield process.pid
        process.communicate()


def awaits(process: Process) -> None:
    """Wait until a process in the background waits for changes of the spool."""
    def listens() -> bool:
        assert process.running(), process.result()
        with suppress(OSError):  # a file that is closed meanwhile
            return any("inotify" in os.readlink(file)
                       for file in Path(f"/proc/{process.pid}/fd").iterdir())
        return False
    wait_until(listens)


def detail(text: str) -> dict[str, str]:
    """Return the lines of a job's detail by their first word, up to the history."""
    lines = text.partition("\nhistory\n")[0].splitlines()
    return {line.split()[0]: line.split(None, 1)[1] for line in lines if " " in line}


# -- the table --------------------------------------------------------------------------------


def test_an_empty_spool(daq: Daq) -> None:
    daq.run("daq-status").ok().no_output().says("no jobs; no daq-watch runs")
    daq.run("daq-status", "-q").ok().silent()
    daq.run("daq-status", "--json", "-q").ok().silent()


def test_table(daq: Daq) -> None:
    put(daq, "collect", "a")
    put(daq, "merge", "b", {"event": "start", "stage": "merge", "try": 1},
        {"event": "defer", "stage": "merge", "reason": "host down"})
    ahead = time.time() + 90.4
    os.utime(daq.spool / "merge" / "b.json", (ahead, ahead))
    put(daq, "failed", "c", {"event": "start", "stage": "merge"},
        {"event": "fail", "stage": "merge", "reason": "no such file: /data/dcs.fits"})
    put(daq, "hold", "d")
    put(daq, "done", "e")
    put(daq, "acquire", "f", {"event": "state", "stage": "acquire", "substate": "Acquiring"})
    (daq.spool / "release" / ".pause").touch()
    result = daq.run("daq-status").ok()
    head, *rows = result.out.splitlines()
    assert head.split() == ["ID", "STATE", "SUBSTATE", "AGE", "TRIES", "DUE/WHO", "ALERT"]
    cells = [re.split(r"  +", row) for row in rows]
    assert [row[0] for row in cells] == ["a", "b", "c", "d", "f"]
    assert [row[2] for row in cells] == ["NotScheduled", "Merging", "Merging", "NotScheduled",
                                         "Acquiring"]
    assert [row[4] for row in cells] == ["0", "1", "0", "0", "0"]
    due = cells[1][5]
    assert [row[5] for row in cells] == ["now", due, "failed/", "hold/", "no daq-ctl"]
    told = re.fullmatch(r"in 1m (\d+)s", due)
    assert told and ahead - time.time() - 1 < 60 + int(told[1]) <= 90, due
    assert cells[2][6] == "no such file: /data/dcs.fits" and "parked" in cells[3][6]
    result.says("acquire 1, collect 1, merge 1, failed 1, hold 1, done 1; release/ is paused; "
                "no daq-watch runs")


def test_all_and_places(daq: Daq) -> None:
    for place in ("collect", "done", "bad", "failed"):
        put(daq, place, f"in-{place}")

    def listed(*arguments: str) -> list[str]:
        documents = daq.run("daq-status", "--json", *arguments).ok().jsonl()
        return [document["id"] for document in documents]

    assert listed() == ["in-collect", "in-failed"]
    assert listed("--all") == ["in-bad", "in-collect", "in-done", "in-failed"]
    assert listed("--place", "done") == ["in-done"]
    assert listed("--place", "bad", "--place", "failed") == ["in-bad", "in-failed"]
    daq.run("daq-status", "--place", "nowhere").fails(64, "nowhere")


def test_json_has_the_keys_of_the_interface(daq: Daq) -> None:
    put(daq, "failed", "a", {"event": "start", "stage": "merge"},
        {"event": "fail", "stage": "merge", "reason": "broken"})
    document = daq.run("daq-status", "--json").ok().json()
    assert list(document)[:8] == KEYS
    assert document["fileId"] == "F.a" and document["error"] is True
    assert document["state"] == "StateMerging" and document["place"] == "failed"
    assert document["alerts"][0]["description"] == "broken"
    assert json.loads(document["message"])[0]["id"] == "failed"
    assert "history" not in document
    assert [event["event"] for event in daq.run("daq-status", "--json", "a").json()["history"]] == [
        "submitted", "start", "fail"]


def test_a_copy_is_listed_once_where_it_counts(daq: Daq) -> None:
    put(daq, "collect", "a")
    daq.drop("merge", "a", JOB)
    assert [d["place"] for d in daq.run("daq-status", "--json").jsonl()] == ["merge"]
    daq.run("daq-status", "a").ok().prints("also in collect/")
    daq.run("daq-status", "--place", "collect", "--json").ok().no_output()


def test_a_busy_job_and_a_watcher(daq: Daq) -> None:
    put(daq, "collect", "a")
    put(daq, "collect", "b")
    with locked(daq.spool / "lock" / "a") as pid, locked(daq.spool / "lock" / ".watch") as watcher:
        result = daq.run("daq-status").ok().says(f"daq-watch runs (process {watcher})")
        assert f"process {pid}" in result.out and "Collecting" in result.out
        assert "Scheduled" in result.out and "NotScheduled" not in result.out
        told = daq.run("daq-status", "a").ok()
        told.prints(f"process {pid} (collect) since 2026-11-21T02:30:00Z")
        assert daq.run("daq-status", "a", "--json").json()["holder"]["pid"] == pid


def test_ten_thousand_done_jobs_cost_nothing(daq: Daq) -> None:
    put(daq, "merge", "a")
    put(daq, "done", "z")
    empty = min(seconds(daq) for _ in range(3))
    for number in range(10001):
        os.link(daq.spool / "done" / "z.json", daq.spool / "done" / f"job{number}.json")
    result = daq.run("daq-status").ok().says("done 10000+")
    assert len(result.out.splitlines()) == 2
    # whatever else the machine does, one listing is as quick as those of the empty spool
    wait_until(lambda: seconds(daq) < 2 * empty + 0.2)


def seconds(daq: Daq) -> float:
    """Return the processor time of a listing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    daq.run("daq-status").ok()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_strange_names_are_not_listed_and_harm_nothing(daq: Daq) -> None:
    for name in ("two words.json", "..json", ".a.json", "-x.json", "\x1b[31m.json"):
        (daq.spool / "collect" / name).write_text("{}")
    (daq.spool / "collect" / "folder.json").mkdir()
    daq.drop("collect", "torn", "{")
    (daq.spool / "log" / "torn.jsonl").write_text('{"event": "start", "sta\n[]\nnull\n{}\n')
    result = daq.run("daq-status").ok()
    assert [row.split()[0] for row in result.out.splitlines()[1:]] == ["torn"]
    daq.run("daq-status", "torn").ok().prints("due")


def test_a_reader_that_goes_away(daq: Daq) -> None:
    for number in range(300):
        daq.drop("collect", f"a{number:03d}", JOB)
    command = shlex.join(daq.command("daq-status", "--json"))
    done = subprocess.run(["bash", "-c", f"{command} -q | head -1; exit ${{PIPESTATUS[0]}}"],
                          env=daq.environment(), capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert done.returncode in (0, 128 + signal.SIGPIPE)


# -- one job ------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["gone", "a/../b", "..", "-"])
def test_an_unknown_job(daq: Daq, job: str) -> None:
    if job == "-":
        daq.run("daq-status", job, stdin="gone\n").fails(66, "gone: no such job")
    else:
        daq.run("daq-status", job).fails(66, "no such job")
        daq.run("daq-status", "--wait", job).fails(66, "no such job")
        daq.run("daq-status", "--follow", job).fails(66, "no such job")


def test_detail(daq: Daq) -> None:
    put(daq, "merge", "a", {"event": "start", "stage": "merge", "try": 1},
        {"event": "defer", "stage": "merge", "reason": "host down", "until": 1795228300})
    result = daq.run("daq-status", "a").ok()
    facts = detail(result.out)
    assert facts["state"] == "StateMerging/Merging, in merge/"
    assert facts["source"] == "dcs (fitsFile) /data/dcs.fits"
    assert facts["tries"] == "1 of 5 in merge"
    assert "no daq-watch runs" in facts["why"]
    history = result.out.partition("\nhistory\n")[2].splitlines()
    assert [line.split()[:2] for line in history] == [
        ["2026-11-21T02:30:00.000Z", name] for name in ("submitted", "start", "defer")]
    assert "host down" in history[2] and "2026-11-21T02:31:40Z" in history[2]


def test_ids_from_stdin(daq: Daq) -> None:
    put(daq, "merge", "a")
    put(daq, "done", "b")
    result = daq.run("daq-status", "--json", "-", stdin="a\n\nb\na\n").ok()
    assert [document["id"] for document in result.jsonl()] == ["a", "b"]
    daq.run("daq-status", "-", stdin="").ok().silent()
    result = daq.run("daq-status", "--json", "gone", "b").exits(66)
    assert [document["id"] for document in result.jsonl()] == ["b"]


def test_the_command_that_helps(daq: Daq) -> None:
    """Do what it says, in a shell, and see the job go on."""

    def remedy(job: str) -> str:
        return detail(daq.run("daq-status", job).ok().out)["try"]

    def obey(job: str) -> None:
        subprocess.run(["sh", "-c", remedy(job)], check=True, env=daq.environment())

    put(daq, "failed", "failed", {"event": "start", "stage": "release"},
        {"event": "fail", "stage": "release", "reason": "disk full"})
    obey("failed")
    put(daq, "hold", "held")
    obey("held")
    put(daq, "bad", "broken", {"event": "bad", "stage": "merge", "reason": "not JSON"})
    obey("broken")
    put(daq, "merge", "later", {"event": "start", "stage": "merge"},
        {"event": "defer", "stage": "merge", "reason": "host down"})
    ahead = time.time() + 600
    os.utime(daq.spool / "merge" / "later.json", (ahead, ahead))
    assert "the last one: host down" in detail(daq.run("daq-status", "later").out)["why"]
    obey("later")
    assert daq.tree() == {"release": ["failed"], "collect": ["held"], "merge": ["broken", "later"]}
    assert os.stat(daq.spool / "merge" / "later.json").st_mtime <= time.time()
    (daq.spool / "collect" / ".pause").touch()
    obey("held")
    assert not (daq.spool / "collect" / ".pause").exists()
    assert remedy("held") == f"daq-collect --spool {daq.spool} --job held"


def test_where_a_live_job_goes_back_to(daq: Daq) -> None:
    live = {"sources": [{"type": "primarySource", "sourceName": "dcs", "rrUri": "zpb.rr://h:1/r"}]}
    log(daq, "a", {"event": "submitted", "stage": "hold", "fileId": "F.a"})
    path = daq.drop("hold", "a", live)
    command = f"mv {path} {daq.spool}/"
    assert detail(daq.run("daq-status", "a").out)["try"] == f"{command}acquire/"
    log(daq, "a", {"event": "starting", "stage": "acquire"})
    (daq.spool / "data" / "a").mkdir()
    (daq.spool / "data" / "a" / "acquire.json").write_text("{}")
    assert detail(daq.run("daq-status", "a").out)["try"] == f"{command}collect/"


def test_an_acquisition_that_failed_is_not_repeated(daq: Daq) -> None:
    put(daq, "failed", "a", {"event": "starting", "stage": "acquire"},
        {"event": "fail", "stage": "acquire", "reason": "dcs does not answer"})
    facts = detail(daq.run("daq-status", "a").out)
    assert "dcs does not answer; an acquisition is not repeated" in facts["why"]
    assert "try" not in facts


def test_an_acquisition(daq: Daq) -> None:
    put(daq, "acquire", "a", {"event": "state", "stage": "acquire", "substate": "Acquiring"})
    assert detail(daq.run("daq-status", "a").out)["try"].startswith("daq-ctl serve")
    with locked(daq.spool / "lock" / "a") as pid:
        assert f"daq-ctl (process {pid})" in detail(daq.run("daq-status", "a").out)["why"]


def test_why_a_due_job_waits(daq: Daq) -> None:
    put(daq, "merge", "a")
    slot = daq.spool / "lock" / ".slot-merge-0"
    with locked(daq.spool / "lock" / ".watch"):
        assert "in a moment" in detail(daq.run("daq-status", "a").out)["why"]
        with locked(slot):
            assert "all 1 places of cfg/limits/merge" in detail(
                daq.run("daq-status", "a").out)["why"]
        config = daq.folder / "daq.yaml"
        config.write_text(f"cfg: {{floor: {{spool_bytes: {1 << 60}}}}}\n")
        result = daq.run("daq-status", "--config", config, "a")
        assert "cfg/floor/spool_bytes" in detail(result.out)["why"]


def test_a_job_whose_file_was_removed(daq: Daq) -> None:
    put(daq, "merge", "a")
    (daq.spool / "merge" / "a.json").unlink()
    daq.run("daq-status", "a").ok().prints("somebody removed the job file")


def test_terminals_are_safe_from_foreign_text(daq: Daq) -> None:
    put(daq, "failed", "a", {"event": "fail", "stage": "merge", "reason": "evil \x1b[2J\nline"})
    assert "\x1b" not in daq.run("daq-status", "a").ok().out
    assert "\x1b" not in daq.run("daq-status").ok().out
    assert "\x1b" not in daq.run("daq-status", "--follow", "a").ok().out


# -- following --------------------------------------------------------------------------------


def test_follow_tells_every_change(daq: Daq) -> None:
    put(daq, "collect", "a")
    put(daq, "collect", "other")
    with daq.start("daq-status", "--follow", "a", until=r"NotScheduled") as process:
        for place, target, told in (("collect", "merge", "Merging"), ("merge", "release",
                                    "Releasing"), ("release", "done", "Completed")):
            go(daq, "a", place, target)
            process.wait_for(f"a  .*{told}  {target}/")
        result = process.wait().ok()
    assert len(result.out.splitlines()) == 4 and "other" not in result.out


def test_follow_everything(daq: Daq) -> None:
    put(daq, "collect", "a")
    with daq.start("daq-status", "--follow", "--json", until='"id": "a"') as process:
        put(daq, "merge", "b")
        process.wait_for('"id": "b".*Merging')
        os.rename(daq.spool / "merge" / "b.json", daq.spool / "hold" / "b.json")
        process.wait_for('"id": "b".*"place": "hold"')
        with locked(daq.spool / "lock" / "a"):
            process.wait_for('"id": "a".*Collecting')
        wait_until(lambda: [json.loads(line)["substate"] for line in process.out.splitlines()
                            if json.loads(line)["id"] == "a"][-1] == "NotScheduled")
        with locked(daq.spool / "lock" / ".watch"):
            process.wait_for('"id": "a".*"Scheduled"')
        process.signal(signal.SIGINT)
        process.wait().exits(128 + signal.SIGINT)
    assert all(list(json.loads(line))[:8] == KEYS for line in process.out.splitlines())


# -- waiting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "events", "code"), [
    ("done", [{"event": "ok", "stage": "release"}], 0),
    ("done", [{"event": "aborted", "stage": "merge"}], 1),
    ("failed", [{"event": "fail", "stage": "merge", "reason": "x"}], 65),
    ("bad", [{"event": "bad", "stage": "merge", "reason": "x"}], 65),
    ("merge", [], 124), ("hold", [], 124),
])
def test_wait_answers(daq: Daq, place: str, events: list[dict[str, Any]], code: int) -> None:
    put(daq, place, "a", *events)
    result = daq.run("daq-status", "--wait", "--timeout", "0.1", "a").exits(code)
    assert result.line().split()[1] == "a"
    result = daq.run("daq-status", "--wait", "--timeout", "0", "--json", "a").exits(code)
    assert result.json()["place"] == place


def test_wait_until_done(daq: Daq) -> None:
    put(daq, "collect", "a")
    put(daq, "done", "b")
    process = daq.spawn("daq-status", "--wait", "--json", "a", "b")
    awaits(process)
    assert process.running()
    for place, target in (("collect", "merge"), ("merge", "release"), ("release", "done")):
        go(daq, "a", place, target)
    result = process.wait().ok()
    assert [(d["id"], d["substate"]) for d in result.jsonl()] == [
        ("a", "Completed"), ("b", "Completed")]


def test_wait_until_failed(daq: Daq) -> None:
    put(daq, "merge", "a")
    process = daq.spawn("daq-status", "--wait", "a")
    awaits(process)
    os.rename(daq.spool / "merge" / "a.json", daq.spool / "failed" / "a.json")
    log(daq, "a", {"event": "fail", "stage": "merge", "reason": "x"})
    process.wait().fails(65, "a: the job is in failed/")


def test_wait_while_the_spool_goes(daq: Daq) -> None:
    put(daq, "merge", "a")
    process = daq.spawn("daq-status", "--wait", "a")
    awaits(process)
    daq.spool.rename(daq.spool.with_name("away"))
    process.wait().fails(74, "is not there any more")  # the job has not ended


@pytest.mark.parametrize(("goal", "code"), [
    ("StateAcquiring", 0), ("StateMerging", 0), ("StateMerging/Merging", 0), ("Merging", 0),
    ("Collecting", 0), ("StateMerging/Releasing", 124), ("StateCompleted", 124),
    ("StateCompleted/Aborted", 124),
])
def test_wait_for_a_state(daq: Daq, goal: str, code: int) -> None:
    put(daq, "merge", "a", {"event": "start", "stage": "merge"})
    daq.run("daq-status", f"--wait={goal}", "--timeout", "0", "a").exits(code)


def test_wait_for_what_cannot_come_any_more(daq: Daq) -> None:
    put(daq, "done", "a", {"event": "aborted", "stage": "merge"})
    result = daq.run("daq-status", "--wait=StateMerging/Releasing", "a").exits(1)
    result.says("no longer possible: it is StateCompleted/Aborted")


def test_wait_without_timeout_to_a_state(daq: Daq) -> None:
    put(daq, "acquire", "a", {"event": "state", "stage": "acquire", "substate": "Starting"})
    process = daq.spawn("daq-status", "--wait=Acquiring", "a")
    awaits(process)
    log(daq, "a", {"event": "state", "stage": "acquire", "substate": "Acquiring"})
    process.wait().ok().prints("StateAcquiring/Acquiring")


def test_wait_for_a_watcher(daq: Daq) -> None:
    put(daq, "collect", "a")
    process = daq.spawn("daq-status", "--wait=Scheduled", "a")
    awaits(process)
    with locked(daq.spool / "lock" / ".watch"):
        process.wait().ok().prints("StateMerging/Scheduled")


def test_waiting_costs_nothing(daq: Daq) -> None:
    put(daq, "merge", "a")
    process = daq.spawn("daq-status", "--wait", "a")

    def switches() -> int:
        text = Path(f"/proc/{process.pid}/status").read_text()
        return int(text.partition("voluntary_ctxt_switches:")[2].split()[0])

    def idle() -> bool:  # it may have to finish its beginning first
        before = switches()
        time.sleep(1.0)
        return switches() - before <= 1
    awaits(process)
    wait_until(idle)


@pytest.mark.parametrize("arguments", [
    ["--wait"], ["--wait=Soon", "a"], ["--wait=StateMerging/Acquiring", "a"],
    ["--wait=StateMerging/", "a"], ["--wait", "--timeout", "-1", "a"],
    ["--wait", "--timeout", "nan", "a"], ["--timeout", "3", "a"], ["--place"]])
def test_wrong_arguments(daq: Daq, arguments: list[str]) -> None:
    put(daq, "merge", "a")
    daq.run("daq-status", *arguments).fails(64)


@pytest.mark.parametrize("content", [
    {"sources": 3}, {"sources": [7]}, {"sources": [{"keywords": 1}], "receivers": "x"}, [], 5])
def test_a_file_of_any_shape_is_told(daq: Daq, content: object) -> None:
    daq.drop("collect", "odd", content)
    daq.run("daq-collect", "--job", "odd").fails(65)
    told = daq.run("daq-status", "odd").ok()
    assert "in bad/" in told.out

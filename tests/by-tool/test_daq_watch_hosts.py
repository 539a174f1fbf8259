"""daq-watch and hosts that do not answer: they are left alone, and nobody else waits."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from harness import Daq, make_fits, wait_until
from releasing import olas
from remote import HOST, configure, script, stand_in

pytestmark = pytest.mark.needs("rsync")

JOBS = [f"far{number}" for number in range(5)]


class Far:
    """A host that answers while its file ``up`` is there."""

    def __init__(self, daq: Daq) -> None:
        self.daq = daq
        self.up = daq.folder / "up"
        self.source = make_fits(daq.folder / "in" / "a.fits")
        behind = stand_in(daq.folder).command
        self.shell = script(daq.folder / "dead-or-alive", f"""
            test -e {self.up} || {{
                echo "ssh: connect to host {HOST} port 22: No route to host" >&2; exit 255; }}
            exec {behind} "$@"
            """)
        self.configure()

    def configure(self, probe_sec: float = 3000.0, **more: Any) -> None:
        configure(self.daq, **{
            "rsh": self.shell, "scan_interval_sec": 0.3, "limits": {"daq": 3, "merge": 3},
            "retry": {"first_sec": 3000.0}, "transfer": {"persist_sec": 0},
            "breaker": {"failures": 2, "probe_sec": probe_sec}, **more})

    def submit(self, *jobs: str, host: str = f"{HOST}:") -> None:
        for job in jobs:
            self.daq.drop("collect", job, {"sources": [
                {"type": "fitsFile", "sourceName": "a", "location": f"{host}{self.source}"}]})

    def tried(self) -> list[str]:
        known = [job for job in JOBS if (self.daq.spool / "log" / f"{job}.jsonl").exists()]
        return [job for job in known for event in self.daq.history(job)
                if event["event"] == "start" and event["stage"] == "collect"]

    def circuit(self) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return facts

    @property
    def path(self) -> Path:
        return self.daq.spool / "lock" / f".host-{HOST}"


def at_rest(daq: Daq) -> bool:
    told = daq.run("daq-watch", "--status", "--json").json()
    return told["running"] == []


@pytest.fixture
def far(daq: Daq) -> Far:
    return Far(daq)


def test_a_host_that_is_down_is_tried_now_and_then_and_all_go_on_when_it_is_back(
        daq: Daq, far: Far) -> None:
    far.submit(*JOBS)
    watcher = daq.spawn("daq-watch", until="watching")
    wait_until(lambda: far.circuit().get("failures", 0) >= 2 and at_rest(daq))
    tried, started = far.tried(), watcher.err.count("collect started")
    assert 2 <= len(tried) <= 4  # those that were under way when it was seen
    far.submit("near", host="")  # the places are free for others
    wait_until((daq.spool / "done" / "near.json").exists)
    assert far.tried() == tried
    assert watcher.err.count("collect started") == started + 1  # nobody is sent in vain

    other = next(job for job in JOBS if job not in tried)
    daq.run("daq-collect", "--job", other).fails(75, "far did not answer", "left alone until",
                                                 f"rm {far.path}")
    assert daq.history(other)[-1]["event"] == "accepted"  # no try was counted
    daq.run("daq-collect", "--all", "-q").exits(75).silent()  # cron sends no mail for each of them
    daq.run("daq-watch", "-n").ok().says(f"{other}: collect not now: far is left alone until")
    told = daq.run("daq-watch", "--status", "--json").ok().json()
    assert [(each["host"], each["open"]) for each in told["hosts"]] == [("far", True)]
    daq.run("daq-watch", "--status").ok().prints("host far: no answer")

    far.up.touch()
    facts = {**far.circuit(), "probe": time.time() - 1}  # its time has come
    far.path.write_text(json.dumps(facts))
    os.utime(daq.spool / "lock" / ".hosts")
    wait_until(lambda: daq.tree() == {"done": [*JOBS, "near"]})
    assert not far.path.exists()
    watcher.stop().exits(0)


def test_a_job_that_was_never_tried_tells_which_host_it_waits_for(daq: Daq, far: Far) -> None:
    far.submit(*JOBS[:2])
    daq.run("daq-collect", "--all").exits(75)  # the circuit is open now
    far.submit("late")
    daq.drop("collect", "near", {"sources": [
        {"type": "fitsFile", "sourceName": "a", "location": str(far.source)}]})
    told = daq.run("daq-status", "late").out
    assert f"{HOST} did not answer 2 times (" in told and "left alone until" in told
    assert f"rm {far.path}" in told
    assert HOST not in daq.run("daq-status", "near").out.split("why", 1)[1]
    far.path.unlink()  # as it says
    assert "left alone" not in daq.run("daq-status", "late").out


def test_a_delivery_tells_which_host_it_waits_for(daq: Daq, far: Far) -> None:
    far.submit(*JOBS[:2])
    daq.run("daq-collect", "--all").exits(75)
    daq.drop("release", "made", {"sources": [], "receivers": [
        olas("/night", HOST, required=True)]})
    assert "left alone until" in daq.run("daq-status", "made").out


def test_while_it_is_down_one_at_a_time_tries_it(daq: Daq, far: Far) -> None:
    far.configure(probe_sec=3.0)  # longer than a try takes, on a busy machine, too
    far.path.write_text(json.dumps(
        {"host": HOST, "failures": 2, "reason": "dead", "since": 1.0, "probe": 0.0}))
    far.submit(*JOBS)
    watcher = daq.spawn("daq-watch", until="watching")
    wait_until(lambda: far.circuit().get("failures", 0) >= 4)
    watcher.stop()
    events = sorted((e["time"], e["event"]) for job in {*far.tried()} for e in daq.history(job)
                    if e["event"] in ("start", "defer", "interrupted"))
    assert all(before[1] != after[1] for before, after in itertools.pairwise(events)), events
    assert set(daq.tree()) == {"collect"}  # nobody is given up
    far.up.touch()
    [first, *_] = far.tried()
    wait_until(lambda: daq.run("daq-collect", "--job", first).code == 0)  # when it may be tried
    daq.run("daq-watch", "--once").ok()  # the others were deferred, and are due now
    assert daq.tree() == {"done": JOBS}


def test_without_a_breaker_each_job_waits_by_itself(daq: Daq, far: Far) -> None:
    far.configure(breaker={"failures": 0})
    far.submit(*JOBS)
    daq.run("daq-watch", "--once").exits(75)
    assert far.tried() == JOBS
    assert not far.path.exists()


def test_a_limit_of_transfers_keeps_others_from_being_started_in_vain(
        daq: Daq, far: Far) -> None:
    far.configure(limits={"daq": 0, "merge": 0, "net_receive": 1})
    far.up.touch()
    far.submit(*JOBS)
    far.submit("near", host="")
    result = daq.run("daq-watch", "--once").ok()
    assert daq.tree() == {"done": [*JOBS, "near"]}
    assert "places" not in result.err

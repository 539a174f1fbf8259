"""A hand-over is killed, on either host and in between: the job arrives once, and only once.

An abort that comes meanwhile is never lost: whatever the other host has of the job, it ends there.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bench import Passed, failures
from forge import Forge

from daqlib.crashpoints import POINTS
from harness import Result, make_fits
from two_hosts import Pair, acquired, checkout

J = "J1"
HERE, THERE = {"remote": [J]}, {"collect": [J]}
NOT_SENT = {"collect": [J]}


class Two(Pair):
    """A pair whose first host's tools are run by the forge."""

    forge: Forge

    def near_run(self, tool: str, *words: object, **env: str) -> Result:
        return self.forge.run(self.near, tool, *words, env={**self.env("near"), **env})

    def collect(self, **env: str) -> Result:
        return self.near_run("daq-collect", "-q", "--job", J, **env)

    def news(self, **env: str) -> Result:
        return self.near_run("daq-watch", "-q", "--mirror-only", "--once", **env)

    def begin(self) -> None:
        self.clear()
        acquired(self, J, self.folder / "a.fits")

    def points(self, run: Callable[..., Result], far: bool = False) -> Passed:
        """Run something undisturbed; return the points that this or the other host passed."""
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        if far:
            self.far_env(DAQ_CRASH_TRACE=str(trace))
            run()
        else:
            run(DAQ_CRASH_TRACE=str(trace))
        self.far_env()
        pairs = [line.split(":") for line in trace.read_text().splitlines()]
        return [(point, int(number)) for point, number in pairs]

    def picture(self) -> Any:
        """What must not depend on how often it was tried."""
        events = [event["event"] for event in self.history("far", J)
                  if event["event"] not in ("start", "defer", "handing-over", "interrupted")]
        data = self.far / "data" / J / "acquire.json"
        return (self.trees(), events, (self.far / "collect" / f"{J}.json").read_bytes(),
                data.read_bytes(), self.leftovers(), sorted(
                    path.name for path in (self.far / "log").glob(".file-*")))

    def ends_well(self) -> None:
        """The other host collects and merges; the first one hears of it."""
        self.forge.run(self.far, "daq-watch", "-q", "--once", env=self.env("far")).ok()
        self.news().ok()
        assert self.trees() == ({"done": [J]}, {"done": [J]})
        states = [e["substate"] for e in self.history("near", J)
                  if e["event"] == "state" and "far" in e]
        assert states[-1] == "Completed"


@pytest.fixture(scope="module")
def two(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = tmp_path_factory.mktemp("two")
    make_fits(folder / "a.fits")
    made = checkout(folder)
    made.__class__ = Two
    assert isinstance(made, Two)
    made.forge = forge
    return made


@pytest.fixture(scope="module")
def undisturbed(two: Two) -> Any:
    two.begin()
    two.collect().ok()
    return two.picture()


#: The points of the hand-over itself, and, in a longer run, those of every file and line.
BOTH = pytest.mark.parametrize("which", [
    ("handover.", "import.", "stage."), pytest.param(("",), marks=pytest.mark.slow)])


def run_all(cases: list[tuple[str, Any]]) -> None:
    wrong = failures(cases)
    assert cases and not wrong, f"{len(wrong)} of {len(cases)} cases\n" + "\n".join(wrong)


@BOTH
def test_the_first_host_dies(two: Two, undisturbed: Any, which: tuple[str, ...]) -> None:
    two.begin()
    passed = two.points(two.collect)
    assert {point for point in POINTS if point.startswith("handover.")} - {
        "handover.news"} <= {point for point, _ in passed}

    def check(point: str, number: int) -> None:
        two.begin()
        two.collect(DAQ_CRASH=f"{point}:{number}").died(signal.SIGKILL)
        near, far = two.trees()
        assert near in (NOT_SENT, HERE) and far in ({}, THERE)
        assert far or near == NOT_SENT, "it left before it arrived"
        if near == HERE:
            two.collect().fails(66, "remote/")
        else:
            two.collect().ok()
        assert two.picture() == undisturbed

    run_all([(f"{p}:{n}", partial(check, p, n)) for p, n in passed if p.startswith(which)])
    two.ends_well()


@BOTH
def test_the_other_host_dies(two: Two, undisturbed: Any, which: tuple[str, ...]) -> None:
    two.begin()
    passed = two.points(two.collect, far=True)
    assert {point for point in POINTS if point.startswith("import.")} <= {p for p, _ in passed}

    def check(point: str, number: int) -> None:
        two.begin()
        two.far_env(DAQ_CRASH=f"{point}:{number}")
        two.collect().fails(75, "dhs")
        assert two.tree("near") == NOT_SENT and two.tree("far") in ({}, THERE)
        two.far_env()
        two.collect().ok()
        assert two.picture() == undisturbed

    run_all([(f"{p}:{n}", partial(check, p, n)) for p, n in passed if p.startswith(which)])
    two.ends_well()


@pytest.mark.parametrize(("fault", "values"), [
    ("short", ("1", "300", "900", "1500")), ("deaf", ("0", "1")), ("down", ("",))])
def test_the_connection_breaks(two: Two, undisturbed: Any, fault: str, values: tuple[str]) -> None:

    def check(value: str) -> None:
        two.begin()
        two.fault(fault, value)
        two.collect().fails(75, "dhs")
        assert two.tree("near") == NOT_SENT
        events = [e for e in two.history("near", J) if e["event"] == "defer"]
        assert events[-1]["counts"] is False, "the job is at fault"
        two.mend()
        two.collect().ok()
        assert two.picture() == undisturbed

    run_all([(value, partial(check, value)) for value in values])


def test_what_is_full_there_is_no_fault_of_the_job(two: Two, undisturbed: Any) -> None:
    two.begin()
    points = ["import.logged", "import.data", "import.queued", "put.written", "append.begin"]
    passed = dict(two.points(two.collect, far=True))
    for point in (each for each in points if each in passed):
        two.begin()
        two.far_env(DAQ_FAULT=f"{point}=ENOSPC")
        two.collect().fails(75, "free some space")
        two.far_env()
        two.collect().ok()
        assert two.picture() == undisturbed


def ended(two: Two) -> None:
    """Both hosts know that the job was aborted; nothing of it goes on anywhere."""
    near, far = two.trees()
    assert near == {"done": [J]} and far in ({}, {"done": [J]}), (near, far)
    assert any(e["event"] == "aborted" for e in two.history("near", J))
    log = two.history("far", J)
    assert not log or any(e["event"] == "aborted" for e in log)
    status = two.near_run("daq-status", "--json", J).ok().json()
    assert (status["state"], status["substate"]) == ("StateCompleted", "Aborted")


def abort(two: Two, command: str = "daq.abort") -> Result:
    return two.near_run("daq-ctl", command, J)


@pytest.mark.parametrize("which", [
    ("handover.", "stage.started", "stage.committed"),
    pytest.param(("",), marks=pytest.mark.slow)])
def test_an_abort_after_the_first_host_died(two: Two, which: tuple[str, ...]) -> None:
    two.begin()
    passed = two.points(two.collect)

    def check(point: str, number: int) -> None:
        two.begin()
        two.collect(DAQ_CRASH=f"{point}:{number}").died(signal.SIGKILL)
        abort(two).ok()
        ended(two)

    run_all([(f"{p}:{n}", partial(check, p, n)) for p, n in passed if p.startswith(which)])


@pytest.mark.parametrize("before", [False, True])
def test_an_abort_after_the_connection_broke(two: Two, before: bool) -> None:
    """With and without the job on the other host, which nobody knows then."""
    two.begin()
    two.fault(*(("short", "200") if before else ("deaf", "1")))
    two.collect().fails(75)
    two.mend()
    two.fault("down")
    assert two.tree("far") == ({} if before else THERE)
    abort(two).fails(69, "the request stands")
    assert two.tree("near") == HERE
    status = two.near_run("daq-status", "--json", J).ok().json()
    assert status["substate"] == "Aborting"
    two.mend()
    two.news().ok()
    ended(two)
    # what was on its way all the time comes too late
    (two.near / "done" / f"{J}.json").rename(two.near / "collect" / f"{J}.json")
    two.collect().ok()
    two.news().ok()
    assert two.tree("far") == ({} if before else {"done": [J]})


def test_an_abort_is_asked_for_while_the_job_is_sent(two: Two) -> None:
    """The request comes between what the other host acknowledges and the move to remote/."""
    for point in ("handover.announced", "handover.delivered", "handover.recorded",
                  "stage.manifest"):
        two.begin()
        two.collect(DAQ_CRASH=point).died(signal.SIGKILL)
        with open(two.near / "log" / f"{J}.jsonl", "a", encoding="utf-8") as log:
            log.write('{"time": "2026-11-21T02:31:00.000Z", "event": "abort-requested"}\n')
        two.collect().ok()
        assert two.tree("near") == HERE, point
        two.news().ok()
        ended(two)


@pytest.mark.slow
def test_who_records_the_news_dies(two: Two) -> None:
    two.begin()
    two.collect().ok()
    two.forge.run(two.far, "daq-watch", "-q", "--once", env=two.env("far")).ok()
    saved = two.history("near", J)
    passed = two.points(lambda **env: two.news(**env).ok())
    assert ("handover.news", 1) in passed
    expected = two.history("near", J)
    assert len(expected) > len(saved)

    def check(point: str, number: int) -> None:
        two.begin()
        two.collect().ok()
        two.forge.run(two.far, "daq-watch", "-q", "--once", env=two.env("far")).ok()
        two.news(DAQ_CRASH=f"{point}:{number}").died(signal.SIGKILL)
        two.news().ok()
        assert two.trees() == ({"done": [J]}, {"done": [J]})
        assert [e["event"] for e in two.history("near", J)] == [e["event"] for e in expected]

    run_all([(f"{p}:{n}", partial(check, p, n)) for p, n in passed])


def test_the_files_of_both_hosts_are_left_alone(two: Two) -> None:
    """A job of the same id that was made on the other host stays what it is."""
    two.begin()
    other = two.far / "collect" / f"{J}.json"
    other.write_text('{"sources": [{"type": "fitsKeywords", "sourceName": "k", "keywords": []}]}')
    before = other.read_bytes()
    two.collect().fails(73, "is known there", "mv failed/")
    assert two.trees() == ({"failed": [J]}, THERE)
    assert other.read_bytes() == before and not (two.far / "data" / J).exists()


def test_a_path_in_the_stream_cannot_leave_the_spool(two: Two, tmp_path: Path) -> None:
    """What the key permits is tried with names that would lead elsewhere."""
    import hashlib
    import json

    def said(**head: object) -> list[dict[str, Any]]:
        bodies = [b"", b"", json.dumps({"sources": [
            {"type": "fitsKeywords", "sourceName": "k", "keywords": []}]}).encode()]
        request = {"do": "import", "from": "x", "request": "r", "digest": "d",
                   "sizes": {"manifest": 0, "log": 0, "job": len(bodies[2])},
                   "sha256": hashlib.sha256(b"".join(bodies)).hexdigest(), **head}
        path = tmp_path / "stream"
        path.write_bytes(json.dumps(request).encode() + b"\n" + b"".join(bodies))
        import subprocess

        done = subprocess.run(
            f"env -i $(cat {two.folder}/env) daq-start --import --spool {two.far} <{path}",
            shell=True, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done
        return [json.loads(line) for line in done.stdout.splitlines()]

    two.begin()
    for odd in ("../x", "/etc/x", "a/b", ".hidden", "-x", "", "x" * 200, "a\nb", "..", "a..b"):
        assert said(id=odd)[1]["code"] == 65, odd
    for odd_head in ({"request": "\n"}, {"from": ["x"]}, {"sha256": "0"}, {"sizes": {}},
                     {"sizes": {"manifest": 0, "log": 0, "job": 1 << 40}},
                     {"do": "exec"}, {"do": None}):
        answers = said(id="ok-1", **odd_head)
        assert answers[1]["ok"] is False, odd_head
    assert two.tree("far") == {}
    assert list((two.far / "log").iterdir()) == list((two.far / "data").iterdir()) == []
    assert said(id="ok-1")[1]["ok"] is True
    assert two.tree("far") == {"collect": ["ok-1"]}

"""daq-release: receivers that a job waits for, those tried again when it is done, and the hook."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from harness import Daq, wait_until
from releasing import (
    ARCHIVE,
    Document,
    active,
    again,
    alerts,
    delivered,
    olas,
    put,
    release,
    result,
)
from remote import HOST, configure, script, stand_in

DOWN = "sh -c 'echo no route to host >&2; exit 255' x"


@pytest.fixture
def box(daq: Daq) -> Path:
    """A receiver's directory."""
    path = daq.folder / "olas"
    path.mkdir()
    return path


# --- a job waits for what is required -------------------------------------------------------------


@pytest.mark.parametrize("asked_by", ["configuration", "receiver"])
def test_waits_for_a_required_receiver(daq: Daq, box: Path, asked_by: str) -> None:
    gone = daq.folder / "none"
    if asked_by == "configuration":
        configure(daq, release={"required": True}, retry={"tries": 1})
        put(daq, olas(gone), olas(box))
    else:
        configure(daq, retry={"tries": 1})
        put(daq, olas(gone, required=True), olas(box))
    for _ in range(2):  # more often than there are tries
        release(daq).fails(75, f"{gone}: not delivered: no such directory", "next try in")
        told = daq.run("daq-status", "J1").ok()
        assert f"why       it waits for the next try; the last one: {gone}: not" in told.out
        assert daq.tree() == {"release": ["J1"]} and active(daq) == [f"release-failed:{gone}"]
    assert len(delivered(daq)) == 1 and (box / ARCHIVE).exists()
    assert (daq.spool / "release" / "J1.json").stat().st_mtime > time.time()
    event = daq.history("J1")[-1]
    assert (event["event"], event["counts"]) == ("defer", False)
    gone.mkdir()
    release(daq).ok()
    assert daq.tree() == {"done": ["J1"]} and active(daq) == [] and len(delivered(daq)) == 2
    assert [receipt["try"] for receipt in result(daq)["receipts"]] == [1, 1]


def test_a_receiver_may_say_that_it_is_not_required(daq: Daq) -> None:
    configure(daq, release={"required": True})
    put(daq, olas(daq.folder / "none", required=False))
    release(daq).ok().says("not delivered")
    assert daq.tree() == {"done": ["J1"]} and len(active(daq)) == 1


def test_a_required_receiver_that_refuses(daq: Daq, box: Path) -> None:
    configure(daq, release={"required": True})
    product = put(daq, olas(box))
    (box / ARCHIVE).write_text("other")
    release(daq).fails(73, "exists with other content", "next try in")
    assert daq.tree() == {"release": ["J1"]} and active(daq) == [f"release-failed:{box}"]
    assert (box / ARCHIVE).read_text() == "other"
    (box / ARCHIVE).unlink()
    release(daq).ok()
    assert (box / ARCHIVE).samefile(product) and active(daq) == []


def test_watcher_delivers_when_the_receiver_is_back(daq: Daq, box: Path) -> None:
    configure(daq, release={"required": True}, retry={"first_sec": 0.2, "longest_sec": 0.2})
    box.rmdir()
    put(daq, olas(box))
    with daq.start("daq-watch"):
        log = daq.spool / "log" / "J1.jsonl"
        wait_until(lambda: log.exists() and daq.events("J1").count("defer") > 1)
        box.mkdir()
        wait_until(lambda: daq.tree() == {"done": ["J1"]})
    assert (box / ARCHIVE).exists() and active(daq) == []


# --- a host that is left alone --------------------------------------------------------------------


def downed(daq: Daq, **keys: Any) -> None:
    """Have the other host down."""
    configure(daq, rsh=DOWN, breaker={"failures": 1, "probe_sec": 1000},
              retry={"first_sec": 0}, **keys)


@pytest.mark.needs("rsync")
def test_open_circuit_is_an_alert_at_once(daq: Daq, box: Path) -> None:
    downed(daq)
    put(daq, olas(box, HOST))
    release(daq).ok().says("no route to host")
    stand = stand_in(daq.folder)
    configure(daq, rsh=stand.command, breaker={"failures": 1, "probe_sec": 1000})
    put(daq, olas(box, HOST), olas(box), job="J2")
    release(daq, job="J2").ok().says("left alone until")
    assert stand.calls.read_text() == "" and daq.tree() == {"done": ["J1", "J2"]}
    assert len(delivered(daq, "J2")) == 1
    (daq.spool / "lock" / f".host-{HOST}").unlink()
    release(daq, job="J2").ok()
    assert len(delivered(daq, "J2")) == 2 and active(daq, "J2") == []


@pytest.mark.needs("rsync")
def test_required_host_that_is_left_alone_costs_nothing(daq: Daq, box: Path) -> None:
    downed(daq, release={"required": True})
    put(daq, olas(box, HOST))
    release(daq).fails(75, "no route to host")
    before = daq.history("J1")
    release(daq).fails(75, "left alone until")
    assert daq.history("J1") == before
    assert before[-1]["event"] == "defer" and before[-1]["counts"] is False
    # another receiver that has not got it is served all the same
    put(daq, olas(box, HOST), olas(box), job="J2")
    release(daq, job="J2").fails(75, "left alone until")
    assert len(delivered(daq, "J2")) == 1 and daq.tree() == {"release": ["J1", "J2"]}


@pytest.mark.needs("rsync")
def test_jobs_go_on_when_the_host_is_back(daq: Daq, box: Path) -> None:
    downed(daq, release={"required": True})
    put(daq, olas(box, HOST))
    put(daq, olas(box, HOST), job="J2")
    release(daq).fails(75, "no route to host")
    release(daq, job="J2").fails(75, "left alone until")
    configure(daq, rsh=stand_in(daq.folder).command, release={"required": True},
              breaker={"failures": 1, "probe_sec": 0.1})
    wait_until(lambda: release(daq, job="J2").code == 0)
    assert (daq.spool / "release" / "J1.json").stat().st_mtime <= time.time()
    daq.run("daq-release", "--all").ok()
    assert daq.tree() == {"done": ["J1", "J2"]}


# --- jobs that are done ---------------------------------------------------------------------------


def test_done_job_gets_what_is_missing(daq: Daq, box: Path) -> None:
    gone = daq.folder / "none"
    put(daq, olas(gone), olas(box))
    release(daq).ok()
    daq.run("daq-release", "--job", "J1", "--dry-run").ok().prints(f"would deliver to {gone}")
    release(daq).fails(78, f"{gone}: not delivered")
    assert active(daq) == [f"release-failed:{gone}"] and len(alerts(daq)) == 1
    gone.mkdir()
    (box / ARCHIVE).unlink()  # the archive took it
    release(daq).ok()
    assert daq.tree() == {"done": ["J1"]} and active(daq) == []
    assert (gone / ARCHIVE).exists() and not (box / ARCHIVE).exists()
    assert [event["try"] for event in delivered(daq)] == [1, 0]
    assert {receipt["receiver"] for receipt in result(daq)["receipts"]} == {str(gone), str(box)}
    assert result(daq)["failed"] == []
    size = len(daq.history("J1"))
    release(daq).fails(66, "all its receivers have the product")
    assert len(daq.history("J1")) == size
    assert not (daq.spool / "lock" / "J1").exists()


def test_done_job_by_force(daq: Daq, box: Path) -> None:
    put(daq, olas(box))
    release(daq).ok()
    (box / ARCHIVE).unlink()
    release(daq, "--dry-run").ok().prints("would do nothing")
    release(daq, "--force", "--dry-run").ok().prints(f"would deliver to {box}")
    assert not (box / ARCHIVE).exists()
    release(daq, "--force").ok()
    assert (box / ARCHIVE).exists() and len(delivered(daq)) == 2


def test_done_job_is_refused(daq: Daq, box: Path) -> None:
    put(daq, olas(box))
    (box / ARCHIVE).write_text("other")
    release(daq).fails(73, "the job is done all the same", "daq-release --job J1")
    release(daq).fails(73, "exists with other content")
    assert daq.tree() == {"done": ["J1"]} and (box / ARCHIVE).read_text() == "other"
    (box / ARCHIVE).unlink()
    release(daq).ok()
    assert active(daq) == []


def test_done_job_whose_product_is_gone(daq: Daq, box: Path) -> None:
    product = put(daq, olas(daq.folder / "none"))
    release(daq).ok()
    product.unlink()
    release(daq).fails(65, "is gone", "mv done/J1.json merge/")
    assert daq.tree() == {"done": ["J1"]}


def test_aborted_job_is_not_delivered(daq: Daq, box: Path) -> None:
    put(daq, olas(box))
    daq.run("daq-status", "J1").ok()
    log = daq.spool / "log" / "J1.jsonl"
    log.write_text(json.dumps({"time": "2026-11-21T02:30:00.000Z", "event": "abort-requested"})
                   + "\n")
    release(daq).ok()
    assert daq.tree() == {"done": ["J1"]} and daq.events("J1")[-1] == "aborted"
    release(daq).fails(66, "aborted")
    assert os.listdir(box) == []


@pytest.mark.parametrize("point", ["append.begin", *(
    pytest.param(point, marks=pytest.mark.slow)
    for point in ("deliver.placed", "append.written", "put.synced", "put.renamed"))])
def test_done_job_killed_on_the_way(daq: Daq, box: Path, point: str) -> None:
    box.rmdir()
    put(daq, olas(box))
    release(daq).ok()
    box.mkdir()
    release(daq, env={"DAQ_CRASH": point}).died(signal.SIGKILL)
    release(daq).ok()
    assert os.listdir(box) == [ARCHIVE] and active(daq) == [] and len(delivered(daq)) == 1
    assert daq.tree() == {"done": ["J1"]}


# --- the hook -------------------------------------------------------------------------------------


def hook(daq: Daq, text: str = "exit 0", **keys: object) -> Path:
    """Configure a hook that appends what it reads to a file, a line a run; return the file."""
    seen = daq.folder / "seen"
    seen.touch()
    tool = script(daq.folder / "hook", f"cat >>{seen}; echo >>{seen}\n{text}\n")
    configure(daq, release={"hook": str(tool), **keys})
    return seen


def runs(seen: Path) -> list[Document]:
    """Return what the hook has read, a document a run."""
    return [json.loads(line) for line in seen.read_text().splitlines()]


def test_hook(daq: Daq, box: Path) -> None:
    seen = hook(daq, "echo done")
    product = put(daq, olas(box), olas(daq.folder / "none"))
    release(daq).ok()
    told, = runs(seen)
    assert (told["id"], told["path"]) == ("J1", str(product))
    assert told["failed"] == [str(daq.folder / "none")]
    assert [receipt["path"] for receipt in told["receipts"]] == [str(box / ARCHIVE)]
    assert daq.events("J1")[-2:] == ["ok", "hook"] and daq.history("J1")[-1]["code"] == 0
    assert (daq.spool / "data" / "J1" / "logs" / "hook.out").read_text() == "done\n"
    assert os.listdir(daq.spool / "run" / "hooks") == []
    (daq.folder / "none").mkdir()
    release(daq).ok()
    assert len(runs(seen)) == 1  # a delivery afterwards is no release
    again(daq)
    release(daq).ok()
    assert len(runs(seen)) == 2


@pytest.mark.parametrize("broken", [False, True])
def test_hook_fails(daq: Daq, box: Path, broken: bool) -> None:
    seen = hook(daq, "echo 'no such table' >&2; exit 4")
    if broken:
        (daq.folder / "hook").unlink()
    put(daq, olas(box))
    release(daq).ok().says("the hook failed: " + (
        f"{daq.folder}/hook: no such program" if broken
        else f"{daq.folder}/hook ended with code 4: no such table"))
    assert daq.tree() == {"done": ["J1"]} and active(daq) == []
    event = daq.history("J1")[-1]
    assert (event["event"], event["code"]) == ("hook", 78 if broken else 4) and event["reason"]
    assert len(runs(seen)) == (not broken)


def test_hook_of_jobs_that_were_released_without_one(daq: Daq, box: Path) -> None:
    put(daq, olas(box))
    release(daq).ok()
    seen = hook(daq)
    release(daq).fails(66, "it is in done/")
    assert runs(seen) == []


@pytest.mark.parametrize("point", ["stage.worked", "stage.committed", "stage.logged"])
def test_hook_is_made_up_for(daq: Daq, box: Path, point: str) -> None:
    seen = hook(daq)
    put(daq, olas(box))
    put(daq, olas(box), job="J2")
    release(daq, env={"DAQ_CRASH": point}).died(signal.SIGKILL)
    assert runs(seen) == []
    release(daq, job="J2").ok()
    wanted = {"J2"} if point == "stage.worked" else {"J1", "J2"}
    assert {told["id"] for told in runs(seen)} == wanted
    assert release(daq).code == (0 if point == "stage.worked" else 66)
    assert daq.tree() == {"done": ["J1", "J2"]}
    assert sorted(told["id"] for told in runs(seen)) == ["J1", "J2"]
    assert os.listdir(daq.spool / "run" / "hooks") == []


def test_hook_holds_no_place(daq: Daq, box: Path) -> None:
    gate = daq.folder / "gate"
    hook(daq, f"until [ -e {gate} ]; do sleep 0.05; done")
    put(daq, olas(box))
    put(daq, olas(box), job="J2")
    process = daq.spawn("daq-release", "--job", "J1")
    wait_until((daq.folder / "seen").read_text)
    assert daq.run("daq-release", "--job", "J2", env={"DAQ_CONFIG": None}).ok()
    gate.touch()
    process.wait().ok()

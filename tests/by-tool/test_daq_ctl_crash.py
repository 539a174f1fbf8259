from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daqlib import clock, errors, rpc
from harness import Daq, make_fits, wait_until
from live import Live, Simulator

pytestmark = [pytest.mark.installed, pytest.mark.xdist_group("daq-ctl-crash")]


@pytest.fixture(autouse=True)
def tidy(live: Live) -> Iterator[None]:
    """Leave a running daemon and no acquisition to the next test."""
    yield
    live.tidy()


def kill_during(live: Live, ask: Callable[[], object], ready: Callable[[], object]) -> None:
    """Kill the daemon while a request is under way; the client is told that it is gone."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        wait_until(ready)
        live.daemon.kill()
        with pytest.raises(errors.Unavailable):
            asked.result(60)


def begin_and_die(live: Live, *sources: Simulator, id: str) -> None:
    """Start an acquisition with a daemon that is set to die of it."""
    with pytest.raises(errors.Unavailable):
        live.begin(*sources, id=id)
    live.daemon.wait().died(9)


def armed(live: Live, point: str) -> None:
    """Restart the daemon so that it dies at a point."""
    live.daemon.kill()
    live.serve(env={"DAQ_CRASH": point})


def test_a_kill_while_recording_is_not_noticed_by_the_sources(live: Live, dcs: Simulator,
                                                              fcf: Simulator) -> None:
    job = live.begin(dcs, fcf)
    live.call("UpdateKeywords", id=job,
              keywords=[{"type": "valueKeyword", "name": "KEPT", "value": 1}])
    live.crash()
    assert live.until(job, "Acquiring")["error"] is False
    with pytest.raises(rpc.RemoteError, match="in use"):
        live.begin(dcs)
    assert live.call("GetState") == "Operational;Active"
    dcs.process.press_enter()  # the automatic stop works as before
    live.until(job, "NotScheduled")
    assert dcs.calls("RecStart", job) == fcf.calls("StartDaq", job) == 1
    assert live.manifest(job)["outcome"] == "completed"
    from astropy.io import fits
    with fits.open(live.product(job)) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["CHIP1", "TELEMETRY1"]
        assert hdus[0].header["KEPT"] == 1


def test_a_recording_that_ended_while_nobody_looked(live: Live, dcs: Simulator, fcf: Simulator,
                                                    ) -> None:
    job = live.begin(dcs, fcf)
    live.daemon.kill()
    dcs.process.press_enter()
    wait_until(lambda: f"recording {job}: Completed" in dcs.words)
    live.serve()
    live.until(job, "NotScheduled")
    assert live.product(job).exists() and fcf.calls("StopDaq", job) == 1


def test_a_manual_stop_after_a_kill(live: Live, fcf: Simulator) -> None:
    job = live.begin(fcf)
    live.crash()
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    assert fcf.calls("StartDaq", job) == 1 and live.product(job).exists()


def test_a_death_before_the_first_source_is_commanded(live: Live, fcf: Simulator) -> None:
    armed(live, "submit.queued")
    begin_and_die(live, fcf, id="unbegun")
    assert live.daq.tree()["acquire"] == ["unbegun"]
    live.serve()
    wait_until(lambda: live.daq.tree().get("failed") == ["unbegun"])
    assert "ended before it began" in live.alerts("unbegun")["failed"]
    assert fcf.calls("StartDaq", "unbegun") == 0
    live.call("AbortDaq", id="unbegun")
    assert live.status("unbegun")["substate"] == "Aborted"


def test_a_death_with_an_id_and_no_job(live: Live, fcf: Simulator) -> None:
    armed(live, "submit.reserved")
    begin_and_die(live, fcf, id="reserved")
    live.serve()
    with pytest.raises(rpc.RemoteError, match="no DAQ has the id"):
        live.status("reserved")  # it will never begin by itself
    assert live.begin(fcf, id="reserved") == "reserved"  # the same request takes it over
    assert fcf.calls("StartDaq", "reserved") == 1


@pytest.mark.parametrize("slow", ["fcf", "dcs"])
def test_a_kill_while_starting(live: Live, slow: str) -> None:
    delay = {"fcf": ["--delay", "StartDaq=3"], "dcs": ["--delay", "RecStart=3"]}[slow]
    meta = live.sim("metadaqif", "meta", *(delay if slow == "fcf" else []))
    det = live.sim("recif", "det", *(delay if slow == "dcs" else []))
    job = live.id(f"slow-{slow}")
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(live.begin, det, meta, id=job)
        late = meta if slow == "fcf" else det
        wait_until(lambda: late.calls(late.starts, job))
        live.daemon.kill()
        with pytest.raises(errors.Unavailable):
            starting.result(60)
    wait_until(lambda: f"{late.starts} ->" in late.words)  # it does not know of the death
    live.serve()
    assert meta.calls("StartDaq", job) == 1
    if slow == "dcs":  # every source was commanded, and each says that it records
        live.until(job, "Acquiring")
        live.call("StopDaq", id=job)
        assert det.calls("RecStart", job) == 1 and live.product(job).exists()
    else:  # the detector was not: it is not started late
        wait_until(lambda: live.daq.tree().get("failed") == [job])
        assert "ended while the sources were being started" in live.alerts(job)["failed"]
        assert det.calls("RecStart", job) == 0
        assert meta.ask("GetDaqStatus", id=job)["state"] == "Aborted"


def test_a_kill_while_stopping(live: Live, dcs: Simulator) -> None:
    slow = live.sim("metadaqif", "slow", "--delay", "StopDaq:1=3")
    job = live.begin(dcs, slow)
    kill_during(live, lambda: live.call("StopDaq", id=job),
                lambda: slow.calls("StopDaq", job))
    live.serve()
    live.until(job, "NotScheduled")
    brought = {entry["sourceName"]: len(entry["files"]) for entry in live.manifest(job)["sources"]}
    assert brought == {"dcs": 1, "slow": 1}
    assert live.manifest(job)["outcome"] == "stopped"
    assert [event["source"] for event in live.daq.history(job) if event["event"] == "stopped"
            ] == ["dcs", "slow"]


@pytest.mark.parametrize("point", ["move.begin", "move.renamed", "put.created", "put.renamed"])
def test_a_death_at_the_hand_over(live: Live, dcs: Simulator, point: str) -> None:
    job = live.begin(dcs)
    armed(live, point)
    with pytest.raises(errors.Unavailable):
        live.call("StopDaq", id=job)
    live.daemon.wait().died(9)
    before = {place: ids for place, ids in live.daq.tree().items() if job in ids}
    assert list(before) == (["collect"] if point == "move.renamed" else ["acquire"])
    live.serve()
    live.until(job, "NotScheduled")
    assert live.daq.tree().get("acquire") is None and live.daq.tree()["collect"] == [job]
    assert live.daq.events(job).count("sealed") == 1
    assert live.product(job).exists() and dcs.calls("RecStart", job) == 1


def test_a_kill_while_aborting(live: Live, fcf: Simulator) -> None:
    slow = live.sim("metadaqif", "slow", "--delay", "AbortDaq:1=3")
    job = live.begin(slow, fcf)
    kill_during(live, lambda: live.call("AbortDaq", id=job),
                lambda: slow.calls("AbortDaq", job))
    live.serve()
    wait_until(lambda: live.status(job)["substate"] == "Aborted")
    assert live.daq.tree()["done"].count(job) == 1
    assert slow.ask("GetDaqStatus", id=job)["state"] == "Aborted"


def test_a_death_while_a_failed_start_is_undone(live: Live, fcf: Simulator) -> None:
    bad = live.sim("recif", "bad", "--fail", "RecStart=jammed", "--delay", "RecStatus=3")
    kill_during(live, lambda: live.begin(bad, fcf, id="undone"),
                lambda: bad.calls("RecStatus", "undone"))
    live.serve()
    wait_until(lambda: live.daq.tree().get("failed") == ["undone"])
    assert "jammed" in live.alerts("undone")["failed"]


def test_a_source_that_is_gone_after_the_restart(live: Live, fcf: Simulator) -> None:
    source = live.sim("metadaqif", "gone")
    job = live.begin(source, fcf)
    live.daemon.kill()
    source.die()
    source.start()
    live.serve()
    wait_until(lambda: "does not know" in live.alerts(job).get("source-failed:gone", ""))
    assert live.status(job)["substate"] == "Acquiring"
    assert live.call("StopDaq", id=job)["error"] is True
    assert source.calls("StartDaq", job) == 1


@pytest.mark.parametrize("place", ["hold", "failed", "collect"])
def test_an_abort_ends_the_sources_of_a_job_that_was_moved_away(live: Live, dcs: Simulator,
                                                                place: str) -> None:
    job = live.begin(dcs)
    live.daemon.kill()
    path = live.daq.spool / "acquire" / f"{job}.json"
    path.rename(live.daq.spool / place / path.name)
    if place != "collect":
        live.ctl("daq.abort", job).fails(69, "may record still: dcs", "let daq-ctl run")
    live.serve()
    assert dcs.ask("RecStatus", id=job)["status"] == "Active"
    assert live.call("AbortDaq", id=job) == {"id": job, "error": False}
    assert dcs.ask("RecStatus", id=job)["status"] == "Aborted"
    assert live.status(job)["substate"] == "Aborted" and job in live.daq.tree()["done"]


def test_a_job_that_was_moved_away_and_cannot_be_read(live: Live, dcs: Simulator) -> None:
    job = live.begin(dcs)
    live.daemon.kill()
    (live.daq.spool / "acquire" / f"{job}.json").unlink()
    path = live.daq.spool / "hold" / f"{job}.json"
    path.write_text("{}")
    live.serve()
    with pytest.raises(rpc.RemoteError, match="sources"):
        live.call("AbortDaq", id=job)
    assert live.call("ForceAbortDaq", id=job) == {"id": job, "error": True}
    assert live.status(job)["substate"] == "Aborted"
    dcs.ask("RecAbort")  # by hand: nobody knows any more where it was


def test_a_job_that_was_removed_while_no_daemon_ran(live: Live, dcs: Simulator) -> None:
    job = live.begin(dcs)
    live.daemon.kill()
    path = live.daq.spool / "acquire" / f"{job}.json"
    data = path.read_bytes()
    path.unlink()
    live.serve()
    live.ctl("daq.stop", job).fails(65, "was removed", "put it back into acquire/")
    for command in ("daq.abort", "daq.forceabort"):
        live.ctl(command, job).fails(69, "was removed", "may record still: dcs", "by hand")
    path.write_bytes(data)
    live.until(job, "Acquiring")
    assert live.call("AbortDaq", id=job) == {"id": job, "error": False}
    assert dcs.ask("RecStatus", id=job)["status"] == "Aborted"


def test_an_alert_of_the_life_before_goes_by_itself(live: Live) -> None:
    source = live.sim("recif", "mute")
    job = live.begin(source)
    source.process.signal(19)
    wait_until(lambda: live.alerts(job))
    live.daemon.kill()
    source.process.signal(18)
    live.serve()
    wait_until(lambda: not live.alerts(job))


def test_a_stop_that_nobody_would_repeat_is_repeated(live: Live) -> None:
    source = live.sim("recif", "once")
    job = live.begin(source)
    armed(live, "append.begin:2")  # Stopping is on record, what the source brought is not
    with pytest.raises(errors.Unavailable):
        live.call("StopDaq", id=job)
    live.daemon.wait().died(9)
    source.process.signal(19)
    live.serve()
    wait_until(lambda: live.alerts(job))
    assert live.status(job)["substate"] == "Stopping"
    source.process.signal(18)
    live.until(job, "NotScheduled")
    assert live.alerts(job) == {} and len(live.manifest(job)["sources"]) == 1


def test_a_job_queued_while_no_daemon_runs(live: Live, dcs: Simulator) -> None:
    live.daemon.kill()
    job = live.daq.run("daq-start", "--queue", "--primary", dcs.at()).line()
    late = live.daq.run("daq-start", "--queue", "--start-by", "0.1", "--primary", dcs.at()).line()
    assert live.daq.tree()["acquire"] == sorted([job, late])
    live.serve()
    live.until(job, "Acquiring")
    wait_until(lambda: live.daq.tree().get("failed") == [late])
    assert dcs.calls("RecStart", job) == 1 and dcs.calls("RecStart", late) == 0


def test_stale_acquisitions_are_given_up_only_when_nobody_answers(live: Live, fcf: Simulator,
                                                                  ) -> None:
    gone = live.sim("metadaqif", "gone")
    kept, lost = live.begin(fcf), live.begin(gone)
    live.daemon.kill()
    gone.die()
    for job in (kept, lost):
        path = live.daq.spool / "acquire" / f"{job}.json"
        document = json.loads(path.read_text())
        document["created"] = clock.iso(time.time() - 15 * 3600) + "Z"
        path.write_text(json.dumps(document))
    live.serve()
    wait_until(lambda: live.daq.tree().get("failed") == [lost])
    assert "stale" in live.alerts(lost) and "15 h" in live.alerts(lost)["stale"]
    assert live.status(kept)["substate"] == "Acquiring"
    live.call("StopDaq", id=kept)


def test_jobs_that_nobody_merges_are_given_up_at_the_start(daq: Daq) -> None:
    live = Live(daq)
    path = str(make_fits(daq.folder / "old.fits"))
    old = clock.iso(time.time() - 49 * 3600.0) + "Z"

    def drop(stage: str, job: str, **members: Any) -> None:
        sources = [{"type": "fitsFile", "sourceName": "a", "location": path}]
        daq.drop(stage, job, {"sources": sources, "created": old, **members})

    for stage in ("collect", "merge", "release", "hold", "failed"):
        drop(stage, f"old-{stage}")
    (daq.spool / "release" / ".pause").touch()
    with daq.start("daq-watch"):  # somebody merges: nothing is stale
        (daq.spool / "collect" / ".pause").touch()
        wait_until(lambda: "old-merge" not in daq.tree().get("merge", []))
        drop("collect", "watched")
        live.serve()
        live.daemon.stop()
        assert "watched" in daq.tree()["collect"]
    (daq.spool / "collect" / ".pause").unlink()
    drop("merge", "old-again")
    drop("merge", "young", created=clock.iso(time.time()) + "Z")
    drop("merge", "torn")
    (daq.spool / "merge" / "torn.json").write_text("{")
    live.serve()
    wait_until(lambda: {"watched", "old-again"} <= set(daq.tree()["failed"]))
    tree = daq.tree()
    assert tree["release"] == ["old-release"] and tree["hold"] == ["old-hold"]
    assert {"young", "torn"}.isdisjoint(tree["failed"])
    assert "daq-watch" in live.alerts("watched")["stale"]
    assert "mv failed/watched.json collect/" in live.alerts("watched")["failed"]
    (daq.spool / "failed" / "watched.json").rename(daq.spool / "collect" / "watched.json")
    live.crash()  # once given up and brought back it is not given up again
    wait_until(lambda: live.status("watched")["substate"] == "NotScheduled")
    time.sleep(0.5)
    assert daq.tree()["collect"] == ["watched"]
    for tool in ("daq-collect", "daq-merge", "daq-release"):
        daq.run(tool, "--job", "watched").ok()
    assert live.status("watched")["substate"] == "Completed" and not live.alerts("watched")


@pytest.mark.parametrize("point", [
    "acquire.starting:1", "acquire.starting:2", "acquire.started", "acquire.sealed",
    "acquire.aborted"])
def test_a_death_between_two_steps(live: Live, dcs: Simulator, fcf: Simulator, point: str) -> None:
    job = point.replace(":", "-")
    armed(live, point)
    with pytest.raises(errors.Unavailable):
        live.begin(dcs, fcf, id=job)
        live.call("AbortDaq" if point == "acquire.aborted" else "StopDaq", id=job)
    live.daemon.wait().died(9)
    live.serve()
    told = {"acquire.started": "Acquiring", "acquire.sealed": "NotScheduled",
            "acquire.aborted": "Aborted"}.get(point)
    if told:
        live.until(job, told)
        assert dcs.calls("RecStart", job) == fcf.calls("StartDaq", job) == 1
    else:
        wait_until(lambda: job in live.daq.tree().get("failed", []))
        assert "ended while the sources were being started" in live.alerts(job)["failed"]
        assert fcf.calls("StartDaq", job) == (1 if point.endswith("2") else 0)
        assert dcs.calls("RecStart", job) == 0
    if point == "acquire.sealed":
        assert live.daq.events(job).count("sealed") == 1 and live.product(job).exists()


def test_waiting_survives_nothing_but_is_told_so(live: Live, fcf: Simulator) -> None:
    job = live.begin(fcf)
    waiting = live.daq.spawn("daq-ctl", "daq.awaitstate", job, "StateMerging", "", "50")
    live.daemon.wait_for(rf"{job}: \d+ wait")
    live.crash()
    waiting.wait().fails(69, "closed the connection")


# -- a full disk ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_at_every_append(daq: Daq) -> None:
    live = Live(daq)
    dcs, fcf = live.sim("recif", "dcs"), live.sim("metadaqif", "fcf", "--sessions", 9)
    told = []
    for number in range(1, 8):
        job, done = f"full-{number}", []
        live.serve(env={"DAQ_FAULT": f"append.begin=ENOSPC:{number}"})
        try:
            done.append(live.begin(dcs, fcf, id=job))
            done.append(live.call("StopDaq", id=job))
        except rpc.RemoteError as error:
            assert "No space left" in error.message
        told.append(len(done))
        if not done:
            assert dcs.calls("RecStart", job) == 0 or (
                dcs.ask("RecStatus", id=job)["status"] == "Aborted"), number
        live.crash()
        after_a_full_disk(live, job, started=bool(done))
        assert dcs.calls("RecStart", job) <= 1 and fcf.calls("StartDaq", job) <= 1, number
        live.daemon.stop()
    assert told == sorted(told) and set(told) == {0, 1, 2}


def after_a_full_disk(live: Live, job: str, *, started: bool) -> None:
    """There is space again: what was refused has failed, what was acknowledged can go on."""
    if not started:
        wait_until(lambda: job in live.daq.tree().get("failed", []),
                   explain=lambda: live.told(job))
        return
    if live.status(job)["substate"] == "Acquiring":
        live.call("StopDaq", id=job)
    live.until(job, "NotScheduled")
    assert [len(entry["files"]) for entry in live.manifest(job)["sources"]] == [1, 1]


# -- every point ----------------------------------------------------------------------------------


def acquire(live: Live, job: str, dcs: Simulator, fcf: Simulator, path: Any) -> None:
    """One acquisition by a client that is not told more than it is told."""
    try:
        live.begin(dcs, fcf, {"type": "fitsFile", "sourceName": "old", "location": str(path)},
                   id=job)
        live.call("UpdateKeywords", id=job,
                  keywords=[{"type": "valueKeyword", "name": "KEPT", "value": 1}])
        live.call("StopDaq", id=job)
    except errors.Unavailable:
        pass


@pytest.mark.slow
def test_a_death_at_every_point_of_an_acquisition(daq: Daq) -> None:
    live = Live(daq)
    dcs, fcf = live.sim("recif", "dcs"), live.sim("metadaqif", "fcf", "--sessions", 99)
    path = make_fits(daq.folder / "old.fits")
    trace = daq.folder / "trace"
    live.serve(env={"DAQ_CRASH_TRACE": str(trace)})
    acquire(live, "traced", dcs, fcf, path)
    live.daemon.stop()
    points = trace.read_text().split()
    assert len(points) > 40, points
    for number, point in enumerate(points):
        job = f"at-{number}"
        live.serve(env={"DAQ_CRASH": point}, until=None)
        wait_until(lambda: not live.daemon.running() or "serving" in live.daemon.err)
        if live.daemon.running():
            acquire(live, job, dcs, fcf, path)
        live.daemon.wait().died(9)
        live.serve()
        settle(live, job, dcs, fcf, point)
        live.daemon.stop()


def settle(live: Live, job: str, dcs: Simulator, fcf: Simulator, point: str) -> None:
    """After the restart: at most one start a source, one job, and one product or none."""
    def place() -> list[str]:
        return [place for place, ids in live.daq.tree().items() if job in ids]
    log = live.daq.spool / "log" / f"{job}.jsonl"
    if place():
        wait_until(lambda: live.status(job)["substate"] in (
            "Acquiring", "NotScheduled") or place() == ["failed"],
            explain=lambda: f"{point}\n{live.told(job)}\n{live.daemon.err}")
    assert dcs.calls("RecStart", job) <= 1 and fcf.calls("StartDaq", job) <= 1, point
    if place() == ["acquire"]:
        live.call("StopDaq", id=job)
    if place() in ([], ["failed"]):
        # not started late; nothing goes on recording
        assert not place() or "before it began" in live.told(job) or (
            "being started" in live.told(job)), (point, live.told(job))
        assert dcs.calls("RecStart", job) == 0 or dcs.ask("RecStatus", id=job)["status"] in (
            "Aborted", "Stopped"), point
        assert log.exists() or not place()
        return
    assert place() == ["collect"], (point, live.daq.tree(), live.told(job))
    product = live.product(job)
    assert place() == ["done"] and product.exists(), point
    assert [entry["sourceName"] for entry in live.manifest(job)["sources"]] == ["dcs", "fcf"]
    assert live.daq.results().count(product.name) == 1

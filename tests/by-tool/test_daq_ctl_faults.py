from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import conformance
from daqlib import rpc
from harness import Daq, free_port, make_fits, wait_until
from live import Live, Simulator

pytestmark = [pytest.mark.installed, pytest.mark.xdist_group("daq-ctl-faults")]


@pytest.fixture(autouse=True)
def tidy(live: Live) -> Iterator[None]:
    """Leave no acquisition and no source of its own to the next test."""
    before = list(live.daq.processes)
    yield
    for status in live.call("GetActiveList"):
        live.call("ForceAbortDaq", id=status["id"])
    for process in live.daq.processes:
        if process not in before:
            process.kill()


def names(live: Live, job: str, event: str) -> list[str]:
    return [told["source"] for told in live.daq.history(job) if told["event"] == event]


# -- failing starts -------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "code", "text"), [
    (["--fail", "RecStart=the shutter is stuck"], 65, "the shutter is stuck"),
    (["--hang", "RecStart"], 69, "did not reply to rec.RecStart within 5 s"),
    (["--die", "RecStart"], 69, "closed the connection"),
    pytest.param(["--die-after", "RecStart"], 69, "closed the connection",
                 marks=pytest.mark.slow),
    (["dead"], 69, "nobody answers"),
])
def test_a_primary_source_that_does_not_start(live: Live, fcf: Simulator, fault: list[str],
                                              code: int, text: str) -> None:
    bad = live.sim("recif", "bad", *([] if fault == ["dead"] else fault))
    if fault == ["dead"]:
        bad.die()
    job = live.id("nostart")
    answer = live.ctl("daq.start", bad.at(), fcf.at(), "--id", job)
    answer.fails(code, f"{job}: source bad did not start", text, "failed/", f"daq.abort {job}")
    answer.no_output()
    # what was started is aborted, the job lies where a person sees it
    assert fcf.ask("GetDaqStatus", id=job)["state"] == "Aborted"
    assert live.daq.tree()["failed"] == [job]
    status = live.status(job)
    assert (status["substate"], status["error"]) == ("Aborting", True)
    assert text in live.alerts(job)["failed"] and "source-failed:bad" in live.alerts(job)
    assert bad.calls("RecStart", job) <= 1
    if not bad.process.running():  # it may record: nobody can say so but a person
        live.ctl("daq.abort", job).fails(69, "source bad", "nobody answers", "daq.forceabort")
        assert live.status(job)["substate"] == "Aborting"
        live.ctl("daq.forceabort", job).ok()
    else:
        live.ctl("daq.abort", job).ok()
    assert live.status(job)["substate"] == "Aborted" and "failed" not in live.daq.tree()


def test_a_metadata_source_that_does_not_start_keeps_the_detector_closed(
        live: Live, dcs: Simulator, fcf: Simulator) -> None:
    bad = live.sim("metadaqif", "bad", "--fail", "StartDaq=no lamp")
    with pytest.raises(rpc.RemoteError, match="bad did not start: no lamp"):
        live.begin(dcs, bad, fcf, id="nolamp")
    assert dcs.calls("RecStart", "nolamp") == 0
    assert fcf.ask("GetDaqStatus", id="nolamp")["state"] == "Aborted"
    assert live.daq.tree()["failed"] == ["nolamp"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:80/rec", "zpb.ps://127.0.0.1:80/rec",
                                 "zpb.rr://127.0.0.1:99999/rec", "zpb.rr://127.0.0.1/rec",
                                 "-e zpb", "x"])
def test_a_uri_that_cannot_be_is_refused_before_anything_is_written(live: Live, uri: str) -> None:
    before = live.daq.tree(), sorted(os.listdir(live.daq.spool / "log"))
    document = {"sources": [{"type": "primarySource", "sourceName": "a", "rrUri": uri}]}
    live.ctl("daq.startv2", "@-", stdin=json.dumps(document)).fails(65, uri.split(":")[0])
    assert (live.daq.tree(), sorted(os.listdir(live.daq.spool / "log"))) == before


def test_a_start_that_is_slow_but_sure_is_no_failure(live: Live) -> None:
    slow = live.sim("recif", "slow", "--delay", "RecStart=1")
    job = live.begin(slow)
    assert live.status(job)["error"] is False
    # the reply is lost, the recording runs: it is asked, not started again
    deaf = live.sim("metadaqif", "deaf", "--delay", "StartDaq=5.5", "--delay", "GetDaqStatus=3")
    other = live.begin(deaf)
    assert deaf.calls("StartDaq", other) == 1


# -- sources that share, or that are slow ---------------------------------------------------------


def test_a_primary_source_is_not_shared(live: Live, dcs: Simulator) -> None:
    job = live.begin(dcs)
    port = dcs.port
    for uri in (dcs.uri, f"zpb.rr://127.0.0.1:{port}/rec/", f"zpb.rr://127.0.0.1:{port}",
                f"zpb.rr://Localhost:{port}/rec", f"zpb://127.0.0.1:{port}/rec",
                f"zpb.rr://127.1:{port}/rec", f"zpb.rr://0.0.0.0:{port}/rec"):
        live.ctl("daq.start", f"other@{uri}", "").fails(65, "in use by", job)
    same = {"sources": [dcs.source(), {**dcs.source(), "sourceName": "again"}]}
    live.ctl("daq.startv2", json.dumps(same)).fails(65, "the same")
    assert live.daq.tree()["acquire"] == [job] and dcs.calls("RecStart", "") == dcs.calls(
        "RecStart", "job")
    live.call("AbortDaq", id=job)
    assert live.begin(dcs)


def test_many_acquisitions_at_a_time(live: Live, fcf: Simulator) -> None:
    with ThreadPoolExecutor(12) as pool:
        jobs = list(pool.map(lambda _: live.begin(fcf, id=live.id("many")), range(12)))
        assert sorted(status["id"] for status in live.call("GetActiveList")) == sorted(jobs)
        replies = list(pool.map(lambda job: live.call("StopDaq", id=job), jobs))
    assert not any(reply["error"] for reply in replies)
    assert len({live.status(job)["fileId"] for job in jobs}) == 12


def test_a_hung_source_delays_nobody_else(live: Live, fcf: Simulator) -> None:
    hung = live.sim("recif", "hung", "--hang", "RecStart", "--hang", "RecStatus")
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(live.begin, hung, id="hung")
        wait_until(lambda: hung.calls("RecStart"))
        job = live.begin(fcf)
        live.call("StopDaq", id=job)
        assert not failing.done()
        with pytest.raises(rpc.RemoteError, match="did not reply"):
            failing.result(60)


# -- failing stops --------------------------------------------------------------------------------


def test_a_stop_that_fails_in_part_keeps_the_rest(live: Live, dcs: Simulator) -> None:
    bad = live.sim("metadaqif", "bad", "--fail", "StopDaq=no room")
    job = live.begin(dcs, bad)
    assert live.ctl("--json", "daq.stop", job).json() == {"id": job, "error": True}
    assert live.status(job)["error"] is True
    assert live.alerts(job) == {"source-failed:bad": "source bad: no room"}
    assert [entry["sourceName"] for entry in live.manifest(job)["sources"]] == ["dcs"]
    from astropy.io import fits
    with fits.open(live.product(job)) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "CHIP1"]


def test_a_stop_that_fails_wholly_can_be_repeated(live: Live) -> None:
    bad = live.sim("recif", "bad", "--fail", "RecStop:1=busy")
    job = live.begin(bad)
    live.ctl("daq.stop", job).fails(69, "every source failed to stop", "busy", "daq.forcestop")
    assert live.status(job)["substate"] == "Stopping"
    assert live.alerts(job) == {"source-failed:bad": "source bad: busy"}
    live.ctl("--json", "daq.stop", job).json()
    assert live.status(job)["substate"] == "NotScheduled"
    assert live.alerts(job) == {}  # the condition has gone


def test_forcestop_goes_on_without_the_source(live: Live) -> None:
    bad = live.sim("recif", "bad", "--hang", "RecStop")
    job = live.begin(bad)
    stopping = live.daq.spawn("daq-ctl", "daq.stop", job)
    live.until(job, "Stopping")
    assert live.ctl("--json", "daq.forcestop", job).json() == {"id": job, "error": True}
    stopping.wait().fails(65, "overtaken")
    assert live.manifest(job) == {"outcome": "forced", "sources": []}
    assert live.status(job)["substate"] == "NotScheduled" and live.status(job)["error"] is True


def test_a_source_may_take_its_time_over_the_files(live: Live) -> None:
    slow = live.sim("recif", "slow", "--delay", "RecStop=7")
    late = live.sim("metadaqif", "late", "--delay", "StopDaq=6")
    job = live.begin(slow, late)
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    assert {entry["sourceName"]: len(entry["files"]) for entry in live.manifest(job)["sources"]
            } == {"slow": 1, "late": 1}
    assert slow.calls("RecStop") == 1 and late.calls("StopDaq") == 1


def test_keywords_that_are_not_valid(live: Live, dcs: Simulator) -> None:
    bad = live.sim("metadaqif", "bad", "--no-files", "--keywords",
                   '[{"type": "valueKeyword", "name": "lower case", "value": 1}]')
    job = live.begin(dcs, bad)
    assert live.call("StopDaq", id=job) == {"id": job, "error": True}
    [(name, text)] = live.alerts(job).items()
    assert name == "source-keywords:bad" and "keywords are not valid" in text
    brought = {entry["sourceName"]: entry for entry in live.manifest(job)["sources"]}
    assert brought["bad"] == {"sourceName": "bad", "files": [], "keywords": []}
    assert len(brought["dcs"]["files"]) == 1


def test_a_recording_that_failed_by_itself(live: Live) -> None:
    bad = live.sim("recif", "unable", "--exposure", 0.5)
    job = live.begin(bad)
    bad.directory.rmdir()  # it cannot write its file
    live.until(job, "NotScheduled")
    assert "ended as Failed" in live.alerts(job)["source-failed:unable"]
    assert live.manifest(job)["outcome"] == "completed"


# -- abort ----------------------------------------------------------------------------------------


def test_an_abort_that_fails_can_be_forced(live: Live, fcf: Simulator) -> None:
    bad = live.sim("recif", "bad", "--hang", "RecAbort")
    job = live.begin(bad, fcf)
    live.ctl("daq.abort", job).fails(69, "not every source aborted", "daq.forceabort")
    assert live.status(job)["substate"] == "Aborting"
    assert fcf.ask("GetDaqStatus", id=job)["state"] == "Aborted"
    live.ctl("daq.stop", job).fails(65, "StopDaq is not accepted in Aborting")
    assert live.ctl("--json", "daq.forceabort", job).json() == {"id": job, "error": True}
    assert live.status(job)["substate"] == "Aborted" and live.daq.tree()["done"].count(job) == 1


def test_a_dead_source_and_forceabort(live: Live) -> None:
    dead = live.sim("recif", "dead")
    job = live.begin(dead)
    dead.die()
    live.ctl("daq.abort", job).fails(69, "nobody answers")
    live.ctl("daq.forceabort", job).ok()
    assert live.status(job)["substate"] == "Aborted"


def test_abort_of_a_start_leaves_nothing_recording(live: Live) -> None:
    slow = live.sim("recif", "slow", "--delay", "RecStart=3")
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(live.begin, slow, id="unwanted")
        wait_until(lambda: slow.calls("RecStart"))
        assert live.status("unwanted")["substate"] == "Starting"
        assert live.call("AbortDaq", id="unwanted") == {"id": "unwanted", "error": False}
        with pytest.raises(rpc.RemoteError, match="overtaken"):
            starting.result(60)
    assert live.status("unwanted")["substate"] == "Aborted"
    wait_until(lambda: "RecStart ->" in slow.words)
    time.sleep(0.5)
    assert slow.ask("RecStatus", id="unwanted")["status"] == "Aborted"


def test_abort_interrupts_a_stop_and_nothing_interrupts_an_abort(live: Live) -> None:
    slow = live.sim("metadaqif", "slow", "--delay", "StopDaq=3", "--delay", "AbortDaq=3")
    job = live.begin(slow)
    with ThreadPoolExecutor(4) as pool:
        stopping = pool.submit(live.call, "StopDaq", id=job)
        live.until(job, "Stopping")
        aborting = pool.submit(live.call, "AbortDaq", id=job)
        live.until(job, "Aborting")
        for command in ("StopDaq", "ForceStopDaq"):
            with pytest.raises(rpc.RemoteError, match="not accepted in"):
                live.call(command, id=job)
        again = pool.submit(live.call, "AbortDaq", id=job)
        with pytest.raises(rpc.RemoteError, match="overtaken"):
            stopping.result(60)
        assert aborting.result(60) == again.result(60) == {"id": job, "error": False}
    assert live.status(job)["substate"] == "Aborted" and slow.calls("AbortDaq") == 1


# -- while it records -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [
    "recif", pytest.param("metadaqif", marks=pytest.mark.slow)])
def test_a_source_that_falls_silent_and_comes_back(live: Live, kind: str) -> None:
    source = live.sim(kind, "mute")
    job = live.begin(source)
    source.process.signal(signal.SIGSTOP)
    wait_until(lambda: "source-failed:mute" in live.alerts(job))
    assert live.status(job)["substate"] == "Acquiring" and live.status(job)["error"] is True
    source.process.signal(signal.SIGCONT)
    wait_until(lambda: not live.alerts(job))
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}


@pytest.mark.parametrize("kind", [
    "metadaqif", pytest.param("recif", marks=pytest.mark.slow)])
def test_a_source_that_dies_and_forgets(live: Live, fcf: Simulator, kind: str) -> None:
    source = live.sim(kind, "lost")
    job = live.begin(source, fcf)
    source.die()
    wait_until(lambda: "source-failed:lost" in live.alerts(job))
    source.start()
    wait_until(lambda: "does not know" in live.alerts(job)["source-failed:lost"])
    assert live.status(job)["substate"] == "Acquiring"  # no one but a person ends it
    assert live.call("StopDaq", id=job) == {"id": job, "error": True}
    assert [entry["sourceName"] for entry in live.manifest(job)["sources"]] == ["fcf"]
    assert source.calls(source.starts, job) == 1


def test_a_job_that_is_moved_away_while_it_records(live: Live, fcf: Simulator) -> None:
    spool = live.daq.spool
    job = live.begin(fcf)
    (spool / "acquire" / f"{job}.json").rename(spool / "hold" / f"{job}.json")
    wait_until(lambda: "moved-away" in live.alerts(job))
    assert fcf.ask("GetDaqStatus", id=job)["state"] == "Acquiring"
    (spool / "hold" / f"{job}.json").rename(spool / "acquire" / f"{job}.json")
    wait_until(lambda: "moved-away" not in live.alerts(job))
    (spool / "acquire" / f"{job}.json").rename(spool / "hold" / f"{job}.json")
    live.call("StopDaq", id=job)
    assert live.daq.tree()["hold"] == [job] and "moved-away" in live.alerts(job)
    assert live.manifest(job)["outcome"] == "stopped"
    (spool / "hold" / f"{job}.json").rename(spool / "collect" / f"{job}.json")
    assert live.product(job).exists()
    assert fcf.calls("StartDaq", job) == 1


def test_abort_of_a_job_that_was_moved_away(live: Live, fcf: Simulator) -> None:
    spool = live.daq.spool
    job = live.begin(fcf)
    (spool / "acquire" / f"{job}.json").rename(spool / "hold" / f"{job}.json")
    wait_until(lambda: "moved-away" in live.alerts(job))
    live.call("AbortDaq", id=job)
    assert job in live.daq.tree()["done"] and live.status(job)["substate"] == "Aborted"


def test_a_job_file_that_is_removed_while_it_records_is_put_back(live: Live, fcf: Simulator,
                                                                 ) -> None:
    job = live.begin(fcf)
    path = live.daq.spool / "acquire" / f"{job}.json"
    before = path.read_bytes()
    path.unlink()
    wait_until(lambda: "was removed while it records" in live.told(job))
    wait_until(path.exists)
    assert path.read_bytes() == before
    wait_until(lambda: not live.alerts(job))
    assert job in [now["id"] for now in live.call("GetActiveList")]
    live.call("StopDaq", id=job)
    assert live.product(job).exists()


@pytest.mark.parametrize("command", ["StopDaq", "AbortDaq"])
def test_a_job_whose_file_was_removed_a_moment_ago_moves_on(live: Live, fcf: Simulator,
                                                            command: str) -> None:
    job = live.begin(fcf)
    (live.daq.spool / "acquire" / f"{job}.json").unlink()
    live.call(command, id=job)
    if command == "StopDaq":
        assert live.product(job).exists()
    else:
        assert fcf.ask("GetDaqStatus", id=job)["state"] == "Aborted"
        assert live.status(job)["substate"] == "Aborted" and job in live.daq.tree()["done"]


def test_a_second_copy_beyond_acquire(live: Live, fcf: Simulator) -> None:
    job = live.begin(fcf)
    path = live.daq.spool / "acquire" / f"{job}.json"
    (live.daq.spool / "collect" / f"{job}.json").write_bytes(path.read_bytes())
    live.call("StopDaq", id=job)
    assert live.daq.tree()["bad"] == [job]
    assert live.product(job).exists()


# -- jobs that appear in acquire/ -----------------------------------------------------------------


def test_a_job_dropped_by_hand_starts(live: Live, dcs: Simulator) -> None:
    live.daq.drop("acquire", "dropped", {"sources": [dcs.source()]})
    live.until("dropped", "Acquiring")
    assert live.status("dropped")["fileId"].startswith("TEST.")
    live.call("StopDaq", id="dropped")
    assert live.product("dropped").exists()


def test_queued_and_held_jobs(live: Live, dcs: Simulator) -> None:
    job = live.daq.run("daq-start", "--queue", "--primary", dcs.at()).line()
    live.until(job, "Acquiring")
    live.call("AbortDaq", id=job)
    held = live.daq.run("daq-start", "--hold", "--primary", dcs.at()).line()
    assert live.daq.tree()["hold"] == [held]
    path = live.daq.spool / "hold" / f"{held}.json"
    document = json.loads(path.read_text())
    document["created"] = "2020-01-01T00:00:00.000Z"  # approved long after it was made
    path.write_text(json.dumps(document))
    path.rename(live.daq.spool / "acquire" / f"{held}.json")
    live.until(held, "Acquiring")


def test_a_job_that_comes_too_late(live: Live, dcs: Simulator) -> None:
    sources = [dcs.source()]
    live.daq.drop("acquire", "late", {"sources": sources, "startBy": "2026-01-01T00:00:00Z"})
    live.daq.drop("acquire", "when", {"sources": sources, "startBy": "noon"})
    wait_until(lambda: live.daq.tree().get("failed") == ["late", "when"])
    assert "too late to start" in live.alerts("late")["failed"]
    assert "'noon' is no time" in live.alerts("when")["failed"]
    assert dcs.calls("RecStart", "late") == dcs.calls("RecStart", "when") == 0


def test_a_source_whose_adapter_cannot_be_loaded(daq: Daq) -> None:
    live = Live(daq)
    daq.env["PYTHONPATH"] = str(conformance.package(daq.folder, "broken", broken="nowhere:Source"))
    live.serve()
    source = {"type": "primarySource", "sourceName": "a", "rrUri": "broken:/x"}
    live.daq.drop("acquire", "dropped", {"sources": [source]})
    wait_until(lambda: live.daq.tree().get("failed") == ["dropped"])
    assert "nowhere:Source cannot be loaded" in live.alerts("dropped")["failed"]
    with pytest.raises(rpc.RemoteError, match="nowhere:Source cannot be loaded"):
        live.begin(source)


def test_jobs_that_can_never_start(live: Live, dcs: Simulator) -> None:
    spool = live.daq.spool
    live.daq.drop("acquire", "scheme", {"sources": [
        {"type": "primarySource", "sourceName": "a", "rrUri": "http://127.0.0.1/"}]})
    live.daq.drop("acquire", "shape", {"sources": 5})
    live.daq.drop("acquire", "..x", {"sources": [dcs.source()]})
    live.daq.drop("acquire", "-x", {"sources": [dcs.source()]})
    (spool / "acquire" / "link.json").symlink_to("/etc/passwd")
    (spool / "acquire" / "folder.json").mkdir()
    odd = os.fsencode(spool) + b"/acquire/\xff.json"
    with open(odd, "w") as file:
        file.write("{}")
    wait_until(lambda: live.daq.tree().get("failed") == ["scheme"])
    wait_until(lambda: {"shape", "-x"} <= set(live.daq.tree().get("bad", [])))
    assert "no adapter for the URI scheme 'http'" in live.alerts("scheme")["failed"]
    assert live.daemon.running() and "Traceback" not in live.daemon.err
    assert live.begin(dcs)  # and it still hears what happens
    live.daq.drop("acquire", "after", {"sources": [
        {"type": "fitsFile", "sourceName": "a",
         "location": str(make_fits(live.daq.folder / "after.fits"))}]})
    live.until("after", "NotScheduled")
    (spool / "acquire" / "link.json").unlink()
    (spool / "acquire" / "folder.json").rmdir()


def test_a_half_written_job_is_waited_for(live: Live, fcf: Simulator) -> None:
    text = json.dumps({"sources": [fcf.source()]})
    path = live.daq.spool / "acquire" / "slowly.json"
    path.write_text(text[:20])
    time.sleep(0.5)
    assert live.daq.tree()["acquire"] == ["slowly"]
    path.write_text(text)
    live.until("slowly", "Acquiring")


def test_two_queued_jobs_for_one_detector(live: Live, dcs: Simulator) -> None:
    document = {"sources": [dcs.source()]}
    live.daq.drop("acquire", "first", document)
    live.daq.drop("acquire", "second", document)
    [late] = wait_until(lambda: live.daq.tree().get("failed"))
    [early] = {"first", "second"} - {late}  # both may be found at the same time
    live.until(early, "Acquiring")
    assert f"in use by {early}" in live.alerts(late)["failed"]
    assert live.daq.tree()["failed"] == [late]


def test_an_acquisition_is_not_repeated_under_its_id(live: Live, fcf: Simulator) -> None:
    bad = live.sim("recif", "bad", "--fail", "RecStart=jammed")
    with pytest.raises(rpc.RemoteError):
        live.begin(bad, fcf, id="again")
    spool = live.daq.spool
    for _ in range(2):
        (spool / "failed" / "again.json").rename(spool / "acquire" / "again.json")
        wait_until(lambda: live.daq.tree().get("failed") == ["again"])
    text = live.alerts("again")["failed"]
    assert "jammed" in text and text.count("not repeated under its id") == 1
    assert fcf.calls("StartDaq", "again") == 1


# -- room -----------------------------------------------------------------------------------------


def test_nothing_is_started_without_room_to_record_it(daq: Daq) -> None:
    live = Live(daq, floor={"spool_bytes": 1 << 60})
    live.serve()
    source = f"a@zpb.rr://127.0.0.1:{free_port()}/rec"
    live.ctl("daq.start", source, "").fails(75, f"bytes are free in {daq.spool}",
                                            "cfg/floor/spool_bytes", "free some space")
    assert daq.tree() == {}


def test_a_source_that_talks_nonsense(live: Live) -> None:
    for replies in (None, [], "x", {"id": 5}, {"state": "Acquiring", "files": 5},
                    {"id": "odd", "status": "Completed", "dpFiles": ["relative.fits", 5, "-x:/a",
                                                                     "/a/b.fits"]}):
        with nonsense(live, replies) as uri:
            job = live.id("odd")
            if isinstance(replies, dict) and replies.get("id") == "odd":
                replies["id"] = job
            live.daq.drop("acquire", job, {"sources": [
                {"type": "primarySource", "sourceName": "odd", "rrUri": uri}]})
            on_its_way = ("Stopping", "Stopped")  # one that ended by itself
            wait_until(lambda job=job, way=on_its_way: (now := live.status(job))["error"]
                       and now["substate"] not in way)
            live.call("ForceStopDaq", id=job) if job in live.daq.tree().get("acquire", []) else None
            assert live.status(job)["substate"] == "NotScheduled", live.told(job)
    assert live.manifest(job)["sources"] == [
        {"sourceName": "odd", "files": ["/a/b.fits"], "keywords": []}]
    assert "Traceback" not in live.daemon.err


def nonsense(live: Live, replies: Any) -> Any:
    import asyncio
    import threading
    from contextlib import contextmanager

    from daqlib.rpcserver import Server

    @contextmanager
    def serve() -> Iterator[str]:
        ready, loop = threading.Event(), asyncio.new_event_loop()
        leave = asyncio.Event()
        uri = f"zpb.rr://127.0.0.1:{free_port()}/rec"

        async def answer(**_params: Any) -> Any:
            await asyncio.sleep(0.05)
            return replies

        async def run() -> None:
            commands = dict.fromkeys(("RecStart", "RecStatus", "RecWait", "RecStop"), answer)
            async with Server(uri, {"rec": commands}):
                ready.set()
                await leave.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
        thread.start()
        ready.wait()
        try:
            yield uri
        finally:
            loop.call_soon_threadsafe(leave.set)
            thread.join()
            loop.close()

    return serve()

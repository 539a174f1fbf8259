"""Metadata sources that an acquisition goes on without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daqlib import errors, rpc
from harness import free_port, wait_until
from live import Live, Simulator
from scripted import Script, Stage

pytestmark = [pytest.mark.xdist_group("daq-ctl-optional")]

INITIAL = [{"type": "valueKeyword", "name": "HUMIDITY", "value": -1.0}]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage().running() as made:
        yield made


@pytest.fixture(autouse=True)
def tidy(live: Live) -> Iterator[None]:
    yield
    live.tidy()


def optional(script: Script, **more: Any) -> dict[str, Any]:
    return script.source(optional=True, **more)


def absent(script: Script) -> str:
    return f"source-absent:{script.path}"


def events(live: Live, job: str, source: str) -> list[str]:
    return [told["event"] for told in live.daq.history(job) if told.get("source") == source]


def armed(live: Live, point: str) -> None:
    live.daemon.kill()
    live.serve(env={"DAQ_CRASH": point})


# -- it does not start ----------------------------------------------------------------------------


@pytest.mark.parametrize(("plan", "text"), [
    ("refuse", "StartDaq is refused"), ("hang", "within 5 s"), ("lacks", "does not implement")])
def test_an_exposure_does_without_a_source_that_does_not_start(
        live: Live, stage: Stage, dcs: Simulator, plan: str, text: str) -> None:
    bad, good = stage.metadaqif(StartDaq=plan), stage.metadaqif()
    job = live.begin(dcs, optional(bad, initialKeywords=INITIAL), good.source())
    assert text in live.alerts(job)[absent(bad)]
    assert "goes on without it" in live.alerts(job)[absent(bad)]
    assert live.status(job)["substate"] == "Acquiring" and live.status(job)["error"] is False
    live.crash()  # a later daemon knows it from the log
    live.until(job, "Acquiring")
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    assert [entry["sourceName"] for entry in live.manifest(job)["sources"]] == ["dcs", good.path]
    assert not {"StopDaq", "AbortDaq"} & set(bad.calls) and bad.calls.count("StartDaq") == 1
    assert events(live, job, bad.path) == ["starting", "source-absent"]
    assert list(live.alerts(job)) == [absent(bad)] and live.status(job)["error"] is False
    bad.release()
    from astropy.io import fits
    assert fits.getheader(live.product(job))["HUMIDITY"] == -1.0


def test_a_source_that_nobody_serves(live: Live, dcs: Simulator) -> None:
    gone = {"type": "metadataSource", "sourceName": "gone", "optional": True,
            "rrUri": f"zpb.rr://127.0.0.1:{free_port()}/daq"}
    job = live.begin(dcs, gone)
    assert "nobody answers" in live.alerts(job)["source-absent:gone"]
    assert live.call("AbortDaq", id=job) == {"id": job, "error": False}
    assert events(live, job, "gone") == ["starting", "source-absent"]


def test_a_source_that_begins_late_is_aborted(live: Live, stage: Stage, dcs: Simulator) -> None:
    late = stage.metadaqif(StartDaq="late")
    job = live.begin(dcs, optional(late))
    assert absent(late) in live.alerts(job)
    late.release()
    wait_until(lambda: late.state == "Aborted")
    assert live.status(job)["substate"] == "Acquiring"
    live.call("StopDaq", id=job)
    assert late.calls.count("AbortDaq") == 1 and "StopDaq" not in late.calls


def test_a_later_daemon_aborts_a_source_that_begins_late(live: Live, stage: Stage,
                                                         dcs: Simulator) -> None:
    late = stage.metadaqif(StartDaq="late")
    job = live.begin(dcs, optional(late))
    live.crash()
    late.release()
    wait_until(lambda: late.state == "Aborted")
    wait_until(lambda: "source-aborted" in events(live, job, late.path))
    live.crash()  # what the first one noted of it is no failure of the acquisition
    assert live.until(job, "Acquiring")["error"] is False
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}


def test_a_start_that_fails_for_another_source_fails(live: Live, stage: Stage) -> None:
    late, bad = stage.metadaqif(StartDaq="late"), stage.metadaqif(StartDaq="refuse")
    with pytest.raises(rpc.RemoteError, match=f"source {bad.path} did not start"):
        live.begin(optional(late), bad.source(), id="both")
    assert set(live.alerts("both")) == {absent(late), f"source-failed:{bad.path}", "failed"}
    late.release()
    wait_until(lambda: late.state == "Aborted")


def test_a_source_that_does_not_obey_when_a_start_is_undone(live: Live, stage: Stage) -> None:
    stubborn, bad = stage.metadaqif(AbortDaq="refuse"), stage.metadaqif(StartDaq="refuse")
    with pytest.raises(rpc.RemoteError, match=f"source {bad.path} did not start"):
        live.begin(optional(stubborn), bad.source(), id="undone")
    assert absent(stubborn) in live.alerts("undone")
    assert live.call("AbortDaq", id="undone") == {"id": "undone", "error": True}
    stubborn.plan = {}
    wait_until(lambda: stubborn.state == "Aborted")


# -- it fails later -------------------------------------------------------------------------------


def test_a_source_that_is_lost_while_recording(live: Live, stage: Stage, dcs: Simulator) -> None:
    lost = stage.metadaqif()
    job = live.begin(dcs, optional(lost))
    lost.plan = {"GetDaqStatus": "refuse"}
    wait_until(lambda: absent(lost) in live.alerts(job))
    assert live.status(job)["error"] is False
    lost.plan = {}
    wait_until(lambda: not live.alerts(job))
    live.call("StopDaq", id=job)
    assert events(live, job, lost.path) == ["starting", "started", "stopped"]


@pytest.mark.parametrize("plan", ["refuse", "hang"])
def test_a_source_that_does_not_stop(live: Live, stage: Stage, dcs: Simulator, plan: str) -> None:
    bad = stage.metadaqif(StopDaq=plan)
    job = live.begin(dcs, optional(bad))
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    assert live.status(job)["error"] is False and list(live.alerts(job)) == [absent(bad)]
    assert [entry["sourceName"] for entry in live.manifest(job)["sources"]] == ["dcs"]
    wait_until(lambda: bad.state == "Aborted")  # it would go on for ever
    assert bad.calls.count("StopDaq") == 1
    bad.release()


def test_a_source_whose_keywords_are_not_valid(live: Live, stage: Stage, dcs: Simulator) -> None:
    bad = stage.metadaqif()
    bad.keywords = json.dumps([{"type": "valueKeyword", "name": "lower", "value": 1}])
    job = live.begin(dcs, optional(bad))
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    assert "keywords are not valid" in live.alerts(job)[f"source-remarks:{bad.path}"]
    assert live.status(job)["error"] is False


def test_an_abort_does_not_fail_for_it(live: Live, stage: Stage, dcs: Simulator) -> None:
    bad = stage.metadaqif(AbortDaq="refuse")
    job = live.begin(dcs, optional(bad))
    assert live.call("AbortDaq", id=job) == {"id": job, "error": False}
    assert live.status(job)["substate"] == "Aborted" and list(live.alerts(job)) == [absent(bad)]
    bad.plan = {}
    wait_until(lambda: bad.state == "Aborted")


def test_nothing_but_optional_sources(live: Live, stage: Stage) -> None:
    bad = stage.metadaqif(StartDaq="refuse")
    job = live.begin(optional(bad, initialKeywords=INITIAL))
    assert live.status(job)["substate"] == "Acquiring"
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    assert live.product(job).exists()


# -- the daemon dies ------------------------------------------------------------------------------


@pytest.mark.parametrize(("point", "substate"), [
    ("acquire.starting:1", "Aborting"), ("acquire.starting:2", "Aborting"),
    ("acquire.started", "Acquiring")])
def test_a_death_while_starting(live: Live, stage: Stage, point: str, substate: str) -> None:
    det, good, bad = stage.recif(), stage.metadaqif(), stage.metadaqif(StartDaq="refuse")
    job = live.id("start")
    armed(live, point)
    with pytest.raises(errors.Unavailable):
        live.begin(det.source(), good.source(), optional(bad), id=job)
    live.daemon.wait().died(9)
    live.serve()
    live.until(job, substate)
    assert f"source-failed:{bad.path}" not in live.alerts(job)
    assert absent(bad) in live.alerts(job)
    if substate == "Acquiring":
        assert live.call("StopDaq", id=job) == {"id": job, "error": False}
        assert "StopDaq" not in bad.calls
    else:  # the detector was never commanded: nothing is started late
        wait_until(lambda: live.daq.tree().get("failed") == [job])
        assert "RecStart" not in det.calls
        live.call("AbortDaq", id=job)


def test_a_death_while_it_does_not_answer(live: Live, stage: Stage) -> None:
    good, late = stage.metadaqif(), stage.metadaqif(StartDaq="late")
    job = live.id("late")
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(live.begin, good.source(), optional(late), id=job)
        wait_until(lambda: "StartDaq" in late.calls and good.state == "Acquiring")
        live.daemon.kill()
        with pytest.raises(errors.Unavailable):
            starting.result(60)
    live.serve()
    live.until(job, "Acquiring")
    assert "daq-ctl ended" in live.alerts(job)[absent(late)]
    late.release()
    wait_until(lambda: late.state == "Aborted")
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}


@pytest.mark.parametrize("point", ["acquire.sealed", "acquire.aborted"])
def test_a_death_at_the_end(live: Live, stage: Stage, point: str) -> None:
    good, bad = stage.metadaqif(), stage.metadaqif(StopDaq="refuse", AbortDaq="refuse")
    armed(live, point)
    job = live.begin(good.source(), optional(bad))
    command = "StopDaq" if point == "acquire.sealed" else "AbortDaq"
    with pytest.raises(errors.Unavailable):
        live.call(command, id=job)
    live.daemon.wait().died(9)
    live.serve()
    live.until(job, "NotScheduled" if command == "StopDaq" else "Aborted")
    assert live.status(job)["error"] is False and list(live.alerts(job)) == [absent(bad)]
    assert bad.calls.count(command) == 1


# -- what can be optional -------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "text"), [
    ({"type": "primarySource", "rrUri": "zpb.rr://127.0.0.1:1/rec", "optional": True},
     "metadata sources only"),
    ({"type": "fitsFile", "location": "/data/a.fits", "optional": True}, "metadata sources only"),
    ({"type": "metadataSource", "rrUri": "zpb.rr://127.0.0.1:1/daq", "optional": "yes"},
     "sources/0/optional")])
def test_what_cannot_be_optional(live: Live, source: dict[str, Any], text: str) -> None:
    document = {"id": "refused", "sources": [{"sourceName": "a", **source}]}
    with pytest.raises(rpc.RemoteError, match=text):
        live.call("StartDaqV2", specification=json.dumps(document))
    live.daq.run("daq-start", json.dumps(document)).fails(65, text)
    assert "refused" not in str(live.daq.tree())

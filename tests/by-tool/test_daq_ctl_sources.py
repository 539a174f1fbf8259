"""What daq-ctl does with its sources, one scripted answer at a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from daqlib import rpc
from harness import Daq, wait_until
from live import Live
from scripted import Script, Stage

pytestmark = [pytest.mark.xdist_group("daq-ctl-sources")]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage().running() as made:
        yield made


@pytest.fixture(autouse=True)
def tidy(live: Live) -> Iterator[None]:
    yield
    live.tidy()


def begin(live: Live, *scripts: Script, **members: Any) -> str:
    return live.begin(*(script.source() for script in scripts), **members)


def refused(live: Live, command: str, **params: Any) -> str:
    with pytest.raises(rpc.RemoteError) as caught:
        live.call(command, **params)
    return str(caught.value)


def keyword(name: str, value: object, **more: object) -> dict[str, Any]:
    return {"type": "valueKeyword", "name": name, "value": value, **more}


# -- pause and continue ---------------------------------------------------------------------------


def test_pause_and_continue_act_on_primary_sources(live: Live, stage: Stage) -> None:
    dcs, ccd, fcf = stage.recif(), stage.recif(), stage.metadaqif()
    job = begin(live, dcs, ccd, fcf)
    for _ in range(2):  # again: no harm, and no second request
        assert live.call("PauseDaq", id=job) == {"id": job, "error": False}
    assert (dcs.state, ccd.state, fcf.state) == ("Paused", "Paused", "Acquiring")
    assert live.status(job)["substate"] == "Acquiring"
    live.call("ContinueDaq", id=job)
    assert (dcs.state, ccd.state) == ("Active", "Active")
    assert [dcs.calls.count(name) for name in ("RecPause", "RecContinue")] == [1, 1]
    assert [event for event in live.daq.events(job) if event in ("paused", "continued")] == [
        "paused", "paused", "continued"]
    live.call("StopDaq", id=job)
    assert "PauseDaq is not accepted" in refused(live, "PauseDaq", id=job)


def test_a_source_that_does_not_pause(live: Live, stage: Stage) -> None:
    bad, good = stage.recif(RecPause="refuse"), stage.recif()
    job = begin(live, bad, good)
    text = refused(live, "PauseDaq", id=job)
    assert f"source {bad.path}: RecPause is refused" in text and f"source {good.path}" not in text
    assert live.status(job)["substate"] == "Acquiring" and good.state == "Paused"
    assert "paused" not in live.daq.events(job)
    bad.plan.clear()
    live.call("PauseDaq", id=job)
    assert bad.state == "Paused" and good.calls.count("RecPause") == 1
    live.call("AbortDaq", id=begin(live, meta := stage.metadaqif()))
    job = begin(live, meta)
    assert "no primary source" in refused(live, "PauseDaq", id=job)


def test_an_abort_does_not_wait_for_a_pause_that_hangs(live: Live, stage: Stage) -> None:
    slow = stage.recif(RecPause="hang")
    job = begin(live, slow)
    with ThreadPoolExecutor(1) as pool:
        pausing = pool.submit(refused, live, "PauseDaq", id=job)
        wait_until(lambda: "RecPause" in slow.calls)
        live.call("AbortDaq", id=job)
        assert "overtaken" in pausing.result(60)
    slow.release()
    assert live.status(job)["substate"] == "Aborted" and slow.state == "Aborted"


# -- absolute start, shared sources ---------------------------------------------------------------


def test_an_absolute_start_is_passed_on(live: Live, stage: Stage) -> None:
    dcs, fcf = stage.recif(), stage.metadaqif()
    when = "2030-01-01T00:00:00.000Z"
    live.begin(dcs.source(startTime=when), fcf.source(), id="timed")
    assert dcs.params == {"id": "timed", "startTime": when} and fcf.params == {"id": "timed"}
    for source, text in ((dcs.source(startTime="noon"), "startTime"),
                         (dcs.source(startTime="2030-13-01T00:00:00Z"), "no time"),
                         (dcs.source(startTime=5), "startTime"),
                         (fcf.source(startTime=when), "primary sources only")):
        document = {"id": "untimed", "sources": [source]}
        assert text in refused(live, "StartDaqV2", specification=document)
    assert not (live.daq.spool / "log" / "untimed.jsonl").exists()


def test_a_primary_source_is_shared_only_if_allowed(live: Live, stage: Stage) -> None:
    dcs = stage.recif()
    first = begin(live, dcs)
    second = {"id": live.id(), "sources": [dcs.source()]}
    assert f"in use by {first}" in refused(live, "StartDaqV2", specification=second)
    assert "true or false" in refused(live, "StartDaqV2", specification=second, allow_shared="yes")
    live.call("StartDaqV2", specification=second, allow_shared=True)
    path = live.daq.spool / "acquire" / f"{second['id']}.json"
    assert json.loads(path.read_text())["allowShared"] is True
    third = live.id()
    live.call("StartDaq", id=third, prim_sources=f"a@{dcs.uri}", allow_shared=True)
    queued = live.daq.drop("acquire", "queued", {"sources": [dcs.source()], "allowShared": True})
    live.until("queued", "Acquiring")
    assert queued.exists() and dcs.calls.count("RecStart") == 4
    twice = {"sources": [dcs.source(), {**dcs.source(), "sourceName": "again"}]}
    assert "the same" in refused(live, "StartDaqV2", specification=twice, allow_shared=True)


def test_two_starts_at_the_same_time_cannot_share(live: Live, stage: Stage) -> None:
    dcs = stage.recif()
    def start(number: int) -> str:
        try:
            return begin(live, dcs, id=f"same.{number}")
        except rpc.RemoteError as error:
            return str(error)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(start, range(6)))
    begun = [answer for answer in answers if answer.startswith("same.")]
    assert len(begun) == 1 and all("in use" in text for text in answers if text not in begun)
    assert dcs.calls.count("RecStart") == 1


def test_a_primary_source_is_free_when_it_has_stopped(live: Live, stage: Stage) -> None:
    dcs, slow = stage.recif(), stage.metadaqif(StopDaq="hang")
    first = begin(live, dcs, slow)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(refused, live, "StopDaq", id=first)
        wait_until(lambda: "StopDaq" in slow.calls)
        second = begin(live, dcs)  # the next exposure need not wait for the last one's metadata
        assert live.status(first)["substate"] == "Stopping"
        live.call("AbortDaq", id=first)
        stopping.result(60)
    slow.release()
    assert dcs.state == "Active" and dcs.id == second
    for _ in range(5):  # and when Stopped is published nothing is in its way
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(live.call, "AwaitDaqState", id=second, state="StateAcquiring",
                                  substate="Stopped", timeout=300)
            time.sleep(0.05)
            live.call("StopDaq", id=second)
            assert waiting.result(60)["reached"]
        second = begin(live, dcs)


# -- commands that a source does not have ---------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
def test_an_abort_that_a_source_does_not_implement(live: Live, stage: Stage, missing: bool) -> None:
    bad, good = stage.recif(RecAbort="lacks"), stage.recif()
    if missing:
        stage.without(bad, "RecAbort")
    job = begin(live, bad, good)
    text = refused(live, "AbortDaq", id=job)
    assert f"source {bad.path}: it does not implement RecAbort" in text
    assert f"daq.forceabort {job}" in text and good.path not in text
    assert live.status(job)["substate"] == "Aborting" and good.state == "Aborted"
    assert live.call("ForceAbortDaq", id=job) == {"id": job, "error": True}
    assert live.status(job)["substate"] == "Aborted"
    assert "RecAbort" in live.alerts(job)[f"source-failed:{bad.path}"]


def test_a_pause_and_a_stop_that_a_source_does_not_implement(live: Live, stage: Stage) -> None:
    bad, good = stage.recif(RecPause="lacks", RecStop="lacks"), stage.metadaqif()
    job = begin(live, bad, good)
    assert "it does not implement RecPause" in refused(live, "PauseDaq", id=job)
    assert live.call("StopDaq", id=job) == {"id": job, "error": True}
    assert "it does not implement RecStop" in live.alerts(job)[f"source-failed:{bad.path}"]
    assert [entry["sourceName"] for entry in live.manifest(job)["sources"]] == [good.path]


# -- answers that come late, or twice -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["recif", "metadaqif"])
def test_a_source_that_begins_after_all_is_aborted(live: Live, stage: Stage, kind: str) -> None:
    late = stage.recif(RecStart="late") if kind == "recif" else stage.metadaqif(StartDaq="late")
    job = live.id("late")
    assert "did not reply" in refused(live, "StartDaqV2", specification={
        "id": job, "sources": [late.source()]})
    assert live.daq.tree()["failed"] == [job]
    late.release()
    wait_until(lambda: late.state == "Aborted")
    wait_until(lambda: live.daq.history(job)[-1].get("late"))
    live.call("AbortDaq", id=job)


def test_what_a_source_brought_is_kept_when_a_stop_is_overtaken(live: Live, stage: Stage) -> None:
    quick, slow = stage.recif(), stage.recif(RecStop="hang")
    job = begin(live, quick, slow)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(refused, live, "StopDaq", id=job)
        wait_until(lambda: quick.state == "Stopped" and "RecStop" in slow.calls)
        assert live.call("ForceStopDaq", id=job) == {"id": job, "error": True}
        assert "overtaken" in stopping.result(60)
    assert quick.calls.count("RecStop") == 1
    assert [entry["sourceName"] for entry in live.manifest(job)["sources"]] == [quick.path]
    slow.release()


def test_a_hand_over_that_failed_is_repeated(live: Live, stage: Stage) -> None:
    job = begin(live, stage.metadaqif())
    block = live.daq.spool / "data" / job / "acquire.json"
    block.mkdir(parents=True)
    assert "acquire.json" in refused(live, "StopDaq", id=job)
    assert live.status(job)["substate"] == "Stopped"
    block.rmdir()
    live.until(job, "NotScheduled")
    assert live.daq.events(job).count("sealed") == 1
    assert len(live.manifest(job)["sources"]) == 1


@contextmanager
def unwritable(live: Live, job: str) -> Iterator[None]:
    """Nothing can be recorded of a job, as if the disk were full."""
    log = live.daq.spool / "log" / f"{job}.jsonl"
    aside = log.with_name("aside")
    log.rename(aside)
    log.mkdir()
    try:
        yield
    finally:
        log.rmdir()
        aside.rename(log)


def test_a_start_that_cannot_be_recorded_is_undone(live: Live, stage: Stage) -> None:
    source, job = stage.recif(RecStart="late"), live.id("unrecorded")
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(refused, live, "StartDaqV2", specification={
            "id": job, "sources": [source.source()]})
        wait_until(lambda: "RecStart" in source.calls)
        with unwritable(live, job):
            source.release()
            assert f"{job}.jsonl" in starting.result(60)
            wait_until(lambda: source.state == "Aborted")
    wait_until(lambda: live.daq.tree().get("failed") == [job])
    assert "could not be recorded" in live.alerts(job)["failed"]


def test_an_abort_that_cannot_be_recorded_changes_nothing(live: Live, stage: Stage) -> None:
    source = stage.recif()
    job = begin(live, source)
    with unwritable(live, job):
        text = refused(live, "AbortDaq", id=job)
        assert "nothing was aborted" in text and f"daq.forceabort {job}" in text
        assert source.state == "Active"
    source.complete()  # which is noticed: it is watched still
    live.until(job, "NotScheduled")


def test_an_automatic_stop_goes_on_after_an_abort_that_cannot_be_recorded(
        daq: Daq, stage: Stage) -> None:
    live = Live(daq, request_timeout_sec=60.0)  # the stop must not come to an end of its own
    live.serve()
    source, slow = stage.recif(), stage.metadaqif(StopDaq="hang", GetDaqStatus="hang")
    job = begin(live, source, slow)
    source.complete()
    live.until(job, "Stopping")
    wait_until(lambda: "stopped" in live.daq.events(job))  # the other one is being asked
    with unwritable(live, job):
        assert "nothing was aborted" in refused(live, "AbortDaq", id=job)
    slow.plan.clear()
    slow.release()
    live.until(job, "NotScheduled")


def test_an_abort_whose_end_cannot_be_recorded_is_repeated(
        live: Live, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stage.metadaqif()
    job = begin(live, source)
    with ExitStack() as full:
        def obey(name: str, _params: object) -> None:
            if name == "AbortDaq":  # before its answer is under way
                source.state = "Aborted"
                full.enter_context(unwritable(live, job))

        monkeypatch.setattr(source, "_obey", obey)
        text = refused(live, "AbortDaq", id=job)
        assert "the sources were aborted, which cannot be recorded" in text
        assert f"daq.abort {job}" in text
    assert live.status(job)["substate"] == "Aborting" and source.state == "Aborted"
    assert live.call("AbortDaq", id=job) == {"id": job, "error": False}
    assert live.status(job)["substate"] == "Aborted"


def test_a_forced_abort_ends_the_sources_even_if_it_cannot_be_recorded(live: Live, stage: Stage,
                                                                       ) -> None:
    source, other = stage.recif(), stage.metadaqif(AbortDaq="refuse")
    job = begin(live, source, other)
    with unwritable(live, job):
        for _ in range(2):
            text = refused(live, "ForceAbortDaq", id=job)
            assert "not every source aborted" in text and "cannot be recorded" in text
            assert f"source {other.path}: AbortDaq is refused" in text
            assert source.state == "Aborted"
    live.until(job, "Aborted")  # by itself, and not as an acquisition whose source has ended
    assert "Stopping" not in live.told(job)
    assert live.daq.events(job).count("aborted") == 1


# -- waiting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "bad"])
def test_who_waits_for_a_job_that_vanishes_is_told_so(live: Live, stage: Stage, place: str) -> None:
    job = begin(live, stage.metadaqif())
    live.call("StopDaq", id=job)
    path = live.daq.spool / "collect" / f"{job}.json"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(refused, live, "AwaitDaqState", id=job, state="StateCompleted",
                              substate="Completed", timeout=300)
        time.sleep(0.3)
        assert not waiting.done()
        path.rename(live.daq.spool / place / path.name) if place else path.unlink()
        assert "in no stage any more" in waiting.result(60)
    assert "in no stage any more" in refused(live, "AwaitDaqState", id=job, timeout=300,
                                             state="StateCompleted", substate="Completed")
    assert job not in [now["id"] for now in live.call("GetActiveList")]


# -- what the disk is asked for -------------------------------------------------------------------


def test_a_group_of_sources_costs_one_append(daq: Daq, stage: Stage) -> None:
    live = Live(daq)
    trace = daq.folder / "trace"
    live.serve(env={"DAQ_CRASH_TRACE": str(trace)})
    def appends() -> int:
        counted = trace.read_text().count("append.written:") if trace.exists() else 0
        trace.write_text("")
        return counted
    appends()
    job = begin(live, *(stage.recif() for _ in range(8)), *(stage.metadaqif() for _ in range(8)))
    assert appends() == 3
    live.call("UpdateKeywords", id=job, keywords=[keyword("A", 1)])
    assert appends() == 1
    live.call("StopDaq", id=job)
    assert appends() == 3
    job = begin(live, *(stage.recif() for _ in range(8)))
    appends()
    live.call("AbortDaq", id=job)
    assert appends() == 2


# -- keywords -------------------------------------------------------------------------------------


def test_keywords_that_no_card_can_hold(live: Live, stage: Stage) -> None:
    foreign = {"type": "esoKeyword", "name": "OBS NAME", "value": "caf\u00e9"}
    structural = keyword("NAXIS", 7)
    fcf = stage.metadaqif()
    document = {"id": "foreign", "sources": [fcf.source(initialKeywords=[foreign])],
                "keywords": [keyword("GOOD", 1), structural]}
    text = refused(live, "StartDaqV2", specification=document)
    assert "OBS NAME" in text and "NAXIS" in text and "2 of 3 keywords" in text
    assert fcf.calls == [] and not (live.daq.spool / "log" / "foreign.jsonl").exists()
    job = begin(live, fcf)
    before = live.daq.history(job)
    text = refused(live, "UpdateKeywords", id=job, keywords=[keyword("A", 1), foreign])
    assert "OBS NAME" in text
    assert live.daq.history(job) == before
    fcf.keywords = json.dumps([foreign])
    assert live.call("StopDaq", id=job) == {"id": job, "error": True}
    assert "OBS NAME" in live.alerts(job)[f"source-keywords:{fcf.path}"]
    assert live.product(job).exists()


# -- dictionaries ---------------------------------------------------------------------------------

DICTIONARY = """\
header: !cfg.type:DidHeader
  name: test.did.yaml
  scope: test
  description: For a test.
EXPTIME: !cfg.type:DidDoubleKey
  comment: "[s] Exposure"
  description: Length of the exposure.
  format: "%.3f"
OBSERVER: !cfg.type:DidStringKey
  comment: Who observes
  description: Name of the observer.
"""


def test_keywords_comply_with_the_dictionaries(daq: Daq, stage: Stage) -> None:
    (daq.folder / "test.did.yaml").write_text(DICTIONARY)
    daq.env["CFGPATH"] = str(daq.folder)
    live = Live(daq, dictionaries=["test.did.yaml"])
    live.serve()
    fcf = stage.metadaqif()
    wrong = [keyword("EXPTIME", "long"), keyword("NOBODY", 1)]
    document = {"id": "strict", "sources": [fcf.source()], "keywords": wrong}
    text = refused(live, "StartDaqV2", specification=document)
    assert "EXPTIME" in text and "NOBODY" in text
    text = refused(live, "StartDaq", id="strict", meta_sources=f"a@{fcf.uri}",
                   properties=json.dumps({"keywords": wrong}))
    assert "EXPTIME" in text and os.listdir(daq.spool / "log") == [] and fcf.calls == []
    live.call("StartDaqV2", specification={**document, "keywords": [keyword("EXPTIME", 2)]})
    made = json.loads((daq.spool / "acquire" / "strict.json").read_text())
    assert made["keywords"] == [keyword("EXPTIME", 2.0, comment="[s] Exposure", format="%.3f")]
    before = daq.history("strict")
    assert "NOBODY" in refused(live, "UpdateKeywords", id="strict",
                               keywords=[keyword("OBSERVER", "me"), keyword("NOBODY", 1)])
    assert daq.history("strict") == before
    live.call("UpdateKeywords", id="strict", keywords=[keyword("OBSERVER", "me")])
    [told] = daq.history("strict")[-1]["keywords"]
    assert (told["name"], told["comment"]) == ("OBSERVER", "Who observes")
    fcf.keywords = json.dumps(wrong)
    assert live.call("StopDaq", id="strict") == {"id": "strict", "error": True}
    text = live.alerts("strict")[f"source-keywords:{fcf.path}"]
    assert "keywords are not valid" in text and "NOBODY" in text
    assert live.manifest("strict")["sources"] == [
        {"sourceName": fcf.path, "files": [], "keywords": []}]
    daq.drop("acquire", "dropped", {"sources": [stage.metadaqif().source()], "keywords": wrong})
    wait_until(lambda: daq.tree().get("failed") == ["dropped"])
    assert "NOBODY" in live.alerts("dropped")["failed"]

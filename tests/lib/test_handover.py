"""daqlib.handover and what the history tells of two hosts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daq_start import importing
from daqlib import abort, config, errors, farhost, handover, history, spool, status
from harness import PATIENCE_S, make_spool

TO = "dhs:/data/spool"


@pytest.fixture
def on(tmp_path: Path) -> spool.Spool:
    """A spool."""
    return spool.Spool(str(make_spool(tmp_path / "spool")), "test", TO)


def event(name: str, **facts: Any) -> dict[str, Any]:
    return {"event": name, "stage": "collect", **facts}


SENDING, SENT = event("handing-over", to=TO), event("handed-over", to=TO, farEnd=7)
REFUSED = event("handing-over", to=TO, refused=True)
ELSEWHERE = event("handing-over", to="b:/s")
OURS, THEIRS = event("start"), event("start", far=TO, farEnd=9)
TRY = event("start", role=history.HAND_OVER)


@pytest.mark.parametrize(("events", "found"), [
    ([], None), ([TRY], None), ([SENDING], SENDING), ([SENDING, REFUSED], None),
    ([SENDING, SENT], SENT), ([SENDING, SENT, SENDING], SENT),
    ([SENDING, SENT, SENDING, REFUSED], SENT), ([SENT, ELSEWHERE], ELSEWHERE),
    ([SENT, TRY], SENT), ([SENT, THEIRS], SENT), ([SENT, OURS], None),
    ([SENDING, event("received")], None), ([SENT, event("ok", to="remote")], SENT)])
def test_who_has_the_job(events: list[history.Event], found: history.Event | None) -> None:
    assert history.handed_over(events) == found


def test_what_is_known_of_the_other_log() -> None:
    said = event("state", far=TO, farEnd=20, substate="Merging", place="merge", result="")
    assert history.far_end([]) == 0
    assert history.far_end([SENT, THEIRS, said, event("ok")]) == 20
    assert history.far_state([SENT, said]) == said
    # it begins anew there, unless it was known there
    assert history.far_state([SENT, said, SENT]) is None
    assert history.far_state([SENT, said, {**SENT, "known": True}]) == said
    assert history.far_end([SENT, said, SENT]) == 7


def test_tries_of_another_host_are_not_ours() -> None:
    events = [TRY, SENDING, SENT, THEIRS, THEIRS]
    assert history.tries(events, "collect") == 0
    assert history.tries(events, "collect", far=True) == 2
    assert history.tries([TRY, event("received")], "collect") == 0
    assert history.outages([event("defer", counts=False, far=TO)], "collect") == 0


@pytest.mark.parametrize(("location", "moved"), [
    ("/d/a.fits", "ins:/d/a.fits"), (":/d/a.fits", "ins:/d/a.fits"), ("/d/a:b", "ins:/d/a:b"),
    ("x:/d/a", "x:/d/a"), ("dhs:/d/a", "/d/a"), ("u@dhs:/d/a", "u@dhs:/d/a"),
    ("rsync://x/m/a", "rsync://x/m/a")])
def test_locations(location: str, moved: str) -> None:
    assert handover.relocated(location, "ins", "dhs") == moved


def test_states(on: spool.Spool) -> None:
    def now(place: str, *events: history.Event) -> str:
        return status.substate_of(on, "j", place, list(events), watched=True)

    def said(substate: str) -> history.Event:
        return event("state", far=TO, farEnd=9, substate=substate, place="x", result="")

    assert now("collect") == now("collect", TRY) == "NotScheduled"
    assert now("remote", SENT) == now("remote", SENT, said("NotScheduled")) == "Scheduled"
    assert now("remote", SENT, said("Merging")) == "Merging"
    assert now("remote", SENT, said("Merging"), event("abort-requested")) == "Aborting"
    assert now("done", SENT, said("Completed")) == "Completed"
    gone = event("aborted")
    assert now("done", SENT, gone) == now("done", SENT, gone, THEIRS, said("Merging")) == "Aborted"
    assert now("done", SENT, gone, said("Completed")) == "Completed"
    assert "Collecting" not in status.reached(on, "j", "collect", [TRY], "NotScheduled")
    assert status.left_stage([event("ok", to="remote")]) == "collect"


def job(on: spool.Spool, place: str = "remote", *, sent: bool = True) -> None:
    Path(on.job_path(place, "j")).write_text("{}")
    if sent:
        on.log("j", "handed-over", stage="collect", to=TO, farEnd=7, request="r")


def test_news_are_recorded_once(on: spool.Spool) -> None:
    job(on)
    said = {"id": "j", "end": 40, "events": [[20, {"event": "start", "stage": "collect"}],
                                             [40, {"event": "ok", "stage": "collect"}]],
            "state": {"substate": "Merging", "place": "merge", "result": "", "time": "", "by": ""}}
    for _ in range(3):
        handover.heard(on, TO, said)
    assert [e["event"] for e in on.events("j")] == ["handed-over", "start", "ok", "state"]
    assert handover.question(on, ["j"]) == {"j": 40}
    handover.heard(on, "other:/s", {**said, "end": 50, "events": [[50, {"event": "x"}]]})
    assert len(on.events("j")) == 4


@pytest.mark.parametrize("said", [
    {}, {"id": 1}, {"id": "../x"}, {"id": "k"}, {"id": "j"}, {"id": "j", "events": 1},
    {"id": "j", "events": [1, [2], [3, 4], ["a", {}], [9, {"event": 1}]]},
    {"id": "j", "state": 1, "end": 9}, {"id": "j", "state": {"substate": 1}, "end": 9},
    {"id": "j", "state": {"substate": "x", "place": "done", "result": ""}, "end": "9"},
    {"id": "j", "state": {"substate": "x", "place": "done", "result": ""}, "end": 3}])
def test_nonsense_is_passed_over(on: spool.Spool, said: dict[str, Any]) -> None:
    job(on)
    handover.heard(on, TO, said)
    assert [e["event"] for e in on.events("j")] == ["handed-over"]
    assert on.place("j") == "remote"


def test_an_abort_leaves_to_the_other_host_what_it_may_have(on: spool.Spool) -> None:
    job(on, "collect", sent=False)
    on.log("j", "handing-over", stage="collect", to=TO, request="r")
    assert abort.finish(on, "j", "collect") == "remote"
    assert history.abort_requested(on.events("j")) and handover.is_abort_due(on, "j")
    with pytest.raises(errors.Unavailable):
        abort.abort(on, "j")
    abort.abort(on, "j", force=True)
    assert on.place("j") == "done" and handover.followed(on) == {"j": TO}
    Path(on.log_path("j")).unlink()
    assert handover.followed(on) == {} and list(Path(on.path("remote")).iterdir()) == []


def test_how_old_the_news_are(on: spool.Spool) -> None:
    assert handover.last_contact(on, TO) == (0.0, "")
    handover.contacted(on, TO, "down")
    assert handover.last_contact(on, TO) == (0.0, "down")
    handover.contacted(on, TO)
    heard, trouble = handover.last_contact(on, TO)
    assert heard > 0 and trouble == ""
    handover.contacted(on, TO, "down")
    assert handover.last_contact(on, TO) == (heard, "down")
    Path(handover.contact_path(on, TO)).write_text("[")
    assert handover.last_contact(on, TO) == (0.0, "")


def test_the_command_is_quoted_for_the_shell_there(tmp_path: Path) -> None:
    made = farhost.command(config.Config(), "u@dhs:/data/a b;$(x)")
    assert made[0] == "ssh" and "BatchMode=yes" in made
    assert made[-2:] == ["u@dhs", "daq-start --import --spool '/data/a b;$(x)'"]
    settings = config.Config({**config.DEFAULTS, "ssh_config": str(tmp_path / "none")})
    with pytest.raises(errors.BadConfig, match="no such file"):
        farhost.command(settings, TO)


def test_refusals_say_whose_fault_it_was() -> None:
    kinds = {65: errors.BadData, 66: errors.NoJob, 73: errors.Conflict, 75: errors.Patience,
             78: errors.Patience, None: errors.Patience}
    for code, kind in kinds.items():
        found = farhost.refusal({"ok": False, "code": code, "error": "why"}, TO)
        assert type(found) is kind and f"{TO}: why" in str(found)
    assert json.loads(history.relayed({"event": "x", "far": "a:/b"}, TO, 3)) == {
        "event": "x", "far": TO, "farEnd": 3}


_WORKER = """
import sys, time
from daqlib.spool import Spool
assert Spool(sys.argv[1], "test").lock("j", "collect") is not None
print("at work", flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_an_abort_from_the_other_host_ends_the_worker_before_it_waits_for_it(
        on: spool.Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    on.log("j", "received", stage="collect", request="r", **{"from": "ins"})
    Path(on.job_path("collect", "j")).write_text("{}")
    monkeypatch.setattr(importing, "_BUSY_PATIENCE", 10 * PATIENCE_S)
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, on.root, str(PATIENCE_S)],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout and worker.stdout.readline() == "at work\n"
        request = {"do": "abort", "id": "j", "from": "ins", "request": "r"}
        assert importing.end(on, config.Config(), request)["ok"]
        assert worker.wait(PATIENCE_S) == -signal.SIGTERM
    finally:
        worker.kill()
        worker.communicate()
    assert on.places("j") == ["done"]

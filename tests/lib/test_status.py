from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from daqlib import alerts, fsops, history, status
from daqlib.spool import Spool
from harness import make_spool


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    return Spool(str(make_spool(tmp_path / "spool")), "test")


def drop(on: Spool, place: str) -> None:
    Path(on.job_path(place, "j")).write_text("{}")


def state(on: Spool, **more: Any) -> tuple[str, str]:
    made = status.derive(on, "j", **more)
    assert made is not None
    return made["state"], made["substate"]


# -- the table of the states, row by row -----------------------------------------------------------


def test_acquire_without_an_event(on: Spool) -> None:
    drop(on, "acquire")
    assert state(on) == ("StateAcquiring", "NotStarted")


@pytest.mark.parametrize("substate", ["NotStarted", "Starting", "Acquiring", "Stopping", "Stopped",
                                      "Aborting"])
def test_acquire_follows_the_last_state_event(on: Spool, substate: str) -> None:
    drop(on, "acquire")
    on.log("j", "state", stage="acquire", substate="Starting")
    on.log("j", "state", stage="acquire", substate=substate)
    assert state(on) == ("StateAcquiring", substate)


def test_collect_without_a_watcher(on: Spool) -> None:
    drop(on, "collect")
    assert state(on) == ("StateMerging", "NotScheduled")


def test_collect_with_a_watcher(on: Spool) -> None:
    drop(on, "collect")
    fd = fsops.lock(on.path("lock", ".watch"))
    assert fd is not None
    assert state(on) == ("StateMerging", "Scheduled")
    assert state(on, watched=False) == ("StateMerging", "NotScheduled")
    os.close(fd)
    assert state(on) == ("StateMerging", "NotScheduled")


@pytest.mark.parametrize("watched", [True, False])
def test_collect_at_work(on: Spool, watched: bool) -> None:
    drop(on, "collect")
    fd = on.lock("j", "collect")
    assert fd is not None
    assert state(on, watched=watched) == ("StateMerging", "Collecting")
    os.close(fd)


def test_a_holder_who_does_not_say_what_it_does(on: Spool) -> None:
    """Before it has written that into the lock, and on a full disk."""
    drop(on, "collect")
    lock = fsops.lock(on.lock_path("j"))
    assert lock is not None
    assert state(on) == ("StateMerging", "NotScheduled")
    for role, substate in ((history.HAND_OVER, "NotScheduled"), (None, "Collecting")):
        on.log("j", "start", stage="collect", role=role)
        assert state(on) == ("StateMerging", substate)
    os.close(lock)


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize(("place", "substate"), [("merge", "Merging"), ("release", "Releasing")])
def test_merge_and_release(on: Spool, place: str, substate: str, busy: bool) -> None:
    drop(on, place)
    fd = on.lock("j", place) if busy else None
    assert state(on) == ("StateMerging", substate)
    if fd is not None:
        os.close(fd)


def test_done(on: Spool) -> None:
    drop(on, "done")
    assert state(on) == ("StateCompleted", "Completed")
    on.log("j", "aborted")
    assert state(on) == ("StateCompleted", "Aborted")
    on.log("j", "start", stage="merge")
    assert state(on) == ("StateCompleted", "Completed"), "run again after the abort"


@pytest.mark.parametrize("place", ["failed", "hold"])
@pytest.mark.parametrize(("event", "stage", "substate"), [
    ("start", "collect", "NotScheduled"), ("start", "merge", "Merging"),
    ("fail", "release", "Releasing"), ("ok", "collect", "Merging"), ("ok", "merge", "Releasing"),
    ("state", "acquire", "NotStarted"), ("ok", "acquire", "NotScheduled")])
def test_a_resting_job_shows_the_stage_that_it_left(
        on: Spool, place: str, event: str, stage: str, substate: str) -> None:
    drop(on, place)
    on.log("j", event, stage=stage, substate="NotStarted" if event == "state" else None)
    made = status.derive(on, "j")
    assert made is not None
    assert made["substate"] == substate
    assert made["error"] is (place == "failed")
    (alert,) = json.loads(made["message"])
    assert (alert["id"], alert["severity"]) == (("failed", "error") if place == "failed"
                                                else ("held", "info"))


@pytest.mark.parametrize("place", ["collect", "merge", "release", "failed", "hold"])
def test_an_abort_that_is_pending(on: Spool, place: str) -> None:
    drop(on, place)
    on.log("j", "start", stage="merge")
    on.log("j", "abort-requested")
    assert state(on) == ("StateMerging", "Aborting")


def test_an_unknown_job(on: Spool) -> None:
    assert status.derive(on, "j") is None


def test_a_job_known_by_its_log_only(on: Spool) -> None:
    """Its file was deleted: what is known of it is shown."""
    on.log("j", "submitted", fileId="F.1")
    on.log("j", "fail", stage="merge", reason="x")
    made = status.derive(on, "j")
    assert made is not None
    assert (made["substate"], made["fileId"], made["message"]) == ("Merging", "F.1", "[]")


# -- the document ----------------------------------------------------------------------------------


def test_the_document_has_the_keys_of_the_interface(on: Spool) -> None:
    drop(on, "release")
    on.log("j", "submitted", fileId="F.1", stage="collect")
    on.log("j", "alert", stage="merge", **alerts.make("datasum", "a", "damaged"))
    Path(on.data_path("j")).mkdir()
    Path(on.data_path("j", "merge.json")).write_text(json.dumps({"result": {"product": "F.fits"}}))
    made = status.derive(on, "j")
    assert made is not None
    assert list(made) == ["id", "fileId", "state", "substate", "error", "message", "result",
                          "timestamp"]
    assert made["fileId"] == "F.1"
    assert made["error"] is True
    assert made["result"] == on.path("result", "F.fits")
    (alert,) = json.loads(made["message"])
    assert set(alert) == {"id", "severity", "description", "timestamp"}
    assert made["timestamp"] == pytest.approx(alert["timestamp"], abs=0.01)


def test_a_job_without_a_log_shows_its_mtime(on: Spool) -> None:
    drop(on, "merge")
    os.utime(on.job_path("merge", "j"), (5.0, 5.0))
    made = status.derive(on, "j")
    assert made is not None
    assert (made["timestamp"], made["result"], made["fileId"]) == (5.0, "", "")


# -- awaiting --------------------------------------------------------------------------------------


def event(name: str, stage: str = "", **more: str) -> dict[str, Any]:
    return {"event": name, "stage": stage, **more}


def answer(on: Spool, place: str, events: list[dict[str, Any]], wanted: str) -> bool | None:
    """Whether ``wanted`` (state/substate) is reached, with the job in a place."""
    made = status.of(on, "j", place, events, watched=True)
    been = status.reached(on, "j", place, events, made["substate"])
    first, _, second = wanted.partition("/")
    return status.await_answer(made, been, first, second)


START = [event("state", "acquire", substate="Acquiring")]
DONE = [*START, event("ok", "acquire"), event("start", "collect"), event("ok", "collect"),
        event("start", "merge"), event("ok", "merge"), event("start", "release"),
        event("ok", "release", to="done")]


@pytest.mark.parametrize(("place", "events", "wanted", "expected"), [
    ("acquire", START, "StateAcquiring", True),
    ("acquire", START, "StateAcquiring/Starting", True),
    ("acquire", START, "StateAcquiring/Acquiring", True),
    ("acquire", START, "StateAcquiring/Stopping", None),
    ("acquire", START, "StateMerging", None),
    ("acquire", START, "StateCompleted/Aborted", None),
    ("collect", START, "StateMerging/Scheduled", True),
    ("collect", START, "StateMerging/Merging", None),
    # a retry after the operator moved it back never undoes what was reached
    ("collect", DONE[:5], "StateMerging/Merging", True),
    ("collect", DONE[:5], "StateMerging/Releasing", None),
    ("failed", DONE[:5], "StateMerging/Merging", True),
    ("release", DONE[:6], "StateMerging/Releasing", True),
    ("release", DONE[:6], "StateAcquiring/Stopped", True),
    ("done", DONE, "StateCompleted", True),
    ("done", DONE, "StateMerging/Collecting", True),
    ("done", DONE, "StateCompleted/Aborted", False),
    ("done", DONE, "StateAcquiring/Aborting", False),
    ("done", [*START, event("aborted")], "StateCompleted/Aborted", True),
    ("done", [*START, event("aborted")], "StateCompleted", True),
    ("done", [*START, event("aborted")], "StateMerging/Merging", False),
    ("merge", [*DONE[:5], event("abort-requested")], "StateMerging/Releasing", False),
    ("merge", [*DONE[:5], event("abort-requested")], "StateCompleted/Aborted", None),
    ("merge", [*DONE[:5], event("abort-requested")], "StateMerging/Collecting", True),
])
def test_awaiting(on: Spool, place: str, events: list[dict[str, Any]], wanted: str,
                  expected: bool | None) -> None:
    assert answer(on, place, events, wanted) is expected


def test_every_substate_has_a_state() -> None:
    for substate in (*status.STATE_OF, *status.ABORT_STATE_OF):
        assert status.state_of(substate) in ("StateAcquiring", "StateMerging", "StateCompleted")
    assert status.state_of("Aborting", "merge") == "StateMerging"
    assert status.state_of("nonsense") == "StateUndefined"


def test_the_hand_over_is_not_collecting(on: Spool) -> None:
    """daq-ctl holds the lock until its move into collect/ is durable."""
    drop(on, "collect")
    for stage, substate in (("acquire", "NotScheduled"), ("collect", "Collecting")):
        lock = on.lock("j", stage)
        assert lock is not None
        assert state(on) == ("StateMerging", substate)
        os.close(lock)

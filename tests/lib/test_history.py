from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daqlib import clock, history


def events(*names: str, stage: str = "merge") -> list[history.Event]:
    """Events by name; ``name@stage`` for another stage."""
    made = []
    for name in names:
        event, _, where = name.partition("@")
        made.append({"event": event, "stage": where or stage})
    return made


@pytest.mark.parametrize(("names", "count"), [
    ([], 0),
    (["submitted@collect"], 0),
    (["start"], 1),
    (["start", "start"], 2),
    (["start", "defer"], 1),
    (["start", "defer", "start", "defer", "start"], 3),
    (["start", "killed"], 1),
    (["killed"], 1),
    (["start", "killed", "killed"], 2),
    (["defer", "defer"], 2),
    (["start", "interrupted"], 0),
    (["start", "edited"], 0),
    (["start", "moved-away"], 0),
    (["start", "start", "interrupted"], 1),
    (["start", "defer", "interrupted"], 1),
    (["interrupted"], 0),
    (["start", "overtime", "defer"], 1),
    (["start", "ok"], 0),
    (["start", "fail"], 0),
    (["start", "ok", "start"], 1),
    (["start", "fail", "start", "defer"], 1),
    (["start", "abort-requested", "aborted"], 0),
    (["start", "aborted", "start"], 1),
    (["start@collect", "start"], 1),
    (["start@collect", "defer@collect", "start", "interrupted@collect"], 1),
    (["start", "ok@collect", "start"], 1),
])
def test_counts_tries(names: list[str], count: int) -> None:
    assert history.tries(events(*names), "merge") == count


@pytest.mark.parametrize(("names", "asked"), [
    ([], False), (["abort-requested"], True), (["abort-requested", "aborted"], False),
    (["abort-requested", "aborted", "start"], False),
    (["aborted", "abort-requested"], True),
])
def test_knows_whether_an_abort_is_pending(names: list[str], asked: bool) -> None:
    assert history.abort_requested(events(*names)) is asked


def test_a_job_that_ended_before_it_was_aborted_may_run_again() -> None:
    assert not history.abort_requested(
        [*events("abort-requested"), {"event": "ok", "stage": "release", "to": "done"}])
    assert history.abort_requested(
        [*events("abort-requested"), {"event": "ok", "stage": "merge", "to": "release"}])


def test_finds_the_last_of_some_names() -> None:
    found = [{"event": "a", "n": 1, "stage": "x"}, {"event": "b", "n": 2}, {"event": "a", "n": 3}]
    assert history.last(found, "a") == found[2]
    assert history.last(found, "a", "b", stage="x") == found[0]
    assert history.last(found, "c") is None


def test_the_first_file_id_counts() -> None:
    found: list[dict[str, Any]] = [
        {"event": "start", "fileId": "no"}, {"event": "accepted", "fileId": ""},
        {"event": "submitted", "fileId": "one"}, {"event": "accepted", "fileId": "two"}]
    assert history.file_id(found) == "one"
    assert history.file_id([]) == ""


def test_an_event_comes_back_as_it_was_written(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    before = clock.now()
    history.append(log, "start", "daq-merge", stage="merge", reason="é\n\"", left=None,
                   **{"try": 2})
    (event,) = history.read(log)
    assert (event["event"], event["by"], event["stage"], event["try"]) == (
        "start", "daq-merge", "merge", 2)
    assert event["reason"] == 'é\n"'
    assert "left" not in event
    assert event["time"].endswith("Z")
    assert before - 0.002 <= history.seconds(event) <= clock.now()
    assert Path(log).read_bytes().count(b"\n") == 1


def test_unknown_events_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        history.encode("begun", "daq-x", {})


def test_torn_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    good = json.dumps({"event": "ok"}).encode()
    log.write_bytes(b'{"event": "sta\n' + good + b'\n[1]\n{"no": 1}\nnull\n\n\xff\xfe\n'
                    + good + b'\n{"event": "st')
    assert history.read(str(log)) == [{"event": "ok"}] * 2
    assert history.read(str(tmp_path / "none")) == []


def test_times_without_sense_are_zero() -> None:
    for time in ("", "now", "2026-13-40T00:00:00Z", None):
        assert history.seconds({"event": "ok", "time": time}) == 0.0


def test_clock_reads_what_it_writes() -> None:
    for moment in (0.0, 1795228200.123, 1795228200.0):
        assert clock.from_iso(clock.iso(moment)) == pytest.approx(moment, abs=0.0011)
    assert clock.iso(1795228200.9999) == "2026-11-21T02:30:00.999"
    assert clock.iso(1795228200.9999, 0) == "2026-11-21T02:30:00"
    assert clock.from_iso("2026-11-21T02:30:00Z") == 1795228200.0
    with pytest.raises(ValueError, match="time data"):
        clock.from_iso("yesterday")


def test_header_time_can_be_held_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12")
    assert clock.header_time() == 12.0
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    assert clock.header_time() == pytest.approx(clock.now(), abs=5)


def test_a_host_that_was_down_is_no_try() -> None:
    down = {"event": "defer", "stage": "merge", "counts": False}
    before = [*events("start", "defer", "start"), down, *events("start"), down]
    assert history.tries(before, "merge") == 1
    assert history.outages(before, "merge") == 2
    assert history.outages(before, "collect") == 0
    assert history.outages([*before, *events("ok")], "merge") == 0

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


@pytest.mark.parametrize("line", [
    "7", "[]", "{}", '{"event": 7}', '{"event": "state"}', '{"event": "keywords", "keywords": {}}',
    '{"event": "defer", "until": "soon"}', '{"event": "defer", "until": NaN}',
    '{"event": "defer", "until": 1e999}', '{"event": "defer", "until": 1e300}',
    '{"event": "defer", "until": -1}', '{"event": "x", "a": %s}' % ("[" * 100_000 + "]" * 100_000),
])
def test_what_makes_no_sense_is_no_event(line: str) -> None:
    assert history.parse(line.encode()) is None


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


@pytest.mark.parametrize("line", [
    '{"event": ["start"]}', '{"event": null}', '{"event": "state"}',
    '{"event": "state", "substate": 1}', '{"event": "keywords"}',
    '{"event": "keywords", "keywords": {}}'])
def test_lines_that_say_nothing_are_skipped(tmp_path: Path, line: str) -> None:
    log = tmp_path / "j.jsonl"
    history.append(str(log), "start", "test")
    with log.open("a") as file:
        file.write(f"{line}\n")
    history.append(str(log), "ok", "test")
    assert [event["event"] for event in history.read(str(log))] == ["start", "ok"]
    assert [event["event"] for event in history.Reader(str(log)).look()] == ["start", "ok"]


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


def test_several_events_in_one_append(tmp_path: Path) -> None:
    path = str(tmp_path / "j.jsonl")
    history.append(path, "state", "test", substate="Starting")
    history.append_all(path, "test", [("starting", {"source": "a"}), ("starting", {"source": "b"}),
                                      ("state", {"substate": "Acquiring", "reason": None})])
    events = history.read(path)
    assert [event["event"] for event in events] == ["state", "starting", "starting", "state"]
    assert [event.get("source") for event in events] == [None, "a", "b", None]
    assert "reason" not in events[-1]


def test_a_torn_batch_leaves_its_first_events(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    history.append_all(str(path), "test", [("starting", {"source": "a"}),
                                           ("starting", {"source": "b"})])
    path.write_bytes(path.read_bytes()[:-10])
    history.append(str(path), "fail", "test")
    assert [(e["event"], e.get("source")) for e in history.read(str(path))] == [
        ("starting", "a"), ("fail", None)]


# -- a log that is read again and again ------------------------------------------------------------


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that were parsed."""
    lines: list[bytes] = []
    parse = history.parse
    monkeypatch.setattr(history, "parse", lambda line: (lines.append(line), parse(line))[1])
    return lines


def settled(path: Path) -> list[history.Event]:
    """What a look must return, the long way."""
    found = history.read(str(path))
    return [event for event, after in zip(found, [*found[1:], {"event": ""}], strict=True)
            if event["event"] != "keywords" or after["event"] != "keywords"]


def test_a_look_parses_what_is_new_only(tmp_path: Path, parsed: list[bytes]) -> None:
    path = tmp_path / "j.jsonl"
    reader = history.Reader(str(path))
    assert reader.look() == []
    for number in range(100):
        history.append(str(path), "started", "test", source=f"s{number}")
        del parsed[:]
        assert reader.look()[-1]["source"] == f"s{number}"
        assert len(parsed) == 1
    del parsed[:]
    assert len(reader.look()) == 100
    assert not parsed
    assert reader.look() == history.read(str(path))


def test_of_thousands_of_keywords_the_newest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    reader = history.Reader(str(path))
    for number in range(50):
        history.append(str(path), "keywords", "test", keywords=[number])
        if number % 20 == 10:
            history.append(str(path), "alert", "test", id=str(number))
        assert reader.look() == settled(path)
    assert [event["event"] for event in reader.look()] == [
        "keywords", "alert", "keywords", "alert", "keywords"]
    assert history.Reader(str(path)).look() == reader.look()


def test_a_torn_line_is_not_consumed(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    reader = history.Reader(str(path))
    line = b'{"event": "state", "substate": "Stopping"}'
    with path.open("ab", buffering=0) as file:
        for end in range(len(line) + 1):
            path.write_bytes(b'{"event": "start"}\n' + line[:end])
            assert reader.look() == history.read(str(path))
        assert len(reader.look()) == 2, "only its newline is missing"
        file.write(b"\n")
        assert len(reader.look()) == 2
    path.write_bytes(path.read_bytes() + b'{"event": "sta')
    history.append(str(path), "fail", "test")
    assert [event["event"] for event in reader.look()] == ["start", "state", "fail"]


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"first", b"longer than first"))


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes().replace(b"first", b"other"))
    other.replace(path)


def _undo(path: Path) -> None:
    """An append that failed is undone, and another one succeeds: longer than what was there."""
    path.write_bytes(path.read_bytes()[:path.read_bytes().rstrip().rfind(b"\n") + 1])
    history.append(str(path), "fail", "test", reason="x" * 300)


@pytest.mark.parametrize("change", [
    _lengthen, _replace, _undo,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b'{"event": "fail"}\n'),
    lambda path: path.unlink(),
])
def test_a_log_that_is_not_the_same_is_read_anew(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "j.jsonl"
    reader = history.Reader(str(path))
    for name in ("first", "x" * 5000, "last"):
        history.append(str(path), "started", "test", source=name)
    before = reader.look()
    change(path)
    assert reader.look() == history.read(str(path)) != before
    history.append(str(path), "aborted", "test")
    assert reader.look() == history.read(str(path))
    assert reader.look()[-1]["event"] == "aborted"


def test_what_a_look_returned_does_not_change(tmp_path: Path) -> None:
    path = str(tmp_path / "j.jsonl")
    reader = history.Reader(path)
    history.append(path, "keywords", "test", keywords=[1])
    before = reader.look()
    history.append(path, "keywords", "test", keywords=[2])
    assert reader.look()[0]["keywords"] == [2]
    assert [event["keywords"] for event in before] == [[1]]


def test_a_log_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").mkdir()
    with pytest.raises(OSError, match="directory"):
        history.Reader(str(tmp_path / "j.jsonl")).look()

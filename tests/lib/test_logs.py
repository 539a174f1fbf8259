"""The logging of the daemons: levels, loggers, the log file, events; nothing that blocks."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daqlib import cli, errors, eso, logs

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ([A-Z]+) ([\w.]+) (.*)")
ocm = logging.getLogger("daq.ocm")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DAQ_LOGS", raising=False)
    root = logging.getLogger().level
    yield
    logs.stop()
    logs.reset_levels("INFO", {})
    logging.getLogger().setLevel(root)
    cli.set_verbosity(0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAQ_LOGS", str(tmp_path))
    return tmp_path


def without_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep odd records from pytest's own handlers, which raise."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


def file_lines(path: Path) -> list[tuple[str, str, str]]:
    """Return level, logger and text of every line of a log file."""
    found = []
    for line in path.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        found.append((match[1], match[2], match[3]))
    return found


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(text) for _, logger, text in file_lines(path) if logger == logs.EVENTLOG]


# -- levels ---------------------------------------------------------------------------------------


def test_the_levels_from_most_to_least_severe() -> None:
    assert list(logs.LEVELS) == ["ERROR", "WARNING", "STATE", "EVENT", "ACTION", "INFO", "DEBUG",
                                 "TRACE"]
    assert sorted(logs.LEVELS.values(), reverse=True) == list(logs.LEVELS.values())


@pytest.mark.parametrize("chosen", logs.LEVELS)
def test_a_level_shows_what_is_as_severe(chosen: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("ocm", chosen)
    for name, number in logs.LEVELS.items():
        ocm.log(number, "a line of %s", name)
    names = list(logs.LEVELS)
    shown = names[: names.index(chosen) + 1]
    tool = cli.__dict__["_tool"]
    assert capsys.readouterr().err.splitlines() == [
        f"{tool}: a line of INFO" if name == "INFO" else f"{tool}: {name}: a line of {name}"
        for name in shown]


@pytest.mark.parametrize(("verbose", "quiet", "level"), [
    (0, False, "INFO"), (1, False, "DEBUG"), (2, False, "TRACE"), (5, False, "TRACE"),
    (0, True, "ERROR"), (1, True, "ERROR")])
def test_the_level_of_the_options(verbose: int, quiet: bool, level: str) -> None:
    cli.set_verbosity(verbose, quiet=quiet)
    assert logs.verbosity_level() == level


def test_what_the_other_modules_say_follows_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("ocm", "WARNING")
    cli.say("hidden")
    cli.detail("hidden")
    logs.set_level("root", "DEBUG")
    cli.say("said")
    cli.detail("told")
    assert [line.rpartition(" ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "said", "told"]


def test_a_logger_of_its_own_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("ocm", "INFO")
    logs.set_level("daq.ocm.manager", "DEBUG")
    logs.set_level("daq.ocm.controller", "error")
    logging.getLogger("daq.ocm.manager.awaitstate").debug("below")
    ocm.debug("hidden")
    logging.getLogger("daq.ocm.controller").warning("hidden")
    logs.set_level("", "ERROR")
    ocm.warning("hidden")
    logging.getLogger("daq.ocm.manager").debug("still")
    said = capsys.readouterr().err
    assert "hidden" not in said
    assert [line.rpartition(" ")[2] for line in said.splitlines()] == ["below", "still"]


@pytest.mark.parametrize(("logger", "level", "told"), [
    ("daq.ocm", "LOUD", "log level 'LOUD' is not known; use ERROR, WARNING, STATE, EVENT, "),
    ("daq.ocm", 7, "log level 7"), ("daq.ocm", None, "log level None"), ("daq.ocm", "", "level ''"),
    ("daq.dpm", "INFO", "logger 'daq.dpm' is not known; use root or one of daq, daq.ocm, "),
    (["daq"], "INFO", "is not known"), (None, "INFO", "logger None"),
])
def test_unknown_levels_and_loggers(logger: object, level: object, told: str) -> None:
    logs.start("ocm", "INFO")
    with pytest.raises(errors.BadData, match=re.escape(told)):
        logs.set_level(logger, level)  # type: ignore[arg-type]


# -- log properties -------------------------------------------------------------------------------


def test_properties(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.properties"
    path.write_text("# a comment\n! another\n\nlog4cplus.rootLogger=DEBUG, A1\n"
                    "log4cplus.logger.daq.ocm.manager = TRACE, A1\n"
                    "log4cplus.logger.daq.ocm.controller=off\n"
                    "log4cplus.logger.daq.dpm.scheduler=WARN\n"
                    "log4cplus.appender.A1=log4cplus::ConsoleAppender\n")
    found, note = logs.read_properties(str(path))
    assert found == {"daq.ocm.manager": logs.TRACE, "daq.ocm.controller": 100,
                     "daq.dpm.scheduler": logs.WARNING}
    assert note.startswith(str(path)) and note.endswith("lines ignored: 4, 8")
    logs.start("ocm", "INFO")
    logs.reset_levels("WARNING", found)
    logging.getLogger("daq.ocm.manager").log(logs.TRACE, "shown")
    logging.getLogger("daq.ocm.controller").error("off")
    ocm.info("less than a warning")
    assert capsys.readouterr().err.splitlines()[0].endswith("TRACE: shown")
    assert capsys.readouterr().err == ""
    logs.reset_levels("INFO", {})
    logging.getLogger("daq.ocm.controller").info("back")
    assert "back" in capsys.readouterr().err


def test_properties_that_are_in_order_need_no_note(tmp_path: Path) -> None:
    path = tmp_path / "log.properties"
    path.write_text("log4cplus.logger.daq.ocm=INFO\n")
    assert logs.read_properties(str(path))[1] == ""


@pytest.mark.parametrize(("text", "told"), [
    ("a=b\nlog4cplus.logger.daq.ocm=LOUD\n", "line 2: log level 'LOUD' is not known; use OFF, "
     "FATAL, ERROR, WARNING, STATE"),
    ("log4cplus.logger.daq.ocm=\n", "line 1: log level ''"),
    ("\nlog4cplus.logger.daq.ocm INFO\n", "line 2: 'log4cplus.logger.daq.ocm INFO' is no NAME="),
    ("\udcff", "correct cfg/log_properties"),
])
def test_properties_that_are_not_understood(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "log.properties"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(errors.BadConfig, match=re.escape(told)) as caught:
        logs.read_properties(str(path))
    assert str(path) in str(caught.value)
    with pytest.raises(errors.BadConfig, match="No such file"):
        logs.read_properties(str(tmp_path / "none"))


# -- events ---------------------------------------------------------------------------------------


def test_events_are_json_in_the_file_and_quiet_on_the_console(
        folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("ocm.1", "ERROR")
    logs.event("state", id="TEST.1", substate="Acquiring", odd=Path("/x"))
    assert capsys.readouterr().err == ""
    [(level, _, text)] = file_lines(folder / "ocm.1.log")
    made = json.loads(text)
    assert level == "EVENT"
    assert re.fullmatch(r"\d{4}-.*\.\d{3}Z", made.pop("time"))
    assert made == {"event": "state", "process": "ocm.1", "id": "TEST.1", "substate": "Acquiring",
                    "odd": "/x"}


@pytest.mark.parametrize(("logger", "level", "shown"), [
    ("root", "DEBUG", True), ("root", "TRACE", True), ("root", "INFO", False),
    (logs.EVENTLOG, "DEBUG", True), (logs.EVENTLOG, "EVENT", False)])
def test_events_on_the_console(logger: str, level: str, shown: bool,
                               capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("ocm", "INFO")
    logs.set_level(logger, level)
    logs.event("state")
    assert ('"event": "state"' in capsys.readouterr().err) == shown


def test_the_level_of_the_event_log_is_its_own(folder: Path) -> None:
    logs.start("ocm", "INFO")
    logs.event_at(logs.DEBUG, "hidden", {})
    logs.set_level("root", "ERROR")
    logs.event_at(logs.ACTION, "one", {})
    logs.set_level(logs.EVENTLOG, "WARNING")
    logs.set_level("root", "TRACE")
    logs.event("hidden")
    logs.reset_levels("INFO", {})
    logs.event("two")
    assert [event["event"] for event in events(folder / "ocm.log")] == ["one", "two"]


def test_odd_facts_are_told_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pytest(monkeypatch)
    circle: list[object] = []
    circle.append(circle)
    logs.start("ocm", "INFO")
    logs.event("a", facts=circle)
    logs.event("b", facts={(1, 2): 3})
    logs.event("c", event="d", name="\udcff\n\x7f\x85\u2028\U000e0001")
    found = events(folder / "ocm.log")
    assert [event["event"] for event in found] == ["a", "b", "d"]
    assert found[2]["name"] == "\udcff\n\x7f\x85\u2028\U000e0001"


# -- lines ----------------------------------------------------------------------------------------


def test_foreign_text_never_breaks_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    without_pytest(monkeypatch)
    logs.start("ocm", "INFO")
    ocm.info("one\ntwo\r\x1b[31m\udc80\u2028 %s", "three\0\x85")
    ocm.info("%d", "no number")
    ocm.info("%s %s", "one")
    [one, two, three] = file_lines(folder / "ocm.log")
    assert one[2] == r"one\ntwo\u000d\u001b[31m\udc80\u2028 three\u0000\u0085"
    assert "no number" in two[2] and "one" in three[2]
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_an_exception_is_one_line(folder: Path) -> None:
    logs.start("ocm", "INFO")
    try:
        raise ValueError("odd")
    except ValueError:
        ocm.exception("it happened")
    [(level, _, text)] = file_lines(folder / "ocm.log")
    assert level == "ERROR"
    assert text.startswith("it happened\\nTraceback") and text.endswith("ValueError: odd")


# -- the file -------------------------------------------------------------------------------------


def test_the_file_is_appended_to_and_survives_rotation(folder: Path) -> None:
    path = folder / "ocm.log"
    for number in range(2):
        logs.start("ocm", "INFO")
        ocm.info("life %d", number)
        logs.stop()
    logs.start("ocm", "INFO")
    path.rename(folder / "ocm.log.1")
    ocm.info("after the rotation")
    path.unlink()
    ocm.info("after a removal")
    ocm.info("more")
    assert [text for _, _, text in file_lines(folder / "ocm.log.1")] == ["life 0", "life 1"]
    assert [text for _, _, text in file_lines(path)] == ["after a removal", "more"]


def test_the_file_is_opened_anew_on_request(folder: Path) -> None:
    logs.start("ocm", "INFO")
    ocm.info("one")
    logs.reopen()
    ocm.info("two")
    assert [text for _, _, text in file_lines(folder / "ocm.log")] == ["one", "two"]


@pytest.mark.parametrize("wrong", ["none", "file"])
def test_a_folder_that_is_none_is_noted_once(folder: Path, wrong: str,
                                             monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("DAQ_LOGS", str(folder / wrong))
    logs.start("ocm", "INFO")
    ocm.info("one")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert f"DAQ_LOGS={folder / wrong} is no directory that can be written" in said[0]


def test_a_file_that_cannot_be_written_is_told_once_and_tried_again(
        folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "ocm.log"
    path.mkdir()
    logs.start("ocm", "INFO")
    for number in range(3):
        ocm.info("line %d", number)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert f"cannot write the log file {path}: Is a directory" in said[0] + said[1]
    path.rmdir()
    ocm.info("line 3")
    assert [text for _, _, text in file_lines(path)] == [
        "lines that could not be written: 3", "line 3"]


def test_a_full_disk_tears_no_second_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "ocm.log"
    logs.start("ocm", "INFO")
    ocm.info("whole")
    write = os.write
    monkeypatch.setattr(logs.os, "write", lambda fd, data: write(fd, data[:10]))
    ocm.info("torn")
    monkeypatch.setattr(logs.os, "write", write)
    ocm.info("after")
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and len(lines[1]) == 10
    assert lines[2].endswith("lines that could not be written: 1") and lines[3].endswith("after")


def test_a_fifo_that_nobody_reads_holds_up_nobody(folder: Path) -> None:
    os.mkfifo(folder / "ocm.log")
    logs.start("ocm", "INFO")
    begun = time.monotonic()
    ocm.info("one")
    reader = os.open(folder / "ocm.log", os.O_RDONLY | os.O_NONBLOCK)
    ocm.info("two")
    assert time.monotonic() - begun < 10
    assert os.read(reader, 1000).decode().splitlines()[-1].endswith("two")
    os.close(reader)


# -- standard error -------------------------------------------------------------------------------


def test_a_reader_of_stderr_that_stopped_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with open(writer, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        logs.start("ocm", "INFO")
        for number in range(3000):
            ocm.info("a line of some length, so that the pipe fills up: %d \u00e9", number)
        got = os.read(reader, 1 << 20)
        ocm.info("it reads again")
        lines = (got + os.read(reader, 1 << 20)).decode().splitlines()
        logs.stop()
    os.close(reader)
    lost = 3000 - (len(lines) - 2)
    assert 0 < lost < 3000
    assert lines[-2].endswith(f"lines that could not be written: {lost}")
    assert lines[-1].endswith("it reads again")


def test_stderr_without_a_reader_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        logs.start("ocm", "INFO")
        for number in range(3):
            ocm.info("line %d", number)
        monkeypatch.undo()
        logs.stop()  # nothing is left in the buffer, or closing would fail
    assert len(file_lines(folder / "ocm.log")) == 3


def test_a_long_line_is_cut_on_stderr_only(folder: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("ocm", "INFO")
    ocm.info("x" * 100_000)
    assert len(capsys.readouterr().err) < 4096
    assert len((folder / "ocm.log").read_text()) > 100_000


def test_the_fronts_with_names_of_eso_offer_the_same_levels() -> None:
    assert tuple(logs.LEVELS) == eso.LEVELS

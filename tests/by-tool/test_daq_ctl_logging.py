"""The log of daq-ctl: levels, log file, event log, audit, log properties, SIGHUP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from daqlib import rpc
from harness import CHECKOUT, PATIENCE_S, Daq, wait_until
from live import Live

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ([A-Z]+) ([\w.]+) (.*)")
Serve = Callable[..., "Logged"]


class Logged(Live):
    """A daemon with a log file."""

    def __init__(self, daq: Daq, *options: object, env: Mapping[str, str | None] | None = None,
                 **settings: object) -> None:
        super().__init__(daq, **settings)
        self.folder = daq.folder / "logs"
        self.folder.mkdir(exist_ok=True)
        self.file = self.folder / "ocm.log"
        daq.env.setdefault("DAQ_LOGS", str(self.folder))
        self.daemon = daq.spawn("daq-ctl", "serve", *options, env=env)
        wait_until(self.answers, explain=lambda: str(self.daemon.result()))

    def answers(self) -> bool:
        """Tell whether it is there."""
        assert self.daemon.running(), self.daemon.result()
        try:
            return bool(self.call("GetState"))
        except rpc.Unreachable:
            return False

    def lines(self, path: Path | None = None) -> list[tuple[str, str, str]]:
        """Return level, logger and text of every line of the log file."""
        found = []
        for line in (path or self.file).read_text().splitlines():
            match = LINE.fullmatch(line)
            assert match, line
            found.append((match[1], match[2], match[3]))
        return found

    def texts(self) -> str:
        """Return what the file says without the events."""
        return "\n".join(f"{level} {logger} {text}" for level, logger, text in self.lines()
                         if logger != "daq.ocm.eventlog")

    def says(self, text: str, count: int = 1) -> None:
        """Wait until the file says a text; a command is logged after its reply."""
        wait_until(lambda: self.texts().count(text) >= count, explain=self.texts)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name from the log file."""
        found = [json.loads(text) for _, logger, text in self.lines()
                 if logger == "daq.ocm.eventlog"]
        assert all({"time", "event", "process"} <= set(event) for event in found)
        return [event for event in found if event["event"] == name]

    def level(self, logger: str, name: str) -> Any:
        """Set a log level."""
        return rpc.call(f"{self.requests}/std", "SetLogLevel",
                        {"info": {"logger": logger, "level": name}}, PATIENCE_S)

    def hang_up(self) -> None:
        """Send SIGHUP and wait until it is obeyed."""
        told = self.daemon.err.count("read again") + self.daemon.err.count("stays in force")
        self.daemon.signal(signal.SIGHUP)
        wait_until(lambda: self.daemon.err.count("read again")
                   + self.daemon.err.count("stays in force") > told)


@pytest.fixture
def serve(daq: Daq) -> Serve:
    return lambda *options, **settings: Logged(daq, *options, **settings)


def test_what_is_logged_by_default(serve: Serve) -> None:
    on = serve()
    on.call("Init")
    on.call("Enable")
    on.call("Exit")
    on.daemon.wait().ok()
    said = on.daemon.err.splitlines()
    assert "daq-ctl: STATE: NotOperational;NotReady" in said
    assert "daq-ctl: STATE: Operational;Idle" in said
    assert any(line.startswith("daq-ctl: serving at ") for line in said)
    assert "GetState" not in on.daemon.err and "{" not in on.daemon.err
    assert "STATE daq.ocm Operational;Idle" in on.texts()
    assert [event["state"] for event in on.events("application")] == [
        "NotOperational;NotReady", "NotOperational;Ready", "Operational;Idle"]
    [begun], [_] = on.events("begun"), on.events("ended")
    assert begun["pid"] == on.daemon.pid and begun["spool"] == str(on.daq.spool)


def test_quiet_and_the_process_name(serve: Serve) -> None:
    on = serve("-q", "--proc-name", "ocm.2")
    on.call("Init")
    on.file = on.folder / "ocm.2.log"
    assert on.daemon.err == ""
    assert on.texts() == ""
    assert {event["process"] for event in on.events("application")} == {"ocm.2"}


def test_debug_shows_events_and_commands_that_read(serve: Serve) -> None:
    on = serve("-v")
    on.daemon.wait_for(r'^daq-ctl: EVENT: \{.*"event": "application"')
    on.daemon.wait_for(r"^daq-ctl: DEBUG: std\.GetState by 127\.0\.0\.1.*: done, ")


@pytest.mark.parametrize(("options", "text"), [
    (["-l", "LOUD"], "LOUD"), (["--proc-name", "../x"], "'../x' is not allowed"),
    (["--proc-name", ""], "process name '' is not allowed")])
def test_wrong_options(daq: Daq, options: list[str], text: str) -> None:
    daq.run("daq-ctl", "serve", *options).fails(64, text)


# -- the audit ------------------------------------------------------------------------------------


def test_every_command_is_audited(serve: Serve) -> None:
    on = serve("--operational")
    on.ctl("daq.stop", "none.1").fails(66)
    nasty = "x\n2026-11-21T00:00:00.000Z ERROR daq.ocm forged\x1b[2J\u2028"
    with pytest.raises(rpc.RemoteError):
        on.call("AbortDaq", id=nasty)
    with pytest.raises(rpc.RemoteError):
        on.call("StartDaqV2", specification='{"id": "spec.1"}')
    with pytest.raises(rpc.RemoteError):
        on.call(nasty)
    on.says("forged", 2)
    assert not [line for line in on.lines() if line[0] == "ERROR"]
    stopped = next(event for event in on.events("command") if event["command"] == "daq.StopDaq")
    assert (stopped["daq"], stopped["code"]) == ("none.1", 66)
    assert "no DAQ has the id" in stopped["text"] and stopped["seconds"] >= 0
    assert stopped["who"].startswith("127.0.0.1") and "daq-ctl" in stopped["who"]
    assert re.search(r"ACTION daq\.ocm daq\.StopDaq none\.1 by 127\.0\.0\.1 .*daq-ctl.*: refused "
                     r"with 66: no DAQ has the id 'none\.1', \d+\.\d{3} s", on.texts())
    with pytest.raises(rpc.RemoteError) as failed:
        on.call("StartDaq", id="", file_prefix="", prim_sources="dcs@ipc:///nowhere/x.sock/rec",
                meta_sources="", properties="")
    made = on.call("StartDaqV2", specification=json.dumps(
        {"sources": [{"type": "fitsKeywords", "sourceName": "k", "keywords": []}]}))["id"]

    def heard() -> set[tuple[Any, ...]]:
        return {(event["command"], event.get("daq"), event["code"])
                for event in on.events("command")}

    # an id that was made is told, too; the line comes after the reply
    wait_until(lambda: ("daq.StartDaqV2", made, 0) in heard())
    audited = heard()
    assert {("daq.AbortDaq", nasty, 65), ("daq.StartDaqV2", "spec.1", 65)} <= audited
    assert failed.value.id and ("daq.StartDaq", failed.value.id, failed.value.code) in audited
    assert not [line for line in on.lines() if "GetState" in line[2]], "they are for DEBUG"
    assert "\x1b" not in on.daemon.err


def test_a_life_is_in_the_event_log(serve: Serve) -> None:
    on = serve("--operational")
    dcs = on.sim("recif", "dcs", "--extensions", 1)
    job = on.begin(dcs)
    on.call("StopDaq", id=job)
    on.until(job, "NotScheduled")
    told = [event["event"] for event in map(json.loads, (
        text for _, logger, text in on.lines() if logger == "daq.ocm.eventlog"))
        if event.get("daq") == job]
    assert {"starting", "started", "stopped", "sealed", "command"} <= set(told)
    assert told.index("starting") < told.index("started") < told.index("stopped")
    assert f"STATE daq.ocm {job}: StateAcquiring Acquiring" in on.texts()
    assert {event["code"] for event in on.events("command")} == {0}


# -- levels ---------------------------------------------------------------------------------------


def test_levels_at_run_time(serve: Serve) -> None:
    on = serve()
    on.ctl("std.setloglevel", "daq.ocm", "DEBUG").ok()
    on.call("GetState")
    on.says("DEBUG daq.ocm std.GetState")
    on.level("daq.ocm", "ERROR")
    on.call("Init")
    on.level("daq.ocm", "INFO")
    on.says("ACTION daq.ocm std.SetLogLevel", 2)
    assert "std.Init" not in on.texts()
    assert "std.Init" in {event["command"] for event in on.events("command")}
    on.level("daq.ocm.eventlog", "ERROR")
    count = len(on.events("command"))
    on.call("Init")
    on.says("ACTION daq.ocm std.Init")
    assert len(on.events("command")) == count
    on.ctl("std.setloglevel", "daq.ocm", "LOUD").fails(
        65, "LOUD", "ERROR, WARNING, STATE, EVENT, ACTION, INFO, DEBUG, TRACE")
    on.ctl("std.setloglevel", "daq.dpm", "INFO").fails(65, "'daq.dpm'", "daq.ocm.controller")
    for info in ("INFO", [], {"level": 5}, {"logger": [], "level": "INFO"}, {}):
        with pytest.raises(rpc.RemoteError) as caught:
            rpc.call(f"{on.requests}/std", "SetLogLevel", {"info": info}, PATIENCE_S)
        assert caught.value.code == 65 and caught.value.remedy


def test_log_properties(serve: Serve, daq: Daq) -> None:
    path = daq.folder / "cfg" / "log.properties"
    path.parent.mkdir()
    path.write_text("log4cplus.rootLogger=TRACE, A\nlog4cplus.logger.daq.ocm=DEBUG\n")
    daq.env["CFGPATH"] = f"/nowhere:{path.parent}"
    on = serve(log_properties="log.properties")
    on.call("GetState")
    on.says("DEBUG daq.ocm std.GetState")
    assert on.daemon.err.count("lines ignored: 1") == 1

    path.write_text("log4cplus.logger.daq.ocm=STATE\n")
    on.daemon.signal(signal.SIGHUP)
    wait_until(lambda: _is_silent(on))
    path.write_text("\nlog4cplus.logger.daq.ocm=LOUD\n")
    on.daemon.signal(signal.SIGHUP)
    on.daemon.wait_for(f"old configuration stays in force: {path}, line 2: log level 'LOUD'")
    assert _is_silent(on)


def _is_silent(on: Logged) -> bool:
    """Tell whether commands are not logged by daq.ocm, once the event log has them."""
    count, events = on.texts().count("ACTION daq.ocm"), len(on.events("command"))
    on.call("Init")
    wait_until(lambda: len(on.events("command")) > events)
    return on.texts().count("ACTION daq.ocm") == count


@pytest.mark.parametrize(("text", "told"), [
    ("log4cplus.logger.daq.ocm=LOUD", "log.properties, line 1: log level 'LOUD' is not known; use "
     "OFF, FATAL"),
    (None, "cfg/log_properties log.properties not found (tried log.properties); correct the key"),
])
def test_wrong_log_properties(daq: Daq, text: str | None, told: str) -> None:
    made = Live(daq, log_properties="log.properties")
    if text is not None:
        (daq.folder / "home" / "log.properties").write_text(text)
    daq.run("daq-ctl", "serve").fails(78, told)
    assert made.requests


# -- the configuration ----------------------------------------------------------------------------


def test_keys_without_effect_are_noted_once(serve: Serve) -> None:
    on = serve("-v", sm_scxml="config/daqOcmServer/sm.xml", oldb_conn_timeout=3,
               dpm={"timeout_sec": 9})
    note = next(line for line in on.daemon.err.splitlines() if "without effect" in line)
    assert "cfg/sm_scxml" in note and "cfg/oldb_conn_timeout" in note
    assert "cfg/dpm/timeout_sec" in note
    assert on.daemon.err.count("without effect") == 1


def test_sighup_says_what_needs_a_restart(serve: Serve, daq: Daq) -> None:
    on = serve()
    on.level("daq.ocm", "ERROR")
    path = Path(daq.env["DAQ_CONFIG"])
    text = path.read_text()
    path.write_text(text.replace("instrument_id: TEST", "instrument_id: OTHER"))
    on.hang_up()
    on.daemon.wait_for("log levels read again: .*; with a restart only: cfg/instrument_id")
    assert on.call("GetState"), "and it goes on"
    path.write_text("cfg: {limits: {daq: many}}\n")
    on.hang_up()
    on.daemon.wait_for("old configuration stays in force: .*daqspool.yaml, line 1: "
                       "cfg/limits/daq is 'many'")
    on.call("Init")
    assert "STATE daq.ocm NotOperational;Ready" in on.texts()


def test_dictionaries_are_loaded_at_the_start(daq: Daq) -> None:
    Live(daq, dictionaries=["none.did.yaml"])
    daq.run("daq-ctl", "serve").fails(78, "none.did.yaml")


def test_every_descriptor_that_the_system_allows(daq: Daq) -> None:
    made = Live(daq)
    limited = f"ulimit -Sn 100; exec {daq.bin}/daq-ctl serve"
    process = subprocess.Popen(["/bin/sh", "-c", limited], env=daq.environment(),
                               stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _limits(process.pid)[0] == _limits(process.pid)[1] != "100")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    assert made.requests


def _limits(pid: int) -> tuple[str, str]:
    text = Path(f"/proc/{pid}/limits").read_text()
    found = re.search(r"^Max open files\s+(\d+)\s+(\d+)", text, re.M)
    assert found
    return found[1], found[2]


# -- trouble with the log -------------------------------------------------------------------------


def test_rotation(serve: Serve) -> None:
    on = serve()
    on.file.rename(on.folder / "ocm.log.1")
    on.call("Init")
    on.says("STATE daq.ocm NotOperational;Ready")
    assert on.lines(on.folder / "ocm.log.1")


def test_a_folder_that_is_none(serve: Serve, daq: Daq) -> None:
    daq.env["DAQ_LOGS"] = str(daq.folder / "none")
    on = serve()
    on.call("Init")
    assert on.daemon.err.count("DAQ_LOGS") == 1
    assert not (daq.folder / "none").exists()


def test_a_full_disk(serve: Serve, daq: Daq) -> None:
    folder = daq.folder / "full"
    folder.mkdir()
    (folder / "ocm.log").symlink_to("/dev/full")
    daq.env["DAQ_LOGS"] = str(folder)
    on = serve()
    on.file = folder / "ocm.log"
    for _ in range(3):
        on.call("Init")
    assert on.daemon.err.count("cannot write the log file") == 1
    on.file.unlink()
    on.call("Init")
    wait_until(on.file.exists)
    assert re.fullmatch(r"lines that could not be written: \d+", on.lines()[0][2])


@pytest.mark.parametrize("how", ["closed", "gone", "stuck"])
def test_standard_error_in_trouble(daq: Daq, how: str) -> None:
    made = Live(daq)
    reader, writer = os.pipe()
    command = f"exec {daq.bin}/daq-ctl serve -l TRACE" + (" 2>&-" if how == "closed" else "")
    process = subprocess.Popen(["/bin/sh", "-c", command], env=daq.environment(),
                               stdin=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    if how == "gone":
        os.close(reader)
    try:
        wait_until(lambda: _answers(made))
        for _ in range(300):  # more words than a pipe holds
            made.call("Init")
        made.call("Exit")
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        if how != "gone":
            os.close(reader)


def _answers(made: Live) -> bool:
    try:
        return bool(made.call("GetState"))
    except rpc.Unreachable:
        return False


# -- the page -------------------------------------------------------------------------------------


def test_the_page_has_all_loggers_and_levels() -> None:
    from daqlib import config, logs

    page = (CHECKOUT / "docs" / "configuration.md").read_text()
    for name, meaning in logs.LOGGERS.items():
        assert f"| `{name}` | {meaning} |" in page
    told = re.findall(r"^\| `([A-Z]+)` \|", page.partition("## Logging")[2], re.M)
    assert told == list(logs.LEVELS)
    for name, key in config.KEYS.items():
        assert key.effect or f"`{config.spelled(name)}`" in page.partition("## Environment")[0]

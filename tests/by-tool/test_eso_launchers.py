"""ESO's programs are there, with the options of the manual, and their errors have their names."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from daqlib import rpc
from harness import PATIENCE_S, Daq, Process, free_port, make_fits, wait_until
from live import Live
from rooms import PROGRAMS, parser

#: Program -> options of ESO-396401, sections 11.2.2, 11.3.3, 12.2.3, 12.3.1, and chapter 10.
OPTIONS = {
    "daqOcmCtl": "--help --rep --pep --json --status",
    "daqOcmServer": "--help --proc-name -n --config -c --log-level -l --db-host -d",
    "daqDpmServer": "--help --proc-name -n --config -c --log-level -l --workspace --rr-uri "
                    "--ps-uri --poll-once",
    "daqDpmMerge": "--help --version --root --outfile -o --dry-run --json --logfile -l",
    "daqSimRecif": "--help -v",
    "daqSimMetadaqif": "--help",
}
LEVELS = ("ERROR", "WARNING", "STATE", "EVENT", "ACTION", "INFO", "DEBUG", "TRACE")


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_help_and_errors_are_its_own(daq: Daq, program: str) -> None:
    told = daq.run(program, "--help").ok().out
    assert told.startswith(f"usage: {program} ")
    assert set(OPTIONS[program].split()) <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", told))
    assert daq.run(program, "--version").ok().line().startswith(f"{program} ")
    daq.run(program, "--no-such-option").fails(64, f"{program} --help")
    assert set(OPTIONS) == set(PROGRAMS)


# -- daqOcmServer, daqOcmCtl -----------------------------------------------------------------------


class Served:
    """A daqOcmServer on a configuration that it finds as ESO's does."""

    def __init__(self, daq: Daq) -> None:
        self.daq = daq
        self.requests = f"zpb.rr://127.0.0.1:{free_port()}"
        self.topics = f"zpb.ps://127.0.0.1:{free_port()}"
        daq.env.update({"CFGPATH": str(daq.folder / "cfg"), "OCM_REQUEST_EP": self.requests,
                        "OCM_PUBLISH_EP": self.topics})
        self.write("config/daqOcmServer/config.yaml")

    def write(self, name: str) -> Path:
        path = self.daq.folder / "cfg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"cfg:\n  req_endpoint: {self.requests}/\n"
                        f"  pub_endpoint: {self.topics}/\n  instrument_id: KMOS\n")
        return path

    def start(self, *options: object) -> Process:
        return self.daq.spawn("daqOcmServer", *options, until="serving at")


def test_the_server_begins_not_operational(daq: Daq) -> None:
    server = Served(daq).start()
    assert daq.run("daqOcmCtl", "std.getstate").ok().line() == '"NotOperational;NotReady"'
    daq.run("daqOcmCtl", "daq.getactivelist").fails(69, "daqOcmCtl: ")
    for verb, state in (("std.init", "NotOperational;Ready"), ("std.enable", "Operational;Idle"),
                        ("std.disable", "NotOperational;Ready"),
                        ("std.reset", "NotOperational;NotReady")):
        assert daq.run("daqOcmCtl", verb).ok().line() == '"OK"'
        assert daq.run("daqOcmCtl", "--json", "std.getstate").line() == f'"{state}"'
    assert daq.run("daqOcmCtl", "std.exit").ok().line() == '"OK"'
    assert " daqOcmCtl)" in server.wait().ok().err  # the log tells who it was
    daq.run("daqOcmCtl", "std.getstate", "--timeout", "0.5").fails(69, "nobody answers")


def test_where_the_server_finds_its_configuration(daq: Daq) -> None:
    served = Served(daq)
    served.requests = f"zpb.rr://127.0.0.1:{free_port()}"
    served.write("other/ocm.yaml")
    server = served.start("-c", "other/ocm.yaml", "-n", "ocm2")
    assert served.requests in server.err
    assert rpc.call(f"{served.requests}/std", "GetVersion", {}, PATIENCE_S)
    server.signal(signal.SIGINT)
    server.wait().ok()
    daq.run("daqOcmServer", "-c", "missing.yaml").fails(78, "missing.yaml")
    chosen = served.write("chosen.yaml")
    with daq.start("daqOcmServer", env={"DAQ_CONFIG": str(chosen), "CFGPATH": None},
                   until="serving at") as other:
        assert served.requests in other.err


def test_without_its_configuration_the_server_takes_the_defaults(daq: Daq) -> None:
    # they are not to be served by a test: ask for what cannot work, and see where it was tried
    told = daq.run("daqOcmServer", "-v", "--db-host", "127.0.0.1:6379",
                   env={"CFGPATH": str(daq.folder), "DAQ_SPOOL": str(daq.folder)})
    told.fails(78, str(daq.folder), chatty=True)
    told.says("config/daqOcmServer/config.yaml not found")
    told.says("built-in defaults")


def test_a_database_is_accepted_with_a_note(daq: Daq) -> None:
    server = Served(daq).start("-d", "127.0.0.1:6379", "-l", "INFO")
    assert sum("--db-host" in line and "no effect" in line
               for line in server.err.splitlines()) == 1
    server.stop().ok()


@pytest.mark.parametrize("program", ["daqOcmServer", "daqDpmServer"])
def test_log_levels(daq: Daq, program: str) -> None:
    for level in LEVELS:
        assert parser(program).parse_args(["-l", level]).log_level == level
        assert parser(program).parse_args(["-l", level.lower()]).log_level == level
    daq.run(program, "-l", "LOUD").fails(64, "LOUD", *LEVELS)


def test_a_daq_from_either_client(live: Live) -> None:
    env = {"OCM_REQUEST_EP": live.requests, "OCM_PUBLISH_EP": live.topics, "DAQ_CONFIG": None}
    fcf = live.sim("metadaqif", "fcf2", "--sessions", 9)

    def ctl(*words: object, stdin: str | None = None) -> str:
        return live.daq.run("daqOcmCtl", *words, env=env, stdin=stdin).ok().out

    document = json.dumps({"sources": [fcf.source()]})
    (live.daq.folder / "home" / "start.json").write_text(document)
    ids = [json.loads(text)["id"] for text in (
        ctl("daq.start", "", fcf.at()), ctl("daq.startv2", document),
        ctl("daq.startv2", "@start.json", "--id", "by.hand"),
        ctl("cmd.startv2", "@-", stdin=document),
        ctl("daq.startv2", "@/dev/stdin", stdin=document))]
    assert ids[2] == "by.hand"
    listed = json.loads(ctl("daq.getactivelist", "--json"))
    assert sorted(status["id"] for status in listed) == sorted(ids)
    for identifier in ids:
        assert json.loads(ctl("daq.abort", "--json", identifier)) == {
            "id": identifier, "error": False}
    live.daq.run("daqOcmCtl", "serve", env=env).fails(64, "'serve'")
    live.daq.run("daqOcmCtl", "daq.stat", env=env).fails(64, "did you mean daq.start?")
    live.daq.run("daqOcmCtl", "daq.stop", env=env).fails(64, "daq.stop takes <id>")


def test_status_with_and_without_a_command(live: Live) -> None:
    env = {"OCM_REQUEST_EP": live.requests, "OCM_PUBLISH_EP": live.topics}
    told = live.daq.run("daqOcmCtl", "--status", "std.disable", env=env).ok()
    assert told.out == '"OK"\n'
    again = live.daq.run("daqOcmCtl", "std.enable", "--status", env=env).ok()
    assert told.err == "status: NotOperational;Ready\n"
    assert again.err == "status: Operational;Idle\n"
    with live.daq.start("daqOcmCtl", "--status", env=env, until="no command") as watching:
        assert watching.err == "no command provided -> will subscribe indefinitely\n"
        watching.signal(signal.SIGINT)
        assert watching.wait().code == 130
    live.daq.run("daqOcmCtl", "--status", "--pep", live.requests, env=env).fails(
        65, "publishes nothing", chatty=True)
    live.daq.run("daqOcmCtl", "", env=env).fails(64, "unknown command ''")


def test_status_ends_when_its_reader_leaves(live: Live) -> None:
    environment = {**live.daq.environment(), "OCM_PUBLISH_EP": live.topics}
    with subprocess.Popen(live.daq.command("daqOcmCtl", "--status"), env=environment,
                          stderr=subprocess.PIPE) as watching:
        assert watching.stderr is not None
        watching.stderr.readline()
        watching.stderr.close()

        def ended() -> bool:
            for command in ("Disable", "Enable"):
                live.call(command)
            return watching.poll() is not None
        wait_until(ended)
    assert watching.returncode == 128 + signal.SIGPIPE


def test_a_long_wait_is_noted_shortly(live: Live) -> None:
    wait = ("daq.awaitstate", "none", "StateCompleted", "Completed")
    for seconds, told in (("60", "62s"), ("0.5", ""), ("1e300", "1e+300s")):
        made = live.ctl(*wait, seconds).exits(66)
        assert ("request timeout to " + told in made.err) == bool(told)


# -- daqDpmServer ----------------------------------------------------------------------------------


def test_the_merging_server(daq: Daq) -> None:
    path = make_fits(daq.folder / "a.fits")
    daq.drop("collect", "dropped", {"sources": [
        {"type": "fitsFile", "sourceName": "a", "location": str(path)}]})
    told = daq.run("daqDpmServer", "--poll-once", "-n", "dpm", "--workspace", "dpm", "--rr-uri",
                   "zpb.rr://127.0.0.1:12083/", "--ps-uri", "zpb.ps://127.0.0.1:12084/").ok()
    notes = [line for line in told.err.splitlines() if "no effect" in line]
    assert len(notes) == 1 and "--workspace" in notes[0] and "DAQ_SPOOL" in notes[0]
    assert "serving" not in told.err
    assert daq.tree() == {"done": ["dropped"]}
    assert daq.run("daqDpmServer", "--poll-once", "-l", "ERROR").ok().err == ""


def dpm_file(daq: Daq, name: str, text: str) -> tuple[str, str]:
    """Write a configuration; ``RR`` and ``PS`` in it stand for endpoints, which are returned."""
    path = daq.folder / "cfg" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    requests, topics = (f"zpb.{kind}://127.0.0.1:{free_port()}" for kind in ("rr", "ps"))
    path.write_text(text.replace("RR", requests).replace("PS", topics))
    daq.env["CFGPATH"] = str(daq.folder / "cfg")
    return requests, topics


def test_the_merging_server_runs_until_it_is_told_to_end(daq: Daq) -> None:
    folder = daq.folder / "logs"
    folder.mkdir()
    requests, topics = dpm_file(
        daq, "config/daqDpmServer/config.yaml",
        "cfg:\n  workspace: /absolute/path\n  req_endpoint: RR/\n  pub_endpoint: PS/\n"
        "  limits: {daq: 2, merge: 2}\n")
    with daq.start("daqDpmServer", "-l", "DEBUG", "-n", "dpm7", until="serving at",
                   env={"DAQ_LOGS": str(folder)}) as server:
        assert f"serving at {requests}, topics at {topics}" in server.err.replace("/,", ",")
        assert server.err.count("accepted, but without effect here: cfg/daq/workspace") == 1
        assert rpc.call(f"{requests}/daq", "GetActiveDaqs", {}, PATIENCE_S) == []
        daq.run("daqDpmServer").fails(75, "daqDpmServer: ", "watched already", chatty=True)
        assert "serving at" in (folder / "dpm7.log").read_text()
        server.signal(signal.SIGINT)
        assert server.wait().code in (0, 130)
    daq.run("daqDpmServer", "-c", "missing.yaml").fails(78, "missing.yaml")


SHARED = "cfg:\n  req_endpoint: zpb.rr://127.0.0.1:1\n  pub_endpoint: zpb.ps://127.0.0.1:1\n"
BELOW = "  dpm: {req_endpoint: RR, pub_endpoint: PS}\n"


@pytest.mark.parametrize("how", ["--config", "DAQ_CONFIG", "command line"])
def test_where_the_merging_server_serves(daq: Daq, how: str) -> None:
    requests, topics = dpm_file(daq, "site.yaml", SHARED if how == "command line" else
                                SHARED + BELOW)
    words: list[str] = [] if how == "DAQ_CONFIG" else ["--config", "site.yaml"]
    if how == "DAQ_CONFIG":
        daq.env["DAQ_CONFIG"] = "site.yaml"
    elif how == "command line":
        words += ["--rr-uri", requests, "--ps-uri", topics]
    with daq.start("daqDpmServer", *words, until="serving at"):
        assert rpc.call(f"{requests}/std", "GetState", {}, PATIENCE_S) == "Operational;Idle"


# -- daqDpmMerge -----------------------------------------------------------------------------------


def test_the_merger(daq: Daq) -> None:
    make_fits(daq.folder / "a.fits")
    document = {"id": "J", "target": {"fileId": "KMOS.1"}, "sources": [
        {"type": "fitsFile", "sourceName": "a", "location": "a.fits"}]}
    path = daq.folder / "spec.json"
    path.write_text(json.dumps(document))
    daq.run("daqDpmMerge", "--dry-run", path).ok().no_output()
    assert not (daq.folder / "KMOS.1.fits").exists()
    told = daq.run("daqDpmMerge", "--json", "-l", "merge.log", path).ok().jsonl()
    assert told[-1]["event"] == "done"
    assert (daq.folder / "KMOS.1.fits").exists() and (daq.folder / "merge.log").exists()
    named = daq.run("daqDpmMerge", "--root", daq.folder, "-o", "b.fits", "-",
                    stdin=json.dumps(document)).ok()
    assert named.line() == str(daq.folder / "b.fits")
    (daq.folder / "a.fits").unlink()
    daq.run("daqDpmMerge", "-o", "c.fits", path).fails(110, "a.fits")
    daq.run("daqDpmMerge", daq.folder / "gone.json").fails(100, "gone.json")
    daq.run("daqDpmMerge", "-", stdin="{").fails(101)
    daq.run("daqDpmMerge", "-", stdin="{}").fails(102)
    daq.run("daqDpmMerge").fails(64, "SPECIFICATION")


# -- the simulators --------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "path", "begin"), [
    ("daqSimRecif", "rec", "RecStart"), ("daqSimMetadaqif", "daq", "StartDaq")])
def test_simulators(daq: Daq, program: str, path: str, begin: str) -> None:
    endpoint = f"zpb.rr://127.0.0.1:{free_port()}"
    daq.env["DATAROOT"] = str(daq.folder / "dataroot")
    with daq.start(program, "-v", "sim", endpoint, until="ready at", stdin=True) as source:
        assert source.out.strip() == f"{endpoint}/{path}"
        if begin == "RecStart":
            properties = {"id": "a", "publishRate": 1}
            rpc.call(f"{endpoint}/rec", "RecStart", {"properties": properties}, PATIENCE_S)
            source.press_enter()
            wait_until(lambda: os.listdir(daq.folder / "dataroot" / "sim"))
        else:
            rpc.call(f"{endpoint}/daq", "StartDaq", {"id": "a"}, PATIENCE_S)
        assert begin in source.err
        source.signal(signal.SIGINT)
        assert source.wait().code in (0, 130)
    daq.run(program, "sim", "nonsense").fails(65, "nonsense")
    daq.run(program, "sim").fails(64, "ENDPOINT")


# -- the price of a command ------------------------------------------------------------------------


def test_a_command_loads_little(live: Live) -> None:
    told = live.daq.run("daqOcmCtl", "--rep", live.requests, "std.getstate",
                        env={"PYTHONPROFILEIMPORTTIME": "1"}).ok().err
    loaded = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert {"zmq", "daqlib.rpc"} <= loaded
    assert loaded & {"asyncio", "yaml", "jsonschema", "inotify_simple", "daqlib.config",
                     "daqlib.spool", "daqlib.status", "difflib", "logging"} == set()

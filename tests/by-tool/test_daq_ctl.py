from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from daqlib import rpc
from harness import Daq, free_port, make_fits, wait_until
from live import LIFE, Live, Simulator
from rpc_peers import context

pytestmark = [pytest.mark.installed, pytest.mark.xdist_group("daq-ctl")]


@pytest.fixture(autouse=True)
def tidy(live: Live) -> Iterator[None]:
    """Leave no acquisition to the next test."""
    yield
    for status in live.call("GetActiveList"):
        live.call("ForceAbortDaq", id=status["id"])


def keywords(**names: Any) -> list[dict[str, Any]]:
    return [{"type": "valueKeyword", "name": name.upper(), "value": value}
            for name, value in names.items()]


# -- the application's states ---------------------------------------------------------------------


def test_the_states_of_the_application(daq: Daq) -> None:
    live = Live(daq)
    daq.spawn("daq-ctl", "serve", until="serving at")
    refused = live.ctl("daq.getactivelist").fails(69, "daq", "not enabled")
    assert "Operational" in refused.err
    assert live.ctl("std.getstate").line() == '"NotOperational;NotReady"'
    live.ctl("std.enable").fails(65, "Enable is not accepted in NotOperational;NotReady")
    assert live.ctl("std.init").line() == '"OK"'
    assert live.ctl("std.getstate").line() == '"NotOperational;Ready"'
    assert live.ctl("std.enable").line() == '"OK"'
    assert live.ctl("std.getstatus").line() == '"Operational;Idle"'
    assert live.ctl("--json", "daq.getactivelist").json() == []
    live.ctl("std.disable").ok()
    with pytest.raises(rpc.RemoteError, match="not enabled"):
        live.call("GetActiveList")
    live.call("Enable")
    live.ctl("std.stop").ok()
    assert live.call("GetState") == "NotOperational;Ready"
    live.ctl("std.reset").ok()
    assert live.call("GetState") == "NotOperational;NotReady"
    live.ctl("std.setloglevel", "daq.ocm", "LOUD").fails(65, "LOUD", "DEBUG")
    live.ctl("std.setloglevel", "daq.ocm", "DEBUG").ok()
    assert live.ctl("std.getversion").line().startswith('"')
    assert live.ctl("std.exit").line() == '"OK"'
    said = daq.processes[0].wait().ok().err.splitlines()
    assert [line for line in said if line.startswith("daq-ctl: serving at")]
    live.ctl("--timeout", "0.5", "std.getstate").fails(69, "nobody answers")


def test_two_daemons_on_a_spool_and_a_port_in_use(live: Live, tmp_path: Any) -> None:
    live.daq.run("daq-ctl", "serve").fails(75, "daq-ctl runs on", str(live.daemon.pid))
    other = tmp_path / "spool"
    live.daq.run("daq-ctl", "serve", "--spool", other).fails(
        75, "in use by another program", "another endpoint")
    topics = ("--pep", f"zpb.ps://127.0.0.1:{free_port()}")
    live.daq.run("daq-ctl", "serve", "--spool", other, *topics).fails(
        75, live.requests)
    left = tmp_path / "topics.sock"
    live.daq.run("daq-ctl", "serve", "--spool", other, "--pep", f"ipc://{left}").fails(
        75, live.requests)
    assert not left.exists()
    live.daq.run("daq-ctl", "serve", "--spool", other, *topics, "--rep",
                 "zpb.rr://8.8.8.8:1").fails(78, "CURVE")
    live.daq.run("daq-ctl", "serve", "now").fails(64, "now")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_cleanly(daq: Daq, signum: int) -> None:
    live = Live(daq)
    live.serve()
    waiting = daq.spawn("daq-ctl", "--status", until="no command")
    live.daemon.signal(signum)
    live.daemon.wait().ok()
    waiting.signal(signal.SIGINT)
    assert waiting.wait().code == 130


def test_usage(live: Live) -> None:
    live.ctl("daq.begin").fails(64, "daq.begin")
    live.ctl("daq.stop").fails(64, "daq.stop takes <id>")
    live.ctl("daq.awaitstate", "x", "StateAcquiring", "Stopped", "soon").fails(64, "soon")
    live.ctl("daq.startv2", "@/no/such/file").fails(64, "/no/such/file")
    live.ctl("daq.startv2", "{").fails(65, "not JSON")
    live.ctl("daq.startv2", "spec.json").fails(65, "not JSON", "@FILE")
    live.ctl("daq.start", "", "", "--properties", "spec.json").fails(65, "not JSON", "@FILE")
    for wrong, meant in (("serv", "serve"), ("keyword", "keywords"), ("daq.GetStatus",
                                                                     "daq.getstatus")):
        live.ctl(wrong).fails(64, f"did you mean {meant}?")
    live.ctl("nothing").fails(64, "use one of serve, keygen, keywords, std.init")
    live.ctl("--timeout", "x", "std.init").fails(64, "--timeout")
    assert "daq.startv2" in live.ctl("--help").ok().out


# -- the life of an acquisition -------------------------------------------------------------------


def test_the_automatic_stop_of_the_manual(live: Live, dcs: Simulator, fcf: Simulator) -> None:
    with live.daq.start("daq-watch"), live.subscribed() as lines:
        started = live.ctl("--json", "daq.start", dcs.at(), fcf.at()).ok()
        assert started.out.startswith('{\n    "id": "TEST.') and started.json()["error"] is False
        job = started.json()["id"]
        [only] = live.ctl("daq.getactivelist", "--json").json()
        assert list(only) == ["error", "fileId", "id", "message", "result", "state", "substate",
                              "timestamp"]
        assert only == {"error": False, "fileId": job, "id": job, "message": "[]", "result": "",
                        "state": "StateAcquiring", "substate": "Acquiring",
                        "timestamp": only["timestamp"]}
        assert abs(only["timestamp"] - time.time()) < 30
        assert live.ctl("--json", "daq.getstatus", job).json() == only
        assert live.call("GetState") == "Operational;Active"
        threading.Timer(0.5, dcs.process.press_enter).start()
        stopped = live.ctl("--json", "daq.awaitstate", job, "StateAcquiring", "Stopped", "60").ok()
        assert stopped.err == ("Note: Setting request timeout to 62s due to await timeout "
                               "exceeding request timeout\n")
        assert list(stopped.json()) == ["status", "timeout"]
        assert stopped.json()["timeout"] is False
        assert stopped.json()["status"]["substate"] == "Stopped"
        done = live.ctl("--json", "daq.awaitstate", job, "StateCompleted", "Completed", "57").ok()
        assert done.err == "" and done.json()["status"]["result"] == str(
            live.daq.spool / "result" / f"{job}.fits")
        wait_until(lambda: lines()[-1] == "status: Operational;Idle")
        told = [line for line in lines() if f"id={job}," in line]
        assert told[0] == (f"daq: id={job}, file_id={job}, state=StateAcquiring, "
                           "substate=NotStarted, error=false, message=[]")
        seen = [line.partition("substate=")[2].partition(",")[0] for line in told]
        assert list(dict.fromkeys(seen)) == list(LIFE)
        assert lines()[lines().index(told[0]) - 1] == "status: Operational;Active"
    assert os.path.getsize(done.json()["status"]["result"]) > 0
    assert live.ctl("--json", "daq.getstatus", job).json()["substate"] == "Completed"
    assert live.call("GetActiveList") == []


def test_metadata_sources_start_first_and_stop_last(live: Live, dcs: Simulator, fcf: Simulator,
                                                    ) -> None:
    job = live.begin(dcs, fcf)
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    events = [(event["event"], event["source"]) for event in live.daq.history(job)
              if "source" in event]
    assert events == [("starting", "fcf"), ("started", "fcf"), ("starting", "dcs"),
                      ("started", "dcs"), ("stopped", "dcs"), ("stopped", "fcf")]
    begun = fcf.ask("GetDaqStatus", id=job)
    assert begun["state"] == "Succeeded"
    # what the sources saw themselves: the recording lies within the session
    assert dcs.calls("RecStop") >= 1 and fcf.calls("StopDaq", job) == 1
    assert live.manifest(job)["outcome"] == "stopped"
    assert live.product(job).name == f"{live.status(job)['fileId']}.fits"


def test_the_manual_stop_of_the_manual(live: Live, fcf: Simulator) -> None:
    job = live.ctl("--json", "daq.start", "", fcf.at(), "--id", live.id("manual"),
                   "--file-prefix", "NIGHT_").json()["id"]
    time.sleep(0.3)
    assert live.status(job)["substate"] == "Acquiring"  # nothing but a person ends it
    assert live.ctl("--json", "daq.stop", job).json() == {"id": job, "error": False}
    assert live.status(job)["substate"] == "NotScheduled"
    live.ctl("daq.stop", job).fails(65, job, "StateMerging NotScheduled")
    with live.daq.start("daq-watch"):
        live.until(job, "Completed")
    assert os.path.basename(live.status(job)["result"]).startswith("NIGHT_TEST.")


def test_files_alone_stop_by_themselves(live: Live) -> None:
    path = make_fits(live.daq.folder / "given.fits")
    job = live.begin({"type": "fitsFile", "sourceName": "a", "location": str(path)})
    live.until(job, "NotScheduled")
    states = [event["substate"] for event in live.daq.history(job) if event["event"] == "state"]
    assert states == ["Starting", "Acquiring", "Stopping", "Stopped"]
    assert live.product(job).exists()


def test_startv2_from_stdin_a_file_and_a_literal(live: Live, fcf: Simulator) -> None:
    def told(number: int) -> str:
        return json.dumps({"id": f"v2.{number}", "sources": [fcf.source()]})
    path = live.daq.folder / "home" / "spec.json"
    path.write_text(told(2))
    live.ctl("daq.startv2", "@-", stdin=told(1)).ok()
    live.ctl("daq.startv2", "@spec.json", "--json").ok()
    answer = live.ctl("--json", "daq.startv2", told(3)).json()
    assert answer == {"id": "v2.3", "error": False}
    live.ctl("daq.startv2", told(3)).fails(65, "v2.3", "in use")
    active = live.ctl("daq.getactivelist").out.splitlines()
    assert [line.split(",")[0] for line in active] == [f"daq: id=v2.{n}" for n in (1, 2, 3)]
    for number in (1, 2, 3):
        live.ctl("daq.abort", f"v2.{number}").ok()


def test_who_misspells_a_member_is_told(live: Live, fcf: Simulator) -> None:
    source = {**fcf.source(), "initialkeywords": []}
    document = {"id": "member.1", "sources": [source], "filePrefix": "a_",
                "mergetarget": {"sourceName": "fcf"}, "heuristics": "v1"}
    told = live.ctl("daq.startv2", "-", stdin=json.dumps(document)).ok()
    assert told.err.splitlines() == [
        "daq-ctl: unknown member 'mergetarget' of the specification ignored",
        "daq-ctl: unknown member 'sources/0/initialkeywords' of the specification ignored"]
    live.ctl("daq.abort", "member.1").ok()
    told = live.ctl("daq.start", "", fcf.at(), "--id", "member.2", "--properties",
                    '{"keyword": [], "keywords": []}').ok()
    assert told.err == "daq-ctl: unknown member 'keyword' of properties ignored\n"
    live.ctl("daq.abort", "member.2").ok()


def test_status_tells_when_there_is_nobody_to_hear(live: Live) -> None:
    nowhere = f"zpb.ps://127.0.0.1:{free_port()}"
    with live.daq.start("daq-ctl", "--status", "--pep", nowhere, until="no command") as waiting:
        line = waiting.wait_for("nobody lets us in")
    assert line.startswith(f"daq-ctl: nobody lets us in at {nowhere} so far, still trying; check")


def test_status_beside_a_command(live: Live, fcf: Simulator) -> None:
    job = live.begin(fcf)
    with live.daq.start("daq-ctl", "daq.awaitstate", job, "StateAcquiring", "Stopped", "300",
                        "--status") as waiting:
        def heard() -> bool:  # a subscription takes a moment to arrive
            live.call("AbortDaq", id=live.begin(fcf))
            return "substate=Aborted" in waiting.err
        wait_until(heard)
        live.daemon.wait_for(rf"{job}: \d+ wait")
        live.call("StopDaq", id=job)
        ended = waiting.wait().ok()
    assert ended.line().startswith(f"daq: id={job}, ") and "substate=Stopped" in ended.out
    assert f"daq: id={job}," in ended.err and "substate=Stopping" in ended.err


def test_ids_that_are_not_there(live: Live) -> None:
    for verb in ("daq.stop", "daq.forcestop", "daq.abort", "daq.forceabort", "daq.getstatus"):
        live.ctl(verb, "nobody").fails(66, "nobody")
    live.ctl("daq.updatekeywords", "nobody", "[]").fails(66, "nobody")
    live.ctl("daq.awaitstate", "nobody", "StateCompleted", "", "1").fails(66, "nobody")
    live.ctl("daq.getstatus", "../../etc/passwd").fails(65, "id")
    with pytest.raises(rpc.RemoteError) as caught:
        live.call("GetDaqStatus", id="nobody")
    assert (caught.value.exception, caught.value.id) == ("daqif::DaqException", "nobody")


@pytest.mark.parametrize(("command", "params"), [
    ("StartDaq", {"prim_sources": 5}), ("StartDaq", {"meta_sources": ["x"]}),
    ("StartDaq", {}), ("StartDaq", {"prim_sources": "no-uri"}),
    ("StartDaq", {"meta_sources": "a@zpb.rr://127.0.0.1:1", "properties": "["}),
    ("StartDaq", {"meta_sources": "a@zpb.rr://127.0.0.1:1", "properties": '{"keywords": 1}'}),
    ("StartDaq", {"meta_sources": "a@zpb.rr://127.0.0.1:1", "id": "../x"}),
    ("StartDaq", {"meta_sources": "a@zpb.rr://127.0.0.1:1", "file_prefix": "/x"}),
    ("StartDaqV2", {"specification": "[]"}), ("StartDaqV2", {"specification": None}),
    ("StartDaqV2", {"specification": "[" * 100_000}), ("StartDaqV2", {"specification": '{"a"}'}),
    ("StopDaq", {"id": 5}), ("AbortDaq", {"id": None}), ("GetStatus", {"id": []}),
    ("UpdateKeywords", {"id": "x", "keywords": 5, "more": 1}), ("StopDaq", {}),
    ("AwaitDaqState", {"id": "x", "state": "StateCompleted", "timeout": 0}),
    ("AwaitDaqState", {"id": "x", "state": "StateCompleted", "timeout": "5"}),
    ("AwaitDaqState", {"id": "x", "state": "Elsewhere", "timeout": 1}),
    ("AwaitDaqState", {"id": "x", "state": "StateCompleted", "substate": "Acquiring",
                       "timeout": 1}),
])
def test_wrong_parameters_are_refused_and_nothing_is_written(
        live: Live, command: str, params: dict[str, Any]) -> None:
    before = live.daq.tree(), sorted(os.listdir(live.daq.spool / "log"))
    with pytest.raises(rpc.RemoteError) as caught:
        live.call(command, **params)
    assert caught.value.code in (65, 66), caught.value
    assert (live.daq.tree(), sorted(os.listdir(live.daq.spool / "log"))) == before
    assert live.daemon.running() and "Traceback" not in live.daemon.err


# -- waiting --------------------------------------------------------------------------------------


def test_a_wait_can_be_answered_run_out_or_become_vain(live: Live, fcf: Simulator) -> None:
    job = live.begin(fcf)
    reached = live.ctl("--json", "daq.awaitstate", job, "StateAcquiring", "Starting", "60").ok()
    assert reached.json()["timeout"] is False  # it has been there
    late = live.ctl("--json", "daq.awaitstate", job, "StateAcquiring", "Stopped", "0.3")
    assert late.exits(124).json()["timeout"] is True
    assert late.json()["status"]["substate"] == "Acquiring"
    live.ctl("daq.awaitstate", job, "StateAcquiring", "Stopped", "0").fails(65, "above 0")
    live.ctl("daq.awaitstate", job, "StateMerging", "Acquiring", "1").fails(65, "Acquiring")
    vain = live.daq.spawn("daq-ctl", "--json", "daq.awaitstate", job, "StateCompleted",
                          "Completed", "300")
    live.daemon.wait_for(rf"{job}: \d+ wait.* StateCompleted")
    live.ctl("daq.abort", job).ok()
    ended = vain.wait().exits(1).json()
    assert ended["status"]["substate"] in ("Aborting", "Aborted") and ended["timeout"] is False
    live.ctl("daq.awaitstate", job, "StateCompleted", "Aborted", "1").ok()
    live.ctl("daq.awaitstate", job, "StateMerging", "Merging", "1").exits(1)


def test_hundreds_may_wait_at_no_cost(live: Live, fcf: Simulator) -> None:
    job = live.begin(fcf)
    with clients(live) as waiting:
        for number, client in enumerate(waiting):
            client.send_json({"jsonrpc": "2.0", "id": number, "method": "daq.AwaitDaqState",
                              "params": {"id": job, "state": "StateAcquiring",
                                         "substate": "Stopped", "timeout": 300}})
        wait_until(lambda: len(os.listdir(f"/proc/{live.daemon.pid}/fd")) > len(waiting))
        spent: list[float] = []

        def at_no_cost() -> bool:  # it may still be reading what they ask
            before = cpu_seconds(live.daemon.pid)
            time.sleep(2)
            spent.append(cpu_seconds(live.daemon.pid) - before)
            return spent[-1] <= 0.1
        wait_until(at_no_cost, explain=lambda: f"{spent} s of processor time in 2 s of waiting")
        assert not any(client.poll(0) for client in waiting)
        assert live.status(job)["substate"] == "Acquiring"
        live.call("StopDaq", id=job)
        assert all(client.poll(60_000) for client in waiting)
        told = [client.recv_json()["result"] for client in waiting]
    assert all(answer["reached"] and answer["status"]["substate"] == "Stopped" for answer in told)


@contextmanager
def clients(live: Live) -> Iterator[list[Any]]:
    import zmq

    # each costs two descriptors here, and one there
    count = min(500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 5)
    home = context()
    home.max_sockets = 2 * count
    made = [home.socket(zmq.DEALER) for _ in range(count)]
    try:
        for client in made:
            client.connect(live.requests.replace("zpb.rr", "tcp"))
        yield made
    finally:
        for client in made:
            client.close(linger=0)


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- keywords -------------------------------------------------------------------------------------


def test_keywords_are_folded_into_the_product(live: Live, fcf: Simulator) -> None:
    from astropy.io import fits

    properties = {"keywords": [*keywords(observer="one", program="P1"),
                               {"type": "esoKeyword", "name": "OBS ID", "value": 7}]}
    job = live.ctl("--json", "daq.start", "", fcf.at(), "--properties",
                   json.dumps(properties)).json()["id"]
    update = json.dumps([*keywords(observer="two", tester="me"),
                         {"type": "esoKeyword", "name": "OBS ID", "value": 8, "comment": "eight"}])
    assert live.ctl("--json", "daq.updatekeywords", job, update).json()["id"] == job
    bad = json.dumps([*keywords(observer="three"), {"type": "valueKeyword", "name": "lower"}])
    live.ctl("daq.updatekeywords", job, bad).fails(65, "keywords")
    live.ctl("daq.updatekeywords", job, "@-", stdin="nonsense").fails(65, "not JSON")
    live.call("StopDaq", id=job)
    live.ctl("daq.updatekeywords", job, update).fails(65, job, "not accepted")
    header = fits.getheader(live.product(job))
    assert (header["OBSERVER"], header["PROGRAM"], header["TESTER"]) == ("two", "P1", "me")
    assert header["ESO OBS ID"] == 8 and header.comments["ESO OBS ID"] == "eight"
    assert header["INSTRUME"] == "TEST" and header["OBJECT"] == "SIMULATED"
    assert header["ARCFILE"] == os.path.basename(live.status(job)["result"])


def test_no_keywords_after_the_seal(live: Live) -> None:
    with live.daq.start("daq-sim", "metadaqif", "slow", "zpb.rr://127.0.0.1:0/daq", "--delay",
                        "StopDaq=3", until="ready") as slow:
        job = live.begin({"type": "metadataSource", "sourceName": "slow",
                          "rrUri": slow.out.strip()})
        stopping = live.daq.spawn("daq-ctl", "daq.stop", job)
        live.until(job, "Stopping")
        live.call("UpdateKeywords", id=job, keywords=keywords(late="yes"))
        stopping.wait().ok()
    assert live.daq.events(job).index("keywords") < live.daq.events(job).index("sealed")
    with pytest.raises(rpc.RemoteError, match="not accepted"):
        live.call("UpdateKeywords", id=job, keywords=keywords(later="no"))


# -- abort ----------------------------------------------------------------------------------------


def test_abort_while_acquiring_discards_the_data(live: Live, dcs: Simulator, fcf: Simulator,
                                                 ) -> None:
    job = live.begin(dcs, fcf)
    assert live.ctl("--json", "daq.abort", job).json() == {"id": job, "error": False}
    status = live.status(job)
    assert (status["state"], status["substate"]) == ("StateCompleted", "Aborted")
    assert dcs.ask("RecStatus", id=job)["status"] == "Aborted"
    assert fcf.ask("GetDaqStatus", id=job)["state"] == "Aborted"
    assert job in live.daq.tree()["done"]
    live.ctl("daq.abort", job).ok()  # again: no harm
    live.ctl("daq.stop", job).fails(65, "StateCompleted Aborted")


def test_abort_after_the_acquisition(live: Live, fcf: Simulator) -> None:
    job = live.begin(fcf)
    live.call("StopDaq", id=job)
    live.ctl("daq.abort", job).ok()
    assert live.status(job)["substate"] == "Aborted"
    assert not (live.daq.spool / "lock" / job).exists()
    done = live.begin(fcf)
    live.call("StopDaq", id=done)
    live.product(done)
    live.ctl("daq.abort", done).fails(65, "StateCompleted Completed")
    live.ctl("daq.forceabort", done).fails(65, "Completed")


@pytest.mark.parametrize("verb", ["daq.abort", "daq.forceabort"])
def test_abort_ends_a_stage_worker(live: Live, fcf: Simulator, verb: str) -> None:
    from remote import stand_in

    folder = live.daq.folder / f"far-{verb}"
    folder.mkdir()
    stand = stand_in(folder)
    stand.gate.unlink()  # the transfer hangs
    config = live.daq.env["DAQ_CONFIG"]
    local = folder / "daq.yaml"
    with open(config, encoding="utf-8") as file:
        local.write_text(f"{file.read()}  rsh: {stand.command}\n")
    path = make_fits(folder / "far.fits")
    job = live.begin(fcf, {"type": "fitsFile", "sourceName": "far", "location": f"far:{path}"})
    live.call("StopDaq", id=job)
    worker = live.daq.spawn("daq-collect", "--job", job, env={"DAQ_CONFIG": str(local)})
    live.until(job, "Collecting")
    wait_until(lambda: stand.calls.read_text())
    live.ctl("--json", verb, job).ok()
    worker.wait()
    assert live.status(job)["substate"] == "Aborted" and live.status(job)["error"] is False
    assert job in live.daq.tree()["done"] and live.daq.events(job)[-1] == "aborted"


def test_abort_past_the_acquisition_needs_no_daemon(daq: Daq) -> None:
    daq.drop("merge", "left", {"sources": [
        {"type": "fitsFile", "sourceName": "a", "location": "/nowhere/a.fits"}]})
    nobody = f"zpb.rr://127.0.0.1:{free_port()}"
    daq.run("daq-ctl", "--json", "--rep", nobody, "daq.abort", "left").ok()
    assert daq.tree() == {"done": ["left"]}
    assert daq.events("left")[-1] == "aborted"
    daq.run("daq-ctl", "--json", "--rep", nobody, "daq.abort", "left").ok()  # it is aborted
    daq.drop("done", "ended", {"sources": []})
    daq.run("daq-ctl", "--rep", nobody, "daq.abort", "ended").fails(66, "ended", "in done/")
    daq.run("daq-ctl", "--rep", nobody, "daq.abort", "other").fails(69, "nobody answers")
    daq.run("daq-ctl", "--rep", nobody, "daq.stop", "left").fails(69, "nobody answers")

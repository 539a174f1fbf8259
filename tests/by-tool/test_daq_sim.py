from __future__ import annotations

import hashlib
import json
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daqlib import clock, rpc
from harness import CHECKOUT, PATIENCE_S, Daq, Process, make_fits, wait_until

READY = r"ready at"


class Peer:
    """A running simulator and what a client says to it."""

    def __init__(self, process: Process, directory: Path) -> None:
        self.process, self.directory = process, directory
        self.uri = process.out.strip()

    def __call__(self, command: str, limit: float = PATIENCE_S, /, **params: Any) -> Any:
        return rpc.call(self.uri, command, params, limit)

    def std(self, command: str) -> Any:
        return rpc.call(f"{self.uri.rpartition('/')[0]}/std", command, {}, PATIENCE_S)

    def refuses(self, command: str, **params: Any) -> rpc.RemoteError:
        with pytest.raises(rpc.RemoteError) as caught:
            self(command, **params)
        return caught.value

    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir())


@contextmanager
def simulator(daq: Daq, kind: str, name: str, *options: object, stdin: bool = False,
              ) -> Iterator[Peer]:
    directory = daq.folder / "out"
    endpoint = f"ipc://{daq.folder}/{name}.sock"
    with daq.start("daq-sim", kind, name, endpoint, "--directory", directory, *options,
                   until=READY, stdin=stdin) as process:
        yield Peer(process, directory)


def recif(daq: Daq, *options: object, stdin: bool = False) -> Any:
    return simulator(daq, "recif", "dcs", *options, stdin=stdin)


def metadaqif(daq: Daq, *options: object) -> Any:
    return simulator(daq, "metadaqif", "fcf", *options)


def verified(*paths: Path) -> None:
    done = subprocess.run(["fitsverify", "-e", "-q", *map(str, paths)], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_recording_is_stopped_by_its_client(daq: Daq) -> None:
    with recif(daq) as dcs:
        started = dcs("RecStart", properties={"id": "E.1", "info": "first"})
        assert set(started) == {
            "id", "info", "status", "dpFiles", "filesGenerated", "framesProcessed",
            "framesRemaining", "sizeRecorded", "timeElapsed", "remainingTime"}
        assert (started["id"], started["info"], started["status"]) == ("E.1", "first", "Active")
        assert dcs.std("GetState") == "Operational;Active"
        stopped = dcs("RecStop")
        [path] = dcs.files()
        assert stopped["status"] == "Stopped"
        assert stopped["dpFiles"] == [str(path)] and path.name == "dcs_E.1.fits"
        assert (stopped["filesGenerated"], stopped["sizeRecorded"]) == (1, path.stat().st_size)
        assert path.stat().st_size % 2880 == 0
        assert dcs("RecStatus", id="E.1") == dcs("RecStatus") == stopped
        assert dcs.std("GetState") == "Operational;Idle"


def test_enter_completes_a_recording(daq: Daq) -> None:
    with recif(daq, stdin=True) as dcs:
        dcs.process.press_enter()  # nothing is active: no harm
        dcs.process.wait_for("no recording is active")
        dcs("RecStart")
        assert dcs("RecWait", timeout=0.1)["status"] == "Timeout"
        threading.Timer(0.2, dcs.process.press_enter).start()
        waited = dcs("RecWait", spec={"timeout": 50})
        assert (waited["status"], waited["recStatus"]["status"]) == ("Success", "Completed")
        dcs("RecStart")
        dcs.process.stdin.close()  # the end of the input ends neither recording nor simulator
        assert dcs("RecWait", timeout=0.2)["status"] == "Timeout"
        assert dcs("RecStop")["status"] == "Stopped"


def test_an_exposure_ends_by_itself(daq: Daq) -> None:
    with recif(daq, "--exposure", 1.5) as dcs:
        started = dcs("RecStart")
        assert 0 < started["remainingTime"] <= 1.5
        assert abs(started["framesRemaining"] - 10 * started["remainingTime"]) <= 1
        waited = dcs("RecWait", timeout=50)
        assert waited["recStatus"]["status"] == "Completed"
        assert waited["recStatus"]["remainingTime"] == 0
        assert dcs("RecWait", timeout=0) == waited


def test_a_pause_does_not_count(daq: Daq) -> None:
    with recif(daq, "--exposure", 3) as dcs:
        dcs("RecStart")
        time.sleep(0.3)
        paused = dcs("RecPause")
        assert paused["status"] == "Paused"
        assert "is Paused" in dcs.refuses("RecPause").message
        assert dcs("RecWait", timeout=2)["recStatus"]["timeElapsed"] == paused["timeElapsed"]
        assert dcs("RecContinue")["status"] == "Active"
        assert "is Active" in dcs.refuses("RecContinue").message
        ended = dcs("RecWait", timeout=50)["recStatus"]
        assert ended["status"] == "Completed"
        assert 3 <= ended["timeElapsed"] < 3 + 2


def test_a_recording_begins_at_its_start_time(daq: Daq) -> None:
    with recif(daq, "--exposure", 0.2) as dcs:
        soon = clock.iso(clock.now() + 4.0) + "Z"
        started = dcs("RecStart", properties={"id": "E.1", "startTime": soon})
        assert (started["status"], started["startTime"]) == ("Inactive", soon)
        assert "is active" in dcs.refuses("RecStart").message
        assert "is Inactive" in dcs.refuses("RecPause").message
        assert dcs.std("GetState") == "Operational;Active"
        wait_until(lambda: dcs("RecStatus")["status"] != "Inactive")
        assert clock.now() >= clock.from_iso(soon)
        ended = dcs("RecWait", timeout=50)["recStatus"]
        assert (ended["status"], ended["startTime"]) == ("Completed", soon)
        assert ended["timeElapsed"] < 3.5  # the waiting is no exposure
        past = dcs("RecStart", properties={"startTime": "2020-01-01T00:00:00"})
        assert past["status"] == "Active"
        dcs("RecAbort")


@pytest.mark.parametrize(("command", "outcome"), [("RecStop", "Stopped"), ("RecAbort", "Aborted")])
def test_a_recording_that_has_not_begun_can_be_ended(daq: Daq, command: str, outcome: str) -> None:
    with recif(daq) as dcs:
        for wrong in ("tomorrow", 7, ["2030-01-01T00:00:00"]):
            assert "startTime" in dcs.refuses("RecStart", properties={"startTime": wrong}).message
        dcs("RecStart", properties={"id": "E.1", "startTime": "2100-01-01T00:00:00"})
        dcs(command)
        assert dcs("RecWait", timeout=50)["recStatus"]["status"] == outcome
        assert len(dcs.files()) == (command == "RecStop")


def test_an_aborted_recording_leaves_nothing(daq: Daq) -> None:
    with recif(daq) as dcs:
        dcs("RecStart", properties={"id": "E.1"})
        assert dcs("RecAbort") == "OK"
        assert dcs("RecStatus")["status"] == "Aborted"
        assert dcs("RecWait", timeout=50)["recStatus"]["dpFiles"] == []
        assert dcs.files() == []


def test_an_abort_while_the_file_is_written_leaves_nothing(daq: Daq) -> None:
    with recif(daq, "--size", "128M", "--exposure", 0.01) as dcs:
        dcs("RecStart")
        wait_until(lambda: any(path.name.startswith(".tmp-") for path in dcs.files()))
        assert dcs("RecAbort") == "OK"
        assert dcs("RecStatus")["status"] == "Aborted"
        assert dcs.files() == []


def test_one_recording_at_a_time(daq: Daq) -> None:
    with recif(daq) as dcs:
        for command in ("RecStop", "RecAbort", "RecPause", "RecContinue"):
            assert "no recording is active" in dcs.refuses(command).message
        assert dcs.refuses("RecWait", timeout=1).exception == "recif::ExceptionErr"
        assert dcs.refuses("RecStatus", id="E.9").code == 66
        dcs("RecStart", properties={"id": "E.1"})
        error = dcs.refuses("RecStart", properties={"id": "E.2"})
        assert (error.exception, error.id) == ("recif::ExceptionErr", "E.1")
        dcs("RecStop")
        assert "exists already" in dcs.refuses("RecStart", properties={"id": "E.1"}).message
        assert dcs.refuses("RecStart", properties={"id": "../E"}).exception
        assert dcs.refuses("RecStart", properties=7).exception
        assert dcs.refuses("RecWait", timeout="soon").exception


def test_it_answers_under_the_name_of_the_interface_too(daq: Daq) -> None:
    with recif(daq) as dcs:
        assert dcs.uri.endswith("/rec")
        alias = dcs.uri.removesuffix("rec") + "RecCmds"
        assert rpc.call(alias, "RecStart", {}, PATIENCE_S)["status"] == "Active"


def test_a_free_port_is_told_on_stdout(daq: Daq) -> None:
    with daq.start("daq-sim", "recif", "dcs", "zpb.rr://127.0.0.1:0/own", "--json",
                   until=READY) as process:
        told = json.loads(process.out)
        assert (told["kind"], told["name"]) == ("recif", "dcs")
        assert told["uri"].startswith("zpb.rr://127.0.0.1:") and told["uri"].endswith("/own")
        assert rpc.call(told["uri"], "RecStart", {}, PATIENCE_S)["status"] == "Active"
        assert process.err == f"daq-sim: recif dcs ready at {told['uri']}\n"


def test_files_go_to_the_data_root(daq: Daq) -> None:
    daq.env["DATAROOT"] = str(daq.folder / "root")
    with daq.start("daq-sim", "recif", "dcs", "zpb.rr://127.0.0.1:0", "--host", "insws1",
                   until=READY) as process:
        rpc.call(process.out.strip(), "RecStart", {"properties": {"id": "E"}}, PATIENCE_S)
        stopped = rpc.call(process.out.strip(), "RecStop", {}, PATIENCE_S)
    path = daq.folder / "root" / "dcs" / "dcs_E.fits"
    assert path.exists() and stopped["dpFiles"] == [f"insws1:{path}"]
    assert stat.S_IMODE((daq.folder / "root").stat().st_mode) == 0o774, "as the servers make it"


@pytest.mark.parametrize("extensions", [0, 3])
@pytest.mark.needs("fitsverify")
def test_an_image_is_real_fits(daq: Daq, extensions: int) -> None:
    from astropy.io import fits

    with recif(daq, "--size", "600K", "--extensions", extensions, "--exposure", 0.1) as dcs:
        dcs("RecStart")
        dcs("RecWait", timeout=50)
        [path] = dcs.files()
    verified(path)
    with fits.open(path) as hdus:
        assert len(hdus) == 1 + extensions
        data = [hdu.data for hdu in hdus if hdu.data is not None]
        assert len(data) == max(1, extensions)
        total = sum(array.nbytes for array in data)
        assert 600 * 1024 - 3 * 4096 < total <= 600 * 1024
        assert hdus[0].header["ESO DET ID"] == "DCS"
        assert hdus[0].header["EXPTIME"] == 0.1
        assert hdus[0].header["DATE"] == "2026-11-21T02:30:00.000"


def test_the_same_seed_makes_the_same_bytes(daq: Daq) -> None:
    def digest(name: str, seed: int) -> str:
        with simulator(daq, "recif", "dcs", "--seed", seed, "--exposure", 0.05, "--directory",
                       daq.folder / name) as dcs:
            dcs("RecStart", properties={"id": "E"})
            [path] = dcs("RecWait", timeout=50)["recStatus"]["dpFiles"]
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    assert digest("a", 7) == digest("b", 7) != digest("c", 8)


def test_a_large_file_needs_little_memory(daq: Daq) -> None:
    with recif(daq, "--size", "128M", "--exposure", 0.05) as dcs:
        dcs("RecStart")
        assert dcs("RecWait", 120, timeout=110)["recStatus"]["sizeRecorded"] > 128 << 20
        status = Path(f"/proc/{dcs.process.pid}/status").read_text()
        [peak] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        dcs.files()[0].unlink()
    assert int(peak) < 150 * 1024


def test_real_files_are_delivered_as_they_are(daq: Daq) -> None:
    real = make_fits(daq.folder / "real.fits", 2)
    other = make_fits(daq.folder / "other.fits", 0)
    with recif(daq, "--file", real, "--file", other) as dcs:
        for expected in (["real.fits", "other.fits"], ["real_2.fits", "other_2.fits"]):
            dcs("RecStart")
            paths = [Path(path) for path in dcs("RecStop")["dpFiles"]]
            assert [path.name for path in paths] == expected
            assert [path.read_bytes() for path in paths] == [real.read_bytes(), other.read_bytes()]


def test_a_file_that_cannot_be_written_fails_the_recording(daq: Daq) -> None:
    real = make_fits(daq.folder / "real.fits")
    with recif(daq, "--file", real, stdin=True) as dcs:
        real.unlink()
        dcs("RecStart")
        assert "No such file" in dcs.refuses("RecStop").message
        assert dcs("RecStatus")["status"] == "Failed"
        dcs("RecStart")
        dcs.process.press_enter()
        waited = dcs("RecWait", timeout=50)
        assert (waited["status"], waited["recStatus"]["status"]) == ("Success", "Failed")
        assert "No such file" in waited["recStatus"]["info"]
        assert dcs.files() == []


def test_it_sweeps_what_a_killed_one_left(daq: Daq) -> None:
    out = daq.folder / "out"
    out.mkdir()
    (out / ".tmp-999999999-1-dcs_E.fits").write_text("half")
    with recif(daq) as dcs:
        assert dcs.files() == []


@pytest.mark.needs("fitsverify")
def test_a_session_gives_files_and_keywords(daq: Daq) -> None:
    from astropy.io import fits

    with metadaqif(daq, "--size", "2M", "--extensions", 2) as fcf:
        assert fcf.uri.endswith("/daq")
        assert fcf("StartDaq", id="S.1") == {"id": "S.1"}
        status = fcf("GetDaqStatus", id="S.1")
        assert (status["state"], status["files"], status["keywords"]) == ("Acquiring", [], "[]")
        assert abs(status["timestamp"] - time.time()) < 60
        reply = fcf("StopDaq", id="S.1")
        [path] = fcf.files()
        assert (reply["id"], reply["files"]) == ("S.1", [str(path)])
        kinds = {keyword["type"] for keyword in json.loads(reply["keywords"])}
        assert kinds == {"valueKeyword", "esoKeyword"}
        status = fcf("GetDaqStatus", id="S.1")
        assert status["state"] == "Succeeded"
        assert [status["files"], status["keywords"]] == [reply["files"], reply["keywords"]]
    verified(path)
    with fits.open(path) as hdus:
        assert hdus[0].header["ESO INS ID"] == "FCF"
        assert [len(hdu.data) for hdu in hdus[1:]] == [(1 << 20) // 24] * 2
        assert 200 < hdus[1].data["TEMP"].mean() < 300


def test_a_session_id_is_used_once(daq: Daq) -> None:
    with metadaqif(daq) as fcf:
        fcf("StartDaq", id="S.1")
        error = fcf.refuses("StartDaq", id="S.2")
        assert error.exception == "metadaqif::DaqException" and "S.1 is running" in error.message
        fcf("StopDaq", id="S.1")
        error = fcf.refuses("StartDaq", id="S.1")
        assert error.id == "S.1" and "used already" in error.message
        assert "is Succeeded" in fcf.refuses("StopDaq", id="S.1").message
        assert "is Succeeded" in fcf.refuses("AbortDaq", id="S.1").message
        assert fcf.refuses("GetDaqStatus", id="S.9").code == 66
        invented = fcf("StartDaq", id="")["id"]
        assert fcf("GetDaqStatus", id=invented)["state"] == "Acquiring"
        assert fcf("AbortDaq", id=invented) == fcf("AbortDaq", id=invented) == {"id": invented}
        assert fcf("GetDaqStatus", id=invented)["state"] == "Aborted"
        assert len(fcf.files()) == 1


def test_more_sessions_on_demand(daq: Daq) -> None:
    with metadaqif(daq, "--sessions", 2, "--no-files", "--no-keywords") as fcf:
        fcf("StartDaq", id="S.1")
        fcf("StartDaq", id="S.2")
        assert "S.1, S.2" in fcf.refuses("StartDaq", id="S.3").message
        assert fcf("StopDaq", id="S.1") == {"id": "S.1", "files": [], "keywords": "[]"}
        fcf("StartDaq", id="S.3")
        assert not fcf.directory.exists()


def test_past_sessions_are_remembered_but_not_for_ever(daq: Daq) -> None:
    with metadaqif(daq, "--no-files") as fcf:
        for number in range(103):
            fcf("StartDaq", id=f"S.{number}")
            fcf("AbortDaq", id=f"S.{number}")
        assert fcf.refuses("GetDaqStatus", id="S.1").code == 66
        assert fcf("GetDaqStatus", id="S.10")["state"] == "Aborted"


def test_chosen_keywords(daq: Daq) -> None:
    chosen = [{"type": "literalKeyword", "value": "COMMENT from the test"}]
    (daq.folder / "kw.json").write_text(json.dumps(chosen))
    with metadaqif(daq, "--keywords", f"@{daq.folder}/kw.json") as fcf:
        fcf("StartDaq", id="S.1")
        assert json.loads(fcf("StopDaq", id="S.1")["keywords"]) == chosen


def test_standard_commands(daq: Daq) -> None:
    with recif(daq) as dcs:
        assert dcs.std("GetState") == dcs.std("GetStatus") == "Operational;Idle"
        assert dcs.std("GetVersion")[0].isdigit()
        for command, state in (("Disable", "NotOperational;Ready"),
                               ("Reset", "NotOperational;NotReady"),
                               ("Init", "NotOperational;Ready")):
            assert dcs.std(command) == "OK"
            assert dcs.std("GetState") == state
        assert "not Operational" in dcs.refuses("RecStart").message
        assert [dcs.std("Enable"), dcs.std("Stop")] == ["OK", "OK"]
        assert dcs("RecStart")["status"] == "Active"
        assert dcs.std("Exit") == "OK"
        dcs.process.wait().ok()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_clean_end(daq: Daq, signum: int) -> None:
    with recif(daq) as dcs:
        dcs("RecStart")
        dcs.process.popen.send_signal(signum)
        dcs.process.wait().ok()
        assert not (daq.folder / "dcs.sock").exists()


def test_fail(daq: Daq) -> None:
    with recif(daq, "--fail", "RecStart:1=shutter stuck", "--fail", "RecStop") as dcs:
        error = dcs.refuses("RecStart")
        assert (error.message, error.exception) == ("shutter stuck", "recif::ExceptionErr")
        assert dcs("RecStart")["status"] == "Active"
        assert dcs.refuses("RecStop").message == "RecStop fails on demand"
        assert dcs.refuses("RecStop").message == "RecStop fails on demand"
        assert dcs("RecStatus")["status"] == "Active"


def test_a_command_that_the_source_does_not_have(daq: Daq) -> None:
    with recif(daq, "--without", "RecAbort", "--without", "RecPause", "--without", "Init") as dcs:
        dcs("RecStart")
        for command in ("RecAbort", "RecPause"):
            error = dcs.refuses(command)
            assert (error.rpc_code, error.exception) == (
                rpc.METHOD_NOT_FOUND, "rpc::MethodNotFound")
        with pytest.raises(rpc.RemoteError, match="std.Init is not known"):
            dcs.std("Init")
        assert dcs("RecStop")["status"] == "Stopped"


def test_delay_and_hang(daq: Daq) -> None:
    with metadaqif(daq, "--no-files", "--delay", "StartDaq=0.5", "--hang", "StopDaq:1") as fcf:
        begin = time.monotonic()
        fcf("StartDaq", id="S.1")
        assert time.monotonic() - begin > 0.5
        with pytest.raises(rpc.RpcTimeout):
            fcf("StopDaq", 0.3, id="S.1")
        assert fcf("GetDaqStatus", id="S.1")["state"] == "Acquiring"
        assert fcf("StopDaq", id="S.1")["files"] == []


def test_die(daq: Daq) -> None:
    with recif(daq, "--die", "RecStop") as dcs:
        dcs("RecStart")
        with pytest.raises(rpc.Lost):
            dcs("RecStop")
        dcs.process.wait().exits(1)
        assert dcs.files() == []
    with recif(daq) as dcs:  # the socket file of the dead one is in nobody's way
        assert dcs.refuses("RecStatus").code == 66


def test_die_after(daq: Daq) -> None:
    with recif(daq, "--die-after", "RecStop") as dcs:
        dcs("RecStart", properties={"id": "E"})
        with pytest.raises(rpc.Lost):
            dcs("RecStop")
        dcs.process.wait().exits(1)
        assert [path.name for path in dcs.files()] == ["dcs_E.fits"]


def test_verbose_tells_every_command(daq: Daq) -> None:
    with recif(daq, "-v", "--fail", "RecAbort") as dcs:
        dcs("RecStart", properties={"id": "E"})
        dcs.refuses("RecAbort")
        dcs.refuses("RecContinue")
        wait_until(lambda: "RecContinue refused" in dcs.process.err)
        assert 'daq-sim: RecStart {"properties": {"id": "E"}}' in dcs.process.err
        assert 'daq-sim: RecStart -> {"id": "E"' in dcs.process.err
        assert "daq-sim: RecAbort {} [fail]" in dcs.process.err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 64, "KIND"),
        (["camera"], 64, "camera"),
        (["recif", "dcs"], 64, "URI"),
        (["recif", "dcs", "nonsense"], 65, "endpoint 'nonsense'"),
        (["recif", "../dcs", "zpb.rr://127.0.0.1:0"], 65, "sourceName"),
        (["recif", "dcs", "zpb.rr://*:0"], 78, "CURVE"),
        (["recif", "dcs", "zpb.ps://127.0.0.1:0"], 78, "no endpoint for requests"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--size", "3X"], 64, "--size"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--exposure", "nan"], 64, "--exposure"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--count", "0"], 64, "--count"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--without", "StopDaq"], 64, "no such command"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--fail", "StartDaq"], 64, "no such command"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--delay", "RecStop"], 64, "no seconds"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--die", "RecStop:0"], 64, "count from 1"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--hang", "RecStop=1"], 64, "takes no value"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--file", "/no/such"], 74, "/no/such"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--directory", "/proc/no"], 78, "/proc/no"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--curve-authorized", "x"], 64,
         "--curve-certificate"),
        (["recif", "dcs", "zpb.rr://127.0.0.1:0", "--curve-certificate", "/no/key"], 78, "/no/key"),
        (["metadaqif", "fcf", "zpb.rr://127.0.0.1:0", "--keywords", "{}"], 65, "not a JSON list"),
        (["metadaqif", "fcf", "zpb.rr://127.0.0.1:0", "--keywords", "["], 65, "not JSON"),
        (["metadaqif", "fcf", "zpb.rr://127.0.0.1:0", "--exposure", "1"], 64, "--exposure"),
    ],
)
def test_wrong_arguments(daq: Daq, arguments: list[str], code: int, text: str) -> None:
    daq.run("daq-sim", *arguments).fails(code, text).no_output()


def test_one_endpoint_has_one_simulator(daq: Daq) -> None:
    with recif(daq) as dcs:
        daq.run("daq-sim", "recif", "dcs", dcs.uri).fails(75, "in use by another program")
        assert dcs("RecStart")["status"] == "Active"


def test_help_is_quick() -> None:
    code = ("import sys; from daq_sim.__main__ import main; main(['recif', '--help']); "
            "heavy = {'zmq', 'asyncio', 'numpy', 'astropy'} & set(sys.modules); "
            "sys.exit(' '.join(heavy) or 0)")
    path = f"{CHECKOUT}/lib:{CHECKOUT}/tools/daq-sim"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "--die-after" in done.stdout

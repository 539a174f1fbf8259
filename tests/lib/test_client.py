"""The Python client: its names, its errors, its life, and the sequences of the documentation."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daq_ctl import client as command_line
from daq_ctl.application import Application
from daq_ctl.control import Control
from daqlib import client, errors, rpc
from daqlib.client import AsyncDaqClient, DaqClient, DaqState, DaqSubState, LogInfo
from daqlib.interface import OcmDaqControl, StdCmds, daq_status
from harness import CHECKOUT, SYSTEM_PATH, Daq, free_port, wait_until
from live import Live, Simulator, sharing
from rooms import HEAVY

pytestmark = [pytest.mark.installed, pytest.mark.xdist_group("client")]

STATUS = {"id": "J.1", "fileId": "F.1", "state": "StateAcquiring", "substate": "Stopped",
          "timestamp": 12.5, "error": True, "result": "", "message": json.dumps([
              {"id": "source-failed:dcs", "severity": "error", "description": "gone",
               "timestamp": 11.0}])}


def commands(interface: type) -> dict[str, list[str]]:
    """Return the public methods of a class with the names of their parameters."""
    return {name: [word for word in inspect.signature(function).parameters if word != "self"]
            for name, function in inspect.getmembers(interface, callable)
            if name[0].isupper()}


# -- names ----------------------------------------------------------------------------------------


def test_the_clients_have_every_command_of_the_server() -> None:
    served = {name for name in commands(Control) if inspect.iscoroutinefunction(
        getattr(Control, name))}
    assert set(commands(OcmDaqControl)) == served
    assert set(commands(StdCmds)) == set(commands(Application))
    for kind in (DaqClient, AsyncDaqClient):
        assert served <= set(dir(kind))
        made = kind("zpb.rr://127.0.0.1:1")
        assert set(commands(StdCmds)) <= set(dir(made.std))


@pytest.mark.parametrize("name", sorted(commands(OcmDaqControl)))
def test_parameters_are_those_of_the_interface(name: str) -> None:
    wanted = commands(Control)[name]
    assert commands(OcmDaqControl)[name] == wanted
    given = {word: {"timeout": 5.0, "allow_shared": True}.get(word, "x") for word in wanted}
    assert set(getattr(OcmDaqControl, name)(**given).params) == set(wanted)


def test_the_command_line_has_every_command() -> None:
    import argparse

    options = argparse.Namespace(id="", file_prefix="", properties="", allow_shared=False)
    sent = set()
    for verb, told in command_line.VERBS.items():
        words = ["5" if word == "timeout" else "{}" for word in told.arguments]
        request = told.request(options, words)
        assert verb.startswith(f"{request.service}.")
        sent.add((request.service, request.command))
    older_name = {("daq", "GetDaqStatus")}
    assert sent | older_name == {*(("daq", name) for name in commands(OcmDaqControl)),
                                 *(("std", name) for name in commands(StdCmds))}


def test_values_become_json_text() -> None:
    made = OcmDaqControl.StartDaq(prim_sources=["a@zpb.rr://h:1/rec", "b@zpb.rr://h:2/rec"],
                                  properties={"awaitInterval": 2})
    assert made.params == {"id": "", "file_prefix": "", "meta_sources": "",
                           "prim_sources": "a@zpb.rr://h:1/rec b@zpb.rr://h:2/rec",
                           "properties": '{"awaitInterval": 2}'}
    assert OcmDaqControl.StartDaqV2({"sources": []}, allow_shared=True).params == {
        "specification": '{"sources": []}', "allow_shared": True}
    assert OcmDaqControl.UpdateKeywords("a", ({"n": i} for i in (1, 2))).params["keywords"] == (
        '[{"n": 1}, {"n": 2}]')
    awaited = OcmDaqControl.AwaitDaqState("a", DaqState.StateMerging, DaqSubState.Merging, 90)
    assert json.dumps(awaited.params) == (
        '{"id": "a", "state": "StateMerging", "substate": "Merging", "timeout": 90}')
    assert awaited.patience_s == 92


def test_a_status_with_its_alerts() -> None:
    made = daq_status(STATUS)
    assert (made.state, made.substate) == (DaqState.StateAcquiring, DaqSubState.Stopped)
    assert [(alert.id, alert.severity) for alert in made.alerts] == [("source-failed:dcs", "error")]
    assert daq_status({**STATUS, "message": "prose"}).alerts == ()
    newer = daq_status({**STATUS, "state": "StateDreaming", "substate": "Dreaming"})
    assert (newer.state, newer.substate) == (DaqState.StateUndefined, DaqSubState.Undefined)


def test_importing_is_cheap(tmp_path: Path) -> None:
    code = "import daqlib.client, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": f"{CHECKOUT}/lib"},
                          cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()


# -- errors, with a server that says what the test wants -------------------------------------------


class Scripted:
    """Replies to every command with what it is told to."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    def command(self, name: str) -> Any:
        async def answer(**_params: Any) -> Any:
            self.asked.append(name)
            told = self.answers[name]
            if isinstance(told, Exception):
                raise told
            return told
        return answer


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, str]]:
    from daqlib import rpcserver

    made = Scripted()
    names = {name: made.command(name) for name in commands(OcmDaqControl)}
    ready, box = threading.Event(), {}

    async def serve() -> None:
        async with rpcserver.Server("zpb.rr://127.0.0.1:0", {"daq": names}) as server:
            box["end"], box["loop"] = asyncio.Event(), asyncio.get_running_loop()
            box["endpoint"] = str(server.endpoint)
            ready.set()
            await box["end"].wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield made, str(box["endpoint"])
    finally:
        box["loop"].call_soon_threadsafe(box["end"].set)  # type: ignore[attr-defined]
        thread.join(60)


def test_a_refusal_is_the_exception_of_the_interface(scripted: tuple[Scripted, str]) -> None:
    server, endpoint = scripted
    server.answers["StopDaq"] = errors.NoJob("no DAQ has this id", "see the list", "J.9")
    with DaqClient(endpoint) as ocm, pytest.raises(client.DaqException) as caught:
        ocm.StopDaq("J.9")
    assert (caught.value.id, caught.value.message, caught.value.code) == (
        "J.9", "no DAQ has this id", 66)
    assert str(caught.value) == "no DAQ has this id; see the list"
    assert isinstance(caught.value, errors.DaqError)


def test_other_failures(scripted: tuple[Scripted, str]) -> None:
    server, endpoint = scripted
    server.answers["GetStatus"] = {"id": "a"}
    ocm = DaqClient(endpoint)
    with pytest.raises(rpc.BadReply, match="GetStatus"):
        ocm.GetStatus("a")
    with pytest.raises(rpc.RemoteError) as caught:
        ocm.std.Init()  # no such service there
    assert not isinstance(caught.value, client.DaqException)
    with pytest.raises(rpc.Unreachable):
        DaqClient(f"zpb.rr://127.0.0.1:{free_port()}", timeout_s=1).GetActiveList()
    with pytest.raises(errors.BadData):
        DaqClient("nonsense")


def test_stop_never_aborts(scripted: tuple[Scripted, str]) -> None:
    server, endpoint = scripted
    refusal = errors.BadData("all sources failed to stop", "force it", "J.1")
    server.answers = {"StopDaq": refusal, "AwaitDaqState": {
        "timeout": True, "reached": False, "status": {**STATUS, "substate": "Stopping"}}}
    with pytest.raises(client.DaqException, match="all sources failed"):
        DaqClient(endpoint).stop("J.1")
    server.answers["StopDaq"] = {"id": "J.1", "error": False}
    with pytest.raises(client.DaqException, match="not Stopped but Stopping"):
        DaqClient(endpoint).stop("J.1", 0.5)
    assert set(server.asked) == {"StopDaq", "AwaitDaqState"}


def test_where_the_server_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OCM_REQUEST_EP", "OCM_PUBLISH_EP", "DAQ_CONFIG", "CFGPATH"):
        monkeypatch.delenv(name, raising=False)
    assert client.request_endpoint().startswith("zpb.rr://127.0.0.1:12081")
    assert client.topic_endpoint().startswith("zpb.ps://127.0.0.1:12082")
    path = tmp_path / "c.yaml"
    path.write_text("cfg:\n  req_endpoint: zpb.rr://h:1\n")
    monkeypatch.setenv("DAQ_CONFIG", str(path))
    assert client.request_endpoint() == "zpb.rr://h:1"
    monkeypatch.setenv("OCM_REQUEST_EP", "zpb.rr://h:2")
    assert client.request_endpoint() == "zpb.rr://h:2"
    assert client.request_endpoint("zpb.rr://h:3") == "zpb.rr://h:3"


# -- a real server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
         ) -> Iterator[Live]:
    with sharing(tmp_path_factory.mktemp("client"), request.config.getoption("--daq-bin")) as made:
        made.daq.spawn("daq-watch", until="watching")
        yield made


@pytest.fixture(scope="module")
def dcs(live: Live) -> Simulator:
    return live.sim("recif", "dcs", "--exposure", 1.5)


@pytest.fixture(scope="module")
def fcf(live: Live) -> Simulator:
    return live.sim("metadaqif", "fcf", "--sessions", 20)


def at(live: Live) -> DaqClient:
    return DaqClient(live.requests, live.topics, timeout_s=60)


def test_a_life_seen_by_a_subscriber(live: Live, fcf: Simulator) -> None:
    seen: list[client.Sample] = []
    with at(live) as ocm:
        def listen() -> None:
            for sample in ocm.subscribe(120):
                seen.append(sample)
                if isinstance(sample, client.DaqStatus) and sample.substate == "Completed":
                    return
        listener = threading.Thread(target=listen)
        listener.start()

        def heard() -> bool:
            ocm.std.Disable()
            ocm.std.Enable()
            return bool(seen)
        wait_until(heard)
        assert ocm.std.GetState() == ocm.std.GetStatus() == "Operational;Idle"
        daq = ocm.StartDaqV2({"sources": [fcf.source()], "id": "py.1"})
        assert daq == client.DaqReply("py.1", error=False)
        assert [status.id for status in ocm.GetActiveList()] == ["py.1"]
        assert ocm.GetStatus("py.1") == ocm.GetDaqStatus("py.1")
        assert not ocm.UpdateKeywords("py.1", [
            {"type": "valueKeyword", "name": "OBSERVER", "value": "me"}]).error
        late = ocm.AwaitDaqState("py.1", "StateAcquiring", "Stopped", 0.2)
        assert (late.timeout, late.reached, late.status.substate) == (True, False, "Acquiring")
        assert ocm.stop("py.1").id == "py.1"
        assert ocm.stop("py.1").id == "py.1"  # it has stopped already
        done = ocm.AwaitDaqState("py.1", DaqState.StateCompleted, DaqSubState.Completed, 50)
        assert done.reached and os.path.getsize(done.status.result) > 0
        vain = ocm.AwaitDaqState("py.1", DaqState.StateCompleted, DaqSubState.Aborted, 20)
        assert (vain.timeout, vain.reached) == (False, False)
        listener.join(120)
    told = [sample.substate for sample in seen if isinstance(sample, client.DaqStatus)]
    assert told[0] == DaqSubState.NotStarted and told[-1] == DaqSubState.Completed
    assert client.Status("Operational;Active", "ocm") in seen


def test_a_client_of_a_server_that_is_not_operational(live: Live) -> None:
    ocm = at(live)
    ocm.std.Disable()
    try:
        with pytest.raises(client.NotOperational):
            ocm.GetActiveList()
    finally:
        assert ocm.std.Enable() == "OK"
    assert ocm.std.SetLogLevel(LogInfo("INFO", "daq.ocm")) == "OK"
    assert re.match(r"\d+\.", ocm.std.GetVersion())


def test_the_same_with_asyncio(live: Live, fcf: Simulator) -> None:
    async def run() -> list[str]:
        async with AsyncDaqClient(live.requests, live.topics, timeout_s=60) as ocm:
            samples = ocm.subscribe(120)
            first = asyncio.create_task(anext(samples))
            while not first.done():
                await ocm.std.Disable()
                await ocm.std.Enable()
                await asyncio.sleep(0.05)
            daq = await ocm.StartDaq("aio.1", meta_sources=[fcf.at()])
            waiting = asyncio.create_task(ocm.AwaitDaqState(
                daq.id, DaqState.StateCompleted, DaqSubState.Aborted, 50))
            with pytest.raises(client.DaqException, match="in use"):
                await ocm.StartDaq("aio.1", meta_sources=[fcf.at()])
            await ocm.AbortDaq(daq.id)
            assert (await waiting).reached
            with pytest.raises(client.DaqException):
                await ocm.stop(daq.id)
            seen = []
            async for sample in samples:
                if isinstance(sample, client.DaqStatus):
                    seen.append(str(sample.substate))
                    if seen[-1] == "Aborted":
                        return seen
        return []
    told = asyncio.run(run())
    assert list(dict.fromkeys(told)) == ["NotStarted", "Starting", "Acquiring", "Aborting",
                                         "Aborted"]


# -- the sequences of the documentation ------------------------------------------------------------


def scripts() -> list[tuple[str, str]]:
    page = (CHECKOUT / "docs" / "sequencer.md").read_text()
    return re.findall(r"^```(python|sh)\n(.*?)^```$", page, re.M | re.S)


def test_the_scripts_of_the_documentation(live: Live, dcs: Simulator, fcf: Simulator) -> None:
    found = scripts()
    assert [language for language, _ in found] == ["python", "python", "sh"]
    env = {**live.daq.environment(), "OCM_REQUEST_EP": live.requests, "OCM_PUBLISH_EP": live.topics,
           "DCS_DAQ_EP": dcs.uri, "FCF_DAQ_EP": fcf.uri,
           "PATH": f"{live.daq.bin}:{SYSTEM_PATH}", "PYTHONPATH": f"{CHECKOUT}/lib"}
    for number, (language, text) in enumerate(found):
        path = live.daq.folder / f"script{number}"
        path.write_text(text)
        before = set(live.daq.results())
        program = [sys.executable] if language == "python" else ["sh"]
        with subprocess.Popen([*program, path], env=env, cwd=live.daq.folder, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as script:
            if number > 0:
                both_are_taken_before_one_is_merged(live.daq)
            out, told = script.communicate(timeout=180)
        assert script.returncode == 0, told
        made = {os.path.basename(line) for line in out.splitlines()}
        assert len(made) == (1 if number == 0 else 2), out
        assert made == set(live.daq.results()) - before


def both_are_taken_before_one_is_merged(daq: Daq) -> None:
    pause = daq.spool / "collect" / ".pause"
    pause.touch()
    try:
        wait_until(lambda: len(daq.tree().get("collect", [])) == 2)
    finally:
        pause.unlink()


def test_waiting_clients_do_not_hold_each_other_up(live: Live, fcf: Simulator) -> None:
    with at(live) as ocm:
        ocm.StartDaqV2({"sources": [fcf.source()], "id": "many.1"})
        begin = time.monotonic()
        replies: list[client.AwaitDaqReply] = []
        threads = [threading.Thread(target=lambda: replies.append(
            ocm.AwaitDaqState("many.1", "StateAcquiring", "Stopped", 50))) for _ in range(8)]
        for thread in threads:
            thread.start()
        ocm.StopDaq("many.1")
        for thread in threads:
            thread.join(60)
    assert len(replies) == 8 and all(reply.reached for reply in replies)
    assert time.monotonic() - begin < 45

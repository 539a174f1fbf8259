"""Every state and every command, on a running daemon, compared with the tables of states.py."""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

import pytest

from daq_ctl import states
from daqlib import rpc
from daqlib.spool import Spool
from harness import CHECKOUT, PATIENCE_S, wait_until
from live import Live
from scripted import Script, Stage

pytestmark = [pytest.mark.xdist_group("daq-ctl-states")]

# holds the lock of a job as a worker does, until it is told to end
WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from daqlib.spool import Spool
lock = Spool(sys.argv[2], "test").lock(sys.argv[3], "collect")
assert lock is not None
print("holds it", flush=True)
time.sleep(600)
"""
KEYWORDS = [{"type": "valueKeyword", "name": "KEY", "value": 1}]
REACHED = {"StopDaq": ("Stopping", "NotScheduled"), "ForceStopDaq": ("NotScheduled",),
           "AbortDaq": ("Aborting", "Aborted"), "ForceAbortDaq": ("Aborted",)}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage().running() as made:
        yield made


class Maker:
    """Brings an acquisition into a substate and keeps it there."""

    def __init__(self, live: Live, stage: Stage) -> None:
        self.live, self.stage = live, stage
        self.spool = Spool(str(live.daq.spool), "test")
        self.pool = ThreadPoolExecutor(4)
        self.undo = contextlib.ExitStack()
        self.locked: TextIO | None = None

    def begin(self, *scripts: Script) -> str:
        return self.live.begin(*(script.source() for script in scripts))

    def moved(self, job: str, source: str, target: str) -> None:
        assert self.spool.move(job, source, target)

    def make(self, substate: str) -> str:
        job: str = getattr(self, substate)()
        self.live.until(job, substate)
        if locked := self.locked:
            # what is asked now has to wait for that
            self.pool.submit(lambda: (time.sleep(0.5), fcntl.flock(locked, fcntl.LOCK_UN)))
        self.locked = None
        return job

    def NotStarted(self) -> str:  # noqa: N802
        """A queued job whose log cannot be written: another one writes."""
        job = self.live.id("queued")
        log = self.live.daq.spool / "log" / f"{job}.jsonl"
        log.write_text(json.dumps({"event": "accepted", "fileId": job, "by": "test"}) + "\n")
        self.locked = self.undo.enter_context(log.open())
        fcntl.flock(self.locked, fcntl.LOCK_EX)
        hanging = self.stage.metadaqif(StartDaq="hang")
        self.undo.callback(hanging.release)
        self.live.daq.drop("acquire", job, {"sources": [hanging.source()]})
        wait_until(lambda: job in {now["id"] for now in self.live.call("GetActiveList")})
        return job

    def Starting(self) -> str:  # noqa: N802
        hanging = self.stage.metadaqif(StartDaq="hang")
        self.undo.callback(hanging.release)
        job = self.live.id("starting")
        self.pool.submit(self.live.begin, hanging.source(), id=job)
        wait_until(lambda: hanging.calls)
        return job

    def Acquiring(self) -> str:  # noqa: N802
        return self.begin(self.stage.recif(), self.stage.metadaqif())

    def Stopping(self) -> str:  # noqa: N802
        job = self.begin(self.stage.metadaqif(StopDaq="refuse"))
        with pytest.raises(rpc.RemoteError, match="every source failed to stop"):
            self.live.call("StopDaq", id=job)
        return job

    def Stopped(self) -> str:  # noqa: N802
        """A job whose manifest cannot be written: a directory lies in its place."""
        job = self.begin(self.stage.metadaqif())
        block = self.live.daq.spool / "data" / job / "acquire.json"
        block.mkdir(parents=True)
        with pytest.raises(rpc.RemoteError, match="Is a directory"):
            self.live.call("StopDaq", id=job)
        return job

    def NotScheduled(self) -> str:  # noqa: N802
        job = self.begin(self.stage.metadaqif())
        self.live.call("StopDaq", id=job)
        return job

    def Scheduled(self) -> str:  # noqa: N802
        pause = self.live.daq.spool / "collect" / ".pause"
        pause.touch()
        self.undo.callback(pause.unlink, missing_ok=True)
        job = self.NotScheduled()
        self.undo.callback(self.live.daq.spawn("daq-watch").stop)
        return job

    def Collecting(self) -> str:  # noqa: N802
        job = self.NotScheduled()
        worker = self.undo.enter_context(self.worker(job))
        self.undo.callback(worker.kill)
        return job

    def worker(self, job: str) -> subprocess.Popen[str]:
        made = subprocess.Popen([sys.executable, "-c", WORKER, str(CHECKOUT / "lib"),
                                 str(self.live.daq.spool), job], stdout=subprocess.PIPE, text=True)
        assert made.stdout
        assert made.stdout.readline() == "holds it\n"
        return made

    def Merging(self) -> str:  # noqa: N802
        job = self.NotScheduled()
        self.moved(job, "collect", "merge")
        return job

    def Releasing(self) -> str:  # noqa: N802
        job = self.NotScheduled()
        self.moved(job, "collect", "release")
        return job

    def Completed(self) -> str:  # noqa: N802
        job = self.NotScheduled()
        self.moved(job, "collect", "done")
        return job

    def Aborting(self) -> str:  # noqa: N802
        job = self.begin(self.stage.metadaqif(AbortDaq="refuse"))
        with pytest.raises(rpc.RemoteError, match="not every source aborted"):
            self.live.call("AbortDaq", id=job)
        return job

    def Aborted(self) -> str:  # noqa: N802
        job = self.begin(self.stage.metadaqif())
        self.live.call("AbortDaq", id=job)
        return job


@pytest.fixture
def maker(live: Live, stage: Stage) -> Iterator[Maker]:
    made = Maker(live, stage)
    with made.undo:
        yield made
    for now in live.call("GetActiveList"):
        live.call("ForceAbortDaq", id=now["id"])
    made.pool.shutdown()


PARAMETERS: dict[str, dict[str, Any]] = {
    "StartDaq": {"prim_sources": "x@zpb.rr://127.0.0.1:1/rec"},
    "StartDaqV2": {"specification": {"sources": [
        {"type": "primarySource", "sourceName": "x", "rrUri": "zpb.rr://127.0.0.1:1/rec"}]}},
    "UpdateKeywords": {"keywords": KEYWORDS},
    "AwaitDaqState": {"state": "StateCompleted", "substate": "Completed", "timeout": 0.05},
}
REFUSALS = ("is not accepted", "is in use", "is known to this spool")


def call(live: Live, command: str, job: str) -> str:
    """Send a command; return why it is refused, or an empty text when it is accepted."""
    params = dict(PARAMETERS.get(command, {}))
    if command == "StartDaqV2":
        params["specification"] = {**params["specification"], "id": job}
    else:
        params["id"] = job
    try:
        live.call(command, **params)
    except rpc.RemoteError as error:
        return error.message if any(text in error.message for text in REFUSALS) else ""
    return ""


def std(live: Live, command: str) -> Any:
    """Send a command of the standard interface."""
    return rpc.call(f"{live.requests}/std", command, {}, PATIENCE_S)


def picture(live: Live, job: str) -> tuple[Any, ...]:
    """Return what a refusal must not change: where the job lies, its log, its data."""
    # a job that is NotStarted begins when its log can be written, whatever was asked
    told = [event for event in live.daq.history(job)
            if event["event"] not in ("starting", "alert", "alert-cleared")
            and event.get("substate") != "Starting"]
    data = live.daq.spool / "data" / job
    return ([place for place, ids in live.daq.tree().items() if job in ids], told,
            sorted(data.rglob("*")) if data.is_dir() else data.exists())


@pytest.mark.parametrize("substate", states.SUBSTATES)
def test_every_command_in_every_substate(maker: Maker, substate: str) -> None:
    live = maker.live
    job = maker.make(substate)
    for command in states.COMMANDS:
        accepted = (substate, command) in states.DAQ
        if accepted and command in REACHED:
            continue
        before = picture(live, job)
        refusal = call(live, command, job)
        assert bool(refusal) is not accepted, (command, refusal, live.told(job))
        if not accepted:
            assert picture(live, job) == before, command
    for command, reached in REACHED.items():
        if (substate, command) in states.DAQ:
            job = maker.make(substate)
            assert not call(live, command, job), command
            wait_until(lambda job=job, reached=reached: live.status(job)["substate"] in reached,
                       explain=lambda job=job: live.told(job))
    assert "Traceback" not in live.daemon.err and "report this" not in live.daemon.err


def test_an_id_that_is_not_there_can_only_be_started(live: Live, stage: Stage) -> None:
    for command in states.COMMANDS:
        if command.startswith("StartDaq"):
            assert (states.NONE, command) in states.DAQ
            continue
        assert (states.NONE, command) not in states.DAQ
        with pytest.raises(rpc.RemoteError, match="no DAQ has the id|no such job") as caught:
            live.call(command, id="nobody", **PARAMETERS.get(command, {}))
        assert caught.value.code == 66
    job = live.begin(stage.metadaqif().source())
    live.call("AbortDaq", id=job)


def test_every_command_in_every_state_of_the_application(live: Live, stage: Stage) -> None:
    way = {"NotOperational;NotReady": ("Reset",), "NotOperational;Ready": ("Reset", "Init"),
           "Operational;Idle": ("Reset", "Init", "Enable"),
           "Operational;Active": ("Reset", "Init", "Enable")}
    tried = 0
    for state in states.APPLICATION_STATES:
        for command in states.APPLICATION_COMMANDS:
            if command == "Exit":
                continue  # the last thing that this daemon does
            for step in way[state]:
                std(live, step)
            job = live.begin(stage.metadaqif().source()) if state.endswith("Active") else ""
            wait_until(lambda state=state: std(live, "GetState") == state)
            expected = states.APPLICATION.get((state, command)) or states.APPLICATION.get(
                (state.partition(";")[0], command))
            if expected is None:
                with pytest.raises(rpc.RemoteError, match="is not accepted in"):
                    std(live, command)
                assert std(live, "GetState") == state
            else:
                std(live, command)
                assert std(live, "GetState") == states.application_text(expected, bool(job))
            if job:
                for step in way[state]:
                    std(live, step)
                live.call("AbortDaq", id=job)
                wait_until(lambda: std(live, "GetState") == "Operational;Idle")
            tried += 1
    assert tried == 4 * 5
    for step in way["Operational;Idle"]:
        std(live, step)


# -- the tables themselves ------------------------------------------------------------------------


def test_every_happening_and_every_command_is_in_the_table() -> None:
    events = {event for _, event in states.DAQ}
    assert events == {*states.COMMANDS, *states.HAPPENINGS}
    assert {state for state, _ in states.DAQ} == {states.NONE, *states.SUBSTATES}
    assert set(states.DAQ.values()) == set(states.SUBSTATES)


def test_the_order_of_substates_is_that_of_the_library() -> None:
    from daqlib import status

    assert list(states.SUBSTATES) == [*status.ORDER, *status.ABORT_STATE_OF]


def test_force_is_accepted_where_the_command_is() -> None:
    assert states.accepted_in("ForceStopDaq") == states.accepted_in("StopDaq")
    assert states.accepted_in("ForceAbortDaq") == states.accepted_in("AbortDaq")


def test_what_cannot_happen_is_a_bug_of_ours() -> None:
    from daqlib import errors

    with pytest.raises(errors.Bug, match="HandedOver cannot happen in Acquiring"):
        states.after("Acquiring", "HandedOver")
    with pytest.raises(errors.BadData, match="accepted in Acquiring, Stopping"):
        try:
            states.check_daq("j", "Aborted", "StopDaq")
        except errors.BadData as error:
            raise errors.BadData(str(error)) from error


def test_the_diagrams_show_every_change() -> None:
    daq, application = states.mermaid_daq(), states.mermaid_application()
    assert daq.startswith("stateDiagram-v2\n") and application.startswith("stateDiagram-v2\n")
    for (state, event), target in states.DAQ.items():
        if state != target and not event.startswith("Force"):
            [line] = [line for line in daq.splitlines()
                      if line.startswith(f"  {state or '[*]'} --> {target}:")]
            assert event in line
    assert "NotReady --> Ready: Init" in application and "On --> [*]: Exit" in application
    table = states.markdown_daq().splitlines()
    assert len(table) == 2 + len(states.SUBSTATES)
    assert states.markdown_application().count("\n") == 2 + len(states.APPLICATION_STATES)
    assert states.markdown_happenings().count("\n") == 2 + len(states.HAPPENINGS)

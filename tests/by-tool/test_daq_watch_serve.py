"""daq-watch --serve: the interfaces and topics that ESO's daqDpmServer has."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daqlib import errors, rpc
from daqlib.client import (
    AsyncDpmClient,
    DaqException,
    DaqStatus,
    DaqSubState,
    InternalDaqStatus,
    StorageStatus,
)
from dpmserver import Dpm, stubborn
from harness import CHECKOUT, PATIENCE_S, Daq, end, free_port, fresh, make_fits, wait_until

pytestmark = [pytest.mark.xdist_group("daq-watch-serve")]

#: A job's way from the queue to its end.
WAY = ("Scheduled", "Collecting", "Merging", "Releasing", "Completed")


@pytest.fixture(scope="module")
def dpm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
        ) -> Iterator[Dpm]:
    """Serve a spool of the module's own, that nobody watches."""
    chosen: Path | None = request.config.getoption("--daq-bin")
    daq = fresh(tmp_path_factory.mktemp("dpm"), (chosen or CHECKOUT / "bin").absolute(),
                installed=chosen is not None)
    try:
        made = Dpm(daq)
        made.serve()
        yield made
        made.server.stop().ok()
    finally:
        daq.close()


def refused(act: Callable[[], object], *texts: str, code: int = 65, job: str | None = None) -> None:
    """Assert that a command is refused by the exception of its interface."""
    with pytest.raises(DaqException) as caught:
        act()
    assert caught.value.exception == "daqif::DaqException"
    assert (caught.value.code, caught.value.remedy != "") == (code, True), caught.value
    assert job is None or caught.value.id == job
    for text in texts:
        assert text in caught.value.message


# -- DpmDaqControl --------------------------------------------------------------------------------


def test_a_specification_becomes_the_product_that_it_describes(dpm: Dpm) -> None:
    card = {"type": "valueKeyword", "name": "ORIGIN", "value": "ESO"}
    target = make_fits(dpm.daq.folder / "target.fits", cards={"OBJECT": "target", "KEPT": 1})
    described = dpm.specification(
        target={"fileId": "KMOS.all", "filePrefix": "P_", "source": {
            "type": "fitsFile", "sourceName": "dcs", "location": str(target)}},
        sources=[
            {"type": "fitsKeywords", "sourceName": "ocm", "keywords": [card]},
            {"type": "fitsKeywords", "sourceName": "dcs", "keywords": [{**card, "value": "DCS"}]},
            {"type": "fitsFile", "sourceName": "fcs", "location": str(dpm.file)}],
        receivers=[{"type": "olasReceiver", "path": str(dpm.daq.folder)}])
    with dpm.listening() as topics:
        assert dpm.client.QueueDaq(described).id == described["id"]
        dpm.once()
        wait_until(lambda: "Completed" in topics.substates(described["id"], "internal/daq/status"),
                   explain=lambda: f"{topics.samples}")
    job = described["id"]
    # first seen without a watcher, then one came
    assert topics.substates(job) == ["NotScheduled", *WAY]
    assert topics.substates(job, "internal/daq/status") == ["NotScheduled", *WAY]
    last = topics.documents("internal/daq/status", job)[-1]
    receipt = last.pop("receipts")[0]
    assert receipt["path"] == str(dpm.daq.folder / "KMOS.all.fits") and receipt["sha256"]
    assert topics.documents("/daq/status", job)[-1] == {
        key: last[key] for key in ("id", "fileId", "state", "substate", "error", "message",
                                   "result", "timestamp")}
    assert last["result"] == str(dpm.daq.spool / "result" / "P_KMOS.all.fits")
    alone = dpm.daq.folder / "alone.fits"
    text = json.dumps(described)
    dpm.daq.run("daqDpmMerge", "-o", alone, "-", stdin=text).ok()
    assert Path(last["result"]).read_bytes() == alone.read_bytes()


def test_a_queued_job_lies_in_collect_and_can_be_asked_about(dpm: Dpm) -> None:
    job = dpm.queue()
    assert (dpm.daq.spool / "collect" / f"{job}.json").exists()
    now = dpm.client.GetDaqStatus(job)
    assert isinstance(now, DaqStatus)
    assert (now.id, now.fileId, now.substate, now.error) == (
        job, f"KMOS.{job}", DaqSubState.NotScheduled, False)
    assert now in dpm.client.GetActiveDaqs()
    more = dpm.client.GetInternalDaqStatus(job)
    assert isinstance(more, InternalDaqStatus)
    assert {name: getattr(more, name) for name in vars(now)} == vars(now)
    assert (more.place, more.stage, more.tries, more.receipts, more.holder) == (
        "collect", "collect", 0, (), {})
    assert more.due == os.stat(dpm.daq.spool / "collect" / f"{job}.json").st_mtime
    dpm.once()
    assert job not in [each.id for each in dpm.client.GetActiveDaqs()]
    for ask in (dpm.client.GetDaqStatus, dpm.client.GetInternalDaqStatus, dpm.client.AbortDaq):
        refused(lambda ask=ask: ask(job), "done/", code=66, job=job)


def test_the_same_again_is_the_same_and_another_is_refused(dpm: Dpm) -> None:
    first = dpm.specification()
    replies = [dpm.client.QueueDaq(first), dpm.client.QueueDaq(json.dumps(first, indent=3))]
    assert replies[0] == replies[1]
    assert dpm.daq.events(first["id"]) == ["submitted"]
    job = first["id"]
    refused(lambda: dpm.client.QueueDaq({**first, "sources": first["sources"] * 2}), job, job=job)
    refused(lambda: dpm.client.QueueDaq({**first, "target": {"fileId": "other"}}), job, job=job)
    other = {**dpm.specification(), "target": first["target"]}
    refused(lambda: dpm.client.QueueDaq(other), f"KMOS.{job}", job, job=other["id"])
    assert not (dpm.daq.spool / "collect" / f"{other['id']}.json").exists()
    dpm.once()
    assert dpm.client.QueueDaq(first) == replies[0]  # it has ended, and is not done again
    assert dpm.daq.tree()["done"].count(job) == 1 and "collect" not in dpm.daq.tree()


FILE = {"type": "fitsFile", "sourceName": "a", "location": "/data/a.fits"}


@pytest.mark.parametrize(("members", "told"), [
    ({"id": ""}, "id '' is not allowed"),
    ({"id": "../../etc/cron"}, "is not allowed"),
    ({"id": 7}, "id: 7 is not of type"),
    ({"target": {}}, "'fileId' is a required property"),
    ({"target": {"fileId": "../x"}}, "'../x' is not allowed"),
    ({"target": {"fileId": ""}}, "id '' is not allowed"),
    ({"target": {"fileId": "x", "filePrefix": "../"}}, "filePrefix '../' is not allowed"),
    ({"target": {"fileId": "x", "source": {"type": "fitsKeywords"}}}, "target/source"),
    ({"sources": []}, "has no source"),
    ({"sources": [{"type": "primarySource", "sourceName": "a", "rrUri": "zpb.rr://h:1/rec"}]},
     "'primarySource' is not one of"),
    ({"sources": [{**FILE, "location": "a.fits"}]}, "location 'a.fits' is not allowed"),
    ({"sources": [{**FILE, "location": "-oProxyCommand=x:/a"}]}, "is not allowed"),
    ({"sources": [{**FILE, "location": "/data/../etc/shadow"}]}, "is not allowed"),
    ({"sources": [{**FILE, "sourceName": "a/b"}]}, "sourceName 'a/b' is not allowed"),
    ({"receivers": [{"type": "olasReceiver", "path": "relative"}]}, "receiver"),
    ({"receivers": [{"type": "noReceiver"}]}, "receivers"),
    ({"keywordDictionaries": ["../../etc/passwd"]}, "'../../etc/passwd' is not allowed"),
    ({"keywordDictionaries": ["/etc/passwd"]}, "'/etc/passwd' is not allowed"),
])
def test_wrong_specifications_are_refused(dpm: Dpm, members: dict[str, Any], told: str) -> None:
    before = dpm.daq.tree()
    given = {**dpm.specification(), **members}
    refused(lambda: dpm.client.QueueDaq(given), told)
    assert dpm.daq.tree() == before
    assert dpm.server.running()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', '{"id": "a", "id": "b"}',
                                  '{"id": NaN}', "[" * 100, "\ud800".encode("utf-8", "replace")])
def test_what_is_no_specification_is_refused(dpm: Dpm, text: str | bytes) -> None:
    given = text if isinstance(text, str) else text.decode()
    refused(lambda: dpm.client.QueueDaq(given), "the specification is n")


@pytest.mark.parametrize(("method", "params", "exception"), [
    ("daq.QueueDaq", {}, "rpc::InvalidParams"),
    ("daq.QueueDaq", {"specification": 7}, "daqif::DaqException"),
    ("daq.GetDaqStatus", {"id": 7}, "daqif::DaqException"),
    ("daq.AbortDaq", {"id": "../x"}, "daqif::DaqException"),
    ("daq.GetActiveDaqs", {"id": "x"}, "rpc::InvalidParams"),
    ("daq.StartDaqV2", {}, "rpc::MethodNotFound"),
    ("daq.queue", {}, "rpc::MethodNotFound"),
    ("dpm.EXCEPTION", {}, "rpc::MethodNotFound"),
    ("std.Init", {}, "rpc::MethodNotFound"),
    ("none.Exit", {}, "rpc::MethodNotFound"),
    ("std.SetLogLevel", {"info": {"logger": "daq.dpm", "level": "LOUD"}}, "stdif::ExceptionErr"),
])
def test_wrong_requests_are_refused(dpm: Dpm, method: str, params: dict[str, Any],
                                    exception: str) -> None:
    with pytest.raises(rpc.RemoteError) as caught:
        dpm.call(method, **params)
    assert caught.value.exception == exception
    assert dpm.server.running()


def test_members_that_nobody_knows_are_told_with_the_job(dpm: Dpm) -> None:
    receiver = {"type": "olasReceiver", "path": "/data", "requird": True}
    job = dpm.queue(recievers=[], receivers=[receiver])
    for member in ("recievers", "receivers/0/requird"):
        dpm.server.wait_for(f"WARNING: {job}: unknown member '{member}' ")
    dpm.client.AbortDaq(job)


def test_a_queued_job_is_aborted(dpm: Dpm) -> None:
    job = dpm.queue()
    with dpm.listening() as topics:
        assert dpm.client.AbortDaq(job).error is False
        wait_until(lambda: "Aborted" in topics.substates(job, "internal/daq/status"))
    assert dpm.daq.events(job) == ["submitted", "abort-requested", "aborted"]
    assert dpm.client.AbortDaq(job).id == job  # harmless
    refused(lambda: dpm.client.GetDaqStatus(job), "done/", code=66, job=job)
    refused(lambda: dpm.client.AbortDaq("never.queued"), "no such job", code=66, job="never.queued")


@pytest.mark.parametrize("to_bad", [False, True])
def test_a_job_without_its_file_is_not_queued(dpm: Dpm, to_bad: bool) -> None:
    made = dpm.specification()
    job = dpm.client.QueueDaq(made).id
    file = dpm.daq.spool / "collect" / f"{job}.json"
    aside = dpm.daq.spool / "bad" / file.name
    file.rename(aside)
    if not to_bad:
        aside.unlink()
    for ask in (dpm.client.GetDaqStatus, dpm.client.GetInternalDaqStatus, dpm.client.AbortDaq):
        refused(lambda ask=ask: ask(job), "removed, or is in bad/", code=66, job=job)
    aside.unlink(missing_ok=True)
    assert dpm.client.QueueDaq(made).id == job  # it is made again
    dpm.client.AbortDaq(job)


def test_jobs_of_an_acquisition_are_not_ours(dpm: Dpm) -> None:
    document = {"sources": [{"type": "primarySource", "sourceName": "dcs",
                             "rrUri": "zpb.rr://127.0.0.1:1/rec"}]}
    path = dpm.daq.drop("acquire", "acquired", document)
    try:
        for ask in (dpm.client.GetDaqStatus, dpm.client.GetInternalDaqStatus, dpm.client.AbortDaq):
            refused(lambda ask=ask: ask("acquired"), "acquire/", code=66, job="acquired")
        assert "acquired" not in [each.id for each in dpm.client.GetActiveDaqs()]
    finally:
        path.unlink()


def test_jobs_that_need_a_person_are_told_of(dpm: Dpm) -> None:
    job = dpm.queue(sources=[{**FILE, "location": str(dpm.daq.folder / "gone.fits")}])
    with dpm.listening() as topics:
        dpm.daq.run("daq-watch", "--once", "-q").exits(65)
        wait_until(lambda: topics.documents("/daq/status", job)[-1:]
                   and topics.documents("/daq/status", job)[-1]["error"])
    now = dpm.client.GetInternalDaqStatus(job)
    assert (now.place, now.stage, now.error, now.substate) == (
        "failed", "collect", True, DaqSubState.NotScheduled)
    assert "gone.fits" in now.alerts[0].description
    (dpm.daq.spool / "failed" / f"{job}.json").unlink()
    wait_until(lambda: job not in [each.id for each in dpm.client.GetActiveDaqs()])


def test_a_spool_that_is_gone_is_no_spool_without_jobs(dpm: Dpm) -> None:
    job = dpm.queue()
    away = dpm.daq.spool.with_name("away")
    dpm.daq.spool.rename(away)
    try:
        for ask in (dpm.client.GetDaqStatus, dpm.client.GetInternalDaqStatus, dpm.client.AbortDaq):
            refused(lambda ask=ask: ask(job), "is not there any more", code=74, job=job)
        refused(dpm.client.GetActiveDaqs, str(dpm.daq.spool), code=74)
    finally:
        away.rename(dpm.daq.spool)
    assert dpm.client.GetDaqStatus(job).id == job
    wait_until(lambda: job in [each.id for each in dpm.client.GetActiveDaqs()])
    dpm.client.AbortDaq(job)


def test_a_slow_abort_delays_nobody(dpm: Dpm) -> None:
    job = dpm.queue()
    answers: list[Any] = []
    with dpm.listening() as topics, stubborn(dpm, job) as pid:
        wait_until(lambda: dpm.client.GetInternalDaqStatus(job).holder.get("pid") == pid)
        assert dpm.client.GetDaqStatus(job).substate == DaqSubState.Collecting
        waiting = threading.Thread(target=lambda: answers.append(dpm.client.AbortDaq(job)))
        waiting.start()
        wait_until(lambda: dpm.client.GetDaqStatus(job).substate == DaqSubState.Aborting)
        other = dpm.queue()
        assert dpm.client.AbortDaq(other).id == other
        assert answers == [] and waiting.is_alive()
        end(pid)
        waiting.join(PATIENCE_S)
        wait_until(lambda: "Aborted" in topics.substates(job))
    assert [answer.id for answer in answers] == [job]
    assert topics.substates(job)[-2:] == ["Aborting", "Aborted"]


@pytest.mark.slow
def test_an_abort_that_fails_leaves_the_job_aborting(dpm: Dpm) -> None:
    job = dpm.queue()
    with stubborn(dpm, job) as pid:
        refused(lambda: dpm.client.AbortDaq(job), str(pid), code=75, job=job)
        assert dpm.client.GetDaqStatus(job).substate == DaqSubState.Aborting
    assert dpm.client.AbortDaq(job).id == job


def test_a_flood_of_requests(dpm: Dpm) -> None:
    wanted = [dpm.specification() for _ in range(40)]

    async def run() -> tuple[list[Any], ...]:
        async with AsyncDpmClient(dpm.requests, timeout_s=PATIENCE_S) as client:
            return tuple(zip(*await asyncio.gather(*(
                asyncio.gather(client.QueueDaq(each), client.QueryStorageStatus(),
                               client.GetActiveDaqs()) for each in wanted)), strict=True))

    replies, storage, active = asyncio.run(run())
    names = [each["id"] for each in wanted]
    assert [reply.id for reply in replies] == names
    assert all(isinstance(each, StorageStatus) for each in storage)
    assert len(active) == 40
    assert set(names) <= {each.id for each in dpm.client.GetActiveDaqs()}
    for name in names:
        (dpm.daq.spool / "collect" / f"{name}.json").unlink()
    wait_until(lambda: not set(names) & {each.id for each in dpm.client.GetActiveDaqs()})


# -- DpmControl and what else there is ------------------------------------------------------------


def test_storage(dpm: Dpm) -> None:
    answer = dpm.client.QueryStorageStatus()
    known = os.statvfs(dpm.daq.spool)
    assert answer.capacity == known.f_blocks * known.f_frsize
    assert 0 <= answer.available <= answer.free <= answer.capacity
    assert set(dpm.call("dpm.QueryStorageStatus")) == {"capacity", "free", "available"}
    with dpm.listening() as topics:
        wait_until(lambda: len(topics.documents("/dpm/storage")) > 2)
    assert topics.documents("/dpm/storage")[0]["capacity"] == answer.capacity
    assert [type(each) for each, _ in zip(
        dpm.client.subscribe(PATIENCE_S), range(1), strict=False)] == [StorageStatus]


def test_a_little_of_the_standard_interface(dpm: Dpm) -> None:
    job = dpm.queue()
    wait_until(lambda: dpm.call("std.GetState") == "Operational;Active")
    assert dpm.client.AbortDaq(job).id == job
    wait_until(lambda: dpm.call("std.GetState") == "Operational;Idle"
               or "collect" in dpm.daq.tree())
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", dpm.call("std.GetVersion"))
    info = {"logger": "daq.dpm.scheduler", "level": "INFO"}
    assert dpm.call("std.SetLogLevel", info=info) == "OK"
    shown = dpm.daq.run("daq-ctl", "--rep", dpm.requests, "std.getversion").ok()
    assert dpm.call("std.GetVersion") in shown.out


# -- the life of a server -------------------------------------------------------------------------


def test_killed_and_started_again_while_clients_wait(daq: Daq) -> None:
    dpm = Dpm(daq)
    dpm.serve()
    job = dpm.queue()
    failures: list[BaseException] = []

    def abort() -> None:
        try:
            dpm.client.AbortDaq(job)
        except (errors.Unavailable, rpc.RemoteError) as error:
            failures.append(error)

    with dpm.listening() as topics, stubborn(dpm, job) as pid:
        waiting = threading.Thread(target=abort)
        waiting.start()
        wait_until(lambda: "abort-requested" in daq.events(job))
        dpm.server.kill().died(signal.SIGKILL)
        waiting.join(PATIENCE_S)
        assert len(failures) == 1
        before = len(topics.samples)
        dpm.serve()
        wait_until(lambda: len(topics.samples) > before)  # who subscribed hears the new one
        assert dpm.client.GetDaqStatus(job).substate == DaqSubState.Aborting
        end(pid)
        assert dpm.client.AbortDaq(job).error is False
        wait_until(lambda: "Aborted" in topics.substates(job))
    assert daq.events(job).count("abort-requested") == 1
    # SIGTERM ends it although somebody waits
    job = dpm.queue()
    with stubborn(dpm, job):
        waiting = threading.Thread(target=abort)
        waiting.start()
        wait_until(lambda: "abort-requested" in daq.events(job))
        dpm.server.signal(signal.SIGTERM)
        dpm.server.wait().ok()
        waiting.join(PATIENCE_S)
        assert "shutting down" in str(failures[-1])
    assert daq.tree() == {"collect": [job], "done": ["d.1"]}


def test_a_reply_to_queue_is_durable(daq: Daq) -> None:
    dpm = Dpm(daq)
    dpm.serve()
    names = []
    for _ in range(2):
        names.append(dpm.queue())
        dpm.server.kill()
        dpm.serve()
        assert [each.id for each in dpm.client.GetActiveDaqs()] == names
    dpm.once()
    assert daq.tree() == {"done": names}


def test_exit_ends_the_watcher(daq: Daq) -> None:
    dpm = Dpm(daq)
    dpm.watch()
    with dpm.listening() as topics:
        job = dpm.queue()
        wait_until(lambda: "Completed" in topics.substates(job))
    assert topics.substates(job) == list(WAY)
    assert dpm.client.Exit() == "OK"
    dpm.server.wait().ok().says("is told to end")
    with pytest.raises(errors.Unavailable):
        dpm.client.QueryStorageStatus()
    dpm.serve()
    page = (CHECKOUT / "docs" / "dpm.md").read_text()
    script, printed = re.findall(r"^```(?:python|text)\n(.*?)^```$", page, re.M | re.S)
    env = {**daq.environment(), "PYTHONPATH": f"{CHECKOUT}/lib", "DCS_FILE": str(dpm.file),
           "DPM_REQUESTS": dpm.requests, "DPM_TOPICS": dpm.topics}
    made = subprocess.run([sys.executable, "-c", script], env=env, text=True, check=False,
                          capture_output=True, timeout=PATIENCE_S)
    assert (made.stdout, made.stderr) == (printed, "")
    assert dpm.client.Exit() == "OK"
    dpm.server.wait().ok()


def test_the_server_of_a_watcher_is_started_again(daq: Daq) -> None:
    dpm = Dpm(daq)
    watcher = dpm.watch()
    children = Path(f"/proc/{watcher.pid}/task/{watcher.pid}/children")

    def server() -> int:
        for pid in children.read_text().split():
            if b"--serve-only" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        return 0

    first = wait_until(server)
    end(first)
    with dpm.listening() as topics:
        assert server() != first
        job = dpm.queue()
        wait_until(lambda: "Completed" in topics.substates(job))
    watcher.kill()  # and it ends with the watcher, however that ends

    def gone() -> bool:
        try:
            dpm.call("std.GetState")
        except errors.Unavailable:
            return True
        return False
    wait_until(gone)


def test_two_spools_on_one_host(daq: Daq, tmp_path_factory: pytest.TempPathFactory) -> None:
    one, other = Dpm(daq), Dpm(fresh(tmp_path_factory.mktemp("two"), daq.bin,
                                     installed=daq.installed))
    try:
        one.watch()
        other.watch()
        for each in (one, other):
            with each.listening() as topics:
                job = each.queue()
                wait_until(lambda job=job, topics=topics: "Completed" in topics.substates(job))
        other.server.stop().ok()
        other.requests, other.topics = one.requests, one.topics  # in use
        other.configure()
        other.daq.run("daq-watch", "--serve-only").fails(
            78, one.topics, "in use", "cfg/dpm/pub_endpoint", "--ps-uri")
        other.daq.run("daq-watch", "--serve-only", "--ps-uri",
                      f"zpb.ps://127.0.0.1:{free_port()}").fails(
            78, one.requests, "in use", "cfg/dpm/req_endpoint", "--rr-uri")
        watcher = other.daq.spawn("daq-watch", "--serve", until="in use")
        job = other.daq.run("daq-start", "--file", other.file).ok().line()
        wait_until(lambda: job in other.daq.tree().get("done", []))
        assert watcher.running()
        watcher.stop().ok()
    finally:
        other.daq.close()


@pytest.mark.parametrize(("option", "value", "told"), [
    ("--rr-uri", "zpb.rr://0.0.0.0:1", "CURVE"), ("--ps-uri", "zpb.ps://*:1", "CURVE"),
    ("--rr-uri", "zpb.ps://127.0.0.1:1", "no endpoint for requests"),
    ("--ps-uri", "zpb.rr://127.0.0.1:1", "no endpoint for topics"),
    ("--rr-uri", "ipc:///nowhere/at/all.sock", "/nowhere/at"), ("--ps-uri", "nonsense", "nonsense"),
])
def test_endpoints_that_are_not_served(daq: Daq, option: str, value: str, told: str) -> None:
    made = Dpm(daq)
    daq.run("daq-watch", "--serve-only", option, value).fails(78, told, option)
    assert made.config.exists()


def test_what_is_logged_and_sighup(daq: Daq) -> None:
    folder = daq.folder / "logs"
    folder.mkdir()
    daq.env["DAQ_LOGS"] = str(folder)
    dpm = Dpm(daq, storage_interval_sec=1000.0)
    dpm.serve("--proc-name", "dpm7")
    file = folder / "dpm7.log"
    job = dpm.queue()
    dpm.once()
    wait_until(lambda: f"STATE daq.dpm.scheduler {job}: StateCompleted Completed\n"
               in file.read_text())
    text = file.read_text()
    assert f" ACTION daq.dpm daq.QueueDaq {job} by 127.0.0.1 " in text
    assert '"event": "submitted"' in text and " daq.dpm.eventlog " in text
    assert "daq.dpm.transfer" not in text
    properties = daq.folder / "log.properties"
    properties.write_text("log4cplus.logger.daq.dpm.transfer=DEBUG\n"
                          "log4cplus.logger.daq.dpm.merger=DEBUG\n")
    file.rename(folder / "old.log")
    dpm.configure(log_properties=str(properties), storage_interval_sec=0.2)
    dpm.server.signal(signal.SIGHUP)
    dpm.server.wait_for("log levels read again")
    job = dpm.queue()
    dpm.once()
    wait_until(lambda: f"{job}: StateCompleted Completed\n" in file.read_text())
    assert re.search(rf"DEBUG daq\.dpm\.transfer {job}: ok ", file.read_text())
    assert re.search(rf"DEBUG daq\.dpm\.merger {job}: sealed ", file.read_text())
    dpm.config.write_text("cfg: [")
    dpm.server.signal(signal.SIGHUP)
    dpm.server.wait_for("the old configuration stays in force")
    assert dpm.client.GetActiveDaqs() == []
    with pytest.raises(rpc.RemoteError, match=r"daq\.dpm"):
        dpm.call("std.SetLogLevel", info={"logger": "daq.ocm", "level": "INFO"})

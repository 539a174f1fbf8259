from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from daq_watch import worker
from daq_watch.needs import Needs, Reader
from daq_watch.worker import Worker
from daqlib import config
from daqlib.spool import Spool
from harness import make_spool


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    made = Spool(str(make_spool(tmp_path / "spool")), "test")
    os.mkdir(made.data_path("j"))
    return made


def settings(**more: object) -> config.Config:
    return config.Config({**config.DEFAULTS, "timeout.base_sec": 100.0,
                          "timeout.bytes_per_sec": 10, **more})


def allowance(on: Spool, stage: str = "collect", **more: object) -> float:
    made = Worker(stage, "j", 0, os.getpid(), -1, 0.0, Needs(("daq",)))
    return worker.allowance(on, settings(**more), made)


def progress(on: Spool, **facts: object) -> None:
    Path(on.data_path("j", ".progress.json")).write_text(json.dumps(facts))


def test_what_is_there_counts(on: Spool) -> None:
    assert allowance(on) == 100
    Path(on.data_path("j", "part")).write_bytes(bytes(500))
    assert allowance(on) == 150
    assert allowance(on, **{"timeout.bytes_per_sec": 0}) == math.inf


def test_what_the_tool_is_going_to_move_counts(on: Spool) -> None:
    progress(on, pid=os.getpid(), total=10_000)
    assert allowance(on) == 1100
    progress(on, pid=1, total=10_000)  # of an earlier try
    assert allowance(on) < 120
    progress(on, pid=os.getpid(), total="much")
    assert allowance(on) < 120


def test_what_is_to_be_delivered_counts_for_each_receiver(on: Spool) -> None:
    Path(on.data_path("j", "merge.json")).write_text(json.dumps({"outputs": [{"size": 10_000}]}))
    Path(on.data_path("j", "specification.json")).write_text(json.dumps(
        {"receivers": [{"type": "olasReceiver", "path": f"/data/{n}"} for n in range(3)]}))
    assert 3100 <= allowance(on, "release") < 3120
    assert allowance(on, "merge") < 120


# -- what a job needs -------------------------------------------------------------------------


def needs(on: Spool, stage: str, document: object, **more: object) -> Needs:
    Path(on.job_path(stage, "j")).write_text(
        document if isinstance(document, str) else json.dumps(document))
    reader = Reader(on, settings(**{"limits.net_receive": 1, **more}))
    reader.look()
    entry = on.look(stage, "j")
    assert entry is not None
    found = reader.of(entry)
    assert found is not None
    return found


def test_a_collection_needs_the_hosts_of_its_files(on: Spool) -> None:
    files = ["/data/a.fits", "me@Far:/data/b.fits", "rsync://near:8730/raw/c.fits"]
    document = {"sources": [{"sourceName": str(n), "type": "fitsFile", "location": place}
                            for n, place in enumerate(files)] + [{"type": "fitsKeywords"}]}
    found = needs(on, "collect", document)
    assert found.hosts == {"far", "rsync://near:8730"}
    assert found.limits == ("daq", "net_receive")
    Path(on.data_path("j", "acquire.json")).write_text(json.dumps(
        {"result": {"sources": [{"sourceName": "x", "files": ["dcs1:/data/x.fits"]}]}}))
    assert needs(on, "collect", {"sources": []}).hosts == {"dcs1"}
    assert needs(on, "collect", {"sources": []}, hand_over="dhs:/data/spool").hosts == {"dhs"}


def test_a_delivery_needs_a_host_only_if_it_must_wait_for_it(on: Spool) -> None:
    there = {"type": "olasReceiver", "host": "archive", "path": "/data"}
    here = {"type": "olasReceiver", "path": "/data"}
    must = {"options": {"required": True}}
    for receivers, hosts, limits in (
            ([there], set(), 2), ([here], set(), 1), ([{**there, **must}], {"archive"}, 2),
            ([{**there, **must}, {**here, **must}], set(), 2), ([], set(), 1)):
        found = needs(on, "release", {"receivers": receivers})
        assert (found.hosts, len(found.limits)) == (hosts, limits), receivers
    by_default = {"receivers": [there], "release.required": True}
    assert needs(on, "release", {}, **by_default).hosts == {"archive"}


@pytest.mark.parametrize("text", [
    "", "[]", "{", '{"sources": 7}', '{"sources": [{"location": 7}]}', '{"sources": [7]}',
    '{"sources": [{"location": "far:relative"}]}', '{"receivers": [7]}', '{"receivers": 7}'])
@pytest.mark.parametrize("stage", ["collect", "release"])
def test_what_is_wrong_with_a_job_is_for_its_tool_to_say(on: Spool, stage: str, text: str) -> None:
    assert needs(on, stage, text) == Needs(("daq",))


def test_so_many_jobs_are_read_at_a_time(on: Spool) -> None:
    for number in range(250):
        Path(on.job_path("collect", f"j{number:03}")).write_text('{"sources": []}')
    reader = Reader(on, settings(**{"limits.net_receive": 1}))
    entries = on.scan("collect")
    reader.look()
    assert [reader.of(entry) is None for entry in entries].count(True) == 50
    assert reader.postponed
    reader.look()
    assert None not in [reader.of(entry) for entry in entries]
    assert not reader.postponed

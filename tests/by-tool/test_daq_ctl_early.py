"""Commands on a job that lies in acquire/ and is not under control yet, on a daemon's own parts."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daq_ctl.acquisition import Site
from daq_ctl.control import Control
from daqlib import config, errors, job
from daqlib.feed import Feed
from daqlib.spool import Spool, open_spool
from harness import wait_until
from scripted import Script, Stage

pytestmark = [pytest.mark.xdist_group("daq-ctl-early")]

KEYWORDS = [{"type": "valueKeyword", "name": "EARLY", "value": 1}]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage().running() as made:
        yield made


class Parts:
    """The control of a daemon that serves nobody and follows nothing."""

    def __init__(self, folder: Path) -> None:
        settings = config.load(None)
        self.spool: Spool = open_spool(str(folder / "spool"), settings, "daq-ctl")
        feed = Feed(self.spool, lambda _status: None, lambda _job, _place: None, 1.0)
        self.control: Control
        site = Site(self.spool, settings, feed.refresh, lambda name: self.control.ended(name))
        self.control = Control(site, feed)

    def events(self, name: str) -> list[str]:
        return [event["event"] for event in self.spool.events(name)]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


class Gate:
    """Holds a start up when its job is in acquire/, before it is under control."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        submit = job.submit_locked

        def late(*arguments: Any) -> job.Submitted:
            made = submit(*arguments)
            self.reached.set()
            assert self.open.wait(30)
            return made

        monkeypatch.setattr(job, "submit_locked", late)


async def meanwhile(parts: Parts, gate: Gate, source: Script, name: str, command: str,
                    **more: Any) -> tuple[Any, Any]:
    """Start a job and send a command before the start has got it under control."""
    starting = asyncio.create_task(parts.control.StartDaqV2(
        {"id": name, "sources": [source.source()]}))
    await asyncio.to_thread(wait_until, gate.reached.is_set)
    sent = asyncio.create_task(getattr(parts.control, command)(id=name, **more))
    await asyncio.sleep(0.2)  # it has looked
    gate.open.set()
    answers = await asyncio.gather(starting, sent, return_exceptions=True)
    await parts.control.release()
    return answers[0], answers[1]


@pytest.mark.parametrize("command", ["AbortDaq", "ForceAbortDaq"])
def test_an_abort_reaches_a_start_that_is_being_written(
        parts: Parts, stage: Stage, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    source, gate = stage.metadaqif(), Gate(monkeypatch)
    started, aborted = asyncio.run(meanwhile(parts, gate, source, "early", command))
    assert aborted == {"id": "early", "error": False}
    assert isinstance(started, errors.BadData)
    assert parts.spool.place("early") == "done" and "aborted" in parts.events("early")
    assert source.state in ("", "Aborted")


def test_keywords_reach_a_start_that_is_being_written(
        parts: Parts, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    answers = asyncio.run(meanwhile(parts, gate, stage.metadaqif(), "early", "UpdateKeywords",
                                    keywords=KEYWORDS))
    assert answers == ({"id": "early", "error": False},) * 2
    assert "keywords" in parts.events("early")


def test_an_abort_takes_a_job_that_nobody_has_looked_at(parts: Parts, stage: Stage) -> None:
    """Else it could be taken up, and recorded, between the request and the abort."""
    Path(parts.spool.job_path("acquire", "dropped")).write_text(
        json.dumps({"sources": [stage.metadaqif().source()]}))
    reply = asyncio.run(parts.control.AbortDaq(id="dropped"))
    assert reply == {"id": "dropped", "error": False}
    assert parts.spool.place("dropped") == "done"
    assert "abort-requested" not in parts.events("dropped")

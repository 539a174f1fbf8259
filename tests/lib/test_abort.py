from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daqlib import abort, errors, history
from daqlib.spool import Spool, process_start
from harness import make_spool


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    return Spool(str(make_spool(tmp_path / "spool")), "test")


def drop(on: Spool, place: str) -> None:
    Path(on.job_path(place, "j")).write_text("{}")


@pytest.mark.parametrize("place", ["acquire", "collect", "merge", "release", "failed", "hold"])
def test_lays_an_idle_job_to_rest(on: Spool, place: str) -> None:
    drop(on, place)
    abort.abort(on, "j")
    assert on.places("j") == ["done"]
    assert [e["event"] for e in on.events("j")] == ["abort-requested", "aborted"]
    assert not os.path.exists(on.lock_path("j"))
    abort.abort(on, "j")
    assert len(on.events("j")) == 2, "once is enough"


@pytest.mark.parametrize("place", ["", "done", "bad", "remote"])
def test_what_cannot_be_aborted(on: Spool, place: str) -> None:
    if place:
        drop(on, place)
    with pytest.raises(errors.NoJob):
        abort.abort(on, "j")
    assert on.events("j") == []


def test_a_job_that_ends_meanwhile_is_not_called_aborted(
        on: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(on, "release")
    real = Spool.lock

    def too_late(self: Spool, job: str, stage: str) -> int | None:
        os.rename(self.job_path("release", job), self.job_path("done", job))
        self.log(job, "ok", stage="release", to="done")
        return real(self, job, stage)

    monkeypatch.setattr(Spool, "lock", too_late)
    with pytest.raises(errors.NoJob, match="ended before"):
        abort.abort(on, "j")
    assert not history.abort_requested(on.events("j"))


def test_tells_the_holder_and_nobody_who_got_its_number_later(on: Spool) -> None:
    """The lock file says pid 1 ... of a process that started at another time."""
    drop(on, "merge")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        fd = on.lock("j", "merge")
        assert fd is not None
        facts = {"pid": bystander.pid, "started": "1", "stage": "merge"}
        Path(on.lock_path("j")).write_text(json.dumps(facts))
        with pytest.raises(errors.Later, match=f"process {bystander.pid}"):
            abort.abort(on, "j", patience=0.1)
        assert bystander.poll() is None
        facts["started"] = process_start(bystander.pid)
        Path(on.lock_path("j")).write_text(json.dumps(facts))
        with pytest.raises(errors.Later):
            abort.abort(on, "j", patience=0.1)
        assert bystander.wait(60) == -signal.SIGTERM
        os.close(fd)
    finally:
        bystander.kill()
        bystander.wait()
    assert history.abort_requested(on.events("j")), "the request stands"
    abort.abort(on, "j")
    assert on.places("j") == ["done"]


@pytest.mark.parametrize(("stage", "told"), [
    ("collect", True), ("merge", True), ("release", True), ("watch", False), ("abort", False),
    ("submit", False), ("acquire", False)])
def test_only_stage_tools_are_told_to_end(on: Spool, stage: str, told: bool) -> None:
    """A daemon that holds the lock for a moment must not die of an abort."""
    drop(on, "merge")
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        fd = on.lock("j", stage)
        assert fd is not None
        Path(on.lock_path("j")).write_text(json.dumps(
            {"pid": holder.pid, "started": process_start(holder.pid), "stage": stage}))
        with pytest.raises(errors.Later):
            abort.abort(on, "j", patience=0.15)
        os.close(fd)
        if told:
            assert holder.wait(60) == -signal.SIGTERM
        else:
            assert holder.poll() is None
    finally:
        holder.kill()
        holder.wait()


def test_two_aborts_in_one_process(on: Spool) -> None:
    """As a daemon does it that is asked twice: both succeed, and it lives."""
    drop(on, "merge")
    failures: list[BaseException] = []

    def act() -> None:
        try:
            abort.abort(on, "j")
        except BaseException as error:
            failures.append(error)

    for _ in range(10):
        threads = [threading.Thread(target=act) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert on.places("j") == ["done"]
        os.rename(on.job_path("done", "j"), on.job_path("merge", "j"))
        on.log("j", "start", stage="merge")

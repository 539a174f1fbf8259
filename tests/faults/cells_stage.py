"""What is dropped into a stage and is no job, a clock that steps back, and what is killed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from faults.engine import BY_ITSELF, NOTHING, Collecting, Row, Steps, cell
from faults.plain import plain
from harness import Daq, Result, make_fits, wait_until
from remote import configure, stand_in

LONG_AGO = 1_000_000_000
GIBIBYTE = 1 << 30


def good(daq: Daq, name: str) -> None:
    """Drop a job of nothing but a keyword."""
    daq.drop("collect", name, {"sources": [{
        "type": "fitsKeywords", "sourceName": "k",
        "keywords": [{"type": "esoKeyword", "name": "OBS ID", "value": 42}]}]})


def said(told: Result) -> str:
    lines = told.err.splitlines()
    return plain(lines[-1], [("thing.json", "NAME.json"), ("thing", "NAME")]) if lines else "–"


def dropped(fault: str, mend: str, put: Callable[[Path], object], *, slow: bool = False,
            ) -> None:
    """Enter a cell for something in ``collect/`` that is called ``thing.json``."""
    def work(daq: Daq) -> Row:
        path = daq.spool / "collect" / "thing.json"
        put(path)
        before = path.lstat()
        good(daq, "good")
        told = daq.run("daq-watch", "--once", "-q")
        assert daq.tree()["done"] == ["good"] and len(daq.results()) == 1
        found = [place for place in ("collect", "bad") if os.path.lexists(
            daq.spool / place / "thing.json")]
        after = (daq.spool / found[0] / "thing.json").lstat()
        assert len(found) == 1 and after.st_ino == before.st_ino, "it was changed"
        assert after.st_size == before.st_size
        then = "`mv bad/NAME.json collect/`, when it is mended" if found == ["bad"] else NOTHING
        return Row(fault, str(told.code), f"`{found[0]}/`", said(told), mend, then)
    cell("stage", fault, mend, slow=slow)(work)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2 * GIBIBYTE)
    os.utime(path, (LONG_AGO, LONG_AGO))


def _text(path: Path) -> None:
    path.write_text("[]")
    os.utime(path, (LONG_AGO, LONG_AGO))


dropped("a pipe (FIFO)", "remove it", os.mkfifo)
dropped("a directory", "remove it", lambda path: path.mkdir())
dropped("a symbolic link", "remove it, `cp` the file", lambda path: path.symlink_to("/dev/zero"),
        slow=True)
dropped("a file that is no job", "mend it, or remove it", _text)
dropped("a file that is still being written", "nothing: it is looked at again",
        lambda path: path.write_text("{"), slow=True)
dropped("a file of 2 GiB", "remove it", _sparse)


MANY = "10 000 files: 9 880 without `.json`, 100 that are no jobs, and 20 jobs"


@cell("stage", MANY, "remove them, or mend those in `bad/`", slow=True)
def many(daq: Daq) -> Row:
    # 10 000 that are taken for jobs are dropped in tests/crash/test_drops.py, and take long
    folder = daq.spool / "collect"
    for index in range(9_880):
        (folder / f"IMG{index:05d}.fits").write_text("a file that was copied to the wrong place")
    for index in range(100):
        path = folder / f"N{index:05d}.json"
        path.write_text("[]")
        os.utime(path, (LONG_AGO, LONG_AGO))
    for index in range(20):
        good(daq, f"J{index:05d}")
    told = daq.run("daq-watch", "--once", "-q", timeout=900)
    tree = daq.tree()
    assert {place: len(ids) for place, ids in tree.items()} == {
        "collect": 9_880, "bad": 100, "done": 20}
    assert len(daq.results()) == 20
    line = re.sub(r"N\d{5}", "NAME", said(told))
    return Row(MANY, str(told.code), "left in `collect/`, `bad/`, `done/`", line,
               "remove them, or mend those in `bad/`",
               "`mv bad/NAME.json collect/`, when it is mended")


@cell("stage", "the clock is set back by an hour while a job waits", NOTHING, slow=True,
      needs=("cc",))
def clock(daq: Daq) -> Row:
    import subprocess

    import test_clock

    library = daq.folder / "stepclock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library,
                    Path(test_clock.__file__).with_name("stepclock.c"), "-ldl"], check=True)
    steps = test_clock.StepClock(library, daq.folder)
    daq.env.update(steps.env)
    good(daq, "waits")
    steps.step(-3600.0)
    good(daq, "new")
    told = daq.run("daq-watch", "--once", "-q")
    assert daq.tree() == {"collect": ["waits"], "done": ["new"]}
    os.utime(daq.spool / "collect" / "waits.json")
    daq.run("daq-watch", "--once", "-q").ok()
    assert daq.tree() == {"done": ["new", "waits"]} and len(daq.results()) == 2
    return Row("the clock is set back by an hour while a job waits", str(told.code),
               "`collect/`, until its time comes again; new jobs do not wait", said(told), NOTHING,
               "`touch collect/ID.json`, or goes on by itself in an hour")


# -- what is killed --------------------------------------------------------------------------------


def killed(stage: str, slow: bool) -> None:
    def work(trial: Collecting) -> Steps:
        trial.make()
        trial.submit()
        for earlier in ("collect", "merge", "release"):
            if earlier == stage:
                break
            trial.run(earlier).ok()
        trial.stage = stage
        yield trial.run(DAQ_CRASH="stage.worked")
    cell("killed", f"`daq-{stage}` at its work", slow=slow)(work)


for _stage in ("collect", "merge", "release"):
    killed(_stage, slow=_stage != "merge")


def beside(fault: str, which: str, then: str) -> None:
    """Enter a cell for a watcher, or its nursery, that is killed when a worker is at work."""
    def work(daq: Daq) -> Row:
        import json

        stand = stand_in(daq.folder)
        configure(daq, rsh=stand.command)
        make_fits(daq.folder / "a.fits")
        watcher = daq.spawn("daq-watch", "-q")
        notes = daq.spool / "run" / "watch.json"
        wait_until(lambda: notes.exists() and json.loads(notes.read_text()).get("nursery"))
        stand.gate.unlink()
        daq.run("daq-start", "--id", "J1", "--file", f"far:{daq.folder}/a.fits").ok()
        wait_until(stand.calls.read_text)
        worker = [e["pid"] for e in daq.history("J1") if e["event"] == "start"][-1]
        pid = watcher.pid if which == "watcher" else json.loads(notes.read_text())["nursery"]
        os.kill(pid, signal.SIGKILL)
        if which == "watcher":
            assert watcher.wait().code == -9
        assert Path(f"/proc/{worker}").exists(), "its worker went with it"
        stand.gate.touch()
        if which == "watcher":
            wait_until(lambda: daq.tree() == {"merge": ["J1"]})
            wait_until(lambda: not Path(f"/proc/{worker}").exists())
            told = daq.run("daq-watch", "-q", "--once").ok()
            assert told.code == 0
        wait_until(lambda: daq.tree() == {"done": ["J1"]})
        wait_until(lambda: daq.history("J1")[-1]["event"] == "ok")
        starts = [e["stage"] for e in daq.history("J1") if e["event"] == "start"]
        assert starts == ["collect", "merge", "release"], "something was done twice"
        assert len(daq.results()) == 1
        if which != "watcher":
            assert watcher.running()
        place = "`merge/`: who is at work goes on" if which == "watcher" else (
            "goes on; the watcher makes another nursery")
        return Row(fault, "-9" if which == "watcher" else "–", place, "–", NOTHING, then)
    cell("killed", fault, slow=True, needs=("rsync",))(work)


beside("`daq-watch`, while a job is collected", "watcher", "start it again (systemd does)")
beside("its nursery, while a job is collected", "nursery", BY_ITSELF)

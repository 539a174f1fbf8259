"""Power cuts: everything that a promise rests on is durable before it, and no prefix loses a job.

What the tools do to files is recorded with strace. The order of it is checked; then the
operations are played one by one on a model of a disk, a power cut is made after each of them,
and from what is left the job is brought to its end as a user would bring it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lives
import pytest
import recording
from bench import JOB, WAY, Bench, digests, failures, job, undisturbed_picture
from forge import Forge
from lives import Life
from ordering import check, promise
from powerloss import Disk, empty, lay_out
from recording import Op

from harness import Daq, make_fits
from live import Live
from reflinks import reflink_folder
from remote import stand_in

pytestmark = [pytest.mark.needs("strace"), pytest.mark.xdist_group("power")]

#: Kind of life -> its configuration and what its job has beside the usual.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "new": ("", {}),
    "in-place": ("merge: {way: in-place}", {"mergeTarget": {"sourceName": "a"}}),
    "copied": ("", {}),
    "cloned": ("merge: {way: auto}", {"mergeTarget": {"sourceName": "a"}}),
}
QUICK = 30


@pytest.fixture(scope="module", autouse=True)
def tracing() -> None:
    if why := recording.obstacle():
        pytest.skip(why)


@contextmanager
def place_for(kind: str, folder: Path) -> Iterator[Path]:
    """Lend a place for a kind of life."""
    if kind == "cloned":
        with reflink_folder(folder) as place:
            (place / "life").mkdir()
            yield place / "life"
        return
    life, archive = folder / "life", folder / "life" / "archive"
    archive.mkdir(parents=True)
    if kind != "copied":
        yield life
        return
    # no hard link leads over the border of a mount, even if the file system is the same
    mounted = subprocess.run(["mount", "--bind", archive, archive], capture_output=True, text=True,
                             check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield life
    finally:
        subprocess.run(["umount", archive], check=True)


def prepared(forge: Forge, folder: Path, kind: str) -> Bench:
    """Write the files and the request of the job."""
    config, more = KINDS[kind]
    bench = Bench(forge, folder)
    if config:
        bench.env["DAQ_CONFIG"] = str(folder / "settings.yaml")
        (folder / "settings.yaml").write_text(f"cfg:\n  {config}\n")
    for name, extensions in (("a", 2), ("b", 1)):
        make_fits(folder / f"{name}.fits", extensions, cards={"OBJECT": name}, name=name.upper())
    if kind == "copied":
        more = {"receivers": [{"type": "olasReceiver", "path": f"{folder}/archive",
                               "options": {"allowSymlink": False}}]}
    (folder / "job.json").write_text(json.dumps(job(folder, **more)))
    return bench


class Lived:
    """A life of a job from its submission to its end, with what belongs to it."""

    def __init__(self, bench: Bench, words: Path) -> None:
        self.bench = bench
        self.undisturbed = undisturbed_picture(bench)
        bench.clear()
        self.life = Life(bench, words)
        assert self.life.submit().out.strip() == JOB
        for name in WAY:
            assert self.life.stage(name).code == 0
        disk = self.life.disk()
        self.wrong = check(disk, self.life.ops)
        self.unlike = lives.same_as_real(disk, bench.folder)


@pytest.fixture(scope="module")
def lived(request: pytest.FixtureRequest, forge: Forge, memory: Path,
          tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    kind = request.param
    folder = memory / f"power-{kind}"
    folder.mkdir()
    with place_for(kind, folder) as place:
        yield Lived(prepared(forge, place, kind), tmp_path_factory.mktemp("words"))


some_kinds = pytest.mark.parametrize("lived", ["new", "in-place"], indirect=True)
all_kinds = pytest.mark.parametrize("lived", [
    "new", "in-place", pytest.param("copied", marks=pytest.mark.slow),
    pytest.param("cloned", marks=pytest.mark.slow)], indirect=True)


# -- the order -------------------------------------------------------------------------------------


@all_kinds
def test_what_is_promised_is_durable(lived: Lived) -> None:
    assert lived.unlike == [], "the model differs from what is there: the recording lacks something"
    assert lived.wrong == []


@some_kinds
def test_no_sync_can_be_left_out(lived: Lived) -> None:
    """A checker that finds nothing proves nothing: take each fsync away, and it must complain."""
    ops = list(lived.life.ops)
    needless = [ops[index] for index in syncs(lived.life.disk(), ops)
                if not check(lived.life.disk(), ops[:index] + ops[index + 1:])]
    # these directories are synced again before anything rests on their names
    again = [str(lived.bench.spool), f"{lived.bench.spool}/data/{JOB}",
             f"{lived.bench.spool}/data/{JOB}/sources"]
    assert [str(op) for op in needless if op.path not in again] == []


def syncs(disk: Disk, ops: list[Op]) -> Iterator[int]:
    """Yield the indices of the fsyncs that make something durable that has to be."""
    for index, op in enumerate(ops):
        before = set(disk.unsynced())
        disk.play(op)
        settled = before - set(disk.unsynced())
        if op.call == "fsync" and any("/lock/" not in path for path, _, _ in settled):
            yield index


WRONG = {
    "the name comes before the data": (
        ["open", "write", "rename", "fsync file", "fsync"], "gets its name before its data"),
    "the data are never synced": (["open", "write", "rename", "fsync", "exit"], "before its data"),
    "the directory is synced after the promise": (
        ["open", "write", "fsync embryo", "rename", "exit", "fsync"], "before its name is durable"),
    "the directory is never synced": (
        ["open", "write", "fsync embryo", "rename", "exit"], "before its name is durable"),
    "synced, and written once more": (
        ["open", "write", "fsync embryo", "write", "rename", "fsync", "exit"], "before its data"),
    "written in place": (["open final", "write final", "fsync file", "fsync", "exit"],
                         "written under its final name"),
    "the id is told before it is durable": (
        ["open", "write", "fsync embryo", "rename", "say", "fsync"], "what it printed"),
    "the mode comes last": (["open", "write", "fsync embryo", "rename", "fsync", "chmod", "exit"],
                            "its mode is durable"),
    "unlinked, and not synced": (
        ["open", "write", "fsync embryo", "rename", "fsync", "unlink", "exit"],
        "that its name is gone"),
    "the file is logged before it is durable": (
        ["open", "write", "fsync embryo", "rename", "log", "fsync"], "the event ok"),
    "the job moves before what was made for it": (
        ["open", "write", "fsync embryo", "rename", "move", "fsync"], "the move to merge/"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_order_is_found(tmp_path: Path, name: str) -> None:
    words, complaint = WRONG[name]
    for folder in ("data", "log", "collect", "merge"):
        (tmp_path / folder).mkdir()
    (tmp_path / "log" / "J.jsonl").touch()
    (tmp_path / "collect" / "J.json").touch()
    wrong = check(Disk(tmp_path), [op_named(word, tmp_path) for word in words])
    assert any(complaint in text for text in wrong), wrong
    right = ["open", "write", "fsync embryo", "rename", "fsync", "move", "fsync merge",
             "fsync collect", "log", "fsync log", "say", "exit"]
    assert check(Disk(tmp_path), [op_named(word, tmp_path) for word in right]) == []


def op_named(word: str, folder: Path) -> Op:
    embryo, path = f"{folder}/data/.tmp-1-x", f"{folder}/data/x.json"
    log, flags = f"{folder}/log/J.jsonl", {"creat": 1, "trunc": 0, "append": 0, "mode": 0o644}
    return {
        "open": Op("open", embryo, numbers={**flags, "fd": 3}),
        "open final": Op("open", path, numbers={**flags, "fd": 3}),
        "write": Op("write", embryo, data=b"x", numbers={"fd": 3}),
        "write final": Op("write", path, data=b"x", numbers={"fd": 3}),
        "fsync embryo": Op("fsync", embryo), "fsync file": Op("fsync", path),
        "fsync": Op("fsync", f"{folder}/data"), "fsync log": Op("fsync", log),
        "fsync merge": Op("fsync", f"{folder}/merge"),
        "fsync collect": Op("fsync", f"{folder}/collect"),
        "rename": Op("rename", embryo, path), "unlink": Op("unlink", path),
        "chmod": Op("chmod", path, numbers={"mode": 0o444}),
        "move": Op("rename", f"{folder}/collect/J.json", f"{folder}/merge/J.json"),
        "log": Op("write", log, data=b'{"event": "ok"}\n', numbers={"fd": 4, "at": 0}),
        "say": Op("say", data=b"J\n"), "exit": Op("exit", numbers={"code": 0}),
    }[word]


# -- power cuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lived", ["new"], indirect=True)
def test_a_power_cut_loses_nothing(lived: Lived) -> None:
    go_on_after(lived, lives.spread(list(lives.cuts(lived.life)), QUICK))


@pytest.mark.slow
@all_kinds
def test_a_power_cut_at_any_operation_loses_nothing(lived: Lived) -> None:
    go_on_after(lived, list(lives.cuts(lived.life)))


def go_on_after(lived: Lived, cuts: list[lives.Cut]) -> None:
    cases = [(str(cut), lambda cut=cut: lives.recover(cut, lived.bench, lived.undisturbed))
             for cut in cuts]
    assert cases
    wrong = failures(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)} power cuts\n" + "\n".join(wrong)


# -- deaths and power cuts -------------------------------------------------------------------------


class Deaths:
    """A job before each of its steps, to die in and to be taken up again."""

    def __init__(self, bench: Bench, words: Path) -> None:
        self.bench, self._words = bench, words
        bench.clear()
        self._saved = {}
        for tool in ("start", *WAY):
            self._saved[tool] = words / tool
            shutil.copytree(bench.folder, self._saved[tool], symlinks=True)
            bench.run(tool).ok()

    def back_to(self, tool: str) -> None:
        empty(str(self.bench.folder))
        shutil.copytree(self._saved[tool], self.bench.folder, symlinks=True, dirs_exist_ok=True)

    def points(self, tool: str) -> list[tuple[str, int]]:
        self.back_to(tool)
        path = self._words / "trace"
        self.bench.run(tool, DAQ_CRASH_TRACE=str(path)).ok()
        pairs = [line.split(":") for line in path.read_text().splitlines()]
        path.unlink()
        return [(point, int(number)) for point, number in pairs]

    def die(self, tool: str, point: str, number: int) -> None:
        """Die at a point, run again, and check the order of both runs together."""
        self.back_to(tool)
        life = Life(self.bench, self._words)
        assert self.step(life, tool, DAQ_CRASH=f"{point}:{number}").code == -signal.SIGKILL
        moved = tool != "start" and not (self.bench.spool / tool / f"{JOB}.json").exists()
        again = self.step(life, tool)
        if not moved:  # else it has nothing to do, and does not answer for it
            assert again.code == 0
            assert check(life.disk(), life.ops) == []

    def step(self, life: Life, tool: str, **env: str) -> recording.Recording:
        return life.submit(**env) if tool == "start" else life.stage(tool, **env)


@pytest.fixture(scope="module")
def deaths(forge: Forge, memory: Path, tmp_path_factory: pytest.TempPathFactory) -> Deaths:
    folder = memory / "deaths"
    folder.mkdir()
    return Deaths(prepared(forge, folder, "new"), tmp_path_factory.mktemp("words"))


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["start", *WAY])
def test_what_a_dead_run_left_is_made_durable_by_the_next(deaths: Deaths, tool: str) -> None:
    """A name that a dead process gave may not be on disk yet when the next one relies on it."""
    wrong = failures([(f"{p}:{n}", lambda p=p, n=n: deaths.die(tool, p, n))
                      for p, n in deaths.points(tool)])
    assert not wrong, f"{len(wrong)} cases\n" + "\n".join(wrong)


@pytest.mark.parametrize(("tool", "point"), [
    ("start", "put.renamed"), ("collect", "put.renamed"), ("merge", "move.renamed"),
    ("release", "put.renamed")])
def test_what_a_dead_run_left_is_made_durable(deaths: Deaths, tool: str, point: str) -> None:
    several = [pair for pair in deaths.points(tool) if pair[0] == point]
    deaths.die(tool, *several[0 if tool == "merge" else -1])  # the product moves before the job


# -- other lives: their order ----------------------------------------------------------------------


@pytest.fixture
def started(forge: Forge, memory: Path, tmp_path: Path) -> Iterator[Life]:
    """Submit a job, recorded."""
    folder = memory / "other"
    folder.mkdir()
    bench = prepared(forge, folder, "new")
    bench.clear()
    life = Life(bench, tmp_path)
    life.submit()
    yield life
    shutil.rmtree(folder)


def in_order(life: Life) -> None:
    disk = life.disk()
    assert check(disk, life.ops) == []
    assert lives.same_as_real(disk, life.bench.folder) == []


def test_the_order_of_a_watcher_and_its_workers(started: Life) -> None:
    assert started.run("daq-watch", "--once", "-q").code == 0
    assert started.bench.tree() == {"done": [f"{JOB}.json"]}
    in_order(started)


def test_the_order_of_an_abort(started: Life) -> None:
    started.stage("collect")
    assert started.run("daq-ctl", "daq.abort", JOB).code == 0
    assert started.bench.tree() == {"done": [f"{JOB}.json"]}
    in_order(started)
    for cut in lives.spread(list(lives.cuts(started)), 12):
        lives.recover_abort(cut, started.bench)


def test_the_order_of_jobs_that_are_wrong(started: Life) -> None:
    """One that fails goes to failed/, one that is none to bad/."""
    (started.bench.folder / "a.fits").write_bytes(b"no FITS file")
    torn = started.bench.spool / "merge" / "J2.json"
    torn.write_text("{")
    os.utime(torn, (1, 1))
    life = Life(started.bench, started.words)
    assert life.stage("collect").code == 65
    assert life.run("daq-merge", "--job", "J2").code in (65, 75)  # perhaps it is being written
    assert "failed" in life.bench.tree()
    in_order(life)


def test_the_order_of_files_from_another_host(started: Life, tmp_path: Path) -> None:
    """What rsync writes under names of its own gets its name when it is durable."""
    stand = stand_in(tmp_path)
    bench = started.bench
    sources = [{"type": "fitsFile", "sourceName": name,
                "location": f"far:{bench.folder}/{name}.fits"} for name in "ab"]
    (bench.folder / "job.json").write_text(json.dumps(job(
        bench.folder, id="J2", fileId="J2", sources=sources)))
    bench.env["DAQ_CONFIG"] = str(tmp_path / "settings.yaml")
    (tmp_path / "settings.yaml").write_text(f"cfg:\n  rsh: {stand.command}\n")
    life = Life(bench, tmp_path)
    assert life.submit().code == 0
    assert life.run("daq-collect", "--job", "J2").code == 0
    assert check(life.disk(), life.ops) == []


PRUNE = ["--prune", "--yes", "--quiet", *(word for kind in ("jobs", "sources", "results")
                                          for word in (f"--{kind}-days", "0.0000001"))]


def test_the_order_of_pruning(started: Life) -> None:
    """What is removed was on record before; what a power cut brings back goes the next time."""
    bench = started.bench
    for name in WAY:
        bench.run(name).ok()
    life = Life(bench, started.words)
    assert life.run("daq-status", *PRUNE).code == 0
    assert bench.tree() == digests(bench.spool / "result") == {}
    in_order(life)
    archive = digests(bench.folder / "archive")
    for cut in lives.spread([*lives.cuts(life)], 15):
        lay_out(cut.state, [str(bench.folder)])
        bench.forge.run(bench.spool, "daq-status", *PRUNE, env=bench.env).ok()
        assert bench.tree() == digests(bench.spool / "result") == {}, str(cut)
        assert list((bench.spool / "log").glob("[!._]*")) == [], str(cut)
        assert digests(bench.folder / "archive") == archive, str(cut)


def test_the_order_of_an_acquisition(daq: Daq, tmp_path: Path) -> None:
    """No source is commanded and no client answered before what that rests on is durable."""
    live = Live(daq)
    sources = [live.sim("recif", "dcs", "--extensions", 1), live.sim("metadaqif", "fcf")]
    live.serve()
    (tmp_path / "trace").mkdir()
    disk = Disk(daq.spool)
    with recording.recorded(live.daemon.pid, tmp_path / "trace", [daq.spool], "daq-ctl") as ops:
        job = live.begin(*sources)
        live.call("UpdateKeywords", id=job,
                  keywords=[{"type": "valueKeyword", "name": "KEPT", "value": 1}])
        live.call("StopDaq", id=job)
        live.until(job, "NotScheduled")
        other = live.begin(*sources)
        live.call("AbortDaq", id=other)
    told = [promise(op) for op in ops if op.call == "tell"]
    for name in ("RecStart", "StartDaq", "RecStop", "StopDaq", "RecAbort", "AbortDaq", '"error"'):
        assert any(name in text for text in told), name
    assert check(disk, ops) == []

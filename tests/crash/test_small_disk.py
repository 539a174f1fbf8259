"""A spool on a real file system that is full at each write, or out of inodes, or read-only.

Whatever is missing: one clear line, a code that says "later", one copy of the job, nothing
half-written under a final name, and with space it goes on as if nothing had been.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import smalldisk
from bench import JOB, NEXT, WAY, Bench, prepare, undisturbed_picture
from forge import Forge

from harness import Daq

Filler = Callable[[Path, int], AbstractContextManager[None]]

FILLERS: dict[str, Filler] = {"blocks": smalldisk.blocks_left, "inodes": smalldisk.inodes_left}
#: Stages that look before they begin whether their files fit: with so much left they do.
FIRST = {("collect", "blocks"): 22, ("merge", "blocks"): 22}
_MOST = 200


@pytest.fixture(scope="module")
def disk(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The crash tests' spool, its templates and its receiver, all on the small disk."""
    folder = tmp_path_factory.mktemp("disk")
    with smalldisk.mounted(folder) as place:
        config = folder / "daq.yaml"
        config.write_text("cfg:\n  floor: {spool_bytes: 0, result_bytes: 0}\n")
        made = Bench(forge, place, {"DAQ_CONFIG": str(config)})
        yield prepare(made)


@pytest.fixture(scope="module")
def whole(disk: Bench) -> dict[str, Any]:
    return undisturbed_picture(disk)


def fill_and_run(disk: Bench, whole: dict[str, Any], stage: str, what: str, left: int) -> bool:
    """Run a stage with so much left; return whether it was enough."""
    disk.clear(f"at-{stage}")
    with FILLERS[what](disk.folder, left):
        told = disk.run(stage)
        assert smalldisk.half_written(disk.spool) == []
        for path in (disk.folder / "archive").glob("*.fits"):
            assert path.stat().st_size % 2880 == 0 and path.stat().st_size
    assert disk.locks() == []
    tree = disk.tree()
    assert sum(map(len, tree.values())) == 1, f"copies of the job: {tree}"
    place = next(iter(tree))
    assert place in (stage, NEXT[stage]), f"it needs nobody\n{told}"
    if told.code:
        told.fails(75, JOB, chatty=True)
        if not re.search(r"\d (are free|are;)", told.err):  # not known before the work began
            assert "No space left on device" in told.err, told
            assert str(disk.folder) in told.err, f"it does not say where\n{told}"
            assert ("df -i" if what == "inodes" else "free some space") in told.err, told
    else:
        assert place == NEXT[stage]
    if place == stage:
        os.utime(disk.spool / stage / f"{JOB}.json")
        disk.run(stage).ok()
    if stage != "release":
        disk.finish(NEXT[stage])
    elif json.loads((disk.spool / "data" / JOB / "release.json").read_text())["result"].get(
            "failed"):
        os.rename(disk.spool / "done" / f"{JOB}.json", disk.spool / "release" / f"{JOB}.json")
        disk.run("release").ok()
    assert disk.picture() == whole
    return told.code == 0


@pytest.mark.parametrize("what", FILLERS)
@pytest.mark.parametrize("stage", WAY)
def test_full_at_each_write(disk: Bench, whole: dict[str, Any], stage: str, what: str) -> None:
    first = FIRST.get((stage, what), 1)
    wrong, enough = [], [fill_and_run(disk, whole, stage, what, 0)]
    for left in range(first, _MOST):
        try:
            enough.append(fill_and_run(disk, whole, stage, what, left))
        except AssertionError as error:
            wrong.append(f"{left} {what} left: {error}")
        # what is needed differs by a block, by what the journal holds
        if len(wrong) > 3 or enough[-3:] == [True] * 3:
            break
    assert not wrong, "\n".join(wrong)
    assert not enough[0] and enough[-3:] == [True] * 3


@pytest.mark.parametrize("what", FILLERS)
def test_a_submission(disk: Bench, whole: dict[str, Any], what: str) -> None:
    """It is refused, and repeated with space it is done once."""
    for left in (0, 1, 2, 3, 4, 60):
        disk.clear()
        subprocess.run(["cp", "-a", disk.folder / "at-collect", disk.spool], check=True)
        for path in (disk.spool / "collect" / f"{JOB}.json", disk.spool / "log" / f"{JOB}.jsonl",
                     *(disk.spool / "log").glob(".file-*")):
            path.unlink()
        with FILLERS[what](disk.folder, left):
            told = disk.run("start")
            assert smalldisk.half_written(disk.spool) == []
        if told.code:
            told.fails(75, "No space left on device").no_output()
        assert disk.run("start").ok().line() == JOB
        assert disk.tree() == {"collect": [f"{JOB}.json"]}
        disk.finish("collect")
        assert disk.picture() == whole


@pytest.mark.parametrize("what", FILLERS)
def test_an_operator_goes_on_moving_jobs(disk: Bench, what: str) -> None:
    disk.clear("at-merge")
    with FILLERS[what](disk.folder, 0):
        here, there = (disk.spool / place / f"{JOB}.json" for place in ("merge", "hold"))
        here.rename(there)
        there.rename(here)
        here.touch()
        disk.forge.run(disk.spool, "daq-status", JOB, env=disk.env).ok()
        disk.forge.run(disk.spool, "daq-status", "--storage", env=disk.env).ok()
    disk.finish("merge")


@pytest.mark.parametrize(("what", "left"), [("blocks", 0), ("blocks", 1), ("blocks", 2),
                                            ("inodes", 0), ("inodes", 1)])
def test_pruning_makes_room_on_a_full_disk(disk: Bench, what: str, left: int) -> None:
    """It needs none itself; what could not be put on record before is afterwards."""
    def prune(*words: str) -> None:
        disk.forge.run(disk.spool, "daq-status", "--prune", "--yes", *words, env=disk.env).ok()

    def room() -> int:
        found = os.statvfs(disk.folder)
        return found.f_bavail if what == "blocks" else found.f_favail

    disk.clear("at-done")
    for path in (disk.spool / "result").iterdir():
        os.link(path, disk.folder / "archive" / path.name.removeprefix("T_"))
    prune()  # there is no age that anything could have reached
    before = room()
    with FILLERS[what](disk.folder, left):
        prune("--sources-days", "0.0000001")
        assert room() > left
        assert disk.events()[-1]["what"] == "sources"
        prune("--jobs-days", "0.0000001")
        lines = (disk.spool / "log" / "_pruned.jsonl").read_text().splitlines()
        assert [json.loads(line)["what"] for line in lines] == ["sources", "job"]
    assert disk.tree() == {}
    assert room() > before
    assert len(list((disk.spool / "result").iterdir())) == 1
    assert [path.name for path in (disk.spool / "lock").iterdir()
            if not path.name.startswith(".")] == []


def test_read_only(disk: Bench, whole: dict[str, Any]) -> None:
    """As a file system becomes by itself after an error of its disk."""
    for stage in WAY:
        disk.clear(f"at-{stage}")
        subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
        try:
            disk.run(stage).fails(77, str(disk.folder), "Read-only file system", "remount it")
            disk.forge.run(disk.spool, "daq-status", JOB, env=disk.env).ok()
        finally:
            subprocess.run(["mount", "-o", "remount,rw", disk.folder], check=True)
        assert disk.tree() == {stage: [f"{JOB}.json"]}
        disk.finish(stage)
        assert disk.picture() == whole


def test_a_watcher_outlasts_a_full_disk(daq: Daq, tmp_path: Path) -> None:
    """It loses nothing, gives nothing up, and goes on by itself when there is space."""
    from bench import job

    from harness import make_fits, wait_until

    with smalldisk.mounted(tmp_path) as place:
        config = daq.folder / "daq.yaml"
        config.write_text("cfg:\n  floor: {spool_bytes: 100000, result_bytes: 100000}\n"
                          "  scan_interval_sec: 0.2\n")
        daq.spool = place / "spool"
        daq.env.update(DAQ_CONFIG=str(config), DAQ_SPOOL=str(daq.spool))
        for name in ("a", "b"):
            make_fits(daq.folder / f"{name}.fits", 1, name=name.upper())
        (daq.folder / "archive").mkdir()
        (daq.folder / "job.json").write_text(json.dumps(job(daq.folder)))
        daq.run("daq-start", f"@{daq.folder}/job.json").ok()
        with smalldisk.blocks_left(place, 0), daq.start("daq-watch") as watcher:
            watcher.wait_for("bytes are free")
            assert daq.tree() == {"collect": [JOB]}
        assert watcher.result().code in (0, 143)
        with daq.start("daq-watch", until="watching"):
            wait_until(lambda: daq.tree() == {"done": [JOB]})
        assert daq.history(JOB)[-1]["event"] in ("ok", "hook")
        assert not {"defer", "fail", "killed"} & set(daq.events(JOB))

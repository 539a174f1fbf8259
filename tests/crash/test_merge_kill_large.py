"""Merges of more than 1 GiB, killed or told to end at any instant; see test_merge_kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench import (
    FILE_ID,
    JOB,
    Bench,
    job,
)
from forge import Forge, Run
from yard import (
    GIBIBYTE,
    INTO,
    MTIME,
    ROOM,
    WAYS,
    Content,
    Yard,
    folder_for,
    one_of_two_wins,
)

from daqlib import fsops
from harness import Result, make_fits
from merge_samples import (
    BLOCK,
    image,
    primary,
)

_digests: dict[tuple[int, ...], str] = {}


def write_gibibyte(path: Path, *room: str) -> None:
    """Write a merge target of more than 1 GiB, with some noise in it; most of it are holes."""
    head = image(b"", *ROOM).replace(b"NAXIS1  =                    0",
                                      b"NAXIS1  = %20d" % GIBIBYTE)
    dice = random.Random(5)
    with path.open("wb") as file:
        begin = file.write(primary(*room) + head)
        for at in range(0, GIBIBYTE, GIBIBYTE // 16):
            file.seek(begin + at)
            file.write(dice.randbytes(1 << 20))
        file.seek(begin + GIBIBYTE + -GIBIBYTE % BLOCK)
        file.write(image(b"tail", *ROOM))
    path.chmod(0o640)
    os.utime(path, ns=(MTIME, MTIME))


def digest(path: Path) -> str:
    """The SHA-256 of a large file, taken once as long as nobody touches it."""
    now = path.stat()
    mark = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    if mark not in _digests:
        _digests[mark] = fsops.sha256(str(path))
    return _digests[mark]


class Large(Yard):
    """The same with a target of 1 GiB; files are told from each other by their digests."""

    def clear(self) -> None:
        super().clear()
        write_gibibyte(self.target, *([] if self.way == "insert" else ROOM))

    def content(self, path: Path) -> Content:
        return digest(path)

    def lasts(self, *command: object) -> float:
        """Seconds that an undisturbed run takes."""
        self.clear()
        begin = time.monotonic()
        self.forge.run(self.folder, *map(str, command)).ok()  # type: ignore[arg-type]
        return time.monotonic() - begin


@pytest.fixture(scope="module", params=WAYS)
def large(request: pytest.FixtureRequest, forge: Forge, tmp_path_factory: pytest.TempPathFactory
          ) -> Iterator[Large]:
    way = str(request.param)
    with folder_for(way, tmp_path_factory.mktemp(f"large-{way}"), 8192) as folder:
        yield Large(forge, folder, way)
        shutil.rmtree(folder)


def commands(yard: Yard, seed: int) -> list[tuple[str, list[str]]]:
    """The merge as it is, and one that stays where little time passes and much happens."""
    return [("daq-merge", yard.words()), ("signalled", [f"LINGER@{seed}", *yard.words()])]


def disturbed(large: Large, dice: random.Random, seconds: list[float], signum: int) -> Result:
    """Merge and send a signal at any instant of that."""
    kind = dice.randrange(2)
    tool, words = commands(large, dice.randrange(1000))[kind]
    run = large.forge.start(large.folder, tool, *words)
    time.sleep(dice.uniform(0.0, 1.1 * seconds[kind]))
    os.kill(run.pid, signum)  # a zombie keeps its id until we wait for it
    return run.wait()


@pytest.mark.slow
def test_killed_at_random_in_a_gibibyte(large: Large) -> None:
    dice = random.Random(f"kill {large.way}")
    seconds = [large.lasts(tool, *words) for tool, words in commands(large, 0)]
    kills, wanted = 0, {"in-place": 64, "insert": 24}.get(large.way, 12)
    for _ in range(10 * wanted):
        large.clear()
        for _ in range(dice.randint(1, 4)):
            kills += disturbed(large, dice, seconds, signal.SIGKILL).code == -signal.SIGKILL
            if large.named():
                break
        if dice.random() < 0.3 and large.way in INTO and not large.named():
            to_undo = large.journal()
            large.undo().exits(0 if to_undo else 1)
            assert large.state() == large.before
        large.goes_on()
        if kills >= wanted:
            break
    assert kills >= wanted


@pytest.mark.slow
def test_told_to_end_at_random_in_a_gibibyte(large: Large) -> None:
    dice = random.Random(f"term {large.way}")
    seconds = [large.lasts(tool, *words) for tool, words in commands(large, 0)]
    ended = 0
    for _ in range(100):
        large.clear()
        told = disturbed(large, dice, seconds, signal.SIGTERM)
        if told.code == 0:
            assert large.named() and large.left() == []
            continue
        if told.code != -signal.SIGTERM:  # before the tool listened to it
            told.exits(143)
        ended += 1
        assert not large.named()
        large.is_given_back()
        if ended >= 10:
            break
    assert ended >= 10
    large.goes_on()


@pytest.mark.slow
@pytest.mark.parametrize("large", INTO, indirect=True)
def test_one_of_two_wins_in_a_gibibyte(large: Large) -> None:
    (_, words), _ = commands(large, 0)
    one_of_two_wins(large, 6, 1.2 * large.lasts("daq-merge", *words))


@dataclass
class LargeJob:
    """A spool with a job whose merge target has 1 GiB."""

    bench: Bench
    before: tuple[str, int]
    expected: str
    seconds: list[float]

    @property
    def copy(self) -> Path:
        return self.bench.spool / "data" / JOB / "sources" / "0_a_a.fits"

    @property
    def product(self) -> Path:
        return self.bench.spool / "result" / f"T_{FILE_ID}.fits"

    def reset(self) -> None:
        """Give the copy back, as a person can, and put all else where it was before the merge."""
        spool, kept = self.bench.spool, self.bench.folder / "sources"
        folder = spool / "data" / JOB / "sources"
        if list(folder.glob(".*.undo")):
            self.bench.forge.run(spool, "daq-merge", "-q", "--undo", self.copy,
                                 env=self.bench.env).ok()
        assert self.left() == []
        assert self.state() == self.before
        folder.rename(kept)
        self.bench.clear("at-merge")
        kept.rename(folder)

    def state(self) -> tuple[str, int]:
        return digest(self.copy), self.copy.stat().st_mtime_ns

    def left(self) -> list[str]:
        """What lies beside the copies that the collection did not put there."""
        return sorted(path.name for path in self.copy.parent.glob(".*")
                      if path.name != ".origins.json")

    def start(self, dice: random.Random) -> tuple[Run, int]:
        kind, words = dice.randrange(2), self.bench.arguments("merge")
        run = (self.bench.forge.start(self.bench.spool, "signalled", f"LINGER@{kind}", *words,
                                      env=self.bench.env) if kind else
               self.bench.forge.start(self.bench.spool, "daq-merge", *words, env=self.bench.env))
        return run, kind

    def disturbed(self, dice: random.Random, signum: int) -> Result:
        """Merge and send a signal at any instant of that."""
        run, kind = self.start(dice)
        time.sleep(dice.uniform(0.0, 1.1 * self.seconds[kind]))
        os.kill(run.pid, signum)
        return run.wait()

    def named(self) -> bool:
        """Whether the product has its name; then it must be complete."""
        if not self.product.exists():
            return False
        assert digest(self.product) == self.expected, "half a product under its name"
        return True


@pytest.fixture(scope="module")
def large_job(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LargeJob]:
    bench = Bench(forge, tmp_path_factory.mktemp("large-stage"))
    settings = bench.folder / "settings.yaml"
    settings.write_text("cfg:\n  merge:\n    way: in-place\n  retry:\n    tries: 100\n")
    bench.env["DAQ_CONFIG"] = str(settings)
    write_gibibyte(bench.folder / "a.fits", *ROOM)
    make_fits(bench.folder / "b.fits")
    (bench.folder / "job.json").write_text(json.dumps(
        job(bench.folder, mergeTarget={"sourceName": "a"})))
    bench.clear()
    for tool in ("start", "collect"):
        bench.run(tool).ok()
    shutil.copytree(bench.spool, bench.folder / "at-merge", symlinks=True,
                    ignore=shutil.ignore_patterns("sources"))
    made = LargeJob(bench, ("", 0), "", [])
    made.before = made.state()
    for kind in range(2):
        begin = time.monotonic()
        words = bench.arguments("merge")
        (bench.forge.run(bench.spool, "signalled", "LINGER@0", *words, env=bench.env) if kind else
         bench.run("merge")).ok()
        made.seconds.append(time.monotonic() - begin)
        assert bench.manifest("merge")["result"]["way"] == "in-place"
        made.expected = digest(made.product)
        made.reset()
    yield made
    shutil.rmtree(bench.folder)


@pytest.mark.slow
def test_a_job_of_a_gibibyte_is_killed_at_random(large_job: LargeJob) -> None:
    dice, kills, bench = random.Random(12), 0, large_job.bench
    while kills < 30:
        for _ in range(dice.randint(1, 5)):
            kills += large_job.disturbed(dice, signal.SIGKILL).code == -signal.SIGKILL
            large_job.named()
            if bench.tree() != {"merge": [f"{JOB}.json"]}:
                break
        if bench.tree() == {"merge": [f"{JOB}.json"]}:
            bench.run("merge").ok()
        assert bench.tree() == {"release": [f"{JOB}.json"]}
        assert large_job.named()
        assert bench.manifest("merge")["outputs"][0]["sha256"] == large_job.expected
        assert bench.temporaries() == bench.locks() == []
        large_job.reset()


@pytest.mark.slow
def test_a_job_of_a_gibibyte_is_told_to_end_at_random(large_job: LargeJob) -> None:
    dice, ended, bench = random.Random(13), 0, large_job.bench
    for _ in range(100):
        told = large_job.disturbed(dice, signal.SIGTERM)
        if told.code not in (0, -signal.SIGTERM):
            told.exits(143)
            ended += 1
        if not large_job.named():
            assert large_job.state() == large_job.before
            assert large_job.left() == []
            assert bench.temporaries() == bench.locks() == []
        else:
            if bench.tree() == {"merge": [f"{JOB}.json"]}:
                bench.run("merge").ok()
            large_job.reset()
        if ended >= 6:
            break
    assert ended >= 6

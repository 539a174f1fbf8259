"""Workers that are killed at random, and an operator who moves and edits: what torture needs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge import Forge, Run

from daqlib import fsops
from harness import STAGES, make_fits, make_spool

WAY = ("collect", "merge", "release")
SEED = int(os.environ.get("DAQ_TORTURE_SEED", "20261121"))


@dataclass
class Workers:
    """Four processes that work on whatever there is, and are killed now and then."""

    forge: Forge
    spool: Path
    env: dict[str, str]
    chance: random.Random
    running: list[Run] = field(default_factory=list)
    ended: list[Run] = field(default_factory=list)

    def begin(self) -> None:
        seed = str(self.chance.randrange(1 << 30))
        self.running.append(self.forge.start(self.spool, "labourer", seed, env=self.env))

    def kill(self, run: Run) -> None:
        self.running.remove(run)
        result = run.kill()
        assert "Traceback" not in result.err and "internal error" not in result.err, result
        assert result.code == -9, f"a worker ended by itself\n{result}"
        self.ended.append(run)

    def kill_one(self) -> None:
        self.kill(self.chance.choice(self.running))
        self.begin()


@dataclass
class Operator:
    """A person who moves, touches and edits jobs; careful, unless ``careless``.

    One that ``pauses`` pauses a stage now and then.
    """

    spool: Path
    chance: random.Random
    careless: bool = False
    pauses: bool = False
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)
    edited: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)

    def path(self, place: str, job: str) -> Path:
        return self.spool / place / f"{job}.json"

    def place(self, job: str) -> str:
        """Where ``ls`` shows it: one look, which may be out of date by now."""
        return next((place for place in STAGES if self.path(place, job).exists()), "")

    def move(self, job: str, source: str, target: str) -> None:
        """As ``mv -n`` does it."""
        with suppress(FileNotFoundError, FileExistsError):
            if not self.path(target, job).exists():
                os.rename(self.path(source, job), self.path(target, job))
                self.done["moved"] += 1

    def act(self) -> None:
        if self.pauses and self.chance.random() < 0.02:
            self.pause()
        job = self.chance.choice(list(self.texts))
        place = self.place(job)
        if place in ("hold", "failed"):
            self.give_back(job, place)
        elif place in WAY:
            self.chance.choice([self.park, self.park, self.touch, self.back, self.disturb])(
                job, place)
        elif place == "done" and self.chance.random() < 0.7:
            self.move(job, "done", self.chance.choice([*WAY, "hold"]))

    def pause(self) -> None:
        """Pause a stage, or let it go on."""
        mark = self.spool / self.chance.choice(WAY) / ".pause"
        mark.unlink() if mark.exists() else mark.touch()
        self.done["paused"] += 1

    def go_home(self) -> None:
        """Leave no stage paused."""
        for stage in WAY:
            (self.spool / stage / ".pause").unlink(missing_ok=True)

    def park(self, job: str, place: str) -> None:
        self.move(job, place, "hold")

    def back(self, job: str, place: str) -> None:
        self.move(job, place, WAY[max(0, WAY.index(place) - 1)])

    def touch(self, job: str, place: str) -> None:
        with suppress(FileNotFoundError):
            due = time.time() + self.chance.choice([0, 0, 0.2])
            os.utime(self.path(place, job), (due, due))
            self.done["touched"] += 1

    def disturb(self, job: str, place: str) -> None:
        if self.careless:
            self.edit(job, place)

    def give_back(self, job: str, place: str) -> None:
        """Edit it perhaps, and let it go on: an edited job from the start."""
        if job.startswith("edit") and self.chance.random() < 0.5:
            self.edit(job, place)
        self.make_way(job)
        self.move(job, place, "collect" if job in self.edited else self.chance.choice(WAY[:2]))

    def edit(self, job: str, place: str) -> None:
        """Save as an editor does: by rename, or over the old text."""
        text = dict(self.texts[job])
        text["keywords"] = [{"type": "esoKeyword", "name": "TEL EDIT",
                             "value": self.chance.randrange(1 << 30)}]
        path = self.path(place, job)
        embryo = path.with_name(f".{path.name}.swp")
        with suppress(FileNotFoundError):
            if self.careless and not path.exists():
                return
            if self.careless and self.chance.random() < 0.5:
                with open(path, "r+") as file:
                    file.write(json.dumps(text, indent=self.chance.choice([None, 4])))
                    file.truncate()
            else:
                embryo.write_text(json.dumps(text))
                os.rename(embryo, path)
            self.texts[job] = text
            self.edited.add(job)
            self.done["edited"] += 1

    def make_way(self, job: str) -> None:
        """Move a product of an earlier text aside, as the error line asks."""
        if job in self.edited:
            with suppress(FileNotFoundError):
                os.unlink(self.spool / "result" / f"{job}.fits")


def submit(folder: Path, spool: Path, operator: Operator, number: int) -> None:
    """Drop jobs as a person does, without a daemon: whole, by rename."""
    for index in range(number):
        job = f"{'edit' if index % 2 else 'plain'}-{index:03d}"
        receivers = [] if index % 2 else [
            {"type": "olasReceiver", "path": str(folder / "archive")}]
        operator.texts[job] = {
            "id": job, "fileId": job, "receivers": receivers,
            "sources": [{"type": "fitsFile", "sourceName": "a",
                         "location": str(folder / f"{index % 3}.fits")}]}
        embryo = spool / "collect" / f".{job}"
        embryo.write_text(json.dumps(operator.texts[job]))
        os.rename(embryo, spool / "collect" / f"{job}.json")


def tree(spool: Path) -> dict[str, list[str]]:
    """Job -> the places that hold it, by its name up to the first dot."""
    found: dict[str, list[str]] = {}
    for place in STAGES:
        for path in (spool / place).glob("[!.]*"):
            found.setdefault(path.name.partition(".")[0], []).append(place)
    return found


def run_out(forge: Forge, spool: Path, env: dict[str, str], operator: Operator) -> None:
    """No more disturbance: give back what rests, and run the tools until all is done."""
    for _ in range(12):
        for job in operator.texts:
            place = operator.place(job)
            if place in ("hold", "failed", "bad"):
                operator.make_way(job)
                operator.move(job, place, "collect")
            elif place in WAY:
                os.utime(operator.path(place, job))
        for stage in WAY:
            forge.run(spool, f"daq-{stage}", "-q", "--all", env=env)
        if all(operator.place(job) == "done" for job in operator.texts):
            return


def expected(forge: Forge, folder: Path, env: dict[str, str],
             texts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Digests of the products of the same jobs in a quiet spool."""
    spool = make_spool(folder / "quiet")
    for job, text in texts.items():
        (spool / "collect" / f"{job}.json").write_text(
            json.dumps({**text, "receivers": []}))
    for stage in WAY:
        forge.run(spool, f"daq-{stage}", "-q", "--all", env=env).ok()
    return digests(spool / "result")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.glob("[!.]*")}


def torture(forge: Forge, folder: Path, jobs: int, seconds: float, seed: int,
            careless: bool = False) -> tuple[Operator, Workers]:
    """Run it, let it run out, and check what must always hold; return who took part."""
    chance = random.Random(seed)
    spool = make_spool(folder / "spool")
    (folder / "archive").mkdir()
    for number in range(3):
        make_fits(folder / f"{number}.fits", 1 + number)
    (folder / "daq.yaml").write_text(
        "cfg:\n  retry: {tries: 4, first_sec: 0.02, longest_sec: 0.1}\n"
        "  limits: {daq: 3, merge: 2}\n")
    env = {"DAQ_CONFIG": str(folder / "daq.yaml")}
    operator = Operator(spool, random.Random(chance.random()), careless)
    workers = Workers(forge, spool, env, random.Random(chance.random()))
    submit(folder, spool, operator, jobs)
    for _ in range(4):
        workers.begin()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(chance.randrange(6)):
            operator.act()
        time.sleep(chance.uniform(0.005, 0.03))
        if chance.random() < 0.4:
            workers.kill_one()
    for run in list(workers.running):
        workers.kill(run)
    print(f"{len(workers.ended)} kills, {dict(operator.done)}")
    lost = set(operator.texts) - set(tree(spool))
    assert not lost, f"lost: {lost}"
    run_out(forge, spool, env, operator)
    check(spool, operator)
    return operator, workers


def check(spool: Path, operator: Operator) -> None:
    """What holds after any torture: all done, each has a product, logs whole, nobody at work."""
    held = tree(spool)
    assert set(held) == set(operator.texts)
    assert all("done" in places for places in held.values()), held
    assert set(digests(spool / "result")) == {f"{job}.fits" for job in operator.texts}
    for log in (spool / "log").glob("*.jsonl"):
        for line in log.read_text().splitlines():
            assert json.loads(line)["event"]
    assert [p.name for p in (spool / "lock").iterdir() if fsops.is_locked(str(p))] == []
    temporaries = [str(p) for place in (*STAGES, "result")
                   for p in (spool / place).glob(".tmp-*")]
    assert temporaries == []


def reproducible(seed: int, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except AssertionError as error:
        raise AssertionError(f"with DAQ_TORTURE_SEED={seed}: {error}") from error


def by_the_rules(forge: Forge, folder: Path, jobs: int, seconds: float, seed: int) -> None:
    operator, workers = torture(forge, folder, jobs, seconds, seed)
    spool, env = folder / "spool", {"DAQ_CONFIG": str(folder / "daq.yaml")}
    doubled = {job: places for job, places in tree(spool).items() if places != ["done"]}
    assert not doubled, "doubled"
    plain = {f"{job}.fits" for job in operator.texts if job.startswith("plain")}
    results = digests(spool / "result")
    assert results == expected(forge, folder, env, operator.texts), "the right bytes"
    assert digests(folder / "archive") == {name: results[name] for name in plain}
    assert len(workers.ended) > 4 + seconds
    assert operator.done["moved"] > 10 * seconds
    assert operator.done["edited"] > 2 * seconds
    assert operator.done["touched"] > seconds / 2

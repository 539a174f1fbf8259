"""A storm: many jobs, a real watcher, everything killed at random, an operator at work."""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge import Forge
from torturing import WAY, Operator, Workers, check, digests, tree
from watched import Watched

from daqlib import errors, rpc
from harness import Daq, Result, free_port, make_fits, wait_until
from remote import Stand, stand_in

_SETTINGS = """\
cfg:
  rsh: {rsh}
  scan_interval_sec: 0.5
  retry: {{tries: 4, first_sec: 0.02, longest_sec: 0.1}}
  limits: {{daq: 4, merge: 3, net_receive: 2}}
  breaker: {{failures: 0}}
"""


@dataclass
class Storm:
    """What is there in a storm.

    Attributes:
        daq: the tools and the spool.
        forge: runs the tools beside the watcher, as cron does.
        jobs: how many there will be.
        seconds: how long it lasts.
        seed: of its choices.
    """

    daq: Daq
    forge: Forge
    jobs: int
    seconds: float
    seed: int
    submitted: int = 0
    ran: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.folder = self.daq.folder
        stand: Stand = stand_in(self.folder)
        (self.folder / "daq.yaml").write_text(_SETTINGS.format(rsh=stand.command))
        self.env = {"DAQ_CONFIG": str(self.folder / "daq.yaml")}
        self.daq.env.update(self.env)
        for number in range(3):
            make_fits(self.folder / f"{number}.fits", 1 + number, cards={"NUMBER": number},
                      name=f"S{number}X")
        for name in "ab":
            (self.folder / name).mkdir()
        self.operator = Operator(self.daq.spool, random.Random(self.chance.random()), pauses=True)
        self.workers = Workers(self.forge, self.daq.spool, self.env,
                               random.Random(self.chance.random()))
        self.watched = Watched(self.daq, random.Random(self.chance.random()))

    def text(self, number: int) -> dict[str, Any]:
        """Return a job: every other one may be edited, every fifth has a source elsewhere."""
        kind = "edit" if number % 2 else "plain"
        where = "far:" if number % 5 == 0 else ""
        sources = [{"type": "fitsFile", "sourceName": f"s{n}",
                    "location": f"{where if n == 0 else ''}{self.folder}/{n}.fits"}
                   for n in sorted({number % 3, number // 3 % 3})]
        # what was delivered cannot be edited
        receivers = [] if number % 2 else [
            {"type": "olasReceiver", "path": str(self.folder / "a")},
            {"type": "olasReceiver", "path": str(self.folder / "b"),
             "options": {"allowSymlink": False}}]
        name = f"{kind}-{number:05d}"
        return {"id": name, "fileId": name, "sources": sources, "receivers": receivers}

    def submit(self, upto: int) -> None:
        """Bring jobs, by ``mv`` or by daq-start."""
        while self.submitted < min(upto, self.jobs):
            text = self.text(self.submitted)
            self.submitted += 1
            self.operator.texts[text["id"]] = text
            if self.chance.random() < 0.2:
                self.ran.append(self.forge.run(self.daq.spool, "daq-start", json.dumps(text),
                                               env=self.env).ok())
            else:
                self.daq.drop("collect", text["id"], text)

    def rage(self) -> None:
        """Let it go on for its time."""
        self.watched.begin()
        self.workers.begin()
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < self.seconds:
            self.submit(8 + int(self.jobs * passed / self.seconds / 0.9))
            for _ in range(self.chance.randrange(4)):
                self.operator.act()
            time.sleep(self.chance.uniform(0.02, 0.08))
            roll = self.chance.random()
            if roll < 0.25:
                self.watched.disturb()
            elif roll < 0.3:
                self.workers.kill_one()
            elif roll < 0.33:
                stage = self.chance.choice(WAY)
                self.ran.append(self.forge.run(self.daq.spool, f"daq-{stage}", "-q", "--all",
                                               env=self.env))
        self.submit(self.jobs)
        self.operator.go_home()
        for run in list(self.workers.running):
            self.workers.kill(run)
        self.watched.end()
        print(f"{len(self.operator.texts)} jobs, killed: {dict(self.watched.kills)} and "
              f"{len(self.workers.ended)} at work beside, operator: {dict(self.operator.done)}")

    def calm(self) -> None:
        """No more disturbance: give back what rests, and let a watcher finish."""
        lost = set(self.operator.texts) - set(tree(self.daq.spool))
        assert not lost, f"lost: {lost}"
        for _ in range(12):
            for job in self.operator.texts:
                place = self.operator.place(job)
                if place in ("hold", "failed", "bad"):
                    self.operator.make_way(job)
                    self.operator.move(job, place, "collect")
                elif place in WAY:
                    os.utime(self.operator.path(place, job))
            told = self.daq.run("daq-watch", "--once", "-q", timeout=1200)
            assert told.code in (0, 65, 75), told
            if set(self.operator.texts) == set(self._done()):
                return

    def _done(self) -> list[str]:
        return [path.stem for path in (self.daq.spool / "done").glob("[!.]*")]

    def verify(self) -> None:
        """Nothing lost, nothing doubled; each product is that of its sources, each delivered."""
        check(self.daq.spool, self.operator)
        held = tree(self.daq.spool)
        assert {job: places for job, places in held.items() if places != ["done"]} == {}, "doubled"
        results = digests(self.daq.spool / "result")
        plain = {f"{job}.fits": results[f"{job}.fits"]
                 for job in self.operator.texts if job.startswith("plain")}
        for name in "ab":
            assert digests(self.folder / name) == plain, f"receiver {name}"
        sources = {n: _hdus(self.folder / f"{n}.fits")[1] for n in range(3)}
        for job, text in self.operator.texts.items():
            self._verify_product(job, text, sources)

    def _verify_product(self, job: str, text: dict[str, Any], sources: dict[int, Any]) -> None:
        header, hdus = _hdus(self.daq.spool / "result" / f"{job}.fits")
        wanted = [hdu for source in text["sources"]
                  for hdu in sources[int(source["sourceName"][1:])]]
        assert hdus == wanted, f"{job}: not the content of its sources"
        edited = [keyword["value"] for keyword in text.get("keywords", [])]
        assert [header.get("HIERARCH ESO TEL EDIT")] == (edited or [None]), f"{job}: its edit"


def _hdus(path: Path) -> tuple[Any, list[tuple[str, bytes]]]:
    """Return the primary header, and name and pixels of each extension."""
    from astropy.io import fits

    with fits.open(path, memmap=False) as hdus:
        return hdus[0].header, [(hdu.name, hdu.data.tobytes()) for hdu in hdus[1:]]


def _state(where: str) -> str:
    """Return the state of a server, or nothing when there is none."""
    with suppress(errors.DaqError):
        return str(rpc.call(f"{where}/std", "GetState", {}, 5.0))
    return ""


def rage(daq: Daq, forge: Forge, jobs: int, seconds: float, seed: int, *,
         serve: bool = False) -> Storm:
    """Let a storm rage, and check what it left; the watcher may serve requests as well."""
    storm = Storm(daq, forge, jobs, seconds, seed)
    where = f"zpb.rr://127.0.0.1:{free_port()}"
    if serve:
        storm.watched.options = ["--serve", "--rr-uri", where,
                                 "--ps-uri", f"zpb.ps://127.0.0.1:{free_port()}"]
    storm.rage()
    if serve:
        storm.watched.begin()
        assert wait_until(lambda: _state(where)), "the server answers after all that"
        storm.watched.end()
    storm.calm()
    storm.verify()
    return storm

"""Torture: a daemon killed at random under clients who keep account of every answer they got.

Whatever was acknowledged has to be there in the end: each start its product, or a reason; each
keyword, in order; each stop and each abort its effect. ``DAQ_TORTURE_SEED`` repeats the choices
of a run, ``DAQ_TORTURE_SEC`` sets how long it lasts.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from daqlib import errors, rpc
from harness import Daq, wait_until
from live import Live

SEED = int(os.environ.get("DAQ_TORTURE_SEED", "20261121"))
SECONDS = float(os.environ.get("DAQ_TORTURE_SEC", "30"))
LANES = 4
_END = ("Completed", "Aborted")
_LEFT = ("NotScheduled", "Scheduled", "Collecting", "Merging", "Releasing", *_END)


@dataclass
class Account:
    """What a client was told about one acquisition.

    Attributes:
        started: whether its start was acknowledged.
        keywords: the numbers that were sent, and whether each was acknowledged.
        end: the command that was acknowledged as its end, or what ended it otherwise.
        reason: why it did not start.
    """

    id: str
    started: bool = False
    keywords: list[tuple[int, bool]] = field(default_factory=list)
    end: str = ""
    reason: str = ""


class Lane:
    """A sequencer with two detectors of its own and two metadata sources that all share."""

    def __init__(self, live: Live, number: int, primary: list[dict[str, str]],
                 metadata: list[dict[str, str]]) -> None:
        self.live, self.number = live, number
        self.primary, self.metadata = primary, metadata
        self.chance = random.Random(SEED * 100 + number)
        self.accounts: list[Account] = []
        self.lost = 0
        self.deadline = time.monotonic() + SECONDS + 60

    def run(self, over: threading.Event) -> None:
        while not over.is_set():
            self.one(Account(f"lane{self.number}.{len(self.accounts)}"))

    def one(self, account: Account) -> None:
        """One acquisition."""
        self.accounts.append(account)
        if not self.start(account):
            return
        for _ in range(self.chance.randrange(6)):
            if not self.keyword(account):
                break
            time.sleep(self.chance.choice([0, 0, 0.1]))
        self.finish(account)

    def call(self, command: str, **params: Any) -> Any:
        """Send a request; None when the answer was lost."""
        assert time.monotonic() < self.deadline, f"{command} {params} leads nowhere"
        try:
            return rpc.call(f"{self.live.requests}/daq", command, params, 20)
        except rpc.RemoteError:
            raise
        except errors.Unavailable:
            self.lost += 1
            time.sleep(0.05)
            return None

    def status(self, job: str) -> dict[str, Any]:
        """Return the status, empty when there is no such DAQ."""
        while True:
            try:
                if now := self.call("GetStatus", id=job):
                    return dict(now)
            except rpc.RemoteError:
                return {}

    def start(self, account: Account) -> bool:
        """Start it; repeat only while the daemon does not know it."""
        specification = json.dumps({
            "id": account.id, "sources": [*self.primary, *self.metadata],
            "awaitCompletionInterval": 0.5})
        while True:
            try:
                account.started = bool(self.call("StartDaqV2", specification=specification))
            except rpc.RemoteError as error:
                account.reason = error.message
            if account.started:
                return True
            now = self.status(account.id)
            while now and now["substate"] in ("NotStarted", "Starting"):
                now = self.status(account.id)
            if now.get("substate") == "Acquiring":
                return True
            if now:
                return self.clear_up(account)

    def clear_up(self, account: Account) -> bool:
        """It did not start: that is told, and it can be aborted."""
        def at_rest() -> dict[str, Any]:
            now = self.status(account.id)
            return now if json.loads(now["message"]) or now["substate"] in _END else {}
        account.reason = wait_until(at_rest, 20)["message"]
        account.end = "failed"
        self.until_accepted("AbortDaq", account.id)
        return False

    def until_accepted(self, command: str, job: str) -> bool:
        """Repeat a command until it is acknowledged or told that it comes too late."""
        while True:
            try:
                if self.call(command, id=job):
                    return True
            except rpc.RemoteError:
                if self.status(job)["substate"] in _LEFT:
                    return False

    def keyword(self, account: Account) -> bool:
        number = len(account.keywords)
        try:
            told = self.call("UpdateKeywords", id=account.id, keywords=[
                {"type": "valueKeyword", "name": f"K{number}", "value": number},
                {"type": "valueKeyword", "name": "LATEST", "value": number}])
        except rpc.RemoteError:
            return False
        account.keywords.append((number, bool(told)))
        return True

    def finish(self, account: Account) -> None:
        how = self.chance.choice(["StopDaq", "StopDaq", "ForceStopDaq", "AbortDaq", "ended"])
        if how == "ended":
            for source in self.primary:
                rpc.call(source["rrUri"], "RecStop", {}, 10)
            account.end = how
        elif self.until_accepted(how, account.id):
            account.end = how
        wait_until(lambda: self.status(account.id)["substate"] in _LEFT, 30,
                   lambda: self.live.told(account.id))


def sources(live: Live, kind: str, name: str, count: int, *options: object) -> list[Any]:
    """Return simulated sources, all in one process."""
    made = live.sim(kind, name, "--count", count, *options)
    type_ = "primarySource" if kind == "recif" else "metadataSource"
    return [{"type": type_, "sourceName": f"{name}{n}", "rrUri": f"{made.uri}{n}"}
            for n in range(1, count + 1)]


def kill_again_and_again(live: Live, chance: random.Random) -> int:
    """Kill the daemon and start the next one, at any instant, until the time is over."""
    deadline, kills = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline:
        time.sleep(chance.uniform(0.2, 1.5))
        live.daemon.kill()
        kills += 1
        assert "Traceback" not in live.daemon.err, live.daemon.err
        live.serve(until=None)
    return kills


def check_product(live: Live, account: Account) -> None:
    """Every acknowledged keyword is there, and the newest one counts."""
    from astropy.io import fits

    header = fits.getheader(live.status(account.id)["result"])
    there = [number for number, _ in account.keywords if f"K{number}" in header]
    acknowledged = {number for number, told in account.keywords if told}
    assert acknowledged <= set(there), (account, live.told(account.id))
    assert header.get("LATEST", -1) == max(there, default=-1), (account, live.told(account.id))
    told = [item["value"] for event in live.daq.history(account.id)
            if event["event"] == "keywords" for item in event["keywords"]
            if item["name"] == "LATEST"]
    assert told == sorted(told), (account, told)


def check(live: Live, account: Account) -> None:
    """What the client was told has become true."""
    places = [place for place, ids in live.daq.tree().items() if account.id in ids]
    assert places == ["done"], (account, places, live.told(account.id))
    substate = live.status(account.id)["substate"]
    if account.end in ("AbortDaq", "failed"):
        assert substate == "Aborted", (account, live.told(account.id))
        assert account.end != "failed" or (account.reason and not account.started), account
        return
    assert substate == "Completed", (account, live.told(account.id))
    check_product(live, account)


def check_sources(live: Live, jobs: list[str], every: list[dict[str, str]]) -> None:
    """Nothing records any more, and nothing was started twice."""
    for source in every:
        primary = source["type"] == "primarySource"
        for job in jobs:
            try:
                now = rpc.call(source["rrUri"], "RecStatus" if primary else "GetDaqStatus",
                               {"id": job}, 10)
            except rpc.RemoteError:
                continue  # it was never started there
            assert now["status" if primary else "state"] in (
                "Stopped", "Completed", "Succeeded", "Aborted"), (source, now, live.told(job))
    for job in jobs:
        starting = Counter(event["source"] for event in live.daq.history(job)
                           if event["event"] == "starting")
        assert set(starting.values()) <= {1}, live.told(job)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(daq: Daq) -> None:
    print(f"DAQ_TORTURE_SEED={SEED}")
    live = Live(daq, request_timeout_sec=5.0)
    detectors = sources(live, "recif", "det", 2 * LANES, "--delay", "RecStart=0.1",
                        "--delay", "RecStop=0.1", "--delay", "RecAbort=0.05")
    metadata = sources(live, "metadaqif", "meta", 2, "--sessions", 2 * LANES,
                       "--delay", "StartDaq=0.1", "--delay", "StopDaq=0.1")
    lanes = [Lane(live, n, detectors[2 * n: 2 * n + 2], metadata) for n in range(LANES)]
    live.serve()
    over = threading.Event()
    with ThreadPoolExecutor(LANES) as pool:
        running = [pool.submit(lane.run, over) for lane in lanes]
        try:
            kills = kill_again_and_again(live, random.Random(SEED))
        finally:
            over.set()
        for lane in running:
            lane.result(60)
    live.daemon.wait_for("serving at")
    live.finish()
    accounts = [account for lane in lanes for account in lane.accounts]
    for account in accounts:
        check(live, account)
    check_sources(live, [account.id for account in accounts], [*detectors, *metadata])
    assert live.call("GetActiveList") == []
    ends = Counter(account.end for account in accounts)
    keywords = sum(told for account in accounts for _, told in account.keywords)
    print(f"{kills} kills, {sum(lane.lost for lane in lanes)} lost answers, {keywords} keywords "
          f"acknowledged, {len(accounts)} acquisitions: {dict(ends)}")
    assert kills > SECONDS / 10 and ends["StopDaq"] and ends["failed"] and keywords

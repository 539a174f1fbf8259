"""Measure how soon a product is there, how many a second, and whether a full spool slows that.

Times are those of the histories: from the event by which a job became ours to the event that says
it is done. Nothing of the tools is touched.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rig
import spools
from control import Report, percentile
from spools import Event, Spool, Watcher, Wrong

PRODUCT_MIB = 1
MEDIAN_MS, P99_MS = 250.0, 600.0
RATE = 8.0
IDLE_PERCENT = 1.0
CROWDED = 1.2
_SETTLED_S = 1.0  # for a watcher that has just begun to come to rest


@dataclass(frozen=True)
class Bench:
    """What the measurements share.

    Attributes:
        bin: directory of the tools that are measured.
        scratch: directory to work in; it decides the file system.
        quick: few and small jobs, only to see that it works.
        size: MiB of a large file.
        runs: rounds, jobs that are timed; 0: as many as each part needs.
        report: takes the figures.
    """

    bin: str
    scratch: str
    quick: bool
    size: int
    runs: int
    report: Report

    def rounds(self, quick: int, many: int) -> int:
        """Return how often to measure."""
        return self.runs or (quick if self.quick else many)

    def tool(self, name: str) -> str:
        """Return the path of a tool."""
        return os.path.join(self.bin, name)

    def folder(self, name: str) -> str:
        """Return a fresh directory."""
        path = os.path.join(self.scratch, name)
        os.mkdir(path)
        return path


# -- from the end of an acquisition to its product ---------------------------------------------


def turnaround(bench: Bench) -> None:
    """Time jobs one after the other on an idle spool: acquisitions, and jobs of existing files."""
    rounds, warming = bench.rounds(2, 150), 0 if bench.quick else 2
    folder = bench.folder("turnaround")
    syncs = count_syncs(bench, folder)
    sim = bench.tool("daq-sim")
    primary = rig.Sources(sim, folder, "recif", "dcs", 1, "--size", f"{PRODUCT_MIB}M",
                          "--extensions", "1")
    metadata = rig.Sources(sim, folder, "metadaqif", "fcf", 1, "--no-files")
    daemon = rig.Daemon(bench.bin, folder)
    on = Spool(folder)
    watcher = Watcher(bench.bin, on)
    given = spools.image(os.path.join(folder, "given.fits"), PRODUCT_MIB)
    lives: dict[str, list[dict[str, float]]] = {"acquisition": [], "file": []}
    yardstick: list[float] = []
    with rig.running(watcher, daemon, metadata, primary):
        time.sleep(_SETTLED_S)
        kinds: dict[str, Callable[[], dict[str, float]]] = {
            "acquisition": lambda: _acquisition(
                daemon, on, watcher, metadata.described(0, 1), primary.described(0, 1)),
            "file": lambda: _file_job(bench, on, watcher, given)}
        for number in range(rounds + warming):
            for kind in random.Random(number).sample(list(kinds), 2):
                time.sleep(random.uniform(0.05, 0.3))  # whatever beats in the watcher, miss it
                lives[kind].append(kinds[kind]())
            yardstick.append(rig.synced(on.root, syncs))
    lives = {kind: each[warming:] for kind, each in lives.items()}
    _tell_turnaround(bench.report, lives, yardstick[warming:], syncs)
    shutil.rmtree(folder)


def _acquisition(daemon: rig.Daemon, on: Spool, watcher: Watcher,
                 *sources: list[dict[str, str]]) -> dict[str, float]:
    job = f"bench.{time.time_ns()}"
    daemon.client.timed("daq.StartDaqV2", **rig.specification(job, *sources))
    daemon.client.timed("daq.StopDaq", id=job)
    events = on.finish(job, watcher, daemon)
    return _life(on, events, spools.moment(events, "state", substate="Stopped"))


def _file_job(bench: Bench, on: Spool, watcher: Watcher, given: str) -> dict[str, float]:
    job = subprocess.run([bench.tool("daq-start"), *on.options(), "--file", given], check=True,
                         capture_output=True, text=True).stdout.strip()
    events = on.finish(job, watcher)
    return _life(on, events, spools.moment(events, "submitted"))


def _life(on: Spool, events: list[Event], begin: float) -> dict[str, float]:
    """Return the seconds of a life, whole and by phase, when its product is there."""
    sealed = next(each for each in events if each["event"] == "sealed" and "product" in each)
    product = on.path("result", sealed["product"])
    if os.path.getsize(product) < PRODUCT_MIB * spools.MIB:
        raise Wrong(f"{product} has {os.path.getsize(product)} bytes")
    parts = spools.phases(events, begin)
    return {"whole": sum(parts.values()), **parts}


def _tell_turnaround(report: Report, lives: dict[str, list[dict[str, float]]],
                     yardstick: list[float], syncs: int) -> None:
    report.title(f"turnaround of a {PRODUCT_MIB} MiB product, watcher idle; "
                 f"{len(yardstick)} jobs of each kind, in turn, one after the other")
    label = {"acquisition": "Stopped to Completed (simulated sources, daq-ctl)",
             "file": "submitted to Completed (daq-start --file)"}
    for kind, each in lives.items():
        report.times(label[kind], [life["whole"] for life in each])
        for phase in each[0]:
            if phase != "whole":
                report.times(f"    {phase}", [life[phase] for life in each])
    report.times(f"{syncs} syncs on this file system, nothing else", yardstick)
    for kind, each in lives.items():
        whole = [1e3 * life["whole"] for life in each]
        report.fact(f"{label[kind]}, median", statistics.median(whole), "ms", MEDIAN_MS)
        report.fact(f"{label[kind]}, p99", percentile(whole, 99), "ms", P99_MS)


def count_syncs(bench: Bench, folder: str) -> int:
    """Return the syncs that a job of one file needs in all three stages; 0 without strace."""
    own = os.path.join(folder, "syncs")
    os.mkdir(own)
    record = os.path.join(own, "strace")
    words = rig.tracer(record)
    if not words:
        print("  syncs are not counted: strace is missing or must not trace")
        return 0
    on = Spool(own)
    on.put("collect", "traced", spools.image(os.path.join(own, "a.fits"), PRODUCT_MIB))
    subprocess.run([*words, bench.tool("daq-watch"), "--once", "-q", *on.options()], check=True)
    on.finish("traced")
    with open(record) as file:
        return sum("sync(" in line for line in file)


# -- many jobs ---------------------------------------------------------------------------------


def rate(bench: Bench) -> None:
    """Let a watcher work off many small jobs that wait when it begins."""
    count = bench.rounds(3, 300)
    shipped = "limits as shipped (1)"
    ways: dict[str, dict[str, Any]] = {
        "limits of 2": {"limits": {"daq": 2, "merge": 2}},
        "no limits": {"limits": {"daq": 0, "merge": 0}}, shipped: {}}
    # each way twice, there and back, so that a slow quarter of an hour hits all of them
    order = [*ways] if bench.quick else [*ways, *reversed(ways)]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number, name in enumerate(order):
        folder = bench.folder(f"rate-{number}")
        share = -(-count // 5) if name == shipped else count
        found[name].append(_work_off(bench, Spool(folder, **ways[name]), share))
        shutil.rmtree(folder)
    bench.report.title(f"{count} jobs of {PRODUCT_MIB} MiB that wait, from the first start to the "
                       f"last end, on {os.cpu_count()} processors; {len(order) // 3} times each, "
                       "with limits as shipped a fifth of them")
    for name, runs in found.items():
        bench.report.fact(f"jobs a second, {name}", statistics.median(each[0] for each in runs),
                          "", least=RATE if name == "limits of 2" else None)
        bench.report.fact("    processor time of watcher and workers for a job",
                          1e3 * statistics.median(each[1] for each in runs), "ms")


def _work_off(bench: Bench, on: Spool, count: int) -> tuple[float, float]:
    """Return the jobs a second and the processor seconds for each."""
    given = spools.image(os.path.join(on.folder, "given.fits"), PRODUCT_MIB)
    jobs = [f"BENCH.rate.{number:04}" for number in range(count)]
    for job in jobs:
        on.put("collect", job, given)
    os.sync()
    watcher = Watcher(bench.bin, on)
    with rig.running(watcher):
        # a look ten times a second at one directory costs the watcher nothing
        deadline = time.monotonic() + spools.PATIENCE_S
        while len(os.listdir(on.path("done"))) < count:
            watcher.check()
            if os.listdir(on.path("failed")) or time.monotonic() > deadline:
                raise Wrong(f"jobs failed or hang: {os.listdir(on.path('failed'))[:3]}")
            time.sleep(0.1)
        lives = [on.finish(job, watcher) for job in jobs]
        spent = watcher.spent()
    begin = min(spools.moment(events, "start", stage="collect") for events in lives)
    end = max(spools.moment(events, "ok", to="done") for events in lives)
    return count / (end - begin), spent / count


# -- a full spool ------------------------------------------------------------------------------


def crowd(bench: Bench) -> None:
    """Compare an empty spool with one that holds many jobs, in turn, one watcher on each."""
    waiting, done = (100, 500) if bench.quick else (10_000, 100_000)
    rounds = bench.rounds(2, 100)
    bench.report.title(f"a spool with {waiting} waiting and {done} finished jobs, beside an empty "
                       f"one; {rounds} jobs on each, in turn")
    spool = {name: Spool(bench.folder(f"crowd-{name}")) for name in ("empty", "full")}
    given = spools.image(os.path.join(bench.scratch, "crowd.fits"), PRODUCT_MIB)
    begin = time.monotonic()
    spool["full"].put_waiting(waiting, given)
    spool["full"].put_done(done, given)
    os.sync()
    bench.report.fact("(it took to fill the spool)", time.monotonic() - begin, "s")
    watchers = {name: Watcher(bench.bin, on) for name, on in spool.items()}
    with rig.running(*watchers.values()):
        time.sleep(_SETTLED_S if bench.quick else 10 * _SETTLED_S)
        bench.report.fact("(its watcher used to begin)", watchers["full"].spent(), "s")
        _tell_idle(bench.report, watchers, 1.0 if bench.quick else 30.0)
        taken = _in_turn(bench, spool, watchers, given, rounds)
    for name, times in taken.items():
        bench.report.times(f"turnaround on the {name} spool", times)
    bench.report.fact("ratio of the medians, full to empty", statistics.median(taken["full"])
                      / statistics.median(taken["empty"]), "", CROWDED)
    for on in spool.values():
        shutil.rmtree(on.folder)


def _tell_idle(report: Report, watchers: dict[str, Watcher], seconds: float) -> None:
    before = {name: each.resting() for name, each in watchers.items()}
    time.sleep(seconds)
    for name, each in watchers.items():
        percent = 100 * (each.resting() - before[name]) / seconds
        report.fact(f"processor of the idle watcher and its helpers, {name} spool, {seconds:.0f} s",
                    percent, "%", IDLE_PERCENT if name == "full" else None)


def _in_turn(bench: Bench, spool: dict[str, Spool], watchers: dict[str, Watcher], given: str,
             rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in spool}
    warming = 0 if bench.quick else 2
    for number in range(rounds + warming):
        for name in random.Random(number).sample(list(spool), 2):
            time.sleep(random.uniform(0.05, 0.3))
            life = _file_job(bench, spool[name], watchers[name], given)
            if number >= warming:
                taken[name].append(life["whole"])
    return taken

"""Measure acquisition control: what its replies cost, and what one source does to another.

Every figure stands beside a yardstick that was measured in the same rounds: the sources' own
answers, a loop that only forwards, the cost of making a line durable on the same file system.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import rig

DELAY_S = 0.02  # of the primary sources' answer to RecStart; the metadata sources answer at once
HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Report:
    """What was found: lines for people, and whether the targets were met."""

    missed: list[str] = field(default_factory=list)
    part: str = ""

    def title(self, text: str) -> None:
        """Begin a table."""
        self.part = text.partition(";")[0].partition(" (")[0]
        print(f"\n{text}", flush=True)

    def times(self, name: str, seconds: list[float]) -> None:
        """Print the median and the 99th percentile of some times."""
        print(f"  {name:<62}{1e3 * statistics.median(seconds):9.2f} ms"
              f"{1e3 * percentile(seconds, 99):9.2f} ms p99", flush=True)

    def fact(self, name: str, value: float, unit: str, target: float | None = None, *,
             least: float | None = None) -> None:
        """Print a figure, and whether it is within its target, which is a most or a least."""
        verdict = ""
        if target is not None or least is not None:
            met = value <= target if target is not None else value >= (least or 0.0)
            bound = f"<= {target:g}" if target is not None else f">= {least:g}"
            verdict = f"   target {bound}: {'met' if met else 'MISSED'}"
            if not met:
                self.missed.append(f"{self.part}: {name}")
        print(f"  {name:<62}{value:9.2f} {unit}{verdict}", flush=True)


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True)
class Bench:
    """What the measurements share.

    Attributes:
        bin: directory of the daq-ctl that is measured.
        scratch: directory to work in; it decides the file system.
        quick: fewer rounds.
        hold: seconds to hold many acquisitions.
        report: takes the figures.
    """

    bin: str
    scratch: str
    quick: bool
    hold: float
    report: Report

    def folder(self, name: str) -> str:
        """Return a fresh directory."""
        path = os.path.join(self.scratch, name)
        os.mkdir(path)
        return path

    def sources(self, folder: str, kind: str, name: str, count: int, *options: str) -> rig.Sources:
        """Start simulated sources, always those of this checkout."""
        tool = os.path.join(os.path.dirname(HERE), "bin", "daq-sim")
        return rig.Sources(tool, folder, kind, name, count, *options)


# -- how often a command syncs -----------------------------------------------------------------


def count_syncs(bench: Bench) -> dict[int, dict[str, int]]:
    """Return the syncs that each command needs, by the number of sources; empty without strace."""
    bench.report.title("fsync and fdatasync calls until the reply, by number of sources")
    folder = bench.folder("syncs")
    record = os.path.join(folder, "strace")
    words = rig.tracer(record)
    if not words:
        print("  not counted: strace is missing or must not trace")
        return {}
    half = 50
    primary = bench.sources(folder, "recif", "dcs", half)
    metadata = bench.sources(folder, "metadaqif", "fcf", half, "--no-files")
    daemon = rig.Daemon(bench.bin, folder, words)
    with rig.running(daemon, metadata, primary):
        found = {2 * each: _syncs_of_a_life(daemon, record, primary.described(0, each),
                                            metadata.described(0, each))
                 for each in (1, 2, half)}
    print(f"  {'command':<34}" + "".join(f"{number:>8}" for number in found))
    for command in found[2]:
        print(f"  {command:<34}" + "".join(f"{found[number][command]:>8}" for number in found))
    return found


def _syncs_of_a_life(daemon: rig.Daemon, record: str, *sources: list[dict[str, str]],
                     ) -> dict[str, int]:
    number = sum(map(len, sources))
    stopped, aborted = f"syncs.{number}.s", f"syncs.{number}.a"
    keyword = {"type": "esoKeyword", "name": "INS TEMP1 VAL", "value": 273.15}
    commands: list[tuple[str, str, dict[str, Any]]] = [
        ("StartDaqV2", "StartDaqV2", rig.specification(stopped, *sources)),
        ("UpdateKeywords", "UpdateKeywords", {"id": stopped, "keywords": [keyword]}),
        ("GetStatus", "GetStatus", {"id": stopped}),
        ("GetActiveList", "GetActiveList", {}),
        ("AwaitDaqState (reached)", "AwaitDaqState",
         {"id": stopped, "state": "StateAcquiring", "substate": "Acquiring", "timeout": 5.0}),
        ("StopDaq", "StopDaq", {"id": stopped}),
        ("(the same, to abort it)", "StartDaqV2", rig.specification(aborted, *sources)),
        ("AbortDaq", "AbortDaq", {"id": aborted})]
    found = {}
    for label, command, params in commands:
        before = _lines(record)
        daemon.client.timed(f"daq.{command}", **params)
        time.sleep(0.3)  # the tracer is behind
        found[label] = _lines(record) - before
    del found["(the same, to abort it)"]
    return found


def _lines(path: str) -> int:
    with open(path) as file:
        return sum("sync(" in line for line in file)


# -- the reply to StartDaq ---------------------------------------------------------------------


def starts(bench: Bench, half: int, rounds: int, syncs: int, target_ms: float) -> None:
    """Time StartDaqV2 beside the sources' own answers and beside a loop that only forwards.

    Args:
        bench: what is shared.
        half: number of primary sources, and of metadata sources.
        rounds: how often.
        syncs: that StartDaqV2 needs; 0 when they could not be counted.
        target_ms: for the median over the sources' own answers and the syncs.
    """
    folder = bench.folder(f"starts-{half}")
    primary = bench.sources(folder, "recif", "dcs", half, "--delay", f"RecStart={DELAY_S}")
    metadata = bench.sources(folder, "metadaqif", "fcf", half, "--no-files")
    daemon = rig.Daemon(bench.bin, folder)
    port = rig.free_port()
    forwarder = rig.Process([sys.executable, "-P", os.path.join(HERE, "reference.py"), str(port)],
                            folder, "reference")
    plain = rig.Client(f"tcp://127.0.0.1:{port}")
    direct = _Direct(metadata, primary, half)
    taken: dict[str, list[float]] = {"own": [], "forward": [], "ours": [], "sync": []}
    with rig.running(forwarder, plain, direct, daemon, metadata, primary):
        described = metadata.described(0, half), primary.described(0, half)
        for number in range(rounds + 3):  # the first rounds warm up and do not count
            if number == 3:
                taken = {name: [] for name in taken}
            taken["own"].append(direct.start(f"own.{number}"))
            direct.abort(f"own.{number}")
            taken["forward"].append(plain.timed(
                "daq.Start", **rig.specification(f"fwd.{number}", *described))[1])
            direct.abort(f"fwd.{number}")
            taken["ours"].append(daemon.client.timed(
                "daq.StartDaqV2", **rig.specification(f"our.{number}", *described))[1])
            daemon.client.timed("daq.AbortDaq", id=f"our.{number}")
            taken["sync"].append(rig.synced(daemon.root, syncs))
    _tell_starts(bench.report, half, taken, syncs, target_ms)


def _tell_starts(report: Report, half: int, taken: dict[str, list[float]], syncs: int,
                 target_ms: float) -> None:
    report.title(f"StartDaqV2 with {2 * half} sources ({half} metadata sources, then {half} primary"
                 f" ones that answer after {1e3 * DELAY_S:.0f} ms); {len(taken['ours'])} starts")
    report.times("slowest metadata plus slowest primary source, asked directly", taken["own"])
    report.times("a loop that only forwards", taken["forward"])
    report.times("daq-ctl", taken["ours"])
    report.times(f"{syncs} syncs on this file system, nothing else", taken["sync"])
    own, sync = statistics.median(taken["own"]), statistics.median(taken["sync"])
    over = [each - own for each in taken["ours"]]
    report.fact("over the sources' own answers, median", 1e3 * statistics.median(over), "ms")
    report.fact("over the sources' own answers, p99", 1e3 * percentile(over, 99), "ms")
    report.fact("... and without the syncs, median",
                1e3 * (statistics.median(over) - sync), "ms", target_ms)
    forwarded = statistics.median(taken["forward"])
    report.fact("ratio to the loop that only forwards",
                statistics.median(taken["ours"]) / forwarded, "")


class _Direct:
    """Commands the sources themselves, in the order in which an acquisition would."""

    def __init__(self, metadata: rig.Sources, primary: rig.Sources, count: int) -> None:
        self._sides = [(side, rig.Client(side.address)) for side in (metadata, primary)]
        self._count = count

    def start(self, job: str) -> float:
        """Start them all, and return the seconds until the last answer."""
        begin = time.perf_counter()
        for side, client in self._sides:
            client.together(side.requests(side.start, 0, self._count, job))
        return time.perf_counter() - begin

    def abort(self, job: str) -> None:
        """Abort them all."""
        for side, client in self._sides:
            client.together(side.requests(side.abort, 0, self._count, job))

    def close(self) -> None:
        """Close the connections."""
        for _side, client in self._sides:
            client.close()


# -- a source that hangs -----------------------------------------------------------------------


def hanging(bench: Bench) -> None:
    """Time StartDaqV2 and StopDaq while another acquisition waits for a source that hangs."""
    folder = bench.folder("hanging")
    primary = bench.sources(folder, "recif", "dcs", 1)
    metadata = bench.sources(folder, "metadaqif", "fcf", 1, "--no-files")
    deaf = bench.sources(folder, "recif", "deaf", 1, "--hang", "RecStart")
    stuck = bench.sources(folder, "recif", "stuck", 1, "--hang", "RecStop")
    daemon = rig.Daemon(bench.bin, folder, timeout=2.0)
    other = rig.Client(daemon.address)
    described = metadata.described(0, 1), primary.described(0, 1)
    taken: dict[str, list[float]] = {f"{what}, {how}": [] for what in ("start", "stop")
                                     for how in ("alone", "start hangs", "stop hangs")}
    with rig.running(other, daemon, stuck, deaf, metadata, primary):
        # the first file that a simulator writes takes it long
        daemon.client.timed("daq.StartDaqV2", **rig.specification("warm", *described))
        daemon.client.timed("daq.StopDaq", id="warm")
        for block in range(4 if bench.quick else 12):
            for how in ("alone", "start hangs", "stop hangs"):
                if how != "alone":
                    _hang(other, how, deaf, stuck, block)
                for number in range(10):
                    job = f"job.{how[:5].strip()}.{block}.{number}"
                    taken[f"start, {how}"].append(daemon.client.timed(
                        "daq.StartDaqV2", **rig.specification(job, *described))[1])
                    taken[f"stop, {how}"].append(daemon.client.timed("daq.StopDaq", id=job)[1])
                if how != "alone":
                    other.send("daq.ForceAbortDaq", id=f"{how[:5].strip()}.{block}")
                    other.receive()
                    other.receive()
    report = bench.report
    report.title("one source hangs in RecStart or RecStop; others start and stop meanwhile")
    for name, seconds in taken.items():
        report.times(name, seconds)
    for what in ("start", "stop"):
        alone = statistics.median(taken[f"{what}, alone"])
        for how in ("start hangs", "stop hangs"):
            report.fact(f"{what} while a {how}, ratio of medians",
                        statistics.median(taken[f"{what}, {how}"]) / alone, "", 1.25)


def _hang(client: rig.Client, how: str, deaf: rig.Sources, stuck: rig.Sources,
          block: int) -> None:
    job = f"{how[:5].strip()}.{block}"
    if how == "start hangs":
        client.send("daq.StartDaqV2", **rig.specification(job, deaf.described(0, 1)))
    else:
        client.timed("daq.StartDaqV2", **rig.specification(job, stuck.described(0, 1)))
        client.send("daq.StopDaq", id=job)
    time.sleep(0.2)  # until it hangs


# -- keywords and the client -------------------------------------------------------------------


def keywords(bench: Bench) -> None:
    """Time UpdateKeywords beside one durable line, and beside a command that does nothing."""
    folder = bench.folder("keywords")
    primary = bench.sources(folder, "recif", "dcs", 1)
    daemon = rig.Daemon(bench.bin, folder)
    taken: dict[str, list[float]] = {"nothing": [], "keywords": [], "sync": [], "status": []}
    with rig.running(daemon, primary):
        client = daemon.client
        client.timed("daq.StartDaqV2", **rig.specification("job", primary.described(0, 1)))
        path = os.path.join(daemon.root, "bench")
        for number in range(500 if bench.quick else 2000):
            keyword = {"type": "esoKeyword", "name": f"INS TEMP{number % 50} VAL", "value": number}
            taken["nothing"].append(client.timed("std.GetState")[1])
            taken["keywords"].append(
                client.timed("daq.UpdateKeywords", id="job", keywords=[keyword])[1])
            taken["sync"].append(rig.synced_append(path))
            taken["status"].append(client.timed("daq.GetStatus", id="job")[1])
        client.timed("daq.AbortDaq", id="job")
    report = bench.report
    report.title(f"UpdateKeywords of one keyword, {len(taken['keywords'])} times on one DAQ")
    report.times("std.GetState: a command that does nothing", taken["nothing"])
    report.times("one durable line on this file system", taken["sync"])
    report.times("UpdateKeywords", taken["keywords"])
    report.times("GetStatus of the same DAQ", taken["status"])
    whole, tenth = len(taken["keywords"]), len(taken["keywords"]) // 10

    def ratio(part: slice) -> float:
        middle = {name: statistics.median(seconds[part]) for name, seconds in taken.items()}
        return middle["keywords"] / (middle["nothing"] + middle["sync"])

    report.fact("UpdateKeywords over (nothing and one durable line)", ratio(slice(whole)), "")
    report.fact("the same, the last tenth of the updates over the first",
                ratio(slice(whole - tenth, whole)) / ratio(slice(tenth)), "", 1.5)


def client(bench: Bench) -> None:
    """Time a command of the client as a process beside an interpreter that imports zmq."""
    folder = bench.folder("client")
    daemon = rig.Daemon(bench.bin, folder)
    tool = os.path.join(bench.bin, "daq-ctl")
    words = {"bare interpreter": [sys.executable, "-P", "-c", "pass"],
             "interpreter that imports zmq": [sys.executable, "-P", "-c", "import zmq"],
             "daq-ctl std.getstate": [tool, "--rep", daemon.uri, "std.getstate"]}
    taken: dict[str, list[float]] = {name: [] for name in words}
    with rig.running(daemon):
        for number in range(11 if bench.quick else 41):
            for name, line in words.items():
                begin = time.perf_counter()
                subprocess.run(line, check=True, stdout=subprocess.DEVNULL,
                               env={**os.environ, "DAQ_PYTHON": sys.executable})
                if number:
                    taken[name].append(time.perf_counter() - begin)
    bench.report.title(f"a command of the client as a process, {len(taken['bare interpreter'])} "
                       "times")
    for name, seconds in taken.items():
        bench.report.times(name, seconds)
    bench.report.fact("daq-ctl over the interpreter that imports zmq, ratio of medians",
                      statistics.median(taken["daq-ctl std.getstate"])
                      / statistics.median(taken["interpreter that imports zmq"]), "", 3.0)

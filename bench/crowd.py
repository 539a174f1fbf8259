"""Measure the daemon with hundreds of acquisitions, and with thousands of waiting clients."""

from __future__ import annotations

import statistics
import time
from typing import Any

import rig
from control import Bench, percentile

DAQS = 200
METADATA = 3  # sources of each acquisition, beside a primary one
WARM_UP = 0.1  # of the time, not counted
CONNECTIONS = 500  # of the waiting clients


def hold(bench: Bench) -> None:
    """Hold 200 acquisitions of 4 sources; watch the daemon and time questions meanwhile."""
    folder = bench.folder("hold")
    primary = bench.sources(folder, "recif", "dcs", DAQS)
    metadata = bench.sources(folder, "metadaqif", "fcf", DAQS * METADATA, "--no-files")
    daemon = rig.Daemon(bench.bin, folder)
    with rig.running(daemon, metadata, primary):
        bench.report.title(f"{DAQS} DAQs of {METADATA + 1} sources each, held {bench.hold:.0f} s")
        jobs = _start(bench, daemon, metadata, primary)
        seen = _watch(daemon, jobs, bench.hold)
        _tell(bench, daemon, seen)
        begin = time.perf_counter()
        failed = _wrong(daemon, [("daq.StopDaq", {"id": job}) for job in jobs])
        bench.report.fact("stopped, all at once, until the last reply",
                          time.perf_counter() - begin, "s")
        left = DAQS - daemon.jobs("collect")
        bench.report.fact("stops that were refused or had a source fail", len(failed), "DAQs", 0)
        bench.report.fact("not handed over to collect/", left, "DAQs", 0)


def _start(bench: Bench, daemon: rig.Daemon, metadata: rig.Sources, primary: rig.Sources,
           ) -> list[str]:
    """Start all at once; what was refused is started again a few at a time."""
    def request(number: int, job: str) -> tuple[str, dict[str, Any]]:
        return "daq.StartDaqV2", rig.specification(
            job, metadata.described(METADATA * number, METADATA), primary.described(number, 1))

    jobs = [f"job.{number:03}" for number in range(DAQS)]
    begin = time.perf_counter()
    wrong = _wrong(daemon, [request(number, job) for number, job in enumerate(jobs)])
    bench.report.fact("started, all at once, until the last reply",
                      time.perf_counter() - begin, "s")
    refused = [number for number, why in wrong.items() if isinstance(why, rig.Refused)]
    bench.report.fact("starts that were refused", len(refused), "DAQs", 0)
    bench.report.fact("starts with an alert", len(wrong) - len(refused), "DAQs", 0)
    if refused:
        print(f"  the first: {wrong[refused[0]]}")
    for number in refused:
        jobs[number] += ".again"
    again = _wrong(daemon, [request(number, jobs[number]) for number in refused], ahead=1)
    if any(isinstance(why, rig.Refused) for why in again.values()):
        raise RuntimeError(f"{len(again)} do not start: {again.popitem()[1]}")
    return jobs


def _wrong(daemon: rig.Daemon, requests: list[tuple[str, dict[str, Any]]],
           ahead: int = 1000) -> dict[int, Any]:
    """Send requests and return the place of those that went wrong, and why."""
    answers = daemon.client.together(requests, ahead)
    return {number: result for number, (result, _took) in enumerate(answers)
            if isinstance(result, rig.Refused) or result["error"]}


def _watch(daemon: rig.Daemon, jobs: list[str], seconds: float) -> dict[str, list[float]]:
    """Ask now and then, and return what the answers took and what the daemon used."""
    seen: dict[str, list[float]] = {name: [] for name in (
        "status", "nothing", "list", "memory", "descriptors", "cpu")}
    begin, number = time.perf_counter(), 0
    while (now := time.perf_counter() - begin) < seconds:
        counts = now > WARM_UP * seconds
        _result, nothing = daemon.client.timed("std.GetState")
        _result, status = daemon.client.timed("daq.GetStatus", id=jobs[number % len(jobs)])
        if counts:
            seen["nothing"].append(nothing)
            seen["status"].append(status)
        if number % 20 == 0:
            found, took = daemon.client.timed("daq.GetActiveList")
            assert len(found) >= len(jobs)
            if counts:
                seen["list"].append(took)
                seen["memory"].append(daemon.memory())
                seen["descriptors"].append(daemon.descriptors())
        number += 1
        time.sleep(0.02 * (number * 7 % 13) / 6)  # in no step with what the daemon does
    seen["cpu"] = _cpu(daemon, min(10.0, seconds / 2))
    return seen


def _cpu(daemon: rig.Daemon, seconds: float) -> list[float]:
    """Return the processor seconds used in each second while nobody asks."""
    before = daemon.cpu()
    time.sleep(seconds)
    return [(daemon.cpu() - before) / seconds]


def _tell(bench: Bench, daemon: rig.Daemon, seen: dict[str, list[float]]) -> None:
    report = bench.report
    report.times(f"std.GetState, {len(seen['nothing'])} times", seen["nothing"])
    report.times(f"GetStatus, {len(seen['status'])} times", seen["status"])
    report.times(f"GetActiveList, {len(seen['list'])} times", seen["list"])
    report.fact("p99 of GetStatus", 1e3 * percentile(seen["status"], 99), "ms", 20)
    third = max(1, len(seen["memory"]) // 3)
    first, last = (statistics.median(seen["memory"][:third]),
                   statistics.median(seen["memory"][-third:]))
    report.fact("memory, last third", last, "MiB")
    report.fact("memory, last third over first third", last / first, "", 1.02)
    report.fact("open descriptors, most", max(seen["descriptors"]), "")
    report.fact("open descriptors, last third over first third",
                statistics.median(seen["descriptors"][-third:])
                / statistics.median(seen["descriptors"][:third]), "", 1.02)
    report.fact("processor while nobody asks", 100 * seen["cpu"][0], "% of one core")


def waiters(bench: Bench) -> None:
    """Compare the processor time that an idle daemon uses with and without waiting clients."""
    folder = bench.folder("waiters")
    number = 2000 if bench.quick else 5000
    primary = bench.sources(folder, "recif", "dcs", 1)
    daemon = rig.Daemon(bench.bin, folder)
    clients = [rig.Client(daemon.address) for _ in range(CONNECTIONS)]
    seconds = 6.0 if bench.quick else 20.0
    with rig.running(*clients, daemon, primary):
        for job in ("warm", "plain"):  # the first file that a simulator writes takes it long
            daemon.client.timed("daq.StartDaqV2", **rig.specification(job, primary.described(0, 1)))
            _result, plain = daemon.client.timed("daq.StopDaq", id=job)
        daemon.client.timed("daq.StartDaqV2", **rig.specification("job", primary.described(0, 1)))
        time.sleep(1.0)
        before, [alone] = daemon.memory(), _cpu(daemon, seconds)
        begin = time.perf_counter()
        for index in range(number):
            clients[index % CONNECTIONS].send(
                "daq.AwaitDaqState", id="job", state="StateAcquiring", substate="Stopped",
                timeout=600.0)
        daemon.client.timed("std.GetState")
        arrived = time.perf_counter() - begin
        time.sleep(2.0)
        [crowded] = _cpu(daemon, seconds)
        after = daemon.memory()
        begin = time.perf_counter()
        daemon.client.timed("daq.StopDaq", id="job")
        stopped = time.perf_counter() - begin
        answers = [clients[index % CONNECTIONS].receive() for index in range(number)]
        answered = time.perf_counter() - begin
    assert all(result["reached"] for _number, result, _took in answers)
    report = bench.report
    report.title(f"{number} AwaitDaqState wait over {CONNECTIONS} connections; nothing changes")
    report.fact("processor, nobody waits", 100 * alone, "% of one core")
    report.fact(f"processor, {number} wait", 100 * crowded, "% of one core")
    report.fact("the difference", 100 * (crowded - alone), "% of one core", 0.5)
    report.fact("memory of one that waits", 1024 * (after - before) / number, "KiB")
    report.fact("to register them all", arrived, "s")
    report.fact("reply to a StopDaq that nobody waits for", 1e3 * plain, "ms")
    report.fact("reply to the StopDaq that they wait for", 1e3 * stopped, "ms")
    report.fact("until the last of them has its answer", 1e3 * answered, "ms")

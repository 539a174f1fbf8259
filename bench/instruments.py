"""The group ``instruments``: what real instruments cost beside the protocol that they speak."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rig
from control import Bench

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.join(TOP, "tests"))

from ioc import serving, settings  # noqa: E402


def started(daemon: rig.Daemon, job: str, source: dict[str, Any]) -> float:
    """Start an acquisition of one metadata source, abort it, and return the seconds of the start.

    Args:
        daemon: the daq-ctl.
        job: its id.
        source: the source object.
    """
    seconds = daemon.client.timed("daq.StartDaqV2", **rig.specification(job, [source]))[1]
    daemon.client.timed("daq.AbortDaq", id=job)
    return seconds


# -- EPICS ----------------------------------------------------------------------------------------

_PVS = 50


def epics(bench: Bench) -> None:
    """Time the snapshot of process variables of an IOC, and the same with caproto alone."""
    folder = bench.folder("epics")
    names = [f"v{number}" for number in range(_PVS)]
    rows = [{"pv": name, "keyword": name.upper()} for name in names]
    source = {"type": "metadataSource", "sourceName": "lab", "rrUri": "epics:LAB:",
              "options": {"keywords": rows}}
    with serving(Path(folder)) as ioc:
        ioc.base("\n".join(f'record(ai, "$(P){name}") {{ field(VAL, "1.5") field(EGU, "mm") '
                           'field(PINI, "YES") }' for name in names))
        os.environ.update(settings(ioc))
        none = bench.sources(folder, "metadaqif", "none", 1, "--no-files")
        daemon = rig.Daemon(bench.bin, folder)
        taken: dict[str, list[float]] = {"bare": [], "none": [], "ours": []}
        with rig.running(daemon, none):
            first = started(daemon, "first", source)
            daemon.client.timed("daq.StartDaqV2", **rig.specification("whole", [source]))
            daemon.client.timed("daq.StopDaq", id="whole")
            with open(os.path.join(daemon.root, "data", "whole", "acquire.json")) as file:
                [brought] = json.load(file)["result"]["sources"]
            assert len(brought["keywords"]) == _PVS, "not every process variable was read"
            for number in range(10 if bench.quick else 100):
                taken["bare"].append(asyncio.run(_bare([f"LAB:{name}" for name in names])))
                taken["none"].append(started(daemon, f"none.{number}", none.described(0, 1)[0]))
                taken["ours"].append(started(daemon, f"ours.{number}", source))
    report = bench.report
    report.title(f"snapshot of {_PVS} process variables of an IOC on this host; "
                 f"{len(taken['ours'])} times")
    report.times("caproto alone: search, connect, read values and units", taken["bare"])
    report.times("StartDaqV2 of a simulated metadata source", taken["none"])
    report.times("StartDaqV2 of the process variables", taken["ours"])
    report.fact("the first one of a daemon, which loads caproto", 1e3 * first, "ms")
    report.fact("StartDaqV2 of the process variables, median",
                1e3 * statistics.median(taken["ours"]), "ms", 100.0)
    report.fact("ratio to (simulated source and caproto alone)", statistics.median(
        ours / (none + bare) for ours, none, bare in zip(*(
            taken[name] for name in ("ours", "none", "bare")), strict=True)), "")


async def _bare(names: list[str]) -> float:
    """Return the seconds that caproto needs from nothing to the values and units."""
    from caproto.asyncio.client import Context

    begin = time.perf_counter()
    async with Context() as context:
        pvs = await context.get_pvs(*names, timeout=rig.LIMIT_S)
        found = await asyncio.gather(*(pv.read(data_type=kind) for pv in pvs
                                       for kind in ("time", "control")))
        assert len(found) == 2 * len(names)
        return time.perf_counter() - begin


PARTS: dict[str, Callable[[Bench], None]] = {"epics": epics}


def measure(bench: Bench, names: list[str]) -> list[str]:
    """Run parts of the group; return the targets that were missed.

    Args:
        bench: what they share.
        names: the parts, of PARTS.
    """
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for name in names:
        PARTS[name](bench)
    return bench.report.missed

"""The group ``instruments``: what real instruments cost beside the protocol that they speak."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rig
from control import Bench

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.join(TOP, "tests"))

from harness import fresh, wait_until  # noqa: E402
from indi import BRISK, CAMERA, Observatory  # noqa: E402
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


# -- INDI -----------------------------------------------------------------------------------------

_PROPERTIES = 100
_DRIVERS = {"CCD Simulator": "indi_simulator_ccd", "Dome Simulator": "indi_simulator_dome",
            "Focuser Simulator": "indi_simulator_focus",
            "Telescope Simulator": "indi_simulator_telescope"}


#: Reads elements again and again, and prints the seconds of each time.
_READ = f"""\
import asyncio, json, sys, time
sys.path[:0] = [{os.path.join(TOP, "lib")!r}, {os.path.join(TOP, "tools", "daq-ctl")!r}]
from daq_ctl.sources import Order, make
uri, names, rounds = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
source = make(Order(dict(type="metadataSource", sourceName="tcs", rrUri=uri)))
async def taken():
    begin = time.perf_counter()
    assert len(await source.read(names, 5.0)) == len(names)
    return time.perf_counter() - begin
async def all_taken():
    return [await taken() for _ in range(rounds)]
print(json.dumps(asyncio.run(all_taken())))
"""


def indi(bench: Bench) -> None:
    """Time the snapshot of properties of an indiserver, and INDI's own program for one of them."""
    daq = fresh(Path(bench.folder("indi")), Path(bench.bin))
    try:
        sky = Observatory(daq, *_DRIVERS.values())
        sky.live.serve()
        for device in _DRIVERS:
            sky.until(device, "CONNECTION._STATE", "Idle")
            sky.tell(f"{device}.CONNECTION.CONNECT=On")
            sky.until(device, "CONNECTION._STATE", "Ok")
        elements = wait_until(lambda: _elements(sky))
        rounds = 10 if bench.quick else 100
        read: list[float] = json.loads(daq.program(
            sys.executable, "-c", _READ, sky.uri(""), json.dumps(elements), rounds).wait().ok().out)
        bare, whole = [], []
        for _ in range(rounds):
            begin = time.perf_counter()
            sky.told("Focuser Simulator", "FOCUS_TEMPERATURE.TEMPERATURE")
            bare.append(time.perf_counter() - begin)
            whole.append(_started(sky, elements))
    finally:
        daq.close()
    report = bench.report
    report.title(f"snapshot of {_PROPERTIES} properties of {len(_DRIVERS)} INDI drivers on this "
                 f"host; {rounds} times")
    report.times("indi_getprop of one property", bare)
    report.times("connect, read the properties, close", read)
    report.times("StartDaqV2 of the properties", whole)
    report.fact("snapshot of the properties, median", 1e3 * statistics.median(read), "ms", 50.0)
    report.fact("ratio to indi_getprop of one",
                statistics.median(read) / statistics.median(bare), "")


def _elements(sky: Observatory) -> list[str]:
    """Return one element of each of the properties, none when there are too few yet."""
    told = subprocess.run([*sky.daq.prefix, "indi_getprop", "-p", str(sky.port), "-t", "1"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    found = {tuple(line.split(".")[:2]): line.partition("=")[0].split(".")[2]
             for line in told.splitlines() if line.split(".")[0] in _DRIVERS}
    names = [f"{device}/{name}.{element}" for (device, name), element in found.items()]
    return names[:_PROPERTIES] if len(names) >= _PROPERTIES else []


def _started(sky: Observatory, elements: list[str]) -> float:
    """Return the seconds of the start of an acquisition that reads elements."""
    rows = [{"property": name, "keyword": f"K{number}", "required": True}
            for number, name in enumerate(elements)]
    source = {"type": "metadataSource", "sourceName": "tcs", "rrUri": sky.uri(""),
              "options": {"keywords": rows}}
    begin = time.perf_counter()
    job = sky.live.begin(source)
    seconds = time.perf_counter() - begin
    sky.live.call("AbortDaq", id=job)
    return seconds


# -- an exposure ----------------------------------------------------------------------------------

_EXPOSURE_S = 1.0
_CCD = "CCD Simulator"

#: Takes exposures with nothing but the protocol, and prints the seconds of each.
_EXPOSE = f"""\
import asyncio, json, sys, time
sys.path[:0] = [{os.path.join(TOP, "lib")!r}, {os.path.join(TOP, "tools", "daq-ctl")!r}]
from daq_ctl.sources.indi.client import Client, address
host, port, device, _ = address(sys.argv[1])
async def taken():
    client, states = Client(), []
    client.subscribe(lambda what, vector: states.append(vector.state)
                     if (what, vector.name) == ("set", "CCD_EXPOSURE") else None)
    await client.connect(host, port, 5.0)
    await client.get(device)
    await client.until(lambda: (device, "CCD_EXPOSURE") in client.vectors, 5.0)
    begin = time.perf_counter()
    await client.send("Number", device, "CCD_EXPOSURE", dict(CCD_EXPOSURE_VALUE={_EXPOSURE_S}))
    await client.until(lambda: "Busy" in states and states[-1] == "Ok", 60.0)
    await client.close()
    return time.perf_counter() - begin
print(json.dumps([asyncio.run(taken()) for _ in range(int(sys.argv[2]))]))
"""


def exposure(bench: Bench) -> None:
    """Time an exposure from the command to the product, and the same with the protocol alone."""
    daq = fresh(Path(bench.folder("exposure")), Path(bench.bin))
    rounds = 3 if bench.quick else 20
    taken: dict[str, list[float]] = {}
    try:
        sky = Observatory(daq, CAMERA)
        sky.live.serve()
        daq.spawn("daq-watch", until="watching")
        for delivery in ("local", "client"):
            taken[delivery] = [_exposed(sky, delivery) for _ in range(rounds + 1)][1:]
        bare: list[float] = json.loads(daq.program(
            sys.executable, "-c", _EXPOSE, sky.uri(_CCD), rounds).wait().ok().out)
    finally:
        daq.close()
    report = bench.report
    report.title(f"an exposure of {_EXPOSURE_S:g} s, from the command daq-start to the product in "
                 f"result/; {rounds} times")
    report.times("the protocol alone: exposure sent, until the camera says Ok", bare)
    for delivery, seconds in taken.items():
        report.times(f"daq-start until the product is there, delivery {delivery}", seconds)
        report.fact(f"beyond the exposure time, delivery {delivery}, median",
                    statistics.median(seconds) - _EXPOSURE_S, "s", 0.6)


def _exposed(sky: Observatory, delivery: str) -> float:
    """Return the seconds from a command to its product."""
    setup = "".join(f"&setup.{name}={value}" for name, value in BRISK.items())
    begin = time.perf_counter()
    job = sky.daq.run("daq-start", "--target", "cam", "--primary", f"cam@{sky.uri(_CCD)}?exposure="
                      f"{_EXPOSURE_S}&delivery={delivery}{setup}").ok().out.strip()
    product = sky.daq.spool / "result" / f"{job}.fits"
    while not product.exists():
        time.sleep(0.002)
    return time.perf_counter() - begin


PARTS: dict[str, Callable[[Bench], None]] = {"epics": epics, "indi": indi, "exposure": exposure}


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

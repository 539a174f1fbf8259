"""Time the tools as whole processes beside a peer or a physical limit, in turn, in one run.

Quote the ratios: every round runs each candidate once, so that a slow moment of the machine hits
all of them alike. The scratch directory decides which file system is measured.

    make bench                                   all groups, half an hour
    bench/run --group merge                      the merge beside its peers
    bench/run --group merge --only new           one row of it
    bench/run --group control --quick            acquisition control in three minutes
    bench/run --group spool --only turnaround    how soon a product is there
    bench/run --group instruments                real instruments, beside their bare protocol
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import merging

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = ("daq-start", "daq-ctl", "daq-watch", "daq-collect", "daq-merge", "daq-release",
         "daq-status", "daq-sim")


@dataclass
class Candidate:
    """Something to time: its name, what to run, and what to undo before each run."""

    name: str
    run: Callable[[], None]
    before: Callable[[], None] = lambda: None


def command(*words: str, **environment: str) -> Callable[[], None]:
    """Return a function that runs a command to its end and fails when it does."""
    def run() -> None:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       env={**os.environ, **environment})
    return run


def race(title: str, candidates: list[Candidate], runs: int) -> None:
    """Time candidates in turn and print medians and ratios to the first one."""
    times: dict[str, list[float]] = {one.name: [] for one in candidates}
    for number in range(runs + 1):  # the first round warms caches and is not counted
        for one in candidates:
            one.before()
            begin = time.perf_counter()
            one.run()
            if number:
                times[one.name].append(time.perf_counter() - begin)
    yardstick = statistics.median(times[candidates[0].name])
    print(f"\n{title}\n{'':34}{'median':>10}{'spread':>16}{'ratio':>8}")
    for name, taken in times.items():
        middle = statistics.median(taken)
        spread = f"{min(taken) * 1e3:.0f}-{max(taken) * 1e3:.0f}"
        print(f"{name:34}{middle * 1e3:8.1f} ms{spread:>16}{middle / yardstick:8.2f}")


def start_up(_scratch: str, _size: int) -> list[Candidate]:
    """Return what it costs to start each tool, beside the bare interpreter."""
    return [Candidate("bare interpreter", command(sys.executable, "-P", "-c", "pass")),
            *(Candidate(f"{tool} --help", command(os.path.join(TOP, "bin", tool), "--help"))
              for tool in TOOLS)]


def listing(scratch: str, _size: int) -> list[Candidate]:
    """Return the cost of looking at a spool: a listing of 1000 jobs beside ``ls -l``."""
    root = os.path.join(scratch, "spool")
    status = os.path.join(TOP, "bin", "daq-status")
    watch = os.path.join(TOP, "bin", "daq-watch")
    command(watch, "--once", "--spool", root)()  # makes the spool
    job = {"sources": [{"type": "fitsFile", "sourceName": "a", "location": "/data/a.fits"}]}
    for number in range(1000):
        with open(os.path.join(root, "hold", f"job-{number:04}.json"), "w") as file:
            json.dump(job, file)
    return [Candidate("ls -l, 1000 jobs", command("ls", "-l", os.path.join(root, "hold"))),
            Candidate("daq-status, 1000 jobs", command(status, "--spool", root)),
            Candidate("daq-watch --once, nothing to do", command(
                watch, "--once", "--spool", root))]


def merge(scratch: str, options: argparse.Namespace) -> merging.Verdicts:
    """Measure the merge beside its peers."""
    size = options.size or (8 if options.quick else 512)
    names = [name for name in options.only or merging.NAMES if name in merging.NAMES]
    if options.quick and not options.only:
        names.remove("large")
    runs = options.runs or (2 if options.quick else 5)
    return merging.measure(scratch, names, size=size, runs=runs, quick=options.quick,
                           bin_=os.path.join(options.checkout, "bin"))


def control(scratch: str, options: argparse.Namespace) -> list[str]:
    """Measure acquisition control; return the targets that were missed."""
    import control as parts
    import crowd

    quick = options.quick
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    bench = parts.Bench(os.path.join(options.checkout, "bin"), scratch, quick,
                        options.hold or (20.0 if quick else 180.0), parts.Report())

    def starts() -> None:
        syncs = parts.count_syncs(bench)
        for half, rounds, target in ((1, 200, 10.0), (50, 60, 60.0)):
            parts.starts(bench, half, 50 if quick else rounds,
                         syncs.get(2 * half, {}).get("StartDaqV2", 0), target)

    choices: dict[str, Callable[[], None]] = {
        "starts": starts, "hold": lambda: crowd.hold(bench),
        "hanging": lambda: parts.hanging(bench), "client": lambda: parts.client(bench),
        "waiters": lambda: crowd.waiters(bench), "keywords": lambda: parts.keywords(bench)}
    for name in options.only or choices:
        if name in choices:
            choices[name]()
    return bench.report.missed


def spool(scratch: str, options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Measure the way of a job through the spool; return missed targets, and faults."""
    import spooling
    from control import Report

    names = [name for name in options.only or spooling.NAMES if name in spooling.NAMES]
    bench = spooling.Bench(os.path.join(options.checkout, "bin"), scratch, options.quick,
                           options.size or (4 if options.quick else 1024), options.runs or 0,
                           Report())
    return spooling.measure(bench, names)


def instruments(scratch: str, options: argparse.Namespace) -> list[str]:
    """Measure real instruments; return the targets that were missed."""
    import instruments as parts
    from control import Bench, Report

    names = [name for name in options.only or parts.PARTS if name in parts.PARTS]
    return parts.measure(Bench(os.path.join(options.checkout, "bin"), scratch, options.quick, 0.0,
                               Report()), names)


def measure(name: str, folder: str, options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Run a group with targets; return those that were missed, and what was done wrong."""
    if name == "control":
        return control(folder, options), []
    if name == "instruments":
        return instruments(folder, options), []
    if name == "spool":
        return spool(folder, options)
    found = merge(folder, options)
    return found.missed + ([f"{found.open} not measured"] if found.open else []), found.faults


RACES = {"start-up": start_up, "listing": listing}
GROUPS = (*RACES, "merge", "control", "spool", "instruments")
CONTROL = ("starts", "hold", "hanging", "client", "waiters", "keywords")
SPOOL = ("turnaround", "rate", "crowd", "copy", "link", "ssh", "session")
INSTRUMENTS = ("epics", "indi", "exposure")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--group", choices=GROUPS, action="append")
    made.add_argument("--runs", type=int,
                      help="rounds of a race (default: 5, quick merge 2); "
                           "spool: rounds, or jobs that are timed (default: as the part needs)")
    made.add_argument("--size", type=int, metavar="MIB",
                      help="merge: MiB of the target (default: 512, quick 8); "
                           "spool: MiB that are collected (default: 1024, quick 4)")
    made.add_argument("--scratch", help="directory to work in (default: a temporary one)")
    made.add_argument("--quick", action="store_true",
                      help="control, instruments: fewer rounds; merge, spool: shows that it works, "
                           "measures nothing")
    made.add_argument("--hold", type=float, metavar="S",
                      help="control: seconds to hold 200 acquisitions (default: 180, quick 20)")
    made.add_argument("--only", action="append", metavar="PART",
                      choices=sorted({*CONTROL, *SPOOL, *INSTRUMENTS, *merging.NAMES}),
                      help=f"control: one of {', '.join(CONTROL)}; "
                           f"spool: one of {', '.join(SPOOL)}; "
                           f"instruments: one of {', '.join(INSTRUMENTS)}; "
                           f"merge: one of {', '.join(merging.NAMES)}")
    made.add_argument("--checkout", default=TOP, metavar="DIR",
                      help="all but start-up, listing: measure the tools of another checkout")
    return made


def main() -> int:
    """Run the benchmark; the exit code is 1 when a tool did its work wrong."""
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is mounted must be unmounted
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it every start compiles what was edited
    scratch = tempfile.mkdtemp(prefix="daqspool-bench-", dir=options.scratch)
    faults: list[str] = []
    try:
        for name in options.group or GROUPS:
            folder = os.path.join(scratch, name)
            os.mkdir(folder)
            if name in RACES:
                race(name, RACES[name](folder, 0), options.runs or 5)
                continue
            missed, wrong = measure(name, folder, options)
            faults += wrong
            print(f"\ntargets missed: {'; '.join(missed) or 'none'}")
    except merging.NoRoom as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(scratch)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

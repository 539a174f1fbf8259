"""Time the tools as whole processes beside a peer or a physical limit, in turn, in one run.

Quote the ratios: every round runs each candidate once, so that a slow moment of the machine hits
all of them alike. The scratch directory decides which file system is measured.

    make bench                                   all groups, a few minutes
    bench/run --group merge --size 64 --runs 3   quicker
    bench/run --group control --quick            acquisition control in three minutes
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = ("daq-start", "daq-ctl", "daq-watch", "daq-collect", "daq-merge", "daq-release",
         "daq-status", "daq-sim")
MIB = 1 << 20


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


def spool(scratch: str, _size: int) -> list[Candidate]:
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


def merge(scratch: str, size: int) -> list[Candidate]:
    """Return a merge into a new file beside copying the bytes and beside astropy."""
    make_inputs(scratch, size)
    inputs = sorted(name for name in os.listdir(scratch) if name.startswith("in"))
    out = os.path.join(scratch, "product.fits")

    def clean() -> None:
        if os.path.exists(out):
            os.unlink(out)

    joined = " ".join(inputs)
    return [
        Candidate("cat and sync", command(
            "sh", "-c", f"cd '{scratch}' && cat {joined} > product.fits && sync product.fits"),
            clean),
        Candidate("daq-merge (durable, checksums)", command(
            os.path.join(TOP, "bin", "daq-merge"), "-q", "-o", out,
            os.path.join(scratch, "specification.json")), clean),
        Candidate("astropy (checksums)", command(
            sys.executable, os.path.abspath(__file__), "--astropy", scratch), clean),
    ]


def make_inputs(scratch: str, size: int) -> None:
    """Write a target of ``size`` MiB with 8 image extensions and 6 small tables to merge."""
    import numpy
    from astropy.io import fits

    noise = numpy.random.default_rng(1).integers(-9999, 9999, size * MIB // 16, numpy.int16)
    images = [fits.ImageHDU(noise.reshape(-1, 1024)) for _ in range(8)]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(os.path.join(scratch, "in0.fits"))
    sources = []
    for number in range(1, 7):
        table = fits.BinTableHDU.from_columns([fits.Column("T", "D", array=noise[:5000] * 1.0)])
        table.name = f"TABLE{number}"
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(os.path.join(scratch, f"in{number}.fits"))
        sources.append({"type": "fitsFile", "sourceName": f"s{number}",
                        "location": f"in{number}.fits"})
    keywords = [{"type": "esoKeyword", "name": f"INS TEMP{n} VAL", "value": n / 7}
                for n in range(500)]
    ocm = {"type": "fitsKeywords", "sourceName": "ocm", "keywords": keywords}
    target = {"type": "fitsFile", "sourceName": "s0", "location": "in0.fits"}
    with open(os.path.join(scratch, "specification.json"), "w") as file:
        json.dump({"id": "bench", "sources": [ocm, *sources],
                   "target": {"fileId": "BENCH.2026-01-01T00:00:00.000", "source": target}}, file)


def with_astropy(scratch: str) -> None:
    """Do the same merge with astropy, told to leave data as they are."""
    from astropy.io import fits

    with open(os.path.join(scratch, "specification.json")) as file:
        specification = json.load(file)
    how = {"memmap": True, "do_not_scale_image_data": True, "disable_image_compression": True}
    hdus = fits.HDUList()
    for source in [specification["target"]["source"], *specification["sources"][1:]]:
        found = fits.open(os.path.join(scratch, source["location"]), **how)
        hdus.extend(found if not hdus else found[1:])
    for keyword in specification["sources"][0]["keywords"]:
        hdus[0].header[f"HIERARCH ESO {keyword['name']}"] = keyword["value"]
    hdus.writeto(os.path.join(scratch, "product.fits"), checksum=True)


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
        choices[name]()
    return bench.report.missed


RACES = {"start-up": start_up, "spool": spool, "merge": merge}
GROUPS = (*RACES, "control")


def main() -> int:
    """Run the benchmark."""
    made = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--group", choices=GROUPS, action="append")
    made.add_argument("--runs", type=int, default=5, help="rounds of a race")
    made.add_argument("--size", type=int, default=512, help="MiB of the merge's target")
    made.add_argument("--scratch", help="directory to work in (default: a temporary one)")
    made.add_argument("--quick", action="store_true", help="control: fewer rounds")
    made.add_argument("--hold", type=float, metavar="S",
                      help="control: seconds to hold 200 acquisitions (default: 180, quick 20)")
    made.add_argument("--only", action="append", metavar="PART",
                      choices=("starts", "hold", "hanging", "client", "waiters", "keywords"),
                      help="control: one of %(choices)s")
    made.add_argument("--checkout", default=TOP, metavar="DIR",
                      help="control: measure the daq-ctl of another checkout")
    made.add_argument("--astropy", metavar="DIR", help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.astropy:
        with_astropy(options.astropy)
        return 0
    scratch = tempfile.mkdtemp(prefix="daqspool-bench-", dir=options.scratch)
    try:
        for name in options.group or GROUPS:
            folder = os.path.join(scratch, name)
            os.mkdir(folder)
            if name == "control":
                missed = control(folder, options)
                print(f"\ntargets missed: {'; '.join(missed) or 'none'}")
            else:
                race(name, RACES[name](folder, options.size), options.runs)
    finally:
        shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())

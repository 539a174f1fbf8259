"""Measures the merge beside CFITSIO, astropy, fitsio, ``cat`` and a bare interpreter.

Every row is a race of whole processes over one job (``race.py``), with a target for each ratio that
matters, and the last product of every tool is checked byte by byte (``fidelity.py``). All write
the same: ORIGFILE, ARCFILE and both sums into every HDU. Where the peers do not sync ours does not
either (``--no-sync``); the rows called durable have both.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import reflink
from jobs import Job, images, mosaic, tiny, words
from race import Result, Starter, Tool, race

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20
PEAK_MIB = 32.0
_ASTROPY = 0.25
_PRODUCT = "product.fits"

OURS, IN_PLACE, NUMPY = "daq-merge", "daq-merge in place", "daq-merge in place, numpy sums"
CFITSIO, CFITSIO_IN_PLACE, CFITSIO_SYNC = "CFITSIO", "CFITSIO in place", "CFITSIO, fsync"
CAT, READ, BARE, ASTROPY = "cat", "read only", "bare interpreter", "astropy"


class NoRoom(Exception):
    """The scratch directory is too small."""


@dataclass(frozen=True)
class Target:
    """A limit for the ratio of a tool to a yardstick."""

    tool: str
    yardstick: str
    limit: float


@dataclass(frozen=True)
class Row:
    """A race.

    Attributes:
        title: what is done; begins with the row of the summary.
        job: makes the job's description in a folder.
        tools: names them; those that cannot run are left out.
        targets: what is judged.
        often: multiplies the rounds; short races need more.
        copies: how often the job's size is needed on disk.
        optional: left out when the scratch or the memory is too small.
        shares: needs a file system that can reflink.
    """

    title: str
    job: Callable[[str], Job]
    tools: tuple[str, ...]
    targets: tuple[Target, ...]
    often: float = 1.0
    copies: int = 2
    optional: bool = False
    shares: bool = False


@dataclass
class Verdicts:
    """What the summary tells."""

    lines: list[tuple[str, str, float | None, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    peak: float = 0.0

    @property
    def missed(self) -> list[str]:
        """The targets that were missed."""
        return [f"{title}: {what}" for title, what, found, limit in self.lines
                if found is not None and found > limit]

    @property
    def open(self) -> int:
        """The number of targets that were not measured."""
        return sum(found is None for _, _, found, _ in self.lines)


def _long(size: int) -> str:
    return f"{size / 1024:g} GiB" if size >= 1024 else f"{size} MiB"


def rows(size: int, quick: bool) -> dict[str, Row]:
    """Return the rows by their names.

    Args:
        size: MiB of the target; the other jobs scale with it.
        quick: a smoke run, whose figures mean nothing.
    """
    files, many = (8, 20) if quick else (64, 2000)
    mixed = (20, 100) if not quick else (2, 10)

    def new(folder: str) -> Job:
        return images(folder, 2 * size, files)

    def roomy(folder: str) -> Job:
        return mosaic(folder, size, 1000)

    astropy = Target(OURS, ASTROPY, _ASTROPY)
    every = (CFITSIO, OURS, ASTROPY, "fitsio")
    # a target is for the tool named first, beside the one named second
    return {
        "in-place": Row(f"in place, room in the header, {_long(size)}", roomy, (
            CFITSIO_IN_PLACE, READ, IN_PLACE, "daq-merge in place, durable", NUMPY,
            "daq-merge in place, bigint sums", ASTROPY), (
            Target(IN_PLACE, CFITSIO_IN_PLACE, 0.45), Target(NUMPY, CFITSIO_IN_PLACE, 1.0),
            Target(IN_PLACE, ASTROPY, _ASTROPY))),
        "large": Row(f"in place, room in the header, {_long(8 * size)}",
                     lambda folder: mosaic(folder, 8 * size, 1000), (
            CFITSIO_IN_PLACE, READ, IN_PLACE), (
            Target(IN_PLACE, CFITSIO_IN_PLACE, 0.25),), 0.6, copies=1, optional=True),
        "grow": Row(f"the header grows, {_long(size)}", lambda folder: mosaic(folder, size, 0), (
            CFITSIO, CFITSIO_IN_PLACE, CAT, OURS, "daq-merge by insertion", ASTROPY), (
            Target(OURS, CFITSIO_IN_PLACE, 0.03), Target(OURS, CFITSIO, 0.40), astropy)),
        "new": Row(f"new file, {files} files, {_long(2 * size)}", new, (*every, CAT), (
            Target(OURS, CFITSIO, 0.30), Target(OURS, CAT, 1.1), astropy)),
        "durable": Row(f"new file, durable, {_long(2 * size)}", new, (
            CFITSIO_SYNC, "cat and sync", "daq-merge, durable"), (
            Target("daq-merge, durable", CFITSIO_SYNC, 0.35),)),
        "reflink": Row(f"reflink file system, {_long(size)}", roomy, (
            CFITSIO, CFITSIO_SYNC, CFITSIO_IN_PLACE, "daq-merge by reflink, durable"), (
            Target("daq-merge by reflink, durable", CFITSIO, 0.15),), shares=True),
        "tiny": Row(f"{mixed[0]} files of {mixed[1]} tiny extensions",
                    lambda folder: tiny(folder, *mixed), (*every, CAT), (
            Target(OURS, CFITSIO, 1.2), astropy), 2),
        "many": Row(f"{many} files of one tiny extension",
                    lambda folder: tiny(folder, many, 1), (*every, CAT), (
            Target(OURS, CFITSIO, 1.2), astropy), 2),
        "keywords": Row("keywords only, 700", words, (
            BARE, "the same with site", *every), (
            Target(OURS, CFITSIO, 2.5), Target(OURS, BARE, 3.0), astropy), 5),
    }


NAMES = tuple(rows(512, False))


def tool(name: str, job: Job, bin_: str, peer: str) -> Tool | None:
    """Return how a tool does a job; None when it is not there.

    Args:
        name: as the tables show it.
        job: what to merge.
        bin_: directory of the daq-merge that is measured.
        peer: the compiled peer on CFITSIO, empty when there is none.
    """
    product = os.path.join(job.folder, _PRODUCT)
    if name.startswith(OURS):
        return _ours(name, job, product, os.path.join(bin_, "daq-merge"))
    if name.startswith("CFITSIO"):
        options = ["-i"] * ("in place" in name) + ["-s"] * ("fsync" in name)
        # when it has to move the data it takes half a minute
        slow = "-i" in options and job.target is not None and not _has_room(job)
        return Tool(name, (peer, *options, job.listing, product), in_place="-i" in options,
                    rounds=1 if slow else 0) if peer else None
    if name in (ASTROPY, "fitsio"):
        script = os.path.join(HERE, "peers", "python_merge.py")
        return Tool(name, (sys.executable, "-P", script, name, job.specification, product),
                    rounds=2 if name == ASTROPY else 1)
    plain = {
        CAT: Tool(CAT, ("cat", *job.paths), output=product, makes=False),
        READ: Tool(READ, ("cat", *job.paths), makes=False),
        "cat and sync": Tool("cat and sync", (
            "sh", "-c", 'out=$1; shift; cat "$@" >"$out" && sync "$out"', "cat", product,
            *job.paths), makes=False),
        BARE: Tool(BARE, (sys.executable, "-I", "-S", "-c", "pass"), makes=False),
        "the same with site": Tool("the same with site", (sys.executable, "-c", "pass"),
                                   makes=False)}
    return plain[name]


def _ours(name: str, job: Job, product: str, program: str) -> Tool:
    in_place = "in place" in name or "insertion" in name
    way = ("in-place" if "in place" in name else "insert" if "insertion" in name
           else "clone" if "reflink" in name else "new")
    sync = () if "durable" in name else ("--no-sync",)
    sums = next((kind for kind in ("numpy", "bigint") if kind in name), "")
    return Tool(name, (program, "-q", "--way", way, *sync, "--stamp", "all", "-o", product,
                       job.specification), settings={"DAQ_SUMS": sums} if sums else {},
                in_place=in_place, ours=True, rounds=2 if way == "insert" else 0)


def _has_room(job: Job) -> bool:
    assert job.target
    return job.target.units[0].header.count(b" " * 80) > 500


def build_peer(scratch: str) -> str:
    """Compile the peer on CFITSIO and return its path; empty, and said why, when that fails."""
    binary = os.path.join(scratch, "cfitsio_merge")
    try:
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "cfitsio"], check=True,
                               capture_output=True, text=True).stdout.split()
        subprocess.run(["cc", "-O2", "-o", binary, os.path.join(HERE, "peers", "cfitsio_merge.c"),
                        *flags], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"CFITSIO is left out: {getattr(error, 'stderr', '') or error}\n"
              "  for it: apt-get install gcc pkg-config libcfitsio-dev")
        return ""
    return binary


# -- one race ----------------------------------------------------------------------------------


class Place:
    """Where the tools of a race work: puts it in order before each run, checks after the last."""

    def __init__(self, title: str, job: Job, verdicts: Verdicts) -> None:
        self._title = title
        self._job = job
        self._product = os.path.join(job.folder, _PRODUCT)
        self._verdicts = verdicts
        self._used = False
        self.found: dict[str, str] = {}

    def before(self, one: Tool) -> None:
        """Remove what the last tool made; put back the target that it worked on."""
        self._clear()
        self._used = one.in_place
        if self._job.size > 64 * MIB:
            os.sync()  # what others left to be written would be written during the next run
            if not one.in_place:
                warm_memory(self._job.size)

    def _clear(self) -> None:
        target = self._job.target
        if self._used and target:
            path = os.path.join(self._job.folder, target.name)
            if not os.path.exists(path) and os.path.exists(self._product):
                os.rename(self._product, path)
            target.put_back(self._job.folder)
        for name in set(os.listdir(self._job.folder)) - self._own():
            os.unlink(os.path.join(self._job.folder, name))

    def _own(self) -> set[str]:
        return {"specification.json", "listing", *(file.name for file in self._job.files)}

    def after(self, one: Tool) -> None:
        """Check the product that a tool has just made."""
        from fidelity import check

        if not one.makes:
            return
        wrong = check(self._job, self._product) if os.path.exists(self._product) else ["none"]
        left = set(os.listdir(self._job.folder)) - self._own() - {_PRODUCT}
        wrong += [f"it leaves {', '.join(sorted(left))} behind"] if left else []
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        self.found[one.name] = wrong[0] + more if wrong else "right"
        if wrong and one.ours:
            self._verdicts.faults.append(f"{self._title}: {one.name}: {self.found[one.name]}")


def measure(scratch: str, names: list[str], *, size: int, runs: int, quick: bool, bin_: str,
            ) -> Verdicts:
    """Run the rows of the merge group and print them.

    Args:
        scratch: an empty directory; it decides the file system.
        names: the rows, of NAMES.
        size: MiB of the target.
        runs: counted rounds of a race of middling length.
        quick: a smoke run.
        bin_: directory of the daq-merge that is measured.

    Raises:
        NoRoom: the scratch directory is too small.
    """
    begin, verdicts, peer = time.monotonic(), Verdicts(), build_peer(scratch)
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; "
          f"{shutil.disk_usage(scratch).free / 2**30:.0f} GiB free in {scratch}")
    subprocess.run([sys.executable, "-c", "import astropy.io.fits, fitsio"], check=False)
    with Starter(scratch) as starter:
        for name, row in rows(size, quick).items():
            if name in names:
                with _folder(scratch, name, row, size) as folder:
                    if folder:
                        rounds = max(2, round(runs * (1 if quick else row.often)))
                        job = row.job(os.path.join(folder, "job")).write()
                        tools = _tools(row, job, bin_, peer, quick)
                        _row(row, job, tools, rounds, starter, verdicts)
    _summary(verdicts)
    if quick:
        print("a smoke run: with jobs so small and so few rounds the ratios mean nothing")
    print(f"measured in {time.monotonic() - begin:.0f} s")
    return verdicts


@contextlib.contextmanager
def _folder(scratch: str, name: str, row: Row, size: int) -> Iterator[str]:
    """Lend an empty directory for a row; an empty string when it must be left out."""
    place = os.path.join(scratch, name)
    os.mkdir(place)
    try:
        needed = row.copies * row.job(place).size + 64 * MIB
        reason = _too_small(place, needed)
        if reason and not row.optional:
            raise NoRoom(f"{reason}; choose another --scratch or a smaller --size")
        if reason:
            print(f"\n{row.title}: left out, {reason}")
            yield ""
            return
        with contextlib.ExitStack() as stack:
            if row.shares:
                try:
                    place = stack.enter_context(reflink.directory(place, 4 * size))
                except reflink.Unavailable as error:
                    print(f"\n{row.title}: left out, {error}")
                    yield ""
                    return
            yield place
    finally:
        shutil.rmtree(os.path.join(scratch, name))


def _too_small(place: str, needed: int) -> str:
    free = shutil.disk_usage(place).free
    if free < needed:
        return f"{place} has {free // MIB} MiB free, and {needed // MIB} MiB are needed"
    with open("/proc/meminfo") as file:
        facts = dict(line.split(":") for line in file)
    memory = int(facts["MemAvailable"].split()[0]) * 1024
    if memory < needed:  # what does not stay in the page cache measures the disk
        return f"{memory // MIB} MiB of memory are available, and {needed // MIB} MiB are needed"
    return ""


def _tools(row: Row, job: Job, bin_: str, peer: str, quick: bool) -> list[Tool]:
    tools = [one for name in row.tools if (one := tool(name, job, bin_, peer))]
    return [replace(one, rounds=min(one.rounds, 1)) for one in tools] if quick else tools


def _row(row: Row, job: Job, tools: list[Tool], rounds: int, starter: Starter,
         verdicts: Verdicts) -> None:
    place = Place(row.title, job, verdicts)
    result = race(tools, rounds, starter, place.before, place.after)
    place.before(tools[0])
    shutil.rmtree(job.folder)
    for one in tools:
        if one.ours and one.name in result.failed:
            verdicts.faults.append(f"{row.title}: {one.name}: {result.failed[one.name]}")
        elif one.ours:
            verdicts.peak = max(verdicts.peak, result.peak(one.name))
    print(f"\n{row.title}; {job.size / MIB:.1f} MiB, {rounds} rounds")
    _table(tools, result, place.found)
    for target in row.targets:
        what = f"{target.tool} / {target.yardstick}"
        found = result.ratio(target.tool, target.yardstick)
        verdicts.lines.append((row.title, what, found, target.limit))
        print(f"  {what:<58}{_judged(found, target.limit)}", flush=True)


def _table(tools: list[Tool], result: Result, found: dict[str, str]) -> None:
    print(f"  {'':<34}{'median':>11}{'spread':>16}{'rounds':>7}{'ratio':>8}"
          f"{'processor':>12}{'peak':>10}  product")
    for one in tools:
        if one.name in result.failed:
            print(f"  {one.name:<34} failed: {result.failed[one.name]}")
            continue
        times = result.milliseconds(one.name)
        ratio = result.ratio(one.name, tools[0].name)
        print(f"  {one.name:<34}{statistics.median(times):8.1f} ms"
              f"{f'{times[0]:.1f}-{times[-1]:.1f}':>16}{len(times):>7}"
              f"{'-' if ratio is None else f'{ratio:.2f}':>8}"
              f"{result.processor(one.name):9.1f} ms{result.peak(one.name):6.0f} MiB"
              f"  {found.get(one.name, '')}", flush=True)


def warm_memory(size: int) -> None:
    """Touch memory and free it: a host may hand out memory to its guest when it is first used."""
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def _judged(found: float | None, limit: float) -> str:
    if found is None:
        return f"{'-':>8}   at most {limit:<5g} not measured"
    return f"{found:8.3f}   at most {limit:<5g} {'ok' if found <= limit else 'MISSED'}"


def _summary(verdicts: Verdicts) -> None:
    print("\nsummary (ratios: medians of the ratios of the rounds)")
    if verdicts.peak:
        verdicts.lines.append(("any job", "peak memory of daq-merge, MiB", verdicts.peak, PEAK_MIB))
    for title, what, found, limit in verdicts.lines:
        print(f"  {title:<44}{what:<52}{_judged(found, limit)}")
    for fault in verdicts.faults:
        print(f"  WRONG: {fault}")
    if verdicts.lines and not verdicts.faults:
        print("  every product of daq-merge was checked byte by byte and is right")

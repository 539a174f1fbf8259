"""Measure what it costs to collect: beside ``cp``, beside the same rsync alone, by hard link.

Whole processes race (``race.py``): a ``daq-collect --job`` on a fresh job, and what a person would
type. What both leave must be durable, and is compared with the source at the end.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shlex
import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import reflink
import spools
from merging import warm_memory
from race import Result, Starter, Tool, race
from spools import Spool, Wrong
from sshserver import HOST, Server, Unavailable
from turnaround import Bench

COPY_RATIO, SSH_RATIO = 1.1, 1.05
#: What a link to a large file may take of that to a small one: nothing, but for the noise.
LINK_RATIO = 1.25
JOB = "BENCH.collected"
_OURS = "daq-collect"
_SMALL = "daq-collect, 1 MiB"
_YARD = "yard"  # where the yardsticks write, beside the spool
# "$@" is the command; what it made and the directories of that become durable as with ours
_DURABLY = 'place=$1; shift; "$@" && find "$place" -exec sync {} +'


@dataclass
class Course:
    """A spool on which candidates race, each from a fresh start.

    Attributes:
        on: the spool.
        origins: locations of a job's files, by the name of the tool that works on it.
        sources: the files that have to be there afterwards, in the order of the origins.
        clear: further things to do before each run.
    """

    on: Spool
    origins: dict[str, list[str]]
    sources: dict[str, list[str]]
    clear: Callable[[], None] = field(default=lambda: None)

    @property
    def yard(self) -> str:
        """The directory into which the yardsticks write."""
        return os.path.join(self.on.folder, _YARD)

    def tool(self, bench: Bench, name: str = _OURS) -> Tool:
        """Return our tool at work on the job of its name."""
        return Tool(name, (bench.tool("daq-collect"), "-q", "--job", JOB, *self.on.options()),
                    ours=True)

    def durably(self, name: str, *words: str) -> Tool:
        """Return a command whose files in the yard are synced when it has ended."""
        return Tool(name, ("sh", "-c", _DURABLY, "sh", self.yard, *words))

    def race(self, bench: Bench, tools: list[Tool], rounds: int) -> Result:
        """Let tools run in turn and print what they took.

        Raises:
            Wrong: one failed, or what it made is not the source.
        """
        if bench.quick:
            tools = [replace(each, rounds=1) for each in tools]  # without warming up
        with Starter(bench.scratch) as starter:
            result = race(tools, rounds, starter, self._before, self._after)
        for name, text in result.failed.items():
            raise Wrong(f"{name}: {text}")
        print(f"  {'':<46}{'median':>11}{'spread':>20}{'processor':>14}{'peak':>10}")
        for each in tools:
            times = result.milliseconds(each.name)
            print(f"  {each.name:<46}{statistics.median(times):8.1f} ms"
                  f"{f'{times[0]:.1f}-{times[-1]:.1f}':>20}{result.processor(each.name):11.1f} ms"
                  f"{result.peak(each.name):6.0f} MiB", flush=True)
        return result

    def _before(self, tool: Tool) -> None:
        shutil.rmtree(self.yard, ignore_errors=True)
        os.mkdir(self.yard)
        forget(self.on)
        if tool.ours:
            self.on.put("collect", JOB, *self.origins[tool.name])
        self.clear()
        os.sync()  # what others left to be written would be written during the next run
        warm_memory(max(sum(os.stat(path).st_blocks * 512 for path in paths)
                        for paths in self.sources.values()))

    def _after(self, tool: Tool) -> None:
        if tool.ours:
            made = collected(self.on)
        else:
            made = sorted(os.path.join(place, name) for place, _, names in os.walk(self.yard)
                          for name in names)
        wanted = self.sources.get(tool.name, self.sources[_OURS])
        if len(made) != len(wanted):
            raise Wrong(f"{tool.name} made {len(made)} files of {len(wanted)}")
        for one, other in zip(made, wanted, strict=True):
            if not os.path.samefile(one, other) and not filecmp.cmp(one, other, shallow=False):
                raise Wrong(f"{tool.name}: {one} is not {other}")


def forget(on: Spool) -> None:
    """Remove all that the spool knows of the job."""
    shutil.rmtree(os.path.join(on.root, "data", JOB), ignore_errors=True)
    for path in (*(on.job(place, JOB) for place in ("collect", "merge", "failed")),
                 on.path("log", f"{JOB}.jsonl"), on.path("log", f".file-{JOB}"),
                 on.path("lock", JOB)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def collected(on: Spool) -> list[str]:
    """Return the files that the job has, in the order of its sources.

    Raises:
        Wrong: it was not collected.
    """
    folder = os.path.join(on.root, "data", JOB, "sources")
    if not os.path.exists(on.job("merge", JOB)):
        raise Wrong(f"{JOB} was not collected: {on.events(JOB)[-3:]}")
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    return [os.path.join(folder, name) for name in sorted(names, key=_number)]


def _number(name: str) -> int:
    digits = name.partition("_")[0]
    return int(digits) if digits.isdigit() else 0


# -- files of this host ------------------------------------------------------------------------


def copy(bench: Bench) -> None:
    """Collect a local file beside ``cp`` on the scratch file system and on one with reflinks."""
    folder = bench.folder("copy")
    _copy(bench, folder, _kind(folder))
    shutil.rmtree(folder)
    if reflink.can_reflink(bench.scratch):
        return
    folder = bench.folder("copy-reflink")
    try:
        with reflink.directory(folder, 6 * bench.size) as place:
            _copy(bench, place, "XFS with reflinks, in an image")
    except reflink.Unavailable as error:
        print(f"\nlocal collect on a file system with reflinks: left out, {error}")
    shutil.rmtree(folder)


def _copy(bench: Bench, folder: str, kind: str) -> None:
    large = spools.image(os.path.join(folder, "large.fits"), bench.size)
    small = spools.image(os.path.join(folder, "small.fits"), 1)
    course = Course(Spool(folder), {_OURS: [large], _SMALL: [small]},
                    {_OURS: [large], _SMALL: [small]})
    cp = ("cp", "--reflink=auto", "--preserve=timestamps", large, course.yard)
    bare, durable = "cp --reflink=auto, not durable", "cp --reflink=auto and sync of the file"
    tools = [Tool(bare, cp), course.durably(durable, *cp), course.tool(bench),
             course.tool(bench, _SMALL)]
    rounds = bench.rounds(1, 9)
    bench.report.title(f"local collect of {bench.size} MiB on {kind}; {rounds} rounds in turn")
    result = course.race(bench, tools, rounds)
    shares = reflink.can_reflink(folder)
    bench.report.fact("daq-collect / cp, both durable, median of the rounds' ratios",
                      result.ratio(_OURS, durable) or 0.0, "", None if shares else COPY_RATIO)
    bench.report.fact("daq-collect / cp, which is not durable",
                      result.ratio(_OURS, bare) or 0.0, "")
    over = statistics.median(result.milliseconds(_OURS)) - statistics.median(
        result.milliseconds(_SMALL))
    cost = statistics.median(result.milliseconds(durable))
    bench.report.fact("the same without what a file of 1 MiB takes, beside cp, both durable",
                      over / cost, "", COPY_RATIO if shares else None)
    for name in (large, small):
        os.unlink(name)


def _kind(folder: str) -> str:
    done = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True,
                          check=False)
    return (done.stdout.split() or ["this file system"])[-1]


def link(bench: Bench) -> None:
    """Collect a small and a large file by hard link."""
    folder = bench.folder("link")
    mib = 64 if bench.quick else 4096
    large = spools.hollow_image(os.path.join(folder, "large.fits"), mib)
    small = spools.image(os.path.join(folder, "small.fits"), 1)
    course = Course(Spool(folder, stable_sources=[folder]), {_OURS: [large], _SMALL: [small]},
                    {_SMALL: [small], _OURS: [large]})
    rounds = bench.rounds(1, 15)
    bench.report.title(f"collect by hard link, {mib} MiB beside 1 MiB; {rounds} rounds in turn")
    result = course.race(bench, [course.tool(bench), course.tool(bench, _SMALL)], rounds)
    if not os.path.samefile(collected(course.on)[0], large) and not os.path.samefile(
            collected(course.on)[0], small):
        raise Wrong("the files were not linked")
    bench.report.fact(f"{mib} MiB / 1 MiB, median of the rounds' ratios",
                      result.ratio(_OURS, _SMALL) or 0.0, "", LINK_RATIO)
    shutil.rmtree(folder)


# -- files of another host ---------------------------------------------------------------------


def _far(bench: Bench, name: str, title: str,
         measure: Callable[[Bench, str, Server], None]) -> None:
    """Measure with another host, in a folder of its own."""
    try:
        host = Server()
    except Unavailable as error:
        print(f"\n{title}: left out, {error}")
        return
    try:
        folder = bench.folder(name)
        measure(bench, folder, host)
        shutil.rmtree(folder)
    finally:
        host.close()


def ssh(bench: Bench) -> None:
    """Collect a large file of another host beside the rsync command that the tool runs."""
    _far(bench, "ssh", "collect over ssh", _ssh)


def _ssh(bench: Bench, folder: str, host: Server) -> None:
    large = spools.image(os.path.join(folder, "large.fits"), bench.size)
    small = spools.image(os.path.join(folder, "small.fits"), 1)
    on = Spool(folder, **_settings(host))
    command = recorded(bench, folder, host, small)
    course = Course(on, {_OURS: [f"{HOST}:{large}"], _SMALL: [f"{HOST}:{small}"]},
                    {_OURS: [large], _SMALL: [small]})
    alone = command.alone(course.yard, large)
    what = "the same rsync alone" + ("" if command.syncs else " and sync of the file")
    tools = [Tool(what, alone) if command.syncs else course.durably(what, *alone),
             course.tool(bench), course.tool(bench, _SMALL)]
    rounds = bench.rounds(1, 9)
    bench.report.title(f"collect of {bench.size} MiB by rsync over ssh (loopback); "
                       f"{rounds} rounds in turn")
    print(f"  {shlex.join(command.words)}")
    result = course.race(bench, tools, rounds)
    bench.report.fact("daq-collect / rsync, both durable, median of the rounds' ratios",
                      result.ratio(_OURS, what) or 0.0, "", SSH_RATIO)


def _settings(host: Server) -> dict[str, Any]:
    # all that race share the connection, if the tools keep one: it must last from one to the next
    return {"ssh_config": host.config, "transfer": {"persist_sec": 120}}


@dataclass(frozen=True)
class Command:
    """The rsync command by which a tool fetched a file, and what it read on standard input."""

    words: list[str]
    stdin: str
    origin: str

    @property
    def syncs(self) -> bool:
        """Whether rsync makes the file durable itself."""
        return "--fsync" in self.words

    def alone(self, folder: str, path: str) -> tuple[str, ...]:
        """Return the same command for another file, into another directory."""
        with open(self.stdin, "rb") as file:
            data = file.read().replace(os.fsencode(self.origin), os.fsencode(path))
        with open(f"{self.stdin}.alone", "wb") as file:
            file.write(data)
        words = [word.replace(self.origin, path) for word in self.words[:-1]]
        return ("sh", "-c", 'data=$1; shift; exec "$@" <"$data"', "sh", f"{self.stdin}.alone",
                "rsync", *words, f"{folder}/")


_RECORDER = """#!/bin/sh
# runs rsync and records its words and, where it reads that, its standard input
case "$*" in *--version*) exec rsync "$@" ;; esac
number=$(ls {folder} | grep -c words)
for word; do printf '%s\\n' "$word"; done >{folder}/words.$number
case "$*" in
*--files-from=-*) cat >{folder}/stdin.$number; exec rsync "$@" <{folder}/stdin.$number ;;
*) : >{folder}/stdin.$number; exec rsync "$@" ;;
esac
"""


def recorded(bench: Bench, folder: str, host: Server, path: str) -> Command:
    """Return the command by which ``daq-collect`` fetches a file.

    Raises:
        Wrong: it runs none.
    """
    own = os.path.join(folder, "recorded")
    place = os.path.join(own, "calls")
    os.makedirs(place)
    shim = os.path.join(own, "rsync-recorder")
    with open(shim, "w") as file:
        file.write(_RECORDER.format(folder=shlex.quote(place)))
    os.chmod(shim, 0o755)
    on = Spool(own, **_settings(host), bin_rsync=shim)
    on.put("collect", JOB, f"{HOST}:{path}")
    subprocess.run([bench.tool("daq-collect"), "-q", "--job", JOB, *on.options()], check=True)
    for number in range(len(os.listdir(place)) // 2):
        with open(os.path.join(place, f"words.{number}")) as file:
            words = file.read().splitlines()
        if not {"--dry-run", "-n"} & set(words):
            return Command(words, os.path.join(place, f"stdin.{number}"), path)
    raise Wrong("daq-collect fetches nothing by rsync")


def session(bench: Bench) -> None:
    """Collect many files of another host at once beside one rsync for each."""
    _far(bench, "session", "many files of one host", _session)


def _session(bench: Bench, folder: str, host: Server) -> None:
    count = 4 if bench.quick else 64
    paths = [spools.image(os.path.join(folder, f"far{number:02}.fits"), 0.25, number)
             for number in range(count)]
    on = Spool(folder, **_settings(host))
    course = Course(on, {_OURS: [f"{HOST}:{path}" for path in paths]}, {_OURS: paths})
    seen: dict[str, tuple[int, int]] = {}
    each = f'for path; do rsync --times -e "ssh -F {shlex.quote(host.config)}" ' \
           f'"{HOST}:$path" {shlex.quote(course.yard)}/ || exit; done'
    single = f"{count} single rsyncs, then sync"
    tools = [course.durably(single, "sh", "-c", each, "sh", *paths), course.tool(bench)]
    for tool in tools:  # counted apart: in the race other logins would mix in
        course._before(tool)
        before = host.counts()
        subprocess.run(tool.words, check=True)
        after = host.counts()
        seen[tool.name] = after[0] - before[0], after[1] - before[1]
    rounds = bench.rounds(1, 2)
    bench.report.title(f"{count} files of 0.25 MiB of one host; {rounds} rounds in turn")
    result = course.race(bench, tools, rounds)
    for name, (logins, commands) in seen.items():
        bench.report.fact(f"ssh logins, {name}", logins, "", 1 if name == _OURS else None)
        bench.report.fact(f"commands run there, {name}", commands, "")
    bench.report.fact(f"daq-collect / {single}, median of the rounds' ratios",
                      result.ratio(_OURS, single) or 0.0, "")

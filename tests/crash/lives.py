"""Recorded lives of a job, and what a power cut at any operation of them must not do."""

from __future__ import annotations

import copy
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import JOB, WAY, Bench, digests
from ordering import is_fleeting
from powerloss import VARIANTS, Disk, State, digest, lay_out, played, times_of
from recording import Op, Recording, record

from daqlib import history
from harness import CHECKOUT, EPOCH, SYSTEM_PATH

#: Where a job can be, in the order of its way.
_PLACES = ("collect", "merge", "release", "done")


@dataclass
class Life:
    """Commands that ran one after the other on a spool, recorded.

    Attributes:
        bench: where.
        words: for the recordings, outside of what is recorded.
        parts: the recordings.
    """

    bench: Bench
    words: Path
    parts: list[Recording] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begin = Disk(self.bench.folder)

    def disk(self) -> Disk:
        """Return a disk as it was before the first command."""
        return copy.deepcopy(self._begin)

    def run(self, tool: str, *arguments: object, **env: str) -> Recording:
        """Run a tool through ``bin/`` and keep what it did."""
        environment = {
            "PATH": SYSTEM_PATH, "HOME": str(self.words), "LC_ALL": "C.UTF-8", "TZ": "UTC",
            "SOURCE_DATE_EPOCH": str(EPOCH), "DAQ_SPOOL": str(self.bench.spool),
            "DAQ_PYTHON": sys.executable, **self.bench.env, **env}
        made = record([str(CHECKOUT / "bin" / tool), *map(str, arguments)], environment,
                      self.words, [self.bench.folder], tool)
        assert "Traceback" not in made.err, made.err
        self.parts.append(made)
        return made

    def submit(self, **env: str) -> Recording:
        """Run daq-start."""
        return self.run("daq-start", *self.bench.arguments("start"), **env)

    def stage(self, name: str, **env: str) -> Recording:
        """Run a stage tool."""
        return self.run(f"daq-{name}", "--job", JOB, **env)

    @property
    def ops(self) -> Iterator[Op]:
        """All operations."""
        return itertools.chain.from_iterable(part.ops for part in self.parts)


@dataclass(frozen=True)
class Cut:
    """A power cut after an operation.

    Attributes:
        number: of the operation.
        op: it.
        variant: what survived, see :meth:`powerloss.Disk.left`.
        state: that.
        told: whether the submitter had been told the id.
        promised: the place in which the job had been said to have arrived.
    """

    number: int
    op: Op
    variant: str
    state: State
    told: bool
    promised: str

    def __str__(self) -> str:
        return f"{self.variant} after operation {self.number} ({self.op})"


def cuts(life: Life) -> Iterator[Cut]:
    """Yield the different states that a power cut during a life can leave."""
    begin = life.disk()
    resolved = times_of(life.disk(), life.parts)
    seen: set[tuple[str, bool, str]] = set()
    told, promised = False, ""
    for part in life.parts:
        for op in played(begin, part, resolved):
            told = told or _tells(op)
            promised = _promise(op) or promised
            if op.call in ("seek", "write") and is_fleeting(op.path) and "/lock/" in op.path:
                continue
            for variant in VARIANTS:
                state = begin.left(variant)
                key = digest(state, lambda path: "/lock/" in path), told, promised
                if key not in seen:
                    seen.add(key)
                    yield Cut(begin.number, op, variant, state, told, promised)


def _tells(op: Op) -> bool:
    return op.call == "say" and op.tool == "daq-start" and JOB.encode() in op.data


def _promise(op: Op) -> str:
    if op.call == "exit" and op.numbers["code"] == 0:
        return {"daq-collect": "merge", "daq-merge": "release", "daq-release": "done",
                "daq-start": "collect", "daq-ctl": "aborted"}.get(op.tool, "")
    return ""


def recover(cut: Cut, bench: Bench, undisturbed: dict[str, Any]) -> None:
    """Go on after a power cut as a user does, and check that nothing was lost or doubled."""
    lay_out(cut.state, [str(bench.folder)])
    for place, folder in {"result": bench.spool / "result",
                          "archive": bench.folder / "archive"}.items():
        there = digests(folder, "[!.]*").items()
        assert there <= undisturbed[place].items(), f"half a product in {place}/"
    _is_kept(cut, bench)
    if not cut.told:
        assert bench.run("start").ok().line() == JOB
    for name in WAY:
        bench.all(name).ok()
    if cut.variant == "apart":
        _clear_copies(bench)
    made = bench.picture()
    if cut.variant == "apart":
        made["inputs"] = undisturbed["inputs"]  # the product has two names, one of them here
    wrong = {key: value for key, value in made.items() if value != undisturbed[key]}
    assert not wrong, f"not as undisturbed: {wrong}"


def recover_abort(cut: Cut, bench: Bench) -> None:
    """Go on after a power cut during a life that ends with an abort: it holds once it was told."""
    lay_out(cut.state, [str(bench.folder)])
    if not cut.told:
        bench.run("start").ok()
    for name in WAY:
        bench.all(name).ok()
    if cut.variant != "apart":
        assert bench.tree() == {"done": [f"{JOB}.json"]}, str(cut)
    aborted = history.last(bench.events(), "aborted") is not None
    assert aborted or cut.promised != "aborted", str(cut)
    made = len(list((bench.spool / "result").glob("[!.]*")))
    assert made == (cut.promised != "aborted") or aborted, str(cut)


def _clear_copies(bench: Bench) -> None:
    """Where a rename is two changes the job may lie in two places: the earlier one is no job."""
    for place in bench.tree():
        if place in WAY:
            bench.run(place).fails(65, "a copy of this job", "now bad/")
            (bench.spool / "bad" / f"{JOB}.json").unlink()


def _is_kept(cut: Cut, bench: Bench) -> None:
    if not cut.promised:
        return
    where = [place for place in _PLACES if (bench.spool / place / f"{JOB}.json").exists()]
    assert where, "an acknowledged job is lost"
    assert _PLACES.index(where[-1]) >= _PLACES.index(cut.promised), (
        f"it had arrived in {cut.promised}/ and is in {where} again")
    log = history.read(str(bench.spool / "log" / f"{JOB}.jsonl"))
    told = [event["to"] for event in log if event["event"] == "ok"]
    assert not told or _PLACES.index(where[-1]) >= _PLACES.index(told[-1]), (
        f"its history says that it moved to {told[-1]}/, and it is in {where}")


def spread(found: Sequence[Cut], number: int) -> list[Cut]:
    """Return so many of the cuts, evenly spread."""
    if len(found) <= number:
        return list(found)
    return [found[index * len(found) // number] for index in range(number)]


def same_as_real(disk: Disk, folder: Path) -> list[str]:
    """Return the paths in which a played disk differs from the real one."""
    wrong = []
    state = disk.left("all")
    real = {str(path) for path in folder.rglob("*")} | {str(folder)}
    wrong += sorted(real ^ set(state))
    for path in sorted(real & set(state)):
        left = state[path]
        if left.kind == "link":
            same = os.path.islink(path) and os.fsencode(os.readlink(path)) == left.content
        elif left.kind == "folder":
            same = os.path.isdir(path)
        else:
            same = (Path(path).read_bytes() == left.content
                    and os.stat(path).st_mode & 0o7777 == left.mode)
        if not same:
            wrong.append(path)
    return wrong

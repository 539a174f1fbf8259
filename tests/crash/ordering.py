"""The order in which a tool has to make things durable, and a checker of recordings.

The rule of every transition: data are written, the file is synced, it gets its name, the
directory is synced; only then comes what depends on it. What depends on it is a *promise*: a
line in a job's history, a job that moves to another stage, a command to a source or an answer to a
client, an id on standard output, an exit code of 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from powerloss import GONE, Disk, File
from recording import Op

from daqlib import fsops
from daqlib.spool import RESTS, STAGES

_JOB = re.compile(rf"/(?:{'|'.join((*STAGES, *RESTS))})/[^/.][^/]*\.json$")
#: A job that moves on rests on what was made for it; one that is put aside does not.
_ON = re.compile(rf"/(?:{'|'.join((*STAGES, 'done', 'remote'))})/[^/]*$")
_LOG = re.compile(r"/log/[^/.][^/]*\.jsonl$")
#: Nobody relies on these after a power cut: locks die with it, temporaries are swept, sockets and
#: figures of progress are made anew, transfers are repeated.
_FLEETING = re.compile(r"/lock(/|$)|/run/|/\.tmp-[^/]*$|/\.progress\.json$"
                       r"|/sources/\.fetch-\w+(/|$)")
#: The link to a product: one that leads nowhere misleads nobody.
_POINTER = re.compile(r"/data/[^/]+/result$")
#: What daq-ctl tells its sources and its clients, but for questions and answers to them.
_COMMAND = re.compile(rb'"method":"\w+\.(Rec)?(Start|Stop|Abort)\w*"'
                      rb'|"result":{[^{}]*"error":false}')
#: Events that tell of files; the others tell of tries, which may end in any way.
_TELLING = {"submitted", "accepted", "stopped", "sealed", "ok", "delivered", "handed-over",
            "aborted", "pruned"}


def is_fleeting(path: str) -> bool:
    """Tell whether a file need not survive."""
    return _FLEETING.search(path) is not None


def promise(op: Op) -> str:
    """Return what others may rely on from this operation on, or an empty text."""
    if op.call == "write" and _LOG.search(op.path):
        found = map(os.fsdecode, re.findall(rb'"event": "([\w-]+)"', op.data))
        told = ", ".join(name for name in found if name in _TELLING)
        return told and f"the event {told}"
    if op.call == "rename" and _JOB.search(op.path) and _ON.search(op.other):
        return f"the move to {os.path.basename(os.path.dirname(op.other))}/"
    if op.call == "say":
        return "what it printed"
    if op.call == "tell" and (found := _COMMAND.search(op.data)):
        return f"the message {os.fsdecode(found[0])}"
    if op.call == "exit" and op.numbers["code"] == 0:
        return "its exit code 0"
    return ""


class Checker:
    """Looks at operations before they are played on a disk, and collects what is wrong."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.wrong: list[str] = []
        self.promises = 0
        self._ops: list[Op] = []
        self._told: set[tuple[str, int, str]] = set()

    def look(self, op: Op) -> None:
        """Check an operation that comes next; it is not played yet."""
        if meaning := promise(op):
            self.promises += 1
            self._promised(op, meaning)
        if op.call in ("rename", "link"):
            self._named(op)
        elif op.call in ("write", "truncate", "allocate", "clone"):
            self._written(op)
        self._ops.append(op)

    def _promised(self, op: Op, meaning: str) -> None:
        for path, number, what in self.disk.unsynced():
            if (is_fleeting(path) or (path, number, what) in self._told
                    or what == GONE and _POINTER.search(path)):
                continue
            self._told.add((path, number, what))
            self._complain(op, f"{meaning} comes before {what} is durable: {path}", number)

    def _named(self, op: Op) -> None:
        node = self.disk.find(op.path)
        if isinstance(node, File) and node.dirty >= 0 and not is_fleeting(op.other):
            self._complain(op, f"{op.other} gets its name before its data are durable", node.dirty)

    def _written(self, op: Op) -> None:
        if is_fleeting(op.path) or _LOG.search(op.path) or self._can_be_undone(op.path):
            return
        found = self.disk.find(op.path)
        if op.call == "truncate" and isinstance(found, File) and (
                len(found.data) == op.numbers["size"]):
            return
        self._complain(op, f"{op.path} is written under its final name", -1)

    def _can_be_undone(self, path: str) -> bool:
        """Tell whether an undo journal of a file is durable."""
        journal = fsops.journal_of(path)
        return isinstance(self.disk.find(journal), File) and not any(
            found == journal for found, _, _ in self.disk.unsynced())

    def _complain(self, op: Op, what: str, number: int) -> None:
        # operations are numbered from 1 as the disk plays them
        since = f" (since operation {number}: {self._op(number)})" if number > 0 else ""
        self.wrong.append(f"operation {self.disk.number + 1}: {op}\n    {what}{since}")

    def _op(self, number: int) -> str:
        index = len(self._ops) - (self.disk.number - number) - 1
        return str(self._ops[index]) if 0 <= index < len(self._ops) else "one before these"


def check(disk: Disk, ops: Iterable[Op]) -> list[str]:
    """Play operations and return what is wrong with their order, one text for each fault."""
    return list(faults(disk, ops))


def faults(disk: Disk, ops: Iterable[Op]) -> Iterator[str]:
    """Like :func:`check`, as they come."""
    checker = Checker(disk)
    for op in ops:
        checker.look(op)
        disk.play(op)
        yield from checker.wrong
        checker.wrong.clear()

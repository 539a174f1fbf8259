"""Descendants whose parents ended: the watcher adopts them, so that it can see to them.

A worker that the nursery bears comes to the watcher by this. So does what a killed worker leaves
behind, such as a transfer in a session of its own, which would keep the job claimed and do work
that nobody waits for.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator

_ADOPT = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)


def adopt() -> bool:
    """Make this process the parent of the descendants whose parents end; tell whether it is."""
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return False
    return int(call(_ADOPT, 1, 0, 0, 0)) == 0


def reap(known: Collection[int]) -> None:
    """Collect the ends of adopted ones.

    Args:
        known: process ids whose ends somebody else collects.
    """
    with contextlib.suppress(ChildProcessError):
        while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if dead.si_pid in known:
                return  # the kernel names it until it is collected; the next call sees the others
            os.waitpid(dead.si_pid, 0)


def end_holders(path: str) -> None:
    """Tell our descendants to end that have a file open, the lock of a dead worker's job."""
    path, parents = os.path.realpath(path), dict(_parents())
    for pid in parents:
        if _descends(pid, parents) and _has_open(pid, path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat",
                                                                encoding="latin-1") as file:
                yield int(name), int(file.read().rpartition(")")[2].split()[1])


def _descends(pid: int, parents: dict[int, int]) -> bool:
    seen: set[int] = set()
    while pid in parents and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def _has_open(pid: int, path: str) -> bool:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}") == path:
                    return True
    return False

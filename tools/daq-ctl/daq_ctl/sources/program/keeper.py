"""Keeps one program: starts it at a word, passes signals on, limits it, writes down how it ended.

It is a process in a session of its own, so that the program, its limits and the knowledge of its
end outlive daq-ctl. It is run as a script in the directory of the recording, with the standard
library only. Standard input brings the word to go: when it ends without one, because daq-ctl died
before it had written down whom to look for, nothing is started.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

#: Files in the directory of the recording: that the program runs, or cannot; how it ended.
BEGUN, ENDED = ".begun.json", ".ended.json"
GO = b"g"
#: The signals that are passed on to the program and its children.
PASSED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
#: Stands for KILL, which could not be passed on.
KILL = signal.SIGRTMIN
#: Seconds between TERM and KILL.
GRACE = 5.0

_LOOK_S = 0.1  # between two looks at the limits
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(text: str) -> int:
    """Keep a program to its end.

    Args:
        text: a JSON object: ``words``, the program and its arguments; ``commands``, what its
            standard input is; ``maxSec``, seconds that it may take, 0 for any; ``mostBytes``,
            that it may write to standard output and to standard error.
    """
    plan = json.loads(text)
    # whatever is sent from now on reaches the program
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*PASSED, KILL))
    if os.read(0, 1) != GO:
        return 0
    try:
        program = _start(plan, before)
    except OSError as error:
        _put(BEGUN, {"errno": error.errno, "file": error.filename, "text": error.strerror})
        return 0
    _pass_on(program.pid, before)
    _put(BEGUN, {"pid": program.pid})
    cut = _watch(program.pid, plan)
    _sweep(program.pid)
    _trim(plan["mostBytes"])
    _put(ENDED, {"code": _code(program.pid), "cut": cut})
    return 0


def _start(plan: dict[str, Any], mask: set[int]) -> subprocess.Popen[bytes]:
    # open for both: it never sees the end of its commands, and a writer always finds a reader
    commands = os.open(plan["commands"], os.O_RDWR | os.O_CLOEXEC)
    try:
        return subprocess.Popen(plan["words"], stdin=commands, process_group=0,
                                preexec_fn=_preparation(mask))
    finally:
        os.close(commands)


def _preparation(mask: set[int]) -> Callable[[], None]:
    """Return what the program's process does before it is the program: it ends with its keeper."""
    bind, keeper = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        for number in (*PASSED, KILL):
            signal.signal(number, signal.SIG_DFL)
        bind(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare


def _pass_on(group: int, mask: set[int]) -> None:
    """Send the program and its children what is sent to us: it is not reaped before we end.

    Each signal goes once: a daemon that does not know whether the last one sent it sends it anew,
    and some programs take the second for a wish to hurry.
    """
    passed = set[int]()

    def pass_on(number: int, _frame: object) -> None:
        if number not in passed:
            passed.add(number)
            os.killpg(group, signal.SIGKILL if number == KILL else number)

    for number in (*PASSED, KILL):
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask - {*PASSED, KILL})


def _watch(pid: int, plan: dict[str, Any]) -> str:
    """Wait for the end of the program; return why it was cut short, or an empty text."""
    ended, cut, kill_at = os.pidfd_open(pid), "", 0.0
    deadline = time.monotonic() + plan["maxSec"] if plan["maxSec"] else float("inf")
    while not select.select([ended], [], [], _LOOK_S)[0]:
        if cut and time.monotonic() > kill_at:
            os.killpg(pid, signal.SIGKILL)
        elif not cut and (cut := _excess(plan, deadline)):
            os.killpg(pid, signal.SIGTERM)
            kill_at = time.monotonic() + GRACE
    return cut


def _excess(plan: dict[str, Any], deadline: float) -> str:
    if time.monotonic() > deadline:
        return f"it took longer than {plan['maxSec']:g} s (maxSec)"
    for fd, name in ((1, "output"), (2, "error")):
        if os.fstat(fd).st_size > plan["mostBytes"]:
            return f"it wrote more than {plan['mostBytes']} bytes to its standard {name}"
    return ""


def _sweep(group: int) -> None:
    """End what the program left running: its files are taken as they are now."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            if not _is_alive(group):
                return
            os.killpg(group, number)
            time.sleep(0.05)


def _trim(most: int) -> None:
    """Give back what a flood took of the disk."""
    for fd in (1, 2):
        if os.fstat(fd).st_size > most:
            os.ftruncate(fd, most)


def _is_alive(group: int) -> bool:
    """Tell whether a process of a group runs; a zombie, as the program is by now, does not."""
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                state, _, its_group = file.read().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if its_group == str(group) and state not in "ZX":
            return True
    return False


def _code(pid: int) -> int:
    """Return the exit code, negative for a signal; reaped it would not keep its number."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _put(name: str, facts: dict[str, Any]) -> None:
    with open(f"{name}.new", "w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{name}.new", name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

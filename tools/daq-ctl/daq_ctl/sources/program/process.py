"""Start a keeper, know it again, send it signals; everything here blocks on the disk or less."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from daq_ctl.sources.program import keeper
from daqlib import fsops, spool

#: Files of ours in the directory of a recording.
COMMANDS, OUT, ERR = "commands", "stdout", "stderr"
#: Bytes that a program may write to standard output, and to standard error.
MOST_BYTES = 64 << 20

_KEPT = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        code: exit code, negative for a signal; None when nobody knows.
        cut: why its keeper ended it, or empty.
    """

    code: int | None
    cut: str = ""


def lay_out(folder: str) -> float:
    """Make the files that a program's standard streams are.

    Returns:
        The time from which on what is written is the program's, by the clock of the file system.
    """
    os.mkfifo(os.path.join(folder, COMMANDS), 0o600)
    for name in (OUT, ERR):
        os.close(os.open(os.path.join(folder, name),
                         os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664))
    return os.stat(os.path.join(folder, ERR)).st_mtime


def spawn(folder: str, words: list[str], environment: dict[str, str], max_sec: float, *,
          hears: bool, go: int) -> subprocess.Popen[bytes]:
    """Start a keeper that waits for the word to go.

    Args:
        folder: of the recording, laid out.
        words: absolute path of the program, and arguments.
        environment: variables beside the few that are passed on.
        max_sec: seconds that the program may take; 0 is any time.
        hears: whether the program reads commands.
        go: descriptor that brings the word.
    """
    plan = {"words": words, "commands": COMMANDS if hears else os.devnull, "maxSec": max_sec,
            "mostBytes": MOST_BYTES}
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with (open(os.path.join(folder, OUT), "ab") as out,
          open(os.path.join(folder, ERR), "ab") as err):
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", keeper.__file__, json.dumps(plan)], stdin=go,
            stdout=out, stderr=err, cwd=folder, start_new_session=True,
            env={"PATH": _PATH, **kept, **environment})


def identity(pid: int) -> dict[str, Any]:
    """Return what names a process for good, on this machine until it is restarted and after."""
    return {"pid": pid, "start": spool.process_start(pid), "boot": _boot()}


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def is_alive(known: dict[str, Any]) -> bool:
    """Tell whether a process runs; one that ended and was not reaped does not."""
    pid = known.get("pid", 0)
    if known.get("boot") != _boot() or spool.process_start(pid) != known["start"]:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def send(known: dict[str, Any], number: int) -> None:
    """Send a keeper a signal, which it passes on; harmless when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(known["pid"])
        try:
            if is_alive(known):  # looked at while the descriptor holds it
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)


def tell(folder: str, command: dict[str, Any]) -> bool:
    """Send a program a command; tell whether there is room for it, and somebody to read it."""
    line = json.dumps(command, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    try:
        fd = os.open(os.path.join(folder, COMMANDS),
                     os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return os.write(fd, line) == len(line)
    except OSError:
        return False
    finally:
        os.close(fd)


def begun(folder: str) -> dict[str, Any]:
    """Return what the keeper wrote of the start: ``pid``, or ``errno``; empty when nothing yet."""
    return _facts(folder, keeper.BEGUN)


def ended(folder: str, known: dict[str, Any]) -> Ended | None:
    """Return how a program ended; None while its keeper is there."""
    if is_alive(known):
        return None
    facts = _facts(folder, keeper.ENDED)
    return Ended(facts.get("code"), str(facts.get("cut", "")))


def _facts(folder: str, name: str) -> dict[str, Any]:
    try:
        found = json.loads(fsops.read_regular(os.path.join(folder, name))[0])
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

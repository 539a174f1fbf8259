"""Run a program on a product: a ``commandReceiver``, or the hook after a release.

It gets the product's path as its last argument and a JSON document on standard input; nothing of
ours, neither lock nor pipe, and no shell between. Its exit code decides.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from daq_release import children
from daqlib import errors

#: Exit code by which a program asks to be run again later (``EX_TEMPFAIL``).
LATER = 75

_GRACE = 5.0  # seconds between TERM and KILL
_KEPT = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")
_PATH = "/usr/local/bin:/usr/bin:/bin"
_LONGEST = 300  # characters of a reason
_TAIL = 8192  # bytes of standard error that are looked at for it


@dataclass(frozen=True)
class Call:
    """How to run a program.

    Attributes:
        words: absolute path of the program, and arguments.
        document: what it reads on standard input.
        folder: its working directory, ``data/ID``.
        log: name of the files in ``data/ID/logs/`` that get what it prints, ``.out`` and ``.err``;
            they are those of the last run.
        limit: seconds that it may take.
        environment: variables beside the few that are passed on.
    """

    words: Sequence[str]
    document: dict[str, Any]
    folder: str
    log: str
    limit: float
    environment: dict[str, str]


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        code: exit code; negative for a signal.
        reason: the last line that it wrote to standard error, or what else is to be said.
    """

    code: int
    reason: str


def check(path: str) -> None:
    """Check that a program can be run.

    Raises:
        errors.BadConfig: it is missing, or may not be run.
    """
    if not os.path.isfile(path):
        raise errors.BadConfig(f"{path}: no such program", "install it, or mend its path")
    if not os.access(path, os.X_OK):
        raise errors.BadConfig(f"{path}: may not be run", f"chmod +x {path}")


def run(call: Call) -> Ended:
    """Run a program to its end; it is ended with us.

    Raises:
        errors.BadConfig: it cannot be run.
        OSError: its files cannot be made.
    """
    check(call.words[0])
    logs = os.path.join(call.folder, "logs")
    os.makedirs(logs, exist_ok=True)
    paths = [os.path.join(logs, f"{call.log}.{kind}") for kind in ("out", "err")]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_file(path)) for path in paths]
        given = stack.enter_context(open(os.memfd_create("document"), "w+b"))
        given.write(json.dumps(call.document, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"))
        given.seek(0)
        code, late = _run(call, given, *files)
    said = _last_line(paths[1])
    if late:
        return Ended(code, f"it took longer than {call.limit:g} s (cfg/release/program_sec)")
    if code < 0:
        return Ended(code, f"it was killed by signal {-code}" + (f": {said}" if said else ""))
    return Ended(code, said or "it gave no reason")


def _file(path: str) -> IO[bytes]:
    # a new file, never one through which somebody else's would be written
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)
    return open(fd, "w+b", buffering=0)


def _run(call: Call, given: IO[bytes], out: IO[bytes], err: IO[bytes]) -> tuple[int, bool]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    process = None
    try:
        with children.held() as mask, _explained(call.words[0]):
            process = subprocess.Popen(
                [*call.words], stdin=given, stdout=out, stderr=err, cwd=call.folder,
                env={"PATH": _PATH, **kept, **call.environment}, start_new_session=True,
                preexec_fn=children.preparation(mask))
        late = not _ended(process, call.limit)
    finally:
        if process is not None:
            with children.held():  # told to end while it may still go by itself, we end it first
                _end(process)
    return process.returncode, late


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Say what is wrong with a program that is there, as :func:`check` found, but does not start.

    Raises:
        errors.BadConfig: it is no program, or what its first line names is not there.
    """
    try:
        yield
    except FileNotFoundError as error:
        if error.filename != path:
            raise  # the working directory
        raise errors.BadConfig(f"{path}: the interpreter that it needs is not there",
                               "install what its first line, #!, names, or mend that line"
                               ) from None
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        raise errors.BadConfig(f"{path}: is no program of this system",
                               "begin a script with #!/bin/sh, or install it anew") from None


def _ended(process: subprocess.Popen[bytes], patience: float) -> bool:
    """Tell whether a program ends within so many seconds; it is not reaped."""
    fd = os.pidfd_open(process.pid)
    try:
        return bool(select.select([fd], [], [], max(0.0, patience))[0])
    finally:
        os.close(fd)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Reap a program; one that still runs is ended with its process group: TERM, then KILL."""
    if not _ended(process, 0):
        os.killpg(process.pid, signal.SIGTERM)
        _ended(process, _GRACE)
        os.killpg(process.pid, signal.SIGKILL)  # a zombie's group id cannot belong to others
    process.wait()


def _last_line(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    found = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "".join(c if c.isprintable() else " " for c in found)[:_LONGEST]

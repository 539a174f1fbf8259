"""The vocabulary of the black-box tests: run a tool in a fresh spool and say what must follow.

    def test_lists_nothing(daq):
        daq.run("daq-status").ok().no_output()
        daq.run("daq-merge", "--job", "gone").fails(66, "gone")
        assert daq.tree() == {}

The tools run in a clean environment (see :meth:`Daq.environment`), from the checkout's ``bin/``
or, with ``--daq-bin DIR``, from the scripts of an installation.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

#: The directories that a job passes through or ends in.
STAGES = ("acquire", "collect", "merge", "release", "done", "failed", "hold", "bad", "remote")
#: All directories of a spool.
FOLDERS = (*STAGES, "log", "lock", "data", "result", "run")
MARKER = ".daqspool"

#: 2026-11-21T02:30:00Z, the frozen time of FITS headers.
EPOCH = 1795228200

#: Seconds to wait for what comes at once on a machine at rest: only a hang takes all of them.
PATIENCE_S = 60.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

T = TypeVar("T")

_TRACEBACK = "Traceback (most recent call last)"
_ports = random.Random(os.getpid())
_used_ports: set[int] = set()


@dataclass
class Result:
    """How a tool ended; the assertions return the result, so that they chain."""

    command: list[str]
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        words = " ".join(self.command)
        return f"{words}\n  code: {self.code}\n  stdout: {self.out!r}\n  stderr: {self.err!r}"

    @property
    def tool(self) -> str:
        """The tool's name, as its error lines begin."""
        return Path(self.command[0]).name

    def exits(self, code: int) -> Result:
        """Assert the exit code, and that no traceback was shown."""
        assert self.code == code, f"expected exit code {code}\n{self}"
        assert _TRACEBACK not in self.err, f"a traceback\n{self}"
        return self

    def ok(self) -> Result:
        """Assert success."""
        return self.exits(0)

    def fails(self, code: int, *texts: str, chatty: bool = False) -> Result:
        """Assert an exit code and one clear error line that begins with the tool's name.

        Args:
            code: the exact exit code, not 0.
            texts: each must occur in the error line.
            chatty: other lines may come before the error line.
        """
        assert code, "fails() is for errors"
        self.exits(code)
        lines = self.err.splitlines()
        assert lines and (chatty or len(lines) == 1), f"expected one error line\n{self}"
        last = lines[-1]
        assert last.startswith(f"{self.tool}: "), f"the error does not name the tool\n{self}"
        assert len(last) > len(self.tool) + 8, f"the error says nothing\n{self}"
        for text in texts:
            assert text in last, f"the error does not say {text!r}\n{self}"
        return self

    def died(self, signum: int) -> Result:
        """Assert that a signal killed the tool."""
        assert self.code == -signum, f"expected death by signal {signum}\n{self}"
        return self

    def no_output(self) -> Result:
        """Assert that stdout is empty."""
        assert self.out == "", f"expected nothing on stdout\n{self}"
        return self

    def silent(self) -> Result:
        """Assert that neither stdout nor stderr say anything."""
        assert self.err == "", f"expected nothing on stderr\n{self}"
        return self.no_output()

    def says(self, text: str) -> Result:
        """Assert that stderr holds a text."""
        assert text in self.err, f"expected {text!r} on stderr\n{self}"
        return self

    def prints(self, text: str) -> Result:
        """Assert that stdout holds a text."""
        assert text in self.out, f"expected {text!r} on stdout\n{self}"
        return self

    def line(self) -> str:
        """Return the only line of stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, f"expected one line on stdout\n{self}"
        return lines[0]

    def json(self) -> Any:
        """Return stdout as one JSON document."""
        try:
            return json.loads(self.out)
        except ValueError as error:
            raise AssertionError(f"stdout is not JSON: {error}\n{self}") from error

    def jsonl(self) -> list[Any]:
        """Return the JSON documents of stdout, one a line."""
        try:
            return [json.loads(line) for line in self.out.splitlines()]
        except ValueError as error:
            raise AssertionError(f"stdout is not JSON Lines: {error}\n{self}") from error


@dataclass
class Process:
    """A tool in the background; its words go to files, so that it can never block on us."""

    command: list[str]
    popen: subprocess.Popen[bytes]
    out_file: Path
    err_file: Path

    @property
    def pid(self) -> int:
        """The process id."""
        return self.popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        """The writing end of its standard input (only with ``stdin=True``)."""
        assert self.popen.stdin is not None
        return self.popen.stdin

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self.out_file.read_text(errors="replace")

    @property
    def err(self) -> str:
        """What it has said so far."""
        return self.err_file.read_text(errors="replace")

    def running(self) -> bool:
        """Tell whether it still runs."""
        return self.popen.poll() is None

    def result(self) -> Result:
        """Return code (-1000 while it runs) and words so far."""
        code = self.popen.poll()
        return Result(self.command, -1000 if code is None else code, self.out, self.err)

    def wait(self, timeout: float = PATIENCE_S) -> Result:
        """Wait for its end and return the result."""
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s\n{self.result()}") from None
        return self.result()

    def wait_for(self, pattern: str, timeout: float = PATIENCE_S) -> str:
        """Wait until a line of stdout or stderr matches a regular expression; return the line."""

        def found() -> str:
            lines = [*self.out.splitlines(), *self.err.splitlines()]
            match = [line for line in lines if re.search(pattern, line)]
            assert match or self.running(), f"ended before saying {pattern!r}\n{self.result()}"
            return match[0] if match else ""

        return wait_until(found, timeout, lambda: f"said no {pattern!r}\n{self.result()}")

    def press_enter(self) -> None:
        """Type Enter on its standard input."""
        self.stdin.write(b"\n")
        self.stdin.flush()

    def signal(self, signum: int) -> None:
        """Send a signal to it, by its id."""
        self.popen.send_signal(signum)

    def kill(self) -> Result:
        """Kill it at once, as a crash would."""
        self.popen.kill()
        return self.wait()

    def stop(self, timeout: float = PATIENCE_S) -> Result:
        """End it as an operator does: TERM, and KILL when that does not help."""
        if self.running():
            self.popen.terminate()
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        if self.popen.stdin:
            with suppress(OSError):
                self.popen.stdin.close()
        return self.wait()


@dataclass
class Daq:
    """The tools, bound to one spool and one clean environment."""

    bin: Path
    folder: Path
    spool: Path
    installed: bool = False
    env: dict[str, str] = field(default_factory=dict)
    #: What every command line begins with, to run it in another place such as a network namespace.
    prefix: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    @property
    def python(self) -> str:
        """The interpreter that the tools run on."""
        beside = self.bin / "python"
        return str(beside) if self.installed and beside.exists() else sys.executable

    def obey_permissions(self) -> None:
        """Have the tools run without the privileges of root from now on."""
        if os.geteuid():
            return
        setpriv = shutil.which("setpriv", path=SYSTEM_PATH)
        if not setpriv:
            pytest.skip("root may read and write everywhere, and there is no setpriv")
        folder = self.folder / "ordinary"
        folder.mkdir()
        for tool in self.bin.glob("daq*"):
            program = folder / tool.name
            program.write_text(f"#!/bin/sh\nexec {setpriv} --bounding-set=-all --inh-caps=-all "
                               f'{shlex.quote(str(tool))} "$@"\n')
            program.chmod(0o755)
        self.bin = folder

    def environment(self, more: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Return the whole environment of a tool; None in ``more`` takes a variable away."""
        made: dict[str, str | None] = {
            "PATH": SYSTEM_PATH,
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "DAQ_SPOOL": str(self.spool),
            "SOURCE_DATE_EPOCH": str(EPOCH),
        }
        if not self.installed:
            made["DAQ_PYTHON"] = sys.executable
        made.update(self.env)
        made.update(more or {})
        return {name: value for name, value in made.items() if value is not None}

    def command(self, tool: str, *arguments: object) -> list[str]:
        """Return the argument vector of a tool."""
        return [str(self.bin / tool), *map(str, arguments)]

    def run(
        self,
        tool: str,
        *arguments: object,
        stdin: str | bytes | None = None,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        timeout: float = PATIENCE_S,
    ) -> Result:
        """Run a tool to its end; without ``stdin`` it reads from the null device.

        Standard output and error go to files: a child that outlives the tool (a test may want
        one) does not keep us waiting for the end of a pipe.
        """
        process = self._spawn(self.command(tool, *arguments), stdin is not None, env, cwd)
        data = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            with suppress(BrokenPipeError):
                if data is not None:
                    process.stdin.write(data)
                    process.stdin.close()
            return process.wait(timeout)
        finally:
            process.stop()
            self.processes.remove(process)

    @contextmanager
    def start(
        self,
        tool: str,
        *arguments: object,
        until: str | None = None,
        stdin: bool = False,
        env: Mapping[str, str | None] | None = None,
        timeout: float = PATIENCE_S,
    ) -> Iterator[Process]:
        """Run a tool in the background and end it with the block.

        Args:
            tool: the tool's name.
            arguments: its arguments.
            until: wait until it says something that matches this regular expression.
            stdin: whether to keep its standard input open, see :meth:`Process.press_enter`.
            env: additions to the environment.
            timeout: seconds to wait for ``until``.
        """
        process = self.spawn(tool, *arguments, until=until, stdin=stdin, env=env, timeout=timeout)
        try:
            yield process
        finally:
            process.stop()

    def spawn(
        self,
        tool: str,
        *arguments: object,
        until: str | None = None,
        stdin: bool = False,
        env: Mapping[str, str | None] | None = None,
        timeout: float = PATIENCE_S,
    ) -> Process:
        """Like :meth:`start`, but ended with the test."""
        process = self._spawn(self.command(tool, *arguments), stdin, env, None)
        if until:
            process.wait_for(until, timeout)
        return process

    def program(self, *command: object, until: str | None = None) -> Process:
        """Run another program than a tool like :meth:`spawn`, in the environment of the tools."""
        process = self._spawn([*map(str, command)], False, None, None)
        if until:
            process.wait_for(until)
        return process

    def _spawn(
        self,
        command: list[str],
        stdin: bool,
        env: Mapping[str, str | None] | None,
        cwd: Path | None,
    ) -> Process:
        words = self.folder / "words"
        number = len(list(words.iterdir()))
        out, err = words / f"{number:04d}.out", words / f"{number:04d}.err"
        with open(out, "xb") as out_file, open(err, "xb") as err_file:
            popen = subprocess.Popen(
                [*self.prefix, *command],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                env=self.environment(env),
                cwd=cwd or self.folder / "home",
            )
        process = Process(command, popen, out, err)
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End what still runs, the last one first."""
        for process in reversed(self.processes):
            process.stop()

    def tree(self) -> dict[str, list[str]]:
        """Return the ids in each stage directory that holds any."""
        found = {stage: self._ids(stage) for stage in STAGES}
        return {stage: ids for stage, ids in found.items() if ids}

    def _ids(self, stage: str) -> list[str]:
        folder = self.spool / stage
        names = os.listdir(folder) if folder.is_dir() else []
        return sorted(name.removesuffix(".json") for name in names if not name.startswith("."))

    def drop(self, stage: str, job: str, document: object) -> Path:
        """Put a job file into a stage as a careful person does; text is written as it is."""
        text = document if isinstance(document, str) else json.dumps(document)
        target = self.spool / stage / f"{job}.json"
        embryo = target.with_name(f".{target.name}")
        embryo.write_text(text)
        embryo.rename(target)
        return target

    def history(self, job: str) -> list[dict[str, Any]]:
        """Return the events of a job's log."""
        text = (self.spool / "log" / f"{job}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    def events(self, job: str) -> list[str]:
        """Return the names of a job's events, in order."""
        return [str(event["event"]) for event in self.history(job)]

    def results(self) -> list[str]:
        """Return the names of the finished data products."""
        names = os.listdir(self.spool / "result")
        return sorted(name for name in names if not name.startswith("."))


def fresh(folder: Path, bin_dir: Path, *, installed: bool = False) -> Daq:
    """Make a spool and the directories beside it, and return the tools bound to them."""
    for name in ("home", "tmp", "words"):
        (folder / name).mkdir()
    return Daq(bin_dir, folder, make_spool(folder / "spool"), installed)


def make_spool(path: Path) -> Path:
    """Make an empty spool: its directories and, last, its marker file."""
    for name in FOLDERS:
        (path / name).mkdir(parents=True)
    (path / MARKER).write_text('{"daqspool": 1}\n')
    return path


def lacking(reason: str) -> NoReturn:
    """Skip the test because a part is not installed; with CI=true that is an error."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody uses.

    It lies below the range that the kernel gives to outgoing connections, and each process of a
    parallel test run tries its own sequence, so that nobody takes it before the test does.
    """
    while True:
        port = _ports.randrange(10000, 32000)
        if port in _used_ports:
            continue
        _used_ports.add(port)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def preloadable(source: Path, folder: Path) -> Path:
    """Compile a file of C that is to be preloaded, LD_PRELOAD, into a folder."""
    made = folder / f"{source.stem}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, source,
                    "-ldl"], check=True)
    return made


def wait_until(
    condition: Callable[[], T], timeout: float = PATIENCE_S,
    explain: Callable[[], str] | None = None,
) -> T:
    """Call a condition until it returns something true, and return that.

    Args:
        condition: called every 20 ms.
        timeout: seconds, after which the test fails.
        explain: makes the message of that failure.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(explain() if explain else f"not true within {timeout} s")
        time.sleep(0.02)


@functools.cache
def group(path: str) -> str:
    """Return the group of tests that a test file is, or an empty text.

    Args:
        path: of the file below the checkout.
    """
    text = (CHECKOUT / path).read_text()
    found = re.search(r'^pytestmark = .*\bxdist_group\("([\w-]+)"\)', text, re.MULTILINE)
    return found[1] if found else ""


def make_fits(
    path: Path,
    extensions: int = 1,
    *,
    cards: Mapping[str, object] | None = None,
    shape: Sequence[int] = (8, 10),
    checksum: bool = False,
    name: str = "EXT",
) -> Path:
    """Write a FITS file: a primary HDU without data and image extensions ``EXT1``, ``EXT2``, ...

    Args:
        path: where to.
        extensions: how many; the pixels count up from the extension's number.
        cards: more primary keywords (``HIERARCH ESO ...`` as astropy wants them).
        shape: of each image, in numpy's order.
        checksum: whether to write CHECKSUM and DATASUM.
        name: what the extension names begin with.
    """
    import numpy
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    for keyword, value in (cards or {}).items():
        primary.header[keyword] = value
    hdus = fits.HDUList([primary])
    for number in range(1, extensions + 1):
        size = int(numpy.prod(shape))
        pixels = (numpy.arange(size, dtype="int32") + number).reshape(shape)
        hdus.append(fits.ImageHDU(pixels, name=f"{name}{number}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    hdus.writeto(path, checksum=checksum)
    return path


def end(pid: int) -> None:
    """Kill a process that a test knows by its id only, when it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

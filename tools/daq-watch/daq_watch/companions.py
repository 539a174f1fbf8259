"""What runs beside the watcher: the server, the mirror of another host, and the pruning.

Each is a process of its own, started as a person would start it; it is started again when it
dies, and it ends with the watcher, however that ends. What it says is passed on; of a companion
that cannot begin, what it said before is not said again.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from daqlib import cli, errors
from daqlib.config import Config
from daqlib.spool import Spool

_FIRST, _LONGEST = 1.0, 60.0  # seconds before one that died is started again
_BEGAN = 10.0  # seconds after which one that dies has been at work
_PATIENCE = 5.0  # seconds from TERM to KILL
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, prctl(2)
_PIECE = 1 << 16
_MARK = ".pruned"  # in run/; its modification time is when pruning began last


@dataclass
class _Companion:
    """One of them.

    Attributes:
        name: what it does.
        command: its argument vector.
        settings: the values of the configuration that it cannot read again by itself.
        lasts: whether it is to run all the time.
    """

    name: str
    command: list[str]
    settings: list[Any]
    lasts: bool = True
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    since: float = 0.0
    began_at: float = 0.0
    again_at: float = 0.0
    pause: float = _FIRST
    rest: bytes = b""
    said: set[bytes] = field(default_factory=set)
    saying: set[bytes] = field(default_factory=set)
    code: int | None = None


class Companions:
    """The processes that the watcher runs beside it."""

    def __init__(self, on: Spool, settings: Config, *, serve: bool, rr_uri: str | None,
                 ps_uri: str | None, name: str | None) -> None:
        """Start none yet: :meth:`begin`.

        Args:
            on: the spool.
            settings: ``hand_over``, ``retention.every_hours``, ``dpm.*`` and more.
            serve: whether to run the server.
            rr_uri: where it serves requests; None: as configured.
            ps_uri: where it publishes; None: as configured.
            name: of the server's process instance; None: its own.
        """
        self._on = on
        self._settings = settings
        self._serve = serve
        self._endpoints = [f"--{key}={value}" for key, value in (
            ("rr-uri", rr_uri), ("ps-uri", ps_uri), ("proc-name", name)) if value]
        self._selector: selectors.BaseSelector | None = None
        self._all: dict[str, _Companion] = {}
        self.next_at = math.inf

    def begin(self, selector: selectors.BaseSelector) -> None:
        """Begin to run them.

        Args:
            selector: calls what is registered there when it is readable.
        """
        self._selector = selector
        self.next_at = 0.0

    def tend(self, settings: Config) -> None:
        """Start what is to run and does not, end what is no longer wanted."""
        self._settings = settings
        wanted = self._wanted()
        for name, made in wanted.items():
            known = self._all.get(name)
            if known is not None and (known.command, known.settings) != (
                    made.command, made.settings):
                self._end([known])
                known = None
            if known is None:
                self._all[name] = made
        self._end([self._all.pop(name) for name in [*self._all] if name not in wanted])
        now = time.monotonic()
        for each in self._all.values():
            if each.process is None and now >= each.again_at and self._is_due(each):
                self._start(each)
        self._plan()

    def reload(self, settings: Config) -> None:
        """Take over another configuration; those that run read it again, or are started anew."""
        for each in self._all.values():
            if each.process and each.name == "serve":
                each.process.send_signal(signal.SIGHUP)
            if each.process is None:
                each.again_at, each.pause = 0.0, _FIRST
        self.tend(settings)

    def pids(self) -> list[int]:
        """Return the process ids."""
        return [each.process.pid for each in self._all.values() if each.process]

    def facts(self) -> list[dict[str, Any]]:
        """Return what is known of each, for people."""
        return [{"name": each.name, "pid": each.process.pid if each.process else None,
                 "since": each.since if each.process else None, "code": each.code}
                for each in self._all.values()]

    def close(self) -> None:
        """End them all."""
        self._end([*self._all.values()])
        self._all.clear()
        self.next_at = math.inf

    # -- which ---------------------------------------------------------------------------------

    def _wanted(self) -> dict[str, _Companion]:
        of, made = self._settings, []
        try:
            watch, shared = cli.command("daq-watch"), ["--spool", self._on.root, *cli.verbosity()]
            if of.path:
                shared += ["--config", of.path]
            if self._serve:
                made.append(_Companion(
                    "serve", [*watch, "--serve-only", *self._endpoints, *shared],
                    [of[key] for key in ("dpm.req_endpoint", "dpm.pub_endpoint", "insecure",
                                         "curve.certificate", "curve.authorized")]))
            if of["hand_over"]:
                made.append(_Companion(
                    "mirror", [*watch, "--mirror-only", *shared],
                    [of[key] for key in ("hand_over", "hand_over_as", "rsh", "ssh_config")]))
            if of["retention.every_hours"]:
                made.append(_Companion(
                    "prune", [*cli.command("daq-status"), "--prune", "--yes", "--quiet",
                              *(word for word in shared if word not in cli.verbosity())],
                    [], lasts=False))
        except errors.BadConfig as error:
            cli.warn(str(error))
        return {each.name: each for each in made}

    def _is_due(self, each: _Companion) -> bool:
        if each.lasts:
            return True
        try:
            ago = time.time() - os.stat(self._on.path("run", _MARK)).st_mtime
        except FileNotFoundError:
            return True
        hours = self._settings["retention.every_hours"] * 3600
        each.again_at = time.monotonic() + max(0.0, hours - ago)
        return ago < 0 or ago >= hours  # a mark ahead of us was made by another clock

    def _plan(self) -> None:
        self.next_at = min((each.again_at for each in self._all.values() if not each.process),
                           default=math.inf)

    # -- their lives ---------------------------------------------------------------------------

    def _start(self, each: _Companion) -> None:
        import ctypes

        assert self._selector is not None
        each.since, each.began_at, each.saying = time.time(), time.monotonic(), set()
        if not each.lasts:
            self._mark()
        try:
            each.process = subprocess.Popen(
                each.command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE,
                preexec_fn=functools.partial(_die_with, ctypes.CDLL(None), os.getpid()),
                start_new_session=True)
            each.pidfd = os.pidfd_open(each.process.pid)
        except OSError as error:
            cli.warn(f"cannot start {each.name}: {cli.from_os_error(error)}")
            self._postpone(each)
            return
        assert each.process.stderr is not None
        os.set_blocking(each.process.stderr.fileno(), False)
        self._selector.register(each.process.stderr, selectors.EVENT_READ,
                                functools.partial(self._pass_on, each))
        self._selector.register(each.pidfd, selectors.EVENT_READ,
                                functools.partial(self._ended, each))

    def _mark(self) -> None:
        with contextlib.suppress(OSError):
            path = self._on.path("run", _MARK)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o664))
            os.utime(path)

    def _postpone(self, each: _Companion) -> None:
        each.again_at = time.monotonic() + each.pause
        each.pause = min(2 * each.pause, _LONGEST)

    def _pass_on(self, each: _Companion) -> None:
        """Say what it says, but for what its forerunner said that never came to work."""
        assert each.process and each.process.stderr
        try:
            data = os.read(each.process.stderr.fileno(), _PIECE)
        except BlockingIOError:
            return
        if not data:
            self._forget(each.process.stderr)
        *lines, each.rest = (each.rest + (data or b"\n")).split(b"\n")
        for line in filter(None, lines):
            each.saying.add(line)
            if line not in each.said:
                with contextlib.suppress(OSError):
                    sys.stderr.buffer.write(line + b"\n")
                    sys.stderr.flush()

    def _forget(self, what: Any) -> None:
        assert self._selector is not None
        with contextlib.suppress(KeyError):
            self._selector.unregister(what)

    def _ended(self, each: _Companion) -> None:
        process = each.process
        if process is None:
            return
        self._leave(each)
        each.code = process.wait()
        lasted = time.monotonic() - each.began_at >= _BEGAN
        if lasted or not each.lasts:
            each.pause, each.said = _FIRST, set()
        else:
            each.said |= each.saying
        self._postpone(each)
        if each.lasts and lasted:
            cli.warn(f"{each.name} (process {process.pid}) ended "
                     f"({_how(each.code)}); it is started again")
        self._plan()

    def _leave(self, each: _Companion) -> None:
        """Hear the last of one that ended, and forget its process."""
        assert each.process and each.process.stderr
        self._pass_on(each)
        self._forget(each.pidfd)
        self._forget(each.process.stderr)
        each.process.stderr.close()
        os.close(each.pidfd)
        each.process, each.pidfd = None, -1

    def _end(self, ending: list[_Companion]) -> None:
        running = [each for each in ending if each.process]
        for each in running:
            assert each.process
            each.process.terminate()
        deadline = time.monotonic() + _PATIENCE
        for each in running:
            process = each.process
            assert process
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._leave(each)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _die_with(libc: Any, parent: int) -> None:
    """Ask the kernel to end this process with its parent, however that ends."""
    libc.prctl(_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(0)

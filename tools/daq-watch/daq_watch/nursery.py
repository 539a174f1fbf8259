"""The watcher's side of the nursery: workers by fork instead of by starting an interpreter.

An interpreter that loads a stage tool takes longer than the tool takes for a small job. The
nursery is a process of its own (:mod:`daq_watch.cradle`); a worker that it bears becomes a child
of the watcher, which adopts orphans. When it cannot be had, workers are started as programs, and
nothing else is different.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from daq_watch import lineage
from daqlib import boot, cli

_ANSWER = 10.0  # seconds for a fork, on a machine that swaps
_PAUSE = 5.0  # seconds between two starts
_MOST = 3  # of these in a row that never got ready
_MESSAGE = 4096


class Nursery:
    """The process that forks workers, as long as it can be had."""

    def __init__(self, tools: dict[str, list[str]]) -> None:
        """Do nothing yet: :meth:`tend`.

        Args:
            tools: the argument vector of each stage's tool.
        """
        self._tools = {os.path.basename(words[0]): words[0] for words in tools.values()
                       if len(words) == 1 and _is_ours(words[0])}
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._ready = False
        self._again_at = 0.0
        self._fruitless = 0
        self._selector: selectors.BaseSelector | None = None
        self._told: Callable[[], None] = lambda: None

    @property
    def pid(self) -> int:
        """Its process id; 0 when there is none."""
        return self._process.pid if self._process else 0

    @property
    def is_ready(self) -> bool:
        """Whether it can bear workers."""
        return self._ready

    def begin(self, selector: selectors.BaseSelector, told: Callable[[], None]) -> None:
        """Take part in the watcher's loop.

        Args:
            selector: calls what is registered there when it is readable.
            told: called when the process got ready or ended.
        """
        self._selector, self._told = selector, told
        self._register()

    def _register(self) -> None:
        if self._selector and self._link:
            self._selector.register(self._link, selectors.EVENT_READ, self._heed)

    def _heed(self) -> None:
        """Hear that it is ready, or that it ended: its answers are waited for elsewhere."""
        if self._ready or not self._is_ready():  # unasked it speaks only once
            self.close()
            self.tend()
        self._told()

    def tend(self) -> None:
        """See that the process runs: start it, again if need be."""
        if self._process and self._process.poll() is not None:
            self.close()
        if self._process or not self._tools or time.monotonic() < self._again_at:
            return
        if self._fruitless >= _MOST or not lineage.adopt():
            self._tools = {}
            return
        self._again_at = time.monotonic() + _PAUSE
        self._fruitless += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._command(theirs.fileno()), stdin=subprocess.DEVNULL, stdout=2,
                    start_new_session=True, pass_fds=[theirs.fileno()])
            except OSError as error:
                ours.close()
                cli.detail(f"workers are started as programs: {cli.from_os_error(error)}")
                return
        self._link = ours
        self._register()

    def _command(self, descriptor: int) -> list[str]:
        checkout = os.environ.get("DAQ_CHECKOUT", "")
        words = [f"{tool}={'' if checkout else path}" for tool, path in self._tools.items()]
        return [sys.executable, "-P", *["-S"] * sys.flags.no_site, boot.__file__,
                "daq_watch.cradle", "main", str(descriptor),
                os.path.join(checkout, "tools") if checkout else "-", *words]

    def close(self) -> None:
        """End the process; its workers go on."""
        if self._process and self._link:
            if self._selector:
                self._selector.unregister(self._link)
            self._link.close()
            self._process.kill()  # it has nothing to tidy up
            self._process.wait()
        self._process = self._link = None
        self._ready = False

    def bear(self, tool: list[str], arguments: list[str]) -> int:
        """Start a stage tool and return its process id; 0 when it has to be started otherwise.

        Args:
            tool: the argument vector of the tool.
            arguments: its arguments.
        """
        name = os.path.basename(tool[0])
        if self._tools.get(name) != tool[0]:
            return 0
        self.tend()
        if not self._is_ready():
            return 0
        answer = self._ask({"tool": name, "argv": arguments})
        pid = answer.get("pid", 0)
        if not pid:
            if answer.get("stale"):
                self._again_at = 0.0
            self.close()
        return int(pid)

    def _is_ready(self) -> bool:
        if self._link is None or self._ready:
            return self._ready
        if select.select([self._link], [], [], 0)[0]:
            self._ready = bool(self._receive().get("ready"))
            if self._ready:
                self._fruitless = 0
            else:
                self.close()
        return self._ready

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._link is not None
        try:
            self._link.send(json.dumps(order).encode())
        except OSError:  # it ended
            return {}
        if not select.select([self._link], [], [], _ANSWER)[0]:
            return {}
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._link is not None
        with contextlib.suppress(OSError, ValueError):
            answer = json.loads(self._link.recv(_MESSAGE))
            return answer if isinstance(answer, dict) else {}
        return {}


def _is_ours(path: str) -> bool:
    """Tell whether starting this program would do what a fork of the nursery does."""
    checkout = os.environ.get("DAQ_CHECKOUT", "")
    if checkout:
        launcher, lib = (os.path.realpath(os.path.join(checkout, *parts))
                         for parts in (("bin", "launch"), ("lib", "daqlib", "boot.py")))
        return os.path.realpath(path) == launcher and os.path.realpath(boot.__file__) == lib
    own = os.path.abspath(sys.argv[0])
    module = os.path.basename(path).replace("-", "_")
    try:
        with open(path, encoding="utf-8") as file, open(own, encoding="utf-8") as mine:
            text, like = file.read(_MESSAGE), mine.read(_MESSAGE)
    except (OSError, ValueError):
        return False
    # the console scripts of one installation begin alike: with the interpreter
    return f"from {module}.__main__ import main" in text and (
        "from daq_watch." in like and text.partition("import")[0] == like.partition("import")[0])

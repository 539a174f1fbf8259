"""Many runs of the real tools in a short time: forked from one process that has them imported.

``Forge.run`` takes what ``Daq.run`` takes and gives what it gives; a run costs some 10 ms instead
of 80. That the tools behave alike through ``bin/`` is shown by the black-box tests.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness import CHECKOUT, EPOCH, SYSTEM_PATH, Result


@dataclass
class Run:
    """A tool at work in a child of the foundry."""

    forge: Forge
    pid: int
    command: list[str]
    out: Path
    err: Path

    def wait(self) -> Result:
        """Wait for its end."""
        code = self.forge.ask(do="wait", pid=self.pid)
        return Result(self.command, code, self.out.read_text(), self.err.read_text())

    def kill(self) -> Result:
        """Kill it as a crash would."""
        os.kill(self.pid, signal.SIGKILL)  # a zombie keeps its id until we wait for it
        return self.wait()


class Forge:
    """The foundry's front; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        path = [str(CHECKOUT / "lib"), *map(str, (CHECKOUT / "tools").glob("daq-*")),
                str(Path(__file__).parent)]
        script = Path(__file__).with_name("foundry.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={"PATH": SYSTEM_PATH, "PYTHONPATH": ":".join(path)})

    def __enter__(self) -> Forge:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait(60)

    def ask(self, **request: object) -> Any:
        """Ask the foundry and return its answer."""
        stdin = self._pipe(self._process.stdin)
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = self._pipe(self._process.stdout).readline()
        assert answer, "the foundry is gone, see its words on stderr"
        return json.loads(answer)

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def start(self, spool: Path, tool: str, *arguments: object,
              env: Mapping[str, str] | None = None) -> Run:
        """Start a tool on a spool."""
        number = next(self._numbers)
        out, err = self._folder / f"{number}.out", self._folder / f"{number}.err"
        for path in (out, err):
            path.touch()  # the child may be killed before it opens them
        environment = {"PATH": SYSTEM_PATH, "HOME": str(self._folder), "LC_ALL": "C.UTF-8",
                       "TZ": "UTC", "SOURCE_DATE_EPOCH": str(EPOCH), "DAQ_SPOOL": str(spool),
                       **(env or {})}
        words = list(map(str, arguments))
        pid = self.ask(do="start", tool=tool, arguments=words, env=environment, out=str(out),
                       err=str(err))
        return Run(self, pid, [tool, *words], out, err)

    def run(self, spool: Path, tool: str, *arguments: object,
            env: Mapping[str, str] | None = None) -> Result:
        """Run a tool on a spool to its end."""
        return self.start(spool, tool, *arguments, env=env).wait()

"""Races whole processes: in turn, in a new order every round, each round's ratios for themselves.

A slow moment of the machine hits all tools of a round alike, and what a tool leaves in memory for
the next one hits each of them in turn. The first round warms caches and is not counted; the ratio
is the median of the ratios of the rounds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))
_SEPARATOR = "\x1f"


class Failed(Exception):
    """A tool ended with an error; the text is its last words."""


@dataclass(frozen=True)
class Tool:
    """A tool in a race.

    Attributes:
        name: as the tables show it.
        words: the command.
        output: file for its standard output; /dev/null when empty.
        settings: environment variables of its own.
        in_place: it changes the target, which has to be put back before the next tool.
        ours: it is the product that is measured; a failure is a failure of the benchmark.
        makes: it makes a product that can be checked.
        rounds: it takes part in that many rounds only, and does not warm up; 0 = in all.
    """

    name: str
    words: tuple[str, ...]
    output: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    in_place: bool = False
    ours: bool = False
    makes: bool = True
    rounds: int = 0


@dataclass(frozen=True)
class Run:
    """What one run took: seconds of wall clock, of processor, and peak memory in MiB."""

    seconds: float
    processor: float
    peak: float


@dataclass
class Result:
    """The counted runs of each tool by round, and the last words of those that failed."""

    runs: dict[str, dict[int, Run]]
    failed: dict[str, str] = field(default_factory=dict)

    def ratio(self, name: str, yardstick: str) -> float | None:
        """Return the median of the ratios of the rounds that both took part in."""
        mine, other = self.runs.get(name, {}), self.runs.get(yardstick, {})
        both = sorted(set(mine) & set(other))
        if not both:
            return None
        return statistics.median(mine[turn].seconds / other[turn].seconds for turn in both)

    def milliseconds(self, name: str) -> list[float]:
        """Return the times of a tool, sorted."""
        return sorted(1e3 * run.seconds for run in self.runs[name].values())

    def processor(self, name: str) -> float:
        """Return the median of a tool's processor time, milliseconds."""
        return statistics.median(1e3 * run.processor for run in self.runs[name].values())

    def peak(self, name: str) -> float:
        """Return the highest peak of a tool's memory, MiB."""
        return max(run.peak for run in self.runs[name].values())


class Starter:
    """The small process that starts the tools (``starter.py``)."""

    def __init__(self, scratch: str) -> None:
        self._says = os.path.join(scratch, "stderr")
        clean = {name: value for name, value in os.environ.items()
                 if not name.startswith(("PYTHON", "DAQ_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.join(HERE, "starter.py")], text=True, env=clean,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)

    def run(self, tool: Tool) -> Run:
        """Run a tool to its end.

        Raises:
            Failed: it ended with an error.
        """
        assert self._process.stdin and self._process.stdout
        settings = [f"{name}={value}" for name, value in tool.settings.items()]
        fields = [tool.output or os.devnull, self._says, str(len(settings)), *settings, *tool.words]
        self._process.stdin.write(_SEPARATOR.join(fields) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if not answer:
            raise RuntimeError(f"bench: {tool.words[0]} could not be started")
        if answer[0] != "0":
            with open(self._says, errors="replace") as file:
                raise Failed(f"exit {answer[0]}: {file.read().strip()[-400:]}")
        return Run(float(answer[1]), float(answer[2]), int(answer[3]) / 1024)

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.communicate()


def race(tools: list[Tool], rounds: int, starter: Starter, before: Callable[[Tool], None],
         after: Callable[[Tool], None]) -> Result:
    """Let tools run in turn.

    Args:
        tools: the tools; one that fails once is out.
        rounds: how many are counted.
        starter: starts them.
        before: called before each run, to clear the place.
        after: called after the last run of each tool, while its product is there.
    """
    result = Result({tool.name: {} for tool in tools})
    shuffle = random.Random(len(tools))
    for turn in range(rounds + 1):
        for tool in shuffle.sample(tools, len(tools)):
            last = min(rounds, tool.rounds or rounds)
            if tool.name in result.failed or turn > last or (not turn and tool.rounds):
                continue
            before(tool)
            try:
                run = starter.run(tool)
            except Failed as error:
                result.failed[tool.name] = str(error)
                result.runs[tool.name] = {}
                continue
            if turn:
                result.runs[tool.name][turn] = run
            if turn == last:
                after(tool)
    return result

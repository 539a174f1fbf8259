"""A death of a stage tool at a crash point, and what has to follow from it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from bench import JOB, NEXT, Bench, Passed

from daqlib import history


def with_torn_lines(passed: Passed) -> Passed:
    """Add the deaths in the middle of a log line, which the trace cannot show."""
    return [*passed, *(("append.torn", n) for point, n in passed if point == "append.begin")]


@dataclass
class Case:
    """A death in a stage, and what it must lead to."""

    stage: str
    passed: Passed
    point: str
    number: int

    def has(self, point: str, number: int) -> bool:
        """Whether the dead run had passed a point (dying at it counts)."""
        died = "append.begin" if self.point == "append.torn" else self.point
        return (point, number) in self.passed[:self.passed.index((died, self.number)) + 1]

    def last(self, point: str, before: str = "") -> tuple[str, int]:
        """The last passing of a point, or that before another point."""
        end = self.passed.index((before, 1)) if before else len(self.passed)
        return [pair for pair in self.passed[:end] if pair[0] == point][-1]

    @property
    def on_record(self) -> bool:
        return self.has("append.written", 1)

    @property
    def finished(self) -> bool:
        return self.has(*self.last("put.renamed", "stage.manifest"))

    @property
    def moved(self) -> bool:
        return self.has(*self.last("move.renamed"))

    @property
    def told(self) -> bool:
        return self.has(*self.last("append.written"))

    def check(self, bench: Bench, undisturbed: dict[str, Any]) -> None:
        """Die, look, run again, go on to the end, and compare."""
        bench.clear(f"at-{self.stage}")
        bench.run(self.stage, DAQ_CRASH=f"{self.point}:{self.number}").died(signal.SIGKILL)
        here = NEXT[self.stage] if self.moved else self.stage
        assert bench.tree() == {here: [f"{JOB}.json"]}, "after the death"
        assert bench.locks() == [], "a dead process holds a lock"
        tries = history.tries(bench.events(), self.stage)
        assert tries == (0 if self.told else int(self.on_record)), "tries after the death"
        again = bench.run(self.stage)
        again.fails(66, f"it is in {here}/") if self.moved else again.ok()
        assert bench.tree() == {NEXT[self.stage]: [f"{JOB}.json"]}, "after the second run"
        starts = int(self.on_record) + (not self.finished)
        assert bench.starts(self.stage) == starts, "number of starts"
        tries = history.tries(bench.events(), self.stage)
        assert tries == (starts if self.moved and not self.told else 0), "tries at the end"
        if self.stage != "release":
            bench.finish(NEXT[self.stage])
        assert bench.picture() == undisturbed

"""daq-merge with signals at chosen crash points: what ``DAQ_CRASH`` cannot do.

The first argument says what happens: ``TERM@inplace.headers:1,KILL@undo.length:1`` sends these
signals to itself at these points; ``LINGER@SEED`` stays a while at each point, so that somebody
outside who sends signals at random meets what passes in no time. Two places more than those in
the table of crash points: ``held``, when an in-place merge is finished and keeps its lock on the
target, and ``built``, when the file is finished.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from typing import Any

from daq_merge import build, inplace, stagework, undo
from daq_merge.__main__ import main as merge
from daqlib import fsops, stage


def _arm(orders: str) -> None:
    wanted = [order.split("@") for order in orders.split(",")]
    signals = {place: name for name, place in wanted if name != "LINGER"}
    seeds = [int(seed) for name, seed in wanted if name == "LINGER"]
    dice, seen = random.Random(*seeds), Counter[str]()
    announce, write = fsops.passing, build.write

    def arrive(place: str) -> None:
        seen[place] += 1
        if name := signals.get(f"{place}:{seen[place]}"):
            os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        if seeds:
            time.sleep(dice.uniform(0.0, 0.03))

    def passing(point: str) -> None:
        announce(point)
        arrive(point)

    class Hold(inplace.Hold):
        def __init__(self, fd: int) -> None:
            super().__init__(fd)
            arrive("held")

    def written(*arguments: Any, **named: Any) -> Any:
        built = write(*arguments, **named)
        arrive("built")
        return built

    for module in (fsops, stage, stagework, inplace, undo):
        module.passing = passing
    inplace.Hold, build.write = Hold, written


def main(argv: list[str]) -> int:
    """Merge with ``argv[1:]``, and do at its crash points what ``argv[0]`` says."""
    _arm(argv[0])
    sys.argv = ["daq-merge"]
    return merge(argv[1:])

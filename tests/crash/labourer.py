"""A worker of the torture run: calls the stage tools again and again until it is killed."""

from __future__ import annotations

import os
import random
import sys
import time

from daq_collect.__main__ import main as collect
from daq_merge import stagework
from daq_merge.__main__ import main as merge
from daq_release.__main__ import main as release
from daqlib import fsops, stage

_TOOLS = {"collect": collect, "merge": merge, "release": release}


def linger(chance: random.Random) -> None:
    """Stay now and then where a death or an operator hurts most: at the crash points."""

    def passing(_point: str) -> None:
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0.0, 0.04))

    for module in (fsops, stage, stagework):
        module.passing = passing


def main(argv: list[str]) -> int:
    """Work with the random numbers that ``argv[0]`` seeds; never return."""
    chance = random.Random(int(argv[0]))
    linger(chance)
    while True:
        sys.argv = ["daq-" + (name := chance.choice(list(_TOOLS)))]
        folder = os.path.join(os.environ["DAQ_SPOOL"], name)
        jobs = [file[:-5] for file in os.listdir(folder) if file[0] != "."]
        one = jobs and chance.random() < 0.6
        words = ["--job", chance.choice(jobs)] if one else ["--all"]
        code = _TOOLS[name](["-q", *words])
        assert code in (0, 65, 66, 73, 74, 75), f"{name} {words} ended with {code}"

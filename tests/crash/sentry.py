"""daq-watch that dies at a crash point of its own, while its workers live or die as they like.

The first argument says where: ``move.begin:2`` kills the watcher's process there, ``-`` nowhere;
then the points that it passes go to the file that ``SENTRY_TRACE`` names.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter

from daq_watch.__main__ import main as watch
from daqlib import fsops, stage


def main(argv: list[str]) -> int:
    """Watch with ``argv[1:]``, and die where ``argv[0]`` says."""
    seen = Counter[str]()
    trace = os.environ.get("SENTRY_TRACE")

    def passing(point: str) -> None:
        seen[point] += 1
        here = f"{point}:{seen[point]}"
        if trace:
            with open(trace, "a", encoding="ascii") as file:
                file.write(f"{here}\n")
        if here == argv[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    # in this process only: what it starts reads DAQ_CRASH, and knows nothing of this
    fsops.passing = stage.passing = passing
    sys.argv = ["daq-watch"]
    return watch(argv[1:])

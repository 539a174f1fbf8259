"""The group ``spool``: how jobs get on, from the end of an acquisition to the product."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable

import fetching
import turnaround
from spools import Wrong, others
from turnaround import Bench

__all__ = ["NAMES", "Bench", "measure"]

_PARTS: dict[str, Callable[[Bench], None]] = {
    "turnaround": turnaround.turnaround, "rate": turnaround.rate, "crowd": turnaround.crowd,
    "copy": fetching.copy, "link": fetching.link, "ssh": fetching.ssh,
    "session": fetching.session}
#: What can be chosen by ``--only``.
NAMES = tuple(_PARTS)


def measure(bench: Bench, names: list[str]) -> tuple[list[str], list[str]]:
    """Run parts of the group and print what they found.

    Args:
        bench: what they share.
        names: the parts, of NAMES.

    Returns:
        The targets that were missed, and what the tools did wrong.
    """
    begin, faults = time.monotonic(), []
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; "
          f"{shutil.disk_usage(bench.scratch).free / 2**30:.0f} GiB free in {bench.scratch}")
    for name in names:
        with others() as seen:
            try:
                _PARTS[name](bench)
            except (Wrong, RuntimeError, subprocess.CalledProcessError) as error:
                faults.append(f"{name}: {error}")
                print(f"\n{name}: WRONG: {error}", flush=True)
        print(f"  meanwhile other programs used {100 * seen.programs:.0f} % of the processors, and "
              f"the host withheld {100 * seen.host:.0f} %", flush=True)
    if bench.quick:
        print("a smoke run: with so few and small jobs the figures mean nothing")
    print(f"measured in {time.monotonic() - begin:.0f} s")
    return bench.report.missed, faults

"""The life of a daemon that is killed: begin a recording as an order says, and wait for the end.

Reads the order from standard input, one line of JSON, and says how far it is on standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys

from daq_ctl import sources
from daqlib import config


async def _live(order: sources.Order, steps: list[str]) -> None:
    source = sources.make(order)
    for step in steps:
        await getattr(source, step)()
        print(step, flush=True)
    while True:
        await asyncio.sleep(0.05)
        await source.wait(1.0)


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    asyncio.run(_live(sources.Order(
        told["description"], told["job"], told["timeout"], told["folder"],
        config.load(told["config"])), told["steps"]))

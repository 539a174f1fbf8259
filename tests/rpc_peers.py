"""Servers for the tests of the transport, in this process and in one of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from daqlib import errors, rpc, rpcserver

LOCAL = "zpb.rr://127.0.0.1:0"
LIB = str(Path(rpc.__file__).parent.parent)
_kept: list[zmq.Context[Any]] = []


def context(kind: type[zmq.Context[Any]] = zmq.Context) -> zmq.Context[Any]:
    """Return a context that is never ended: libzmq 4.3.5 may wait for ever when one is."""
    made = kind()
    _kept.append(made)
    return made


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; only a machine that stands still needs all of that minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "not true within a minute"
        await asyncio.sleep(0.02)


class Service:
    EXCEPTION = "daqif::DaqException"

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def Echo(self, value: Any, other: Any = None) -> Any:
        self.calls.append("Echo")
        return value

    async def Wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "woke"

    async def Refuse(self) -> None:
        raise rpc.RemoteError("no such job", exception="daqif::DaqException", id="J.1", code=66,
                              remedy="look at the list")

    async def Later(self) -> None:
        raise errors.Later("disk full", "free some space", job="J.2")

    async def Break(self) -> None:
        raise KeyError("secret")

    async def Cancel(self) -> None:
        raise asyncio.CancelledError

    async def Nan(self) -> float:
        return float("nan")

    async def Huge(self) -> str:
        return "x" * rpc.MESSAGE_LIMIT

    async def _hidden(self) -> str:
        return "hidden"


class Waiting(Service):
    """One whose clients wait until the test lets them all go."""

    def __init__(self) -> None:
        super().__init__()
        self.all_at_once = asyncio.Event()

    async def WaitForAll(self, ballast: str = "") -> str:
        self.calls.append("WaitForAll")
        await self.all_at_once.wait()
        return "woke"


def serving(
    work: Callable[[str, rpcserver.Server], Awaitable[None]], endpoint: str = LOCAL, **options: Any
) -> None:
    async def run() -> None:
        async with rpcserver.Server(endpoint, {"daq": Service()}, **options) as server:
            await asyncio.wait_for(work(f"{server.endpoint}/daq", server), 60)

    asyncio.run(run())


@contextmanager
def in_process(endpoint: str = LOCAL) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own, for what the loop under test must not share.

    After its endpoint it prints a line for every request.
    """
    code = f"""
import asyncio
from daqlib import rpcserver
async def wait(seconds):
    print("asked", flush=True)
    await asyncio.sleep(seconds)
async def main():
    async with rpcserver.Server({endpoint!r}, {{"daq": {{"Wait": wait}}}}) as server:
        print(server.endpoint, flush=True)
        await asyncio.sleep(300)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], env={"PYTHONPATH": LIB}, text=True,
                               stdout=subprocess.PIPE)
    assert process.stdout
    with process.stdout:
        try:
            yield process.stdout.readline().strip() + "/daq", process
        finally:
            process.kill()
            process.wait()


async def refused(endpoint: str, command: str, params: rpc.Document | None = None,
                  ) -> rpc.RemoteError:
    with pytest.raises(rpc.RemoteError) as caught:
        await rpc.acall(endpoint, command, params, 60)
    return caught.value


async def raw(endpoint: str, *frames: bytes, patience_ms: int = 60_000) -> Any:
    """Send frames as they are and return the reply."""
    with zmq.asyncio.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint.removeprefix("zpb.rr").removesuffix("/daq").replace(":", "tcp:", 1))
        await dealer.send_multipart(frames)
        answered = await dealer.poll(patience_ms)
        return json.loads((await dealer.recv_multipart())[-1]) if answered else None

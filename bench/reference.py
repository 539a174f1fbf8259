"""The yardstick of StartDaq: a loop that only forwards.

It takes ``daq.Start`` with the sources of a specification, commands the same sources in the same
order over connections that stay open (metadata sources first, each kind at once) and replies. It
checks nothing, writes nothing and remembers nothing: what is slower than this is the price of
doing the job, or waste.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from typing import Any

import zmq
import zmq.asyncio


class _Peers:
    """One connection for each server."""

    def __init__(self) -> None:
        self._sockets: dict[str, zmq.asyncio.Socket] = {}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, uri: str, command: str, params: dict[str, Any]) -> Any:
        """Send a command and wait for its reply."""
        base, _, path = uri.rpartition("/")
        address = "tcp:" + base.partition(":")[2]
        if address not in self._sockets:
            socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
            socket.connect(address)
            self._sockets[address] = socket
            self._tasks.append(asyncio.create_task(self._listen(socket)))
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._sockets[address].send(json.dumps(
            {"jsonrpc": "2.0", "id": number, "method": f"{path}.{command}",
             "params": params}).encode())
        return await future

    async def _listen(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            reply = json.loads((await socket.recv_multipart())[-1])
            self._waiting.pop(reply["id"]).set_result(reply)


async def _start(peers: _Peers, sources: list[dict[str, str]], job: str) -> None:
    for kind, command, params in (("metadataSource", "StartDaq", {"id": job}),
                                  ("primarySource", "RecStart", {"properties": {"id": job}})):
        await asyncio.gather(*(peers.ask(source["rrUri"], command, params)
                               for source in sources if source["type"] == kind))


async def serve(port: int) -> None:
    """Serve for ever."""
    peers = _Peers()
    socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    socket.bind(f"tcp://127.0.0.1:{port}")
    while True:
        *envelope, body = await socket.recv_multipart()
        request = json.loads(body)
        given = json.loads(request["params"]["specification"])
        await _start(peers, given["sources"], given["id"])
        await socket.send_multipart([*envelope, json.dumps(
            {"jsonrpc": "2.0", "id": request["id"], "result": given["id"]}).encode()])


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))

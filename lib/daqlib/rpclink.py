"""Many requests over one connection, within an asyncio loop.

A daemon asks hundreds of sources at a time. There is one connection for each loop and endpoint;
replies find their requests by id. A connection lives as long as nothing is wrong with it: when it
breaks, its requests are lost; when one of them is not answered in time, the next request tries a
new one; when it was idle for a while it is closed. Nothing is ever sent twice, and nothing is kept
to be sent later.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import Any

import zmq

from daqlib import errors, rpcexchange, rpcsocket, uri
from daqlib.rpcexchange import Document, Exchange
from daqlib.rpcloop import Frames, Tap

#: Seconds without a request after which a connection is closed.
IDLE_S = 30.0

_SOCKETS = 32_000  # in a context; libzmq's default is 1023, and a connection needs three
_LOST, _GARBLED = "lost", "garbled"

Key = tuple[str, str, str]
_links: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Key, Link]] = (
    weakref.WeakKeyDictionary())
_context: list[zmq.Context[Any]] = []


async def answer(exchange: Exchange) -> Document:
    """Send a request and return its reply.

    Raises:
        daqlib.rpc.Unreachable: nobody is there; the request was not delivered.
        daqlib.rpc.Lost: the connection broke before the reply.
        daqlib.rpc.RpcTimeout: no reply in time.
        daqlib.rpc.BadReply: the reply is not JSON-RPC.
        errors.BadConfig: the CURVE keys of the environment are not usable.
    """
    while True:
        link = _link(exchange.endpoint)
        if not await link.connected(exchange.connect_deadline):
            raise exchange.unreachable(accepted=link.accepted, refused=link.refused)
        future = link.send(exchange)
        if future is not None:
            return await link.reply(exchange, future)
        # it went away just before, with nothing sent: as long as there is time, try once more
        await asyncio.sleep(0)


def _link(endpoint: uri.Endpoint) -> Link:
    links = _links.setdefault(asyncio.get_running_loop(), {})
    key = (endpoint.address, os.environ.get("DAQ_CURVE_CERTIFICATE", ""),
           os.environ.get("DAQ_CURVE_SERVER_KEY", ""))
    if key not in links:
        links[key] = Link(endpoint, links, key)
    return links[key]


def _shared_context() -> zmq.Context[Any]:
    if not _context:
        _context.append(zmq.Context())
        _context[0].set(zmq.MAX_SOCKETS, _SOCKETS)
    return _context[0]


class Link:
    """A connection and the requests on it.

    Attributes:
        accepted: the system over there took the connection.
        refused: the service does not let our key in.
    """

    def __init__(self, endpoint: uri.Endpoint, home: dict[Key, Link], key: Key) -> None:
        """Begin to connect.

        Args:
            endpoint: of the server.
            home: where it is found by later requests, as long as it is good for them.
            key: its name there.
        """
        self._loop = asyncio.get_running_loop()
        self._home, self._key, self._endpoint = home, key, endpoint
        self.accepted = self.refused = False
        self._up = self._loop.create_future()
        self._waiting = 0  # requests that wait for the connection
        self._replies: dict[str, asyncio.Future[Document | str]] = {}
        self._used = self._loop.time()
        self._open = True
        self._dial()
        self._clock = self._loop.call_later(IDLE_S, self._tick)
        # a task, because it is told when the loop ends
        self._keeper = self._loop.create_task(self._keep())

    async def connected(self, until: float) -> bool:
        """Wait until the connection is made; False when it was not in time."""
        self._waiting += 1
        try:
            async with asyncio.timeout_at(until):
                await asyncio.shield(self._up)
            return bool(self._up.result())
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
            self._rest()

    def send(self, exchange: Exchange) -> asyncio.Future[Document | str] | None:
        """Send a request; return where its reply will be, None when it was not sent."""
        if self._open:
            self._events.read()  # what has broken is not used any more
        if not self._open:
            return None
        self._socket.send(exchange.request, zmq.NOBLOCK)
        self._messages.look()
        future: asyncio.Future[Document | str] = self._loop.create_future()
        self._replies[exchange.id] = future
        return future

    async def reply(self, exchange: Exchange, future: asyncio.Future[Document | str]) -> Document:
        """Wait for the reply to a request that was sent; for errors see :func:`answer`."""
        try:
            async with asyncio.timeout_at(exchange.deadline):
                answered = await future
        except TimeoutError:
            self._retire()  # perhaps it is not the service that is slow, but the line that is dead
            raise exchange.late() from None
        finally:
            self._replies.pop(exchange.id, None)
            self._rest()
        if answered == _LOST:
            raise exchange.lost()
        if not isinstance(answered, dict):
            raise exchange.garbled()
        return answered

    # -- the connection ------------------------------------------------------------------------

    def _dial(self) -> None:
        self._attempt = rpcsocket.Attempt()
        self._settled = asyncio.Event()
        self._socket, self._monitor = rpcsocket.dial(_shared_context(), self._endpoint)
        self._events = Tap(self._monitor, self._noted)
        self._messages = Tap(self._socket, self._received)

    def _noted(self, frames: Frames) -> None:
        self._attempt.note(frames[0].bytes)
        self.accepted = self.accepted or self._attempt.accepted
        self.refused = self._attempt.refused
        if self._attempt.up and not self._up.done():
            self._up.set_result(True)
        if self._attempt.settled:
            self._settled.set()
        if self._attempt.over and (self._up.done() or self.refused):
            self._end()

    async def _keep(self) -> None:
        try:
            pause = rpcsocket.PAUSE_S
            while not await self._is_up():
                self._hang_up()
                await asyncio.sleep(pause)
                pause = min(2 * pause, rpcsocket.LONGEST_PAUSE_S)
                self._dial()
            await asyncio.Event().wait()
        except errors.DaqError:
            pass  # the keys are gone, or no socket is left; the next request will tell
        finally:
            self._close()

    async def _is_up(self) -> bool:
        """Wait for the end of an attempt to connect; tell whether it succeeded."""
        try:
            async with asyncio.timeout(rpcsocket.ATTEMPT_S):
                await self._settled.wait()
        except TimeoutError:
            if self._attempt.accepted:
                await self._settled.wait()  # libzmq limits the time for the handshake
        return self._attempt.up

    def _hang_up(self) -> None:
        self._events.close()
        self._messages.close()
        rpcsocket.hang_up(self._socket, self._monitor)

    # -- requests and replies ------------------------------------------------------------------

    def _received(self, frames: Frames) -> None:
        answered = rpcexchange.reply(frames[-1].bytes)
        own_id = answered.get("id") if answered else None
        if answered and isinstance(own_id, str):
            self._settle([own_id], answered)  # late ones find nobody
        elif answered and own_id is None and "error" in answered and len(self._replies) == 1:
            self._settle(list(self._replies), answered)
        elif not answered or (own_id is None and "error" in answered):
            # nobody knows whose it is
            self._settle(list(self._replies), _GARBLED)
            self._retire()

    def _settle(self, requests: list[str], answered: Document | str) -> None:
        for request in requests:
            future = self._replies.get(request)
            if future and not future.done():
                future.set_result(answered)

    def _retire(self) -> None:
        """Take no more requests; those under way go on."""
        if self._home.get(self._key) is self:
            del self._home[self._key]

    def _rest(self) -> None:
        """Close the connection when nothing is under way and nothing will come."""
        self._used = self._loop.time()
        retired = self._home.get(self._key) is not self
        if not self._waiting and not self._replies and (retired or not self._up.done()):
            self._end()

    def _tick(self) -> None:
        left = self._used + IDLE_S - self._loop.time()
        busy = bool(self._waiting or self._replies)
        if not busy and left <= 0:
            self._end()
        else:
            self._clock = self._loop.call_later(IDLE_S if busy else left, self._tick)

    def _end(self) -> None:
        self._keeper.cancel()
        self._close()

    def _close(self) -> None:
        self._retire()
        if not self._open:
            return
        self._open = False
        self._clock.cancel()
        while self._replies and self._messages.read():
            pass  # what was received before the end still counts
        self._hang_up()
        if not self._up.done():
            self._up.set_result(False)
        self._settle(list(self._replies), _LOST)

"""Requests and topics, the client's side: JSON-RPC 2.0 over ZeroMQ.

A request is one message ``{"jsonrpc": "2.0", "id", "method": "<path>.<Command>", "params": {}}``
from a DEALER to the server's ROUTER; parameters go by name. ``from`` tells who asks, for the log of
the server, which need not believe it. An error carries
``data: {exception, id, message, code, remedy}``. A topic is two frames: its name
(``/daq/status``) and a JSON document. The server's side is :mod:`daqlib.rpcserver`.

Environment: ``DAQ_CURVE_CERTIFICATE`` (our ``.key_secret`` file) and ``DAQ_CURVE_SERVER_KEY``
(the server's ``.key`` file, or a directory with ``HOST:PORT.key`` or ``HOST.key`` for each server;
servers without one there are spoken to in plain text if they are on this host) encrypt
and authenticate requests and topics. ``ipc`` needs none.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from daqlib import errors, rpcsocket, strictjson, uri
from daqlib.rpcexchange import (
    CONNECT_S,
    DEFAULT_TIMEOUT_S,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MESSAGE_LIMIT,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REFUSED,
    BadReply,
    Document,
    Exchange,
    Lost,
    RemoteError,
    RpcTimeout,
    Unreachable,
    encode,
    reply,
)

if TYPE_CHECKING:
    import zmq

__all__ = [
    "CONNECT_S", "DEFAULT_TIMEOUT_S", "INTERNAL_ERROR", "INVALID_PARAMS",
    "INVALID_REQUEST", "MESSAGE_LIMIT", "METHOD_NOT_FOUND", "PARSE_ERROR", "REFUSED", "BadReply",
    "Document", "Lost", "RemoteError", "RpcTimeout", "Unreachable", "acall", "asubscribe", "call",
    "encode", "subscribe",
]

_LONGEST_POLL_MS = 3_600_000
_UNHEARD_MS = 5_000


def call(endpoint: str, command: str, params: Document | None = None,
         timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
    """Send one request and wait for its reply.

    Args:
        endpoint: URI with the service path, such as ``zpb.rr://127.0.0.1:12081/daq``.
        command: such as ``StartDaqV2``.
        params: by name.
        timeout_s: for connection and reply together; :data:`CONNECT_S` bounds the first.

    Returns:
        The result, as JSON gives it.

    Raises:
        RemoteError: the peer refused.
        Unreachable: nobody is there; the request was not delivered.
        Lost: the connection broke before the reply.
        RpcTimeout: no reply in time.
        BadReply: the reply is not JSON-RPC.
        errors.BadData: the URI, the parameters or the time limit are not allowed.
        errors.BadConfig: the CURVE keys of the environment are not usable.
    """
    exchange = Exchange(endpoint, command, params, timeout_s)
    socket, monitor = _connected(exchange)
    try:
        socket.send(exchange.request)
        return exchange.result(_reply(exchange, socket, monitor))
    finally:
        rpcsocket.hang_up(socket, monitor)


async def acall(endpoint: str, command: str, params: Document | None = None,
                timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
    """Send one request and wait for its reply without blocking the loop; see :func:`call`.

    Requests of one loop to one endpoint share a connection, which is closed when it was idle for a
    while or with the loop.
    """
    from daqlib import rpclink

    exchange = Exchange(endpoint, command, params, timeout_s)
    return exchange.result(await rpclink.answer(exchange))


def _connected(exchange: Exchange) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """Return a socket with the service at its other end, and its monitor.

    Raises:
        Unreachable: the service was not there in time.
    """
    import zmq

    pause, accepted = rpcsocket.PAUSE_S, False
    while True:
        socket, monitor = rpcsocket.dial(zmq.Context.instance(), exchange.endpoint)
        attempt = rpcsocket.Attempt()
        try:
            _follow(attempt, exchange, monitor)
            if attempt.up:
                return socket, monitor
        finally:
            if not attempt.up:
                rpcsocket.hang_up(socket, monitor)
        accepted = accepted or attempt.accepted
        left = exchange.connect_deadline - time.monotonic()
        if attempt.refused or left <= 0:
            raise exchange.unreachable(accepted=accepted, refused=attempt.refused)
        time.sleep(min(pause, left))
        pause = min(2 * pause, rpcsocket.LONGEST_PAUSE_S)


def _follow(attempt: rpcsocket.Attempt, exchange: Exchange, monitor: zmq.Socket[bytes]) -> None:
    until = min(exchange.connect_deadline, time.monotonic() + rpcsocket.ATTEMPT_S)
    while not attempt.settled and monitor.poll(_left_ms(until)):
        attempt.note(monitor.recv_multipart()[0])
        if attempt.accepted:
            until = exchange.connect_deadline


def _reply(exchange: Exchange, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> Document:
    import zmq

    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(monitor, zmq.POLLIN)
    until = exchange.deadline
    lost = False
    while True:
        ready = dict(poller.poll(_left_ms(until)))
        if socket in ready:
            if answer := _own(exchange, socket.recv_multipart()[-1]):
                return answer
        elif monitor in ready:
            monitor.recv_multipart()  # the only thing that can happen to a connection
            lost, until = True, 0.0  # only what has been received already can be the reply
        elif _is_over(until):
            raise exchange.lost() if lost else exchange.late()


def _own(exchange: Exchange, frame: bytes) -> Document | None:
    """Return the reply to our request; those to others are ignored."""
    answer = reply(frame)
    if answer is None:
        raise exchange.garbled()
    own_id = answer.get("id")
    return answer if own_id == exchange.id or (own_id is None and "error" in answer) else None


def subscribe(endpoint: str, topics: Iterable[str] = ("",), timeout: float | None = None,
              unheard: Callable[[], None] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield (topic, document) of a publisher; it may start later or restart meanwhile.

    Args:
        endpoint: ``zpb.ps`` or ``ipc`` URI.
        topics: their beginnings; the empty one means all.
        timeout: seconds after which the iteration ends; None means never.
        unheard: called once when no publisher has let us in within 5 s; the wait goes on. Not
            together with a timeout.

    Raises:
        errors.BadData: the URI is not allowed.
        errors.BadConfig: the CURVE keys of the environment are not usable.
    """
    import zmq

    until = None if timeout is None else time.monotonic() + timeout
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    with socket:
        if unheard:
            _subscribe_or_tell(socket, endpoint, topics, unheard)
        else:
            _subscribe(socket, endpoint, topics)
        while True:
            if not socket.poll(_left_ms(until)):
                if _is_over(until):
                    return
            elif sample := _sample(socket.recv_multipart()):
                yield sample


async def asubscribe(endpoint: str, topics: Iterable[str] = ("",),
                     timeout: float | None = None) -> AsyncIterator[tuple[str, Any]]:
    """Yield (topic, document) of a publisher without blocking the loop; see :func:`subscribe`."""
    import zmq
    import zmq.asyncio

    until = None if timeout is None else time.monotonic() + timeout
    with zmq.asyncio.Context.instance().socket(zmq.SUB) as socket:
        _subscribe(socket, endpoint, topics)
        while True:
            if not await socket.poll(_left_ms(until)):
                if _is_over(until):
                    return
            elif sample := _sample(await socket.recv_multipart()):
                yield sample


def _subscribe(socket: zmq.Socket[Any], text: str, topics: Iterable[str]) -> None:
    endpoint = uri.parse(text)
    if endpoint.scheme == "zpb.rr":
        raise errors.BadData(f"endpoint {text!r} publishes nothing", "give a zpb.ps:// endpoint")
    rpcsocket.prepare(socket, endpoint)
    for topic in topics:
        socket.subscribe(topic)
    socket.connect(endpoint.address)


def _subscribe_or_tell(socket: zmq.Socket[Any], text: str, topics: Iterable[str],
                       unheard: Callable[[], None]) -> None:
    import zmq

    monitor = rpcsocket.watch(socket, zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        _subscribe(socket, text, topics)
        if not monitor.poll(_UNHEARD_MS):
            unheard()
    finally:
        socket.monitor(None, 0)
        monitor.close(linger=0)


def _left_ms(until: float | None) -> int | None:
    if until is None:
        return None
    return round(min(max(0.0, until - time.monotonic()) * 1000, _LONGEST_POLL_MS))


def _is_over(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def _sample(frames: Sequence[bytes]) -> tuple[str, Any] | None:
    # another program's publisher on our port is no reason to end
    try:
        topic, body = frames
        return topic.decode(), strictjson.loads(body)
    except ValueError:
        return None

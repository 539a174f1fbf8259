"""Requests and topics, the client's side: JSON-RPC 2.0 over ZeroMQ.

A request is one message ``{"jsonrpc": "2.0", "id", "method": "<path>.<Command>", "params": {}}``
from a DEALER to the server's ROUTER; parameters go by name. An error carries
``data: {exception, id, message, code, remedy}``. A topic is two frames: its name
(``/daq/status``) and a JSON document. The server's side is :mod:`daqlib.rpcserver`.

Environment: ``DAQ_CURVE_CERTIFICATE`` (our ``.key_secret`` file) and ``DAQ_CURVE_SERVER_KEY``
(the server's ``.key`` file, or a directory with ``HOST:PORT.key`` or ``HOST.key`` for each server;
servers without one there are spoken to in plain text if they are on this host) encrypt
and authenticate requests and topics. ``ipc`` needs none.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from daqlib import errors, uri

if TYPE_CHECKING:
    import zmq

Document = dict[str, Any]

#: Bytes of the longest message that either side takes.
MESSAGE_LIMIT = 16 << 20
#: Seconds in which a peer that is there answers a connection.
CONNECT_S = 2.0
DEFAULT_TIMEOUT_S = 15.0

# JSON-RPC 2.0, section 5.1; the last one is ours, from the range left to implementations
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REFUSED = -32000

_CODES = frozenset(kind.code for kind in errors.CODES)
_EXIT_CODES = {METHOD_NOT_FOUND: errors.Unavailable.code, INTERNAL_ERROR: errors.Bug.code}


class RpcTimeout(errors.Unavailable):
    """The peer took the request and did not reply in time; it may still act on it."""


class Lost(errors.Unavailable):
    """The connection broke before the reply; the peer may have acted or not."""


class Unreachable(errors.Unavailable):
    """No peer answered the connection; the request was certainly not delivered."""


class BadReply(errors.Unavailable):
    """The peer answers something that is not JSON-RPC."""


class RemoteError(errors.DaqError):
    """A refusal by the peer; a service raises it to choose what its client gets.

    Args:
        message: what is wrong.
        exception: the interface's exception, such as ``daqif::DaqException``.
        id: the data acquisition or recording concerned, or empty.
        code: our exit code for it (:data:`daqlib.errors.CODES`).
        remedy: what the reader can do.
        rpc_code: the JSON-RPC error code.
    """

    code = 65

    def __init__(self, message: str, *, exception: str = "", id: str = "", code: int = 65,
                 remedy: str = "", rpc_code: int = REFUSED) -> None:
        super().__init__(message, remedy, id)
        self.exception = exception
        self.id = id
        self.code = code
        self.rpc_code = rpc_code


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
        errors.BadData: the URI or the parameters are not allowed.
        errors.BadConfig: the CURVE keys of the environment are not usable.
    """
    import zmq

    exchange = _Exchange(endpoint, command, params, timeout_s)
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    with _open(socket, exchange.endpoint) as monitor:
        socket.send(exchange.request)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        while not exchange.done:
            ready = dict(poller.poll(exchange.patience_ms()))
            if socket in ready:
                exchange.take(socket.recv_multipart())
            else:
                exchange.note(monitor.recv_multipart() if monitor in ready else [])
    return exchange.result()


async def acall(endpoint: str, command: str, params: Document | None = None,
                timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
    """Send one request and wait for its reply without blocking the loop; see :func:`call`."""
    import zmq
    import zmq.asyncio

    exchange = _Exchange(endpoint, command, params, timeout_s)
    socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    with _open(socket, exchange.endpoint) as monitor:
        await socket.send(exchange.request)
        poller = zmq.asyncio.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        while not exchange.done:
            ready = dict(await poller.poll(exchange.patience_ms()))
            if socket in ready:
                exchange.take(await socket.recv_multipart())
            else:
                exchange.note(await monitor.recv_multipart() if monitor in ready else [])
    return exchange.result()


class _Exchange:
    """One request, and what is known of its fate."""

    def __init__(self, endpoint: str, command: str, params: Document | None,
                 timeout_s: float) -> None:
        self.endpoint = uri.parse(endpoint)
        if self.endpoint.scheme == "zpb.ps" or not self.endpoint.path:
            raise errors.BadData(f"endpoint {endpoint!r} takes no requests",
                                 "give one with a service path, such as zpb.rr://HOST:PORT/daq")
        self.method = f"{self.endpoint.path}.{command}"
        self.request_id = os.urandom(8).hex()
        self.request = encode({"jsonrpc": "2.0", "id": self.request_id, "method": self.method,
                               "params": params or {}})
        self.timeout_s = timeout_s
        begin = time.monotonic()
        self.deadline = begin + timeout_s
        self.connect_deadline = begin + min(timeout_s, CONNECT_S)
        self.accepted = False  # by the system over there; "connected" is by the service
        self.connected = False
        self.lost = False
        self.done = False
        self.reply: Document = {}

    def patience_ms(self) -> int:
        """Return how long to wait for the next thing to happen."""
        until = self.deadline if self.connected else self.connect_deadline
        # after a loss only what has been received already can be the reply
        return 0 if self.lost else max(0, round((until - time.monotonic()) * 1000))

    def take(self, frames: Sequence[bytes]) -> None:
        """Take a message; replies to other requests are ignored."""
        reply = self._decoded(frames[-1])
        own_id = reply.get("id")
        if own_id == self.request_id or (own_id is None and "error" in reply):
            self.reply, self.done = reply, True

    def _decoded(self, frame: bytes) -> Document:
        try:
            reply = json.loads(frame)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict) or not ("result" in reply or "error" in reply):
            raise BadReply(f"{self.endpoint} answers something that is not JSON-RPC",
                           "check that the endpoint is that of a daqspool service")
        return reply

    def note(self, event: Sequence[bytes]) -> None:
        """Note a change of the connection, or that nothing happened while waiting.

        Raises:
            errors.Unavailable: there is nothing left to wait for.
        """
        import zmq
        from zmq.utils.monitor import parse_monitor_message

        kind = parse_monitor_message(list(event))["event"] if event else 0
        if kind == zmq.EVENT_CONNECTED:
            self.accepted = True
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected = True
        elif kind == zmq.EVENT_DISCONNECTED and self.connected and not self.lost:
            self.lost = True
        elif self.lost or self.patience_ms() == 0:
            raise self._gone()

    def _gone(self) -> errors.Unavailable:
        if self.lost:
            return Lost(f"{self.endpoint} closed the connection before it replied to "
                        f"{self.method}", "see whether the service still runs")
        if self.connected:
            return RpcTimeout(f"{self.endpoint} did not reply to {self.method} within "
                              f"{self.timeout_s:g} s", "see whether the service still runs")
        if self.accepted:
            return Unreachable(f"{self.endpoint} takes the connection, but not as one of ours",
                               "check the endpoint, DAQ_CURVE_CERTIFICATE and "
                               "DAQ_CURVE_SERVER_KEY, and whether the service is suspended")
        return Unreachable(f"nobody answers at {self.endpoint}",
                           "start the service or correct the endpoint")

    def result(self) -> Any:
        """Return the result, or raise the peer's error."""
        if "error" in self.reply:
            raise _remote(self.reply["error"], str(self.endpoint))
        return self.reply["result"]


def _remote(error: object, endpoint: str) -> RemoteError:
    body = error if isinstance(error, dict) else {}
    data = body.get("data") if isinstance(body.get("data"), dict) else {}
    assert isinstance(data, dict)
    rpc_code = body.get("code") if isinstance(body.get("code"), int) else REFUSED
    assert isinstance(rpc_code, int)
    code = data.get("code")
    return RemoteError(
        str(data.get("message") or body.get("message") or f"{endpoint} refused the request"),
        exception=str(data.get("exception") or ""),
        id=str(data.get("id") or ""),
        code=code if code in _CODES else _EXIT_CODES.get(rpc_code, RemoteError.code),
        remedy=str(data.get("remedy") or ""),
        rpc_code=rpc_code,
    )


def encode(document: object) -> bytes:
    """Return a message's bytes.

    Raises:
        errors.BadData: it is not JSON, or longer than :data:`MESSAGE_LIMIT`.
    """
    try:
        data = json.dumps(document, ensure_ascii=False, allow_nan=False,
                          separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.BadData(f"a message cannot be written as JSON: {error}") from error
    if len(data) > MESSAGE_LIMIT:
        raise errors.BadData(f"a message of {len(data)} bytes is longer than the {MESSAGE_LIMIT} "
                             "that the transport takes", "send less at once")
    return data


@contextlib.contextmanager
def _open(socket: zmq.Socket[Any], endpoint: uri.Endpoint) -> Iterator[Any]:
    import zmq

    events = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
    monitor = None
    try:
        _prepare(socket, endpoint)
        monitor = socket.get_monitor_socket(events)
        socket.connect(endpoint.address)
        yield monitor
    finally:
        if monitor is not None:
            socket.disable_monitor()
            monitor.close(linger=0)
        socket.close(linger=0)


def _prepare(socket: zmq.Socket[Any], endpoint: uri.Endpoint) -> None:
    socket.linger = 0
    socket.maxmsgsize = MESSAGE_LIMIT
    socket.reconnect_ivl = 50
    socket.reconnect_ivl_max = 1000
    keys = _curve_keys(endpoint)
    if keys:
        (public, secret), server = keys
        socket.curve_serverkey = server
        socket.curve_publickey = public
        socket.curve_secretkey = secret


def _curve_keys(endpoint: uri.Endpoint) -> tuple[tuple[bytes, bytes], bytes] | None:
    own = os.environ.get("DAQ_CURVE_CERTIFICATE", "")
    server = os.environ.get("DAQ_CURVE_SERVER_KEY", "")
    if endpoint.file or not (own or server):
        return None
    if not (own and server):
        raise errors.BadConfig("only one of DAQ_CURVE_CERTIFICATE and DAQ_CURVE_SERVER_KEY is set",
                               "set both, or none")
    if os.path.isdir(server):
        server = _key_of(endpoint, server)
        if not server:
            return None
    return secret_certificate(own), certificate(server)[0]


def _key_of(endpoint: uri.Endpoint, folder: str) -> str:
    for name in (f"{endpoint.host}:{endpoint.port}.key", f"{endpoint.host}.key"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    if endpoint.loopback:
        return ""
    raise errors.BadConfig(f"{folder} has no key for {endpoint}",
                           f"copy the server's public key to {folder}/{endpoint.host}.key")


def certificate(path: str) -> tuple[bytes, bytes | None]:
    """Load a CURVE certificate: the public key and, if the file has it, the secret one.

    Raises:
        errors.BadConfig: the file is missing or no certificate.
    """
    import zmq.auth

    if not os.path.exists(path):
        raise errors.BadConfig(f"{path}: there is no such certificate", "correct its path")
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        reason = (error.strerror or "unreadable") if isinstance(error, OSError) else error
        raise errors.BadConfig(f"{path}: {reason}",
                               "make a key pair with zmq.auth.create_certificates") from error


def secret_certificate(path: str) -> tuple[bytes, bytes]:
    """Load our own CURVE certificate, which nobody else may read.

    Raises:
        errors.BadConfig: it is missing, holds no secret key, or others can read it.
    """
    public, secret = certificate(path)
    if secret is None:
        raise errors.BadConfig(f"{path} holds no secret key", "name the .key_secret file")
    if os.stat(path).st_mode & 0o077:
        raise errors.BadConfig(f"{path} can be read by others", f"chmod 600 {path}")
    return public, secret


def subscribe(endpoint: str, topics: Iterable[str] = ("",),
              timeout: float | None = None) -> Iterator[tuple[str, Any]]:
    """Yield (topic, document) of a publisher; it may start later or restart meanwhile.

    Args:
        endpoint: ``zpb.ps`` or ``ipc`` URI.
        topics: their beginnings; the empty one means all.
        timeout: seconds after which the iteration ends; None means never.

    Raises:
        errors.BadData: the URI is not allowed.
        errors.BadConfig: the CURVE keys of the environment are not usable.
    """
    import zmq

    until = None if timeout is None else time.monotonic() + timeout
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    with socket:
        _subscribe(socket, endpoint, topics)
        while socket.poll(_left_ms(until)):
            sample = _sample(socket.recv_multipart())
            if sample:
                yield sample


async def asubscribe(endpoint: str, topics: Iterable[str] = ("",),
                     timeout: float | None = None) -> AsyncIterator[tuple[str, Any]]:
    """Yield (topic, document) of a publisher without blocking the loop; see :func:`subscribe`."""
    import zmq
    import zmq.asyncio

    until = None if timeout is None else time.monotonic() + timeout
    with zmq.asyncio.Context.instance().socket(zmq.SUB) as socket:
        _subscribe(socket, endpoint, topics)
        while await socket.poll(_left_ms(until)):
            sample = _sample(await socket.recv_multipart())
            if sample:
                yield sample


def _subscribe(socket: zmq.Socket[Any], text: str, topics: Iterable[str]) -> None:
    endpoint = uri.parse(text)
    if endpoint.scheme == "zpb.rr":
        raise errors.BadData(f"endpoint {text!r} publishes nothing", "give a zpb.ps:// endpoint")
    _prepare(socket, endpoint)
    # a publisher whose host lost power says nothing: let the kernel find out
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = 60
    for topic in topics:
        socket.subscribe(topic)
    socket.connect(endpoint.address)


def _left_ms(until: float | None) -> int | None:
    return None if until is None else max(0, round((until - time.monotonic()) * 1000))


def _sample(frames: Sequence[bytes]) -> tuple[str, Any] | None:
    # another program's publisher on our port is no reason to end
    try:
        topic, body = frames
        return topic.decode(), json.loads(body)
    except (ValueError, RecursionError):
        return None

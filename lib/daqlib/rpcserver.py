"""Requests and topics, the server's side: JSON-RPC 2.0 over a ROUTER, topics over a PUB socket.

For asyncio daemons; the format is told in :mod:`daqlib.rpc`. Every request has a task of its
own, so that one that waits delays no other. Nothing here polls: an idle server costs nothing.

Whatever a client sends or fails to read costs a bounded amount: of requests in hand, of bytes in
them, of replies that it does not take, of connections (see :class:`daqlib.rpcloop.Door`).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
import time
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import zmq

from daqlib import cli, errors, rpc, rpcloop, strictjson, uri
from daqlib.rpcbound import Bound, Curve, Publisher
from daqlib.rpcexchange import FROM_LIMIT, printable

__all__ = ["Curve", "Handled", "Handler", "Publisher", "Server", "Service"]

Handler = Callable[..., Awaitable[Any]]
#: An object whose coroutine methods named as commands serve them, or command to coroutine function.
#: Its attribute ``EXCEPTION``, if it has one, names the exception of its interface for a refusal.
Service = object | Mapping[str, Handler]

#: Requests in hand, of all clients and of one connection; most of them wait for a state.
IN_HAND, IN_HAND_OF_ONE = 20_000, 10_000
#: Bytes of a request that counts as light; the others are read one at a time.
LIGHT = 16 << 10
#: Bytes of the heavy requests in hand.
BYTES_IN_HAND = 32 << 20

_QUEUE = 500  # replies that libzmq holds for one client
_INBOX = 16  # messages that libzmq reads ahead of one client
_BETWEEN_WORDS_S = 10.0
_ID_LENGTH, _TEXT_LENGTH = 256, 16_384
_HEAD = re.compile(rb"""\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*("[\w-]{0,64}"|\d{1,18})""")


@dataclass(frozen=True)
class Handled:
    """A request that has been answered, for the audit.

    Attributes:
        who: the client: the name of its key or its address, and in parentheses what it says of
            itself, which nobody has verified.
        method: such as ``daq.StopDaq``; empty when the request names none.
        params: as they were given.
        named: the id in the answer or in the refusal, or empty: that of a new DAQ is not in params.
        code: 0, or the exit code of the refusal (:data:`daqlib.errors.CODES`).
        text: the message of the refusal, else empty.
        seconds: from the request to its answer.
    """

    who: str
    method: str
    params: dict[str, Any]
    named: str
    code: int
    text: str
    seconds: float


@dataclass(eq=False)
class _Request:
    """A request in hand."""

    envelope: list[bytes]
    body: bytes
    peer: str
    descriptor: int
    begin: float = field(default_factory=time.monotonic)
    document: rpc.Document = field(default_factory=dict)
    result: Any = None
    task: asyncio.Task[None] | None = None
    identity: int = 0
    left: bool = False

    @property
    def is_notification(self) -> bool:
        """Whether nobody waits for a reply (JSON-RPC 2.0, section 4.1)."""
        return bool(self.document) and "id" not in self.document

    @property
    def asked(self) -> str:
        """The id of the DAQ that it is about, as far as its arguments say."""
        params = self.document.get("params")
        named = params.get("id") if isinstance(params, dict) else None
        return named if isinstance(named, str) else ""

    def handled(self, error: errors.DaqError | None) -> Handled:
        """Return what became of it."""
        method, params = self.document.get("method"), self.document.get("params")
        said = self.document.get("from")
        said = f" ({printable(said, FROM_LIMIT)})" if isinstance(said, str) and said else ""
        return Handled(
            f"{self.peer}{said}", printable(method, 100) if isinstance(method, str) else "",
            params if isinstance(params, dict) else {}, self._named(error),
            error.code if error else errors.OK,
            _cut(error.message) if error else "", time.monotonic() - self.begin)

    def _named(self, error: errors.DaqError | None) -> str:
        if error:
            return str(error.job)
        named = self.result.get("id") if isinstance(self.result, dict) else None
        return named if isinstance(named, str) else ""


class Server:
    """A JSON-RPC server; make it, :meth:`enable` services, :meth:`start` it, :meth:`close` it.

    Args:
        endpoint: URI to bind; port 0 takes a free one, told by :attr:`endpoint`.
        services: by path, enabled from the beginning.
        curve: keys; without them only this host can be served.
        insecure: serve other hosts without keys all the same.
        log: takes the lines about unexpected exceptions.
        audit: called after each request.
        waits: commands that change nothing and are given up when their client has gone away.

    Raises:
        errors.BadConfig: the endpoint cannot or must not be bound.
        errors.Later: another program serves there.
    """

    def __init__(self, endpoint: str, services: Mapping[str, Service] | None = None, *,
                 curve: Curve | None = None, insecure: bool = False,
                 log: Callable[[str], None] = cli.warn,
                 audit: Callable[[Handled], None] | None = None,
                 waits: Collection[str] = ("AwaitDaqState", "RecWait")) -> None:
        self._wanted = uri.parse(endpoint, bind=True)
        if self._wanted.scheme == "zpb.ps":
            raise errors.BadConfig(f"{endpoint} is no endpoint for requests",
                                   "give a zpb.rr:// endpoint")
        self._services: dict[str, Service] = dict(services or {})
        self._known = set(self._services)
        self._curve, self._insecure, self._log = curve, insecure, log
        self._audit, self._waits = audit, waits
        self._requests: set[_Request] = set()
        self._of_peer: Counter[bytes] = Counter()
        self._waiting: dict[int, set[_Request]] = {}  # by descriptor
        self._heavy: deque[_Request] = deque()
        self._bytes = 0
        self._loop: asyncio.AbstractEventLoop
        self._next_word = 0.0
        self._outbox = rpcloop.Outbox()
        self._closing = False
        self._bound: Bound | None = None
        self._tap: rpcloop.Tap | None = None

    @property
    def endpoint(self) -> uri.Endpoint:
        """The endpoint served, with the real port."""
        return self._bound.endpoint if self._bound else self._wanted

    def enable(self, path: str, service: Service) -> None:
        """Serve a path from now on, in place of what served it."""
        self._services[path] = service
        self._known.add(path)

    def disable(self, path: str) -> None:
        """Refuse requests to a path from now on; those that wait already go on."""
        self._services.pop(path, None)
        self._known.add(path)

    def start(self) -> uri.Endpoint:
        """Bind and serve, within the running loop.

        Raises:
            errors.BadConfig: the endpoint cannot or must not be bound.
            errors.Later: another program serves there.
        """
        self._loop = asyncio.get_running_loop()
        self._bound = Bound(self._wanted, zmq.ROUTER, self._curve, insecure=self._insecure,
                            say=self._log, setup=_set_up, left=self._left)
        self._tap = rpcloop.Tap(self._bound.socket, self._take)
        self._outbox.open(self._bound.socket, self._tap)
        return self.endpoint

    async def close(self) -> None:
        """Stop: requests that wait are told "shutting down", replies get a moment to leave.

        Not for handlers, whose own reply would be lost: an Exit command sets an event that the
        program's main coroutine waits for.
        """
        self._closing = True
        if self._tap:
            self._tap.close()
        tasks = {request.task for request in self._requests if request.task}
        self._heavy.clear()
        others = tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for request in self._requests:  # those whose task had not begun yet
            if request.task in others or not request.task:
                self._refuse(request.envelope, self._interrupted(request), _id_of(request.body))
        self._outbox.close()
        if self._bound:
            self._bound.close()

    async def __aenter__(self) -> Server:
        self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    # -- a request comes and goes --------------------------------------------------------------

    def _take(self, frames: rpcloop.Frames) -> None:
        envelope, last = [frame.bytes for frame in frames[:-1]], frames[-1]
        if len(frames) > rpcloop.FRAME_LIMIT or sum(map(len, envelope)) > _TEXT_LENGTH:
            self._refuse(envelope[:1], _refused(rpc.INVALID_REQUEST, "rpc::InvalidRequest",
                                                "the request is not one frame"))
            return
        body = last.bytes
        heavy = len(body) > LIGHT
        if (len(self._requests) >= IN_HAND or self._of_peer[envelope[0]] >= IN_HAND_OF_ONE
                or (heavy and self._bytes + len(body) > BYTES_IN_HAND)):
            self._turn_away(envelope, body)
            return
        request = _Request(envelope, body, _peer(last), _descriptor(last))
        if self._bound and self._bound.door is not None:
            self._bound.door.greet(request.descriptor)
        self._requests.add(request)
        self._of_peer[envelope[0]] += 1
        if heavy:
            self._bytes += len(body)
            self._heavy.append(request)
            if len(self._heavy) == 1:
                self._loop.call_soon(self._lift)
        else:
            self._begin(request)

    def _lift(self) -> None:
        """Begin the next heavy request: reading one takes long enough to look around after it."""
        if self._heavy:
            self._begin(self._heavy.popleft())
        if self._heavy and not self._closing:
            self._loop.call_soon(self._lift)

    def _begin(self, request: _Request) -> None:
        request.task = asyncio.create_task(self._serve(request))

    def _turn_away(self, envelope: list[bytes], body: bytes) -> None:
        now = time.monotonic()
        if now > self._next_word:  # a flood shall not become one of words
            self._next_word = now + _BETWEEN_WORDS_S
            self._log(f"{self.endpoint} is busy: {len(self._requests)} requests with "
                      f"{self._bytes} bytes are in hand, others are refused")
        self._refuse(envelope, rpc.RemoteError(
            "the server is busy: too many requests are in hand", exception="rpc::Busy",
            code=errors.Later.code, remedy="try again later"), _id_of(body))

    async def _serve(self, request: _Request) -> None:
        error: errors.DaqError | None = None
        try:
            request.document = _decoded(request.body)
            request.result = await self._run(request)
            reply: rpc.Document = {"result": request.result}
        except asyncio.CancelledError:
            error = self._interrupted(request)
        except errors.DaqError as refusal:
            error = refusal
        except Exception as unexpected:
            error = self._unexpected(unexpected)
        self._forget(request)
        if error is not None:
            if not isinstance(error, rpc.RemoteError):
                error.job = error.job or request.asked
            reply = _error(error, self._exception_of(request))
        if not (request.is_notification or request.left):
            data = self._encoded(request.document.get("id"), reply)
            self._outbox.send([*request.envelope, data])
        self._tell(request.handled(error))

    def _exception_of(self, request: _Request) -> str:
        """Return the exception that the interface asked for has for a refusal."""
        path = str(request.document.get("method")).rpartition(".")[0]
        return str(getattr(self._services.get(path), "EXCEPTION", "daqif::RuntimeError"))

    def _forget(self, request: _Request) -> None:
        self._requests.discard(request)
        if len(request.body) > LIGHT:
            self._bytes -= len(request.body)
        peer = request.envelope[0]
        self._of_peer[peer] -= 1
        if not self._of_peer[peer]:
            del self._of_peer[peer]
        waiting = self._waiting.get(request.descriptor)
        if waiting is not None:
            waiting.discard(request)
            if not waiting:
                del self._waiting[request.descriptor]

    def _tell(self, handled: Handled) -> None:
        if self._audit:
            try:
                self._audit(handled)
            except Exception:  # a log that fails must not stop what it tells of
                self._explain()

    def _refuse(self, envelope: list[bytes], error: rpc.RemoteError,
                request_id: object = None) -> None:
        self._outbox.send([*envelope, self._encoded(request_id, _error(error))])

    def _interrupted(self, request: _Request) -> rpc.RemoteError:
        if request.left:
            return rpc.RemoteError("the client went away", exception="rpc::ClientGone",
                                   code=errors.Unavailable.code)
        if self._closing:
            return rpc.RemoteError("the service is shutting down", exception="rpc::ShuttingDown",
                                   code=errors.Unavailable.code)
        return _internal("CancelledError")

    def _unexpected(self, error: Exception) -> errors.DaqError:
        if isinstance(error, OSError) and error.errno:  # no space, no permission
            told = cli.from_os_error(error)
            self._log(str(told))
            return told
        self._explain()
        return _internal(type(error).__name__)

    def _explain(self) -> None:
        for line in traceback.format_exc().splitlines():
            self._log(line)

    def _encoded(self, request_id: object, reply: rpc.Document) -> bytes:
        try:
            return rpc.encode({"jsonrpc": "2.0", "id": request_id, **reply}, escape=True)
        except errors.BadData as error:
            self._log(str(error))
            return rpc.encode({"jsonrpc": "2.0", "id": request_id,
                               **_error(_internal(str(error)))})

    # -- what it asks for ------------------------------------------------------------------------

    async def _run(self, request: _Request) -> Any:
        method = request.document.get("method")
        params = request.document.get("params", {})
        if not isinstance(method, str):
            raise _refused(rpc.INVALID_REQUEST, "rpc::InvalidRequest",
                           "the request names no method")
        handler = self._handler(method)
        if not isinstance(params, dict):
            raise _refused(rpc.INVALID_PARAMS, "rpc::InvalidParams",
                           f"{method}: parameters go by name, in an object")
        try:
            _signature(handler).bind(**params)
        except TypeError as error:
            raise _refused(rpc.INVALID_PARAMS, "rpc::InvalidParams",
                           f"{method}: {error}") from error
        if method.rpartition(".")[2] in self._waits:
            self._may_leave(request)
        return await handler(**params)

    def _handler(self, method: str) -> Handler:
        path, _, command = method.rpartition(".")
        service = self._services.get(path)
        if service is None and path in self._known:
            raise rpc.RemoteError(f"{method}: the service /{path} is not enabled",
                                  exception="rpc::NotEnabled", code=errors.Unavailable.code,
                                  remedy="bring the server to Operational (std.Init, std.Enable)")
        if isinstance(service, Mapping):
            handler = service.get(command)
        else:  # methods named as commands only: nothing that begins with _ or in lower case
            handler = getattr(service, command, None) if command[:1].isupper() else None
        if handler is None or not callable(handler):
            raise _refused(rpc.METHOD_NOT_FOUND, "rpc::MethodNotFound",
                           f"{method[:100]} is not known at {self.endpoint}",
                           errors.Unavailable.code)
        found: Handler = handler
        return found

    # -- clients that go away ------------------------------------------------------------------

    def _may_leave(self, request: _Request) -> None:
        request.identity = rpcloop.identity(request.descriptor)
        self._waiting.setdefault(request.descriptor, set()).add(request)

    def _left(self, descriptor: int) -> None:
        """Give up what waits for a client that closed its connection."""
        now = rpcloop.identity(descriptor)  # may be the next client's already
        for request in self._waiting.get(descriptor, ()):
            if request.identity != now and request.task:
                request.left = True
                request.task.cancel()


def _set_up(socket: zmq.Socket[Any]) -> None:
    socket.router_mandatory = 1  # tells when a client's queue is full
    socket.sndhwm = _QUEUE
    socket.rcvhwm = _INBOX


@functools.lru_cache(256)
def _signature(handler: Handler) -> inspect.Signature:
    return inspect.signature(handler)


def _peer(frame: zmq.Frame) -> str:
    """Return who sent a frame: the name of its key, its address, or nothing better."""
    for name in ("User-Id", "Peer-Address"):
        try:
            found = frame.get(name)
        except zmq.ZMQError:
            continue
        if found:
            return printable(str(found), FROM_LIMIT)
    return "local"


def _descriptor(frame: zmq.Frame) -> int:
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _decoded(body: bytes) -> rpc.Document:
    try:
        request = strictjson.loads(body)
    except ValueError as error:
        raise _refused(rpc.PARSE_ERROR, "rpc::ParseError",
                       f"the request is not JSON: {error}") from error
    if not isinstance(request, dict) or not request:
        raise _refused(rpc.INVALID_REQUEST, "rpc::InvalidRequest",
                       "the request is not one JSON-RPC object")
    if not _is_id(request.get("id")):
        raise _refused(rpc.INVALID_REQUEST, "rpc::InvalidRequest",
                       f"the id is no number and no text of up to {_ID_LENGTH} characters")
    return request


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _ID_LENGTH
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _id_of(body: bytes) -> object:
    """Return the id of a request that is not read; None if it is not where clients write it."""
    match = _HEAD.match(body[:_TEXT_LENGTH])
    return json.loads(match[1]) if match else None


def _refused(rpc_code: int, exception: str, message: str, code: int = 65) -> rpc.RemoteError:
    return rpc.RemoteError(message, exception=exception, rpc_code=rpc_code, code=code)


def _internal(name: str) -> rpc.RemoteError:
    return _refused(rpc.INTERNAL_ERROR, "rpc::InternalError", f"internal error: {name}",
                    errors.Bug.code)


def _error(error: errors.DaqError, default: str = "daqif::RuntimeError") -> rpc.Document:
    exception = getattr(error, "exception", "") or default
    message = _cut(error.message)
    return {"error": {
        "code": getattr(error, "rpc_code", rpc.REFUSED),
        "message": message,
        "data": {"exception": exception, "id": _cut(str(error.job)), "message": message,
                 "code": error.code, "remedy": _cut(error.remedy)},
    }}


def _cut(text: str) -> str:
    """Return a text of ours, which may quote what was sent, so that it can be sent back."""
    short = text if len(text) <= _TEXT_LENGTH else f"{text[:_TEXT_LENGTH]}..."
    return short.encode(errors="backslashreplace").decode()

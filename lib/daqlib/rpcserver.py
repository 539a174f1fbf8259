"""Requests and topics, the server's side: JSON-RPC 2.0 over a ROUTER, topics over a PUB socket.

For asyncio daemons; the format is told in :mod:`daqlib.rpc`. Every request has a task of its
own, so that one that waits delays no other. Nothing here polls: an idle server costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import json
import os
import socket as sockets
import stat
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio
import zmq.auth.asyncio

from daqlib import cli, errors, rpc, uri

Handler = Callable[..., Awaitable[Any]]
#: An object whose coroutine methods named as commands serve them, or command to coroutine function.
Service = object | Mapping[str, Handler]

_LINGER_MS = 1000  # time for the last replies to leave at the end

# a context that is collected with a socket still open waits for it for ever: one that an
# exception left behind is kept until the program ends
_contexts: set[zmq.Context[Any]] = set()


@dataclass(frozen=True)
class Curve:
    """Encryption and authentication of an endpoint, see zmq_curve(7).

    Attributes:
        certificate: our own ``.key_secret`` file.
        authorized: directory with the ``.key`` files of the clients that are let in; None lets
            in whoever knows our public key.
    """

    certificate: str
    authorized: str | None = None


class _Bound:
    """A bound socket with its keys."""

    def __init__(self, endpoint: uri.Endpoint, kind: int, make: type[zmq.Socket[Any]],
                 curve: Curve | None, insecure: bool) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        _contexts.add(self._context)
        self._authenticator: zmq.auth.asyncio.AsyncioAuthenticator | None = None
        self._file: tuple[str, int] | None = None
        try:
            self._authenticator = self._secure(endpoint, curve, insecure)
            self.socket = self._context.socket(kind, socket_class=make)
            self.socket.maxmsgsize = rpc.MESSAGE_LIMIT
            if curve and not endpoint.file:
                public, secret = rpc.secret_certificate(curve.certificate)
                self.socket.curve_server = True
                self.socket.curve_publickey = public
                self.socket.curve_secretkey = secret
            self.endpoint = _bind(self.socket, endpoint)
            if endpoint.file:
                self._file = endpoint.file, os.lstat(endpoint.file).st_ino
        except BaseException:
            self.close()
            raise

    def _secure(self, endpoint: uri.Endpoint, curve: Curve | None,
                insecure: bool) -> zmq.auth.asyncio.AsyncioAuthenticator | None:
        if not (endpoint.loopback or curve or insecure):
            raise errors.BadConfig(
                f"{endpoint} can be reached from other hosts and has no CURVE keys",
                "bind to 127.0.0.1, give keys, or say insecure: true")
        if endpoint.file or not curve or curve.authorized is None:
            return None
        if not os.path.isdir(curve.authorized):
            raise errors.BadConfig(f"{curve.authorized} is no directory of clients' keys",
                                   "make it and put the clients' .key files into it")
        authenticator = zmq.auth.asyncio.AsyncioAuthenticator(self._context)
        authenticator.start()
        authenticator.configure_curve(domain="*", location=curve.authorized)
        return authenticator

    def close(self) -> None:
        if self._authenticator:
            self._authenticator.stop()
        if self._file:
            _unlink_own(*self._file)
        socket = getattr(self, "socket", None)
        if socket is not None:
            socket.close(linger=_LINGER_MS)  # what is queued gets a moment to leave
        if _terminated(self._context):
            _contexts.discard(self._context)


def _terminated(context: zmq.Context[Any]) -> bool:
    """Wait until the last messages have left; tell whether they have.

    ``term`` has no time limit, and libzmq 4.3.5 waits in it for ever about once in 350 times when
    peers vanish just before, whatever the linger: a daemon that is told to end must end.
    """
    waiter = threading.Thread(target=context.term, daemon=True)
    waiter.start()
    waiter.join(2 * _LINGER_MS / 1000)
    return not waiter.is_alive()


def _bind(socket: zmq.Socket[Any], endpoint: uri.Endpoint) -> uri.Endpoint:
    if endpoint.file:
        _bind_ipc(socket, endpoint)
        return endpoint
    address = f"tcp://{_resolved(endpoint)}:{endpoint.port or '*'}"
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise _not_bound(endpoint, error) from error
    if endpoint.port:
        return endpoint
    bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return uri.with_port(endpoint, int(bound.rpartition(":")[2]))


def _resolved(endpoint: uri.Endpoint) -> str:
    # ZeroMQ binds to addresses and interfaces, not to names
    if endpoint.host == "*":
        return "*"
    try:
        return sockets.gethostbyname(endpoint.host)
    except OSError as error:
        raise errors.BadConfig(f"{endpoint}: host {endpoint.host} is not known: {error.strerror}",
                               "give an address of this host") from error


def _not_bound(endpoint: uri.Endpoint, error: zmq.ZMQError) -> errors.DaqError:
    if error.errno == zmq.EADDRINUSE:
        return errors.Later(f"{endpoint} is in use by another program",
                            "stop that one or choose another endpoint")
    if error.errno in (errno.ENODEV, zmq.EADDRNOTAVAIL):
        return errors.BadConfig(f"{endpoint} is no address of this host", "correct the endpoint")
    return errors.BadConfig(f"cannot serve at {endpoint}: {error.strerror}",
                            "choose another endpoint")


def _bind_ipc(socket: zmq.Socket[Any], endpoint: uri.Endpoint) -> None:
    folder = os.path.dirname(endpoint.file)
    if not os.path.isdir(folder):
        raise errors.BadConfig(f"{endpoint}: there is no directory {folder}", f"mkdir {folder}")
    _clear_stale(endpoint)
    before = os.umask(0o177)  # the socket file is never open to others, not even for a moment
    try:
        socket.bind(endpoint.address)
        os.chmod(endpoint.file, 0o600)
    except zmq.ZMQError as error:
        raise _not_bound(endpoint, error) from error
    finally:
        os.umask(before)


def _unlink_own(file: str, inode: int) -> None:
    # a successor may have taken the name already
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(file).st_ino == inode:
            os.unlink(file)


def _clear_stale(endpoint: uri.Endpoint) -> None:
    # ZeroMQ would unlink whatever has this name, also the socket of a living server
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(endpoint.file).st_mode):
            raise errors.BadConfig(f"{endpoint.file} exists and is no socket",
                                   "choose another name for the socket")
        with sockets.socket(sockets.AF_UNIX) as probe:
            try:
                probe.connect(endpoint.file)
            except ConnectionRefusedError:
                os.unlink(endpoint.file)
                return
        raise errors.Later(f"{endpoint} is in use by another program",
                           "stop that one or choose another endpoint")


class Server:
    """A JSON-RPC server; make it, :meth:`enable` services, :meth:`start` it, :meth:`close` it.

    Args:
        endpoint: URI to bind; port 0 takes a free one, told by :attr:`endpoint`.
        services: by path, enabled from the beginning.
        curve: keys; without them only this host can be served.
        insecure: serve other hosts without keys all the same.
        log: takes the lines about unexpected exceptions.

    Raises:
        errors.BadConfig: the endpoint cannot or must not be bound.
        errors.Later: another program serves there.
    """

    def __init__(self, endpoint: str, services: Mapping[str, Service] | None = None, *,
                 curve: Curve | None = None, insecure: bool = False,
                 log: Callable[[str], None] = cli.warn) -> None:
        self._wanted = uri.parse(endpoint, bind=True)
        if self._wanted.scheme == "zpb.ps":
            raise errors.BadConfig(f"{endpoint} is no endpoint for requests",
                                   "give a zpb.rr:// endpoint")
        self._services: dict[str, Service] = dict(services or {})
        self._known = set(self._services)
        self._curve, self._insecure, self._log = curve, insecure, log
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._bound: _Bound | None = None
        self._socket: zmq.asyncio.Socket
        self._receiver: asyncio.Task[None] | None = None

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
        self._bound = _Bound(self._wanted, zmq.ROUTER, zmq.asyncio.Socket, self._curve,
                             self._insecure)
        assert isinstance(self._bound.socket, zmq.asyncio.Socket)
        self._socket = self._bound.socket
        self._receiver = asyncio.create_task(self._receive())
        return self.endpoint

    async def close(self) -> None:
        """Stop: requests that wait are told "shutting down", replies get a moment to leave.

        Not for handlers, whose own reply would be lost: an Exit command sets an event that the
        program's main coroutine waits for.
        """
        self._closing = True
        if self._receiver:
            self._receiver.cancel()
            await asyncio.gather(self._receiver, return_exceptions=True)
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._bound:
            self._bound.close()

    async def __aenter__(self) -> Server:
        self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            task = asyncio.create_task(self._answer(frames[:-1], frames[-1]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, envelope: list[bytes], body: bytes) -> None:
        request: rpc.Document = {}
        try:
            request = _decoded(body)
            reply: rpc.Document = {"result": await self._run(request)}
        except asyncio.CancelledError:
            reply = _error(rpc.RemoteError(
                "the service is shutting down", exception="rpc::ShuttingDown",
                code=errors.Unavailable.code) if self._closing else _unexpected("CancelledError"))
        except errors.DaqError as error:
            reply = _error(error)
        except Exception as error:
            for line in traceback.format_exc().splitlines():
                self._log(line)
            reply = _error(_unexpected(type(error).__name__))
        if request and "id" not in request:
            return  # a notification: JSON-RPC 2.0, section 4.1
        with contextlib.suppress(zmq.ZMQError):  # the client went away
            await self._socket.send_multipart(
                [*envelope, _encoded({"jsonrpc": "2.0", "id": request.get("id"), **reply})])

    async def _run(self, request: rpc.Document) -> Any:
        method, params = request.get("method"), request.get("params", {})
        if not isinstance(method, str):
            raise _refused(rpc.INVALID_REQUEST, "rpc::InvalidRequest",
                           "the request names no method")
        handler = self._handler(method)
        if not isinstance(params, dict):
            raise _refused(rpc.INVALID_PARAMS, "rpc::InvalidParams",
                           f"{method}: parameters go by name, in an object")
        try:
            inspect.signature(handler).bind(**params)
        except TypeError as error:
            raise _refused(rpc.INVALID_PARAMS, "rpc::InvalidParams",
                           f"{method}: {error}") from error
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
                           f"{method} is not known at {self.endpoint}", errors.Unavailable.code)
        found: Handler = handler
        return found


def _decoded(body: bytes) -> rpc.Document:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _refused(rpc.PARSE_ERROR, "rpc::ParseError",
                       f"the request is not JSON: {error}") from error
    if not isinstance(request, dict) or not request:
        raise _refused(rpc.INVALID_REQUEST, "rpc::InvalidRequest",
                       "the request is not one JSON-RPC object")
    return request


def _refused(rpc_code: int, exception: str, message: str, code: int = 65) -> rpc.RemoteError:
    return rpc.RemoteError(message, exception=exception, rpc_code=rpc_code, code=code)


def _unexpected(name: str) -> rpc.RemoteError:
    return _refused(rpc.INTERNAL_ERROR, "rpc::InternalError", f"internal error: {name}",
                    errors.Bug.code)


def _error(error: errors.DaqError) -> rpc.Document:
    default = "daqif::DaqException" if error.job else "daqif::RuntimeError"
    exception = getattr(error, "exception", "") or default
    return {"error": {
        "code": getattr(error, "rpc_code", rpc.REFUSED),
        "message": error.message,
        "data": {"exception": exception, "id": error.job, "message": error.message,
                 "code": error.code, "remedy": error.remedy},
    }}


def _encoded(reply: rpc.Document) -> bytes:
    try:
        return rpc.encode(reply)
    except errors.BadData as error:
        return rpc.encode({"jsonrpc": "2.0", "id": reply["id"], **_error(_unexpected(str(error)))})


class Publisher:
    """A PUB socket; sending never waits, a subscriber that is too slow misses samples.

    Args:
        endpoint: URI to bind; port 0 takes a free one, told by :attr:`endpoint`.
        curve: keys; without them only this host can be served. They need a running loop.
        insecure: serve other hosts without keys all the same.

    Raises:
        errors.BadConfig: the endpoint cannot or must not be bound.
        errors.Later: another program serves there.
    """

    def __init__(self, endpoint: str, *, curve: Curve | None = None,
                 insecure: bool = False) -> None:
        wanted = uri.parse(endpoint, bind=True)
        if wanted.scheme == "zpb.rr":
            raise errors.BadConfig(f"{endpoint} is no endpoint for topics",
                                   "give a zpb.ps:// endpoint")
        self._bound = _Bound(wanted, zmq.PUB, zmq.Socket, curve, insecure)

    @property
    def endpoint(self) -> uri.Endpoint:
        """The endpoint served, with the real port."""
        return self._bound.endpoint

    def publish(self, topic: str, document: object) -> None:
        """Publish one sample.

        Args:
            topic: such as ``/daq/status``.
            document: what JSON can hold.

        Raises:
            errors.BadData: the document cannot be written as JSON.
        """
        with contextlib.suppress(zmq.Again):
            self._bound.socket.send_multipart([topic.encode(), rpc.encode(document)], zmq.NOBLOCK)

    def close(self) -> None:
        """Stop; samples on their way get a moment to leave."""
        self._bound.close()

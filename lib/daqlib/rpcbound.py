"""Bound sockets of a server: where they may be bound, with which keys, and how they are closed.

Of the two kinds one is here, the publisher of topics; the other is in :mod:`daqlib.rpcserver`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket as sockets
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from daqlib import cli, curve, errors, rpcsocket, uri
from daqlib.rpcexchange import encode
from daqlib.rpcloop import Door, Gate

_TOPIC_LENGTH = 4096
_LINGER_MS = 1000  # time for the last replies to leave at the end

# a context that is collected with a socket still open waits for it for ever: one that an
# exception left behind is kept until the program ends
_contexts: set[zmq.Context[Any]] = set()


@dataclass(frozen=True)
class Curve:
    """Encryption and authentication of an endpoint, see zmq_curve(7).

    Attributes:
        certificate: our own ``.key_secret`` file.
        authorized: directory with the ``.key`` files of the clients that are let in, read anew
            when it changes; None lets in whoever knows our public key.
    """

    certificate: str
    authorized: str | None = None


class Bound:
    """A bound socket with its keys; within a running loop, with a gate and a door as well.

    Args:
        endpoint: where to bind.
        kind: of socket, such as ``zmq.ROUTER``.
        curve: keys, if any.
        insecure: serve other hosts without keys all the same.
        say: told what an operator should know.
        setup: sets more options of the socket before it is bound.
        left: called with the descriptor of every connection that ended.

    Raises:
        errors.BadConfig: the endpoint cannot or must not be bound.
        errors.Later: another program serves there.
    """

    def __init__(self, endpoint: uri.Endpoint, kind: int, keys: Curve | None, *, insecure: bool,
                 say: Callable[[str], None], setup: Callable[[zmq.Socket[Any]], None],
                 left: Callable[[int], None]) -> None:
        _check_reach(endpoint, keys, insecure)
        self._file: tuple[str, int] | None = None
        self._parts: list[Gate | Door] = []
        self._context: zmq.Context[Any] = zmq.Context()
        _contexts.add(self._context)
        self.socket: zmq.Socket[Any] = self._context.socket(kind)
        try:
            rpcsocket.limit(self.socket)
            setup(self.socket)
            self._secure(endpoint, keys, say)
            if _is_looping():
                self._parts.append(Door(self.socket, left))
            self.endpoint = _bind(self.socket, endpoint)
            if endpoint.file:
                self._file = endpoint.file, os.lstat(endpoint.file).st_ino
        except BaseException:
            self.close()
            raise

    def _secure(self, endpoint: uri.Endpoint, keys: Curve | None, say: Callable[[str], None],
                ) -> None:
        if endpoint.file:
            return  # its mode decides
        clients = None
        if keys:
            public, secret = curve.secret_certificate(keys.certificate)
            self.socket.curve_server = True
            self.socket.curve_publickey = public
            self.socket.curve_secretkey = secret
            if keys.authorized is not None:
                curve.check_folder(keys.authorized)
                clients = curve.Authorized(keys.authorized)
        if clients or _is_looping():
            self.socket.zap_domain = b"daqspool"  # without one the gate is not asked
            self._parts.append(Gate(self._context, clients, say))

    @property
    def door(self) -> Door | None:
        """Who counts the connections."""
        return next((part for part in self._parts if isinstance(part, Door)), None)

    def close(self) -> None:
        """Close the socket; what is queued gets a moment to leave."""
        for part in reversed(self._parts):
            part.close()
        if self._file:
            _unlink_own(*self._file)
        self.socket.close(linger=_LINGER_MS)
        if _terminated(self._context):
            _contexts.discard(self._context)


def _is_looping() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _check_reach(endpoint: uri.Endpoint, keys: Curve | None, insecure: bool) -> None:
    if not (endpoint.loopback or keys or insecure):
        raise errors.BadConfig(
            f"{endpoint} can be reached from other hosts and has no CURVE keys",
            "bind to 127.0.0.1, give keys, or say insecure: true")


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
    # in a directory that a group shares it is for the group, see daqlib.spool
    mode = 0o660 if os.stat(folder).st_mode & 0o2020 == 0o2020 else 0o600
    before = os.umask(0o777 & ~mode)  # it is never open to others, not even for a moment
    try:
        socket.bind(endpoint.address)
        os.chmod(endpoint.file, mode)
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


class Publisher:
    """A PUB socket; sending never waits, a subscriber that is too slow misses samples.

    Args:
        endpoint: URI to bind; port 0 takes a free one, told by :attr:`endpoint`.
        curve: keys; without them only this host can be served. They need a running loop.
        insecure: serve other hosts without keys all the same.
        log: takes the lines about key files that do not count.

    Raises:
        errors.BadConfig: the endpoint cannot or must not be bound.
        errors.Later: another program serves there.
    """

    def __init__(self, endpoint: str, *, curve: Curve | None = None, insecure: bool = False,
                 log: Callable[[str], None] = cli.warn) -> None:
        wanted = uri.parse(endpoint, bind=True)
        if wanted.scheme == "zpb.rr":
            raise errors.BadConfig(f"{endpoint} is no endpoint for topics",
                                   "give a zpb.ps:// endpoint")
        self._bound = Bound(wanted, zmq.PUB, curve, insecure=insecure, say=log,
                            setup=_set_up_topics, left=lambda _descriptor: None)

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
        self._bound.socket.send_multipart([topic.encode(), encode(document, escape=True)],
                                          zmq.NOBLOCK)

    def close(self) -> None:
        """Stop; samples on their way get a moment to leave."""
        self._bound.close()


def _set_up_topics(socket: zmq.Socket[Any]) -> None:
    socket.maxmsgsize = _TOPIC_LENGTH  # a subscriber sends nothing but beginnings of topics

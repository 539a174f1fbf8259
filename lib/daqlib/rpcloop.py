"""ZeroMQ sockets in an asyncio loop: messages as calls, who connects, and who is let in.

Nothing here polls. The descriptor of a ZeroMQ socket tells that something happened, not what, and
only once (zmq_getsockopt(3), ZMQ_FD): whoever sends on a socket must look at it afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket as sockets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils import z85

from daqlib import rpcsocket
from daqlib.curve import Authorized

Frames = list[zmq.Frame]

#: Frames of the longest message; what is sent is one frame, and proxies put a few before it.
FRAME_LIMIT = 16
#: Bytes of the replies that their clients do not take, of all clients, and what each one costs us
#: besides.
BYTES_UNSENT = 32 << 20
_EACH_UNSENT = 300
#: Seconds after which a reply that its client does not take is dropped.
SLOW_S = 10.0

_RETRY_S = 0.01
_RETRIED = 500  # replies of a client at a time; libzmq takes about as many
_AT_A_TIME = 64  # frames between two looks at everything else
_SKIPPED_AT_A_TIME = 10_000  # frames of a message that has far too many
_ZAP = "inproc://zeromq.zap.01"


class Tap:
    """Calls back with every message of a socket, a few at a time.

    Args:
        socket: neither of :mod:`zmq.asyncio` nor read elsewhere; the caller closes it afterwards.
        take: called with the frames of a message; of one with more than :data:`FRAME_LIMIT`, with
            the first ones.
    """

    def __init__(self, socket: zmq.Socket[Any], take: Callable[[Frames], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, self._take = socket, take
        self._descriptor = int(socket.FD)
        self._begun: Frames = []
        self._due: asyncio.Handle | None = None
        self._open = True
        self._loop.add_reader(self._descriptor, self.read)
        self.look()

    def look(self) -> None:
        """Look at the socket soon: it was sent on, which may have swallowed its hint."""
        if self._due is None and self._open:
            self._due = self._loop.call_soon(self.read)

    def read(self) -> bool:
        """Take what has come, up to a bound; tell whether there may be more, which comes soon."""
        self._due = None
        for _ in range(_AT_A_TIME):
            if not self._open:
                return False
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            if not self._add(frame):
                break
        self.look()
        return True

    def _add(self, frame: zmq.Frame) -> bool:
        """Add a frame to the message; False when there are so many that it takes a while."""
        if len(self._begun) <= FRAME_LIMIT:  # one too many tells that there were
            self._begun.append(frame)
        elif frame.more:
            return self._skip()
        if not frame.more:
            frames, self._begun = self._begun, []
            self._take(frames)
        return True

    def _skip(self) -> bool:
        # all that the socket can give before the message's last frame are the frames before it
        for _ in range(_SKIPPED_AT_A_TIME):
            self._socket.recv(zmq.NOBLOCK)
            if not self._socket.getsockopt(zmq.RCVMORE):
                frames, self._begun = self._begun, []
                self._take(frames)
                return True
        return False

    def close(self) -> None:
        """Take no more."""
        if self._open:
            self._open = False
            if self._due:
                self._due.cancel()
            if not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)


class Door:
    """Counts the connections of a bound socket and turns away those beyond the limit.

    The limit is a third of the descriptors that the process may have: what it writes needs some,
    too. Those that never said who they are go first.

    Args:
        socket: bound later or already.
        left: called with the descriptor of every connection that ended.
    """

    def __init__(self, socket: zmq.Socket[Any], left: Callable[[int], None]) -> None:
        self._left = left
        self._socket = socket
        self._strangers: dict[int, float] = {}  # since when, in the order in which they came
        self._known: set[int] = set()
        self._monitor = rpcsocket.watch(socket, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._tap = Tap(self._monitor, self._noted)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._strangers) + len(self._known)

    def look(self) -> None:
        """Take note of what happened up to now."""
        self._tap.read()

    def _throw_out(self, descriptor: int) -> None:
        # libzmq owns it: it finds it ended by the other side
        with (contextlib.suppress(OSError), open(os.dup(descriptor), "rb", 0) as held,
              sockets.socket(fileno=os.dup(held.fileno())) as connection):
            if _is_bound_like(connection, self._socket):
                connection.shutdown(sockets.SHUT_RDWR)

    def greet(self, descriptor: int) -> None:
        """Take note that a connection is that of a client."""
        if self._strangers.pop(descriptor, None) is not None:
            self._known.add(descriptor)

    def _noted(self, frames: Frames) -> None:
        kind, descriptor = rpcsocket.event(frames[0].bytes)
        if kind == zmq.EVENT_ACCEPTED:
            self._strangers[descriptor] = time.monotonic()
            if self.connections > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3:
                least = self._least_known()
                del self._strangers[least]
                self._throw_out(least)
        elif kind == zmq.EVENT_DISCONNECTED:
            self._strangers.pop(descriptor, None)
            self._known.discard(descriptor)
            self._left(descriptor)

    def _least_known(self) -> int:
        # who is still here after the time for the handshake has made it, whether it spoke or not
        before = time.monotonic() - rpcsocket.HANDSHAKE_S - 1
        while len(self._strangers) > 1:
            descriptor, since = next(iter(self._strangers.items()))
            if since > before:
                break
            self.greet(descriptor)
        return next(iter(self._strangers))

    def close(self) -> None:
        """Count no more; before the socket is closed."""
        self._tap.close()
        with contextlib.suppress(zmq.ZMQError):
            self._socket.monitor(None, 0)
        self._monitor.close(linger=0)


def _is_bound_like(twin: sockets.socket, socket: zmq.Socket[Any]) -> bool:
    # the descriptor may be another's by now
    name, address = twin.getsockname(), socket.getsockopt_string(zmq.LAST_ENDPOINT)
    own = name if isinstance(name, str) else f":{name[1]}"
    return address.rstrip("\0").endswith(own)


def identity(descriptor: int) -> int:
    """Return what tells one connection from the next with the same descriptor; 0 if it is gone."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return 0


class Gate:
    """Decides who is let in: the handler of ZAP (ZeroMQ RFC 27) of a context.

    It also makes libzmq refuse the oldest protocol, ZMTP 1.0, which has no greeting: a web page
    could send it to this host with a form.

    Args:
        context: of the socket that asks.
        clients: whose keys are let in; None lets in everybody who gets as far as this.
        say: told why key files do not count.
    """

    def __init__(self, context: zmq.Context[Any], clients: Authorized | None,
                 say: Callable[[str], None]) -> None:
        self._clients, self._say = clients, say
        self._said: list[str] = []
        self._socket: zmq.Socket[bytes] = context.socket(zmq.REP, socket_class=zmq.Socket)
        self._socket.linger = 0
        self._socket.bind(_ZAP)
        self._tap = Tap(self._socket, self._asked)

    def _asked(self, frames: Frames) -> None:
        version, request, *_ = (frame.bytes for frame in frames)
        mechanism = frames[5].bytes if len(frames) > 5 else b""
        key = z85.encode(frames[6].bytes) if mechanism == b"CURVE" else b""
        user = self._user(key)
        status = b"200" if user is not None else b"400"
        self._socket.send_multipart([version, request, status, b"", (user or "").encode(), b""])
        self._tap.look()

    def _user(self, key: bytes) -> str | None:
        if self._clients is None:
            return key.decode()
        name = self._clients.name_of(key) if key else ""
        if self._clients.faults != self._said:
            self._said = self._clients.faults
            for fault in self._said:
                self._say(fault)
        return name or None

    def close(self) -> None:
        """Let in nobody any more."""
        self._tap.close()
        self._socket.close(linger=0)


class Outbox:
    """Replies on their way; those that their clients do not take wait here, within bounds."""

    def __init__(self) -> None:
        self._socket: zmq.Socket[Any]
        self._tap: Tap
        self._unsent: dict[bytes, deque[tuple[float, list[bytes]]]] = {}  # by client, in order
        self._bytes = 0
        self._due: asyncio.TimerHandle | None = None

    def open(self, socket: zmq.Socket[Any], tap: Tap) -> None:
        """Send with this socket."""
        self._socket, self._tap = socket, tap

    def send(self, frames: list[bytes]) -> None:
        """Send a reply, now or soon; drop it when its client takes too little."""
        client, size = frames[0], _size(frames)
        if client not in self._unsent and self._sent(frames):
            return
        if self._bytes + size <= BYTES_UNSENT:
            waiting = self._unsent.setdefault(client, deque())
            waiting.append((time.monotonic() + SLOW_S, frames))
            self._bytes += size
            self._again()

    def _sent(self, frames: list[bytes]) -> bool:
        """Try to send; False when the client's queue is full."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            return True  # the client went away
        finally:
            self._tap.look()
        return True

    def _again(self) -> None:
        if self._due is None and self._unsent:
            self._due = asyncio.get_running_loop().call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        # only the first that waits for a client is tried: there can be very many behind it
        self._due = None
        now = time.monotonic()
        for client, waiting in list(self._unsent.items()):
            for _ in range(min(_RETRIED, len(waiting))):
                deadline, frames = waiting[0]
                if now <= deadline and not self._sent(frames):
                    break
                waiting.popleft()
                self._bytes -= _size(frames)
            if not waiting:
                del self._unsent[client]
        self._again()

    def close(self) -> None:
        """Send what can still be sent."""
        if self._due:
            self._due.cancel()
            self._retry()
        if self._due:
            self._due.cancel()


def _size(frames: list[bytes]) -> int:
    return sum(map(len, frames)) + _EACH_UNSENT

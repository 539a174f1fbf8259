"""Sockets of the transport: how they are set up, and what their monitors tell.

A client's socket connects once, and is sent on only after the handshake: what could not be sent has
certainly not been delivered, and nothing is kept in a queue to be delivered later, as libzmq does
for sockets that reconnect. (Neither ``ZMQ_IMMEDIATE`` nor a reconnect interval of -1 will do: with
both libzmq drops what was received just before a connection ended.)
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

from daqlib import curve, uri
from daqlib.rpcexchange import MESSAGE_LIMIT, Unreachable

if TYPE_CHECKING:
    import zmq

#: Seconds after which a silent peer is tried, and after which one that does not answer is given up:
#: the kernel knows nothing of one whose host lost power.
HEARTBEAT_S = 30.0
HEARTBEAT_PATIENCE_S = 60.0
#: Seconds that a peer has to say who it is.
HANDSHAKE_S = 10.0
#: Connections that wait to be accepted; the kernel may allow less.
BACKLOG = 1024

#: Seconds after which another attempt to connect is begun, if the first one brought nothing.
ATTEMPT_S = 1.0
#: Seconds before the second attempt, when the first one failed; they double up to the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5


_NEVER_MS = 1 << 30
_numbers = itertools.count()


def limit(socket: zmq.Socket[Any], largest: int = MESSAGE_LIMIT) -> None:
    """Bound what a peer can cost, and find out when it is gone; before binding or connecting.

    Args:
        socket: of any kind.
        largest: bytes of the longest message taken.
    """
    socket.linger = 0
    socket.maxmsgsize = largest
    socket.backlog = BACKLOG
    socket.handshake_ivl = round(HANDSHAKE_S * 1000)
    socket.heartbeat_ivl = round(HEARTBEAT_S * 1000)
    socket.heartbeat_timeout = round(HEARTBEAT_PATIENCE_S * 1000)


def prepare(socket: zmq.Socket[Any], endpoint: uri.Endpoint) -> None:
    """Set up a client's socket for an endpoint.

    Raises:
        errors.BadConfig: the CURVE keys of the environment are not usable.
    """
    limit(socket)
    keys = curve.client_keys(endpoint)
    if keys:
        (public, secret), server = keys
        socket.curve_serverkey = server
        socket.curve_publickey = public
        socket.curve_secretkey = secret


def dial(context: zmq.Context[Any], endpoint: uri.Endpoint,
         ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """Begin to connect to a server; return the socket and its monitor, for :func:`hang_up`.

    Raises:
        daqlib.rpc.Unreachable: the system has no more sockets for us.
        errors.BadConfig: the CURVE keys of the environment are not usable.
    """
    import zmq

    try:
        return _dialled(context, endpoint)
    except zmq.ZMQError as error:
        raise Unreachable(f"cannot open a connection to {endpoint}: {error.strerror}",
                          "allow more open files (ulimit -n)") from error


def _dialled(context: zmq.Context[Any], endpoint: uri.Endpoint,
             ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    import zmq

    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    try:
        prepare(socket, endpoint)
        socket.reconnect_ivl = _NEVER_MS
        socket.sndhwm = 0  # bounded by the requests in flight
        monitor = watch(socket, zmq.EVENT_CONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED
                        | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        socket.connect(endpoint.address)
    except BaseException:
        socket.close(linger=0)
        raise
    return socket, monitor


def hang_up(socket: zmq.Socket[Any], monitor: zmq.Socket[Any]) -> None:
    """Close a socket and its monitor at once; what was not sent is dropped."""
    if not socket.closed:
        socket.monitor(None, 0)
        socket.close(linger=0)
    monitor.close(linger=0)


def watch(socket: zmq.Socket[Any], events: int) -> zmq.Socket[bytes]:
    """Return a monitor of a socket, zmq_socket_monitor(3)."""
    import zmq

    address = f"inproc://monitor-{next(_numbers)}"
    socket.monitor(address, events)
    # the thread that tells would wait for a full queue to be read, and we for the thread
    monitor: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR, socket_class=zmq.Socket)
    monitor.rcvhwm = 0
    monitor.connect(address)
    return monitor


def event(frame: bytes) -> tuple[int, int]:
    """Return kind and value of an event, from the first frame of a monitor's message."""
    kind, value = struct.unpack("=Hi", frame)
    return kind, value


class Attempt:
    """What the monitor has told of an attempt to connect.

    Attributes:
        accepted: the system over there took the connection.
        up: the handshake succeeded.
        refused: the service does not let our key in.
        over: the connection ended, or there never was one.
    """

    def __init__(self) -> None:
        self.accepted = self.up = self.refused = self.over = False

    @property
    def settled(self) -> bool:
        """Whether it is known how it went."""
        return self.up or self.over

    def note(self, frame: bytes) -> None:
        """Take note of an event."""
        import zmq

        kind, _ = event(frame)
        if kind == zmq.EVENT_CONNECTED:
            self.accepted = True
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.up = True
        else:
            self.over = True
            self.refused = self.refused or kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH

"""A connection to an INDI server: its properties as they are, waiting for a change, commands.

A server answers what it does not know with silence, so every wait has a limit. The end of the
connection ends every wait at once. What other clients ask is repeated to everybody and ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote, unquote

from daq_ctl import sources
from daq_ctl.sources.indi import wire
from daq_ctl.sources.indi.wire import Value
from daqlib import errors

T = TypeVar("T")

PORT = 7624
_URI = re.compile(r"indi://(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?)"
                  r"(?::(?P<port>[0-9]{1,5}))?(?:/(?P<device>[^/?#]*))?")
_DEVICE = 255  # characters of its name
_VECTORS = 20_000  # a server with more is taken for broken
_MESSAGES = 50  # that are remembered
_UNSENT = 1024 * 1024  # bytes that wait to be sent to a server that does not read
#: Seconds until a silent connection is tried, between tries, and how many of them.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


@dataclass
class Vector:
    """A property of a device, as the server told it last.

    Attributes:
        device: whose it is.
        name: of the property.
        kind: Number, Text, Switch, Light or BLOB.
        state: Idle, Ok, Busy or Alert.
        perm: ``ro``, ``wo`` or ``rw``; empty for lights.
        elements: values by name; none of a BLOB.
        timestamp: of the last change, as the server wrote it (UTC), or empty.
        heard: when it was told last, in seconds of :func:`time.monotonic`.
    """

    device: str
    name: str
    kind: str
    state: str = "Idle"
    perm: str = ""
    elements: dict[str, Value] = field(default_factory=dict)
    timestamp: str = ""
    heard: float = 0.0


#: Told of each change: ``def``, ``set`` or ``del``, and the property as it is after it.
Listener = Callable[[str, Vector], None]


def address(uri: str) -> tuple[str, int, str, str]:
    """Return host, port, device and the one spelling of an address.

    Args:
        uri: ``indi://HOST[:PORT][/DEVICE]``, the device percent-encoded; a query is passed over.

    Raises:
        errors.BadData: it is not allowed.
    """
    match = _URI.fullmatch(uri.partition("?")[0])
    port = int((match and match["port"]) or PORT)
    try:
        device = unquote((match and match["device"]) or "", errors="strict")
    except UnicodeDecodeError:
        device = "\0"
    if not match or not 0 < port < 65536 or not device.isprintable() or len(device) > _DEVICE:
        raise errors.BadData(f"URI {uri!r} is not allowed", "use indi://HOST[:PORT]/DEVICE, with "
                             "%20 for a blank in the name of the device")
    host = match["host"]
    return host, port, device, f"indi://{sources.one_host(host)}:{port}/{quote(device, safe='')}"


def not_reached(where: str, error: OSError, limit: float) -> errors.Unavailable:
    """Return the error for a server to which no connection was made.

    Args:
        where: ``host:port``.
        error: what the system said.
        limit: seconds that were waited.
    """
    why = error.strerror or str(error)
    if isinstance(error, TimeoutError):
        why = f"no answer within {limit:g} s"
    elif error.errno and error.errno > 0:  # else it is of the name service, with words of its own
        why = os.strerror(error.errno)
    return errors.Unavailable(f"INDI server {where} is not reached: {why}",
                              "start indiserver, or mend the URI")


def notice_death(connection: socket.socket) -> None:
    """Have the system end a connection whose other host is gone, even if nothing is sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Client(asyncio.Protocol):
    """One connection.

    Attributes:
        vectors: the properties by device and name; those that the server took back are gone.
        messages: the last texts for people: device and text.
        fault: why the connection has ended, or None.
    """

    def __init__(self) -> None:
        """Make a client that is not connected yet."""
        self.vectors: dict[tuple[str, str], Vector] = {}
        self.messages: deque[tuple[str, str]] = deque(maxlen=_MESSAGES)
        self.fault: errors.DaqError | None = errors.Unavailable("not connected to the INDI server")
        self._stream = wire.Stream()
        self._listeners: list[Listener] = []
        self._news = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    async def connect(self, host: str, port: int, limit: float) -> None:
        """Connect; properties come after :meth:`get`.

        Raises:
            errors.Unavailable: there is no server, or it does not answer within ``limit`` seconds.
        """
        loop = asyncio.get_running_loop()
        self._where = f"{host}:{port}"
        try:
            async with asyncio.timeout(limit):
                await loop.create_connection(lambda: self, host, port)
        except (OSError, TimeoutError) as error:
            raise not_reached(self._where, error, limit) from error

    # -- called by the event loop -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.fault = transport, None
        notice_death(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        try:
            for message in self._stream.feed(data):
                self._take(message)
        except errors.BadData as error:
            self._end(error)
        self.wake()

    def connection_lost(self, error: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._end(errors.Unavailable(
            f"INDI server {self._where} closed the connection" + (f": {error}" if error else ""),
            "look at indiserver; start it again"))
        self.wake()

    def _end(self, fault: errors.DaqError) -> None:
        self.fault = self.fault or fault
        if self._transport:
            self._transport.abort()

    def wake(self) -> None:
        """Have every predicate that is waited for asked again."""
        self._news.set()
        self._news = asyncio.Event()

    def _take(self, message: wire.Message) -> None:
        if text := message.attributes.get("message"):
            self.messages.append((message.device, " ".join(text.split())[:1000]))
        if message.what == "del":
            self._forget(message.device, message.name)
        elif message.what in ("def", "set"):
            self._keep(message)

    def _forget(self, device: str, name: str) -> None:
        for key in [key for key in self.vectors if key[0] == device and name in ("", key[1])]:
            self._tell("del", self.vectors.pop(key))

    def _keep(self, message: wire.Message) -> None:
        key = message.device, message.name
        vector = self.vectors.get(key)
        if message.what == "def":
            if len(self.vectors) >= _VECTORS:
                raise wire.not_indi(f"it has more than {_VECTORS} properties")
            vector = self.vectors[key] = Vector(*key, message.kind,
                                                perm=message.attributes.get("perm", ""))
        elif not vector or vector.kind != message.kind:
            return  # never defined, or taken back: the protocol does not know it
        state = message.attributes.get("state", vector.state)
        vector.state = state if state in wire.STATES else "Alert"
        for name, value in message.elements.items():
            if message.what == "def" or name in vector.elements:  # else it would grow for ever
                vector.elements[name] = value
        vector.timestamp = message.attributes.get("timestamp", "")
        vector.heard = time.monotonic()
        self._tell(message.what, vector)

    def _tell(self, what: str, vector: Vector) -> None:
        for listener in list(self._listeners):
            listener(what, vector)

    # -- for those who use it -----------------------------------------------------------------

    def subscribe(self, listener: Listener) -> None:
        """Have each change told as it comes, in order; the listener must not wait."""
        self._listeners.append(listener)

    def said(self, device: str) -> str:
        """Return the last text for people that a device has sent, to end a message with."""
        return next((f"; it said: {text}" for whose, text in reversed(self.messages)
                     if whose == device), "")

    async def until(self, predicate: Callable[[], T], limit: float, what: str = "") -> T:
        """Wait until a predicate of the properties is true, and return what it returns.

        It is asked after whatever came together: to miss no change, :meth:`subscribe`.

        Args:
            predicate: asked at once, and after each time that something came.
            limit: seconds.
            what: what is waited for, for the message.

        Raises:
            errors.Unavailable: it was not true within the limit, or the connection has ended.
            errors.BadData: the server sent what is not INDI.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not (found := predicate()):
                    self._check()
                    await self._news.wait()
                return found
        raise errors.Unavailable(
            f"INDI server {self._where}: {what or 'what is waited for'} did not come within "
            f"{limit:g} s", "look at the device; a server says nothing of what it does not know")

    def _check(self) -> None:
        if self.fault:
            raise type(self.fault)(self.fault.message, self.fault.remedy)

    async def get(self, device: str = "", name: str = "") -> None:
        """Ask for properties and all their changes; they come when they come, without an end.

        A server that was asked for one device takes no notice of a later wish for all of them;
        others can only be added by name.
        """
        await self.write(wire.get_properties(device, name))

    async def send(self, kind: str, device: str, name: str,
                   elements: Mapping[str, Value]) -> None:
        """Give elements of a property new values; see :func:`daq_ctl.sources.indi.wire.new`."""
        await self.write(wire.new(kind, device, name, elements))

    async def write(self, data: bytes) -> None:
        """Send bytes of the protocol.

        Raises:
            errors.Unavailable: the connection has ended, or the server does not read.
        """
        self._check()
        assert self._transport
        if self._transport.get_write_buffer_size() > _UNSENT:
            raise errors.Unavailable(f"INDI server {self._where} does not read",
                                     "look at indiserver; start it again")
        self._transport.write(data)

    async def close(self) -> None:
        """End the connection; harmless when it has ended."""
        self._end(errors.Unavailable("the connection to the INDI server was closed"))

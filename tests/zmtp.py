"""Clients that do not behave: ZMTP 3.0 (ZeroMQ RFC 23) by hand, on a socket of the system."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

#: The first bytes of a peer without keys.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)

_BODY = b'{"jsonrpc": "2.0", "id": 1, "method": "daq.Echo", "params": {"value": 1}}'
#: A request in ZMTP 1.0, whose frames begin with their length.
OLD_REQUEST = bytes([len(_BODY) + 1, 0]) + _BODY


def frame(body: bytes, *, more: bool = False, command: bool = False) -> bytes:
    """Return a frame as it goes over the wire."""
    flags = (1 if more else 0) | (4 if command else 0)
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body


def ready(kind: bytes) -> bytes:
    """Return the command that ends the handshake."""
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return frame(body, command=True)


def dial(port: int) -> socket.socket:
    """Connect, and say nothing."""
    made = socket.create_connection(("127.0.0.1", port), 60)
    made.settimeout(60)
    return made


def shake(port: int, kind: bytes = b"DEALER") -> socket.socket:
    """Connect and make the handshake; what comes after is up to the caller."""
    made = dial(port)
    made.sendall(GREETING)
    _exactly(made, 64)
    made.sendall(ready(kind))
    _frame(made)
    return made


def request(method: str, params: dict[str, Any] | None = None, number: int = 1) -> bytes:
    """Return a request as it goes over the wire."""
    return frame(json.dumps({"jsonrpc": "2.0", "id": number, "method": method,
                             "params": params or {}}).encode())


def reply(peer: socket.socket) -> dict[str, Any]:
    """Return the next reply; commands such as PING are left unanswered."""
    while True:
        flags, body = _frame(peer)
        if not flags & 4:
            made: dict[str, Any] = json.loads(body)
            return made


def is_closed(peer: socket.socket, patience: float = 60) -> bool:
    """Tell whether the other side closes the connection in time; what it says is dropped."""
    peer.settimeout(patience)
    try:
        while peer.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def _frame(peer: socket.socket) -> tuple[int, bytes]:
    flags = _exactly(peer, 1)[0]
    size = struct.unpack(">Q", _exactly(peer, 8))[0] if flags & 2 else _exactly(peer, 1)[0]
    return flags, _exactly(peer, size)


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the other side closed the connection")
        data += part
    return data

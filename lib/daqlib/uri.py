"""Endpoint URIs: where a service is reached, checked before a socket is made.

The shapes are those of ESO-396401 section 10 (``zpb.rr://host:port/path`` for requests,
``zpb.ps://host:port`` for topics); ``ipc:///dir/name.sock/path`` serves on one host.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import os
import re

from daqlib import errors

#: ``sun_path`` of a Unix socket holds 108 bytes, the last of them NUL (unix(7)).
IPC_LIMIT = 107
ALLOWED = ("use zpb.rr://HOST:PORT[/PATH], zpb.ps://HOST:PORT[/PATH] or "
           "ipc:///DIRECTORY/NAME.sock[/PATH]")

_ZPB = re.compile(r"(?P<scheme>zpb\.rr|zpb\.ps|zpb)://(?P<host>[^/:@]*):(?P<port>[0-9]{1,5})"
                  r"(?P<path>/.*)?")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(?:/[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_IPC = re.compile(r"ipc://(?P<file>/.*\.sock)(?P<path>/[^.]*)?")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A parsed endpoint.

    Attributes:
        scheme: ``zpb.rr``, ``zpb.ps`` or ``ipc``.
        address: for ZeroMQ, ``tcp://host:port`` or ``ipc:///file``.
        path: of the service, without slashes at its ends; empty when the URI has none.
        loopback: nothing outside this host can reach it, as far as the URI tells.
        host: empty for ``ipc``; ``*`` stands for all interfaces and is for binding only.
        port: TCP port, 0 for ``ipc`` and for "any free port" when binding.
        file: the socket file of ``ipc``, else empty.
        note: what the reader may want to correct in the URI, or empty.
    """

    scheme: str
    address: str
    path: str
    loopback: bool
    host: str = ""
    port: int = 0
    file: str = ""
    note: str = ""

    def __str__(self) -> str:
        base = self.address if self.file else f"{self.scheme}://{self.host}:{self.port}"
        return f"{base}/{self.path}" if self.path else base


def parse(text: str, *, bind: bool = False) -> Endpoint:
    """Parse an endpoint URI.

    Args:
        text: the URI; a slash at its end does not matter.
        bind: the endpoint is to be served: host ``*`` and port 0 (any free one) are allowed.

    Raises:
        errors.BadData: the URI is not allowed; the message says what is.
    """
    if not isinstance(text, str) or not text.isprintable() or " " in text or text.startswith("-"):
        raise _refused(text, "it holds blanks or control characters or is no text"
                       if not str(text).startswith("-") else "it begins with '-'")
    return _parsed(text, bind)


@functools.lru_cache(4096)  # a daemon asks the same few endpoints again and again
def _parsed(text: str, bind: bool) -> Endpoint:
    if text.startswith("ipc:"):
        return _ipc(text)
    match = _ZPB.fullmatch(text)
    if not match:
        raise _refused(text, _why(text))
    return _zpb(text, match, bind)


def with_path(endpoint: Endpoint, path: str) -> Endpoint:
    """Return the same endpoint with another service path.

    Raises:
        errors.BadData: the path holds other characters than letters, digits and ``_-/``.
    """
    return dataclasses.replace(endpoint, path=_service(str(endpoint), path))


def with_port(endpoint: Endpoint, port: int) -> Endpoint:
    """Return the endpoint with the TCP port that the system chose for port 0."""
    address = endpoint.address.rpartition(":")[0] + f":{port}"
    return dataclasses.replace(endpoint, port=port, address=address)


def _zpb(text: str, match: re.Match[str], bind: bool) -> Endpoint:
    host, port = match["host"], int(match["port"])
    if not (host == "*" and bind or _HOST.fullmatch(host)):
        raise _refused(text, "host '*' is for serving only" if host == "*"
                       else f"{host!r} is no host name or IPv4 address")
    if not (0 if bind else 1) <= port <= 65535:
        raise _refused(text, f"port {port} is not between 1 and 65535")
    alias = match["scheme"] == "zpb"
    return Endpoint(
        scheme="zpb.rr" if alias else match["scheme"],
        address=f"tcp://{host}:{port}",
        path=_service(text, match["path"] or ""),
        loopback=is_loopback(host),
        host=host,
        port=port,
        note=f"{text}: zpb:// is read as zpb.rr://" if alias else "",
    )


def _ipc(text: str) -> Endpoint:
    match = _IPC.fullmatch(text.rstrip("/"))
    if not match:
        raise _refused(text, "it needs the absolute path of a file that ends in .sock")
    file = match["file"]
    if ".." in file.split("/"):
        raise _refused(text, "its path holds '..'")
    size = len(os.fsencode(file))
    if size > IPC_LIMIT:
        raise errors.BadData(
            f"endpoint {text!r} is not allowed: the socket's path has {size} bytes, and the "
            f"system takes {IPC_LIMIT}", "choose a shorter directory or a symbolic link to it")
    return Endpoint(scheme="ipc", address=f"ipc://{file}",
                    path=_service(text, match["path"] or ""), loopback=True, file=file)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or IPv4 address can only mean this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _service(text: str, path: str) -> str:
    service = path.strip("/")
    if service and not _PATH.fullmatch(service):
        raise _refused(text, f"its path {service!r} may hold letters, digits, '_', '-' and single "
                       "slashes only")
    return service


def _why(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("zpb.rr", "zpb.ps", "zpb"):
        return "its scheme is not known"
    if "@" in rest:
        return "user names have no place in it"
    return "host and port are not given as HOST:PORT"


def _refused(text: str, why: str) -> errors.BadData:
    return errors.BadData(f"endpoint {text!r} is not allowed: {why}", ALLOWED)

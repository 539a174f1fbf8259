"""One request and its reply: how they are written, what can become of them, and in which words.

The format is told in :mod:`daqlib.rpc`, which together with :mod:`daqlib.rpclink` carries them.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from typing import Any

from daqlib import errors, strictjson, uri

Document = dict[str, Any]

#: Bytes of the longest message that either side takes: a specification with some 30 000 keywords.
MESSAGE_LIMIT = 4 << 20
#: Seconds in which a peer that is there answers a connection.
CONNECT_S = 2.0
DEFAULT_TIMEOUT_S = 15.0
#: Characters that a client may say of itself.
FROM_LIMIT = 100

_NO_TEXT = re.compile("[\ud800-\udfff]")

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


def encode(document: object, *, escape: bool = False) -> bytes:
    """Return a document as one JSON message.

    Args:
        document: what JSON can hold.
        escape: show what is no text, such as a file name that is not UTF-8, in escapes: who tells
            of many things must not fail over one of them. Else it is refused.

    Raises:
        errors.BadData: it is not JSON, or longer than :data:`MESSAGE_LIMIT`.
    """
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = (_NO_TEXT.sub(_escaped, text) if escape else text).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.BadData(f"a message cannot be written as JSON: {error}") from error
    if len(data) > MESSAGE_LIMIT:
        raise errors.BadData(f"a message of {len(data)} bytes is longer than the {MESSAGE_LIMIT} "
                             "that the transport takes", "send less at once")
    return data


def _escaped(character: re.Match[str]) -> str:
    return rf"\\u{ord(character[0]):04x}"


@functools.cache
def whoami() -> str:
    """Return what we say of ourselves in a request: ``USER@HOST PID TOOL``."""
    user = os.environ.get("LOGNAME") or os.environ.get("USER") or str(os.getuid())
    words = sys.argv[0].split("/")
    tool = words[-2] if words[-1] == "__main__.py" and len(words) > 1 else words[-1]
    said = f"{user}@{os.uname().nodename} {os.getpid()} {tool.replace('_', '-') or 'python'}"
    return printable(said, FROM_LIMIT)


def printable(text: str, limit: int) -> str:
    """Return a text of others cut to a length, without what could break a line."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


class Exchange:
    """One request, and the words for its fate.

    Attributes:
        endpoint: whom it is for.
        id: of the request.
        request: the message.
        deadline: for the reply (of the monotonic clock).
        connect_deadline: for the connection.
    """

    def __init__(self, endpoint: str, command: str, params: Document | None,
                 timeout_s: float) -> None:
        """Prepare a request, see :func:`daqlib.rpc.call`."""
        self.endpoint = uri.parse(endpoint)
        if self.endpoint.scheme == "zpb.ps" or not self.endpoint.path:
            raise errors.BadData(f"endpoint {endpoint!r} takes no requests",
                                 "give one with a service path, such as zpb.rr://HOST:PORT/daq")
        if not timeout_s > 0:
            raise errors.BadData(f"time limit {timeout_s!r} is not allowed",
                                 "give a number of seconds above 0")
        self._method = f"{self.endpoint.path}.{command}"
        self._timeout_s = timeout_s
        self.id = os.urandom(8).hex()
        self.request = encode({"jsonrpc": "2.0", "id": self.id, "method": self._method,
                               "params": params or {}, "from": whoami()})
        begin = time.monotonic()
        self.deadline = begin + timeout_s
        self.connect_deadline = begin + min(timeout_s, CONNECT_S)

    def unreachable(self, *, accepted: bool, refused: bool = False) -> Unreachable:
        """Return the error for a request that could not be sent.

        Args:
            accepted: the system over there took the connection, but the service did not.
            refused: the service knows us, and does not let us in.
        """
        if refused:
            return Unreachable(f"{self.endpoint} does not let our key in",
                               "put our .key file into its directory of clients' keys, or correct "
                               "DAQ_CURVE_CERTIFICATE")
        if accepted:
            return Unreachable(f"{self.endpoint} takes the connection, but not as one of ours",
                               "check the endpoint, DAQ_CURVE_CERTIFICATE and "
                               "DAQ_CURVE_SERVER_KEY, and whether the service is suspended")
        return Unreachable(f"nobody answers at {self.endpoint}",
                           "start the service or correct the endpoint")

    def lost(self) -> Lost:
        """Return the error for a connection that broke."""
        return Lost(f"{self.endpoint} closed the connection before it replied to {self._method}",
                    "see whether the service still runs")

    def late(self) -> RpcTimeout:
        """Return the error for a reply that did not come in time."""
        return RpcTimeout(f"{self.endpoint} did not reply to {self._method} within "
                          f"{self._timeout_s:g} s", "see whether the service still runs")

    def garbled(self) -> BadReply:
        """Return the error for a reply that is none."""
        return BadReply(f"{self.endpoint} answers something that is not JSON-RPC",
                        "check that the endpoint is that of a daqspool service")

    def result(self, answer: Document) -> Any:
        """Return the result of a reply, or raise the peer's error."""
        if "error" in answer:
            raise _remote(answer["error"], str(self.endpoint))
        return answer["result"]


def reply(frame: bytes) -> Document | None:
    """Return a reply, None if it is not one of JSON-RPC."""
    try:
        made = strictjson.loads(frame)
    except ValueError:
        return None
    if not isinstance(made, dict) or not ("result" in made or "error" in made):
        return None
    return made


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
        code=(code if isinstance(code, int) and code in _CODES
              else _EXIT_CODES.get(rpc_code, errors.BadData.code)),
        remedy=str(data.get("remedy") or ""),
        rpc_code=rpc_code)

"""The far end of a hand-over: answers requests on standard input, line by line.

It is meant to be what a restricted ssh key can do and nothing else, so that it takes no word of a
request for a path, an option or a command.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from typing import Any

from daq_start import importing
from daqlib import cli, errors, farhost, follow, names
from daqlib.config import Config
from daqlib.spool import RESTS, STAGES, Spool

Document = dict[str, Any]

_LONGEST = 4 << 20  # bytes of a request line
_SILENCE = 15 * farhost.PING  # seconds without a request after which nobody is there any more
_RESCAN = 60.0


class _Gone(Exception):
    """Whoever asked went away."""


class Server:
    """One conversation."""

    def __init__(self, on: Spool, settings: Config) -> None:
        """Begin without following any job.

        Args:
            on: the spool.
            settings: the configuration.
        """
        self._on = on
        self._settings = settings
        self._in = bytearray()
        self._heard = time.monotonic()
        self._follower: follow.Follower | None = None
        self._known: dict[str, tuple[int, Document]] = {}
        self._verbs = {"import": self._import, "log": self._log, "follow": self._follow,
                       "abort": self._abort, "status": self._status, "ping": self._ping}

    def run(self) -> int:
        """Answer until standard input ends; return the exit code."""
        _say({"daqspool": farhost.PROTOCOL, "spool": self._on.root, "host": socket.gethostname()})
        try:
            while True:
                self._answer(self._line())
        except (_Gone, BrokenPipeError):
            return errors.OK

    # -- reading -------------------------------------------------------------------------------

    def _line(self) -> bytes:
        while (at := self._in.find(b"\n")) < 0:
            if len(self._in) > _LONGEST:
                raise errors.BadData("a request is too long", f"send lines of up to {_LONGEST} "
                                     "bytes")
            self._read()
        line = bytes(self._in[:at])
        del self._in[:at + 1]
        return line

    def _bytes(self, size: int) -> bytes:
        while len(self._in) < size:
            self._read()
        found = bytes(self._in[:size])
        del self._in[:size]
        return found

    def _read(self) -> None:
        """Wait for more, telling what is heard of followed jobs meanwhile."""
        while True:
            left = self._heard + _SILENCE - time.monotonic()
            if left <= 0:
                raise _Gone
            followed = [self._follower.fileno()] if self._follower else []
            readable, _, _ = select.select([0, *followed], [], [], min(left, _RESCAN))
            if 0 in readable:
                break
            self._look()
        data = os.read(0, 1 << 16)
        if not data:
            raise _Gone
        self._heard = time.monotonic()
        self._in += data

    # -- answering -----------------------------------------------------------------------------

    def _answer(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            verb = self._verbs.get(request["do"])
        except (ValueError, TypeError, KeyError, RecursionError):
            verb = None
        try:
            if verb is None:
                raise errors.BadData(f"{line[:80]!r} is no request",
                                     f"this key permits: {', '.join(self._verbs)}")
            reply = verb(request)
        except errors.DaqError as error:
            reply = _refused(error)
        except OSError as error:
            if error.filename == cli.STDOUT:
                raise
            reply = _refused(cli.from_os_error(error))
        _say(reply)

    def _import(self, request: Document) -> Document:
        try:
            sizes = importing.sizes(request)
        except errors.DaqError as error:
            _say(_refused(error))
            raise _Gone from error  # where the next request begins, nobody knows
        # all of it is read in any case, so that the next line is a request again
        return importing.take(self._on, self._settings, request, [*map(self._bytes, sizes)])

    def _log(self, request: Document) -> Document:
        for identifier, begin in _asked(request).items():
            _say(importing.news(self._on, identifier, begin))
        return {"ok": True}

    def _follow(self, request: Document) -> Document:
        asked = _asked(request)
        if self._follower is None:  # before the first look, so that nothing falls between
            self._follower = follow.Follower(self._on, (*STAGES, *RESTS), logs=True)
        for identifier, begin in asked.items():
            self._on.follow_history(identifier)
            self._known.pop(identifier, None)
            self._tell(identifier, begin)
        return {"ok": True}

    def _tell(self, identifier: str, begin: int) -> None:
        said = importing.news(self._on, identifier, begin)
        if said.get("unknown"):
            _say(said)
            return
        before = self._known.get(identifier)
        now = {key: value for key, value in said["state"].items() if key != "time"}
        if before is None or said["events"] or before[1] != now:
            _say(said)
        self._known[identifier] = (int(said["end"]), now)
        if now["place"] == "done":
            del self._known[identifier]
            self._on.leave_history(identifier)

    def _look(self) -> None:
        if self._follower is None:
            return
        changed = self._follower.changed(0)
        jobs = self._known.keys() if not changed else self._known.keys() & changed
        for identifier in sorted(jobs):
            self._tell(identifier, self._known[identifier][0])

    def _abort(self, request: Document) -> Document:
        return importing.end(self._on, self._settings, request)

    def _status(self, request: Document) -> Document:
        return importing.described(self._on, str(request.get("id", "")))

    def _ping(self, _request: Document) -> Document:
        return {"ok": True}


def _asked(request: Document) -> dict[str, int]:
    given = request.get("jobs")
    if not isinstance(given, dict):
        raise errors.BadData("the member 'jobs' is missing", "send {ID: BYTE, ...}")
    for identifier, begin in given.items():
        names.check_id(identifier)
        if type(begin) is not int or begin < 0:
            raise errors.BadData(f"{begin!r} is no number of bytes", job=identifier)
    return given


def _refused(error: errors.DaqError) -> Document:
    return {"ok": False, "code": error.code, "error": error.message, "remedy": error.remedy}


def _say(document: Document) -> None:
    cli.emit(document)

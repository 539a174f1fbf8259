"""The history of a job: ``log/ID.jsonl``, one event a line, append only.

An event is an object with ``time`` (ISO 8601 UTC), ``event`` and what belongs to it. Everything
that the spool derives from the past (tries, acquisition substate, alerts) is derived here.
"""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from daqlib import clock, fsops

Event = dict[str, Any]
#: An event that is yet to be recorded: its name and what belongs to it.
Told = tuple[str, dict[str, Any]]
_TAIL = 4096  # bytes by which lines that were read are known again
# what an event cannot do without: a line that lacks it tells nothing, whoever wrote it
_NEEDED: dict[str, tuple[str, type]] = {"state": ("substate", str), "keywords": ("keywords", list)}
_LATEST = 253402300800  # seconds since the epoch, the year 10000: the end of what a date can say

#: Event names and their meaning; the manual's table is compared with it.
EVENTS: dict[str, str] = {
    "submitted": "the id was reserved for this job (digest of its file)",
    "accepted": "a job dropped into a stage got its file id",
    "state": "the acquisition entered a substate",
    "starting": "a source is about to be commanded to start",
    "started": "a source acknowledged the start",
    "stopped": "a source ended: its files and keywords",
    "said": "words of a source for whoever looks at the job",
    "source-absent": "an optional source failed: the acquisition goes on without it, and asks it"
                     " no more",
    "source-aborted": "a source acknowledged the abort",
    "paused": "the primary sources were paused",
    "continued": "the primary sources went on",
    "keywords": "keywords were added or updated",
    "sealed": "acquire: the inputs are complete; merge: name and digest of the product",
    "start": "a stage began a try",
    "ok": "a stage ended well and the job moved on",
    "defer": "a try did not succeed; the next is due at 'until' ('counts' false: a host was down)",
    "fail": "the job was put into failed/",
    "bad": "the job was put into bad/",
    "edited": "the job file changed since it was read: not moved on, or sent back ('to')",
    "moved-away": "the job file was moved under the worker; not moved on",
    "killed": "a worker died of a signal",
    "interrupted": "a worker was told to end (SIGTERM, SIGINT); the try does not count",
    "overtime": "a worker exceeded its time limit and was told to end",
    "delivered": "a receiver got the product",
    "hook": "a program that is run after the release ended: with which exit code",
    "handing-over": "the job is about to be sent: from now on the spool of another host may have it"
                    " ('refused': it does not)",
    "handed-over": "the spool of another host has the job now ('known': it had it before; 'farEnd':"
                   " where its log goes on)",
    "received": "the job came from the spool of another host",
    "pruned": "files of the job were removed after their time",
    "alert": "a condition needs attention",
    "alert-cleared": "the condition is gone",
    "abort-requested": "somebody asked to abort the job",
    "aborted": "the job was aborted",
}


def read(path: str) -> list[Event]:
    """Return the events of a log, oldest first; a missing log has none.

    Lines that do not parse were torn by a crash and are skipped, as those that are no event.
    """
    try:
        with open(path, "rb") as file:
            return _parsed(file.read())
    except FileNotFoundError:
        return []


class Reader:
    """Reads a log again and again: each look parses only what was appended since the last one.

    For a process that looks at a log after every event. Any thread may look.
    """

    def __init__(self, path: str) -> None:
        """Read nothing yet.

        Args:
            path: the log; it may be missing.
        """
        self._path = path
        self._looking = threading.Lock()
        self._file: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self._events: list[Event] = []
        self._consumed = 0  # bytes of whole lines
        self._tail = b""  # the last of them

    def look(self) -> list[Event]:
        """Return the events as :func:`read` does, but of ``keywords`` in a row the newest only.

        No state follows from the keywords, and there can be thousands of them.
        """
        with self._looking:
            try:
                with open(self._path, "rb", buffering=0) as file:
                    fresh = self._appended(file)
            except FileNotFoundError:
                self._forget()
                return []
            whole, _, torn = fresh.rpartition(b"\n")
            if whole:
                self._consumed += len(whole) + 1
                self._tail = (self._tail + whole + b"\n")[-_TAIL:]
                _add(self._events, _parsed(whole))
            found = list(self._events)
            _add(found, _parsed(torn))
            return found

    def _appended(self, file: io.FileIO) -> bytes:
        """Return what follows the lines that are known; all of it when they are no longer there.

        An append that failed is undone, and a person may put another file there.
        """
        status = os.fstat(file.fileno())
        found = status.st_dev, status.st_ino
        begin = self._consumed - len(self._tail)
        data = os.pread(file.fileno(), max(0, status.st_size - begin), begin)
        if found != self._file or not data.startswith(self._tail):
            self._file = found
            self._forget()
            return file.readall()
        return data[len(self._tail):]


def _add(events: list[Event], more: Iterable[Event]) -> None:
    for event in more:
        if events and event["event"] == "keywords" == events[-1]["event"]:
            events[-1] = event
        else:
            events.append(event)


def _parsed(data: bytes) -> list[Event]:
    return [event for line in data.split(b"\n") if line and (event := parse(line)) is not None]


def parse(line: bytes) -> Event | None:
    """Return the event of a line, or None when it is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):  # another host may have told it
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    until = event.get("until", 0)
    if type(until) not in (int, float) or not 0 <= until < _LATEST:
        return None
    member, kind = _NEEDED.get(event["event"], ("event", str))
    return event if isinstance(event.get(member), kind) else None


def encode(event: str, by: str, facts: dict[str, Any]) -> bytes:
    """Return the line of an event that happens now.

    Args:
        event: one of :data:`EVENTS`.
        by: the tool that records it.
        facts: what belongs to the event; members that are None are left out.
    """
    assert event in EVENTS, event
    line = {"time": clock.iso(clock.now()) + "Z", "event": event, "by": by,
            "pid": os.getpid(), "host": socket.gethostname()}
    line.update({key: value for key, value in facts.items() if value is not None})
    # a file name need not be UTF-8: what cannot be written is told in escapes, not lost
    return json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace")


def append(path: str, event: str, by: str, /, **facts: Any) -> None:
    """Record an event durably.

    Raises:
        OSError: it could not be recorded; what it announces must then not happen.
    """
    append_all(path, by, [(event, facts)])


def append_all(path: str, by: str, told: Sequence[Told]) -> None:
    """Record several events durably in one write; a crash leaves the first few of them, or all.

    Args:
        path: the log.
        by: the tool that records them.
        told: the events in order, at least one.

    Raises:
        OSError: none of them could be recorded; what they announce must then not happen.
    """
    fsops.append(path, b"\n".join(encode(event, by, facts) for event, facts in told))


def seconds(event: Event) -> float:
    """Return the time of an event in seconds since the epoch, 0 when it has none."""
    try:
        return clock.from_iso(str(event.get("time", "")))
    except ValueError:
        return 0.0


def last(events: Iterable[Event], *names: str, stage: str | None = None) -> Event | None:
    """Return the newest event of one of these names (and stage), or None."""
    found = None
    for event in events:
        if event["event"] in names and stage in (None, event.get("stage")):
            found = event
    return found


#: Members of the events that another host's log told: which spool, ``HOST:PATH``, and the byte of
#: that log up to which it is known then.
FAR, FAR_END = "far", "farEnd"

#: What ends the tries of a stage: the job left it, here or for another host.
_ENDS = ("ok", "fail", "aborted", "handed-over", "received")
_NOT_ITS_FAULT = ("edited", "moved-away", "interrupted")


def tries(events: Iterable[Event], stage: str, *, far: bool = False) -> int:
    """Count the tries of a stage since the job last left a stage.

    A try that ended through no fault of the job (moved, edited, interrupted, a host that was down)
    is not counted. A death that came before the start was on record counts, or it would repeat
    for ever.

    Args:
        events: the history.
        stage: which.
        far: count what another host tried, and not what was tried here.
    """
    count, begun = 0, False
    for event in events:
        name = event["event"]
        if (FAR in event) != far:
            continue
        if name in _ENDS:
            count, begun = 0, False
        elif event.get("stage") != stage:
            continue
        elif name == "start":
            count, begun = count + 1, True
        elif name in ("defer", "killed") and event.get("counts", True):
            count, begun = count + (not begun), False
        elif name == "defer" or name in _NOT_ITS_FAULT:
            count, begun = max(0, count - begun), False
    return count


def outages(events: Iterable[Event], stage: str) -> int:
    """Count the tries of a stage that found a host down since the job last left a stage."""
    count = 0
    for event in events:
        if FAR in event:
            continue
        if event["event"] in _ENDS:
            count = 0
        elif event["event"] == "defer" and event.get("stage") == stage:
            count += not event.get("counts", True)
    return count


def file_id(events: Iterable[Event]) -> str:
    """Return the file id that the log assigned to the job, or an empty text."""
    for event in events:
        if event["event"] in ("submitted", "accepted") and event.get("fileId"):
            return str(event["fileId"])
    return ""


def abort_requested(events: Iterable[Event]) -> bool:
    """Tell whether an abort was asked for that has not been carried out."""
    requested = False
    for event in events:
        if event["event"] == "abort-requested":
            requested = True
        elif event["event"] == "aborted" or (event["event"], event.get("to")) == ("ok", "done"):
            requested = False  # carried out, or the job had ended before anybody obeyed
    return requested


# -- two hosts -------------------------------------------------------------------------------------

#: Of the ``start`` events of a stage that sends the job to another host instead.
HAND_OVER = "hand-over"


def from_far(events: Iterable[Event]) -> list[Event]:
    """Return the events that another host's log told."""
    return [event for event in events if FAR in event]


def handed_over(events: Iterable[Event]) -> Event | None:
    """Return the event by which another host has, or may have, the job; None: it has it not.

    It is ``handed-over``, or ``handing-over`` when nobody knows whether the job arrived. What
    another host told is no answer; a job that is collected here again is ours.
    """
    found: Event | None = None
    for event in events:
        name = event["event"]
        if FAR in event:
            continue
        if name == "handed-over":
            found = event
        elif name == "handing-over":
            found = _sending(found, event)
        elif name == "received" or (name == "start" and event.get("stage") == "collect"
                                    and event.get("role") != HAND_OVER):
            found = None
    return found


def _sending(before: Event | None, event: Event) -> Event | None:
    arrived = before is not None and before["event"] == "handed-over"
    if event.get("refused"):
        return before if arrived else None
    # what has arrived stays there while it is sent once more
    again = before is not None and before.get("to") == event.get("to")
    return before if arrived and again else event


def far_end(events: Iterable[Event]) -> int:
    """Return up to which byte the log of the other host is known; 0 when it never was read."""
    end = 0
    for event in events:
        if FAR in event or event["event"] == "handed-over":
            value = event.get(FAR_END)
            end = value if type(value) is int else end
    return end


def far_state(events: Iterable[Event]) -> Event | None:
    """Return what the other host said last of the job's state, since it was handed over to it.

    Its members are ``substate``, ``place`` (the directory there, empty when the file was removed)
    and ``result`` (the path of the product there, or empty).
    """
    found: Event | None = None
    for event in events:
        if FAR in event and event["event"] == "state":
            found = event
        elif FAR not in event and event["event"] == "handed-over":
            found = found if event.get("known") else None  # else it begins anew there
    return found


def relayed(event: Event, far: str, end: int) -> bytes:
    """Return the line of an event that another host's log told.

    Args:
        event: as it stands there.
        far: that spool, ``HOST:PATH``.
        end: the byte of that log behind the event.
    """
    line = {**event, FAR: far, FAR_END: end}
    return json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace")

"""Take over jobs of another host: ``daq-start --import``, one request after the other.

What comes from there is checked as a job that a person submits; no id and no path in it can name
anything outside of the spool. Everything is durable before it is acknowledged.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from daqlib import (
    abort,
    audit,
    capacity,
    clock,
    errors,
    fsops,
    history,
    job,
    names,
    status,
    strictjson,
)
from daqlib.config import Config
from daqlib.crashpoints import passing
from daqlib.spool import Spool

Document = dict[str, Any]

#: The parts of a parcel in the order in which they are sent, and the most bytes of each.
PARTS: dict[str, int] = {"manifest": 64 << 20, "log": 256 << 20, "job": 16 << 20}

_MANIFEST = "acquire.json"
_BUSY_PATIENCE = 10.0  # seconds for somebody who looks at the job
_ABORT_PATIENCE = 15.0  # seconds for a worker to end
_TEXT = 128  # characters of what is only recorded


def sizes(head: Document) -> list[int]:
    """Return the number of bytes of each part that follows a request.

    Raises:
        errors.BadData: a part is missing, or too large.
    """
    given = head.get("sizes")
    found = []
    for name, most in PARTS.items():
        size = given.get(name) if isinstance(given, dict) else None
        if type(size) is not int or not 0 <= size <= most:
            raise errors.BadData(f"the size of the {name} is {size!r}",
                                 f"send a number from 0 to {most}")
        found.append(size)
    return found


def take(on: Spool, settings: Config, head: Document, parts: list[bytes]) -> Document:
    """Put a job of another host into ``collect/``, or find that it had come before.

    Args:
        on: the spool.
        settings: ``instrument_id``, ``floor.spool_bytes``.
        head: the request.
        parts: the bytes of manifest, log and job file.

    Returns:
        The reply.

    Raises:
        errors.BadData: something is wrong with what was sent.
        errors.Conflict: the id, or its file id, belongs to another job here.
        errors.Later: there is no space, or somebody is at work on the job.
    """
    identifier = names.check_id(str(head.get("id", "")))
    request, document = _checked(identifier, head, parts)
    # somebody may be at work on it already, if it had come before
    if (known := _known(on, identifier, request)) is not None:
        return known
    capacity.check_floor(on, settings)
    lock = on.wait_lock(identifier, "import", _BUSY_PATIENCE)
    if lock is None:
        raise errors.Later("somebody is at work on this id there", "it is sent again", identifier)
    try:
        if (known := _known(on, identifier, request)) is not None:
            return known
        if not os.path.exists(on.log_path(identifier)):
            _begin(on, settings, identifier, head, document, parts)
        passing("import.logged")
        _store(on, identifier, parts)
        return _reply(on, identifier, known=False)
    finally:
        on.release(identifier, lock)


def _checked(identifier: str, head: Document, parts: list[bytes]) -> tuple[str, Document]:
    if hashlib.sha256(b"".join(parts)).hexdigest() != head.get("sha256"):
        raise errors.Later("it did not arrive as it was sent", "it is sent again", identifier)
    manifest, _, text = parts
    try:
        document = strictjson.loads(text)
        made = strictjson.loads(manifest) if manifest else {"result": {}}
    except ValueError as error:
        raise errors.BadData(f"it is not JSON: {error}", job=identifier) from error
    job.check(document, identifier)
    if not isinstance(made, dict) or not isinstance(made.get("result"), dict):
        raise errors.BadData(f"its {_MANIFEST} is none", job=identifier)
    _check_sources(made["result"])
    _text(head, "from")
    return _text(head, "request"), document


def _check_sources(result: Document) -> None:
    sources = result.get("sources", [])
    for source in sources if isinstance(sources, list) else [None]:
        if not isinstance(source, dict):
            raise errors.BadData(f"a source of {_MANIFEST} is none")
        files, keywords = source.get("files", []), source.get("keywords", [])
        if not isinstance(files, list) or not isinstance(keywords, list) or not all(
                isinstance(keyword, dict) for keyword in keywords):
            raise errors.BadData(f"files or keywords of a source of {_MANIFEST} are none")
        names.check_source(source.get("sourceName", ""))
        for location in files:
            names.split_location(location)


def _text(head: Document, member: str) -> str:
    value = head.get(member)
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _TEXT:
        raise errors.BadData(f"the member {member!r} of the request is {str(value)[:_TEXT]!r}",
                             f"send a text of up to {_TEXT} characters")
    return value


def _known(on: Spool, identifier: str, request: str) -> Document | None:
    """Return the reply for a job that came before; None when it did not, or not as a whole.

    Raises:
        errors.Conflict: another job has this id.
    """
    if not os.path.exists(on.log_path(identifier)) and not on.places(identifier):
        return None
    events = on.events(identifier)
    received = history.last(events, "received")
    if received is None or received.get("request") != request:
        raise errors.Conflict(f"the id {identifier} is known there, with other content",
                              "submit it under another id, or settle there which one counts",
                              identifier)
    whole = events[-1] is not received or on.place(identifier)
    return _reply(on, identifier, known=True) if whole else None


def _reply(on: Spool, identifier: str, *, known: bool) -> Document:
    return {"ok": True, "id": identifier, "known": known, "place": on.place(identifier),
            "end": begin_of(on, identifier)}


def _begin(on: Spool, settings: Config, identifier: str, head: Document, document: Document,
           parts: list[bytes]) -> None:
    """Reserve the id and the file id: create the log, which says who sent it."""
    lines = [line for line in parts[1].split(b"\n") if history.parse(line) is not None]
    stamp = history.file_id(filter(None, map(history.parse, lines)))
    try:
        names.check_id(stamp or identifier)
        stamp = job.reserve_file_id(on, identifier, settings["instrument_id"], stamp, settle=False)
    except job.Taken as error:
        raise errors.Conflict(error.message, error.remedy, identifier) from error
    lines.append(_received(on, head, {"stage": "collect", "fileId": stamp, "digest": hashlib.sha256(
        parts[2]).hexdigest()}))
    fsops.create(on.log_path(identifier), b"\n".join(lines) + b"\n")


def _received(on: Spool, head: Document, more: Document) -> bytes:
    return history.encode("received", on.by, {
        "from": _text(head, "from"), "request": _text(head, "request"), **more})


def _store(on: Spool, identifier: str, parts: list[bytes]) -> None:
    folder = on.data_path(identifier)
    if os.path.isdir(folder):  # an earlier try may have died here
        fsops.sweep(folder)
        fsops.sweep(on.path("collect"))
    else:
        os.mkdir(folder)
        fsops.fsync_dir(on.path("data"))
    if parts[0]:
        fsops.put(os.path.join(folder, _MANIFEST), parts[0])
    passing("import.data")
    with contextlib.suppress(FileExistsError):
        fsops.put(on.job_path("collect", identifier), parts[2], replace=False)
    passing("import.queued")


# -- what became of it -----------------------------------------------------------------------------


def begin_of(on: Spool, identifier: str) -> int:
    """Return the byte of a job's log at which begins what happened here; 0: it is none of ours."""
    end = found = 0
    for line in _log(on, identifier, 0).splitlines(keepends=True):
        end += len(line)
        event = history.parse(line)
        if event is not None and event["event"] == "received":
            found = end
    return found


def _log(on: Spool, identifier: str, begin: int) -> bytes:
    """Return the whole lines of a log from some byte on, none of which is taken back any more."""
    import fcntl

    try:
        fd = os.open(on.log_path(identifier), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # who appends holds it until the line is durable
        size = os.fstat(fd).st_size
        with open(fd, "rb", closefd=False) as file:
            file.seek(min(begin, size))
            return file.read().rpartition(b"\n")[0] + b"\n" if size > begin else b""
    finally:
        os.close(fd)


def news(on: Spool, identifier: str, begin: int) -> Document:
    """Return what happened to a job since some byte of its log, and its state now.

    Args:
        on: the spool.
        identifier: a valid id.
        begin: the byte; what came before the job was received is never told.
    """
    first = begin_of(on, identifier)
    if not first:
        return _removed(on, identifier, begin) or {"id": identifier, "unknown": True}
    begin, now = max(first, begin), state(on, identifier)  # the state first: the log explains it
    end, told = begin, []
    for line in _log(on, identifier, begin).splitlines(keepends=True):
        end += len(line)
        event = history.parse(line)
        if event is not None:
            told.append([end, event])
    return {"id": identifier, "events": told, "end": end, "state": now}


def _removed(on: Spool, identifier: str, begin: int) -> Document | None:
    """Return the end of a job that was removed before the other host had heard of it."""
    line = audit.when(on, identifier)
    if line is None:
        return None
    product = on.path("result", str(line["product"])) if "product" in line else ""
    return {"id": identifier, "events": [], "end": begin, "state": {
        "substate": str(line.get("state", "")), "place": "done", "by": on.by,
        "result": product if os.path.exists(product) else "", "time": str(line.get("ended", ""))}}


def state(on: Spool, identifier: str) -> Document:
    """Return substate, place and product of a job, and the time of that."""
    now = status.derive(on, identifier) or {}
    place, events = on.place(identifier), on.events(identifier)
    if not place and os.path.lexists(on.job_path("bad", identifier)):
        place = "bad"
    if not place and events and events[-1]["event"] == "aborted":
        place, now["substate"] = "done", "Aborted"  # before it came, see below
    if place == "done" and on.is_busy(identifier):
        place, now["substate"] = "release", "Releasing"  # its worker has not recorded the end yet
    return {"substate": str(now.get("substate", "Undefined")), "place": place, "by": on.by,
            "result": str(now.get("result", "")), "time": clock.iso(clock.now()) + "Z"}


def is_ours(on: Spool, identifier: str) -> bool:
    """Tell whether a job came from another host; others are nobody's business there."""
    return history.last(on.events(identifier), "received") is not None


def described(on: Spool, identifier: str) -> Document:
    """Return the status of a job.

    Raises:
        errors.NoJob: none of this id came from another host.
    """
    names.check_id(identifier)
    now = status.derive(on, identifier) if is_ours(on, identifier) else None
    if now is None:
        raise errors.NoJob("no such job came from another host", job=identifier)
    return {"ok": True, "status": {**now, "place": on.place(identifier)}}


def end(on: Spool, settings: Config, head: Mapping[str, Any]) -> Document:
    """Abort a job; one that is still on its way is refused when it arrives.

    Raises:
        errors.DaqError: it cannot be aborted, or not now.
    """
    identifier = names.check_id(str(head.get("id", "")))
    request = _text(dict(head), "request")
    _forestall(on, identifier, dict(head))
    received = history.last(on.events(identifier), "received")
    if received is None or received.get("request") != request:
        raise errors.Conflict("the job of this id there is another one", job=identifier)
    if on.place(identifier):
        abort.abort(on, identifier, _ABORT_PATIENCE, force=head.get("force") is True,
                    settings=settings)
    return {"ok": True, "id": identifier, "end": begin_of(on, identifier)}


def _forestall(on: Spool, identifier: str, head: Document) -> None:
    """Let the log of a job that never came say that it was aborted."""
    if on.place(identifier):
        return  # it has come: who is at work on it is told to end, not waited for
    lock = on.wait_lock(identifier, "import", _BUSY_PATIENCE)
    if lock is None:
        return  # somebody is at work on it: it has come
    try:
        log = on.log_path(identifier)
        events = on.events(identifier)
        if not os.path.exists(log) and not on.places(identifier):
            line = _received(on, head, {"stage": "collect"})
            fsops.create(log, line + b"\n" + history.encode(
                "aborted", on.by, {"stage": "collect"}) + b"\n")
        elif (events and events[-1]["event"] == "received" and not on.place(identifier)
              and events[-1].get("request") == head.get("request")):
            on.log(identifier, "aborted", stage="collect")  # it had begun to arrive
    finally:
        on.release(identifier, lock)

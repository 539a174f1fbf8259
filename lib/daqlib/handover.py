"""Jobs that another host's spool has: what is sent there, and what is heard of them since.

A finished acquisition is handed over as a parcel: job file, history and the acquisition's
manifest, in which files of this host have become ``HOST:PATH``. From then on the history here is
continued by what the log there tells (events with ``far`` and ``farEnd``), so that status, waits
and monitors work on one log. Who sends the parcel is :mod:`daq_collect.handover`, who receives it
``daq-start --import``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from daqlib import alerts, breaker, errors, farhost, fsops, history, job, names
from daqlib.config import Config
from daqlib.crashpoints import passing
from daqlib.spool import Spool

Document = dict[str, Any]

#: What of ``data/ID/`` is sent.
MANIFEST = "acquire.json"
#: Jobs that are asked about in one request.
AT_ONCE = 500

_ABANDONED = ".abandoned-"  # in remote/, of jobs whose abort was forced: news may come still
_GUARD_PATIENCE = 30.0  # seconds; it is held for an fsync
_LOCK_PATIENCE = 5.0


# -- what is sent ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    """What is sent of a job.

    Attributes:
        head: the request, see ``docs/two-hosts.md``.
        bodies: the bytes that follow it: manifest, history, job file.
        request: stands for what was acquired: the same job sent again has the same.
    """

    head: Document
    bodies: tuple[bytes, ...]
    request: str


def pack(on: Spool, settings: Config, read: job.Job) -> Parcel:
    """Return what is sent of a job.

    Args:
        on: the spool.
        settings: ``hand_over``, ``hand_over_as``, ``instrument_id``.
        read: the job file as it was read.

    Raises:
        errors.BadData: a location in it is not allowed, or the manifest cannot be read.
    """
    own, there = own_name(settings), names.split_location(settings["hand_over"])[0]

    def moved(location: str) -> str:
        return relocated(location, own, there)

    document = {"instrument": settings["instrument_id"], **read.document}
    document["sources"] = [
        {**each, "location": moved(each["location"])} if "location" in each else each
        for each in document["sources"]]
    text = job.encode(document)
    raw = _read(on.data_path(read.id, MANIFEST))
    digest = hashlib.sha256(text).hexdigest()
    manifest = _manifest(raw, digest, moved) if raw else b""
    log = _own_history(on.log_path(read.id))
    request = hashlib.sha256(read.digest.encode() + hashlib.sha256(raw).digest()).hexdigest()
    bodies = (manifest, log, text)
    head = {"do": "import", "id": read.id, "from": own, "request": request, "digest": digest,
            "sizes": dict(zip(("manifest", "log", "job"), map(len, bodies), strict=True)),
            "sha256": hashlib.sha256(b"".join(bodies)).hexdigest()}
    return Parcel(head, bodies, request)


def own_name(settings: Config) -> str:
    """Return how the other host calls this one.

    Raises:
        errors.BadConfig: the name of this host cannot be used.
    """
    name = settings["hand_over_as"] or socket.gethostname()
    if not names.HOST.fullmatch(name):
        raise errors.BadConfig(f"this host's name, {name!r}, cannot be used by ssh",
                               "set cfg/hand_over_as")
    return str(name)


def relocated(location: str, own: str, there: str) -> str:
    """Return what a location is called on the other host.

    Args:
        location: as the job has it.
        own: how the other host calls this one.
        there: how this host calls the other one.
    """
    if location.startswith("rsync://"):
        return location
    host, path = names.split_location(location)
    return f"{own}:{path}" if not host else path if host == there else location


def _manifest(raw: bytes, digest: str, moved: Callable[[str], str]) -> bytes:
    try:
        document = json.loads(raw)
        result = document["result"]
        sources = [{**each, "files": [moved(name) for name in each["files"]]}
                   if "files" in each else each for each in result.get("sources", [])]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise errors.BadData(f"{MANIFEST} cannot be read: {error}",
                             "mend or restore it") from error
    made = {**document, "inputs": {**document.get("inputs", {}), "job": digest},
            "result": {**result, "sources": sources}}
    text = json.dumps(made, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _read(path: str) -> bytes:
    try:
        return fsops.read_regular(path)[0]
    except FileNotFoundError:
        return b""


def _own_history(path: str) -> bytes:
    """Return the history without what hosts told that had the job before."""
    return b"".join(line + b"\n" for line in _read(path).split(b"\n")
                    if (event := history.parse(line)) is not None and history.FAR not in event)


# -- what is heard --------------------------------------------------------------------------------


def followed(on: Spool) -> dict[str, str]:
    """Return the jobs that other hosts have, each with ``HOST:PATH`` of the spool."""
    with os.scandir(on.path("remote")) as entries:
        marked = [entry.name.removeprefix(_ABANDONED) for entry in entries
                  if entry.name.startswith(_ABANDONED)]
    for each in marked:
        if not os.path.exists(on.log_path(each)):
            fsops.remove(_mark(on, each))  # it was pruned: nobody asks any more
    ids = {*marked, *(entry.id for entry in on.scan("remote"))}
    return {each: to for each in sorted(ids) if (to := target(on, each))}


def target(on: Spool, identifier: str) -> str:
    """Return the spool, ``HOST:PATH``, whose news of a job are wanted, or an empty text."""
    if not names.ID.fullmatch(identifier) or not (
            os.path.lexists(on.job_path("remote", identifier))
            or os.path.lexists(_mark(on, identifier))):
        return ""
    event = history.handed_over(on.events(identifier))
    to = event.get("to") if event else ""
    return str(to) if is_target(to) else ""


def is_target(to: object) -> bool:
    """Tell whether a text names the spool of another host."""
    try:
        return isinstance(to, str) and bool(names.split_location(to)[0])
    except errors.BadData:
        return False


def question(on: Spool, jobs: Iterable[str]) -> Document:
    """Return which news of jobs are wanted: up to which byte their logs are known."""
    return {each: history.far_end(on.events(each)) for each in jobs}


def heard(on: Spool, to: str, said: Document) -> None:
    """Record what another host said of a job, and lay the job to rest when it has ended there.

    What is known already is passed over, so that it may be said twice, and to two who ask.

    Args:
        on: the spool.
        to: the other spool, ``HOST:PATH``.
        said: news, see ``docs/two-hosts.md``; what makes no sense is passed over.

    Raises:
        OSError: it could not be recorded.
    """
    identifier = said.get("id")
    if not isinstance(identifier, str) or not names.ID.fullmatch(identifier):
        return
    with _guarded(on):
        known = on.events(identifier)
        event = history.handed_over(known)
        if event is None or event.get("to") != to:
            return
        lines = _unknown(on, known, to) if said.get("unknown") else _fresh(known, to, said)
        if lines:
            fsops.append(on.log_path(identifier), b"\n".join(lines))
            passing("handover.news")
    settle(on, identifier)


@contextlib.contextmanager
def _guarded(on: Spool) -> Iterator[None]:
    """Let nobody else record news meanwhile: what is known decides what is new."""
    fd = fsops.lock(on.path("lock", ".far"), patience=_GUARD_PATIENCE)
    if fd is None:
        raise errors.Later("somebody else is recording the news of other hosts", "repeat this")
    try:
        yield
    finally:
        os.close(fd)


def _unknown(on: Spool, known: list[history.Event], to: str) -> list[bytes]:
    alert = alerts.make("lost-there", to, f"{to} does not know it; if that spool was lost, send it "
                        "again: mv it from remote/ back to collect/")
    if any(each["id"] == alert["id"] for each in alerts.active(known, "remote")):
        return []
    return [history.encode("alert", on.by, {"stage": "collect", **alert})]


def _fresh(known: list[history.Event], to: str, said: Document) -> list[bytes]:
    told, state, end = said.get("events"), said.get("state"), said.get("end")
    begin = history.far_end(known)
    lines = [history.relayed(event, to, at) for at, event in _pairs(told) if at > begin]
    lost = alerts.make("lost-there", to, "")["id"]
    if any(each["id"] == lost for each in alerts.active(known, "remote")):
        lines.insert(0, history.encode("alert-cleared", "", {"id": lost}))
    if not isinstance(state, dict) or type(end) is not int or end < begin:
        return lines
    before = history.far_state(known) or {}
    facts = {name: state.get(name) for name in ("substate", "place", "result")}
    if all(isinstance(value, str) for value in facts.values()) and any(
            before.get(name) != value for name, value in facts.items()):
        lines.append(history.relayed(
            {"time": str(state.get("time", "")), "event": "state", "by": str(state.get("by", "")),
             **facts}, to, end))
    return lines


def _pairs(told: object) -> Iterator[tuple[int, history.Event]]:
    for pair in told if isinstance(told, list) else ():
        if (isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int
                and isinstance(pair[1], dict) and isinstance(pair[1].get("event"), str)):
            yield pair[0], pair[1]


def settle(on: Spool, identifier: str) -> bool:
    """Move a job from ``remote/`` to ``done/`` when it has ended on the other host.

    Returns:
        False when it has not ended, or somebody is at work on it.
    """
    state = history.far_state(on.events(identifier))
    if state is None or state["place"] != "done" or on.place(identifier) not in ("remote", "done"):
        return False
    lock = on.lock(identifier, "news")
    if lock is None:
        return False
    try:
        try:
            on.move(identifier, "remote", "done")
        except FileExistsError:
            on.to_bad("remote", f"{identifier}.json", "done/ holds a copy")
        fsops.remove(_mark(on, identifier))
    finally:
        on.release(identifier, lock)
    return True


def _mark(on: Spool, identifier: str) -> str:
    return on.path("remote", _ABANDONED + identifier)


# -- how old the news are --------------------------------------------------------------------------


def contact_path(on: Spool, to: str) -> str:
    """Return the file whose modification time tells when a host was heard of last."""
    return on.path("run", f"far-{hashlib.sha256(to.encode()).hexdigest()[:16]}.json")


def contacted(on: Spool, to: str, trouble: str = "") -> None:
    """Note that a host was heard of just now, or why it was not; never raises.

    Args:
        on: the spool.
        to: ``HOST:PATH``.
        trouble: why the news are getting old; the time of the last contact stays.
    """
    path = contact_path(on, to)
    with contextlib.suppress(OSError):
        before = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
        if not trouble and before and not last_contact(on, to)[1]:
            os.utime(path)
            return
        embryo = fsops.temporary(path)
        with open(embryo, "x", encoding="utf-8") as file:
            file.write(json.dumps({"to": to, "trouble": trouble}) + "\n")
        if trouble:
            os.utime(embryo, ns=(before, before))
        os.rename(embryo, path)


def last_contact(on: Spool, to: str) -> tuple[float, str]:
    """Return when a host was heard of last (seconds since the epoch, 0: never), and its trouble."""
    try:
        data, status = fsops.read_regular(contact_path(on, to))
        said = json.loads(data)
        return status.st_mtime, str(said.get("trouble", ""))
    except (OSError, ValueError, AttributeError):
        return 0.0, ""


# -- what is asked --------------------------------------------------------------------------------


def news(on: Spool, settings: Config) -> int:
    """Ask the other hosts once how the jobs that they have are getting on.

    Aborts that were asked for while a job was on its way are carried out.

    Returns:
        How many jobs are still on their way.

    Raises:
        errors.DaqError: the last of the hosts that could not be asked.
    """
    jobs = followed(on)
    trouble: errors.DaqError | None = None
    for to in sorted(set(jobs.values())):
        try:
            _ask_one(on, settings, to, [each for each, at in jobs.items() if at == to])
        except errors.DaqError as error:
            contacted(on, to, error.message)
            trouble = error
    if trouble is not None:
        raise trouble
    return len(followed(on))


def _ask_one(on: Spool, settings: Config, to: str, jobs: list[str]) -> None:
    host = names.split_location(to)[0]
    breaker.check(on, settings, host)
    with breaker.trying(on, settings, host), farhost.Session(settings, to) as far:
        far.greet()
        contacted(on, to)
        for identifier in jobs:
            if is_abort_due(on, identifier):
                take_abort(on, to, identifier, far.ask(abort_request(on, identifier)))
        for begin in range(0, len(jobs), AT_ONCE):
            some = [each for each in jobs[begin:begin + AT_ONCE] if arrived(on, each)]
            far.ask({"do": "log", "jobs": question(on, some)})
            while far.news:
                heard(on, to, far.news.popleft())


def arrived(on: Spool, identifier: str) -> bool:
    """Tell whether it is known that another host has the job."""
    event = history.handed_over(on.events(identifier))
    return event is not None and event["event"] == "handed-over"


# -- aborts ---------------------------------------------------------------------------------------


def is_abort_due(on: Spool, identifier: str) -> bool:
    """Tell whether an abort was asked for that the other host has to be told of."""
    return (on.place(identifier) == "remote"
            and history.abort_requested(on.events(identifier)))


def abort_request(on: Spool, identifier: str) -> Document:
    """Return the request to abort a job there; the job is refused there if it arrives later."""
    event = history.handed_over(on.events(identifier)) or {}
    return {"do": "abort", "id": identifier, "request": event.get("request", ""),
            "from": event.get("from", "")}


def take_abort(on: Spool, to: str, identifier: str, reply: Document) -> None:
    """Take note of the answer to :func:`abort_request`; the rest is told by the log there.

    Raises:
        errors.DaqError: it was not aborted there.
    """
    end = reply.get("end")
    if type(end) is int and not arrived(on, identifier):
        event = history.handed_over(on.events(identifier)) or {}
        on.log(identifier, "handed-over", stage="collect", to=to, request=event.get("request"),
               known=True, farEnd=end)
    # what has ended there cannot be aborted; its log tells how it ended
    if not reply.get("ok") and reply.get("code") != errors.NoJob.code:
        raise farhost.refusal(reply, to)


def abort(on: Spool, settings: Config, identifier: str, *, force: bool = False) -> None:
    """Abort a job on the host that has it, and take note of how it ended.

    Args:
        on: the spool.
        settings: by which the host is reached.
        identifier: the job, in ``remote/``.
        force: passed on.

    Raises:
        errors.Unavailable: the host does not answer; nothing has changed, or the request stands
            if it was made before.
        errors.NoJob: it ended before it could be aborted.
        errors.DaqError: it could not be aborted there.
    """
    event = history.handed_over(on.events(identifier))
    to = event.get("to") if event else None
    if not is_target(to):
        raise errors.BadData("it is in remote/, but was not handed over to anybody",
                             f"mv remote/{identifier}.json where it belongs", identifier)
    try:
        _abort_there(on, settings, str(to), identifier, force=force)
    except errors.Patience as error:
        stands = history.abort_requested(on.events(identifier))
        raise errors.Unavailable(
            f"{to} has it and cannot be asked: {error.message}",
            "the request stands and is passed on when it answers" if stands else
            "repeat this when it answers, or force the abort, which that host does not learn of",
            identifier) from error


def _abort_there(on: Spool, settings: Config, to: str, identifier: str, *, force: bool) -> None:
    host = names.split_location(to)[0]
    with breaker.trying(on, settings, host), farhost.Session(settings, to) as far:
        far.greet()
        take_abort(on, to, identifier,
                   far.ask({**abort_request(on, identifier), "force": force}))
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            far.ask({"do": "log", "jobs": question(on, [identifier])})
            while far.news:
                heard(on, to, far.news.popleft())
            if settle(on, identifier) or time.monotonic() > deadline:
                break
            time.sleep(0.05)  # somebody holds its lock for a moment
    if not any(event["event"] == "aborted" for event in history.from_far(on.events(identifier))):
        raise errors.NoJob("it ended before it could be aborted", "see daq-status", identifier)


def abandon(on: Spool, identifier: str) -> None:
    """Lay a job to rest whose host does not answer, and which does not learn of it.

    What that host does with it is told when it answers again; it may complete the job
    (ESO-396401, section 9.3).

    Raises:
        errors.Later: somebody is at work on it.
    """
    lock = on.wait_lock(identifier, "abort", _LOCK_PATIENCE)
    if lock is None:
        raise errors.Later("somebody is at work on it", "repeat this", identifier)
    try:
        if on.place(identifier) != "remote":
            return
        fsops.put(_mark(on, identifier), b"")
        on.log(identifier, "aborted", stage="collect", forced=True)
        on.move(identifier, "remote", "done")
    finally:
        on.release(identifier, lock)

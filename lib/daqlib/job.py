"""The job file: what it may say, how it is read, checked, named and submitted.

A job file is a StartDaqV2 specification with a few more members (``fileId``, ``created``, ``by``,
``startBy``, ``heuristics``, ``instrument``, ``keywords``, ``allowShared``, ``headerPolicy``,
``keywordDictionaries``), so that a person can write one by hand and drop it into a stage. No tool
ever rewrites it.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import hashlib
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from daqlib import cli, clock, errors, fsops, history, names, receivers, schema, strictjson
from daqlib.crashpoints import passing
from daqlib.spool import Spool

Document = dict[str, Any]

LIVE = ("primarySource", "metadataSource")
#: Bytes of a job file: thousands of sources and keywords fit in, data dropped by mistake do not.
LARGEST = 16 << 20
_NO_FILE = (errno.EINVAL, errno.EISDIR, errno.ELOOP)  # a FIFO or device, a directory, a link
_STILL_WRITING = 5.0  # seconds since the last change during which a torn file may be under way


@dataclass(frozen=True)
class Job:
    """A job file as it was read.

    Attributes:
        id: its name, which is authoritative.
        place: the directory that it was read from.
        document: its content.
        digest: SHA-256 of its bytes, hexadecimal.
        status: of the file that was read.
    """

    id: str
    place: str
    document: Document
    digest: str
    status: os.stat_result


class Unreadable(errors.BadData):
    """The file is no job; it belongs into ``bad/``."""


def read(spool: Spool, job: str, place: str) -> Job:
    """Read and check a job file.

    Args:
        spool: the spool.
        job: its id.
        place: the directory.

    Raises:
        errors.NoJob: it is not there.
        errors.Later: it does not parse yet and changed a moment ago.
        Unreadable: it is not a valid job.
    """
    path = spool.job_path(place, job)
    try:
        data, status = fsops.read_regular(path, LARGEST)
    except FileNotFoundError:
        raise errors.NoJob(f"no such job in {place}/", "see daq-status", job) from None
    except OSError as error:
        if error.errno in _NO_FILE:
            raise errors.NoJob(f"{place}/{job}.json is no regular file, so it is no job",
                               "remove it, or give the job another id", job) from None
        if error.errno != errno.EFBIG:
            raise
        raise Unreadable(f"no job file: {error.strerror}", job=job) from None
    try:
        names.check_id(job)
        document = strictjson.loads(data)
        _check_shape(document, job, hashlib.sha256(data).hexdigest(), spool)
    except ValueError as error:
        if time.time() - status.st_ctime < _STILL_WRITING:
            raise errors.Later("the file does not parse, perhaps it is still being written",
                               "try again in a few seconds", job) from error
        raise Unreadable(f"not JSON: {error}", job=job) from error
    except errors.BadData as error:
        raise Unreadable(str(error), job=job) from error
    return Job(job, place, document, hashlib.sha256(data).hexdigest(), status)


def _check_shape(document: Document, job: str, digest: str, spool: Spool) -> None:
    event = history.last(spool.events(job), "submitted", "received")
    if event is not None and event.get("digest") == digest:
        return  # checked at submission and not edited since: spare the schema library's import
    check(document, job)


def check(document: Document, job: str = "", *, tell: bool = True) -> None:
    """Check the content of a job file or a StartDaqV2 specification.

    Args:
        document: parsed JSON.
        job: the id that it must have, or empty.
        tell: warn of members that nobody knows.

    Raises:
        errors.BadData: names the member and the rule.
    """
    schema.check("job", document, "the specification")
    own = document.get("id", job)
    if job and own != job:
        raise errors.BadData(f"the member id is {own!r}, the file is named {job!r}",
                             "rename the file or mend the member")
    if own:
        names.check_id(own)
    if document.get("fileId"):
        names.check_id(document["fileId"])
    if document.get("instrument"):
        names.check_instrument(document["instrument"])
    names.check_prefix(document.get("filePrefix", ""))
    _check_sources(document)
    for path in document.get("keywordDictionaries", []):
        _check_config_path(path, "dictionary")
    _check_policy(document.get("headerPolicy", ""))
    for receiver in document.get("receivers", []):
        receivers.check(receiver)
    for member in unknown(document) if tell else ():
        cli.warn(f"unknown member {member!r} of the specification ignored")


def unknown(document: Document) -> list[str]:
    """Return the members of a job, its sources and its receivers that have no effect."""
    return [*schema.unknown_in_job(document), *receivers.unknown(document.get("receivers", []))]


def _check_sources(document: Document) -> None:
    seen: dict[str, str] = {}
    for source in document["sources"]:
        name = names.check_source(source["sourceName"])
        if name in seen:
            raise errors.BadData(f"two sources are named {name!r}", "give each its own sourceName")
        seen[name] = source["type"]
        if "location" in source:
            names.split_location(source["location"])
        if "rrUri" in source:
            _check_uri(source)
        if "startTime" in source:
            _check_start_time(source)
        if source.get("optional") and source["type"] != "metadataSource":
            raise errors.BadData(f"source {name!r} is optional, which metadata sources only can be",
                                 "remove it: without its other sources an exposure is none")
    target = document.get("mergeTarget")
    if target and seen.get(target["sourceName"]) in (None, "fitsKeywords"):
        raise errors.BadData(f"mergeTarget {target['sourceName']!r} names no source with files",
                             f"use one of {', '.join(sorted(seen))}")


def _check_config_path(path: str, what: str) -> None:
    if not path.isprintable() or path.startswith("/") or ".." in path.split("/"):
        raise errors.BadData(f"the {what} {path!r} is not allowed",
                             "give a path relative to an entry of $CFGPATH, without '..'")


def _check_policy(given: str | Document) -> None:
    if isinstance(given, str):
        _check_config_path(given, "headerPolicy")
    else:
        from daqlib import headerpolicy

        headerpolicy.entries(given, "headerPolicy")


def _check_uri(source: Document) -> None:
    uri = source["rrUri"]
    if not uri or not uri.isprintable() or " " in uri or uri.startswith("-"):
        raise errors.BadData(f"rrUri {uri!r} of source {source['sourceName']!r} is not a URI",
                             "give scheme://host:port/path")


def _check_start_time(source: Document) -> None:
    text, name = source["startTime"], source["sourceName"]
    if source["type"] != "primarySource":
        raise errors.BadData(f"source {name!r} has a startTime, which primary sources only have",
                             "remove it: metadata sources start before the primary ones")
    try:
        clock.from_iso(text)
    except ValueError:
        raise errors.BadData(f"startTime {text!r} of source {name!r} is no time",
                             "write UTC as YYYY-MM-DDThh:mm:ss.sssZ") from None


def is_live(document: Document) -> bool:
    """Tell whether a job needs ``daq-ctl``: it has a primary or a metadata source."""
    return any(source["type"] in LIVE for source in document["sources"])


def new(specification: Document, **members: Any) -> Document:
    """Return the content of a job file for a specification.

    Args:
        specification: a StartDaqV2 specification.
        members: further members; those that are None are left out.
    """
    made = dict(specification)
    made.update({key: value for key, value in members.items() if value is not None})
    made.setdefault("created", clock.iso(clock.now()) + "Z")
    made.setdefault("by", f"{_user()}@{socket.gethostname()}")
    return made


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # who has no name, in a container perhaps, has a number
        return str(os.getuid())


def submit(spool: Spool, document: Document, place: str, instrument: str, *,
           tell: bool = True) -> tuple[str, bool]:
    """Check a job, reserve its id and file id, and put it durably into a stage.

    Args:
        spool: the spool.
        document: from :func:`new`; its ``id`` may be missing.
        place: the directory to put it into.
        instrument: first part of a generated file id.
        tell: as for :func:`check`.

    Returns:
        The id, and False when the same job had been submitted before.

    Raises:
        errors.BadData: the content is wrong, or the id is taken by another job.
        errors.Later: somebody is submitting or working on this id.
    """
    check(document, tell=tell)
    made = _submit(spool, document, place, instrument, "submit")
    spool.release(made.id, made.lock)
    return made.id, made.fresh


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted and is still locked.

    Attributes:
        id: the job's id.
        fresh: False when the same job had been submitted before.
        lock: descriptor of the job's lock.
    """

    id: str
    fresh: bool
    lock: int


def submit_locked(spool: Spool, document: Document, place: str, instrument: str) -> Submitted:
    """Submit a job that has been checked, and keep it locked: nobody else can take it up first.

    Args and errors are those of :func:`submit`.
    """
    return _submit(spool, document, place, instrument, place)


def _submit(spool: Spool, document: Document, place: str, instrument: str,
            stage: str) -> Submitted:
    if document.get("id"):
        return _submit_as(spool, document, place, instrument, stage)
    while True:
        stamp = file_id(instrument)
        with contextlib.suppress(Taken):
            made = _submit_as(spool, {**document, "id": stamp, "fileId": stamp}, place, instrument,
                              stage)
            if made.fresh:
                return made
            spool.release(made.id, made.lock)
        time.sleep(0.001)  # two starts in one millisecond, alike or not: take the next one


class Taken(errors.BadData):
    """The id belongs to another job."""


def file_id(instrument: str) -> str:
    """Return a file id for now, ``{instrument}.{YYYY-MM-DDThh:mm:ss.sss}`` (ESO-396401, 1.3)."""
    return f"{names.check_instrument(instrument)}.{clock.iso(clock.now())}"


def _submit_as(spool: Spool, document: Document, place: str, instrument: str,
               stage: str) -> Submitted:
    job = names.check_id(document["id"])
    lock = spool.wait_lock(job, stage, 2.0)
    if lock is None:
        raise errors.Later("somebody is at work on this id", "wait, or use another id", job)
    try:
        return Submitted(job, _queue(spool, document, place, instrument), lock)
    except BaseException:
        spool.release(job, lock)
        raise


def _queue(spool: Spool, document: Document, place: str, instrument: str) -> bool:
    """Reserve the ids and put the job into its place; False when that was done before."""
    job = document["id"]
    request = _request_digest(document)
    log = spool.log_path(job)
    known = os.path.exists(log)
    if known or spool.places(job):
        earlier = history.last(spool.events(job), "submitted")
        if earlier is None or earlier.get("request") != request:
            raise Taken(f"the id {job} is known to this spool", "use another id", job)
        # whoever submitted it may have died before these names were durable
        fsops.fsync_dir(os.path.dirname(log))
        if there := spool.places(job):
            fsops.fsync_dir(spool.path(there[0]))
            return False
        document = {**document, **earlier.get("members", {}), "fileId": earlier["fileId"]}
        fsops.sweep(spool.path(place))
    members = {key: document[key] for key in ("created", "by") if key in document}
    # both reservations are names in log/: one fsync of that directory settles them
    stamp = reserve_file_id(spool, job, instrument, document.get("fileId", ""), settle=known)
    data = encode({**document, "fileId": stamp})
    digest = hashlib.sha256(data).hexdigest()
    line = history.encode("submitted", spool.by, {
        "stage": place, "fileId": stamp, "digest": digest, "request": request, "members": members})
    if known:
        fsops.append(log, line)  # an earlier submission of the same died before its job was queued
    else:
        fsops.create(log, line + b"\n")
    passing("submit.reserved")
    fsops.put(spool.job_path(place, job), data, replace=False)
    passing("submit.queued")
    return True


def encode(document: Document) -> bytes:
    """Return the bytes of a job file: readable JSON, one member a line."""
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _request_digest(document: Document) -> str:
    # what was asked, without what every submission adds anew: the same request may be repeated
    asked = {k: v for k, v in document.items() if k not in ("created", "by", "fileId")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def reserve_file_id(spool: Spool, job: str, instrument: str, wanted: str = "", *,
                    settle: bool = True) -> str:
    """Reserve a file id for a job: exclusive creation of ``log/.file-FILEID`` is the check.

    Args:
        spool: the spool.
        job: the owner.
        instrument: first part of a generated file id.
        wanted: the file id asked for, or empty to generate one.
        settle: False when the caller makes ``log/`` durable itself.

    Raises:
        Taken: ``wanted`` belongs to another job.
    """
    while True:
        stamp = wanted or file_id(instrument)
        path = spool.path("log", f".file-{stamp}")
        try:
            fsops.create(path, job.encode(), settle=settle)
        except FileExistsError:
            with open(path, encoding="utf-8") as file:
                owner = file.read()
            if wanted and owner == job:
                return stamp
            if wanted:
                raise Taken(f"the file id {stamp} belongs to job {owner}", "use another id",
                            job) from None
            time.sleep(0.001)
            continue
        return stamp


def accept(spool: Spool, job: str, document: Document, stage: str, instrument: str) -> None:
    """Give a job that was dropped into a stage its file id, once, by an ``accepted`` event.

    Raises:
        Taken: the file id that it asks for belongs to another job.
    """
    if history.file_id(spool.events(job)):
        return
    stamp = reserve_file_id(spool, job, document.get("instrument", instrument),
                            document.get("fileId", ""))
    spool.log(job, "accepted", stage=stage, fileId=stamp)

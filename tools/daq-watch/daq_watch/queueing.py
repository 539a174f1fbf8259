"""Queue a Data Product Specification: make the job that leads to the product which it describes.

A specification is complete (ESO-396401, section 12.4): nothing of this site's configuration is
added to its keywords. The job has its sources in the same order, so that priorities are the same.
"""

from __future__ import annotations

import logging
from typing import Any

from daqlib import capacity, cli, errors, history, job, names, schema, status, strictjson
from daqlib.config import Config
from daqlib.dictionary import Dictionaries
from daqlib.spool import Spool

Document = dict[str, Any]

log = logging.getLogger("daq.dpm")

_FOR_MORE = 1024  # bytes for the members that a submission adds
_LONGEST_NAME = 56  # characters of a source's name that gets a number


def queue(on: Spool, settings: Config, known: Dictionaries, specification: object) -> Document:
    """Put the job of a specification into ``collect/``, durably; the same one again is no other.

    Args:
        on: the spool.
        settings: the configuration.
        known: the dictionaries that keywords must comply with.
        specification: JSON text, or the document.

    Returns:
        ``DaqReply``.

    Raises:
        errors.BadData: the specification is wrong, or its id or file id belongs to another one.
        errors.Later: too little space is free, or somebody is at work on this id.
        errors.DaqError: it could not be written; every error has the id of the job.
    """
    document = strictjson.given(specification, "the specification", "docs/dpm.md")
    identifier = document.get("id") if isinstance(document, dict) else None
    try:
        made = known.specification(job_of(document))
        capacity.check_floor(on, settings)
        reply = _submit(on, settings, made)
    except OSError as error:
        raise _about(identifier, cli.from_os_error(error)) from error
    except errors.DaqError as error:
        raise _about(identifier, error) from None
    for member in [*schema.unknown("dpspec", document), *job.unknown(made)]:
        log.warning("%s: unknown member %r of the specification ignored", identifier, member)
    return reply


def _about(identifier: object, error: errors.DaqError) -> errors.DaqError:
    error.job = error.job or (identifier if isinstance(identifier, str) else "")
    return error


def _submit(on: Spool, settings: Config, made: Document) -> Document:
    if len(job.encode(made)) > job.LARGEST - _FOR_MORE:
        raise errors.BadData("the specification is too large for a job file",
                             "put keywords into a FITS file")
    identifier, fresh = job.submit(on, job.new(made), "collect", settings["instrument_id"],
                                   tell=False)
    taken = history.file_id(on.events(identifier))
    if not fresh and taken != made["fileId"]:
        raise errors.BadData(f"the id {identifier} is known to this spool, with the file id "
                             f"{taken}", "use another id", identifier)
    now = status.derive(on, identifier)
    return {"id": identifier, "error": bool(now and now["error"])}


def job_of(specification: Any) -> Document:
    """Return the job file's content for a Data Product Specification.

    Source names that occur more than once get a number from the second on: ``dcs``, ``dcs.2``.

    Args:
        specification: as it came from outside.

    Raises:
        errors.BadData: it is wrong; names the member and the rule.
    """
    schema.check("dpspec", specification, "the specification")
    target = specification["target"]
    sources, chosen = _sources(specification.get("sources", []), target.get("source"))
    if not sources:
        raise errors.BadData("the specification has no source", "name at least one")
    _number(sources)
    made: Document = {
        "id": names.check_id(specification["id"]), "fileId": names.check_id(target["fileId"]),
        "filePrefix": target.get("filePrefix", ""), "instrument": "", "sources": sources}
    if chosen is not None:
        made["mergeTarget"] = {"sourceName": chosen["sourceName"]}
    for member in ("receivers", "heuristics", "keywordDictionaries", "headerPolicy"):
        if member in specification:
            made[member] = specification[member]
    return made


def _sources(listed: list[Document], base: Document | None,
             ) -> tuple[list[Document], Document | None]:
    """Return copies of the sources, and the one of them that is the target.

    As in daq-merge(1) a target that is not among the sources comes before them, and of one that is
    the target's members count.
    """
    sources = [dict(source) for source in listed]
    if base is None:
        return sources, None
    for source in sources:
        if _same(source, base):
            source.update(base)
            return sources, source
    chosen = dict(base)
    return [chosen, *sources], chosen


def _same(source: Document, base: Document) -> bool:
    return (source["type"], source["sourceName"], source.get("location")) == (
        "fitsFile", base["sourceName"], base["location"])


def _number(sources: list[Document]) -> None:
    taken = {source["sourceName"] for source in sources}
    seen: set[str] = set()
    for source in sources:
        name, number = source["sourceName"], 1
        while source["sourceName"] in seen or (number > 1 and source["sourceName"] in taken):
            number += 1
            source["sourceName"] = f"{name[:_LONGEST_NAME]}.{number}"
        seen.add(source["sourceName"])

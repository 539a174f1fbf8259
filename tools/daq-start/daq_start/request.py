"""Build a specification from the options of daq-start."""

from __future__ import annotations

import argparse
import os
import re

from daqlib import cli, errors, job, names

_UNFIT = re.compile(r"[^A-Za-z0-9._+-]+")


def build(options: argparse.Namespace) -> job.Document:
    """Return the specification that the options ask for.

    Raises:
        errors.Usage: nothing to acquire or merge is named, or a source is not NAME@URI.
        errors.BadData: JSON or a location is wrong.
    """
    document = _given(options.specification)
    sources = [*document.get("sources", []), *_live(options.primary, "primarySource"),
               *_live(options.metadata, "metadataSource")]
    for argument in options.files:
        sources.append(_file(argument, {str(s.get("sourceName")) for s in sources}))
    keywords = [keyword for text in options.keywords for keyword in _keywords(text)]
    if not sources and keywords:
        sources = [{"type": "fitsKeywords", "sourceName": "keywords", "keywords": keywords}]
    elif keywords:
        document["keywords"] = [*document.get("keywords", []), *keywords]
    if not sources:
        raise errors.Usage("nothing to acquire", "give SPECIFICATION, --file, --primary, "
                           "--metadata or --keywords; try 'daq-start --help'")
    document["sources"] = sources
    document.update(_members(options))
    return document


def _given(argument: str | None) -> job.Document:
    if argument is None:
        return {}
    document = cli.json_argument("@-" if argument == "-" else argument, "the specification")
    if not isinstance(document, dict) or not isinstance(document.get("sources", []), list):
        raise errors.BadData("the specification is no JSON object with a list 'sources'",
                             "see docs/formats.md")
    return document


def _members(options: argparse.Namespace) -> job.Document:
    made: job.Document = {}
    if options.id is not None:
        made["id"] = names.check_id(options.id)
    if options.prefix is not None:
        made["filePrefix"] = options.prefix
    if options.instrument is not None:
        made["instrument"] = options.instrument
    if options.target is not None:
        made["mergeTarget"] = {"sourceName": options.target}
    if options.no_receivers:
        made["receivers"] = []
    elif options.receivers is not None:
        made["receivers"] = [_receiver(text) for text in options.receivers]
    return made


def _live(arguments: list[str], kind: str) -> list[job.Document]:
    made = []
    for argument in arguments:
        name, at, uri = argument.partition("@")
        if not at or not uri:
            raise errors.Usage(f"{argument!r} is no source", "write NAME@URI")
        made.append({"type": kind, "sourceName": name, "rrUri": uri})
    return made


def _file(argument: str, taken: set[str]) -> job.Document:
    if os.path.lexists(argument):
        # a file of this name exists here, even if the name holds a colon, as file ids do
        location = os.path.join(os.path.realpath(os.path.dirname(argument) or "."),
                                os.path.basename(argument))
    elif ":" in argument.partition("/")[0] or os.path.isabs(argument):
        location = argument
    else:
        raise errors.BadData(f"no such file: {argument}", "give the path of an existing file")
    return {"type": "fitsFile", "sourceName": _source_name(location, taken), "location": location}


def _source_name(location: str, taken: set[str]) -> str:
    stem = os.path.basename(location.rstrip("/")).partition(".")[0]
    base = _UNFIT.sub("_", stem).lstrip("-.+")[:48] or "file"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _keywords(argument: str) -> list[job.Document]:
    document = cli.json_argument("@-" if argument == "-" else argument, "--keywords")
    if not isinstance(document, list):
        raise errors.BadData("--keywords is no JSON list", 'write [{"type": "esoKeyword", ...}]')
    return document


def _receiver(argument: str) -> job.Document:
    host, path = names.split_location(argument if ":" in argument.partition("/")[0]
                                      else os.path.abspath(argument))
    return {"type": "olasReceiver", "path": path, **({"host": host} if host else {})}


def check_files(document: job.Document) -> None:
    """Check that the local files of a job exist and can be read, before it is queued.

    Raises:
        errors.BadData: a file does not exist or is no regular file.
        errors.NoPermission: it cannot be read.
    """
    for source in document["sources"]:
        host, path = names.split_location(source["location"]) if "location" in source else ("", "")
        if host or not path:
            continue
        if not os.path.isfile(path):
            raise errors.BadData(f"source {source['sourceName']}: no such file: {path}",
                                 "give the path of an existing file")
        if not os.access(path, os.R_OK):
            raise errors.NoPermission(f"source {source['sourceName']}: cannot read {path}",
                                      "check owner and mode")



"""What a job needs: the Data Product Specification and the list of its input files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from daqlib import alerts, errors, headerpolicy, history, job, names, product
from daqlib.stage import Claim

Document = dict[str, Any]

#: Folder of the inputs, relative to the job's data directory (ESO-396401 section 11.3.6).
SOURCES = "sources"

# a file name has room for 255 bytes; the rest is for what temporaries put in front
_LONGEST = 200


@dataclass(frozen=True)
class Input:
    """A file that the product is made from.

    Attributes:
        source: its ``sourceName``.
        origin: its location as the specification says.
        host: where it lies; empty for this host.
        path: absolute path there.
        name: in ``data/ID/sources/``.
        in_place: whether it is the target that the merger builds on.
    """

    source: str
    origin: str
    host: str
    path: str
    name: str
    in_place: bool

    @property
    def label(self) -> str:
        """How to call it in a message."""
        return f"source {self.source}: {self.origin}"


def derive(claim: Claim) -> tuple[Document, list[alerts.Alert]]:
    """Return the job's specification, its locations being origins, and what arose on the way.

    Raises:
        errors.BadData: the job has live sources whose acquisition never ended.
    """
    document = claim.job.document
    ended = claim.previous()
    if ended is None and job.is_live(document):
        raise errors.BadData("its acquisition never ended: there is no acquire.json",
                             f"mv the job to acquire/, or drop data/{claim.id}/acquire.json there")
    settings = {"instrument": claim.settings["instrument_id"],
                "receivers": claim.settings["receivers"]}
    acquired = ended.get("result") if ended else None
    return product.specification(claim.id, document, acquired, claim.events, settings)


def policy(claim: Claim) -> Document | None:
    """Return the header policy of the job: its own, else the site's.

    A queued specification, which has no instrument, is complete: nothing of the site is added.

    Raises:
        errors.BadConfig: its file is not there or not right.
    """
    document = claim.job.document
    chosen = document.get("headerPolicy", "" if document.get("instrument") == "" else None)
    if chosen is None:
        return headerpolicy.of_site(claim.settings)
    if isinstance(chosen, dict):
        return chosen
    return headerpolicy.load(chosen, "headerPolicy of the job") if chosen else None


def with_policy(specification: Document, claim: Claim) -> Document:
    """Return the specification with the job's header policy.

    Raises:
        errors.BadConfig: a file is not there or not right.
    """
    found = policy(claim)
    if found is None:
        return specification
    listed = claim.settings["dictionaries"]
    if listed and claim.job.document.get("headerPolicy") is not found:
        from daqlib import dictionary

        found = headerpolicy.filled(found, dictionary.load(listed))
    return {**specification, "headerPolicy": found}


def inputs(specification: Document) -> list[Input]:
    """List the files of a specification; the in-place target is one of its sources.

    Raises:
        errors.BadData: a location or the name of a file is not allowed.
    """
    return [_input(index, part, part is specification["target"].get("source"))
            for index, part in enumerate(specification["sources"])
            if part["type"] == "fitsFile"]


def local(specification: Document) -> Document:
    """Return the specification with locations relative to the job's data directory."""
    target = specification["target"]
    made = {**specification, "target": dict(target), "sources": []}
    for index, part in enumerate(specification["sources"]):
        made["sources"].append(_local(index, part))
        if part is target.get("source"):
            made["target"]["source"] = made["sources"][-1]
    return made


def sealed_at(claim: Claim) -> float | None:
    """Return when the acquisition was sealed, seconds since the epoch, or None."""
    event = history.last(claim.events, "sealed", stage="acquire")
    return history.seconds(event) if event else None


def _local(index: int, part: Document) -> Document:
    if part["type"] != "fitsFile":
        return part
    return {**part, "location": f"{SOURCES}/{_input(index, part, False).name}"}


def _input(index: int, part: Document, in_place: bool) -> Input:
    source = names.check_source(part["sourceName"])
    host, path = names.split_location(part["location"])
    begin = f"{index}_{source}_"
    last = names.file_name(path)
    while len((begin + last).encode()) > _LONGEST:
        last = last[1:]  # the end tells more: number and suffix
    # as rsync writes it in its messages; there is no '..' in it, so that it stays the same file
    plain = "/" + os.path.normpath(path).lstrip("/")
    return Input(source, part["location"], host, plain, begin + last, in_place)

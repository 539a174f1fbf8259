"""What a product will be, decided from headers alone: every error is found before data moves.

The rules are those of ESO-396401 sections 8.3 and 12.4. The target's keywords and extensions come
first. The target wins collisions, too, unless the same source (name and location) is also listed
among the sources: then its place in that list is its priority.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from daq_merge import cards, keywords, layout, primary
from daq_merge.cards import Warn
from daq_merge.layout import Input, Part
from daqlib import alerts, clock, errors, fitsfile

Alert = dict[str, Any]


class MissingSource(errors.BadData):
    """A file that the specification names is not there."""


@dataclass(slots=True)
class Plan:
    """A product before it is written.

    Attributes:
        origin_name: ORIGFILE, the product's file name.
        archive_name: ARCFILE, the name for the archive.
        stamp: the time to write into headers, ISO 8601 UTC.
        inputs: the files, in order of reading.
        parts: the HDUs, in order.
        alerts: conditions that the job must show.
        warnings: sentences for people.
    """

    origin_name: str
    archive_name: str
    stamp: str
    inputs: list[Input] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Length of the product, bytes."""
        return self.parts[-1].end if self.parts else 0


@dataclass(frozen=True, slots=True)
class _Source:
    spec: dict[str, Any]
    where: str
    rank: int
    is_target: bool
    input: Input | None

    @property
    def own_primary(self) -> fitsfile.Hdu | None:
        return self.input.file.hdus[0] if self.input else None


def plan(specification: dict[str, Any], root: str) -> Plan:
    """Decide what the product will be; reads headers only and writes nothing.

    Args:
        specification: a Data Product Specification (schema ``dpspec``).
        root: directory that relative locations start from.

    Raises:
        MissingSource: a source file is not there.
        errors.BadData: a file, a keyword or a rule is wrong.
        OSError: a file cannot be read.
    """
    target = _member(specification, "target", dict, "the specification")
    file_id = _member(target, "fileId", str, "target")
    archive_name = f"{file_id}.fits"
    made = Plan(_optional(target, "filePrefix", str, "target", "") + archive_name, archive_name,
                clock.iso(clock.header_time()))
    sources = list(_sources(specification, target, root))
    made.inputs = [source.input for source in sources if source.input]
    user_only = specification.get("heuristics") == "v1"
    blocks = [_block(source, user_only, made.warnings.append) for source in sources]
    base = sources[0].input if sources and sources[0].is_target else None
    merged = keywords.merge(blocks, made.warnings.append)
    has_extensions = any(len(one.file.hdus) > 1 for one in made.inputs)
    lines = primary.structure(base.file.hdus[0] if base else None, has_extensions)
    lines += primary.body(merged, made.origin_name, made.archive_name, made.stamp)
    made.parts = layout.lay_out(lines, base, made.inputs)
    made.alerts.extend(_unmergeable(sources))
    return made


def _sources(specification: dict[str, Any], target: dict[str, Any], root: str
             ) -> Iterator[_Source]:
    listed = _optional(specification, "sources", list, "the specification", [])
    base = _optional(target, "source", dict, "target", None)
    twin = next((rank for rank, spec in enumerate(listed) if base and _same(spec, base)), None)
    if base:
        spec = base if twin is None else {**listed[twin], **base}
        yield _source(spec, -1 if twin is None else twin, True, root)
    for rank, spec in enumerate(listed):
        if rank != twin:
            yield _source(spec, rank, False, root)


def _same(spec: dict[str, Any], base: dict[str, Any]) -> bool:
    return (spec.get("type"), spec.get("sourceName"), spec.get("location")) == (
        "fitsFile", base.get("sourceName"), base.get("location"))


def _source(spec: dict[str, Any], rank: int, is_target: bool, root: str) -> _Source:
    name = _member(spec, "sourceName", str, f"source {rank + 1}")
    where = f"source {name}"
    variant = spec.get("type")
    if variant == "fitsKeywords" and not is_target:
        return _Source(spec, where, rank, False, None)
    if variant != "fitsFile":
        raise errors.BadData(f"{where}: type {variant!r} cannot be merged",
                             "use fitsFile or fitsKeywords, the target being a fitsFile")
    location = _member(spec, "location", str, where)
    path = locate(location, root, where)
    try:
        file = fitsfile.read_structure(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingSource(f"{where}: {path}: there is no such file",
                            "put the file there, or correct its location") from error
    return _Source(spec, where, rank, is_target, Input(name, location, file))


def locate(location: str, root: str, where: str) -> str:
    """Return the path of a location: ``path`` or ``:path``, relative to root unless absolute.

    Raises:
        errors.BadData: it is on another host, empty, or holds control characters.
    """
    host, colon, path = location.partition(":")
    if not colon or "/" in host:
        host, path = "", location
    if host:
        raise errors.BadData(
            f"{where}: {location} is on host {host}",
            "collect it first, or write './' before a local name that holds a colon")
    if not path or not path.isprintable():
        raise errors.BadData(f"{where}: location {location!r} is no path", "correct the location")
    return os.path.join(root, path)


def _block(source: _Source, user_only: bool, warn: Warn) -> keywords.Block:
    hdu, where = source.own_primary, source.where
    default = "target" if source.is_target else "all"
    if hdu is None:
        items = _member(source.spec, "keywords", list, where)
        found = keywords.from_json(items, where, warn)
    else:
        found = cards.read(hdu.cards)
        if user_only and not source.is_target:
            default = "user"
        if not hdu.header.isascii():
            warn(f"{where}: its primary header holds bytes that are not ASCII; they stay")
    own = keywords.mergeable(found, source.spec, where, default, warn)
    items = _optional(source.spec, "initialKeywords", list, where, [])
    initial = keywords.mergeable(keywords.from_json(items, where, warn), {}, where, "all", warn)
    return keywords.Block(where, source.rank, keywords.with_initial(own, initial),
                          source.is_target)


def _unmergeable(sources: list[_Source]) -> Iterator[Alert]:
    for source in sources:
        hdu = source.own_primary
        if hdu is None or source.input is None or source.is_target or not hdu.data_size:
            continue
        if source.spec.get("alertUnmergeable", True) is not False:
            yield alerts.make(
                "unmergeable", source.input.label,
                f"{source.where}: {hdu.data_size} bytes of data in the primary HDU of "
                f"{source.input.location} were not merged: only the merge target's can be")


def _member(document: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in document:
        raise errors.BadData(f"{where} has no {name}", "add it to the specification")
    return _optional(document, name, kind, where, None)


def _optional(document: dict[str, Any], name: str, kind: type, where: str, default: Any) -> Any:
    value = document.get(name, default)
    if value is not default and not isinstance(value, kind):
        raise errors.BadData(f"{where}: {name} is {value!r}, not of type {kind.__name__}",
                             "correct the specification")
    return value

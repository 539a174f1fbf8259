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

from daq_merge import cards, classes, headers, keywords
from daq_merge.cards import Keyword, Warn
from daqlib import alerts, clock, errors, fitsfile

Alert = dict[str, Any]


class MissingSource(errors.BadData):
    """A file that the specification names is not there."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file that goes into the product.

    Attributes:
        source: name of the source that delivered it.
        location: as the specification says it.
        file: its path and structure.
    """

    source: str
    location: str
    file: fitsfile.FitsFile

    @property
    def label(self) -> str:
        """How to call it in alerts: source and file name."""
        return f"{self.source}:{os.path.basename(self.location)}"


@dataclass(frozen=True, slots=True)
class Part:
    """One HDU of the product.

    Attributes:
        index: of the HDU in the product.
        offset: where its header begins in the product, bytes.
        header: complete but for its seal.
        input: the file that its data come from; None for an empty primary HDU.
        hdu: the HDU that its data come from; None for an empty primary HDU.
    """

    index: int
    offset: int
    header: headers.Header
    input: Input | None
    hdu: fitsfile.Hdu | None

    @property
    def data_offset(self) -> int:
        """Where its data begin in the product, bytes."""
        return self.offset + len(self.header.raw)

    @property
    def end(self) -> int:
        """Where the next HDU begins in the product, bytes."""
        return self.data_offset + (self.hdu.padded_size if self.hdu else 0)


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
    _lay_out(made, base, keywords.merge(blocks, made.warnings.append))
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


def _lay_out(made: Plan, base: Input | None, merged: list[Keyword]) -> None:
    extensions = [(one, hdu) for one in made.inputs for hdu in one.file.hdus[1:]]
    primary = base.file.hdus[0] if base else None
    lines = _structure(primary, bool(extensions)) + _body(made, merged)
    made.parts = [Part(0, 0, headers.fresh(lines), base, primary)]
    for one, hdu in extensions:
        made.parts.append(Part(len(made.parts), made.size, headers.kept(hdu), one, hdu))


def _structure(primary: fitsfile.Hdu | None, has_extensions: bool) -> list[bytes]:
    """Return the structural cards of the primary header, the target's own as they are."""
    extend = _own("EXTEND", True, "extensions may follow")
    if primary is None:
        return [*_own("SIMPLE", True, "conforms to the FITS standard"),
                *_own("BITPIX", 8, "bits per data value"),
                *_own("NAXIS", 0, "no data in this HDU"), *extend]
    kept = [k for k in cards.read(primary.cards) if classes.is_structural(k)]
    lines = [card for k in kept for card in k.cards]
    if not has_extensions:
        return lines
    states = [at for at, card in enumerate(lines) if card.startswith(b"EXTEND  =")]
    if not states:
        axes = [at for at, card in enumerate(lines) if card.startswith(b"NAXIS")]
        return [*lines[:axes[-1] + 1], *extend, *lines[axes[-1] + 1:]]
    if lines[states[0]][10:].partition(b"/")[0].strip() != b"T":
        lines[states[0]] = extend[0]
    return lines


def _body(made: Plan, merged: list[Keyword]) -> list[bytes]:
    own = [*_own("ORIGFILE", made.origin_name, "original file name"),
           *_own("ARCFILE", made.archive_name, "archive file name"),
           *_own("DATE", made.stamp, "when this file was written (UTC)")]
    continued = any(len(k.cards) > 1 for k in merged) or len(own) > 3
    if continued and ("value", "LONGSTRN") not in [k.key for k in merged]:
        # readers of the OGIP convention look for this card before they join CONTINUE cards
        own = [*_own("LONGSTRN", "OGIP 1.0", "strings may go on in CONTINUE cards"), *own]
    values = [card for k in merged if k.kind == "value" for card in k.cards]
    others = [card for k in merged if k.kind != "value" for card in k.cards]
    return [*values, *own, *others]


def _own(name: str, value: object, comment: str) -> tuple[bytes, ...]:
    # our comments may be cut silently
    return cards.make("value", name, value, comment, "the product", lambda _: None).cards


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

"""What a product will be, decided from headers alone: every error is found before data moves.

The rules are those of ESO-396401 sections 8.3 and 12.4. The target's keywords and extensions come
first. The target wins collisions, too, unless the same source (name and location) is also listed
among the sources: then its place in that list is its priority.
"""

from __future__ import annotations

import os

from daq_merge import cards, keywords, layout, primary, promoted
from daqlib import alerts, clock, errors, fitsfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from daq_merge.cards import Keyword
    from daq_merge.how import How
    from daq_merge.layout import Input, Part
    from daq_merge.policy import Policy
    from daqlib.cardlayout import Warn
    from daqlib.dictionary import Dictionaries

    Alert = dict[str, Any]
else:
    Alert = dict


_STAMPS = ("ORIGFILE", "ARCFILE")


class MissingSource(errors.BadData):
    """A file that the specification names is not there."""


class BadSpecification(errors.BadData):
    """The specification asks for what is not there or not right, other than a source."""


class Source:
    """A source of the specification, as it was found.

    Attributes:
        spec: the source object.
        where: how to call it in messages.
        rank: priority, lower wins; -1: the target, when it is not among the sources.
        is_target: it is the in-place target.
        input: its file; None: it has JSON keywords only.
        found: all keywords of its primary header, or its JSON keywords.
        initial: keywords that were known at the start.
        default: what is merged without rules, see :func:`daq_merge.keywords.mergeable`.
    """

    __slots__ = ("default", "found", "initial", "input", "is_target", "rank", "spec", "where")

    def __init__(self, spec: dict[str, Any], where: str, rank: int, is_target: bool,
                 file: Input | None) -> None:
        self.spec = spec
        self.where = where
        self.rank = rank
        self.is_target = is_target
        self.input = file
        self.found: list[Keyword] = []
        self.initial: list[Keyword] = []
        self.default = "target" if is_target else "all"

    @property
    def own_primary(self) -> fitsfile.Hdu | None:
        """Its primary HDU; None: it has no file."""
        return self.input.file.hdus[0] if self.input else None


class Plan:
    """A product before it is written.

    Attributes:
        origin_name: ORIGFILE, the product's file name.
        archive_name: ARCFILE, the name for the archive.
        stamp: the time to write into headers, ISO 8601 UTC.
        sources: in the order of reading: the target, then the others by priority.
        inputs: the files, in order of reading.
        base: the merge target's file; None: the product is made from nothing.
        blocks: what each source contributes, parallel to ``sources``.
        structure: the structural cards of the primary header.
        merged: the keywords of the sources in the primary header, in their order there.
        own: the merger's own keywords there.
        parts: the HDUs, in order.
        alerts: conditions that the job must show.
        warnings: sentences for people.
    """

    __slots__ = ("alerts", "archive_name", "base", "blocks", "inputs", "merged", "origin_name",
                 "own", "parts", "sources", "stamp", "structure", "warnings")

    def __init__(self, origin_name: str, archive_name: str, stamp: str) -> None:
        self.origin_name = origin_name
        self.archive_name = archive_name
        self.stamp = stamp
        self.sources: list[Source] = []
        self.inputs: list[Input] = []
        self.base: Input | None = None
        self.blocks: list[keywords.Block] = []
        self.structure: list[bytes] = []
        self.merged: list[Keyword] = []
        self.own: list[Keyword] = []
        self.parts: list[Part] = []
        self.alerts: list[Alert] = []
        self.warnings: list[str] = []

    @property
    def size(self) -> int:
        """Length of the product, bytes."""
        return self.parts[-1].end if self.parts else 0


def plan(specification: dict[str, Any], root: str, how: How | None = None) -> Plan:
    """Decide what the product will be; reads headers only and writes nothing.

    Args:
        specification: a Data Product Specification (schema ``dpspec``).
        root: directory that relative locations start from.
        how: says whether extensions are stamped with the product's names as well.

    Raises:
        MissingSource: a source file is not there.
        BadSpecification: a keyword dictionary is not there or not right; so for a header policy.
        errors.BadData: a file, a keyword or a rule is wrong.
        OSError: a file cannot be read.
    """
    target = _member(specification, "target", dict, "the specification")
    file_id = _member(target, "fileId", str, "target")
    archive_name = f"{file_id}.fits"
    made = Plan(_optional(target, "filePrefix", str, "target", "") + archive_name, archive_name,
                clock.iso(clock.header_time()))
    warn = made.warnings.append
    made.sources = list(_sources(specification, target, root))
    made.inputs = [source.input for source in made.sources if source.input]
    dictionaries = _dictionaries(specification, root)
    user_only = specification.get("heuristics") == "v1"
    made.blocks = [_block(source, user_only, dictionaries, warn) for source in made.sources]
    first = made.sources[0] if made.sources and made.sources[0].is_target else None
    made.base = first.input if first else None
    policy = _policy(specification, made, warn)
    made.merged = keywords.merge(made.blocks, warn)
    has_extensions = any(one.extensions for one in made.inputs)
    made.structure = primary.structure(first.found if first else None, has_extensions)
    made.own = primary.own(made.merged, made.origin_name, archive_name, made.stamp)
    lines = made.structure + primary.body(made.merged, made.own)
    stamps: tuple[bytes, ...] = ()
    if how is not None and how.stamp == "all":
        stamps = tuple(card for k in made.own if k.name in _STAMPS for card in k.cards)
    made.parts = layout.lay_out(lines, made.base, made.inputs, stamps)
    if policy is not None:
        made.alerts.extend(policy.alerts(made.merged + made.own))
    made.alerts.extend(_resized(made.base, made.parts[0]))
    made.alerts.extend(_unmergeable(made.sources))
    return made


def _dictionaries(specification: dict[str, Any], root: str) -> Dictionaries | None:
    names = _optional(specification, "keywordDictionaries", list, "the specification", [])
    if not names:
        return None
    from daqlib import dictionary

    folders = [root, *os.environ.get("CFGPATH", "").split(":")]
    try:
        return dictionary.load(names, [folder for folder in folders if folder],
                               by="keywordDictionaries")
    except errors.BadConfig as error:
        raise BadSpecification(error.message, error.remedy) from error


def _policy(specification: dict[str, Any], made: Plan, warn: Warn) -> Policy | None:
    """Add what the header policy writes as a last source; return the policy, if there is one."""
    if "headerPolicy" not in specification:
        return None
    from daq_merge import policy

    try:
        found = policy.Policy(specification["headerPolicy"], made.blocks)
    except errors.BadData as error:
        raise BadSpecification(error.message, error.remedy) from error
    if written := found.keywords(warn):
        last = Source({"type": "fitsKeywords", "sourceName": policy.NAME}, "the header policy",
                      len(made.sources), False, None)
        last.found, last.default = written, policy.NAME
        made.sources.append(last)
        made.blocks.append(keywords.Block(last.where, last.rank, written))
    return found


def _sources(specification: dict[str, Any], target: dict[str, Any], root: str
             ) -> Iterator[Source]:
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


def _source(spec: dict[str, Any], rank: int, is_target: bool, root: str) -> Source:
    name = _member(spec, "sourceName", str, f"source {rank + 1}")
    where = f"source {name}"
    variant = spec.get("type")
    if variant == "fitsKeywords" and not is_target:
        return Source(spec, where, rank, False, None)
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
    becomes = (not is_target and spec.get("primaryData") == "extension"
               and promoted.fits(file.hdus[0]))
    return Source(spec, where, rank, is_target, layout.Input(name, location, file, becomes))


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


def _block(source: Source, user_only: bool, dictionaries: Dictionaries | None, warn: Warn
           ) -> keywords.Block:
    hdu, where = source.own_primary, source.where
    if hdu is None:
        items = _member(source.spec, "keywords", list, where)
        source.found = _from_json(items, where, dictionaries, warn)
    else:
        source.found = cards.read(hdu.cards)
        if user_only and not source.is_target:
            source.default = "user"
        elif source.input is not None and source.input.promoted:
            source.default = "extension"
        if not hdu.header.isascii():
            warn(f"{where}: its primary header holds bytes that are not ASCII; they stay")
    items = _optional(source.spec, "initialKeywords", list, where, [])
    if items:
        source.initial = _from_json(items, where, dictionaries, warn)
    own = keywords.mergeable(source.found, source.spec, where, source.default, warn,
                             source.initial)
    return keywords.Block(where, source.rank, own, source.is_target)


def _from_json(items: list[dict[str, Any]], where: str, dictionaries: Dictionaries | None,
               warn: Warn) -> list[Keyword]:
    if dictionaries is not None:
        items = dictionaries.formatted(items, where)
    return keywords.from_json(items, where, warn)


def _resized(base: Input | None, part: Part) -> Iterator[Alert]:
    """Yield an alert when the target's primary header needs more room than it has.

    It is what ifw-daq 3.2 tells, too: instruments mend it by blank cards before END.
    """
    if base is None or part.hdu is None or part.header.size <= part.hdu.header_size:
        return
    old, new = (size // fitsfile.BLOCK for size in (part.hdu.header_size, part.header.size))
    yield alerts.make(
        "header-resized", base.label,
        f"source {base.source}: the primary header of {base.location} was resized from {old} to "
        f"{new} blocks of {fitsfile.BLOCK} bytes: with blank cards before END it would fit, and "
        "data need not move")


def _unmergeable(sources: list[Source]) -> Iterator[Alert]:
    for source in sources:
        hdu, one = source.own_primary, source.input
        if (hdu is None or one is None or source.is_target or one.promoted or not hdu.data_size
                or source.spec.get("alertUnmergeable", True) is False):
            continue
        reason = ("with primaryData extension they would be an extension" if promoted.fits(hdu)
                  else "random groups cannot be an extension")
        yield alerts.make(
            "unmergeable", one.label,
            f"{source.where}: {hdu.data_size} bytes of data in the primary HDU of {one.location} "
            f"were not merged: only the merge target's stay there, and {reason}")


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

"""Says of a planned product where each keyword and each HDU comes from, and by which rule."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from daq_merge import cards, provenance
from daq_merge.provenance import MERGER
from daqlib import checksum, errors, fitsfile
from daqlib.fitsfile import CARD

if TYPE_CHECKING:
    from daq_merge.layout import Part
    from daq_merge.plan import Plan
    from daqlib.fitsfile import Hdu

Document = dict[str, Any]

#: Columns of a line for people.
COLUMNS = 100
_LEAST = 72
_VALUE_MAX = 40
_BUFFER = 512 * 1024


def document(planned: Plan, *, sums: bool = False) -> Document:
    """Explain a product as data.

    Args:
        planned: the product.
        sums: whether to read all data and compute their sums.

    Returns:
        ``product`` (``name``, ``archiveName``, ``size`` in bytes, number of ``hdus``), and lists:

        - ``sources``: ``name``, ``priority`` (1 is the highest), number of ``keywords`` that it
          has; of a file its ``location`` and number of ``hdus``; ``target`` true for the merge
          target.
        - ``keywords`` of the primary header in their order: ``name``, ``kind``, ``value`` as FITS
          writes it, ``source``, ``rule``, and ``lost``: those of the same name that did not win,
          each with ``source``, ``value`` and ``rule``.
        - ``leftOut``: keywords that are not merged: ``name``, ``kind``, ``value``, ``source``,
          ``rule``.
        - ``hdus``: ``index``, ``kind``, ``extname``, ``source``, ``location``, ``sourceIndex``,
          bytes of ``header``, ``sourceHeader`` and ``data``, ``grown``, ``datasum`` and
          ``checksum`` as the source states them; with ``sums``: ``computed``, and ``agrees``,
          which is None where the source states no DATASUM.
        - ``alerts`` and ``warnings`` of the plan.

    Raises:
        errors.BadData: sums: a file is damaged.
        OSError: sums: a file cannot be read.
    """
    kept, left_out = provenance.of_keywords(planned)
    return {
        "product": {"name": planned.origin_name, "archiveName": planned.archive_name,
                    "size": planned.size, "hdus": len(planned.parts)},
        "sources": _sources(planned), "keywords": kept, "leftOut": left_out,
        "hdus": _hdus(planned, sums),
        "alerts": list(planned.alerts), "warnings": list(planned.warnings)}


def events(planned: Plan, *, sums: bool = False) -> Iterator[Document]:
    """Yield what :func:`document` says, an object for each line of JSON Lines.

    Yields:
        One ``explain`` with the product, then ``source``, ``keyword``, ``left-out``, ``hdu``,
        ``alert`` and ``warning``, each told by its ``event``.
    """
    made = document(planned, sums=sums)
    yield {"event": "explain", **made["product"]}
    for event, member in (("source", "sources"), ("keyword", "keywords"),
                          ("left-out", "leftOut"), ("hdu", "hdus")):
        for item in made[member]:
            yield {"event": event, **item}
    for alert in made["alerts"]:
        yield {"event": "alert", "id": alert["id"], "severity": alert["severity"],
               "message": alert["description"]}
    for message in made["warnings"]:
        yield {"event": "warning", "message": message}


def text(planned: Plan, *, sums: bool = False, columns: int = COLUMNS) -> list[str]:
    """Return what :func:`document` says as lines for people.

    Long values are cut; paths and names are not.

    Args:
        planned: the product.
        sums: whether to read all data and compute their sums.
        columns: how long lines may be, but for a path or a name that is longer; at least 72.
    """
    made = document(planned, sums=sums)
    product = made["product"]
    lines = [f"{product['name']}: {_count(product['hdus'], 'HDU')}, {product['size']} bytes", "",
             "sources, by priority"]
    for source in made["sources"]:
        lines += _source_lines(source, columns)
    lines += ["", "primary header"]
    for item in made["keywords"]:
        lines += _keyword_lines(item, columns)
    if made["leftOut"]:
        lines += ["", "left out", *_left_out_lines(made["leftOut"], columns)]
    lines += ["", "HDUs"]
    for hdu in made["hdus"]:
        lines += _hdu_lines(hdu, columns)
    remarks = [alert["description"] for alert in made["alerts"]] + made["warnings"]
    if remarks:
        lines += ["", "remarks"]
    for remark in remarks:
        lines += _wrapped(remark, columns, "  ")
    return lines


def columns_here() -> int:
    """Return how long lines may be on standard output: what fits a terminal, within bounds."""
    if not sys.stdout.isatty():
        return COLUMNS
    return max(_LEAST, min(COLUMNS, shutil.get_terminal_size((COLUMNS, 1)).columns))


# -- sources and HDUs -------------------------------------------------------------------------


def _sources(planned: Plan) -> list[Document]:
    made: list[Document] = []
    for number, source in enumerate(sorted(planned.sources, key=lambda one: one.rank), 1):
        told: Document = {"name": source.spec["sourceName"], "priority": number,
                          "keywords": len(source.found) + len(source.initial)}
        if source.input is not None:
            told.update(location=source.input.location, hdus=len(source.input.file.hdus))
        if source.is_target:
            told["target"] = True
        made.append(told)
    return made


def _hdus(planned: Plan, sums: bool) -> list[Document]:
    computed = _computed(planned) if sums else {}
    made: list[Document] = []
    for part in planned.parts:
        hdu, one = part.hdu, part.input
        told: Document = {
            "index": part.index, "kind": _kind(part), "extname": _extname(part),
            "source": one.source if one else MERGER,
            "location": one.location if one else "", "sourceIndex": hdu.index if hdu else 0,
            "header": part.header.size, "sourceHeader": len(hdu.header) if hdu else 0,
            "data": hdu.data_size if hdu else 0,
            "grown": hdu is not None and part.header.size > len(hdu.header),
            "datasum": _text(hdu, "DATASUM"), "checksum": _text(hdu, "CHECKSUM")}
        if sums:
            total = computed.get(part.index, 0)
            told["computed"] = total
            told["agrees"] = _agrees(told["datasum"], total)
        made.append(told)
    return made


def _kind(part: Part) -> str:
    if part.is_promoted:
        return "IMAGE"
    return part.hdu.kind if part.hdu else "SIMPLE"


def _extname(part: Part) -> str:
    if not part.is_promoted:
        return _text(part.hdu, "EXTNAME")
    text = part.header.text
    return _text_in([text[at:at + CARD] for at in range(0, len(text), CARD)], "EXTNAME")


def _text(hdu: Hdu | None, name: str) -> str:
    """Return the string that an HDU's header gives a keyword, empty when it gives none."""
    return "" if hdu is None else _text_in(hdu.cards, name)


def _text_in(raw: list[bytes], name: str) -> str:
    for keyword in cards.read(raw):
        if keyword.kind == "value" and keyword.name.upper() == name:
            try:
                return cards.string(keyword) or cards.split(keyword)[0].strip("'").strip()
            except errors.BadData:
                return ""
    return ""


def _agrees(stated: str, total: int) -> bool | None:
    if not stated:
        return None
    # 0 and 2^32 - 1 are the same number in this arithmetic (FITS Standard 4.0, appendix J)
    return stated.isascii() and stated.isdigit() and int(stated) % 0xFFFFFFFF == total % 0xFFFFFFFF


def _computed(planned: Plan) -> dict[int, int]:
    sum_of = checksum.summing(planned.size)
    made: dict[int, int] = {}
    parts: dict[int, list[Part]] = {}
    for part in planned.parts:
        parts.setdefault(id(part.input), []).append(part)
    for one in planned.inputs:
        fd = fitsfile.open_input(one.file.path)
        try:
            if fitsfile.identity(fd) != one.file.identity:
                raise errors.Later(f"source {one.source}: {one.file.path}: changed meanwhile",
                                   "run again when it is complete")
            for part, pieces in _pieces(fd, parts.get(id(one), []), one.file):
                total = 0
                for piece in pieces:
                    total = checksum.add(total, sum_of(piece))
                made[part.index] = total
        finally:
            os.close(fd)
    return made


def _pieces(fd: int, parts: list[Part], file: fitsfile.FitsFile
            ) -> Iterator[tuple[Part, Iterator[bytes]]]:
    """Yield the parts of a file with the pieces of their data, fill included."""
    read = _from_gzip(fd, file.path) if file.gzipped else (
        lambda size, offset: os.pread(fd, size, offset))
    for part in parts:
        if part.hdu is not None:
            yield part, _of_hdu(part.hdu, read, file.path)


def _from_gzip(fd: int, path: str) -> Callable[[int, int], bytes]:
    from daqlib import gzipped

    stream = gzipped.Stream(fd, path)

    def read(size: int, offset: int) -> bytes:
        stream.skip(offset - stream.position)
        return stream.read(size)

    return read


def _of_hdu(hdu: Hdu, read: Callable[[int, int], bytes], path: str) -> Iterator[bytes]:
    """Yield the data unit in pieces of whole words, completed as the merge completes it."""
    at, end = hdu.data_offset, hdu.end - hdu.short
    while at < end:
        piece = b""
        size = min(end - at, _BUFFER)
        while len(piece) < size:
            more = read(size - len(piece), at + len(piece))
            if not more:
                raise errors.Later(f"{path}: became shorter meanwhile",
                                   "run again when it is complete")
            piece += more
        at += size
        yield piece + bytes(-size % 4)
    if hdu.short and hdu.kind == "TABLE":
        yield bytes(-hdu.short % 4) + b" " * hdu.short


# -- lines for people -------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _short(written: str) -> str:
    text = written.strip()
    if text.startswith("'") and text.endswith("'"):
        text = f"'{text[1:-1].rstrip()}'" if len(text) > 1 else text
    return text if len(text) <= _VALUE_MAX else text[:_VALUE_MAX - 3] + "..."


def _wrapped(line: str, columns: int, indent: str, hanging: str = "    ") -> list[str]:
    # a path that is longer than a line stays in one piece
    return textwrap.wrap(line, columns, initial_indent=indent, break_long_words=False,
                         subsequent_indent=indent + hanging, break_on_hyphens=False)


def _beside(left: str, right: str, columns: int) -> list[str]:
    """Return both on one line, or the right one below."""
    if len(left) + 2 + len(right) <= columns:
        return [f"{left}  {right}"]
    return [left.rstrip(), *_wrapped(right, columns, " " * 6)]


def _source_lines(source: Document, columns: int) -> list[str]:
    left = f"  {source['priority']:>2}  {source['name']}"
    what = _count(source["keywords"], "keyword")
    if "location" in source:
        what += f"; {source['location']}, {_count(source['hdus'], 'HDU')}"
    return _beside(left, what + (" (merge target)" if source.get("target") else ""), columns)


def _keyword_lines(item: Document, columns: int) -> list[str]:
    name = item["name"] or "(blank)"
    sign = "  " if item["kind"] == "commentary" else "= "
    left = f"  {name:<24} {sign}{_short(item['value']):<22}"
    lines = _beside(left, f"{item['source']}: {item['rule']}", columns)
    for lost in item["lost"]:
        lines += _wrapped(f"not {_short(lost['value'])} of {lost['source']} ({lost['rule']})",
                          columns, " " * 6)
    return lines


def _left_out_lines(items: list[Document], columns: int) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for item in items:
        groups.setdefault((item["source"], item["rule"]), []).append(item["name"] or "(blank)")
    lines: list[str] = []
    for (source, rule), names in groups.items():
        counted = [name if names.count(name) == 1 else f"{name} ({names.count(name)} times)"
                   for name in dict.fromkeys(names)]
        lines += _wrapped(f"{source}: {rule}: {', '.join(counted)}", columns, "  ")
    return lines


def _hdu_lines(hdu: Document, columns: int) -> list[str]:
    left = f"  {hdu['index']:>3}  {hdu['kind']:<9}{hdu['extname'] or '-':<18}"
    place = f"{hdu['location']}[{hdu['sourceIndex']}]" if hdu["location"] else "no file"
    header = f"header {hdu['header']}"
    if hdu["grown"]:
        header += f" (grown from {hdu['sourceHeader']})"
    parts = [f"{hdu['source']}: {place}", f"{header} + data {hdu['data']} bytes",
             f"DATASUM {hdu['datasum'] or 'not stated'}"]
    if "computed" in hdu:
        verdict = {None: "", True: ": agrees", False: ": DOES NOT AGREE"}[hdu["agrees"]]
        parts.append(f"computed {hdu['computed']}{verdict}")
    return _beside(left, ", ".join(parts), columns)

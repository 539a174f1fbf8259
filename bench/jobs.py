"""Makes the jobs of the merge benchmark, and knows their every byte for the check afterwards.

All data units are cut from one piece of noise whose length is a prime number, each from another
position: bytes in the wrong place never agree by chance, and nothing has to be kept for comparing.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BLOCK, CARD = 2880, 80
MIB = 1 << 20
FILE_ID = "BENCH.2026-01-01T00:00:00.000"
_PERIOD = 4_194_301
_noise = memoryview(b"")


@dataclass(frozen=True)
class Unit:
    """An HDU.

    Attributes:
        header: its header, whole blocks.
        size: bytes of data; fill of zeros follows.
        seed: position in the noise where they begin.
    """

    header: bytes
    size: int = 0
    seed: int = 0

    @property
    def padded(self) -> int:
        """Bytes of data and fill."""
        return self.size + -self.size % BLOCK

    @property
    def cards(self) -> list[bytes]:
        """The cards up to END."""
        found = [self.header[at:at + CARD] for at in range(0, len(self.header), CARD)]
        return found[:found.index(b"END".ljust(CARD))]

    def data(self) -> Iterator[bytes | memoryview]:
        """Yield the data unit, fill included."""
        yield from noise(self.size, self.seed)
        if self.size % BLOCK:
            yield bytes(-self.size % BLOCK)


@dataclass(frozen=True)
class File:
    """A FITS file of a job: its name there, and its HDUs."""

    name: str
    units: list[Unit]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(unit.header) + unit.padded for unit in self.units)

    def write(self, folder: str) -> None:
        """Write it, through to the disk: later races must not pay for it."""
        with open(os.path.join(folder, self.name), "wb") as file:
            for unit in self.units:
                file.write(unit.header)
                for piece in unit.data():
                    file.write(piece)
            file.flush()
            if self.size > MIB:
                os.fsync(file.fileno())

    def put_back(self, folder: str) -> None:
        """Make a file that a tool worked on in place what it was, cheaply where that is possible.

        Tools that found room in the headers changed headers and appended; others moved the data.
        """
        path = os.path.join(folder, self.name)
        if not os.path.exists(path) or not self._still_placed(path):
            self.write(folder)
            return
        with open(path, "r+b") as file:
            offset = 0
            for unit in self.units:
                file.seek(offset)
                file.write(unit.header)
                offset += len(unit.header) + unit.padded
            file.truncate(offset)

    def _still_placed(self, path: str) -> bool:
        if os.path.getsize(path) < self.size:
            return False
        with open(path, "rb") as file:
            offset = 0
            for unit in self.units:
                file.seek(offset + len(unit.header))
                begin = bytes(next(iter(unit.data()), b""))[:BLOCK]
                if file.read(len(begin)) != begin:
                    return False
                offset += len(unit.header) + unit.padded
        return True


@dataclass(frozen=True)
class Job:
    """Files and keywords to merge.

    Attributes:
        folder: directory of all its files.
        target: the merge target, if it has one.
        sources: the other files, in order.
        keywords: keywords from JSON, which win.
    """

    folder: str
    target: File | None
    sources: list[File]
    keywords: list[dict[str, Any]]

    @property
    def files(self) -> list[File]:
        """All files, in the order of the product."""
        return [*([self.target] if self.target else []), *self.sources]

    @property
    def paths(self) -> list[str]:
        """Their paths."""
        return [os.path.join(self.folder, file.name) for file in self.files]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def specification(self) -> str:
        """Path of the Data Product Specification."""
        return os.path.join(self.folder, "specification.json")

    @property
    def listing(self) -> str:
        """Path of the same for a program that reads no JSON."""
        return os.path.join(self.folder, "listing")

    def write(self) -> Job:
        """Write all files, the specification and the listing."""
        os.makedirs(self.folder)
        for file in self.files:
            file.write(self.folder)
        with open(self.specification, "w") as out:
            json.dump(self._document(), out, indent=1)
        with open(self.listing, "w") as out:
            out.writelines("\t".join(line) + "\n" for line in self._lines())
        return self

    def _document(self) -> dict[str, Any]:
        described = {file.name: {"type": "fitsFile", "sourceName": file.name.partition(".")[0],
                                 "location": file.name} for file in self.files}
        target: dict[str, Any] = {"fileId": FILE_ID}
        if self.target:
            target["source"] = described.pop(self.target.name)
        ocm = {"type": "fitsKeywords", "sourceName": "ocm", "keywords": self.keywords}
        return {"id": "bench", "sources": [ocm, *described.values()], "target": target}

    def _lines(self) -> Iterator[tuple[str, ...]]:
        yield "archive", f"{FILE_ID}.fits"
        if self.target:
            yield "target", self.target.name
        for file in self.sources:
            yield "source", file.name
        kinds = {bool: "logical", int: "integer", float: "real", str: "text"}
        for one in self.keywords:
            name = f"ESO {one['name']}" if one["type"] == "esoKeyword" else one["name"]
            value = one["value"]
            told = "FT"[value] if isinstance(value, bool) else str(value)
            yield kinds[type(value)], name, told, one["comment"]


def noise(size: int, seed: int) -> Iterator[memoryview]:
    """Yield bytes of noise in pieces."""
    global _noise
    if not _noise:
        _noise = memoryview(random.Random(4).randbytes(_PERIOD))
    at = seed % _PERIOD
    while size:
        piece = _noise[at:at + size]
        yield piece
        size, at = size - len(piece), 0


# -- cards -------------------------------------------------------------------------------------


def card(name: str, value: object, comment: str) -> bytes:
    """Return a card in fixed format, or by the HIERARCH convention for ESO's names."""
    if isinstance(value, bool):
        text = "FT"[value]
    elif isinstance(value, str):
        text = f"'{value:8}'"
    else:
        text = repr(value).upper()
    if " " in name:
        head = f"HIERARCH {name} = {text}"
    else:
        head = f"{name:8}= {text:20}" if isinstance(value, str) else f"{name:8}= {text:>20}"
    made = f"{head} / {comment}".ljust(CARD)
    assert len(made) == CARD, made
    return made.encode("ascii")


def header(cards: list[bytes], room: int = 0) -> bytes:
    """Return a header of whole blocks, with blank cards before END on request."""
    raw = b"".join(cards) + b" " * CARD * room + b"END".ljust(CARD)
    return raw + b" " * (-len(raw) % BLOCK)


def _eso(prefix: str, count: int) -> list[bytes]:
    values: tuple[object, ...] = (17, 2.125, "CLOSED", True, -1.5e-07)
    comments = ("[adu] A count", "[m] A length", "State of a shutter", "A switch", "[V] A voltage")
    return [card(f"ESO {prefix} PART{number // 10} ITEM{number}", values[number % 5],
                 comments[number % 5]) for number in range(count)]


def _primary(prefix: str, count: int, room: int = 0) -> Unit:
    cards = [card("SIMPLE", True, "Standard FITS"), card("BITPIX", 8, "Bits per pixel"),
             card("NAXIS", 0, "No data here"), card("EXTEND", True, "There may be extensions"),
             card("ORIGIN", "BENCH", "Made for measuring"),
             card("DATE", "2026-01-01T00:00:00.000", "When it was made")]
    return Unit(header(cards + _eso(prefix, count), room))


def _image(name: str, version: int, bitpix: int, axes: tuple[int, int], more: list[bytes],
           seed: int) -> Unit:
    cards = [card("XTENSION", "IMAGE", "Image extension"), card("BITPIX", bitpix, "Bits per pixel"),
             card("NAXIS", 2, "Two axes"), card("NAXIS1", axes[0], "Columns"),
             card("NAXIS2", axes[1], "Rows"), card("PCOUNT", 0, "No parameters"),
             card("GCOUNT", 1, "One group"), card("EXTNAME", name, "Name of the extension"),
             card("EXTVER", version, "And its version"), *more]
    return Unit(header(cards), abs(bitpix) // 8 * axes[0] * axes[1], seed)


def _table(name: str, rows: int, more: list[bytes], seed: int) -> Unit:
    forms = ("1J", "1D", "10E", "16B")
    cards = [card("XTENSION", "BINTABLE", "Binary table"), card("BITPIX", 8, "Bytes"),
             card("NAXIS", 2, "Two axes"), card("NAXIS1", 68, "Bytes of a row"),
             card("NAXIS2", rows, "Rows"), card("PCOUNT", 0, "No heap"),
             card("GCOUNT", 1, "One group"), card("TFIELDS", len(forms), "Columns")]
    for number, form in enumerate(forms, 1):
        cards += [card(f"TTYPE{number}", f"COL{number}", "Name"),
                  card(f"TFORM{number}", form, "Format")]
    return Unit(header([*cards, card("EXTNAME", name, "Name of the extension"), *more]),
                68 * rows, seed)


def _keywords(count: int) -> list[dict[str, Any]]:
    first = [("OBJECT", "NGC 1234", "What was observed"), ("RA", 53.087446, "[deg] Pointing"),
             ("DEC", -27.84692, "[deg] Pointing")]
    made = [{"type": "valueKeyword", "name": name, "value": value, "comment": comment}
            for name, value, comment in first]
    for number in range(count - len(made)):
        value = (number, number * 0.5 + 0.25, f"text {number}", number % 8 < 4)[number % 4]
        made.append({"type": "esoKeyword", "name": f"OCS G{number // 25} PAR{number}",
                     "value": value, "comment": "[s] Merged keyword"})
    return made


# -- jobs --------------------------------------------------------------------------------------


def mosaic(folder: str, size: int, room: int) -> Job:
    """Return a target of 8 images with 6 files of metadata and 500 keywords to merge into it.

    Args:
        folder: directory to make.
        size: MiB of the target.
        room: blank cards in its primary header; without any it must grow.
    """
    scaling = [card("BZERO", 32768, "Unsigned integers"), card("BSCALE", 1, "Not scaled"),
               card("BUNIT", "adu", "Unit")]
    chips = [_image(f"CHIP{chip}", 1, 16, (4096, 16 * size),
                    scaling + _eso(f"DET CHIP{chip}", 45), 4 * chip) for chip in range(1, 9)]
    tables = [File(f"meta{number}.fits", [
        _primary(f"INS META{number}", 40),
        _table(f"META{number}", 1000, _eso(f"INS TAB{number}", 10), 1000 * number)])
        for number in range(6)]
    return Job(folder, File("target.fits", [_primary("DET", 150, room), *chips]), tables,
               _keywords(500))


def images(folder: str, size: int, count: int) -> Job:
    """Return that many files of one image each, together so many MiB."""
    rows = size * MIB // count // (2048 * 4)
    files = [File(f"image{number:02}.fits", [
        _primary(f"DET{number}", 30),
        _image(f"IMAGE{number}", 1, -32, (2048, rows), _eso(f"DET{number} IMG", 40), number)])
        for number in range(count)]
    return Job(folder, None, files, _keywords(100))


def tiny(folder: str, files: int, each: int) -> Job:
    """Return files of many tiny extensions."""
    made = [File(f"tiny{one:04}.fits", [
        _primary(f"SUB{one}", 2),
        *(_image("TINY", one * each + two + 1, 16, (8, 8), _eso(f"T{one} N{two}", 10), 31 * two)
          for two in range(each))]) for one in range(files)]
    return Job(folder, None, made, _keywords(50))


def words(folder: str) -> Job:
    """Return 200 HIERARCH cards of a file and 500 keywords from JSON, and hardly any data."""
    return Job(folder, None, [File("meta.fits", [
        _primary("INS", 200), _table("TAB", 10, [], 0)])], _keywords(500))

"""The files of a simulated source: real FITS, written durably and in constant memory.

Headers are made by astropy; the data are one block of noise, repeated. FITS standard 4.0:
blocks of 2880 bytes (section 3.1), data padded with zeros (3.3.2), big-endian values (5.2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from daqlib import clock, fsops, names

if TYPE_CHECKING:
    from astropy.io import fits

_FITS_BLOCK = 2880
_PIECE = 1 << 20
_ROW = 2048  # pixels
_TABLE_ROW = 24  # bytes: TIME D, TEMP and PRES and FLOW and LEVEL E
Card = tuple[str, object, str]


@dataclass(frozen=True)
class Plan:
    """What a source writes at the end of an acquisition.

    Attributes:
        directory: where, absolute.
        name: of the source, the beginning of the file names.
        host: put before the paths that are reported, or empty.
        size: bytes of data.
        extensions: among which the data are divided; 0 puts an image into the primary HDU.
        copies: files to deliver copies of, instead of making one.
        seed: of the noise; the same seed makes the same bytes.
        table: binary tables of telemetry instead of images; needs an extension.
    """

    directory: str
    name: str
    host: str = ""
    size: int = 64 << 10
    extensions: int = 0
    copies: tuple[str, ...] = ()
    seed: int = 1
    table: bool = False


def produce(plan: Plan, id: str, cards: list[Card]) -> list[str]:
    """Write or copy the files and return their absolute paths.

    Args:
        plan: what to write.
        id: of the acquisition, part of the name of a file that is made.
        cards: of the primary header; a name of several words becomes a HIERARCH card.

    Raises:
        OSError: writing failed; nothing is left under a final name that is not whole.
        errors.BadData: a file to copy has a name that is not allowed.
    """
    if plan.copies:
        return [_copy(plan.directory, path) for path in plan.copies]
    path = os.path.join(plan.directory, f"{plan.name}_{id}.fits")
    with _durable(path) as (file, final):
        _write(file, plan, cards)
    return [final[0]]


def locations(plan: Plan, paths: list[str]) -> list[str]:
    """Return the paths as the source reports them, ``host:path`` or plain."""
    return [f"{plan.host}:{path}" if plan.host else path for path in paths]


def discard(paths: list[str]) -> None:
    """Remove files of an aborted acquisition."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _copy(directory: str, source: str) -> str:
    path = os.path.join(directory, names.file_name(source))
    with open(source, "rb") as origin, _durable(path) as (file, final):
        while piece := origin.read(_PIECE):
            file.write(piece)
    return final[0]


@contextlib.contextmanager
def _durable(path: str) -> Iterator[tuple[BinaryIO, list[str]]]:
    """Open a temporary file that gets the name, or one like it, when all went well."""
    embryo, final = fsops.temporary(path), [path]
    try:
        with open(embryo, "xb") as file:
            yield file, final
            file.flush()
            os.fsync(file.fileno())
        final[0] = _publish(embryo, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(embryo)
        raise
    fsops.fsync_dir(os.path.dirname(path))


def _publish(embryo: str, path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    name, number = path, 1
    while True:
        try:
            fsops.rename_noreplace(embryo, name)
            return name
        except FileExistsError:
            number += 1
            name = f"{stem}_{number}{dot}{suffix}" if stem else f"{path}_{number}"


def _write(file: BinaryIO, plan: Plan, cards: list[Card]) -> None:
    share = plan.size // max(plan.extensions, 1)
    primary = _primary(0 if plan.extensions else share, cards)
    _put(file, primary, _noise(plan.seed, share))
    for number in range(1, plan.extensions + 1):
        if plan.table:
            header, block = _telemetry(number, share, plan.seed + number)
        else:
            header, block = _image(number, share), _noise(plan.seed + number, share)
        _put(file, header, block)


def _put(file: BinaryIO, header: fits.Header, block: bytes) -> None:
    # astropy pads the header to whole FITS blocks
    file.write(header.tostring().encode("ascii"))
    size = 1 if header["NAXIS"] else 0
    for axis in range(1, header["NAXIS"] + 1):
        size *= header[f"NAXIS{axis}"]
    left = size = size * abs(header["BITPIX"]) // 8
    while left:
        left -= file.write(block[:left])
    file.write(bytes(-size % _FITS_BLOCK))


def _axes(size: int) -> list[Card]:
    pixels = size // 2
    if not pixels:
        return [("NAXIS", 0, "no data")]
    width = min(pixels, _ROW)
    return [("NAXIS", 2, "image"), ("NAXIS1", width, "[pixel]"),
            ("NAXIS2", pixels // width, "[pixel]")]


def _header(cards: list[Card]) -> fits.Header:
    from astropy.io import fits

    header = fits.Header()
    for keyword, value, comment in cards:
        hierarch = " " in keyword
        header.append((f"HIERARCH {keyword}" if hierarch else keyword, value, comment), end=True)
    return header


def _primary(size: int, cards: list[Card]) -> fits.Header:
    return _header([("SIMPLE", True, "FITS 4.0"), ("BITPIX", 16, "bits per value"), *_axes(size),
                    ("EXTEND", True, "extensions may follow"),
                    ("DATE", clock.iso(clock.header_time()), "[UTC] when written"), *cards])


def _image(number: int, size: int) -> fits.Header:
    return _header([("XTENSION", "IMAGE", "image"), ("BITPIX", 16, "bits per value"),
                    *_axes(size), ("PCOUNT", 0, ""), ("GCOUNT", 1, ""),
                    ("EXTNAME", f"CHIP{number}", "detector chip"), ("EXTVER", 1, ""),
                    (f"ESO DET CHIP{number} ID", f"SIM-{number}", "chip identification")])


def _telemetry(number: int, size: int, seed: int) -> tuple[fits.Header, bytes]:
    from astropy.io import fits

    count = max(1, size // _TABLE_ROW)
    rows = _rows(min(count, _PIECE // _TABLE_ROW), seed)
    header = fits.BinTableHDU(rows[:1], name=f"TELEMETRY{number}").header
    header["NAXIS2"] = count
    for column, unit in enumerate(("s", "K", "Pa", "l/min", "m"), 1):
        header.set(f"TUNIT{column}", unit, after=f"TFORM{column}")
    return header, rows.tobytes()


def _rows(count: int, seed: int) -> Any:
    import numpy

    noise = numpy.random.default_rng(seed)
    kinds = [("TIME", ">f8"), ("TEMP", ">f4"), ("PRES", ">f4"), ("FLOW", ">f4"), ("LEVEL", ">f4")]
    rows = numpy.zeros(count, dtype=kinds)
    rows["TIME"] = numpy.arange(count) * 0.1
    for name, mean in (("TEMP", 273.15), ("PRES", 77000.0), ("FLOW", 4.0), ("LEVEL", 1.2)):
        rows[name] = noise.normal(mean, mean / 100, count)
    return rows


def _noise(seed: int, size: int) -> bytes:
    import numpy

    noise = numpy.random.default_rng(seed).normal(1000.0, 30.0, min(size, _PIECE) // 2)
    return bytes(noise.astype(">i2").tobytes())

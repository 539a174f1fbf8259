"""Writes the product: one pass over the data, which sums while it copies.

Each HDU's data is read once, summed, and written at its final place; its header follows when the
sum is known. The digest of the whole file is then taken in one sequential pass over the product,
whose pages are still in memory. Always a new file: the inputs are never changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from daq_merge import headers
from daq_merge.layout import Input, Part
from daq_merge.plan import Alert, Plan, plan
from daqlib import alerts, checksum, errors, fitsfile

#: Told the bytes written and the bytes in all.
Progress = Callable[[int, int], None]
Sum = Callable[[memoryview], int]

_BUFFER = 512 * 1024


@dataclass(frozen=True, slots=True)
class Built:
    """A product that has been written and synced.

    Attributes:
        size: bytes.
        sha256: of the whole file, hexadecimal.
        hdus: number of HDUs.
        alerts: conditions that the job must show (``daqlib.alerts``).
        warnings: sentences for people.
        inputs: per input file its source, location, size and number of HDUs.
    """

    size: int
    sha256: str
    hdus: int
    alerts: list[Alert]
    warnings: list[str]
    inputs: list[dict[str, Any]]


def build(specification: dict[str, Any], root: str, out: str, *,
          progress: Progress | None = None) -> Built:
    """Write the product that a specification describes.

    Args:
        specification: a Data Product Specification (schema ``dpspec``).
        root: directory that relative locations start from.
        out: path of the file to write, a temporary one: it is removed when the work fails.
        progress: told how far the work is.

    Raises:
        daq_merge.plan.MissingSource: a source file is not there.
        errors.BadData: a file, a keyword or a rule is wrong.
        errors.Later: an input changed while it was read.
        errors.Conflict: out is one of the inputs.
        OSError: reading or writing failed.
    """
    return write(plan(specification, root), out, progress=progress)


def write(planned: Plan, out: str, *, progress: Progress | None = None) -> Built:
    """Write a planned product; see :func:`build`."""
    _refuse_input(planned.inputs, out)
    fd = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        _reserve(fd, planned.size)
        found = _write_parts(planned, fd, progress or (lambda done, total: None))
        os.fsync(fd)
        digest = _sha256(fd, planned.size)
    except BaseException as error:
        _name(error, out)
        with contextlib.suppress(OSError):
            os.unlink(out)
        raise
    finally:
        os.close(fd)
    return Built(planned.size, digest, len(planned.parts), planned.alerts + found,
                 list(planned.warnings), [_told(one) for one in planned.inputs])


def _name(error: BaseException, path: str) -> None:
    """Let a failed system call say which file it was about."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = path


def _told(one: Input) -> dict[str, Any]:
    return {"sourceName": one.source, "location": one.location, "size": one.file.size,
            "hdus": len(one.file.hdus)}


def _refuse_input(inputs: list[Input], out: str) -> None:
    try:
        there = os.stat(out)
    except FileNotFoundError:
        return
    if any((there.st_dev, there.st_ino) == one.file.identity[:2] for one in inputs):
        raise errors.Conflict(f"{out}: is one of the inputs", "write the product elsewhere")


def _reserve(fd: int, size: int) -> None:
    """Claim the space at once: a full disk shows before the first byte is copied."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _write_parts(planned: Plan, fd: int, progress: Progress) -> list[Alert]:
    sum_of = checksum.summing(planned.size)
    buffer = memoryview(bytearray(_BUFFER))
    found: list[Alert] = []
    for one, parts in _by_input(planned.parts):
        with _reading(one) as source:
            for part in parts:
                total = _copy(part, source, fd, buffer, sum_of)
                found.extend(_check(part, total))
                _write_all(fd, memoryview(_sealed(part, total, planned.stamp)), part.offset)
                progress(part.end, planned.size)
    return found


def _by_input(parts: list[Part]) -> Iterator[tuple[Input | None, list[Part]]]:
    group: list[Part] = []
    for part in parts:
        if group and part.input is not group[0].input:
            yield group[0].input, group
            group = []
        group.append(part)
    if group:
        yield group[0].input, group


@contextlib.contextmanager
def _reading(one: Input | None) -> Iterator[int]:
    """Open an input, and make sure that it is the planned one before and after the work."""
    if one is None:
        yield -1
        return
    fd = fitsfile.open_input(one.file.path)
    try:
        _same(one, fd)
        yield fd
        _same(one, fd)
    finally:
        os.close(fd)


def _same(one: Input, fd: int) -> None:
    if fitsfile.identity(fd) != one.file.identity:
        raise errors.Later(f"source {one.source}: {one.file.path}: changed while it was merged",
                           "run again when it is complete")


def _copy(part: Part, source: int, fd: int, buffer: memoryview, sum_of: Sum) -> int:
    """Copy a part's data unit, fill included, and return its sum."""
    if part.hdu is None or part.input is None:
        return 0
    total, begin, left = 0, part.hdu.data_offset, part.hdu.padded_size
    shift = part.data_offset - begin
    while left:
        piece = buffer[:min(left, len(buffer))]
        _read_all(source, piece, begin, part.input)
        total = checksum.add(total, sum_of(piece))
        _write_all(fd, piece, begin + shift)
        begin, left = begin + len(piece), left - len(piece)
    return total


def _read_all(fd: int, piece: memoryview, offset: int, one: Input) -> None:
    got = 0
    while got < len(piece):
        try:
            count = os.preadv(fd, [piece[got:]], offset + got)
        except OSError as error:
            _name(error, one.file.path)
            raise
        if not count:
            raise errors.Later(f"source {one.source}: {one.file.path}: became shorter while it "
                               "was merged", "run again when it is complete")
        got += count


def _write_all(fd: int, piece: memoryview, offset: int) -> None:
    done = 0
    while done < len(piece):
        done += os.pwrite(fd, piece[done:], offset + done)


def _sealed(part: Part, total: int, stamp: str) -> bytes:
    # an extension that arrives sealed and sound leaves as it came, to the last byte
    if part.index and part.hdu is not None and headers.is_intact(part.hdu, total):
        return part.hdu.header
    return part.header.sealed(total, stamp)


def _check(part: Part, total: int) -> Iterator[Alert]:
    if part.hdu is None or part.input is None:
        return
    reason = headers.broken_seal(part.hdu, total)
    if reason:
        one = part.input
        yield alerts.make(
            "datasum", f"{one.label}[{part.hdu.index}]",
            f"source {one.source}: HDU {part.hdu.index} of {one.location} is damaged or was "
            f"changed after it was sealed: {reason}")


def _sha256(fd: int, size: int) -> str:
    import hashlib

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BUFFER))
    done = 0
    while done < size:
        count = os.preadv(fd, [buffer[:min(len(buffer), size - done)]], done)
        if not count:
            raise errors.IoFailure("the product became shorter while it was read back")
        digest.update(buffer[:count])
        done += count
    return digest.hexdigest()

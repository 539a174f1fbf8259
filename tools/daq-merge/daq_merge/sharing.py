"""Builds products that share blocks with their sources, on file systems that can (reflink)."""

from __future__ import annotations

import os

from daq_merge import copying, reflink, standing
from daqlib import checksum, fitsfile
from daqlib.fitsfile import BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daq_merge.copying import Progress, Target
    from daq_merge.layout import Input, Part
    from daq_merge.plan import Plan
    from daq_merge.readers import Plain
    from daq_merge.seal import Sealer

#: Data units from this size on share their blocks.
LARGE = 1024 * 1024


def clone(planned: Plan, base: Input, reader: Plain, target: Target, sealer: Sealer,
          progress: Progress | None) -> bool:
    """Share all of the merge target and write what is new; its headers fit.

    Returns:
        False when the file system cannot share; nothing was written then.

    Raises:
        errors.BadData: a source is damaged.
        errors.Later: an input changed while it was read.
        OSError: reading or writing failed.
    """
    if not reflink.clone(target.fd, reader.fd):
        return False
    count = len(base.file.hdus)
    parts, follower = planned.parts[:count], target.follower
    end = parts[-1].end
    target.reserve(end, planned.size - end)
    new = standing.headers(parts, reader, sealer, planned.size, progress)
    last = base.file.hdus[-1]
    if last.short:
        target.write((last.fill if last.data_size else b" ") * last.short, end - last.short)
    for part, raw in zip(parts, new, strict=True):
        full = raw.ljust(part.header.size)
        if part.hdu is None or raw != part.hdu.text:
            target.write(full, part.offset)
        if follower is not None:
            # the clone's own pages would have to come from the disk
            follower.bytes(full)
            stored = part.data_bytes - (last.short if part.hdu is last and last.data_size else 0)
            follower.range(reader.fd, part.data_offset, stored)
            follower.range(target.fd, part.data_offset + stored, part.data_bytes - stored)
    copying.Copier(target, sealer, planned.size, progress).copy(planned.parts[count:])
    reader.compare()
    if progress:
        progress(planned.size, planned.size)
    return True


def prepare(planned: Plan, fd: int) -> bool:
    """Move large data units of a plan to where blocks begin, by blank cards in their headers.

    Args:
        planned: what is to be built; nothing changes in it when blocks cannot be shared.
        fd: the new file, empty; it is left empty.

    Returns:
        False when there is nothing to share or the file system cannot.

    Raises:
        OSError: an input cannot be read.
    """
    large = [part for part in planned.parts if _is_large(part)]
    unit = reflink.block_size(fd)
    if not large or not _can_share(large[0], fd, unit):
        return False
    offset = 0
    for part in planned.parts:
        part.place(offset)
        if part.hdu is not None and _is_large(part):
            blocks = 0
            while (part.data_offset + blocks * BLOCK - part.hdu.data_offset) % unit:
                blocks += 1
            part.header.grow(blocks)
            part.place(offset)
        offset = part.end
    return True


def _is_large(part: Part) -> bool:
    return (part.input is not None and not part.input.file.gzipped
            and part.data_bytes >= LARGE)


def _can_share(part: Part, fd: int, unit: int) -> bool:
    if part.input is None or part.hdu is None:
        return False
    source = fitsfile.open_input(part.input.file.path)
    try:
        at = -(-part.hdu.data_offset // unit) * unit
        return reflink.clone_range(fd, 0, source, at, unit)
    finally:
        os.close(source)
        os.ftruncate(fd, 0)


class Sharer(copying.Copier):
    """A copier that lets large data units share the blocks of their sources."""

    def _copy_data(self, part: Part, reader: Plain, summing: bool) -> int:
        hdu, unit = part.hdu, reflink.block_size(self._target.fd)
        if hdu is None or not _is_large(part):
            return super()._copy_data(part, reader, summing)
        begin, end = hdu.data_offset, hdu.end
        shift = part.data_offset - begin
        first = -(-begin // unit) * unit
        # the file's own end, in case its last block is not filled up
        last = (end - hdu.short) // unit * unit
        if shift % unit or not reflink.clone_range(self._target.fd, first + shift, reader.fd,
                                                   first, last - first):
            return super()._copy_data(part, reader, summing)
        for at, length in ((begin, first - begin), (last, end - last)):
            piece = self._buffer[:length]
            reader.into(piece, at)
            self._target.write(piece, at + shift)
        return self._sum_only(reader, begin, end) if summing else 0

    def _sum_only(self, reader: Plain, begin: int, end: int) -> int:
        total = 0
        while begin < end:
            piece = self._buffer[:end - begin]
            reader.into(piece, begin)
            total = checksum.add(total, self._sum(piece))
            begin += len(piece)
        return total

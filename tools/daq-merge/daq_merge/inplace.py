"""Lets the merge target become the product: new headers over the old ones, the rest appended.

Nothing changes before every sum is known and the undo journal is durable. Whatever fails after that
is rolled back at once, and after a sudden death by the next run, see :mod:`daq_merge.undo`.
"""

from __future__ import annotations

import os
import stat

from daq_merge import copying, layout, readers, standing, undo
from daqlib import errors, fitsfile
from daqlib.crashpoints import passing
from daqlib.fitsfile import BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from daq_merge.copying import Progress
    from daq_merge.follower import Follower
    from daq_merge.how import How
    from daq_merge.layout import Input, Part
    from daq_merge.plan import Plan
    from daq_merge.seal import Sealer


class Hold:
    """Keeps other merges away from a file until it is dropped."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def __del__(self) -> None:
        os.close(self._fd)


def obstacle(planned: Plan, base: Input, how: How, out: str) -> str:
    """Return why the merge target cannot become the product, or an empty string.

    Headers are another matter, see :func:`daq_merge.ways.unfit`.
    """
    path = base.file.path
    found = os.lstat(path)
    marks = base.file.identity[:2]
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a symbolic link"
    if base.file.gzipped:
        return f"{path} is compressed"
    if found.st_nlink != 1:
        return f"{path} has other names (hard links)"
    if not found.st_mode & 0o222 or not os.access(path, os.W_OK):
        return f"{path} may not be written"
    if os.geteuid() not in (found.st_uid, 0):
        return f"{path} is another user's, who alone may set its mode and times"
    if any(one is not base and one.file.identity[:2] == marks for one in planned.inputs):
        return f"{path} is also read as another source"
    there = os.path.dirname(how.product or out) or "."
    if os.stat(there).st_dev != found.st_dev or _mount(there) != _mount(os.path.dirname(path)):
        return f"{path} and the product are on different file systems"
    if not os.access(os.path.dirname(path) or ".", os.W_OK):
        return f"the directory of {path} may not be written"
    longest = os.pathconf(os.path.dirname(path) or ".", "PC_NAME_MAX")
    if len(os.fsencode(os.path.basename(undo.path_of(path)))) + 60 > longest:
        return f"the name of {path} leaves no room for that of an undo journal"
    return ""


def _mount(folder: str) -> bytes:
    """Return what tells mounts apart: no rename leads over their borders, see rename(2).

    Directories of one file system can be mounted each by itself, as containers have them.
    """
    fd = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb", buffering=0) as file:
            lines = file.read().split(b"\n")
    except OSError:
        return b""  # without /proc the rename tells, and the merge is undone
    finally:
        os.close(fd)
    return next((line for line in lines if line.startswith(b"mnt_id:")), b"")


def only_primary_grows(planned: Plan, base: Input) -> bool:
    """Tell whether the primary header is the only one that does not fit."""
    return all(part.hdu is not None and part.header.size == part.hdu.header_size
               for part in planned.parts[1:len(base.file.hdus)])


def room_for(planned: Plan, base: Input) -> tuple[int, int]:
    """Let the primary header grow by what can be inserted into a file.

    What can be inserted are whole blocks of the file system, and FITS needs whole blocks of its
    own (FITS Standard 4.0, section 3.3.1); blank cards before END fill the rest.

    Returns:
        the bytes to insert, and the blocks of blank cards by which the header grew.
    """
    header, old = planned.parts[0].header, len(base.file.hdus[0].header)
    step = BLOCK
    unit = os.statvfs(base.file.path).f_bsize
    while step % unit:
        step += BLOCK
    inserted = -(-(header.size - old) // step) * step
    blocks = (old + inserted - header.size) // BLOCK
    header.grow(blocks)
    layout.settle(planned.parts)
    return inserted, blocks


class Merge:
    """An in-place merge.

    Attributes:
        journal: path of the undo journal, once it is written.
        digest: SHA-256 of the product, hexadecimal, when it was wanted.
        hold: keeps other merges away from the product, once it is there.

    Args:
        planned: the product; the base's headers fit.
        base: the merge target.
        how: what the plan leaves open.
        out: where the product would go; its final name if ``how`` does not say that.
    """

    def __init__(self, planned: Plan, base: Input, how: How, out: str) -> None:
        self._planned = planned
        self._base = base
        self._how = how
        self._out = out
        self._parts = planned.parts[:len(base.file.hdus)]
        self.journal = ""
        self.digest = ""
        self.hold: Hold | None = None

    def run(self, sealer: Sealer, inserted: int, follower: Follower | None,
            progress: Progress | None) -> bool:
        """Do it.

        Args:
            sealer: makes the headers.
            inserted: bytes that have to be inserted at the beginning.
            follower: told what the product consists of; None for nobody.
            progress: told how far the work is.

        Returns:
            False when the file system cannot insert; nothing has changed then.

        Raises:
            errors.BadData: a source is damaged.
            errors.Later: an input changed, or another merge is at work on the target.
            OSError: reading or writing failed; the target is as it was.
        """
        path = self._base.file.path
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            undo.lock(fd, path)
            # the path may lead to another file by now than the one that was read
            if fitsfile.identity(fd) != self._base.file.identity:
                raise errors.Later(f"source {self._base.source}: {path}: changed while it was "
                                   "merged", "run again when it is complete")
            return self._change(fd, self._sealed(sealer, progress), sealer, inserted, follower,
                                progress)
        finally:
            os.close(fd)

    def give_up(self) -> None:
        """Give the target back after all, when it has become the product."""
        if self.hold is not None:
            self.hold = None
            undo.restore(self._base.file.path)

    def _sealed(self, sealer: Sealer, progress: Progress | None) -> list[bytes]:
        reader = readers.opened(self._base)
        try:
            new = standing.headers(self._parts, reader, sealer, self._planned.size, progress)
            reader.compare()
            return new
        finally:
            reader.close()

    def _change(self, fd: int, new: Sequence[bytes], sealer: Sealer, inserted: int,
                follower: Follower | None, progress: Progress | None) -> bool:
        path = self._base.file.path
        changed = [(part, raw) for part, raw in zip(self._parts, new, strict=True)
                   if inserted or part.hdu is None or raw != part.hdu.text]
        journal = undo.record(fd, self._how.product or self._out, self._planned.size, inserted,
                              [_old(part) for part, _ in changed])
        try:
            self.journal = undo.write(path, journal, self._how.sync)
            passing("inplace.journal")
            if inserted and not undo.insert(fd, inserted):
                undo.forget(self.journal)
                return False
            passing("inplace.inserted")
            target = copying.Target(fd, path, self._how.sync, None)
            self._append(target, sealer, progress)
            passing("inplace.appended")
            for part, raw in changed:
                target.write(raw.ljust(part.header.size), part.offset)
            passing("inplace.headers")
            if follower is not None:
                follower.range(fd, 0, self._planned.size)
            if self._how.sync:
                copying.sync(fd, path)
            passing("inplace.synced")
            self.digest = follower.result() if follower else ""
            self.hold = Hold(fd)
        except BaseException:
            undo.roll_back(fd, journal)
            undo.forget(self.journal)
            raise
        return True

    def _append(self, target: copying.Target, sealer: Sealer, progress: Progress | None) -> None:
        """Complete the last block of the target and write the HDUs of the other inputs."""
        end, size = self._parts[-1].end, self._planned.size
        last = self._base.file.hdus[-1]
        if last.short:
            fill = last.fill if last.data_size else b" "
            target.write(fill * last.short, end - last.short)
        target.reserve(end, size - end)
        copying.Copier(target, sealer, size, progress).copy(
            self._planned.parts[len(self._parts):])
        if progress:
            progress(size, size)


def _old(part: Part) -> tuple[int, int, bytes]:
    """Return where the old header of a part is, how much of it the file has, and its text."""
    hdu = part.hdu
    if hdu is None:
        return 0, 0, b""
    return hdu.offset, hdu.header_size - (0 if hdu.data_size else hdu.short), hdu.text

"""Writes the product that was planned, in the way that was chosen, and tells what came of it."""

from __future__ import annotations

import os

from daq_merge import copying, layout, readers
from daq_merge.how import How
from daq_merge.plan import plan
from daq_merge.seal import Sealer
from daqlib import alerts, errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from daq_merge.copying import Progress
    from daq_merge.follower import Follower
    from daq_merge.inplace import Hold
    from daq_merge.layout import Input
    from daq_merge.plan import Alert, Plan

__all__ = ["Built", "How", "build", "write"]


class Built:
    """A product that has been written and synced.

    Attributes:
        path: the file that holds it: the one that was to be written, or the merge target itself.
        undo: the undo journal that gives the merge target back, or empty.
        hold: keeps other merges away from a target that became the product, as long as it lives.
        way: how it was built, one of :data:`daq_merge.how.WAYS` but for ``auto``.
        size: bytes.
        sha256: of the whole file, hexadecimal; empty unless it was wanted.
        hdus: number of HDUs.
        alerts: conditions that the job must show (``daqlib.alerts``).
        warnings: sentences for people.
        damaged: index of each HDU whose source does not match its sums, with the reason.
    """

    def __init__(self, planned: Plan, path: str, way: str, sealer: Sealer) -> None:
        self.path = path
        self.undo = ""
        self.hold: Hold | None = None
        self.way = way
        self.size = planned.size
        self.sha256 = ""
        self.hdus = len(planned.parts)
        self.alerts: list[Alert] = planned.alerts + _short_blocks(planned) + sealer.alerts
        self.warnings = list(planned.warnings)
        self.damaged = sealer.damaged

    def release(self) -> None:
        """Let other merges at a target that became the product, or was given back."""
        self.hold = None


def build(specification: dict[str, Any], root: str, out: str, how: How | None = None, *,
          progress: Progress | None = None) -> Built:
    """Write the product that a specification describes.

    Args:
        specification: a Data Product Specification (schema ``dpspec``).
        root: directory that relative locations start from.
        out: path of the file to write, a temporary one: it is removed when the work fails.
        how: what the plan leaves open.
        progress: told how far the work is.

    Raises:
        daq_merge.plan.MissingSource: a source file is not there.
        daq_merge.seal.Damaged: a source is damaged and sums are strict.
        errors.BadData: a file, a keyword or a rule is wrong.
        errors.Later: an input changed while it was read.
        errors.Conflict: out is one of the inputs.
        OSError: reading or writing failed.
    """
    return write(plan(specification, root, how), out, how, progress=progress)


def write(planned: Plan, out: str, how: How | None = None, *,
          progress: Progress | None = None) -> Built:
    """Write a planned product; see :func:`build`.

    Raises:
        daq_merge.ways.Impossible: ``how`` wants a clone, which cannot be had here.
    """
    how = how or How()
    _refuse_input(planned.inputs, out)
    work = _Work(planned, out, how, progress)
    built = None
    if how.way == "share":
        built = work.shared()
    elif how.way != "new":
        built = work.on_target(planned.parts[0].input)
    built = built or work.new()
    built.warnings += work.notes
    return built


class _Work:
    """The building of one product.

    Attributes:
        notes: what people should know of the way.
    """

    def __init__(self, planned: Plan, out: str, how: How, progress: Progress | None) -> None:
        self.notes: list[str] = []
        self._planned = planned
        self._out = out
        self._how = how
        self._progress = progress

    def new(self) -> Built:
        """Write a new file in one pass."""
        planned = self._planned

        def fill(target: copying.Target, sealer: Sealer) -> bool:
            target.reserve(0, planned.size)
            copying.Copier(target, sealer, planned.size, self._progress).copy(planned.parts)
            return True

        built = self._written("new", fill)
        assert built is not None
        return built

    def shared(self) -> Built | None:
        """Write a new file that shares blocks with the sources, where that can be."""
        from daq_merge import sharing

        planned = self._planned

        def fill(target: copying.Target, sealer: Sealer) -> bool:
            if not sharing.prepare(planned, target.fd):
                return False
            sharing.Sharer(target, sealer, planned.size, self._progress).copy(planned.parts)
            return True

        built = self._written("share", fill)
        if built is None:
            self.notes.append(f"{self._how.product or self._out}: nothing is shared with the "
                              "sources: there is no large data unit, or the file system cannot")
        return built

    def on_target(self, base: Input | None) -> Built | None:
        """Build on the merge target; None when that cannot be and need not be."""
        way, built = self._how.way, None
        if base is None and way == "auto":
            return None
        from daq_merge import ways

        reason = ways.unfit(self._planned, base)
        if base is not None and way in ("auto", "clone"):
            built = None if reason or base.file.gzipped else self._cloned(base)
        if built is None and way == "clone":
            raise ways.Impossible(
                f"{self._how.product or self._out} cannot be a clone of the merge target: "
                + (reason or ("it is compressed" if base is not None and base.file.gzipped else
                              "its file system cannot share blocks")),
                "build it in another way")
        if built is None and (way != "auto" or self._how.in_place_ok):
            built = self._in_place(base, reason)
        return built

    def _cloned(self, base: Input) -> Built | None:
        from daq_merge import sharing

        reader = readers.opened(base)
        try:
            return self._written("clone", lambda target, sealer: sharing.clone(
                self._planned, base, reader, target, sealer, self._progress))
        finally:
            reader.close()

    def _in_place(self, base: Input | None, reason: str) -> Built | None:
        from daq_merge import inplace

        planned, how = self._planned, self._how
        if base is not None:
            obstacle = inplace.obstacle(planned, base, how, self._out)
            if not obstacle and not reason:
                return self._merged(base, 0)
            if not obstacle and how.way == "insert" and inplace.only_primary_grows(planned, base):
                inserted, blocks = inplace.room_for(planned, base)
                built = self._merged(base, inserted)
                if built is not None:
                    return built
                planned.parts[0].header.grow(-blocks)
                layout.settle(planned.parts)
                reason += ", and its file system cannot insert them"
            reason = obstacle or reason
        if how.way != "auto":
            self.notes.append(f"a new file was written: {reason}")
        return None

    def _merged(self, base: Input, inserted: int) -> Built | None:
        from daq_merge import inplace

        sealer = Sealer(self._planned.stamp, self._how.sums)
        follower = _follower(self._how, base.file.path)
        merge = inplace.Merge(self._planned, base, self._how, self._out)
        try:
            if not merge.run(sealer, inserted, follower, self._progress):
                return None
            built = Built(self._planned, base.file.path, "insert" if inserted else "in-place",
                          sealer)
            built.undo, built.sha256, built.hold = merge.journal, merge.digest, merge.hold
            return built
        except BaseException:
            merge.give_up()
            raise
        finally:
            if follower is not None:
                follower.cancel()

    def _written(self, way: str, fill: Callable[[copying.Target, Sealer], bool]) -> Built | None:
        """Write a new file; None when it cannot be filled in that way, and nothing is left then."""
        planned, out, how = self._planned, self._out, self._how
        sealer = Sealer(planned.stamp, how.sums)
        fd = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW,
                     0o666)
        follower: Follower | None = None
        try:
            follower = _follower(how, out)
            target = copying.Target(fd, out, how.sync, follower)
            if not fill(target, sealer):
                _give_up(follower, out)
                return None
            if how.mode:
                os.fchmod(fd, how.mode)
            if how.sync:
                copying.sync(fd, out)
            built = Built(planned, out, way, sealer)
            built.sha256 = follower.result() if follower else ""
            return built
        except BaseException:
            _give_up(follower, out)
            raise
        finally:
            os.close(fd)


def _follower(how: How, path: str) -> Follower | None:
    if not how.digest:
        return None
    from daq_merge import follower

    return follower.Follower(path)


def _give_up(follower: Follower | None, out: str) -> None:
    if follower is not None:
        follower.cancel()
    try:
        os.unlink(out)
    except OSError:
        return  # the error that is already on its way says more


def _refuse_input(inputs: list[Input], out: str) -> None:
    try:
        there = os.stat(out)
    except FileNotFoundError:
        return
    if any((there.st_dev, there.st_ino) == one.file.identity[:2] for one in inputs):
        raise errors.Conflict(f"{out}: is one of the inputs", "write the product elsewhere")


def _short_blocks(planned: Plan) -> list[Alert]:
    """Return an alert for each HDU whose last block had to be completed."""
    used = {id(part.hdu) for part in planned.parts if part.hdu and part.hdu.short}
    return [alerts.make(
        "short-block", f"{one.label}[{hdu.index}]",
        f"source {one.source}: {one.location} lacks the last {hdu.short} bytes of its last "
        "block: no data are missing, the product has them filled up")
        for one in planned.inputs for hdu in one.file.hdus[-1:] if hdu.short and id(hdu) in used]

"""Sums what arrives from another host while it arrives, and has it written to the disk.

rsync writes a file under a dot-name, from its beginning to its end, and then gives it its name. A
thread reads behind it, so that at the end of the transfer little is left to be done.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from daqlib import fitssums

_SYNC_EVERY = 64 * 2**20  # bytes; by less, the disk would rather wait for us
_PIECE = 256 * 1024
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_SHORTEST, _LONGEST = 0.01, 0.2  # seconds between looks
_TEMPORARY = re.compile(r"\.(.+)\.[A-Za-z0-9]{6}")
_LONG = 200  # characters of a name


@dataclass(frozen=True)
class Arrived:
    """A file that arrived and is durable but for its name.

    Attributes:
        inode: by which to see whether it is still the same file.
        sums: of its bytes.
    """

    inode: int
    sums: fitssums.Running


def settle(path: str) -> Arrived:
    """Read a file that has arrived, and make it durable.

    Raises:
        OSError: reading or writing failed.
    """
    fd = os.open(path, _FLAGS)
    try:
        return _finish(fd, fitssums.Running(os.fstat(fd).st_size))
    finally:
        os.close(fd)


def _finish(fd: int, sums: fitssums.Running) -> Arrived:
    for piece in fitssums.pieces(fd, sums.size):
        sums.add(piece)
    os.fsync(fd)  # rsync leaves that to us
    return Arrived(os.fstat(fd).st_ino, sums)


def _becomes(entry: str, wanted: set[str]) -> str:
    """Return the file that rsync writes under a name, .NAME.XXXXXX; a long one is cut."""
    form = _TEMPORARY.fullmatch(entry)
    if not form:
        return ""
    name = form[1]
    return name if name in wanted else next(
        (full for full in wanted if len(full) > _LONG and full.startswith(name)), "")


class Arrivals:
    """Follows files as they arrive, within a ``with`` block around the transfer.

    What could not be followed is to be read afterwards, see :func:`settle`.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        """Prepare.

        Args:
            paths: the names that the files will have.
        """
        self._waiting: dict[str, set[str]] = {}
        for path in paths:
            self._waiting.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))
        self._found: dict[str, Arrived] = {}
        self._failures: list[OSError] = []
        self._over = threading.Event()
        self._given_up = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Arrivals:
        """Begin to follow."""
        self._over.clear()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None,
                 _trace: TracebackType | None) -> None:
        """The transfer is over: read what is left, or nothing when it did not end by itself.

        Raises:
            OSError: the disk failed; the system tells that once.
        """
        self._given_up = kind is not None
        self._over.set()
        if self._thread:
            self._thread.join()
        if self._failures and kind is None:
            raise self._failures[0]

    def of(self, path: str) -> Arrived:
        """Return what is known of a file that has arrived.

        Raises:
            OSError: reading or writing failed.
        """
        there = os.lstat(path)
        found = self._found.get(path)
        if found and (found.inode, found.sums.size) == (there.st_ino, there.st_size):
            return found
        return settle(path)

    # -- in the thread ----------------------------------------------------------------------------

    def _follow(self) -> None:
        pause = _SHORTEST
        while not self._given_up:
            last, began = self._over.is_set(), time.monotonic()
            pause = _SHORTEST if self._look() else min(_LONGEST, 2 * pause)
            if last:
                return
            # with thousands of directories a look takes long
            self._over.wait(max(pause, 5 * (time.monotonic() - began)))

    def _look(self) -> bool:
        """Follow what is there now; tell whether anything was."""
        named, coming = self._seen()
        for path, place in [*named, *coming[:1]]:
            if self._given_up:
                break
            self._waiting[os.path.dirname(path)].discard(os.path.basename(path))
            try:
                arrived = self._read(path, place)
            except OSError as error:
                self._failures.append(error)
                continue
            if arrived:
                self._found[path] = arrived
        return bool(named or coming)

    def _seen(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the files that have their names, and those that are coming, and where they are."""
        named, coming = [], []
        for folder, wanted in self._waiting.items():
            try:
                entries = os.listdir(folder) if wanted else []
            except OSError:
                continue  # rsync makes it when it comes to it
            for entry in entries:
                place = os.path.join(folder, entry)
                if entry in wanted:
                    named.append((place, place))
                elif name := _becomes(entry, wanted):
                    coming.append((os.path.join(folder, name), place))
        return named, coming

    def _read(self, path: str, place: str) -> Arrived | None:
        """Read a file to its end; None when it went away or has not come whole."""
        try:
            fd = os.open(place, _FLAGS)
        except OSError:
            return None  # it has its name by now; whatever it is, it is looked at afterwards
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None
            sums = fitssums.Running(found.st_size)
            return _finish(fd, sums) if self._behind(fd, path, sums) else None
        finally:
            os.close(fd)

    def _behind(self, fd: int, path: str, sums: fitssums.Running) -> bool:
        """Read behind what is written; tell whether the file has got its name."""
        buffer = memoryview(bytearray(_PIECE))
        synced = 0
        while not self._given_up:
            over = self._over.is_set()
            named = self._has_name(fd, path)
            size = os.fstat(fd).st_size
            while size - sums.size >= _PIECE and not self._given_up:
                if os.preadv(fd, [buffer], sums.size) != _PIECE:
                    break  # it is not what rsync left: it is read again afterwards
                sums.add(buffer)
            if named or over:
                return named
            if sums.size - synced >= _SYNC_EVERY:
                os.fdatasync(fd)
                synced = sums.size
            self._over.wait(_SHORTEST)
        return False

    @staticmethod
    def _has_name(fd: int, path: str) -> bool:
        try:
            return os.path.samestat(os.lstat(path), os.fstat(fd))
        except FileNotFoundError:
            return False

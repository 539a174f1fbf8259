"""Which files of a directory are new since a recording began, and which of them are finished.

inotify is a hint, a scan is the truth: events are lost when their queue overflows, and a network
file system tells nothing of what other hosts do. A file is known by inode, size and time, so that
one that was there before counts only when it is written again.

Everything here touches the directory, so it may block, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from daqlib import errors, names

if TYPE_CHECKING:
    from inotify_simple import INotify

_FITS, _GZIP = b"SIMPLE  =", b"\x1f\x8b"  # FITS Standard 4.0, section 4.4.1.1; RFC 1952
_SUFFIX = re.compile(r"(\.(fits|fit|fts))?\.[^.]*$", re.IGNORECASE)


class Sign(NamedTuple):
    """What is another when a file was replaced or written to."""

    inode: int
    size: int
    mtime_ns: int


class Done(NamedTuple):
    """A file that is finished.

    Attributes:
        sign: in this form.
        at_ns: when it was completed: its last change, so that it is the same after a restart.
        why_not: why it is not delivered, or empty.
    """

    sign: Sign
    at_ns: int
    why_not: str


@dataclass(frozen=True)
class Rule:
    """What is taken from a directory.

    Attributes:
        directory: absolute path without symbolic links.
        patterns: of names; upper and lower case are the same.
        complete: ``close``, ``rename``, ``companion`` or ``stable``.
        companion: name of the file that says so, with ``{name}`` or ``{stem}``.
        stable: seconds without a change after which a file is finished of which inotify told
            nothing.
        scan: seconds between scans.
    """

    directory: str
    patterns: Sequence[str]
    complete: str = "close"
    companion: str = ""
    stable: float = 2.0
    scan: float = 5.0

    def wants(self, name: str) -> bool:
        """Tell whether a name is that of a file to take; dot-files are somebody's temporaries."""
        if name.startswith(".") or self.companion and self._is_companion(name):
            return False
        return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in self.patterns)

    def _is_companion(self, name: str) -> bool:
        begin, _, end = re.split(r"(\{name\}|\{stem\})", self.companion, maxsplit=1)
        return name.startswith(begin) and name.endswith(end)

    def companion_of(self, name: str) -> str:
        """Return the name of the file whose appearance says that another is finished."""
        stem = _SUFFIX.sub("", name)
        return self.companion.replace("{name}", name).replace("{stem}", stem)


@dataclass
class Look:
    """What is known of a directory.

    Attributes:
        rule: what is taken from it.
        before: what lay in it when the recording began.
        home: device and inode of the directory at that time, if known.
        pending: new files that are not finished: sign, and since when (monotonic) it is that.
        done: new files that are finished.
        deaf: why there is no inotify, or empty.
        due: monotonic time of the next look that is needed although nothing is heard.
    """

    rule: Rule
    before: dict[str, Sign] = field(default_factory=dict)
    home: tuple[int, int] | None = None
    pending: dict[str, tuple[Sign, float]] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    deaf: str = ""
    due: float = 0.0
    _writing: set[str] = field(default_factory=set)  # inotify told of a write, and not of its end
    _awaited: dict[str, str] = field(default_factory=dict)  # companion -> name
    _heeded: dict[str, Sign] = field(default_factory=dict)  # name -> the companion heard
    _inotify: INotify | None = None
    _watch: int = -1
    _next_scan: float = 0.0

    # -- the beginning and the end ------------------------------------------------------------

    def begin(self) -> None:
        """Take note of what is there; what comes from now on is ours.

        Raises:
            errors.Unavailable: the directory cannot be read.
        """
        self.home = self.check()
        self.listen()
        self.before = {name: _sign(status) for name, status in self._listed(
            everything=self.rule.complete == "companion")}
        self._next_scan = time.monotonic() + self.rule.scan

    def check(self) -> tuple[int, int]:
        """Return device and inode of the directory.

        Raises:
            errors.Unavailable: it is not there, or cannot be read.
        """
        with self._reachable():
            found = os.stat(self.rule.directory)
            os.close(os.open(self.rule.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return found.st_dev, found.st_ino

    def listen(self) -> None:
        """Have the system tell of changes; without inotify there are scans only."""
        try:
            from inotify_simple import INotify, flags

            self._inotify = INotify(nonblocking=True)
        except (OSError, ImportError) as error:
            self._do_without(error)
            return
        written = {"close": flags.CLOSE_WRITE | flags.MOVED_TO, "rename": flags.MOVED_TO}
        self._finishing = int(written.get(self.rule.complete, 0))
        self._modify = int(flags.MODIFY) if self._finishing else 0
        self._left = flags.MOVED_FROM | flags.DELETE
        self._gone = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED
        self._overflow = flags.Q_OVERFLOW
        self._mask = (self._finishing | self._modify | self._left | flags.CREATE | flags.MOVED_TO
                      | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR)
        self._watch_again()

    def _do_without(self, error: OSError | ImportError) -> None:
        self.deaf = (f"cannot use inotify ({getattr(error, 'strerror', None) or error}): files are "
                     f"seen by a scan every {self.rule.scan:g} s only")
        self.close()
        self._writing.clear()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is news, or -1."""
        inotify = self._inotify
        return inotify.fileno() if inotify else -1

    def close(self) -> None:
        """Stop listening."""
        inotify, self._inotify, self._watch = self._inotify, None, -1
        if inotify:
            inotify.close()

    # -- looking ------------------------------------------------------------------------------

    def look(self, whole: bool = False) -> None:
        """Bring ``pending`` and ``done`` up to date.

        Args:
            whole: scan, due or not.

        Raises:
            errors.Unavailable: the directory cannot be read, or another one lies in its place.
        """
        self._check_home()
        lost = self._watch_again()
        now = time.monotonic()
        touched, finished = self._heard()
        for name in touched:
            self._note(name, now, finished=name in finished and name not in self._writing)
        if whole or lost or now >= self._next_scan:
            self._next_scan = now + self.rule.scan
            for name, status in self._listed():
                self._take(name, status, now)
        for name in [name for name, at in self._ripe() if at <= now]:
            self._note(name, now)
        self.due = min([self._next_scan, *(at for _, at in self._ripe())])

    def missing(self) -> list[str]:
        """Return the files that were finished and are not there any more, under any name."""
        self.rename()
        gone = [name for name in self.done if self._status(name) is None]
        return [name for name in gone if not self.done.pop(name).why_not]

    def rename(self) -> None:
        """Forget the names of finished files that have another name by now."""
        gone = [name for name in self.done if self._status(name) is None]
        inodes = {each.sign.inode for name, each in self.done.items() if name not in gone}
        inodes.update(sign.inode for sign, _ in self.pending.values())
        for name in gone:
            if self.done[name].sign.inode in inodes:
                del self.done[name]

    def _ripe(self) -> Iterator[tuple[str, float]]:
        """Return the pending files that time alone completes, and when."""
        if self.rule.complete == "companion":
            return
        for name, (sign, since) in self.pending.items():
            if sign.size and name not in self._writing:
                yield name, since + self.rule.stable

    def _check_home(self) -> None:
        device, inode = self.check()
        # a file system that is mounted again may have another device number, a directory that was
        # made anew another inode: when both differ, this is what lies below a mount that is gone
        if self.home and device != self.home[0] and inode != self.home[1]:
            raise errors.Unavailable(
                f"directory {self.rule.directory} is not the one it was: its file system is gone",
                "mount it again")

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.Unavailable(
                f"directory {self.rule.directory} cannot be read: {error.strerror}",
                "make it, mount it, or let daq-ctl read it") from error

    def _listed(self, everything: bool = False) -> Iterator[tuple[str, os.stat_result]]:
        with self._reachable():
            found = os.listdir(self.rule.directory)
        for name in found:
            if (everything or self.rule.wants(name)) and (status := self._status(name)):
                yield name, status

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return os.lstat(os.path.join(self.rule.directory, name))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # the companion of a name that is long enough
                return None
            raise

    # -- what inotify tells -------------------------------------------------------------------

    def _watch_again(self) -> bool:
        """Watch the directory if it is not watched; tell whether that was so."""
        if self._inotify is None or self._watch >= 0:
            return False
        with self._reachable():
            try:
                self._watch = self._inotify.add_watch(self.rule.directory, self._mask)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                    raise
                self._do_without(error)  # too many watches
        return True

    def _heard(self) -> tuple[dict[str, None], set[str]]:
        """Return the names that something happened to, and those whose writing has ended."""
        touched: dict[str, None] = {}
        finished: set[str] = set()
        for event in self._inotify.read(timeout=0) if self._inotify else ():
            if event.mask & (self._overflow | self._gone):
                self._lose(event.wd, bool(event.mask & self._overflow))
            elif event.name in self._awaited:
                touched[self._awaited[event.name]] = None
            elif self.rule.wants(event.name):
                touched[event.name] = None
                self._follow(event.name, event.mask, finished)
        return touched, finished

    def _follow(self, name: str, mask: int, finished: set[str]) -> None:
        if mask & self._modify:
            self._writing.add(name)
        elif mask & (self._finishing | self._left):
            self._writing.discard(name)
            if mask & self._finishing:
                finished.add(name)

    def _lose(self, watch: int, overflow: bool) -> None:
        """Events are lost, or the directory: scan, and watch what is at its place now."""
        if overflow or watch == self._watch:
            self._writing.clear()
            self._next_scan = 0.0
        if not overflow and watch == self._watch:
            with contextlib.suppress(OSError):  # of one that was moved its new place is not ours
                if self._inotify:
                    self._inotify.rm_watch(watch)
            self._watch = -1

    # -- one file -----------------------------------------------------------------------------

    def _note(self, name: str, now: float, *, finished: bool = False) -> None:
        status = self._status(name)
        if status is None:
            self._forget(name)
        else:
            self._take(name, status, now, finished=finished)

    def _forget(self, name: str) -> None:
        self._writing.discard(name)
        if self.pending.pop(name, None) and self.rule.companion:
            self._awaited.pop(self.rule.companion_of(name), None)

    def _take(self, name: str, status: os.stat_result, now: float, *,
              finished: bool = False) -> None:
        sign = _sign(status)
        known = self.done.get(name)
        if sign == self.before.get(name) or known is not None and known.sign == sign:
            return
        self.done.pop(name, None)  # it is written again, and counts as it will be then
        first, since = self.pending.get(name, (sign, now))
        self.pending[name] = sign, since if first == sign else now
        if self._is_complete(name, status, now, finished):
            self._forget(name)
            self.done[name] = Done(sign, status.st_ctime_ns, self._why_not(name, status))

    def _is_complete(self, name: str, status: os.stat_result, now: float, finished: bool) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return True  # it never will be a file
        if self.rule.complete == "companion":
            return self._is_accompanied(name, status)
        if name in self._writing:
            return False
        since = self.pending[name][1]
        return finished or status.st_size > 0 and now - since >= self.rule.stable

    def _is_accompanied(self, name: str, status: os.stat_result) -> bool:
        companion = self.rule.companion_of(name)
        self._awaited[companion] = name
        told = self._status(companion)
        if told is None or _sign(told) == self.before.get(companion):
            return False
        # of a file that is written again it was the one before; a network file system may have
        # shown an old size together with the companion, which is not older than the file then
        if _sign(told) == self._heeded.get(name) and told.st_mtime_ns < status.st_mtime_ns:
            return False
        self._heeded[name] = _sign(told)
        return True

    def _why_not(self, name: str, status: os.stat_result) -> str:
        if not stat.S_ISREG(status.st_mode):
            return "it is no regular file"
        try:
            names.file_name(name)
        except errors.BadData as error:
            return f"its name is not allowed: {error.remedy}"
        return not_fits(os.path.join(self.rule.directory, name))


def not_fits(path: str) -> str:
    """Return why a file is not taken for a FITS file, plain or compressed by gzip, or nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            head = file.read(len(_FITS))
            if head.startswith(_GZIP):
                import gzip

                file.seek(0)
                head = gzip.GzipFile(fileobj=file).read(len(_FITS))
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except (EOFError, ValueError, zlib.error) as error:
        return f"it cannot be unpacked: {error}"
    if not head:
        return "it is empty"
    return "" if head == _FITS else "it does not begin as a FITS file does"


def _sign(status: os.stat_result) -> Sign:
    return Sign(status.st_ino, status.st_size, status.st_mtime_ns)

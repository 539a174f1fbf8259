"""Follow a spool: learn at once which jobs changed, without asking again and again.

inotify is a hint, the scan is the truth. A caller makes a :class:`Follower` first and scans
then, so that nothing falls between the two; it scans again when the follower says that it does
not know, and every few seconds in any case. Only the names count, never the order of events.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable
from typing import TYPE_CHECKING

from daqlib import cli, names
from daqlib.spool import Spool

if TYPE_CHECKING:
    from inotify_simple import INotify

#: Dot-files that concern every job of their directory: a pause, and a watcher's lock.
_FOR_ALL = (".pause", ".watch")
_SUFFIX = {"log": ".jsonl", "lock": ""}


class Follower:
    """Watches directories of a spool; works, more slowly, where inotify is exhausted.

    It never needs an event to be right: when the queue overflows or a watched directory is moved
    or removed, it watches anew and says that it does not know.
    """

    def __init__(self, spool: Spool, places: Iterable[str], *, logs: bool = False) -> None:
        """Begin to watch; scan afterwards.

        Args:
            spool: the spool.
            places: directories of jobs; ``lock`` and ``log`` may be among them.
            logs: whether to watch the histories and the locks as well. A lock that is taken or
                given back is a change of its job, a lister's look at it is not: who takes locks
                in answer to changes hears of it again.
        """
        self._spool = spool
        self._missing = {*places, *(("log", "lock") if logs else ())}
        self._watches: dict[int, str] = {}
        self._inotify: INotify | None = None
        self._idle = -1
        try:
            self._start()
        except (OSError, ImportError) as error:
            self._do_without(error)

    def _start(self) -> None:
        from inotify_simple import INotify, flags

        self._inotify = INotify(nonblocking=True)
        files = (flags.CREATE | flags.MOVED_TO | flags.MOVED_FROM | flags.CLOSE_WRITE
                 | flags.ATTRIB | flags.DELETE)
        self._mask = files | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
        # a lock is taken by writing the holder into it; a lister's look at it writes nothing
        self._lock_mask = self._mask | flags.MODIFY
        self._lost = flags.Q_OVERFLOW | flags.IGNORED | flags.UNMOUNT
        self._gone = flags.DELETE_SELF | flags.MOVE_SELF
        self._watch_missing()

    def _do_without(self, error: OSError | ImportError) -> None:
        reason = getattr(error, "strerror", None) or error
        cli.say(f"cannot use inotify ({reason}): changes are seen by scanning only; "
                "see fs.inotify.max_user_instances and max_user_watches")
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._idle = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return a descriptor that is readable when :meth:`changed` has news; it never changes."""
        return self._inotify.fileno() if self._inotify is not None else self._idle

    def close(self) -> None:
        """Stop watching."""
        if self._inotify is not None:
            self._inotify.close()
        elif self._idle >= 0:
            os.close(self._idle)
            self._idle = -1

    def changed(self, timeout: float = 0.0) -> set[str] | None:
        """Wait for changes and return the ids whose files changed.

        Args:
            timeout: the longest to wait, seconds.

        Returns:
            The ids (names of job files without ``.json``, valid or not), empty when the time ran
            out; None when it is not known what changed: scan everything.
        """
        whole = not self._missing and self._inotify is not None
        select.select([self.fileno()], [], [], max(0.0, timeout))
        if self._inotify is None:
            return None
        known, ids = self._read(self._inotify)
        if self._missing:
            self._watch_missing()
        return ids if known and whole else None

    def _read(self, inotify: INotify) -> tuple[bool, set[str]]:
        known, ids = True, set()
        for event in inotify.read(timeout=0):
            place = self._watches.get(event.wd)
            if event.mask & self._gone and place:
                self._forget(inotify, event.wd)
                known = False
            elif event.mask & self._lost:
                # what we stopped watching ourselves is announced, too, but no longer known here
                lost = self._watches.pop(event.wd, None)
                self._missing |= {lost} if lost else set()
                known = known and not lost and event.wd >= 0
            elif place and event.name in _FOR_ALL:
                known = False
            elif place and (job := _job(event.name, place)):
                ids.add(job)
        return known, ids

    def _forget(self, inotify: INotify, watch: int) -> None:
        self._missing.add(self._watches.pop(watch))
        with contextlib.suppress(OSError):  # the kernel has forgotten a removed one already
            inotify.rm_watch(watch)  # of a moved directory: its new place is not ours

    def _watch_missing(self) -> None:
        assert self._inotify is not None
        for place in sorted(self._missing):
            mask = self._lock_mask if place == "lock" else self._mask
            try:
                watch = self._inotify.add_watch(self._spool.path(place), mask)
            except FileNotFoundError:
                continue  # tried again at the next call; until then nothing is known for sure
            self._watches[watch] = place
            self._missing.discard(place)


def _job(name: str, place: str) -> str:
    """Return the id that a file name stands for, or an empty text."""
    suffix = _SUFFIX.get(place, ".json")
    if name.startswith(".") or not name.endswith(suffix):
        return ""
    job = name.removesuffix(suffix)
    return job if place not in _SUFFIX or names.ID.fullmatch(job) else ""

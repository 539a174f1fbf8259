"""The spool: directories that are states, job files that are requests, logs that are histories.

This module knows where things lie and how a job is found, locked, moved and listed. What a stage
does with a claimed job is in :mod:`daqlib.stage`.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from daqlib import config, errors, fsops, history, names

#: The stages of a job's way, in order; each is a directory of the spool.
STAGES = ("acquire", "collect", "merge", "release")
#: Where a job rests: ended, out of tries or wrong, parked, no job at all, on another host.
RESTS = ("done", "failed", "hold", "bad", "remote")
#: Directories that hold no jobs.
STORES = ("log", "lock", "data", "result", "run")
#: Folder of a job's data, ``data/ID/``, with what live sources brought straight into the spool: a
#: directory for each source. Nobody rewrites a file there.
LIVE = "live"
#: On the way from first to last; a copy in a later place outranks one in an earlier place.
WAY = (*STAGES, "done")
_RANK = (*reversed(WAY), "hold", "failed", "remote")

MARKER = ".daqspool"
MARKER_TEXT = b'{"daqspool": 1}\n'
_FOREIGN = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "lustre", "gpfs", "fuse.sshfs")
_SHARED = 0o2020  # the mode of a spool that a group shares: set-gid, and the group may write
_LONGEST_NAME = 255  # bytes, on every file system that a spool may lie on
_FAR_FUTURE = 24 * 3600.0  # an mtime further ahead was set by a wrong clock, not by a person


@dataclass(frozen=True)
class Entry:
    """A job file as a scan sees it.

    Attributes:
        id: the job's id, its file name without ``.json``.
        place: the directory it lies in.
        due: the file's mtime, seconds since the epoch: not before then is it tried again.
        size: bytes.
    """

    id: str
    place: str
    due: float
    size: int


class Spool:
    """A spool directory that has been checked to be one."""

    def __init__(self, root: str, by: str, hand_over: str = "") -> None:
        """Use :func:`open_spool`, which checks the directory.

        Args:
            root: absolute path of the spool.
            by: the tool's name, recorded with every event.
            hand_over: the spool of another host, ``HOST:PATH``, that gets what is in ``collect/``.
        """
        self.root = root
        self.by = by
        self.hand_over = hand_over
        self._readers: dict[str, history.Reader] = {}

    def path(self, *parts: str) -> str:
        """Return a path below the spool."""
        return os.path.join(self.root, *parts)

    def job_path(self, place: str, job: str) -> str:
        """Return the path of a job file in a place."""
        return os.path.join(self.root, place, f"{job}.json")

    def log_path(self, job: str) -> str:
        """Return the path of a job's history."""
        return os.path.join(self.root, "log", f"{job}.jsonl")

    def lock_path(self, job: str) -> str:
        """Return the path of a job's lock file."""
        return os.path.join(self.root, "lock", job)

    def data_path(self, job: str, *parts: str) -> str:
        """Return a path in the job's data directory."""
        return os.path.join(self.root, "data", job, *parts)

    def events(self, job: str) -> list[history.Event]:
        """Return the job's history, oldest first.

        While it is followed, of ``keywords`` events in a row the newest only.
        """
        reader = self._readers.get(job)
        return reader.look() if reader else history.read(self.log_path(job))

    def follow_history(self, job: str) -> None:
        """Keep the history in memory: from now on a look parses only what was appended."""
        if job not in self._readers:
            self._readers[job] = history.Reader(self.log_path(job))

    def leave_history(self, job: str) -> None:
        """Keep it no longer."""
        self._readers.pop(job, None)

    def log(self, job: str, event: str, /, **facts: Any) -> None:
        """Record an event of a job durably."""
        history.append(self.log_path(job), event, self.by, **facts)

    def log_all(self, job: str, told: Sequence[history.Told]) -> None:
        """Record several events of a job durably in one write; none is no write."""
        if told:
            history.append_all(self.log_path(job), self.by, told)

    def scan(self, *places: str) -> list[Entry]:
        """List the job files of some places, by id; never a proof of absence.

        An entry that is being moved while the directory is read can be missed or seen twice.
        """
        found: list[Entry] = []
        for place in places:
            with contextlib.suppress(FileNotFoundError), os.scandir(self.path(place)) as entries:
                found.extend(entry for item in entries if (entry := _entry(item, place)))
        return sorted(found, key=lambda entry: entry.id)

    def look(self, place: str, job: str) -> Entry | None:
        """Return one job file as a scan would see it; None when it is not there, or no job."""
        name = f"{job}.json"
        try:
            status = os.lstat(self.path(place, name))
        except OSError:  # a name that is too long is no job's, either
            return None
        return _seen(name, place, status)

    def places(self, job: str) -> list[str]:
        """Return every place that holds this job, the one that counts first.

        The latest on the way counts; a resting copy counts only when there is none on the way.
        """
        return list(self._found(job))

    def _found(self, job: str) -> Iterator[str]:
        return (place for place in _RANK if os.path.lexists(self.job_path(place, job)))

    def place(self, job: str) -> str:
        """Return where the job is, or an empty text; looks twice, as a rename may be under way."""
        for _ in range(2):
            for found in self._found(job):
                return found
        return ""

    def is_busy(self, job: str) -> bool:
        """Tell whether somebody is at work on the job.

        A lock that this user may not open counts as free: it must not hide the other jobs from a
        scan, and who takes it is told what is wrong with it.
        """
        with contextlib.suppress(PermissionError):
            return fsops.is_locked(self.lock_path(job))
        return False

    def lock(self, job: str, stage: str) -> int | None:
        """Take the job's lock, or return None when somebody is at work.

        The descriptor is closed to free it; children that inherit it keep the job claimed.
        """
        return fsops.lock(self.lock_path(job), holder_text(stage))

    def wait_lock(self, job: str, stage: str, patience: float) -> int | None:
        """Take the job's lock, waiting up to ``patience`` seconds for the holder to finish."""
        deadline = time.monotonic() + patience
        while (fd := self.lock(job, stage)) is None:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)
        return fd

    def watched(self) -> bool:
        """Tell whether a ``daq-watch`` runs on this spool."""
        return fsops.is_locked(self.path("lock", ".watch"))

    def paused(self, stage: str) -> bool:
        """Tell whether an operator paused the stage with ``touch STAGE/.pause``."""
        return os.path.exists(self.path(stage, ".pause"))

    def is_due(self, entry: Entry, now: float) -> bool:
        """Tell whether a job may be tried now.

        An mtime over a day ahead that no scheduling event explains came from a wrong clock.
        """
        if entry.due <= now:
            return True
        if entry.due <= now + _FAR_FUTURE:
            return False
        event = history.last(self.events(entry.id), "defer", "killed")
        return event is None or abs(float(event.get("until", 0.0)) - entry.due) > 1.0

    def move(self, job: str, source: str, target: str) -> bool:
        """Move a job from one place to another; False when it was not there any more.

        Raises:
            FileExistsError: the target holds a job of this id.
        """
        return fsops.move(self.job_path(source, job), self.job_path(target, job))

    def to_bad(self, place: str, file: str, reason: str) -> str:
        """Put a file that is no usable job, or a second copy, into ``bad/`` with the reason.

        Args:
            place: where it lies.
            file: its name there.
            reason: for the log of the id that the name stands for.

        Returns:
            The name in ``bad/``: ``ID.json``, or ``ID.N.json`` when that is taken.
        """
        stem = file.removesuffix(".json")
        number = 0
        while True:
            name = _numbered(stem, number) if number else f"{stem}.json"
            try:
                moved = fsops.move(self.path(place, file), self.path("bad", name))
            except FileExistsError:
                number += 1
                continue
            break
        if moved:
            self.log(stem if names.ID.fullmatch(stem) else "_unnamed", "bad", stage=place,
                     reason=reason, file=f"bad/{name}")
        return name

    def release(self, job: str, fd: int) -> None:
        """Give a job's lock back; its file goes with it when the job is at rest in ``done/``.

        The file is removed while the lock is held, and only if it is still the one locked:
        whoever opened it meanwhile sees that the name is gone and opens anew.
        """
        with contextlib.suppress(FileNotFoundError):
            same = os.fstat(fd).st_ino == os.lstat(self.lock_path(job)).st_ino
            if same and self.places(job)[:1] in ([], ["done"]):
                os.unlink(self.lock_path(job))
        os.close(fd)

    def check_there(self) -> None:
        """Check that the spool is there still, before a job is said not to be.

        Raises:
            errors.IoFailure: it is not mounted any more, or was moved away.
            OSError: it cannot be looked at.
        """
        try:
            os.stat(self.path("log"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.IoFailure(f"the spool {self.root} is not there any more",
                                   "mount it, or move it back") from error

    def free_bytes(self, *parts: str) -> int:
        """Return the bytes that an unprivileged user may still write below a spool path."""
        status = os.statvfs(self.path(*parts))
        return status.f_bavail * status.f_frsize


def _numbered(stem: str, number: int) -> str:
    """Return a further name for a file, cut to what a directory takes: any name may be long."""
    end = f".{number}.json"
    return os.fsdecode(os.fsencode(stem)[:_LONGEST_NAME - len(end)]) + end


def _entry(item: os.DirEntry[str], place: str) -> Entry | None:
    if not item.name.endswith(".json") or item.name.startswith("."):
        return None
    try:
        return _seen(item.name, place, item.stat(follow_symlinks=False))
    except FileNotFoundError:
        return None


def _seen(name: str, place: str, status: os.stat_result) -> Entry | None:
    stem = name.removesuffix(".json")
    if stem == name or name.startswith(".") or not stat.S_ISREG(status.st_mode):
        return None
    return Entry(stem, place, status.st_mtime, status.st_size)


def holder_text(stage: str, job: str = "") -> bytes:
    """Return what a lock file says of its holder: pid, its start time, stage, since, and a job."""
    pid = os.getpid()
    facts = {"pid": pid, "started": process_start(pid), "stage": stage, "since": time.time(),
             **({"job": job} if job else {})}
    return json.dumps(facts).encode() + b"\n"


def holder(path: str) -> dict[str, Any]:
    """Return what a lock file says of its holder; empty when it says nothing readable."""
    try:
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def process_start(pid: int) -> str:
    """Return the start time of a process in kernel ticks, or an empty text when it is gone.

    With the pid it names a process for good: pids recur, pairs do not (proc(5), field 22).
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def open_spool(option: str | None, settings: config.Config, by: str, *,
               create: bool = True) -> Spool:
    """Find, check and complete the spool.

    Order: ``--spool``, ``$DAQ_SPOOL``, ``cfg/spool``, ``$DATAROOT/spool``, the checkout's
    ``spool/``.

    Args:
        option: the ``--spool`` argument, or None.
        settings: the configuration.
        by: the tool's name.
        create: whether a new or empty directory becomes a spool; a lister leaves it alone.

    Raises:
        errors.BadConfig: no spool is named, the directory is not one, or it is on a network
            file system, where locks and inotify do not hold.
    """
    root = os.path.abspath(_choose(option, settings))
    if not create and not os.path.exists(os.path.join(root, MARKER)):
        raise errors.BadConfig(f"{root} is no spool", "name one with --spool or DAQ_SPOOL")
    dataroot = settings["dataroot"]
    if dataroot and root == os.path.join(os.path.abspath(dataroot), "spool"):
        config.make_dataroot(dataroot)
    _initialise(root)
    if not settings["network_spool"] and (kind := _foreign(root)):
        raise errors.BadConfig(f"{root} is on a network file system ({kind}), where locks and "
                               "inotify do not hold", "use a local directory, or set network_spool")
    return Spool(root, by, settings["hand_over"])


def _choose(option: str | None, settings: config.Config) -> str:
    dataroot = settings["dataroot"]
    checkout = os.environ.get("DAQ_CHECKOUT", "")
    choices = (option, os.environ.get("DAQ_SPOOL"), settings["spool"],
               dataroot and os.path.join(dataroot, "spool"),
               checkout and os.path.join(checkout, "spool"))
    for choice in choices:
        if choice:
            return str(choice)
    raise errors.BadConfig("no spool is named", "give --spool DIR or set DAQ_SPOOL")


def _initialise(root: str) -> None:
    marker = os.path.join(root, MARKER)
    fresh = not os.path.exists(marker)
    if fresh:
        _make_root(root)
        # the marker is the first thing we write: what else is here is not ours (dot-files do not
        # count: the embryo of a concurrent first start, a file manager's litter)
        strange = [name for name in os.listdir(root) if not name.startswith(".")]
        if strange and not os.path.exists(marker):
            raise errors.BadConfig(f"{root} is no spool: it holds {strange[0]!r} and no {MARKER}",
                                   "name an empty or a new directory")
    shared = _keep_umask(root)
    if fresh:
        fsops.put(marker, MARKER_TEXT)
    missing = [n for n in (*STAGES, *RESTS, *STORES) if not os.path.isdir(os.path.join(root, n))]
    for name in missing:
        # a socket is a door into a daemon: none but the owner, or the group, gets near it
        closed = name == "run"
        os.makedirs(os.path.join(root, name), (0o770 if shared else 0o700) if closed else 0o777,
                    exist_ok=True)
    if missing:
        fsops.fsync_dir(root)


def _make_root(root: str) -> None:
    """Make the directory of a new spool; its group shares it unless the umask shuts groups out."""
    above = os.path.dirname(root)
    fsops.make_folders(above)
    try:
        os.mkdir(root)
        mask = os.umask(0o077)
        os.umask(mask)
        if not mask & 0o050:
            os.chmod(root, 0o2775 & ~(mask & 0o005))
    except FileExistsError:
        pass  # whoever made it has decided who shares it
    fsops.settle_name(root)


def is_shared(folder: str) -> bool:
    """Tell whether a directory is one that a group works in: its own, and set-gid."""
    return os.stat(folder).st_mode & _SHARED == _SHARED


def _keep_umask(root: str) -> bool:
    """Let this process make files that the group may change, in a spool that a group shares.

    Whatever the umask is: a file that only one operator can mend is of no use to the others. To
    everybody nothing is ever open.
    """
    shared = is_shared(root)
    mask = os.umask(0o077) | 0o002
    os.umask(mask & ~0o070 if shared else mask)
    return shared


def _foreign(root: str) -> str:
    device = os.stat(root).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                left, _, right = line.partition(" - ")
                if left.split()[2] == wanted:
                    kind = right.split()[0]
                    return kind if kind in _FOREIGN else ""
    except OSError:
        pass
    return ""

"""A circuit breaker for each host: one that does not answer is left alone, but for single tries.

What is known of a host lies in the spool, ``lock/.host-HOST``, so that it holds for cron, persons
and watchers alike; no such file means that nothing is wrong. After ``cfg/breaker/failures``
failures in a row the circuit is open: one try in ``cfg/breaker/probe_sec`` is let through until
one succeeds. Then the jobs that were deferred because of the host are due at once.

The files are advice and are not made durable: one that is lost or spoiled costs a few tries that
come to nothing. Whatever a clock does, a circuit is open for one probe at most.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import string
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from daqlib import clock, errors, fsops, history
from daqlib.config import Config
from daqlib.spool import STAGES, Spool

_PREFIX = ".host-"
_GUARD = ".hosts"  # locked while a file is replaced; its time changes with each of them
_GUARD_PATIENCE = 2.0  # seconds; who holds the guard longer was stopped, and advice can wait
_PLAIN = frozenset(string.ascii_lowercase + string.digits + "._-")
_LONGEST = 200  # bytes of a file name that other file systems take, too
_SAME = 1.0  # seconds by which a due time may differ from the one that was recorded


class LeftAlone(errors.HostDown):
    """The host did not answer lately, and it is not the turn of this job to try it."""


@dataclass(frozen=True)
class Circuit:
    """What is known of a host that did not answer.

    Attributes:
        host: its name, as the jobs have it, without a user.
        failures: how often it did not answer in a row.
        reason: of the last time.
        since: of the first time, seconds since the epoch.
        probe: when it may be tried again, seconds since the epoch.
    """

    host: str
    failures: int
    reason: str
    since: float
    probe: float

    def is_open(self, settings: Config) -> bool:
        """Tell whether the host is left alone but for single tries."""
        return 0 < int(settings["breaker.failures"]) <= self.failures

    def wait(self, settings: Config, now: float) -> float:
        """Return the seconds until it may be tried again; 0 for now.

        Args:
            settings: ``breaker.failures``, ``breaker.probe_sec``.
            now: seconds since the epoch.
        """
        ahead = self.probe - now
        # further ahead than a probe can be: the clock was set back, and the mark means nothing
        believed = self.is_open(settings) and 0 < ahead <= settings["breaker.probe_sec"]
        return ahead if believed else 0.0


def name_of(host: str) -> str:
    """Return what stands for a host here: without the user, in lower case.

    Of an rsync daemon, ``rsync://[user@]host[:port]/module``, the host and its port.
    """
    scheme, daemon, where = host.rpartition("://")
    name = where.partition("/")[0] if daemon else where
    return f"{scheme}{daemon}{name.rpartition('@')[2]}".lower()


def path_of(on: Spool, host: str) -> str:
    """Return the path of the file that says what is known of a host."""
    quoted = "".join(c if c in _PLAIN else f"%{ord(c):02x}" for c in name_of(host))
    if len(quoted) > _LONGEST:
        quoted = "%" + hashlib.sha256(quoted.encode()).hexdigest()
    return on.path("lock", _PREFIX + quoted)


# -- for the stage tools ---------------------------------------------------------------------------


def check(on: Spool, settings: Config, *hosts: str) -> None:
    """Ask whether hosts may be tried now; of a host whose circuit is open this takes the turn.

    Args:
        on: the spool.
        settings: ``breaker.failures``, ``breaker.probe_sec``.
        hosts: all that the caller is going to use.

    Raises:
        LeftAlone: one of them is left alone until later.
    """
    if not any(os.path.exists(path_of(on, host)) for host in hosts):
        return
    with contextlib.suppress(OSError), _guarded(on):  # without advice the host is tried
        now = clock.now()
        found = [circuit for host in hosts if (circuit := of(on, host))
                 and circuit.is_open(settings)]
        for circuit in found:
            if circuit.wait(settings, now):
                raise _left_alone(on, circuit)
        for circuit in found:
            _write(on, Circuit(circuit.host, circuit.failures, circuit.reason, circuit.since,
                               now + settings["breaker.probe_sec"]))


def _left_alone(on: Spool, circuit: Circuit) -> LeftAlone:
    error = LeftAlone(
        told(circuit),
        f"it is tried again by itself; to try it at once: rm {path_of(on, circuit.host)}")
    error.host = circuit.host
    return error


def failed(on: Spool, settings: Config, host: str, reason: str) -> None:
    """Note that a host did not answer; never raises, as the failure itself is to be told.

    Args:
        on: the spool.
        settings: ``breaker.failures`` (0: nothing is noted), ``breaker.probe_sec``.
        host: which.
        reason: how it failed, in words.
    """
    if not settings["breaker.failures"]:
        return
    with contextlib.suppress(OSError), _guarded(on):
        now, before = clock.now(), of(on, host)
        # perhaps the words of another host
        plain = "".join(c if c.isprintable() else " " for c in reason)
        _write(on, Circuit(name_of(host), before.failures + 1 if before else 1, plain,
                           min(before.since, now) if before else now,
                           now + settings["breaker.probe_sec"]))


def succeeded(on: Spool, host: str) -> None:
    """Note that a host answered: what waited for it is due now; never raises."""
    path = path_of(on, host)
    if not os.path.exists(path):
        return
    with contextlib.suppress(OSError), _guarded(on) as guard:
        os.unlink(path)
        _tick(guard)
    with contextlib.suppress(OSError):
        _wake(on, name_of(host))


@contextlib.contextmanager
def trying(on: Spool, settings: Config, host: str) -> Iterator[None]:
    """Note how the use of a host within the block ended.

    A host that answers, be it that a file is missing there, is well; :class:`errors.HostDown` is a
    failure and gets the host's name; whatever else happens says nothing.
    """
    try:
        yield
    except LeftAlone:
        raise
    except errors.HostDown as error:
        error.host = name_of(host)
        failed(on, settings, host, error.message)
        raise
    except errors.BadData:
        succeeded(on, host)
        raise
    succeeded(on, host)


# -- for those who look ----------------------------------------------------------------------------


def told(circuit: Circuit) -> str:
    """Return in words that a host is left alone, and why."""
    return (f"{circuit.host} did not answer {circuit.failures} times ({circuit.reason}); "
            f"it is left alone until {clock.iso(circuit.probe, 0)}Z")


def of(on: Spool, host: str) -> Circuit | None:
    """Return what is known of a host; None: nothing is wrong, or the file says nothing."""
    return _read(path_of(on, host))


def all_of(on: Spool) -> list[Circuit]:
    """Return what is known of all hosts that did not answer lately."""
    with os.scandir(on.path("lock")) as entries:
        paths = sorted(entry.path for entry in entries if entry.name.startswith(_PREFIX))
    return [circuit for path in paths if (circuit := _read(path))]


def stamp(on: Spool) -> int:
    """Return a number that changes with every change of what :func:`all_of` returns."""
    try:
        return os.stat(on.path("lock", _GUARD)).st_mtime_ns
    except FileNotFoundError:
        return 0


# -- the files -------------------------------------------------------------------------------------


def _read(path: str) -> Circuit | None:
    try:
        data, _ = fsops.read_regular(path)
        said = json.loads(data)
        host, failures, reason = said["host"], said["failures"], said["reason"]
        times = [float(said[name]) for name in ("since", "probe")]
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    kinds = isinstance(host, str), type(failures) is int, isinstance(reason, str)
    return Circuit(host, failures, reason, *times) if all((
        *kinds, *map(math.isfinite, times))) else None


def _write(on: Spool, circuit: Circuit) -> None:
    path = path_of(on, circuit.host)
    embryo = fsops.temporary(path)
    with contextlib.suppress(OSError):  # the advice is not worth a failure
        try:
            with open(embryo, "x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(circuit)) + "\n")
            os.rename(embryo, path)
        except BaseException:
            fsops.remove(embryo)
            raise
        _tick(on.path("lock", _GUARD))


@contextlib.contextmanager
def _guarded(on: Spool) -> Iterator[str]:
    """Keep others from changing the files meanwhile, as long as the holder is not stopped."""
    path = on.path("lock", _GUARD)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o664)
    try:
        deadline = time.monotonic() + _GUARD_PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.005)
        yield path
    finally:
        os.close(fd)


def _tick(guard: str) -> None:
    now = time.time_ns()  # the kernel's own mark is a few milliseconds coarse
    try:
        os.utime(guard, ns=(now, now))
    except PermissionError:
        os.utime(guard)  # of a group's file only the owner may choose the time


def _wake(on: Spool, host: str) -> None:
    """Make the jobs due that were deferred because of a host and that nobody touched since."""
    now = time.time()
    for entry in on.scan(*STAGES[1:]):
        if entry.due <= now:
            continue
        event = history.last(on.events(entry.id), "defer", "killed")
        if event is None or event.get("host") != host:
            continue
        with contextlib.suppress(OSError, TypeError, ValueError):
            if abs(float(event["until"]) - entry.due) <= _SAME:
                os.utime(on.job_path(entry.place, entry.id))

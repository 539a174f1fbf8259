"""Bring news of the jobs that other hosts have into the histories here, as long as there are any.

One session to each host, whatever the number of jobs: what it costs grows with the news. A
session that breaks is begun anew, after a pause; what was heard before is not asked for again.
"""

from __future__ import annotations

import contextlib
import random
import select
import time
from typing import Any

from daqlib import breaker, cli, errors, farhost, follow, handover, names
from daqlib.config import Config
from daqlib.spool import Spool

Document = dict[str, Any]

_FIRST = 1.0  # seconds until a broken session is begun anew; doubles each time
_LINGER = 60.0  # seconds that a session is kept when no job needs it any more
_RESCAN = 30.0
_SILENCE = 4 * farhost.PING  # seconds without a word after which a host is taken for gone


class _Host:
    """What goes on with one host."""

    def __init__(self, on: Spool, settings: Config, to: str) -> None:
        self.to = to
        self._on = on
        self._settings = settings
        self._name = names.split_location(to)[0]
        self._session: farhost.Session | None = None
        self._followed: set[str] = set()
        self._aborting: list[str | None] = []  # for each reply that is due: the job it aborts
        self._refused: set[str] = set()  # aborts that are not asked for again in this session
        self.jobs: set[str] = set()
        self._failures = 0
        self._not_before = 0.0
        self._heard = self._pinged = self._needed = 0.0

    def fileno(self) -> int:
        """Return what to wait for, or -1."""
        return self._session.fileno() if self._session else -1

    def until(self, now: float) -> float:
        """Return the seconds until there is something to do without any news."""
        if self._session is None:
            return max(0.0, self._not_before - now)
        return max(0.0, self._pinged + farhost.PING - now)

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.close()
        self._session, self._followed, self._aborting = None, set(), []
        self._refused = set()

    def serve(self, changed: set[str] | None) -> None:
        """Do what is to be done now.

        Args:
            changed: the jobs here whose files changed; None: nobody knows.
        """
        now = time.monotonic()
        if self.jobs:
            self._needed = now
        if self._session is None and (not self.jobs or now < self._not_before):
            return
        try:
            self._go_on(changed, now)
        except errors.DaqError as error:
            self._failed(error)

    def _go_on(self, changed: set[str] | None, now: float) -> None:
        if self._session is None:
            changed = None
        far = self._session or self._begin()
        self._ask(far, changed)
        if now >= self._pinged + farhost.PING:
            self._pinged = now
            self._send(far, {"do": "ping"})
        far.flush()
        far.pump()
        self._hear(far)
        if now > self._heard + _SILENCE:
            raise errors.HostDown(f"{self._name}: nothing was heard of it for {_SILENCE:.0f} s")
        if now > self._needed + _LINGER:
            self.close()

    def _begin(self) -> farhost.Session:
        far = self._session = farhost.Session(self._settings, self.to)
        far.greet()
        self._heard = self._pinged = time.monotonic()
        self._failures = 0
        breaker.succeeded(self._on, self._name)
        handover.contacted(self._on, self.to)
        cli.detail(f"{self.to}: listening to it")
        return far

    def _send(self, far: farhost.Session, request: Document, aborting: str | None = None) -> None:
        far.send(request)
        self._aborting.append(aborting)

    def _ask(self, far: farhost.Session, changed: set[str] | None) -> None:
        looked_at = self.jobs if changed is None else self.jobs & changed
        for identifier in sorted(looked_at - self._refused - {*filter(None, self._aborting)}):
            if handover.is_abort_due(self._on, identifier):
                self._send(far, handover.abort_request(self._on, identifier), identifier)
        new = sorted(each for each in self.jobs - self._followed
                     if handover.arrived(self._on, each))
        for begin in range(0, len(new), handover.AT_ONCE):
            some = new[begin:begin + handover.AT_ONCE]
            self._send(far, {"do": "follow", "jobs": handover.question(self._on, some)})
        self._followed = {*new, *(self._followed & self.jobs)}

    def _hear(self, far: farhost.Session) -> None:
        replies = far.replies()
        if replies or far.news:
            self._heard = time.monotonic()
            handover.contacted(self._on, self.to)
        while far.news:
            handover.heard(self._on, self.to, far.news.popleft())
        for reply in replies:
            identifier = self._aborting.pop(0) if self._aborting else None
            if identifier:
                self._take_abort(identifier, reply)
            elif not reply.get("ok"):
                raise farhost.refusal(reply, self.to)

    def _take_abort(self, identifier: str, reply: Document) -> None:
        try:
            handover.take_abort(self._on, self.to, identifier, reply)
        except errors.DaqError as error:
            cli.warn(f"{identifier}: is not aborted yet: {error}")
            self._refused.add(identifier)
        self._followed.discard(identifier)  # its news are asked for, by the next question

    def _failed(self, error: errors.DaqError) -> None:
        if isinstance(error, errors.HostDown):
            breaker.failed(self._on, self._settings, self._name, error.message)
        self.close()
        self._failures += 1
        pause = min(float(self._settings["breaker.probe_sec"]),
                    _FIRST * 2 ** min(self._failures - 1, 16)) * random.uniform(0.8, 1.2)
        self._not_before = time.monotonic() + pause
        if self._failures == 1:
            cli.warn(f"no news from {self.to}: {error}")
        handover.contacted(self._on, self.to, error.message)


class Mirror:
    """All hosts that have jobs of this spool."""

    def __init__(self, on: Spool, settings: Config) -> None:
        """Begin without any session.

        Args:
            on: the spool.
            settings: the configuration.
        """
        self._on = on
        self._settings = settings
        self._hosts: dict[str, _Host] = {}

    def run(self) -> None:
        """Listen until told to end."""
        follower = follow.Follower(self._on, ("remote", "log"))
        changed: set[str] | None = None
        looked = 0.0
        try:
            while True:
                if changed is None:
                    self._look_at_all()
                    looked = time.monotonic()
                else:
                    self._look_at(changed)
                for host in list(self._hosts.values()):
                    host.serve(changed)
                self._wait(follower)
                changed = follower.changed(0)
                if time.monotonic() >= looked + _RESCAN:
                    changed = None
        finally:
            follower.close()
            for host in self._hosts.values():
                host.close()

    def _wait(self, follower: follow.Follower) -> None:
        now = time.monotonic()
        at_work = [host for host in self._hosts.values() if host.jobs or host.fileno() >= 0]
        descriptors = [fd for host in at_work if (fd := host.fileno()) >= 0]
        select.select([follower.fileno(), *descriptors], [], [],
                      min([_RESCAN, *(host.until(now) for host in at_work)]))

    def _look_at_all(self) -> None:
        jobs = handover.followed(self._on)
        for host in self._hosts.values():
            for identifier in host.jobs - jobs.keys():
                self._on.leave_history(identifier)
            host.jobs = set()
        for identifier, to in jobs.items():
            self._host(to).jobs.add(identifier)
            self._on.follow_history(identifier)

    def _look_at(self, changed: set[str]) -> None:
        for identifier in changed:
            to = handover.target(self._on, identifier)
            for host in self._hosts.values():
                host.jobs.discard(identifier)
            if to:
                self._host(to).jobs.add(identifier)
                self._on.follow_history(identifier)
            else:
                self._on.leave_history(identifier)

    def _host(self, to: str) -> _Host:
        return self._hosts.setdefault(to, _Host(self._on, self._settings, to))


def run(on: Spool, settings: Config, *, once: bool = False) -> int:
    """Bring news until told to end.

    Args:
        on: the spool.
        settings: the configuration.
        once: ask once, and return.

    Returns:
        The exit code: 0, or with ``once`` 75 when jobs are still on their way.

    Raises:
        errors.DaqError: with ``once``: a host could not be asked.
    """
    if once:
        return errors.Later.code if handover.news(on, settings) else errors.OK
    with contextlib.suppress(BrokenPipeError):
        Mirror(on, settings).run()
    return errors.OK

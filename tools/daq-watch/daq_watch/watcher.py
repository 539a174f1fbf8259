"""The loop of daq-watch: one process, one selector, nothing that has to be remembered.

Whatever kills the watcher, its workers go on and hold their claims; the next watcher sees them
by their locks. It looks at what changed, when a worker ended, when a deferred job is due, and at
the whole spool every ``cfg/scan_interval_sec``.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType

from daq_watch import aftermath, choice, index, lineage, needs, rests, worker
from daq_watch.companions import Companions
from daq_watch.needs import Needs
from daq_watch.notes import Notes
from daq_watch.nursery import Nursery
from daq_watch.worker import Worker
from daqlib import capacity, cli, config, errors, follow, fsops, names
from daqlib.config import Config
from daqlib.spool import STAGES, Entry, Spool

_STOP = (signal.SIGTERM, signal.SIGINT)
_LEAST_INTERVAL = 0.1
_GIVE_UP = 2.0  # seconds after the last KILL: what has not ended by then hangs in the kernel
#: Share of a processor that looking may take while changes pour in: one part in this many.
_LOOK_SHARE = 5
#: The same for scans of a spool in which nothing changes.
_SCAN_SHARE = 200
#: With less to do, ``--once`` is done before a nursery is ready.
_WORTH_A_NURSERY = 4


class Watcher:
    """Advances the jobs of a spool until it is told to stop."""

    def __init__(self, on: Spool, settings: Config, option: str | None,
                 tools: dict[str, list[str]], nursery: Nursery, companions: Companions, *,
                 once: bool) -> None:
        """Begin to watch; :meth:`run` does the work.

        Args:
            on: the spool; its watcher's lock is held by the caller.
            settings: the configuration.
            option: where it was read from, to read it again.
            tools: the argument vector of each stage's tool.
            nursery: starts workers.
            companions: what runs beside the watcher.
            once: end when nothing is due any more.
        """
        self._on = on
        self._settings = settings
        self._option = option
        self._tools = tools
        self._nursery = nursery
        self._companions = companions
        self._once = once
        self._workers: dict[int, Worker] = {}
        self._rests = rests.Rests(for_good=once)
        self._selector = selectors.DefaultSelector()
        # lock/: a worker of somebody else that ends frees its job and its slots
        self._follower = follow.Follower(on, (*index.STAGES, "lock"))
        self._listen(self._follower.fileno(), self._heed_changes)
        self._index = index.Index(on)
        self._needs = needs.Reader(on, settings)
        self._notes = Notes(on, settings, once=once)
        self._look_at = 0.0
        self._scan_at = 0.0
        self._earliest_look = 0.0
        self._low = ""
        self._doubt = False  # a tool could perhaps not read the configuration
        self._unreadable = ""
        self._trouble = ""
        self._stopped_by = 0
        self._give_up_at = math.inf
        self._failed = False
        self._at_rest = False

    def _listen(self, fd: int, act: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, act)

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to stop, or with ``once`` until nothing is due; return the exit code."""
        lineage.adopt()
        with self._signals():
            cli.say(f"watching {self._on.root} (process {os.getpid()})")
            self._survive(self._sweep)
            _tell_systemd("READY=1")
            self._nursery.begin(self._selector, self._notes.change)
            if not self._once:
                self._companions.begin(self._selector)
            while not self._finished():
                if time.monotonic() >= self._look_at:
                    self._survive(self._look)
                    continue
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._watch_time()
            self._nursery.close()
            self._companions.close()
            self._notes.remove()
        return self._answer()

    def _finished(self) -> bool:
        if self._stopped_by:
            return not self._workers or time.monotonic() >= self._give_up_at
        return self._once and self._at_rest

    def _patience(self) -> float:
        marks = [self._look_at, self._give_up_at, self._companions.next_at, self._notes.next_at]
        marks += [min(w.deadline, w.kill_at) for w in self._workers.values()]
        return max(0.0, min(marks) - time.monotonic())

    def _answer(self) -> int:
        if self._workers:
            pids = ", ".join(str(each.pid) for each in self._workers.values())
            cli.warn(f"left behind, because even KILL does not end them yet: {pids}")
        if self._stopped_by:
            return 128 + self._stopped_by if self._once else errors.OK
        left = max(len(self._index), bool(self._trouble))
        if left:
            cli.say(f"{left} left for later: daq-status says why")
        if self._failed:
            return errors.BadData.code
        return errors.Later.code if left else errors.OK

    def _survive(self, step: Callable[[], None]) -> None:
        """Take a step; when the system refuses, say so once and go on at the next scan."""
        try:
            step()
        except OSError as error:
            self._look_at = self._scan_at = time.monotonic() + self._interval()
            self._at_rest = not self._workers
            trouble = str(cli.from_os_error(error))
            if trouble != self._trouble:
                cli.warn(trouble)
            self._trouble = trouble

    def _interval(self) -> float:
        return max(_LEAST_INTERVAL, float(self._settings["scan_interval_sec"]))

    def _sweep(self) -> None:
        for place in (*STAGES, "hold", "log", "lock", "result", "run"):
            fsops.sweep(self._on.path(place))

    # -- looking -------------------------------------------------------------------------------

    def _look(self) -> None:
        began = time.process_time()
        scanned = time.monotonic() >= self._scan_at
        if scanned:
            self._scan()
        self._tend()
        started = 0
        if not self._stopped_by and len(self._index) and self._can_start():
            started = self._start_some()
        self._trouble = ""
        now = time.monotonic()
        # starts take their time, too, but are what looks are for: they put no other off
        cost = 0.0 if started else time.process_time() - began
        self._earliest_look = now + (_LOOK_SHARE - 1) * cost
        self._look_at = max(self._earliest_look, now + self._wait())
        idle = not started and not self._workers and self._rests.wait() == math.inf
        self._at_rest = idle and scanned and not self._needs.postponed
        if self._once and idle and not scanned:
            self._scan_at = self._look_at = 0.0  # only the whole is the truth

    def _scan(self) -> None:
        began = time.process_time()
        changed = self._index.scan()
        cost = time.process_time() - began
        self._check_names(changed)
        present = self._index.keys()
        self._rests.keep(present)
        self._needs.keep(present)
        self._reap_orphans()
        self._scan_at = time.monotonic() + max(self._interval(), _SCAN_SHARE * cost)

    def _tend(self) -> None:
        circuits = {circuit.host for circuit in self._needs.circuits}
        self._needs.look()
        if circuits - {circuit.host for circuit in self._needs.circuits}:
            self._rests.free()  # a host answers again: who was turned away may go on
        if not self._once or len(self._index) >= _WORTH_A_NURSERY:
            self._nursery.tend()

    def _wait(self) -> float:
        """Return the seconds until there may be something to do without anybody saying so."""
        if self._needs.postponed:
            return 0.0
        now = time.time()
        probes = [wait for circuit in self._needs.circuits
                  if (wait := circuit.wait(self._settings, now))]
        return min(self._scan_at - time.monotonic(), self._index.next_due(now),
                   self._rests.wait(), *probes)

    def _look_soon(self) -> None:
        self._look_at = min(self._look_at, max(self._earliest_look, time.monotonic()))
        self._at_rest = False

    def _check_names(self, entries: Collection[Entry]) -> None:
        for entry in entries:
            try:
                names.check_id(entry.id)
            except errors.BadData as error:
                # a stage tool is asked by id, so that nobody else would ever look at this file
                self._index.drop(entry)
                name = self._on.to_bad(entry.place, f"{entry.id}.json", str(error))
                cli.warn(f"{entry.place}/{entry.id}.json: {error}; moved to bad/{name}")
                self._failed = True

    def _can_start(self) -> bool:
        return self._has_configuration() and self._has_space()

    def _has_configuration(self) -> bool:
        """Tell whether the tools can read their configuration, which need not be ours any more.

        They would all be turned away, one after the other, and each would say why.
        """
        if not self._doubt:
            return True
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # of unknown keys the tools tell
                config.load(self._option)
        except (errors.DaqError, OSError) as error:
            if str(error) != self._unreadable:
                cli.warn(f"nothing is started until this is mended: {error}")
            self._unreadable = str(error)
            return False
        if self._unreadable:
            cli.say("the configuration can be read again")
            self._rests.free()
        self._doubt, self._unreadable = False, ""
        return True

    def _has_space(self) -> bool:
        low = capacity.shortage(self._on, self._settings)
        if low and not self._low:
            cli.warn(f"{low}: nothing is started until there is more")
        elif self._low and not low:
            cli.say("there is enough free space again")
        self._low = low
        return not low

    # -- starting ------------------------------------------------------------------------------

    def _start_some(self) -> int:
        room = choice.Room(self._on, self._settings, self._workers.values())
        chosen = choice.choose(self._on, self._index, self._needs, room, self._may_start)
        return sum(self._start(entry, wanted) for entry, wanted in chosen)

    def _may_start(self, entry: Entry, wanted: Needs) -> bool:
        at_work = any(each.job == entry.id for each in self._workers.values())
        return not at_work and self._rests.may((entry.place, entry.id)) and (
            not self._is_left_alone(wanted))

    def _is_left_alone(self, wanted: Needs) -> bool:
        """Tell whether a host is not to be tried now, or is being tried by a worker of ours."""
        now = time.time()
        return any(circuit.wait(self._settings, now)
                   or any(circuit.host in each.needs.hosts for each in self._workers.values())
                   for circuit in self._needs.circuits if circuit.host in wanted.hosts)

    def _start(self, entry: Entry, wanted: Needs) -> bool:
        key = (entry.place, entry.id)
        if self._on.look(*key) != entry:  # it changed, and the news is still on its way
            self._check_names(self._index.update([entry.id]))
            return False
        self._rests.started(key)
        try:
            made = worker.start(self._on, self._settings, entry, wanted, self._tools[entry.place],
                                self._nursery.bear)
        except OSError as error:
            if os.path.exists(self._on.job_path(*key)):  # else it was moved just now
                cli.warn(f"{entry.id}: cannot start daq-{entry.place}: {cli.from_os_error(error)}")
                self._rests.fruitless(key, self._interval())
            return False
        self._workers[made.pidfd] = made
        self._listen(made.pidfd, lambda: self._ended(made))
        self._notes.change()
        cli.say(f"{entry.id}: {entry.place} started (process {made.pid})")
        return True

    # -- what happens --------------------------------------------------------------------------

    def _heed_changes(self) -> None:
        changed = self._follower.changed()
        self._look_soon()
        if changed is None:
            self._scan_at = self._look_at = 0.0
            return
        self._rests.news(changed - {each.job for each in self._workers.values()})
        self._survive(lambda: self._check_names(self._index.update(changed)))

    def _ended(self, made: Worker) -> None:
        self._selector.unregister(made.pidfd)
        code = made.reap()
        self._doubt |= code == errors.BadConfig.code
        if code < 0:
            lineage.end_holders(self._on.lock_path(made.job))
        if not (self._stopped_by and code == -signal.SIGTERM):  # ended by us before it began
            self._survive(lambda: self._settle(made, code))
        self._heed_changes()  # what the worker did itself is no reason to start it again
        del self._workers[made.pidfd]
        self._notes.change()
        self._survive(lambda: self._check_names(self._index.update([made.job])))
        key = (made.stage, made.job)
        if self._index.entry(key) is None:
            self._rests.forget(key)
        elif self._is_as_it_was(made):
            # after a success it is most likely back because a person moved it
            self._rests.fruitless(key, self._interval() if code else rests.LEAST)
        if code < 0:
            self._reap_orphans()

    def _is_as_it_was(self, made: Worker) -> bool:
        """Tell whether a worker left its job in the stage without a new due time."""
        try:
            status = os.stat(self._on.job_path(made.stage, made.job))
        except FileNotFoundError:
            return False
        return status.st_mtime_ns == made.mtime_ns

    def _settle(self, made: Worker, code: int) -> None:
        self._failed |= aftermath.settle(self._on, self._settings, made, code)

    def _reap_orphans(self) -> None:
        lineage.reap({*(each.pid for each in self._workers.values()), self._nursery.pid,
                      *self._companions.pids()})

    def _watch_time(self) -> None:
        now = time.monotonic()
        for each in self._workers.values():
            if now >= each.kill_at:
                cli.warn(f"{each.job}: daq-{each.stage} (process {each.pid}) does not end: killed")
                each.kill()
            elif now >= each.deadline:
                each.deadline = each.since + worker.allowance(self._on, self._settings, each)
                self._notes.change()
                if each.deadline <= now:
                    self._overtime(each)
        if now >= self._companions.next_at and not self._stopped_by:
            self._companions.tend(self._settings)
            self._notes.change()
        if now >= self._notes.next_at:
            self._notes.write(self._workers.values(), self._companions,
                              self._nursery.pid if self._nursery.is_ready else 0)

    def _overtime(self, each: Worker) -> None:
        allowed = each.deadline - each.since
        reason = f"took longer than {allowed:.0f} s (cfg/timeout)"
        cli.warn(f"{each.job}: daq-{each.stage} (process {each.pid}) {reason}: told to end")
        each.deadline = math.inf
        with contextlib.suppress(OSError):  # without the record the try counts all the same
            self._on.log(each.job, "overtime", stage=each.stage, reason=reason)
        each.terminate()

    # -- signals -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for signum in (*_STOP, signal.SIGHUP):
            # a parent that ignores SIGINT is respected; HUP has a meaning of its own here
            if signum == signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, _nothing)
        self._listen(reader, lambda: self._heed_signals(reader))
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)

    def _heed_signals(self, reader: int) -> None:
        for signum in os.read(reader, 64):
            if signum == signal.SIGHUP:
                self._reload()
            elif signum in _STOP:
                self._stop(signum)

    def _stop(self, signum: int) -> None:
        if self._stopped_by:
            cli.say("told twice: ending the workers at once")
        elif self._workers:
            cli.say(f"stopping: waiting for {len(self._workers)} to end")
        else:
            cli.say("stopping")
        _tell_systemd("STOPPING=1")
        for each in self._workers.values():
            each.kill() if self._stopped_by else each.terminate()
        patience = 0.0 if self._stopped_by else worker.GRACE
        self._give_up_at = time.monotonic() + patience + _GIVE_UP
        self._stopped_by = signum

    def _reload(self) -> None:
        try:
            self._settings = config.load(self._option)
        except (errors.DaqError, OSError) as error:
            cli.warn(f"the old configuration stays in force: {error}")
            return
        cli.say(f"read the configuration again: {self._settings.path or 'defaults'}")
        self._needs = needs.Reader(self._on, self._settings)
        self._notes.take_over(self._settings)
        if not self._once:
            self._companions.reload(self._settings)
        self._scan_at = 0.0
        self._look_soon()


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """Let the wake-up descriptor tell the loop; a signal without a handler tells nobody."""


def _tell_systemd(state: str) -> None:
    """Tell a service manager that waits for it (sd_notify(3)); there may be none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.sendto(state.encode(), address.replace("@", "\0", 1))

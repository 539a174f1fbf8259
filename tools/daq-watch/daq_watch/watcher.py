"""The loop of daq-watch: one process, one selector, nothing that has to be remembered.

Whatever kills the watcher, its workers go on and hold their claims; the next watcher sees them
by their locks. It looks at the spool when something changed, when a worker ended, when a
deferred job is due, and every ``cfg/scan_interval_sec`` in any case.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from daq_watch import aftermath, choice, rests, worker
from daq_watch.worker import Worker
from daqlib import capacity, cli, config, errors, follow, fsops, names
from daqlib.config import Config
from daqlib.spool import STAGES, Entry, Spool

_STOP = (signal.SIGTERM, signal.SIGINT)
_LEAST_INTERVAL = 0.1
_GIVE_UP = 2.0  # seconds after the last KILL: what has not ended by then hangs in the kernel
#: Share of a processor that looking may take while changes pour in: one part in this many.
_LOOK_SHARE = 5


class Watcher:
    """Advances the jobs of a spool until it is told to stop."""

    def __init__(self, on: Spool, settings: Config, option: str | None,
                 tools: dict[str, list[str]], *, once: bool) -> None:
        """Begin to watch; :meth:`run` does the work.

        Args:
            on: the spool; its watcher's lock is held by the caller.
            settings: the configuration.
            option: where it was read from, to read it again.
            tools: the argument vector of each stage's tool.
            once: end when nothing is due any more.
        """
        self._on = on
        self._settings = settings
        self._option = option
        self._tools = tools
        self._once = once
        self._workers: dict[int, Worker] = {}
        self._rests = rests.Rests(for_good=once)
        self._selector = selectors.DefaultSelector()
        # lock/: a worker of somebody else that ends frees its job and its slots
        self._follower = follow.Follower(on, (*choice.STAGES, "lock"))
        self._listen(self._follower.fileno(), self._heed_changes)
        self._look_at = 0.0
        self._earliest_look = 0.0
        self._low = ""
        self._trouble = ""
        self._stopped_by = 0
        self._give_up_at = math.inf
        self._failed = False
        self._left = 0
        self._at_rest = False

    def _listen(self, fd: int, act: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, act)

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to stop, or with ``once`` until nothing is due; return the exit code."""
        with self._signals():
            cli.say(f"watching {self._on.root} (process {os.getpid()})")
            self._survive(self._sweep)
            while not self._finished():
                if time.monotonic() >= self._look_at:
                    self._survive(self._look)
                    continue
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._watch_time()
        return self._answer()

    def _finished(self) -> bool:
        if self._stopped_by:
            return not self._workers or time.monotonic() >= self._give_up_at
        return self._once and self._at_rest

    def _patience(self) -> float:
        marks = [self._look_at, self._give_up_at]
        marks += [min(w.deadline, w.kill_at) for w in self._workers.values()]
        return max(0.0, min(marks) - time.monotonic())

    def _answer(self) -> int:
        if self._workers:
            pids = ", ".join(str(each.pid) for each in self._workers.values())
            cli.warn(f"left behind, because even KILL does not end them yet: {pids}")
        if self._stopped_by:
            return 128 + self._stopped_by if self._once else errors.OK
        if self._left:
            cli.say(f"{self._left} left for later: daq-status says why")
        if self._failed:
            return errors.BadData.code
        return errors.Later.code if self._left else errors.OK

    def _survive(self, step: Callable[[], None]) -> None:
        """Take a step; when the system refuses, say so once and go on at the next scan."""
        try:
            step()
        except OSError as error:
            self._look_at = time.monotonic() + self._interval()
            self._at_rest = not self._workers
            self._left = max(1, self._left)
            trouble = str(cli.from_os_error(error))
            if trouble != self._trouble:
                cli.warn(trouble)
            self._trouble = trouble

    def _interval(self) -> float:
        return max(_LEAST_INTERVAL, float(self._settings["scan_interval_sec"]))

    def _sweep(self) -> None:
        for place in (*STAGES, "hold", "log", "result"):
            fsops.sweep(self._on.path(place))

    # -- looking and starting ------------------------------------------------------------------

    def _look(self) -> None:
        began = time.monotonic()
        jobs = choice.scan(self._on)
        for stage, entries in jobs.items():
            jobs[stage] = [entry for entry in entries if self._is_named_well(entry)]
        present = {(stage, entry.id) for stage, entries in jobs.items() for entry in entries}
        self._rests.keep(present)
        started = 0
        if not self._stopped_by and self._has_space():
            started = self._start_some(jobs)
        self._left = len(present)
        self._trouble = ""
        now = time.monotonic()
        self._earliest_look = now + (_LOOK_SHARE - 1) * (now - began)
        wait = min(self._interval(), choice.next_due(jobs, time.time()), self._rests.wait())
        self._look_at = max(self._earliest_look, now + wait)
        self._at_rest = not started and not self._workers and self._rests.wait() == math.inf

    def _look_soon(self) -> None:
        self._look_at = min(self._look_at, max(self._earliest_look, time.monotonic()))
        self._at_rest = False

    def _is_named_well(self, entry: Entry) -> bool:
        try:
            names.check_id(entry.id)
        except errors.BadData as error:
            # a stage tool is asked by id, so that nobody else would ever look at this file
            name = self._on.to_bad(entry.place, f"{entry.id}.json", str(error))
            cli.warn(f"{entry.place}/{entry.id}.json: {error}; moved to bad/{name}")
            self._failed = True
            return False
        return True

    def _has_space(self) -> bool:
        low = capacity.shortage(self._on, self._settings)
        if low and not self._low:
            cli.warn(f"{low}: nothing is started until there is more")
        elif self._low and not low:
            cli.say("there is enough free space again")
        self._low = low
        return not low

    def _start_some(self, jobs: choice.Jobs) -> int:
        workers = self._workers.values()
        running = {stage: sum(w.stage == stage for w in workers) for stage in choice.STAGES}
        left = choice.room(self._on, self._settings, {w.pid for w in workers}, running)
        chosen = choice.choose(self._on, jobs, left, self._may_start)
        return sum(self._start(stage, entry) for stage, entry in chosen)

    def _may_start(self, stage: str, entry: Entry) -> bool:
        at_work = any(each.job == entry.id for each in self._workers.values())
        return not at_work and self._rests.may((stage, entry.id))

    def _start(self, stage: str, entry: Entry) -> bool:
        key = (stage, entry.id)
        self._rests.started(key)
        try:
            made = worker.start(self._on, self._settings, stage, entry, self._tools[stage])
        except OSError as error:
            if os.path.exists(self._on.job_path(stage, entry.id)):  # else it was moved just now
                cli.warn(f"{entry.id}: cannot start daq-{stage}: {cli.from_os_error(error)}")
                self._rests.fruitless(key, self._interval())
            return False
        self._workers[made.pidfd] = made
        self._listen(made.pidfd, lambda: self._ended(made))
        cli.say(f"{entry.id}: {stage} started (process {made.pid})")
        return True

    # -- what happens --------------------------------------------------------------------------

    def _heed_changes(self) -> None:
        changed = self._follower.changed()
        self._rests.news(changed or ())
        self._look_soon()

    def _ended(self, made: Worker) -> None:
        self._selector.unregister(made.pidfd)
        del self._workers[made.pidfd]
        code = made.reap()
        if not (self._stopped_by and code == -signal.SIGTERM):  # ended by us before it began
            self._survive(lambda: self._settle(made, code))
        self._heed_changes()  # what the worker did itself is no reason to start it again
        if self._is_as_it_was(made):
            # after a success it is most likely back because a person moved it
            pause = self._interval() if code else rests.LEAST
            self._rests.fruitless((made.stage, made.job), pause)

    def _is_as_it_was(self, made: Worker) -> bool:
        """Tell whether a worker left its job in the stage without a new due time."""
        try:
            status = os.stat(self._on.job_path(made.stage, made.job))
        except FileNotFoundError:
            return False
        return status.st_mtime_ns == made.mtime_ns

    def _settle(self, made: Worker, code: int) -> None:
        self._failed |= aftermath.settle(self._on, self._settings, made, code)

    def _watch_time(self) -> None:
        now = time.monotonic()
        for each in self._workers.values():
            if now >= each.kill_at:
                cli.warn(f"{each.job}: daq-{each.stage} (process {each.pid}) does not end: killed")
                each.kill()
            elif now >= each.deadline:
                each.deadline = each.since + worker.allowance(self._on, self._settings, each)
                if each.deadline <= now:
                    self._overtime(each)

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
        self._look_soon()


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """Let the wake-up descriptor tell the loop; a signal without a handler tells nobody."""

"""Serve several receivers at once, each by a child process: a slow one delays no other.

The children are forks, which hold the job's lock as the tool itself does, and end with it. They
only deliver; what they report the tool records at once, so that one receiver's receipt is durable
while others are still at it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from daq_release import children
from daqlib import cli, errors

Document = dict[str, Any]
Told = Callable[[int], None]
T = TypeVar("T")
C = TypeVar("C", contravariant=True)

_GRACE = 8.0  # seconds from TERM to KILL; within them a child ends what it runs itself
_PAUSE = 0.5  # seconds between two reports of progress


class Died(errors.Later):
    """A child was killed: that is no fault of its receiver."""


@dataclass
class _Child(Generic[T]):
    task: T
    pid: int
    reader: int
    text: bytes = b""
    answer: Document = field(default_factory=dict)


class Places(Protocol[C]):
    """The places that deliveries need, of which there may be fewer than deliveries."""

    def take(self, task: C) -> bool:
        """Take a place for a task if there is one; there is when no other task is at work."""

    def give(self, task: C) -> None:
        """Give the place of a task back."""


#: How a delivery ended: what it brought, or why not.
Answer = Document | errors.DaqError


def serve(tasks: Sequence[T], work: Callable[[T, Told], Document], *,
          places: Places[T], progress: Callable[[T, int], None],
          ) -> Generator[tuple[T, Answer]]:
    """Yield how each delivery ended, as soon as it has.

    Args:
        tasks: what to deliver to whom; a single one is done in this process.
        work: delivers, telling how many bytes have arrived; returns what to record.
        places: a task begins when it gets one.
        progress: is told how many bytes of a task have arrived.
    """
    if len(tasks) == 1:
        yield tasks[0], _answer(tasks[0], work, lambda done: progress(tasks[0], done))
        return
    with _Crew(work) as crew:
        waiting = list(tasks)
        while waiting or crew.at_work:
            for task in [task for task in waiting if places.take(task)]:
                waiting.remove(task)
                crew.begin(task)
            for task, said in crew.hear():
                if isinstance(said, int):
                    progress(task, said)
                else:
                    places.give(task)
                    yield task, said


def _answer(task: T, work: Callable[[T, Told], Document], told: Told) -> Answer:
    try:
        return work(task, told)
    except errors.DaqError as error:
        return error
    except OSError as error:
        return cli.from_os_error(error)


class _Crew(Generic[T]):
    """The children; a context manager, on leaving which none of them runs any more."""

    def __init__(self, work: Callable[[T, Told], Document]) -> None:
        self._work = work
        self._bind = children.bound_to_parent()
        self._selector = selectors.DefaultSelector()
        self.at_work: dict[int, _Child[T]] = {}

    def __enter__(self) -> _Crew[T]:
        return self

    def __exit__(self, *_: object) -> None:
        with children.held():  # told twice to end, we still end them first
            self._end()
        self._selector.close()

    def begin(self, task: T) -> None:
        """Start a child."""
        reader, writer = os.pipe()
        with children.held() as mask:
            pid = os.fork()
            if pid == 0:
                self._child(task, writer, mask)
            os.close(writer)
            self.at_work[pid] = _Child(task, pid, reader)
            self._selector.register(reader, selectors.EVENT_READ, self.at_work[pid])

    def _child(self, task: T, writer: int, mask: set[int]) -> None:
        code = 1
        try:
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, _terminate)
            self._bind()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _tell(writer, _encoded(_answer(task, self._work, _rarely(writer))))
            code = 0
        except cli.Terminated as stop:
            code = 128 + stop.signum
        except Exception as error:
            text = f"internal error: {type(error).__name__}: {error}"
            _tell(writer, _encoded(errors.Bug(text, "report it")))
        finally:
            os._exit(code)  # nothing of the tool's own is to be done twice

    def hear(self) -> list[tuple[T, Answer | int]]:
        """Wait until children report or end; return what they said."""
        heard: list[tuple[T, Answer | int]] = []
        for key, _ in self._selector.select():
            child: _Child[T] = key.data
            text = os.read(child.reader, 1 << 16)
            child.text += text
            *lines, child.text = child.text.split(b"\n")
            for line in map(json.loads, lines):
                if "at" in line:
                    heard.append((child.task, int(line["at"])))
                else:
                    child.answer = line
            if not text:
                heard.append((child.task, self._ended(child)))
        return heard

    def _ended(self, child: _Child[T]) -> Answer:
        self._forget(child)
        status = _reap(child.pid, 0)
        if child.answer:
            return _decoded(child.answer)
        if status is not None and os.WIFSIGNALED(status):
            return Died(f"the process that delivered was killed by signal {os.WTERMSIG(status)}")
        return Died("the process that delivered was told to end")

    def _forget(self, child: _Child[T]) -> None:
        self._selector.unregister(child.reader)
        os.close(child.reader)
        del self.at_work[child.pid]

    def _end(self) -> None:
        for signum, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
            for pid in self.at_work:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
            deadline = time.monotonic() + patience
            while self.at_work and time.monotonic() < deadline:
                for child in list(self.at_work.values()):
                    if _reap(child.pid, os.WNOHANG) is not None:
                        self._forget(child)
                time.sleep(0.01)


def _reap(pid: int, options: int) -> int | None:
    """Return how a child ended; None while it runs."""
    try:
        found, status = os.waitpid(pid, options)
    except ChildProcessError:  # who started us ignores SIGCHLD: the kernel has reaped it
        return 0
    return status if found else None


def _terminate(signum: int, _frame: object) -> None:
    cli.settle()  # the tool and its process group may both tell us
    raise cli.Terminated(signum)


def _rarely(writer: int) -> Told:
    last = 0.0

    def told(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PAUSE:
            last = now
            _tell(writer, {"at": done})

    return told


def _tell(writer: int, document: Document) -> None:
    data = memoryview(json.dumps(document).encode() + b"\n")
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(writer, data):]


def _encoded(answer: Answer) -> Document:
    if isinstance(answer, dict):
        return {"brought": answer}
    return {"error": type(answer).__name__, "message": answer.message, "remedy": answer.remedy,
            "host": getattr(answer, "host", "")}


def _decoded(said: Document) -> Answer:
    if "brought" in said:
        brought: Document = said["brought"]
        return brought
    kind: type[errors.DaqError] = getattr(errors, said["error"], errors.IoFailure)
    made = kind(said["message"], said["remedy"])
    if isinstance(made, errors.HostDown):
        made.host = said["host"]
    return made

"""Where an adapter is tried: orders for it, each with a job and a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from daq_ctl import sources
from daq_ctl.sources import Delivery, Order, Source
from daqlib import config, errors, names, schema

T = TypeVar("T")

#: Seconds for what comes at once on a machine at rest: only a hang takes all of them.
PATIENCE_S = 60.0
_FITS, _GZIP = b"SIMPLE  =", b"\x1f\x8b"
_TURN_S, _TURNS = 0.01, 100  # a loop that did not turn while a thread beside it did so often


@dataclass
class Bench:
    """A source and what is known of it.

    Attributes:
        kind: ``primarySource`` or ``metadataSource``.
        uri: its URI.
        options: its options.
        folder: of the test.
        settings: the configuration.
        config: the file that it came from, or None.
        feeder: command that makes it bring something, or empty.
        ends: seconds within which it ends by itself, or None.
    """

    kind: str
    uri: str
    options: dict[str, Any]
    folder: Path
    settings: config.Config
    config: str | None = None
    feeder: str = ""
    ends: float | None = None
    orders: list[Order] = field(default_factory=list)

    @property
    def primary(self) -> bool:
        """Tell whether it is a primary source."""
        return self.kind == "primarySource"

    def order(self, **options: Any) -> Order:
        """Return the order for a new job; further options are added to the usual ones."""
        job = f"conformance-{secrets.token_hex(6)}"
        description = {"type": self.kind, "sourceName": "source", "rrUri": self.uri,
                       "options": {**self.options, **options}}
        made = Order(description, job, float(self.settings["request_timeout_sec"]),
                     str(self.folder / job / "live" / "source"), self.settings)
        (self.folder / job).mkdir()
        self.orders.append(made)
        return made

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a test in a loop of its own; nothing that it began goes on afterwards."""
        async def limited() -> T:
            try:
                async with asyncio.timeout(4 * PATIENCE_S + (self.ends or 0)):
                    return await work()
            finally:
                await self._tidy()
        return asyncio.run(limited())

    async def _tidy(self) -> None:
        for order in self.orders:
            with contextlib.suppress(errors.DaqError, OSError):
                source = sources.make(order)
                await source.abort()
                await source.close()

    @contextlib.asynccontextmanager
    async def recording(self, order: Order | None = None) -> AsyncIterator[Source]:
        """Make an adapter and have it record; it is closed in the end."""
        source = sources.make(order or self.order())
        try:
            await source.prepare()
            await source.start()
            yield source
        finally:
            await source.close()

    async def feed(self, source: Source) -> None:
        """Have the source bring something."""
        if self.feeder:
            feeder = await asyncio.create_subprocess_exec(
                *shlex.split(self.feeder), env={**os.environ, "DAQ_ID": source.job},
                stdin=subprocess.DEVNULL)
            assert await feeder.wait() == 0, f"the feeder failed: {self.feeder}"

    async def stop(self, source: Source) -> Delivery:
        """Stop a recording and see that the delivery is what it must be."""
        made = await source.stop(PATIENCE_S)
        self.check(made)
        return made

    def check(self, made: Delivery) -> None:
        """See that a delivery is whole and fit for the log."""
        assert isinstance(made, Delivery)
        assert not made.fault and not made.keyword_fault, made
        assert made.files or not self.primary, "a primary source brings files"
        assert made.files or made.keywords, "it brought nothing"
        texts = [*made.remarks, *made.files]
        assert all(isinstance(text, str) and text.isprintable() for text in texts), texts
        schema.check("keywords", made.keywords, "its keywords")
        json.dumps(made.keywords, allow_nan=False)
        assert len(set(made.files)) == len(made.files), made.files
        for location in made.files:
            host, path = names.split_location(location)
            names.file_name(path)
            assert host or _is_fits(path), f"{path} is no FITS file"

    @contextlib.asynccontextmanager
    async def killed(self, order: Order, *steps: str) -> AsyncIterator[None]:
        """Have a process of its own do some steps, kill it with SIGKILL, and go on.

        What it began may go on, as after the end of a daemon.
        """
        told = {"description": order.description, "job": order.job, "timeout": order.timeout,
                "folder": order.folder, "config": self.config, "steps": steps}
        life = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "daq_ctl.conformance.first_life",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
        assert life.stdin and life.stdout
        try:
            life.stdin.write(json.dumps(told).encode() + b"\n")
            async with asyncio.timeout(PATIENCE_S):
                for step in steps:
                    word = await life.stdout.readline()
                    assert word.decode().strip() == step, f"{step} failed, see above"
        finally:
            with contextlib.suppress(ProcessLookupError):
                life.kill()
            await life.wait()
        yield


def _is_fits(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(len(_FITS))
    return head == _FITS or head.startswith(_GZIP)


async def refusal(question: Awaitable[object]) -> errors.DaqError:
    """Return the error with which something is refused; it says what to do."""
    try:
        await question
    except errors.DaqError as error:
        assert error.message.isprintable() and error.message, error
        assert error.remedy, f"no remedy: {error}"
        return error
    raise AssertionError("it was not refused")


@contextlib.contextmanager
def turning() -> Iterator[None]:
    """See that the running event loop is never blocked.

    A thread looks beside it. It counts its own turns, not time: a machine that is busy delays both.
    """
    loop, over = asyncio.get_running_loop(), threading.Event()
    turns, blocked = [0], [""]
    ours = threading.get_ident()

    def turn() -> None:
        turns[0] += 1
        loop.call_later(_TURN_S, turn)

    def look() -> None:
        last = since = 0
        while not over.is_set() and not blocked[0]:
            time.sleep(_TURN_S)
            since = 0 if turns[0] != last else since + 1
            last = turns[0]
            if since >= _TURNS:
                blocked[0] = "".join(traceback.format_stack(sys._current_frames()[ours]))

    turn()
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert not blocked[0], f"the event loop was blocked at\n{blocked[0]}"


def holdings() -> dict[str, int]:
    """Return what this process holds: descriptors, threads, children, tasks."""
    threads = [each for each in threading.enumerate()
               if not each.name.startswith(("asyncio_", "durable"))]  # kept for the next work
    here = Path("/proc/self")
    children = (here / "task" / str(os.getpid()) / "children").read_text().split()
    return {"open files": len(os.listdir(here / "fd")), "threads": len(threads),
            "child processes": len(children), "tasks": len(asyncio.all_tasks())}

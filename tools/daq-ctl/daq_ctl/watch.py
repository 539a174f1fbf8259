"""Watch the sources of an acquisition that records: who ended, who is in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from daq_ctl import live
from daq_ctl.journal import Journal, log
from daq_ctl.live import Live
from daqlib import cli, errors, progress

_RETRY_S = 2.0  # pause after a failed look at a source
_REPORT_S = 1.0  # between two reports of how far it is
_HEAD_START_S = 0.1  # the reply to the command that began the watch leaves first


class Progress(NamedTuple):
    """How far an exposure is; all times in seconds.

    Attributes:
        what: the source.
        done: how long it has lasted.
        total: how long it will last in all.
        left: how long it still lasts.
    """

    what: str
    done: float
    total: float
    left: float


class Watch:
    """The tasks that watch; each looks at one source and tells of trouble in the journal."""

    def __init__(self, journal: Journal, sources: list[Live], interval: float,
                 folder: str) -> None:
        """Prepare to watch.

        Args:
            journal: takes the alerts.
            sources: the live sources.
            interval: seconds that one request to wait for completion covers.
            folder: the job's data directory.
        """
        self._journal, self._sources, self._interval = journal, sources, interval
        self._folder = folder
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, ended: Callable[[], Awaitable[None]]) -> None:
        """Watch, and call ``ended`` when all primary sources have ended (manual 9.2.1).

        It is called at once when there is no live source at all, and never when there are
        metadata sources only.
        """
        primary = [each for each in self._sources if each.primary]
        for each in self._sources:
            if not each.primary:
                self.spawn(self._tend(each))
        if primary:
            self.spawn(self._report())
        if primary or not self._sources:
            self.spawn(self._until_all_end(primary, ended))

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something that ends with the watch."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Stop watching; a task that asks for it goes on."""
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def progress(self) -> Progress | None:
        """Return how far the primary sources are: of several the one that ends last."""
        told = [(total - done, each.name, done, total) for each in self._sources
                if each.primary and each.phase == "started"
                for done, total in [each.source.progress() or (0.0, -1.0)] if total >= 0]
        if not told:
            return None
        left, name, done, total = max(told)
        return Progress(name, round(max(0.0, min(done, total)), 1), round(total, 1),
                        round(max(0.0, left), 1))

    async def _report(self) -> None:
        """Write down once a second how far the recording is, for whoever looks at the job."""
        try:
            while self._journal.substate == "Acquiring":
                if told := self.progress():
                    await asyncio.to_thread(progress.tell, self._folder, "acquire", told.what,
                                            told.done, told.total, told.left)
                await asyncio.sleep(_REPORT_S)
        finally:
            progress.forget(self._folder)

    async def _until_all_end(self, primary: list[Live],
                             ended: Callable[[], Awaitable[None]]) -> None:
        if primary:
            await asyncio.sleep(_HEAD_START_S)
        await asyncio.gather(*(self._until_end(each) for each in primary if not each.delivery))
        await ended()

    async def _until_end(self, each: Live) -> None:
        while True:
            try:
                ended = await live.asked(each.source.wait(self._interval))
            except errors.DaqError as error:
                await self._tell(each, f"source {each.name}: {error.message}")
                await asyncio.sleep(_RETRY_S)
                continue
            await self._tell(each, "")
            if ended:
                return
            await asyncio.sleep(0.05)  # a source that answers at once must not spin us

    async def _tend(self, each: Live) -> None:
        """Tell when a metadata source has lost our session, and when it has it again."""
        await asyncio.sleep(_HEAD_START_S)
        while each.phase == "started":
            fault = await live.fault(each)
            if each.phase == "started":
                await self._tell(each, fault)
            await asyncio.sleep(max(self._interval, _RETRY_S))

    async def _tell(self, each: Live, text: str) -> None:
        if self._journal.substate != "Acquiring":
            return  # whoever stops or aborts it tells how that went
        try:
            await self._journal.write(*each.told(text))
        except OSError as error:  # the watch goes on, and the next look tries again
            log.error("%s: %s", self._journal.job, cli.from_os_error(error))

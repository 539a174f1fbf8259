"""The adapters of plain programs, primary sources and metadata sources."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

from daq_ctl.journal import durably
from daq_ctl.sources import (
    ABSENT,
    ENDED,
    FAILED,
    RECORDING,
    Delivery,
    Metadata,
    Source,
    memo,
)
from daq_ctl.sources.options import Options
from daq_ctl.sources.program import bringing, call, failing, keeper, process
from daq_ctl.sources.program.dialogue import Dialogue
from daq_ctl.sources.program.process import Ended
from daq_ctl.sources.program.tail import Tail, Words
from daqlib import errors, fsops

_LOOK_S = 0.05  # between two looks at a program that somebody waits for
_BEGIN_S = 20.0  # for the keeper to start the program: only a machine in distress takes seconds
_KILL_S = 15.0  # after KILL: the keeper ends what is left, too

#: What a program is asked to do, and the seconds that it has for it.
Step = tuple[Callable[[], object], float]


class Program(Source):
    """A run of a program."""

    needs_files = True

    def configure(self, options: Options) -> None:
        """Check what is asked; a program that was begun is not refused any more.

        Raises:
            errors.BadData: the program may not be run, or an option is not allowed.
        """
        self._memo = memo.Memo(self.order.folder)
        facts = self._memo.facts
        self.call = call.read(self.order, self.uri, options, runs=bool(facts))
        self.endpoint = self.call.endpoint
        self._child: subprocess.Popen[bytes] | None = None
        self._go = -1
        self._looking = asyncio.Lock()
        self._dialogue = Dialogue()
        self._out = Tail(self._memo.path(process.OUT), 0, process.MOST_BYTES)
        self._err = Tail(self._memo.path(process.ERR), int(facts.get("heard", 0)),
                         process.MOST_BYTES)
        self._words = Words(int(facts.get("said", 0)), int(facts.get("left", 0)))
        self._ended: Ended | None = None

    # -- start --------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Start the keeper, and write down which it is; it waits for the word to go."""
        if self._memo.facts:
            return
        since = await durably(self._lay_out)
        reader, self._go = os.pipe()
        try:
            self._child = await durably(lambda: process.spawn(
                self._memo.folder, self.call.words, self.call.environment, self.call.max_sec,
                hears=self.call.speaks, go=reader))
        finally:
            os.close(reader)
        await self._memo.keep(**process.identity(self._child.pid), since=since)

    def _lay_out(self) -> float:
        self._memo.make()
        return process.lay_out(self._memo.folder)

    async def start(self) -> None:
        """Give the word to go; wait until the program runs and, if it speaks, has started."""
        if self._go < 0:
            await self.prepare()
        try:
            os.write(self._go, keeper.GO)
        except OSError:
            raise errors.Unavailable("its keeper is gone before it began",
                                     "look for what ends processes here") from None
        finally:
            self._let_go()
        begun = await self._until_begun()
        if "errno" in begun:
            raise failing.unstartable(self.call.words[0], begun)
        if self.call.speaks:
            await self._until_started()

    async def _until_begun(self) -> dict[str, Any]:
        deadline = time.monotonic() + _BEGIN_S
        while True:
            gone = process.ended(self._memo.folder, self._memo.facts)  # first: it writes, and ends
            if begun := process.begun(self._memo.folder):
                return begun
            if gone or time.monotonic() > deadline:
                raise errors.Unavailable("its keeper did not begin: "
                                         f"{self._err.last_line() or 'it gave no reason'}",
                                         "try again; look at the load of the machine")
            await asyncio.sleep(_LOOK_S / 5)

    async def _until_started(self) -> None:
        process.tell(self._memo.folder, {"command": "start", "id": self.job, "source": self.name,
                                         "folder": self._memo.folder})
        if not await self._until(lambda: self._dialogue.started, self.call.start_sec):
            raise errors.Unavailable(f"it did not say within {self.call.start_sec:g} s that it "
                                     "has started", "see docs/programs.md, or give it more time: "
                                     "startSec")
        if not self._dialogue.started or self._dialogue.failure is not None:
            raise errors.BadData(await self._reason() or "it ended, and did not say that it has "
                                 "started", "see docs/programs.md")

    # -- looking ------------------------------------------------------------------------------

    async def _look(self) -> bool:
        """Read what is new; tell whether the program is gone and all it said is read."""
        async with self._looking:
            if self._ended is None:
                self._ended, telling = await durably(self._read)
                await self._say(telling)
            return self._ended is not None

    def _read(self) -> tuple[Ended | None, list[str]]:
        if self._child is not None:
            self._child.poll()  # ours to reap
        ended = process.ended(self._memo.folder, self._memo.facts)  # before what it said last
        while data := self._out.more() if self.call.speaks else b"":
            self._dialogue.feed(data)
        if ended:
            self._dialogue.end()
            fsops.remove(self._memo.path(process.COMMANDS))  # who opened it would wait for ever
        return ended, self._told(over=ended is not None)

    def _told(self, *, over: bool) -> list[str]:
        """Read standard error on; return what is told of it."""
        before, telling = self._words.left, list[str]()
        while data := self._err.more():
            telling += self._words.of(data, over=False)
        if over:
            telling += self._words.of(b"", over=True)
        if self._words.left and not before:
            telling.append(f"what else it says on standard error is in {self._err.path}")
        return telling

    async def _say(self, telling: list[str]) -> None:
        """Put a program's words into the job's log, and remember that they are there."""
        if self._ended is not None and "over" not in self._memo.facts:
            telling += await self._last_words()
        elif not telling:
            return
        with contextlib.suppress(OSError):  # a full disk perhaps: they are words only
            for text in telling:
                await self.order.say(text)
            await self._memo.keep(heard=self._err.offset - self._words.kept_back,
                                  said=self._words.said, left=self._words.left,
                                  **({"over": True} if self._ended else {}))

    async def _last_words(self) -> list[str]:
        more = self._words.left
        return [*([f"it said {more} more lines on standard error"] if more else []),
                *filter(None, [await self._reason()])]

    async def _until(self, there: Callable[[], bool], seconds: float) -> bool:
        """Look until something is there, or the program gone; tell whether either came in time."""
        deadline = time.monotonic() + seconds
        while not (await self._look() or there()):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))
        return True

    async def _gone(self, seconds: float) -> bool:
        return await self._until(lambda: False, seconds)

    async def _is_over(self, seconds: float) -> bool:
        return await self._until(lambda: self._dialogue.done, seconds)

    def _begun(self) -> None:
        if not self._memo.facts:
            raise errors.Unavailable("it does not know this recording",
                                     "start anew; daq.forcestop goes on without it")

    async def _reason(self) -> str:
        """Return why the run is a failure, or an empty text."""
        return await durably(lambda: failing.reason(
            self.call, self._memo.facts, self._dialogue, self._ended, self._err.last_line()))

    async def status(self) -> str:
        """See :class:`daq_ctl.sources.Source`."""
        if not self._memo.facts:
            return ABSENT
        gone = await self._is_over(0)
        if not await durably(lambda: process.begun(self._memo.folder)):
            return ABSENT  # the word to go never came
        if gone:
            return FAILED if await self._reason() else ENDED
        return RECORDING if self._dialogue.started or not self.call.speaks else ABSENT

    def progress(self) -> tuple[float, float] | None:
        """Return what the program said last of it."""
        return self._dialogue.progress

    # -- the end ------------------------------------------------------------------------------

    async def stop(self, patience: float) -> Delivery:
        """Ask the program to end, and end it if it does not; return what it brought."""
        self._begun()
        if not await self._gone(0):
            await self._end(self._to_stop(patience))
        fault = await self._reason()
        await self._memo.keep(delivered=True)
        return await durably(lambda: self._brought(fault))

    async def _end(self, asking: Step) -> None:
        """Ask for the end, perhaps anew: a daemon may have died between the note and the word."""
        over = self._dialogue.done
        if not over:
            await self._memo.keep(stopped=True)
            asking[0]()
        if await self._gone(keeper.GRACE if over else asking[1]):
            return
        await self._memo.keep(**{"idle" if over else "forced": asking[1]})
        await self._by_force([(self._signaller(signal.SIGTERM), keeper.GRACE)])

    def _to_stop(self, patience: float) -> Step:
        limit = self.call.stop_sec if patience else 0.0
        if self.call.speaks:
            return self._teller("stop"), limit
        number = self.call.stop_signal
        return (self._signaller(number) if number else lambda: None), limit

    async def _by_force(self, steps: Iterable[Step]) -> None:
        for ask, seconds in [*steps, (self._signaller(keeper.KILL), _KILL_S)]:
            ask()
            if await self._gone(seconds):
                return
        raise errors.Unavailable(f"it cannot be ended (process {self._memo.facts['pid']})",
                                 "look what it waits for: ps -o pid,stat,wchan,args; "
                                 "daq.forceabort goes on without it")

    def _teller(self, command: str) -> Callable[[], object]:
        return lambda: process.tell(self._memo.folder, {"command": command})

    def _signaller(self, number: int) -> Callable[[], object]:
        return lambda: process.send(self._memo.facts, number)

    def _brought(self, fault: str) -> Delivery:
        if self.call.speaks:
            return bringing.told(self._memo.folder, self._dialogue, fault)
        return bringing.left(self._memo.folder, self.call, float(self._memo.facts["since"]), fault,
                             needed=self.needs_files or self.call.asked)

    async def abort(self) -> None:
        """End the program and remove what it wrote in its directory, but for its words."""
        self._let_go()
        if not self._memo.facts or "delivered" in self._memo.facts:
            return
        if not await self._gone(0):
            words = [(self._teller("abort"), keeper.GRACE)] if self.call.speaks else []
            await self._by_force([
                *words, (self._signaller(self.call.abort_signal), keeper.GRACE)])
        await durably(self._clear)
        self._memo.facts = {}

    def _clear(self) -> None:
        with (contextlib.suppress(FileNotFoundError),
              os.scandir(self._memo.folder) as entries):
            # what knows of the program goes last
            for entry in sorted(entries, key=lambda entry: entry.name == memo.NAME):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif entry.name != process.ERR:
                    os.unlink(entry.path)

    def _let_go(self) -> None:
        if self._go >= 0:
            os.close(self._go)  # without a word on it the keeper ends
            self._go = -1

    async def close(self) -> None:
        """Let go of the keeper; one that has its word goes on."""
        self._let_go()
        if self._child is not None:
            self._child.poll()


class Recording(Program):
    """A program as a primary source: it may end by itself."""

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the program, whatever it is."""
        self._begun()
        return await self._is_over(seconds)


class Values(Program, Metadata):
    """A program as a metadata source: it goes on until it is stopped, or has said all before."""

    needs_files = False

"""Primary sources that are a directory: some program drops finished FITS files into it.

``watch:/data/camera`` takes the files that are finished there between start and stop. They are
delivered where they lie, and never moved, changed or removed, not even by an abort.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import unquote

from daq_ctl.journal import durably
from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Delivery, Source
from daq_ctl.sources.folderlook import Look, Rule, Sign
from daq_ctl.sources.memo import Memo
from daq_ctl.sources.options import Options
from daqlib import clock, errors, fsops, names

T = TypeVar("T")

PATTERNS = ("*.fits", "*.fits.gz", "*.fits.fz", "*.fit", "*.fts")

_BEFORE = "before.json"  # in the memo's directory: what lay there at the start
_TOGETHER_S = 0.02  # what happens within this time is looked at in one go
_SHOWN = 5  # names in a message


class Folder(Source):
    """The files that appear in a directory during an acquisition."""

    def configure(self, options: Options) -> None:
        """See :class:`daq_ctl.sources.Source`; the options are explained in docs/sources.md."""
        self._memo = Memo(self.order.folder)
        facts = self._memo.facts
        wanted = _directory(self.name, self.uri)
        # a link may point elsewhere tomorrow, the recording stays where it began
        directory = str(facts.get("directory") or os.path.realpath(wanted))
        patterns = options.texts("pattern") or list(PATTERNS)
        if bad := [each for each in patterns if not each or "/" in each or not each.isprintable()]:
            options.refuse("pattern", f"{bad[0]!r} is no pattern of a name",
                           "give a name with * ? [ ], without a slash")
        complete = options.choice("complete", "close", "rename", "companion", "stable")
        companion = _companion(options, complete)
        self._count = options.integer("count", None, least=1)
        self._window = options.number("window", None, least=0.1, unit="seconds")
        self._grace = options.number("grace", 10.0, least=0, most=3600, unit="seconds") or 0.0
        self._least = options.integer("least", 1, least=0) or 0
        stable = options.number("stableSec", 2.0, least=0.1, most=3600, unit="seconds")
        scan = options.number("scanSec", 5.0, least=0.1, most=3600, unit="seconds")
        rule = Rule(directory, patterns, complete, companion, stable or 2.0, scan or 5.0)
        self.endpoint = f"watch:{directory}?{'|'.join(sorted(map(str.lower, patterns)))}"
        self._look = Look(rule)
        self._listens = False
        self._busy: asyncio.Future[Any] | None = None
        self._thread = _own_thread()
        self._since = clock.monotonic_of(facts["began"]) if "began" in facts else math.nan

    # -- the recording ------------------------------------------------------------------------

    async def prepare(self) -> None:
        """See that the directory can be read."""
        await self._disk(self._look.check)

    async def start(self) -> None:
        """Write down what is there; all that comes from now on is ours."""
        await self._disk(self._begin)
        look = self._look
        began = time.time()
        await self._memo.keep(directory=look.rule.directory, home=look.home, began=began)
        self._since = clock.monotonic_of(began)
        if look.deaf:
            await self.order.say(look.deaf)

    async def wait(self, seconds: float) -> bool:
        """Wait for the last file of a count, or for the end of a window."""
        deadline = time.monotonic() + seconds
        while not await self._has_ended():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await self._news(left)
        return True

    async def stop(self, patience: float) -> Delivery:
        """Return the files; one that is being written is waited for, unless it is forced."""
        await self._recall()
        if "brought" not in self._memo.facts:
            deadline = time.monotonic() + (self._grace if patience > 0 else 0.0)
            rests = await self._disk(lambda: self._rests(whole=True))
            while not rests and time.monotonic() < deadline:
                await self._news(deadline - time.monotonic())
                rests = await self._disk(self._rests)
            brought = await self._disk(self._brought)
            await self._memo.keep(brought=brought)
            await durably(lambda: fsops.remove(self._memo.path(_BEFORE)))  # large, and done with
        return Delivery(**self._memo.facts["brought"])

    async def abort(self) -> None:
        """Forget the recording; the files are not ours."""
        await self.close()
        await self._memo.discard()

    async def status(self) -> str:
        """See :class:`daq_ctl.sources.Source`; FAILED while the directory cannot be read."""
        if "began" not in self._memo.facts:
            return ABSENT
        try:
            return ENDED if await self._has_ended() else RECORDING
        except errors.Unavailable:
            return FAILED

    def progress(self) -> tuple[float, float] | None:
        """Tell how much of the window is over, if there is one."""
        if self._window is None or math.isnan(self._since):
            return None
        return min(time.monotonic() - self._since, self._window), self._window

    async def close(self) -> None:
        """Stop listening to the directory."""
        with contextlib.suppress(errors.Unavailable):
            await self._disk(self._deafen)
        self._thread.shutdown(wait=False)
        self._thread = _own_thread()

    # -- how it goes on -----------------------------------------------------------------------

    async def _recall(self) -> None:
        """Know again what an earlier daemon knew, and listen.

        Raises:
            errors.Unavailable: nothing records.
        """
        if "began" not in self._memo.facts:
            raise errors.Unavailable("it does not know this recording",
                                     "daq.forcestop goes on without it")
        if not self._listens and "brought" not in self._memo.facts:
            await self._disk(self._remember)

    async def _has_ended(self) -> bool:
        await self._recall()
        over = self._window is not None and time.monotonic() - self._since >= self._window
        if over or "brought" in self._memo.facts:
            return True
        return await self._disk(self._fills)

    # -- in a thread, one at a time: wait and stop may look at the same time --------------------

    def _begin(self) -> None:
        self._look.begin()
        self._memo.make()
        fsops.put(self._memo.path(_BEFORE), json.dumps(self._look.before).encode(), replace=True)
        self._listens = True

    def _deafen(self) -> None:
        self._look.close()
        self._listens = False

    def _remember(self) -> None:
        """Read what an earlier daemon wrote."""
        if self._listens:
            return
        try:
            data, _ = fsops.read_regular(self._memo.path(_BEFORE))
            before = {name: Sign(*sign) for name, sign in json.loads(data).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise errors.BadData(
                f"what lay in {self._look.rule.directory} at the start is not known any more: "
                f"{error}", "daq.forcestop goes on without it") from error
        device, inode = self._memo.facts["home"]
        self._look = Look(self._look.rule, before, (device, inode))
        self._look.listen()
        self._listens = True

    def _fills(self) -> bool:
        """Look; tell whether there are as many files as wanted."""
        self._look.look()
        return self._is_full()

    def _rests(self, whole: bool = False) -> bool:
        """Look; tell whether there is nothing that a stop has to wait for."""
        self._look.look(whole)
        return not self._look.pending or self._is_full()

    def _is_full(self) -> bool:
        if self._count is None or len(self._finished()) < self._count:
            return False
        self._look.rename()  # a file with two names is one
        return len(self._finished()) >= self._count

    def _finished(self) -> list[str]:
        """Return the names of the files to deliver, by the time of their completion."""
        good = sorted((each.at_ns, name) for name, each in self._look.done.items()
                      if not each.why_not)
        return [name for _, name in good][:self._count]

    def _brought(self) -> dict[str, Any]:
        """Return the delivery, as it is written down."""
        look = self._look
        gone = look.missing()
        found = self._finished()
        faults = []
        if gone:
            faults.append(f"finished, but gone since: {_shown(gone)}")
        if look.pending and not self._is_full():
            faults.append(f"not finished when it was stopped, and left out: {_shown(look.pending)}"
                          + _HINTS[look.rule.complete])
        if len(found) < self._least:
            faults.append(f"{len(found)} files appeared in {look.rule.directory}, at least "
                          f"{self._least} are wanted")
        refused = [f"{name!r} is left out: {each.why_not}"
                   for name, each in sorted(look.done.items()) if each.why_not]
        more = [f"{len(refused) - _SHOWN} more files are left out"] if refused[_SHOWN:] else []
        return {"files": [os.path.join(look.rule.directory, name) for name in found],
                "fault": "; ".join(faults), "remarks": refused[:_SHOWN] + more}

    # -- the directory ------------------------------------------------------------------------

    async def _disk(self, work: Callable[[], T]) -> T:
        """Do what touches the directory in a thread, one at a time; that may hang, we do not.

        Raises:
            errors.Unavailable: it took longer than a source may take to reply.
        """
        try:
            async with asyncio.timeout(self.timeout):
                while self._busy is not None and not self._busy.done():
                    await asyncio.wait([self._busy])
                task = self._busy = asyncio.get_running_loop().run_in_executor(self._thread, work)
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                return await asyncio.shield(task)
        except TimeoutError:
            raise errors.Unavailable(
                f"directory {self._look.rule.directory} did not answer within {self.timeout:g} s",
                "look at its file system") from None

    async def _news(self, limit: float) -> None:
        """Wait until something happens in the directory, or a look is due."""
        pause = min(limit, max(0.0, self._look.due - time.monotonic()))
        fd = self._look.fileno()
        if fd >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_readable(fd), pause)
            pause = _TOGETHER_S
        await asyncio.sleep(max(pause, _TOGETHER_S))


def _own_thread() -> ThreadPoolExecutor:
    """Return a thread that nobody shares: a file system that hangs holds no other source up."""
    return ThreadPoolExecutor(1, "watch")


async def _readable(fd: int) -> None:
    """Wait until there is something to read; more than one may wait for the same."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    own = os.dup(fd)
    loop.add_reader(own, told.set)
    try:
        await told.wait()
    finally:
        loop.remove_reader(own)
        os.close(own)


def _directory(source: str, uri: str) -> str:
    """Return the absolute path that a URI names.

    Raises:
        errors.BadData: it names none.
    """
    text = uri.partition(":")[2]
    if text.startswith("///"):
        text = text[2:]
    path = unquote(text, errors="surrogateescape")
    try:
        if path.startswith("//"):
            raise errors.BadData(f"{uri!r} names a host", "")
        return names.check_path(path, "directory")
    except errors.BadData as error:
        raise errors.BadData(f"source {source!r}: {error.message}",
                             "use watch:/ABSOLUTE/DIRECTORY of this host, without '..'; write %20 "
                             "for a blank and %3F for a question mark") from error


def _companion(options: Options, complete: str) -> str:
    if complete != "companion" and options.given("companion"):
        options.refuse("companion", f"without effect with complete {complete!r}",
                       "give complete: companion, or leave it out")
    made = options.text("companion", "{name}.done")
    if "/" in made or "{name}" not in made and "{stem}" not in made or made == "{name}":
        options.refuse("companion", f"{made!r} names no file beside another",
                       "give a file name with {name} or {stem}, such as {stem}.ok")
    return made if complete == "companion" else ""


def _shown(found: Any) -> str:
    shown = ", ".join(repr(name) for name in sorted(found)[:_SHOWN])
    return f"{shown} and {len(found) - _SHOWN} more" if len(found) > _SHOWN else shown


_HINTS = {
    "close": "", "stable": "",
    "rename": " (nothing was renamed to that name; see the option complete)",
    "companion": " (its companion did not appear; see the option companion)",
}

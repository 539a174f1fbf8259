"""Metadata sources that read named values and record them as a table asks.

A kind of source says how values are read and listened to; what happens between the start and the
stop of an acquisition is here. The state is kept durably, so that a new daemon goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from daq_ctl.sources import ABSENT, ENDED, RECORDING, Delivery, Metadata, mapping
from daq_ctl.sources.mapping import Row
from daq_ctl.sources.memo import Memo
from daq_ctl.sources.options import Options
from daq_ctl.sources.readings import POINTS, SPANS, Reading, Span
from daqlib import clock, errors

_KEEP_S = 10.0  # between two times at which what was heard is written down
_AGAIN_S = 2.0  # before a connection that was lost is made again
_FORCED_S = 1.0  # for the last look of a stop that is forced
# of the time for a reply: to read; of an optional source nobody waits for the answer any longer
# than that, and what was read must have been written down by then
_SHARE = 0.7
_LEAST = 0.1  # of the same, for a step that comes after one that took long


class Sampled(Metadata):
    """A metadata source of named values.

    Attributes:
        rows: what is to be recorded.
        remarks: what people should know of the table itself.
    """

    #: The member of a row with the name of what is read.
    member: ClassVar[str]
    #: Whether rows must be given, as :meth:`settle` knows none.
    needs_rows: ClassVar[bool] = True
    #: Whether the age of a value is known of what is listened to only.
    ages_by_hearing: ClassVar[bool] = False

    def configure(self, options: Options) -> None:
        """Take the table and what becomes of flagged values."""
        self.rows = mapping.of_options(options, self.member)
        if self.needs_rows and not self.rows:
            options.refuse("keywords", "there are none",
                           "give rows, or the name of a mapping; see docs/metadata.md")
        self._keep = options.choice("flagged", "keep", "leave-out") == "keep"
        self._max_age = options.number("maxAge", 0.0, least=0, unit="seconds") or 0.0
        self.remarks: list[str] = []
        self._memo = Memo(self.order.folder)
        self._first: dict[str, Reading] = {}
        self._last: dict[str, Reading] = {}
        self._spans: dict[str, Span] = {}
        self._follower: asyncio.Task[None] | None = None
        self._listening = self._ending = False
        self._loss, self._began = "", 0.0
        self._over: dict[str, list[Row]] = {}
        self._lost = asyncio.Event()

    # -- what a kind of source does -----------------------------------------------------------

    async def settle(self, limit: float) -> None:  # noqa: B027
        """Complete ``rows`` with what only the source itself can tell; called once, at the start.

        Args:
            limit: seconds within which this has to return.

        Raises:
            errors.DaqError: it cannot be reached.
        """

    @abstractmethod
    async def read(self, items: list[str], limit: float) -> dict[str, Reading]:
        """Return what some items are now; one that is not there is left out.

        Args:
            items: their names.
            limit: seconds within which this has to return what there is.

        Raises:
            errors.DaqError: the source cannot be reached.
        """

    @abstractmethod
    async def listen(self, items: list[str], limit: float) -> None:
        """Begin to tell :meth:`heard` what some items are, and each change, until :meth:`hang_up`.

        The end of the connection is told to :meth:`lost`; one that comes back by itself is not.

        Args:
            items: their names.
            limit: seconds within which there has to be a connection.

        Raises:
            errors.DaqError: the source cannot be reached.
        """

    @abstractmethod
    async def hang_up(self) -> None:
        """Close connections; harmless when there are none."""

    def heard(self, item: str, reading: Reading) -> None:
        """Take a change of an item that is listened to."""
        if item not in self._last:
            return
        reading = replace(reading, unit=reading.unit or self._last[item].unit)
        self._last[item] = reading
        now = time.monotonic()
        for row in self._over.get(item, ()):
            self._spans[row.keyword].add(row.converted(reading), now)

    def lost(self, reason: str) -> None:
        """Take note that the connection that listens is gone."""
        self._loss, self._listening = reason, False
        self._lost.set()

    @property
    def watched(self) -> list[str]:
        """The items that are listened to."""
        return list(dict.fromkeys(row.item for row in self.rows if row.when in SPANS or (
            self.ages_by_hearing and row.when == "end" and self._oldest(row))))

    # -- the contract -------------------------------------------------------------------------

    async def start(self) -> None:
        """Read all items, and listen to those of which more is wanted than a moment.

        Raises:
            errors.BadData: there is no keyword of a row that is required.
        """
        left = self._time()
        await self.settle(left())
        items = list(dict.fromkeys(row.item for row in self.rows))
        found = await self.read(items, left())
        self._begin({item: found.get(item, Reading(None, "ABSENT")) for item in items})
        self._began = clock.now()
        missing = [remark for row in self.rows if row.required
                   for card, remark in [self._made(row, self._began)] if not card]
        if missing:
            raise errors.BadData(f"required, but {'; '.join(missing)}",
                                 "see to it, or take 'required' from the row")
        await self._memo.keep(began=self._began, rows=[vars(row) for row in self.rows],
                              first={item: vars(reading) for item, reading in self._first.items()},
                              remarks=self.remarks, **self._told())
        if self._over:
            await self._listen(left())
            self._follow()

    def _time(self) -> Callable[[], float]:
        """Return what tells the seconds that are left of the time to read, which begins now."""
        end = time.monotonic() + _SHARE * self.timeout
        return lambda: max(end - time.monotonic(), _LEAST * self.timeout)

    def _begin(self, first: dict[str, Reading]) -> None:
        """Take the first readings of all items."""
        now = time.monotonic()
        self._first, self._last = first, dict(first)
        self._over = {item: [] for item in self.watched}
        for row in (row for row in self.rows if row.when in SPANS):
            self._over[row.item].append(row)
            span = self._spans[row.keyword] = row.span()
            span.since = now
            span.add(row.converted(first[row.item]), now)

    async def _listen(self, limit: float) -> None:
        await self.listen(list(self._over), limit)
        self._listening, self._loss = True, ""

    def _told(self) -> dict[str, Any]:
        """Return what a new daemon has to know of what was heard."""
        now = time.monotonic()
        for span in self._spans.values():
            span.hold(now)
        return {"at": clock.now(),
                "spans": {keyword: span.to_json() for keyword, span in self._spans.items()}}

    def _recall(self) -> None:
        """Go on where an earlier daemon ended."""
        facts = self._memo.facts
        if self._first or "began" not in facts:
            return
        self.rows, self.remarks = [Row(**row) for row in facts["rows"]], facts["remarks"]
        self._began = float(facts["began"])
        self._begin({item: Reading(**told) for item, told in facts["first"].items()})
        now, unheard = time.monotonic(), max(0.0, clock.now() - facts["at"])
        self._spans = {keyword: Span.of_json(told, now, unheard)
                       for keyword, told in facts["spans"].items()}

    def _follow(self) -> None:
        if self._follower is None or self._follower.done():
            self._follower = asyncio.create_task(self._following())

    async def _following(self) -> None:
        """Write down what was heard now and then, and make a lost connection anew."""
        while True:
            if self._listening:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), _KEEP_S)
            if not self._listening:
                await self._listen_again()
            with contextlib.suppress(OSError):  # the next time, or the stop, tells
                await self._memo.keep(**self._told())

    async def _listen_again(self) -> None:
        for item in self._over:
            self.heard(item, Reading(None, "LOST"))
        while not self._listening:
            self._lost.clear()
            try:
                await self.hang_up()
                await self._listen(self.timeout)
            except errors.DaqError as error:
                self._loss = error.message
                await asyncio.sleep(_AGAIN_S)

    async def status(self) -> str:
        """Tell whether it records; listening begins again after a restart.

        Raises:
            errors.Unavailable: its connection is lost.
        """
        facts = self._memo.facts
        if "began" not in facts:
            return ABSENT
        if "delivery" in facts:
            return ENDED
        self._recall()
        if self._over and not self._ending:
            self._follow()
        if self._loss:
            raise errors.Unavailable(self._loss, "see to it; it is tried again until the stop")
        return RECORDING

    async def stop(self, patience: float) -> Delivery:
        """Read what is wanted of the end, and return the keywords.

        A source that cannot be reached any more gives what it gave before, with a remark.
        """
        if "began" not in self._memo.facts:
            raise errors.Unavailable("it does not know this acquisition",
                                     "daq.forcestop goes on without it")
        if "delivery" not in self._memo.facts:
            self._ending = True  # nobody else writes the memo from here on
            try:
                limit = self._time()()
                await self._deliver(limit if patience else min(limit, _FORCED_S))
            finally:
                self._ending = False
        with contextlib.suppress(TimeoutError):  # it is delivered: good-byes do not hold that up
            async with asyncio.timeout(_LEAST * self.timeout):
                await self.close()
        kept = self._memo.facts["delivery"]
        return Delivery([], kept["keywords"], remarks=kept["remarks"])

    async def _deliver(self, limit: float) -> None:
        self._recall()
        await self._unfollow()
        remarks = [*self.remarks, *await self._last_look(limit)]
        ended, keywords = clock.now(), []
        for row in self.rows:
            card, remark = self._made(row, ended)
            keywords += [card] if card else []
            remarks += [remark] if remark else []
        await self._memo.keep(delivery={"keywords": keywords, "remarks": remarks})

    async def _last_look(self, limit: float) -> list[str]:
        """Read what is wanted of the end; return why that was not possible."""
        items = list(dict.fromkeys(row.item for row in self.rows if row.when != "start"))
        found: dict[str, Reading] = {}
        flag, remarks = "ABSENT", []
        if items:
            try:
                found = await self.read(items, limit)
            except errors.DaqError as error:
                flag, remarks = "LOST", [f"it could not be read at the end: {error.message}"]
        for item in items:
            self.heard(item, found.get(item, Reading(None, flag)))
        return remarks

    def _made(self, row: Row, now: float) -> tuple[dict[str, Any] | None, str]:
        """Return the keyword of a row, or None, and what people should know of it.

        Args:
            row: the row.
            now: when the newest reading was taken, seconds since the epoch.
        """
        first = row.when == "start"
        reading = (self._first if first else self._last)[row.item]
        made = row.converted(reading)
        if row.when not in POINTS:
            made = self._spans[row.keyword].over(row.when, made)
        made = made.aged(self._began if first else now, self._oldest(row))
        return row.keyword_of(made, keep=self._keep)

    def _oldest(self, row: Row) -> float:
        return row.max_age or self._max_age

    async def _unfollow(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.wait([follower])

    async def abort(self) -> None:
        """Forget it."""
        await self.close()
        await self._memo.discard()

    async def close(self) -> None:
        """Stop listening."""
        await self._unfollow()
        await self.hang_up()
        self._listening = False

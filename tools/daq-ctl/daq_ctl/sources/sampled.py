"""Metadata sources that read named values and record them as a table asks.

A kind of source says how values are read and listened to; what happens between the start and the
stop of an acquisition is here. The state is kept durably, so that a new daemon goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import abstractmethod
from typing import Any, ClassVar

from daq_ctl.sources import ABSENT, ENDED, RECORDING, Delivery, Metadata, mapping
from daq_ctl.sources.mapping import Row
from daq_ctl.sources.memo import Memo
from daq_ctl.sources.options import Options
from daq_ctl.sources.readings import POINTS, SPANS, Reading, Tally
from daqlib import clock, errors

_KEEP_S = 10.0  # between two times at which what was heard is written down
_AGAIN_S = 2.0  # before a connection that was lost is made again
_FORCED_S = 1.0  # for the last look of a stop that is forced


class Sampled(Metadata):
    """A metadata source of named values.

    Attributes:
        member: of a row, with the name of what is read.
        rows: what is to be recorded.
    """

    member: ClassVar[str]

    def configure(self, options: Options) -> None:
        """Take the table and what becomes of flagged values."""
        self.rows = mapping.of_options(options, self.member, self.standard(options))
        self._keep = options.choice("flagged", "keep", "leave-out") == "keep"
        self._max_age = options.number("maxAge", 0.0, least=0, unit="seconds") or 0.0
        self._memo = Memo(self.order.folder)
        self._tallies: dict[str, Tally] = {}
        self._follower: asyncio.Task[None] | None = None
        self._loss = ""
        self._lost = asyncio.Event()

    # -- what a kind of source does -----------------------------------------------------------

    def standard(self, options: Options) -> list[Row]:
        """Return the rows that hold when none are given."""
        return []

    async def settle(self) -> None:
        """Complete ``rows`` with what only the source itself can tell; called once, at the start.

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
    async def listen(self, items: list[str]) -> None:
        """Begin to tell each change of some items to :meth:`heard`, until :meth:`close`.

        Raises:
            errors.DaqError: the source cannot be reached.
        """

    @abstractmethod
    async def hang_up(self) -> None:
        """Close connections; harmless when there are none."""

    def heard(self, item: str, reading: Reading) -> None:
        """Take a change of an item that is listened to."""
        tally = self._tallies.get(item)
        if tally is not None:
            tally.add(reading, time.monotonic())

    def lost(self, reason: str) -> None:
        """Take note that the connection that listens is gone."""
        self._loss = reason
        self._lost.set()

    # -- the contract -------------------------------------------------------------------------

    @property
    def _items(self) -> list[str]:
        return list(dict.fromkeys(row.item for row in self.rows))

    @property
    def _watched(self) -> list[str]:
        return list(dict.fromkeys(row.item for row in self.rows if row.when in SPANS))

    async def start(self) -> None:
        """Read all items, and listen to those of which more is wanted than a moment.

        Raises:
            errors.BadData: a required item has no value.
        """
        await self.settle()
        found = await self.read(self._items, self.timeout)
        missing = [row.item for row in self.rows if row.required
                   and found.get(row.item, Reading()).value is None]
        if missing:
            raise errors.BadData(f"required, but without a value: {', '.join(missing)}",
                                 "see to them, or take 'required' from their rows")
        now = time.monotonic()
        self._tallies = {item: Tally.begin(found.get(item, Reading(None, "ABSENT")), now)
                         for item in self._items}
        await self._memo.keep(began=clock.now(), rows=[vars(row) for row in self.rows],
                              **self._told())
        if self._watched:
            await self.listen(self._watched)
            self._follow()

    def _told(self) -> dict[str, Any]:
        for item in self._watched:
            self._tallies[item].hold(time.monotonic())
        return {"at": clock.now(),
                "tallies": {item: tally.to_json() for item, tally in self._tallies.items()}}

    def _recall(self) -> None:
        """Go on where an earlier daemon ended."""
        if self._tallies or not self._memo.facts.get("tallies"):
            return
        self.rows = [Row(**row) for row in self._memo.facts["rows"]]
        unheard = max(0.0, clock.now() - float(self._memo.facts["at"]))
        self._tallies = {item: Tally.of_json(told, time.monotonic(), unheard)
                         for item, told in self._memo.facts["tallies"].items()}

    def _follow(self) -> None:
        if self._follower is None or self._follower.done():
            self._follower = asyncio.create_task(self._following())

    async def _following(self) -> None:
        """Write down what was heard now and then, and make a lost connection anew."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _KEEP_S)
            if self._lost.is_set():
                await self._listen_again()
            with contextlib.suppress(OSError):  # the next time, or the stop, tells
                await self._memo.keep(**self._told())

    async def _listen_again(self) -> None:
        for item in self._watched:
            self.heard(item, Reading(None, "LOST"))
        while True:
            self._lost.clear()
            with contextlib.suppress(errors.DaqError):
                await self.hang_up()
                await self.listen(self._watched)
                for item, reading in (await self.read(self._watched, self.timeout)).items():
                    self.heard(item, reading)
                self._loss = ""
                return
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
        if self._watched and self._follower is None:
            self.lost("daq-ctl was started anew")
            self._follow()
            return RECORDING
        if self._loss:
            raise errors.Unavailable(self._loss, "see to it; it is tried again until the stop")
        return RECORDING

    async def stop(self, patience: float) -> Delivery:
        """Read what is wanted of the end, and return the keywords.

        A source that cannot be reached any more gives what it gave before, with a remark.
        """
        if "delivery" not in self._memo.facts:
            if "began" not in self._memo.facts:
                raise errors.Unavailable("it does not know this acquisition",
                                         "daq.forcestop goes on without it")
            self._recall()
            remarks = await self._last_look(self.timeout if patience else _FORCED_S)
            keywords, told = self._keywords()
            await self._memo.keep(delivery={"keywords": keywords, "remarks": [*remarks, *told]})
        await self.close()
        kept = self._memo.facts["delivery"]
        return Delivery([], kept["keywords"], remarks=kept["remarks"])

    async def _last_look(self, limit: float) -> list[str]:
        items = list(dict.fromkeys(row.item for row in self.rows if row.when != "start"))
        if not items:
            return []
        found: dict[str, Reading] = {}
        remarks = []
        try:
            found = await self.read(items, limit)
        except errors.DaqError as error:
            remarks = [f"it could not be read at the end: {error.message}"]
        now = time.monotonic()
        for item in items:
            last = self._tallies[item].last
            unread = Reading(last.value, f"{last.flag} NOT AT END".strip(), last.unit, last.time)
            self._tallies[item].add(found.get(item, unread), now)
        return remarks

    def _keywords(self) -> tuple[list[dict[str, Any]], list[str]]:
        made, remarks = [], []
        for row in self.rows:
            keyword, remark = row.keyword_of(self._reading(row), keep=self._keep)
            if keyword:
                made.append(keyword)
            if remark:
                remarks.append(remark)
        return made, remarks

    def _reading(self, row: Row) -> Reading:
        tally = self._tallies[row.item]
        if row.when not in POINTS:
            return tally.over(row.when)
        if row.when == "end":
            return self._aged(row, tally.last, clock.now())
        return self._aged(row, tally.first, float(self._memo.facts["began"]))

    def _aged(self, row: Row, reading: Reading, at: float) -> Reading:
        return reading.aged(at, row.max_age or self._max_age)

    async def abort(self) -> None:
        """Forget it."""
        await self.close()
        await self._memo.discard()

    async def close(self) -> None:
        """Stop listening."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.wait([follower])
        await self.hang_up()

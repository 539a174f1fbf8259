"""Metadata of devices behind an INDI server.

A value that is wanted of the start or the end is read on a connection of its own, which takes some
milliseconds; one over the exposure is listened to. Without a table the standard devices have
keywords of their own, ``tables/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from daq_ctl.sources import mapping
from daq_ctl.sources.indi.client import Client, Vector, address
from daq_ctl.sources.indi.items import CONNECTION, Item, Vectors, is_connected, told_at
from daq_ctl.sources.indi.listing import Listing
from daq_ctl.sources.mapping import Row
from daq_ctl.sources.options import Options
from daq_ctl.sources.readings import Reading
from daq_ctl.sources.sampled import Sampled
from daqlib import errors

TABLES = os.path.join(os.path.dirname(__file__), "tables")
#: Kind of device -> its bit of DRIVER_INFO.DRIVER_INTERFACE (libindi, basedevice.h). What two of
#: them could tell, such as the site, is that of the first.
KINDS = {"telescope": 1 << 0, "gps": 1 << 6, "focuser": 1 << 3, "filterwheel": 1 << 4,
         "rotator": 1 << 12, "dome": 1 << 5, "weather": 1 << 7}

_SILENCE_S = 1.0


class Devices(Sampled):
    """The devices of an INDI server, or one of them."""

    member = "property"
    needs_rows: ClassVar[bool] = False
    ages_by_hearing: ClassVar[bool] = True

    def configure(self, options: Options) -> None:
        """Take the options; see ``docs/metadata.md``."""
        super().configure(options)
        self._host, self._port, device, self.endpoint = address(self.uri)
        self._named = options.texts("devices") or ([device] if device else [])
        if wrong := [name for name in self._named if not name or not name.isprintable()]:
            options.refuse("devices", f"{wrong[0]!r} is no name of a device", "give their names")
        self._busy = options.flag("flagBusy")
        self._silence = options.number("silence", _SILENCE_S, least=0, unit="seconds") or 0.0
        self._items: dict[str, Item] = {}
        rows = []
        for row in self.rows:
            try:
                rows.append(self._bound(row, device))
            except ValueError as error:
                options.refuse("keywords", f"row of {row.keyword}: {error}",
                               "see docs/metadata.md")
        self.rows = rows
        self._defaults = options.flag("defaults", not rows)
        self._client: Client | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._changed: dict[tuple[str, str], float] = {}

    def _bound(self, row: Row, device: str) -> Row:
        """Return a row that says of which device it is."""
        return replace(row, item=str(Item.parse(row.item, device)))

    def _item(self, text: str) -> Item:
        if text not in self._items:
            self._items[text] = Item.parse(text, "")
        return self._items[text]

    async def _asked(self, devices: list[str], limit: float,
                     enough: Callable[[Vectors], bool] = lambda _: False) -> Vectors:
        """Return what devices tell on a connection of its own, as soon as that is enough."""
        end, client = time.monotonic() + limit, Client()
        try:
            await client.connect(self._host, self._port, limit)
            await Listing(client, devices, self._silence).complete(
                lambda: enough(client.vectors), max(0.0, end - time.monotonic()))
            return dict(client.vectors)
        finally:
            await client.close()

    # -- the tables of standard devices -------------------------------------------------------

    async def settle(self, limit: float) -> None:
        """Add the rows of the standard devices that are there.

        Raises:
            errors.DaqError: the server cannot be reached.
        """
        if not self._defaults:
            return
        vectors = await self._asked(self._named, limit)
        tables = await asyncio.to_thread(lambda: {kind: table(kind) for kind in KINDS})
        for kind, rows in tables.items():
            if device := self._chosen(kind, vectors):
                bound = [self._bound(row, device) for row in rows]
                self.rows = mapping.combined(self.rows, [
                    row for row in bound if self._item(row.item).is_defined(vectors)])
        there = {device for device, _ in vectors}
        self.remarks += [f"device {device} is not there" for device in self._named
                         if device not in there]
        if not self.rows and not self.remarks:
            self.remarks.append("no device is there that has default keywords")

    def _chosen(self, kind: str, vectors: Vectors) -> str:
        """Return the device whose default keywords of a kind are recorded, or an empty text."""
        bits = {device: _interface(vector) for (device, name), vector in vectors.items()
                if name == "DRIVER_INFO" and (not self._named or device in self._named)}
        found = [device for device in (self._named or bits)
                 if bits.get(device, 0) & KINDS[kind]]
        ready = [device for device in found if is_connected(device, vectors)]
        if not ready:
            self.remarks += [f"{device} is not connected: no keywords of a {kind}"
                             for device in found[:1]]
            return ""
        if not self._named:
            # a camera with a filter wheel inside, and the wheel alone: that is meant
            least = min(bits[device].bit_count() for device in ready)
            ready = [device for device in ready if bits[device].bit_count() == least]
            if len(ready) > 1:
                self.remarks.append(f"no keywords of a {kind}: there are {', '.join(ready)}; name "
                                    "one in the option devices")
                return ""
        return ready[0]

    # -- values -------------------------------------------------------------------------------

    async def read(self, items: list[str], limit: float) -> dict[str, Reading]:
        """Return what some items are now; see :class:`daq_ctl.sources.sampled.Sampled`."""
        wanted = {text: self._item(text) for text in items}
        if not wanted:
            return {}
        devices = list(dict.fromkeys(item.device for item in wanted.values()))
        keys = {(device, CONNECTION) for device in devices}.union(
            *(item.keys for item in wanted.values()))
        vectors = await self._asked(devices, limit, lambda told: keys <= told.keys())
        found = {text: self._reading_of(item, vectors) for text, item in wanted.items()}
        return {text: reading for text, reading in found.items() if reading}

    def _reading_of(self, item: Item, vectors: Vectors) -> Reading | None:
        reading = item.reading(vectors, busy=self._busy)
        changed = self._changed.get((item.device, item.name))
        # a driver stamps a definition when it tells it: only what is listened to has an age
        return replace(reading, time=changed) if reading and changed else reading

    async def listen(self, items: list[str], limit: float) -> None:
        """Hear what some items are, and each change."""
        wanted = {text: self._item(text) for text in items}
        self._changed = {}
        client = self._client = Client()
        await client.connect(self._host, self._port, limit)

        def hear(what: str, vector: Vector) -> None:
            self._note(what, vector)
            key = vector.device, vector.name
            for text, item in wanted.items():
                if key in item.keys or key == (item.device, CONNECTION):
                    reading = self._reading_of(item, client.vectors)
                    if reading or what == "del":  # else it is about to be defined
                        self.heard(text, reading or Reading(None, "ABSENT"))

        client.subscribe(hear)
        for device in dict.fromkeys(item.device for item in wanted.values()):
            await client.get(device)
        self._watcher = asyncio.create_task(self._watch(client))

    def _note(self, what: str, vector: Vector) -> None:
        """Take note of when a property changed; told once more, it did not."""
        key = vector.device, vector.name
        if what == "del":
            self._changed.pop(key, None)
        elif what == "set" or key not in self._changed:
            self._changed[key] = told_at(vector)

    async def _watch(self, client: Client) -> None:
        try:
            await client.until(lambda: False, math.inf)
        except errors.DaqError as error:
            self.lost(error.message)

    async def hang_up(self) -> None:
        """Close the connection that listens."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        if self._client is not None:
            await self._client.close()
        self._client = None


def table(kind: str) -> list[Row]:
    """Return the rows of a kind of standard device, of one of :data:`KINDS`; it reads a file."""
    return mapping.of_path(os.path.join(TABLES, f"{kind}.yaml"), Devices.member)


def _interface(vector: Vector) -> int:
    with contextlib.suppress(ValueError):
        return int(str(vector.elements.get("DRIVER_INTERFACE", "")))
    return 0

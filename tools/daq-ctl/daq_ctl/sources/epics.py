"""Metadata from EPICS: process variables over Channel Access, ``epics:PREFIX``.

``docs/epics.md`` is the page for users.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import ClassVar
from urllib.parse import unquote

from daq_ctl.sources import RECORDING, epicsclient, epicsvalues
from daq_ctl.sources.options import Options
from daq_ctl.sources.readings import Reading
from daq_ctl.sources.sampled import Sampled
from daqlib import errors

_SEARCH_S = 1.0  # servers of a site answer within milliseconds


class Epics(Sampled):
    """Values of process variables; they are searched for when an acquisition begins."""

    member: ClassVar[str] = "pv"

    def configure(self, options: Options) -> None:
        """Take the prefix of all names, and how long to search.

        Raises:
            errors.BadData: a name is none.
            errors.BadConfig: the protocol is not installed.
        """
        super().configure(options)
        self._search = options.number("search", _SEARCH_S, least=0.05, unit="seconds") or _SEARCH_S
        prefix = unquote(self.uri.partition(":")[2])
        if prefix.startswith("/"):
            raise errors.BadData(f"source {self.name!r}: {self.uri!r} names a host",
                                 "write epics: or epics:PREFIX; where to search is said by "
                                 "EPICS_CA_ADDR_LIST in daq-ctl's environment")
        self.rows = [replace(row, item=prefix + row.item) for row in self.rows]
        for row in self.rows:
            if not epicsvalues.allowed(row.item):
                raise errors.BadData(f"source {self.name!r}: {row.item!r} is no name of a process "
                                     "variable", "give printable ASCII without blanks and quotes")
        if not epicsclient.available():
            raise epicsclient.missing()
        self._client: epicsclient.Client | None = None
        self._listening = False

    async def read(self, items: list[str], limit: float) -> dict[str, Reading]:
        """Return what process variables are now; all are searched for at the same time."""
        client = self._open()
        try:
            return await client.read(items, min(limit, self._search))
        finally:
            if not self.watched:  # else what was found is of use for listening
                await self.hang_up()

    async def listen(self, items: list[str], limit: float) -> None:
        """Begin to be told of changes; what is not there, or lost, is searched for meanwhile."""
        client = self._open()
        if not self._listening:
            self._listening = True
            await client.listen(items)

    def _open(self) -> epicsclient.Client:
        if self._client is None:
            loop = asyncio.get_running_loop()

            def heard(item: str, reading: Reading) -> None:
                with contextlib.suppress(RuntimeError):  # the daemon ends
                    loop.call_soon_threadsafe(self.heard, item, reading)

            self._client = epicsclient.Client(heard)
        return self._client

    async def hang_up(self) -> None:
        """End the client."""
        client, self._client, self._listening = self._client, None, False
        if client is not None:
            await client.close()

    async def status(self) -> str:
        """Tell whether it records.

        Raises:
            errors.Unavailable: a process variable that is listened to was lost.
        """
        state = await super().status()
        lost = self._client.lost if self._client and state == RECORDING else []
        if lost:
            raise errors.Unavailable(f"lost its connection to {', '.join(lost)}",
                                     "see to the IOC; it is searched for until the stop")
        return state

"""Which devices of an INDI server have told all properties that they have.

The protocol has no end of a list, and silence for what is not there. A driver answers one request
after the other, though: asked a second time for a property that it has told, it tells it again
after all that it was asked for before. Another client's question may be answered in between, so
that a short pause has to follow.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from daq_ctl.sources.indi.client import Client, Vector
from daqlib import errors

_PAUSE_S = 0.1  # without a new property, after the second answer
_MORE_S = 0.25  # without a new device, when any may come


@dataclass
class _Device:
    """What is known of a device's answers.

    Attributes:
        mark: the property that it told first.
        news: when it told one last; all times of :func:`time.monotonic`.
        again: whether it was asked for the mark.
        whole: whether it has told the mark after that.
    """

    mark: str
    news: float
    again: bool = False
    whole: bool = False


class Listing:
    """The properties of some devices, or of all of them, being told on a connection."""

    def __init__(self, client: Client, devices: list[str], silence: float) -> None:
        """Listen to a connection.

        Args:
            client: is connected, and not asked yet.
            devices: whose properties are asked for; none are all that there are.
            silence: seconds after which a device that says nothing at all is taken for absent.
        """
        self._client, self._devices, self._silence = client, devices, silence
        self._heard: dict[str, _Device] = {}
        client.subscribe(self._hear)

    def _hear(self, what: str, vector: Vector) -> None:
        if what != "def":
            return
        known = self._heard.setdefault(vector.device, _Device(vector.name, vector.heard))
        known.news = vector.heard
        known.whole |= known.again and vector.name == known.mark

    async def complete(self, enough: Callable[[], bool], limit: float) -> None:
        """Ask, and wait until there is enough, or all that there is, or the limit is over.

        Args:
            enough: whether what is wanted is there.
            limit: seconds.

        Raises:
            errors.DaqError: the connection has ended.
        """
        began = time.monotonic()
        for device in self._devices or [""]:
            await self._client.get(device)
        while not enough():
            for device, known in list(self._heard.items()):
                if not known.again:
                    known.again = True
                    await self._client.get(device, known.mark)
            end = self._end(began)
            left = min(began + limit, end) - time.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(errors.Unavailable):
                await self._client.until(self._news(enough, began, end), left)
            if self._client.fault:
                raise self._client.fault

    def _news(self, enough: Callable[[], bool], began: float, end: float) -> Callable[[], bool]:
        return lambda: (enough() or self._end(began) != end
                        or any(not known.again for known in self._heard.values()))

    def _end(self, began: float) -> float:
        """Return when there is nothing more to wait for, as it looks now."""
        ends = [known.news + _PAUSE_S if known.whole else math.inf
                for device, known in self._heard.items()
                if not self._devices or device in self._devices]
        if any(device not in self._heard for device in self._devices) or not self._heard:
            ends.append(began + self._silence)
        if not self._devices and self._heard:
            ends.append(max(known.news for known in self._heard.values()) + _MORE_S)
        return max(ends)

"""Which devices of an INDI server have told all properties that they have.

The protocol has no end of a list, and silence for what is not there. A driver answers one request
after the other, though: asked a second time for a property that it has told, it tells it again
after all that it was asked for before. Everybody hears the answers to everybody: the second
question therefore waits for a pause, and asks for any property, as others will ask for another.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from daq_ctl.sources.indi.client import Client, Vector
from daqlib import errors

_PAUSE_S = 0.05  # without a property being told, before the second question and after its answer
_MORE_S = 0.25  # without a property being told, when devices may come that nobody has named


@dataclass
class _Device:
    """What is known of a device's answers.

    Attributes:
        told: the properties that it has told.
        news: when it told one last; all times of :func:`time.monotonic`.
        mark: the property that it was asked for again, or empty.
        whole: whether it has told that after the question.
    """

    told: list[str] = field(default_factory=list)
    news: float = 0.0
    mark: str = ""
    whole: bool = False

    @property
    def paused(self) -> float:
        """When there will have been a pause, if nothing more comes."""
        return self.news + _PAUSE_S


class Listing:
    """The properties of some devices, or of all of them, being told on a connection."""

    def __init__(self, client: Client, devices: list[str], silence: float) -> None:
        """Listen to a connection.

        Args:
            client: is connected, and not asked yet.
            devices: whose properties are asked for; none are all that there are.
            silence: seconds in which nobody tells a property, after which a device that has told
                none at all is taken for absent.
        """
        self._client, self._devices, self._silence = client, devices, silence
        self._heard: dict[str, _Device] = {}
        self._news = self._looked = 0.0
        client.subscribe(self._hear)

    def _hear(self, what: str, vector: Vector) -> None:
        if what != "def":
            return
        known = self._heard.setdefault(vector.device, _Device())
        known.told.append(vector.name)
        known.news = self._news = vector.heard
        known.whole |= vector.name == known.mark

    async def complete(self, enough: Callable[[], bool], limit: float) -> None:
        """Ask, and wait until there is enough, or all that there is, or the limit is over.

        Args:
            enough: whether what is wanted is there.
            limit: seconds.

        Raises:
            errors.DaqError: the connection has ended.
        """
        self._news = time.monotonic()
        end = self._news + limit
        for device in self._devices or [""]:
            await self._client.get(device)
        while not enough():
            self._looked = now = time.monotonic()
            for device, known in list(self._heard.items()):
                if not known.mark and known.paused <= now:
                    known.mark = random.choice(known.told)
                    await self._client.get(device, known.mark)
            left = min(end, self._next(now)) - now
            if left <= 0:
                return
            with contextlib.suppress(errors.Unavailable):
                # whatever is told changes how long to wait
                await self._client.until(lambda: enough() or self._news > self._looked, left)
            if self._client.fault:
                raise self._client.fault

    def _next(self, now: float) -> float:
        """Return when to look again if nothing comes; what is past says that all is there."""
        wanted = self._devices or list(self._heard)
        known = [self._heard[device] for device in wanted if device in self._heard]
        waits = [now + _PAUSE_S if each.mark and not each.whole else each.paused for each in known]
        if len(known) < len(wanted) or not known:
            waits.append(self._news + self._silence)
        elif not self._devices:
            waits.append(self._news + _MORE_S)
        return min((each for each in waits if each > now), default=0.0)

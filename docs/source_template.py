"""A template for the adapter of a source: copy it, and put your instrument where the clock stands.

``sample:`` is a camera that exposes for some seconds and a sensor with one value. Both work as they
stand, and pass the conformance suite; docs/sources.md tells how to install and to try your own.
"""

from __future__ import annotations

import asyncio
import io
import time
from typing import Any

from daq_ctl.journal import durably
from daq_ctl.sources import ABSENT, ENDED, RECORDING, Delivery, Metadata, Source
from daq_ctl.sources.memo import Memo
from daq_ctl.sources.options import Options
from daqlib import errors, fsops


class Remembered(Source):
    """What both have in common: all that they know is in the memo, so a later daemon knows it."""

    def configure(self, options: Options) -> None:
        """Take and check everything here: what is wrong is told to the client, nothing has begun.

        ``self.uri`` is the URI without its query, ``self.job`` the acquisition. Nothing may be
        asked of the instrument and nothing be written: this also runs when a job is only checked.
        """
        self._memo = Memo(self.order.folder)
        # two jobs cannot have primary sources with the same endpoint: one spelling for one thing
        self.endpoint = self.uri.rstrip("/").lower()

    async def start(self) -> None:
        """Begin; called at most once for an acquisition, and answered when it records."""
        # first what a later daemon must know, then the command: the daemon may be killed between
        # them, and the recording be found, or be aborted, although it never began
        await self._memo.keep(began=time.time())
        # here the instrument is told to begin, with a limit for its reply

    async def status(self) -> str:
        """Tell what became of the recording, whoever began it; ask the instrument if you can."""
        if "began" not in self._memo.facts:
            return ABSENT
        return ENDED if "brought" in self._memo.facts else RECORDING

    async def stop(self, patience: float) -> Delivery:
        """End it and return what it brought; the same again when it is repeated."""
        self._must_record()
        if "brought" not in self._memo.facts:
            # here the instrument is told to stop; it has ``patience`` seconds to write its files
            await self._memo.keep(brought=await self.bring())
        return Delivery(**self._memo.facts["brought"])

    async def bring(self) -> dict[str, Any]:
        """Return members of the delivery; overridden below."""
        return {}

    async def abort(self) -> None:
        """End it and throw it away; harmless when nothing records, or somebody else does."""
        # here the instrument is told to abort, but only when this job's recording is what it does
        await self._memo.discard()

    def _must_record(self) -> None:
        if "began" not in self._memo.facts:
            raise errors.Unavailable("it does not know this recording",
                                     "daq.forcestop goes on without it")


class Camera(Remembered):
    """A primary source: it brings a file, and ends by itself when it has an exposure time."""

    def configure(self, options: Options) -> None:
        """Take ``exposure``, seconds; without it, it records until it is stopped."""
        super().configure(options)
        self.exposure = options.number("exposure", None, least=0, most=86400, unit="seconds")

    async def wait(self, seconds: float) -> bool:
        """Wait for the end, up to some seconds; tell whether it has ended."""
        self._must_record()
        progress = self.progress()
        left = progress[1] - progress[0] if progress else seconds
        # a limit on every wait; one that is cancelled leaves the recording as it is
        await asyncio.sleep(min(left, seconds))
        return await self.status() == ENDED

    async def status(self) -> str:
        """An exposure whose time is over has ended, stopped or not."""
        progress = self.progress()
        return ENDED if progress and progress[0] >= progress[1] else await super().status()

    def progress(self) -> tuple[float, float] | None:
        """Tell seconds so far and in all, without asking anybody."""
        if self.exposure is None or "began" not in self._memo.facts:
            return None
        done = max(0.0, time.time() - self._memo.facts["began"])
        return min(done, self.exposure), self.exposure

    async def bring(self) -> dict[str, Any]:
        """Write the file; it lies in the job's own directory and is kept with its data."""
        path = self._memo.path("exposure.fits")
        began = self._memo.facts["began"]
        # the loop must not be blocked, by the disk or by numbers: both happen in a thread
        await durably(lambda: fsops.put(path, _exposed(time.time() - began), replace=True))
        return {"files": [path]}


class Sensor(Remembered, Metadata):
    """A metadata source: it brings keywords, and never ends by itself."""

    async def bring(self) -> dict[str, Any]:
        """Return keywords; what a person should know of them is a remark."""
        seconds = round(time.time() - self._memo.facts["began"], 3)
        return {"keywords": [{"type": "valueKeyword", "name": "SAMPTIME", "value": seconds,
                              "comment": "[s] how long the sensor was watched"}]}


def _exposed(seconds: float) -> bytes:
    """Return the bytes of a FITS file; astropy is slow to load, so that is done when needed."""
    import numpy
    from astropy.io import fits

    header = fits.Header([("EXPTIME", round(seconds, 3), "[s] exposure time")])
    made = io.BytesIO()
    fits.PrimaryHDU(numpy.zeros((8, 8), "int16"), header).writeto(made)
    return made.getvalue()

"""Cameras behind an INDI server: one exposure is one recording.

What is ours is told by the prefix of its file: it is set before the exposure, is new each time,
and is kept where a later daemon finds it. A camera that has lost it was reset, or is used by
somebody else, and is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
import time
from typing import Any

from daq_ctl import sources
from daq_ctl.journal import durably
from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Delivery, Source
from daq_ctl.sources.indi import client as indi
from daq_ctl.sources.indi.blob import Receiver, complete
from daq_ctl.sources.indi.device import Device, together
from daq_ctl.sources.indi.exposure import ELEMENT, PROPERTY, Exposure
from daq_ctl.sources.indi.settings import Settings
from daq_ctl.sources.memo import Memo
from daq_ctl.sources.options import Options
from daqlib import clock, errors, fsops, names, uri

_NEEDED = (PROPERTY, "CCD_ABORT_EXPOSURE", "UPLOAD_MODE", "UPLOAD_SETTINGS")
_DELIVERING = ("UPLOAD_SETTINGS", "UPLOAD_MODE")  # what says where an image goes
_SLACK_S = 60.0  # beyond the exposure time, for reading out and writing
_LOOK_S = 10.0  # that one look at an exposure lasts which is waited for
_LONGEST = 100  # characters that a file name has of the job's id


class Camera(Source):
    """An exposure of a CCD; see :class:`daq_ctl.sources.Source`."""

    def configure(self, options: Options) -> None:
        """Take the options; the URI is ``indi://HOST[:PORT]/DEVICE``."""
        self._host, self._port, self._device_name, self.endpoint = indi.address(self.uri)
        if not self._device_name:
            raise errors.BadData(f"source {self.name!r}: URI {self.uri!r} names no device",
                                 "use indi://HOST[:PORT]/DEVICE")
        near = uri.is_loopback(sources.one_host(self._host))
        self._settings = Settings(options)
        self._local = options.choice("delivery", *(
            ("local", "client") if near else ("client", "local"))) == "local"
        self._folder = _path(options, "uploadDir", options.text("uploadDir"))
        if near and not self._folder:
            self._folder = self.order.folder
        self._map = sorted(((_path(options, "pathMap", far), _path(options, "pathMap", near))
                            for far, near in options.table("pathMap").items()),
                           key=lambda pair: -len(pair[0]))
        self._far = options.text("collectFrom", "" if near or self._map else self._host)
        if self._far:
            names.check_host(self._far)
        self._aborts = options.choice("stop", "wait", "abort") == "abort"
        self.timeout = options.number("timeout", self.timeout, least=0.1, unit="seconds") or 0.0
        self._slack = options.number("slack", _SLACK_S, least=0, unit="seconds") or 0.0
        self._memo = Memo(self.order.folder)
        self._prefix = str(self._memo.facts.get("prefix") or self._new_prefix())
        begun = self._memo.facts.get("begun")
        self._began = None if begun is None else clock.monotonic_of(begun)
        self._before: dict[str, dict[str, Any]] = self._memo.facts.get("before") or {}
        self._client: indi.Client | None = None
        self._receiver: Receiver | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    def _new_prefix(self) -> str:
        """Return the beginning of the file's name, without what a driver would replace in it."""
        stem = f"{self.job[:_LONGEST]}_{self.name}"
        for special in ("X" * 3, "ISO8601"):
            stem = stem.replace(special, special.lower())
        return f"{stem}_{secrets.token_hex(4)}"

    # -- what became of it ---------------------------------------------------------------------

    @property
    def _outcome(self) -> dict[str, Any]:
        """What the recording brought, ``files`` and ``fault``; empty while that is not known."""
        found = self._memo.facts.get("outcome")
        return found if isinstance(found, dict) else {}

    def _elapsed(self) -> float:
        return time.monotonic() - (self._began or 0.0)

    def _left(self) -> float:
        """Return the seconds after which it is taken for lost, unless more of an image comes."""
        idle = self._elapsed() - self._settings.exposure
        if self._receiver:
            idle = min(idle, time.monotonic() - self._receiver.heard)
        return self._slack - idle

    def _lost(self) -> bool:
        """Tell whether it lasts longer than any exposure of this length may."""
        return self._began is not None and self._left() <= 0

    def _over(self) -> bool:
        """Tell whether nothing more is to come."""
        verdict = self._exposure.verdict
        return verdict == FAILED or verdict == ENDED and (
            self._receiver is None or self._receiver.done)

    async def _conclude(self, files: list[str], fault: str) -> None:
        """Keep what the recording brought, for whoever asks next."""
        await self._memo.keep(outcome={"files": files, "fault": fault})
        await self._give_back()

    async def _brought(self) -> tuple[list[str], str]:
        """Return files and fault of an exposure that is over."""
        if self._exposure.fault:
            return [], self._exposure.fault
        if not self._local:
            path = await self._image()
            return ([path], "") if path else ([], self._receiver.fault if self._receiver else "")
        path = self._written()
        if not path:
            return [], "its camera told of no file of this exposure"
        files, fault = sources.locations([self._location(path)])
        if files and not self._far:
            fault = await asyncio.to_thread(_missing, files[0])
        return ([] if fault else files), fault

    async def _image(self) -> str:
        """Return the path of the image that came over the network, if it has come."""
        return await asyncio.to_thread(complete, self._memo.path(self._prefix))

    def _written(self) -> str:
        """Return the path of our file on the camera's host, if the camera has written it."""
        path = str(self._device.value("CCD_FILE_PATH", "FILE_PATH") or "")
        return path if os.path.basename(path).startswith(self._prefix) else ""

    def _location(self, path: str) -> str:
        for far, near in self._map:
            if path.startswith(far.rstrip("/") + "/"):
                return os.path.join(near, path[len(far.rstrip("/")) + 1:])
        return names.location(self._far, path)

    # -- the connection ------------------------------------------------------------------------

    async def _attach(self) -> None:
        """Be connected; find out what became of an exposure that was not watched meanwhile.

        Raises:
            errors.DaqError: the server or the camera does not answer.
        """
        async with self._turn:
            if self._client and not self._client.fault:
                return
            await self._drop()
            client = indi.Client()
            try:
                await client.connect(self._host, self._port, self.timeout)
                self._device = Device(client, self._device_name, self.timeout, self._slack)
                self._exposure = Exposure(client, self._device_name)
                await client.get("" if self._settings.wide else self._device_name)
                if self._began is not None and not self._outcome:
                    await self._find_again(client)
            except BaseException:
                await client.close()
                raise
            self._client = client

    async def _find_again(self, client: indi.Client) -> None:
        await self._know(client)
        there = not self._local and await self._image()
        if not self._local and not there and self._ours() and self._busy():
            (await self._receive(client)).arm()
        self._exposure.arm(busy=True)
        if there or self._local and self._ours() and self._written() and not self._busy():
            self._exposure.end()
        elif not self._device.connected:
            self._exposure.fail("its device was disconnected during the exposure")
        elif not self._ours():
            self._exposure.fail("its camera was set up anew during the exposure, by its driver's "
                                "restart or by somebody else")
        elif not self._busy():
            self._exposure.fail("its exposure is not there: it never began, or ended without us"
                                f"{client.said(self._device_name)}")

    async def _know(self, client: indi.Client) -> None:
        await client.until(self._told, self.timeout, f"the state of device {self._device_name!r}")

    def _told(self) -> bool:
        """Tell whether enough is known to say what the camera does."""
        device = self._device
        if not device.vector("CONNECTION") or not device.connected:
            return device.vector("CONNECTION") is not None
        if not all(device.vector(name) for name in _NEEDED):
            return False
        return not self._local or not self._ours() or device.vector("CCD_FILE_PATH") is not None

    def _ours(self) -> bool:
        return self._device.value("UPLOAD_SETTINGS", "UPLOAD_PREFIX") == self._prefix

    def _busy(self) -> bool:
        vector = self._device.vector(PROPERTY)
        return vector is not None and vector.state == "Busy"

    async def _receive(self, client: indi.Client) -> Receiver:
        await durably(lambda: fsops.sweep(self._memo.folder))
        self._receiver = Receiver(self._device_name, self._memo.path(self._prefix), client.wake)
        await self._receiver.open(self._host, self._port, self.timeout)
        return self._receiver

    async def _give_back(self) -> None:
        """Have images go where they went before: the next, of whomever, would replace our file."""
        if self._client and self._ours():
            with contextlib.suppress(errors.DaqError):  # the recording is over all the same
                await together(*(self._device.set(name, elements)
                                 for name, elements in self._before.items() if elements))

    async def _drop(self) -> None:
        if self._receiver:
            self._receiver.close()
        if self._client:
            await self._client.close()
        self._client = self._receiver = None

    # -- the contract --------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Connect, set the camera up, and choose the way of its file.

        Raises:
            errors.DaqError: something is missing, refused, not answered, or somebody exposes.
        """
        await self._attach()
        device = self._device
        fresh = await device.connect(allowed=self._settings.connect)
        for name in _NEEDED:
            await device.defined(name)
        if fresh and self._busy():  # of an exposure that the loss of the connection has ended
            await device.set("CCD_ABORT_EXPOSURE", {"ABORT": True})
            await device.client.until(lambda: not self._busy(), self.timeout,
                                      f"the end of the old exposure of {self._device_name!r}")
        self._refuse_busy()
        await durably(self._memo.make)
        await self._settings.apply(device)
        if device.value("CCD_TRANSFER_FORMAT", "FORMAT_FITS") is False:
            await device.set("CCD_TRANSFER_FORMAT", {"FORMAT_FITS": True})
        self._before = {name: _chosen(device.vector(name)) for name in _DELIVERING}
        mode = "UPLOAD_LOCAL" if self._local else "UPLOAD_CLIENT"
        await device.set("UPLOAD_MODE", {mode: True})
        where = {"UPLOAD_DIR": self._folder} if self._local and self._folder else {}
        await device.set("UPLOAD_SETTINGS", {**where, "UPLOAD_PREFIX": self._prefix})
        if not self._local:
            assert self._client
            await self._receive(self._client)

    def _refuse_busy(self) -> None:
        if self._busy():
            raise errors.BadData(f"device {self._device_name!r} is exposing for somebody else",
                                 "wait until it ends, or abort it there")

    def _check_ready(self) -> None:
        self._refuse_busy()
        if not self._device.connected or not self._ours():
            raise errors.BadData(f"device {self._device_name!r} is not as it was set up: its "
                                 "driver was restarted, or somebody else uses it", "start anew")

    async def start(self) -> None:
        """Begin the exposure.

        Raises:
            errors.DaqError: the camera refused, did not answer, or is not as it was set up.
        """
        await self._attach()
        await self._know(self._device.client)
        self._check_ready()
        if not self._local and (self._receiver is None or self._receiver.done):
            await self._receive(self._device.client)  # a connection has broken meanwhile
        await self._memo.keep(prefix=self._prefix, begun=time.time(), before=self._before)
        self._check_ready()  # nothing is waited for between this look and the command
        self._began = time.monotonic()
        self._exposure.arm()
        if self._receiver:
            self._receiver.arm()
        client = self._device.client
        await client.send("Number", self._device_name, PROPERTY, {ELEMENT: self._settings.exposure})
        await client.until(lambda: self._exposure.busy or self._exposure.verdict, self.timeout,
                           f"the beginning of the exposure of device {self._device_name!r}")
        if self._exposure.verdict == FAILED:
            raise errors.BadData(self._exposure.fault, "look at the device")

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the exposure; a lost or failed one has ended, too.

        Raises:
            errors.DaqError: it did not begin; or the connection is lost, and the next call
                connects again.
        """
        if self._began is None:
            raise errors.BadData("its exposure did not begin", "start anew")
        try:
            if not self._outcome:
                await self._attach()
                await self._watch(seconds)
        except errors.DaqError as error:
            if not self._lost():
                raise
            await self._conclude([], f"its end was not seen: {error.message}")
        return bool(self._outcome)

    async def _watch(self, seconds: float) -> None:
        client = self._device.client
        try:
            await client.until(self._over, max(0.0, min(seconds, self._left())))
        except errors.Unavailable:
            if client.fault:
                raise
        if not self._over() and self._lost():
            await self._conclude([], f"it did not end within {self._slack:g} s of its exposure "
                                     f"time{client.said(self._device_name)}")
        elif self._over():
            await self._conclude(*await self._brought())

    async def stop(self, patience: float) -> Delivery:
        """Return the file; an exposure that goes on is waited for, or aborted.

        Raises:
            errors.DaqError: it did not begin, or the connection is lost.
        """
        if self._began is not None and not self._outcome and (self._aborts or not patience):
            await self._abandon()
            if not patience and not self._over():
                await self._conclude([], "its image had not come when it was told to stop")
        while not await self.wait(_LOOK_S):
            pass
        return Delivery(list(self._outcome["files"]), [], str(self._outcome["fault"]))

    async def _abandon(self) -> None:
        """Abort the exposure, unless it is over or not ours."""
        await self._attach()
        if self._exposure.verdict:
            return
        with contextlib.suppress(errors.BadData):  # some refuse when there is nothing to abort
            await self._device.set("CCD_ABORT_EXPOSURE", {"ABORT": True})
        await self._device.client.until(
            lambda: self._exposure.verdict or not self._busy(), self.timeout,
            f"the end of the aborted exposure of device {self._device_name!r}")
        self._exposure.fail("its exposure was aborted")

    async def abort(self) -> None:
        """Abort our exposure, if it goes on, and forget it with what it brought.

        Raises:
            errors.DaqError: the server does not answer, and it may yet go on.
        """
        if self._began is not None and not self._outcome:
            try:
                await self._abandon()
            except errors.DaqError:
                if not self._lost():
                    raise
        await self._give_back()
        await self._drop()
        await self._memo.discard()
        self._began = None

    async def status(self) -> str:
        """See :class:`daq_ctl.sources.Source`."""
        if self._outcome:
            return FAILED if self._outcome["fault"] else ENDED
        if self._began is None:
            return ABSENT
        try:
            await self._attach()
            if not self._over():
                return RECORDING
            return FAILED if (await self._brought())[1] else ENDED
        finally:
            if self._closed:
                await self._drop()

    def progress(self) -> tuple[float, float] | None:
        """See :class:`daq_ctl.sources.Source`."""
        return None if self._began is None else (self._elapsed(), self._settings.exposure)

    async def close(self) -> None:
        """Let go of the connections; the exposure goes on."""
        self._closed = True
        await self._drop()


def _chosen(vector: indi.Vector | None) -> dict[str, Any]:
    """Return what a property says: of a switch what is on, of texts those that are not empty."""
    return {name: value for name, value in (vector.elements if vector else {}).items() if value}


def _missing(path: str) -> str:
    """Return why a file cannot be used, or an empty text."""
    try:
        found = os.stat(path)
    except OSError as error:
        return f"its file {path} is not there: {error.strerror}; if the camera's host has other " \
               "paths, give the option pathMap"
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return f"its file {path} is empty, or no file"
    return ""


def _path(options: Options, name: str, value: Any) -> str:
    """Return a path that is absolute, or empty."""
    try:
        return names.check_path(value) if value else ""
    except errors.BadData as error:
        options.refuse(name, error.message, error.remedy)

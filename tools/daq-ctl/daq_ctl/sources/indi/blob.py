"""Images that a camera sends to its client: written to disk piece by piece while they come.

They have a connection of their own, so that nothing else waits behind the megabytes, read by a
thread. An image is never whole in memory, whatever its size.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO

from daq_ctl.sources.indi import wire
from daq_ctl.sources.indi.client import not_reached, notice_death
from daqlib import cli, errors, fsops

#: The property, and its element, in which INDI's CCD drivers send the image of the main chip.
PROPERTY = "CCD1"
#: What a merge can read; a tile-compressed image is a FITS file, too (FITS Standard 4.0, 10.1).
_FORMATS = (".fits", ".fit", ".fts", ".fits.fz")
_PIECE = 256 * 1024


def complete(stem: str) -> str:
    """Return the path of an image that an earlier connection has brought, or an empty text.

    Args:
        stem: see :class:`Image`.
    """
    return next((path for path in (stem + kind for kind in _FORMATS) if os.path.exists(path)), "")


class Image:
    """Writes the first image that comes after it was armed; a :class:`wire.Sink`.

    Attributes:
        armed: whether an image is ours: what came earlier is of somebody else's exposure.
        path: of the file, once it is durable under its name.
    """

    def __init__(self, stem: str) -> None:
        """Expect an image.

        Args:
            stem: absolute path of the file to make, to which the image's format is added.
        """
        self.armed, self.path = False, ""
        self._stem, self._final, self._embryo = stem, "", ""
        self._file: BinaryIO | None = None
        self._rest, self._left, self._exact = "", 0, True

    @property
    def coming(self) -> bool:
        """Whether our image is on its way."""
        return self._file is not None

    def begin(self, vector: wire.Message, attributes: Mapping[str, str]) -> None:
        """Open the file, or pass over what is not our image.

        Raises:
            errors.BadData: it is no FITS file, or does not tell its length.
            OSError: the file cannot be made.
        """
        kind = attributes.get("format", "")
        if (not self.armed or self.path or vector.name != PROPERTY
                or attributes.get("name") != PROPERTY or kind.startswith(".stream")):
            return
        if kind not in _FORMATS:
            raise errors.BadData(f"the camera sent its image as {kind!r}, which is no FITS file",
                                 "have it send FITS: CCD_TRANSFER_FORMAT, and CCD_COMPRESSION off")
        # "size" is that before compression; the data may be padded, and are cut to "len"
        length = attributes.get("len") or attributes.get("size", "")
        if not length.isdecimal() or not int(length):
            raise errors.BadData(f"the camera sent an image of length {length!r}",
                                 "look at its driver")
        self._exact = "len" in attributes or kind != ".fits.fz"
        self._final = self._stem + kind
        self._embryo = fsops.temporary(self._final)
        self._file = open(self._embryo, "xb")  # noqa: SIM115
        self._rest, self._left = "", int(length)

    def take(self, text: str) -> None:
        """Write what a piece of base64 stands for."""
        if not self._file:
            return
        text = self._rest + "".join(text.split())
        whole = len(text) & ~3
        self._rest = text[whole:]
        data = binascii.a2b_base64(text[:whole])[:self._left]
        self._left -= len(data)
        self._file.write(data)

    def end(self) -> None:
        """Make the file durable and give it its name.

        Raises:
            errors.BadData: it is shorter than it was said to be.
        """
        if not self._file:
            return
        if self._left and self._exact:
            raise errors.BadData(f"the camera's image lacks its last {self._left} bytes",
                                 "take it again")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        os.rename(self._embryo, self._final)
        fsops.fsync_dir(os.path.dirname(self._final))
        self.path = self._final

    def discard(self) -> None:
        """Remove what is not complete."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
            fsops.remove(self._embryo)


class Receiver:
    """A connection that takes the images of one camera.

    Attributes:
        fault: why no image will come any more, or empty.
        heard: when bytes of an image came last, in seconds of :func:`time.monotonic`.
    """

    def __init__(self, device: str, stem: str, changed: Callable[[], None]) -> None:
        """Make a receiver that is not connected yet.

        Args:
            device: the camera.
            stem: see :class:`Image`.
            changed: called in the event loop when the image is there, or never will be.
        """
        self._image = Image(stem)
        self._device, self._changed = device, changed
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._socket: socket.socket | None = None
        self.fault, self.heard = "", time.monotonic()

    @property
    def path(self) -> str:
        """The file, once it is complete and durable."""
        return self._image.path

    @property
    def done(self) -> bool:
        """Whether there is nothing to wait for."""
        return bool(self.path or self.fault)

    def arm(self) -> None:
        """Take the next image for ours."""
        self._image.armed = True

    async def open(self, host: str, port: int, limit: float) -> None:
        """Connect, and return when images will come.

        Raises:
            errors.Unavailable: the server or the camera did not answer within ``limit`` seconds.
        """
        try:
            self._socket = await asyncio.to_thread(socket.create_connection, (host, port), limit)
        except OSError as error:
            raise not_reached(f"{host}:{port}", error, limit) from error
        self._socket.settimeout(None)
        notice_death(self._socket)
        threading.Thread(target=self._run, args=(self._socket,), daemon=True,
                         name=f"image of {self._device}").start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._ready.wait()
        if self.fault or not self._ready.is_set():
            raise errors.Unavailable(self.fault or f"device {self._device!r} has no {PROPERTY}",
                                     "look whether it is a camera")

    def close(self) -> None:
        """End the connection; the thread ends with it."""
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._read(connection)
            self.fault = "the INDI server closed the connection before the image was there"
        except errors.DaqError as error:
            self.fault = error.message
        except OSError as error:
            self.fault = cli.from_os_error(error).message
        except ValueError as error:
            self.fault = f"the camera's image is no base64: {error}"
        finally:
            self._image.discard()
            with contextlib.suppress(RuntimeError):  # the event loop may be closed
                self._loop.call_soon_threadsafe(self._tell)

    def _read(self, connection: socket.socket) -> None:
        # in this order: the definition tells that the wish was heard
        connection.sendall(wire.enable_blob("Only", self._device, PROPERTY)
                           + wire.get_properties(self._device, PROPERTY))
        stream = wire.Stream(self._image)
        while data := connection.recv(_PIECE):
            for message in stream.feed(data):
                if message.what == "def" and message.name == PROPERTY:
                    self._loop.call_soon_threadsafe(self._ready.set)
            if self._image.coming:
                self.heard = time.monotonic()
            if self.path:
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._ready.set()
        self._changed()

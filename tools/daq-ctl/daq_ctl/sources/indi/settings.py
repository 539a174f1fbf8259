"""What a camera is told before an exposure: the options that say how, sent as properties.

Names and elements are the standard properties of INDI's CCD and filter wheel drivers.
"""

from __future__ import annotations

import contextlib
from itertools import groupby
from typing import Any

from daq_ctl.sources.indi.client import Client
from daq_ctl.sources.indi.device import Device, together
from daq_ctl.sources.options import Options
from daqlib import errors

_WHEEL = 16  # the bit of DRIVER_INTERFACE by which a driver says that it is a filter wheel


class Settings:
    """The options of an exposure.

    Attributes:
        exposure: seconds.
        connect: whether a disconnected device is connected.
        wide: whether more devices than the camera must be known.
    """

    def __init__(self, options: Options) -> None:
        """Take and check the options.

        Raises:
            errors.BadData: one is missing or not allowed.
        """
        exposure = options.number("exposure", least=0, unit="seconds")
        if exposure is None:
            options.refuse("exposure", "missing", "give the exposure time in seconds")
        self.exposure = exposure
        self.connect = options.flag("connect", default=True)
        self._frame = options.numbers("frame", 4, least=0)
        binning = options.numbers("binning", 1, 2, least=1)
        self._binning = [*binning, *binning][:2]
        self._gain = options.number("gain")
        self._offset = options.number("offset")
        self._type = options.choice("frameType", "light", "bias", "dark", "flat")
        self._filter = options.text("filter", allowed="the name or number of a filter")
        self.wide = bool(self._filter)
        self._wheel = options.text("filterDevice", allowed="the name of a filter wheel")
        self._header = {_keyword(options, name): _valued(options, name, value)
                        for name, value in options.table("header").items()}
        self._setup = [(*_property(options, key), _scalar(options, f"setup.{key}", value))
                       for key, value in options.table("setup").items()]

    async def apply(self, device: Device) -> None:
        """Tell a camera, and its filter wheel.

        Raises:
            errors.DaqError: something was refused, or not answered.
        """
        for name, elements in groupby(self._setup, key=lambda each: each[0]):
            await device.set(name, {element: value for _, element, value in elements})
        # the others are sent at once: answers to one after the other would take long
        await together(
            *(device.set(name, told) for name, told in self._exposing().items()),
            self._tell_header(device), self._amplify(device), self._choose_filter(device))

    def _exposing(self) -> dict[str, dict[str, Any]]:
        told: dict[str, dict[str, Any]] = {
            "CCD_FRAME_TYPE": {f"FRAME_{self._type.upper()}": True}}
        if self._binning:
            told["CCD_BINNING"] = dict(zip(("HOR_BIN", "VER_BIN"), self._binning, strict=True))
        if self._frame:
            told["CCD_FRAME"] = dict(zip(("X", "Y", "WIDTH", "HEIGHT"), self._frame, strict=True))
        return told

    async def _amplify(self, device: Device) -> None:
        """Set gain and offset, each a property of its own or an element of CCD_CONTROLS."""
        for value, name, element, other in ((self._gain, "CCD_GAIN", "GAIN", "Gain"),
                                            (self._offset, "CCD_OFFSET", "OFFSET", "Offset")):
            if value is not None:
                found = await device.defined(name, "CCD_CONTROLS")
                await device.set(found, {element if found == name else other: value})

    async def _tell_header(self, device: Device) -> None:
        """Have cards put into the header: any since INDI 2.0, OBJECT and OBSERVER before."""
        if not self._header:
            return
        await device.defined("FITS_HEADER")
        vector = device.vector("FITS_HEADER")
        assert vector
        if "KEYWORD_NAME" in vector.elements:
            for name, (value, comment) in self._header.items():
                await device.set("FITS_HEADER", {"KEYWORD_NAME": name, "KEYWORD_VALUE": value,
                                                 "KEYWORD_COMMENT": comment})
        else:
            await device.set("FITS_HEADER", {f"FITS_{name}": value
                                             for name, (value, _) in self._header.items()})

    async def _choose_filter(self, camera: Device) -> None:
        if not self._filter:
            return
        wheel = await self._find_wheel(camera)
        await wheel.connect(allowed=self.connect)
        await wheel.defined("FILTER_SLOT")
        slot = self._filter if self._filter.isdecimal() else await self._slot(wheel)
        await wheel.set("FILTER_SLOT", {"FILTER_SLOT_VALUE": slot})

    async def _find_wheel(self, camera: Device) -> Device:
        """Return the wheel that is given, else the camera's own, else the only one there is."""
        if self._wheel:
            return camera.of(self._wheel)
        active = str(camera.value("ACTIVE_DEVICES", "ACTIVE_FILTER") or "")
        if active:
            wheel = camera.of(active)
            with contextlib.suppress(errors.Unavailable):  # it may name what does not exist
                await wheel.defined("CONNECTION")
                return wheel
        wheels = _wheels(camera.client)
        if len(wheels) != 1:
            raise errors.BadData(f"the filter wheel of device {camera.name!r} is not known: the "
                                 f"server has {', '.join(wheels) or 'none'}",
                                 "name it by the option filterDevice")
        return camera.of(wheels[0])

    async def _slot(self, wheel: Device) -> int:
        """Return the number of the slot that has our filter."""
        await wheel.defined("FILTER_NAME")
        vector = wheel.vector("FILTER_NAME")
        assert vector
        names = [str(value) for value in vector.elements.values()]
        if names.count(self._filter) != 1:
            raise errors.BadData(f"filter {self._filter!r} is not one of {wheel.name!r}, which has "
                                 f"{', '.join(names)}", "correct the option filter")
        return names.index(self._filter) + 1


def _wheels(client: Client) -> list[str]:
    """Return the devices of a server that are filter wheels, as their drivers say."""
    told = {vector.device: str(vector.elements.get("DRIVER_INTERFACE", ""))
            for vector in client.vectors.values() if vector.name == "DRIVER_INFO"}
    return sorted(device for device, interface in told.items()
                  if interface.isdecimal() and int(interface) & _WHEEL)


def _property(options: Options, key: str) -> tuple[str, str]:
    name, _, element = key.partition(".")
    if not name or not element or not key.isprintable():
        options.refuse(f"setup.{key}", "no property", 'give "PROPERTY.ELEMENT": value')
    return name, element


def _scalar(options: Options, name: str, value: Any) -> Any:
    if not isinstance(value, str | int | float) or not str(value).isprintable():
        options.refuse(name, f"{value!r} is no value", "give a number, a text, On or Off")
    return value


def _keyword(options: Options, name: str) -> str:
    keyword = name.removeprefix("FITS_")
    if not keyword.isascii() or not keyword.isprintable() or not 0 < len(keyword) <= 68:
        options.refuse(f"header.{name}", "no keyword", 'give "KEYWORD": value')
    return keyword


def _valued(options: Options, name: str, value: Any) -> tuple[Any, str]:
    """Return value and comment of a card, given as a value or as a list of both."""
    both = value if isinstance(value, list) else [value, ""]
    if len(both) != 2:
        options.refuse(f"header.{name}", f"{value!r} is no value", "give VALUE or [VALUE, COMMENT]")
    return _scalar(options, f"header.{name}", both[0]), str(
        _scalar(options, f"header.{name}", both[1]))

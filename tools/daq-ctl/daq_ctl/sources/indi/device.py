"""Commands to a device of an INDI server: each is answered within a limit, or is an error."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from typing import Any

from daq_ctl.sources.indi.client import Client, Vector
from daq_ctl.sources.indi.wire import Value
from daqlib import errors

_GONE = "gone"
_REMEDY = "correct the source's options"


async def together(*commands: Coroutine[Any, Any, None]) -> None:
    """Wait for commands that are given at once; raise the first of their errors, in order.

    Raises:
        errors.DaqError: one failed; the others were waited for.
    """
    for outcome in await asyncio.gather(*commands, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


class Device:
    """A device, and the answers to what it is told.

    Only a *set* that follows a command answers it. A repeated definition does not: the server
    sends one to everybody when another client asks for it.
    """

    def __init__(self, client: Client, name: str, timeout: float, slack: float) -> None:
        """Listen to a device.

        Args:
            client: the connection.
            name: of the device.
            timeout: seconds within which it must answer a command.
            slack: seconds more that it may be busy with it.
        """
        self.client, self.name = client, name
        self._timeout, self._slack = timeout, slack
        self._answers: dict[str, list[str]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        client.subscribe(self._hear)

    def _hear(self, what: str, vector: Vector) -> None:
        if vector.device == self.name and what != "def":
            self._answers.get(vector.name, []).append(vector.state if what == "set" else _GONE)

    def vector(self, name: str) -> Vector | None:
        """Return a property, None when it is not defined."""
        return self.client.vectors.get((self.name, name))

    def value(self, name: str, element: str) -> Value | None:
        """Return the value of an element, None when it is not defined."""
        vector = self.vector(name)
        return vector.elements.get(element) if vector else None

    @property
    def connected(self) -> bool:
        """Whether its driver has a connection to the instrument."""
        return self.value("CONNECTION", "CONNECT") is True

    def of(self, name: str) -> Device:
        """Return another device of the same server."""
        return self if name == self.name else Device(self.client, name, self._timeout, self._slack)

    async def defined(self, *names: str) -> str:
        """Wait until one of some properties is defined, and return the first that is.

        Raises:
            errors.Unavailable: none of them was within the limit.
        """
        known = any(key[0] == self.name for key in self.client.vectors)
        return await self.client.until(
            lambda: next((name for name in names if self.vector(name)), ""), self._timeout,
            f"property {' or '.join(names)} of device {self.name!r}"
            + ("" if known else ", of which the server knew nothing,"))

    async def connect(self, *, allowed: bool) -> bool:
        """Have its driver connect to the instrument, unless it is connected.

        Args:
            allowed: whether it may be told to.

        Returns:
            Whether it had to be told.

        Raises:
            errors.DaqError: it is not connected.
        """
        await self.defined("CONNECTION")
        if self.connected:
            return False
        if not allowed:
            raise errors.BadData(f"device {self.name!r} is not connected to its instrument",
                                 "connect it, or give the option connect=true")
        await self.set("CONNECTION", {"CONNECT": True})
        if not self.connected:
            raise errors.BadData(f"device {self.name!r} did not connect to its instrument"
                                 f"{self.client.said(self.name)}", "look at the instrument")
        return True

    async def set(self, name: str, elements: Mapping[str, Any]) -> None:
        """Give elements of a property new values, and wait until the device has done so.

        Raises:
            errors.BadData: it refused, or there is no such element.
            errors.Unavailable: it did not answer.
        """
        # answers do not say to which command: only one is under way
        async with self._turns.setdefault(name, asyncio.Lock()):
            await self._set(name, elements)

    async def _set(self, name: str, elements: Mapping[str, Any]) -> None:
        await self.defined(name)
        vector = self.vector(name)
        assert vector
        made = {element: self._value(vector, element, value)
                for element, value in elements.items()}
        answer = self._answers[name] = []
        try:
            await self.client.send(vector.kind, self.name, name, made)
            what = f"of device {self.name!r} to {name}"
            await self.client.until(lambda: answer, self._timeout, f"an answer {what}")
            await self.client.until(lambda: answer[-1] != "Busy", self._slack,
                                    f"the last answer {what}, at which it is still busy,")
        finally:
            del self._answers[name]
        told = ", ".join(f"{element}={value}" for element, value in elements.items())
        if answer[-1] == _GONE:
            raise errors.Unavailable(f"device {self.name!r} was disconnected, or its driver ended, "
                                     f"when it was told {name} {told}", "look at the driver")
        if answer[-1] == "Alert":
            raise errors.BadData(f"device {self.name!r} refused {name} {told}"
                                 f"{self.client.said(self.name)}", _REMEDY)

    def _value(self, vector: Vector, element: str, value: Any) -> Value:
        """Return a value as a kind of property has it.

        Raises:
            errors.BadData: it has no such element, or this is no value for it.
        """
        what = f"{vector.name}.{element} of device {self.name!r}"
        if element not in vector.elements:
            raise errors.BadData(f"there is no {what}; it has "
                                 f"{', '.join(sorted(vector.elements)) or 'none'}", _REMEDY)
        text = str(value)
        if vector.kind == "Text":
            return text
        if vector.kind == "Switch":
            switch = {"true": True, "on": True, "false": False, "off": False}.get(text.lower())
            if switch is not None:
                return switch
        elif vector.kind == "Number" and not isinstance(value, bool):
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if math.isfinite(number):
                return number
        raise errors.BadData(f"{value!r} is no value for {what}, a {vector.kind}", _REMEDY)

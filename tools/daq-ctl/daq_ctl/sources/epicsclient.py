"""A client of EPICS Channel Access in a thread of its own; ``caproto`` speaks the protocol.

The thread has an event loop, so that nothing of EPICS can hold up the daemon's: an address in
``EPICS_CA_ADDR_LIST`` may have to be resolved, a burst of updates to be decoded. When the loop
ends, everything that the client has left in it ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from daq_ctl.sources import epicsvalues
from daq_ctl.sources.epicsvalues import STRING_MOST, Alarm, Control
from daq_ctl.sources.readings import Reading
from daqlib import errors

T = TypeVar("T")
log = logging.getLogger("daq.ocm.controller")

_CHANGES = 5  # of value or alarm: DBE_VALUE | DBE_ALARM
_TEXT_MOST = 1024  # characters of a text: more is no keyword
_LOOK_S = 5.0  # between two looks for servers that did not take the connection
_SELDOM_S = 60.0  # the same, when that did not help
_CLOSE_S = 5.0  # for good-byes
_INSTALL = "pip install 'daqspool[epics]', into the Python that runs daq-ctl"


def available() -> bool:
    """Tell whether the protocol is installed; it is not loaded."""
    return importlib.util.find_spec("caproto") is not None


def missing() -> errors.BadConfig:
    """Return the error that it is not installed."""
    return errors.BadConfig("the Python package caproto, which speaks to EPICS, is not installed",
                            _INSTALL)


class Client:
    """Process variables that are read, and some that are listened to.

    Its coroutines belong to the daemon's loop, what begins with an underscore to the thread's.
    """

    _context: Any
    _over: asyncio.Event

    def __init__(self, heard: Callable[[str, Reading], None]) -> None:
        """Start the thread; whoever made it has to close it.

        Args:
            heard: is told what becomes of an item that is listened to; called in the thread.
        """
        self._heard = heard
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._gone: Future[None] = Future()
        self._controls: dict[str, Control] = {}
        self._watched: dict[str, list[str]] = {}
        self._changes: dict[int, str] = {}
        self._connected: set[str] = set()
        self._lost: dict[str, None] = {}
        threading.Thread(target=self._run, name="epics", daemon=True).start()

    @property
    def lost(self) -> list[str]:
        """What is listened to and was connected, but is not any more."""
        return list(self._lost)

    # -- of the daemon's loop -----------------------------------------------------------------

    async def read(self, items: list[str], limit: float) -> dict[str, Reading]:
        """Return what items are now; one that nobody serves, or not in time, is left out.

        Args:
            items: names of process variables, with the element of an array.
            limit: seconds for all of them together.

        Raises:
            errors.DaqError: the client cannot be opened, or was closed meanwhile.
        """
        return await self._there(lambda: self._read(items, limit))

    async def listen(self, items: list[str]) -> None:
        """Begin to tell each change of some items; those that are not there are searched for.

        Raises:
            errors.DaqError: the client cannot be opened, or was closed meanwhile.
        """
        await self._there(lambda: self._listen(items))

    async def _there(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = await asyncio.shield(asyncio.wrap_future(self._ready))
        future = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise errors.Unavailable("the EPICS client was closed meanwhile", "repeat it") from None

    async def close(self) -> None:
        """Close all connections and end the thread, when it has begun at the latest."""
        self._ready.add_done_callback(self._end)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._gone)), _CLOSE_S)

    def _end(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        if not ready.exception():
            with contextlib.suppress(RuntimeError):  # it has ended already
                ready.result().call_soon_threadsafe(self._over.set)

    # -- of the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except ImportError:
            self._ready.set_exception(missing())
        except Exception as error:
            log.debug("the EPICS client ended: %s", error)
            if not self._ready.done():
                self._ready.set_exception(errors.BadConfig(
                    f"the EPICS client cannot be opened: {error}",
                    "see the variables EPICS_CA_... of daq-ctl's environment"))
        finally:
            self._gone.set_result(None)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        # what became of a connection is told by its process variables
        loop.set_exception_handler(lambda _loop, told: log.debug(
            "EPICS client: %s", told.get("exception") or told["message"]))
        self._context, self._over = _context(), asyncio.Event()
        self._ready.set_result(loop)
        pause, stuck = _LOOK_S, set[str]()
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause)
            now = self._found_only()
            if now & stuck:
                pause = min(2 * pause, _SELDOM_S)
                await self._renew()
            stuck = now
        with contextlib.suppress(Exception):  # the end of the loop ends what is left
            await self._context.disconnect()

    def _found_only(self) -> set[str]:
        """Return what is listened to and has a server, but no connection.

        When a server that answered the search does not take the connection, caproto 1.3 waits for
        ever.
        """
        return {pv.name for pv in self._context.pvs.values() if pv.name in self._watched
                and pv.circuit_ready.is_set() and not pv.connected}

    async def _renew(self) -> None:
        """Search everything anew."""
        old, self._context = self._context, _context()
        await self._subscribe()
        await old.disconnect()

    async def _read(self, items: list[str], limit: float) -> dict[str, Reading]:
        deadline = asyncio.get_running_loop().time() + limit
        found = await asyncio.gather(*(self._one(item, deadline) for item in items))
        return {item: reading for item, reading in zip(items, found, strict=True) if reading}

    async def _one(self, item: str, deadline: float) -> Reading | None:
        """Return what an item is; None when it is not there, or does not answer in time."""
        name, index = epicsvalues.split(item)
        [pv] = await self._context.get_pvs(name)
        try:
            async with asyncio.timeout_at(deadline):
                await pv.wait_for_connection(timeout=None)
                reading = await self._taken(pv, index)
        except Exception as error:  # of the network, or of a server that says what it must not
            log.debug("EPICS: %s: %s", item, error)
            return None
        if isinstance(reading.value, str) and len(reading.value) >= STRING_MOST \
                and pv.channel.native_data_type.name == "STRING":
            return await self._whole(epicsvalues.long_name(name), reading, deadline)
        return reading

    async def _whole(self, name: str, cut: Reading, deadline: float) -> Reading:
        """Return the whole text of which a string is the beginning."""
        found = await self._one(name, deadline)
        if found is None or not isinstance(found.value, str):
            return cut.flagged("CUT")
        return found

    async def _taken(self, pv: Any, index: int | None) -> Reading:
        count = _count(pv, index)
        if not count:
            return Reading(None, f"ARRAY OF {pv.channel.native_data_count}")
        response, control = await asyncio.gather(
            pv.read(data_type="time", data_count=count, timeout=None), self._control(pv))
        return _reading(response, control, index)

    async def _control(self, pv: Any) -> Control:
        if pv.name not in self._controls:
            told = (await pv.read(data_type="control", data_count=1, timeout=None)).metadata
            self._controls[pv.name] = Control(
                epicsvalues.unit(getattr(told, "units", b"")),
                tuple(map(epicsvalues.text, getattr(told, "enum_strings", ()))))
        return self._controls[pv.name]

    async def _listen(self, items: list[str]) -> None:
        for item in items:
            self._watched.setdefault(epicsvalues.split(item)[0], []).append(item)
        await self._subscribe()

    async def _subscribe(self) -> None:
        self._changes.clear()
        await self._context.get_pvs(*self._watched, connection_state_callback=self._on_state)

    async def _on_state(self, pv: Any, state: str) -> None:
        if pv.context is not self._context:
            return
        if state == "connected":
            self._connected.add(pv.name)
            self._lost.pop(pv.name, None)
            if not pv.subscriptions:  # else caproto does it again by itself
                for item in self._watched[pv.name]:
                    self._follow(pv, item)
        elif pv.name in self._connected:
            self._connected.discard(pv.name)
            self._lost[pv.name] = None
            self._controls.pop(pv.name, None)  # it may come back as something else
            for item in self._watched[pv.name]:
                self._heard(item, Reading(None, "LOST"))

    def _follow(self, pv: Any, item: str) -> None:
        count = _count(pv, epicsvalues.split(item)[1])
        if count:
            change = pv.subscribe(data_type="time", data_count=count, mask=_CHANGES)
            self._changes[id(change)] = item
            change.add_callback(self._on_change)

    async def _on_change(self, change: Any, response: Any) -> None:
        item = self._changes.get(id(change))
        if item is None or change.pv.context is not self._context:
            return
        control = Control()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_LOOK_S):
                control = await self._control(change.pv)
        self._heard(item, _reading(response, control, epicsvalues.split(item)[1]))


def _context() -> Any:
    """Return a client's context; its import takes a while, and only who needs it has it."""
    from caproto.asyncio import client

    logging.getLogger("caproto").setLevel(logging.CRITICAL)
    logging.getLogger("caproto.bcast.search").setLevel(logging.WARNING)  # of names served twice
    # the name of the user may be unknown, as in containers, or be looked up in the network
    return client.Context(client_name="daq-ctl")


def _count(pv: Any, index: int | None) -> int:
    """Return how many elements have to be read; none of an array that is not a text."""
    there = int(pv.channel.native_data_count)
    if index is not None:
        return min(index + 1, there)
    if pv.channel.native_data_type.name == "CHAR":
        return min(there, _TEXT_MOST)
    return int(there == 1)


def _reading(response: Any, control: Control, index: int | None) -> Reading:
    if not response.status.success:
        return Reading(None, "UNREADABLE", control.unit)
    told, kind = response.metadata, response.data_type.name
    values = [value.item() if hasattr(value, "item") else value for value in response.data]
    if kind == "TIME_CHAR" and index is None and len(values) > 1:
        values = [bytes(value % 256 for value in values)]
    alarm = Alarm(int(told.status), int(told.severity), float(told.timestamp))
    return epicsvalues.reading(values, alarm, control, index, single=kind == "TIME_FLOAT")

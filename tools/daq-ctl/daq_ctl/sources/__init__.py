"""Adapters for live sources, one file per kind, chosen by the type of source and URI scheme.

An adapter is named by a string, ``module:Class``, and imported when a job asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from daqlib import errors, names, uri

#: (type of source, URI scheme) -> where its adapter lives.
ADAPTERS: dict[tuple[str, str], str] = {
    ("primarySource", "zpb.rr"): "daq_ctl.sources.recif:Recif",
    ("primarySource", "ipc"): "daq_ctl.sources.recif:Recif",
    ("metadataSource", "zpb.rr"): "daq_ctl.sources.metadaqif:Metadaqif",
    ("metadataSource", "ipc"): "daq_ctl.sources.metadaqif:Metadaqif",
}

RECORDING, ENDED, FAILED, ABSENT = "recording", "ended", "failed", "absent"

_LOOK_S = 0.5  # pause between two looks at a source that is still at work


@dataclass(frozen=True)
class Delivery:
    """What a source brought.

    Attributes:
        files: FITS files, ``host:path`` or absolute path.
        keywords: in the format of ``schema/keywords.json``.
        fault: why the files are not what they should be, or empty.
        keyword_fault: why its keywords are not used, or empty.
    """

    files: list[str] = field(default_factory=list)
    keywords: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    keyword_fault: str = ""


class Source(Protocol):
    """A live source within one acquisition; every method may raise a ``DaqError``.

    No method may block the event loop. ``start`` is called at most once for an acquisition, all
    others may be repeated after a failure or a restart of the daemon.

    Attributes:
        endpoint: where it is reached; primary sources with the same endpoint are the same.
    """

    endpoint: str

    def __init__(self, description: dict[str, Any], job: str, timeout: float) -> None:
        """Take the source of the job file, the acquisition's id and the limit for a reply (s)."""

    async def start(self) -> None:
        """Begin to record; returns when the source acknowledged."""

    async def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for a primary source to end by itself; tell whether it did."""

    async def stop(self, patience: float) -> Delivery:
        """End the recording, or accept that it ended, and return what it brought.

        A source that did not reply in time, but says that it is still at work, is writing its
        files: it gets ``patience`` seconds more.
        """

    async def abort(self) -> None:
        """End the recording and discard it; harmless when nothing records."""

    async def status(self) -> str:
        """Return RECORDING, ENDED, FAILED or ABSENT for this acquisition's recording."""


class Primary(Source, Protocol):
    """A primary source, which can pause; both methods are harmless when repeated."""

    async def pause(self) -> None:
        """Interrupt the recording."""

    async def resume(self) -> None:
        """Go on with a recording that was paused."""


class Lacking(errors.BadData):
    """The source does not implement a command; nothing but a force command goes on without."""


def make(description: dict[str, Any], job: str, timeout: float) -> Source:
    """Return the adapter for a source of a job.

    Args:
        description: the source object of the specification.
        job: the acquisition's id.
        timeout: seconds within which the source must reply.

    Raises:
        errors.BadData: no adapter knows the URI scheme, or the URI is not valid.
    """
    name, endpoint = description["sourceName"], description["rrUri"]
    scheme = endpoint.partition(":")[0]
    scheme = "zpb.rr" if scheme == "zpb" else scheme
    place = ADAPTERS.get((description["type"], scheme))
    if place is None:
        known = sorted(s for kind, s in ADAPTERS if kind == description["type"])
        raise errors.BadData(f"source {name!r}: no adapter for the URI scheme {scheme!r}",
                             f"known schemes: {', '.join(known)}")
    module, _, attribute = place.partition(":")
    made: Source = getattr(importlib.import_module(module), attribute)(description, job, timeout)
    return made


def endpoint(text: str, path: str) -> str:
    """Return the one spelling of a source's URI, with the usual service path if it has none.

    Raises:
        errors.BadData: the URI is not valid.
    """
    parsed = uri.parse(text)
    if not parsed.path:
        parsed = uri.with_path(parsed, path)
    return str(replace(parsed, host=_one_spelling(parsed.host.lower())))


def _one_spelling(host: str) -> str:
    """Return an IPv4 address as four decimal numbers; other names are not resolved, only lowered.

    The system takes 127.1 and 2130706433 for 127.0.0.1 (inet_aton(3)), and connects to itself when
    the address is 0.0.0.0.
    """
    with contextlib.suppress(OSError):
        host = socket.inet_ntoa(socket.inet_aton(host))
    return "127.0.0.1" if host in ("localhost", "0.0.0.0") else host


def locations(reported: Any) -> tuple[list[str], str]:
    """Return the files that a source reported, and why some are left out, or an empty text."""
    good, bad = [], ""
    for item in reported if isinstance(reported, list) else []:
        try:
            names.split_location(item)
            names.file_name(item)
        except errors.BadData as error:
            bad = f"it reported a file that cannot be used: {error}"
        else:
            good.append(item)
    return good, bad


async def settled(look: Callable[[], Awaitable[dict[str, Any]]], key: str,
                  moving: tuple[str, ...], patience: float) -> dict[str, Any]:
    """Look at a source until it has come to rest; return the last look.

    Args:
        look: asks the source.
        key: the member of its answer that tells the state.
        moving: the states in which it is still at work.
        patience: seconds after which to give up; 0 looks once.
    """
    deadline = time.monotonic() + patience
    while True:
        status = await look()
        if status.get(key) not in moving or time.monotonic() >= deadline:
            return status
        await asyncio.sleep(_LOOK_S)

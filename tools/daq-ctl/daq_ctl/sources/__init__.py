"""Adapters for live sources, one file or package per kind, chosen by URI scheme.

The contract is the class :class:`Source`; ``docs/sources.md`` explains it, with a template. An
adapter is named by a string, ``module:Class``, and imported when a job asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from daq_ctl.sources.options import Options
from daqlib import errors, names, schema, uri
from daqlib.config import Config

#: (type of source, URI scheme) -> where its adapter lives.
ADAPTERS: dict[tuple[str, str], str] = {
    ("primarySource", "zpb.rr"): "daq_ctl.sources.recif:Recif",
    ("primarySource", "ipc"): "daq_ctl.sources.recif:Recif",
    ("primarySource", "indi"): "daq_ctl.sources.indi.camera:Camera",
    ("primarySource", "exec"): "daq_ctl.sources.program.adapter:Recording",
    ("primarySource", "watch"): "daq_ctl.sources.folder:Folder",
    ("metadataSource", "zpb.rr"): "daq_ctl.sources.metadaqif:Metadaqif",
    ("metadataSource", "ipc"): "daq_ctl.sources.metadaqif:Metadaqif",
    ("metadataSource", "indi"): "daq_ctl.sources.indi.metadata:Devices",
    ("metadataSource", "epics"): "daq_ctl.sources.epics:Epics",
    ("metadataSource", "exec"): "daq_ctl.sources.program.adapter:Values",
}
#: The same of other people's packages: group of entry points by type of source, named by scheme.
GROUPS = {"primarySource": "daqspool.primary_sources",
          "metadataSource": "daqspool.metadata_sources"}

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
        remarks: what a person should know of values that are there, or left out, such as a sensor
            in alarm; one sentence each.
    """

    files: list[str] = field(default_factory=list)
    keywords: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    keyword_fault: str = ""
    remarks: list[str] = field(default_factory=list)


async def _unheard(_text: str) -> None:
    """Say nothing: the source is not that of an acquisition."""


@dataclass(frozen=True)
class Order:
    """What is asked of a source for one acquisition.

    Attributes:
        description: the source object of the job file.
        job: the acquisition's id; empty when the source is only checked.
        timeout: seconds within which a source must reply to a command.
        folder: absolute path of a directory for this source of this acquisition alone, in the
            spool; whoever needs it makes it (:class:`daq_ctl.sources.memo.Memo`). What lies there
            survives the daemon, and is kept with the job's data.
        settings: the configuration.
        say: puts a line of text into the job's log.
    """

    description: dict[str, Any]
    job: str = ""
    timeout: float = 5.0
    folder: str = ""
    settings: Config = field(default_factory=Config)
    say: Callable[[str], Awaitable[None]] = _unheard

    @property
    def name(self) -> str:
        """The ``sourceName``."""
        return str(self.description["sourceName"])

    @property
    def uri(self) -> str:
        """The ``rrUri``, with its query."""
        return str(self.description["rrUri"])


class Source(ABC):
    """A live source within one acquisition; every method may raise a ``DaqError``.

    What need not be overridden does nothing, or says that the source cannot do it.

    No method may block the event loop. ``start`` is called at most once for an acquisition, all
    others may be repeated after a failure or a restart of the daemon: a new object is made from
    the same order then, and has to find out what became of the recording. A method that is
    cancelled must leave the recording as it is.

    Attributes:
        endpoint: where it is reached; primary sources with the same endpoint are the same.
    """

    #: Whether the URI may have a query, whose members are options.
    takes_query: ClassVar[bool] = True

    endpoint: str

    def __init__(self, order: Order) -> None:
        """Take the order; nothing is asked of the source and nothing is written yet.

        Raises:
            errors.BadData: its URI or an option is not allowed.
        """
        self.order = order
        self.name, self.job, self.timeout = order.name, order.job, order.timeout
        base, _, query = order.uri.partition("?")
        self.uri = base if self.takes_query else order.uri
        self.endpoint = self.uri
        options = Options(order.name, query if self.takes_query else "",
                          order.description.get("options", {}))
        self.configure(options)
        options.done()

    def configure(self, options: Options) -> None:  # noqa: B027
        """Take the options; set ``endpoint`` if the URI has more than one spelling.

        Raises:
            errors.BadData: one is not allowed.
        """

    async def prepare(self) -> None:  # noqa: B027
        """Set up what a start needs, so that sources start together; nothing records yet."""

    @abstractmethod
    async def start(self) -> None:
        """Begin to record; returns when the source acknowledged."""

    @abstractmethod
    async def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for a primary source to end by itself; tell whether it did."""

    @abstractmethod
    async def stop(self, patience: float) -> Delivery:
        """End the recording, or accept that it ended, and return what it brought.

        A source that did not reply in time, but says that it is still at work, is writing its
        files: it gets ``patience`` seconds more. With no patience the stop is forced.
        """

    @abstractmethod
    async def abort(self) -> None:
        """End the recording and discard it; harmless when nothing records."""

    @abstractmethod
    async def status(self) -> str:
        """Return RECORDING, ENDED, FAILED or ABSENT for this acquisition's recording."""

    async def pause(self) -> None:
        """Interrupt the recording of a primary source; harmless when it is paused."""
        raise Lacking("it cannot pause")

    async def resume(self) -> None:
        """Go on with a recording that was paused; harmless when it was not."""
        raise Lacking("it cannot pause")

    def progress(self) -> tuple[float, float] | None:
        """Return how many seconds the recording has lasted, and will in all, where that is known.

        It is asked once a second, and says what is known without asking the source.
        """
        return None

    async def close(self) -> None:  # noqa: B027
        """Let go of connections and the like; a recording that goes on is not touched."""


class Metadata(Source):
    """A metadata source: it never ends by itself."""

    async def wait(self, seconds: float) -> bool:
        """Tell False."""
        return False


class Lacking(errors.BadData):
    """The source does not implement a command; nothing but a force command goes on without."""


def make(order: Order) -> Source:
    """Return the adapter for a source of a job.

    Raises:
        errors.BadData: no adapter knows the URI scheme, or the URI or an option is not valid.
    """
    kind, scheme = order.description["type"], order.uri.partition(":")[0]
    scheme = "zpb.rr" if scheme == "zpb" else scheme
    place = ADAPTERS.get((kind, scheme)) or _entry_points(kind).get(scheme)
    if place is None:
        known = sorted({s for k, s in ADAPTERS if k == kind} | set(_entry_points(kind)))
        raise errors.BadData(f"source {order.name!r}: no adapter for the URI scheme {scheme!r}",
                             f"known schemes: {', '.join(known)}")
    module, _, attribute = place.partition(":")
    try:
        made: Source = getattr(importlib.import_module(module), attribute)(order)
    except (ImportError, AttributeError) as error:
        raise errors.BadConfig(f"source {order.name!r}: its adapter {place} cannot be loaded: "
                               f"{error}", "install what it needs, or mend the package that "
                               "provides it; see docs/sources.md") from error
    return made


def _entry_points(kind: str) -> dict[str, str]:
    """Return the adapters that installed packages provide: scheme -> ``module:Class``."""
    import site
    import sys
    from importlib import metadata

    if sys.flags.no_site and not any("-packages" in folder for folder in sys.path):
        site.main()  # bin/launch starts without: daqlib.boot
    return {point.name: point.value for point in metadata.entry_points(group=GROUPS[kind])}


def endpoint(text: str, path: str) -> str:
    """Return the one spelling of a source's URI, with the usual service path if it has none.

    Raises:
        errors.BadData: the URI is not valid.
    """
    parsed = uri.parse(text)
    if not parsed.path:
        parsed = uri.with_path(parsed, path)
    return str(replace(parsed, host=one_host(parsed.host)))


def one_host(host: str) -> str:
    """Return an IPv4 address as four decimal numbers; other names are not resolved, only lowered.

    The system takes 127.1 and 2130706433 for 127.0.0.1 (inet_aton(3)), and connects to itself when
    the address is 0.0.0.0.
    """
    host = host.lower()
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


def keywords(reported: Any) -> tuple[list[dict[str, Any]], str]:
    """Return keywords of a valid shape, or none and why (ESO-396401, 9.1.3: they are an error).

    Args:
        reported: a list in the format of ``schema/keywords.json``, or the text of one.
    """
    try:
        found = json.loads(reported) if isinstance(reported, str) and reported else reported or []
        schema.check("keywords", found, "keywords")
    except (ValueError, RecursionError, errors.BadData) as error:
        return [], str(error)
    return found, ""


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

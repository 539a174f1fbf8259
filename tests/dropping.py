"""A directory into which a test drops files, and the recordings of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from daq_ctl import sources
from daq_ctl.sources import Delivery
from daq_ctl.sources.folder import Folder
from harness import PATIENCE_S, make_fits

T = TypeVar("T")
#: A file whose writer nothing is heard of is finished after this time.
STABLE_S = 0.2


class Camera:
    """A directory, and the recordings of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "camera"
        self.path.mkdir()
        self.fits = make_fits(folder / "sample.fits").read_bytes()
        self.memos = folder / "data" / "live" / "cam"
        self.memos.parent.parent.mkdir()
        self.said: list[str] = []

    def source(self, uri: str = "", **options: Any) -> Folder:
        """Return an adapter as daq-ctl makes it; again, as a later daemon does."""
        async def say(text: str) -> None:
            self.said.append(text)

        given = {"stableSec": STABLE_S, "scanSec": 0.5, **options}
        description = {"type": "primarySource", "sourceName": "cam",
                       "rrUri": uri or f"watch:{self.path}", "options": given}
        made = sources.make(sources.Order(description, "job", PATIENCE_S, str(self.memos), say=say))
        assert isinstance(made, Folder)
        return made

    def write(self, name: str, data: bytes | None = None) -> str:
        """Write a file as most programs do, under its own name."""
        (self.path / name).write_bytes(self.fits if data is None else data)
        return self.at(name)

    def rename(self, name: str) -> str:
        """Write a file as careful programs do."""
        self.write(f".{name}.part")
        (self.path / f".{name}.part").rename(self.path / name)
        return self.at(name)

    def at(self, name: str) -> str:
        return str(self.path / name)


def run(work: Awaitable[T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work
    return asyncio.run(limited())


async def begun(source: Folder) -> Folder:
    await source.prepare()
    await source.start()
    assert await source.status() == sources.RECORDING
    return source


async def until(source: Folder, condition: Callable[[], bool]) -> None:
    """Wait with the source, as daq-ctl does, until something is so."""
    while not condition():
        await source.wait(0.05)


def finished(source: Folder) -> list[str]:
    return sorted(source._look.done)


def brought(camera: Camera, act: Callable[[], Any], **options: Any) -> Delivery:
    """Return what a recording brings during which something happens."""
    async def record() -> Delivery:
        source = await begun(camera.source(**options))
        act()
        made = await source.stop(PATIENCE_S)
        await source.close()
        return made
    return run(record())

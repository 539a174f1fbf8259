"""A directory as a primary source, after kill -9 of the daemon: nothing lost, nothing doubled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from daq_ctl import sources
from daq_ctl.sources import Delivery
from daqlib import errors
from dropping import Camera, begun, finished, run, until
from harness import PATIENCE_S


@pytest.fixture
def camera(tmp_path: Path) -> Camera:
    return Camera(tmp_path)


@pytest.mark.parametrize("complete", ["close", "rename", "stable"])
def test_a_later_daemon_loses_nothing_and_doubles_nothing(camera: Camera, complete: str) -> None:
    async def first() -> None:
        source = await begun(camera.source(complete=complete))
        camera.rename("seen.fits")
        await until(source, lambda: finished(source) == ["seen.fits"])
        camera.rename("unseen.fits")

    camera.write("before.fits")
    run(first())
    camera.rename("between.fits")

    async def second() -> list[Delivery]:
        source = camera.source(complete=complete)
        assert await source.status() == sources.RECORDING and not await source.wait(0.1)
        camera.rename("after.fits")
        made = await source.stop(PATIENCE_S)
        camera.rename("late.fits")
        return [made, await source.stop(PATIENCE_S),
                await camera.source(complete=complete).stop(PATIENCE_S)]

    made, *again = run(second())
    assert os.listdir(camera.memos) == ["recording.json"]
    assert made == Delivery([camera.at(f"{name}.fits")
                             for name in ("seen", "unseen", "between", "after")])
    assert again == [made, made]


def test_a_later_daemon_waits_for_a_writer_that_goes_on(camera: Camera) -> None:
    async def record(file: Any) -> Delivery:
        await begun(camera.source(stableSec=1.0))
        file.write(camera.fits[:2880])
        file.flush()
        later = camera.source(stableSec=1.0)
        assert not await later.wait(0.2)
        file.write(camera.fits[2880:2890])
        file.flush()
        assert not await later.wait(2.0) and finished(later) == []
        file.write(camera.fits[2890:])
        file.close()
        return await later.stop(PATIENCE_S)

    with open(camera.path / "a.fits", "wb") as file:
        assert run(record(file)) == Delivery([camera.at("a.fits")])


def test_a_window_does_not_begin_anew(camera: Camera) -> None:
    async def record() -> None:
        await begun(camera.source(window=3600))
        facts = json.loads((camera.memos / "recording.json").read_text())
        facts["began"] -= 3600
        (camera.memos / "recording.json").write_text(json.dumps(facts))
        later = camera.source(window=3600)
        assert later.progress() == (3600, 3600)
        assert await later.wait(0)

    run(record())


def test_what_lay_there_must_be_known(camera: Camera) -> None:
    async def record() -> None:
        await begun(camera.source())
        (camera.memos / "before.json").write_text("{")
        with pytest.raises(errors.BadData, match="at the start is not known any more"):
            await camera.source().stop(PATIENCE_S)

    run(record())


def test_a_link_that_is_turned_changes_nothing(camera: Camera, tmp_path: Path) -> None:
    link = tmp_path / "today"
    link.symlink_to(camera.path)

    async def record() -> Delivery:
        source = await begun(camera.source(f"watch:{link}"))
        assert source.endpoint == camera.source().endpoint
        link.unlink()
        link.symlink_to(tmp_path)
        camera.write("a.fits")
        later = camera.source(f"watch:{link}")
        assert later.endpoint == source.endpoint
        return await later.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("a.fits")])

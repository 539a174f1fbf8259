"""A camera of an INDI server that does what no simulator can be made to do."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Delivery, Order, Source, make
from daq_ctl.sources.indi.camera import Camera
from daqlib import errors
from indi_server import PATIENCE_S, SHORT_S, Server, changed, defined, run, serving

_NEW = re.compile(r'<new(\w+)Vector device="CCD" name="(\w+)">(.*?)</new', re.DOTALL)
_ONE = re.compile(r'name="(\w+)">([^<]*)<')


class Ccd(Server):
    """A camera that takes every setting; its exposures are what the test says they are."""

    def __init__(self) -> None:
        super().__init__()
        self.path, self.state = "", "Idle"
        self.settings: dict[str, str] = {}

    def answer(self, text: str) -> bytes:
        made = super().answer(text)
        if "getProperties" in text:
            made += self.all()
        for kind, name, inner in _NEW.findall(text):
            elements = dict(_ONE.findall(inner))
            self.settings.update(elements)
            if name not in ("CCD_EXPOSURE", "CCD_ABORT_EXPOSURE"):
                made += changed(name, kind, **elements)
        return made

    def all(self) -> bytes:
        """Return definitions of what the camera has."""
        return (defined("CONNECTION", "Switch", CONNECT="On")
                + defined("CCD_EXPOSURE", state=self.state, CCD_EXPOSURE_VALUE=0)
                + defined("CCD_ABORT_EXPOSURE", "Switch", ABORT="Off")
                + defined("CCD_FRAME_TYPE", "Switch", FRAME_LIGHT="On")
                + defined("UPLOAD_MODE", "Switch", UPLOAD_LOCAL="On", UPLOAD_CLIENT="Off")
                + defined("UPLOAD_SETTINGS", "Text", UPLOAD_DIR="",
                          UPLOAD_PREFIX=self.settings.get("UPLOAD_PREFIX", ""))
                + defined("FITS_HEADER", "Text", KEYWORD_NAME="", KEYWORD_VALUE="",
                          KEYWORD_COMMENT="")
                + defined("CCD_CONTROLS", Gain=0, Offset=0)
                + defined("CCD1", "BLOB") + defined("CCD_FILE_PATH", "Text", FILE_PATH=self.path))

    def expose(self, state: str) -> None:
        """Tell the state of the exposure."""
        self.state = state
        self.say(changed("CCD_EXPOSURE", state=state, CCD_EXPOSURE_VALUE=0))

    def write(self, folder: Path, data: bytes = b"image") -> None:
        """Write the file and tell of it."""
        path = folder / f"{self.settings['UPLOAD_PREFIX']}.fits"
        path.write_bytes(data)
        self.path = str(path)
        if not self.writers[0].is_closing():
            self.say(changed("CCD_FILE_PATH", "Text", FILE_PATH=path))


def camera(server: Server, folder: Path, **options: Any) -> Source:
    (folder / "data" / "job" / "live").mkdir(parents=True, exist_ok=True)
    return make(Order({"type": "primarySource", "sourceName": "ccd",
                       "rrUri": f"indi://localhost:{server.port}/CCD",
                       "options": {"exposure": 10, **options}},
                      "job", PATIENCE_S, str(folder / "data" / "job" / "live" / "ccd")))


@asynccontextmanager
async def exposing(folder: Path, **options: Any) -> AsyncIterator[tuple[Ccd, Source]]:
    async with serving(Ccd()) as server:
        source = camera(server, folder, **options)
        await source.prepare()
        starting = asyncio.create_task(source.start())
        await server.until_heard("CCD_EXPOSURE_VALUE")
        server.expose("Busy")
        await starting
        try:
            yield server, source
        finally:
            await source.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_an_exposure_ends_by_what_follows_its_command_only(tmp_path: Path) -> None:
    async def test() -> None:
        async with exposing(tmp_path) as (server, source):
            for state in ("Ok", "Alert", "Idle", "Busy"):  # somebody asked for the definitions
                server.state = state
                server.say(server.all())
            server.expose("Busy")
            assert not await source.wait(SHORT_S)
            assert await source.status() == RECORDING
            server.write(tmp_path)
            server.expose("Ok")
            assert await source.wait(PATIENCE_S)
            assert await source.status() == ENDED
            assert (await source.stop(1)).files == [server.path]
            again = camera(server, tmp_path)
            assert await again.status() == ENDED
            assert (await again.stop(1)).files == [server.path]
    run(test)


def test_a_camera_is_told_what_newer_drivers_want(tmp_path: Path) -> None:
    async def test() -> None:
        async with exposing(tmp_path, gain=5, offset=6, header={"OBJECT": ["M31", "a galaxy"]}) as (
                server, _source):
            assert server.settings.items() >= {
                "Gain": "5", "Offset": "6", "KEYWORD_NAME": "OBJECT", "KEYWORD_VALUE": "M31",
                "KEYWORD_COMMENT": "a galaxy"}.items()
    run(test)


@pytest.mark.parametrize(("path", "data", "fault"), [
    ("", b"", "told of no file of this exposure"),
    ("/somebody/elses.fits", b"", "told of no file of this exposure"),
    ("{folder}/../{prefix}.fits", b"", "a file that cannot be used"),
    ("{folder}/{prefix}.fits", None, "is not there"),
    ("{folder}/{prefix}.fits", b"", "is empty")])
def test_a_file_that_is_none_is_a_fault(
        tmp_path: Path, path: str, data: bytes | None, fault: str) -> None:
    async def test() -> None:
        async with exposing(tmp_path) as (server, source):
            named = path.format(folder=tmp_path, prefix=server.settings["UPLOAD_PREFIX"])
            if data is not None and named.startswith(str(tmp_path)):
                Path(named).write_bytes(data)
            server.say(changed("CCD_FILE_PATH", "Text", FILE_PATH=named))
            server.expose("Ok")
            assert await source.wait(PATIENCE_S)
            delivery = await source.stop(1)
            assert delivery.files == [] and fault in delivery.fault
            assert await source.status() == FAILED
    run(test)


def test_a_start_that_is_not_answered_is_aborted(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(Ccd()) as server:
            source = camera(server, tmp_path, timeout=SHORT_S)
            assert await source.status() == ABSENT
            await source.prepare()
            with pytest.raises(errors.Unavailable, match="the beginning of the exposure"):
                await source.start()
            server.answers['"ABORT"'] = changed("CCD_ABORT_EXPOSURE", "Switch", ABORT="Off")
            await source.abort()
            assert "newSwitchVector" in server.heard and "CCD_ABORT_EXPOSURE" in server.heard
            assert await source.status() == ABSENT
            assert not (tmp_path / "data/job/live/ccd").exists()
            await source.close()
    run(test)


def test_a_connection_that_breaks_loses_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with exposing(tmp_path) as (server, source):
            server.writers[0].close()
            with pytest.raises(errors.Unavailable, match="closed the connection"):
                await source.wait(PATIENCE_S)
            server.write(tmp_path)
            server.state = "Ok"
            assert await source.wait(PATIENCE_S)
            assert (await source.stop(1)).files == [server.path]
    run(test)


def test_commands_that_cross_are_each_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with exposing(tmp_path) as (server, source):
            assert isinstance(source, Camera)
            gain = [source._device.set("CCD_CONTROLS", {"Gain": value}) for value in (1, 2)]
            await asyncio.gather(*gain)
            assert server.settings["Gain"] == "2"
    run(test)


def test_an_image_that_has_come_is_not_lost_with_the_connection(tmp_path: Path) -> None:
    async def test() -> None:
        for lost in (False, True):
            async with exposing(tmp_path, delivery="client") as (server, source):
                image = tmp_path / "data/job/live/ccd" / f"{server.settings['UPLOAD_PREFIX']}.fits"
                server.writers[1].write(
                    b'<setBLOBVector device="CCD" name="CCD1" state="Ok"><oneBLOB name="CCD1" '
                    b'size="5" format=".fits">aW1hZ2U=</oneBLOB></setBLOBVector>\n')
                await until(image.exists)
                server.state = "Busy" if lost else "Ok"
                await source.close()
                later = camera(server, tmp_path, delivery="client")
                assert await later.wait(PATIENCE_S)
                assert await later.stop(1) == Delivery([str(image)])
                assert image.read_bytes() == b"image"
                await later.abort()
                await later.close()
    run(test)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_connection_that_breaks_before_the_start_is_made_anew(
        tmp_path: Path, broken: int) -> None:
    async def test() -> None:
        async with serving(Ccd()) as server:
            source = camera(server, tmp_path, delivery="client")
            assert isinstance(source, Camera)
            await source.prepare()
            client, receiver = source._client, source._receiver
            assert client and receiver
            server.writers[broken].close()
            await until(lambda: [client.fault, receiver.fault][broken])
            server.heard = ""
            starting = asyncio.create_task(source.start())
            await server.until_heard("CCD_EXPOSURE_VALUE")
            assert "<enableBLOB" in server.heard
            for writer in server.writers:
                if not writer.is_closing():
                    writer.write(changed("CCD_EXPOSURE", state="Busy", CCD_EXPOSURE_VALUE=1))
            await starting
            await source.close()
    run(test)


def test_what_somebody_else_set_up_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with exposing(tmp_path) as (server, source):
            await source.close()
            server.settings["UPLOAD_PREFIX"] = "theirs"
            server.heard = ""
            later = camera(server, tmp_path)
            assert await later.status() == FAILED
            await later.abort()
            assert "ABORT" not in server.heard
            await later.close()
    run(test)


@pytest.mark.parametrize("delivery", ["local", "client"])
def test_a_daemon_that_died_before_its_command_left_finds_no_exposure(
        tmp_path: Path, delivery: str) -> None:
    async def test() -> None:
        async with serving(Ccd()) as server:
            source = camera(server, tmp_path, delivery=delivery)
            await source.prepare()
            await source.close()
            folder = tmp_path / "data/job/live/ccd"
            torn = folder / ".tmp-999999999-1-image.fits"
            torn.write_bytes(b"half an image")
            (folder / "recording.json").write_text(json.dumps(
                {"prefix": server.settings["UPLOAD_PREFIX"], "begun": time.time()}))
            server.state = "Ok"
            later = camera(server, tmp_path, delivery=delivery)
            assert await later.status() == FAILED
            assert await later.wait(PATIENCE_S)
            assert "never began, or ended without us" in (await later.stop(1)).fault
            await later.close()
            server.state = "Busy"
            (folder / "recording.json").write_text(json.dumps(
                {"prefix": server.settings["UPLOAD_PREFIX"], "begun": time.time()}))
            third = camera(server, tmp_path, delivery=delivery)
            assert await third.status() == RECORDING
            assert torn.exists() == (delivery == "local")
            await third.close()
    run(test)


def test_nothing_is_aborted_that_did_not_begin(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(Ccd()) as server:
            source = camera(server, tmp_path)
            await source.abort()
            await source.prepare()
            await source.abort()
            assert "ABORT" not in server.heard
            with pytest.raises(errors.BadData, match="did not begin"):
                await source.stop(1)
            await source.close()
    run(test)

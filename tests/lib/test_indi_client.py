"""Clients of an INDI server that does what no simulator can: silence, lies, floods, stalls."""

from __future__ import annotations

import asyncio
import base64
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daq_ctl.sources.indi.blob import Receiver
from daq_ctl.sources.indi.client import Client, Vector
from daqlib import errors
from indi_server import PATIENCE_S, SHORT_S, Server, changed, defined, run, serving


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Server, Client]]:
    async with serving(Server()) as server:
        client = Client()
        await client.connect("127.0.0.1", server.port, PATIENCE_S)
        await client.get()
        await server.until_heard("getProperties")
        try:
            yield server, client
        finally:
            await client.close()


# -- the client ------------------------------------------------------------------------------------

def test_it_knows_what_was_defined_and_what_was_taken_back() -> None:
    async def test() -> None:
        async with connected() as (server, client):
            events: list[tuple[str, str, str]] = []
            client.subscribe(lambda what, vector: events.append((what, vector.name, vector.state)))
            server.say(changed("GAIN", GAIN=9) + defined("GAIN", GAIN=1)
                       + defined("T", "Text", A="x") + changed("GAIN", state="Busy", GAIN=2)
                       + changed("T", "Number", A=1) + defined("GAIN", state="Ok", GAIN=3)
                       + b'<delProperty device="CCD" name="T"/>')
            await client.until(lambda: ("del", "T", "Idle") in events, PATIENCE_S)
            assert events == [("def", "GAIN", "Idle"), ("def", "T", "Idle"),
                              ("set", "GAIN", "Busy"), ("def", "GAIN", "Ok"), ("del", "T", "Idle")]
            gain: Vector = client.vectors["CCD", "GAIN"]
            assert (gain.elements, gain.kind, gain.perm) == ({"GAIN": 3.0}, "Number", "rw")
            server.say(changed("GAIN", OTHER=1, GAIN=4))
            await client.until(lambda: gain.elements["GAIN"] == 4, PATIENCE_S)
            assert gain.elements == {"GAIN": 4.0}, "what was not defined is not known"
            server.say(b'<delProperty device="CCD"/>')
            await client.until(lambda: not client.vectors, PATIENCE_S)
    run(test)


def test_silence_has_an_end_and_the_end_of_the_server_ends_every_wait() -> None:
    async def test() -> None:
        async with connected() as (server, client):
            with pytest.raises(errors.Unavailable, match="a miracle did not come within 0.3 s"):
                await client.until(lambda: False, SHORT_S, "a miracle")
            waiting = asyncio.create_task(client.until(lambda: False, PATIENCE_S * 10))
            await asyncio.sleep(0)
            server.writers[0].close()
            with pytest.raises(errors.Unavailable, match="closed the connection"):
                await waiting
            with pytest.raises(errors.Unavailable, match="closed the connection"):
                await client.send("Number", "CCD", "GAIN", {"GAIN": 1})
    run(test)


@pytest.mark.parametrize("data", [b"<message></wrong>", b"<!DOCTYPE x>", b"220 smtp ready\r\n"])
def test_what_is_no_indi_ends_the_connection(data: bytes) -> None:
    async def test() -> None:
        async with connected() as (server, client):
            server.say(data)
            with pytest.raises(errors.BadData, match="cannot be read"):
                await client.until(lambda: False, PATIENCE_S)
    run(test)


def test_a_server_with_endless_properties_is_left() -> None:
    async def test() -> None:
        async with connected() as (server, client):
            for number in range(20_001):
                server.say(defined(f"P{number}"))
            with pytest.raises(errors.BadData, match="more than 20000 properties"):
                await client.until(lambda: False, PATIENCE_S)
    run(test)


def test_a_server_that_does_not_read_is_noticed() -> None:
    async def test() -> None:
        async def deaf(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(PATIENCE_S)
        listener = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1)
        client = Client()
        await client.connect("127.0.0.1", listener.sockets[0].getsockname()[1], PATIENCE_S)
        with pytest.raises(errors.Unavailable, match="does not read"):
            while True:
                await client.send("Text", "CCD", "T", {"A": "x" * 100_000})
        await client.close()
        listener.close()
    run(test)


# -- images ----------------------------------------------------------------------------------------

def blob(size: int, **attributes: object) -> bytes:
    told = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return (f'<setBLOBVector device="CCD" name="CCD1" state="Ok"><oneBLOB name="CCD1" size="{size}"'
            f"{told}>").encode()


TAIL = b"</oneBLOB></setBLOBVector>"


@asynccontextmanager
async def receiving(folder: Path) -> AsyncIterator[tuple[Server, Receiver, asyncio.Event]]:
    async with serving(Server()) as server:
        server.answers["getProperties"] = defined("CCD1", "BLOB")
        done = asyncio.Event()
        receiver = Receiver("CCD", str(folder / "image"), done.set)
        await receiver.open("127.0.0.1", server.port, PATIENCE_S)
        try:
            yield server, receiver, done
        finally:
            receiver.close()


def test_a_large_image_is_never_whole_in_memory(tmp_path: Path) -> None:
    piece = base64.encodebytes(bytes(range(256)) * 3 * 1024)
    count = 100

    async def test() -> None:
        async with receiving(tmp_path) as (server, receiver, done):
            receiver.arm()
            server.say(blob(count * 768 * 1024, format=".fits"))
            tracemalloc.start()
            for _ in range(count):
                server.say(piece)
                await server.writers[0].drain()
            server.say(TAIL)
            await asyncio.wait_for(done.wait(), PATIENCE_S)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 8 * 1024 * 1024
            assert receiver.path == str(tmp_path / "image.fits")
    run(test)
    data = (tmp_path / "image.fits").read_bytes()
    assert data == bytes(range(256)) * 3 * 1024 * count


def test_padding_is_cut_and_what_is_not_ours_passed_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with receiving(tmp_path) as (server, receiver, done):
            other = blob(3, format=".fits") + base64.b64encode(b"old") + TAIL
            server.say(other + defined("CCD1", "BLOB"))
            await asyncio.sleep(SHORT_S)
            receiver.arm()
            server.say(blob(3, format=".stream_jpg") + base64.b64encode(b"jpg") + TAIL)
            padded = base64.encodebytes(b"image" + b"\0" * 99)
            server.say(blob(9999, format=".fits.fz", len=5) + padded + TAIL + other)
            await asyncio.wait_for(done.wait(), PATIENCE_S)
    run(test)
    assert [path.name for path in tmp_path.iterdir()] == ["image.fits.fz"]
    assert (tmp_path / "image.fits.fz").read_bytes() == b"image"


@pytest.mark.parametrize(("data", "fault"), [
    (blob(5, format=".cr2"), "sent its image as '.cr2', which is no FITS file"),
    (blob(5, format=".fits/../../x"), "which is no FITS file"),
    (blob(-5, format=".fits"), "an image of length '-5'"),
    (blob(50, format=".fits") + base64.b64encode(b"image") + TAIL, "lacks its last 45 bytes"),
    (blob(50, format=".fits") + b"x===x=x=" + TAIL, "lacks its last"),
    (blob(50, format=".fits") + b"abc", "closed the connection before the image was there"),
    (blob(50, format=".fits") + b"</wrong>", "its XML is broken")])
def test_an_image_that_is_none_is_told_and_leaves_nothing(
        tmp_path: Path, data: bytes, fault: str) -> None:
    async def test() -> None:
        async with receiving(tmp_path) as (server, receiver, done):
            receiver.arm()
            server.say(data)
            server.writers[0].close()
            await asyncio.wait_for(done.wait(), PATIENCE_S)
            assert fault in receiver.fault and not receiver.path
    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_camera_without_images_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(Server()) as server:
            receiver = Receiver("CCD", str(tmp_path / "image"), lambda: None)
            with pytest.raises(errors.Unavailable, match="has no CCD1"):
                await receiver.open("127.0.0.1", server.port, SHORT_S)
            receiver.close()
    run(test)

"""A directory as a primary source: which files are its own, and when they are finished."""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daq_ctl import sources
from daq_ctl.sources import Delivery
from daqlib import errors
from dropping import STABLE_S, Camera, begun, brought, finished, run, until
from harness import PATIENCE_S


@pytest.fixture
def camera(tmp_path: Path) -> Camera:
    return Camera(tmp_path)


# -- which files ----------------------------------------------------------------------------------


def test_only_what_is_new_is_taken(camera: Camera) -> None:
    camera.write("before.fits")
    camera.write("changed.fits")

    def act() -> None:
        camera.write("new.fits")
        camera.write("changed.fits", camera.fits + camera.fits)
        camera.write("new.txt")
        camera.write(".hidden.fits")
        os.chmod(camera.path / "before.fits", 0o600)

    assert brought(camera, act) == Delivery([camera.at("new.fits"), camera.at("changed.fits")])
    assert len(os.listdir(camera.path)) == 5


def test_what_replaces_a_file_of_the_same_size_is_new(camera: Camera) -> None:
    camera.write("a.fits")
    assert brought(camera, lambda: camera.rename("a.fits")).files == [camera.at("a.fits")]


def test_names_and_kinds_of_fits(camera: Camera) -> None:
    names = ["a.fits", "B.FITS", "c.fit", "D.Fts"]

    def act() -> None:
        for name in names:
            camera.write(name)
        camera.write("e.fits.gz", gzip.compress(camera.fits))

    assert brought(camera, act).files == [camera.at(name) for name in [*names, "e.fits.gz"]]


def test_patterns_in_options_and_uri(camera: Camera) -> None:
    def act() -> None:
        for name in ("cam1_a.fits", "cam2_a.fits", "x.img"):
            camera.write(name)

    assert brought(camera, act, pattern=["cam1*", "*.img"]).files == [
        camera.at("cam1_a.fits"), camera.at("x.img")]
    one, two = (camera.source(f"watch:{camera.path}?pattern={p}%2A") for p in ("cam1", "cam2"))
    assert one.endpoint != two.endpoint


def test_what_is_no_fits_file_is_left_out_with_a_word(camera: Camera) -> None:
    def act() -> None:
        camera.write("good.fits")
        camera.write("text.fits", b"hello")
        camera.write("empty.fits", b"")
        camera.write("broken.fits.gz", gzip.compress(camera.fits)[:15])
        camera.write("wrong.fits.gz", gzip.compress(b"hello"))
        camera.write("damaged.fits.gz", gzip.compress(camera.fits)[:10] + b"\xff" * 100)
        camera.write("-rf.fits")
        camera.write("two\nlines.fits")
        (Path(os.fsdecode(os.fsencode(camera.path) + b"/\xff.fits"))).write_bytes(camera.fits)
        (camera.path / "link.fits").symlink_to("/etc/passwd")
        os.mkfifo(camera.path / "pipe.fits")
        (camera.path / "folder.fits").mkdir()

    made = brought(camera, act)
    assert made.files == [camera.at("good.fits")] and not made.fault
    said = "\n".join(made.remarks)
    assert len(made.remarks) == 6 and all(text.isprintable() for text in made.remarks)
    for part in ("'-rf.fits' is left out: its name", "'empty.fits' is left out: it is empty",
                 "'folder.fits' is left out: it is no regular file",
                 "'damaged.fits.gz' is left out: it cannot be unpacked", "6 more files"):
        assert part in said


def test_a_recording_that_brings_nothing_is_a_fault(camera: Camera) -> None:
    assert "0 files appeared" in brought(camera, lambda: None).fault
    camera.memos.joinpath("recording.json").unlink()
    assert brought(camera, lambda: None, least=0) == Delivery()
    camera.memos.joinpath("recording.json").unlink()
    made = brought(camera, lambda: camera.write("a.fits"), least=2)
    assert made.files == [camera.at("a.fits")] and "at least 2" in made.fault


def test_a_file_that_is_gone_is_a_fault_one_that_was_renamed_is_not(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source())
        for name in ("a.fits", "b.fits", "c.fits"):
            camera.write(name)
        await until(source, lambda: len(finished(source)) == 3)
        (camera.path / "a.fits").unlink()
        (camera.path / "b.fits").rename(camera.path / "d.fits")
        return await source.stop(PATIENCE_S)

    made = run(record())
    assert sorted(made.files) == [camera.at("c.fits"), camera.at("d.fits")]
    assert "gone since: 'a.fits'" in made.fault and "b.fits" not in made.fault


# -- when a file is finished ----------------------------------------------------------------------


def test_close_waits_for_the_writer(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source(scanSec=3600))
        with open(camera.path / "a.fits", "wb") as file:
            file.write(camera.fits[:2880])
            file.flush()
            assert not await source.wait(4 * STABLE_S)  # a pause of the writer is no end
            assert finished(source) == []
            assert source._look.due > time.monotonic()  # nor is it looked at again and again
            stopping = asyncio.create_task(source.stop(PATIENCE_S))
            await asyncio.sleep(0.1)
            assert not stopping.done()
            file.write(camera.fits[2880:])
        return await stopping

    assert run(record()) == Delivery([camera.at("a.fits")])
    assert (camera.path / "a.fits").read_bytes() == camera.fits


def test_a_file_that_is_written_again_is_not_finished(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source())
        camera.write("a.fits")
        camera.write("b.fits")
        await until(source, lambda: len(finished(source)) == 2)
        with open(camera.path / "a.fits", "ab") as file:
            file.write(camera.fits)
            file.flush()
            await until(source, lambda: finished(source) == ["b.fits"])
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("b.fits"), camera.at("a.fits")])


def test_a_writer_that_does_not_end_is_left_out(camera: Camera) -> None:
    async def record() -> list[Delivery]:
        source = await begun(camera.source(grace=0.2))
        camera.write("a.fits")
        with open(camera.path / "b.fits", "wb") as file:
            file.write(camera.fits)
            file.flush()
            made = await source.stop(PATIENCE_S)
        return [made, await source.stop(PATIENCE_S)]

    first, again = run(record())
    assert first == again and first.files == [camera.at("a.fits")]
    assert "not finished when it was stopped, and left out: 'b.fits'" in first.fault


def test_a_forced_stop_waits_for_nobody(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source(grace=3600))
        with open(camera.path / "a.fits", "wb") as file:
            file.write(camera.fits)
            file.flush()
            return await source.stop(0)

    assert run(record()).files == []


def test_rename(camera: Camera) -> None:
    def act() -> None:
        camera.write("half.fits")
        camera.rename("a.fits")

    made = brought(camera, act, complete="rename", grace=2 * STABLE_S)
    assert made.files == [camera.at("a.fits")]
    assert "'half.fits' (nothing was renamed to that name" in made.fault


def test_hard_links_are_finished_when_they_rest(camera: Camera) -> None:
    (camera.path.parent / "elsewhere").write_bytes(camera.fits)
    for complete in ("rename", "close", "stable"):
        name = f"{complete}.fits"
        made = brought(camera, lambda n=name: os.link(  # type: ignore[misc]
            camera.path.parent / "elsewhere", camera.path / n), complete=complete)
        assert made == Delivery([camera.at(name)])
        camera.memos.joinpath("recording.json").unlink()


@pytest.mark.parametrize("companion", ["{name}.done", ".{stem}.ok", "done-{name}"])
def test_companion(camera: Camera, companion: str) -> None:
    def beside(name: str) -> None:
        stem = name.partition(".")[0]
        camera.write(companion.replace("{name}", name).replace("{stem}", stem), b"")

    async def record() -> Delivery:
        beside("stale.fits")
        source = await begun(camera.source(complete="companion", companion=companion, grace=0.1,
                                           scanSec=3600))
        for name in ("stale.fits", "b.fits", "c.fits", "d.fits.gz"):
            camera.write(name, gzip.compress(camera.fits) if name.endswith("gz") else None)
        assert not await source.wait(2 * STABLE_S) and finished(source) == []
        beside("c.fits")
        await until(source, lambda: finished(source) == ["c.fits"])
        beside("d.fits.gz")
        beside("e.fits")  # before its file
        await source.wait(0.1)
        camera.write("e.fits")
        await until(source, lambda: len(finished(source)) == 3)
        return await source.stop(PATIENCE_S)

    made = run(record())
    assert sorted(made.files) == [camera.at(name) for name in ("c.fits", "d.fits.gz", "e.fits")]
    assert "left out: 'b.fits', 'stale.fits' (its companion did not appear" in made.fault


def test_a_companion_tells_of_what_was_written_before_it(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source(complete="companion", grace=0, pattern="*.fits"))
        for name in ("a.fits", "b.fits", "x" * 250 + ".fits"):  # whose companion has no room
            camera.write(name)
        for name in ("a.fits", "b.fits"):
            camera.write(f"{name}.done", b"")
        await until(source, lambda: finished(source) == ["a.fits", "b.fits"])
        for name in ("a.fits", "b.fits"):
            camera.write(name, camera.fits + camera.fits)
            os.utime(camera.at(name))
        await until(source, lambda: finished(source) == [])
        camera.write("b.fits.done", b"")
        await until(source, lambda: finished(source) == ["b.fits"])
        return await source.stop(PATIENCE_S)

    made = run(record())
    assert made.files == [camera.at("b.fits")]
    assert "left out: 'a.fits'" in made.fault


def test_stable(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source(complete="stable", stableSec=3600))
        camera.write("a.fits", camera.fits[:2880])
        await until(source, lambda: "a.fits" in source._look.pending)
        _, since = source._look.pending["a.fits"]
        camera.write("a.fits")
        await until(source, lambda: source._look.pending["a.fits"][1] > since)
        source._look.rule = replace(source._look.rule, stable=0.1)
        await until(source, lambda: finished(source) == ["a.fits"])
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("a.fits")])


def test_without_inotify_the_scan_finds_everything(
        camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)

    async def record() -> Delivery:
        source = await begun(camera.source())
        camera.write("a.fits")
        await until(source, lambda: finished(source) == ["a.fits"])
        camera.write("b.fits")
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("a.fits"), camera.at("b.fits")])
    assert len(camera.said) == 1 and "by a scan every 0.5 s only" in camera.said[0]


def test_events_that_are_lost_are_made_up_for(camera: Camera) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

    async def record() -> Delivery:
        source = await begun(camera.source(scanSec=3600))
        for name in ("one", "two"):
            camera.write(f"{name}.txt")
        for number in range(limit):  # two different events in turn are never one
            with open(camera.path / ("one.txt" if number % 2 else "two.txt"), "ab"):
                pass  # closed after it was open for writing
        camera.write("a.fits")
        await until(source, lambda: finished(source) == ["a.fits"])
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("a.fits")])


# -- how it ends ----------------------------------------------------------------------------------


def test_a_count(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source(count=2, grace=3600))
        camera.write("bad.fits", b"hello")
        camera.write("a.fits")
        assert not await source.wait(0.2)
        waiting = asyncio.create_task(source.wait(PATIENCE_S))
        await asyncio.sleep(0.05)
        camera.write("b.fits")
        assert await waiting and await source.status() == sources.ENDED
        camera.write("c.fits")
        with open(camera.path / "d.fits", "wb", buffering=0) as file:
            file.write(camera.fits)
            return await source.stop(PATIENCE_S)  # does not wait for it

    assert run(record()) == Delivery(
        [camera.at("a.fits"), camera.at("b.fits")],
        remarks=["'bad.fits' is left out: it does not begin as a FITS file does"])


def test_a_file_that_is_renamed_counts_once(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source(count=2))
        camera.write("a.part.fits")
        await until(source, lambda: finished(source) == ["a.part.fits"])
        (camera.path / "a.part.fits").rename(camera.path / "a.fits")
        await until(source, lambda: "a.fits" in finished(source))
        assert await source.status() == sources.RECORDING
        camera.write("b.fits")
        assert await source.wait(PATIENCE_S)
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("a.fits"), camera.at("b.fits")])


def test_a_window(camera: Camera) -> None:
    async def record() -> Delivery:
        source = camera.source(window=0.3)
        assert source.progress() is None
        await begun(source)
        told = source.progress()
        assert told is not None and 0 <= told[0] <= told[1] == 0.3
        camera.write("a.fits")
        while not await source.wait(1):
            pass
        assert await source.status() == sources.ENDED
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("a.fits")])


def test_a_wait_and_a_stop_look_at_the_same_time(camera: Camera) -> None:
    names = [f"{number}.fits" for number in range(1000)]

    async def record() -> Delivery:
        source = await begun(camera.source(count=len(names), scanSec=0.1))
        waiting = [asyncio.create_task(source.wait(PATIENCE_S)) for _ in range(3)]
        await asyncio.to_thread(lambda: [camera.rename(name) for name in names])
        made = await source.stop(PATIENCE_S)
        assert await asyncio.gather(*waiting) == [True] * 3
        return made

    assert sorted(run(record()).files) == sorted(camera.at(name) for name in names)


def test_many_files_cost_what_is_new(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10_000):
        (camera.path / f"{number}.fits").touch()
    looked: list[str] = []

    async def record() -> Delivery:
        source = await begun(camera.source(scanSec=3600))
        status = source._look._status
        monkeypatch.setattr(source._look, "_status",
                            lambda name: looked.append(name) or status(name))
        camera.write("new.fits")
        await until(source, lambda: finished(source) == ["new.fits"])
        assert set(looked) == {"new.fits"}
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("new.fits")])
    assert len(looked) > 10_000  # the last look is a scan


# -- abort, and what else goes wrong --------------------------------------------------------------


def test_abort_leaves_the_files_alone(camera: Camera) -> None:
    async def record() -> None:
        await camera.source().abort()
        source = await begun(camera.source())
        camera.write("a.fits")
        for _ in range(2):
            await source.abort()
        assert await source.status() == sources.ABSENT and not camera.memos.exists()
        with pytest.raises(errors.Unavailable, match="does not know"):
            await source.stop(PATIENCE_S)

    run(record())
    assert os.listdir(camera.path) == ["a.fits"]


def test_a_directory_that_is_not_there(camera: Camera) -> None:
    for path in (camera.path / "none", camera.path.parent / "sample.fits"):
        with pytest.raises(errors.Unavailable, match=f"{path} cannot be read"):
            run(camera.source(f"watch:{path}").prepare())


def test_a_directory_that_goes_and_comes_back(camera: Camera) -> None:
    async def record() -> Delivery:
        source = await begun(camera.source(scanSec=3600))
        camera.write("a.fits")
        away = camera.path.with_name("away")
        camera.path.rename(away)
        with pytest.raises(errors.Unavailable, match="No such file"):
            await source.wait(PATIENCE_S)
        assert await source.status() == sources.FAILED
        with pytest.raises(errors.Unavailable):
            await source.stop(PATIENCE_S)
        away.rename(camera.path)
        assert await source.status() == sources.RECORDING
        camera.write("b.fits")
        await until(source, lambda: finished(source) == ["a.fits", "b.fits"])
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("a.fits"), camera.at("b.fits")])


def test_what_lies_below_a_mount_is_another_directory(
        camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    async def record() -> None:
        source = await begun(camera.source())
        device, inode = source._look.home or (0, 0)
        for home, same in (((device, inode + 1), True), ((device + 1, inode), True),
                           ((device + 1, inode + 1), False)):
            monkeypatch.setattr(source._look, "home", home)
            assert (await source.status() == sources.RECORDING) is same

    run(record())


def test_a_file_system_that_hangs_is_told(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    async def record() -> None:
        source = await begun(camera.source())
        hang = asyncio.Event()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(source._look, "look", lambda: asyncio.run_coroutine_threadsafe(
            hang.wait(), loop).result())
        source.timeout = 0.1
        loop.set_default_executor(ThreadPoolExecutor(1))  # which it does not fill
        for _ in range(2):  # and no second thread hangs in it
            with pytest.raises(errors.Unavailable, match="did not answer within 0.1 s"):
                await source.wait(PATIENCE_S)
        assert await asyncio.to_thread(os.getpid) == os.getpid()
        hang.set()
        await source.close()

    run(record())


@pytest.mark.parametrize(("uri", "options", "text"), [
    ("watch:relative", {}, "watch:/ABSOLUTE"), ("watch://host/dir", {}, "names a host"),
    ("watch:/a/../b", {}, "not allowed"), ("watch:/a%0Ab", {}, "not allowed"),
    ("watch:", {}, "not allowed"), ("", {"pattern": "a/*"}, "no pattern"),
    ("", {"complete": "soon"}, "give one of close, rename"), ("", {"count": 0}, "out of bounds"),
    ("", {"companion": "{name}.ok"}, "complete: companion"), ("", {"window": "x"}, "no number"),
    ("", {"complete": "companion", "companion": "done"}, "beside another"),
    ("", {"complete": "companion", "companion": "../{name}"}, "beside another"),
    ("", {"stableSec": 0}, "out of bounds"), ("", {"exposure": 1}, "known here: companion")],
    ids=str)
def test_wrong_options_are_refused(
        camera: Camera, uri: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.BadData) as caught:
        camera.source(uri, **options)
    assert text in str(caught.value) and caught.value.remedy and "'cam'" in caught.value.message
    assert not camera.memos.exists()


def test_a_path_with_odd_characters(camera: Camera, tmp_path: Path) -> None:
    odd = tmp_path / "night 1?"
    odd.mkdir()
    camera.path = odd

    async def record() -> Delivery:
        source = await begun(camera.source(f"watch://{tmp_path}/night%201%3F?least=0"))
        camera.write("a.fits")
        return await source.stop(PATIENCE_S)

    assert run(record()) == Delivery([camera.at("a.fits")])

"""A directory as a user has it: daq-ctl serves, some program drops files, a product comes out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

import conformance
from daqlib import rpc
from harness import CHECKOUT, Daq, make_fits, wait_until
from live import LIFE, Live

pytestmark = [pytest.mark.xdist_group("source-watch-job")]


@pytest.fixture
def live(daq: Daq) -> Iterator[Live]:
    made = Live(daq)
    made.serve()
    yield made


@pytest.fixture
def folder(live: Live) -> Path:
    made = live.daq.folder / "camera"
    made.mkdir()
    return made


def source(folder: Path, name: str = "cam", **options: Any) -> dict[str, Any]:
    return {"type": "primarySource", "sourceName": name, "rrUri": f"watch:{folder}",
            "options": options}


def test_from_dropped_files_to_a_product(live: Live, folder: Path) -> None:
    make_fits(folder / "before.fits", name="OLD")
    job = live.begin(source(folder, count=2), live.sim("metadaqif", "fcf", "--no-files").source())
    make_fits(folder / "one.fits", name="ONE")
    make_fits(folder / "two.fits", name="TWO")
    live.until(job, "NotScheduled")  # nobody stopped it
    product = live.product(job)
    assert [name for name in live.daq.events(job) if name == "stopped"] == ["stopped"] * 2
    with fits.open(product) as hdus:
        assert {hdu.name for hdu in hdus[1:]} == {"ONE1", "TWO1"}
    assert [event["substate"] for event in live.daq.history(job) if event["event"] == "state"] == [
        *LIFE[1:5]]
    assert sorted(path.name for path in folder.iterdir()) == ["before.fits", "one.fits", "two.fits"]


def test_killed_in_between(live: Live, folder: Path) -> None:
    job = live.begin(source(folder, complete="rename", stableSec=0.5))
    make_fits(folder / ".a.part").rename(folder / "a.fits")
    live.daemon.kill()
    make_fits(folder / ".b.part").rename(folder / "b.fits")
    live.serve()
    live.until(job, "Acquiring")
    make_fits(folder / ".c.part").rename(folder / "c.fits")
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    [brought] = live.manifest(job)["sources"]
    assert brought["files"] == [str(folder / f"{name}.fits") for name in "abc"]


def test_one_directory_is_not_for_two(live: Live, folder: Path) -> None:
    job = live.begin(source(folder))
    with pytest.raises(rpc.RemoteError, match=f"watch:{folder}"):
        live.begin(source(folder, name="other"))
    other = live.begin(source(folder, pattern="other*"))
    for each in (job, other):
        live.call("AbortDaq", id=each)
    assert live.daq.tree()["done"] == [job, other]


def test_what_is_told(live: Live, folder: Path) -> None:
    with pytest.raises(rpc.RemoteError, match="option compleet: not known; known here: companion"):
        live.begin(source(folder, compleet="rename"))
    with pytest.raises(rpc.RemoteError, match="none cannot be read: No such file"):
        live.begin(source(folder / "none"))
    job = live.begin(source(folder))
    (folder / "notes.fits").write_text("no FITS")
    folder.rename(folder.with_name("away"))
    wait_until(lambda: f"source cam: directory {folder} cannot be read" in live.alerts(job).get(
        "source-failed:cam", ""))
    folder.with_name("away").rename(folder)
    wait_until(lambda: live.alerts(job) == {})
    assert live.call("StopDaq", id=job) == {"id": job, "error": True}
    told = live.alerts(job)
    assert "0 files appeared" in told["source-failed:cam"]
    assert "'notes.fits' is left out: it does not begin as" in told["source-remarks:cam"]


def test_a_window_has_a_progress(live: Live, folder: Path) -> None:
    job = live.begin(source(folder, window=3600))
    wait_until(lambda: "of 3600.0 s: cam" in live.daq.run("daq-status", job).ok().out)
    live.call("AbortDaq", id=job)


def test_the_template_as_a_package_of_other_people(daq: Daq) -> None:
    packages = daq.folder / "packages"
    packages.mkdir()
    (packages / "source_template.py").write_bytes(
        (CHECKOUT / "docs" / "source_template.py").read_bytes())
    conformance.package(packages, "sample", sample="source_template:Camera",
                        sample_metadata="source_template:Sensor")
    daq.env["PYTHONPATH"] = str(packages)
    live = Live(daq)
    live.serve()
    job = live.begin(
        {"type": "primarySource", "sourceName": "cam", "rrUri": "sample:/one?exposure=1"},
        {"type": "metadataSource", "sourceName": "lab", "rrUri": "sample:/two"})
    live.until(job, "NotScheduled")
    product = live.product(job)
    with fits.open(product) as hdus:
        assert hdus[0].header["SAMPTIME"] >= 1
    with pytest.raises(rpc.RemoteError, match="known schemes: .*sample"):
        live.begin({"type": "primarySource", "sourceName": "cam", "rrUri": "simple:/one"})


def test_a_source_that_hangs_while_it_is_checked_holds_nobody_up(daq: Daq) -> None:
    packages = daq.folder / "packages"
    packages.mkdir()
    (packages / "stuck.py").write_text(
        "import os, time\nfrom daq_ctl.sources import Metadata\nclass Stuck(Metadata):\n"
        "    def configure(self, options):\n"
        "        while not os.path.exists(self.uri.removeprefix('stuck:')): time.sleep(0.05)\n"
        "    start = wait = stop = abort = status = None\n")
    conformance.package(packages, "stuck", stuck_metadata="stuck:Stuck")
    daq.env["PYTHONPATH"] = str(packages)
    live = Live(daq, request_timeout_sec=0.5)
    live.serve()
    word = daq.folder / "go"
    with pytest.raises(rpc.RemoteError, match="could not be checked within 0.5 s"):
        live.begin({"type": "metadataSource", "sourceName": "lab", "rrUri": f"stuck:{word}"})
    assert live.call("GetState")
    word.touch()

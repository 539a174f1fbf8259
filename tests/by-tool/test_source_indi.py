"""Cameras behind a real indiserver: exposures, through daq-ctl to the product."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from daqlib import rpc
from harness import CHECKOUT, PATIENCE_S, Daq, free_port, wait_until
from indi import BRISK, CAMERA, Observatory

pytestmark = pytest.mark.needs("indiserver")

CCD = "CCD Simulator"


@pytest.fixture
def sky(daq: Daq) -> Observatory:
    made = Observatory(daq, CAMERA, "indi_simulator_wheel")
    made.live.serve()
    return made


def header(path: str | Path, extension: int = 0) -> Any:
    from astropy.io import fits

    return fits.getheader(path, extension)


def verify(path: str | Path) -> None:
    """Have a program that nobody here wrote find no error in a FITS file."""
    subprocess.run(["fitsverify", "-q", "-e", path], check=True)


def ended(sky: Observatory, job: str) -> dict[str, Any]:
    """Wait until an acquisition has handed over; return the entry of its source."""
    sky.live.until(job, "NotScheduled")
    made: dict[str, Any] = sky.live.manifest(job)["sources"][0]
    return made


@pytest.mark.needs("fitsverify")
@pytest.mark.parametrize("delivery", ["local", "client"])
def test_an_exposure_becomes_a_product(sky: Observatory, delivery: str) -> None:
    job = sky.live.begin(sky.source(CCD, delivery=delivery), mergeTarget={"sourceName": "ccd"})
    (file,) = ended(sky, job)["files"]
    assert sky.files(job) == [Path(file)], "nothing else lies there, no temporary file"
    verify(file)
    product = sky.live.product(job)
    verify(product)
    assert (header(product)["NAXIS1"], header(product)["EXPTIME"]) == (1280, 0.2)


def test_two_cameras_expose_together_as_their_options_say(sky: Observatory) -> None:
    nir, vis = sky.camera("NIR Camera"), sky.camera("VIS Camera")
    job = sky.live.begin(
        sky.source(nir, "nir", 0.3, frame=[10, 20, 300, 200], binning=2, gain=55, offset=7,
                   filter="OIII", frameType="flat", delivery="client",
                   header={"OBJECT": "M <31>", "OBSERVER": "A & B"}),
        sky.source(vis, "vis", 0.2, frameType="dark", filter=3, filterDevice="Filter Simulator"),
        mergeTarget={"sourceName": "vis"})
    sky.live.until(job, "NotScheduled")
    entries = {each["sourceName"]: each["files"] for each in sky.live.manifest(job)["sources"]}
    flat, dark = header(entries["nir"][0]), header(entries["vis"][0])
    assert (flat["INSTRUME"], dark["INSTRUME"]) == (nir, vis)
    assert (flat["NAXIS1"], flat["NAXIS2"], flat["XBINNING"]) == (150, 100, 2)
    assert (flat["GAIN"], flat["FILTER"], flat["FRAME"]) == (55, "OIII", "Flat")
    assert (flat["OBJECT"], flat["OBSERVER"]) == ("M <31>", "A & B")
    assert (dark["FRAME"], dark["EXPTIME"]) == ("Dark", 0.2)
    assert sky.told(nir, "CCD_OFFSET.OFFSET") == "7"
    assert sky.told("Filter Simulator", "FILTER_SLOT.FILTER_SLOT_VALUE") == "3"
    assert sky.live.product(job).stat().st_size > 2 * 1280 * 1024


@pytest.mark.needs("fitsverify")
def test_compressed_images_of_several_cameras_are_all_in_the_product(sky: Observatory) -> None:
    from astropy.io import fits

    cameras = {"nir": sky.camera("NIR Camera"), "vis": sky.camera("VIS Camera")}
    job = sky.live.begin(*(sky.source(camera, name, delivery="client", setup={
        **BRISK, "CCD_COMPRESSION.INDI_ENABLED": "On"}) for name, camera in cameras.items()))
    sky.live.until(job, "NotScheduled")
    for each in sky.live.manifest(job)["sources"]:
        (file,) = each["files"]
        assert file.endswith(".fits.fz") and Path(file).stat().st_size % 2880 == 0, "no padding"
        verify(file)
    product = sky.live.product(job)
    verify(product)
    assert sky.live.alerts(job) == {}
    with fits.open(product) as hdus:
        assert [hdu.header["INSTRUME"] for hdu in hdus[1:]] == list(cameras.values())
        assert [hdu.data.shape for hdu in hdus[1:]] == [(1024, 1280)] * 2


def test_options_may_stand_in_the_uri(sky: Observatory) -> None:
    uri = f"{sky.uri(CCD)}?exposure=0.1&binning=4&setup.POLLING_PERIOD.PERIOD_MS=50"
    job = sky.live.id()
    sky.live.ctl("daq.start", "--id", job, f"ccd@{uri}", "").ok()
    assert header(ended(sky, job)["files"][0])["XBINNING"] == 4


@pytest.mark.parametrize(("options", "location"), [
    ({"pathMap": {"{far}": "{near}"}}, "{near}/"),
    ({"collectFrom": "camera-pc"}, "camera-pc:{far}/")])
def test_a_path_of_the_cameras_host_is_made_one_of_ours(
        sky: Observatory, options: dict[str, Any], location: str) -> None:
    far, near = sky.daq.folder / "far", sky.daq.folder / "near"
    near.symlink_to(far)
    filled = {key: {str(far): str(near)} if isinstance(value, dict) else value
              for key, value in options.items()}
    job = sky.live.begin(sky.source(CCD, uploadDir=str(far), **filled))
    (file,) = ended(sky, job)["files"]
    assert file.startswith(location.format(near=near, far=far))
    assert (far / Path(file).name).stat().st_size > 0


def test_a_stop_waits_for_the_end_or_aborts(sky: Observatory) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1.5))
    sky.live.call("StopDaq", id=job)
    assert header(ended(sky, job)["files"][0])["EXPTIME"] == 1.5

    for how, command in (("abort", "StopDaq"), ("wait", "ForceStopDaq")):
        job = sky.live.begin(sky.source(CCD, exposure=1000, stop=how))
        sky.live.call(command, id=job)
        assert ended(sky, job)["files"] == []
        assert "its exposure was aborted" in sky.live.told(job)
        assert sky.told(CCD, "CCD_EXPOSURE._STATE") == "Idle"


def test_an_abort_leaves_nothing(sky: Observatory) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1000))
    assert sky.told(CCD, "CCD_EXPOSURE._STATE") == "Busy"
    assert len(list((sky.daq.spool / "data" / job / "live" / "ccd").iterdir())) == 1
    sky.live.call("AbortDaq", id=job)
    sky.live.until(job, "Aborted")
    assert sky.told(CCD, "CCD_EXPOSURE._STATE") == "Idle"
    assert not (sky.daq.spool / "data" / job / "live" / "ccd").exists()


def test_what_somebody_else_takes_afterwards_replaces_nothing(sky: Observatory) -> None:
    other = sky.camera("Other")
    sky.tell(f"{CCD}.CONNECTION.CONNECT=On")
    before = wait_until(lambda: sky.told(CCD, "UPLOAD_SETTINGS.UPLOAD_PREFIX"))
    job = sky.live.begin(sky.source(CCD), sky.source(other, "other", 1000, stop="abort"))
    sky.until(CCD, "UPLOAD_SETTINGS.UPLOAD_PREFIX", before)
    (file,) = (path for path in sky.files(job))
    image = file.read_bytes()
    sky.tell(f"{CCD}.UPLOAD_MODE.UPLOAD_LOCAL=On")
    sky.tell(f"{CCD}.CCD_EXPOSURE.CCD_EXPOSURE_VALUE=0.1")
    sky.until(CCD, "CCD_FILE_PATH._STATE", "Ok")
    sky.until(CCD, "CCD_EXPOSURE._STATE", "Ok")
    sky.live.call("StopDaq", id=job)
    assert ended(sky, job)["files"] == [str(file)]
    assert sky.files(job) == [file]
    assert file.read_bytes() == image


def test_an_abort_does_not_wait_for_a_camera_that_cools(sky: Observatory) -> None:
    cooling = {"CCD_TEMPERATURE.CCD_TEMPERATURE_VALUE": -40}
    with ThreadPoolExecutor() as pool:
        source = sky.source(CCD, setup=cooling, slack=3600)
        starting = pool.submit(sky.live.begin, source, id="cold")
        sky.until(CCD, "CCD_TEMPERATURE._STATE", "Busy")
        sky.live.call("AbortDaq", id="cold")
        with pytest.raises(rpc.RemoteError, match="overtaken by AbortDaq"):
            starting.result()
    sky.live.until("cold", "Aborted")
    assert sky.told(CCD, "CCD_TEMPERATURE._STATE") == "Busy"
    assert sky.told(CCD, "CCD_EXPOSURE._STATE") == "Idle"


def test_the_status_tells_how_long_it_still_takes(sky: Observatory) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1000))
    wait_until(lambda: re.search(rf"{job} .* exposing 0 %, .* left", sky.daq.run("daq-status").out))
    sky.live.call("AbortDaq", id=job)


def test_an_image_is_awaited_by_the_next_daemon(sky: Observatory) -> None:
    for delivery in ("local", "client"):
        job = sky.live.begin(sky.source(CCD, exposure=2.5, delivery=delivery))
        sky.live.crash()
        (file,) = ended(sky, job)["files"]
        assert sky.files(job) == [Path(file)]
        assert header(file)["EXPTIME"] == 2.5


def test_what_ended_without_a_daemon_is_found_if_the_camera_wrote_it(sky: Observatory) -> None:
    for delivery, found in (("local", 1), ("client", 0)):
        job = sky.live.begin(sky.source(CCD, exposure=0.5, delivery=delivery))
        sky.live.daemon.kill()
        sky.until(CCD, "CCD_EXPOSURE._STATE", "Ok")
        sky.live.serve()
        assert len(ended(sky, job)["files"]) == found
        assert ("ended without us" in sky.live.told(job)) != bool(found)


def test_a_later_daemon_can_abort(sky: Observatory) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1000))
    sky.live.crash()
    sky.live.call("AbortDaq", id=job)
    assert sky.told(CCD, "CCD_EXPOSURE._STATE") == "Idle"


@pytest.mark.skipif(not (CHECKOUT / ".venv").exists(), reason="needs what make installs")
def test_the_demonstration_runs_beside_another_server(sky: Observatory) -> None:
    sky.daq.program("indiserver", "-v", "-p", free_port(), "indi_simulator_focus",
                    until="listening")
    demo = subprocess.run(
        [*sky.daq.prefix, CHECKOUT / "demo" / "indi"], capture_output=True, text=True,
        env={**os.environ, "DAQ_DEMO_DIR": str(sky.daq.folder / "demo")}, timeout=2 * PATIENCE_S)
    assert demo.returncode == 0, demo.stderr
    assert "StateCompleted/Completed" in demo.stdout

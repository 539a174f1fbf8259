"""A night with instruments that nobody here wrote: cameras, telescope, weather in one product."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import Daq
from indi import BRISK, Observatory

pytestmark = pytest.mark.needs("indiserver", "fitsverify", "dfits")

DEVICES = {"Telescope": "telescope", "Focuser": "focus", "Filter": "wheel", "Weather": "weather"}


@pytest.fixture
def sky(daq: Daq) -> Observatory:
    made = Observatory(daq, *(f"indi_simulator_{name}" for name in DEVICES.values()))
    made.live.serve()
    for device in DEVICES:
        made.until(f"{device} Simulator", "CONNECTION.CONNECT", "Off")
        made.tell(f"{device} Simulator.CONNECTION.CONNECT=On")
    return made


def listed(product: Path, extension: int, *names: str) -> list[str]:
    """Return what ``dfits -x N | fitsort`` lists of some keywords; 0 is all HDUs together."""
    cards = subprocess.run(["dfits", "-x", str(extension), product], capture_output=True,
                           check=True)
    table = subprocess.run(["fitsort", *names], input=cards.stdout, capture_output=True, check=True)
    head, line = table.stdout.decode().splitlines()
    assert [name.strip() for name in head.split("\t")[1:-1]] == list(names)
    return [value.strip() for value in line.split("\t")[1:-1]]


def sound(product: Path) -> None:
    subprocess.run(["fitsverify", "-e", "-q", product], check=True)
    checker = Path(sys.executable).with_name("fitscheck")
    subprocess.run([checker, product], check=True, capture_output=True)


def test_two_cameras_and_all_devices_are_one_product(sky: Observatory) -> None:
    from astropy.io import fits

    vis, nir = sky.camera("VIS Camera"), sky.camera("NIR Camera")
    site = {"type": "metadataSource", "sourceName": "site", "rrUri": sky.uri("").rstrip("/")}
    job = sky.live.begin(
        sky.source(vis, "vis", 0.3, setup=BRISK), site,
        sky.source(nir, "nir", 0.2, setup=BRISK, delivery="client", frameType="dark"))
    sky.live.until(job, "NotScheduled")
    product = sky.live.product(job)
    sound(product)
    assert sky.live.alerts(job) == {}
    with fits.open(product) as hdus:
        primary, first, second = hdus
        assert primary.data is None and primary.header["AMBTEMP"] == 15.0
        assert 0 <= primary.header["TELRA"] < 360 and primary.header["FOCUSPOS"] > 0
        for hdu, camera, seconds in ((first, vis, 0.3), (second, nir, 0.2)):
            assert hdu.data.shape == (1024, 1280) and hdu.data.dtype == "uint16"
            assert (hdu.header["INSTRUME"], hdu.header["EXPTIME"]) == (camera, seconds)
        assert [first.name, second.name] == ["vis", "nir"]
        assert second.header["FRAME"] == "Dark"
    assert listed(product, 0, "ARCFILE", "AMBTEMP") == [product.name, "15.0"]
    assert listed(product, 1, "INSTRUME", "EXPTIME") == [vis, "3.000000E-01"]
    assert listed(product, 2, "INSTRUME", "EXPTIME") == [nir, "2.000000E-01"]


def test_acquisitions_with_other_cameras_do_not_wait_for_each_other(sky: Observatory) -> None:
    vis, nir = sky.camera("VIS Camera"), sky.camera("NIR Camera")
    long = sky.live.begin(sky.source(vis, "vis", 600.0))
    short = sky.live.begin(sky.source(nir, "nir", 0.1, setup=BRISK))
    sky.live.until(short, "NotScheduled")
    sound(sky.live.product(short))
    assert sky.live.status(long)["substate"] == "Acquiring"
    sky.live.call("AbortDaq", id=long)
    assert not (sky.daq.spool / "data" / long / "live" / "vis").exists()

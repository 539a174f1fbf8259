"""Cameras behind a real indiserver: exposures, through daq-ctl to the product."""

from __future__ import annotations

import time

import pytest

from harness import Daq
from indi import CAMERA, Observatory

pytestmark = pytest.mark.needs("indiserver")

CCD = "CCD Simulator"


@pytest.fixture
def sky(daq: Daq) -> Observatory:
    made = Observatory(daq, CAMERA)
    made.live.serve()
    return made


@pytest.mark.parametrize("delivery", ["local", "client"])
def test_an_exposure_becomes_a_product(sky: Observatory, delivery: str) -> None:
    job = sky.live.begin(sky.source(CCD, delivery=delivery))
    t=time.time()
    sky.live.until(job, "NotScheduled")
    print(time.time()-t, sky.live.told(job))
    print(sky.live.product(job), sky.live.daemon.err)
    assert 0

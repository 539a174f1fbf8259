"""Cameras behind a real indiserver: what is refused, what breaks, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from daqlib import rpc
from harness import Daq
from indi import CAMERA, Observatory

pytestmark = pytest.mark.needs("indiserver")

CCD = "CCD Simulator"
STATE = "CCD_EXPOSURE._STATE"


@pytest.fixture
def sky(daq: Daq) -> Observatory:
    made = Observatory(daq, CAMERA)
    made.live.serve()
    return made


def refused(sky: Observatory, *texts: str, device: str = CCD, **options: Any) -> None:
    """Have a start fail, with words that a person understands."""
    with pytest.raises(rpc.RemoteError) as caught:
        sky.live.begin(sky.source(device, **options))
    for text in texts:
        assert text in str(caught.value)


def fault(sky: Observatory, job: str) -> str:
    """Wait until an acquisition has handed over, without a file; return why there is none."""
    sky.live.until(job, "NotScheduled")
    assert sky.live.manifest(job)["sources"][0]["files"] == []
    return sky.live.alerts(job)["source-failed:ccd"]


def works(sky: Observatory, **options: Any) -> None:
    """Have an exposure succeed."""
    job = sky.live.begin(sky.source(CCD, **options))
    sky.live.until(job, "NotScheduled")
    assert len(sky.live.manifest(job)["sources"][0]["files"]) == 1


@pytest.mark.parametrize(("options", "texts"), [
    ({"exposure": None}, ["option exposure", "missing"]),
    ({"exposure": -1}, ["option exposure", "out of bounds"]),
    ({"uploadDir": "pictures"}, ["option uploadDir", "'pictures'"]),
    ({"pathMap": {"/a": "../b"}}, ["option pathMap", "../b"]),
    ({"collectFrom": "-oProxyCommand=x"}, ["-oProxyCommand"]),
    ({"frame": [1, 2]}, ["option frame", "4 numbers"]),
    ({"delivery": "post"}, ["option delivery", "local, client"]),
    ({"setup": {"GAIN": 1}}, ["setup.GAIN", "PROPERTY.ELEMENT"]),
    ({"setup": {"A.B": "x\ny"}}, ["setup.A.B"]),
    ({"header": {"": 1}}, ["header", "keyword"]),
    ({"shutter": 1}, ["option shutter", "not known", "exposure"])])
def test_a_wrong_option_is_told_at_once(
        sky: Observatory, options: dict[str, Any], texts: list[str]) -> None:
    refused(sky, *texts, **options)
    assert sky.daq.tree() == {}


def test_what_the_camera_does_not_take_is_told(sky: Observatory) -> None:
    refused(sky, "was refused", "[0.01,3600]", exposure=5000)
    refused(sky, "no device", device="", exposure=1)
    refused(sky, "property NO_SUCH of device 'CCD Simulator'", "0.5 s", timeout=0.5,
            setup={"NO_SUCH.THING": 1})
    refused(sky, "no CCD_GAIN.LOSS", "GAIN", setup={"CCD_GAIN.LOSS": 1})
    refused(sky, "'loud' is no value for CCD_GAIN.GAIN", setup={"CCD_GAIN.GAIN": "loud"})
    refused(sky, "property CONNECTION of device 'Nobody'", "the server knew nothing",
            device="Nobody", timeout=0.5)
    refused(sky, "filter 'Purple' is not one of", "H_Alpha", filter="Purple")
    works(sky)


def test_no_server_is_told(sky: Observatory) -> None:
    sky.server.kill()
    refused(sky, "is not reached: Connection refused")


def test_a_device_is_connected_if_it_may_be(sky: Observatory) -> None:
    refused(sky, "is not connected", connect=False)
    works(sky)
    works(sky, connect=False)


def test_an_exposure_of_somebody_else_is_left_alone(sky: Observatory) -> None:
    works(sky)
    sky.tell(f"{CCD}.CCD_EXPOSURE.CCD_EXPOSURE_VALUE=1000")
    sky.until(CCD, STATE, "Busy")
    refused(sky, "is exposing for somebody else")
    assert sky.told(CCD, STATE) == "Busy"


def test_a_repeated_definition_is_no_event(sky: Observatory) -> None:
    works(sky)  # what the camera shows from now on is the end of this one
    job = sky.live.begin(sky.source(CCD, exposure=1.5))
    for _ in range(5):
        assert sky.told(CCD, STATE) == "Busy"
    sky.live.until(job, "NotScheduled")
    assert len(sky.live.manifest(job)["sources"][0]["files"]) == 1
    assert sky.live.alerts(job) == {}


def test_somebody_elses_abort_is_no_success(sky: Observatory) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1000))
    sky.tell(f"{CCD}.CCD_ABORT_EXPOSURE.ABORT=On")
    assert "its exposure was aborted" in fault(sky, job)


def test_a_file_that_cannot_be_saved_is_told_at_the_end(sky: Observatory) -> None:
    taken = sky.daq.folder / "a-file"
    taken.write_text("")
    job = sky.live.begin(sky.source(CCD, uploadDir=str(taken)))
    assert "its exposure failed; it said: " in fault(sky, job)


def test_a_disconnected_device_is_told(sky: Observatory) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1000))
    sky.tell(f"{CCD}.CONNECTION.DISCONNECT=On")
    assert "was disconnected" in fault(sky, job)
    works(sky)


@pytest.mark.parametrize("delivery", ["local", "client"])
def test_a_driver_that_crashes_is_told_and_set_up_again(sky: Observatory, delivery: str) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1000, delivery=delivery))
    sky.tell(f"{CCD}.CCD_SIMULATE_CRASH.CRASH=On")
    assert "its driver ended, during the exposure" in fault(sky, job)
    works(sky, delivery=delivery)


def test_a_driver_that_crashes_unseen_is_told(sky: Observatory) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1000))
    sky.live.daemon.kill()
    sky.tell(f"{CCD}.CCD_SIMULATE_CRASH.CRASH=On")
    sky.until(CCD, "CONNECTION.CONNECT", "Off")
    sky.tell(f"{CCD}.CONNECTION.CONNECT=On")
    sky.until(CCD, STATE, "Idle")
    sky.live.serve()
    assert "set up anew" in fault(sky, job)


@pytest.mark.parametrize("delivery", ["local", "client"])
def test_a_server_that_dies_is_told_and_its_loss_found_out(
        sky: Observatory, delivery: str) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1000, delivery=delivery))
    sky.server.kill()
    sky.live.until_alert(job, "source-failed:ccd", "INDI server")
    sky.begin()
    assert "was disconnected during the exposure" in fault(sky, job)


def test_a_server_that_stays_dead_is_not_awaited_for_ever(sky: Observatory) -> None:
    job = sky.live.begin(sky.source(CCD, exposure=1, slack=0.5))
    sky.server.kill()
    assert "its end was not seen: INDI server" in fault(sky, job)


def test_an_acquisition_without_its_server_can_be_ended(sky: Observatory) -> None:
    first, second = (sky.live.begin(sky.source(device, exposure=1000))
                     for device in (CCD, sky.camera("Other")))
    sky.server.kill()
    sky.live.until_alert(first, "source-failed:ccd", "INDI server")
    sky.live.ctl("daq.abort", first).fails(69, "not reached", chatty=True)
    sky.live.call("ForceAbortDaq", id=first)
    sky.live.until(first, "Aborted")
    sky.live.call("ForceStopDaq", id=second)
    sky.live.until(second, "NotScheduled")


def test_a_camera_that_hangs_is_given_up(sky: Observatory) -> None:
    works(sky)
    job = sky.live.begin(sky.source(CCD, exposure=0.3, slack=0.5))
    with sky.stalled():
        assert "did not end within 0.5 s" in fault(sky, job)
    sky.until(CCD, STATE, "Ok")
    works(sky)

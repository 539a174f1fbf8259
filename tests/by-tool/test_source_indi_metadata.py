"""Metadata from real INDI drivers, through daq-ctl to the product."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daqlib import errors, rpc
from harness import Daq, wait_until
from indi import CAMERA, Observatory

pytestmark = pytest.mark.needs("indiserver", "fitsverify")

CCD, TELESCOPE, FOCUSER, WHEEL, WEATHER = (
    f"{name} Simulator" for name in ("CCD", "Telescope", "Focuser", "Filter", "Weather"))
DRIVERS = {TELESCOPE: "indi_simulator_telescope", FOCUSER: "indi_simulator_focus",
           WHEEL: "indi_simulator_wheel", WEATHER: "indi_simulator_weather", CCD: CAMERA}
POSITION = "ABS_FOCUS_POSITION.FOCUS_ABSOLUTE_POSITION"


class Sky(Observatory):
    """An observatory with metadata."""

    def connect(self, *devices: str) -> None:
        for device in devices:
            self.until(device, "DRIVER_INFO.DRIVER_EXEC", DRIVERS[device])
            self.tell(f"{device}.CONNECTION.CONNECT=On")
            self.until(device, "CONNECTION._STATE", "Ok")

    def metadata(self, *rows: dict[str, Any], device: str = "", **options: Any) -> dict[str, Any]:
        """Return the devices, or one of them, as a source of a specification."""
        if rows:
            options["keywords"] = list(rows)
        return {"type": "metadataSource", "sourceName": "tcs", "rrUri": self.uri(device),
                "options": options}

    def stop(self, job: str) -> dict[str, dict[str, Any]]:
        """Stop an acquisition, and return the keywords of its metadata by name."""
        self.live.call("StopDaq", id=job)
        (found,) = [each for each in self.live.manifest(job)["sources"]
                    if each["sourceName"] == "tcs"]
        return {each["name"]: each for each in found["keywords"]}

    def memo(self, job: str) -> str:
        """Return what the adapter has written down."""
        return (self.daq.spool / "data" / job / "live" / "tcs" / "recording.json").read_text()


@pytest.fixture
def observe(daq: Daq) -> Iterator[Any]:
    def made(*devices: str) -> Sky:
        sky = Sky(daq, *(DRIVERS[device] for device in devices), scan_interval_sec=1.0)
        sky.live.serve()
        sky.connect(*devices)
        return sky
    yield made


def header(product: Path) -> Any:
    """Return the primary header of a product that two other programs find right."""
    from astropy.io import fits

    check = subprocess.run(["fitsverify", "-e", "-q", product], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    subprocess.run([str(Path(sys.executable).with_name("fitscheck")), product], check=True,
                   capture_output=True)
    return fits.getheader(product)


def test_standard_devices_need_no_table(observe: Any) -> None:
    sky = observe(*DRIVERS)
    sky.tell(f"{WHEEL}.FILTER_SLOT.FILTER_SLOT_VALUE=4")
    sky.until(WHEEL, "FILTER_SLOT.FILTER_SLOT_VALUE", "4")
    sky.tell(f"{TELESCOPE}.GEOGRAPHIC_COORD.LAT;LONG;ELEV=-24.6;289.6;2635")
    sky.until(TELESCOPE, "GEOGRAPHIC_COORD.ELEV", "2635")
    sky.tell(f"{FOCUSER}.{POSITION}=20000")
    sky.until(FOCUSER, POSITION, "20000")
    job = sky.live.begin(sky.metadata(), sky.source(CCD))  # the first one's keywords win
    with sky.daq.start("daq-watch"):
        done = sky.live.until(job, "Completed")
    assert "source-" not in done["message"]
    found = header(Path(done["result"]))
    assert (found["FILTER"], found["FILTSLOT"]) == ("H_Alpha", 4)
    assert (found["SITELAT"], found["SITELONG"], found["SITEELEV"]) == (-24.6, -70.4, 2635)
    assert (found["FOCUSPOS"], found["AMBTEMP"], found["WEATHER"]) == (20000, 15.0, "Ok")
    assert 0 <= found["TELRA"] < 360 and found["TELDEC"] == -90.0
    assert found["PIERSIDE"] in ("EAST", "WEST") and found["TRACKING"] is False
    # the camera's own, of J2000, stay what they are
    assert (found["EQUINOX"], found.comments["RA"]) == (2000, "Object J2000 RA in Degrees")
    assert found.comments["AMBTEMP"] == "[degC] outside temperature"


@pytest.mark.parametrize("devices", [{}, {"devices": [FOCUSER]}])
def test_a_standard_device_that_is_not_connected(observe: Any, devices: dict[str, Any]) -> None:
    sky = observe(FOCUSER)
    sky.tell(f"{FOCUSER}.CONNECTION.DISCONNECT=On")
    sky.until(FOCUSER, "CONNECTION._STATE", "Idle")
    job = sky.live.begin(sky.metadata(**devices))
    assert sky.stop(job) == {}
    assert f"{FOCUSER} is not connected" in sky.live.alerts(job)["source-remarks:tcs"]


def test_of_two_devices_alike_one_has_to_be_named(observe: Any) -> None:
    sky = observe(FOCUSER)
    sky.fifo.write_text('start indi_simulator_focus -n "Second"\n')
    sky.until("Second", "DRIVER_INFO.DRIVER_EXEC", "indi_simulator_focus")
    sky.tell("Second.CONNECTION.CONNECT=On")
    sky.until("Second", "CONNECTION._STATE", "Ok")
    job = sky.live.begin(sky.metadata())
    assert sky.stop(job) == {}
    assert "name one in the option devices" in sky.live.alerts(job)["source-remarks:tcs"]
    for options in ({"devices": ["Second"]}, {"device": "Second"}):
        job = sky.live.begin(sky.metadata(**options))
        assert set(sky.stop(job)) == {"FOCUSPOS", "FOCUSTEM"}
        assert sky.live.alerts(job) == {}


RA = {"property": f"{TELESCOPE}/EQUATORIAL_EOD_COORD.RA", "keyword": "ESO TEL RA {when}",
      "when": ["start", "end", "mean", "min", "max"], "scale": 15, "wrap": 360, "format": "%.4f"}
FOCUS = {"property": f"{FOCUSER}/{POSITION}", "keyword": "FOC{when}",
         "when": ["start", "end", "mean", "min", "max"]}
ALL = ("FOCSTART", "FOCEND", "FOCMEAN", "FOCMIN", "FOCMAX")


def slew(sky: Sky, hours: float) -> None:
    sky.tell(f"{TELESCOPE}.EQUATORIAL_EOD_COORD.RA;DEC={hours};80")
    wait_until(lambda: abs(float(sky.told(TELESCOPE, "EQUATORIAL_EOD_COORD.RA")) - hours) < 0.01
               and sky.told(TELESCOPE, "EQUATORIAL_EOD_COORD._STATE") == "Ok")


def test_a_slew_over_zero_hours_during_the_exposure(observe: Any) -> None:
    sky = observe(TELESCOPE)
    sky.tell(f"{TELESCOPE}.ON_COORD_SET.TRACK=On")
    slew(sky, 23.9)
    job = sky.live.begin(sky.metadata(RA))
    slew(sky, 0.2)
    found = {name: each["value"] for name, each in sky.stop(job).items()}
    assert found["TEL RA START"] == pytest.approx(358.5, abs=0.2)
    assert found["TEL RA MIN"] == pytest.approx(358.5, abs=0.2)
    assert found["TEL RA END"] == pytest.approx(3.0, abs=0.2)
    assert found["TEL RA MAX"] == pytest.approx(3.0, abs=0.3)
    assert found["TEL RA MEAN"] > 358.0 or found["TEL RA MEAN"] < 3.3
    shown = header(sky.live.product(job))
    assert shown["HIERARCH ESO TEL RA MIN"] == pytest.approx(358.5, abs=0.2)


def test_a_value_in_alert_is_flagged(observe: Any) -> None:
    sky = observe(FOCUSER)
    sky.tell(f"{FOCUSER}.{POSITION}=999999")  # out of bounds
    sky.until(FOCUSER, "ABS_FOCUS_POSITION._STATE", "Alert")
    row = {"property": f"{FOCUSER}/{POSITION}", "keyword": "FOCUSPOS", "comment": "in steps"}
    job = sky.live.begin(sky.metadata(row))
    assert sky.stop(job)["FOCUSPOS"]["comment"] == "ALERT: in steps"
    assert "flagged ALERT" in sky.live.alerts(job)["source-remarks:tcs"]
    assert header(sky.live.product(job)).comments["FOCUSPOS"] == "ALERT: in steps"

    job = sky.live.begin(sky.metadata(row, flagged="leave-out"))
    assert sky.stop(job) == {}
    with pytest.raises(rpc.RemoteError, match="required"):
        sky.live.begin(sky.metadata({**row, "required": True}, flagged="leave-out"))


def test_bad_weather_is_a_good_value(observe: Any) -> None:
    sky = observe(WEATHER)
    sky.tell(f"{WEATHER}.WEATHER_TEMPERATURE.MIN_OK;MAX_OK;PERC_WARN=20;30;15")
    sky.tell(f"{WEATHER}.WEATHER_REFRESH.REFRESH=On")
    sky.until(WEATHER, "WEATHER_STATUS._STATE", "Alert")
    light = {"property": f"{WEATHER}/WEATHER_STATUS.WEATHER_TEMPERATURE", "keyword": "TSTATUS"}
    job = sky.live.begin(sky.metadata(light, defaults=True))
    found = sky.stop(job)
    assert (found["TSTATUS"]["value"], found["WEATHER"]["value"]) == ("Alert", "Alert")
    assert found["AMBTEMP"]["value"] == 15.0 and sky.live.alerts(job) == {}


def test_a_device_that_is_disconnected_during_the_exposure(observe: Any) -> None:
    sky = observe(FOCUSER)
    job = sky.live.begin(sky.metadata(FOCUS))
    sky.tell(f"{FOCUSER}.CONNECTION.DISCONNECT=On")
    sky.until(FOCUSER, "CONNECTION._STATE", "Idle")
    found = sky.stop(job)
    assert found["FOCSTART"] == {"type": "valueKeyword", "name": "FOCSTART", "value": 50000.0}
    assert "FOCEND" not in found and "DISCONNECTED" in found["FOCMEAN"]["comment"]
    assert "FOCEND is left out" in sky.live.alerts(job)["source-remarks:tcs"]


def test_a_server_that_is_killed_and_comes_back(observe: Any) -> None:
    sky = observe(FOCUSER)
    job = sky.live.begin(sky.metadata(FOCUS))
    sky.server.kill()
    wait_until(lambda: "closed the connection" in sky.live.alerts(job).get("source-failed:tcs", "")
               or "not reached" in sky.live.alerts(job).get("source-failed:tcs", ""))
    sky.begin()
    sky.connect(FOCUSER)
    wait_until(lambda: "source-failed:tcs" not in sky.live.alerts(job))
    sky.tell(f"{FOCUSER}.{POSITION}=30000")
    sky.until(FOCUSER, POSITION, "30000")
    found = sky.stop(job)
    assert found["FOCSTART"]["value"] == 50000 and found["FOCEND"]["value"] == 30000
    assert "LOST" in found["FOCMEAN"]["comment"] and "comment" not in found["FOCEND"]
    header(sky.live.product(job))


def test_a_server_that_does_not_come_back(observe: Any) -> None:
    sky = observe(FOCUSER)
    job = sky.live.begin(sky.metadata(FOCUS))
    sky.server.kill()
    found = sky.stop(job)
    assert found["FOCSTART"]["value"] == 50000 and "FOCEND" not in found
    assert "LOST" in found["FOCMAX"]["comment"]
    told = sky.live.alerts(job)["source-remarks:tcs"]
    assert "could not be read at the end" in told and "FOCEND is left out" in told
    header(sky.live.product(job))


def test_a_daemon_that_is_killed(observe: Any) -> None:
    sky = observe(FOCUSER)
    job = sky.live.begin(sky.metadata(FOCUS))
    sky.live.daemon.kill()
    sky.tell(f"{FOCUSER}.{POSITION}=40000")
    sky.until(FOCUSER, POSITION, "40000")
    sky.live.serve()
    wait_until(lambda: '"least": 40000.0' in sky.memo(job))
    sky.tell(f"{FOCUSER}.{POSITION}=45000")
    sky.until(FOCUSER, POSITION, "45000")
    found = sky.stop(job)
    assert set(found) == set(ALL)
    assert (found["FOCSTART"]["value"], found["FOCEND"]["value"]) == (50000, 45000)
    assert (found["FOCMIN"]["value"], found["FOCMAX"]["value"]) == (40000, 50000)
    assert "LOST" in found["FOCMEAN"]["comment"]
    header(sky.live.product(job))


def test_what_is_not_there_is_told(observe: Any) -> None:
    sky = observe(FOCUSER)
    row = {"property": f"{FOCUSER}/NOTHING.AT_ALL", "keyword": "NOTHING"}
    good = {"property": f"{FOCUSER}/{POSITION}", "keyword": "FOCUSPOS"}
    gone = {"property": "Nobody/A.B", "keyword": "GONE"}
    job = sky.live.begin(sky.metadata(row, good, gone))
    assert set(sky.stop(job)) == {"FOCUSPOS"}
    told = sky.live.alerts(job)["source-remarks:tcs"]
    assert "NOTHING is left out" in told and "Nobody/A.B has no value (ABSENT)" in told
    with pytest.raises(rpc.RemoteError, match="NOTHING is left out"):
        sky.live.begin(sky.metadata({**row, "required": True}))


def test_what_an_optional_source_has_is_kept_however_long_it_waits_for_the_rest(
        observe: Any) -> None:
    sky = observe(FOCUSER)
    row = {"property": "Nobody/A.B", "keyword": "X{when}", "when": ["start", "end", "mean"]}
    source = {**sky.metadata(row, FOCUS, silence=60), "optional": True}
    job = sky.live.begin(source)
    assert set(sky.live.alerts(job)) == set()
    with sky.stalled():
        sky.live.call("StopDaq", id=job)
    assert list(sky.live.alerts(job)) == ["source-remarks:tcs"]
    [found] = sky.live.manifest(job)["sources"]
    assert {each["name"] for each in found["keywords"]} == set(ALL) - {"FOCEND"}


def test_a_server_that_is_not_there(observe: Any) -> None:
    sky = observe(FOCUSER)
    sky.server.kill()
    with pytest.raises(rpc.RemoteError, match="is not reached: Connection refused"):
        sky.live.begin(sky.metadata(FOCUS))


@pytest.mark.parametrize(("options", "why"), [
    ({"mapping": "../x.yaml"}, "is not allowed"), ({"mapping": "none.yaml"}, "not found"),
    ({"keywords": [{"property": "A.B", "keyword": "X"}]}, "write Device Name/A.B"),
    ({"keywords": [{"property": "D/A..", "keyword": "x"}]}, "A-Z 0-9"),
    ({"keywords": [{"property": "D/A.{B}", "keyword": "X"}]}, "is no property"),
    ({"keywords": [{"pv": "D/A.B", "keyword": "X"}]}, "pv is not known"),
    ({"devices": [""]}, "is no name of a device"), ({"colour": 1}, "option colour: not known"),
    ({"flagged": "perhaps"}, "option flagged"), ({"maxAge": "old"}, "option maxAge")])
def test_what_is_wrong_is_refused_at_once(
        observe: Any, options: dict[str, Any], why: str) -> None:
    sky = observe()
    with pytest.raises(rpc.RemoteError, match=why) as caught:
        sky.live.begin(sky.metadata(**options))
    assert caught.value.code == errors.BadData.code
    assert sky.daq.tree() == {}

"""The conformance suite on instruments that nobody here wrote, and on programs."""

from __future__ import annotations

from pathlib import Path

import pytest

import conformance
from harness import Daq, make_fits
from indi import BRISK, CAMERA, Observatory
from ioc import required, serving, settings

METADATA = "metadataSource"


@pytest.mark.needs("indiserver")
@pytest.mark.parametrize("delivery", ["local", pytest.param("client", marks=pytest.mark.slow)])
def test_a_camera_of_indi_conforms(daq: Daq, delivery: str) -> None:
    sky = Observatory(daq, CAMERA)
    uri = sky.uri("CCD Simulator")
    sky.until("CCD Simulator", "CONNECTION._STATE", "Idle")
    options = {"exposure": 2, "delivery": delivery, "setup": BRISK}
    conformance.run(uri, options=options, prefix=daq.prefix, ends=30)


@pytest.mark.needs("indiserver")
def test_devices_of_indi_conform(daq: Daq) -> None:
    sky = Observatory(daq, "indi_simulator_telescope")
    sky.until("Telescope Simulator", "CONNECTION._STATE", "Idle")
    sky.tell("Telescope Simulator.CONNECTION.CONNECT=On")
    conformance.run(sky.uri("").rstrip("/"), METADATA, prefix=daq.prefix, options={"keywords": [
        {"property": "Telescope Simulator/EQUATORIAL_EOD_COORD.DEC", "keyword": "TELDEC",
         "when": "mean"}]})


def test_process_variables_conform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required("pvxslibs", "caproto")
    with serving(tmp_path) as ioc:
        ioc.base('record(ai, "$(P)temp") { field(VAL, "1.5") field(PINI, "YES") }')
        for name, value in settings(ioc).items():
            monkeypatch.setenv(name, value)
        conformance.run("epics:LAB:", METADATA, {"keywords": [
            {"pv": "temp", "keyword": "TEMP", "when": "mean"}]})


def test_a_program_conforms(tmp_path: Path) -> None:
    program, image = tmp_path / "expose", make_fits(tmp_path / "image.fits")
    program.write_text('#!/bin/sh\ntrap "exit 0" INT\ncp "$1" image.fits\nsleep "$2" & wait $!\n')
    program.chmod(0o755)
    config = tmp_path / "config.yaml"
    config.write_text(f"cfg:\n  sources:\n    programs: [{program}]\n")
    conformance.run(f"exec:{program}", config=config, options={
        "speaks": "nothing", "args": [str(image), "600"]})

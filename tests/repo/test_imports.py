"""The import budget: what only looks or explains loads nothing that is slow to load."""

from __future__ import annotations

import pytest

from harness import Daq, Result, make_fits
from rooms import HEAVY, TOOLS


def loaded(result: Result) -> set[str]:
    """Return the top-level packages that a tool has loaded."""
    lines = [line for line in result.ok().err.splitlines() if line.startswith("import time:")]
    found = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "argparse" in found, f"the interpreter told no imports\n{result}"
    return found


TELL = {"PYTHONPROFILEIMPORTTIME": "1"}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_explaining(daq: Daq, tool: str, option: str) -> None:
    assert loaded(daq.run(tool, option, env=TELL)) & HEAVY == set()


def test_listing_an_empty_spool(daq: Daq) -> None:
    assert loaded(daq.run("daq-status", env=TELL)) & HEAVY == set()


@pytest.mark.parametrize("arguments", [[], ["--json"], ["JOB"]])
def test_listing_a_job(daq: Daq, arguments: list[str]) -> None:
    source = make_fits(daq.folder / "a.fits")
    job = daq.run("daq-start", "--file", source).ok().line()
    words = [job if word == "JOB" else word for word in arguments]
    result = daq.run("daq-status", *words, env=TELL)
    assert loaded(result) & HEAVY == set()
    assert job in result.out

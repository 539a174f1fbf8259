"""The fault matrix: each cell is driven to the product, and compared with its line of the page."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from faults import (  # noqa: F401
    cells_daemon,
    cells_handover,
    cells_local,
    cells_release,
    cells_remote,
    cells_spool,
    cells_stage,
    engine,
)
from faults.engine import CELLS, Cell, Row, drive
from faults.page import PAGE, SECTIONS, page, read, write
from harness import Daq
from remote import Sshd

#: Section -> what its cells begin with.
TRIALS: dict[str, Callable[[Daq], engine.Trial]] = {
    "local": cells_local.Local, "daemon": cells_daemon.Served,
    "release": cells_release.Delivering, "required": cells_release.Delivering,
    "killed": engine.Collecting,
}
#: The same for those that need an ssh server.
WITH_SSH: dict[str, Callable[[Daq, Sshd], engine.Trial]] = {
    "remote": cells_remote.Fetching, "network": cells_remote.Linked,
    "handover": cells_handover.HandingOver,
}


def checked(one: Cell, row: Row) -> None:
    """Compare a row with the page, or write it."""
    if os.environ.get("DAQ_WRITE_OUTCOMES"):
        write(one.section, row)
    there = read().get((one.section, one.fault))
    assert there == row, (f"as written: {there}\nas seen: {row}\nlook whether it is right; then "
                          "DAQ_WRITE_OUTCOMES=1 writes it")


@pytest.mark.parametrize("one", [pytest.param(one, id=str(one), marks=[
    pytest.mark.needs(*one.needs), *([pytest.mark.slow] if one.slow else [])])
    for one in CELLS])
def test_fault(one: Cell, daq: Daq, request: pytest.FixtureRequest) -> None:
    if one.section == "spool":
        forge = request.getfixturevalue("forge")
        folder = daq.folder / "bench"
        folder.mkdir()
        checked(one, one.work((forge, folder)))
        return
    if one.section == "stage" or one.fault.startswith(("its nursery", "`daq-watch`")):
        checked(one, one.work(daq))
        return
    if one.section in WITH_SSH or "sshd" in one.needs:
        kind = {**TRIALS, **WITH_SSH}[one.section]
        trial = kind(daq, request.getfixturevalue("far"))
    else:
        trial = TRIALS[one.section](daq)
    if isinstance(trial, cells_local.Local) and "cc" in one.needs:
        trial.library = request.getfixturevalue("library")
    checked(one, drive(one, trial))


def test_the_page_has_these_lines_and_no_others() -> None:
    assert set(read()) == {(one.section, one.fault) for one in CELLS}
    assert page(read()) == PAGE.read_text()
    assert {one.section for one in CELLS} == set(SECTIONS)

"""A daemon with two simulated sources, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Live, Simulator, sharing
from merge_trials import Trials, Worker


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
         ) -> Iterator[Live]:
    """Serve a daemon on a spool of the module's own."""
    with sharing(tmp_path_factory.mktemp("ctl"), request.config.getoption("--daq-bin")) as made:
        yield made


@pytest.fixture(scope="module")
def dcs(live: Live) -> Simulator:
    """Serve a simulated detector."""
    return live.sim("recif", "dcs", "--extensions", 1)


@pytest.fixture(scope="module")
def fcf(live: Live) -> Simulator:
    """Serve a simulated metadata source."""
    return live.sim("metadaqif", "fcf", "--sessions", 20)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Run daq-merge without a spool, in forked children of one process."""
    with Worker(tmp_path_factory.mktemp("worker")) as made:
        yield made


@pytest.fixture
def trials(worker: Worker, tmp_path: Path) -> Trials:
    """Merge and judge, each merge in a folder of its own."""
    return Trials(worker, tmp_path)

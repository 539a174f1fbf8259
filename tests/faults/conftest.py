"""Fixtures of the fault matrix."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# the small disk and the crash tests' bench lie there
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "crash"))

from forge import Forge  # noqa: E402

from harness import CHECKOUT, Daq, fresh, preloadable  # noqa: E402
from remote import Sshd, sshd  # noqa: E402


@pytest.fixture
def daq(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daq]:
    """The tools, bound to a fresh spool, in memory where there is some: they sync much."""
    chosen: Path | None = request.config.getoption("--daq-bin")
    memory = Path("/dev/shm")
    room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    with tempfile.TemporaryDirectory(prefix="daq-", dir=memory if room else tmp_path) as folder:
        made = fresh(Path(folder), (chosen or CHECKOUT / "bin").absolute(),
                     installed=chosen is not None)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="session")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real ssh server."""
    if not shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin:/bin"):
        pytest.skip("sshd is not installed")
    with sshd(tmp_path_factory.mktemp("far")) as made:
        yield made


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """Runs tools in forked children of one process that has everything imported."""
    with Forge(tmp_path_factory.mktemp("forge")) as made:
        yield made


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What breaks a file, see ``broken.c``."""
    return preloadable(Path(__file__).with_name("broken.c"), tmp_path_factory.mktemp("library"))

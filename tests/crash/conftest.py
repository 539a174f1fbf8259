"""Fixtures of the crash tests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# the vocabulary of these tests lies beside them
sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench import Bench, prepare, undisturbed_picture  # noqa: E402
from forge import Forge  # noqa: E402


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """Runs tools in forked children of one process that has everything imported."""
    with Forge(tmp_path_factory.mktemp("forge")) as made:
        yield made


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of syncs would take minutes on a disk."""
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK) or shutil.disk_usage(place).free < 1 << 30:
        yield tmp_path_factory.mktemp("memory")
        return
    with tempfile.TemporaryDirectory(prefix="daq-crash-", dir=place) as name:
        yield Path(name).resolve()


@pytest.fixture(scope="module")
def bench(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return prepare(Bench(forge, tmp_path_factory.mktemp("matrix")))


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> dict[str, Any]:
    """The picture of a run in which nobody died."""
    return undisturbed_picture(bench)

"""Fixtures of the crash tests."""

from __future__ import annotations

import sys
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


@pytest.fixture(scope="module")
def bench(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return prepare(Bench(forge, tmp_path_factory.mktemp("matrix")))


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> dict[str, Any]:
    """The picture of a run in which nobody died."""
    return undisturbed_picture(bench)

"""The run that fills the matrix: one daemon, one event loop, all cells."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from live import Live, sharing
from matrix.cells import Matrix
from matrix.peers import LIMIT


@pytest.fixture(scope="session")
def daemon(request: pytest.FixtureRequest,
           tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("matrix")
    with sharing(folder, request.config.getoption("--daq-bin"),
                 request_timeout_sec=LIMIT) as live:
        yield live


@pytest.fixture(scope="session")
def matrix(daemon: Live) -> Matrix:
    async def run() -> Matrix:
        return await Matrix(daemon).run()

    return asyncio.run(run())

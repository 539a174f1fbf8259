"""Options, markers and fixtures of the test suite; the vocabulary is in ``harness.py``."""

from __future__ import annotations

import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from harness import CHECKOUT, SYSTEM_PATH, Daq, fresh, group, lacking

# the tests of lib/ and of a tool's own modules run on the checkout, never on an installed copy
sys.path[:0] = [str(CHECKOUT / "lib"), *map(str, sorted((CHECKOUT / "tools").glob("daq-*")))]
for _name in [name for name in sys.modules if name.partition(".")[0] in ("daq_ctl", "daqlib")]:
    del sys.modules[_name]  # an installed copy brought the plugin

# the name is that of the entry point: where the project is installed it is there already
pytest_plugins = ["daq_ctl.conformance.plugin"]


# libzmq 4.3.5 may wait for ever when a context ends, and so would the collector of garbage
zmq.Context.__del__ = lambda _context: None  # type: ignore[method-assign]


#: What ``daqlib.cli`` handles, or ignores when a product is about to get its name.
_TAKEN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--daq-bin", metavar="DIR", type=Path, default=None,
                     help="test the tools of this directory, not of the checkout's bin/")


def pytest_configure(config: pytest.Config) -> None:
    # a shell lets what it runs in the background ignore SIGINT, the tools respect that of their
    # parents, and the tests send it
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # crowds of clients live in the process of the test
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    chosen: Path | None = config.getoption("--daq-bin")
    if chosen is not None and not (chosen / "daq-start").exists():
        raise pytest.UsageError(f"--daq-bin: there is no daq-start in {chosen}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "daq" in getattr(item, "fixturenames", ()):
            item.add_marker("installed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a group on one worker: pytest-xdist 3.8 marks groups where pytest 9.2 does not look."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class Grouped(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0]) or super()._split_scope(nodeid)

    return Grouped(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = {str(name) for mark in item.iter_markers("needs") for name in mark.args}
    missing = sorted(name for name in wanted if not shutil.which(name, path=SYSTEM_PATH))
    if missing:
        lacking(f"{', '.join(missing)} not installed; run tests/setup-system as root")


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Give signals back what they did: a tool's ``main`` called by a test takes them over."""
    before = {signum: signal.getsignal(signum) for signum in _TAKEN}
    yield
    for signum, handler in before.items():
        if signal.getsignal(signum) != handler:
            signal.signal(signum, handler)


@pytest.fixture
def daq(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daq]:
    """The tools, bound to a fresh spool; what they leave running ends with the test."""
    chosen: Path | None = request.config.getoption("--daq-bin")
    made = fresh(tmp_path, (chosen or CHECKOUT / "bin").absolute(), installed=chosen is not None)
    try:
        yield made
    finally:
        made.close()

"""The options of the conformance suite, for pytest; see docs/sources.md.

An installation registers this for every run of pytest there, so it loads nothing but pytest.
"""

from __future__ import annotations

import json
import os

import pytest

_HERE = os.path.dirname(os.path.abspath(__file__))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("daqspool", "conformance of a source's adapter (daqspool)")
    group.addoption("--daq-source", metavar="URI",
                    help="the source; without other arguments only this suite is run")
    group.addoption("--daq-source-type", default="primarySource",
                    choices=("primarySource", "metadataSource"),
                    help="type of the source [%(default)s]")
    group.addoption("--daq-source-options", metavar="JSON", default="{}",
                    help="its options, an object")
    group.addoption("--daq-source-config", metavar="FILE",
                    help="configuration of daqspool [$DAQ_CONFIG, else defaults]")
    group.addoption("--daq-source-feeder", metavar="COMMAND",
                    help="run while it records, to make it bring something: a command and its "
                    "arguments, without a shell; DAQ_ID in its environment is the job")
    group.addoption("--daq-source-ends", metavar="S", type=float,
                    help="seconds within which it ends by itself")


def pytest_configure(config: pytest.Config) -> None:
    """Run the suite alone when nothing else was asked for.

    Raises:
        pytest.UsageError: the options of the source are no JSON object.
    """
    try:
        options = json.loads(config.getoption("--daq-source-options"))
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise pytest.UsageError("--daq-source-options: give a JSON object")
    alone = config.args_source != pytest.Config.ArgsSource.ARGS
    if config.getoption("--daq-source") and alone:
        config.args[:] = [_HERE]

"""The page on live sources says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daq_ctl import sources
from daq_ctl.conformance import plugin
from daqlib import errors
from harness import CHECKOUT

PAGE = (CHECKOUT / "docs" / "sources.md").read_text()


def rows(heading: str) -> set[str]:
    """Return the names in the first column of the first table below a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = re.search(r"^\|---.*\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert table, heading
    return {name for line in table[1].splitlines()
            for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_every_kind_is_listed() -> None:
    assert {scheme for _, scheme in sources.ADAPTERS} <= rows("Kinds")


def test_every_method_is_listed() -> None:
    methods = {name for name in vars(sources.Source)
               if callable(getattr(sources.Source, name)) and not name.startswith("_")}
    assert rows("The contract") == methods


def test_every_option_of_a_directory_is_listed(tmp_path: Path) -> None:
    description = {"type": "primarySource", "sourceName": "a", "rrUri": f"watch:{tmp_path}?no=1"}
    with pytest.raises(errors.BadData) as caught:
        sources.make(sources.Order(description))
    assert set(caught.value.remedy.removeprefix("known here: ").split(", ")) == rows(
        "A directory: watch")


def test_every_option_of_the_suite_is_listed() -> None:
    parser = pytest.Parser(_ispytest=True)
    plugin.pytest_addoption(parser)
    options = {name for group in parser._groups for each in group.options for name in each.names()}
    assert options and rows("The conformance suite") == options

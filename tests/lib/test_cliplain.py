"""Plain command lines are read without argparse, and as argparse reads them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqlib import cli, errors
from daqlib.cliplain import Reader
from rooms import PROGRAMS, arguments, package, parser

if TYPE_CHECKING:
    from daqlib.cliplain import Adds

#: The programs that try it, each with whether it has the options of the spool.
MERGERS = {"daq-merge": True, "daqDpmMerge": False}


def adder(name: str) -> Callable[[Adds], None]:
    room = f"{package(PROGRAMS[name])}.eso" if name in PROGRAMS else f"{package(name)}.__main__"
    found: Callable[[Adds], None] = importlib.import_module(room)._add_arguments
    return found


def plainly(name: str, argv: list[str]) -> dict[str, object] | None:
    try:
        made = cli.parse_plain(name, adder(name), argv, spool=MERGERS[name])
    finally:
        cli.set_verbosity(0)
    return None if made is None else vars(made)


def by_argparse(name: str, argv: list[str]) -> dict[str, object] | None:
    try:
        return vars(cli.parse(parser(name), argv))
    except (errors.Usage, SystemExit):
        return None
    finally:
        cli.set_verbosity(0)


def flags(name: str) -> list[str]:
    return sorted({flag for action in arguments(parser(name)) for flag in action.option_strings}
                  - {"-h", "--help", "--version"})


VALUES = st.sampled_from(["a", "b.json", "-", "--", "", "auto", "in-place", "all", "-1", "-x",
                          "a b", "--out", "-ofile", "-nq", "a=b", "=", "@f", "-n=1", "é"])


@st.composite
def command_lines(draw: st.DrawFn, name: str) -> list[str]:
    known = st.sampled_from(flags(name))
    joined = st.builds(lambda flag, value: f"{flag}={value}", known, VALUES)
    line: list[str] = draw(st.lists(st.one_of(known, VALUES, VALUES, joined), max_size=7))
    return line


@pytest.mark.parametrize("name", MERGERS)
@given(data=st.data())
def test_what_is_read_plainly_is_read_alike(name: str, data: st.DataObject) -> None:
    argv = data.draw(command_lines(name))
    found = plainly(name, argv)
    assert found is None or found == by_argparse(name, argv), argv


@pytest.mark.parametrize("name", MERGERS)
@pytest.mark.parametrize("argv", [
    ["s.json"], ["-"], ["s.json", "-o", "p.fits"], ["--outfile=p.fits", "s.json", "-l", "log"],
    ["--root", "/data", "-q", "s.json", "--json", "-n"], ["--verify", "a.fits", "b.fits"],
    ["s.json", "--way", "new", "--no-sync", "--stamp=all", "--strict"]])
def test_what_is_plain_is_read_plainly(name: str, argv: list[str]) -> None:
    found = plainly(name, argv)
    assert found is not None
    assert found == by_argparse(name, argv)


@pytest.mark.parametrize("argv", [
    ["--help"], ["-h"], ["--version"], ["-v", "s"], ["-qn", "s"], ["-op.fits", "s"],
    ["--outf", "p"], ["--", "s"], ["-o"], ["s", "-o", ""], ["s", ""], ["s", "--way", "other"],
    ["s", "--json=1"], [], ["--json"],
    ["s", "-o", "-x"], ["--job", "j"], ["s", "--bogus"], ["-o=p", "s"]])
def test_all_else_is_left_to_argparse(argv: list[str]) -> None:
    assert plainly("daq-merge", argv) is None


def test_only_a_list_of_positional_arguments_is_understood() -> None:
    for kinds in ([{"nargs": "?"}], [{}], [{"nargs": "*"}, {"nargs": "*"}], []):
        reader = Reader()
        for number, words in enumerate(kinds):
            reader.add_argument(f"a{number}", **words)
        assert reader.read(["a"]) is None


def test_it_decides_how_talkative_the_tool_is() -> None:
    try:
        assert cli.parse_plain("daq-merge", adder("daq-merge"), ["-q", "s"]) is not None
        assert cli.verbosity() == ["-q"]
    finally:
        cli.set_verbosity(0)

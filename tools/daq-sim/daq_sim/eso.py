"""ESO's simulators in front of daq-sim: ``daqSimRecif``, ``daqSimMetadaqif`` (ESO-396401, 10.2)."""

from __future__ import annotations

import argparse
import functools
import inspect
import sys

from daq_sim import __main__ as own
from daqlib import cli, eso


def _parser(program: str, summary: str, example: str) -> argparse.ArgumentParser:
    made = cli.parser(program, f"{summary}: the name of ESO's simulator for daq-sim.", example,
                      spool=False)
    made.add_argument("name", metavar="NAME", help="the source's name, used in file names")
    made.add_argument("endpoint", metavar="ENDPOINT", help="where to serve requests")
    return made


recif_parser = functools.partial(
    _parser, "daqSimRecif", "Simulate a primary source; Enter ends its recording",
    "daqSimRecif -v dcs zpb.rr://127.0.0.1:12090")
metadaqif_parser = functools.partial(
    _parser, "daqSimMetadaqif", "Simulate a metadata source",
    "daqSimMetadaqif fcf zpb.rr://127.0.0.1:12091 &")


def _simulate(kind: str, made: argparse.ArgumentParser, argv: list[str]) -> int:
    options = cli.parse(made, argv)
    talk = [*["-q"] * options.quiet, *["-v"] * options.verbose]
    # unwrapped, so that errors begin with the name under which it was started
    code: int = inspect.unwrap(own.main)([kind, *talk, "--", options.name, options.endpoint])
    return code


@cli.entry("daqSimRecif")
def daqSimRecif(argv: list[str]) -> int:
    """Simulate a primary source; return the exit code."""
    return _simulate("recif", recif_parser(), argv)


@cli.entry("daqSimMetadaqif")
def daqSimMetadaqif(argv: list[str]) -> int:
    """Simulate a metadata source; return the exit code."""
    return _simulate("metadaqif", metadaqif_parser(), argv)


#: Name -> parser and program.
PROGRAMS: eso.Programs = {
    "daqSimRecif": (recif_parser, daqSimRecif),
    "daqSimMetadaqif": (metadaqif_parser, daqSimMetadaqif),
}

if __name__ == "__main__":
    sys.exit(eso.launched(PROGRAMS))

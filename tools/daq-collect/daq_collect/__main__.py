"""daq-collect: the command line. The work is in ``collect.py``."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli, stagecli

TOOL = "daq-collect"

_SUMMARY = """Fetch the input files of jobs in collect/ into data/ID/sources/, write
data/ID/specification.json, and move the jobs on to merge/."""

_EXAMPLES = """
daq-collect --job INS.2026-11-21T02:30:00.123
daq-collect --all                                  # every job that is due, for cron
daq-collect --force --job ID                       # fetch everything again
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.parser(TOOL, _SUMMARY, _EXAMPLES)
    stagecli.add_arguments(made)
    return made


@cli.entry(TOOL)
def main(argv: list[str]) -> int:
    """Collect the jobs named on the command line; return the exit code."""
    options = cli.parse(build_parser(), argv)
    from daq_collect import collect

    return stagecli.run(collect.STAGE, options, TOOL)


if __name__ == "__main__":
    sys.exit(main())

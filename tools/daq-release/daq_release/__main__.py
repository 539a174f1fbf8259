"""daq-release: the command line. The work is in ``release.py``."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli, stagecli

TOOL = "daq-release"

_SUMMARY = """Deliver the data products of jobs in release/ to their receivers, under the archive
name, and move the jobs on to done/."""

_EXAMPLES = """
daq-release --job INS.2026-11-21T02:30:00.123
daq-release --all                                  # every job that is due, for cron
daq-release --job ID                               # of a job that is done: what is missing
daq-release --force --job ID                       # deliver again what was delivered before
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.parser(TOOL, _SUMMARY, _EXAMPLES)
    stagecli.add_arguments(made)
    return made


@cli.entry(TOOL)
def main(argv: list[str]) -> int:
    """Release the jobs named on the command line; return the exit code."""
    options = cli.parse(build_parser(), argv)
    from daq_release import release

    return stagecli.run(release.STAGE, options, TOOL)


if __name__ == "__main__":
    sys.exit(main())

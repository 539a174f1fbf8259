"""daq-collect: the command line. The work is in ``collect.py``."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli, config, spool, stagecli

TOOL = "daq-collect"

_SUMMARY = """Fetch the input files of jobs in collect/ into data/ID/sources/, write
data/ID/specification.json, and move the jobs on to merge/. With cfg/hand_over the jobs are sent to
the spool of another host instead, and move to remote/."""

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
    settings = config.load(options.config)
    if settings["hand_over"]:
        return _hand_over(options, settings)
    from daq_collect import collect

    return stagecli.run(collect.STAGE, options, TOOL, settings)


def _hand_over(options: argparse.Namespace, settings: config.Config) -> int:
    from daq_collect import handover

    code = stagecli.run(handover.STAGE, options, TOOL, settings)
    if not options.all or options.dry_run:
        return code
    on = spool.open_spool(options.spool, settings, TOOL, create=False)
    return stagecli.worst([code, handover.news(on, settings)])


if __name__ == "__main__":
    sys.exit(main())

"""Command line of daq-merge: a stage tool, and a merger of its own."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli, errors, stagecli

EXAMPLES = """\
daq-merge --job UNDEF.2026-03-14T15:09:26.535
daq-merge --all                                  # every due job, for cron
daq-merge specification.json -o product.fits     # without a spool
daq-merge --dry-run - < specification.json
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daq-merge."""
    made = cli.parser("daq-merge", "Build the data product of a job, or the one that a Data "
                      "Product Specification describes.", EXAMPLES)
    made.add_argument("specification", nargs="?", metavar="SPECIFICATION",
                      help="a Data Product Specification; - reads stdin")
    stagecli.add_arguments(made)
    made.add_argument("--root", metavar="DIR", help="base of relative paths "
                      "(default: the directory of SPECIFICATION)")
    made.add_argument("-o", "--outfile", metavar="FILE",
                      help="the product (default: FILEID.fits), relative to the root")
    made.add_argument("-l", "--logfile", metavar="FILE",
                      help="append status messages to it, relative to the root")
    return made


@cli.entry("daq-merge")
def main(argv: list[str]) -> int:
    """Run daq-merge; return the exit code."""
    options = cli.parse(build_parser(), argv)
    if options.specification is None:
        from daq_merge import stagework

        return stagecli.run(stagework.STAGE, options, "daq-merge")
    if options.jobs or options.all:
        raise errors.Usage("a specification and --job or --all exclude each other",
                           "try 'daq-merge --help'")
    from daq_merge import standalone

    return standalone.run(options)


if __name__ == "__main__":
    sys.exit(main())

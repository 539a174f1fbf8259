"""Command line of daq-merge: a stage tool, and a merger of its own."""

from __future__ import annotations

import gc
import sys

from daq_merge import options
from daqlib import cli, stageoptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from daqlib.cliplain import Adds

EXAMPLES = """\
daq-merge --job UNDEF.2026-03-14T15:09:26.535
daq-merge --all                                  # every due job, for cron
daq-merge specification.json -o product.fits     # without a spool
daq-merge --dry-run - < specification.json
daq-merge --verify product.fits
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daq-merge."""
    made = cli.parser("daq-merge", "Build the data product of a job, or the one that a Data "
                      "Product Specification describes.", EXAMPLES)
    _add_arguments(made)
    return made


def _add_arguments(made: Adds) -> None:
    options.add(made)
    stageoptions.add_arguments(made)


@cli.entry("daq-merge")
def main(argv: list[str]) -> int:
    """Run daq-merge; return the exit code."""
    given = cli.parse_plain("daq-merge", _add_arguments, argv) or cli.parse(build_parser(), argv)
    if given.jobs or given.all or not given.files and not given.verify and not given.undo:
        options.refuse_with_jobs(given)
        from daq_merge import stagework
        from daqlib import stagecli

        return stagecli.run(stagework.STAGE, given, "daq-merge")
    return _alone(given)


def _alone(given: argparse.Namespace) -> int:
    # a merge leaves no circles of objects behind, and looking for them is felt in small ones
    gc.disable()
    try:
        from daq_merge import standalone

        return standalone.run(given)
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())

"""ESO's program in front of daq-merge: ``daqDpmMerge`` (ESO-396401 section 12.3)."""

from __future__ import annotations

import os
import sys

from daq_merge import options
from daqlib import cli, errors, eso

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from daqlib.cliplain import Adds

EXAMPLES = """\
daqDpmMerge specification.json
daqDpmMerge --root /data/night -o product.fits - < specification.json
daqDpmMerge --dry-run --json specification.json
daqDpmMerge --verify product.fits
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daqDpmMerge."""
    made = cli.parser("daqDpmMerge", "Build the data product that a Data Product Specification "
                      "describes: the name of ESO's merger for daq-merge.", EXAMPLES, spool=False)
    _add_arguments(made)
    return made


def _add_arguments(made: Adds) -> None:
    options.add(made)
    made.add_argument("--verify", action="store_true", help="verify products instead: structure, "
                      "sums, and the manifest")
    made.add_argument("-n", "--dry-run", action="store_true",
                      help="check everything, write nothing")
    made.add_argument("--json", action="store_true", help="print status messages as JSON, one a "
                      "line")


class Internal(errors.Bug):
    """An internal error, with the code of section 12.3.3."""

    code = 255


@cli.entry("daqDpmMerge")
def daqDpmMerge(argv: list[str]) -> int:
    """Merge as ESO's merger; return the exit code of section 12.3.3."""
    given = (cli.parse_plain("daqDpmMerge", _add_arguments, argv, spool=False)
             or cli.parse(build_parser(), argv))
    from daq_merge import standalone

    try:
        return standalone.run(given, internal=Internal.code)
    except (errors.DaqError, OSError):
        raise
    except Exception as error:
        if os.environ.get("DAQ_DEBUG"):
            raise
        raise Internal(f"internal error: {type(error).__name__}: {error}",
                       "run again with DAQ_DEBUG=1 and report the traceback") from error


#: Name -> parser and program.
PROGRAMS: eso.Programs = {
    "daqDpmMerge": (build_parser, daqDpmMerge),
}

if __name__ == "__main__":
    sys.exit(eso.launched(PROGRAMS))

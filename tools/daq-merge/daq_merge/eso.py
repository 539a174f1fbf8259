"""ESO's program in front of daq-merge: ``daqDpmMerge`` (ESO-396401 section 12.3)."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli, errors, eso

EXAMPLES = """\
daqDpmMerge specification.json
daqDpmMerge --root /data/night -o product.fits - < specification.json
daqDpmMerge --dry-run --json specification.json
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daqDpmMerge."""
    made = cli.parser("daqDpmMerge", "Build the data product that a Data Product Specification "
                      "describes: the name of ESO's merger for daq-merge.", EXAMPLES, spool=False)
    made.add_argument("specification", metavar="SPECIFICATION",
                      help="a Data Product Specification; - reads stdin")
    made.add_argument("--root", metavar="DIR", help="base of relative paths "
                      "(default: the directory of SPECIFICATION)")
    made.add_argument("-o", "--outfile", metavar="FILE",
                      help="the product (default: FILEID.fits), relative to the root")
    made.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    made.add_argument("--json", action="store_true", help="print status messages as JSON, one a "
                      "line")
    made.add_argument("-l", "--logfile", metavar="FILE",
                      help="append status messages to it, relative to the root")
    return made


class Internal(errors.Bug):
    """An internal error, with the code of section 12.3.3."""

    code = 255


@cli.entry("daqDpmMerge")
def daqDpmMerge(argv: list[str]) -> int:
    """Merge as ESO's merger; return the exit code of section 12.3.3."""
    options = cli.parse(build_parser(), argv)
    from daq_merge import standalone

    try:
        return standalone.run(options)
    except (errors.DaqError, OSError):
        raise
    except Exception as error:
        raise Internal(f"internal error: {type(error).__name__}: {error}",
                       "run daq-merge with DAQ_DEBUG=1 and report the traceback") from error


#: Name -> parser and program.
PROGRAMS: eso.Programs = {
    "daqDpmMerge": (build_parser, daqDpmMerge),
}

if __name__ == "__main__":
    sys.exit(eso.launched(PROGRAMS))

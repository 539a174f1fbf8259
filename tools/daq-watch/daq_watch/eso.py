"""ESO's program in front of daq-watch: ``daqDpmServer`` (ESO-396401 section 12.2)."""

from __future__ import annotations

import argparse
import inspect
import sys

from daq_watch import __main__ as own
from daqlib import cli, eso

EXAMPLES = """\
daqDpmServer &                          # merges what daqOcmServer, or anybody, puts into the spool
daqDpmServer --poll-once                # work until nothing is left to do, and exit
"""
#: Config Path that is used when there is such a file (section 12.2.3).
CONFIG = "config/daqDpmServer/config.yaml"
#: Log level -> options of daq-watch; the other levels need none.
TALK: dict[str, list[str]] = {"ERROR": ["-q"], "DEBUG": ["-v"], "TRACE": ["-v", "-v"]}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daqDpmServer."""
    made = cli.parser("daqDpmServer", "Advance the jobs of a spool: the name of ESO's server for "
                      "daq-watch.", EXAMPLES, spool=False)
    eso.add_config(made, CONFIG)
    eso.add_log_level(made)
    made.add_argument("--poll-once", action="store_true",
                      help="work until nothing is left to do, and exit")
    idle = made.add_argument_group("accepted without effect", "There is one spool instead of two "
                                   "workspaces, and no request is needed to merge.")
    idle.add_argument("-n", "--proc-name", metavar="NAME", help="name of this process instance")
    idle.add_argument("--workspace", metavar="DIR", help="ESO's workspace")
    idle.add_argument("--rr-uri", metavar="URI", help="request endpoint")
    idle.add_argument("--ps-uri", metavar="URI", help="publish endpoint")
    return made


@cli.entry("daqDpmServer")
def daqDpmServer(argv: list[str]) -> int:
    """Run daq-watch as ESO's server; return the exit code."""
    options = cli.parse(build_parser(), argv)
    idle = [f"--{name.replace('_', '-')}" for name in ("proc_name", "workspace", "rr_uri", "ps_uri")
            if getattr(options, name)]
    if idle:
        cli.say(f"without effect here: {', '.join(idle)}")
    words = [*TALK.get(options.log_level, []), *["-q"] * options.quiet, *["-v"] * options.verbose]
    if options.poll_once:
        words.append("--once")
    path = eso.config_path(options.config, CONFIG)
    if path:
        words += ["--config", path]
    # unwrapped, so that errors begin with the name under which it was started
    code: int = inspect.unwrap(own.main)(words)
    return code


#: Name -> parser and program.
PROGRAMS: eso.Programs = {
    "daqDpmServer": (build_parser, daqDpmServer),
}

if __name__ == "__main__":
    sys.exit(eso.launched(PROGRAMS))

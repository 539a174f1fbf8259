"""ESO's program in front of daq-watch: ``daqDpmServer`` (ESO-396401 section 12.2)."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import sys

from daq_watch import __main__ as own
from daqlib import cli, eso

EXAMPLES = """\
daqDpmServer &                          # merges what daqOcmServer, or anybody, puts into the spool
daqDpmServer --poll-once                # work until nothing is left to do, and exit
daqDpmServer -n dpm2 --rr-uri zpb.rr://127.0.0.1:12183/ --ps-uri zpb.ps://127.0.0.1:12184/
"""
#: Config Path that is used when there is such a file (section 12.2.3).
CONFIG = "config/daqDpmServer/config.yaml"
#: Log level -> options of daq-watch; the other levels need none.
TALK: dict[str, list[str]] = {"ERROR": ["-q"], "DEBUG": ["-v"], "TRACE": ["-v", "-v"]}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daqDpmServer."""
    made = cli.parser("daqDpmServer", "Advance the jobs of a spool and serve requests about them: "
                      "the name of ESO's server for daq-watch --serve.", EXAMPLES, spool=False)
    eso.add_config(made, CONFIG)
    eso.add_log_level(made)
    made.add_argument("-n", "--proc-name", metavar="NAME", default="dpm",
                      help="name of this process instance (default: dpm)")
    made.add_argument("--rr-uri", metavar="URI",
                      help="where requests are served (default: cfg/req_endpoint, then "
                           "zpb.rr://127.0.0.1:12083/)")
    made.add_argument("--ps-uri", metavar="URI",
                      help="where topics are published (default: cfg/pub_endpoint, then "
                           "zpb.ps://127.0.0.1:12084/)")
    made.add_argument("--poll-once", action="store_true",
                      help="work until nothing is left to do, and exit; nothing is served")
    made.add_argument("--workspace", metavar="DIR",
                      help="accepted without effect: the spool is the workspace")
    return made


@cli.entry("daqDpmServer")
def daqDpmServer(argv: list[str]) -> int:
    """Run daq-watch as ESO's server; return the exit code."""
    options = cli.parse(build_parser(), argv)
    if options.workspace:
        cli.say("--workspace has no effect: the spool is the workspace, name it with DAQ_SPOOL")
    words = [*TALK.get(options.log_level, []), *["-q"] * options.quiet, *["-v"] * options.verbose]
    path = eso.config_path(options.config, CONFIG)
    if path:
        words += ["--config", path]
    words += ["--once"] if options.poll_once else _serving(options, path)
    # unwrapped, so that errors begin with the name under which it was started
    code: int = inspect.unwrap(own.main)(words)
    return code


def _serving(options: argparse.Namespace, path: str | None) -> list[str]:
    """Return the options of daq-watch for the server.

    In ESO's file for this server ``req_endpoint`` and ``pub_endpoint`` are its own. In one that is
    shared with daqOcmServer the server's are below ``dpm``; what is given there wins.
    """
    words = ["--serve", f"--proc-name={options.proc_name}"]
    for option, key in (("rr-uri", "req_endpoint"), ("ps-uri", "pub_endpoint")):
        chosen = getattr(options, option.replace("-", "_")) or _own_endpoint(path, key)
        if chosen:
            words.append(f"--{option}={chosen}")
    return words


def _own_endpoint(path: str | None, key: str) -> str:
    """Return the endpoint that the server's own file names, or an empty text."""
    if path is None:
        return ""
    from daqlib import config

    with contextlib.redirect_stderr(io.StringIO()):  # daq-watch reads it again, and complains
        settings = config.load(path)
    shared = settings[f"dpm.{key}"] != config.DEFAULTS[f"dpm.{key}"]
    return "" if shared or settings[key] == config.DEFAULTS[key] else str(settings[key])


#: Name -> parser and program.
PROGRAMS: eso.Programs = {
    "daqDpmServer": (build_parser, daqDpmServer),
}

if __name__ == "__main__":
    sys.exit(eso.launched(PROGRAMS))

"""Command line of daq-ctl: the daemon with ``serve``, else the client."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli, errors, eso

EXAMPLES = """\
daq-ctl serve --operational
daq-ctl --json daq.start "dcs1@zpb.rr://127.0.0.1:12090/rec" "fcf1@zpb.rr://127.0.0.1:12091/daq"
daq-ctl --json daq.awaitstate "$id" StateCompleted Completed 60
daq-ctl --status                        # print status changes until Ctrl-c
daq-ctl keywords check keywords.json    # what the dictionaries say of keywords
daq-ctl keygen ocm --directory keys     # keys for endpoints that other hosts can reach
"""
#: The commands that send no request.
COMMANDS = {
    "serve": "run the daemon",
    "keygen [<name>]": "make a pair of CURVE keys",
    "keywords check <file>": "check keywords, or a specification, with the dictionaries; a dry run",
    "keywords policy [<file>]": "check a header policy; print the cards of keywords nobody gives",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daq-ctl; options may stand before and after the command."""
    from daq_ctl import client

    made = cli.parser("daq-ctl", "Control data acquisitions from live sources: the daemon "
                      "(serve) and its client. Without a command: print status changes.", EXAMPLES)
    made.set_defaults(prog="daq-ctl",
                      others=list(dict.fromkeys(usage.split()[0] for usage in COMMANDS)))
    client.add_arguments(made, COMMANDS)
    serve = made.add_argument_group("serve")
    add_serve_arguments(serve)
    serve.add_argument("-c", dest="config", metavar="FILE", help="short for --config")
    serve.add_argument("--operational", action="store_true",
                       help="go straight to Operational, without std.init and std.enable")
    made.add_argument_group("keygen").add_argument(
        "--directory", metavar="DIR", help="where to write the keys (default: here)")
    return made


def add_serve_arguments(group: argparse._ActionsContainer) -> None:
    """Add the options that ESO's server has, too, but for the configuration."""
    group.add_argument("-n", "--proc-name", metavar="NAME", default="ocm",
                       help="name of this process instance (default: ocm)")
    eso.add_log_level(group)
    group.add_argument("-d", "--db-host", metavar="HOST:PORT",
                       help="accepted without effect: there is no database")


@cli.entry("daq-ctl")
def main(argv: list[str]) -> int:
    """Run daq-ctl; return the exit code."""
    options = cli.parse(build_parser(), argv)
    if options.command == "serve":
        return serve(options)
    if options.command == "keygen":
        from daq_ctl import keygen

        return keygen.run(options, options.arguments)
    if options.command == "keywords":
        from daq_ctl import keywordcheck, policycheck

        if options.arguments[:1] == ["policy"]:
            return policycheck.run(options, options.arguments[1:])
        return keywordcheck.run(options, options.arguments)
    from daq_ctl import client

    return client.run(options)


def serve(options: argparse.Namespace) -> int:
    """Run the daemon; return the exit code.

    Raises:
        errors.DaqError: it cannot be started.
    """
    if options.arguments:
        raise errors.Usage(f"serve takes no argument {options.arguments[0]!r}",
                           "try 'daq-ctl --help'")
    from daq_ctl import daemon
    from daqlib import config, spool

    settings = config.load(options.config)
    on = spool.open_spool(options.spool, settings, "daq-ctl")
    if options.db_host:
        cli.say(f"--db-host {options.db_host} has no effect: there is no database")
    endpoints = daemon.Endpoints(options.rep or settings["req_endpoint"],
                                 options.pep or settings["pub_endpoint"])
    return daemon.run(on, settings, endpoints, options.proc_name,
                      operational=options.operational, log_level=options.log_level or "")


if __name__ == "__main__":
    sys.exit(main())

"""Command line of daq-ctl: the daemon with ``serve``, else the client."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli, config, errors, spool

EXAMPLES = """\
daq-ctl serve --operational
daq-ctl --json daq.start "dcs1@zpb.rr://127.0.0.1:12090/rec" "fcf1@zpb.rr://127.0.0.1:12091/daq"
daq-ctl --json daq.awaitstate "$id" StateCompleted Completed 60
daq-ctl --status                        # print status changes until Ctrl-c
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daq-ctl; options may stand before and after the command."""
    made = cli.parser("daq-ctl", "Control data acquisitions from live sources: the daemon "
                      "(serve) and its client. Without a command: print status changes.", EXAMPLES)
    made.add_argument("command", nargs="?", help="serve, or one of " + ", ".join(_verbs()))
    made.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="of the command")
    client = made.add_argument_group("client")
    client.add_argument("--rep", metavar="URI",
                        help="request endpoint (default: $OCM_REQUEST_EP, then configuration)")
    client.add_argument("--pep", metavar="URI",
                        help="publish endpoint (default: $OCM_PUBLISH_EP, then configuration)")
    client.add_argument("--json", action="store_true", help="print results as JSON")
    client.add_argument("--status", action="store_true",
                        help="print status changes on stderr while the command runs")
    client.add_argument("--timeout", metavar="SECONDS", type=float, default=60.0,
                        help="the longest to wait for a reply (default: 60)")
    client.add_argument("--id", help="daq.start, daq.startv2: the id of the new DAQ")
    client.add_argument("--file-prefix", metavar="TEXT", help="daq.start: file name prefix")
    client.add_argument("--properties", metavar="JSON",
                        help="daq.start: StartDaq properties; JSON, @FILE or @-")
    serve = made.add_argument_group("serve")
    serve.add_argument("--proc-name", metavar="NAME", default="ocm",
                       help="name of this process instance (default: ocm)")
    serve.add_argument("--operational", action="store_true",
                       help="go straight to Operational, without std.init and std.enable")
    return made


def _verbs() -> list[str]:
    from daq_ctl import client

    return list(client.VERBS)


@cli.entry("daq-ctl")
def main(argv: list[str]) -> int:
    """Run daq-ctl; return the exit code."""
    options = cli.parse(build_parser(), argv)
    if options.command != "serve":
        from daq_ctl import client

        return client.run(options)
    if options.arguments:
        raise errors.Usage(f"serve takes no argument {options.arguments[0]!r}",
                           "try 'daq-ctl --help'")
    return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    from daq_ctl import daemon

    settings = config.load(options.config)
    on = spool.open_spool(options.spool, settings, "daq-ctl")
    endpoints = daemon.Endpoints(options.rep or settings["req_endpoint"],
                                 options.pep or settings["pub_endpoint"])
    return daemon.run(on, settings, endpoints, options.proc_name,
                      operational=options.operational)


if __name__ == "__main__":
    sys.exit(main())

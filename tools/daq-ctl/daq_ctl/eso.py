"""ESO's programs in front of daq-ctl: ``daqOcmServer``, ``daqOcmCtl`` (ESO-396401 section 11)."""

from __future__ import annotations

import argparse
import sys

from daq_ctl import __main__ as own
from daqlib import cli, eso

SERVER_EXAMPLES = """\
daqOcmServer &                          # serves; std.init and std.enable bring it to Operational
daqOcmServer -c instrument/ocm.yaml -l DEBUG
"""
CTL_EXAMPLES = """\
daqOcmCtl std.init
daqOcmCtl --json daq.start "dcs1@${DCS_DAQ_EP}" "fcf1@${FCF_DAQ_EP}"
daqOcmCtl --json daq.awaitstate "$id" StateAcquiring Stopped 60
daqOcmCtl --status                      # print status changes until Ctrl-c
"""
#: Config Path that is used when there is such a file (section 11.3.3).
CONFIG = "config/daqOcmServer/config.yaml"


def server_parser() -> argparse.ArgumentParser:
    """Return the parser of daqOcmServer."""
    made = cli.parser("daqOcmServer", "Serve the acquisition control: the name of ESO's server for "
                      "daq-ctl serve.", SERVER_EXAMPLES, spool=False)
    eso.add_config(made, CONFIG)
    own.add_serve_arguments(made)
    made.set_defaults(prog="daqOcmServer", arguments=[], spool=None, rep=None, pep=None,
                      operational=False)
    return made


@cli.entry("daqOcmServer")
def daqOcmServer(argv: list[str]) -> int:
    """Run the daemon as ESO's server; return the exit code."""
    options = cli.parse(server_parser(), argv)
    options.config = eso.config_path(options.config, CONFIG)
    return own.serve(options)


def ctl_parser() -> argparse.ArgumentParser:
    """Return the parser of daqOcmCtl."""
    from daq_ctl import client

    made = cli.parser("daqOcmCtl", "Control data acquisitions: the name of ESO's client for "
                      "daq-ctl.", CTL_EXAMPLES)
    made.set_defaults(prog="daqOcmCtl")
    client.add_arguments(made)
    return made


@cli.entry("daqOcmCtl")
def daqOcmCtl(argv: list[str]) -> int:
    """Run the client as ESO's; return the exit code."""
    from daq_ctl import client

    return client.run(cli.parse(ctl_parser(), argv))


#: Name -> parser and program.
PROGRAMS: eso.Programs = {
    "daqOcmServer": (server_parser, daqOcmServer),
    "daqOcmCtl": (ctl_parser, daqOcmCtl),
}

if __name__ == "__main__":
    sys.exit(eso.launched(PROGRAMS))

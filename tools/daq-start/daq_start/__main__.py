"""Command line of daq-start."""

from __future__ import annotations

import argparse
import os
import sys

from daq_start import live, request
from daqlib import cli, config, dictionary, errors, job, spool

EXAMPLES = """\
daq-start --file a.fits --file host:/data/b.fits --keywords @kw.json
id=$(daq-start @spec.json) && daq-status --wait "$id"
daq-start --primary dcs@zpb.rr://127.0.0.1:12090/rec --metadata fcf@zpb.rr://127.0.0.1:12091/daq
daq-start --primary 'cam@indi://localhost/CCD%20Simulator?exposure=2'
daq-start --hold --file a.fits          # approve it later with mv hold/ID.json collect/
ssh dhs daq-start --import --spool /data/spool     # what cfg/hand_over of another host runs
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daq-start."""
    made = cli.parser("daq-start", "Submit a data acquisition and print its id, nothing else. "
                      "Existing files and keywords need no daemon: the job goes to collect/. "
                      "Live sources are started by daq-ctl.", EXAMPLES)
    made.add_argument("specification", nargs="?", metavar="SPECIFICATION",
                      help="a StartDaqV2 specification: JSON, @FILE, @- or - for stdin")
    made.add_argument("--file", metavar="[HOST:]PATH", action="append", default=[], dest="files",
                      help="an existing FITS file; may be repeated, first has highest priority")
    made.add_argument("--primary", metavar="NAME@URI", action="append", default=[],
                      help="a live primary source; may be repeated")
    made.add_argument("--metadata", metavar="NAME@URI", action="append", default=[],
                      help="a live metadata source; may be repeated")
    made.add_argument("--keywords", metavar="JSON", action="append", default=[],
                      help="a JSON list of FITS keywords, @FILE or @-; may be repeated")
    made.add_argument("--target", metavar="NAME",
                      help="merge into the first file of this source instead of a new file")
    made.add_argument("--receiver", metavar="[HOST:]DIR", action="append", dest="receivers",
                      help="deliver the product there; may be repeated")
    made.add_argument("--no-receivers", action="store_true",
                      help="deliver nowhere, whatever the configuration says")
    made.add_argument("--prefix", metavar="TEXT", help="file name prefix of the product")
    made.add_argument("--id", metavar="ID", help="the id; the same request may be repeated with it")
    made.add_argument("--instrument", metavar="NAME", help="instrument id (default: configuration)")
    made.add_argument("--queue", action="store_true",
                      help="put a live job into acquire/ for daq-ctl instead of asking it now")
    made.add_argument("--start-by", metavar="SECONDS", type=float, default=30.0,
                      help="a queued live job is refused when older than this (default: 30)")
    made.add_argument("--hold", action="store_true", help="put the job into hold/ for approval")
    made.add_argument("--wait", nargs="?", const="", metavar="STATE",
                      help="wait until the job is done, or in STATE, and exit with its outcome; "
                           "write --wait=STATE")
    made.add_argument("--timeout", metavar="SECONDS", type=float, help="the longest to wait")
    made.add_argument("--rep", metavar="URI", help="endpoint of daq-ctl "
                      "(default: $OCM_REQUEST_EP, then the configuration)")
    made.add_argument("--json", action="store_true", help="print an object instead of the bare id")
    made.add_argument("--import", action="store_true", dest="importing",
                      help="take over jobs of another host that asks on standard input; for the "
                           "forced command of an ssh key, see docs/two-hosts.md")
    made.add_argument("-n", "--dry-run", action="store_true",
                      help="check everything and print the job instead of submitting it")
    return made


@cli.entry("daq-start")
def main(argv: list[str]) -> int:
    """Run daq-start; return the exit code."""
    options = cli.parse(build_parser(), argv)
    settings = config.load(options.config)
    if options.importing:
        return _import(options, settings)
    document = request.build(options)
    document.setdefault("instrument", settings["instrument_id"])
    made = job.new(document)
    job.check(made)
    made = dictionary.load(settings["dictionaries"]).specification(made)
    request.check_files(made)
    if options.dry_run:
        cli.emit(made)
        return errors.OK
    identifier = _submit(options, settings, made)
    cli.emit({"id": identifier, "error": False}) if options.json else cli.show(identifier)
    return _wait(options, identifier) if options.wait is not None else errors.OK


def _import(options: argparse.Namespace, settings: config.Config) -> int:
    from daq_start import serving

    if options.specification is not None:
        raise errors.Usage("--import takes its jobs from standard input",
                           "give no SPECIFICATION with it")
    on = spool.open_spool(options.spool, settings, "daq-start", create=False)
    return serving.Server(on, settings).run()


def _submit(options: argparse.Namespace, settings: config.Config, made: job.Document) -> str:
    if job.is_live(made) and not options.queue and not options.hold:
        return live.start(options.rep or os.environ.get("OCM_REQUEST_EP", ""), settings, made)
    place = "hold" if options.hold else "acquire" if job.is_live(made) else "collect"
    if place == "acquire":
        made = live.with_deadline(made, options.start_by)
    on = spool.open_spool(options.spool, settings, "daq-start")
    identifier, fresh = job.submit(on, made, place, str(made["instrument"]), tell=False)
    if not fresh:
        cli.say(f"{identifier}: submitted before, now in {on.place(identifier)}/")
    return identifier


def _wait(options: argparse.Namespace, identifier: str) -> int:
    arguments = [f"--wait={options.wait}" if options.wait else "--wait"]
    if options.timeout is not None:
        arguments += ["--timeout", str(options.timeout)]
    if options.spool:
        arguments += ["--spool", options.spool]
    if options.config:
        arguments += ["--config", options.config]
    program = cli.command("daq-status")
    # our stdout has carried the id: what the waiter prints are words for people
    os.dup2(2, 1)
    os.execv(program[0], [*program, *arguments, "--", identifier])


if __name__ == "__main__":
    sys.exit(main())

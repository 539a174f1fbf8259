"""Command line of daq-watch."""

from __future__ import annotations

import argparse
import sys

from daq_watch import choice, watcher
from daqlib import cli, config, errors, fsops, spool

EXAMPLES = """\
daq-watch                               # advance jobs until told to stop
daq-watch --once                        # work until nothing is due, then exit (cron)
daq-watch --dry-run                     # say what would be started now
kill -HUP "$(jq .pid "$DAQ_SPOOL/lock/.watch")"     # read the configuration again
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daq-watch."""
    made = cli.parser("daq-watch", "Advance the jobs of a spool: start daq-collect, daq-merge and "
                      "daq-release on those that are due, within the configured limits.", EXAMPLES)
    made.add_argument("--once", action="store_true",
                      help="work until nothing is due any more, and exit: 0 nothing is left, "
                           "65 a job went to failed/ or bad/, 75 something is left for later")
    made.add_argument("-n", "--dry-run", action="store_true",
                      help="print the commands that would be started, in order, and exit")
    return made


@cli.entry("daq-watch")
def main(argv: list[str]) -> int:
    """Run daq-watch; return the exit code."""
    options = cli.parse(build_parser(), argv)
    settings = config.load(options.config)
    if note := settings.note():
        cli.say(note)
    on = spool.open_spool(options.spool, settings, "daq-watch")
    tools = {stage: cli.command(f"daq-{stage}") for stage in choice.STAGES}
    if options.dry_run:
        return _explain(on, settings)
    lock = fsops.lock(on.path("lock", ".watch"), spool.holder_text("watch"))
    if lock is None:
        pid = spool.holder(on.path("lock", ".watch")).get("pid", "unknown")
        raise errors.Later(f"{on.root} is watched already, by process {pid}",
                           "let that one work, or end it first")
    # the lock's descriptor stays open until this process ends, however it ends
    return watcher.Watcher(on, settings, options.config, tools, once=options.once).run()


def _explain(on: spool.Spool, settings: config.Config) -> int:
    for stage, entry, reason in choice.explained(on, settings):
        if reason:
            cli.say(f"{entry.id}: {stage} not now: {reason}")
        else:
            cli.show(f"daq-{stage} --job {entry.id}")
    return errors.OK


if __name__ == "__main__":
    sys.exit(main())

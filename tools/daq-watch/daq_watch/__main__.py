"""Command line of daq-watch."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli, config, errors, fsops, spool

EXAMPLES = """\
daq-watch                               # advance jobs until told to stop
daq-watch --once                        # work until nothing is due, then exit (cron)
daq-watch --dry-run                     # say what would be started now
daq-watch --status                      # who watches, what is at work, what waits for what
daq-watch --serve                       # answer requests and publish changes of state as well
kill -HUP "$(jq .pid "$DAQ_SPOOL/lock/.watch")"     # read the configuration again
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daq-watch."""
    made = cli.parser("daq-watch", "Advance the jobs of a spool: start daq-collect, daq-merge and "
                      "daq-release on those that are due, within the configured limits.", EXAMPLES)
    what = made.add_mutually_exclusive_group()
    made.add_argument("--once", action="store_true",
                      help="work until nothing is due any more, and exit: 0 nothing is left, "
                           "65 a job went to failed/ or bad/, 75 something is left for later")
    what.add_argument("-n", "--dry-run", action="store_true",
                      help="print the commands that would be started, in order, and exit")
    what.add_argument("--status", action="store_true",
                      help="say whether a watcher runs, what it does and what waits for what, and "
                           "exit: 0 one runs, 1 none does")
    what.add_argument("--serve-only", action="store_true",
                      help="serve as with --serve, but watch nothing")
    what.add_argument("--mirror-only", action="store_true",
                      help="only bring the news of the jobs that were handed over; with --once, "
                           "ask once and exit")
    made.add_argument("--json", action="store_true", help="with --status: print a JSON object")
    made.add_argument("--serve", action="store_true",
                      help="serve requests about the spool and publish changes of state as well; "
                           "not with --once")
    made.add_argument("--rr-uri", metavar="URI",
                      help="where requests are served (default: cfg/dpm/req_endpoint)")
    made.add_argument("--ps-uri", metavar="URI",
                      help="where changes are published (default: cfg/dpm/pub_endpoint)")
    made.add_argument("--proc-name", metavar="NAME", help="name of the serving process")
    return made


@cli.entry("daq-watch")
def main(argv: list[str]) -> int:
    """Run daq-watch; return the exit code."""
    options = cli.parse(build_parser(), argv)
    _check_together(options)
    settings = config.load(options.config)
    told_elsewhere = options.status or options.serve_only or options.mirror_only
    if (note := settings.note()) and not told_elsewhere:
        cli.say(note)
    on = spool.open_spool(options.spool, settings, "daq-watch",
                           create=not (options.status or options.dry_run))
    beside = _beside(on, settings, options)
    return _watch(on, settings, options) if beside is None else beside


def _check_together(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect: who gives them expects one."""
    if options.json and not options.status:
        raise errors.Usage("--json belongs to --status", "try 'daq-watch --help'")
    if options.once and options.serve:
        raise errors.Usage("--once and --serve do not go together", "give one of them, or run "
                           "daq-watch --serve-only beside it")
    for given in ("once", "serve"):
        for other in ("status", "dry_run", "serve_only", "mirror_only"):
            asks = (given, other) == ("once", "mirror_only")
            if getattr(options, given) and getattr(options, other) and not asks:
                raise errors.Usage(f"--{given} and --{other.replace('_', '-')} do not go together",
                                   "give one of them")
    for given in ("rr_uri", "ps_uri", "proc_name"):
        if getattr(options, given) and not (options.serve or options.serve_only):
            raise errors.Usage(f"--{given.replace('_', '-')} belongs to --serve and --serve-only",
                               "try 'daq-watch --help'")


def _beside(on: spool.Spool, settings: config.Config, options: argparse.Namespace) -> int | None:
    """Do what does not watch; None: watch."""
    if options.status:
        from daq_watch import report

        return report.show(on, settings, as_json=options.json)
    if options.dry_run:
        return _explain(on, settings)
    if options.serve_only:
        from daq_watch import serving

        return serving.run(on, settings, options.config, options.rr_uri, options.ps_uri,
                           options.proc_name or "dpm")
    if options.mirror_only:
        return _mirror(on, settings, once=options.once)
    return None


def _mirror(on: spool.Spool, settings: config.Config, *, once: bool) -> int:
    from daq_watch import mirror

    return mirror.run(on, settings, once=once)


def _watch(on: spool.Spool, settings: config.Config, options: argparse.Namespace) -> int:
    from daq_watch import companions, index, nursery, watcher

    tools = {stage: cli.command(f"daq-{stage}") for stage in index.STAGES}
    beside = companions.Companions(on, settings, serve=options.serve, rr_uri=options.rr_uri,
                                   ps_uri=options.ps_uri, name=options.proc_name)
    forks = nursery.Nursery(tools)
    if not options.once and not on.watched():
        forks.tend()  # it loads what the workers want while we begin, and before there are locks
    lock = fsops.lock(on.path("lock", ".watch"), spool.holder_text("watch"))
    if lock is None:
        forks.close()
        pid = spool.holder(on.path("lock", ".watch")).get("pid", "unknown")
        raise errors.Later(f"{on.root} is watched already, by process {pid}",
                           "let that one work, or end it first")
    # the lock's descriptor stays open until this process ends, however it ends
    return watcher.Watcher(on, settings, options.config, tools, forks, beside,
                           once=options.once).run()


def _explain(on: spool.Spool, settings: config.Config) -> int:
    from daq_watch import choice

    for tool in ("daq-collect", "daq-merge", "daq-release"):
        cli.command(tool)
    for stage, entry, reason in choice.explained(on, settings):
        if reason:
            cli.say(f"{entry.id}: {stage} not now: {reason}")
        else:
            cli.show(f"daq-{stage} --job {entry.id}")
    return errors.OK


if __name__ == "__main__":
    sys.exit(main())

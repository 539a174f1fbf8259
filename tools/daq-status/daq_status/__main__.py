"""Command line of daq-status."""

from __future__ import annotations

import argparse
import sys

from daq_status import changes, detail, facts, prune, storage, table, waiting
from daqlib import audit, cli, config, errors, spool

EXAMPLES = """\
daq-status                              # all jobs that are not done
daq-status ID                           # one job: what, why, what would help, its history
daq-status --json | jq -r 'select(.error) | .id'
daq-status --place failed --place hold
daq-status --follow                     # a line for every change, until interrupted
daq-status --wait --timeout 600 ID      # until it is done: 0; failed: 65; too late: 124
daq-status --wait=StateMerging/Merging ID
daq-status --storage                    # the space that is left, and the floors
daq-status --prune --sources-days 30    # what would be removed; with --yes it is
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of daq-status."""
    made = cli.parser("daq-status", "List the jobs of a spool, explain one, follow the changes or "
                      "wait for them. It needs no daemon and changes nothing, but for --prune, "
                      "which removes finished jobs that are past their time.", EXAMPLES)
    made.add_argument("ids", nargs="*", metavar="ID",
                      help="show these jobs in detail; '-' reads ids from stdin")
    made.add_argument("--all", action="store_true", help="list done/ and bad/ as well")
    made.add_argument("--place", action="append", choices=(*spool.STAGES, *spool.RESTS),
                      metavar="PLACE", dest="places", default=[],
                      help="list the jobs of this directory only; may be repeated")
    made.add_argument("--follow", action="store_true",
                      help="print a line for every change, until interrupted or until the named "
                           "jobs are at rest")
    made.add_argument("--wait", nargs="?", const="", metavar="STATE[/SUBSTATE]",
                      help="wait until the named jobs are done, or have been in this state; "
                           "write --wait=STATE")
    made.add_argument("--timeout", metavar="SECONDS", type=float, help="the longest to wait")
    made.add_argument("--storage", action="store_true",
                      help="print the space of the file system of the spool, and of result/ if "
                           "that is another")
    prune.add_arguments(made)
    made.add_argument("--json", action="store_true", help="print one JSON object a line")
    return made


@cli.entry("daq-status")
def main(argv: list[str]) -> int:
    """Run daq-status; return the exit code."""
    options = cli.parse(build_parser(), _with_bare_wait(argv))
    goal = waiting.parse(options.wait) if options.wait is not None else None
    _check(options)
    settings = config.load(options.config)
    on = spool.open_spool(options.spool, settings, "daq-status", create=False)
    ids = list(dict.fromkeys(cli.ids(options.ids)))
    if options.ids and not ids:
        return errors.OK  # nobody was named on stdin
    if goal is not None:
        return waiting.wait(on, settings, ids, goal, options.timeout, as_json=options.json)
    if options.storage:
        return storage.show(on, settings, as_json=options.json)
    if options.prune:
        return prune.run(on, settings, options, ids)
    if options.follow:
        return changes.follow(on, settings, ids, as_json=options.json)
    if ids:
        return _show_each(facts.Viewer(on, settings), ids, as_json=options.json)
    return _list(facts.Viewer(on, settings), options)


def _check(options: argparse.Namespace) -> None:
    if options.timeout is not None and options.wait is None:
        raise errors.Usage("--timeout belongs to --wait", "try 'daq-status --help'")
    acts = [name for name in ("wait", "follow", "storage", "prune")
            if getattr(options, name) not in (None, False)]
    if "storage" in acts and options.ids:
        acts.append("ID")
    if acts and acts[-1] in ("storage", "prune", "ID") and len(acts) > 1:
        raise errors.Usage(f"{' and '.join(f'--{name}' for name in acts)} do not go together"
                           .replace("--ID", "ID"), "give one of them")
    prune.check(options)


def _with_bare_wait(argv: list[str]) -> list[str]:
    """Keep a bare ``--wait`` from taking the id behind it for a state."""
    end = argv.index("--") if "--" in argv else len(argv)
    return ["--wait=" if word == "--wait" and number < end else word
            for number, word in enumerate(argv)]


def _show_each(viewer: facts.Viewer, ids: list[str], *, as_json: bool) -> int:
    code = errors.OK
    for number, job in enumerate(ids):
        try:
            view = viewer.view(job)
        except errors.NoJob as error:
            code = cli.fail(_pruned(viewer.spool, job) or error)
            continue
        if as_json:
            cli.emit(view.document(history=True))
            continue
        if number:
            cli.show()
        for line in detail.lines(viewer, view):
            cli.show(line)
    return code


def _pruned(on: spool.Spool, job: str) -> errors.NoJob | None:
    """Return what is known of a job that is no longer here because of its age."""
    line = audit.when(on, job)
    if line is None:
        return None
    product = line.get("product")
    return errors.NoJob(
        f"no such job any more: pruned on {line.get('time')}; it was {line.get('state')} on "
        f"{line.get('ended')}", f"its product was result/{product}" if product else "", job)


def _list(viewer: facts.Viewer, options: argparse.Namespace) -> int:
    places = options.places or (facts.ALL if options.all else facts.ACTIVE)
    views = viewer.views(places)
    if options.json:
        for view in views:
            cli.emit(view.document())
    else:
        for line in table.lines(views):
            cli.show(line)
    cli.say(table.summary(viewer))
    return errors.OK


if __name__ == "__main__":
    sys.exit(main())

"""The command line that ``daq-collect``, ``daq-merge`` and ``daq-release`` share."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from daqlib import breaker, cli, config, errors, fsops, history, job, names, spool, stage
from daqlib.config import Config
from daqlib.stageoptions import add_arguments

__all__ = ["Options", "add_arguments", "run", "worst"]

#: Of several jobs in one call the worst outcome decides: signal, bug, wrong, later.
_RANK = (70, 65, 73, 74, 77, 78, 69, 66, 75, 0)


@dataclass(frozen=True)
class Options:
    """How to run the stage on each job; ``named`` when somebody asked for this very job."""

    force: bool
    verify: bool
    dry_run: bool
    json: bool
    named: bool = True


def run(made: stage.Stage, options: argparse.Namespace, tool: str,
        settings: Config | None = None) -> int:
    """Run a stage tool on the jobs that its options name; return the exit code.

    Args:
        made: the stage.
        options: of the command line.
        tool: its name.
        settings: the configuration, if it was loaded already.

    Raises:
        errors.Usage: no job is named.
        errors.BadConfig: configuration or spool are not usable.
    """
    settings = settings or config.load(options.config)
    on = spool.open_spool(options.spool, settings, tool, create=False)
    if not options.jobs and not options.all:
        raise errors.Usage("no job is named", f"give --job ID or --all; try '{tool} --help'")
    how = Options(options.force, options.verify, options.dry_run, options.json)
    jobs = list(cli.ids(options.jobs))
    codes = [_one(made, on, settings, identifier, how) for identifier in jobs]
    if options.all:
        fsops.sweep(on.path(made.name))
        how = dataclasses.replace(how, named=False)
        # what another worker was faster with is no error to somebody who asked for all
        codes += [_one(made, on, settings, identifier, how) for identifier in _due(made, on)
                  if on.place(identifier) == made.name and not on.is_busy(identifier)]
    return worst(codes)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code that decides for several jobs."""
    return min(codes, key=lambda code: _RANK.index(code) if code in _RANK else -1, default=0)


def _due(made: stage.Stage, on: spool.Spool) -> list[str]:
    if on.paused(made.name):
        cli.say(f"{made.name}/ is paused: remove {on.path(made.name, '.pause')} to go on")
        return []
    now = time.time()
    due = [entry for entry in on.scan(made.name) if on.is_due(entry, now)]
    return [entry.id for entry in sorted(due, key=lambda entry: entry.due)]  # alike: by id


def _one(made: stage.Stage, on: spool.Spool, settings: Config, identifier: str,
         how: Options) -> int:
    try:
        if how.dry_run:
            text = _intention(made, on, settings, identifier, how.force)
            cli.emit({"id": identifier, "stage": made.name, "intention": text}) if how.json else (
                cli.show(f"{identifier}: {text}"))
            return errors.OK
        place = stage.advance(made, on, settings, identifier, force=how.force, verify=how.verify)
    except errors.DaqError as error:
        # a host that is left alone is no news, of which cron would send a letter, for each job
        if isinstance(error, breaker.LeftAlone) and not how.named:
            cli.say(f"{identifier}: {error}")
        else:
            cli.fail(error)
        _report(on, made, identifier, error.code, str(error), how)
        return error.code
    except OSError as system:
        told = cli.from_os_error(system)
        told.job = identifier
        code = cli.fail(told)
        _report(on, made, identifier, code, str(system), how)
        return code
    ended = history.last(on.events(identifier), "aborted", "ok")
    what = "aborted" if ended and ended["event"] == "aborted" else f"{made.role or made.name} done"
    cli.say(f"{identifier}: {what}, now in {place}/")
    _report(on, made, identifier, errors.OK, "", how)
    return errors.OK


def _report(on: spool.Spool, made: stage.Stage, identifier: str, code: int, message: str,
            how: Options) -> None:
    if how.json:
        place = on.place(identifier) if names.ID.fullmatch(identifier) else ""
        try:
            cli.emit({"id": identifier, "stage": made.name, "code": code, "place": place,
                      "error": code != errors.OK, "message": message})
        except BrokenPipeError:
            cli.mute()


def _intention(made: stage.Stage, on: spool.Spool, settings: Config, identifier: str,
               force: bool) -> str:
    names.check_id(identifier)
    if not os.path.lexists(on.job_path(made.name, identifier)):
        if made.late is not None and on.place(identifier) == made.next:
            return made.late.intention(on, settings, identifier, force)
        raise errors.NoJob(f"no such job in {made.name}/", "see daq-status", identifier)
    if on.is_busy(identifier):
        return "somebody is at work on it"
    job.read(on, identifier, made.name)
    tries = history.tries(on.events(identifier), made.name)
    most = settings["retry.tries"]
    if tries >= most:
        return f"would go to failed/ after {tries} tries"
    what = made.role or made.name
    return f"would {what} (try {tries + 1} of {most}) and move it to {made.next}/"

"""``daq-status --prune``: show what is past its time, and with ``--yes`` remove it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterator
from typing import Any

from daq_status import removal, retention, storage
from daq_status.retention import JOB, RESULT, SOURCES, Case, Rules
from daqlib import cli, clock, errors, names
from daqlib.config import Config
from daqlib.spool import Entry, Spool

_DAYS = {JOB: "jobs_days", SOURCES: "sources_days", RESULT: "results_days"}
_CALLED = {JOB: "job", SOURCES: "sources", RESULT: "product"}


def add_arguments(made: argparse.ArgumentParser) -> None:
    """Add the options of ``--prune``."""
    made.add_argument("--prune", action="store_true",
                      help="list what is to be removed of finished jobs because of its age")
    made.add_argument("--yes", action="store_true", help="--prune: remove it")
    for kind, key in _DAYS.items():
        text = {JOB: "jobs, their histories and data", SOURCES: "collected sources",
                RESULT: "products"}[kind]
        made.add_argument(f"--{key.replace('_', '-')}", metavar="DAYS", type=float,
                          help=f"--prune: {text} go after so many days; 0: never (default: "
                               f"cfg/retention/{key})")
    made.add_argument("--keep", metavar="PATTERN", action="append", default=[],
                      help="--prune: leave alone ids like this, with * and ? for any characters; "
                           "may be repeated")
    made.add_argument("--without-receivers", action="store_true",
                      help="--prune: products of jobs that have no receivers go, too")
    made.add_argument("-n", "--dry-run", action="store_true",
                      help="--prune: only list, as without --yes")


def check(options: argparse.Namespace) -> None:
    """Check that the options belong together.

    Raises:
        errors.Usage: they do not.
    """
    given = [word for word, there in (
        ("--yes", options.yes), ("--keep", options.keep), ("--dry-run", options.dry_run),
        ("--without-receivers", options.without_receivers),
        *((f"--{key.replace('_', '-')}", getattr(options, key) is not None)
          for key in _DAYS.values())) if there]
    if given and not options.prune:
        raise errors.Usage(f"{given[0]} belongs to --prune", "try 'daq-status --help'")
    if options.yes and options.dry_run:
        raise errors.Usage("--yes and --dry-run contradict each other", "leave one out")
    for key in _DAYS.values():
        days = getattr(options, key)
        if days is not None and not 0 <= days < float("inf"):
            raise errors.Usage(f"--{key.replace('_', '-')} {days}: give a number of days from 0")


def rules(options: argparse.Namespace, settings: Config) -> Rules:
    """Return what is to be removed when: the options, else the configuration."""
    days = {}
    for kind, key in _DAYS.items():
        given = getattr(options, key)
        days[kind] = float(settings[f"retention.{key}"] if given is None else given)
    return Rules(days, (*settings["retention.keep"], *options.keep), options.without_receivers)


def run(on: Spool, settings: Config, options: argparse.Namespace, ids: Collection[str]) -> int:
    """List or remove what is past its time; return the exit code.

    Args:
        on: the spool.
        settings: the configuration.
        options: of the command line, see :func:`add_arguments`.
        ids: of these jobs only; of all when there are none.
    """
    wanted = rules(options, settings)
    made = Run(on, settings, wanted, options)
    if not any(wanted.days.values()):
        cli.say("nothing is removed by age: set cfg/retention, or give --jobs-days, "
                "--sources-days or --results-days")
    if options.yes:
        removal.prepare(on)
    begun = [job for job in removal.begun(on) if not ids or job in ids]
    for job in begun:
        made.resume(job)
    entries = [entry for entry in on.scan("done") if not ids or entry.id in ids]
    for entry in entries:
        made.look(entry)
    made.missing({*ids} - {*begun} - {entry.id for entry in entries})
    return made.end()


class Run:
    """One run over the finished jobs."""

    def __init__(self, on: Spool, settings: Config, wanted: Rules,
                 options: argparse.Namespace) -> None:
        self._on = on
        self._settings = settings
        self._rules = wanted
        self._yes = bool(options.yes)
        self._json = bool(options.json)
        self._quiet = bool(options.quiet)
        self._now = clock.now()
        self._codes: list[int] = []
        self._removed = self._bytes = self._unverified = 0

    def look(self, entry: Entry) -> None:
        """Decide about a job, and carry it out if that was asked for."""
        if not names.ID.fullmatch(entry.id):
            return  # a person's file, not a job's
        if not retention.may_be_due(self._on, self._rules, entry, self._now):
            return
        try:
            case = self._locked(entry) if self._yes else self._examined(entry)
        except OSError as error:
            told = cli.from_os_error(error)
            told.job = entry.id
            self._codes.append(cli.fail(told))
            return
        if case is not None and (case.remove or case.kept):
            self._report(case)

    def missing(self, ids: Collection[str]) -> None:
        """Tell of ids that were asked for and are not in ``done/``."""
        for job in sorted(ids):
            place = self._on.place(job) if names.ID.fullmatch(job) else ""
            self._codes.append(cli.fail(errors.NoJob(
                "no such job in done/", f"it is in {place}/" if place else "see daq-status", job)))

    def _examined(self, entry: Entry) -> Case:
        return retention.examine(self._on, self._settings, self._rules, entry, self._now)

    def _locked(self, entry: Entry) -> Case | None:
        lock = removal.lock(self._on, entry.id)
        if lock is None:
            return Case(entry.id, 0.0, "", kept={JOB: "somebody is at work on it"})
        try:
            if not os.path.lexists(self._on.job_path("done", entry.id)):
                return None  # moved meanwhile
            case = self._examined(entry)
            if not removal.carry_out(self._on, case):
                cli.say(f"{entry.id}: was moved out of done/ meanwhile and is left alone")
                return None
        finally:
            self._on.release(entry.id, lock)
        return case

    def resume(self, job: str) -> None:
        """Finish what a prune that was killed has begun."""
        if not self._yes:
            self._show({"id": job, "remove": [JOB], "removed": False, "kept": {}, "bytes": 0},
                       f"{job}: would finish its removal, which was begun")
            return
        lock = removal.lock(self._on, job)
        if lock is None:
            return
        try:
            gone = removal.resume(self._on, job)
        finally:
            self._on.release(job, lock)
        self._removed += gone
        words = "finished its removal" if gone else "its removal was taken back"
        self._show({"id": job, "remove": [JOB], "removed": gone, "kept": {}, "bytes": 0},
                   f"{job}: {words}")

    def _report(self, case: Case) -> None:
        self._removed += bool(case.remove)
        self._bytes += case.bytes
        self._unverified += case.unverified
        document = {
            "id": case.id, "fileId": case.fileId, "state": case.state,
            "ended": clock.iso(case.ended) + "Z" if case.ended else None, "remove": case.remove,
            "removed": self._yes and bool(case.remove), "bytes": case.bytes, "kept": case.kept}
        self._show(document, *_lines(case, "removed" if self._yes else "would remove"))

    def _show(self, document: dict[str, Any], *lines: str) -> None:
        if self._json:
            cli.emit(document)
        elif not self._quiet:
            for line in lines:
                cli.show(line)

    def end(self) -> int:
        """Say what it came to, and return the exit code."""
        if self._unverified:
            cli.warn(f"jobs kept because it could not be verified now that their receivers have "
                     f"the product: {self._unverified}; 'daq-status --prune' tells which, "
                     "'daq-release --job ID' delivers what is missing, and with --force what was "
                     "delivered before")
            self._codes.append(errors.Later.code)
        done = "removed" if self._yes else "would remove"
        jobs = "1 job" if self._removed == 1 else f"{self._removed} jobs"
        cli.say(f"{done} {storage.size(self._bytes)} of {jobs}" + (
            "" if self._yes or not self._removed else "; --yes removes it"))
        return next((code for code in self._codes if code != errors.Later.code),
                    self._codes[0] if self._codes else errors.OK)


def _lines(case: Case, verb: str) -> Iterator[str]:
    if case.remove:
        what = " and ".join(_CALLED[kind] for kind in case.remove)
        yield (f"{case.id}: {verb} {what}, {storage.size(case.bytes)}; {case.state} "
               f"{clock.iso(case.ended, 0)}Z")
    for why in dict.fromkeys(case.kept.values()):
        what = " and ".join(_CALLED[kind] for kind in case.kept if case.kept[kind] == why)
        yield f"{case.id}: keeps {what}: {why}"

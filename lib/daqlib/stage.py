"""A stage, step by step: claim, preflight, skip, count, work, commit, release.

``daq-collect``, ``daq-merge`` and ``daq-release`` supply the work; everything that decides about
crashes, retries and moves is here, once. The stage tool moves the job, whoever started it.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from daqlib import (
    abort,
    alerts,
    breaker,
    capacity,
    cli,
    errors,
    fsops,
    history,
    job,
    manifest,
    names,
    spool,
)
from daqlib.config import Config
from daqlib.crashpoints import passing

Document = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What the work of a stage brought.

    Attributes:
        outputs: files for the manifest.
        result: what the next stage and the lister need to know.
        alerts: conditions that a person should see; the job goes on nevertheless.
    """

    outputs: list[manifest.Output] = field(default_factory=list)
    result: Document = field(default_factory=dict)
    alerts: list[alerts.Alert] = field(default_factory=list)


@dataclass
class Claim:
    """A job in the hands of a stage tool.

    Attributes:
        spool: the spool.
        settings: the configuration.
        stage: the stage at work.
        job: the job file as read at the claim.
        events: the history as read at the claim.
        inputs: digests of what the work depends on.
        descriptors: lock and slots, to be inherited by the children that do this job's work.
        force: do the work again although nothing changed.
    """

    spool: spool.Spool
    settings: Config
    stage: Stage
    job: job.Job
    events: list[history.Event]
    descriptors: list[int]
    inputs: dict[str, str] = field(default_factory=dict)
    force: bool = False

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def folder(self) -> str:
        """The job's data directory."""
        return self.spool.data_path(self.id)

    def previous(self) -> Document | None:
        """Return the manifest of the stage before."""
        return manifest.read(self.spool.data_path(self.id, f"{self.stage.previous}.json"))

    def log(self, event: str, /, **facts: Any) -> None:
        """Record an event of this stage."""
        self.spool.log(self.id, event, stage=self.stage.name, **facts)


@dataclass(frozen=True)
class Late:
    """What a stage tool can do for a job that it has moved on and that is asked for by its id.

    Attributes:
        intention: returns what would be done, in words; takes what ``work`` takes.
        work: does it; takes spool, settings, id, and whether to do again what was done.
    """

    intention: Callable[[spool.Spool, Config, str, bool], str]
    work: Callable[[spool.Spool, Config, str, bool], None]


@dataclass(frozen=True)
class Stage:
    """A stage tool's part.

    Attributes:
        name: of the stage and its directory.
        previous: the stage before, whose manifest is an input.
        next: the directory that the job goes to.
        work: does the work; raises a :class:`daqlib.errors.DaqError` when it cannot.
        preflight: raises :class:`daqlib.errors.Later` when the work cannot begin now.
        limits: the concurrency limits that the work counts against.
        extra_inputs: digests of further inputs (the configuration that the work depends on).
        bound_to_job: the inputs were derived by the stage before from the job file as it was then,
            so that a job edited since has to go back there.
        completed: called when the job has been moved on, still locked; what it raises is told,
            and changes nothing about the job.
        late: for the jobs that the stage has moved on, if it can still do something for them.
        role: what the stage does instead of its own work, for the lock and the ``start`` events.
    """

    name: str
    previous: str
    next: str
    work: Callable[[Claim], Outcome]
    preflight: Callable[[Claim], None]
    limits: Callable[[Claim], list[str]]
    extra_inputs: Callable[[Claim], dict[str, str]]
    bound_to_job: bool = False
    completed: Callable[[Claim], None] | None = None
    late: Late | None = None
    role: str = ""


def advance(stage: Stage, on: spool.Spool, settings: Config, identifier: str, *,
            force: bool = False, verify: bool = False) -> str:
    """Run a stage on one job and move the job on.

    Args:
        stage: what to do.
        on: the spool.
        settings: the configuration.
        identifier: the job.
        force: do the work again although the manifest still holds.
        verify: compare the outputs' digests before believing the manifest.

    Returns:
        The directory that the job went to.

    Raises:
        errors.DaqError: with the exit code of the outcome; the job lies where it leads.
    """
    _check_name(on, stage, identifier)
    if not os.path.lexists(on.job_path(stage.name, identifier)):
        if stage.late is not None and on.place(identifier) == stage.next:
            stage.late.work(on, settings, identifier, force)
            return stage.next
        raise _not_here(on, stage, identifier)
    lock = on.lock(identifier, stage.role or stage.name)
    if lock is None:
        raise errors.Later("somebody is at work on this job", "see daq-status", identifier)
    claim = None
    try:
        passing("stage.claimed")
        claim = _claim(stage, on, settings, identifier, lock)
        claim.force = force
        return _proceed(claim, verify)
    except errors.DaqError as error:
        error.job = error.job or identifier
        raise
    finally:
        for fd in claim.descriptors[1:] if claim else []:
            os.close(fd)
        on.release(identifier, lock)


def _check_name(on: spool.Spool, stage: Stage, identifier: str) -> None:
    try:
        names.check_id(identifier)
    except errors.BadData as error:
        # asked for as the scan found it: nobody else will ever look at a file of such a name
        if not any(entry.id == identifier for entry in on.scan(stage.name)):
            raise
        name = on.to_bad(stage.name, f"{identifier}.json", error.message)
        raise errors.BadData(f"{error.message}; moved to bad/{name}",
                             f"rename it and mv it back to {stage.name}/", identifier) from error


def _not_here(on: spool.Spool, stage: Stage, identifier: str) -> errors.NoJob:
    place = on.place(identifier)
    where = f"it is in {place}/" if place else "the spool does not hold it"
    return errors.NoJob(f"no such job in {stage.name}/", where, identifier)


def _claim(stage: Stage, on: spool.Spool, settings: Config, identifier: str, lock: int) -> Claim:
    places = on.places(identifier)
    if stage.name not in places:
        raise _not_here(on, stage, identifier)  # somebody did the work before we got the lock
    later = [place for place in places
             if place in spool.WAY and spool.WAY.index(place) > spool.WAY.index(stage.name)]
    if later:
        name = on.to_bad(stage.name, f"{identifier}.json", f"a second copy: see {later[0]}/")
        raise errors.BadData(f"a copy of this job is in {later[0]}/; this one is now bad/{name}",
                             "compare the two and remove one", identifier)
    try:
        read = job.read(on, identifier, stage.name)
    except job.Unreadable as error:
        name = on.to_bad(stage.name, f"{identifier}.json", error.message)
        raise errors.BadData(f"{error.message}; moved to bad/{name}",
                             f"mend it and mv it back to {stage.name}/", identifier) from error
    return Claim(on, settings, stage, read, on.events(identifier), [lock])


def _proceed(claim: Claim, verify: bool) -> str:
    stage, on = claim.stage, claim.spool
    if history.abort_requested(claim.events) or abort.was_cut_short(
            claim.events, claim.job.status.st_ctime):
        return abort.finish(on, claim.id, stage.name)
    try:
        job.accept(on, claim.id, claim.job.document, stage.name, claim.settings["instrument_id"])
    except job.Taken as error:
        _fail(claim, error)
    claim.events = on.events(claim.id)
    if stage.bound_to_job and _is_edited_since(claim):
        _send_back(claim)
    _take_slots(claim)
    capacity.check_floor(on, claim.settings)
    claim.inputs = {
        "job": claim.job.digest,
        stage.previous: manifest.digest(on.data_path(claim.id, f"{stage.previous}.json")),
        **stage.extra_inputs(claim),
    }
    made = manifest.read(on.data_path(claim.id, f"{stage.name}.json"))
    again = history.last(claim.events, "start", stage=stage.name) is not None
    if not claim.force and manifest.still_true(made, claim.folder, claim.inputs, verify=verify):
        cli.detail(f"{claim.id}: nothing changed since the last {stage.name}, moving on")
    else:
        stage.preflight(claim)
        _count_and_start(claim)
        _work(claim)
    if again:
        _settle(claim)
    return _commit(claim)


def _settle(claim: Claim) -> None:
    """Make the names durable that an earlier try gave: it may have died before it could."""
    made = manifest.read(claim.spool.data_path(claim.id, f"{claim.stage.name}.json")) or {}
    paths = [os.path.join(claim.folder, item["path"]) for item in made.get("outputs", [])]
    for folder in {claim.folder, *map(os.path.dirname, paths)}:
        fsops.fsync_dir(folder)


def _is_edited_since(claim: Claim) -> bool:
    before = claim.previous()
    return before is not None and before.get("inputs", {}).get("job") != claim.job.digest


def _send_back(claim: Claim) -> None:
    """Move an edited job back one stage: an edit takes effect wherever the job is put back."""
    earlier = claim.stage.previous
    claim.log("edited", to=earlier)
    try:
        claim.spool.move(claim.id, claim.stage.name, earlier)
    except FileExistsError:
        name = claim.spool.to_bad(claim.stage.name, f"{claim.id}.json", f"{earlier}/ holds a copy")
        raise errors.BadData(f"{earlier}/ holds a copy of this job; this one is now bad/{name}",
                             "compare the two and remove one") from None
    raise errors.Later(f"the job was edited after {earlier} had read it; moved back to {earlier}/",
                       "it goes on from there")


def _take_slots(claim: Claim) -> None:
    for limit in ["daq", *claim.stage.limits(claim)]:
        if not take_slot(claim, limit):
            raise errors.Later(f"all {claim.settings[f'limits.{limit}']} places of "
                               f"cfg/limits/{limit} are taken", "wait, or raise the limit")


def take_slot(claim: Claim, limit: str) -> bool:
    """Take a place of a limit until the work on the job ends; False when all are taken.

    Args:
        claim: the job.
        limit: the name behind ``cfg/limits/``.
    """
    count = int(claim.settings[f"limits.{limit}"])
    for number in range(count):
        path = claim.spool.path("lock", f".slot-{limit}-{number}")
        # a lister's probe takes microseconds and must not look like a taken place
        fd = fsops.lock(path, spool.holder_text(claim.stage.name, claim.id), patience=0.01)
        if fd is not None:
            claim.descriptors.append(fd)
            return True
    return count == 0


def _count_and_start(claim: Claim) -> None:
    done = history.tries(claim.events, claim.stage.name)
    most = int(claim.settings["retry.tries"])
    if done >= most:
        last = history.last(claim.events, "defer", "killed", stage=claim.stage.name) or {}
        why = last.get("reason", "its worker died each time")
        _fail(claim, errors.BadData(f"given up after {done} tries: {why}"))
    try:
        claim.log("start", role=claim.stage.role or None, **{"try": done + 1})
        claim.events = claim.spool.events(claim.id)
        passing("stage.started")
    except cli.Terminated as stop:
        newest = history.last(claim.spool.events(claim.id), "start", stage=claim.stage.name)
        if newest is not None and newest.get("pid") == os.getpid():
            _interrupted(claim, stop)  # else whoever comes next would take it for a death
        raise


def _work(claim: Claim) -> None:
    stage = claim.stage
    try:
        os.makedirs(claim.folder, exist_ok=True)
        fsops.fsync_dir(os.path.dirname(claim.folder))
        fsops.sweep(claim.folder)
        outcome = stage.work(claim)
        for alert in outcome.alerts:
            claim.log("alert", **alert)
        passing("stage.worked")
        manifest.write(claim.spool.data_path(claim.id, f"{stage.name}.json"), claim.id,
                       stage.name, claim.spool.by, claim.inputs, outcome.outputs, outcome.result)
        passing("stage.manifest")
    except cli.Terminated as stop:
        _interrupted(claim, stop)
    except errors.DaqError as error:
        _unsuccessful(claim, error)
    except OSError as error:
        _unsuccessful(claim, cli.from_os_error(error))
    except Exception as error:
        if os.environ.get("DAQ_DEBUG"):
            raise
        _unsuccessful(claim, cli.from_bug(error))


def _interrupted(claim: Claim, stop: cli.Terminated) -> None:
    events = claim.spool.events(claim.id)
    if history.abort_requested(events):
        abort.finish(claim.spool, claim.id, claim.stage.name)
        raise errors.Later("aborted on request", "see done/") from stop
    newest = history.last(events, "start", "overtime", stage=claim.stage.name)
    if newest is not None and newest["event"] == "overtime":
        _unsuccessful(claim, errors.Later(str(newest.get("reason", "time limit exceeded"))))
    claim.log("interrupted", signal=stop.signum)
    raise stop


def _unsuccessful(claim: Claim, error: errors.DaqError) -> None:
    """Put the job where this error leads: ``failed/``, or back with a later due time."""
    error.job = error.job or claim.id
    final = isinstance(error, errors.BadData | errors.Conflict | errors.IoFailure)
    count = history.tries(claim.events, claim.stage.name)
    if final:
        _fail(claim, error)
    if isinstance(error, errors.Patience):
        _defer(claim, error, history.outages(claim.events, claim.stage.name) + 1, counts=False)
    if count >= int(claim.settings["retry.tries"]):
        _fail(claim, errors.BadData(f"given up after {count} tries: {error}"))
    _defer(claim, error, count)


def _defer(claim: Claim, error: errors.DaqError, count: int, *, counts: bool = True) -> None:
    host = error.host if isinstance(error, errors.HostDown) else ""
    delay = _until_probe(claim, host) or _backoff(claim.settings, count)
    until = time.time() + delay
    claim.log("defer", reason=str(error), code=error.code, until=until, host=host or None,
              counts=None if counts else False, **{"try": count})
    _push(claim.spool.job_path(claim.stage.name, claim.id), claim.job.status.st_mtime_ns, until)
    error.remedy = "; ".join(filter(None, (error.remedy, f"next try in {delay:.0f} s")))
    raise error


def _until_probe(claim: Claim, host: str) -> float:
    """Return the seconds until a host that is left alone is tried again; 0 for any other."""
    circuit = breaker.of(claim.spool, host) if host else None
    return circuit.wait(claim.settings, time.time()) if circuit else 0.0


def _backoff(settings: Config, count: int) -> float:
    first, longest = settings["retry.first_sec"], settings["retry.longest_sec"]
    return float(min(longest, first * 2 ** min(count - 1, 60)) * random.uniform(0.8, 1.2))


def _push(path: str, mtime_ns: int, until: float) -> None:
    with contextlib.suppress(FileNotFoundError):
        # an mtime that changed meanwhile is the operator's word, which counts more than ours
        if os.stat(path).st_mtime_ns == mtime_ns:
            fsops.set_mtime(path, until)


def worker_died(on: spool.Spool, settings: Config, stage: str, identifier: str, mtime_ns: int,
                reason: str, signum: int | None = None) -> str:
    """Record a try that ended without a word, and when the next is due; hold the job's lock.

    Args:
        on: the spool.
        settings: the configuration.
        stage: the worker's stage.
        identifier: the job.
        mtime_ns: the job file's mtime when the worker was started.
        reason: how it ended, in words.
        signum: the signal that killed it; None when it exited.

    Returns:
        Where the job is now: still in its stage, in ``failed/`` when its tries are used up,
        or an empty text when it is not in the stage (it was moved on or away).
    """
    if not os.path.lexists(on.job_path(stage, identifier)):
        return ""
    event = "defer" if signum is None else "killed"
    count = history.tries([*on.events(identifier), {"event": event, "stage": stage}], stage)
    if count >= int(settings["retry.tries"]):
        on.log(identifier, event, stage=stage, reason=reason, signal=signum, **{"try": count})
        _put_aside(on, stage, errors.BadData(f"given up after {count} tries: {reason}",
                                             job=identifier))
        return "failed"
    until = time.time() + _backoff(settings, count)
    on.log(identifier, event, stage=stage, reason=reason, signal=signum, until=until,
           **{"try": count})
    _push(on.job_path(stage, identifier), mtime_ns, until)
    return stage


def _fail(claim: Claim, error: errors.DaqError) -> None:
    error.job = claim.id
    place = _put_aside(claim.spool, claim.stage.name, error)
    way_out = (f"moved to {place}; mend the cause, then: mv failed/{claim.id}.json "
               f"{claim.stage.name}/" if place else "the job was moved away meanwhile")
    error.remedy = "; ".join(filter(None, (error.remedy, way_out)))
    raise error


def _put_aside(on: spool.Spool, stage: str, error: errors.DaqError) -> str:
    """Move a job to ``failed/`` and record why; return where it lies, empty if it was not here."""
    on.log(error.job, "fail", stage=stage, reason=str(error), code=error.code)
    with contextlib.suppress(FileNotFoundError):
        os.utime(on.job_path(stage, error.job))
    try:
        moved = on.move(error.job, stage, "failed")
    except FileExistsError:
        return "bad/" + on.to_bad(stage, f"{error.job}.json", "failed/ holds a copy")
    return "failed/" if moved else ""


def _commit(claim: Claim) -> str:
    on, stage = claim.spool, claim.stage
    if history.abort_requested(on.events(claim.id)):
        return abort.finish(on, claim.id, stage.name)
    path = on.job_path(stage.name, claim.id)
    present = manifest.digest(path)
    if not present:
        _moved_away(claim)
    if present != claim.job.digest:
        claim.log("edited")
        raise errors.Later("the job file was edited meanwhile", "it runs again as it is now",
                           claim.id)
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_mtime > time.time():
            os.utime(path)  # a due time set for this stage is none for the next
    try:
        moved = on.move(claim.id, stage.name, stage.next)
    except FileExistsError:
        name = on.to_bad(stage.name, f"{claim.id}.json", f"{stage.next}/ holds a copy")
        raise errors.BadData(f"{stage.next}/ holds a copy of this job; this one is now bad/{name}",
                             "compare the two and remove one", claim.id) from None
    if not moved:
        _moved_away(claim)
    passing("stage.committed")
    claim.log("ok", to=stage.next)
    passing("stage.logged")
    if stage.completed is not None:
        stage.completed(claim)
    return stage.next


def _moved_away(claim: Claim) -> None:
    claim.log("moved-away")
    raise errors.Later("the job was moved away meanwhile and is not moved on",
                       "its results are kept", claim.id)

"""The program that is run after each release, ``cfg/release/hook``.

It is run once the job is in ``done/``, and its end is the event ``hook``. A mark in ``run/hooks/``
that is made before the job is moved tells that a run is owed: when the tool is killed between the
two, the next release makes up for it. So the program is run at least once, and twice only when the
tool was killed while it ran.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from daq_release import errands, program
from daqlib import cli, errors, fsops, history, job, names
from daqlib.spool import Spool
from daqlib.stage import Claim

Document = dict[str, Any]
#: Returns what the hook reads on standard input.
Telling = Callable[[Claim], Document]


def _folder(on: Spool) -> str:
    return on.path("run", "hooks")


def _mark(on: Spool, identifier: str) -> str:
    return os.path.join(_folder(on), identifier)


def owe(on: Spool, identifier: str) -> None:
    """Note durably that the hook is to be run when the job is done."""
    folder = _folder(on)
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
        fsops.fsync_dir(os.path.dirname(folder))
    fsops.put(_mark(on, identifier), b"")


def after_release(claim: Claim, telling: Telling) -> None:
    """Run the hook for a job that has just been released, then what is owed for others.

    Args:
        claim: the job, locked.
        telling: returns what it reads on standard input.

    Raises:
        OSError: its end could not be recorded.
    """
    # the hook may take its time: let others have the places meanwhile
    while len(claim.descriptors) > 1:
        os.close(claim.descriptors.pop())
    if claim.settings["release.hook"]:
        _run(claim, telling)
    fsops.remove(_mark(claim.spool, claim.id))
    make_up(claim, telling)


def make_up(claim: Claim, telling: Telling) -> bool:
    """Run the hook for this job, and for others, whose release was killed before it could.

    Args and errors are those of :func:`after_release`.

    Returns:
        Whether it was owed for this job.
    """
    try:
        found = sorted(os.listdir(_folder(claim.spool)))
    except FileNotFoundError:
        return False
    for name in filter(names.ID.fullmatch, found):
        if name != claim.id:
            _settle_other(claim, name, telling)
    return claim.id in found and _settle(claim, telling)


def _settle_other(claim: Claim, identifier: str, telling: Telling) -> None:
    on, stage = claim.spool, claim.stage
    lock = on.lock(identifier, stage.name)
    if lock is None:
        return  # somebody is at work on it, who sees to this
    try:
        place = on.place(identifier)
        if place == stage.next:
            read = job.read(on, identifier, place)
            _settle(Claim(on, claim.settings, stage, read, on.events(identifier), [lock]), telling)
        elif place != stage.name:
            fsops.remove(_mark(on, identifier))  # a person took it elsewhere
    except errors.DaqError as error:
        cli.warn(f"{identifier}: the hook was not run: {error}")
    finally:
        on.release(identifier, lock)


def _settle(claim: Claim, telling: Telling) -> bool:
    newest = history.last([event for event in claim.events if event["event"] != "start"
                           or event.get("stage") == claim.stage.name], "start", "hook", "aborted")
    owed = newest is not None and newest["event"] == "start" and claim.settings["release.hook"]
    if owed:
        _run(claim, telling)
    fsops.remove(_mark(claim.spool, claim.id))
    return bool(owed)


def _told(hook: str, ended: program.Ended) -> str:
    if ended.reason.startswith(f"{hook}:"):
        return ended.reason  # it could not be run
    if ended.code < 0:
        return f"{hook}: {ended.reason}"
    return f"{hook} ended with code {ended.code}: {ended.reason}"


def _run(claim: Claim, telling: Telling) -> None:
    hook = claim.settings["release.hook"]
    try:
        document = telling(claim)
        ended = program.run(errands.call(claim, [hook, document["path"]], document, "hook"))
    except errors.DaqError as error:
        ended = program.Ended(error.code, str(error))
    except OSError as error:
        told = cli.from_os_error(error)
        ended = program.Ended(told.code, str(told))
    reason = ended.reason if ended.code else None
    claim.log("hook", program=hook, code=ended.code, reason=reason)
    if ended.code:
        cli.warn(f"{claim.id}: the hook failed: {_told(hook, ended)}")

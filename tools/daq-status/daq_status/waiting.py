"""Wait until jobs are done, or have been in a state."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from daq_status import changes, facts
from daqlib import cli, errors, follow, status
from daqlib.config import Config
from daqlib.spool import RESTS, STAGES, Spool

_STATES = ("StateAcquiring", "StateMerging", "StateCompleted")
_SUBSTATES = (*status.STATE_OF, *status.ABORT_STATE_OF)


@dataclass(frozen=True)
class Goal:
    """What is waited for; both empty for the end of the job, done or failed.

    Attributes:
        state: of the ESO interface.
        substate: of that state, or empty for any.
    """

    state: str = ""
    substate: str = ""


def parse(text: str) -> Goal:
    """Return the goal that ``STATE``, ``SUBSTATE`` or ``STATE/SUBSTATE`` stands for.

    Raises:
        errors.Usage: there is no such state.
    """
    if not text:
        return Goal()
    state, slash, substate = text.partition("/")
    if not slash and state in _SUBSTATES:
        state, substate = "", state
    if state and state not in _STATES:
        raise errors.Usage(f"--wait: there is no state {state!r}",
                           f"use one of {', '.join((*_STATES, *_SUBSTATES))}")
    if slash and substate not in _SUBSTATES:
        raise errors.Usage(f"--wait: there is no substate {substate!r}",
                           f"use one of {', '.join(_SUBSTATES)}")
    if state and substate and not _belongs(substate, state):
        raise errors.Usage(f"--wait: {substate} is no substate of {state}",
                           f"it belongs to {status.state_of(substate)}")
    return Goal(state, substate)


def _belongs(substate: str, state: str) -> bool:
    return state in (status.state_of(substate), status.state_of(substate, "collect"))


def wait(on: Spool, settings: Config, ids: list[str], goal: Goal, timeout: float | None, *,
         as_json: bool) -> int:
    """Wait for jobs, print where each is in the end, and return the exit code.

    Args:
        on: the spool.
        settings: the configuration.
        ids: the jobs.
        goal: what to wait for.
        timeout: the longest to wait, seconds, or None.
        as_json: whether to print JSON Lines.

    Raises:
        errors.Usage: no job is named, or the time makes no sense.
        errors.NoJob: one of the jobs is not known.
    """
    if not ids:
        raise errors.Usage("--wait: no job is named", "give the ids, or - for stdin")
    if timeout is not None and not timeout >= 0:
        raise errors.Usage(f"--timeout: {timeout} is no time to wait", "give seconds, 0 or more")
    deadline = time.monotonic() + (math.inf if timeout is None else timeout)
    views = {job: facts.Viewer(on, settings).view(job) for job in ids}
    pending = _pending(views, goal)
    if pending and timeout != 0:
        follower = follow.Follower(on, (*STAGES, *RESTS), logs=True)
        views.update(_look(on, settings, pending))
        while (pending := _pending(views, goal)) and (left := deadline - time.monotonic()) > 0:
            changed = follower.changed(min(left, settings["scan_interval_sec"]))
            views.update(_look(on, settings, pending & changed if changed else pending))
    return max((_conclude(view, goal, timeout, as_json=as_json) for view in views.values()),
               key=_RANK.index)


_RANK = (errors.OK, errors.NO, errors.BadData.code, errors.WaitTimeout.code)


def _look(on: Spool, settings: Config, jobs: set[str]) -> dict[str, facts.View]:
    viewer = facts.Viewer(on, settings)
    return {job: viewer.view(job) for job in jobs}


def _pending(views: dict[str, facts.View], goal: Goal) -> set[str]:
    return {job for job, view in views.items() if answer(view, goal) is None}


def answer(view: facts.View, goal: Goal) -> int | None:
    """Return the exit code that a job's state answers with, or None when it is to be awaited.

    0 the goal was reached, 65 the job is in ``failed/`` or ``bad/``, 1 it is no longer possible.
    """
    if not goal.state and not goal.substate:
        reached = True if view.status["substate"] == "Completed" else None
        possible = view.place != "done"
    else:
        verdict = status.await_answer(view.status, view.reached(), goal.state, goal.substate)
        reached, possible = verdict, verdict is not False
    if reached:
        return errors.OK
    if view.there in ("failed", "bad"):
        return errors.BadData.code
    return None if possible and view.place else errors.NO


def _conclude(view: facts.View, goal: Goal, timeout: float | None, *, as_json: bool) -> int:
    code = answer(view, goal)
    changes.show(view, as_json=as_json)
    now = f"{view.status['state']}/{view.status['substate']}"
    if code is None:
        return cli.fail(errors.WaitTimeout(f"still {now} after {timeout} s",
                                           f"see daq-status {view.id}", view.id))
    if code == errors.BadData.code:
        return cli.fail(errors.BadData(f"the job is in {view.there}/" + (
            " on the other host" if view.place == "remote" else ""),
                                       f"see daq-status {view.id}", view.id))
    if code == errors.NO:
        where = f"it is {now}" if view.place else "the job file was removed"
        cli.warn(f"{view.id}: no longer possible: {where}")
    return code

"""``daq-watch --status``: who watches, what is at work, and what everything else waits for.

The facts come from the spool, its locks first, so that the answer is the same whoever asks and
whatever died; only the watcher's own time limits and companions are taken from its notes.
"""

from __future__ import annotations

import time
from typing import Any

from daq_watch import notes
from daq_watch.index import STAGES
from daqlib import breaker, capacity, cli, clock, errors, fsops
from daqlib.config import Config
from daqlib.spool import Entry, Spool, holder, process_start

Facts = dict[str, Any]

_LIMITS = ("daq", "merge", "net_receive", "net_send")
_FLOORS = {"spool": ("spool_bytes", ""), "result": ("result_bytes", "result")}


def show(on: Spool, settings: Config, *, as_json: bool) -> int:
    """Print what there is to say; return 0 when a watcher runs, else 1.

    Args:
        on: the spool.
        settings: the configuration.
        as_json: print one JSON object instead of lines.
    """
    facts = collect(on, settings)
    if as_json:
        cli.emit(facts)
    else:
        for line in _lines(facts):
            cli.show(line)
    return errors.OK if facts["watcher"] else errors.NO


def collect(on: Spool, settings: Config) -> Facts:
    """Return the facts, see :func:`show`; times are seconds since the epoch, sizes bytes."""
    watcher = _watcher(on)
    told = notes.read(on) if watcher else {}
    if (told.get("pid"), told.get("started")) != (
            watcher and watcher["pid"], watcher and watcher.pop("started")):
        told = {}  # of one that was killed
    if watcher:
        watcher |= {name: told.get(name) for name in ("host", "config", "once")}
    jobs = {stage: on.scan(stage) for stage in STAGES}
    running = _running(on, jobs, told)
    return {
        "spool": on.root,
        "watcher": watcher,
        "limits": [_limit(on, settings, name) for name in _LIMITS],
        "running": running,
        "stages": [_stage(on, stage, jobs[stage], {each["id"] for each in running})
                   for stage in reversed(STAGES)],
        "hosts": _hosts(on, settings),
        "space": [_space(on, settings, name) for name in _FLOORS],
        "companions": told.get("companions", []),
    }


def _watcher(on: Spool) -> Facts | None:
    path = on.path("lock", ".watch")
    if not fsops.is_locked(path):
        return None
    facts = holder(path)
    return {name: facts.get(name) for name in ("pid", "since", "started")}


def _limit(on: Spool, settings: Config, name: str) -> Facts:
    taken = [{"pid": facts.get("pid"), "stage": facts.get("stage"), "id": facts.get("job"),
              "since": facts.get("since")} for facts in capacity.taken(on, settings, name)]
    return {"name": name, "places": int(settings[f"limits.{name}"]), "taken": taken}


def _running(on: Spool, jobs: dict[str, list[Entry]], told: Facts) -> list[Facts]:
    """Return the jobs that somebody holds, with the time limits of the watcher's own workers."""
    limits = {(each["id"], each["pid"]): each["until"] for each in told.get("workers", [])}
    found: dict[str, Facts] = {}
    for stage in STAGES:
        for entry in jobs[stage]:
            if entry.id in found or not on.is_busy(entry.id):
                continue
            facts = holder(on.lock_path(entry.id))
            pid = facts.get("pid")
            found[entry.id] = {
                "id": entry.id, "stage": facts.get("stage") or stage, "pid": pid,
                "since": facts.get("since"), "until": limits.get((entry.id, pid)),
                # its tool died, a child of it holds the job
                "orphaned": not isinstance(pid, int) or process_start(pid) != facts.get("started")}
    return list(found.values())


def _stage(on: Spool, stage: str, entries: list[Entry], running: set[str]) -> Facts:
    now = time.time()
    waiting = [entry for entry in entries if entry.id not in running]
    ahead = [entry.due for entry in waiting if not on.is_due(entry, now)]
    return {"stage": stage, "jobs": len(entries), "due": len(waiting) - len(ahead),
            "deferred": len(ahead), "next": min(ahead, default=None), "paused": on.paused(stage)}


def _hosts(on: Spool, settings: Config) -> list[Facts]:
    return [{"host": each.host, "failures": each.failures, "reason": each.reason,
             "since": each.since, "open": each.is_open(settings),
             "probe": each.probe if each.is_open(settings) else None}
            for each in breaker.all_of(on)]


def _space(on: Spool, settings: Config, name: str) -> Facts:
    key, folder = _FLOORS[name]
    free, floor = on.free_bytes(folder), int(settings[f"floor.{key}"])
    return {"name": name, "path": on.path(folder), "free": free, "floor": floor,
            "enough": free >= floor}


# -- in words --------------------------------------------------------------------------------------


def _lines(facts: Facts) -> list[str]:
    return [_of_watcher(facts), *map(_of_stage, facts["stages"]),
            *map(_of_running, facts["running"]), *map(_of_limit, facts["limits"]),
            *map(_of_host, facts["hosts"]), *map(_of_space, facts["space"]),
            *map(_of_companion, facts["companions"])]


def _of_watcher(facts: Facts) -> str:
    watcher = facts["watcher"]
    if not watcher:
        return f"{facts['spool']}: nobody watches"
    host = f" on {watcher['host']}" if watcher["host"] else ""
    # one that has only just begun has not told yet
    config = {None: "", "": ", configuration: defaults"}.get(
        watcher["config"], f", configuration: {watcher['config']}")
    return (f"{facts['spool']}: watched by process {watcher['pid']}{host} since "
            f"{_time(watcher['since'])}{config}")


def _of_stage(each: Facts) -> str:
    paused = ", paused" if each["paused"] else ""
    until = f" (the first until {_time(each['next'])})" if each["deferred"] else ""
    return f"{each['stage']}: {each['due']} due, {each['deferred']} deferred{until}{paused}"


def _of_running(each: Facts) -> str:
    limit = f", to end by {_time(each['until'])}" if each["until"] else ""
    whose = "a child of process" if each["orphaned"] else "process"
    return (f"at work: {each['stage']} {each['id']}, {whose} {each['pid']} since "
            f"{_time(each['since'])}{limit}")


def _of_limit(each: Facts) -> str:
    if not each["places"]:
        return f"limit {each['name']}: none"
    who = ", ".join(f"{it['stage']} {it['id'] or ''} (process {it['pid']})".replace("  ", " ")
                    for it in each["taken"])
    return f"limit {each['name']}: {len(each['taken'])} of {each['places']} taken" + (
        f": {who}" if who else "")


def _of_host(each: Facts) -> str:
    told = (f"host {each['host']}: no answer {each['failures']} times since "
            f"{_time(each['since'])} ({each['reason']})")
    return f"{told}, left alone until {_time(each['probe'])}" if each["open"] else told


def _of_space(each: Facts) -> str:
    verdict = "" if each["enough"] else ": too little, nothing is started"
    return f"space for {each['name']}: {each['free']} bytes free, floor {each['floor']}{verdict}"


def _of_companion(each: Facts) -> str:
    if each["pid"]:
        return f"{each['name']}: process {each['pid']} since {_time(each['since'])}"
    ended = "" if each["code"] is None else f", it ended with {each['code']}"
    return f"{each['name']}: does not run{ended}"


def _time(seconds: Any) -> str:
    return f"{clock.iso(seconds, 0)}Z" if isinstance(seconds, int | float) else "unknown"

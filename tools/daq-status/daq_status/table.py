"""The table of jobs and the summary line below it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator

from daq_status import elsewhere, facts
from daqlib import alerts, clock, history, progress, spool
from daqlib.spool import STAGES

_HEAD = ("ID", "STATE", "SUBSTATE", "AGE", "TRIES", "DUE/WHO", "ALERT")
_MANY = 10000  # done/ is counted no further: a listing must not cost what a spool's age is
_ALERT_WIDTH = 60
_DOING = {"acquire": "exposing", "collect": "collecting", "merge": "merging",
          "release": "releasing"}


def lines(views: Iterable[facts.View]) -> Iterator[str]:
    """Yield the table, a heading first, or nothing at all when there are no jobs."""
    now = clock.now()
    rows = [row(view, now) for view in views]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    for cells in (_HEAD, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield line.rstrip()


def row(view: facts.View, now: float) -> tuple[str, ...]:
    """Return the cells of a job.

    Args:
        view: the job.
        now: seconds since the epoch.
    """
    status = view.status
    cells = (view.id, status["state"], status["substate"], span(now - born(view)),
             str(view.tries), when(view, now))
    return (*map(plain, cells), alert(view.alerts))


def born(view: facts.View) -> float:
    """Return when a job was first heard of, seconds since the epoch."""
    return history.seconds(view.events[0]) if view.events else view.due


def when(view: facts.View, now: float) -> str:
    """Return who works on a job, or what it waits for."""
    if view.progress:
        return progress_of(view)
    if view.holder:
        return f"process {view.holder.get('pid', '?')}"
    if far := elsewhere.of(view):
        return f"at {far.host}"
    if view.place in spool.RESTS or not view.place:
        return f"{view.place}/" if view.place else "removed"
    if view.place == "acquire":
        return "no daq-ctl"
    return f"in {span(view.due - now)}" if view.due > now else "now"


def progress_of(view: facts.View) -> str:
    """Return how far a job's worker is: what it does, percents, rate, and time left."""
    told = view.progress
    text = f"{_DOING.get(told['stage'], told['stage'])} {progress.percent(told)} %"
    if told.get("unit") == "s":
        text += f", {span(told['left'])} left"
    elif told["rate"] > 0:
        text += f", {progress.amount(told['rate'])}/s, {span(told['left'])} left"
    return text


def alert(found: list[alerts.Alert]) -> str:
    """Return the most severe alert, shortened, and how many more there are."""
    if not found:
        return ""
    order = [alerts.ERROR, alerts.WARNING, alerts.INFO]
    worst = min(found, key=lambda each: order.index(each["severity"]))
    text = plain(" ".join(str(worst["description"]).split()))
    short = text if len(text) <= _ALERT_WIDTH else text[:_ALERT_WIDTH - 3] + "..."
    return f"{short} (+{len(found) - 1})" if len(found) > 1 else short


def plain(text: str) -> str:
    """Return text without control characters: names and reasons come from outside."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def span(seconds: float) -> str:
    """Return a duration for people: the two largest units."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount or parts or unit == "s":
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2])


def summary(viewer: facts.Viewer) -> str:
    """Return what is worth knowing about the spool as a whole, in one line."""
    on = viewer.spool
    parts = [f"{place} {number}" for place in (*facts.ACTIVE, "done", "bad")
             if (number := count(on, place)) != "0"]
    paused = [f"{stage}/ is paused" for stage in STAGES if on.paused(stage)]
    watcher = on.path("lock", ".watch")
    running = (f"daq-watch runs (process {spool.holder(watcher).get('pid', '?')})"
               if viewer.watched else "no daq-watch runs")
    return "; ".join([", ".join(parts) or "no jobs", *paused, running])


def count(on: spool.Spool, place: str) -> str:
    """Return how many jobs a place holds, at most ``10000+``."""
    try:
        with os.scandir(on.path(place)) as entries:
            jobs = (e for e in entries if e.name.endswith(".json") and e.name[0] != ".")
            number = sum(1 for _ in itertools.islice(jobs, _MANY + 1))
    except FileNotFoundError:
        return "0"
    return str(number) if number <= _MANY else f"{_MANY}+"

"""Follow the spool: a line for every change of a job."""

from __future__ import annotations

from collections.abc import Iterable

from daq_status import facts, table
from daqlib import cli, clock, errors
from daqlib.config import Config
from daqlib.follow import Follower
from daqlib.spool import RESTS, STAGES, Spool

#: What makes a change worth a line; the holder and the due time come and go with it.
_TOLD = ("state", "substate", "error", "message", "result")
_RESCAN = 60.0  # seconds; the follower says itself when it missed something
_REMEMBERED = 10000  # jobs at rest; forgetting one costs a repeated line at worst


class Teller:
    """Prints a job when it differs from what was printed of it before."""

    def __init__(self, on: Spool, settings: Config, *, as_json: bool) -> None:
        """Begin without having printed anything.

        Args:
            on: the spool.
            settings: the configuration.
            as_json: whether to print JSON Lines.
        """
        self._on = on
        self._settings = settings
        self._as_json = as_json
        self._told: dict[str, tuple[object, ...]] = {}
        self.live: set[str] = set()

    def tell(self, jobs: Iterable[str]) -> None:
        """Look at jobs, print those that changed, and note which are on their way."""
        viewer = facts.Viewer(self._on, self._settings)
        for job in sorted(jobs):
            try:
                view = viewer.view(job)
            except errors.NoJob:
                continue  # a name that is none, or a job that was withdrawn at once
            (self.live.add if view.place in (*STAGES, "remote") else self.live.discard)(job)
            now = (view.place, *(view.status[key] for key in _TOLD))
            if self._told.get(job) != now:
                self._told[job] = now
                show(view, as_json=self._as_json)
        while len(self._told) > _REMEMBERED + len(self.live):
            self._told.pop(next(iter(self._told)))

    def present(self) -> set[str]:
        """Return the jobs that a change may have concerned when nobody knows which."""
        return self.live | {entry.id for entry in self._on.scan(*facts.ACTIVE)}


def show(view: facts.View, *, as_json: bool) -> None:
    """Print the line of a job."""
    if as_json:
        cli.emit(view.document())
        return
    status = view.status
    place = f"{view.place}/" if view.place else "removed"
    more = table.alert(view.alerts) or (status["result"] if view.place == "done" else "")
    cli.show(table.plain(
        f"{clock.iso(clock.now())}Z  {view.id}  {status['state']}/{status['substate']}  "
        f"{place}  {more}").rstrip())


def follow(on: Spool, settings: Config, ids: list[str], *, as_json: bool) -> int:
    """Print every change until interrupted, or until the given jobs are at rest.

    Args:
        on: the spool.
        settings: the configuration.
        ids: the jobs; empty for all that are active.
        as_json: whether to print JSON Lines.

    Returns:
        The exit code.

    Raises:
        errors.NoJob: one of the jobs is not known.
    """
    follower = Follower(on, (*STAGES, *RESTS), logs=True)
    viewer = facts.Viewer(on, settings)
    for job in ids:
        viewer.view(job)
    teller = Teller(on, settings, as_json=as_json)
    teller.tell(ids or teller.present())
    while not ids or teller.live:
        changed = follower.changed(settings["scan_interval_sec"] if ids else _RESCAN)
        if changed:
            teller.tell(changed & set(ids) if ids else changed)
        else:
            teller.tell(ids or teller.present())
    return errors.OK

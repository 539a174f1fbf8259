"""Why a job is where it is, and the command that would help."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import Any

from daq_status import elsewhere, facts
from daqlib import breaker, capacity, clock, errors, history, hostnames, names, spool
from daqlib.job import LIVE

Answer = tuple[str, str]


def explain(viewer: facts.Viewer, view: facts.View) -> Answer:
    """Return one sentence and a shell command; the command is empty when none is needed."""
    if view.place in capacity.LIMITS:
        return _in_stage(viewer, view)
    at_rest = {"acquire": _acquire, "failed": _failed, "hold": _hold, "bad": _bad, "done": _done,
               "remote": _remote}
    return at_rest.get(view.place, _removed)(viewer, view)


def _held(holder: dict[str, Any]) -> str:
    pid, started = holder.get("pid", "?"), holder.get("started")
    if started and isinstance(pid, int) and spool.process_start(pid) != started:
        return f"what process {pid} started works on it still, and holds it until it ends"
    return f"process {pid} is at work on it"


def _in_stage(viewer: facts.Viewer, view: facts.View) -> Answer:
    on, stage = viewer.spool, view.place
    tool = _shell(f"daq-{stage}", "--spool", on.root, "--job", view.id)
    if view.holder:
        return _held(view.holder), ""
    if history.abort_requested(view.events):
        return "an abort was asked for and is carried out when it is claimed", tool
    if on.paused(stage):
        return f"{stage}/ is paused", _shell("rm", on.path(stage, ".pause"))
    if view.due > clock.now():
        return _deferred(view), _shell("touch", on.job_path(stage, view.id))
    if low := capacity.shortage(on, viewer.settings):
        return f"{low}; nothing starts until there is more", ""
    if circuit := _left_alone(viewer, view):
        return breaker.told(circuit), _shell("rm", breaker.path_of(on, circuit.host))
    if not viewer.watched:
        return "it is due, but no daq-watch runs on this spool", tool
    if full := _full(viewer, stage):
        return full, ""
    return "it is due; daq-watch starts it in a moment", ""


def _left_alone(viewer: facts.Viewer, view: facts.View) -> breaker.Circuit | None:
    """Return what is known of a host that the job needs, and that is not tried now."""
    now = clock.now()
    waiting = {circuit.host: circuit for circuit in breaker.all_of(viewer.spool)
               if circuit.wait(viewer.settings, now)}
    needed = _hosts(viewer, view) if waiting else set()
    return next((waiting[host] for host in sorted(needed) if host in waiting), None)


def _hosts(viewer: facts.Viewer, view: facts.View) -> set[str]:
    on, settings, document = viewer.spool, viewer.settings, viewer.document(view)
    found: Iterable[str] = ()
    try:
        if view.place == "collect":
            found = hostnames.origins(on, settings, view.id, document)
        elif view.place == "release":
            found = hostnames.receiving(settings, document)[1]
        return set(map(breaker.name_of, found))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, errors.BadData):
        return set()  # the stage tool says what is wrong with it


def _deferred(view: facts.View) -> str:
    event = history.last(view.events, "defer", "killed", stage=view.stage)
    if event is None or (view.tries == 0 and not _is_patient(event, view)):
        return f"it is scheduled for {clock.iso(view.due, 0)}Z by its modification time"
    return f"it waits for the next try; the last one: {event.get('reason', 'its worker died')}"


def _is_patient(event: history.Event, view: facts.View) -> bool:
    """Tell whether a job waits for a host or a receiver, without tries, and nobody touched it."""
    until = event.get("until")
    return event.get("counts") is False and isinstance(until, float) and abs(until - view.due) < 1


def _full(viewer: facts.Viewer, stage: str) -> str:
    for limit in capacity.LIMITS[stage]:
        count = int(viewer.settings[f"limits.{limit}"])
        if count and len(capacity.holders(viewer.spool, viewer.settings, limit)) >= count:
            return f"it waits for its turn: all {count} places of cfg/limits/{limit} are taken"
    return ""


def _acquire(viewer: facts.Viewer, view: facts.View) -> Answer:
    if view.holder:
        return f"daq-ctl (process {view.holder.get('pid', '?')}) controls its sources", ""
    return "no daq-ctl runs that would control its sources; one that starts takes it over", (
        _shell("daq-ctl", "serve", "--spool", viewer.spool.root))


def _failed(viewer: facts.Viewer, view: facts.View) -> Answer:
    event = history.last(view.events, "fail")
    why = str(event.get("reason", "")) if event else "somebody moved it to failed/"
    if view.stage == "acquire" and not _is_acquired(viewer, view):
        return f"{why}; an acquisition is not repeated under its id: submit it anew", ""
    return f"{why}; mend the cause, then", _back(viewer, view)


def _hold(viewer: facts.Viewer, view: facts.View) -> Answer:
    return "it is parked in hold/; to let it go on", _back(viewer, view)


def _back(viewer: facts.Viewer, view: facts.View) -> str:
    """Return the command that puts a resting job back where it can go on."""
    on = viewer.spool
    if _is_live(viewer.document(view)) and not _is_acquired(viewer, view):
        stage = "acquire"
    else:
        stage = "collect" if view.stage == "acquire" else view.stage
    return _shell("mv", on.job_path(view.place, view.id), on.path(stage, ""))


def _is_acquired(viewer: facts.Viewer, view: facts.View) -> bool:
    # written when the acquisition has ended: what it recorded can be merged
    return os.path.exists(viewer.spool.data_path(view.id, "acquire.json"))


def _is_live(document: facts.Document) -> bool:
    sources = document.get("sources")
    return isinstance(sources, list) and any(
        isinstance(source, dict) and source.get("type") in LIVE for source in sources)


def _bad(viewer: facts.Viewer, view: facts.View) -> Answer:
    event = history.last(view.events, "bad")
    why = str(event.get("reason", "")) if event else "somebody moved it to bad/"
    stage = str(event.get("stage", "")) if event else ""
    return f"{why}; mend the file, then", _shell(
        "mv", viewer.spool.job_path("bad", view.id), viewer.spool.path(stage or "collect", ""))


def _done(viewer: facts.Viewer, view: facts.View) -> Answer:
    if view.status["substate"] == "Aborted":
        return "it was aborted" + _pruned(view), ""
    if missing := sum(alert["id"].startswith("release-failed:") for alert in view.alerts):
        return f"it is complete, but {missing} of its receivers have not got the product", _shell(
            "daq-release", "--spool", viewer.spool.root, "--job", view.id)
    return "it is complete" + _pruned(view), ""


def _pruned(view: facts.View) -> str:
    """Return what of a job is gone because of its age."""
    gone = {str(event.get("what")): str(event.get("time", "?")) for event in view.events
            if event["event"] == "pruned"}
    called = {"result": "product", "sources": "sources"}
    told = [f"its {called[what]} pruned on {when}" for what, when in gone.items() if what in called]
    return "".join(f"; {text}" for text in told)


def _remote(viewer: facts.Viewer, view: facts.View) -> Answer:
    far = elsewhere.of(view)
    if far is None:
        return "somebody moved it here; no other host has it", _back(viewer, view)
    if far.trouble or not far.sure or far.is_old():
        return _not_heard(far), _shell("daq-watch", "--spool", viewer.spool.root, "--mirror-only",
                                       "--once")
    if history.abort_requested(view.events):
        return f"an abort was asked for; {far.host} is told of it", ""
    if any(alert["id"] == f"lost-there:{far.to}" for alert in view.alerts):
        return (f"{far.to} does not know it: that spool was lost, or is another one; to send it "
                "again"), _shell("mv", viewer.spool.job_path("remote", view.id),
                                         viewer.spool.path("collect", ""))
    # no command with ssh: the key of the hand-over, if it is the one that is used, permits none
    more = _shell("daq-status", "--spool", names.split_location(far.to)[1], view.id)
    where = f" in {far.place}/" if far.place else ""
    return f"{far.to} has it{where}; more is told on {far.host} by: {more}", ""


def _not_heard(far: elsewhere.Far) -> str:
    if far.trouble:
        return f"{far.to} has it, and is not heard of: {far.trouble}"
    return f"{far.to} has it, and nobody asks for news: no daq-watch runs here with cfg/hand_over"


def _removed(viewer: facts.Viewer, view: facts.View) -> Answer:
    if (last := history.last(view.events, "pruned")) and last.get("what") == "job":
        return f"it is being pruned since {last.get('time')}; what is left goes with", _shell(
            "daq-status", "--spool", viewer.spool.root, "--prune", "--yes")
    return "somebody removed the job file; its history and its data are still there", ""


def _shell(*words: str) -> str:
    return shlex.join(words)

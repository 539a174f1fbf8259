"""One job in detail: what it is, why it is where it is, what would help, and its history."""

from __future__ import annotations

import json
from collections.abc import Iterator

from daq_status import elsewhere, facts, reasons, table
from daqlib import clock, history, progress, receipts

_PLAIN = ("time", "event", "by", "pid", "host", "stage", "digest", "request", "members", "sha256",
          "farEnd")


def lines(viewer: facts.Viewer, view: facts.View) -> Iterator[str]:
    """Yield the lines about a job."""
    for name, text in _items(viewer, view):
        yield f"{name:<10}{table.plain(text)}".rstrip()
    yield "history"
    for event in view.events:
        begin = f"  {event.get('time', '?')!s:<25}{event['event']:<16}"
        yield f"{table.plain(begin)}{words(event)}".rstrip()


def _items(viewer: facts.Viewer, view: facts.View) -> Iterator[tuple[str, str]]:
    status = view.status
    yield "id", view.id
    yield "state", f"{status['state']}/{status['substate']}, " + (
        f"in {view.place}/" if view.place else "the job file is gone")
    yield from _elsewhere(view)
    yield "file id", status["fileId"] or "none yet"
    document = viewer.document(view)
    yield "age", f"{table.span(clock.now() - table.born(view))}" + (
        f", by {document['by']}" if document.get("by") else "")
    yield from _sources(document)
    yield "product", status["result"] or "none yet"
    for standing in receipts.of(viewer.spool, view.id):
        yield "receiver", f"{standing.label}{_had(standing)}"
    if view.place != "done":
        yield "tries", _tries(viewer, view)
    if view.holder:
        since = float(view.holder.get("since", 0.0))
        yield "worker", (f"process {view.holder.get('pid', '?')} ({view.holder.get('stage', '?')}) "
                         f"since {clock.iso(since, 0)}Z ({table.span(clock.now() - since)})")
    if view.progress:
        told = view.progress
        yield "progress", f"{table.progress_of(view)} ({progress.extent(told)}: {told['what']})"
    for alert in view.alerts:
        yield "alert", f"{alert['severity']} {alert['id']}: {alert['description']}"
    if others := viewer.others(view):
        yield "copies", f"also in {', '.join(f'{place}/' for place in others)}"
    why, command = reasons.explain(viewer, view)
    yield "why", why
    if command:
        yield "try", command


def _elsewhere(view: facts.View) -> Iterator[tuple[str, str]]:
    far = elsewhere.of(view)
    if far is None:
        return
    place = f"in {far.place}/ there" if far.place else "not heard of yet"
    age = f"news of {table.span(clock.now() - far.heard)} ago" if far.heard else "no news yet"
    yield "where", (f"at {far.to}, {place}; {age}" if far.sure else
                    f"perhaps at {far.to}, which is yet to be asked")
    if far.trouble:
        yield "no news", far.trouble


def _objects(document: facts.Document, member: str) -> list[facts.Document]:
    """Return the objects of a list; what lies in ``bad/`` can be of any shape."""
    found = document.get(member)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _had(standing: receipts.Standing) -> str:
    if standing.receipt is None:
        return ""
    return f": delivered {standing.receipt.time[:19]}Z ({standing.receipt.how})"


def _sources(document: facts.Document) -> Iterator[tuple[str, str]]:
    for source in _objects(document, "sources"):
        where = source.get("location") or source.get("rrUri") or (
            f"{len(_objects(source, 'keywords'))} keywords")
        yield "source", f"{source.get('sourceName', '?')} ({source.get('type', '?')}) {where}"


def _tries(viewer: facts.Viewer, view: facts.View) -> str:
    text = f"{view.tries} of {viewer.settings['retry.tries']}"
    if view.stage:
        text += f" in {view.stage}"
    ahead = view.due - clock.now()
    if ahead > 0 and view.place == view.stage:
        text += f"; next at {clock.iso(view.due, 0)}Z (in {table.span(ahead)})"
    return text


def words(event: history.Event) -> str:
    """Return what an event says besides its name, for people."""
    parts = [str(event["stage"])] if event.get("stage") else []
    for key, value in event.items():
        if key == "until":
            parts.append(f"until {clock.iso(float(value), 0)}Z")
        elif key == "reason":
            parts.append(f"({value})")
        elif key not in _PLAIN and value not in ([], {}, ""):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            parts.append(f"{key} {text}" if len(text) <= 80 else f"{key} {text[:77]}...")
    return table.plain(" ".join(parts))

"""Derive the Data Product Specification of a job (ESO-396401, section 12.4).

It is derived anew from job file, sealed history and the acquisition's manifest whenever it is
needed, so that an edited job takes effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from daqlib import alerts, cardname, history

Document = dict[str, Any]
Keywords = list[Document]

#: Name of the implicit source for keywords that users and the control gave (manual, section 8.2).
OWN_SOURCE = "ocm"
# the URI schemes of ESO's own sources, whose primary data only the merge target keeps (ESO-396401,
# section 8.3), and of none; the programs behind all others write their images there
_LEAVING = ("zpb.rr", "zpb", "ipc", "")
#: The instrument id of an unconfigured site; it never hides what a source says of itself.
UNNAMED = "UNDEF"


def specification(job: str, document: Document, acquired: Document | None,
                  events: list[history.Event], settings: Document,
                  ) -> tuple[Document, list[alerts.Alert]]:
    """Return the specification of the product and the alerts that arise on the way.

    Args:
        job: its id.
        document: the job file's content.
        acquired: ``result`` of ``acquire.json``, or None for a job without live sources.
        events: the job's history; keyword updates are taken from it.
        settings: ``instrument`` and ``receivers`` to use when the job names none.

    Returns:
        The specification, its ``location`` members still naming the origins of the files.
    """
    delivered = {entry["sourceName"]: entry for entry in (acquired or {}).get("sources", [])}
    first, last = _own_keywords(document, events, str(settings["instrument"]))
    parts: list[Document] = list(_keyword_source(OWN_SOURCE, first, {}))
    for source in document["sources"]:
        parts += _parts(source, delivered.get(source["sourceName"], {}))
    parts += _keyword_source(OWN_SOURCE, last, {})
    target: Document = {"fileId": history.file_id(events),
                        "filePrefix": document.get("filePrefix", "")}
    chosen, raised = _target(document, parts, delivered)
    if chosen is not None:
        # it stays among the sources as well: its place there is its priority, so that keywords
        # given by users win over those of the file that is merged into
        target["source"] = chosen
    made: Document = {"id": job, "sources": parts, "target": target,
                      "receivers": document.get("receivers", settings["receivers"])}
    if document.get("heuristics") == "v1":
        made["heuristics"] = "v1"
    if document.get("keywordDictionaries"):
        made["keywordDictionaries"] = document["keywordDictionaries"]
    return made, raised


def fold(keywords: Keywords, updates: Keywords) -> Keywords:
    """Return keywords with updates applied: same kind and name replaced in place, else appended.

    A literal counts as what its card is: of a value or ESO keyword it replaces, and is replaced;
    commentary is always appended (ESO-396401 section 13.1, UpdateKeywords).
    """
    made = _Folded()
    made.add(keywords)
    made.add(updates)
    return made.keywords()


class _Folded:
    """Keywords to which updates are applied one after the other; there can be thousands."""

    def __init__(self) -> None:
        self._made: list[Keywords] = []
        self._at: dict[tuple[str, str], int] = {}

    def add(self, updates: Keywords) -> None:
        for group in _groups(updates):
            key = cardname.of_json(group[0])
            if self._made and cardname.is_continuation(group[0]):
                self._made[-1] = [*self._made[-1], *group]
            elif key[0] != "commentary" and key in self._at:
                self._made[self._at[key]] = group
            else:
                self._at.setdefault(key, len(self._made))
                self._made.append(group)

    def keywords(self) -> Keywords:
        return [keyword for group in self._made for keyword in group]


def _groups(keywords: Keywords) -> Iterator[Keywords]:
    """Yield each keyword with the literal CONTINUE cards that go on with its string."""
    group: Keywords = []
    for keyword in keywords:
        if group and not cardname.is_continuation(keyword):
            yield group
            group = []
        group.append(keyword)
    if group:
        yield group


def _without(keywords: Keywords, keys: Collection[tuple[str, str]]) -> Keywords:
    return [keyword for group in _groups(keywords) for keyword in group
            if cardname.of_json(group[0]) not in keys]


def _own_keywords(document: Document, events: list[history.Event], instrument: str,
                  ) -> tuple[Keywords, Keywords]:
    folded = _Folded()
    folded.add(document.get("keywords", []))
    for event in events:
        if event["event"] == "keywords":
            # another host may have told it
            folded.add([each for each in event["keywords"] if isinstance(each, dict)])
    given = folded.keywords()
    name = document.get("instrument", instrument)
    if not name:  # the job is a whole specification, to which nothing is added
        return given, []
    card = {"type": "valueKeyword", "name": "INSTRUME", "value": name,
            "comment": "Instrument used."}
    if name == UNNAMED:
        return given, [card]
    return fold([card], _without(given, [cardname.of_json(card)])), []


def _keyword_source(name: str, keywords: Keywords, source: Document) -> list[Document]:
    if not keywords:
        return []
    made: Document = {"type": "fitsKeywords", "sourceName": name, "keywords": keywords}
    if "keywordRules" in source:
        made["keywordRules"] = source["keywordRules"]
    return [made]


def _parts(source: Document, delivered: Document) -> list[Document]:
    if source["type"] == "fitsKeywords":
        return [source]
    name = source["sourceName"]
    reported = delivered.get("keywords", [])
    initial = source.get("initialKeywords", [])
    locations = [source["location"]] if source["type"] == "fitsFile" else delivered.get("files", [])
    kept = {key: source[key] for key in ("keywordRules", "alertUnmergeable", "primaryData")
            if key in source}
    if source.get("rrUri", "").partition(":")[0] not in _LEAVING:
        kept.setdefault("primaryData", "extension")
    files = [{"type": "fitsFile", "sourceName": name, "location": place, **kept}
             for place in locations]
    if files and initial:
        # what the source reports replaces what was known at the start, also in its file
        said = {key for key in map(cardname.of_json, reported) if key[0] != "commentary"}
        files[0]["initialKeywords"] = _without(initial, said)
    else:
        reported = fold(initial, reported)
    return [*_keyword_source(name, reported, source), *files]


def _target(document: Document, parts: list[Document], delivered: dict[str, Document],
            ) -> tuple[Document | None, list[alerts.Alert]]:
    if document.get("heuristics") == "v1" and "mergeTarget" not in document:
        # manual 13.1, StartDaq: a single primary source with a single file is the target
        primary = [s["sourceName"] for s in document["sources"] if s["type"] == "primarySource"]
        single = len(primary) == 1 and len(delivered.get(primary[0], {}).get("files", [])) == 1
        wanted = primary[0] if single else ""
    else:
        wanted = document.get("mergeTarget", {}).get("sourceName", "")
    files = [p for p in parts if p["type"] == "fitsFile" and p["sourceName"] == wanted]
    if files:
        return files[0], []
    if wanted:
        return None, [alerts.make("no-target", wanted, f"the merge target {wanted} delivered no "
                                  "file; the product was made as a new file")]
    return None, []

"""What became of each keyword of each source: kept, lost or left out, and by which rule.

It is found anew from what the plan holds, by the rules that made the plan, so that a merge that
nobody asks about pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from daq_merge import cards, classes, rules
from daq_merge import keywords as merging
from daqlib import errors

if TYPE_CHECKING:
    from daq_merge.cards import Keyword
    from daq_merge.plan import Plan, Source

Document = dict[str, Any]

#: How the merger itself is called where a source's name stands.
MERGER = "merger"

_REASONS = {
    "structural": "describes the structure of its own file",
    "bound": "says what the numbers of its own primary array mean",
}
_SUMS = ("CHECKSUM", "DATASUM")
_DEFAULTS = {"target": "target", "user": "default: user class", "policy": "no source gives it"}


class _Fate:
    """What became of a keyword of a source.

    Attributes:
        source: where it comes from.
        before: as the source has it.
        after: as it is merged, or would be; None: it is left out.
        reason: by which rule it is merged or left out.
    """

    def __init__(self, source: Source, before: Keyword, reason: str,
                 after: Keyword | None = None) -> None:
        self.source = source
        self.before = before
        self.after = after
        self.reason = reason

    @property
    def name(self) -> str:
        return str(self.source.spec["sourceName"])


def of_keywords(planned: Plan) -> tuple[list[Document], list[Document]]:
    """Return the keywords of the product's primary header in order, and those that were left out.

    Their members are those that :func:`daq_merge.explain.document` tells.
    """
    fates = [_fates(source) for source in planned.sources]
    every = [fate for mine in fates for fate in mine]
    winners = _winners(planned, fates)
    rivals: dict[tuple[str, str], list[_Fate]] = {}
    for fate in every:
        rivals.setdefault((fate.after or fate.before).key, []).append(fate)
    chosen = {id(fate) for fate, _ in winners}
    priorities = _priorities(planned)
    told: dict[str, list[Document]] = {"value": [], "eso": [], "commentary": []}
    for fate, keyword in winners:
        told[keyword.kind].append(_winner(fate, keyword, rivals, chosen, priorities))
    own = [_reserved(keyword, rivals) for keyword in planned.own]
    sums = [{"name": name, "kind": "value", "value": "", "source": MERGER,
             "rule": "computed when the data are written", "lost": _reserved_lost(name, rivals)}
            for name in _SUMS]
    left_out = [{**_said(fate.before), "source": fate.name, "rule": fate.reason}
                for fate in every if fate.after is None and not _is_told_elsewhere(fate)]
    return [*_structure(planned), *told["value"], *own, *told["eso"], *told["commentary"],
            *sums], left_out


def _winners(planned: Plan, fates: list[list[_Fate]]) -> list[tuple[_Fate, Keyword]]:
    """Merge again, and return the fates of the keywords that are in the product, in order."""
    blocks: list[merging.Block] = []
    by_identity: dict[int, _Fate] = {}
    for source, mine in zip(planned.sources, fates, strict=True):
        kept = [fate.after for fate in mine if fate.after is not None]
        by_identity.update((id(fate.after), fate) for fate in mine)
        blocks.append(merging.Block(source.where, source.rank, kept, source.is_target))
    merged = merging.merge(blocks, lambda _: None)
    return [(by_identity[id(keyword)], keyword) for keyword in merged]


def _is_told_elsewhere(fate: _Fate) -> bool:
    role = classes.role(fate.before)
    return role == "reserved" or (role == "structural" and fate.source.is_target)


def _said(keyword: Keyword) -> Document:
    return {"name": keyword.name, "kind": keyword.kind, "value": value(keyword)}


def value(keyword: Keyword) -> str:
    """Return the value of a keyword as FITS writes it, that of CONTINUE cards included."""
    if keyword.kind == "commentary":
        return cards.split(keyword)[0]
    try:
        if len(keyword.cards) > 1:
            whole = cards.string(keyword)
            if whole is not None:
                return "'" + whole.replace("'", "''") + "'"
        return cards.split(keyword)[0]
    except errors.BadData:
        # kept as it is, though nobody can read it
        return keyword.cards[0].decode("latin-1").partition("=")[2].strip()


def _winner(fate: _Fate, keyword: Keyword, rivals: dict[tuple[str, str], list[_Fate]],
            chosen: set[int], priorities: dict[int, str]) -> Document:
    made = {**_said(keyword), "source": fate.name}
    if keyword.kind == "commentary":
        return {**made, "rule": f"commentary, kept from all; {fate.reason}", "lost": []}
    lost: list[Document] = []
    rule = fate.reason
    for other in rivals[keyword.key]:
        if other.after is None or id(other) in chosen:
            continue
        reason = "occurs twice in its source"
        if other.source is not fate.source:
            reason = priorities[id(other.source)]
            rule = f"{priorities[id(fate.source)]}; {fate.reason}"
        lost.append({"source": other.name, "value": value(other.before), "rule": reason})
    return {**made, "rule": rule, "lost": lost}


def _priorities(planned: Plan) -> dict[int, str]:
    by_rank = sorted(planned.sources, key=lambda source: source.rank)
    return {id(source): f"priority {number} of {len(by_rank)}"
            for number, source in enumerate(by_rank, 1)}


def _structure(planned: Plan) -> Iterator[Document]:
    base = planned.sources[0] if planned.base is not None else None
    theirs = {card for keyword in (base.found if base else []) for card in keyword.cards}
    for keyword in cards.read(planned.structure):
        of_target = base is not None and keyword.cards[0] in theirs
        yield {**_said(keyword), "source": base.spec["sourceName"] if of_target and base
               else MERGER, "rule": "structure of the target" if of_target
               else "structure of the product", "lost": []}


def _reserved(keyword: Keyword, rivals: dict[tuple[str, str], list[_Fate]]) -> Document:
    return {**_said(keyword), "source": MERGER, "rule": "written by the merger",
            "lost": _reserved_lost(keyword.name, rivals)}


def _reserved_lost(name: str, rivals: dict[tuple[str, str], list[_Fate]]) -> list[Document]:
    return [{"source": fate.name, "value": value(fate.before),
             "rule": "reserved for the merger"}
            for fate in rivals.get(("value", name), []) if fate.after is None]


def _fates(source: Source) -> list[_Fate]:
    """Return what becomes of the keywords of a source, those merged in their order."""
    listed = source.spec.get("keywordRules")
    out, own = _by_role(source, source.found, "")
    before, known = _by_role(source, source.initial, "initialKeywords; ")
    said = {fate.before.key for fate in own}
    out += before
    if listed is None:
        own, left = _by_default(source, own)
        out += left
        said = {fate.before.key for fate in own}
    late: list[_Fate] = []
    for fate in known:
        if fate.before.kind == "commentary" or fate.before.key not in said:
            late.append(fate)
        else:
            out.append(_Fate(source, fate.before, "initialKeywords; the source says it itself"))
    if listed is None:
        return late + own + out
    bound = [fate for fate in own if classes.role(fate.before) == "bound"]
    free = late + [fate for fate in own if classes.role(fate.before) != "bound"]
    return bound + _by_rules(listed, source, free) + out


def _by_role(source: Source, found: list[Keyword], prefix: str
             ) -> tuple[list[_Fate], list[_Fate]]:
    """Return those that the merger does not take at all, and the others."""
    out: list[_Fate] = []
    own: list[_Fate] = []
    for keyword in found:
        role = classes.role(keyword)
        if role == "bound" and source.is_target and not prefix:
            own.append(_Fate(source, keyword, "target; bound to its primary array", keyword))
        elif role:
            reason = _REASONS.get(role, "written by the merger")
            out.append(_Fate(source, keyword, prefix + reason))
        else:
            own.append(_Fate(source, keyword, _default(source, prefix), keyword))
    return out, own


def _default(source: Source, prefix: str) -> str:
    if source.spec.get("keywordRules") is not None:
        return prefix  # the rules add what they do
    if prefix:
        return "initialKeywords"
    return _DEFAULTS.get(source.default, "default: all")


def _by_default(source: Source, own: list[_Fate]) -> tuple[list[_Fate], list[_Fate]]:
    if source.default == "user":
        reason = "default: user class, and it is not of it"
        kept = [classes.is_user(fate.before) for fate in own]
    elif source.default == "extension":
        reason = "describes its primary array, which is an extension of the product"
        kept = [not classes.is_of_array(fate.before) for fate in own]
    else:
        return own, []
    left = [_Fate(source, fate.before, reason)
            for fate, stays in zip(own, kept, strict=True) if not stays]
    return [fate for fate, stays in zip(own, kept, strict=True) if stays], left


def _by_rules(listed: list[Document], source: Source, free: list[_Fate]) -> list[_Fate]:
    kept, left = free, []
    if not listed:
        return [_Fate(source, fate.before, "keywordRules is empty: copies nothing")
                for fate in free]
    trail: dict[int, list[str]] = {}
    steps = rules.steps(listed, [fate.before for fate in free], source.where, lambda _: None)
    for number, made in enumerate(steps, 1):
        remaining: list[_Fate] = []
        for fate, after in zip(kept, made, strict=True):
            was = fate.after
            fate.after = after
            if after is None:
                fate.reason += f"keyword rule {number}: not selected"
                left.append(fate)
                continue
            if was is not None and after.name != was.name:
                trail.setdefault(id(fate), []).append(
                    f"keyword rule {number}: renamed from {was.label}")
            remaining.append(fate)
        kept = remaining
    for fate in kept:
        fate.reason += "; ".join(trail.get(id(fate), ["keyword rules"]))
    return kept + left

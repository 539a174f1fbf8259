"""The merge of primary keywords: who wins, and in which order they stand.

ESO-396401 sections 8.3 and 12.4.1: of two value or ESO keywords of one name that of the source of
highest priority is kept; commentary is kept from all. Value keywords stay in the order of their
sources, ESO keywords are sorted by category and name (DICD section 3.1.1.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daq_merge import cards, classes, rules
from daq_merge.cards import Keyword, Warn
from daqlib import cardlayout

CATEGORIES = ("DPR", "OBS", "TPL", "GEN", "TEL", "ADA", "INS", "DET")


@dataclass(frozen=True, slots=True)
class Block:
    """The keywords that one source contributes.

    Attributes:
        where: the source, for messages.
        rank: priority, lower wins.
        keywords: in their own order.
        is_target: the source is the in-place target, whose keywords stand first.
    """

    where: str
    rank: int
    keywords: list[Keyword]
    is_target: bool = False


def from_json(items: list[dict[str, Any]], where: str, warn: Warn) -> list[Keyword]:
    """Return the keywords of a JSON list (schema ``keywords``).

    Raises:
        errors.BadData: a keyword that cannot be represented, or that would change the structure.
    """
    lines = [card for item in items for card in cardlayout.of_json(item, where, warn)]
    found = cards.read(lines)
    for keyword in found:
        if classes.is_reserved(keyword):
            warn(f"{where}: keyword {keyword.label} is written by the merger; the given value is "
                 "not used")
        if classes.is_bound(keyword):
            warn(f"{where}: keyword {keyword.label} is not used: only the merge target says what "
                 "the numbers of the primary array mean")
    return found


def mergeable(found: list[Keyword], source: dict[str, Any], where: str, default: str, warn: Warn
              ) -> list[Keyword]:
    """Return what of a source's keywords is merged, after its rules.

    Args:
        found: all keywords of the source's primary header, or its JSON keywords.
        source: the source object of the specification.
        where: the source, for messages.
        default: without rules: ``all``, ``user`` (class *user* only) or ``target``, which is
            all, and keeps what gives meaning to the primary array whatever the rules say.
        warn: told what is left out.

    Raises:
        errors.BadData: a rule is wrong.
    """
    free = [k for k in found if not (classes.is_structural(k) or classes.is_reserved(k))]
    bound = [k for k in free if classes.is_bound(k)]
    listed = source.get("keywordRules")
    if listed is not None:
        others = rules.apply(listed, [k for k in free if not classes.is_bound(k)], where, warn)
        return (bound if default == "target" else []) + others
    if default == "target":
        return free
    return [k for k in free
            if not classes.is_bound(k) and (default == "all" or classes.is_user(k))]


def with_initial(own: list[Keyword], initial: list[Keyword]) -> list[Keyword]:
    """Return a source's keywords with those given at start that it did not report itself."""
    known = {keyword.key for keyword in own}
    return [k for k in initial if k.kind == "commentary" or k.key not in known] + own


def merge(blocks: list[Block], warn: Warn) -> list[Keyword]:
    """Merge the keywords of all sources: value keywords, ESO keywords, commentary.

    A keyword stands among those of the source that it was taken from, so that keywords which
    belong together stay together.
    """
    by_rank = sorted(blocks, key=lambda block: block.rank)
    winners = _winners(by_rank, warn)
    in_order = sorted(by_rank, key=lambda block: not block.is_target)
    chosen = [k for block in in_order for k in block.keywords if winners.get(k.key) is k]
    eso = sorted((k for k in chosen if k.kind == "eso"), key=_dicd)
    comments = [k for block in by_rank for k in block.keywords if k.kind == "commentary"]
    return [k for k in chosen if k.kind == "value"] + eso + comments


def _winners(by_rank: list[Block], warn: Warn) -> dict[tuple[str, str], Keyword]:
    winners: dict[tuple[str, str], Keyword] = {}
    for block in by_rank:
        mine: dict[tuple[str, str], Keyword] = {}
        for keyword in block.keywords:
            if keyword.kind == "commentary":
                continue
            first = mine.setdefault(keyword.key, keyword)
            if first.cards != keyword.cards:
                warn(f"{block.where}: keyword {keyword.label} occurs twice; the first is used")
        for key, keyword in mine.items():
            winners.setdefault(key, keyword)
    return winners


def _dicd(keyword: Keyword) -> tuple[int, str, str]:
    category = keyword.name.partition(" ")[0]
    if category in CATEGORIES:
        return (CATEGORIES.index(category), "", keyword.name)
    return (len(CATEGORIES), category, keyword.name)

"""The merge of primary keywords: who wins, and in which order they stand.

ESO-396401 sections 8.3 and 12.4.1: of two value or ESO keywords of one name that of the source of
highest priority is kept; commentary is kept from all. Value keywords stay in the order of their
sources, ESO keywords are sorted by category and name (DICD section 3.1.1.3).
"""

from __future__ import annotations

from daq_merge import cards, classes, rules
from daq_merge.cards import Keyword
from daqlib import cardlayout, cardname, cardvalue, errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from daqlib.cardlayout import Warn

CATEGORIES = ("DPR", "OBS", "TPL", "GEN", "TEL", "ADA", "INS", "DET")
_RANKS = {category: rank for rank, category in enumerate(CATEGORIES)}


class Block:
    """The keywords that one source contributes.

    Attributes:
        where: the source, for messages.
        rank: priority, lower wins.
        keywords: in their own order.
        is_target: the source is the in-place target, whose keywords stand first.
    """

    __slots__ = ("is_target", "keywords", "rank", "where")

    def __init__(self, where: str, rank: int, keywords: list[Keyword],
                 is_target: bool = False) -> None:
        self.where = where
        self.rank = rank
        self.keywords = keywords
        self.is_target = is_target


def from_json(items: list[dict[str, Any]], where: str, warn: Warn) -> list[Keyword]:
    """Return the keywords of a JSON list (schema ``keywords``).

    Raises:
        errors.BadData: a keyword that cannot be represented, or that would change the structure.
    """
    found: list[Keyword] = []
    for item in items:
        lines = cardlayout.of_json(item, where, warn)
        kind = cardname.KINDS.get(item["type"])
        if kind is not None:
            found.append(Keyword(kind, item["name"], lines))
        else:
            cards.read(lines, found)  # a literal may be the CONTINUE of the one before
    for keyword in found:
        if keyword.kind == "value":
            _tell_role(keyword, where, warn)
    return found


def _tell_role(keyword: Keyword, where: str, warn: Warn) -> None:
    role = classes.role(keyword)
    if role == "reserved":
        warn(f"{where}: keyword {keyword.label} is written by the merger; the given value is "
             "not used")
    elif role == "bound":
        warn(f"{where}: keyword {keyword.label} is not used: only the merge target says what "
             "the numbers of the primary array mean")


def mergeable(found: list[Keyword], source: dict[str, Any], where: str, default: str, warn: Warn,
              initial: Sequence[Keyword] = ()) -> list[Keyword]:
    """Return what of a source's keywords is merged, after its rules.

    Args:
        found: all keywords of the source's primary header, or its JSON keywords.
        source: the source object of the specification.
        where: the source, for messages.
        default: without rules: ``all``, ``user`` (class *user* only), ``extension`` (but for what
            describes its primary array, which is an extension) or ``target``, which is all, and
            keeps what gives meaning to the primary array whatever the rules say.
        warn: told what is left out.
        initial: keywords known at the start; those that the source itself says, too, are not
            used. The rules are for them as well.

    Raises:
        errors.BadData: a rule is wrong.
    """
    known = [k for k in initial if not classes.role(k)]
    listed = source.get("keywordRules")
    if listed is None:
        return with_initial(_by_default(found, default), known)
    bound, free = divided(found)
    made = rules.apply(listed, with_initial(free, known), where, warn)
    return (bound if default == "target" else []) + made


def divided(found: list[Keyword]) -> tuple[list[Keyword], list[Keyword]]:
    """Return the keywords that are bound to the primary array, and those that rules may see."""
    bound: list[Keyword] = []
    free: list[Keyword] = []
    for keyword in found:
        role = classes.role(keyword)
        if not role:
            free.append(keyword)
        elif role == "bound":
            bound.append(keyword)
    return bound, free


def _by_default(found: list[Keyword], default: str) -> list[Keyword]:
    wanted = ("", "bound") if default == "target" else ("",)
    free = [k for k in found if k.kind == "eso" or classes.role(k) in wanted]
    if default == "extension":
        return [k for k in free if not classes.is_of_array(k)]
    return [k for k in free if classes.is_user(k)] if default == "user" else free


def with_initial(own: list[Keyword], initial: Sequence[Keyword]) -> list[Keyword]:
    """Return a source's keywords with those given at start that it did not report itself."""
    if not initial:
        return own
    known = {keyword.key for keyword in own}
    return [k for k in initial if k.kind == "commentary" or k.key not in known] + own


def merge(blocks: list[Block], warn: Warn) -> list[Keyword]:
    """Merge the keywords of all sources: value keywords, ESO keywords, commentary.

    A keyword stands among those of the source that it was taken from, so that keywords which
    belong together stay together.
    """
    by_rank = sorted(blocks, key=lambda block: block.rank)
    winners = _winners(by_rank, warn)
    values: list[Keyword] = []
    eso: list[Keyword] = []
    for block in sorted(by_rank, key=lambda block: not block.is_target):
        for keyword in block.keywords:
            # commentary is no winner
            if id(keyword) in winners:
                (eso if keyword.kind == "eso" else values).append(keyword)
    eso.sort(key=dicd)
    return values + eso + [k for block in by_rank for k in block.keywords
                           if k.kind == "commentary"]


def _winners(by_rank: list[Block], warn: Warn) -> set[int]:
    """Return the identities of the value and ESO keywords that are kept."""
    taken: set[tuple[str, str]] = set()
    winners: set[int] = set()
    for block in by_rank:
        mine: dict[tuple[str, str], list[Keyword]] = {}
        for keyword in block.keywords:
            if keyword.kind == "commentary":
                continue
            same = mine.setdefault(keyword.key, [])
            if not same or _stands_beside(keyword, same, block.where, warn):
                same.append(keyword)
        for key, same in mine.items():
            if key not in taken:
                taken.add(key)
                winners.update(map(id, same))
    return winners


def _stands_beside(keyword: Keyword, same: list[Keyword], where: str, warn: Warn) -> bool:
    """Whether a keyword is kept along with others of its name that the same source has."""
    if any(one.cards == keyword.cards for one in same):
        return False
    field = record_field(keyword)
    fields = [record_field(one) for one in same]
    if field and all(fields) and field not in fields:
        return True
    warn(f"{where}: keyword {keyword.label} occurs twice; the first is used")
    return False


def record_field(keyword: Keyword) -> str:
    """Return which field of a record a keyword says, or an empty string: it is an ordinary one.

    A record is told by several cards of one name, such as ``DP1 = 'AXIS.1: 1'`` (Representations
    of distortions in FITS world coordinate systems, section 2.1); they belong together.
    """
    try:
        text = cards.string(keyword) or ""
        field, colon, number = text.partition(": ")
        value = cardvalue.read(number.strip(), "")
    except errors.BadData:
        return ""
    said = isinstance(value, int | float) and not isinstance(value, bool)
    return field if said and colon and " " not in field else ""


def dicd(keyword: Keyword) -> tuple[int, str, str]:
    """Return what an ESO keyword is sorted by (DICD section 3.1.1.3)."""
    name = keyword.name
    category = name.partition(" ")[0]
    rank = _RANKS.get(category)
    # all other categories stand behind, by their names
    return (len(CATEGORIES), category, name) if rank is None else (rank, "", name)

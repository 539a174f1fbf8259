"""Which keyword a header card or a JSON keyword is, and which names are allowed.

Every card is a value, ESO or commentary keyword (ESO-396401 section 1.3); two keywords are the
same when kind and logical name are. The standard's ``OBJECT`` and ``HIERARCH ESO OBJECT`` differ.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from daqlib import errors

Kind = Literal["value", "eso", "commentary"]

CARD = 80
NAME = re.compile(r"[A-Z0-9_-]{1,8}")
ESO_NAME = re.compile(r"[A-Z0-9_-]+( [A-Z0-9_-]+)*")
#: What stands before the logical name on the card of an ESO keyword.
ESO_PREFIX = "HIERARCH ESO "
#: Longest logical name of an ESO keyword: a card less ``HIERARCH ESO `` and the shortest value.
ESO_NAME_MAX = 63
COMMENTARY = ("COMMENT", "HISTORY", "")
#: The JSON variants that name their keyword.
KINDS: dict[str, Kind] = {"valueKeyword": "value", "esoKeyword": "eso"}

_STRUCTURAL = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|BLOCKED|GROUPS|PCOUNT|GCOUNT|TFIELDS|THEAP|END"
    r"|(TFORM|TTYPE|TBCOL)\d+|TFORM")


class Unfit(errors.BadData):
    """A keyword that no card can hold, or that breaks a rule.

    Args:
        label: which keyword, and whose.
        rule: the rule that it breaks.
    """

    def __init__(self, label: str, rule: str) -> None:
        super().__init__(f"{label}: {rule}", "correct the keyword")
        self.rule = rule


def classify(card: str) -> tuple[Kind, str]:
    """Return kind and logical name of a card's text.

    ESO-396401 section 1.3; COMMENT, HISTORY and blank names never have a value (FITS Standard 4.0,
    section 4.4.2.4). A HIERARCH keyword of another domain than ESO counts as an ESO keyword and
    keeps ``HIERARCH`` in its name.
    """
    text = card.ljust(CARD)
    name = text[:8].rstrip(" ")
    if name == "HIERARCH" and text[8] == " ":
        tokens = text[9:].partition("=")
        words = tokens[0].split()
        if tokens[1] and words and words != ["ESO"]:
            return "eso", " ".join(words[1:] if words[0] == "ESO" else ["HIERARCH", *words])
        return "commentary", name
    if text[8:10] == "= " and name not in (*COMMENTARY, "CONTINUE"):
        return "value", name
    return "commentary", name


def of_json(item: dict[str, Any]) -> tuple[Kind, str]:
    """Return kind and logical name of a JSON keyword; a literal's are those of its card."""
    variant = str(item.get("type"))
    if variant in KINDS:
        return KINDS[variant], str(item.get("name", ""))
    if variant == "literalKeyword":
        return classify(str(item.get("value", "")))
    return "commentary", str(item.get("name", ""))


def is_continuation(item: dict[str, Any]) -> bool:
    """Tell whether a JSON keyword goes on with the string of the one before it.

    Such is a literal CONTINUE card (FITS Standard 4.0, section 4.2.1.2).
    """
    return item.get("type") == "literalKeyword" and of_json(item) == ("commentary", "CONTINUE")


def is_structural(kind: Kind, name: str) -> bool:
    """Tell whether a keyword describes the structure of a file, which no source may change."""
    return kind != "eso" and _STRUCTURAL.fullmatch(name) is not None


def check_name(kind: Kind, name: str, where: str) -> None:
    """Refuse an illegal name (FITS Standard 4.0, section 4.1.2.1; HIERARCH convention).

    Raises:
        Unfit: says which rule it breaks.
    """
    label = f"{where}: keyword {name!r}"
    if kind == "eso":
        if name.startswith(ESO_PREFIX):
            raise Unfit(label, f"an ESO name is written without {ESO_PREFIX.strip()}")
        if not ESO_NAME.fullmatch(name):
            raise Unfit(label, "an ESO name is words of A-Z 0-9 - _ with one blank between")
        if len(name) > ESO_NAME_MAX:
            raise Unfit(label, f"an ESO name has at most {ESO_NAME_MAX} characters")
    elif kind == "value":
        if not NAME.fullmatch(name):
            raise Unfit(label, "a name is 1 to 8 of A-Z 0-9 - _")
        if name in (*COMMENTARY, "CONTINUE", "HIERARCH", "END"):
            raise Unfit(label, "this name takes no value")
    elif name not in COMMENTARY and not NAME.fullmatch(name):
        raise Unfit(label, "a commentary name is blank or 1 to 8 of A-Z 0-9 - _")

"""Which keyword a header card or a JSON keyword is, and which names are allowed.

Every card is a value, ESO or commentary keyword (ESO-396401 section 1.3); two keywords are the
same when kind and logical name are. The standard's ``OBJECT`` and ``HIERARCH ESO OBJECT`` differ.
"""

from __future__ import annotations

from daqlib import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    Kind = Literal["value", "eso", "commentary"]
else:
    Kind = str

CARD = 80
#: What stands before the logical name on the card of an ESO keyword.
ESO_PREFIX = "HIERARCH ESO "
#: Longest logical name of an ESO keyword: a card less ``HIERARCH ESO `` and the shortest value.
ESO_NAME_MAX = 63
COMMENTARY = ("COMMENT", "HISTORY", "")
#: The JSON variants that name their keyword.
KINDS: dict[str, Kind] = {"valueKeyword": "value", "esoKeyword": "eso"}

_DOMAIN = "HIERARCH "
_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_ESO_CHARS = _CHARS | {" "}
_NO_VALUE = frozenset((*COMMENTARY, "CONTINUE"))
_TAKES_NO_VALUE = frozenset((*COMMENTARY, "CONTINUE", "HIERARCH", "END"))
_STRUCTURAL = frozenset((
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXISn", "EXTEND", "BLOCKED", "GROUPS", "PCOUNT",
    "GCOUNT", "TFIELDS", "THEAP", "END", "TFORM", "TFORMn", "TTYPEn", "TBCOLn"))
# they say what the numbers of the primary array mean: from another file they would falsify it
_BOUND = frozenset(("BSCALE", "BZERO", "BLANK", "PTYPEn", "PSCALn", "PZEROn"))
_DIGITS = str.maketrans("0123456789", "n" * 10)


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
    keeps ``HIERARCH`` in its name, see :func:`prefix`.
    """
    name = card[:8].rstrip(" ")
    if name == "HIERARCH" and card[8:9] == " ":
        text, equals, _ = card[9:].partition("=")
        words = text.split()
        if equals and words and words != ["ESO"]:
            # the keyword HIERARCH X of the domain ESO must not pass for one of the domain X
            own = words[0] == "ESO" and (words[1] != "HIERARCH" or len(words) == 2)
            return "eso", " ".join(words[1:]) if own else _DOMAIN + " ".join(words)
        return "commentary", name
    # a card that ends with its '=' has blanks behind it
    if (card[8:10] == "= " or card[8:] == "=") and name not in _NO_VALUE:
        return "value", name
    return "commentary", name


def prefix(name: str) -> str:
    """Return how the card of an ESO keyword begins: logical name and what stands before it."""
    return name if name.startswith(_DOMAIN) else ESO_PREFIX + name


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


def shape(name: str) -> str:
    """Return a name with ``n`` for each number in it, and no other small letter: ``NAXISn``.

    Names that differ in case only have one shape, because many readers take them for the same.
    """
    made = name.upper().translate(_DIGITS)
    while "nn" in made:
        made = made.replace("nn", "n")
    return made


def is_structural(kind: Kind, name: str) -> bool:
    """Tell whether a keyword describes the structure of a file, which no source may change."""
    return kind != "eso" and shape(name) in _STRUCTURAL


def is_bound(kind: Kind, name: str) -> bool:
    """Tell whether a keyword gives the numbers of a primary array their meaning."""
    return kind == "value" and shape(name) in _BOUND


def check_name(kind: Kind, name: str, where: str) -> None:
    """Refuse an illegal name (FITS Standard 4.0, section 4.1.2.1; HIERARCH convention).

    Raises:
        Unfit: says which rule it breaks.
    """
    if kind == "eso":
        _check_eso_name(name, where)
    elif kind == "value":
        if not _is_standard(name):
            raise Unfit(f"{where}: keyword {name!r}", "a name is 1 to 8 of A-Z 0-9 - _")
        if name in _TAKES_NO_VALUE:
            raise Unfit(f"{where}: keyword {name!r}", "this name takes no value")
    elif name not in COMMENTARY and not _is_standard(name):
        raise Unfit(f"{where}: keyword {name!r}",
                    "a commentary name is blank or 1 to 8 of A-Z 0-9 - _")


def _is_standard(name: str) -> bool:
    return 1 <= len(name) <= 8 and _CHARS.issuperset(name)


def _check_eso_name(name: str, where: str) -> None:
    if name.startswith(ESO_PREFIX):
        raise Unfit(f"{where}: keyword {name!r}",
                    f"an ESO name is written without {ESO_PREFIX.strip()}")
    if not (_ESO_CHARS.issuperset(name) and name.strip(" ") == name != "" and "  " not in name):
        raise Unfit(f"{where}: keyword {name!r}",
                    "an ESO name is words of A-Z 0-9 - _ with one blank between")
    if len(name) > ESO_NAME_MAX:
        raise Unfit(f"{where}: keyword {name!r}",
                    f"an ESO name has at most {ESO_NAME_MAX} characters")

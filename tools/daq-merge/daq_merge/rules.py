"""Keyword rules: which keywords of a source are merged, and under which names.

The list of rules is applied in order, each to what the one before left (schema ``keyword-rules``).
A selection pattern is ``+`` or ``-``, class letters (``e`` ESO, ``v`` value, ``c`` commentary), a
blank and a glob for the whole logical name; patterns act in order on a selection that begins empty.
"""

from __future__ import annotations

from daq_merge import cards, classes
from daqlib import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator
    from typing import Any

    from daq_merge.cards import Keyword
    from daqlib.cardlayout import Warn

_LETTERS = {"e": "eso", "v": "value", "c": "commentary"}


def apply(rules: list[dict[str, Any]], keywords: list[Keyword], where: str, warn: Warn
          ) -> list[Keyword]:
    """Return what the rules make of a source's non-structural keywords; no rules, no keywords.

    Raises:
        errors.BadData: a rule is malformed or makes an illegal name.
    """
    if not rules:
        return []
    for made in steps(rules, keywords, where, warn):
        keywords = [keyword for keyword in made if keyword is not None]
    return keywords


def steps(rules: list[dict[str, Any]], keywords: list[Keyword], where: str, warn: Warn
          ) -> Iterator[list[Keyword | None]]:
    """Yield for each rule what it makes of each keyword that it gets; None: left out.

    Raises:
        errors.BadData: a rule is malformed or makes an illegal name.
    """
    for number, rule in enumerate(rules, 1):
        label = f"{where}: keyword rule {number}"
        selected = _select(rule.get("selectionPatterns", []), keywords, label)
        made: list[Keyword | None]
        if rule.get("type") == "filter":
            made = [k if chosen else None for k, chosen in zip(keywords, selected, strict=True)]
        elif rule.get("type") == "transform":
            pattern = _regex(rule.get("regex"), label)
            form = str(rule.get("format", ""))
            made = [_transform(k, pattern, form, label, warn) if chosen else k
                    for k, chosen in zip(keywords, selected, strict=True)]
        else:
            raise errors.BadData(f"{label}: type is {rule.get('type')!r}",
                                 "use 'filter' or 'transform'")
        yield made
        keywords = [keyword for keyword in made if keyword is not None]


def _select(patterns: list[str], keywords: list[Keyword], label: str) -> list[bool]:
    selected = [False] * len(keywords)
    for pattern in patterns:
        sign, letters, glob = _parsed(pattern, label)
        kinds = {_LETTERS[letter] for letter in letters}
        matches = _matcher(glob)
        for at, keyword in enumerate(keywords):
            if keyword.kind in kinds and matches(keyword.name):
                selected[at] = sign == "+"
    return selected


def _parsed(pattern: str, label: str) -> tuple[str, str, str]:
    """Return sign, class letters and glob of a selection pattern."""
    sign, (letters, _, rest) = pattern[:1], pattern[1:].partition(" ")
    if sign not in ("+", "-") or not letters or letters.strip("evc") or not rest:
        raise errors.BadData(f"{label}: pattern {pattern!r} is not understood",
                             "write for example '+e INS *'")
    return sign, letters, rest.lstrip(" ") or rest


def _matcher(glob: str) -> Callable[[str], object]:
    """Return a function that tells whether a glob matches a whole name."""
    begin = glob[:-1]
    if not any(char in begin for char in "*?["):
        if glob.endswith("*"):
            return lambda name: name.startswith(begin)
        if not glob.endswith(("?", "[")):
            return glob.__eq__
    import fnmatch
    import re

    return re.compile(fnmatch.translate(glob)).match


def _regex(text: object, label: str) -> re.Pattern[str]:
    import re

    try:
        return re.compile(str(text))
    except (re.error, RecursionError, OverflowError) as error:
        raise errors.BadData(f"{label}: regex {text!r}: {error}", "correct the regex") from error


def _transform(keyword: Keyword, pattern: re.Pattern[str], form: str, label: str, warn: Warn
               ) -> Keyword:
    name = pattern.sub(lambda found: _expand(form, found, label), keyword.name)
    made = cards.renamed(keyword, name, label, warn)
    if made is not keyword and classes.role(made):
        raise errors.BadData(f"{label}: {keyword.label} may not become {name}",
                             "choose a name that does not describe the file itself")
    return made


def _expand(form: str, found: re.Match[str], label: str) -> str:
    r"""Fill in a format with ``$1``, ``$&``, ``$$`` (ECMAScript) or ``\1``."""
    import re

    def one(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name == "$":
            return "$"
        group = 0 if name == "&" else int(name)
        if group > found.re.groups:
            raise errors.BadData(f"{label}: format {form!r}: the regex has no group {group}",
                                 "correct the format")
        return found[group] or ""

    return re.sub(r"\$(\$|&|\d{1,2})|\\(\d)", one, form)

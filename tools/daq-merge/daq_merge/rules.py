"""Keyword rules: which keywords of a source are merged, and under which names.

The list of rules is applied in order, each to what the one before left (schema ``keyword-rules``).
A selection pattern is ``+`` or ``-``, class letters (``e`` ESO, ``v`` value, ``c`` commentary), a
blank and a glob for the whole logical name; patterns act in order on a selection that begins empty.
"""

from __future__ import annotations

import re
from typing import Any

from daq_merge import cards, classes
from daq_merge.cards import Keyword, Warn
from daqlib import errors

_PATTERN = re.compile(r"([+-])([evc]+) +(.+)")
_LETTERS = {"e": "eso", "v": "value", "c": "commentary"}
_REFERENCE = re.compile(r"\$(\$|&|\d{1,2})|\\(\d)")


def apply(rules: list[dict[str, Any]], keywords: list[Keyword], where: str, warn: Warn
          ) -> list[Keyword]:
    """Return what the rules make of a source's non-structural keywords; no rules, no keywords.

    Raises:
        errors.BadData: a rule is malformed or makes an illegal name.
    """
    if not rules:
        return []
    for number, rule in enumerate(rules, 1):
        label = f"{where}: keyword rule {number}"
        selected = _select(rule.get("selectionPatterns", []), keywords, label)
        if rule.get("type") == "filter":
            keywords = [k for k, chosen in zip(keywords, selected, strict=True) if chosen]
        elif rule.get("type") == "transform":
            pattern = _regex(rule.get("regex"), label)
            form = str(rule.get("format", ""))
            keywords = [_transform(k, pattern, form, label, warn) if chosen else k
                        for k, chosen in zip(keywords, selected, strict=True)]
        else:
            raise errors.BadData(f"{label}: type is {rule.get('type')!r}",
                                 "use 'filter' or 'transform'")
    return keywords


def _select(patterns: list[str], keywords: list[Keyword], label: str) -> list[bool]:
    import fnmatch

    selected = [False] * len(keywords)
    for pattern in patterns:
        found = _PATTERN.fullmatch(pattern)
        if not found:
            raise errors.BadData(f"{label}: pattern {pattern!r} is not understood",
                                 "write for example '+e INS *'")
        kinds = {_LETTERS[letter] for letter in found[2]}
        glob = re.compile(fnmatch.translate(found[3]))
        for at, keyword in enumerate(keywords):
            if keyword.kind in kinds and glob.match(keyword.name):
                selected[at] = found[1] == "+"
    return selected


def _regex(text: object, label: str) -> re.Pattern[str]:
    try:
        return re.compile(str(text))
    except re.error as error:
        raise errors.BadData(f"{label}: regex {text!r}: {error}", "correct the regex") from error


def _transform(keyword: Keyword, pattern: re.Pattern[str], form: str, label: str, warn: Warn
               ) -> Keyword:
    name = pattern.sub(lambda found: _expand(form, found, label), keyword.name)
    made = cards.renamed(keyword, name, label, warn)
    if made is not keyword and (
            classes.is_structural(made) or classes.is_reserved(made) or classes.is_bound(made)):
        raise errors.BadData(f"{label}: {keyword.label} may not become {name}",
                             "choose a name that does not describe the file itself")
    return made


def _expand(form: str, found: re.Match[str], label: str) -> str:
    r"""Fill in a format with ``$1``, ``$&``, ``$$`` (ECMAScript) or ``\1``."""

    def one(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name == "$":
            return "$"
        group = 0 if name == "&" else int(name)
        if group > found.re.groups:
            raise errors.BadData(f"{label}: format {form!r}: the regex has no group {group}",
                                 "correct the format")
        return found[group] or ""

    return _REFERENCE.sub(one, form)

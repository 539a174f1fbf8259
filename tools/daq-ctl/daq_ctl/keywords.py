"""Accept keywords, or refuse all of them: the dictionaries' rules, and that a card can hold each.

What no card can hold would fail the merge, long after the one who gave it has gone (ESO-396401,
section 9.1.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from daqlib import cardlayout, dictionary
from daqlib.cardname import Unfit
from daqlib.dictionary import Dictionaries

Keywords = list[dict[str, Any]]


def accepted(known: Dictionaries, keywords: Keywords, where: str) -> Keywords:
    """Return keywords as they are to be recorded.

    Args:
        known: the dictionaries.
        keywords: checked against their schema.
        where: what they belong to, for messages.

    Raises:
        dictionary.InvalidKeywords: tells all that are not valid.
    """
    made = known.formatted(keywords, where)
    _check_cards([(where, made)])
    return made


def accepted_specification(known: Dictionaries, document: dict[str, Any]) -> dict[str, Any]:
    """Return a StartDaqV2 specification with its keywords as they are to be recorded.

    Raises:
        dictionary.InvalidKeywords: tells all that are not valid.
    """
    made = known.specification(document)
    _check_cards((where, holder[member])
                 for where, holder, member in dictionary.keyword_lists(made))
    return made


def _check_cards(lists: Iterable[tuple[str, Keywords]]) -> None:
    failures, total = [], 0
    for where, keywords in lists:
        total += len(keywords)
        for item in keywords:
            try:
                cardlayout.of_json(item, where, lambda _: None)
            except Unfit as error:
                failures.append(dictionary.failure(item, error.rule, where))
    if failures:
        raise dictionary.InvalidKeywords(failures, total)

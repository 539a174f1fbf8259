"""``daq-ctl keywords check``: what the dictionaries say of keywords, without starting anything.

The rules are those of the commands (ESO-396401 section 9.1.3); the cards are shown as the merger
writes them.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from daqlib import cardlayout, cardname, cli, config, dictionary, errors, job, schema

Keyword = dict[str, Any]
Lists = list[tuple[str, list[Any]]]


def run(options: argparse.Namespace, words: list[str]) -> int:
    """Check the keywords in a file; print their cards, or else what is wrong with them.

    Args:
        options: ``config`` and ``json``.
        words: ``check`` and the file: a JSON list of keywords, or a StartDaqV2 specification; ``-``
            is stdin.

    Returns:
        0 all are valid, 1 some are not, 65 some are no keywords at all.

    Raises:
        errors.Usage: other words.
        errors.BadData: the file is not JSON, or no specification.
        errors.BadConfig: a dictionary is not right.
    """
    if len(words) != 2 or words[0] != "check":
        raise errors.Usage("keywords takes 'check <file>' or 'policy [<file>]'",
                           "try 'daq-ctl --help'")
    settings = config.load(options.config)
    known = dictionary.load(settings["dictionaries"])
    document = _document(words[1])
    if not known.paths:
        cli.say("no dictionaries are configured: only the form is checked")
    lists = _lists(document)
    failures = [found for where, items in lists for found in _misshapen(where, items)]
    if failures:
        return _answer(failures, [], [], errors.BadData.code, as_json=options.json)
    if isinstance(document, dict):
        job.check(document)
    return _check(known, lists, as_json=options.json)


def _document(word: str) -> Any:
    argument = "@-" if word == "-" else word if word.startswith("@") else f"@{word}"
    return cli.json_argument(argument, "standard input" if argument == "@-" else word)


def _lists(document: Any) -> Lists:
    if isinstance(document, list):
        return [("keywords", document)]
    if not isinstance(document, dict) or not isinstance(document.get("sources"), list):
        raise errors.BadData("this is neither a list of keywords nor a specification with sources",
                             'write [{"type": "esoKeyword", ...}], or see docs/formats.md')
    whole = {**document, "sources": [s for s in document["sources"] if isinstance(s, dict)]}
    lists = [(where, holder[member])
             for where, holder, member in dictionary.keyword_lists(whole)]
    return [(where, items) for where, items in lists if isinstance(items, list)]


def _misshapen(where: str, items: list[Any]) -> list[Keyword]:
    """Return what the schema says of each keyword that it refuses."""
    try:
        schema.check("keywords", items, where)
    except errors.BadData:
        return [found for item in items if (found := _fault(where, item))]
    return []


def _fault(where: str, item: Any) -> Keyword | None:
    try:
        schema.check("keywords", [item], where)
    except errors.BadData as error:
        rule = error.message.removeprefix(f"{where} is not valid: ").replace("0/", "")
        return dictionary.failure(item, rule.removeprefix("0: "), where)
    return None


def _check(known: dictionary.Dictionaries, lists: Lists, *, as_json: bool) -> int:
    keywords: list[Keyword] = []
    failures: list[Keyword] = []
    cards: list[bytes] = []
    for where, items in lists:
        try:
            made = known.formatted(items, where)
        except dictionary.InvalidKeywords as error:
            failures += error.failures
            continue
        keywords += made
        for item in made:
            try:
                cards += cardlayout.of_json(item, where, cli.warn)
            except cardname.Unfit as error:
                failures.append(dictionary.failure(item, error.rule, where))
    code = errors.NO if failures else errors.OK
    return _answer(failures, keywords, cards, code, as_json=as_json)


def _answer(failures: list[Keyword], keywords: list[Keyword], cards: list[bytes], code: int, *,
            as_json: bool) -> int:
    if failures:
        keywords, cards = [], []  # a command would apply none of them
    written = [card.decode("ascii").rstrip() for card in cards]
    if as_json:
        cli.show(json.dumps({"ok": not failures, "failures": failures, "keywords": keywords,
                             "cards": written}, indent=4, ensure_ascii=False))
        return code
    for line in [_plain(dictionary.line(found)) for found in failures] or written:
        cli.show(line)
    return code


def _plain(text: str) -> str:
    """Return a text from the file as it may be shown on a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

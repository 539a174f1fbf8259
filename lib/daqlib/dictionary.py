"""Keyword dictionaries: validate, format and comment the FITS keywords that users give.

ESO-396401 sections 9.1.3 (Data Validation) and 11.3.5 (``cfg/dictionaries``). The rules are told
in ``docs/dictionaries.md``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from daqlib import cardlayout, cardname, cardvalue, cli, dictionary_file, errors
from daqlib.cardname import Kind, Unfit
from daqlib.dictionary_entry import Entry

Keyword = dict[str, Any]
Key = tuple[Kind, str]

_FILES_MAX = 64
_HINTS_MAX = 10  # the nearest name is looked for in all entries, while others wait for the daemon
_DIGITS = re.compile("[0-9#]")


class InvalidKeywords(errors.BadData):
    """Keywords that break the rules of the dictionaries; all of them.

    Args:
        failures: of each its ``keyword``, ``value``, ``rule``, and ``where`` it was given.
        total: how many keywords were looked at.
    """

    def __init__(self, failures: list[Keyword], total: int) -> None:
        self.failures = failures
        count = f"{len(failures)} of {total} keywords {'is' if len(failures) == 1 else 'are'}"
        super().__init__(f"{count} not valid: {'; '.join(map(line, failures))}",
                         "nothing was changed, correct them and repeat")


def line(failure: Keyword) -> str:
    """Return a failure in words."""
    value = cardvalue.short(failure["value"])
    return f"{failure['where']}: {failure['keyword']} = {value}: {failure['rule']}"


@dataclass(frozen=True)
class Dictionaries:
    """The dictionaries in force.

    Attributes:
        paths: their files; empty: keywords are not looked at.
        entries: by kind and name.
        indexed: those with an index, by kind and name less digits and ``#``.
    """

    paths: tuple[str, ...] = ()
    entries: dict[Key, Entry] = field(default_factory=dict)
    indexed: dict[Key, list[tuple[re.Pattern[str], Entry]]] = field(default_factory=dict)

    def find(self, kind: Kind, name: str) -> Entry | None:
        """Return the entry for a keyword: of this very name, else one with an index."""
        found = self.entries.get((kind, name))
        if found is not None:
            return found
        for pattern, entry in self.indexed.get((kind, _DIGITS.sub("", name)), ()):
            if pattern.fullmatch(name):
                return entry
        return None

    def formatted(self, keywords: list[Keyword], where: str) -> list[Keyword]:
        """Return keywords with their comment and format filled in.

        Args:
            keywords: JSON keywords (schema ``keywords``).
            where: what they belong to, for messages.

        Raises:
            InvalidKeywords: one or more of them are not valid.
        """
        return self._checked([(where, keywords)])[0]

    def specification(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return a StartDaqV2 specification with the keywords in it as by :meth:`formatted`.

        Args:
            document: checked against its schema.

        Raises:
            InvalidKeywords: keywords are not valid; those of the whole document.
        """
        if not self.paths:
            return document
        made = {**document, "sources": [dict(source) for source in document["sources"]]}
        places = list(keyword_lists(made))
        lists = self._checked([(where, holder[member]) for where, holder, member in places])
        for (_, holder, member), checked in zip(places, lists, strict=True):
            holder[member] = checked
        return made

    def _checked(self, lists: list[tuple[str, list[Keyword]]]) -> list[list[Keyword]]:
        if not self.paths:
            return [list(keywords) for _, keywords in lists]
        failures: list[Keyword] = []
        made = [[self._one(item, where, failures) for item in keywords]
                for where, keywords in lists]
        if failures:
            raise InvalidKeywords(failures, sum(map(len, made)))
        return made

    def _one(self, item: Keyword, where: str, failures: list[Keyword]) -> Keyword:
        try:
            if not isinstance(item, dict):
                raise Unfit(where, "this is no keyword: write {\"type\": ...}")
            cardlayout.check_shape(item, where)
            made = self._valid(item, hint=len(failures) < _HINTS_MAX)
            cardlayout.of_json(made, where, lambda _: None)
        except Unfit as error:
            failures.append(failure(item, error.rule, where))
            return item
        return made

    def _valid(self, item: Keyword, *, hint: bool) -> Keyword:
        kind, name = cardname.of_json(item)
        if kind == "commentary" or cardname.is_structural(kind, name):
            return item  # the layout of cards refuses the latter
        if item["type"] == "literalKeyword":
            cardlayout.literal(item["value"], name)
        else:
            cardname.check_name(kind, name, name)
        entry = self.find(kind, name)
        if entry is None:
            raise Unfit(name, "unknown keyword" + (self._nearest(kind, name) if hint else ""))
        if item["type"] == "literalKeyword":
            value = cardlayout.literal_value(item["value"], name)
            entry.accept(value)
            _check_length(entry, value, name)
            return item
        made = {**item, "value": entry.accept(item.get("value"))}
        if entry.format is not None:
            made["format"] = entry.format.text
        if entry.comment and not item.get("comment"):
            made["comment"] = entry.comment
        return made

    def _nearest(self, kind: Kind, name: str) -> str:
        other: Kind = "value" if kind == "eso" else "eso"
        if self.find(other, name) is not None:
            called = "a standard keyword" if other == "value" else "an ESO keyword"
            return f"; {name} is {called}: use {other}Keyword"
        near = difflib.get_close_matches(name, [n for k, n in self.entries if k == kind], 1)
        return f"; the nearest known one is {near[0]}" if near else ""


def _check_length(entry: Entry, value: cardvalue.Value, name: str) -> None:
    """Hold a literal's string to its format, too; how a literal is written is its own business."""
    if entry.format is not None and isinstance(value, str) and entry.format.letter == "s":
        cardvalue.token(value, name, entry.format.text)


def failure(item: Keyword, rule: str, where: str) -> Keyword:
    """Return a failure of a JSON keyword, see :class:`InvalidKeywords`."""
    if not isinstance(item, dict):
        return {"keyword": "?", "value": item, "rule": rule, "where": where}
    value = item.get("value")
    if isinstance(value, float) and (value - value) != 0:
        value = repr(value)  # JSON has no NaN and no infinity
    name = cardname.of_json(item)[1] or str(item.get("type", "?"))
    return {"keyword": name, "value": value, "rule": rule, "where": where}


def keyword_lists(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the lists of keywords in a StartDaqV2 specification.

    Yields:
        How to call it, the object that has it, and the name of its member there.
    """
    if "keywords" in document:
        yield "keywords", document, "keywords"
    for source in document["sources"]:
        for member in ("initialKeywords", "keywords"):
            if member in source:
                yield f"source {source.get('sourceName')}", source, member


def load(paths: list[str], cfgpath: str | list[str] | None = None, *,
         by: str = "cfg/dictionaries") -> Dictionaries:
    """Load dictionaries.

    Of two that define one keyword differently the first listed wins, with a warning. An included
    dictionary counts as listed after the one that includes it.

    Args:
        paths: of their files, relative to an entry of ``cfgpath``.
        cfgpath: directories, in a list or with colons between; None: ``$CFGPATH``.
        by: where the paths are given, for messages.

    Raises:
        errors.BadConfig: one is not there or not right; names file, line, entry and reason.
    """
    listed = os.environ.get("CFGPATH", "") if cfgpath is None else cfgpath
    folders = listed.split(":") if isinstance(listed, str) else listed
    places: dict[str, None] = {}
    entries: dict[Key, Entry] = {}
    todo = [(path, by, True) for path in reversed(paths)]
    while todo:
        name, by, needed = todo.pop()
        path = _find(name, by, folders, needed=needed)
        if not path or path in places:
            continue
        places[path] = None
        if len(places) > _FILES_MAX:
            raise errors.BadConfig(f"more than {_FILES_MAX} dictionaries, the last is {path}",
                                   "check the includes")
        document = dictionary_file.read(path)
        _join(entries, document)
        todo += [(other, f"{path}:{number}", False)
                 for other, number in reversed(document.includes)]
    return Dictionaries(tuple(places), entries, _index(entries))


def _find(name: str, by: str, folders: list[str], *, needed: bool) -> str:
    """Return the file of a Config Path (ESO-396401 sections 1.3 and 11.3.5); empty: not there."""
    if os.path.isabs(name) or ".." in name.split("/") or not name:
        raise errors.BadConfig(f"{by}: dictionary {name!r} is not a path below $CFGPATH",
                               "put its directory on CFGPATH and name it from there")
    tried = [os.path.join(folder, name) for folder in folders if folder]
    for path in tried:
        if os.path.isfile(path):
            return os.path.abspath(path)
    reason = f"tried {', '.join(tried)}" if tried else "CFGPATH is empty"
    if needed:
        raise errors.BadConfig(f"{by}: dictionary {name} not found ({reason})",
                               "mend the path, or set CFGPATH")
    cli.warn(f"{by}: included dictionary {name} not found ({reason}): left out")
    return ""


def _join(entries: dict[Key, Entry], document: dictionary_file.Document) -> None:
    for key, entry in document.entries.items():
        first = entries.setdefault(key, entry)
        if not first.says_the_same(entry):
            cli.warn(f"{entry.place}: {entry.name} is defined differently at {first.place}, "
                     "which was listed first and is used")


def _index(entries: dict[Key, Entry]) -> dict[Key, list[tuple[re.Pattern[str], Entry]]]:
    made: dict[Key, list[tuple[re.Pattern[str], Entry]]] = {}
    # the fewer indices, the more an entry says of its keyword
    for (kind, name), entry in sorted(entries.items(), key=lambda pair: pair[0][1].count("#")):
        if "#" in name:
            made.setdefault((kind, _DIGITS.sub("", name)), []).append((entry.pattern(), entry))
    return made

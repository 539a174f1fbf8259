"""The header policy of a specification: what of it the merged keywords lack, or do not heed.

A policy never stops a product: what is missing is written as the policy says, what is wrong stays,
and both are told.
"""

from __future__ import annotations

from daq_merge import cards, classes
from daq_merge.cards import Keyword
from daqlib import alerts, cardvalue, errors, headerpolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daq_merge.keywords import Block
    from daqlib.cardlayout import Warn
    from daqlib.headerpolicy import Entry

#: How it is called where a source's name stands.
NAME = "policy"

_WHERE = "header policy"
_MOST = 100  # keywords that an alert names


class Policy:
    """The policy of a product.

    Attributes:
        missing: the entries of keywords that no source gives.
    """

    __slots__ = ("_entries", "_file", "missing")

    def __init__(self, document: Any, blocks: list[Block]) -> None:
        """Compare a policy with what the sources give.

        Args:
            document: the member ``headerPolicy`` of the specification.
            blocks: what the sources give.

        Raises:
            errors.BadData: it is not right.
        """
        self._entries = headerpolicy.entries(document, "headerPolicy")
        self._file = str(document.get("file") or "of the specification")
        given = {keyword.key for block in blocks for keyword in block.keywords}
        given.update(("value", name) for name in classes.RESERVED)
        self.missing = [entry for entry in self._entries if entry.key not in given]

    def keywords(self, warn: Warn) -> list[Keyword]:
        """Return what is written for the missing keywords: all but optional ones without value."""
        return [Keyword(entry.kind, entry.name, entry.cards(_WHERE, warn))
                for entry in self.missing if entry.required or entry.default is not None]

    def alerts(self, merged: list[Keyword]) -> list[dict[str, Any]]:
        """Return what the job must show.

        Args:
            merged: the keywords of the product, those of the policy included, and the merger's own.
        """
        empty, wrong = self._wrong({keyword.key: keyword for keyword in reversed(merged)})
        lost = [entry for entry in self.missing if entry.required]
        filled = [entry for entry in self.missing
                  if not entry.required and entry.default is not None]
        found = [
            ("header-missing", "required keywords are missing", "their null values were written",
             [(entry.name, entry.source) for entry in lost + empty]),
            ("header-default", "keywords are missing", "their defaults were written",
             [(entry.name, entry.source) for entry in filled]),
            ("header-invalid", "values are not allowed", "they were kept",
             [(text, entry.source) for entry, text in wrong])]
        return [alerts.make(condition, "", f"{what}: {_listed(told)}; {done} (policy {self._file})")
                for condition, what, done, told in found if told]

    def _wrong(self, by_key: dict[tuple[str, str], Keyword],
               ) -> tuple[list[Entry], list[tuple[Entry, str]]]:
        """Return the entries whose keyword is there without value, and those with a wrong one."""
        empty: list[Entry] = []
        wrong: list[tuple[Entry, str]] = []
        missing = {entry.key for entry in self.missing}
        for entry in self._entries:
            keyword = by_key.get(entry.key)
            if keyword is None or entry.key in missing:
                continue
            try:
                value = _value(keyword)
            except errors.BadData:
                wrong.append((entry, f"{entry.name} is no FITS value"))
                continue
            if value is None:
                empty += [entry] if entry.required else []
            elif fault := entry.fault(value):
                wrong.append((entry, f"{entry.name} = {cardvalue.short(value)} {fault}"))
        return empty, wrong


def _value(keyword: Keyword) -> cardvalue.Value:
    text = cards.string(keyword)
    return cardvalue.read(cards.split(keyword)[0], keyword.label) if text is None else text


def _listed(told: list[tuple[str, str]]) -> str:
    """Return what is told, by the source that ought to have given it."""
    groups: dict[str, list[str]] = {}
    for text, source in told[:_MOST]:
        groups.setdefault(source, []).append(text)
    parts = [", ".join(texts) + (f" ({source})" if source else "")
             for source, texts in groups.items()]
    more = len(told) - _MOST
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")

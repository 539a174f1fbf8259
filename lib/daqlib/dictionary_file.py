"""Read a keyword dictionary from its YAML file, in the current form or the one before it.

Both are described in the ifw-core documentation, Data Interface Dictionary. The document is only
composed into nodes: nothing that a tag names is ever constructed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from daqlib import cardvalue, cli, dictionary_entry, errors, yamlfile
from daqlib.cardname import Kind, Unfit
from daqlib.dictionary_entry import Entry, Range, Type
from daqlib.yamlfile import bad, line

_TAG = re.compile(r"!cfg\.type:Did(\w+)Key")
_INCLUDE = "!cfg.include"
_SCHEMA = ".schema.yaml"
_MEMBERS = ("type", "comment", "description", "format", "unit", "range", "default", "tags",
            "class")
_NONE = ("", "None")  # the older form writes None for what is not there


@dataclass
class Document:
    """A dictionary file.

    Attributes:
        path: of the file.
        entries: by kind and name.
        includes: Config Paths of other dictionaries, with the line that names each.
    """

    path: str
    entries: dict[tuple[Kind, str], Entry] = field(default_factory=dict)
    includes: list[tuple[str, int]] = field(default_factory=list)


def read(path: str) -> Document:
    """Read a dictionary.

    Raises:
        errors.BadConfig: it cannot be read, is no YAML or no dictionary; names file, line, entry
            and reason.
    """
    root = yamlfile.compose(path, "docs/dictionaries.md")
    made = Document(path)
    seen: set[str] = set()
    has_header = False
    for key, value in _pairs(root, path, "the dictionary"):
        if key.tag == _INCLUDE:
            made.includes.append((key.value, line(key)))
        elif key.value in ("header", "Header"):
            has_header = True
            _read_header(value, made)
        else:
            _add(made, key, value)
        if (key.tag + key.value) in seen:
            raise bad(path, key, f"{key.value} occurs twice", "leave one of them out")
        seen.add(key.tag + key.value)
    if not has_header:
        raise errors.BadConfig(f"{path}: no mapping 'header' at the top, so this is no dictionary",
                               "see docs/dictionaries.md")
    made.includes = [(name, line) for name, line in made.includes if not name.endswith(_SCHEMA)]
    return made


def _pairs(node: Any, path: str, what: str) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of a mapping; one without any content has none."""
    return iter(()) if _is_none(node) else yamlfile.pairs(node, path, what)


def _read_header(node: Any, made: Document) -> None:
    for key, value in _pairs(node, made.path, "the header"):
        if key.value == "Include":
            names = (word.strip(" \"'") for word in _text(value).strip("()[] ").split(","))
            made.includes += [(name, line(value)) for name in names if name not in _NONE]


def _add(made: Document, key: Any, value: Any) -> None:
    try:
        kind, name = dictionary_entry.parse_name(key.value)
    except Unfit as error:
        raise bad(made.path, key, error.message, "mend the name") from error
    before = made.entries.get((kind, name))
    if before is not None:
        raise bad(made.path, key, f"{key.value} is defined a second time, first at "
                   f"{before.place}", "leave one of them out")
    made.entries[kind, name] = _entry(made.path, key, value, kind, name)


def _entry(path: str, key: Any, value: Any, kind: Kind, name: str) -> Entry:
    members: dict[str, Any] = {}
    for member, node in _pairs(value, path, f"entry {key.value}"):
        lower = member.value.lower()
        if lower in members:
            raise bad(path, member, f"entry {key.value}: {member.value} occurs twice",
                       "leave one of them out")
        if lower not in _MEMBERS:
            near = difflib.get_close_matches(lower, _MEMBERS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            cli.warn(f"{path}:{line(member)}: entry {key.value}: unknown member {member.value} "
                     f"ignored{hint}")
        members[lower] = node
    try:
        sort = _type(value.tag, members)
        if not sort.name:
            cli.warn(f"{path}:{line(key)}: entry {key.value}: {value.tag} is not known: its "
                     "values are not checked")
        return Entry(name, kind, sort, _format(members, sort), _range(members.get("range"), sort),
                     _comment(members), f"{path}:{line(key)}")
    except Unfit as error:
        told = re.sub(r"^(\w+): \1 ", r"\1 ", error.message)
        raise bad(path, key, f"entry {key.value}: {told}", "mend the entry") from error


def _type(tag: str, members: dict[str, Any]) -> Type:
    tagged = _TAG.fullmatch(tag)
    word = tagged[1] if tagged else _member(members, "type")
    if not tagged and tag.startswith("!"):
        raise Unfit(f"tag {tag}", "is not !cfg.type:Did...Key, such as !cfg.type:DidDoubleKey")
    if not word:
        raise Unfit("no type", "give a tag such as !cfg.type:DidDoubleKey, or a member Type")
    found = dictionary_entry.parse_type(word)
    if found is None and not tagged:
        raise Unfit(f"type {word}", "is none of Boolean, String, Int32, Double")
    return found or Type("")


def _format(members: dict[str, Any], sort: Type) -> cardvalue.Format | None:
    text = _member(members, "format")
    return dictionary_entry.parse_format(text, sort, "format") if text else None


def _comment(members: dict[str, Any]) -> str:
    comment, unit = _member(members, "comment"), _member(members, "unit").strip("[]")
    for name, text in (("comment", comment), ("unit", unit)):
        cardvalue.check_text(text, name)
    return f"[{unit}] {comment}".strip() if unit and not comment.startswith("[") else comment


def _range(node: Any, sort: Type) -> Range | None:
    if node is None or _is_none(node):
        return None
    if node.id == "scalar":
        return dictionary_entry.parse_range(node.value, sort, "range")
    if node.id == "mapping":
        ends = {key.value: _text(value) for key, value in node.value}
        if not ends or not set(ends) <= {"min", "max"}:
            raise Unfit("range", "is a mapping with other names than min and max")
        return dictionary_entry.parse_range(
            f"[{ends.get('min', '')}:{ends.get('max', '')}]", sort, "range")
    words = [_text(item) for item in node.value]
    if len(words) == 1 and ":" in words[0] and sort.name in ("Int", "Double"):
        return dictionary_entry.parse_range(words[0], sort, "range")
    return dictionary_entry.parse_choice(words, sort, "range")


def _member(members: dict[str, Any], name: str) -> str:
    node = members.get(name)
    if node is None or _is_none(node):
        return ""
    if node.id != "scalar":
        raise Unfit(name, "is not plain text")
    return " ".join(str(node.value).split())


def _is_none(node: Any) -> bool:
    return node.tag == yamlfile.NULL or (node.id == "scalar" and node.value.strip() in _NONE)


def _text(node: Any) -> str:
    """Return what was written: of ``[0:]`` the only item is, to YAML, a mapping ``{0: null}``."""
    if node.id == "mapping":
        return ", ".join(f"{_text(key)}:{_text(value)}" for key, value in node.value)
    if node.id == "sequence":
        return ", ".join(map(_text, node.value))
    return str(node.value)

"""Header policies: which keywords the primary header of a product must have.

A policy is a table that a site writes, ``docs/header-policy.md``. Of a keyword that nobody gave it
says what is written in its place, so that readers of products find every keyword in each of them.
"""

from __future__ import annotations

from daqlib import cardlayout, cardname, cardvalue, errors
from daqlib.cardname import Unfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daqlib.cardlayout import Cards, Warn
    from daqlib.cardname import Kind
    from daqlib.cardvalue import Value
    from daqlib.config import Config
    from daqlib.dictionary import Dictionaries

    Document = dict[str, Any]

#: The types of values, as an error calls them.
TYPES = {"string": "a string", "integer": "an integer", "float": "a number",
         "boolean": "true or false"}
_TEXTS = ("name", "type", "unit", "comment", "format", "source")
_MEMBERS = (*_TEXTS, "required", "default", "values", "min", "max")
_REMEDY = "mend the entry, see docs/header-policy.md"


class Entry:
    """What a policy says of a keyword.

    Attributes:
        kind: ``value`` or ``eso``.
        name: logical name; of an ESO keyword without ``HIERARCH ESO``.
        type: a key of :data:`TYPES`.
        required: whether its absence is an error.
        default: written when nobody gave the keyword; None: no value.
        source: who ought to give it; may be empty.
    """

    __slots__ = ("_comment", "_format", "_max", "_min", "_values", "default", "kind", "name",
                 "required", "source", "type")

    def __init__(self, item: Any, where: str) -> None:
        """Check an entry.

        Args:
            item: a member of ``keywords`` of a policy.
            where: file and line, or number, for errors.

        Raises:
            errors.BadData: it is not right; names the entry and the reason.
        """
        self.kind, self.name = _identity(item, where)
        where = f"{where}: entry {self.name}"
        _check_members(item, where)
        self.type = str(item["type"])
        self.required = item.get("required", False) is True
        self.default = _typed(item.get("default"), self.type, "default", where)
        self.source = str(item.get("source", ""))
        self._format = str(item.get("format", ""))
        self._comment = _remark(str(item.get("unit", "")), str(item.get("comment", "")))
        self._values = [_typed(value, self.type, "values", where)
                        for value in item.get("values", [])]
        self._min, self._max = (_typed(item.get(end), self.type, end, where)
                                for end in ("min", "max"))
        if None in self._values or (_is_number(self._min) and _is_number(self._max)
                                    and self._min > self._max):  # type: ignore[operator]
            raise _bad(where, "no value is allowed")
        self.cards(where, lambda _: None)

    @property
    def key(self) -> tuple[Kind, str]:
        """What makes two keywords the same."""
        return self.kind, self.name

    def cards(self, where: str, warn: Warn) -> Cards:
        """Return what is written when nobody gave the keyword.

        That is the default; without one a keyword whose value is undefined (FITS Standard 4.0,
        section 4.1.2.3).

        Raises:
            errors.BadData: no card can hold it.
        """
        if self.default is None:
            return cardlayout.undefined(self.kind, self.name, self._comment, where, warn)
        return cardlayout.make(self.kind, self.name, self.default, self._comment, where, warn,
                               self._format)

    def fault(self, value: Value) -> str:
        """Return why a value that somebody gave is not allowed, or an empty text."""
        if not _is(value, self.type):
            return f"is not {TYPES[self.type]}"
        if self._values and value not in self._values:
            return f"is none of {', '.join(map(repr, self._values))}"
        assert not isinstance(value, complex) and value is not None
        if _is_number(self._min) and value < self._min:  # type: ignore[operator]
            return f"is less than {self._min}"
        if _is_number(self._max) and value > self._max:  # type: ignore[operator]
            return f"is more than {self._max}"
        return ""


def entries(policy: Any, where: str) -> list[Entry]:
    """Return the entries of a policy in JSON, ``{"file": "...", "keywords": [...]}``.

    Args:
        policy: parsed JSON.
        where: how to call it in errors.

    Raises:
        errors.BadData: it is not right.
    """
    if not isinstance(policy, dict) or not isinstance(policy.get("keywords"), list):
        raise errors.BadData(f"{where} has no list of keywords", "see docs/header-policy.md")
    made = [Entry(item, f"{where}, number {number}")
            for number, item in enumerate(policy["keywords"], 1)]
    _refuse_twice([(entry, where) for entry in made])
    return made


def _refuse_twice(found: list[tuple[Entry, str]]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for entry, where in found:
        if entry.key in seen:
            raise errors.BadData(f"{where}: entry {entry.name} is there twice, first at "
                                 f"{seen[entry.key]}", "leave one of them out")
        seen[entry.key] = where


def _identity(item: Any, where: str) -> tuple[Kind, str]:
    """Return kind and logical name; a name of several words is that of an ESO keyword."""
    text = item.get("name") if isinstance(item, dict) else None
    if not isinstance(text, str):
        raise errors.BadData(f"{where}: an entry has no name", "write '- name: KEYWORD'")
    name = text.removeprefix(cardname.ESO_PREFIX)
    kind: Kind = "eso" if name != text or " " in name else "value"
    cardname.check_name(kind, name, where)
    if cardname.is_structural(kind, name):
        raise _bad(f"{where}: entry {name}", "it describes the structure of the file")
    if cardname.is_bound(kind, name):
        raise _bad(f"{where}: entry {name}", "it says what the numbers of the primary array mean, "
                   "which nobody else can know")
    return kind, name


def _check_members(item: Document, where: str) -> None:
    for member, value in item.items():
        if member not in _MEMBERS:
            raise _bad(where, f"unknown member {member!r}")
        if member in _TEXTS and not (isinstance(value, str) and value.isprintable()
                                     and value.isascii()):
            raise _bad(where, f"{member} {cardvalue.short(value)} is no plain text")
    if item.get("type") not in TYPES:
        raise _bad(where, f"its type is {item.get('type')!r}, not one of {', '.join(TYPES)}")
    if not isinstance(item.get("required", False), bool):
        raise _bad(where, f"required {item['required']!r} is not true or false")
    if not isinstance(item.get("values", []), list):
        raise _bad(where, "values is no list")
    if item["type"] not in ("integer", "float") and ("min" in item or "max" in item):
        raise _bad(where, f"min and max are for numbers, its type is {item['type']}")


def _typed(value: Any, kind: str, member: str, where: str) -> Value:
    """Return a value of an entry, an integer as a real where a real is wanted; None is none."""
    if value is not None and not _is(value, kind):
        quotes = ": put it in quotes" if kind == "string" else ""
        raise _bad(where, f"{member} {cardvalue.short(value)} is not {TYPES[kind]}{quotes}")
    if kind == "float" and isinstance(value, int):
        return cardvalue.as_real(value, where)
    if isinstance(value, float):
        cardvalue.check_finite(value, where)
    made: Value = value
    return made


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    if kind == "string":
        return isinstance(value, str)
    return isinstance(value, int) or (kind == "float" and isinstance(value, float))


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float)


def _remark(unit: str, comment: str) -> str:
    """Return a comment with its unit before it, in brackets (FITS Standard 4.0, section 4.3.2)."""
    return f"[{unit}] {comment}".strip() if unit and not comment.startswith("[") else comment


def _bad(where: str, reason: str) -> errors.BadData:
    return errors.BadData(f"{where}: {reason}", _REMEDY)


# -- the file ------------------------------------------------------------------------------------


def load(wanted: str, by: str) -> Document:
    """Read a policy from its YAML file.

    Args:
        wanted: Config Path of the file.
        by: what names it, for errors.

    Returns:
        It in JSON, for :func:`entries`.

    Raises:
        errors.BadConfig: it is not there or not right; names file, line, entry and reason.
    """
    from daqlib import config, yamlfile

    path = config.find(wanted, "header policy", f"correct {by}, or set CFGPATH")
    root = yamlfile.compose(path, "docs/header-policy.md")
    members = {key.value: node for key, node in yamlfile.pairs(root, path, "the policy")}
    if list(members) != ["keywords"] or members["keywords"].id != "sequence":
        raise errors.BadConfig(f"{path}: a policy is one list named keywords",
                               "see docs/header-policy.md")
    found: list[tuple[Entry, str]] = []
    items: list[Document] = []
    try:
        for node in members["keywords"].value:
            where = f"{path}:{yamlfile.line(node)}"
            items.append(yamlfile.plain(node, path, "an entry"))
            found.append((Entry(items[-1], where), where))
        _refuse_twice(found)
    except errors.BadData as error:
        raise errors.BadConfig(error.message, error.remedy) from error
    return {"file": wanted, "keywords": items}


def of_site(settings: Config) -> Document | None:
    """Return the policy that the configuration names, or None.

    Raises:
        errors.BadConfig: it is not there or not right.
    """
    wanted = str(settings["header.policy"])
    return load(wanted, "cfg/header/policy") if wanted else None


def filled(policy: Document, known: Dictionaries) -> Document:
    """Return a policy with the comments and formats of dictionaries where it has none.

    Args:
        policy: from :func:`load`.
        known: the dictionaries.
    """
    return {**policy, "keywords": [_filled(item, known) for item in policy["keywords"]]}


def _filled(item: Document, known: Dictionaries) -> Document:
    said = known.find(*_identity(item, ""))
    if said is None:
        return item
    made = dict(item)
    if said.comment:
        made.setdefault("comment", said.comment)
    if said.format is not None and "format" not in item:
        try:
            Entry({**made, "format": said.format.text}, "")
        except Unfit:  # a null value need not comply with it
            return made
        made["format"] = said.format.text
    return made

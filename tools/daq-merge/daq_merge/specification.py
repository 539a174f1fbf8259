"""Loading a Data Product Specification (ESO-396401, section 12.4) and checking its form.

The schemas of :mod:`daqlib.schema` say what is valid. Asking them costs more than a small merge, so
:func:`fits_schema` knows the same rules by heart; what it does not accept is put to the schemas,
which decide, and explain a refusal.
"""

from __future__ import annotations

import sys

from daqlib import errors, names, quickjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Document = dict[str, Any]

#: Exit codes of ESO-396401, section 12.3.3.
NOT_FOUND, NOT_JSON, NOT_VALID = 100, 101, 102


class Refused(errors.DaqError):
    """The specification is not usable.

    Args:
        code: the exit code of ESO-396401, section 12.3.3.
        message: what is wrong.
        remedy: what to do about it.
    """

    def __init__(self, code: int, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.code = code


def load(path: str) -> Document:
    """Read a specification and check it.

    Args:
        path: a file, or ``-`` for standard input.

    Raises:
        Refused: it is not there, not JSON, or not valid; carries the exit code.
    """
    try:
        text = sys.stdin.buffer.read() if path == "-" else _text(path)
    except OSError as error:
        raise Refused(NOT_FOUND, f"specification {path}: {error.strerror}",
                      "give the path of a Data Product Specification, or -") from error
    try:
        document = quickjson.loads(text)
    except ValueError as error:
        what = "standard input" if path == "-" else f"specification {path}"
        raise Refused(NOT_JSON, f"{what} is not JSON: {error}", "mend it") from error
    try:
        return check(document)
    except errors.BadData as error:
        raise Refused(NOT_VALID, error.message, error.remedy) from error


def _text(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def check(document: Any) -> Document:
    """Return a document that is a valid specification.

    Raises:
        errors.BadData: it is not; says where and why.
    """
    if not fits_schema(document):
        from daqlib import schema

        schema.check("dpspec", document, "the specification")
    target = document["target"]
    try:
        names.check_id(target["fileId"])
    except errors.BadData as error:  # a job's id has the same form, but is another thing
        error.message = f"target/fileId {target['fileId']!r} is not allowed"
        raise
    names.check_prefix(target.get("filePrefix", ""))
    checked: Document = document
    return checked


# -- the schema dpspec by heart --------------------------------------------------------------------


def fits_schema(document: Any) -> bool:
    """Tell whether a document fits the schema ``dpspec``.

    False may also mean that the schema has to decide: its patterns let a text end in a newline.

    Args:
        document: parsed JSON.
    """
    try:
        return (type(document) is dict and type(document["id"]) is str
                and _is_target(document["target"])
                and _are(document, "sources", _is_source)
                and _are(document, "keywordDictionaries", _is_text)
                and _are(document, "receivers", _is_receiver)
                and type(document.get("headerPolicy", {})) is dict
                and document.get("heuristics", "v2") in ("v1", "v2"))
    except (KeyError, TypeError):  # a member that is missing, or a type that is no text
        return False


def _is_text(value: Any) -> bool:
    return type(value) is str


def _are(document: Document, name: str, is_one: Callable[[Any], bool]) -> bool:
    """Tell whether a member is a list of such values, or not there."""
    if name not in document:
        return True
    values = document[name]
    return type(values) is list and all(map(is_one, values))


def _is_target(target: Any) -> bool:
    return (type(target) is dict and type(target["fileId"]) is str
            and type(target.get("filePrefix", "")) is str
            and ("source" not in target or _is_file(target["source"])))


def _is_source(source: Any) -> bool:
    if type(source) is not dict or source["type"] != "fitsKeywords":
        return _is_file(source)
    return (type(source["sourceName"]) is str and "keywords" in source
            and _are(source, "keywordRules", _is_rule) and _are(source, "keywords", _is_keyword))


def _is_file(source: Any) -> bool:
    return (type(source) is dict and source["type"] == "fitsFile"
            and type(source["sourceName"]) is str and type(source["location"]) is str
            and type(source.get("alertUnmergeable", True)) is bool
            and source.get("primaryData", "leave") in ("leave", "extension")
            and _are(source, "keywordRules", _is_rule)
            and _are(source, "initialKeywords", _is_keyword))


def _is_rule(rule: Any) -> bool:
    if type(rule) is not dict or rule["type"] not in ("filter", "transform"):
        return False
    patterns = rule["selectionPatterns"]
    return (type(patterns) is list and all(map(_is_selection, patterns))
            and (rule["type"] == "filter"
                 or type(rule["regex"]) is type(rule["format"]) is str))


def _is_selection(pattern: Any) -> bool:
    if type(pattern) is not str or pattern[:1] not in ("+", "-"):
        return False
    classes, _, words = pattern[1:].partition(" ")
    return bool(classes) and not classes.strip("evc") and words != "" and "\n" not in words


def _is_receiver(receiver: Any) -> bool:
    return type(receiver) is dict and _RECEIVERS[receiver["type"]](receiver)


def _is_olas(receiver: Document) -> bool:
    return _has_place(receiver) and _has_options(receiver, "allowSymlink")


def _is_directory(receiver: Document) -> bool:
    return type(receiver.get("template", "")) is str and _is_olas(receiver)


def _is_command(receiver: Document) -> bool:
    return (type(receiver["command"]) is str and _are(receiver, "args", _is_text)
            and _has_options(receiver))


def _is_rsync(receiver: Document) -> bool:
    if not _has_options(receiver):
        return False
    width = receiver.get("options", {}).get("bandwidth", 1)
    return (all(type(receiver.get(name, "")) is str for name in ("path", "host", "url"))
            and type(width) in (int, float) and width > 0)


def _has_place(receiver: Document) -> bool:
    return type(receiver["path"]) is type(receiver.get("host", "")) is str


def _has_options(receiver: Document, *flags: str) -> bool:
    options = receiver.get("options", {})
    return type(options) is dict and all(type(options.get(flag, True)) is bool
                                         for flag in ("required", *flags))


_RECEIVERS = {"olasReceiver": _is_olas, "directoryReceiver": _is_directory,
              "commandReceiver": _is_command, "rsyncReceiver": _is_rsync}
_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
_WORDS = _NAME + " "
_VALUE = (str, int, float, bool)


def _is_keyword(keyword: Any) -> bool:
    return type(keyword) is dict and _KEYWORDS[keyword["type"]](keyword)


def _is_value_keyword(keyword: Document) -> bool:
    name = keyword["name"]
    return (type(name) is str and 0 < len(name) <= 8 and not name.strip(_NAME)
            and type(keyword["value"]) in _VALUE
            and type(keyword.get("comment", "")) is str
            and ("format" not in keyword or _is_format(keyword["format"])))


def _is_eso_keyword(keyword: Document) -> bool:
    name = keyword["name"]
    return (type(name) is str and 0 < len(name) <= 63 and not name.strip(_WORDS)
            and name[0] != " " != name[-1] and "  " not in name
            and not name.startswith("HIERARCH ESO ")
            and type(keyword["value"]) in _VALUE
            and type(keyword.get("comment", "")) is str
            and ("format" not in keyword or _is_format(keyword["format"])))


def _is_literal(keyword: Document) -> bool:
    return _is_printable(keyword["value"]) and 0 < len(keyword["value"]) <= 80


def _is_commentary(keyword: Document) -> bool:
    return keyword["name"] in ("COMMENT", "HISTORY", "") and _is_printable(keyword["value"])


def _is_printable(value: Any) -> bool:
    return type(value) is str and value.isascii() and value.isprintable()


def _is_format(layout: Any) -> bool:
    if type(layout) is not str or layout[:1] != "%" or layout[-1] not in "diufFeEsc":
        return False
    rest = _without_digits(layout[1:-1].lstrip("-+ #0"))
    if rest[:1] == ".":
        rest = _without_digits(rest[1:])
    return rest in ("", "hh", "h", "ll", "l", "L")


def _without_digits(text: str) -> str:
    """Return a text without the digits, at most two, that it begins with."""
    return text[:2].lstrip("0123456789") + text[2:]


_KEYWORDS = {"valueKeyword": _is_value_keyword, "esoKeyword": _is_eso_keyword,
             "literalKeyword": _is_literal, "commentaryKeyword": _is_commentary}

"""YAML files that a site writes, read node by node, so that an error can name the line.

The document is only composed into nodes: nothing that a tag names is ever constructed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from daqlib import errors

if TYPE_CHECKING:
    import yaml

#: No file is larger: it is room for some 10 000 entries, and takes a second or two to read.
BYTES_MAX = 1 << 20

NULL = "tag:yaml.org,2002:null"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def compose(path: str, page: str) -> yaml.Node:
    """Return the root node of a file.

    Args:
        path: of the file.
        page: of the documentation, that describes its form.

    Raises:
        errors.BadConfig: it cannot be read, is empty, too large or no YAML, or has aliases.
    """
    import yaml

    try:
        with open(path, "rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise errors.BadConfig(f"{path}: larger than {BYTES_MAX} bytes",
                                   "split it, and list both parts")
        # not with libyaml, which is killed by what is nested deeply
        root: yaml.Node | None = yaml.compose(data.decode("utf-8-sig"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise errors.BadConfig(f"{path}{_reason(error)}", "mend the file") from error
    if root is None:
        raise errors.BadConfig(f"{path}: the file is empty", f"see {page}")
    _refuse_aliases(root, path)
    return root


def _reason(error: Exception) -> str:
    import yaml

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        context = f"{error.context}: " if error.context else ""
        return f":{error.problem_mark.line + 1}: {context}{error.problem}"
    if isinstance(error, RecursionError):
        return ": nested too deeply"
    text = error.strerror if isinstance(error, OSError) else str(error)
    return f": {' '.join(str(text).split())}"


def _refuse_aliases(root: yaml.Node, path: str) -> None:
    # with aliases a few lines can stand for billions of entries
    seen: set[int] = set()
    todo: list[Any] = [root]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            raise bad(path, node, "an alias (*name) refers to this", "write it out")
        seen.add(id(node))
        if not isinstance(node.value, str):
            todo += [part for item in node.value
                     for part in (item if isinstance(item, tuple) else (item,))]


def pairs(node: Any, path: str, what: str) -> Iterator[tuple[Any, Any]]:
    """Yield the nodes of keys and values of a mapping.

    Raises:
        errors.BadConfig: it is none, or a key is no plain text.
    """
    if not node.id == "mapping":
        raise bad(path, node, f"{what} is no mapping", "write 'name: value' lines")
    for key, value in node.value:
        if key.id != "scalar":
            raise bad(path, key, f"a name in {what} is no plain text", "write it as plain text")
        yield key, value


def plain(node: Any, path: str, what: str) -> dict[str, Any]:
    """Return a mapping of plain values, or lists of them, as YAML reads them.

    A number with colons, which YAML 1.1 reads in base 60, is none.

    Raises:
        errors.BadConfig: it is none, or has a name twice, or a value that is no plain one.
    """
    import yaml

    made: dict[str, Any] = {}
    for key, value in pairs(node, path, what):
        if key.value in made:
            raise bad(path, key, f"{key.value} occurs twice", "leave one of them out")
        for part in value.value if value.id == "sequence" else [value]:
            if part.tag in NUMBERS and ":" in part.value:  # 12:30:00 is 45000 in YAML 1.1
                raise bad(path, part, f"{key.value}: {part.value} is no number",
                          "write a decimal one, or quotes")
        try:
            made[key.value] = yaml.SafeLoader("").construct_object(value, deep=True)
        except (ValueError, yaml.YAMLError) as error:  # no such day; a tag that nobody knows
            reason = getattr(error, "problem", None) or str(error)
            raise bad(path, value, f"{key.value}: {reason}", "mend the value") from error
    return made


def line(node: Any) -> int:
    """Return the line of a node, from 1."""
    return int(node.start_mark.line) + 1


def bad(path: str, node: Any, reason: str, remedy: str) -> errors.BadConfig:
    """Return the error for a node."""
    return errors.BadConfig(f"{path}:{line(node)}: {reason}", remedy)

"""The configuration: one YAML file with the manual's keys under ``cfg``, and our defaults.

Precedence: command line, then file, then environment, then default (ESO-396401, 11.3.5).
The file is ``--config``, else ``$DAQ_CONFIG``, else none; both are Config Paths (:func:`find`).
Keys of daqOcmServer (11.3.5) and daqDpmServer (12.2.5) that mean nothing here are accepted, and
told in one note.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daqlib import cli, errors, fsops
from daqlib.configkeys import ALIASES, DEFAULTS, KEYS, MOST, Values, absolute

if TYPE_CHECKING:
    import yaml

__all__ = ["ALIASES", "DEFAULTS", "KEYS", "Config", "find", "load", "make_dataroot", "spelled"]

_DEEPEST = 8  # levels of mappings; more is no configuration, or an anchor that holds itself
_DATAROOT_MODE = 0o774
_SHOWN = 100  # characters of a value in an error


_KINDS = {str: "text", bool: "true or false", int: "an integer", float: "a number", list: "a list"}
_GROUPS = {name.partition(".")[0] for name in (*KEYS, *ALIASES) if "." in name}


def spelled(name: str) -> str:
    """Return a dotted key as the manual writes it: ``cfg/limits/merge``."""
    return f"cfg/{name.replace('.', '/')}"


# -- the settings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """The settings in force.

    Attributes:
        values: every key of :data:`DEFAULTS`, dotted, with its value.
        path: the file they came from, or empty.
        idle: the keys without effect that the file gives a value other than the default.
    """

    values: Values = field(default_factory=lambda: dict(DEFAULTS))
    path: str = ""
    idle: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Any:
        """Return a value by its dotted key."""
        return self.values[key]

    def note(self) -> str:
        """Return what a daemon says once of the keys without effect; empty: nothing."""
        told = ", ".join(map(spelled, self.idle))
        return f"{self.path}: accepted, but without effect here: {told}" if told else ""


def load(option: str | None) -> Config:
    """Load the configuration.

    Args:
        option: the ``--config`` argument, or None.

    Raises:
        errors.BadConfig: the file is missing, not YAML, or a value is not allowed.
    """
    wanted = option or os.environ.get("DAQ_CONFIG", "")
    if not wanted:
        return Config(_with_environment({}))
    path = find(wanted, "configuration", "give --config FILE or set CFGPATH")
    given = _values(path, _read(path))
    idle = tuple(name for name in given if not KEYS[name].effect and given[name] != DEFAULTS[name])
    return Config(_with_environment(given), path, idle)


def find(wanted: str, what: str, remedy: str) -> str:
    """Return the absolute path of the file that a Config Path means (ESO-396401, 1.3).

    An absolute path is used as it is. A relative one is tried against every entry of
    ``$CFGPATH`` in order, then against the current directory; the first that exists wins.

    Args:
        wanted: the Config Path.
        what: how to call the file in an error.
        remedy: what to do when it is not found.

    Raises:
        errors.BadConfig: there is no such file.
    """
    folders = [folder for folder in os.environ.get("CFGPATH", "").split(":") if folder]
    tried = [wanted] if os.path.isabs(wanted) else [
        *(os.path.join(folder, wanted) for folder in folders), wanted]
    for path in tried:
        if os.path.isfile(path):
            return os.path.abspath(path)
    raise errors.BadConfig(f"{what} {wanted} not found (tried {', '.join(tried)})", remedy)


def _with_environment(given: Values) -> Values:
    merged = {**DEFAULTS, **given}
    if not merged["dataroot"]:
        merged["dataroot"] = os.environ.get("DATAROOT", "")
        if reason := absolute(merged["dataroot"]):
            raise errors.BadConfig(f"the environment's DATAROOT: {reason}",
                                   f"give {KEYS['dataroot'].allowed}")
    return merged


def make_dataroot(path: str) -> None:
    """Create the data root and its missing parents with mode 0774 (ESO-396401, 11.3.5).

    Directories that are there already keep their mode.

    Args:
        path: absolute.

    Raises:
        errors.BadConfig: it cannot be created, is no directory, or is not writable.
    """
    missing, place = [], path
    while not os.path.lexists(place):
        missing.append(place)
        place = os.path.dirname(place)
    remedy = "correct cfg/dataroot or DATAROOT, or the permissions"
    try:
        for folder in reversed(missing):
            try:
                os.mkdir(folder)
            except FileExistsError:
                continue  # another tool was faster
            os.chmod(folder, _DATAROOT_MODE)  # the manual's mode, whatever the umask
            fsops.fsync_dir(os.path.dirname(folder))
    except OSError as error:
        raise errors.BadConfig(f"dataroot {path} cannot be created: {error.strerror}: "
                               f"{error.filename}", remedy) from error
    if not os.path.isdir(path) or not os.access(path, os.W_OK | os.X_OK):
        raise errors.BadConfig(f"dataroot {path} is no directory that can be written", remedy)


# -- the file -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """A value of the file, with the line of its key, from 1."""

    name: str
    value: Any
    line: int


def _values(path: str, found: list[_Given]) -> Values:
    values: Values = {}
    lines: dict[str, _Given] = {}
    for given in found:
        name = ALIASES.get(given.name, given.name)
        if name not in KEYS:
            _tell_unknown(path, given)
            continue
        value = _checked(path, name, given)
        if (before := lines.get(name)) and (before.name == given.name or values[name] != value):
            raise _refused(path, given.line, f"{spelled(given.name)} is {_shown(given.value)}, and "
                           f"{spelled(before.name)} in line {before.line} is "
                           f"{_shown(before.value)}", f"leave only {spelled(name)}")
        if given.name != name:
            cli.detail(f"{path}: {spelled(given.name)} is read as {spelled(name)}")
        values[name], lines[name] = value, given
    return values


def _refused(path: str, line: int, message: str, remedy: str) -> errors.BadConfig:
    return errors.BadConfig(f"{path}, line {line}: {message}", remedy)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _tell_unknown(path: str, given: _Given) -> None:
    known = [*KEYS, *ALIASES]
    last = given.name.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == last] or (
        difflib.get_close_matches(given.name, known, 1))
    hint = f"; did you mean {spelled(near[0])}?" if near else ""
    cli.warn(f"{path}, line {given.line}: unknown key {spelled(given.name)} ignored{hint}")


def _checked(path: str, name: str, given: _Given) -> Any:
    key, value = KEYS[name], given.value
    kind = type(key.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(min(value, MOST))
    reason = f"not {_KINDS[kind]}" if type(value) is not kind else key.refuse(value)
    if reason:
        told = f"is {_shown(given.value)}: {reason}" if given.value is not None else "is empty"
        example = f", such as {key.default!r}" if key.default else ""
        raise _refused(path, given.line, f"{spelled(given.name)} {told}",
                       f"give {key.allowed}{example}")
    return value


def _read(path: str) -> list[_Given]:
    import yaml

    try:
        with open(path, encoding="utf-8-sig") as file:
            return list(_given(path, _loader(file.read())))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(text for text in (error.context, error.problem) if text)
        raise _refused(path, mark.line + 1 if mark else 1, reason, "mend the file") from error
    except OSError as error:
        raise errors.BadConfig(f"{path}: {error.strerror}",
                               "check owner and mode of the file") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise errors.BadConfig(f"{path}: {reason}", "mend the file") from error


def _loader(text: str) -> yaml.SafeLoader:
    import yaml

    # the parser in C is ten times faster; every tool waits for this
    kind: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return kind(text)


def _given(path: str, loader: yaml.SafeLoader) -> Iterator[_Given]:
    """Yield the values below ``cfg``, with dotted names."""
    import yaml

    root = loader.get_single_node()
    if isinstance(root, yaml.MappingNode):
        _refuse_twice(path, root)
    body: yaml.Node | None = None
    for key, node in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "cfg":
            body = node
        else:
            cli.warn(f"{path}, line {_line(key)}: {key.value!r} ignored: it stands outside of cfg")
    if isinstance(body, yaml.ScalarNode) and loader.construct_object(body) is None:
        return  # its keys are all commented out
    if not isinstance(body, yaml.MappingNode):
        raise errors.BadConfig(f"{path}: has no mapping 'cfg' at the top",
                               "begin it with the line 'cfg:' and indent the keys below it")
    yield from _flat(path, loader, body)


def _flat(path: str, loader: yaml.SafeLoader, body: yaml.MappingNode, prefix: str = "",
          ) -> Iterator[_Given]:
    import yaml

    if prefix.count(".") > _DEEPEST:
        raise _refused(path, _line(body), f"{spelled(prefix[:60])}... is nested too deeply",
                       "keys have two levels at most")
    loader.flatten_mapping(body)  # what comes by "<<" stands first: later ones replace it
    for key, node in {key.value: (key, node) for key, node in body.value}.values():
        name = f"{prefix}{key.value}".replace("/", ".")  # messages and manual write the slash
        if isinstance(node, yaml.MappingNode) and name not in KEYS and name not in ALIASES:
            yield from _flat(path, loader, node, f"{name}.")
            continue
        value = _constructed(path, loader, node)
        if name not in _GROUPS:
            yield _Given(name, value, _line(key))
        elif value is not None:  # a group whose keys are all commented out is none
            inner = ", ".join(other for other in KEYS if other.startswith(f"{name}."))
            raise _refused(path, _line(key), f"{spelled(name)} is {_shown(value)}, but holds keys",
                           f"indent below it: {inner}")


def _constructed(path: str, loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # no such day; too many digits
        raise _refused(path, _line(node), str(error), "mend the file") from error


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _refuse_twice(path: str, root: yaml.MappingNode) -> None:
    """Refuse a key that a mapping has twice, of which YAML libraries take the last in silence."""
    import yaml

    nodes: list[yaml.Node] = [root]
    seen: set[int] = set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(path, _line(key), "a key is no text", "mend the file")
            if key.value in lines:
                raise _refused(path, _line(key), f"key {key.value!r} is there twice, first in "
                               f"line {lines[key.value]}", "leave one of them")
            lines[key.value] = _line(key)
            nodes.append(value)

"""What a program brought, as a delivery: its files checked, its keywords in the usual shape."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from typing import Any

from daq_ctl import sources
from daq_ctl.sources import Delivery, memo
from daq_ctl.sources.program import process
from daq_ctl.sources.program.call import Call
from daq_ctl.sources.program.dialogue import Dialogue
from daqlib import fsops, strictjson

_OURS = (process.COMMANDS, process.OUT, process.ERR, memo.NAME)
_MOST_KEYWORDS = 1 << 20  # bytes of a file of keywords


def told(folder: str, dialogue: Dialogue, fault: str) -> Delivery:
    """Return what a program said that it brings; it blocks on the disk.

    Args:
        folder: its working directory.
        dialogue: what it said.
        fault: what went wrong with it, or empty.
    """
    files, bad = _checked([os.path.join(folder, path) for path in dialogue.files], folder)
    keywords, wrong = _keywords(dialogue.keywords)
    faults = [*filter(None, (fault, bad)), *dialogue.faults]
    return Delivery(files, keywords, "; ".join(faults), wrong, list(dialogue.remarks))


def left(folder: str, call: Call, since: float, fault: str, *, needed: bool) -> Delivery:
    """Return what a program left that does not speak; it blocks on the disk.

    Args:
        folder: its working directory.
        call: says which files.
        since: what is older is not of this run.
        fault: what went wrong with it, or empty; none of its files is known to be whole then.
        needed: whether it must bring files.
    """
    if fault:
        return Delivery(fault=f"{fault}; what it wrote is in {folder}")
    found = {pattern: _written(folder, pattern, since) for pattern in call.files}
    files, bad = _checked([path for paths in found.values() for path in paths], folder)
    absent = [name for name, paths in found.items() if not paths and not glob.has_magic(name)]
    if needed and (absent or not any(found.values())):
        lack = f"it wrote no file {' and no '.join(absent) or ' or '.join(call.files)}"
        bad = "; ".join(filter(None, (lack, bad)))
    keywords, wrong = _of_file(folder, call.keywords, since) if call.keywords else ([], "")
    return Delivery(files, keywords, bad, wrong)


def _written(folder: str, pattern: str, since: float) -> list[str]:
    """Return the files that a pattern names and that were written since."""
    names = sorted(glob.glob(pattern, root_dir=folder)) if glob.has_magic(pattern) else [pattern]
    paths = [os.path.join(folder, name) for name in names if name not in _OURS]
    return [path for path in paths if _is_new(path, folder, since)]


def _is_new(path: str, folder: str, since: float) -> bool:
    """Tell whether a file is of this run: its own directory was empty, whatever time a file has.

    A camera's program may well set the time of the exposure, and a copy keep that of its origin.
    """
    try:
        return os.stat(path).st_mtime >= since or path.startswith(f"{folder}/")
    except OSError:
        return False


def _checked(paths: list[str], folder: str) -> tuple[list[str], str]:
    """Return those that can be used, durable if they are in the folder, and why some cannot.

    Each is in one spelling, and there once; what is above something is for ``locations`` to refuse.
    """
    paths = list(dict.fromkeys(
        path if ".." in path.split("/") else os.path.normpath(path) for path in paths))
    there = [path for path in paths if os.path.isfile(path)]
    missing = [path for path in paths if path not in there]
    good, bad = sources.locations(there)
    for path in good:
        if path.startswith(f"{folder}/"):
            _settle(path)
    if missing:
        bad = f"it told of a file that is not there: {missing[0]!r}" + (f"; {bad}" if bad else "")
    return good, bad


def _settle(path: str) -> None:
    """Make a file durable: with the delivery on record it is not made again."""
    with contextlib.suppress(PermissionError):  # somebody else's, who may not read it here
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        fsops.fsync_dir(os.path.dirname(path))


def _of_file(folder: str, name: str, since: float) -> tuple[list[dict[str, Any]], str]:
    path = os.path.join(folder, name)
    if not _is_new(path, folder, since):
        return [], f"it wrote no file of keywords {path}"
    try:
        return _keywords([strictjson.loads(fsops.read_regular(path, _MOST_KEYWORDS)[0])])
    except (OSError, ValueError) as error:
        return [], f"{path}: {error}"


def _keywords(told: list[Any]) -> tuple[list[dict[str, Any]], str]:
    """Return all keywords, the last value of each; or none, and why, when one is not valid."""
    checked, wrong = sources.keywords([keyword for each in told for keyword in _listed(each)])
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for keyword in checked:
        made.pop(_key(keyword), None)
        made[_key(keyword)] = keyword
    return list(made.values()), wrong


def _listed(told: Any) -> list[Any]:
    """Return an object, name to value, as a list of keywords; a list as it is."""
    if isinstance(told, dict):
        return [_keyword(name.removeprefix("HIERARCH "), value) for name, value in told.items()]
    return told if isinstance(told, list) else [told]


def _keyword(name: str, value: Any) -> dict[str, Any]:
    eso = name.startswith("ESO ")
    return {"type": "esoKeyword" if eso else "valueKeyword", "name": name.removeprefix("ESO "),
            "value": value}


def _key(keyword: dict[str, Any]) -> tuple[str, str]:
    """Return what is the same for two values of a keyword; of a card or a comment all."""
    if keyword["type"] in ("valueKeyword", "esoKeyword"):
        return keyword["type"], keyword["name"]
    return keyword["type"], json.dumps(keyword)

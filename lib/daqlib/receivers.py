"""Receivers of data products: what each kind may say, and how each is called.

``olasReceiver`` is ESO's (ESO-396401, section 9.3.6); the other kinds are ours. The shape is in
``schema/receivers.json``; here is what a schema cannot tell, for jobs and for the configuration
alike. How a product gets to a receiver is ``daq-release``'s.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from daqlib import errors, names, pathtemplate

Document = dict[str, Any]

#: Characters of a program's arguments: they are part of what events and messages call it.
LONGEST = 4096


@dataclass(frozen=True)
class Form:
    """What a kind of receivers may say.

    Attributes:
        members: name and type of each member beside ``type`` and ``options``.
        options: name and type of each option beside ``required``.
        check: refuses what the types do not tell.
    """

    members: dict[str, type | tuple[type, ...]]
    options: dict[str, type | tuple[type, ...]]
    check: Callable[[Document], None]


def check(receiver: Any) -> None:
    """Check a receiver; unknown members are :func:`unknown`'s.

    Raises:
        errors.BadData: it is none of the known kinds, or something in it is not allowed.
    """
    kind = receiver.get("type") if isinstance(receiver, dict) else None
    form = KINDS.get(kind) if isinstance(kind, str) else None
    if form is None:
        raise errors.BadData(f"receivers of type {kind!r} are not known",
                             f"use {', '.join(KINDS)}")
    options = receiver.get("options", {})
    _check_types(receiver, {**form.members, "options": dict}, f"{kind}:")
    _check_types(options, {**form.options, "required": bool}, f"{kind}: options:")
    form.check(receiver)


def unknown(receivers: Iterable[Any]) -> list[str]:
    """Return the members that their kinds do not have: ``receivers/0/options/requird``.

    Args:
        receivers: valid or not.
    """
    found = []
    for number, receiver in enumerate(receivers):
        kind = receiver.get("type") if isinstance(receiver, dict) else None
        form = KINDS.get(kind) if isinstance(kind, str) else None
        if form is None:
            continue
        options = receiver.get("options")
        found += [f"receivers/{number}/{name}"
                  for name in sorted(set(receiver) - {"type", "options", *form.members})]
        if isinstance(options, dict):
            found += [f"receivers/{number}/options/{name}"
                      for name in sorted(set(options) - {"required", *form.options})]
    return found


def label(receiver: Document) -> str:
    """Return how to call a receiver in events, alerts and messages, as ``host:/path``.

    Two receivers of one label are one.
    """
    kind = receiver.get("type")
    if kind == "commandReceiver":
        args = receiver.get("args")
        words = [receiver.get("command", "?"), *(args if isinstance(args, list) else [])]
        return shlex.join(map(str, words))
    path = str(receiver.get("url") or receiver.get("path", "?"))
    if kind == "directoryReceiver":
        path = f"{path.rstrip('/')}/{template(receiver)}"
    return f"{receiver['host']}:{path}" if receiver.get("host") else path


def host(receiver: Document) -> str:
    """Return the host that a receiver is on, as a transfer takes it; empty for this one.

    That is ``[user@]host``, or ``rsync://[user@]host[:port]/module`` for an rsync daemon.
    """
    return place(receiver)[0] if "url" in receiver else str(receiver.get("host") or "")


def place(receiver: Document) -> tuple[str, str]:
    """Return host and directory of a receiver that has them; both are empty where a URL is wrong.

    The directory is absolute, that of a URL below its module.
    """
    if "url" not in receiver:
        return str(receiver.get("host") or ""), str(receiver.get("path", ""))
    try:
        found, path = _split(receiver["url"])
    except errors.BadData:
        return "", ""
    return found, path


def _split(url: str) -> tuple[str, str]:
    # the module itself will do, so that a name is put behind it
    found, path = names.split_location(f"{url.rstrip('/')}/x")
    return found, path[:-1]


def template(receiver: Document) -> str:
    """Return the path template of a ``directoryReceiver``."""
    return str(receiver.get("template", "{fileId}.fits"))


def option(receiver: Document, name: str, default: Any) -> Any:
    """Return an option of a receiver."""
    options = receiver.get("options")
    return options.get(name, default) if isinstance(options, dict) else default


def in_effect(document: Document, specification: Document) -> list[Document]:
    """Return the receivers of a job: those that it names, else those that collect put down.

    Args:
        document: the job file.
        specification: ``data/ID/specification.json``, perhaps empty.
    """
    found = document.get("receivers")
    if found is None:
        found = specification.get("receivers", [])
    wanted = found if isinstance(found, list) else []  # of a job in bad/ it can be anything
    distinct: dict[str, Document] = {}
    for each in wanted:
        if isinstance(each, dict):
            distinct.setdefault(label(each), each)
    return list(distinct.values())


def _check_types(values: Document, types: dict[str, Any], where: str) -> None:
    for name, kind in types.items():
        value = values.get(name)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if name in values and wrong:
            raise errors.BadData(f"{where} {name} {value!r} is not allowed",
                                 f"give {_words(kind)}, or leave it out")


def _words(kind: Any) -> str:
    return {str: "text", bool: "true or false", dict: "an object", list: "a list"}.get(
        kind, "a number")


def _required(receiver: Document, name: str) -> str:
    if name not in receiver:
        raise errors.BadData(f"{receiver['type']}: {name} is missing", "give it as absolute path")
    return str(receiver[name])


def _check_olas(receiver: Document) -> None:
    names.check_path(_required(receiver, "path"), "receiver path")
    if receiver.get("host"):
        names.check_host(receiver["host"])


def _check_directory(receiver: Document) -> None:
    _check_olas(receiver)
    pathtemplate.check(template(receiver))


def _check_command(receiver: Document) -> None:
    names.check_path(_required(receiver, "command"), "receiver command")
    for each in receiver.get("args", []):
        if not isinstance(each, str) or "\0" in each:
            raise errors.BadData(f"commandReceiver: the argument {each!r} is not allowed",
                                 "give a list of texts")
    if sum(map(len, receiver.get("args", []))) > LONGEST:
        raise errors.BadData("commandReceiver: the arguments are too long",
                             f"give up to {LONGEST} characters in all")


def _check_rsync(receiver: Document) -> None:
    if option(receiver, "bandwidth", 1) <= 0:
        raise errors.BadData(f"rsyncReceiver: bandwidth {receiver['options']['bandwidth']!r} is "
                             "not allowed", "give bytes per second, or leave it out")
    if "url" not in receiver:
        if not receiver.get("host"):
            raise errors.BadData("rsyncReceiver: neither a host nor a url is named",
                                 "give host and path, or url, or use an olasReceiver")
        _check_olas(receiver)
        return
    if {"host", "path"} & set(receiver):
        raise errors.BadData("rsyncReceiver: a url has host and path in it",
                             "leave out host and path, or the url")
    if not receiver["url"].startswith(names.DAEMON):
        raise errors.BadData(f"receiver url {receiver['url']!r} is not allowed",
                             "write rsync://[USER@]HOST[:PORT]/MODULE/PATH/")
    _split(receiver["url"])


_NUMBER = (int, float)
#: The kinds of receivers.
KINDS: dict[str, Form] = {
    "olasReceiver": Form({"path": str, "host": str}, {"allowSymlink": bool}, _check_olas),
    "directoryReceiver": Form({"path": str, "template": str, "host": str},
                              {"allowSymlink": bool}, _check_directory),
    "commandReceiver": Form({"command": str, "args": list}, {}, _check_command),
    "rsyncReceiver": Form({"path": str, "host": str, "url": str}, {"bandwidth": _NUMBER},
                          _check_rsync),
}

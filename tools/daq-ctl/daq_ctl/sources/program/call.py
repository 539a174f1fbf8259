"""What a job asks of a program, checked: the URI, the options, and whether it may be run."""

from __future__ import annotations

import glob
import os
import re
import signal
from dataclasses import dataclass
from urllib.parse import unquote

from daq_ctl.sources import Order
from daq_ctl.sources.options import Options
from daqlib import errors, names

#: Signals that may be chosen.
SIGNALS = ("INT", "TERM", "HUP", "USR1", "USR2")  # the first is what Ctrl-C sends
#: What variables of a job are called in the program's environment: no job may set PATH,
#: LD_PRELOAD, or what else a linker or an interpreter obeys.
PREFIX = "OPT_"

_MOST_ARGUMENTS = 4096  # characters in all
_MOST_ENVIRONMENT = 65536  # the same of all variables; execve(2) takes more
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Call:
    """How to run a program, and when it is over.

    Attributes:
        words: absolute path of the program, and arguments.
        device: what it drives; sources with the same program and device are the same.
        environment: its variables, beside the few that are passed on.
        speaks: whether it speaks in JSON lines.
        files: names or patterns of the files that it leaves, when it does not speak.
        asked: whether the job names files.
        keywords: path of a JSON file of keywords that it leaves, or empty.
        stop_signal: sent to stop a program that does not speak; 0 waits for its end.
        abort_signal: sent to abort it.
        start_sec: seconds within which it says that it has started.
        stop_sec: seconds within which it ends after a stop.
        max_sec: seconds that it may take, 0 for any.
    """

    words: list[str]
    device: str
    environment: dict[str, str]
    speaks: bool
    files: list[str]
    asked: bool
    keywords: str
    stop_signal: int
    abort_signal: int
    start_sec: float
    stop_sec: float
    max_sec: float

    @property
    def endpoint(self) -> str:
        """What is the same for sources that are the same."""
        return f"exec:{self.words[0]}" + (f"#{self.device}" if self.device else "")


def read(order: Order, uri: str, options: Options, *, runs: bool) -> Call:
    """Return what a job asks for.

    Args:
        order: the order.
        uri: without its query.
        options: those of the source.
        runs: it was begun, and is to be ended whatever became of its program.

    Raises:
        errors.BadData: something of it is not allowed.
    """
    path = _path(order, uri)
    if not runs:
        _check_program(order, path)
    arguments = options.texts("args")
    if sum(map(len, arguments)) + len(arguments) > _MOST_ARGUMENTS:
        options.refuse("args", "they are too long", f"give up to {_MOST_ARGUMENTS} characters "
                       "in all, one for the end of each, and the rest in a file")
    speaks = options.choice("speaks", "lines", "nothing") == "lines"
    asked = options.given("files")
    if speaks:
        for name in ("files", "keywords", "stop", "stopSignal"):
            if options.given(name):
                options.refuse(name, "a program that speaks lines says that itself",
                               "leave it out, or give speaks: nothing")
    waits = options.choice("stop", "signal", "wait") == "wait"
    stop_signal = options.choice("stopSignal", *SIGNALS)
    return Call(
        words=[path, *arguments], device=options.text("device"),
        environment=_environment(order, options), speaks=speaks,
        files=[_pattern(options, each) for each in options.texts("files") or ["*.fits"]],
        asked=asked, keywords=_name(options, "keywords", options.text("keywords")),
        stop_signal=0 if waits else _number(stop_signal),
        abort_signal=_number(options.choice("abortSignal", "TERM", *sorted({*SIGNALS} - {"TERM"}))),
        start_sec=_seconds(options, "startSec", 10.0),
        stop_sec=_seconds(options, "stopSec", 30.0),
        max_sec=_seconds(options, "maxSec", 0.0))


def _path(order: Order, uri: str) -> str:
    rest = uri.partition(":")[2]
    path = unquote(rest[2:] if rest.startswith("///") else rest)
    try:
        if path.startswith("//") or os.path.normpath(path) != path:
            raise errors.BadData(f"path {path!r} is not allowed")
        return names.check_path(path)
    except errors.BadData as error:
        raise errors.BadData(f"source {order.name!r}: URI {order.uri!r}: {error.message}",
                             "use exec:/absolute/path/of/program, percent-encoded") from None


def _check_program(order: Order, path: str) -> None:
    who = f"source {order.name!r}: {path}"
    if path not in order.settings["sources.programs"]:
        raise errors.BadData(f"{who}: sources of jobs may not run this program",
                             "list it in cfg/sources/programs, if it may be run by everybody who "
                             "may submit jobs")
    if not os.path.isfile(path):
        raise errors.BadData(f"{who}: no such program", "install it, or mend its path")
    if not os.access(path, os.X_OK):
        raise errors.BadData(f"{who}: may not be run", f"chmod +x {path}")


def _environment(order: Order, options: Options) -> dict[str, str]:
    made = {"DAQ_ID": order.job, "DAQ_SOURCE": order.name, "DAQ_FOLDER": order.folder}
    for name, value in options.table("environment").items():
        if not _VARIABLE.fullmatch(name):
            options.refuse("environment", f"{name!r} is no name of a variable",
                           "use up to 64 letters, digits and _")
        if isinstance(value, bool) or not isinstance(value, str | int | float) or (
                "\0" in str(value)) or len(str(value)) > _MOST_ARGUMENTS:
            options.refuse(f"environment.{name}", "its value is no short text", "give a text of "
                           f"up to {_MOST_ARGUMENTS} characters, or a number")
        made[PREFIX + name] = str(value)
    if sum(len(name) + len(value) for name, value in made.items()) > _MOST_ENVIRONMENT:
        options.refuse("environment", "it is too long", f"give up to {_MOST_ENVIRONMENT} "
                       "characters in all, and the rest in a file")
    return made


def _name(options: Options, option: str, path: str) -> str:
    """Return a path that is absolute, or leads nowhere above where it starts."""
    if ".." in path.split("/") or not path.isprintable() or len(path) > _MOST_ARGUMENTS:
        options.refuse(option, f"{path[:80]!r} is not allowed",
                       "give names relative to the working directory, or absolute, without '..'")
    return path


def _pattern(options: Options, path: str) -> str:
    """Return a name or a pattern of files of one directory: no job searches a whole disk."""
    if glob.has_magic(os.path.dirname(path)):
        options.refuse("files", f"{path[:80]!r} has a pattern for directories",
                       "give each directory by its name")
    if not os.path.basename(path):
        options.refuse("files", f"{path[:80]!r} names no file", "give names or patterns of files")
    return _name(options, "files", path)


def _number(name: str) -> int:
    return int(signal.Signals[f"SIG{name}"])


def _seconds(options: Options, name: str, default: float) -> float:
    found = options.number(name, default, least=0, most=1e6, unit="seconds")
    assert found is not None
    return found

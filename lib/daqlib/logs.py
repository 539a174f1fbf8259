"""Logging of the daemons: ESO's levels and loggers (ESO-396401, sections 11.3.3 and 11.3.7).

Lines go to standard error and, when ``$DAQ_LOGS`` names a directory, to a file there. Logging never
holds up or ends the daemon: a line that cannot be written is counted, and the count is told later.
"""

from __future__ import annotations

import abc
import contextlib
import json
import logging
import os
import select
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from daqlib import cli, clock, errors

TRACE, DEBUG, INFO, ACTION, EVENT, STATE, WARNING, ERROR = 5, 10, 20, 22, 24, 26, 30, 40

#: The levels of ``--log-level`` and ``SetLogLevel``, the most severe first.
LEVELS: dict[str, int] = {"ERROR": ERROR, "WARNING": WARNING, "STATE": STATE, "EVENT": EVENT,
                          "ACTION": ACTION, "INFO": INFO, "DEBUG": DEBUG, "TRACE": TRACE}

#: The levels of a log4cplus properties file; ours are understood there, too.
PROPERTY_LEVELS: dict[str, int] = {"OFF": 100, "FATAL": 50, **LEVELS, "WARN": WARNING}

#: The logger of the structured events of daq-ctl.
EVENTLOG = "daq.ocm.eventlog"

#: The loggers of daq-ctl and of daq-watch (ESO-396401, 11.3.7 and 12.2.7) and what they tell.
LOGGERS: dict[str, str] = {
    "daq": "everything below",
    "daq.ocm": "the application: its states, and every command with who sent it and what came out",
    "daq.ocm.manager": "the acquisitions as a whole: taking over, refusing, stale ones",
    "daq.ocm.manager.awaitstate": "the clients that wait for a state",
    "daq.ocm.controller": "one acquisition and its sources",
    EVENTLOG: "structured events: a JSON object a line",
    "daq.dpm": "the server of daq-watch: every command with who sent it and what came out",
    "daq.dpm.scheduler": "jobs that are queued, change their state, or are aborted",
    "daq.dpm.controller": "what is recorded of jobs, but for the next two",
    "daq.dpm.transfer": "what is recorded of them in `collect/`, and of files that are sent",
    "daq.dpm.merger": "what is recorded of them in `merge/`",
    "daq.dpm.eventlog": "structured events: a JSON object a line",
}

_PREFIX = "log4cplus.logger."
#: Characters of a line on standard error. A pipe that can be written to takes PIPE_BUF bytes
#: without waiting (pipe(7)), and a character has up to 4.
_LONGEST = select.PIPE_BUF // 4 - 32

_process = ""
_application = "daq.ocm"
_handlers: list[logging.Handler] = []
_chosen: set[str] = set()  # loggers whose level was asked for


# -- levels ---------------------------------------------------------------------------------------


def level(name: str) -> int:
    """Return the number of a level.

    Raises:
        errors.BadData: there is no such level.
    """
    found = LEVELS.get(name.upper()) if isinstance(name, str) else None
    if found is None:
        raise errors.BadData(f"log level {name!r} is not known", f"use {', '.join(LEVELS)}")
    return found


def verbosity_level() -> str:
    """Return the level that the options ``-q`` and ``-v`` stand for."""
    given = cli.verbosity()
    if given == ["-q"]:
        return "ERROR"
    return ("INFO", "DEBUG", "TRACE")[min(len(given), 2)]


def set_level(logger: str, name: str) -> None:
    """Set the level of a logger while the daemon runs.

    Args:
        logger: one of :data:`LOGGERS`; empty or ``root`` for what has no level of its own.
        name: one of :data:`LEVELS`.

    Raises:
        errors.BadData: there is no such level or logger.
    """
    number = level(name)
    if logger in ("", "root"):
        _set_root(number)
    elif isinstance(logger, str) and logger in _own():
        _set(logger, number)
    else:
        raise errors.BadData(f"logger {logger!r} is not known",
                             f"use root or one of {', '.join(_own())}")


def _own() -> list[str]:
    """Return the loggers of this program."""
    return [name for name in LOGGERS if f"{_application}.".startswith(f"{name}.")
            or name.startswith(f"{_application}.")]


def reset_levels(root: str, own: Mapping[str, int]) -> None:
    """Set the levels of all loggers anew.

    Args:
        root: the level of what has none of its own.
        own: logger to level, see :func:`read_properties`; loggers that we do not have are left out.

    Raises:
        errors.BadData: there is no such level.
    """
    number = level(root)
    _chosen.clear()
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    _set_root(number)
    for name, wanted in own.items():
        if name in _own():
            _set(name, wanted)


def _set(logger: str, number: int) -> None:
    _chosen.add(logger)
    logging.getLogger(logger).setLevel(number)


def _set_root(number: int) -> None:
    logging.getLogger().setLevel(number)
    if _eventlog() not in _chosen:  # complete, unless its own level says otherwise
        logging.getLogger(_eventlog()).setLevel(min(number, INFO))
    logging.getLogger("asyncio").setLevel(max(number, WARNING))
    cli.set_verbosity({DEBUG: 1, TRACE: 2}.get(number, 0), quiet=number > INFO)


def read_properties(path: str) -> tuple[dict[str, int], str]:
    """Read the levels of a log4cplus properties file (``log_properties``, ESO-396401, 11.3.5).

    Lines ``log4cplus.logger.NAME=LEVEL`` count; others, which choose appenders or the root's
    level, are left to the command line.

    Returns:
        Logger to level, and what to note of the lines that do not count, or an empty text.

    Raises:
        errors.BadConfig: the file cannot be read, or a line is not understood.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise errors.BadConfig(f"{path}: {reason}", "correct cfg/log_properties") from error
    found, ignored = {}, []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#!":
            continue
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise errors.BadConfig(f"{path}, line {number}: {text!r} is no NAME=VALUE",
                                   f"write {_PREFIX}daq.ocm=DEBUG")
        if name.startswith(_PREFIX):
            found[name.removeprefix(_PREFIX)] = _property_level(path, number, value)
        else:
            ignored.append(str(number))
    note = (f"{path}: only {_PREFIX}NAME=LEVEL has an effect; lines ignored: {', '.join(ignored)}"
            if ignored else "")
    return found, note


def _property_level(path: str, number: int, value: str) -> int:
    name = value.partition(",")[0].strip()  # names of appenders may follow
    if name.upper() not in PROPERTY_LEVELS:
        raise errors.BadConfig(f"{path}, line {number}: log level {name!r} is not known",
                               f"use {', '.join(PROPERTY_LEVELS)}")
    return PROPERTY_LEVELS[name.upper()]


# -- structured events ----------------------------------------------------------------------------


def _eventlog() -> str:
    return f"{_application}.eventlog"


def event(kind: str, /, **facts: Any) -> None:
    """Log one structured event: a JSON object on one line.

    Args:
        kind: what happened.
        facts: what belongs to it; what JSON cannot hold is written as text.
    """
    event_at(EVENT, kind, facts)


def event_at(severity: int, kind: str, facts: Mapping[str, Any]) -> None:
    """Log a structured event at a level of its own, see :func:`event`."""
    log = logging.getLogger(_eventlog())
    if log.isEnabledFor(severity):
        log.log(severity, "%s", _document(kind, facts))


def _document(kind: str, facts: Mapping[str, Any]) -> str:
    document = {"time": f"{clock.iso(clock.now())}Z", "event": kind, "process": _process, **facts}
    try:
        return json.dumps(document, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # odd keys, circles: rather ugly than lost
        return json.dumps({**dict(list(document.items())[:3]), "facts": repr(facts)})


# -- where the lines go ---------------------------------------------------------------------------


def start(process: str, root: str, application: str = "daq.ocm") -> None:
    """Begin to log: to standard error, and to ``$DAQ_LOGS/PROCESS.log`` if that can be written.

    Args:
        process: name of this process instance; it is a valid file name.
        root: the level to begin with, one of :data:`LEVELS`.
        application: the logger above all of this program's, ``daq.ocm`` or ``daq.dpm``.

    Raises:
        errors.BadData: there is no such level.
    """
    global _process, _application
    stop()
    _process, _application = process, application
    for name, number in LEVELS.items():
        logging.addLevelName(number, name)
    reset_levels(root, {})
    _handlers.append(_Console())
    folder = os.environ.get("DAQ_LOGS", "")
    if folder and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
        _handlers.append(_File(os.path.join(folder, f"{process}.log")))
    for handler in _handlers:
        logging.getLogger().addHandler(handler)
    if folder and len(_handlers) == 1:
        logging.getLogger(application).warning(
            "no log file: DAQ_LOGS=%s is no directory that can be written", folder)


def reopen() -> None:
    """Open the log file anew with the next line."""
    for handler in _handlers:
        if isinstance(handler, _File):
            handler.reopen()


def stop() -> None:
    """Stop logging."""
    for handler in _handlers:
        logging.getLogger().removeHandler(handler)
        handler.close()
    _handlers.clear()


class _Lossy(logging.Handler, abc.ABC):
    """A handler that counts what it cannot write and tells the number when it can again."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lost and self.write(f"lines that could not be written: {self._lost}", record):
                self._lost = 0
            written = not self._lost and self.write(_words(record), record)
        except Exception:  # whatever it is, it must not reach those who log
            written = False
        self._lost += not written

    @abc.abstractmethod
    def write(self, words: str, record: logging.LogRecord) -> bool:
        """Write a line without waiting; tell whether that was possible."""


class _Console(_Lossy):
    """Standard error, in the one-line form of all tools."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave events to the file, unless everything is wanted."""
        return record.name != _eventlog() or logging.getLogger(record.name).level <= DEBUG

    def write(self, words: str, record: logging.LogRecord) -> bool:
        if not _takes_a_line():
            return False
        if len(words) > _LONGEST:
            words = f"{words[:_LONGEST]}..."
        cli.warn(words if record.levelno == INFO else f"{record.levelname}: {words}")
        return True


def _takes_a_line() -> bool:
    """Tell whether standard error can be written to: its reader may have stopped, or be gone."""
    try:
        poll = select.poll()
        poll.register(sys.stderr.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return True  # no descriptor, as in tests
    # with an error beside it the text would stay in the buffer, and fail once more at the exit
    return any(mask == select.POLLOUT for _, mask in poll.poll(0))


class _File(_Lossy):
    """A file that is appended to, and made anew when it was moved away."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._number = -1
        self._torn = False
        self._told = False

    def write(self, words: str, record: logging.LogRecord) -> bool:
        line = f"{clock.iso(record.created)}Z {record.levelname} {record.name} {words}\n".encode()
        data = b"\n" + line if self._torn else line
        try:
            self._follow()
            self._torn = os.write(self._number, data) < len(data)  # a full disk takes what fits
        except OSError as error:
            return self._complain(str(error.strerror))
        if self._torn:
            return self._complain("no space")
        self._told = False
        return True

    def _follow(self) -> None:
        """Open the file that has the name now."""
        if self._number >= 0 and not _is_same(self._number, self._path):
            self.reopen()
        if self._number < 0:
            # what waits for a reader (a FIFO) must not make us wait
            self._number = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT
                                   | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o664)

    def _complain(self, reason: str) -> bool:
        if not self._told:
            self._told = True  # once, until it can be written again
            if _takes_a_line():
                cli.warn(f"WARNING: cannot write the log file {self._path}: {reason}")
        return False

    def reopen(self) -> None:
        """Close the file; the next line opens it by its name."""
        if self._number >= 0:
            with contextlib.suppress(OSError):
                os.close(self._number)
        self._number, self._torn = -1, False

    def close(self) -> None:
        self.reopen()
        super().close()


def _is_same(number: int, path: str) -> bool:
    try:
        there, here = os.stat(path), os.fstat(number)
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _words(record: logging.LogRecord) -> str:
    """Return the text of a record as one line, the traceback of an exception with it."""
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        text = f"{record.msg!r} {record.args!r}"
    if record.exc_info and record.exc_info[1]:
        text += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    """Return a character, or its escape as in JSON when it could break a line or a terminal."""
    if character.isprintable() or character == "\t":
        return character
    if character == "\n":
        return "\\n"
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at:at + 2].hex()}" for at in range(0, len(units), 2))

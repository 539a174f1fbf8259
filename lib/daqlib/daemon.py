"""What the daemons share: their keys, their logging, the audit of commands, and SIGHUP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from daqlib import __version__, config, errors, logs, names
from daqlib.config import Config
from daqlib.rpcserver import Curve, Handled

_READ_AGAIN = 100_000  # characters of a specification that is read once more for its id


def secured(settings: Config, log: logging.Logger) -> dict[str, Any]:
    """Return what servers and publishers need to know of keys, by the names of their arguments."""
    curve = Curve(settings["curve.certificate"], settings["curve.authorized"] or None) if (
        settings["curve.certificate"]) else None
    return {"curve": curve, "insecure": bool(settings["insecure"]), "log": log.warning}


def auditor(log: logging.Logger) -> Callable[[Handled], None]:
    """Return what logs a command: who sent it, what it was, and what came out."""

    def audit(handled: Handled) -> None:
        daq = _daq_of(handled.params) or handled.named
        what = " ".join(filter(None, (handled.method or "a request", daq)))
        outcome = f"refused with {handled.code}: {handled.text}" if handled.code else "done"
        reads = handled.method.rpartition(".")[2].startswith(("Get", "Query"))
        severity = logs.DEBUG if reads else logs.ACTION
        log.log(severity, "%s by %s: %s, %.3f s", what, handled.who, outcome, handled.seconds)
        logs.event_at(severity, "command", {
            "command": handled.method, **({"daq": daq} if daq else {}), "who": handled.who,
            "code": handled.code, "text": handled.text, "seconds": round(handled.seconds, 3)})

    return audit


def _daq_of(params: dict[str, Any]) -> str:
    """Return the id of the DAQ that a command is about, or an empty text."""
    named, specification = params.get("id"), params.get("specification")
    if isinstance(specification, str) and len(specification) <= _READ_AGAIN:
        with contextlib.suppress(ValueError, RecursionError):
            specification = json.loads(specification)
    if isinstance(specification, dict):
        named = specification.get("id")
    return named[:128] if isinstance(named, str) else ""


@contextlib.contextmanager
def logging_as(name: str, settings: Config, log_level: str, application: str) -> Iterator[str]:
    """Log while the daemon runs; gives the level of the root logger.

    Args:
        name: of this process instance; the log file is named after it.
        settings: the configuration.
        log_level: one of :data:`daqlib.logs.LEVELS`; empty: as ``-q`` and ``-v`` say.
        application: the logger above all of its own.

    Raises:
        errors.Usage: the name or the level is not allowed.
        errors.BadConfig: the log properties are not right.
    """
    check_name(name)
    level = (log_level or logs.verbosity_level()).upper()
    try:
        logs.start(name, level, application)
    except errors.BadData as error:
        raise errors.Usage(error.message, error.remedy) from error
    try:
        _set_levels(level, settings, logging.getLogger(application))
        yield level
    finally:
        logs.stop()


def check_name(name: str) -> None:
    """Check the name of a process instance.

    Raises:
        errors.Usage: it could not be part of a file name.
    """
    if not names.SOURCE.fullmatch(name):
        raise errors.Usage(f"the process name {name!r} is not allowed",
                           "use letters, digits and ._+-")


def _set_levels(root: str, settings: Config, log: logging.Logger) -> None:
    """Set the levels as command line and ``log_properties`` say.

    Raises:
        errors.BadConfig: there is no such file, or it is not right.
    """
    own: dict[str, int] = {}
    note = ""
    if wanted := settings["log_properties"]:
        path = config.find(wanted, "cfg/log_properties", "correct the key, or set CFGPATH")
        own, note = logs.read_properties(path)
    logs.reset_levels(root, own)
    if note:
        log.info(note)


def hang_up(before: Config, option: str | None, log_level: str, log: logging.Logger,
            heeded: tuple[str, ...] = ()) -> Config | None:
    """Open the log file anew and read the configuration again, as SIGHUP asks for.

    Args:
        before: the configuration in force.
        option: where to read it from, see :func:`daqlib.config.load`.
        log_level: the level of the root logger.
        log: where to tell it.
        heeded: the keys that take effect without a restart, but for the log levels.

    Returns:
        The new configuration, or None when the old one stays in force.
    """
    logs.reopen()
    try:
        now = config.load(option)
        _set_levels(log_level, now, log)
    except (errors.DaqError, OSError) as error:
        log.warning("the old configuration stays in force: %s", error)
        return None
    later = [config.spelled(key) for key in config.KEYS
             if now[key] != before[key] and key not in ("log_properties", *heeded)]
    log.info("log levels read again: %s%s", now.path or "defaults",
             f"; with a restart only: {', '.join(later)}" if later else "")
    return now


class Standard:
    """The commands of ``stdif`` that every daemon answers alike."""

    async def GetVersion(self) -> str:  # noqa: N802
        """Return the version of daqspool."""
        return __version__

    async def SetLogLevel(self, info: dict[str, Any]) -> str:  # noqa: N802
        """Set the level of a logger.

        Args:
            info: ``stdif.LogInfo``: ``level`` and ``logger``; an empty logger is the root.

        Raises:
            errors.BadData: there is no such level or logger.
        """
        if not isinstance(info, dict):
            raise errors.BadData("info is no LogInfo", "give an object with level and logger")
        logs.set_level(info.get("logger", ""), info.get("level", ""))
        return "OK"


def run(serve: Coroutine[Any, Any, None]) -> None:
    """Run a daemon until it has served; a signal that comes while it ends is not told of."""
    async def quietly() -> None:
        try:
            await serve
        finally:
            # the loop closes the socket that signals wake it by before it forgets the signals
            signal.set_wakeup_fd(-1)

    asyncio.run(quietly())


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets us: every source and every client needs some."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

"""What both simulators have in common: the standard commands, and serving until the end.

``std`` follows ``stdif.StdCmds``: every command replies a string, the state is
``State;Substate``. A simulator begins Operational, so that a test needs no Init and Enable.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import os
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from daq_sim import faults
from daqlib import __version__, cli, config, errors, names, rpcserver, uri

if TYPE_CHECKING:
    from daqlib.rpcserver import Handler

_OK = "OK"
_OPERATIONAL = "Operational"


class Standard:
    """The standard commands of a server.

    Args:
        busy: tells whether the server is acquiring.
        ended: set by Exit.
    """

    def __init__(self, busy: Callable[[], bool], ended: asyncio.Event) -> None:
        self._busy, self._ended = busy, ended
        self._state = _OPERATIONAL

    @property
    def operational(self) -> bool:
        """Whether acquisitions may be started."""
        return self._state == _OPERATIONAL

    async def Init(self) -> str:
        """Make ready."""
        self._state = "NotOperational;Ready"
        return _OK

    async def Reset(self) -> str:
        """Go back to where a fresh server is."""
        self._state = "NotOperational;NotReady"
        return _OK

    async def Enable(self) -> str:
        """Become operational."""
        self._state = _OPERATIONAL
        return _OK

    async def Disable(self) -> str:
        """Become ready, but not operational."""
        return await self.Init()

    async def Stop(self) -> str:
        """Stop what the server does of its own; the simulators do nothing of their own."""
        return _OK

    async def Exit(self) -> str:
        """End the program after the reply."""
        self._ended.set()
        return _OK

    async def GetState(self) -> str:
        """Return ``State;Substate``."""
        if self._state != _OPERATIONAL:
            return self._state
        return f"{_OPERATIONAL};{'Active' if self._busy() else 'Idle'}"

    async def GetStatus(self) -> str:
        """Return the state."""
        return await self.GetState()

    async def GetVersion(self) -> str:
        """Return the version."""
        return __version__


def directory(options: argparse.Namespace) -> str:
    """Return the output directory, made if it is missing.

    Raises:
        errors.BadConfig: it cannot be made or is no directory.
    """
    root = os.environ.get("DATAROOT", "")
    path = options.directory or (os.path.join(root, options.name) if root else os.curdir)
    if root and not options.directory:
        config.make_dataroot(os.path.abspath(root))  # with its mode, if we come before the servers
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise errors.BadConfig(f"output directory {path}: {error.strerror}",
                               "choose another one with --directory") from error
    return os.path.abspath(path)


def copies(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the absolute paths of the files to deliver copies of.

    Raises:
        OSError: one cannot be read.
        errors.BadData: one has a name that the spool would refuse.
    """
    for path in options.file:
        names.file_name(path)
        with open(path, "rb"):
            pass
    return tuple(os.path.abspath(path) for path in options.file)


def commands(service: object) -> dict[str, Handler]:
    """Return the commands of a service: its public coroutine methods with a capital letter."""
    methods = inspect.getmembers(service, inspect.iscoroutinefunction)
    return {name: method for name, method in methods if name[:1].isupper()}


def numbers(options: argparse.Namespace) -> list[str]:
    """Return what is put after the names and the paths of the sources: 1 to N, or nothing."""
    return [str(number) for number in range(1, options.count + 1)] or [""]


async def serve(options: argparse.Namespace, sources: Mapping[str, object],
                paths: tuple[str, ...], standard: Standard, ended: asyncio.Event,
                exception: str) -> int:
    """Serve simulated sources until a signal or Exit ends them.

    Args:
        options: of the command line.
        sources: number (see :func:`numbers`) to the service with the source's commands.
        paths: under which they are served, with their numbers; the first is the usual one.
        standard: the standard commands.
        ended: ends the service when set.
        exception: the interface's exception.

    Raises:
        errors.Usage: a fault is malformed.
        errors.BadConfig: the endpoint cannot or must not be bound.
        errors.Later: another program serves there.
    """
    given = uri.parse(options.uri, bind=True)
    if given.note:
        cli.warn(given.note)
    paths = paths if not given.path or given.path in paths else (given.path, *paths)
    server = rpcserver.Server(options.uri, _services(options, sources, paths, standard, exception),
                              curve=_curve(options), insecure=options.insecure)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            loop.add_signal_handler(signum, ended.set)
    async with server:
        _tell(options, {f"{options.name}{number}":
                        uri.with_path(server.endpoint, (given.path or paths[0]) + number)
                        for number in sources})
        await ended.wait()
    return errors.OK


def _services(options: argparse.Namespace, sources: Mapping[str, object], paths: tuple[str, ...],
              standard: Standard, exception: str) -> dict[str, dict[str, Handler]]:
    std = commands(standard)
    known = {*commands(next(iter(sources.values()))), *std}
    wanted, without = faults.faults(options, known), faults.missing(options, known)

    def left(service: object) -> dict[str, Handler]:
        return {name: done for name, done in commands(service).items() if name not in without}

    services = {"std": faults.faulty(left(standard), wanted, "stdif::ExceptionErr")}
    for number, source in sources.items():
        made = faults.faulty(left(source), wanted, exception, number and options.name + number)
        services.update({path + number: made for path in paths})
    return services


def _curve(options: argparse.Namespace) -> rpcserver.Curve | None:
    if options.curve_certificate:
        return rpcserver.Curve(options.curve_certificate, options.curve_authorized)
    if options.curve_authorized is not None:
        raise errors.Usage("--curve-authorized needs --curve-certificate", "give both")
    return None


def _tell(options: argparse.Namespace, endpoints: Mapping[str, uri.Endpoint]) -> None:
    for name, endpoint in endpoints.items():
        if options.json:
            cli.emit({"kind": options.kind, "name": name, "uri": str(endpoint)})
        else:
            cli.show(str(endpoint))
    (first, at), (last, end) = list(endpoints.items())[0], list(endpoints.items())[-1]
    several = f" to {last}", f" to /{end.path}"
    more = several if options.count > 1 else ("", "")
    cli.say(f"{options.kind} {first}{more[0]} ready at {at}{more[1]}")

"""Faults on demand: any command can be late, refuse, hang or kill the simulator.

A fault is ``CMD[:N][=VALUE]``: the command, which of its calls (all without N), and the seconds
of a delay or the message of a refusal. Calls are counted for each source. A command can also be
missing altogether, as with sources that do not implement all of their interface.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from daqlib import cli, errors, rpc
from daqlib.rpcserver import Handler

_DELAY, _FAIL, _HANG, _DIE, _DIE_AFTER = "delay", "fail", "hang", "die", "die-after"
KINDS = (_DELAY, _FAIL, _HANG, _DIE, _DIE_AFTER)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: one of :data:`KINDS`.
        command: such as ``RecStart``.
        call: 1 for the first call only, and so on; 0 for all.
        value: seconds of a delay, or message of a refusal.
    """

    kind: str
    command: str
    call: int
    value: str


def faults(options: argparse.Namespace, commands: Iterable[str]) -> list[Fault]:
    """Return the faults that the command line asks for.

    Raises:
        errors.Usage: a fault is malformed or names no command of this simulator.
    """
    known = sorted(commands)
    return [_fault(kind, text, known) for kind in KINDS
            for text in getattr(options, kind.replace("-", "_"))]


def missing(options: argparse.Namespace, commands: Iterable[str]) -> frozenset[str]:
    """Return the commands that the command line takes away.

    Raises:
        errors.Usage: this simulator has no such command.
    """
    known = sorted(commands)
    for command in options.without:
        _check_known("without", command, command, known)
    return frozenset(options.without)


def _check_known(kind: str, text: str, command: str, known: list[str]) -> None:
    if command not in known:
        raise errors.Usage(f"--{kind} {text}: no such command", "known are " + ", ".join(known))


def _fault(kind: str, text: str, known: list[str]) -> Fault:
    target, equals, value = text.partition("=")
    command, colon, call = target.partition(":")
    _check_known(kind, text, command, known)
    if colon and not (call.isdecimal() and int(call) > 0):
        raise errors.Usage(f"--{kind} {text}: {call!r} is not the number of a call", "count from 1")
    if kind == _DELAY and not _is_seconds(value):
        raise errors.Usage(f"--delay {text}: tells no seconds", f"say --delay {target}=2.5")
    if equals and kind not in (_DELAY, _FAIL):
        raise errors.Usage(f"--{kind} {text}: takes no value", f"say --{kind} {target}")
    return Fault(kind, command, int(call or 0), value)


def _is_seconds(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


def faulty(commands: Mapping[str, Handler], wanted: Iterable[Fault], exception: str,
           name: str = "") -> dict[str, Handler]:
    """Return the commands with faults built in; with ``-v`` each call is told on stderr.

    Args:
        commands: command to coroutine function.
        wanted: the faults.
        exception: the interface's exception, which a refusal carries.
        name: of the source, told with each call; empty for the only one of a process.
    """
    chosen, calls, of = list(wanted), Counter[str](), f"{name}: " if name else ""

    def wrap(command: str, handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def run(**params: Any) -> Any:
            calls[command] += 1
            due = {fault.kind: fault.value for fault in chosen
                   if fault.command == command and fault.call in (0, calls[command])}
            cli.detail(f"{of}{command} {json.dumps(params)}"
                       + (f" [{', '.join(due)}]" if due else ""))
            await _before(command, due, exception)
            try:
                result = await handler(**params)
            except rpc.RemoteError as error:
                cli.detail(f"{of}{command} refused: {error}")
                raise
            if _DIE_AFTER in due:
                os._exit(1)
            cli.detail(f"{of}{command} -> {json.dumps(result)}")
            return result

        return run

    return {command: wrap(command, handler) for command, handler in commands.items()}


async def _before(command: str, due: Mapping[str, str], exception: str) -> None:
    if _DIE in due:
        os._exit(1)
    if _HANG in due:
        await asyncio.Event().wait()
    if _DELAY in due:
        await asyncio.sleep(float(due[_DELAY]))
    if _FAIL in due:
        raise rpc.RemoteError(due[_FAIL] or f"{command} fails on demand", exception=exception)

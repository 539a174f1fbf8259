"""Why a run of a program failed, in words."""

from __future__ import annotations

import errno
import signal
from typing import Any

from daq_ctl.sources.program.call import Call
from daq_ctl.sources.program.dialogue import Dialogue
from daq_ctl.sources.program.process import Ended
from daqlib import errors


def unstartable(path: str, begun: dict[str, Any]) -> errors.BadData:
    """Return what is wrong with a program that is there, but does not start.

    Args:
        path: the program.
        begun: what its keeper wrote: ``errno``, ``file`` and ``text``.
    """
    if begun["errno"] == errno.ENOENT and begun.get("file") == path:
        return errors.BadData(f"{path}: the interpreter that it needs is not there",
                              "install what its first line, #!, names, or mend that line")
    if begun["errno"] == errno.ENOEXEC:
        return errors.BadData(f"{path}: is no program of this system",
                              "begin a script with #!/bin/sh, or install it anew")
    return errors.BadData(f"{begun.get('file') or path}: {begun.get('text')}",
                          "mend that, and start anew")


def reason(call: Call, facts: dict[str, Any], dialogue: Dialogue, ended: Ended | None,
           said: str) -> str:
    """Return why a run is a failure, or an empty text.

    Args:
        call: how it was run.
        facts: what was done about it: ``stopped``, ``forced`` when it did not heed that, ``idle``
            when it had said that it was over and did not go.
        dialogue: what it said.
        ended: how it ended; None while it runs.
        said: the last line of its standard error.
    """
    if dialogue.failure is not None:
        return f"it failed: {dialogue.failure}"
    if ended is None or "idle" in facts:
        return ""
    if ended.cut:
        return f"it was ended: {ended.cut}"
    if "forced" in facts:
        return f"it did not heed the stop within {facts['forced']:g} s, and was ended"
    if ended.code is None:
        return "it is gone, and nobody knows how it ended; perhaps the machine was restarted"
    if not ended.code or ("stopped" in facts and ended.code in _obeyed(call)):
        return ""
    how = (f"it ended with exit code {ended.code}" if ended.code > 0
           else f"it was killed by signal {signal.Signals(-ended.code).name}")
    return f"{how}: {said}" if said else how


def _obeyed(call: Call) -> tuple[int, ...]:
    """Return the exit codes of a program, and of a shell, that a stop by signal has ended."""
    return (-call.stop_signal, 128 + call.stop_signal) if call.stop_signal else ()

"""What was removed because of its age: ``log/_pruned.jsonl``, one line for everything.

When a job was removed as a whole, that line is all that is left to tell of it.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from daqlib import clock, fsops
from daqlib.spool import Spool

_NAME = "_pruned.jsonl"  # no id begins like this
#: What was removed, in the lines of jobs that went as a whole.
JOB = "job"


def record(on: Spool, job: str, file_id: str, facts: dict[str, Any]) -> None:
    """Put on record what was removed.

    Args:
        on: the spool.
        job: whose it was.
        file_id: of the job.
        facts: ``what``, ``state`` and ``ended`` of the job, and name, size and digest of its
            product.

    Raises:
        OSError: it could not be recorded.
    """
    line = {"time": clock.iso(clock.now()) + "Z", "id": job, "fileId": file_id, **facts,
            "by": on.by, "pid": os.getpid(), "host": socket.gethostname()}
    fsops.append(on.path("log", _NAME), json.dumps(line, ensure_ascii=False).encode())


def when(on: Spool, job: str) -> dict[str, Any] | None:
    """Return the line that says when a job was removed, the newest; None: it was not."""
    try:
        with open(on.path("log", _NAME), "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    wanted = json.dumps(job).encode()
    for text in reversed(lines):
        if wanted in text and (line := _parsed(text)) and line.get("id") == job and (
                line.get("what") == JOB):
            return line
    return None


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}

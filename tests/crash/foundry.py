"""The process behind ``forge.py``: imports the tools once, then forks a child for each run.

Reads one JSON request a line and answers with one line each. A child is a process like any other:
its death by SIGKILL closes its descriptors and frees its locks as that of a real tool does.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

TOOLS = ("daq-start", "daq-collect", "daq-merge", "daq-release", "daq-status", "labourer",
         "signalled", "sentry")
_HEAVY = ("sh", "yaml", "numpy", "fitsio", "jsonschema", "referencing", "daqlib.transfer",
          "daq_collect.collect", "daq_merge.stagework", "daq_release.release", "daqlib.fitsfile")


def _child(request: dict[str, Any]) -> None:
    from daqlib import crashpoints

    for number, name in ((1, "out"), (2, "err")):
        fd = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(fd, number)
        os.close(fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(request["env"])
    crashpoints._counts.clear()
    crashpoints._armed = any(name in os.environ for name in
                             ("DAQ_CRASH", "DAQ_FAULT", "DAQ_CRASH_TRACE"))
    sys.argv = [request["tool"]]
    tool = importlib.import_module(_module(request["tool"]))
    code = 70
    try:
        code = tool.main(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _module(tool: str) -> str:
    return tool.replace("-", "_") + ".__main__" if tool.startswith("daq-") else tool


def serve() -> None:
    for name in (*_HEAVY, *map(_module, TOOLS)):
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            pid = os.fork()
            if pid == 0:
                _child(request)
            answer: object = pid
        else:
            _, status = os.waitpid(request["pid"], 0)
            answer = os.waitstatus_to_exitcode(status)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()

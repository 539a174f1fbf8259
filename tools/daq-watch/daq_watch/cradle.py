"""The process of the nursery: has the stage tools loaded, and forks a worker when it is asked.

It is started anew with a clean table of descriptors, so that a worker has neither locks nor
sockets of the watcher, and it never works itself. What a worker runs is the ``main`` of the tool
with the arguments that the launcher would give it; a stage tool is named here by text only, as
in the launcher. Protocol, one JSON object a message on a socket that is inherited: it says
``{"ready": PID}`` once, then answers ``{"tool": NAME, "argv": [...]}`` with ``{"pid": N}``, or
with ``{"stale": true}``, and ends, when the source of a tool changed on the disk.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from typing import Any

from daqlib import cli

#: What a stage tool loads after it has read its arguments: of ours, then of others.
_OURS = {"daq-collect": ("daq_collect.__main__", "daq_collect.collect"),
         "daq-merge": ("daq_merge.__main__", "daq_merge.stagework", "daq_merge.follower"),
         "daq-release": ("daq_release.__main__", "daq_release.release")}
_OTHERS = ("argparse", "ctypes", "encodings.ascii", "gettext", "locale", "shutil", "yaml",
           "daqlib.stagecli", "daqlib.cliparser", "daqlib.config", "daqlib.schema",
           "daqlib.strictjson")
#: Only some jobs want these; they are loaded when nobody waits.
_RARE = ("jsonschema", "sh")
_BETWEEN_CHECKS = 1.0  # seconds for which the source is believed to be as it was
_MESSAGE = 1 << 16
_BUG = 70  # the exit code of a worker that never came to run its tool


@cli.entry("daq-watch")
def main(argv: list[str]) -> int:
    """Be the nursery until the watcher closes the socket.

    Args:
        argv: descriptor of the socket, directory of the tools' rooms or ``-``, then a word for
            each tool: its name, ``=``, and what it finds as the first word of its command line.
    """
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)  # there is nothing to tidy up
    link = socket.socket(fileno=int(argv[0]))
    tools = dict(word.partition("=")[::2] for word in argv[2:])
    if argv[1] != "-":
        sys.path[:0] = [os.path.join(argv[1], tool) for tool in tools]
    _load(tools)
    seen = _source()
    _send(link, {"ready": os.getpid()})
    link.settimeout(_BETWEEN_CHECKS)
    _serve(link, tools, seen)
    return 0


def _load(tools: dict[str, str]) -> None:
    for name in _OTHERS:
        importlib.import_module(name)
    for tool in tools:
        for name in _OURS[tool]:
            importlib.import_module(name)
    _settle()


def _load_rare() -> None:
    for name in _RARE:
        with contextlib.suppress(ImportError):  # the tool that wants it says so
            importlib.import_module(name)
    _settle()


def _settle() -> None:
    """Keep the collector's marks from making every page of ours a page of each worker."""
    gc.collect()
    gc.freeze()


def _source() -> dict[str, int]:
    """Return the modules of this project that are loaded, with the time of their files."""
    paths = [str(module.__file__) for name, module in list(sys.modules.items())
             if name.partition(".")[0].startswith("daq") and getattr(module, "__file__", None)]
    return {path: _mtime(path) for path in paths}


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _serve(link: socket.socket, tools: dict[str, str], seen: dict[str, int]) -> None:
    checked, rare = time.monotonic(), False
    while True:
        try:
            message = link.recv(_MESSAGE)
        except TimeoutError:
            if not rare:  # an idle moment
                _load_rare()
                rare = True
                link.settimeout(None)
            continue
        except ConnectionError:  # the watcher was killed before it read an answer
            return
        if not message:
            return
        if time.monotonic() - checked > _BETWEEN_CHECKS:
            if any(_mtime(path) != mtime for path, mtime in seen.items()):
                _send(link, {"stale": True})
                return
            checked = time.monotonic()
        order = json.loads(message)
        _send(link, {"pid": _bear(link, order, tools[order["tool"]])})


def _send(link: socket.socket, answer: dict[str, Any]) -> None:
    link.send(json.dumps(answer).encode())


def _bear(link: socket.socket, order: dict[str, Any], first: str) -> int:
    """Fork twice: with its parent gone, the worker is a child of the watcher."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        between = os.fork()
        if not between:
            _fork_worker((link.fileno(), reader, writer), order, first)
        os.waitpid(between, 0)  # from now on the watcher can wait for the worker
        with contextlib.suppress(BlockingIOError):
            return int(os.read(reader, 32) or 0)
        return 0
    finally:
        os.close(reader)
        os.close(writer)


def _fork_worker(ours: tuple[int, int, int], order: dict[str, Any], first: str) -> None:
    try:
        worker = os.fork()
        if not worker:
            code = _BUG
            try:
                for descriptor in ours:
                    os.close(descriptor)
                code = _work(order, first)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        os.write(ours[-1], str(worker).encode())
    finally:
        os._exit(0)


def _work(order: dict[str, Any], first: str) -> int:
    os.setsid()
    tool = str(order["tool"])
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(tool)  # for people who look with ps
    module = sys.modules[_OURS[tool][0]]
    # the first word is that of a tool that the launcher runs
    sys.argv = [first or str(module.__file__), *order["argv"]]
    code = int(module.main())
    _finish()
    return code


def _finish() -> None:
    """Do what the interpreter does at its end, as far as a tool may have something left to do."""
    import atexit
    import threading

    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


if __name__ == "__main__":
    sys.exit(main())

"""What every tool's command line has in common: options, output, errors and exit codes.

Contract: stdout is data, stderr is words; ``--json`` prints one object a line; a traceback is
a bug. See ``docs/architecture.md``, "The command line".
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn

from daqlib import __version__, errors

Main = Callable[[list[str]], int]

_quiet = False
_verbose = 0
_tool = "daq"


class Terminated(BaseException):
    """SIGTERM or SIGINT arrived; unwinds the stack so that clean-up runs."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Parser(argparse.ArgumentParser):
    """An argument parser with our exit code for usage errors and examples after the options."""

    def error(self, message: str) -> NoReturn:
        """Print the one-line error with a pointer to the help, and exit 64."""
        raise errors.Usage(message, f"try '{self.prog} --help'")


def parser(tool: str, summary: str, examples: str, *, spool: bool = True) -> Parser:
    """Make a tool's parser with the options that all tools share.

    Args:
        tool: the command's name.
        summary: one or two sentences.
        examples: shell lines shown at the end of ``--help``.
        spool: whether the tool works on a spool (``--spool`` and ``--config``).
    """
    made = Parser(
        prog=tool,
        description=summary,
        epilog="examples:\n" + "\n".join("  " + line for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"{tool} {__version__}")
    made.add_argument("-q", "--quiet", action="store_true", help="say errors only")
    made.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    if spool:
        made.add_argument("--spool", metavar="DIR", help="the spool (default: $DAQ_SPOOL)")
        made.add_argument("--config", metavar="FILE", help="configuration (default: $DAQ_CONFIG)")
    return made


def parse(made: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse the arguments and take over how talkative to be."""
    global _quiet, _verbose
    options = made.parse_intermixed_args(argv) if not _has_subcommands(made) else (
        made.parse_args(argv))
    _quiet = bool(options.quiet)
    _verbose = int(options.verbose)
    return options


def _has_subcommands(made: argparse.ArgumentParser) -> bool:
    return made._subparsers is not None


def entry(tool: str) -> Callable[[Main], Callable[..., int]]:
    """Wrap a tool's ``main``: errors become one line and an exit code, signals end it cleanly."""

    def wrap(main: Main) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            global _tool
            _tool = tool
            _open_missing_descriptors()
            # a parent that ignores SIGINT (a background job of sh) or blocks signals is respected
            for signum in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    signal.signal(signum, _terminate)
            code = _guarded(main, sys.argv[1:] if argv is None else argv)
            _drop_unwritten()
            return code

        return run

    return wrap


def _open_missing_descriptors() -> None:
    """Give the standard streams that the caller closed (``2>&-``) a null device."""
    # otherwise the next file opened, a lock perhaps, would be standard error to every child
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
            setattr(sys, name, open(number, mode))  # noqa: SIM115


def _drop_unwritten() -> None:
    """Forget what could not be written: Python would fail over it at the exit, with code 120."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _terminate(signum: int, _frame: FrameType | None) -> None:
    raise Terminated(signum)


def _guarded(main: Main, argv: list[str]) -> int:
    try:
        return _printed(main, argv)
    except errors.DaqError as error:
        return fail(error)
    except Terminated as stop:
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return _broken_pipe()
    except OSError as error:
        return fail(from_os_error(error))
    except Exception as error:
        if os.environ.get("DAQ_DEBUG"):
            raise
        return fail(errors.Bug(f"internal error: {type(error).__name__}: {error}",
                               "run again with DAQ_DEBUG=1 and report the traceback"))


def _printed(main: Main, argv: list[str]) -> int:
    try:
        code = main(argv)
    except SystemExit as leave:  # argparse after --help and --version
        code = leave.code if isinstance(leave.code, int) else 0
    sys.stdout.flush()
    return code


def _broken_pipe() -> int:
    # the reader went away (| head): end as quietly as a C program that SIGPIPE kills
    mute()
    return 128 + signal.SIGPIPE


def mute() -> None:
    """Drop what goes to stdout from now on: its reader went away, the work goes on."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - keeps the interpreter's last flush quiet


def from_os_error(error: OSError) -> errors.DaqError:
    """Return the error class and remedy for a failed system call."""
    name = f"{error.filename}: " if error.filename else ""
    text = f"{name}{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.Later(text, "free some space")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return errors.NoPermission(text, "check owner and mode of the file and its directory")
    return errors.IoFailure(text)


def fail(error: errors.DaqError) -> int:
    """Print an error line on stderr and return its exit code."""
    job = f"{error.job}: " if error.job else ""
    _write(f"{_tool}: {job}{error}")
    return error.code


def warn(text: str) -> None:
    """Print a warning on stderr, even when quiet."""
    _write(f"{_tool}: {text}")


def say(text: str) -> None:
    """Print a progress line on stderr unless quiet."""
    if not _quiet:
        _write(f"{_tool}: {text}")


def detail(text: str) -> None:
    """Print a line on stderr when verbose."""
    if _verbose:
        _write(f"{_tool}: {text}")


def note(text: str) -> bool:
    """Print a line on stderr as it is, without the tool's name: output whose form is fixed.

    Returns:
        Whether somebody may read it.
    """
    return _write(text)


def set_verbosity(verbose: int, *, quiet: bool = False) -> None:
    """Set how talkative to be, for a daemon that is told so while it runs."""
    global _quiet, _verbose
    _quiet, _verbose = quiet, verbose


def verbosity() -> list[str]:
    """Return the options that make a tool started by this one as talkative."""
    return ["-q"] if _quiet else ["-v"] * _verbose


def _write(text: str) -> bool:
    # one write per line, so that lines of concurrent tools on one terminal or journal stay whole
    line = "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError as error:
        return not isinstance(error, BrokenPipeError)  # nobody reads our words: the work goes on
    return True


def progress(label: str) -> Callable[[int, int], None]:
    """Return a function of (done, total) that draws a progress bar on a terminal, else nothing."""
    import time

    if _quiet or not sys.stderr.isatty():
        return lambda done, total: None
    drawn = [0.0]

    def draw(done: int, total: int) -> None:
        now = time.monotonic()
        if now - drawn[0] < 0.1 and done < total:
            return
        drawn[0] = now
        filled = 30 * done // total if total else 30
        bar = "#" * filled + "." * (30 - filled)
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{label} [{bar}] {100 * done // (total or 1):3d} %{end}")
        sys.stderr.flush()

    return draw


def emit(document: object) -> None:
    """Print one JSON document as one line on stdout, flushed."""
    import json

    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show(text: str = "") -> None:
    """Print a line of data on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def text_argument(argument: str) -> str:
    """Return what an argument stands for.

    ``@FILE`` is a file's text, ``@-`` and ``-`` are stdin (ESO-396401, section 11.2.2), all else is
    itself.

    Raises:
        errors.Usage: the file cannot be read, or the text is not UTF-8.
    """
    if argument in ("@-", "-"):
        return _utf8(sys.stdin.read(), "standard input")
    if not argument.startswith("@"):
        return _utf8(argument, "an argument")
    try:
        with open(argument[1:], encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.Usage(f"cannot read {argument[1:] or argument}: {_reason(error)}") from error


def _utf8(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps the bytes that it could not decode as surrogates
        raise errors.Usage(f"{what} is not UTF-8: {text[:100]!r}") from None
    return text


def json_argument(argument: str, what: str) -> Any:
    """Return the JSON document of an argument, see :func:`text_argument`.

    Args:
        argument: JSON text, ``@FILE``, ``@-`` or ``-``.
        what: how to call it in an error.

    Raises:
        errors.BadData: the text is not JSON.
        errors.Usage: the file cannot be read, or the text is not UTF-8.
    """
    from daqlib import strictjson

    try:
        return strictjson.loads(text_argument(argument))
    except ValueError as error:
        raise errors.BadData(f"{what} is not JSON: {error}", _at_hint(argument)) from error


def _at_hint(argument: str) -> str:
    """Return a remedy for a word, such as the name of a file, where JSON was wanted."""
    if argument[:1] in ("@", "-", "{", "["):
        return ""
    return (f"write @{argument} to read that file" if os.path.exists(argument) else
            "give JSON text, @FILE to read a file, or - to read standard input")


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def ids(arguments: Iterable[str]) -> Iterator[str]:
    """Yield job ids from arguments; ``-`` stands for the lines of stdin."""
    for argument in arguments:
        if argument != "-":
            yield argument
            continue
        for line in sys.stdin:
            if line.strip():
                yield line.strip()


def command(tool: str) -> list[str]:
    """Return the argument vector that runs another tool of the suite.

    The sibling of the running program comes first (a checkout's ``bin/``, told by the launcher
    in ``DAQ_BIN``, or the scripts of an installation), then ``PATH``.

    Raises:
        errors.BadConfig: the tool is not installed.
    """
    for folder in (os.environ.get("DAQ_BIN", ""), os.path.dirname(os.path.abspath(sys.argv[0]))):
        path = os.path.join(folder, tool)
        if folder and os.access(path, os.X_OK) and not os.path.isdir(path):
            return [path]
    found = shutil.which(tool)
    if found:
        return [found]
    raise errors.BadConfig(f"{tool} is not installed beside this program nor on PATH",
                           "install daqspool, or run it from the checkout's bin/")

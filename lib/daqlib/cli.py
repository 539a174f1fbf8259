"""What every tool's command line has in common: options, output, errors and exit codes.

Contract: stdout is data, stderr is words; ``--json`` prints one object a line; a traceback is
a bug. See ``docs/architecture.md``, "The command line".
"""

from __future__ import annotations

import errno
import os
import sys

from daqlib import __version__, cliplain, errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    import signal
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType
    from typing import Any

    from daqlib.cliparser import Parser as Parser

    Main = Callable[[list[str]], int]
else:
    try:  # the module behind "signal", without the enumerations that double a start of Python
        import _signal as signal
    except ImportError:
        import signal

_quiet = False
_verbose = 0
_tool = "daq"
_bar_is_open = False

#: How an error calls the file that data are printed to.
STDOUT = "standard output"
#: The signals that ask a tool to end; SIGHUP comes when a terminal or a connection is closed.
_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_AGAIN_S = 0.01
_BAR, _BAR_MIN = 30, 5
_REMEDIES = {
    errno.EFBIG: "neither the file system nor 'ulimit -f' may limit the size of files to less",
    errno.EMFILE: "raise 'ulimit -n'",
    errno.ENFILE: "the system has too many open files: end some programs",
    errno.EIO: "the disk or the network failed: look into the system's log",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "mend the symbolic links",
}


class Terminated(BaseException):
    """SIGTERM, SIGINT or SIGHUP arrived; unwinds the stack so that clean-up runs."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def __getattr__(name: str) -> Any:
    """Return :class:`daqlib.cliparser.Parser`, for which argparse has to be loaded."""
    if name != "Parser":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from daqlib.cliparser import Parser

    return Parser


def parser(tool: str, summary: str, examples: str, *, spool: bool = True) -> Parser:
    """Make a tool's parser with the options that all tools share.

    Args:
        tool: the command's name.
        summary: one or two sentences.
        examples: shell lines shown at the end of ``--help``.
        spool: whether the tool works on a spool (``--spool`` and ``--config``).
    """
    from daqlib import cliparser

    made = cliparser.make(tool, summary, examples)
    _add_shared(made, tool, spool=spool)
    return made


def _add_shared(made: cliplain.Adds, tool: str, *, spool: bool) -> None:
    made.add_argument("--version", action="version", version=f"{tool} {__version__}")
    made.add_argument("-q", "--quiet", action="store_true", help="say errors and warnings only")
    made.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    if spool:
        made.add_argument("--spool", metavar="DIR", help="the spool (default: $DAQ_SPOOL)")
        made.add_argument("--config", metavar="FILE", help="configuration (default: $DAQ_CONFIG)")


def parse_plain(tool: str, add: Callable[[cliplain.Adds], None], argv: list[str], *,
                spool: bool = True) -> argparse.Namespace | None:
    """Parse a plain command line without loading argparse, which costs more than a small merge.

    Args:
        tool: the command's name.
        add: adds to a parser what the tool has beside the options that all tools share.
        argv: the arguments.
        spool: as for :func:`parser`.

    Returns:
        What :func:`parse` returns; None when it must be asked, see :mod:`daqlib.cliplain`.
    """
    reader = cliplain.Reader()
    _add_shared(reader, tool, spool=spool)
    add(reader)
    options = reader.read(argv)
    if options is not None:
        set_verbosity(int(options.verbose), quiet=bool(options.quiet))
    return options


def parse(made: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse the arguments and take over how talkative to be."""
    # without positional arguments nothing can stand between them, and asking costs milliseconds
    plain = _has_subcommands(made) or not made._get_positional_actions()
    options = made.parse_args(argv) if plain else _intermixed(made, argv)
    set_verbosity(int(options.verbose), quiet=bool(options.quiet))
    return options


def _intermixed(made: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse options that stand between positional arguments."""
    try:
        return made.parse_intermixed_args(argv)
    except errors.Usage as error:
        if "--" in argv:  # argparse loses what follows when nothing positional was before
            try:
                return made.parse_args(argv)
            except errors.Usage:
                raise error from None
        raise


def _has_subcommands(made: argparse.ArgumentParser) -> bool:
    return made._subparsers is not None


def entry(tool: str) -> Callable[[Main], Callable[..., int]]:
    """Wrap a tool's ``main``: errors become one line and an exit code, signals end it cleanly."""

    def wrap(main: Main) -> Callable[..., int]:
        def run(argv: list[str] | None = None) -> int:
            global _tool
            _tool = tool
            _open_missing_descriptors()
            # of a parent that ignores it: the kernel would reap our children, and nobody would
            # learn how they ended
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # a parent that ignores SIGINT (a background job of sh), SIGHUP (nohup) or blocks
            # signals is respected
            for signum in _ENDINGS:
                if signal.getsignal(signum) != signal.SIG_IGN:
                    signal.signal(signum, _terminate)
            if sys.unraisablehook is sys.__unraisablehook__:
                sys.unraisablehook = _unraised
            code = _guarded(main, sys.argv[1:] if argv is None else argv)
            settle()  # all is said and done; the interpreter would tell of a signal as of a failure
            _end_bar()
            _drop_unwritten()
            return code

        # what functools.wraps does; the fronts with ESO's names ask for the unwrapped function
        run.__name__, run.__doc__, run.__module__ = main.__name__, main.__doc__, main.__module__
        run.__dict__["__wrapped__"] = main
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


def _unraised(told: sys.UnraisableHookArgs) -> None:
    """Send a signal anew that came where nothing can be raised: in a destructor, in an import."""
    if not isinstance(told.exc_value, Terminated):
        sys.__unraisablehook__(told)
        return
    import _thread

    _thread.start_new_thread(_send_again, (told.exc_value.signum,))


def _send_again(signum: int) -> None:
    import time

    time.sleep(_AGAIN_S)  # not before what cannot be interrupted is over
    os.kill(os.getpid(), signum)


def settle() -> None:
    """Ignore signals to end from now on: what follows is short and is to be done whole."""
    for signum in _ENDINGS:
        signal.signal(signum, signal.SIG_IGN)


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
        return fail(from_bug(error))


def _printed(main: Main, argv: list[str]) -> int:
    try:
        code = main(argv)
    except SystemExit as leave:  # argparse after --help and --version
        code = leave.code if isinstance(leave.code, int) else 0
    _print("")
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
        return errors.Later(text, _space_remedy(error))
    if error.errno == errno.EROFS:
        return errors.NoPermission(text, "the system's log may say why it is mounted read-only: "
                                   "mend that and remount it")
    if error.errno in (errno.EACCES, errno.EPERM):
        return errors.NoPermission(text, "check owner and mode of the file and its directory")
    return errors.IoFailure(text, _REMEDIES.get(error.errno or 0, ""))


def from_bug(error: Exception) -> errors.DaqError:
    """Return the error for an exception that nobody expects: our bug, or a missing package."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package and not package.startswith("daq"):
        return errors.BadConfig(f"the Python package {package} is not installed for "
                                f"{sys.executable}", "install daqspool again, see its README")
    return errors.Bug(f"internal error: {type(error).__name__}: {error}",
                      "run again with DAQ_DEBUG=1 and report the traceback")


def _space_remedy(error: OSError) -> str:
    if error.errno == errno.EDQUOT:
        return "free some space, or have the quota raised"
    try:
        found = os.statvfs(os.path.dirname(os.fsdecode(error.filename or "")) or ".")
    except (OSError, TypeError):
        return "free some space"
    # space enough, and yet no file can be made
    full = found.f_files and not found.f_favail
    return ("remove some files: the file system can hold no more of them, see 'df -i'" if full
            else "free some space")


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
    global _bar_is_open
    line = "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
    begin, _bar_is_open = "\n" * _bar_is_open, False
    try:
        sys.stderr.write(f"{begin}{line}\n")
        sys.stderr.flush()
    except OSError as error:
        return not isinstance(error, BrokenPipeError)  # nobody reads our words: the work goes on
    return True


def progress(label: str) -> Callable[[int, int], None]:
    """Return a function of (done, total) that draws a progress bar on a terminal, else nothing."""
    import time

    if _quiet or not sys.stderr.isatty():
        return lambda done, total: None
    last = [0.0, -1]  # when it was drawn, and how much was done

    def draw(done: int, total: int) -> None:
        global _bar_is_open
        now = time.monotonic()
        if now - last[0] < 0.1 and done < total or done == last[1]:
            return
        last[:] = now, done
        _bar_is_open = done < total
        end = "" if _bar_is_open else "\n"
        try:
            sys.stderr.write(f"\r{_bar(label, done, total, _columns())}{end}")
            sys.stderr.flush()
        except OSError:
            return  # the terminal is gone: the work goes on

    return draw


def _bar(label: str, done: int, total: int, columns: int) -> str:
    """Return a progress bar of less than so many columns: on a full line a terminal begins anew."""
    length = max(_BAR_MIN, min(_BAR, columns - len(label) - 10))
    label = label[:max(0, columns - length - 10)]
    filled = length * done // total if total else length
    return f"{label} [{'#' * filled:.<{length}}] {100 * done // (total or 1):3d} %"


def _end_bar() -> None:
    """Leave the line of a progress bar that did not come to its end."""
    global _bar_is_open
    if _bar_is_open:
        _bar_is_open = False
        try:
            sys.stderr.write("\n")
        except OSError:
            return


def _columns() -> int:
    try:
        # a terminal that does not know its width says 0
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def emit(document: object) -> None:
    """Print one JSON document as one line on stdout, flushed."""
    import json

    # what a terminal would obey, and the bytes of a name that is not UTF-8, are told by escapes
    text = json.dumps(document, ensure_ascii=False)
    show(text if text.isprintable() else "".join(
        c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


def show(text: str = "") -> None:
    """Print a line of data on stdout.

    Raises:
        OSError: it cannot be written; names standard output.
    """
    _print(text + "\n")


def _print(text: str) -> None:
    try:
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:  # whatever the locale, a name is the bytes that it is
            sys.stdout.flush()
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except OSError as error:
        error.filename = STDOUT
        raise


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
    import shutil

    found = shutil.which(tool)
    if found:
        return [found]
    raise errors.BadConfig(f"{tool} is not installed beside this program nor on PATH",
                           "install daqspool, or run it from the checkout's bin/")

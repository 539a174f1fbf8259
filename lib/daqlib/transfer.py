"""Files between hosts: rsync over ssh, run through ``sh``.

What rsync is told and why:

* A path to write to is quoted here for the remote shell; rsync's own quoting is not complete.
* Names of files to fetch travel inside the protocol (``--files-from``), where neither a shell nor
  a wildcard nor an option parser sees them; this also works against a key restricted by rrsync.
* Never ``--partial``, ``--inplace`` or ``--append``: they give half a file the final name.
* rsync and its children inherit the job's lock, so that a transfer that outlives its tool keeps
  the job claimed. ssh closes what it inherits; no connection-sharing master is started for us
  (``ControlMaster=no``), though one that runs is used.
* A source that grows meanwhile arrives short with exit code 0: ask :func:`changed` afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from daqlib import errors
from daqlib.config import Config

#: Seconds without a byte after which a transfer is given up.
TIMEOUT = 60
#: Where rsync keeps what it has of an interrupted file, to go on from there.
PARTIAL = ".rsync-part"

_CONNECT = 20  # seconds
_GRACE = 5.0  # seconds between TERM and KILL
_SSH = (f"-o BatchMode=yes -o ConnectTimeout={_CONNECT} -o ControlMaster=no "
        "-o ClearAllForwardings=yes")
# from this version on rsync quotes remote paths, and has an option not to
_QUOTES_SINCE = (3, 2, 4)
# what a shell takes for more than a character of a word
_SHELL_CHARACTERS = re.compile(r"""[] !"#$&'()*;<>?[\\^`{|}]""")
_WILD = re.compile(r"[*?\[\]\\]")
_ERRNO = re.compile(r"\((\d+)\)\s*$")
_NO_COMMAND = re.compile(r"rsync: (command )?not found")
# rsync(1), exit values: socket I/O, timeouts; 255 is what ssh ends with, which rsync tells as 12
# when it notices the closed connection before the end of ssh
_NO_CONNECTION = (10, 12, 30, 35, 255)
_REFUSED = re.compile(r"permission denied|host key verification|no matching|rrsync", re.I)
_ENOENT, _EACCES, _ENOSPC, _EDQUOT = "2", "13", "28", "122"


@dataclass(frozen=True)
class Ended:
    """How rsync ended.

    Attributes:
        code: exit code; negative for a signal.
        out: what it printed.
        err: what it said.
    """

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Link:
    """What is needed to reach another host for one job.

    Attributes:
        settings: the configuration (``bin_rsync``, ``rsh``, ``ssh_config``).
        host: name or ssh alias, optionally ``user@``.
        descriptors: open files that the transfer shall inherit: the job's lock and slots.
    """

    settings: Config
    host: str
    descriptors: Sequence[int] = ()


def check_tools(settings: Config) -> None:
    """Check that what a transfer needs is installed and configured.

    Raises:
        errors.BadConfig: names what is missing and how to get it.
    """
    _program(settings["bin_rsync"], "cfg/bin_rsync", "rsync")
    words = _shell_words(settings)
    _program(words[0], "cfg/rsh", "openssh-client" if words[0] == "ssh" else words[0])
    _ssh_config(settings)


def fetch(link: Link, paths: Sequence[str], folder: str) -> None:
    """Fetch files of a host into a folder, each under its last name component.

    Files that are there with the origin's size and modification time are not sent again; what an
    interrupted transfer left in the folder is used.

    Args:
        link: the host.
        paths: absolute, with different last components.
        folder: absolute path of an existing directory that is this job's alone.

    Raises:
        errors.BadData: a file is missing or not a regular file; names host and path.
        errors.NoPermission: a file may not be read there.
        errors.Later: the host does not answer, or there is no space here.
        errors.BadConfig: rsync or ssh are not usable.
    """
    _clean(folder)
    ended = _rsync(link, ["--times", "--no-dirs", "--no-relative", f"--partial-dir={PARTIAL}",
                          "--files-from=-", "--from0", "--", f"{link.host}:/", folder + "/"],
                   _names(paths))
    if ended.code not in (0, 23, 24):
        raise fault(ended, link.host)
    for path in paths:
        _judge(ended, link.host, path, os.path.join(folder, os.path.basename(path)))
    if ended.code:
        raise errors.Later(f"{link.host}: {_reason(ended)}", "see to the files on that host")


def changed(link: Link, paths: Sequence[str], folder: str) -> list[str]:
    """Return the files whose size or modification time there is not that of the fetched ones.

    Raises:
        errors.DaqError: as :func:`fetch`.
    """
    ended = _rsync(link, ["--times", "--no-dirs", "--no-relative", "--dry-run", "--files-from=-",
                          "--out-format=%i %n", "--from0", "--", f"{link.host}:/", folder + "/"],
                   _names(paths))
    if ended.code in (23, 24):
        raise errors.Later(f"{link.host}: {_reason(ended)}", "see to the files on that host")
    if ended.code:
        raise fault(ended, link.host)
    return [line.partition(" ")[2] for line in ended.out.splitlines() if line.startswith(">f")]


def send(link: Link, path: str, target: str) -> bool:
    """Send a file, never replacing one that is there.

    Args:
        link: the host.
        path: absolute path here.
        target: absolute path there; its directory must exist.

    Returns:
        False when there is a file of this name already, see :func:`same`.

    Raises:
        errors.DaqError: as :func:`fetch`.
    """
    ended = _upload(link, path, target, "--times", "--ignore-existing")
    return bool(ended.out.strip())


def same(link: Link, path: str, target: str) -> bool:
    """Tell whether a file there has the content of a file here (by checksum); so has none.

    Raises:
        errors.DaqError: as :func:`fetch`.
    """
    ended = _upload(link, path, target, "--dry-run", "--checksum")
    lines = ended.out.splitlines()
    return not any(line.startswith("<f") and not line.startswith("<f+") for line in lines)


def fault(ended: Ended, host: str) -> errors.DaqError:
    """Return the error for an exit code of rsync: whose fault it is, and what to do."""
    text = f"{host}: {_reason(ended)}"
    numbers = set(_errnos(ended))
    # the code is 12 instead when rsync notices first that nobody listens
    if ended.code == 127 or _NO_COMMAND.search(ended.err):
        return errors.BadConfig(f"rsync is not installed on {host}",
                                "there: apt-get install rsync")
    if numbers & {_ENOSPC, _EDQUOT}:
        return errors.Later(text, "free some space")
    if ended.code == 3:
        return errors.BadConfig(text, "make the directory there, or mend the path")
    if ended.code in (1, 2, 4, 5, 6) or (ended.code == 14 and "Failed to exec" in ended.err):
        return errors.BadConfig(text, "check cfg/rsh, cfg/ssh_config and the rsync there")
    if ended.code == 11:
        denied = numbers & {_EACCES}
        return (errors.NoPermission(text, "check owner and mode of the directory there") if denied
                else errors.IoFailure(text, "check the disks of both hosts"))
    down = ended.code in _NO_CONNECTION and not _REFUSED.search(ended.err)
    return (errors.HostDown if down else errors.Later)(
        text, "see that the host is up and lets ssh in without a password")


def _upload(link: Link, path: str, target: str, *options: str) -> Ended:
    if _WILD.search(target):
        raise errors.BadConfig(f"{link.host}:{target}: a remote path with wildcards or "
                               "backslashes could mean another one", "rename the directory")
    quoted = _SHELL_CHARACTERS.sub(r"\\\g<0>", target)
    ended = _rsync(link, [*options, *_as_quoted(link.settings), "--out-format=%i %n", "--",
                          path, f"{link.host}:{quoted}"])
    if ended.code == 23 and _EACCES in _errnos(ended):
        raise errors.NoPermission(f"{link.host}: {_reason(ended)}",
                                  "check owner and mode of the directory there")
    if ended.code:
        raise fault(ended, link.host)
    return ended


def _judge(ended: Ended, host: str, path: str, arrived: str) -> None:
    here = os.path.isfile(arrived) and not os.path.islink(arrived)
    number = _complaint(ended, path)
    if not number and not here:
        # rrsync changes the path, rsync escapes what it cannot print: take what all have in common
        numbers = {_errno(line) for line in ended.err.splitlines() if "[sender]" in line}
        number = numbers.pop() if len(numbers) == 1 else ""
    if number == _EACCES:
        raise errors.NoPermission(f"{host}:{path}: permission denied",
                                  "check owner and mode of the file there")
    if number == _ENOENT:
        raise errors.BadData(f"{host}:{path}: no such file or directory",
                             "deliver the file there, or mend the location in the job")
    if here:
        return
    if ended.code == 0:
        raise errors.BadData(f"{host}:{path}: is not a regular file",
                             "name the file itself, not a directory or a symbolic link")
    raise errors.Later(f"{host}:{path}: did not arrive: {_reason(ended)}",
                       "see to the file on that host")


def _complaint(ended: Ended, path: str) -> str:
    """Return the error number that rsync gave for a file, or an empty text."""
    return next((_errno(line) for line in ended.err.splitlines() if f'"{path}"' in line), "")


def _names(paths: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def _clean(folder: str) -> None:
    """Remove rsync's temporaries of dead tries; who holds the lock knows that no rsync lives."""
    for name in os.listdir(folder):
        if name.startswith(".") and name != PARTIAL:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def _errno(line: str) -> str:
    found = _ERRNO.search(line)
    return found[1] if found else ""


def _errnos(ended: Ended) -> list[str]:
    return [number for line in ended.err.splitlines() if (number := _errno(line))]


def _reason(ended: Ended) -> str:
    """Return the telling line of what rsync and ssh said: the first one."""
    if ended.code < 0:
        return f"rsync died of signal {-ended.code}"
    lines = [line.strip() for line in ended.err.splitlines() if line.strip()]
    first = lines[0] if lines else "it gave no reason"
    return f"{first.rstrip('.')} (rsync exit code {ended.code})"


def _shell_words(settings: Config) -> list[str]:
    try:
        words = shlex.split(settings["rsh"])
    except ValueError as error:
        raise errors.BadConfig(f"cfg/rsh: {error}", "give a command such as 'ssh'") from error
    return words or ["ssh"]


def _shell(settings: Config) -> str:
    """Return the remote shell's command line as rsync splits it: at spaces, '' for a quote."""
    words = _shell_words(settings)
    text = " ".join(map(_quoted, words))
    if os.path.basename(words[0]) != "ssh":
        return text
    config = _ssh_config(settings)
    return f"{text} {_SSH}" + (f" -F {_quoted(config)}" if config else "")


def _quoted(word: str) -> str:
    doubled = word.replace("'", "''")
    return word if re.fullmatch(r"[\w@%+=:,./~-]+", word) else f"'{doubled}'"


def _ssh_config(settings: Config) -> str:
    given = os.path.expanduser(settings["ssh_config"])
    if not given:
        return ""
    path = os.path.join(os.path.dirname(settings.path), given)
    if not os.path.isfile(path):
        raise errors.BadConfig(f"cfg/ssh_config: {path}: no such file", "mend the configuration")
    return os.path.abspath(path)


def _program(name: str, key: str, package: str) -> None:
    if shutil.which(name) is None:
        raise errors.BadConfig(f"{name} ({key}) is not installed", f"apt-get install {package}")


def _as_quoted(settings: Config) -> list[str]:
    """Return the options by which rsync gives a remote path to the remote shell as we quoted it.

    Its own quoting lets a backquote through to the shell (seen with 3.2.7); ``--protect-args``,
    which needs none, is refused by rrsync.
    """
    told = subprocess.run([settings["bin_rsync"], "--version"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False).stdout
    found = re.search(r"version v?(\d+)\.(\d+)\.(\d+)", told)
    quotes = found is not None and tuple(map(int, found.groups())) >= _QUOTES_SINCE
    return ["--no-protect-args", *(["--old-args"] if quotes else [])]


def _rsync(link: Link, arguments: Sequence[str], data: bytes = b"") -> Ended:
    """Run rsync to its end; its process group is ended when we are told to end."""
    import sh

    try:
        command = sh.Command(link.settings["bin_rsync"])
    except sh.CommandNotFound as error:
        raise errors.BadConfig(f"{link.settings['bin_rsync']} (cfg/bin_rsync) is not installed",
                               "apt-get install rsync") from error
    options = ["-e", _shell(link.settings), f"--timeout={TIMEOUT}"]
    running = None
    try:
        with _signals_held() as mask:
            running = command(*options, *arguments, _in=data, _bg=True, _bg_exc=False,
                              _new_group=True, _tty_out=False, _return_cmd=True,
                              _env=_environment(), _ok_code=list(range(-64, 256)),
                              _pass_fds=set(link.descriptors),
                              _preexec_fn=_preparation(link.descriptors, mask))
        running.wait()
    except BaseException:
        if running is not None:
            _end(running.process)
        raise
    told = [bytes(text).decode(errors="replace") for text in (running.stdout, running.stderr)]
    return Ended(int(running.exit_code), *told)


@contextlib.contextmanager
def _signals_held() -> Iterator[set[int]]:
    """Hold back our end until the child is known, so that it can be ended with us."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {
        signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    try:
        yield {int(signum) for signum in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _preparation(descriptors: Sequence[int], mask: set[int]) -> Callable[[], None]:
    def prepare() -> None:
        # in the child only: nothing else that this process starts may inherit the lock
        for fd in descriptors:
            os.set_inheritable(fd, True)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare


def _environment() -> dict[str, str]:
    # RSYNC_OLD_ARGS and its kind would undo what is decided here; messages must be parseable
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RSYNC_")}
    return {**kept, "LC_ALL": "C.UTF-8"}


def _end(process: Any) -> None:
    """End a transfer with all its children: TERM, by which rsync tidies up, then KILL."""
    deadline = time.monotonic() + _GRACE
    signum = signal.SIGTERM
    while process.is_alive()[0]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pgid, signum)
        while process.is_alive()[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        signum, deadline = signal.SIGKILL, time.monotonic() + _GRACE

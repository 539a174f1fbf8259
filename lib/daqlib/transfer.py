"""Files between hosts: rsync over ssh, or from an rsync daemon.

What rsync is told and why:

* A path to write to is quoted here for the remote shell; rsync's own quoting is not complete.
* Names of files to fetch travel inside the protocol (``--files-from``), where neither a shell nor
  a wildcard nor an option parser sees them; this also works against a key restricted by rrsync.
* They keep their directories, so that files of one name come in one session.
* Never ``--partial``, ``--inplace`` or ``--append``: they give half a file the final name. Never
  ``--copy-links``: a symbolic link could lead anywhere.
* A source that grows meanwhile arrives short with exit code 0: ask :func:`changed` afterwards.

:mod:`daqlib.rsync` runs it, :mod:`daqlib.remoteshell` reaches the host,
:mod:`daqlib.rsynccodes` says whose fault it was.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

from daqlib import errors, names, remoteshell, rsync
from daqlib.config import Config
from daqlib.remoteshell import Link as Link
from daqlib.rsynccodes import EACCES, ENOENT, Ended, errno, errnos, fault, reason

#: Where rsync keeps what it has of an interrupted file, to go on from there.
PARTIAL = ".rsync-part"

# from this version on rsync quotes remote paths, and has an option not to
_QUOTES_SINCE = (3, 2, 4)
_SYNCS_SINCE = (3, 2, 4)
# from this version on rsync compares what comes with what was asked for, and has an option not to
_COMPARES_SINCE = (3, 2, 5)
# what a shell takes for more than a character of a word
_SHELL_CHARACTERS = re.compile(r"""[] !"#$&'()*;<>?[\\^`{|}]""")
_WILD = re.compile(r"[*?\[\]\\]")
_TIMES = ("--times", "--no-dirs", "--relative", "--no-implied-dirs")
_NAMES = ("--files-from=-", "--from0")


def check_tools(settings: Config, hosts: Iterable[str] = ("",)) -> None:
    """Check that what a transfer needs is installed and configured.

    Args:
        settings: the configuration.
        hosts: with which files are to be exchanged; see :class:`Link`.

    Raises:
        errors.BadConfig: names what is missing and how to get it.
    """
    _program(settings["bin_rsync"], "cfg/bin_rsync", "rsync")
    for daemon in {host.startswith(names.DAEMON) for host in hosts}:
        if daemon:
            _check_password_file(rsync.password_file(Link(settings, "")))
            continue
        word = remoteshell.words(settings)[0]
        _program(word, "cfg/rsh", "openssh-client" if word == "ssh" else word)
        remoteshell.config_file(settings)


def _check_password_file(path: str) -> None:
    if not path:
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise errors.BadConfig(f"cfg/transfer/password_file: {path}: {error.strerror}",
                               "mend the configuration") from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise errors.BadConfig(f"cfg/transfer/password_file: {path}: others may read it, or it is "
                               "no file", f"chmod 600 {path}")


def fetch(link: Link, paths: Sequence[str], folder: str, told: rsync.Told | None = None,
          beside: AbstractContextManager[object] | None = None) -> None:
    """Fetch files of a host into a folder, each to where :func:`arrived` says.

    Files that are there with the origin's size and modification time are not sent again; what an
    interrupted transfer left in the folder is used.

    Args:
        link: the host.
        paths: absolute, all different.
        folder: absolute path of an existing directory that is this job's alone.
        told: wants to know how far it got.
        beside: entered while the files arrive.

    Raises:
        errors.BadData: a file is missing or not a regular file; names host and path.
        errors.NoPermission: a file may not be read there.
        errors.Later: the host does not answer, or there is no space here.
        errors.BadConfig: rsync or ssh are not usable.
    """
    _clean(folder)
    ended = rsync.run(link, [*_TIMES, f"--partial-dir={PARTIAL}", *_named(link, paths),
                             _root(link), folder + "/"], _list(paths), told, beside)
    if ended.code not in (0, 23, 24):
        raise fault(ended, link.host)
    for path in paths:
        _judge(ended, link.host, path, arrived(folder, path))
    if ended.code:
        raise errors.Later(f"{link.host}: {reason(ended)}", "see to the files on that host")


def arrived(folder: str, path: str) -> str:
    """Return where a file is that was fetched into a folder."""
    return folder + path


def changed(link: Link, paths: Sequence[str], folder: str) -> list[str]:
    """Return the files whose size or modification time there is not that of the fetched ones.

    Raises:
        errors.DaqError: as :func:`fetch`.
    """
    ended = rsync.run(link, [*_TIMES, "--dry-run", "--out-format=%i %n", *_named(link, paths),
                             _root(link), folder + "/"], _list(paths))
    if ended.code in (23, 24):
        raise errors.Later(f"{link.host}: {reason(ended)}", "see to the files on that host")
    if ended.code:
        raise fault(ended, link.host)
    found = [line.partition(" ")[2] for line in ended.out.splitlines() if line.startswith(">f")]
    return [f"/{name}" for name in found]


def send(link: Link, path: str, target: str, *, make_path: bool = False,
         told: rsync.Told | None = None) -> bool:
    """Send a file, never replacing one that is there; it is durable there, if that rsync can.

    Args:
        link: the host.
        path: absolute path here.
        target: absolute path there; its directory must exist.
        make_path: make the directories there that are missing.
        told: wants to know how far it got.

    Returns:
        False when there is a file of this name already, see :func:`holds`.

    Raises:
        errors.DaqError: as :func:`fetch`.
    """
    options = ["--times", "--ignore-existing", *(["--mkpath"] if make_path else [])]
    lasting = ["--fsync"] if _version(link.settings["bin_rsync"]) >= _SYNCS_SINCE else []
    ended = _sent(link, path, target, [*lasting, *options], told)
    if lasting and ended.code and "--fsync" in ended.err:  # the other rsync is an older one
        ended = _sent(link, path, target, options, told)
    return bool(_arrivals(_judged(link, ended)))


def holds(link: Link, path: str, target: str) -> bool:
    """Tell whether there is a file there with the content of a file here (by checksum).

    Raises:
        errors.DaqError: as :func:`fetch`.
    """
    ended = _sent(link, path, target, ["--dry-run", "--checksum"])
    return not _arrivals(_judged(link, ended))


def _sent(link: Link, path: str, target: str, options: Sequence[str],
          told: rsync.Told | None = None) -> Ended:
    if _WILD.search(target):
        raise errors.BadConfig(f"{names.location(link.host, target)}: a remote path with wildcards "
                               "or backslashes could mean another one", "rename the directory")
    quoted = target if link.is_daemon else _SHELL_CHARACTERS.sub(r"\\\g<0>", target)
    words = [*options, *([] if link.is_daemon else _as_quoted(link.settings)),
             "--out-format=%i %n", "--", path, names.location(link.host, quoted)]
    return rsync.run(link, words, told=told)


def _judged(link: Link, ended: Ended) -> Ended:
    if ended.code == 23 and EACCES in errnos(ended):
        raise errors.NoPermission(f"{link.host}: {reason(ended)}",
                                  "check owner and mode of the directory there")
    if ended.code:
        raise fault(ended, link.host)
    return ended


def _arrivals(ended: Ended) -> list[str]:
    """Return what rsync says of files that it sent, or would send."""
    return [line for line in ended.out.splitlines() if line.startswith("<f")]


def _judge(ended: Ended, host: str, path: str, there: str) -> None:
    here = os.path.isfile(there) and not os.path.islink(there)
    where = names.location(host, path)
    number = _complaint(ended, path)
    if not number and not here:
        # rrsync changes the path, rsync escapes what it cannot print: take what all have in common
        numbers = {errno(line) for line in ended.err.splitlines() if "[sender]" in line}
        number = numbers.pop() if len(numbers) == 1 else ""
    if number == EACCES:
        raise errors.NoPermission(f"{where}: permission denied",
                                  "check owner and mode of the file there")
    if number == ENOENT:
        raise errors.BadData(f"{where}: no such file or directory",
                             "deliver the file there, or mend the location in the job")
    if here:
        return
    if ended.code == 0:
        raise errors.BadData(f"{where}: is not a regular file",
                             "name the file itself, not a directory or a symbolic link")
    raise errors.Later(f"{where}: did not arrive: {reason(ended)}",
                       "see to the file on that host")


def _complaint(ended: Ended, path: str) -> str:
    """Return the error number that rsync gave for a file, or an empty text."""
    return next((errno(line) for line in ended.err.splitlines() if f'"{path}"' in line), "")


def _list(paths: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def _named(link: Link, paths: Sequence[str]) -> list[str]:
    """Return the options by which rsync reads the names of files, and fetches exactly these."""
    # what it is sent is compared with the names as if they were patterns (seen with 3.2.7), so that
    # one with a backslash and a wildcard is refused; what came unasked would be in the job's own
    # folder, and be removed with it
    odd = any("\\" in path and re.search(r"[*?[]", path) for path in paths)
    compares = odd and _version(link.settings["bin_rsync"]) >= _COMPARES_SINCE
    return [*_NAMES, *(["--trust-sender"] if compares else []), "--"]


def _root(link: Link) -> str:
    return link.host + "/" if link.is_daemon else f"{link.host}:/"


def _clean(folder: str) -> None:
    """Remove rsync's temporaries of dead tries; who holds the lock knows that no rsync lives."""
    for place, inner, files in os.walk(folder):
        if PARTIAL in inner:
            inner.remove(PARTIAL)
        for name in files:
            if name.startswith("."):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(place, name))


def _program(name: str, key: str, package: str) -> None:
    if shutil.which(name) is None:
        raise errors.BadConfig(f"{name} ({key}) is not installed", f"apt-get install {package}")


def _as_quoted(settings: Config) -> list[str]:
    """Return the options by which rsync gives a remote path to the remote shell as we quoted it.

    Its own quoting lets a backquote through to the shell (seen with 3.2.7); ``--protect-args``,
    which needs none, is refused by rrsync.
    """
    quotes = _version(settings["bin_rsync"]) >= _QUOTES_SINCE
    return ["--no-protect-args", *(["--old-args"] if quotes else [])]


@functools.cache
def _version(program: str) -> tuple[int, ...]:
    told = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False).stdout
    found = re.search(r"version v?(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, found.groups())) if found else ()

"""The remote shell that reaches another host, and one ssh connection for several transfers.

An ssh connection costs some tenths of a second, most of them for its keys. A master connection is
therefore kept for ``cfg/transfer/persist_sec``, which all transfers of this account use. ssh would
start it by itself; but then it inherits what rsync has, the job's lock and the pipe of its words
among them, and keeps both when rsync has ended. So it is started here, detached and with clean
descriptors, before rsync. Who has set up sharing in the ssh configuration keeps that.

A connection that is dead, hangs or is refused costs a second try without it and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from daqlib import cli, errors, fsops, names, rsynccodes
from daqlib.config import Config

# as rsync splits the command, and as ssh takes a path in an option
_PLAIN = re.compile(r"[\w@%+=:,./~-]+")
_PLAIN_PATH = re.compile(r"/[\w@+=:,./~-]*")
# sun_path has room for 108 bytes, and ssh binds a longer name first: .XXXXXXXXXXXXXXXX
_LONGEST = 85
_MARGIN = 15.0  # seconds for keys and login, when the host has answered
_STOP = 2.0  # seconds for a master to answer
_LONG_ENOUGH = 60  # seconds without a sign of life, where no limit is set
# ssh says so when it is alone to blame, and not the host
_OWN_TROUBLE = re.compile(r"control ?socket|controlpath|unix_listener|mux", re.I)


@dataclass(frozen=True)
class Link:
    """What is needed to reach another host for one job.

    Attributes:
        settings: the configuration (``bin_rsync``, ``rsh``, ``ssh_config``, ``transfer``).
        host: name or ssh alias, optionally ``user@``; or ``rsync://[user@]host[:port]/module``.
        descriptors: open files that the transfer shall inherit: the job's lock and slots.
        bytes_per_sec: the most that this transfer may take; 0: what the configuration says.
    """

    settings: Config
    host: str
    descriptors: Sequence[int] = ()
    bytes_per_sec: int = 0

    @property
    def is_daemon(self) -> bool:
        """Whether an rsync daemon is asked, without a remote shell."""
        return self.host.startswith(names.DAEMON)


def words(settings: Config) -> list[str]:
    """Return the remote shell's program and the options that the configuration gives it.

    Raises:
        errors.BadConfig: ``cfg/rsh`` cannot be split into words.
    """
    try:
        found = shlex.split(settings["rsh"])
    except ValueError as error:
        raise errors.BadConfig(f"cfg/rsh: {error}", "give a command such as 'ssh'") from error
    return found or ["ssh"]


def config_file(settings: Config) -> str:
    """Return the absolute path of ``cfg/ssh_config``, empty when there is none.

    Raises:
        errors.BadConfig: it names a file that is not there.
    """
    given = os.path.expanduser(settings["ssh_config"])
    if not given:
        return ""
    path = os.path.join(os.path.dirname(settings.path), given)
    if not os.path.isfile(path):
        raise errors.BadConfig(f"cfg/ssh_config: {path}: no such file", "mend the configuration")
    return os.path.abspath(path)


def command(link: Link, *, share: bool = True) -> list[str]:
    """Return the argument vector of the remote shell, to be followed by host and command.

    Args:
        link: the host.
        share: whether to use, or begin, a shared connection.

    Raises:
        errors.BadConfig: the configuration is not usable.
        errors.DaqError: the host could not be reached, see :func:`daqlib.rsynccodes.fault`.
    """
    base = words(link.settings)
    if os.path.basename(base[0]) != "ssh":
        return base
    base += _options(link.settings)
    path = _master(link, base) if share else "none"
    return [*base, "-o", "ControlMaster=no", *(["-o", f"ControlPath={path}"] if path else [])]


def as_text(vector: Sequence[str]) -> str:
    """Return an argument vector as rsync splits it: at spaces, two quotes for one."""
    return " ".join(word if _PLAIN.fullmatch(word) else "'" + word.replace("'", "''") + "'"
                    for word in vector)


def _options(settings: Config) -> list[str]:
    made = ["-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes"]
    if seconds := int(settings["transfer.connect_sec"]):
        made += ["-o", f"ConnectTimeout={seconds}"]
    # rsync does not notice that its host is gone: what it sends goes as far as ssh
    alive = max(1, (int(settings["transfer.stall_sec"]) or _LONG_ENOUGH) // 3)
    made += ["-o", f"ServerAliveInterval={alive}", "-o", "ServerAliveCountMax=3"]
    config = config_file(settings)
    return [*made, "-F", config] if config else made


# -- the shared connection -------------------------------------------------------------------------


def drop(link: Link) -> bool:
    """Have nobody begin to use a shared connection any more; what runs over it goes on.

    Returns:
        Whether there was one of ours.
    """
    base = words(link.settings)
    if link.is_daemon or os.path.basename(base[0]) != "ssh":
        return False
    base += _options(link.settings)
    path = _path(link, base)
    if not path or not os.path.lexists(path):
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run([*base, "-o", f"ControlPath={path}", "-O", "stop", "--", link.host],
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=_STOP, check=False)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return True


def _master(link: Link, base: list[str]) -> str:
    """Return the socket of a connection that can be shared; empty when there is none.

    Raises:
        errors.DaqError: the host could not be reached.
    """
    path = _path(link, base)
    if not path or _listens(path):
        return path
    patience = float(link.settings["transfer.connect_sec"]) + _MARGIN
    lock = fsops.lock(f"{path}.lock", patience=patience)
    if lock is None:
        return ""
    try:
        if _listens(path):
            return path
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a master that died
        return path if _start(link, base, path, patience) else ""
    finally:
        os.close(lock)


def _path(link: Link, base: Sequence[str]) -> str:
    """Return where the socket of our own master is, or is to be; empty: nothing is shared."""
    seconds = int(link.settings["transfer.persist_sec"])
    if not seconds:
        return ""
    told = _resolved((*base, "-G", "--", link.host))
    if not told or re.search(r"^controlpath ", told, re.M):
        return ""
    folder = _folder()
    # whatever changes in the configuration of that host makes another connection of it
    name = hashlib.sha256(f"{base}\n{seconds}\n{told}".encode()).hexdigest()[:16]
    path = os.path.join(folder, name)
    if not folder or len(os.fsencode(path)) > _LONGEST or not _PLAIN_PATH.fullmatch(path):
        return ""
    return path


@functools.lru_cache(maxsize=64)
def _resolved(asked: tuple[str, ...]) -> str:
    """Return the whole configuration of ssh for a host, empty when ssh cannot tell."""
    try:
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.decode(errors="replace")


def _folder() -> str:
    """Return a directory that only this account can enter; empty when there is none."""
    place = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = (os.path.join(place, "daqspool") if place
              else os.path.join(tempfile.gettempdir(), f"daqspool-{os.geteuid()}"))
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        found = os.lstat(folder)
    except OSError:
        return ""
    # somebody else's, or open to others: a socket in it could be anybody's
    ours = (stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            and not stat.S_IMODE(found.st_mode) & 0o077)
    return folder if ours else ""


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_STOP)
        try:
            client.connect(path)
        except OSError:
            return False
    return True


def _start(link: Link, base: Sequence[str], path: str, patience: float) -> bool:
    """Start a master and wait until it listens.

    Raises:
        errors.DaqError: ssh could not reach the host, or was not let in.
    """
    program = os.path.abspath(shutil.which(base[0]) or base[0])
    vector = [program, *base[1:], "-o", "ControlMaster=yes", "-o", f"ControlPath={path}",
              "-o", f"ControlPersist={int(link.settings['transfer.persist_sec'])}",
              "-N", "-T", "-x", "-a", "--", link.host]
    with tempfile.TemporaryFile() as said:
        try:
            # it outlives us, and must not keep a file system busy
            process = subprocess.Popen(vector, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=said, start_new_session=True, env=environment(),
                                       cwd="/")
        except OSError as error:
            raise cli.from_os_error(error) from error
        try:
            code = _await(process, patience)
        finally:
            if process.poll() is None:
                process.kill()  # one that shares nothing would stay for ever
                process.wait()
        if code == 0:
            return _listens(path)
        _refuse(link.host, code, said)
    return False


def _await(process: subprocess.Popen[bytes], patience: float) -> int:
    """Return the exit code of a master's beginning; it goes into the background when it is up."""
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return -1 if process.returncode is None else process.returncode


def _refuse(host: str, code: int, said: IO[bytes]) -> None:
    said.seek(0)
    text = said.read().decode(errors="replace")
    if code == 255 and not _OWN_TROUBLE.search(text):
        raise rsynccodes.fault(rsynccodes.Ended(code, "", text), host)
    cli.detail(f"{host}: no ssh connection to share: {' '.join(text.split()) or f'exit {code}'}")


def environment() -> dict[str, str]:
    """Return the environment of rsync and ssh."""
    # RSYNC_OLD_ARGS and its kind would undo what is decided here; messages must be parseable
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RSYNC_")}
    return {**kept, "LC_ALL": "C.UTF-8"}

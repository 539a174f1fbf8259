"""What the exit codes of rsync mean, whose fault it was, and what to do: rsync(1), "EXIT VALUES".

The table :data:`CODES` decides and is printed by the documentation; what rsync and ssh said
besides decides where a code says too little.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from daqlib import errors

_ERRNO = re.compile(r"\((\d+)\)\s*$")
_NO_COMMAND = re.compile(r"rsync: (command )?not found|rsync: No such file")
_KEY_CHANGED = re.compile(r"host identification has changed", re.I)
_KEY_UNKNOWN = re.compile(r"host key is known for|host key verification failed", re.I)
_LOGIN = re.compile(r"permission denied \([a-z]|too many authentication failures|"
                    r"no more authentication methods", re.I)
_RESTRICTED = re.compile(r"rrsync|permission denied, |option .* has been disabled", re.I)
_CRYPTO = re.compile(r"no matching .* found|unable to negotiate", re.I)
_FULL = re.compile(r"max connections", re.I)
ENOENT, EACCES, ENOSPC, EDQUOT = "2", "13", "28", "122"


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


class Code(NamedTuple):
    """What an exit code means.

    Attributes:
        meaning: in short, what rsync(1) says.
        whose: whose fault it is, for people.
        error: what becomes of the job.
        remedy: what to do.
    """

    meaning: str
    whose: str
    error: type[errors.DaqError]
    remedy: str


_SETTINGS = "check cfg/bin_rsync, cfg/rsh and cfg/ssh_config, and the rsync there"
_LINE = "see that the host is up and lets us in without a password"
_FILES = "see to the files on that host"
_MEMORY = "see what else runs on the two hosts"

#: Every code of rsync(1), and those of the remote shell that rsync passes on.
CODES: dict[int, Code] = {
    1: Code("syntax or usage error", "the settings here, or an rsync that is too old",
            errors.BadConfig, _SETTINGS),
    2: Code("protocol incompatibility", "the two rsyncs do not fit, or a login script there prints "
            "something", errors.BadConfig, "ssh HOST true must print nothing; else update rsync"),
    3: Code("errors selecting input/output files, dirs", "a directory is missing",
            errors.BadConfig, "make the directory there, or mend the path"),
    4: Code("requested action not supported", "one rsync lacks what the other asks for",
            errors.BadConfig, _SETTINGS),
    5: Code("error starting client-server protocol", "the daemon does not let us in: module, user "
            "or password", errors.BadConfig,
            "check the module, the user and cfg/transfer/password_file"),
    6: Code("daemon unable to append to log-file", "the daemon there", errors.BadConfig,
            "see to the log file of the daemon there"),
    10: Code("error in socket I/O", "the daemon there, or the network", errors.HostDown,
             "see that the rsync daemon there runs and can be reached"),
    11: Code("error in file I/O", "a disk", errors.IoFailure, "check the disks of both hosts"),
    12: Code("error in rsync protocol data stream", "the connection broke, or the command was "
             "refused there", errors.HostDown, _LINE),
    13: Code("errors with program diagnostics", "an rsync died", errors.Later, _SETTINGS),
    14: Code("error in IPC code", "this host: too many processes", errors.Later, _MEMORY),
    15: Code("sibling process crashed", "an rsync died", errors.Later, _MEMORY),
    16: Code("sibling process terminated abnormally", "somebody ended an rsync", errors.Later,
             _MEMORY),
    19: Code("received SIGUSR1", "somebody ended rsync", errors.Later, "it is tried again"),
    20: Code("received SIGUSR1 or SIGINT", "somebody ended rsync", errors.Later,
             "it is tried again"),
    21: Code("some error returned by waitpid()", "this host", errors.Later, _MEMORY),
    22: Code("error allocating core memory buffers", "no memory", errors.Later, _MEMORY),
    23: Code("partial transfer due to error", "a file: each is judged by itself", errors.Later,
             _FILES),
    24: Code("partial transfer due to vanished source files", "a file went away meanwhile",
             errors.Later, _FILES),
    25: Code("the --max-delete limit stopped deletions", "nobody: we delete nothing there",
             errors.Later, _SETTINGS),
    30: Code("timeout in data send/receive", "the network, or a disk that hangs", errors.HostDown,
             "see to the network; the limit is cfg/transfer/stall_sec"),
    35: Code("timeout waiting for daemon connection", "the daemon there, or the network",
             errors.HostDown, "see that the rsync daemon there runs and can be reached"),
    124: Code("the remote shell failed", "the account there", errors.BadConfig, _SETTINGS),
    125: Code("the remote shell was killed", "somebody ended ssh", errors.Later,
              "it is tried again"),
    126: Code("the remote command could not be run", "the rsync there", errors.BadConfig,
              "there: check the mode of the rsync program"),
    127: Code("the remote command was not found", "there is no rsync there", errors.BadConfig,
              "there: apt-get install rsync"),
    255: Code("ssh failed (ssh(1))", "the host or the network is down, or the login was refused",
              errors.HostDown, _LINE),
}
_UNKNOWN = Code("", "", errors.Later, _LINE)

#: What is said with codes that mean several things -> the error, what it is called, the remedy.
_REFUSALS: tuple[tuple[re.Pattern[str], type[errors.DaqError], str, str], ...] = (
    (_KEY_CHANGED, errors.Patience, "its host key is not the one that is known here",
     "find out why it changed; then: ssh-keygen -R HOST, and log in once by hand"),
    (_KEY_UNKNOWN, errors.Patience, "its host key is not known here",
     "log in once by hand and compare it: ssh HOST"),
    (_LOGIN, errors.Patience, "", "let this account in without a password: ssh-copy-id HOST; try: "
     "ssh -o BatchMode=yes HOST true"),
    (_CRYPTO, errors.BadConfig, "", "its ssh and ours have no method in common: see ssh_config(5)"),
    (_FULL, errors.Patience, "", "raise 'max connections' there, or lower cfg/limits/net_receive"),
    (_RESTRICTED, errors.Later, "", "the key is restricted there: see rrsync(1), and give paths "
     "below its directory as it sees them"),
)
# codes of which the reason decides, as they also mean that a connection was refused or lost
_SEVERAL = (1, 5, 12, 255)


def fault(ended: Ended, host: str) -> errors.DaqError:
    """Return the error for the end of rsync: whose fault it is, and what to do.

    Args:
        ended: how it ended, with another code than 0.
        host: from where or to where; part of the message.
    """
    numbers = set(errnos(ended))
    # the code is 12 instead when rsync notices first that nobody listens
    if ended.code == 127 or _NO_COMMAND.search(ended.err):
        return errors.BadConfig(f"rsync is not installed on {host}", CODES[127].remedy)
    if numbers & {ENOSPC, EDQUOT}:
        return errors.Later(f"{host}: {reason(ended)}", "free some space")
    if ended.code == 11 and EACCES in numbers:
        return errors.NoPermission(f"{host}: {reason(ended)}",
                                   "check owner and mode of the directory there")
    if ended.code == 14 and "Failed to exec" in ended.err:
        return errors.BadConfig(f"{host}: {reason(ended)}", _SETTINGS)
    for pattern, kind, name, remedy in _REFUSALS if ended.code in _SEVERAL else ():
        if found := next((line for line in ended.err.splitlines() if pattern.search(line)), ""):
            said = reason(ended) if not name else f"{name} ({_cleaned(found)})"
            text = said if name else f"{_cleaned(found)} (rsync exit code {ended.code})"
            return kind(f"{host}: {text}", remedy.replace("HOST", host))
    code = CODES.get(ended.code, _UNKNOWN)
    return code.error(f"{host}: {reason(ended)}", code.remedy.replace("HOST", host))


def is_cut_off(ended: Ended) -> bool:
    """Tell whether the host could not be reached, or not any more."""
    return ended.code != 0 and isinstance(fault(ended, ""), errors.HostDown)


def reason(ended: Ended) -> str:
    """Return the telling line of what rsync and ssh said: the first one."""
    if ended.code < 0:
        return f"rsync died of signal {-ended.code}"
    first = next(filter(None, map(_cleaned, ended.err.splitlines())), "")
    if not first:
        first = CODES[ended.code].meaning if ended.code in CODES else "it gave no reason"
    return f"{first} (rsync exit code {ended.code})"


def _cleaned(line: str) -> str:
    # ssh frames its loudest warnings
    return line.strip(" \t\r@").rstrip(".!")


def errno(line: str) -> str:
    """Return the number at the end of a line about a system call, or an empty text."""
    found = _ERRNO.search(line)
    return found[1] if found else ""


def errnos(ended: Ended) -> list[str]:
    """Return all such numbers."""
    return [number for line in ended.err.splitlines() if (number := errno(line))]

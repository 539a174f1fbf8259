"""A conversation with ``daq-start --import`` on another host, over ssh.

What is said is described in ``docs/two-hosts.md``: a line of JSON from there to begin with, then
requests, a line of JSON each, and replies in their order; a session that follows jobs hears of
them between the replies. The far side does nothing that its key does not permit.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import time
from types import TracebackType
from typing import Any

from daqlib import breaker, errors, names
from daqlib.config import Config

Document = dict[str, Any]

#: The version of the protocol, in the first line from there.
PROTOCOL = 1
#: Seconds between signs of life of a session that follows jobs.
PING = 20.0

_START = 30.0  # seconds that the tool there may need to start, beyond those to connect
_PATIENCE = 60.0  # seconds without a byte after which a reply is given up, unless configured
_GRACE = 2.0
_LONGEST = 64 << 20  # bytes of a line from there
# a connection of its own: a shared one would outlive us, and end with what others do to it
_SSH = ("BatchMode=yes", "ControlMaster=no", "ControlPath=none", "ClearAllForwardings=yes",
        "ServerAliveInterval=15", "ServerAliveCountMax=3")
_REFUSED = re.compile(r"permission denied|host key verification|no matching|too many auth", re.I)
_MISSING = re.compile(r"(command )?not found|no such file", re.I)
_SHOWN = 300  # characters of what was said there
_NOISE = 20  # lines that are no JSON, of which the last are kept


class Session:
    """A running conversation; use it as a context, which ends it."""

    def __init__(self, settings: Config, to: str) -> None:
        """Start the remote shell; nothing is waited for.

        Args:
            settings: ``rsh``, ``ssh_config``, ``transfer.connect_sec``, ``transfer.stall_sec``.
            to: the other spool, ``HOST:PATH``.

        Raises:
            errors.BadConfig: the remote shell is not usable here.
        """
        self.to = to
        self.host, _ = names.split_location(to)
        #: What was heard of followed jobs and not taken yet.
        self.news: collections.deque[Document] = collections.deque()
        self._replies: collections.deque[Document] = collections.deque()
        self._greeting: Document | None = None
        self._noise: collections.deque[str] = collections.deque(maxlen=_NOISE)
        self._out = bytearray()
        self._in = bytearray()
        self._err = bytearray()
        self._start = float(settings["transfer.connect_sec"]) + _START
        self._patience = float(settings["transfer.stall_sec"]) or _PATIENCE
        self._process = subprocess.Popen(
            command(settings, to), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin, self._stdout, self._stderr = (
            self._process.stdin.fileno(), self._process.stdout.fileno(),
            self._process.stderr.fileno())
        for fd in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(fd, False)

    def __enter__(self) -> Session:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """End it."""
        self.close()

    def fileno(self) -> int:
        """Return a descriptor that is readable when :meth:`pump` has something to do."""
        return self._stdout

    def close(self) -> None:
        """End the conversation: the other side ends with its standard input."""
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        with contextlib.suppress(OSError):
            process.stdin.close()
        if self._greeting is None:
            process.terminate()  # it may be waiting for a host that does not answer
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()

    def greet(self) -> None:
        """Wait until the tool there speaks.

        Raises:
            errors.HostDown: the host does not answer.
            errors.Patience: it does not let us in, or has no usable spool there.
        """
        deadline = time.monotonic() + self._start
        while self._greeting is None:
            self._pump_until(deadline)

    def send(self, request: Document, *bodies: bytes) -> None:
        """Say something; it leaves while :meth:`pump` or :meth:`ask` run."""
        self._out += json.dumps(request).encode() + b"\n"
        for body in bodies:
            self._out += body

    def flush(self) -> None:
        """Wait until all that was said has left.

        Raises:
            errors.DaqError: as :meth:`ask`.
        """
        left, deadline = len(self._out), time.monotonic() + self._patience
        while self._out:
            self._pump_until(deadline)
            if len(self._out) != left:
                left, deadline = len(self._out), time.monotonic() + self._patience

    def ask(self, request: Document, *bodies: bytes) -> Document:
        """Send a request and return the reply; its member ``ok`` tells whether it was granted.

        Raises:
            errors.HostDown: the connection broke, or there was no sign of life for too long;
                whether the request was granted is not known then.
            errors.Patience: the tool there ended.
        """
        self.send(request, *bodies)
        deadline = time.monotonic() + self._patience
        while not self._replies:
            before = len(self._out), len(self._in), len(self.news)
            self._pump_until(deadline)
            if before != (len(self._out), len(self._in), len(self.news)):
                deadline = time.monotonic() + self._patience
        return self._replies.popleft()

    def replies(self) -> list[Document]:
        """Return the replies to what was sent, and forget them."""
        found = list(self._replies)
        self._replies.clear()
        return found

    def pump(self, timeout: float = 0.0) -> None:
        """Write and read what there is, waiting for it no longer than so many seconds.

        Raises:
            errors.DaqError: as :meth:`ask`.
        """
        writing = [self._stdin] if self._out else []
        readable, writable, _ = select.select([self._stdout, self._stderr], writing, [], timeout)
        if self._stderr in readable:
            self._hear_words()
        if writable:
            self._write()
        if self._stdout in readable:
            self._hear()

    def _pump_until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._down("it does not answer any more" if self._greeting else
                             "it does not answer")
        self.pump(left)

    def _write(self) -> None:
        try:
            del self._out[:os.write(self._stdin, self._out[:1 << 16])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._out.clear()  # why it is gone is told by its end, which is about to be read

    def _hear_words(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._err = (self._err + os.read(self._stderr, 1 << 16))[-(1 << 16):]

    def _hear(self) -> None:
        try:
            data = os.read(self._stdout, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            raise self._ended()
        self._in += data
        if len(self._in) > _LONGEST:
            raise errors.Patience(f"{self.to}: says too much", "see which program answers there")
        if b"\n" not in data:
            return  # a long line is looked at once
        *lines, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            self._noise.append(line[-_SHOWN:].decode(errors="replace"))
        elif self._greeting is None:
            self._take_greeting(said)
        elif "ok" in said:
            self._replies.append(said)
        else:
            self.news.append(said)

    def _take_greeting(self, said: Document) -> None:
        if said.get("daqspool") != PROTOCOL:
            raise errors.Patience(f"{self.to}: speaks another version: {str(said)[:_SHOWN]}",
                                  "install the same version of daqspool on both hosts")
        self._greeting = said

    def _ended(self) -> errors.DaqError:
        """Return why the conversation is over, told by the end of the remote shell."""
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            code = 255
        # whoever inherited it may keep it open: what is there now is all
        while select.select([self._stderr], [], [], 0)[0]:
            before = len(self._err)
            self._hear_words()
            if len(self._err) == before:
                break
        said = [*self._noise, *self._err.decode(errors="replace").splitlines()]
        lines = [line.strip() for line in said if line.strip()]
        text = " / ".join(lines)[-_SHOWN:] or f"it ended with code {code}"
        if code == 255 and not _REFUSED.search(text):
            return self._down(text)
        if code == 255:
            return errors.Patience(f"{self.to}: {text}", "see that the host lets ssh in without a "
                                   "password, and that its key is known")
        if code == 127 or (self._greeting is None and _MISSING.search(text)):
            return errors.Patience(f"{self.to}: {text}", "install daqspool there, and give the key "
                                   'command="daq-start --import --spool DIR"')
        if self._greeting is not None and code in (0, -15):
            return self._down("the connection was closed")
        return errors.Patience(f"{self.to}: {text}", "mend it there")

    def _down(self, text: str) -> errors.HostDown:
        error = errors.HostDown(f"{self.host}: {text}", "see that the host is up and lets ssh in "
                                "without a password")
        error.host = breaker.name_of(self.host)
        return error


def refusal(reply: Document, to: str) -> errors.DaqError:
    """Return the error for a reply that is not ``ok``: whose fault it was.

    What is wrong with the job stays wrong; what is wrong with the other host is no fault of it.
    """
    message = f"{to}: {reply.get('error', 'refused')}"
    remedy = str(reply.get("remedy", ""))
    for kind in (errors.BadData, errors.NoJob, errors.Conflict, errors.Bug):
        if reply.get("code") == kind.code:
            return kind(message, remedy)
    return errors.Patience(message, remedy)


def command(settings: Config, to: str) -> list[str]:
    """Return the argument vector by which the tool on the other host is run.

    A key that is restricted to it ignores what stands here; the path is quoted for the shell there.

    Raises:
        errors.BadConfig: the remote shell is not installed, or its configuration is missing.
    """
    host, path = names.split_location(to)
    words = _remote_shell(settings)
    if shutil.which(words[0]) is None:
        raise errors.BadConfig(f"{words[0]} (cfg/rsh) is not installed",
                               "apt-get install openssh-client")
    return [*words, host, f"daq-start --import --spool {shlex.quote(path)}"]


def _remote_shell(settings: Config) -> list[str]:
    try:
        words = shlex.split(settings["rsh"]) or ["ssh"]
    except ValueError as error:
        raise errors.BadConfig(f"cfg/rsh: {error}", "give a command such as 'ssh'") from error
    if os.path.basename(words[0]) != "ssh":
        return words
    options = [*_SSH, f"ConnectTimeout={max(1, int(settings['transfer.connect_sec']))}"]
    words += ["-T", *(word for option in options for word in ("-o", option))]
    if given := os.path.expanduser(settings["ssh_config"]):
        path = os.path.abspath(os.path.join(os.path.dirname(settings.path), given))
        if not os.path.isfile(path):
            raise errors.BadConfig(f"cfg/ssh_config: {path}: no such file",
                                   "mend the configuration")
        words += ["-F", path]
    return words

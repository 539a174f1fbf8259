"""Runs rsync through ``sh``, to its end or to ours.

rsync and its children inherit the job's lock, so that a transfer that outlives its tool keeps the
job claimed. A shared connection that turns out to be dead costs a second run without it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from daqlib import errors, remoteshell, rsynccodes
from daqlib.remoteshell import Link
from daqlib.rsynccodes import Ended

#: Called with the bytes that are done and those that there are; 0 while that is not known.
Told = Callable[[int, int], None]

_GRACE = 5.0  # seconds between TERM and KILL
# what rsync prints with --info=progress2, once a second: bytes, percents, rate, time
_PROGRESS = re.compile(r"\s*(\d[\d,.]*)\s+(\d+)%\s")


def run(link: Link, arguments: Sequence[str], data: bytes = b"", told: Told | None = None,
        beside: AbstractContextManager[object] | None = None) -> Ended:
    """Run rsync to its end; its process group is ended when we are told to end.

    Args:
        link: the host.
        arguments: options and files.
        data: for its standard input.
        told: wants to know how far it got.
        beside: entered when rsync runs, left when it has ended.

    Raises:
        errors.BadConfig: rsync or the remote shell are not usable.
        errors.DaqError: the host could not be reached.
    """
    more = [] if told is None else ["--info=progress2", "--no-human-readable"]
    before = beside or nullcontext()
    ended = _once(link, [*_options(link, share=True), *more, *arguments], data, told, before)
    if rsynccodes.is_cut_off(ended) and remoteshell.drop(link):
        ended = _once(link, [*_options(link, share=False), *more, *arguments], data, told, before)
    return ended


def _options(link: Link, *, share: bool) -> list[str]:
    settings = link.settings
    made = []
    if stall := int(settings["transfer.stall_sec"]):
        made.append(f"--timeout={stall}")
    if rate := link.bytes_per_sec or int(settings["transfer.bytes_per_sec"]):
        made.append(f"--bwlimit={max(1, rate // 1024)}")
    if not link.is_daemon:
        return [*made, "-e", remoteshell.as_text(remoteshell.command(link, share=share))]
    if connect := int(settings["transfer.connect_sec"]):
        made.append(f"--contimeout={connect}")
    if path := password_file(link):
        made.append(f"--password-file={path}")
    return made


def password_file(link: Link) -> str:
    """Return the absolute path of ``cfg/transfer/password_file``, empty when there is none."""
    given = os.path.expanduser(link.settings["transfer.password_file"])
    return os.path.join(os.path.dirname(link.settings.path), given) if given else ""


def _once(link: Link, arguments: Sequence[str], data: bytes, told: Told | None,
          beside: AbstractContextManager[object]) -> Ended:
    import sh

    try:
        command = sh.Command(link.settings["bin_rsync"])
    except sh.CommandNotFound as error:
        raise errors.BadConfig(f"{link.settings['bin_rsync']} (cfg/bin_rsync) is not installed",
                               "apt-get install rsync") from error
    # in lines, rsync's progress would arrive when it is over
    words: dict[str, Any] = {} if told is None else {"_out": _Progress(told), "_out_bufsize": 0}
    running = None
    try:
        with _signals_held() as mask:
            running = command(*arguments, _in=data, _bg=True, _bg_exc=False, _new_group=True,
                              _tty_out=False, _return_cmd=True, _env=_environment(link),
                              _ok_code=list(range(-64, 256)), _pass_fds=set(link.descriptors),
                              _preexec_fn=_preparation(link.descriptors, mask), **words)
        with beside:
            _wait(running)
    except BaseException:
        if running is not None:
            _end(running.process)
        raise
    out, err = (bytes(text).decode(errors="replace") for text in (running.stdout, running.stderr))
    progress = words.get("_out")
    return Ended(int(running.exit_code), progress.said if progress else out, err)


def _wait(running: Any) -> None:
    try:
        running.wait()
    except BaseException:
        _end(running.process)  # before whoever looks on is told
        raise


class _Progress:
    """Takes what rsync prints, in whatever pieces, and tells what it says of its progress."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._rest = ""
        self.said = ""  # the lines that are about something else

    def __call__(self, piece: str | bytes) -> None:
        text = piece.decode(errors="replace") if isinstance(piece, bytes) else piece
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        for line in lines:
            if found := _PROGRESS.match(line):
                done, percent = int(re.sub(r"\D", "", found[1])), int(found[2])
                self._told(done, done * 100 // percent if percent else 0)
            elif line.strip():
                self.said += line + "\n"


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


def _environment(link: Link) -> dict[str, str]:
    made = remoteshell.environment()
    # without a password rsync would ask for one, on the terminal or of the names of the files
    return {**made, "RSYNC_PASSWORD": ""} if link.is_daemon else made


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

"""Child processes that end with this one, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # of prctl(2)


@contextlib.contextmanager
def held() -> Iterator[set[int]]:
    """Hold back our end within the block; yields the signals that were held back before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        yield {int(signum) for signum in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def preparation(mask: set[int]) -> Callable[[], None]:
    """Return what a child does between fork and exec: it ends by signals, and with its parent.

    Args:
        mask: from :func:`held`, within which the child is made.
    """
    bind = bound_to_parent()

    def prepare() -> None:
        for signum in _ENDINGS:
            signal.signal(signum, signal.SIG_DFL)
        bind()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare


def bound_to_parent() -> Callable[[], None]:
    """Return a function for a child to call: it gets TERM when its parent dies (prctl(2))."""
    import ctypes  # here, not in the child: of the two only fork and exec need little

    try:
        call = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return lambda: None
    parent = os.getpid()

    def bind() -> None:
        call(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before this
            os.kill(os.getpid(), signal.SIGTERM)

    return bind

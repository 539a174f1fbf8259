"""The nursery's process: how it ends."""

from __future__ import annotations

import socket

from daq_watch import cradle


def test_a_watcher_that_was_killed_is_no_error() -> None:
    """What it had not read yet comes back as a reset, where an end is expected."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(b'{"pid": 1}')
        theirs.close()
        ours.settimeout(0.1)
        cradle._serve(ours, {}, {})

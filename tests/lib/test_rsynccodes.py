from __future__ import annotations

import pytest

from daqlib import errors, rsynccodes
from daqlib.rsynccodes import Ended, fault

#: rsync(1), "EXIT VALUES", without success.
OF_THE_MANUAL = {1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 25, 30, 35}
CODES = [*sorted(rsynccodes.CODES), 99, -9]


def test_every_code_of_the_manual_is_there() -> None:
    assert set(rsynccodes.CODES) >= OF_THE_MANUAL


@pytest.mark.parametrize("code", CODES)
def test_every_error_names_host_reason_and_remedy(code: int) -> None:
    for text in ("", "rsync: something is wrong\nand more\n"):
        error = fault(Ended(code, "", text), "far")
        assert "far" in error.message and error.remedy
        assert "signal 9" in error.message or f"{code}" in error.message or code == 127
        assert str(error).isprintable()


@pytest.mark.parametrize(("code", "says", "kind", "words"), [
    (12, "sh: rsync: not found", errors.BadConfig, "rsync is not installed on far"),
    (127, "", errors.BadConfig, "apt-get install rsync"),
    (11, "rsync: write failed on \"/x\": No space left on device (28)", errors.Later, "free some"),
    (23, "rsync: write failed: Disk quota exceeded (122)", errors.Later, "free some space"),
    (11, "rsync: mkstemp \"/x\" failed: Permission denied (13)", errors.NoPermission, "owner"),
    (11, "rsync: read errors: Input/output error (5)", errors.IoFailure, "check the disks"),
    (14, "rsync: Failed to exec nosuch: No such file or directory (2)", errors.BadConfig,
     "cfg/rsh"),
    (255, "ssh: connect to host h port 22: Connection refused", errors.HostDown, "host is up"),
    (255, "u@h: Permission denied (publickey).", errors.Patience, "ssh-copy-id far"),
    (12, "Too many authentication failures", errors.Patience, "ssh-copy-id far"),
    (12, "@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@", errors.Patience,
     "ssh-keygen -R far"),
    (255, "Host key verification failed.", errors.Patience, "host key is not known here"),
    (255, "Unable to negotiate with h: no matching host key type found.", errors.BadConfig,
     "ssh_config(5)"),
    (12, "/usr/bin/rrsync error: sending to read-only server is not allowed", errors.Later,
     "rrsync(1)"),
    (5, "@ERROR: max connections (4) reached -- try again later", errors.Patience, "net_receive"),
    (5, "@ERROR: auth failed on module m", errors.BadConfig, "password_file"),
    (30, "rsync error: timeout in data send/receive (code 30)", errors.HostDown, "stall_sec"),
    (20, "rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20)", errors.Later, "again"),
])
def test_what_is_said_decides(code: int, says: str, kind: type[errors.DaqError],
                              words: str) -> None:
    error = fault(Ended(code, "", says + "\nrsync error: some text\n"), "far")
    assert type(error) is kind, error
    assert words in str(error)


def test_a_host_that_cannot_be_reached() -> None:
    assert rsynccodes.is_cut_off(Ended(255, "", "No route to host"))
    assert rsynccodes.is_cut_off(Ended(30, "", ""))
    assert not rsynccodes.is_cut_off(Ended(255, "", "h: Permission denied (publickey)."))
    assert not rsynccodes.is_cut_off(Ended(23, "", ""))
    assert not rsynccodes.is_cut_off(Ended(0, "", ""))

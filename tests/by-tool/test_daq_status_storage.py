"""daq-status --storage: what the interface calls StorageStatus, and the floors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from harness import Daq

KEYS = ["capacity", "free", "available", "path", "floor", "below", "files"]


def configure(daq: Daq, **floor: int) -> None:
    path = daq.folder / "daq.yaml"
    path.write_text(yaml.safe_dump({"cfg": {"floor": floor}}))
    daq.env["DAQ_CONFIG"] = str(path)


def test_the_file_system_of_the_spool(daq: Daq) -> None:
    configure(daq, spool_bytes=1000, result_bytes=3000)
    (told,) = daq.run("daq-status", "--storage", "--json").ok().jsonl()
    found = os.statvfs(daq.spool)
    assert list(told) == KEYS
    assert told["path"] == str(daq.spool)
    assert told["capacity"] == found.f_blocks * found.f_frsize
    assert 0 < told["available"] <= told["free"] <= told["capacity"]
    assert (told["floor"], told["below"]) == (3000, False), "both floors hold"
    head, line = daq.run("daq-status", "--storage").ok().out.splitlines()
    assert head.split()[:3] == ["FILE", "SYSTEM", "OF"]
    assert line.split()[0] == str(daq.spool)


def test_less_than_the_floor(daq: Daq) -> None:
    configure(daq, spool_bytes=1 << 60, result_bytes=0)
    (told,) = daq.run("daq-status", "--storage", "--json").ok().jsonl()
    assert told["below"] is True
    daq.run("daq-status", "--storage").ok().prints(
        f"{daq.spool}: less is available than the floor: nothing is started")


def test_results_on_another_file_system(daq: Daq) -> None:
    """Of a real one of 4 MiB the numbers are known."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    result = daq.spool / "result"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=10", "tmpfs", result],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    try:
        (result / "x").write_bytes(bytes(1 << 20))
        configure(daq, spool_bytes=0, result_bytes=1 << 22)
        spool, there = daq.run("daq-status", "--storage", "--json").ok().jsonl()
        assert Path(there["path"]) == result
        assert [there[key] for key in KEYS if key != "path"] == [
            4 << 20, 3 << 20, 3 << 20, 4 << 20, True, 8]
        assert (spool["path"], spool["floor"], spool["below"]) == (str(daq.spool), 0, False)
        assert len(daq.run("daq-status", "--storage").ok().out.splitlines()) == 4
    finally:
        subprocess.run(["umount", "-l", result], check=True)


def test_a_spool_that_is_not_there(daq: Daq) -> None:
    daq.run("daq-status", "--storage", "--spool", daq.folder / "none").fails(78, "is no spool")

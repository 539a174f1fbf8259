"""A real small file system, filled to the last block or inode: the spool of the tests on it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SIZE = 64 << 20
_BLOCK = 1024  # the smallest that ext4 has: so many more places at which the disk can be full
_INODES = 1024
_CHUNKS = (1 << 22, 1 << 17, 1 << 12, _BLOCK)


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Mount an ext4 of 64 MiB with few inodes, or skip with the reason.

    Args:
        folder: for the mount point; the image lies in memory where that can be.
    """
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    if not shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        pytest.skip("mkfs.ext4 is not installed")
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else folder
    handle, name = tempfile.mkstemp(".img", "daq-", where)
    os.ftruncate(handle, SIZE)
    os.close(handle)
    image = Path(name)
    place = folder / "small"
    place.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(_BLOCK), "-N", str(_INODES),
                        image], check=True)
        made = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True,
                              text=True, check=False)
        if made.returncode:
            pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", place], check=True)
    finally:
        image.unlink()


@contextmanager
def blocks_left(place: Path, count: int) -> Iterator[None]:
    """Leave so many blocks of 1 KiB free while the block runs."""
    ballast = place / "ballast"
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        size = 0
        for chunk in _CHUNKS:
            with suppress(OSError):
                while True:
                    os.posix_fallocate(fd, size, chunk)
                    size += chunk
        os.ftruncate(fd, max(0, size - count * _BLOCK))
        os.fsync(fd)
        yield
    finally:
        os.close(fd)
        ballast.unlink()
        _settle(place)


@contextmanager
def inodes_left(place: Path, count: int) -> Iterator[None]:
    """Leave so many inodes free while the block runs."""
    folder = place / "inodes"
    folder.mkdir()
    number = 0
    try:
        for number in range(_INODES):
            try:
                (folder / str(number)).touch()
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                break
        for spare in range(count):
            (folder / str(number - 1 - spare)).unlink()
        assert os.statvfs(place).f_favail == count
        yield
    finally:
        shutil.rmtree(folder)
        _settle(place)


def _settle(place: Path) -> None:
    # what was removed is free for others when the journal has it
    fd = os.open(place, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def half_written(spool: Path) -> list[str]:
    """Return the files that have their final name and are not whole."""
    found = []
    for path in spool.rglob("*.json"):
        if not path.name.startswith("."):
            try:
                json.loads(path.read_text())
            except ValueError:
                found.append(str(path))
    for path in spool.rglob("*.fits"):
        if not path.name.startswith(".") and (path.stat().st_size == 0
                                              or path.stat().st_size % 2880):
            found.append(str(path))
    for path in (spool / "log").glob("*.jsonl"):
        text = path.read_text()
        if text and not text.endswith("\n"):
            found.append(str(path))
        found += [str(path) for line in text.splitlines() if not line.startswith("{")]
    return found

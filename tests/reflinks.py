"""A directory on a file system whose files can share blocks, or a reason to skip."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import SYSTEM_PATH

_FICLONE = 0x40049409


def can_reflink(folder: Path) -> bool:
    """Whether files of a directory can share blocks."""
    one, two = folder / "reflink-1", folder / "reflink-2"
    one.write_bytes(bytes(4096))
    try:
        with one.open("rb") as source, two.open("wb") as copy:
            try:
                fcntl.ioctl(copy, _FICLONE, source.fileno())
            except OSError:
                return False
            return True
    finally:
        one.unlink()
        two.unlink()


@contextmanager
def reflink_folder(scratch: Path, mib: int = 512) -> Iterator[Path]:
    """Lend such a directory: scratch itself, or an XFS image in it for the while."""
    if can_reflink(scratch):
        yield scratch
        return
    program = shutil.which("mkfs.xfs", path=SYSTEM_PATH)
    if os.geteuid() or not program:
        pytest.skip("no reflinks here, and no XFS image without root and mkfs.xfs")
    image, place = scratch / "xfs.image", scratch / "xfs"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    place.mkdir()
    subprocess.run([program, "-q", "-m", "reflink=1", str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=False,
                             capture_output=True, text=True)
    if mounted.returncode:
        image.unlink()
        pytest.skip(f"no XFS image can be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        if subprocess.run(["umount", str(place)], check=False).returncode:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        image.unlink()

"""What reads behind rsync: whatever rsync does meanwhile, the sums are those of what arrived."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from collecting import total
from daq_collect import arrival, local
from daq_collect.plan import Input
from daqlib import fitsfile
from harness import make_fits, wait_until

SIZE = 3 * 2**20 + 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "far").mkdir()
    return tmp_path / "far" / "a.fits"


def coming(path: Path) -> Path:
    return path.with_name(f".{path.name}.a1B2c3")


def write(path: Path, data: bytes, after: Callable[[], object] = lambda: None) -> None:
    with open(path, "ab", buffering=0) as file:
        for at in range(0, len(data), 100_001):
            file.write(data[at:at + 100_001])
            after()


def test_reads_behind_and_at_the_end(path: Path) -> None:
    data = os.urandom(SIZE)
    with arrival.Arrivals([str(path)]) as arrivals:
        write(coming(path), data[:2 * 2**20])
        wait_until(lambda: not arrivals._waiting[str(path.parent)])  # it has begun
        write(coming(path), data[2 * 2**20:])
        coming(path).rename(path)
    found = arrivals._found[str(path)]
    assert arrivals.of(str(path)) is found and found.sums.total == total(path)


def test_a_file_that_is_replaced_is_read_again(path: Path) -> None:
    with arrival.Arrivals([str(path)]) as arrivals:
        path.write_bytes(os.urandom(SIZE))  # of an earlier try
        wait_until(lambda: str(path) in arrivals._found)
        write(coming(path), os.urandom(SIZE))
        coming(path).rename(path)
    assert arrivals.of(str(path)).sums.total == total(path)


def test_a_transfer_that_begins_again(path: Path) -> None:
    """rsync throws away what does not match its digest, and begins another temporary."""
    with arrival.Arrivals([str(path)]) as arrivals:
        write(coming(path), os.urandom(SIZE))
        wait_until(lambda: not arrivals._waiting[str(path.parent)])
        other = path.with_name(f".{path.name}.zzzzzz")
        write(other, os.urandom(SIZE))
        coming(path).unlink()
        other.rename(path)
    assert arrivals.of(str(path)).sums.total == total(path)


def test_many_files_and_a_long_name(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n % 3}" / f"{'x' * (n * 10)}{n}.fits" for n in range(1, 25)]
    with arrival.Arrivals(list(map(str, paths))) as arrivals:
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f".{path.name[:240]}.AAAAAA")
            write(temporary, os.urandom(12345))
            temporary.rename(path)
    for path in paths:
        assert arrivals.of(str(path)).sums.total == total(path)


def test_nothing_arrives(path: Path) -> None:
    with arrival.Arrivals([str(path)]) as arrivals:
        pass
    with pytest.raises(FileNotFoundError):
        arrivals.of(str(path))


def test_an_end_by_force_waits_for_nothing(path: Path) -> None:
    with pytest.raises(KeyError), arrival.Arrivals([str(path)]) as arrivals:
        write(coming(path), os.urandom(SIZE))
        wait_until(lambda: not arrivals._waiting[str(path.parent)])
        raise KeyError
    assert arrivals._found == {}


@pytest.mark.parametrize("made", [os.mkdir, os.mkfifo,
                                  lambda path: os.symlink("/etc/passwd", path)])
def test_what_is_no_file_is_left_to_others(path: Path, made: Callable[[str], None]) -> None:
    made(str(path))
    with arrival.Arrivals([str(path)]) as arrivals:
        pass
    assert arrivals._found == {}


def test_a_disk_that_fails_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells a failed write once, to the first who syncs."""
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"), arrival.Arrivals([str(path)]):
        path.write_bytes(b"x")


def test_a_failed_sync_in_the_middle_of_a_copy_is_told(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = make_fits(tmp_path / "a.fits", shape=(1000, 1000))
    calls: list[int] = []
    copied = 0

    def told(count: int) -> None:
        nonlocal copied
        copied += count
        if copied > 2**20:
            wait_until(lambda: calls)

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(local, "_SYNC_EVERY", 2**18)
    monkeypatch.setattr(os, "fdatasync", fail)
    item = Input("s", str(fits), "", str(fits), "0_s_a.fits", False)
    how = local.How(False, False, lambda path: fitsfile.read_structure(path), told)
    with pytest.raises(OSError, match="Input/output"):
        local.fetch(item, str(tmp_path / "copy"), how)
    assert calls and sorted(os.listdir(tmp_path)) == ["a.fits"]

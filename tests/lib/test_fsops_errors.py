"""Durable files when something is wrong: errors say which file, and other people's files work."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daqlib import fsops


def full(*_words: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("call", "act"), [
    ("write", lambda path: fsops.put(path, b"x")), ("fsync", lambda path: fsops.put(path, b"x")),
    ("close", lambda path: fsops.put(path, b"x")), ("write", lambda path: fsops.append(path, b"x")),
    ("fsync", lambda path: fsops.append(path, b"x")), ("fsync", fsops.fsync_dir),
    ("ftruncate", lambda path: fsops.lock(path))])
def test_an_error_names_the_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str,
        act: Callable[[str], object]) -> None:
    """Of a descriptor the system does not say which it was; and nobody knows our temporaries."""
    path = tmp_path / "name"
    if act is fsops.fsync_dir:
        path.mkdir()
    else:
        path.write_bytes(b"before\n")
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    with monkeypatch.context() as patch:
        real = getattr(os, call)

        def fail(*words: object) -> None:
            if call == "close":
                real(*words)
            raise broken

        patch.setattr(fsops.os, call, fail)
        with pytest.raises(OSError) as caught:
            act(str(path))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))


def test_no_space_for_a_temporary_is_told_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fsops.put(str(tmp_path / "gone" / "name"), b"x")
    assert caught.value.filename == str(tmp_path / "gone" / "name")


def test_a_lock_is_taken_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says of its holder is advice; without locks nothing could be removed."""
    path = str(tmp_path / "lock")
    with monkeypatch.context() as patch:
        patch.setattr(fsops.os, "write", full)
        fd = fsops.lock(path, b"holder")
    assert fd is not None
    assert fsops.is_locked(path)
    os.close(fd)
    assert not fsops.is_locked(path)


def not_the_owner(patch: pytest.MonkeyPatch, path: str) -> None:
    real = os.utime

    def utime(file: str, times: object = None, **words: object) -> None:
        if file == path and times is not None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), file)
        real(file, times, **words)  # type: ignore[call-overload]

    patch.setattr(fsops.os, "utime", utime)


def test_the_time_of_somebody_elses_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job"
    path.write_bytes(b"asked")
    path.chmod(0o640)
    not_the_owner(monkeypatch, str(path))
    fsops.set_mtime(str(path), 2e9)
    assert (path.stat().st_mtime, path.read_bytes()) == (2e9, b"asked")
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["job"]


@pytest.mark.parametrize("meanwhile", ["moved", "edited"])
def test_the_time_of_a_file_that_changes_meanwhile(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str) -> None:
    """No second copy of one that was moved, and what a person wrote stays."""
    path = tmp_path / "job"
    path.write_bytes(b"asked")
    not_the_owner(monkeypatch, str(path))
    whole = fsops._write_whole

    def write(copy: str, data: bytes, mode: int) -> None:
        whole(copy, data, mode)
        if meanwhile == "moved":
            path.rename(tmp_path / "away")
        else:
            path.write_bytes(b"edited")

    monkeypatch.setattr(fsops, "_write_whole", write)
    fsops.set_mtime(str(path), 2e9)
    left = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    assert left == ({"away": b"asked"} if meanwhile == "moved" else {"job": b"edited"})

from __future__ import annotations

import errno
import fcntl
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from daqlib import crashpoints, fsops

_fork = multiprocessing.get_context("fork")


def together(count: int, act: Callable[[int], None]) -> None:
    """Do something in several processes at once; each must end well."""
    start = _fork.Barrier(count)

    def one(number: int) -> None:
        start.wait()
        act(number)

    processes = [_fork.Process(target=one, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * count


@contextmanager
def fault(monkeypatch: pytest.MonkeyPatch, point: str, name: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("DAQ_FAULT", f"{point}={name}")
        patch.setattr(crashpoints, "_armed", True)
        patch.setattr(crashpoints, "_counts", {})
        yield


# -- put -------------------------------------------------------------------------------------------


def test_put_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fsops.put(str(path), b"one")
    inode = path.stat().st_ino
    fsops.put(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_ino != inode, "a reader of the old file keeps the old content"
    assert os.listdir(tmp_path) == ["a"]


def test_put_refuses_a_taken_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fsops.put(str(path), b"one", replace=False)
    with pytest.raises(FileExistsError):
        fsops.put(str(path), b"two", replace=False)
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]


def test_put_has_the_mode_asked_for(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        fsops.put(str(tmp_path / "a"), b"", mode=0o666)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(old)


@pytest.mark.parametrize("point", ["put.created", "put.written", "put.synced"])
def test_a_failed_put_leaves_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    before = len(os.listdir("/proc/self/fd"))
    with fault(monkeypatch, point, "ENOSPC"), pytest.raises(OSError, match="No space"):
        fsops.put(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_put_syncs_the_file_before_its_name_and_the_directory_after(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real_sync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(
        "dir" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"), real_sync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (seen.append("rename"), real_rename(a, b))[1])
    fsops.put(str(tmp_path / "a"), b"x")
    assert seen == ["file", "rename", "dir"]


@pytest.mark.parametrize(("number", "forgiven"), [
    (errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_directory_that_cannot_be_synced(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, forgiven: bool) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if forgiven:
        fsops.fsync_dir(str(tmp_path))
    else:
        with pytest.raises(OSError, match="Input/output"):
            fsops.fsync_dir(str(tmp_path))


def test_concurrent_puts_leave_one_whole_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    together(4, lambda n: [fsops.put(path, bytes([n]) * 5000) for _ in range(25)] and None)
    data = Path(path).read_bytes()
    assert len(data) == 5000
    assert len(set(data)) == 1
    assert os.listdir(tmp_path) == ["a"]


# -- move ------------------------------------------------------------------------------------------


def test_move_moves(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    (tmp_path / "x/a").write_text("1")
    assert fsops.move(f"{tmp_path}/x/a", f"{tmp_path}/y/a") is True
    assert (tmp_path / "y/a").read_text() == "1"
    assert fsops.move(f"{tmp_path}/x/a", f"{tmp_path}/y/b") is False


@pytest.mark.parametrize("way", [fsops._renameat2, fsops._renameat2_by_ctypes,
                                 lambda *_: errno.ENOSYS], ids=["usual", "ctypes", "old kernel"])
def test_move_replaces_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[str, str], int]) -> None:
    monkeypatch.setattr(fsops, "_renameat2", way)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError) as caught:
        fsops.move(f"{tmp_path}/a", f"{tmp_path}/b")
    assert (caught.value.filename, caught.value.filename2) == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert [(tmp_path / n).read_text() for n in "ab"] == ["a", "b"]
    assert fsops.move(f"{tmp_path}/a", f"{tmp_path}/c") is True
    assert fsops.move(f"{tmp_path}/a", f"{tmp_path}/d") is False


def _native() -> ModuleType:
    """Return the C extension; where nothing can be compiled there is none."""
    if os.environ.get("CI") == "true":
        return importlib.import_module("daqlib._native")
    found = pytest.importorskip("daqlib._native", reason="there is no C extension")
    assert isinstance(found, ModuleType)
    return found


def test_the_extension_says_why_it_did_not_rename(tmp_path: Path) -> None:
    native = _native()
    a, b = tmp_path / "a\udcff \u20ac", tmp_path / "b"
    a.write_text("a")
    b.symlink_to("nowhere")
    for target, kind in ((b, FileExistsError), (tmp_path / "gone" / "a", FileNotFoundError)):
        with pytest.raises(kind) as caught:
            native.rename_noreplace(str(a), target)
        assert (caught.value.filename, caught.value.filename2) == (str(a), target)
    for wrong in ((str(a),), (str(a), 7), (7, str(a)), (str(a), "x\0y")):
        with pytest.raises((TypeError, ValueError)):
            native.rename_noreplace(*wrong)
    native.rename_noreplace(os.fsencode(a), tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_move_replaces_no_dangling_link_either(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        fsops.move(f"{tmp_path}/a", f"{tmp_path}/b")


def test_move_into_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with pytest.raises(FileNotFoundError):
        fsops.move(f"{tmp_path}/a", f"{tmp_path}/gone/a")
    assert (tmp_path / "a").exists()


def test_one_of_many_movers_wins(tmp_path: Path) -> None:
    (tmp_path / "wins").mkdir()
    for number in range(200):
        (tmp_path / f"{number}").touch()

    def act(who: int) -> None:
        for number in range(200):
            if fsops.move(f"{tmp_path}/{number}", f"{tmp_path}/{number}.moved"):
                (tmp_path / "wins" / f"{number}-{who}").touch()

    together(4, act)
    wins = os.listdir(tmp_path / "wins")
    assert len(wins) == 200
    assert len({name.partition("-")[0] for name in wins}) == 200


def test_one_of_many_targets_is_kept(tmp_path: Path) -> None:
    def act(who: int) -> None:
        for number in range(50):
            own = tmp_path / f"{number}-{who}"
            own.write_text(str(who))
            try:
                fsops.move(str(own), f"{tmp_path}/{number}")
                (tmp_path / f"{number}.won-{who}").touch()
            except FileExistsError:
                own.unlink()

    together(4, act)
    for number in range(50):
        (winner,) = tmp_path.glob(f"{number}.won-*")
        assert (tmp_path / f"{number}").read_text() == winner.name.rpartition("-")[2]


# -- append and create -----------------------------------------------------------------------------


def test_append_adds_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fsops.append(str(log), b"one")
    fsops.append(str(log), b"two")
    assert log.read_bytes() == b"one\ntwo\n"


def test_append_never_glues_to_a_torn_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntor")
    fsops.append(str(log), b"two")
    assert log.read_bytes() == b"one\ntor\ntwo\n"


def test_a_failed_append_leaves_the_log_as_it_was(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:2]))
    with pytest.raises(OSError, match="No space"):
        fsops.append(str(log), b"two")
    assert log.read_bytes() == b"one\n"


def test_a_line_that_cannot_be_made_durable_is_not_left_there(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    fsops.append(str(log), b"one")

    def refuse(_fd: int) -> None:
        assert log.read_bytes() == b"one\ntwo\n"
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="quota"):
        fsops.append(str(log), b"two")
    assert log.read_bytes() == b"one\n"


def test_concurrent_appends_never_mix(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    together(6, lambda who: [fsops.append(log, f"{who}:{n}:".encode() + b"x" * (n % 70))
                             for n in range(200)] and None)
    lines = Path(log).read_text().splitlines()
    assert len(lines) == 1200
    for who in range(6):
        own = [line.split(":") for line in lines if line.startswith(f"{who}:")]
        assert [int(parts[1]) for parts in own] == list(range(200)), "in order"
        assert all(len(parts[2]) == int(parts[1]) % 70 for parts in own), "whole"


def test_create_is_exclusive_and_whole(tmp_path: Path) -> None:
    def act(who: int) -> None:
        for number in range(40):
            try:
                fsops.create(f"{tmp_path}/{number}", str(who).encode())
            except FileExistsError:
                assert (tmp_path / f"{number}").read_text(), "a name without content was seen"
            else:
                (tmp_path / f"{number}.won-{who}").touch()

    together(4, act)
    for number in range(40):
        (winner,) = tmp_path.glob(f"{number}.won-*")
        assert (tmp_path / f"{number}").read_text() == winner.name.rpartition("-")[2]


def test_signals_do_not_tear_anything(tmp_path: Path) -> None:
    """EINTR: a handled signal every millisecond disturbs no primitive."""
    ticks: list[int] = []
    old = signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for number in range(60):
            fsops.append(f"{tmp_path}/log", b"line %d" % number)
            fsops.put(f"{tmp_path}/file", b"x" * 10000)
            fd = fsops.lock(f"{tmp_path}/lock")
            assert fd is not None
            os.close(fd)
            assert fsops.move(f"{tmp_path}/file", f"{tmp_path}/moved-{number}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert ticks
    assert (tmp_path / "log").read_text().splitlines() == [f"line {n}" for n in range(60)]


# -- lock ------------------------------------------------------------------------------------------


def taken(path: str, patience: float = 0.1) -> int:
    fd = fsops.lock(path, b"me\n", patience)
    assert fd is not None
    return fd


def test_a_lock_is_exclusive_until_it_is_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not fsops.is_locked(path)
    assert not os.path.exists(path), "a probe creates nothing"
    fd = taken(path)
    assert fsops.is_locked(path)
    assert fsops.lock(path, patience=0.0) is None
    assert Path(path).read_bytes() == b"me\n"
    os.close(fd)
    assert not fsops.is_locked(path)
    os.close(taken(path))


def test_a_lock_goes_to_no_child_by_itself(tmp_path: Path) -> None:
    fd = taken(str(tmp_path / "lock"))
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_lock_lives_as_long_as_a_child_that_inherited_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    fd = taken(path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0)
    os.close(fd)
    assert fsops.is_locked(path)
    assert fsops.lock(path, patience=0.0) is None
    os.write(writer, b"x")
    os.waitpid(child, 0)
    assert not fsops.is_locked(path)
    os.close(reader)
    os.close(writer)


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    child = os.fork()
    if child == 0:
        taken(path)
        signal.pause()
    while not fsops.is_locked(path):
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not fsops.is_locked(path)


def test_an_unlinked_lock_file_is_no_lock(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened the file before its holder removed it must not believe to hold the new one."""
    path = str(tmp_path / "lock")
    Path(path).touch()
    real = fsops._try_flock
    tried: list[int] = []

    def unlinked_meanwhile(fd: int, kind: int) -> bool:
        if not tried:
            os.unlink(path)
        tried.append(os.fstat(fd).st_ino)
        return real(fd, kind)

    monkeypatch.setattr(fsops, "_try_flock", unlinked_meanwhile)
    fd = taken(path)
    assert len(tried) == 2
    assert os.fstat(fd).st_ino == os.lstat(path).st_ino
    os.close(fd)


def test_a_replaced_lock_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "lock")
    Path(path).touch()
    real = fsops._try_flock
    tried: list[int] = []

    def replaced_meanwhile(fd: int, kind: int) -> bool:
        if not tried:
            Path(path + ".new").touch()
            os.rename(path + ".new", path)
        tried.append(fd)
        return real(fd, kind)

    monkeypatch.setattr(fsops, "_try_flock", replaced_meanwhile)
    fd = taken(path)
    assert fsops.lock(path, patience=0.0) is None, "the lock is on the file of today"
    os.close(fd)


def test_a_probe_is_not_taken_for_a_worker(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    Path(path).touch()
    stop = _fork.Event()

    def probe() -> None:
        while not stop.is_set():
            fsops.is_locked(path)

    prober = _fork.Process(target=probe)
    prober.start()
    try:
        for _ in range(100):
            os.close(taken(path, 60.0))  # the prober may be held up while it probes
    finally:
        stop.set()
        prober.join(10)


def test_a_lock_that_fails_halfway_is_not_kept(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "lock")
    with fault(monkeypatch, "lock.taken", "ENOSPC"), pytest.raises(OSError, match="No space"):
        fsops.lock(path)
    assert not fsops.is_locked(path)


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        fsops.lock(str(tmp_path / "lock"))
    assert not (tmp_path / "elsewhere").exists()


def test_one_holder_at_a_time_though_the_file_comes_and_goes(tmp_path: Path) -> None:
    """The way Spool.release does it: removed while held. Two holders would both make 'inside'."""
    path = str(tmp_path / "lock")

    def act(_who: int) -> None:
        for _ in range(60):
            while (fd := fsops.lock(path)) is None:
                pass
            os.close(os.open(f"{tmp_path}/inside", os.O_CREAT | os.O_EXCL))
            os.unlink(f"{tmp_path}/inside")
            os.unlink(path)
            os.close(fd)

    together(4, act)


# -- the rest --------------------------------------------------------------------------------------


def test_read_regular_reads_files_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    data, status = fsops.read_regular(str(tmp_path / "a"))
    assert (data, status.st_size) == (b"x", 1)
    for name in ("link", "dir", "fifo"):
        with pytest.raises(OSError, match=r"regular|symbolic"):
            fsops.read_regular(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        fsops.read_regular(str(tmp_path / "gone"))


def test_sweep_removes_what_the_dead_left(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        Path(fsops.temporary(str(tmp_path / "a"))).touch()
        os._exit(0)
    os.waitpid(child, 0)
    mine = Path(fsops.temporary(str(tmp_path / "b")))
    mine.touch()
    (tmp_path / ".tmp-notours").touch()
    (tmp_path / ".origins.json").touch()
    fsops.sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([".origins.json", ".tmp-notours", mine.name])


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 300_000)
    import hashlib

    assert fsops.sha256(str(tmp_path / "a")) == hashlib.sha256(b"abc" * 300_000).hexdigest()


def test_points_do_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAQ_CRASH", "put.created")
    crashpoints.passing("put.created")  # not armed at start: a variable set later changes nothing
    monkeypatch.setattr(crashpoints, "_armed", True)
    with pytest.raises(AssertionError):
        crashpoints.passing("no.such.point")

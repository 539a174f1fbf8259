"""The durable file primitives: put, append, move, lock. Everything else is built on these.

Rules that hold here: a name appears only when the bytes behind it are durable; a rename is
followed by an ``fsync`` of both directories; a lock is an ``flock`` that the kernel drops with
its last holder. Never: publishing by link and unlink, locks broken by age, rewriting in place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from daqlib.crashpoints import passing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_BUFFER = 512 * 1024
_PROBE_PATIENCE = 0.1  # seconds; a status probe holds a lock for microseconds
_TEMPORARY = ".tmp-"
#: Errors by which a file system says that it is full, or that its quota is used up.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Naming:
    """Names the file in the errors of a block: those of a descriptor do not say which it is.

    Args:
        path: the file, by the name that people know it by.
        instead: a name of ours, such as that of a temporary, that ``path`` stands in for.
    """

    __slots__ = ("_instead", "_path")

    def __init__(self, path: str, instead: str = "") -> None:
        self._path = path
        self._instead = instead

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Add the name to an error that has none."""
        if isinstance(error, OSError) and error.filename in (None, self._instead):
            error.filename = self._path


def fsync_dir(path: str) -> None:
    """Make the entries of a directory durable.

    ``EINVAL`` and ``ENOTSUP`` are forgiven: some network file systems cannot sync a directory.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Naming(path):
            os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def make_folders(path: str) -> None:
    """Make a directory, and those above it that are missing, with durable names.

    Args:
        path: absolute.
    """
    missing, place = [], path
    while not os.path.isdir(place):
        missing.append(place)
        place = os.path.dirname(place)
    os.makedirs(path, exist_ok=True)
    for folder in reversed(missing):
        settle_name(folder)


def settle_name(path: str) -> None:
    """Make the name of a file or directory durable, in a directory that may not be ours."""
    try:
        fsync_dir(os.path.dirname(path))
    except PermissionError:
        return  # we may write there and not read: then nobody can sync it for us


def temporary(path: str) -> str:
    """Return a fresh dot-name in the directory of ``path`` for what will become ``path``."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{_TEMPORARY}{os.getpid()}-{time.monotonic_ns():x}-{name}")


def is_temporary(name: str) -> bool:
    """Tell whether a file name was made by :func:`temporary`."""
    return name.startswith(_TEMPORARY)


def journal_of(path: str) -> str:
    """Return where the undo journal of a file lies while ``daq-merge`` changes it in place."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.undo"


def changed_by(name: str) -> str:
    """Return the file name whose undo journal this is, see :func:`journal_of`, or an empty text."""
    # a journal that was never finished has the name of a temporary, and says nothing
    mine = name.startswith(".") and name.endswith(".undo") and not is_temporary(name)
    return name[1:-len(".undo")] if mine else ""


def put(path: str, data: bytes, *, mode: int = 0o664, replace: bool = True,
        settle: bool = True) -> None:
    """Write a whole file durably: temporary, ``fsync``, rename, ``fsync`` of the directory.

    Args:
        path: the final name.
        data: the content.
        mode: permission bits before the umask.
        replace: whether an existing file may be replaced.
        settle: False when the caller makes the directory durable after more work in it.

    Raises:
        FileExistsError: the name is taken and ``replace`` is false.
        OSError: any system call failed; nothing is left under the final name.
    """
    embryo = temporary(path)
    with Naming(path, embryo):
        _write_whole(embryo, data, mode)
        try:
            if replace:
                os.rename(embryo, path)
            else:
                rename_noreplace(embryo, path)
        except BaseException:
            remove(embryo)
            raise
    passing("put.renamed")
    if settle:
        fsync_dir(os.path.dirname(path))


def _write_whole(path: str, data: bytes, mode: int) -> None:
    """Make a new file durably, or nothing at all."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        passing("put.created")
        _write_all(fd, data)
        passing("put.written")
        os.fsync(fd)
        passing("put.synced")
        closing, fd = fd, -1
        os.close(closing)  # some file systems find out only now that there is no space
    except BaseException:
        if fd >= 0:
            os.close(fd)
        remove(path)
        raise


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def move(source: str, target: str) -> bool:
    """Rename without replacing anything, durably.

    Returns:
        False when ``source`` is not there: somebody else moved it, which is an answer.

    Raises:
        FileExistsError: ``target`` is taken.
    """
    passing("move.begin")
    try:
        rename_noreplace(source, target)
    except FileNotFoundError:
        if os.path.lexists(source):
            raise  # it is the target's directory that is missing
        return False
    passing("move.renamed")
    fsync_dir(os.path.dirname(target))
    if os.path.dirname(source) != os.path.dirname(target):
        fsync_dir(os.path.dirname(source))
    passing("move.synced")
    return True


def rename_noreplace(source: str, target: str) -> None:
    """Rename, refusing an existing target in the same system call where the kernel can.

    Raises:
        FileExistsError: ``target`` is taken.
    """
    code = _renameat2(source, target)
    if code == 0:
        return
    if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), source, None, target)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    os.rename(source, target)


def _renameat2(source: str, target: str) -> int:
    try:
        from daqlib import _native
    except ImportError:
        return _renameat2_by_ctypes(source, target)
    try:
        _native.rename_noreplace(source, target)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _renameat2_by_ctypes(source: str, target: str, flag: int = _RENAME_NOREPLACE) -> int:
    import ctypes  # takes a third of the interpreter's own start

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return errno.ENOSYS
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return 0
    return ctypes.get_errno()


def set_mtime(path: str, seconds: float) -> None:
    """Set the modification time of a small file, whoever of the group owns it.

    Only the owner may set another time than now (utimensat(2)). Of somebody else's file a copy of
    our own takes its place, in one step that never makes a second file of one that was moved away,
    and is taken back when the file was changed meanwhile.

    Args:
        path: the file.
        seconds: since the epoch.

    Raises:
        FileNotFoundError: it is not there.
        PermissionError: it is somebody else's, and its directory may not be written.
    """
    try:
        os.utime(path, (seconds, seconds))
    except PermissionError:
        _set_mtime_of_copy(path, seconds)


def _set_mtime_of_copy(path: str, seconds: float) -> None:
    data, before = read_regular(path)
    copy = temporary(path)
    with Naming(path, copy):
        _write_whole(copy, data, stat.S_IMODE(before.st_mode))
    try:
        os.utime(copy, (seconds, seconds))
        if _renameat2_by_ctypes(copy, path, _RENAME_EXCHANGE):
            return  # it was moved away, or this file system cannot: it is due at once
        now = os.lstat(copy)
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (
                before.st_ino, before.st_size, before.st_mtime_ns):
            _renameat2_by_ctypes(copy, path, _RENAME_EXCHANGE)
    finally:
        remove(copy)
    fsync_dir(os.path.dirname(path))


def create(path: str, data: bytes, *, mode: int = 0o664, settle: bool = True) -> None:
    """Create a file that must not exist yet, durably and whole; used to reserve a name.

    Args:
        path: the name to reserve.
        data: the content.
        mode: permission bits before the umask.
        settle: see :func:`put`.

    Raises:
        FileExistsError: the name is taken.
    """
    # exclusive creation under the final name would let a crash leave a name without content
    put(path, data, mode=mode, replace=False, settle=settle)


def append(path: str, line: bytes, *, mode: int = 0o664) -> None:
    """Append one line durably; concurrent appenders never mix and a torn line never spreads.

    Args:
        path: the log.
        line: without a newline.
        mode: permission bits before the umask, when the log is created.

    Raises:
        OSError: the line could not be written; the log is as it was.
    """
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        with Naming(path):
            fcntl.flock(fd, fcntl.LOCK_EX)
            passing("append.begin")
            end = os.fstat(fd).st_size
            if not end:
                # whoever finds a line need not ask whether the log's own name is durable
                fsync_dir(os.path.dirname(path))
            # a crash can have torn the last line: never glue ours to it
            lead = b"\n" if end and os.pread(fd, 1, end - 1) != b"\n" else b""
            _append_or_undo(fd, lead + line + b"\n", end)
    finally:
        os.close(fd)


def _append_or_undo(fd: int, data: bytes, end: int) -> None:
    try:
        if os.environ.get("DAQ_CRASH", "").startswith("append.torn"):
            os.write(fd, data[: len(data) // 2])  # the half line that a power cut would leave
            passing("append.torn")
            os.ftruncate(fd, end)
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        passing("append.written")
        os.fsync(fd)  # some file systems find out only now that there is no space
    except OSError:
        _cut(fd, end)
        raise


def _cut(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError:
        return  # the error that is already on its way says more


def remove(path: str) -> None:
    """Remove a file of ours that nobody will read, if that can be done: for clean-up."""
    try:
        os.unlink(path)
    except OSError:
        return  # it is gone already, or stays as what a crash would leave


def lock(path: str, content: bytes = b"", patience: float = _PROBE_PATIENCE) -> int | None:
    """Take an exclusive ``flock`` on a lock file without waiting for a worker.

    A short retry keeps a mere probe from being taken for a worker. The inode of the descriptor
    and of the path are compared, because the last holder may have unlinked the file.

    Args:
        path: the lock file; created when missing.
        content: advisory text about the holder, for people and for the lister.
        patience: seconds to try again, so that a probe is not taken for a worker.

    Returns:
        The locked descriptor, or None when somebody is at work. Release it with ``os.close``
        only: unlocking explicitly would free it under a living child that inherited it.
    """
    deadline = time.monotonic() + patience
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o664)
        taken = _try_flock(fd, fcntl.LOCK_EX)
        if taken and _is_same_file(fd, path):
            break
        os.close(fd)
        if not taken and time.monotonic() >= deadline:
            return None
        time.sleep(0.005)
    try:
        with Naming(path):
            _tell(fd, content)
        passing("lock.taken")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _tell(fd: int, content: bytes) -> None:
    """Write into a lock file who holds it, as far as there is space: the lock is what counts.

    Without it nothing could be removed from a disk that is full.
    """
    try:
        os.ftruncate(fd, 0)
        os.write(fd, content)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise


def _try_flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same_file(fd: int, path: str) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def is_locked(path: str) -> bool:
    """Tell whether some process holds the lock file; never blocks and creates nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return not _try_flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def read_regular(path: str, most: int = 0) -> tuple[bytes, os.stat_result]:
    """Read a whole small file and its status from one descriptor; never a link or a device.

    Args:
        path: the file.
        most: bytes that it may have; 0 is without limit.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is not a regular file (``ELOOP``, ``EISDIR`` or ``EINVAL``), too large
            (``EFBIG``) or unreadable.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if 0 < most < status.st_size:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, more than {most}", path)
        with Naming(path), open(fd, "rb", closefd=False) as file:
            return file.read(), status
    finally:
        os.close(fd)


def sha256(path: str) -> str:
    """Return the SHA-256 of a file as hexadecimal digits, streaming it."""
    import hashlib

    digest = hashlib.sha256()
    with Naming(path):
        for piece in _pieces(path):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(path: str) -> Iterator[memoryview]:
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer):
            yield view[:n]


def sweep(folder: str) -> None:
    """Remove the temporaries that dead processes of this host left in a directory of ours."""
    for name in os.listdir(folder):
        if is_dead(name):
            try:
                os.unlink(os.path.join(folder, name))
            except FileNotFoundError:
                continue


def is_dead(name: str) -> bool:
    """Tell whether a file name is that of a temporary whose process runs no more on this host."""
    pid = name[len(_TEMPORARY):].partition("-")[0]
    return is_temporary(name) and pid.isdigit() and not os.path.exists(f"/proc/{pid}")

"""The undo journal of an in-place merge: what it takes to give the merge target back.

Before the first byte of a target changes, the headers that will change, its length and its times go
into a dot-file beside it. Data units are never written, so that this is enough: the headers go
back, what was inserted is taken out, what was appended is cut off. A target that has already become
the product is made again from it. Giving back may be interrupted anywhere and repeated.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import zlib

from daq_merge import reflink
from daqlib import errors, fsops
from daqlib.crashpoints import passing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_TITLE = b"daq-merge undo journal 1\n"
_FALLOC_COLLAPSE = 0x08
_FALLOC_INSERT = 0x20
_PIECE = 512 * 1024
_UNCHANGED = 240
_NAMES = ("inode", "generation", "size", "final", "mtime", "atime", "mode", "inserted", "headers")
#: linux/fs.h: _IOR('v', 1, long); a number that changes when an inode is used for another file
_GETVERSION = 0x80087601 if sys.maxsize > 2**32 else 0x80047601
_DAMAGED = "the undo journal {} is damaged"
_REMEDY = "deliver {} again, and remove the journal"


class Journal:
    """What an undo journal says.

    Attributes:
        inode: of the target.
        generation: tells it from later files of the same inode; 0: the file system has none.
        size: its length before the merge, bytes.
        final: its length after the merge, bytes.
        mtime: its modification time, ns since the epoch.
        atime: its access time, ns since the epoch.
        mode: its permission bits.
        inserted: bytes that were, or were to be, inserted at its beginning.
        product: the path that it was to get.
        headers: of each old header its place before the merge, its length in the file, and its
            text; blanks fill it up.
    """

    __slots__ = ("atime", "final", "generation", "headers", "inode", "inserted", "mode", "mtime",
                 "product", "size")

    def __init__(self, inode: int, generation: int, size: int, final: int, mtime: int, atime: int,
                 mode: int, inserted: int, product: str,
                 headers: Sequence[tuple[int, int, bytes]]) -> None:
        self.inode = inode
        self.generation = generation
        self.size = size
        self.final = final
        self.mtime = mtime
        self.atime = atime
        self.mode = mode
        self.inserted = inserted
        self.product = product
        self.headers = headers


def path_of(target: str) -> str:
    """Return where the undo journal of a merge target lies."""
    return fsops.journal_of(target)


def kept_of(target: str) -> str:
    """Return where the file that a target became may be kept by a further link, see :func:`keep`.

    That link is the first place where the target is looked for when it is to be made again.
    """
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.kept")


def keep(target: str, product: str) -> None:
    """Keep the file that a target became beside its journal, whatever becomes of the product.

    Args:
        target: the path of the merge target, where nothing is now.
        product: the path that its file has now.

    Raises:
        OSError: the link cannot be made.
    """
    path = kept_of(target)
    try:
        os.link(product, path, follow_symlinks=False)
    except FileExistsError:
        if os.path.samestat(os.lstat(product), os.lstat(path)):
            return
        os.unlink(path)
        os.link(product, path, follow_symlinks=False)
    fsops.fsync_dir(os.path.dirname(path) or ".")


def record(fd: int, product: str, final: int, inserted: int,
           headers: Sequence[tuple[int, int, bytes]]) -> Journal:
    """Return a journal for an open target as it is now."""
    found = os.fstat(fd)
    return Journal(found.st_ino, _generation(fd), found.st_size, final, found.st_mtime_ns,
                   found.st_atime_ns, stat.S_IMODE(found.st_mode), inserted,
                   os.path.abspath(product), headers)


def _generation(fd: int) -> int:
    try:
        raw = fcntl.ioctl(fd, _GETVERSION, bytes(8))
    except OSError:
        return 0
    return int.from_bytes(raw[:4], sys.byteorder)


def write(target: str, journal: Journal, sync: bool) -> str:
    """Write a journal beside its target, durably unless ``sync`` is false; return its path.

    The caller has locked the target, see :func:`lock`.

    Raises:
        errors.Later: there is one already: another merge of this target is at work.
        OSError: it cannot be written; nothing is left of it.
    """
    path, data = path_of(target), _packed(journal)
    _sweep(path)
    try:
        if sync:
            fsops.put(path, data, replace=False)
        else:
            _put_without_sync(path, data)
    except FileExistsError:
        raise errors.Later(f"{path} exists: another merge of {target} is at work, or was ended",
                           "run again; what was ended is undone first") from None
    except BaseException:
        # it may have its name already
        if _content(path) == data:
            fsops.remove(path)
        raise
    return path


def _sweep(path: str) -> None:
    """Remove what died when it was to become ``path``: only a holder of a lock of ours makes it."""
    folder, name = os.path.split(path)
    try:
        entries = os.listdir(folder or ".")
    except OSError:
        return  # it can be written, but not be read
    for entry in entries:
        # .tmp-PID-TIME-NAME
        if fsops.is_temporary(entry) and entry.split("-", 3)[3:] == [name]:
            fsops.remove(os.path.join(folder, entry))


def _content(path: str) -> bytes:
    try:
        return fsops.read_regular(path)[0]
    except OSError:
        return b""


def _put_without_sync(path: str, data: bytes) -> None:
    embryo = fsops.temporary(path)
    try:
        with open(embryo, "xb") as file:
            file.write(data)
        fsops.rename_noreplace(embryo, path)
    except BaseException:
        fsops.remove(embryo)
        raise


def _packed(journal: Journal) -> bytes:
    numbers = (journal.inode, journal.generation, journal.size, journal.final, journal.mtime,
               journal.atime, journal.mode, journal.inserted, len(journal.headers))
    lines = [b"%s %d\n" % (name.encode(), number)
             for name, number in zip(_NAMES, numbers, strict=True)]
    # hexadecimal: a path may hold any byte
    lines.append(b"product %s\n" % os.fsencode(journal.product).hex().encode())
    lines += [b"%d %d %d\n" % (offset, size, len(text)) for offset, size, text in journal.headers]
    body = b"".join((*lines, *(text for _, _, text in journal.headers)))
    return b"%s%d %d\n%s" % (_TITLE, len(body), zlib.crc32(body), body)


def read(path: str) -> Journal | None:
    """Return what a journal says; None: there is none.

    Raises:
        errors.BadData: it is damaged or none of ours.
        OSError: it cannot be read.
    """
    try:
        data, _ = fsops.read_regular(path)
    except FileNotFoundError:
        return None
    try:
        return _unpacked(data)
    except (ValueError, IndexError) as error:
        name = os.path.basename(path)[1:-len(".undo")]
        raise errors.BadData(_DAMAGED.format(path), _REMEDY.format(name)) from error


def _unpacked(data: bytes) -> Journal:
    first, _, rest = data[len(_TITLE):].partition(b"\n")
    size, check = (int(word) for word in first.split(b" "))
    if not data.startswith(_TITLE) or len(rest) != size or zlib.crc32(rest) != check:
        raise ValueError("not whole")
    values: list[int] = []
    for name in _NAMES:
        line, _, rest = rest.partition(b"\n")
        key, _, value = line.partition(b" ")
        if key != name.encode():
            raise ValueError(name)
        values.append(int(value))
    line, _, rest = rest.partition(b"\n")
    product = os.fsdecode(bytes.fromhex(line.partition(b" ")[2].decode("ascii")))
    inode, generation, length, final, mtime, atime, mode, inserted, count = values
    *places, blob = rest.split(b"\n", count)
    headers: list[tuple[int, int, bytes]] = []
    done = 0
    for place in places:
        offset, size, amount = (int(word) for word in place.split(b" "))
        headers.append((offset, size, blob[done:done + amount]))
        done += amount
    return Journal(inode, generation, length, final, mtime, atime, mode, inserted, product, headers)


def forget(path: str) -> None:
    """Remove a journal for good: the product has its name. An empty path is no journal.

    Raises:
        OSError: it cannot be removed.
    """
    if not path:
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    fsops.fsync_dir(os.path.dirname(path) or ".")


def restore(target: str, warn: Callable[[str], None] | None = None, *,
            copied: bool = False) -> bool:
    """Give back a merge target that an in-place merge changed, or made the product of.

    Args:
        target: the path of the merge target, whether it is there or not.
        warn: told when a journal that fits nothing any more was removed.
        copied: whether to believe that a file is the target which is another one by its inode, and
            looks like what a merge leaves: its directory was copied, from a backup perhaps.

    Returns:
        True when the target was given back; False when there was nothing to do.

    Raises:
        errors.BadData: the journal is damaged, or the file that it is about is gone, or may be
            another one.
        errors.Later: another merge is at work on the target.
        OSError: reading or writing failed; the journal stays.
    """
    path = path_of(target)
    try:
        held = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR):
            return False  # there is no journal, or none can be there
        raise
    try:
        lock(held, target)  # two that undo the same would write the same file
        journal = read(path)
        return journal is not None and _restore(target, journal, held, warn, copied)
    finally:
        os.close(held)


def _restore(target: str, journal: Journal, held: int, warn: Callable[[str], None] | None,
             copied: bool) -> bool:
    path = path_of(target)
    try:
        there = os.lstat(target)
    except FileNotFoundError:
        if not _make_again(target, journal, held):
            return False
        forget(path)
        fsops.remove(kept_of(target))
        return True
    done = (stat.S_ISREG(there.st_mode) and _is_target(target, journal, held, copied)
            and _give_back(target, journal, held))
    if not _is_there(held, path):
        return False
    forget(path)
    if warn and not done:
        warn(f"{path} was removed: {target} is another file now than the one that it was about")
    return done


def _is_target(target: str, journal: Journal, held: int, copied: bool) -> bool:
    """Tell whether the file that is there is the one that a journal is about.

    Raises:
        errors.BadData: it may be a copy of it, and is not to be taken for one.
    """
    fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if _is_same(fd, journal):
            return True
        # one that was last written before the journal was is as it was delivered
        there = os.fstat(fd)
        if (there.st_mtime_ns < os.fstat(held).st_mtime_ns or not _fits(fd, journal)
                or _is_unchanged(fd, journal)):
            return False
    finally:
        os.close(fd)
    if copied:
        return True
    raise errors.BadData(
        f"{target}: is another file than the one that {path_of(target)} is about, but may be a "
        "copy of it in the middle of a merge", "if it is such a copy, run: daq-merge --undo "
        f"{target}; if it was delivered anew, remove the journal")


def _is_same(fd: int, journal: Journal) -> bool:
    return (os.fstat(fd).st_ino, _generation(fd)) == (journal.inode, journal.generation)


def _fits(fd: int, journal: Journal) -> bool:
    """Tell whether a file looks like what a merge leaves, as far as that can be told."""
    try:
        _check(fd, journal, "")
    except errors.BadData:
        return False
    return True


def _is_unchanged(fd: int, journal: Journal) -> bool:
    return os.fstat(fd).st_size == journal.size and all(
        os.pread(fd, length, offset) == text[:length].ljust(length)
        for offset, length, text in journal.headers)


def _is_there(fd: int, path: str) -> bool:
    """Tell whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _give_back(target: str, journal: Journal, held: int) -> bool:
    """Undo what was done to a target.

    Returns:
        False when the merge has just ended; it was not touched then.
    """
    fd = os.open(target, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        lock(fd, target)
        # until we had the lock the merge may have ended: this may be the product of somebody by now
        if not _is_there(held, path_of(target)):
            return False
        if not _is_there(fd, target):
            raise errors.Later(f"{target}: another merge has just made it {journal.product}",
                               "run again")
        _check(fd, journal, target)
        with fsops.Naming(target):
            roll_back(fd, journal)
        return True
    finally:
        os.close(fd)


def _check(fd: int, journal: Journal, path: str) -> None:
    """Refuse a file that a merge cannot have left like this: somebody else changed it.

    Raises:
        errors.BadData: it is such a file.
    """
    size, full = os.fstat(fd).st_size, journal.size + journal.inserted
    if not journal.size <= size <= journal.final or journal.size < size < full:
        raise errors.BadData(f"{path}: has {size} bytes, and {journal.size} before the merge that "
                             "is to be undone", _REMEDY.format(path))
    shift = journal.inserted if journal.inserted and size >= full else 0
    for offset, _, text in journal.headers:
        # a merge leaves the first cards of an extension as they are
        if offset and os.pread(fd, _UNCHANGED, offset + shift) != text[:_UNCHANGED]:
            raise errors.BadData(f"{path}: has no extension at byte {offset + shift}, as it had "
                                 "before the merge that is to be undone", _REMEDY.format(path))


def lock(fd: int, path: str, kind: int = fcntl.LOCK_EX) -> None:
    """Make sure that no other merge is at work on a file, and that none begins.

    Args:
        fd: the file; the lock goes when it is closed.
        path: for messages.
        kind: ``LOCK_SH`` for a file that is only read.

    Raises:
        errors.Later: another one is at work.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise errors.Later(f"{path}: another merge is at work on it",
                           "run again when it has ended") from None


def let_go(error: BaseException) -> None:
    """Drop the locks that functions held which an error has ended; see :func:`restore`.

    A signal may end them when the work is done and the lock not yet with the caller.
    """
    import traceback

    traceback.clear_frames(error.__traceback__)


def roll_back(fd: int, journal: Journal) -> None:
    """Give an open target its old content, length and times back, durably.

    Raises:
        OSError: it failed; it can be tried again.
    """
    full = journal.size + journal.inserted
    if journal.inserted and os.fstat(fd).st_size >= full:
        # in this order each step leaves a length of its own, so that a repetition knows them
        os.ftruncate(fd, full)
        passing("undo.cut")
        fallocate(fd, _FALLOC_COLLAPSE, 0, journal.inserted)
    else:
        os.ftruncate(fd, journal.size)
    passing("undo.length")
    for offset, length, text in journal.headers:
        _write_all(fd, text[:length].ljust(length), offset)
    passing("undo.headers")
    os.utime(fd, ns=(journal.atime, journal.mtime))
    os.fsync(fd)


def _make_again(target: str, journal: Journal, held: int) -> bool:
    """Make the target from the product that it became; the product stays as it is.

    Returns:
        False when the merge has just ended by itself.
    """
    source = _open_product(target, journal, held)
    if source < 0:
        return False
    try:
        lock(source, journal.product, fcntl.LOCK_SH)
        if not _is_there(held, path_of(target)):
            return False
        # a name of its own: under the journal's lock nobody else makes it
        again = os.path.join(os.path.dirname(target), f"again-{os.path.basename(target)}")
        _sweep(again)
        embryo = fsops.temporary(again)
        fd = os.open(embryo, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy_old(fd, source, journal)
            os.fchmod(fd, journal.mode)
            os.utime(fd, ns=(journal.atime, journal.mtime))
            os.fsync(fd)
            passing("undo.copied")
            fsops.rename_noreplace(embryo, target)
        except BaseException:
            fsops.remove(embryo)
            raise
        finally:
            os.close(fd)
        fsops.fsync_dir(os.path.dirname(target) or ".")
        passing("undo.renamed")
        return True
    finally:
        os.close(source)


def _open_product(target: str, journal: Journal, held: int) -> int:
    """Open the product that a target became; -1: the merge has just ended by itself."""
    for path in (kept_of(target), journal.product):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            continue
        # a link that was kept may have been copied with its directory
        if _is_same(fd, journal) or (path == kept_of(target) and _fits(fd, journal)
                                     and os.fstat(fd).st_size == journal.final):
            return fd
        os.close(fd)
    if not _is_there(held, path_of(target)):
        return -1
    raise errors.BadData(
        f"{target}: became {journal.product}, and that is not there any more",
        f"put the product there, or deliver {target} again and remove {path_of(target)}")


def _copy_old(fd: int, source: int, journal: Journal) -> None:
    if journal.inserted or not reflink.clone(fd, source):
        for piece, offset in _pieces(source, journal.inserted, journal.size):
            _write_all(fd, piece, offset)
    os.ftruncate(fd, journal.size)
    for offset, length, text in journal.headers:
        _write_all(fd, text[:length].ljust(length), offset)


def _pieces(fd: int, skip: int, size: int) -> Iterator[tuple[memoryview, int]]:
    buffer = memoryview(bytearray(_PIECE))
    done = 0
    while done < size:
        count = os.preadv(fd, [buffer[:size - done]], skip + done)
        if not count:
            raise OSError(errno.EIO, "the product became shorter")
        yield buffer[:count], done
        done += count


def _write_all(fd: int, raw: bytes | memoryview, offset: int) -> None:
    view = memoryview(raw)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def insert(fd: int, length: int) -> bool:
    """Insert room at the beginning of a file; what was there moves behind it.

    Args:
        fd: the file.
        length: bytes, a multiple of the block size of its file system.

    Returns:
        False when the file system cannot do that; nothing has changed then.

    Raises:
        OSError: it can, and failed.
    """
    try:
        fallocate(fd, _FALLOC_INSERT, 0, length)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Let the kernel allocate, insert or take out a range of a file.

    Raises:
        OSError: it failed.
    """
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))

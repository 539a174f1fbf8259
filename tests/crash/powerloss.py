"""A model of a disk, and what a power cut leaves on it.

The model holds what programs see (the page cache) and what is durable, as POSIX promises it: the
bytes of a file after an ``fsync`` of the file, its name after an ``fsync`` of the directory. A
rename is one change, as journaling file systems have it, except in the variant ``apart``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recording import Op, Recording

from daq_merge import undo
from daqlib import fsops

Name = tuple["Folder", str]

#: What may be there after a power cut; see :meth:`Disk.left`.
VARIANTS = ("all", "synced", "names", "data", "torn", "apart")
#: What is not durable yet of a name that was taken away.
GONE = "that its name is gone"
_EPOCH_NS = 1_700_000_000 * 10**9


@dataclass(eq=False)
class File:
    """A file: its bytes as programs see them, and as they are on disk.

    ``dirty`` and ``loose`` are the operations that changed its bytes and its mode since the last
    ``fsync``.
    """

    data: bytearray = field(default_factory=bytearray)
    mode: int = 0o644
    mtime: int = _EPOCH_NS
    kept: tuple[bytes, int, int] = (b"", 0o644, _EPOCH_NS)
    dirty: int = -1
    loose: int = -1
    target: int = 0

    def settle(self) -> None:
        """Make it durable."""
        self.kept = bytes(self.data), self.mode, self.mtime
        self.dirty = self.loose = -1


@dataclass(eq=False)
class Link:
    """A symbolic link."""

    text: str


@dataclass(eq=False)
class Folder:
    """A directory: its names as programs see them; durable if renames are whole; if they are not.

    ``path`` is where it was made, for messages.
    """

    path: str
    names: dict[str, Node] = field(default_factory=dict)
    kept: dict[str, Node] = field(default_factory=dict)
    apart: dict[str, Node] = field(default_factory=dict)


Node = File | Link | Folder


@dataclass(eq=False)
class Change:
    """A change of names that is not durable yet."""

    number: int
    op: Op
    names: list[tuple[Folder, str, Node | None]]


@dataclass(frozen=True)
class Left:
    """A file, link or directory that a power cut left.

    ``node`` is the same for the names of one file; ``target`` is the node of the file that an undo
    journal is for.
    """

    kind: str
    content: bytes = b""
    mode: int = 0o755
    mtime: int = 0
    node: int = 0
    target: int = 0


State = dict[str, Left]


class Disk:
    """The files below some roots."""

    def __init__(self, *roots: Path) -> None:
        """Take over what is there; it is durable."""
        self.top = Folder("/")
        self.changes: list[Change] = []
        self.number = 0
        self.umask = _UMASK
        self._changed: dict[tuple[int, str], int] = {}
        self._positions: dict[tuple[int, int], int] = {}
        self._appending: set[tuple[int, int]] = set()
        self.roots = [str(root) for root in roots]
        for root in self.roots:
            folder = self.top
            for name in root.strip("/").split("/"):
                made = folder.names.setdefault(name, Folder(os.path.join(folder.path, name)))
                assert isinstance(made, Folder)
                folder = made
            _load(folder, root)
        _settle_all(self.top)

    # -- what programs do ----------------------------------------------------------------------

    def play(self, op: Op, mtime: int | None = None) -> None:
        """Carry out an operation.

        Args:
            op: the operation.
            mtime: that it gives its file, nanoseconds; None for one like no other.
        """
        self.number += 1
        act: Callable[[Op], File | None] | None = getattr(self, f"_{op.call}", None)
        assert act is not None, f"cannot play {op}"
        touched = act(op)
        if touched is not None:
            touched.mtime = mtime or op.numbers.get("mtime") or _EPOCH_NS + self.number

    def find(self, path: str) -> Node | None:
        """Return what programs see at a path; links are not followed."""
        node: Node | None = self.top
        for name in path.strip("/").split("/"):
            node = node.names.get(name) if isinstance(node, Folder) else None
        return node

    def _at(self, path: str) -> Name:
        where, name = os.path.split(path)
        folder = self.find(where)
        assert isinstance(folder, Folder), f"no directory {where}"
        return folder, name

    def _file(self, path: str) -> File:
        found = self.find(path)
        assert isinstance(found, File), f"no file {path}"
        return found

    def _change(self, op: Op, *names: tuple[Folder, str, Node | None]) -> None:
        for folder, name, node in names:
            if node is None:
                folder.names.pop(name, None)
            else:
                folder.names[name] = node
            self._changed[id(folder), name] = self.number
        self.changes.append(Change(self.number, op, list(names)))

    def _open(self, op: Op) -> File | None:
        found = self.find(op.path)
        fresh = found is None and op.numbers["creat"]
        if fresh:
            found = File(mode=op.numbers["mode"] & ~self.umask)
            found.kept = b"", found.mode, _EPOCH_NS
            self._change(op, (*self._at(op.path), found))
        if not isinstance(found, File):
            return None
        place = (id(found), op.numbers["fd"])
        self._positions[place] = 0
        (self._appending.add if op.numbers["append"] else self._appending.discard)(place)
        if op.numbers["trunc"] and found.data:
            del found.data[:]
            found.dirty = self.number
            return found
        return found if fresh else None

    def _seek(self, op: Op) -> None:
        found = self.find(op.path)
        if isinstance(found, File):
            self._positions[id(found), op.numbers["fd"]] = op.numbers["at"]

    def _write(self, op: Op) -> File:
        file = self._file(op.path)
        place = (id(file), op.numbers["fd"])
        at = op.numbers.get("at")
        if at is None:
            at = len(file.data) if place in self._appending else self._positions.get(place, 0)
            self._positions[place] = at + len(op.data)
        file.data.extend(bytes(max(0, at - len(file.data))))
        file.data[at:at + len(op.data)] = op.data
        file.dirty = self.number
        return file

    def _truncate(self, op: Op) -> File | None:
        file, size = self._file(op.path), op.numbers["size"]
        if len(file.data) == size:
            return None
        del file.data[size:]
        file.data.extend(bytes(size - len(file.data)))
        file.dirty = self.number
        return file

    def _allocate(self, op: Op) -> File:
        file, at, length = self._file(op.path), op.numbers["at"], op.numbers["length"]
        if op.numbers["mode"] == 0x20:
            file.data[at:at] = bytes(length)
        elif op.numbers["mode"] == 0x08:
            del file.data[at:at + length]
        else:
            file.data.extend(bytes(max(0, at + length - len(file.data))))
        file.dirty = self.number
        return file

    def _clone(self, op: Op) -> File:
        file = self._file(op.path)
        file.data[:] = self._file(op.other).data
        file.dirty = self.number
        return file

    def _rename(self, op: Op) -> None:
        source, target = self._at(op.path), self._at(op.other)
        node = source[0].names[source[1]]
        if target[0].names.get(target[1]) is node:
            return  # two links to one file: rename(2) does nothing
        if isinstance(node, File) and (named := fsops.changed_by(target[1])):
            # a journal names its file by the inode, which is another after the replay
            node.target = id(target[0].names.get(named))
        self._change(op, (*source, None), (*target, node))

    def _link(self, op: Op) -> None:
        self._change(op, (*self._at(op.other), self._file(op.path)))

    def _symlink(self, op: Op) -> None:
        self._change(op, (*self._at(op.path), Link(op.other)))

    def _mkdir(self, op: Op) -> None:
        self._change(op, (*self._at(op.path), Folder(op.path)))

    def _unlink(self, op: Op) -> None:
        self._change(op, (*self._at(op.path), None))

    _rmdir = _unlink

    def _chmod(self, op: Op) -> None:
        found = self.find(op.path)
        if isinstance(found, File):
            found.mode = op.numbers["mode"]
            found.loose = self.number

    def _utime(self, op: Op) -> File | None:
        found = self.find(op.path)
        return found if isinstance(found, File) else None

    def _umask(self, op: Op) -> None:
        self.umask = op.numbers["mode"]

    def _say(self, op: Op) -> None:
        """Words change no file."""

    _tell = _say

    def _exit(self, _op: Op) -> None:
        self.umask = _UMASK  # the next command begins with ours

    def _fsync(self, op: Op) -> None:
        found = self.find(op.path)
        if isinstance(found, File):
            found.settle()
        elif isinstance(found, Folder):
            found.apart = dict(found.names)
            self._settle({(id(found), name) for change in self.changes
                          for folder, name, _ in change.names if folder is found})

    def _settle(self, names: set[tuple[int, str]]) -> None:
        """Make changes of names durable, and what went before them at the same names."""
        durable = []
        for change in reversed(self.changes):
            mine = {(id(folder), name) for folder, name, _ in change.names}
            if mine & names:
                names |= mine
                durable.append(change)
        for change in reversed(durable):
            self.changes.remove(change)
            for folder, name, node in change.names:
                if node is None:
                    folder.kept.pop(name, None)
                else:
                    folder.kept[name] = node

    # -- what is not durable -------------------------------------------------------------------

    def unsynced(self) -> Iterator[tuple[str, int, str]]:
        """Yield what a power cut might take: path, number of the operation, what it is."""
        for path, node in self.walk():
            if isinstance(node, File) and node.dirty >= 0:
                yield path, node.dirty, "its data"
            elif isinstance(node, File) and node.loose >= 0:
                yield path, node.loose, "its mode"
            elif isinstance(node, Folder):
                yield from self._names_unsynced(path, node)

    def _names_unsynced(self, path: str, folder: Folder) -> Iterator[tuple[str, int, str]]:
        # each directory for itself: that a rename is one change is more than POSIX promises
        for name in sorted({*folder.names, *folder.apart}):
            if folder.names.get(name) is not folder.apart.get(name):
                yield (f"{path}/{name}", self._changed.get((id(folder), name), 0),
                       "its name" if name in folder.names else GONE)

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Yield what programs see: path and node."""
        yield from _walk(self.top, "", lambda folder: folder.names)

    # -- after the power cut -------------------------------------------------------------------

    def left(self, variant: str) -> State:
        """Return what is there after a power cut now.

        Args:
            variant: ``all`` has everything; ``synced`` only what is durable; ``names`` all names,
                but of files only the durable bytes; ``data`` all bytes, but only durable names;
                ``torn`` all names, and half of the bytes that were not durable; ``apart`` is like
                ``synced`` where a rename is two changes, one in each directory.
        """
        chosen: Callable[[Folder], dict[str, Node]]
        if variant in ("synced", "data"):
            chosen = lambda folder: folder.kept  # noqa: E731
        elif variant == "apart":
            chosen = lambda folder: folder.apart  # noqa: E731
        else:
            chosen = lambda folder: folder.names  # noqa: E731
        found: State = {}
        for path, node in _walk(self.top, "", chosen):
            if any(path == root or path.startswith(f"{root}/") for root in self.roots):
                found[path] = _left(node, variant)
        return found


def _left(node: Node, variant: str) -> Left:
    if isinstance(node, Folder):
        return Left("folder")
    if isinstance(node, Link):
        return Left("link", os.fsencode(node.text))
    data, mode, mtime = bytes(node.data), node.mode, node.mtime
    if variant not in ("all", "data") and (node.dirty >= 0 or node.loose >= 0):
        before, mode, kept = node.kept
        data = data[:(len(before) + len(data)) // 2] if variant == "torn" else before
        mtime = mtime if variant == "torn" else kept
    return Left("file", data, mode, mtime, id(node), node.target)


_UMASK = os.umask(0o022)
os.umask(_UMASK)


def _load(folder: Folder, path: str) -> None:
    for entry in os.scandir(path):
        if entry.is_symlink():
            folder.names[entry.name] = Link(os.readlink(entry.path))
        elif entry.is_dir():
            made = folder.names.setdefault(entry.name, Folder(entry.path))
            assert isinstance(made, Folder)
            _load(made, entry.path)
        else:
            status = entry.stat()
            folder.names[entry.name] = File(bytearray(Path(entry.path).read_bytes()),
                                            status.st_mode & 0o7777, status.st_mtime_ns)


def _settle_all(folder: Folder) -> None:
    folder.kept, folder.apart = dict(folder.names), dict(folder.names)
    for node in folder.names.values():
        if isinstance(node, Folder):
            _settle_all(node)
        elif isinstance(node, File):
            node.settle()


def _walk(folder: Folder, path: str, names: Callable[[Folder], dict[str, Node]],
          ) -> Iterator[tuple[str, Node]]:
    for name, node in sorted(names(folder).items()):
        here = f"{path}/{name}"
        yield here, node
        if isinstance(node, Folder):
            yield from _walk(node, here, names)


def played(disk: Disk, recording: Recording, resolved: dict[int, int]) -> Iterator[Op]:
    """Play a recording operation by operation, and yield each after it was played.

    Args:
        disk: where on.
        recording: of one command.
        resolved: see :func:`times_of`.
    """
    for op in recording.ops:
        disk.play(op, resolved.get(disk.number + 1))
        yield op


def times_of(disk: Disk, recordings: list[Recording]) -> dict[int, int]:
    """Return the mtimes that operations gave, by number, as far as the files told them later.

    Args:
        disk: where the recordings began; it is at their end afterwards.
        recordings: one after the other.
    """
    resolved: dict[int, int] = {}
    for recording in recordings:
        last: dict[int, int] = {}
        for op in recording.ops:
            before = {id(node): node.mtime for _, node in _files(disk, op)}
            disk.play(op)
            for _, node in _files(disk, op):
                if before.get(id(node)) != node.mtime:
                    last[id(node)] = disk.number
        for path, mtime in recording.times.items():
            node = disk.find(path)
            if node is not None and id(node) in last:
                resolved[last[id(node)]] = mtime
    return resolved


def _files(disk: Disk, op: Op) -> Iterator[tuple[str, File]]:
    for path in filter(None, (op.path, op.other)):
        node = disk.find(path) if path.startswith("/") else None
        if isinstance(node, File):
            yield path, node


def digest(state: State, ignore: Callable[[str], bool]) -> str:
    """Return what tells a state from others; times do not count."""
    made = hashlib.sha256()
    for path, left in sorted(state.items()):
        if not ignore(path):
            made.update(f"{path}\0{left.kind}\0{left.mode}\0{len(left.content)}\0".encode())
            made.update(left.content)
    return made.hexdigest()


def lay_out(state: State, roots: list[str]) -> None:
    """Make the files of the roots be those of a state."""
    for root in roots:
        empty(root)
    places: dict[int, str] = {}
    for path, left in sorted(state.items()):
        if left.kind == "folder":
            os.makedirs(path, exist_ok=True)
        elif left.kind == "link":
            os.symlink(os.fsdecode(left.content), path)
        elif left.node in places:
            os.link(places[left.node], path)
        else:
            places[left.node] = path
            Path(path).write_bytes(left.content)
    for path in [path for path, left in state.items() if left.target in places]:
        _rename_inode(path, places[state[path].target])
    for path, left in state.items():
        if left.kind == "file":
            os.chmod(path, left.mode)
            os.utime(path, ns=(left.mtime, left.mtime))


def empty(folder: str) -> None:
    """Remove everything from a directory."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)  # of a mount the directory stays
            assert not os.path.exists(entry.path) or not os.listdir(entry.path), entry.path
        else:
            os.unlink(entry.path)


def _rename_inode(path: str, target: str) -> None:
    journal = undo.read(path)
    if journal is None:
        return  # torn
    with open(target, "rb") as file:
        journal.inode = os.fstat(file.fileno()).st_ino
        journal.generation = undo._generation(file.fileno())
    Path(path).write_bytes(undo._packed(journal))

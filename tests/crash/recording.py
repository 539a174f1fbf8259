"""What a tool does to files, as strace saw it: the operations in order, with their bytes.

``record`` runs a command below strace(1) and returns its :class:`Op` list. Paths are those that
the operation met; a write carries its bytes, so that the operations can be played on a model of a
disk, see ``powerloss.py``.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import wait_until

_CALLS = ("open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,truncate,ftruncate,"
          "fallocate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,"
          "mkdirat,rmdir,chdir,chmod,fchmod,fchmodat,umask,utimensat,fsync,fdatasync,sync,syncfs,"
          "sync_file_range,ioctl,copy_file_range,sendfile,splice,mmap,io_uring_setup,sendto")
_STRACE = ["strace", "-f", "-q", "-xx", "-y", "-s", str(1 << 26), "-e", f"trace={_CALLS}"]
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"(AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_LINE = re.compile(r"(?P<pid>\d+) +(?P<call>\w+)\((?P<args>.*)\) += (?P<result>-?\d+)")
_HALF = re.compile(r"(?P<pid>\d+) +(?P<begin>\w+\(.*) <unfinished \.\.\.>$")
_REST = re.compile(r"(?P<pid>\d+) +<\.\.\. (?P<call>\w+) resumed>(?P<end>.*)$")
_ENDED = re.compile(r"(?P<pid>\d+) +\+\+\+ (exited with|killed by) (?P<how>\w+)")


@dataclass
class Op:
    """One operation.

    Attributes:
        call: what: ``open write truncate allocate clone copy rename link symlink unlink mkdir
            rmdir chmod umask utime fsync seek say tell exit``; ``tell`` is a message to a peer.
        path: of the file concerned, absolute.
        other: the second path: target of a rename or link, source of a clone or copy, text of a
            symbolic link.
        data: the bytes written.
        numbers: what else it takes, by call.
        pid: of the thread.
        tool: whose operation it is, for messages.
    """

    call: str
    path: str = ""
    other: str = ""
    data: bytes = b""
    numbers: dict[str, int] = field(default_factory=dict)
    pid: int = 0
    tool: str = ""

    def __str__(self) -> str:
        words = [self.call, self.path, *(["->", self.other] if self.other else [])]
        if self.data:
            words.append(f"({len(self.data)} bytes: {self.data[:60]!r})")
        return f"{self.tool}: {' '.join(filter(None, words))}"


@dataclass
class Recording:
    """The operations of one command, and what it left.

    Attributes:
        ops: in order.
        code: how it ended, negative for a signal.
        out: what it printed.
        err: what it said.
        times: mtime in nanoseconds of each file that was there afterwards.
    """

    ops: list[Op]
    code: int
    out: str = ""
    err: str = ""
    times: dict[str, int] = field(default_factory=dict)


def obstacle() -> str:
    """Return why strace cannot be used here, or an empty text."""
    try:
        tried = subprocess.run(["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=unlink",
                                "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "strace is not installed; run tests/setup-system as root"
    return f"strace may not trace here: {tried.stderr.strip()}" if tried.returncode else ""


def record(command: Sequence[str], env: Mapping[str, str], folder: Path, roots: Sequence[Path],
           tool: str) -> Recording:
    """Run a command below strace.

    Args:
        command: the argument vector.
        env: its whole environment.
        folder: for the trace; below none of the roots.
        roots: operations elsewhere are left out.
        tool: its name in messages.
    """
    trace = folder / "strace"
    done = subprocess.run([*_STRACE, "--seccomp-bpf", "-o", str(trace), *command],
                          env=dict(env), cwd=folder, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    ops = _kept(trace, str(folder), roots, tool)
    times = {str(path): path.lstat().st_mtime_ns for root in roots for path in root.rglob("*")
             if path.is_file() and not path.is_symlink()}
    return Recording(ops, done.returncode, done.stdout, done.stderr, times)


@contextmanager
def recorded(pid: int, folder: Path, roots: Sequence[Path], tool: str) -> Iterator[list[Op]]:
    """Record what a running process does in the block; the list is filled at its end.

    Args:
        pid: of the process.
        folder: for the trace; below none of the roots.
        roots: operations elsewhere are left out.
        tool: its name in messages.
    """
    trace, made = folder / "strace", list[Op]()
    cwd = os.readlink(f"/proc/{pid}/cwd")
    with subprocess.Popen([*_STRACE, "-p", str(pid), "-o", str(trace)],
                          stderr=subprocess.PIPE) as strace:
        try:
            wait_until(lambda: _is_traced(pid))
            yield made
        finally:
            strace.send_signal(signal.SIGINT)  # it lets go of the process
            strace.wait()
    made += _kept(trace, cwd, roots, tool)


def _is_traced(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all(re.search(r"^TracerPid:\s+[1-9]", (task / "status").read_text(), re.MULTILINE)
               for task in tasks)


def _kept(trace: Path, cwd: str, roots: Sequence[Path], tool: str) -> list[Op]:
    with trace.open(encoding="ascii") as lines:
        ops = list(read(lines, cwd))
    trace.unlink()
    kept = [op for op in ops if op.call in ("say", "tell", "exit", "umask")
            or _is_below(op, roots)]
    for op in kept:
        op.tool = tool
    return kept


def _is_below(op: Op, roots: Sequence[Path]) -> bool:
    paths = (op.path, "" if op.call == "symlink" else op.other)
    return any(path == str(root) or path.startswith(f"{root}/") for path in paths
               for root in roots)


def read(lines: Iterator[str] | Sequence[str], cwd: str) -> Iterator[Op]:
    """Yield the operations of a trace written with ``-f -q -xx -y``.

    Args:
        lines: of the trace.
        cwd: working directory of the command.

    Raises:
        AssertionError: a call is there that changes files in a way that is not understood.
    """
    halves: dict[str, str] = {}
    folders: dict[str, str] = {}
    opened: dict[int, str] = {}
    first = ""
    for line in lines:
        text = line.rstrip("\n")
        if half := _HALF.match(text):
            halves[half["pid"]] = half["begin"]
            continue
        if rest := _REST.match(text):
            text = f"{rest['pid']} {halves.pop(rest['pid'])}{rest['end']}"
        first = first or text.split(maxsplit=1)[0]
        if ended := _ENDED.match(text):
            if ended["pid"] == first:
                code = int(ended["how"]) if ended["how"].isdigit() else -9
                yield Op("exit", numbers={"code": code}, pid=int(first))
        elif (found := _LINE.match(text)) and not found["result"].startswith("-"):
            # addresses and masks are of no interest
            result = int(found["result"]) if found["result"].isdigit() else 0
            call = _Call(found["call"], found["args"], result, folders.get(found["pid"], cwd))
            folders[found["pid"]] = call.folder
            op = call.op()
            if op is not None and (op.call != "say" or found["pid"] == first):
                op.pid = int(found["pid"])
                if op.call == "open":
                    opened[op.numbers["fd"]] = op.path
                elif op.call == "clone":  # strace tells only the number of the other file
                    op.other = opened[op.numbers["from"]]
                yield op


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _name(escaped: str) -> str:
    return os.fsdecode(_bytes(escaped))


class _Call:
    """A system call that succeeded."""

    def __init__(self, name: str, args: str, result: int, cwd: str) -> None:
        self._name, self._args, self._result, self._cwd = name, args, result, cwd
        self._texts = [match[1] for match in _TEXT.finditer(args)]
        bare = _TEXT.sub("", args)
        self._fds = [(match[1], _name(match[2]), bool(match[3])) for match in _FD.finditer(bare)]
        self._numbers = [int(n) for n in re.findall(r"(?<=, )-?\d+\b", _FD.sub("", bare))]

    @property
    def folder(self) -> str:
        """The working directory after the call."""
        if self._name == "chdir":
            return os.path.normpath(os.path.join(self._cwd, _name(self._texts[0])))
        return next((path for number, path, _ in self._fds if number == "AT_FDCWD"), self._cwd)

    def op(self) -> Op | None:
        """Return what it does to files, or None."""
        if self._name == "chdir":
            return None
        if self._name == "sendto":
            return Op("tell", data=b"".join(map(_bytes, self._texts)))
        if self._name == "umask":
            return Op("umask", numbers={"mode": int(self._args, 8)})
        for names, made in (
                (("open", "openat", "creat"), self._open),
                (("write", "pwrite64", "writev", "pwritev", "pwritev2"), self._write),
                (("rename", "renameat", "renameat2", "link", "linkat"), self._two_names),
                (("symlink", "symlinkat"), self._symlink),
                (("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "chmod", "fchmodat",
                  "truncate"), self._one_name),
                (("mmap", "splice", "sync", "syncfs", "sync_file_range", "io_uring_setup"),
                 self._unknown)):
            if self._name in names:
                return made()
        return self._by_descriptor()

    def _path(self, index: int) -> str:
        """Return the absolute path of the index-th name, relative to its directory."""
        path = _name(self._texts[index])
        folder = self._fds[min(index, len(self._fds) - 1)][1] if self._fds else self._cwd
        return os.path.normpath(os.path.join(folder, path))

    def _flag(self, name: str) -> int:
        return int(name in self._args)

    def _open(self) -> Op:
        flags = {name: self._flag(f"O_{name.upper()}")
                 for name in ("creat", "trunc", "append", "directory")}
        mode = re.search(r", (0[0-7]+)$", self._args)
        return Op("open", self._path(0), numbers={
            **flags, "fd": self._result, "mode": int(mode[1], 8) if mode else 0o666})

    def _write(self) -> Op | None:
        number, path, deleted = self._fds[0]
        data = b"".join(map(_bytes, self._texts))[:self._result]
        if number == "1":
            return Op("say", path, data=data)
        if deleted or not path.startswith("/"):
            return None
        where = {"fd": int(number)}
        if self._name.startswith("p"):
            where["at"] = self._numbers[-1] if self._name == "pwrite64" else self._numbers[1]
        return Op("write", path, data=data, numbers=where)

    def _two_names(self) -> Op:
        call = "rename" if self._name.startswith("rename") else "link"
        if self._flag("RENAME_EXCHANGE"):
            raise AssertionError(f"{self._name}: two files exchanged their names")
        return Op(call, self._path(0), self._path(1))

    def _symlink(self) -> Op:
        folder = self._fds[0][1] if self._fds else self._cwd
        path = os.path.normpath(os.path.join(folder, _name(self._texts[1])))
        return Op("symlink", path, _name(self._texts[0]))

    def _one_name(self) -> Op:
        call = self._name.removesuffix("at").removeprefix("f")
        if call == "unlink" and self._flag("AT_REMOVEDIR"):
            call = "rmdir"
        modes = re.findall(r", (0[0-7]+)", self._args)
        numbers = {"mode": int(modes[-1], 8)} if modes else {}
        if call == "truncate":
            numbers = {"size": self._numbers[0]}
        return Op(call, self._path(0), numbers=numbers)

    def _unknown(self) -> Op | None:
        shared = self._name != "mmap" or (self._flag("MAP_SHARED") and self._flag("PROT_WRITE"))
        if not shared or not any(path.startswith("/") for _, path, _ in self._fds):
            return None
        return Op(self._name, self._fds[0][1])

    def _by_descriptor(self) -> Op | None:
        number, path, deleted = self._fds[0] if self._fds else ("", "", True)
        numbers = {"fd": int(number)} if number.isdigit() else {}
        if self._name == "utimensat":
            return self._utime(path)
        if deleted or not path.startswith("/"):
            return None
        if self._name in ("fsync", "fdatasync"):
            return Op("fsync", path, numbers=numbers)
        if self._name == "lseek":
            return Op("seek", path, numbers={**numbers, "at": self._result})
        if self._name == "ftruncate":
            return Op("truncate", path, numbers={"size": self._numbers[0]})
        if self._name == "fchmod":
            return Op("chmod", path, numbers={"mode": int(self._args.rpartition(" ")[2], 8)})
        if self._name == "fallocate":
            return self._allocate(path)
        return self._copied(path)

    def _utime(self, folder: str) -> Op:
        path = self._path(0) if self._texts else folder
        stamps = re.findall(r"tv_sec=(\d+), tv_nsec=(\d+)", self._args)
        now = "UTIME_NOW" in self._args or not stamps
        numbers = {} if now else {"mtime": int(stamps[-1][0]) * 10**9 + int(stamps[-1][1])}
        return Op("utime", path, numbers=numbers)

    def _allocate(self, path: str) -> Op:
        mode = self._flag("INSERT_RANGE") * 0x20 + self._flag("COLLAPSE_RANGE") * 0x08
        assert mode or re.search(r">, 0, ", self._args), f"fallocate({self._args})"
        at, length = self._numbers[-2:]
        return Op("allocate", path, numbers={"mode": mode, "at": at, "length": length})

    def _copied(self, path: str) -> Op | None:
        if self._name == "ioctl":
            if "FICLONE" not in self._args and "BTRFS_IOC_CLONE" not in self._args:
                return None
            assert "RANGE" not in self._args, f"ioctl({self._args})"
            return Op("clone", path, numbers={"from": int(self._args.rpartition(" ")[2])})
        raise AssertionError(f"{self._name}({self._args}) is not understood")

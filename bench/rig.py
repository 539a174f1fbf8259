"""What the measurements of acquisition control run on: a daemon, its sources, a bare client.

The client speaks the protocol by hand over connections that stay open, so that what is measured
is the daemon and not a client's start.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import zmq

LIMIT_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Refused(Exception):
    """The server answered with an error."""


class Client:
    """A DEALER connection to one server; requests can be sent ahead of their replies."""

    def __init__(self, address: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)
        self._numbers = itertools.count(1)
        self._sent: dict[int, float] = {}

    def send(self, method: str, **params: Any) -> int:
        """Send a request and return its number."""
        number = next(self._numbers)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self._sent[number] = time.perf_counter()
        self._socket.send(json.dumps(request).encode())
        return number

    def receive(self, limit: float = LIMIT_S) -> tuple[int, Any, float]:
        """Return the next reply: number, result or a Refused, seconds since it was sent."""
        if not self._socket.poll(round(limit * 1000)):
            raise TimeoutError(f"no reply within {limit:g} s")
        reply = json.loads(self._socket.recv_multipart()[-1])
        took = time.perf_counter() - self._sent.pop(reply["id"])
        result = reply["result"] if "result" in reply else Refused(reply["error"]["message"])
        return reply["id"], result, took

    def timed(self, method: str, **params: Any) -> tuple[Any, float]:
        """Send a request, wait for its reply, and return result and seconds."""
        self.send(method, **params)
        _number, result, took = self.receive()
        if isinstance(result, Refused):
            raise result
        return result, took

    def together(self, requests: list[tuple[str, dict[str, Any]]], ahead: int = 1000,
                 ) -> list[tuple[Any, float]]:
        """Send many requests, up to ``ahead`` at a time, and return results and seconds."""
        answers: dict[int, tuple[Any, float]] = {}
        waiting = iter(requests)
        order = []
        for method, params in itertools.islice(waiting, ahead):
            order.append(self.send(method, **params))
        while len(answers) < len(order):
            number, result, took = self.receive()
            answers[number] = result, took
            for method, params in itertools.islice(waiting, 1):
                order.append(self.send(method, **params))
        return [answers[number] for number in order]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Process:
    """A program under measurement; what it says on standard error goes to a file."""

    def __init__(self, words: list[str], scratch: str, name: str, **environment: str) -> None:
        self.says = os.path.join(scratch, f"{name}.err")
        with open(self.says, "ab") as says:
            self._popen = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=says, text=True,
                env={**os.environ, "DAQ_PYTHON": sys.executable, **environment})
        self.pid = self._popen.pid

    def lines(self, count: int) -> list[str]:
        """Return the first lines that it prints."""
        assert self._popen.stdout
        return [self._popen.stdout.readline().strip() for _ in range(count)]

    def check(self) -> None:
        """Raise with its last words when it has ended."""
        if self._popen.poll() is not None:
            with open(self.says) as file:
                raise RuntimeError(f"{self.says}: {file.read()[-2000:]}")

    def close(self) -> None:
        """End it."""
        self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(20)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        if self._popen.stdout:
            self._popen.stdout.close()

    def cpu(self) -> float:
        """Return the processor seconds that all its threads have used."""
        total = 0.0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{self.pid}/task/{task}/schedstat") as f:
                total += int(f.read().split()[0]) / 1e9
        return total

    def memory(self) -> float:
        """Return its resident memory in MiB."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Sources(Process):
    """A daq-sim that hosts many sources of one kind."""

    def __init__(self, tool: str, scratch: str, kind: str, name: str, count: int,
                 *options: str) -> None:
        super().__init__(
            [tool, kind, name, "zpb.rr://127.0.0.1:0", "--count", str(count), "--size", "4K",
             "--directory", os.path.join(scratch, "files"), *options], scratch, name)
        self.kind = "primarySource" if kind == "recif" else "metadataSource"
        self.start = "RecStart" if kind == "recif" else "StartDaq"
        self.abort = "RecAbort" if kind == "recif" else "AbortDaq"
        self.name = name
        self.uris = self.lines(count)
        if not self.uris[-1]:
            self._popen.wait()
            self.check()
        self.address = "tcp:" + self.uris[0].partition(":")[2].rpartition("/")[0]

    def described(self, first: int, count: int) -> list[dict[str, str]]:
        """Return some of them as sources of a specification."""
        return [{"type": self.kind, "sourceName": f"{self.name}{number + 1}",
                 "rrUri": self.uris[number]} for number in range(first, first + count)]

    def requests(self, command: str, first: int, count: int, job: str,
                 ) -> list[tuple[str, dict[str, Any]]]:
        """Return a command to some of them as requests, for :meth:`Client.together`."""
        params = {"RecStart": {"properties": {"id": job}}, "RecAbort": {}}.get(command, {"id": job})
        return [(f"{uri.rpartition('/')[2]}.{command}", params)
                for uri in self.uris[first:first + count]]


class Daemon(Process):
    """A daq-ctl serve on a fresh spool."""

    def __init__(self, bin_: str, scratch: str, tracer: tuple[str, ...] = (), *,
                 timeout: float = 5.0) -> None:
        self.root = os.path.join(scratch, "spool")
        self.uri = f"zpb.rr://127.0.0.1:{free_port()}"
        self.address = "tcp:" + self.uri.partition(":")[2]
        path = os.path.join(scratch, "daqspool.yaml")
        with open(path, "w") as file:  # JSON is YAML
            json.dump({"cfg": {"instrument_id": "BENCH", "req_endpoint": self.uri,
                               "pub_endpoint": f"zpb.ps://127.0.0.1:{free_port()}",
                               "request_timeout_sec": timeout}}, file)
        tool = os.path.join(bin_, "daq-ctl")
        super().__init__([*tracer, tool, "serve", "--operational", "-q", "--spool", self.root,
                          "--config", path], scratch, "daq-ctl")
        self.client = Client(self.address)
        self.client.send("std.GetState")
        try:
            self.client.receive(20)
        except TimeoutError:
            self.check()
            raise

    def jobs(self, place: str) -> int:
        """Count the jobs in a place of the spool."""
        return sum(name.endswith(".json") for name in os.listdir(os.path.join(self.root, place)))

    def close(self) -> None:
        """End it by command: a tracer would keep a signal from it."""
        with contextlib.suppress(Refused, TimeoutError):
            self.client.timed("std.Exit")
        self.client.close()
        super().close()


def specification(job: str, *sources: list[dict[str, str]]) -> dict[str, Any]:
    """Return the parameters of StartDaqV2."""
    return {"specification": json.dumps({"id": job, "sources": list(itertools.chain(*sources))})}


def free_port() -> int:
    """Return a TCP port that nobody serves at the moment."""
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def synced_append(path: str) -> float:
    """Append a line to a file and make it durable; return the seconds it took."""
    begin = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, b"x" * 200 + b"\n")
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    return time.perf_counter() - begin


def synced(folder: str, count: int) -> float:
    """Return the seconds that a number of syncs take in the mix of StartDaqV2, nothing else.

    A new file needs two, its own and that of its directory, then a line is appended (one).
    """
    left, begin = count, time.perf_counter()
    while left >= 2:
        path = os.path.join(folder, f"new-{left}")
        synced_append(f"{path}.tmp")
        os.rename(f"{path}.tmp", path)
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        left -= 2
        if left:
            synced_append(os.path.join(folder, "lines"))
            left -= 1
    return time.perf_counter() - begin


@contextlib.contextmanager
def running(*parts: Any) -> Iterator[None]:
    """Close parts at the end, whatever happens."""
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.callback(part.close)
        yield


def tracer(path: str) -> tuple[str, ...]:
    """Return a command that runs another one and records its syncs, empty if there is none."""
    words = ("strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", path)
    if not shutil.which("strace"):
        return ()
    probe = subprocess.run([*words, "true"], stderr=subprocess.DEVNULL, check=False)
    return words if probe.returncode == 0 else ()

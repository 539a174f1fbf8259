"""Another host that can go down: a real sshd, and a network of its own where that is allowed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import SYSTEM_PATH, end, wait_until
from remote import Sshd


def program(name: str) -> Path:
    """Return the path of a program of the system."""
    return next(path for place in SYSTEM_PATH.split(":") if (path := Path(place) / name).exists())


def children(pid: int) -> list[int]:
    """Return the processes that descend from one."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


@dataclass
class Machine:
    """A host, by its ssh server.

    Attributes:
        server: with the keys and the configuration of a client.
        config: of the server.
        pid_file: of the server.
        prefix: what a command begins with that is run on this host.
    """

    server: Sshd
    config: Path
    pid_file: Path
    prefix: tuple[str, ...] = ()

    def down(self) -> None:
        """Kill the server and all that runs for its clients, as a host that goes down."""
        listener = int(self.pid_file.read_text())
        for pid in [listener, *children(listener)]:
            end(pid)
        self.pid_file.unlink()

    def up(self) -> None:
        """Have the server run."""
        subprocess.run([*self.prefix, program("sshd"), "-f", self.config, "-E",
                        self.server.folder / "sshd.log"], check=True)
        wait_until(self.pid_file.exists)


def on_loopback(far: Sshd) -> Machine:
    """Return the machine that an ssh server on loopback is."""
    return Machine(far, far.folder / "sshd_config", far.folder / "sshd.pid")


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@dataclass
class Line:
    """A network of two hosts, the other one being a network namespace.

    Attributes:
        machine: the other host.
        port: the interface there.
        ssh_config: by which ``ssh far`` reaches it.
    """

    machine: Machine
    port: str
    ssh_config: Path

    def cut(self) -> None:
        """Take the link down."""
        self._set("down")

    def join(self) -> None:
        """Bring it up again, and wait until the host can be reached."""
        self._set("up")
        wait_until(self._reaches)

    def _reaches(self) -> bool:
        found = dict(line.split() for line in self.ssh_config.read_text().splitlines()
                     if len(line.split()) == 2)
        with socket.socket() as client:
            client.settimeout(5)
            return client.connect_ex((found["HostName"], int(found["Port"]))) == 0

    def _set(self, state: str) -> None:
        subprocess.run([*self.machine.prefix, "ip", "link", "set", self.port, state], check=True)


@contextmanager
def line(far: Sshd, folder: Path) -> Iterator[Line]:
    """Make a network namespace with an ssh server, or skip with the reason."""
    if os.geteuid():
        pytest.skip("a network namespace takes root")
    number = os.getpid()
    name, near, there = f"daq-{number}", f"dqa{number}", f"dqb{number}"
    net = f"198.18.{number // 64 % 256}.{number % 64 * 4}"
    base, last = net.rsplit(".", 1)
    here, other = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
    made = ip("netns", "add", name)
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    inside = ("ip", "netns", "exec", name)
    try:
        tried = ip("link", "add", near, "type", "veth", "peer", "name", there, "netns", name)
        if tried.returncode:
            pytest.skip(f"no pair of interfaces can be made here: {tried.stderr.strip()}")
        for words in (["ip", "addr", "add", f"{here}/30", "dev", near],
                      ["ip", "link", "set", near, "up"],
                      [*inside, "ip", "addr", "add", f"{other}/30", "dev", there],
                      [*inside, "ip", "link", "set", there, "up"],
                      [*inside, "ip", "link", "set", "lo", "up"]):
            subprocess.run(words, check=True)
        yield from _serving(far, folder, inside, there, other)
    finally:
        ip("link", "del", near)
        ip("netns", "del", name)


def _serving(far: Sshd, folder: Path, inside: tuple[str, ...], port: str,
             address: str) -> Iterator[Line]:
    config, pid_file = folder / "sshd_config", folder / "sshd.pid"
    text = (far.folder / "sshd_config").read_text().replace("127.0.0.1", address)
    config.write_text(re.sub(r"PidFile .*", f"PidFile {pid_file}", text))
    known = folder / "known_hosts"
    known.write_text((far.folder / "known_hosts").read_text().replace("127.0.0.1", address))
    client = far.plain_config(folder / "ssh_config", HostName=address,
                              UserKnownHostsFile=str(known))
    machine = Machine(far, config, pid_file, inside)
    machine.up()
    try:
        yield Line(machine, port, client)
    finally:
        with suppress(FileNotFoundError):
            machine.down()

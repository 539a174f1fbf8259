"""Other hosts for the tests: a real sshd on loopback, and a stand-in for ssh without a network.

Both lead to this machine, so that a file "there" is a file here, fetched by rsync's real remote
protocol.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import SYSTEM_PATH, Daq, end, free_port, wait_until

#: The name under which both are reached.
HOST = "far"

# HOME: what the shell of this account reads at a login shall not matter
_SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
SetEnv HOME={folder}
"""

# connection sharing is on, as users have it: the background process that it starts must not
# keep a job's lock
_SSH = """
Host far
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
  LogLevel ERROR
  ControlMaster auto
  ControlPath {folder}/cm-%C
  ControlPersist 30
"""

_RSYNCD = """
{account}
use chroot = no
read only = yes
list = no
[data]
  path = {data}
[locked]
  path = {data}
  auth users = daq
  secrets file = {secrets}
[busy]
  path = {data}
  max connections = -1
"""

_LSH = """#!/bin/sh
# "lsh [options] host command": runs the command here, once {gate} is there
while [ "${{1#-}}" != "$1" ]; do case "$1" in -l|-p|-F|-o|-i) shift;; esac; shift; done
shift
echo "$*" >>{calls}
trap 'echo TERM >{told}; exit 143' TERM
until [ -e {gate} ]; do sleep 0.05; done
exec sh -c "$*"
"""


@dataclass(frozen=True)
class Sshd:
    """A running ssh server.

    Attributes:
        ssh_config: a configuration by which ``ssh far`` reaches it.
        folder: of its files, with the sockets of connection sharing, ``cm-*``.
    """

    ssh_config: Path
    folder: Path


    def logins(self) -> int:
        """Return how many connections were let in so far."""
        return (self.folder / "sshd.log").read_text().count("Accepted publickey")

    def plain_config(self, path: Path, **changes: str) -> Path:
        """Write a configuration without connection sharing.

        Args:
            path: of the new file.
            changes: options of ssh that are to be different.
        """
        lines = [line for line in self.ssh_config.read_text().splitlines()
                 if not line.strip().startswith(("Control", *changes))]
        path.write_text("\n".join([*lines, *(f"  {name} {value}"
                                             for name, value in changes.items())]) + "\n")
        return path

    @contextmanager
    def restricted(self, options: str) -> Iterator[None]:
        """Restrict what the key may do, as authorized_keys(5) says, within the block."""
        keys = self.folder / "authorized"
        before = keys.read_text()
        keys.write_text(f"{options} {before}")
        try:
            yield
        finally:
            keys.write_text(before)


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Run an ssh server on loopback; its files go to ``folder``, which must be short."""
    port = free_port()
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # it separates its privileges there
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key],
                       check=True)
    (folder / "authorized").write_text((folder / "user_key.pub").read_text())
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
    facts = {"port": port, "folder": folder, "user": getpass.getuser()}
    (folder / "sshd_config").write_text(_SSHD.format(**facts))
    (folder / "ssh_config").write_text(_SSH.format(**facts))
    program = next(path for place in SYSTEM_PATH.split(":")
                   if (path := Path(place) / "sshd").exists())
    subprocess.run([program, "-f", folder / "sshd_config", "-E", folder / "sshd.log"], check=True)
    pid_file = folder / "sshd.pid"
    try:
        wait_until(pid_file.exists, explain=lambda: (folder / "sshd.log").read_text())
        _check_login(folder)
        yield Sshd(folder / "ssh_config", folder)
    finally:
        with suppress(OSError, ValueError):
            end(int(pid_file.read_text()))


def _check_login(folder: Path) -> None:
    """Skip the test where this account may not log in (its shell is nologin)."""
    tried = subprocess.run(["ssh", "-F", folder / "ssh_config", "-o", "ControlMaster=no", HOST,
                            "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        reason = f"no login by ssh: {tried.stderr.strip() or tried.stdout.strip()}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@dataclass(frozen=True)
class Rsyncd:
    """A running rsync daemon.

    Attributes:
        url: of it; modules follow.
        password: a file with the password of the user ``daq``, who alone may use ``locked``.
    """

    url: str
    password: Path


@contextmanager
def rsyncd(folder: Path, data: Path) -> Iterator[Rsyncd]:
    """Run an rsync daemon on loopback: its modules data, locked and busy are one directory."""
    port = free_port()
    secrets, password = folder / "secrets", folder / "password"
    secrets.write_text("daq:let me in\n")
    password.write_text("let me in\n")
    for path in (secrets, password):
        path.chmod(0o600)
    config = folder / "rsyncd.conf"
    # else root would become nobody, who cannot enter the directories of the tests
    account = "" if os.geteuid() else "uid = root\ngid = root"
    config.write_text(_RSYNCD.format(account=account, data=data, secrets=secrets))
    with open(folder / "rsyncd.log", "wb") as log:
        daemon = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", f"--config={config}", "--address=127.0.0.1",
             f"--port={port}", "--log-file=/dev/stderr"], stdin=subprocess.DEVNULL, stderr=log)
    try:
        wait_until(lambda: answers(port))
        yield Rsyncd(f"rsync://127.0.0.1:{port}", password)
    finally:
        daemon.terminate()
        daemon.wait()


def answers(port: int) -> bool:
    """Tell whether somebody listens at a port of the loopback interface."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Stand:
    """The stand-in for ssh.

    Attributes:
        command: for ``cfg/rsh``.
        gate: commands run while this file is there; take it away to hold them up.
        calls: the commands so far, one a line.
        told: is there when a command that was held up was told to end.
    """

    command: Path
    gate: Path
    calls: Path
    told: Path


def stand_in(folder: Path) -> Stand:
    """Make a stand-in for ssh in a folder."""
    made = Stand(folder / "lsh", folder / "gate", folder / "calls", folder / "told")
    made.gate.touch()
    made.calls.touch()
    made.command.write_text(_LSH.format(gate=shlex.quote(str(made.gate)),
                                        calls=shlex.quote(str(made.calls)),
                                        told=shlex.quote(str(made.told))))
    made.command.chmod(0o755)
    return made


def configure(daq: Daq, **keys: object) -> None:
    """Give the tools a configuration."""
    import yaml

    path = daq.folder / "daq.yaml"
    path.write_text(yaml.safe_dump({"cfg": {key: str(value) if isinstance(value, Path) else value
                                            for key, value in keys.items()}}))
    daq.env["DAQ_CONFIG"] = str(path)


def script(path: Path, text: str) -> Path:
    """Write a shell script."""
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def holders(path: Path) -> list[int]:
    """Return the processes that have a file open."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if any(os.readlink(fd) == str(path) for fd in (entry / "fd").iterdir()):
                    found.append(int(entry.name))
    return found

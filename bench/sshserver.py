"""An ssh server on loopback, for the while of a measurement: another host that is this machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time

import rig

#: The name by which it is reached.
HOST = "far"

_PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
_LIMIT_S = 60.0

# VERBOSE tells every login and every command; MaxStartups lets many in at once
_SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
MaxStartups 100
LogLevel VERBOSE
# what the shell of this account reads at a login is not to be measured
SetEnv HOME={folder}
"""

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
"""


class Unavailable(Exception):
    """There is no ssh server here; the text says what is missing."""


class Server:
    """A running ssh server that leads to this machine."""

    def __init__(self) -> None:
        """Start it; :meth:`close` ends it.

        Raises:
            Unavailable: a program is missing, or this account may not log in.
        """
        program = shutil.which("sshd", path=_PATH)
        missing = [name for name in ("ssh", "ssh-keygen", "rsync") if not shutil.which(name)]
        if missing or not program:
            raise Unavailable(f"{', '.join(missing) or 'sshd'} is missing: "
                              "apt-get install openssh-server openssh-client rsync")
        # the tools keep the sockets of shared connections there, and their names must be short
        self.folder = tempfile.mkdtemp(prefix="daq-")
        self._before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = self.folder
        self.config = os.path.join(self.folder, "ssh_config")
        self._log = os.path.join(self.folder, "sshd.log")
        self._write()
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self._server = subprocess.Popen(
            [program, "-D", "-f", os.path.join(self.folder, "sshd_config"), "-E", self._log],
            stdin=subprocess.DEVNULL)
        try:
            self._check_login()
        except BaseException:
            self.close()
            raise

    def _write(self) -> None:
        port = rig.free_port()
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
                            os.path.join(self.folder, key)], check=True)
        with open(os.path.join(self.folder, "host_key.pub")) as file:
            public = " ".join(file.read().split()[:2])
        shutil.copy(os.path.join(self.folder, "user_key.pub"),
                    os.path.join(self.folder, "authorized"))
        facts = {"port": port, "folder": self.folder, "user": getpass.getuser()}
        for name, text in (("known_hosts", f"[127.0.0.1]:{port} {public}\n"),
                           ("sshd_config", _SSHD.format(**facts)),
                           ("ssh_config", _SSH.format(**facts))):
            with open(os.path.join(self.folder, name), "w") as file:
                file.write(text)

    def _check_login(self) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while True:
            tried = subprocess.run(["ssh", "-F", self.config, "-o", "BatchMode=yes", HOST, "true"],
                                   capture_output=True, text=True, check=False)
            if tried.returncode == 0:
                return
            if "refused" not in tried.stderr or time.monotonic() > deadline:
                raise Unavailable(f"no login by ssh: {tried.stderr.strip() or tried.stdout}")
            time.sleep(0.05)

    def counts(self) -> tuple[int, int]:
        """Return how many logins and how many commands it has seen so far."""
        with open(self._log, errors="replace") as file:
            lines = file.readlines()
        return (sum("Accepted publickey" in line for line in lines),
                sum("Starting session: command" in line for line in lines))

    def close(self) -> None:
        """End it, and the connections to it that somebody kept for others to use."""
        for place, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(place, name)
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    subprocess.run(["ssh", "-F", self.config, "-o", f"ControlPath={path}",
                                    "-O", "exit", HOST], stderr=subprocess.DEVNULL, check=False)
        self._server.send_signal(signal.SIGTERM)
        self._server.wait()
        if self._before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = self._before
        with contextlib.suppress(FileNotFoundError):  # a socket that is just being removed
            shutil.rmtree(self.folder)

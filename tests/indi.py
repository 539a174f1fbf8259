"""INDI's own server and simulated instruments, out of reach of everybody but the test.

The server listens on all interfaces and cannot be told otherwise. Where the machine allows it has
a network namespace of its own, and the tools of the test run in there, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import PATIENCE_S, Daq, Process, free_port, wait_until
from live import Live

CAMERA = "indi_simulator_ccd"
#: A camera looks this often at its exposure, instead of once a second.
BRISK = {"POLLING_PERIOD.PERIOD_MS": 50}


class Observatory:
    """An indiserver, its instruments, and a daq-ctl that reaches them."""

    def __init__(self, daq: Daq, *drivers: str, **settings: object) -> None:
        """Start the server with drivers, and prepare a daq-ctl.

        Args:
            daq: the tools; they run where the server is from now on.
            drivers: programs.
            settings: of the configuration of daq-ctl.
        """
        self.daq, self.drivers = daq, drivers
        daq.prefix = _namespace(daq)
        self.port = 7624 if daq.prefix else free_port()
        self.fifo = daq.folder / "fifo"
        os.mkfifo(self.fifo)
        self.server = self.begin()
        # a socket file is the same in every network namespace
        self.live = Live(daq, req_endpoint=f"ipc://{daq.folder}/r.sock",
                         pub_endpoint=f"ipc://{daq.folder}/p.sock", **settings)

    def begin(self) -> Process:
        """Start the server, anew if it was killed."""
        self.server = self.daq.program(
            "indiserver", "-p", self.port, "-u", self.daq.folder / "indi.sock", "-f", self.fifo,
            "-v", *self.drivers, until="listening to port")
        return self.server

    def camera(self, name: str) -> str:
        """Start a simulated camera and return its name."""
        self.fifo.write_text(f'start {CAMERA} -n "{name}"\n')
        return name

    def uri(self, device: str) -> str:
        """Return the URI of a device."""
        return f"indi://127.0.0.1:{self.port}/{device.replace(' ', '%20')}"

    def source(self, device: str, name: str = "ccd", exposure: float = 0.2,
               **options: Any) -> dict[str, Any]:
        """Return a camera as a source of a specification."""
        options = {"exposure": exposure, "setup": BRISK, **options}
        return {"type": "primarySource", "sourceName": name, "rrUri": self.uri(device),
                "options": options}

    def tell(self, setting: str) -> None:
        """Set a property as another client does: ``DEVICE.PROPERTY.ELEMENT=VALUE``."""
        self._client("indi_setprop", setting)

    def told(self, device: str, element: str) -> str:
        """Return what another client sees: ``PROPERTY.ELEMENT``, or its state ``_STATE``."""
        return self._client("indi_getprop", "-1", "-t", "5", f"{device}.{element}").strip()

    def until(self, device: str, element: str, value: str) -> None:
        """Wait until another client sees a value."""
        wait_until(lambda: self.told(device, element) == value)

    def _client(self, program: str, *arguments: str) -> str:
        return subprocess.run([*self.daq.prefix, program, "-p", str(self.port), *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              timeout=PATIENCE_S).stdout

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Stop the drivers for a while, as hanging hardware does."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text()
        drivers = [int(pid) for pid in children.split()]
        try:
            for pid in drivers:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in drivers:
                os.kill(pid, signal.SIGCONT)

    def files(self, job: str, source: str = "ccd") -> list[Path]:
        """Return what lies in the folder of a source."""
        folder = self.daq.spool / "data" / job / "live" / source
        return sorted(path for path in folder.iterdir() if path.suffix != ".json")


def _namespace(daq: Daq) -> list[str]:
    """Return what begins a command line that runs in a network namespace, if one can be made."""
    if os.geteuid() or subprocess.run(["unshare", "-n", "true"], stderr=subprocess.DEVNULL,
                                      timeout=PATIENCE_S).returncode:
        return []
    keeper = daq.program("unshare", "-n", "sh", "-c",
                         "ip link set lo up && echo up && exec sleep infinity", until="^up$")
    return ["nsenter", "-t", str(keeper.pid), "-n", "--"]

"""Servers of EPICS Channel Access: an IOC of EPICS Base, which comes with p4p, and caproto's."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import PATIENCE_S, Daq, free_port, lacking, wait_until

#: A text that Channel Access cuts, unless it is asked for the characters.
LONG = "longer than the thirty-nine characters that a string of Channel Access has"

#: What the IOC of most tests serves; ``$(P)`` is its prefix.
RECORDS = """
record(ai, "$(P)temp") { field(VAL, "21.5") field(EGU, "degC") field(PREC, "0") field(PINI, "YES") }
record(ai, "$(P)hot") { field(VAL, "25") field(EGU, "degC") field(PINI, "YES")
                        field(HIHI, "24.8") field(HHSV, "MAJOR") }
record(ai, "$(P)warm") { field(VAL, "24.5") field(PINI, "YES")
                         field(HIGH, "24") field(HSV, "MINOR") }
record(ai, "$(P)unlinked") { field(INP, "$(P)nobody CA") field(PINI, "YES") }
record(ai, "$(P)never") { field(VAL, "3") field(EGU, "V") }
record(calc, "$(P)inf") { field(CALC, "1/0") field(PINI, "YES") }
record(calc, "$(P)nan") { field(CALC, "0/0") field(PINI, "YES") }
record(calc, "$(P)count") { field(CALC, "VAL+1") field(SCAN, ".1 second") field(EGU, "counts") }
record(calc, "$(P)rising") { field(CALC, "VAL+1") field(SCAN, ".1 second")
                             field(HIGH, "0.5") field(HSV, "MINOR") }
record(mbbi, "$(P)filter") { field(ZRST, "OPEN") field(ONST, "H-alpha") field(ZRVL, "0")
                             field(ONVL, "1") field(VAL, "1") field(PINI, "YES") }
record(bi, "$(P)shutter") { field(ZNAM, "CLOSED") field(ONAM, "OPEN") field(OSV, "MAJOR")
                            field(VAL, "1") field(PINI, "YES") }
record(bi, "$(P)nameless") { field(VAL, "1") field(PINI, "YES") }
record(longin, "$(P)whole") { field(VAL, "42") field(PINI, "YES") }
record(stringin, "$(P)observer") { field(VAL, "Anna Tester") field(PINI, "YES") }
record(lsi, "$(P)long") { field(SIZV, "200") field(PINI, "YES")
                         field(INP, {const: "%s"}) }
record(waveform, "$(P)path") { field(FTVL, "CHAR") field(NELM, "100") field(PINI, "YES")
                               field(INP, {const: "/data/a.fits"}) }
record(waveform, "$(P)wave") { field(FTVL, "FLOAT") field(NELM, "5") field(PINI, "YES")
                               field(EGU, "mm") field(INP, [1.5, 23.7, 3.5]) }
""" % LONG  # noqa: UP031


def required(*modules: str, daq: Daq | None = None) -> None:
    """Skip the test with the reason when a module is missing; an error with CI=true.

    Args:
        modules: that the tests need themselves.
        daq: its tools need caproto.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if daq and subprocess.run([daq.python, "-c", "import caproto"], check=False,
                              stderr=subprocess.DEVNULL).returncode:
        missing.append("caproto, beside the tools")
    if missing:
        lacking(f"{', '.join(missing)} not installed; make install-dev installs them")


class Ioc:
    """A server that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._beacons = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it is searched for: an entry of EPICS_CA_ADDR_LIST."""
        return f"127.0.0.1:{self.port}"

    def _environment(self) -> dict[str, str]:
        port, beacons, other = str(self.port), str(self._beacons), str(free_port())
        made = dict(os.environ)
        for kind in ("CAS", "PVAS"):
            made |= {f"EPICS_{kind}_INTF_ADDR_LIST": "127.0.0.1",
                     f"EPICS_{kind}_BEACON_ADDR_LIST": "127.0.0.1",
                     f"EPICS_{kind}_AUTO_BEACON_ADDR_LIST": "NO"}
        return made | {"EPICS_CA_ADDR_LIST": "127.0.0.1", "EPICS_CA_AUTO_ADDR_LIST": "NO",
                       "EPICS_CA_SERVER_PORT": port, "EPICS_CAS_SERVER_PORT": port,
                       "EPICS_CA_REPEATER_PORT": beacons, "EPICS_CAS_BEACON_PORT": beacons,
                       "EPICS_PVAS_SERVER_PORT": other, "EPICS_PVAS_BROADCAST_PORT": other}

    def base(self, records: str = RECORDS, prefix: str = "LAB:") -> None:
        """Start an IOC of EPICS Base with some records."""
        path = self.folder / f"{self.port}.db"
        path.write_text(records)
        # it ends with its standard input, a console
        self._start("iocRun: All initialization complete", "pvxslibs.ioc", "-m", f"P={prefix}",
                    "-d", str(path))

    def caproto(self, example: str, prefix: str) -> None:
        """Start one of caproto's examples."""
        self._start("Server startup complete", f"caproto.ioc_examples.{example}",
                    "--prefix", prefix, "--interfaces", "127.0.0.1")

    def _start(self, ready: str, *words: str) -> None:
        log = self.folder / f"{self.port}.log"
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words], stdin=subprocess.PIPE, stdout=file, stderr=file,
                env=self._environment())
        wait_until(lambda: re.search(ready, log.read_text(errors="replace")), PATIENCE_S,
                   lambda: log.read_text(errors="replace"))

    def hang(self) -> None:
        """Let it answer nothing any more, with its connections open."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def die(self) -> None:
        """Kill it; harmless when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@contextmanager
def serving(folder: Path) -> Iterator[Ioc]:
    """Give a server, not yet started, and kill it in the end."""
    made = Ioc(folder)
    try:
        yield made
    finally:
        made.die()


def settings(*servers: Ioc) -> dict[str, str]:
    """Return the environment of a client that searches at some servers, and nowhere else."""
    return {"EPICS_CA_ADDR_LIST": " ".join(each.address for each in servers),
            "EPICS_CA_AUTO_ADDR_LIST": "NO", "EPICS_CA_REPEATER_PORT": str(free_port())}


class Liar:
    """Answers each search with a server that does not take a connection, at a server's address."""

    def __init__(self, server: Ioc) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", server.port))
        self._socket.settimeout(PATIENCE_S)

    def answer(self) -> None:
        """Answer one datagram: a version, then searches of 16 bytes and a name each."""
        data, client = self._socket.recvfrom(2048)
        cid = data[16 + 12:16 + 16]
        # command 6, payload of 8 bytes, the server's port, "the address that this comes from"
        self._socket.sendto(b"\0\6\0\10" + (1).to_bytes(2, "big") + b"\0\0" + b"\xff" * 4 + cid
                            + b"\0\15" + bytes(6), client)

    def close(self) -> None:
        """Let the real one have the address."""
        self._socket.close()

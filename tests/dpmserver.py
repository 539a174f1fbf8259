"""A server of daq-watch on a spool of its own: the vocabulary of the tests that ask it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from daqlib import rpc
from daqlib.client import DpmClient
from harness import PATIENCE_S, Daq, Process, free_port, make_fits, wait_until

#: Holds the lock of a job as a stage tool does, and does not obey SIGTERM.
STUBBORN = """
import fcntl, json, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
started = open("/proc/self/stat").read().rpartition(")")[2].split()[19]
os.ftruncate(fd, 0)
os.write(fd, json.dumps({"pid": os.getpid(), "started": started, "stage": "collect",
                         "since": time.time()}).encode())
print("locked", flush=True)
time.sleep(600)
"""


class Topics:
    """What is published, heard in a thread."""

    def __init__(self, endpoint: str) -> None:
        self.samples: list[tuple[str, Any]] = []
        threading.Thread(target=self._hear, args=[endpoint], daemon=True).start()

    def _hear(self, endpoint: str) -> None:
        for sample in rpc.subscribe(endpoint):
            self.samples.append(sample)

    def documents(self, topic: str, job: str = "") -> list[Any]:
        """Return the documents of a topic (about a job)."""
        return [document for name, document in list(self.samples)
                if name == topic and job in (document.get("id"), "")]

    def substates(self, job: str, topic: str = "/daq/status") -> list[str]:
        """Return the substates that were published, each once in a row."""
        found: list[str] = []
        for document in self.documents(topic, job):
            if found[-1:] != [document["substate"]]:
                found.append(document["substate"])
        return found


class Dpm:
    """A spool with a server."""

    def __init__(self, daq: Daq, **settings: object) -> None:
        self.daq = daq
        self.requests = f"zpb.rr://127.0.0.1:{free_port()}"
        self.topics = f"zpb.ps://127.0.0.1:{free_port()}"
        self.config = daq.folder / "daqspool.yaml"
        self.configure(**settings)
        daq.env["DAQ_CONFIG"] = str(self.config)
        self.client = DpmClient(self.requests, self.topics, timeout_s=PATIENCE_S)
        self.file = make_fits(daq.folder / "a.fits", cards={"OBJECT": "file"})
        self.server: Process
        self.number = 0

    def configure(self, **settings: object) -> None:
        """Write the configuration."""
        made = {"scan_interval_sec": 1.0, "storage_interval_sec": 0.2, **settings,
                "dpm": {"req_endpoint": self.requests, "pub_endpoint": self.topics}}
        self.config.write_text(json.dumps({"cfg": made}))  # JSON is YAML

    def serve(self, *options: object) -> Process:
        """Start a server without a watcher."""
        self.server = self.daq.spawn("daq-watch", "--serve-only", *options, until="serving at")
        return self.server

    def watch(self, *options: object) -> Process:
        """Start a watcher with its server."""
        self.server = self.daq.spawn("daq-watch", "--serve", *options, until="serving at")
        return self.server

    def specification(self, **members: Any) -> dict[str, Any]:
        """Return a specification with an id of its own."""
        self.number += 1
        name = f"d.{self.number}"
        return {"id": name, "target": {"fileId": f"KMOS.{name}"}, "sources": [
            {"type": "fitsFile", "sourceName": "dcs", "location": str(self.file)}], **members}

    def queue(self, **members: Any) -> str:
        """Queue a specification; return its id."""
        made = self.specification(**members)
        reply = self.client.QueueDaq(made)
        assert (reply.id, reply.error) == (made["id"], False)
        return reply.id

    def call(self, method: str, **params: Any) -> Any:
        """Send a request without the client."""
        path, _, command = method.partition(".")
        return rpc.call(f"{self.requests}/{path}", command, params, PATIENCE_S)

    def once(self) -> None:
        """Do the work that is due."""
        self.daq.run("daq-watch", "--once", "-q").ok()

    @contextmanager
    def listening(self) -> Iterator[Topics]:
        """Hear what is published."""
        made = Topics(self.topics)
        wait_until(lambda: made.documents("/dpm/storage"))
        yield made


@contextmanager
def stubborn(dpm: Dpm, job: str) -> Iterator[int]:
    """Keep a job's lock in a process that cannot be asked to end."""
    holder = subprocess.Popen([sys.executable, "-c", STUBBORN, dpm.daq.spool / "lock" / job],
                              stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline()
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()

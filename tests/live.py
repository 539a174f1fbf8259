"""A daq-ctl with simulated sources on free ports: the vocabulary of the tests that record live."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daqlib import rpc
from harness import CHECKOUT, PATIENCE_S, Daq, Process, Result, free_port, fresh, wait_until

#: The substates of a whole life, in order.
LIFE = ("NotStarted", "Starting", "Acquiring", "Stopping", "Stopped", "NotScheduled", "Scheduled",
        "Collecting", "Merging", "Releasing", "Completed")


#: Seconds that the daemon gives a source for a reply: a busy machine needs some, who hangs all.
REPLY_S = 5.0


class Simulator:
    """A simulated source that can be killed and started again at the same address."""

    def __init__(self, daq: Daq, kind: str, name: str, *options: object) -> None:
        self.daq, self.kind, self.name = daq, kind, name
        self.port = free_port()
        self.path = "rec" if kind == "recif" else "daq"
        self.uri = f"zpb.rr://127.0.0.1:{self.port}/{self.path}"
        self.directory = daq.folder / f"from-{name}"
        self.earlier = ""
        self.process = self.start(*options)

    def start(self, *options: object) -> Process:
        """Start it; it remembers nothing of its earlier lives."""
        self.process = self.daq.spawn(
            "daq-sim", self.kind, self.name, self.uri, "--directory", self.directory, "-v",
            "--size", "4K", *options, until="ready at", stdin=True)
        return self.process

    def die(self) -> None:
        """Kill it."""
        self.process.kill()
        self.earlier += self.process.err

    @property
    def words(self) -> str:
        """What all its lives said."""
        return self.earlier + ("" if self.process.err in self.earlier else self.process.err)

    def calls(self, command: str, job: str = "") -> int:
        """Return how often a command was received (for a job)."""
        pattern = rf"^daq-sim: {command} \{{.*{re.escape(job)}.*\}}"
        return len(re.findall(pattern, self.words, re.MULTILINE))

    @property
    def starts(self) -> str:
        """The command that starts an acquisition."""
        return "RecStart" if self.kind == "recif" else "StartDaq"

    def ask(self, command: str, **params: Any) -> Any:
        """Send it a command."""
        return rpc.call(self.uri, command, params, PATIENCE_S)

    def source(self) -> dict[str, str]:
        """Return it as a source of a specification."""
        kind = "primarySource" if self.kind == "recif" else "metadataSource"
        return {"type": kind, "sourceName": self.name, "rrUri": self.uri}

    def at(self) -> str:
        """Return it as an argument of daq.start."""
        return f"{self.name}@{self.uri}"


class Live:
    """A spool, its daq-ctl and the sources around it."""

    def __init__(self, daq: Daq, **settings: object) -> None:
        import yaml

        self.daq = daq
        self.requests = str(settings.pop("req_endpoint", f"zpb.rr://127.0.0.1:{free_port()}"))
        self.topics = f"zpb.ps://127.0.0.1:{free_port()}"
        self.daemon: Process
        self.number = 0
        path = daq.folder / "daqspool.yaml"
        path.write_text(yaml.safe_dump({"cfg": {
            "instrument_id": "TEST", "request_timeout_sec": REPLY_S, "scan_interval_sec": 1.0,
            "req_endpoint": self.requests, "pub_endpoint": self.topics, **settings}}))
        daq.env["DAQ_CONFIG"] = str(path)

    def serve(self, *options: object, env: Mapping[str, str | None] | None = None,
              until: str | None = "serving at") -> Process:
        """Start the daemon, Operational."""
        self.daemon = self.daq.spawn("daq-ctl", "serve", "--operational", "-v", *options,
                                     until=until, env=env)
        return self.daemon

    def crash(self, *options: object) -> Process:
        """Kill the daemon and start another one."""
        self.daemon.kill()
        return self.serve(*options)

    def sim(self, kind: str, name: str, *options: object) -> Simulator:
        """Start a simulated source."""
        return Simulator(self.daq, kind, name, *options)

    def id(self, stem: str = "job") -> str:
        """Return an id that is new to this spool."""
        self.number += 1
        return f"{stem}.{self.number}"

    def ctl(self, *arguments: object, stdin: str | None = None,
            timeout: float = PATIENCE_S) -> Result:
        """Run the client."""
        return self.daq.run("daq-ctl", *arguments, stdin=stdin, timeout=timeout)

    def call(self, command: str, limit: float = PATIENCE_S, /, **params: Any) -> Any:
        """Send a request without the client, which takes a third of a second."""
        path = "std" if command in ("Init", "Enable", "Disable", "Exit", "GetState") else "daq"
        return rpc.call(f"{self.requests}/{path}", command, params, limit)

    def begin(self, *sources: Simulator | dict[str, Any], id: str = "", limit: float = PATIENCE_S,
              **members: Any) -> str:
        """Start an acquisition and return its id."""
        described = [s.source() if isinstance(s, Simulator) else s for s in sources]
        document = {"sources": described, "id": id or self.id(), "awaitCompletionInterval": 1.0,
                    **members}
        reply = self.call("StartDaqV2", limit, specification=json.dumps(document))
        assert reply == {"id": document["id"], "error": False}
        return str(document["id"])

    def status(self, job: str) -> dict[str, Any]:
        """Return the status of a job."""
        made: dict[str, Any] = self.call("GetStatus", id=job)
        return made

    def until(self, job: str, substate: str, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """Wait until a job is in a substate; return its status."""
        def there() -> dict[str, Any]:
            now = self.status(job)
            return now if now["substate"] == substate else {}
        return wait_until(there, timeout, lambda: f"{self.told(job)}\n{self.daemon.err}")

    def alerts(self, job: str) -> dict[str, str]:
        """Return the active alerts of a job: id to description."""
        return {alert["id"]: alert["description"]
                for alert in json.loads(self.status(job)["message"])}

    def tidy(self) -> None:
        """Leave a running daemon and no acquisition to the next test."""
        if not self.daemon.running():
            self.serve()
        for now in self.call("GetActiveList"):
            self.call("ForceAbortDaq", id=now["id"])

    def until_alert(self, job: str, alert: str, text: str) -> None:
        """Wait until a job has an alert whose description holds a text."""
        wait_until(lambda: text in self.alerts(job).get(alert, ""),
                   explain=lambda: f"{self.told(job)}\n{self.daemon.err}")

    def told(self, job: str) -> str:
        """Return the history of a job for the message of a failed test."""
        return (self.daq.spool / "log" / f"{job}.jsonl").read_text()

    def manifest(self, job: str, stage: str = "acquire") -> dict[str, Any]:
        """Return what a stage brought."""
        path = self.daq.spool / "data" / job / f"{stage}.json"
        made: dict[str, Any] = json.loads(path.read_text())["result"]
        return made

    def finish(self) -> None:
        """Run the stages on everything that is left, without a watcher."""
        for tool in ("daq-collect", "daq-merge", "daq-release"):
            self.daq.run(tool, "--all").ok()

    def product(self, job: str) -> Path:
        """Run the stages and return the product of a job."""
        self.finish()
        assert self.daq.tree().get("done", []).count(job) == 1, self.told(job)
        return Path(self.status(job)["result"])

    @contextmanager
    def subscribed(self) -> Iterator[Callable[[], list[str]]]:
        """Collect what ``daq-ctl --status`` prints; yields a function that returns the lines."""
        with self.daq.start("daq-ctl", "--status", until="no command provided") as listener:
            self._wait_until_heard(listener)
            yield lambda: listener.err.splitlines()

    def _wait_until_heard(self, listener: Process) -> None:
        # a subscription takes a moment to arrive; a state command makes a sample
        def heard() -> bool:
            self.call("Disable")
            self.call("Enable")
            return "status: Operational" in listener.err
        wait_until(heard)


@contextmanager
def sharing(folder: Path, chosen: Path | None, **settings: object) -> Iterator[Live]:
    """A daemon for a whole test module; the tests use ids of their own.

    Args:
        folder: of the spool and everything else.
        chosen: the directory of the tools; None takes those of the checkout.
        settings: of the configuration.
    """
    daq = fresh(folder, (chosen or CHECKOUT / "bin").absolute(), installed=chosen is not None)
    try:
        made = Live(daq, **settings)
        made.serve()
        yield made
    finally:
        daq.close()

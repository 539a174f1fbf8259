"""A watcher whose stage tools do what a test orders; for tests of what happens around the work."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path

from harness import CHECKOUT, PATIENCE_S, Daq, Process, wait_until

STAGE_TOOL = """\
import os, signal, subprocess, sys, time
from pathlib import Path
from daqlib import cli, errors, stage, stagecli

tool = Path(sys.argv[0]).name
name = tool.removeprefix("daq-")
previous, following = {"collect": ("acquire", "merge"), "merge": ("collect", "release"),
                       "release": ("merge", "done")}[name]
orders = Path(os.environ["ORDERS"])

def order(job):
    for path in (orders / f"{job}.{name}", orders / name):
        if path.exists():
            return path.read_text().split()
    return ["ok"]

def write(line):
    with open(orders / "diary", "a") as diary:
        diary.write(f"{line}\\n")

def begun():
    return (orders / "diary").read_text().count(f"begin {name} ")

def obey(job, what, argument="0"):
    if what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        write(f"stubborn {name} {job}")
    if what == "meet":  # as many others; then stay, for more may come
        while begun() < int(argument):
            time.sleep(0.02)
        time.sleep(0.4)
    if what in ("sleep", "stubborn"):
        time.sleep(float(argument))
    elif what == "child":
        subprocess.run(["sleep", argument])
    elif what == "later":
        raise errors.Later("the moon is up", "wait")
    elif what == "bad":
        raise errors.BadData("the data are wrong")
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)

def work(claim):
    job = claim.id
    write(f"begin {name} {job} {os.getpid()}")
    obey(job, *order(job))
    write(f"end {name} {job} {os.getpid()}")
    return stage.Outcome()

def preflight(claim):
    if order(claim.id)[0] == "host-down":
        write(f"preflight {name} {claim.id} {time.monotonic()}")
        raise errors.Later("the host is down", "wait")

@cli.entry(tool)
def main(argv):
    parser = cli.parser(tool, "fake", "-")
    stagecli.add_arguments(parser)
    options = cli.parse(parser, argv)
    for job in options.jobs:
        if order(job)[0] == "exit":
            os._exit(int(order(job)[1]))
    limits = (lambda claim: ["merge"]) if name == "merge" else (lambda claim: [])
    made = stage.Stage(name, previous, following, work, preflight, limits, lambda claim: {})
    return stagecli.run(made, options, tool)

sys.exit(main())
"""


@dataclasses.dataclass
class Fake(Daq):
    """The tools with a watcher whose stage tools do what they are ordered."""

    @property
    def orders(self) -> Path:
        return self.folder / "orders"

    def order(self, what: str, words: str) -> None:
        """Tell a stage (``merge``) or one job's stage (``a.merge``) what to do."""
        (self.orders / what).write_text(words)

    def diary(self, *words: str) -> list[str]:
        """Return the lines of the diary that begin with these words."""
        path = self.orders / "diary"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[: len(words)] == list(words)]

    def configure(self, text: str) -> None:
        """Write the configuration; what a test does not say makes retries and scans rare."""
        self.env["DAQ_CONFIG"] = str(self.folder / "daq.yaml")
        body = textwrap.indent(textwrap.dedent(text), "  ")
        (self.folder / "daq.yaml").write_text(f"cfg:\n{body}\n")

    def jobs(self, stage: str, ids: Sequence[str]) -> None:
        """Put jobs into a stage."""
        for job in ids:
            keywords = [{"type": "valueKeyword", "name": "OBJECT", "value": "M1"}]
            self.drop(stage, job, {"sources": [
                {"type": "fitsKeywords", "sourceName": "kw", "keywords": keywords}]})

    def watch(self, *arguments: str) -> Process:
        """Start a watcher that runs until the test ends."""
        return self.spawn("daq-watch", *arguments, until="watching")

    def wait_tree(self, tree: dict[str, list[str]], timeout: float = PATIENCE_S) -> None:
        """Wait until the stages hold these jobs and nobody is at work."""
        wait_until(lambda: self.tree() == tree, timeout, lambda: f"the tree is {self.tree()}")

    def working_pid(self, stage: str, job: str) -> int:
        """Wait until a stage works on a job and return its process id."""
        line = wait_until(lambda: self.diary("begin", stage, job)[-1:])
        return int(line[0].split()[3])


def fake_stages(daq: Daq) -> Fake:
    """Return the tools of a test with fake stage tools in place of the real ones."""
    made = Fake(**{f.name: getattr(daq, f.name) for f in dataclasses.fields(daq)})
    made.bin = made.folder / "fake-bin"
    made.bin.mkdir()
    made.orders.mkdir()
    made.env["ORDERS"] = str(made.orders)
    for stage in ("collect", "merge", "release"):
        tool = made.bin / f"daq-{stage}"
        tool.write_text(f"#!{daq.python}\n{STAGE_TOOL}")
        tool.chmod(0o755)
    path = "" if daq.installed else f"PYTHONPATH={CHECKOUT}/lib:{CHECKOUT}/tools/daq-watch"
    watch = made.bin / "daq-watch"
    watch.write_text(f'#!/bin/sh\nexport DAQ_BIN={made.bin} {path}\n'
                     f'exec {daq.python} -P -m daq_watch "$@"\n')
    watch.chmod(0o755)
    made.configure("scan_interval_sec: 60.0")
    return made

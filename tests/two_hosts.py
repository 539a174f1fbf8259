"""Two spools as those of two hosts, on this machine, and a remote shell that can fail in between.

The remote shell is a stand-in by which the far end is run as sshd runs it: with an environment of
its own. What a real sshd adds is tested with one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness import CHECKOUT, EPOCH, STAGES, SYSTEM_PATH, make_spool

#: How the hosts call each other.
NEAR, FAR = "ins", "dhs"

_RSH = """#!/bin/sh
# "rsh [options] host command": runs the command here, with the environment of the other host
while [ "${{1#-}}" != "$1" ]; do case "$1" in -l|-p|-F|-o|-i) shift;; esac; shift; done
host=$1
shift
echo "$host $*" >>{folder}/calls
if [ -e {folder}/down ]; then
    echo "ssh: connect to host $host port 22: Connection refused" >&2
    exit 255
fi
far="env -i $(cat {folder}/env) sh -c"
if [ -e {folder}/short ]; then  # the connection breaks after so many bytes to there
    head -c "$(cat {folder}/short)" | $far "$*"
    exit 255
elif [ -e {folder}/deaf ]; then  # it breaks after so many lines from there
    $far "$*" | head -n "$(cat {folder}/deaf)"
    exit 255
fi
exec $far "$*"
"""


@dataclass
class Pair:
    """Two spools in a folder, ``near`` and ``far``, and what is configured for each.

    Attributes:
        folder: of both.
        bin: of the tools.
        python: that they run on.
    """

    folder: Path
    bin: Path
    python: str

    def __post_init__(self) -> None:
        for name in ("near", "far"):
            make_spool(self.folder / name)
        script = self.folder / "rsh"
        script.write_text(_RSH.format(folder=shlex.quote(str(self.folder))))
        script.chmod(0o755)
        (self.folder / "calls").touch()
        self.far_env()
        self.configure()

    @property
    def near(self) -> Path:
        """The spool of the first host."""
        return self.folder / "near"

    @property
    def far(self) -> Path:
        """The spool of the other host."""
        return self.folder / "far"

    @property
    def to(self) -> str:
        """What ``cfg/hand_over`` says."""
        return f"{FAR}:{self.far}"

    def configure(self, **more: object) -> None:
        """Write the configurations of both hosts; ``more`` is for the first one."""
        shared = {"instrument_id": "TEST", "rsh": str(self.folder / "rsh"),
                  "scan_interval_sec": 1.0, "retry": {"first_sec": 0.0},
                  "breaker": {"failures": 0}}
        near = {**shared, "hand_over": self.to, "hand_over_as": NEAR, **more}
        for name, settings in (("near", near), ("far", shared)):
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump({"cfg": settings}))

    def far_env(self, **more: str) -> None:
        """Set the environment of what is run on the other host."""
        made = {"PATH": f"{self.bin}:{SYSTEM_PATH}", "DAQ_PYTHON": self.python,
                "HOME": str(self.folder), "LC_ALL": "C.UTF-8", "TZ": "UTC",
                "SOURCE_DATE_EPOCH": str(EPOCH), **more}
        (self.folder / "env").write_text(" ".join(f"{k}={v}" for k, v in made.items()))

    def env(self, which: str) -> dict[str, str]:
        """Return the environment of a tool on one of the hosts."""
        return {"DAQ_CONFIG": str(self.folder / f"{which}.yaml"),
                "DAQ_SPOOL": str(self.folder / which), "DAQ_BIN": str(self.bin)}

    def fault(self, name: str, text: str = "") -> None:
        """Let the connection fail: ``down``, ``short`` (bytes), ``deaf`` (lines)."""
        (self.folder / name).write_text(text)

    def mend(self) -> None:
        """Let it work again."""
        for name in ("down", "short", "deaf"):
            (self.folder / name).unlink(missing_ok=True)

    def calls(self) -> int:
        """Return how often a connection was made."""
        return len((self.folder / "calls").read_text().splitlines())

    def tree(self, which: str) -> dict[str, list[str]]:
        """Return the ids in each directory of a spool that holds any."""
        found = {place: sorted(path.stem for path in (self.folder / which / place).glob("[!.]*"))
                 for place in STAGES}
        return {place: ids for place, ids in found.items() if ids}

    def trees(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return both."""
        return self.tree("near"), self.tree("far")

    def history(self, which: str, job: str) -> list[dict[str, Any]]:
        """Return the events of a job on one of the hosts."""
        path = self.folder / which / "log" / f"{job}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if (
            path.exists()) else []

    def clear(self) -> None:
        """Begin anew: empty spools, a connection that works."""
        self.mend()
        self.far_env()
        for name in ("near", "far"):
            shutil.rmtree(self.folder / name)
            make_spool(self.folder / name)

    def leftovers(self) -> list[str]:
        """Return the temporaries that were left in either spool."""
        return [str(path) for name in ("near", "far") for place in (*STAGES, "data", "result")
                for path in (self.folder / name / place).rglob(".tmp-*")]


def checkout(folder: Path) -> Pair:
    """Make a pair that uses the tools of the checkout."""
    import sys

    return Pair(folder, CHECKOUT / "bin", sys.executable)


def acquired(pair: Pair, job: str, *files: Path, **more: object) -> None:
    """Put a job with a live source that has ended into ``collect/`` of the first host."""
    document = {"id": job, "fileId": f"TEST.{job}", "created": "2026-11-21T02:30:00.000Z",
                "by": "tester", "instrument": "TEST", **more,
                "sources": [{"type": "primarySource", "sourceName": "dcs",
                             "rrUri": "zpb.rr://127.0.0.1:1/rec"}]}
    data = pair.near / "data" / job
    data.mkdir(parents=True)
    (data / "acquire.json").write_text(json.dumps({
        "id": job, "stage": "acquire", "tool": "daq-ctl", "time": "2026-11-21T02:30:00.000Z",
        "inputs": {"job": "0" * 64}, "outputs": [], "result": {"outcome": "completed", "sources": [
            {"sourceName": "dcs", "files": [str(path) for path in files],
             "keywords": [{"type": "valueKeyword", "name": "EXPTIME", "value": 1.5}]}]}}))
    lines = [{"event": "submitted", "stage": "acquire", "fileId": f"TEST.{job}", "digest": "0"},
             {"event": "state", "stage": "acquire", "substate": "Acquiring"},
             {"event": "keywords", "stage": "acquire",
              "keywords": [{"type": "valueKeyword", "name": "OBJECT", "value": "moon"}]},
             {"event": "state", "stage": "acquire", "substate": "Stopped"},
             {"event": "sealed", "stage": "acquire"}]
    text = "".join(json.dumps({"time": "2026-11-21T02:30:00.000Z", "by": "daq-ctl", "pid": 1,
                               "host": NEAR, **line}) + "\n" for line in lines)
    (pair.near / "log" / f"{job}.jsonl").write_text(text)
    (pair.near / "log" / f".file-TEST.{job}").write_text(job)
    target = pair.near / "collect" / f"{job}.json"
    embryo = target.with_name(f".{target.name}")
    embryo.write_text(json.dumps(document))
    os.rename(embryo, target)

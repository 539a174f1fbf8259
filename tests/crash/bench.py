"""A spool at a fixed path in which the tools die or fail, and the picture of what came out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge import Forge

from daqlib import fsops, history
from harness import STAGES, make_fits

JOB, FILE_ID = "crash-1", "TEST.2026-11-21T02:30:00.123"
NEXT = {"collect": "merge", "merge": "release", "release": "done"}
WAY = tuple(NEXT)

Passed = list[tuple[str, int]]


@dataclass
class Bench:
    """A spool at a fixed path, so that every run sees the same job to the last byte."""

    forge: Forge
    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def clear(self, template: str = "") -> None:
        """Begin with no spool, or with a copy of a saved one."""
        for name in ("spool", "archive"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "archive").mkdir(exist_ok=True)  # it may be a mount, which stays
        if template:
            shutil.copytree(self.folder / template, self.spool, symlinks=True)

    def save(self, template: str) -> None:
        shutil.copytree(self.spool, self.folder / template, symlinks=True)

    def arguments(self, tool: str) -> list[str]:
        return [f"@{self.folder}/job.json"] if tool == "start" else ["--job", JOB]

    def run(self, tool: str, **env: str) -> Any:
        return self.forge.run(self.spool, f"daq-{tool}", *self.arguments(tool),
                              env={**self.env, **env})

    def all(self, stage: str, **env: str) -> Any:
        """Run a stage tool on all jobs, as cron does."""
        return self.forge.run(self.spool, f"daq-{stage}", "-q", "--all", env={**self.env, **env})

    def trace(self, tool: str) -> Passed:
        """Run a tool undisturbed and return the points that it passed, in order."""
        path = self.folder / "trace"
        path.unlink(missing_ok=True)
        self.run(tool, DAQ_CRASH_TRACE=str(path)).ok()
        pairs = [line.split(":") for line in path.read_text().splitlines()]
        return [(point, int(number)) for point, number in pairs]

    def finish(self, stage: str) -> None:
        """Run the stage tools from a stage to the end."""
        for name in WAY[WAY.index(stage):]:
            self.run(name).ok()

    def tree(self) -> dict[str, list[str]]:
        found = {place: sorted(p.name for p in (self.spool / place).glob("[!.]*"))
                 for place in STAGES}
        return {place: names for place, names in found.items() if names}

    def events(self) -> list[history.Event]:
        return history.read(str(self.spool / "log" / f"{JOB}.jsonl"))

    def starts(self, stage: str) -> int:
        return sum(e["event"] == "start" and e["stage"] == stage for e in self.events())

    def temporaries(self) -> list[str]:
        """What is left of writes that died, wherever jobs, products or data are."""
        found = [str(path.relative_to(self.spool)) for place in (*STAGES, "result", "data")
                 for path in (self.spool / place).rglob(".tmp-*")]
        return found + [path.name for path in (self.folder / "archive").glob(".*")]

    def locks(self) -> list[str]:
        return [p.name for p in (self.spool / "lock").iterdir() if fsops.is_locked(str(p))]

    def picture(self) -> dict[str, Any]:
        """Everything that must not depend on whether somebody died on the way."""
        made: dict[str, Any] = {"tree": self.tree(), "temporaries": self.temporaries(),
                                "locks": self.locks(), "archive": digests(self.folder / "archive"),
                                "result": digests(self.spool / "result")}
        data = self.spool / "data" / JOB
        made["inputs"] = digests(data / "sources", "*.fits")
        made["specification"] = (data / "specification.json").read_text()
        made["link"] = os.readlink(data / "result")
        for stage in WAY:
            made[stage] = self.manifest(stage)
        made["fileId"] = history.file_id(self.events())
        made["mode"] = [oct(p.stat().st_mode) for p in (self.spool / "result").iterdir()]
        return made

    def manifest(self, stage: str) -> dict[str, Any]:
        """A manifest without its times; that it names the manifest before it is checked here."""
        data = self.spool / "data" / JOB
        made: dict[str, Any] = json.loads((data / f"{stage}.json").read_text())
        del made["time"]
        for output in made["outputs"]:
            del output["mtime_ns"]
        for receipt in made["result"].get("receipts", []):
            del receipt["time"], receipt["try"]
        if stage != "collect":
            before = WAY[WAY.index(stage) - 1]
            digest = hashlib.sha256((data / f"{before}.json").read_bytes()).hexdigest()
            assert made["inputs"].pop(before) == digest
        return made


def prepare(bench: Bench, **more: object) -> Bench:
    """Write the files and the request of the job, and save the spool before each stage."""
    for name, extensions in (("a", 2), ("b", 1)):
        make_fits(bench.folder / f"{name}.fits", extensions, cards={"OBJECT": name},
                  name=name.upper())
    (bench.folder / "job.json").write_text(json.dumps(job(bench.folder, **more)))
    bench.clear()
    bench.run("start").ok()
    bench.save("at-collect")
    for stage in WAY:
        bench.run(stage).ok()
        bench.save(f"at-{NEXT[stage]}")
    return bench


def undisturbed_picture(bench: Bench) -> dict[str, Any]:
    """The picture of a run in which nobody died."""
    bench.clear()
    bench.run("start").ok()
    bench.finish("collect")
    made = bench.picture()
    assert made["tree"] == {"done": [f"{JOB}.json"]}
    assert list(made["result"]) == [f"T_{FILE_ID}.fits"]
    assert list(made["archive"]) == [f"{FILE_ID}.fits"]
    assert made["locks"] == made["temporaries"] == []
    return made


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob(pattern))}


def job(folder: Path, **more: object) -> dict[str, object]:
    return {
        "id": JOB, "fileId": FILE_ID, "created": "2026-11-21T02:30:00.000Z", "by": "tester",
        "filePrefix": "T_",
        "sources": [
            {"type": "fitsFile", "sourceName": "a", "location": f"{folder}/a.fits"},
            {"type": "fitsFile", "sourceName": "b", "location": f"{folder}/b.fits"},
            {"type": "fitsKeywords", "sourceName": "k", "keywords": [
                {"type": "esoKeyword", "name": "OBS ID", "value": 42}]}],
        "receivers": [{"type": "olasReceiver", "path": f"{folder}/archive"}], **more}


def failures(cases: list[tuple[str, Any]]) -> list[str]:
    """Run cases and return what was wrong with each that failed."""
    found = []
    for label, check in cases:
        try:
            check()
        except AssertionError as error:
            found.append(f"{label}: {error}")
    return found

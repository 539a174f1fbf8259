"""A merge of a few keywords is over in the time that some modules take to be loaded.

``daq-merge SPECIFICATION`` must not load what :data:`UNWANTED` names, on its normal way. The
interpreter runs as ``bin/launch`` runs it, and says of every module who imported it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import CHECKOUT, FOLDERS, MARKER, SYSTEM_PATH, make_fits

#: Each costs a tenth of a bare interpreter or more.
UNWANTED = {
    "_strptime", "argparse", "astropy", "calendar", "collections", "contextlib", "ctypes",
    "dataclasses", "datetime", "decimal", "enum", "functools", "gettext", "hashlib", "importlib",
    "inspect", "json", "jsonschema", "locale", "logging", "numpy", "pathlib", "random", "re",
    "referencing", "runpy", "shutil", "signal", "site", "struct", "subprocess", "tempfile",
    "threading", "typing", "warnings", "weakref", "yaml",
}
#: Of ours, what belongs to jobs or to people only.
NOT_OURS = {"daqlib.config", "daqlib.schema", "daqlib.strictjson", "daqlib.spool", "daqlib.stage",
            "daqlib.history", "daqlib.cliparser", "daqlib.dictionary", "daq_merge.stagework",
            "daq_merge.explain", "daq_merge.verify"}

#: Runs boot.py as the launcher does, and writes down who imported what.
PROBE = """\
import builtins, os, sys
known, loading = {}, builtins.__import__
def follow(name, globals=None, *rest, **words):
    before = set(sys.modules)
    try:
        return loading(name, globals, *rest, **words)
    finally:
        for made in set(sys.modules) - before:
            known.setdefault(made, (globals or {}).get("__name__", "?"))
def tell():
    with open(os.environ["LIGHT_TELL"], "w") as file:
        for name in sys.modules:
            file.write(name + " " + known.get(name, "-") + "\\n")
leave = os._exit
os._exit = lambda code: (tell(), leave(code))
builtins.__import__ = follow
boot, sys.argv = sys.argv[1], sys.argv[1:]
with open(boot) as file:
    program = compile(file.read(), boot, "exec")
try:
    exec(program, {"__name__": "__main__", "__file__": boot})
finally:
    tell()
"""


class Run:
    """How a run ended, and the modules that it loaded, each with the one that imported it."""

    def __init__(self, code: int, out: str, err: str, loaded: dict[str, str]) -> None:
        self.code, self.out, self.err, self.loaded = code, out, err, loaded

    def ok(self) -> Run:
        assert self.code == 0, self.err
        return self

    def ways(self, unwanted: set[str]) -> list[str]:
        """Return how each unwanted module was reached, as chains of importers."""
        found = []
        for name in sorted(unwanted & self.loaded.keys()):
            chain = [name]
            while (importer := self.loaded.get(chain[-1], "-")) not in ("-", "?", *chain):
                chain.append(importer)
            found.append(" <- ".join(chain))
        return found


@pytest.fixture
def merge(tmp_path: Path) -> Any:
    (tmp_path / "probe.py").write_text(PROBE)

    def run(*words: object, room: str = "daq_merge.__main__", function: str = "main",
            env: dict[str, str] | None = None) -> Run:
        tell = tmp_path / "loaded"
        tell.unlink(missing_ok=True)
        made = subprocess.run(
            [sys.executable, "-P", "-S", str(tmp_path / "probe.py"),
             str(CHECKOUT / "lib" / "daqlib" / "boot.py"), room, function, *map(str, words)],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False, env={
                "PATH": SYSTEM_PATH, "LIGHT_TELL": str(tell),
                "PYTHONPATH": f"{CHECKOUT}/lib:{CHECKOUT}/tools/daq-merge", **(env or {})})
        assert tell.exists(), made
        return Run(made.returncode, made.stdout, made.stderr, dict(
            line.split(" ") for line in tell.read_text().splitlines()))

    return run


KEYWORDS = [{"type": "valueKeyword", "name": "OBJECT", "value": "x" * 100, "comment": "long"},
            {"type": "esoKeyword", "name": "DET ID", "value": 1.5, "format": "%.3f"},
            {"type": "literalKeyword", "value": "HISTORY literal"},
            {"type": "commentaryKeyword", "name": "COMMENT", "value": "text"}]


@pytest.fixture
def specification(tmp_path: Path) -> dict[str, Any]:
    make_fits(tmp_path / "target.fits")
    make_fits(tmp_path / "other.fits")
    return {"id": "x", "sources": [
        {"type": "fitsFile", "sourceName": "a", "location": "other.fits"},
        {"type": "fitsKeywords", "sourceName": "k", "keywords": KEYWORDS}],
        "target": {"fileId": "P", "source": {"type": "fitsFile", "sourceName": "t",
                                             "location": "target.fits"}}}


def write(folder: Path, document: object) -> str:
    (folder / "s.json").write_text(json.dumps(document))
    return "s.json"


@pytest.mark.parametrize("words", [
    [], ["--no-sync"], ["-q", "-o", "p.fits", "--root=."], ["--dry-run"], ["--trust-sums"],
    ["--strict", "--stamp", "all"], ["--way", "new"], ["--way=in-place"], ["--way", "auto"]])
def test_a_merge_loads_nothing_dear(
        merge: Any, tmp_path: Path, specification: dict[str, Any], words: list[str]) -> None:
    run = merge(write(tmp_path, specification), *words).ok()
    assert run.ways(UNWANTED | NOT_OURS) == []
    assert "daq_merge.plan" in run.loaded


def test_a_header_policy_loads_nothing_dear(
        merge: Any, tmp_path: Path, specification: dict[str, Any]) -> None:
    specification["headerPolicy"] = {"keywords": [
        {"name": "RA", "type": "float", "required": True, "unit": "deg", "max": 360, "source": "t"},
        {"name": "INS MODE", "type": "string", "default": "NONE", "format": "%.8s"},
        {"name": "OBJECT", "type": "integer", "values": [1]}]}
    run = merge(write(tmp_path, specification)).ok()
    assert run.ways(UNWANTED | NOT_OURS) == [] and "daqlib.headerpolicy" in run.loaded
    assert run.err.count("(policy ") == 3


def test_keywords_alone_load_nothing_dear(
        merge: Any, tmp_path: Path, specification: dict[str, Any]) -> None:
    del specification["target"]["source"], specification["sources"][0]
    assert merge(write(tmp_path, specification)).ok().ways(UNWANTED | NOT_OURS) == []


def test_the_program_of_eso_loads_nothing_dear(
        merge: Any, tmp_path: Path, specification: dict[str, Any]) -> None:
    run = merge(write(tmp_path, specification), room="daq_merge.eso", function="daqDpmMerge")
    assert run.ok().ways(UNWANTED | NOT_OURS) == []


def test_the_probe_sees_what_is_loaded_and_by_whom(merge: Any) -> None:
    run = merge("--help").ok()
    assert "argparse <- daqlib.cliparser <- " in " ".join(run.ways({"argparse"}))
    assert not run.loaded.keys() & {"numpy", "jsonschema", "daqlib.stage"}


@pytest.mark.parametrize(("words", "code"), [
    (["none.json"], 100), (["s.json", "-o", "target.fits"], 73), (["gone.json"], 110)])
def test_a_refusal_loads_little(merge: Any, tmp_path: Path, specification: dict[str, Any],
                                words: list[str], code: int) -> None:
    write(tmp_path, specification)
    gone = json.loads(json.dumps(specification).replace("other.fits", "gone.fits"))
    (tmp_path / "gone.json").write_text(json.dumps(gone))
    run = merge(*words)
    assert run.code == code, run.err
    assert run.ways(UNWANTED | NOT_OURS) == []


def test_only_an_explanation_asks_the_schemas(
        merge: Any, tmp_path: Path, specification: dict[str, Any]) -> None:
    del specification["target"]["fileId"]
    run = merge(write(tmp_path, specification))
    assert run.code == 102, run.err
    assert {"jsonschema", "daqlib.schema"} <= run.loaded.keys()
    assert run.ways({"argparse", "numpy", "astropy", "daqlib.stage"}) == []


def test_jobs_pay_only_for_jobs(merge: Any, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    for name in FOLDERS:
        (spool / name).mkdir(parents=True)
    (spool / MARKER).touch()
    (spool / "merge" / "j.json").write_text(json.dumps({"sources": [
        {"type": "fitsFile", "sourceName": "a", "location": "/data/a.fits"}]}))
    run = merge("--spool", spool, "--all", "--dry-run").ok()
    assert run.out.startswith("j: would merge"), run.out
    assert run.ways({"numpy", "astropy", "fitsio", "zmq", "asyncio", "inotify_simple",
                     "sh"}) == []

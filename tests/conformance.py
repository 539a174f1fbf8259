"""Run the conformance suite on a source, as its author does: pytest in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from harness import CHECKOUT

#: Drops a file into a directory that is watched, as the feeder of a source: DROP, file, directory.
DROP = ('{python} -c "import os, shutil, sys; name = os.environ[\'DAQ_ID\'] + \'.fits\'; '
        'shutil.copy(sys.argv[1], os.path.join(sys.argv[2], name))" {file} {folder}')


@dataclass
class Outcome:
    """The tests by how they ended, and what was said."""

    passed: set[str]
    failed: set[str]
    skipped: set[str]
    words: str


def run(uri: str, kind: str = "primarySource", options: dict[str, Any] | None = None,
        config: Path | None = None, **more: Any) -> Outcome:
    """Assert that a source conforms; return the outcome.

    Args:
        uri: the source.
        kind: its type.
        options: its options.
        config: a configuration file.
        more: see :func:`tried`.
    """
    made = tried(uri, kind, options, config, **more)
    assert made.passed and not made.failed, made.words
    return made


def tried(uri: str, kind: str = "primarySource", options: dict[str, Any] | None = None,
          config: Path | None = None, *, feeder: str = "", ends: float | None = None,
          path: Iterable[Path] = (), only: str = "", prefix: Sequence[str] = ()) -> Outcome:
    """Run the suite.

    Args:
        uri: the source.
        kind: its type.
        options: its options.
        config: a configuration file.
        feeder: makes the source bring something.
        ends: seconds within which the source ends by itself.
        path: directories to import from.
        only: the test to run, all if empty.
        prefix: what begins the command line, to run it where the source is.
    """
    words = [f"--daq-source={uri}", f"--daq-source-type={kind}",
             f"--daq-source-options={json.dumps(options or {})}"]
    words += [f"--daq-source-config={config}"] if config else []
    words += [f"--daq-source-feeder={feeder}"] if feeder else []
    words += [f"--daq-source-ends={ends}"] if ends is not None else []
    words += [f"-k={only}"] if only else []
    with tempfile.TemporaryDirectory() as folder:
        found = [*path, CHECKOUT / "lib", CHECKOUT / "tools/daq-ctl"]
        return _run(Path(folder), prefix, words, found)


def _run(folder: Path, prefix: Sequence[str], words: list[str], path: list[Path]) -> Outcome:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    report = folder / "report.xml"
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "pytest", "-p", "daq_ctl.conformance.plugin", "-p",
         "no:cacheprovider", "--rootdir", folder, "--basetemp", folder / "tmp",
         f"--junitxml={report}", "--pyargs", "daq_ctl.conformance", *words],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env={**clean, "PYTHONPATH": os.pathsep.join(map(str, path))})
    said = done.stdout + done.stderr
    assert report.exists(), said
    found = Outcome(set(), set(), set(), said)
    for case in ElementTree.parse(report).iter("testcase"):
        ends = {child.tag for child in case}
        how = (found.failed if ends & {"failure", "error"} else
               found.skipped if "skipped" in ends else found.passed)
        how.add(str(case.get("name")))
    return found


def package(folder: Path, name: str, **points: str) -> Path:
    """Install a package of other people: the metadata that names its sources.

    Args:
        folder: where its modules are; it has to be on the path.
        name: of the package.
        points: scheme -> ``module:Class``; a scheme that ends in ``_metadata`` is one of a
            metadata source.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = {"primary": ["[daqspool.primary_sources]"], "metadata": ["[daqspool.metadata_sources]"]}
    for scheme, place in points.items():
        kind = "metadata" if scheme.endswith("_metadata") else "primary"
        lines[kind].append(f"{scheme.removesuffix('_metadata')} = {place}")
    (info / "entry_points.txt").write_text("\n".join(lines["primary"] + lines["metadata"]) + "\n")
    return folder

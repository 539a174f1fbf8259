"""Runs the shell scripts beside it: pipelines as people write them, with the tools on PATH.

A script gets a fresh spool, ``a.fits`` and ``b.fits`` in its current directory, and fails with
the first command that fails (``sh -eu``).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness import SYSTEM_PATH, Daq, make_fits

SCRIPTS = sorted(Path(__file__).parent.glob("*.sh"))


def wanted(script: Path) -> list[str]:
    """The commands that a script needs, from its line ``# needs: jq ...``."""
    found = re.search(r"^# needs: (.*)$", script.read_text(), re.MULTILINE)
    return found[1].split() if found else []


@pytest.mark.parametrize("script", [
    pytest.param(path, id=path.stem, marks=pytest.mark.needs(*wanted(path))) for path in SCRIPTS])
def test_script(daq: Daq, script: Path) -> None:
    folder = daq.folder / "work"
    for name in ("a", "b"):
        make_fits(folder / f"{name}.fits", 2, name=name.upper())
    path = f"{daq.bin}:{SYSTEM_PATH}"
    ended = subprocess.run(["sh", "-eu", str(script)], cwd=folder, text=True, timeout=90,
                           env=daq.environment({"PATH": path}), stdin=subprocess.DEVNULL,
                           capture_output=True, check=False)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr

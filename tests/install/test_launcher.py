"""The tools run from a checkout that nobody installed, from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import CHECKOUT, SYSTEM_PATH
from rooms import PROGRAMS

START = CHECKOUT / "bin" / "daq-start"


def run(command: list[object], env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], env=env, cwd=cwd, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)


def assert_helps(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result
    assert result.stdout.startswith("usage: daq-start"), result
    assert result.stderr == "", result


@pytest.fixture
def env() -> dict[str, str]:
    return {"PATH": SYSTEM_PATH, "DAQ_PYTHON": sys.executable}


def test_empty_environment(tmp_path: Path) -> None:
    here = CHECKOUT / ".venv" / "bin" / "python"
    given = {} if here.exists() else {"DAQ_PYTHON": sys.executable}
    assert_helps(run([START, "--help"], given, tmp_path))


def test_link_from_another_folder(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    link = tmp_path / "a b" / "daq-start"
    link.symlink_to(START)
    assert_helps(run([link, "--help"], env, tmp_path))
    relative = tmp_path / "second"
    relative.symlink_to("a b/daq-start")
    assert_helps(run([relative, "--help"], env, tmp_path))


def test_link_on_the_path(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "daq-start").symlink_to(os.path.relpath(START, tmp_path.resolve()))
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    assert_helps(run(["sh", "-c", "daq-start --help"], env, tmp_path))


def test_linked_checkout(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "daqspool").symlink_to(CHECKOUT)
    assert_helps(run([tmp_path / "daqspool" / "bin" / "daq-start", "--help"], env, tmp_path))


def test_programs_of_eso(env: dict[str, str], tmp_path: Path) -> None:
    for name in sorted(PROGRAMS):
        result = run([CHECKOUT / "bin" / name, "--version"], env, tmp_path)
        assert (result.returncode, result.stderr) == (0, ""), result
        assert result.stdout.startswith(f"{name} "), result
    link = tmp_path / "merge"
    link.symlink_to(CHECKOUT / "bin" / "daqDpmMerge")
    assert run([link, "--help"], env, tmp_path).stdout.startswith("usage: daqDpmMerge ")


def test_unknown_name(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "daq-nothing").symlink_to(CHECKOUT / "bin" / "launch")
    result = run([tmp_path / "daq-nothing"], env, tmp_path)
    assert result.returncode == 64
    assert result.stderr.startswith("daq-nothing: no such tool; see ")


@pytest.mark.parametrize("variables", [{}, {"PYTHONPATH": ""}])
def test_files_of_the_user_are_not_imported(
        env: dict[str, str], tmp_path: Path, variables: dict[str, str]) -> None:
    for name in ("json.py", "argparse.py", "daqlib.py", "daq_start.py"):
        (tmp_path / name).write_text("raise SystemExit('a stranger was imported')\n")
    assert_helps(run([START, "--help"], env | variables, tmp_path))


def test_chosen_python_gets_the_arguments_as_they_are(env: dict[str, str], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" \"$DAQ_BIN\" \"$DAQ_CHECKOUT\"\n")
    python.chmod(0o755)
    result = run([START, "--no such *", "", "-x"], env | {"DAQ_PYTHON": str(python)}, tmp_path)
    assert result.stdout.splitlines() == [
        "-P", "-m", "daq_start", "--no such *", "", "-x", str(CHECKOUT / "bin"), str(CHECKOUT)]
    result = run([CHECKOUT / "bin" / "daqOcmCtl", "a b"], env | {"DAQ_PYTHON": str(python)},
                 tmp_path)
    assert result.stdout.splitlines()[:5] == ["-P", "-m", "daq_ctl.eso", "daqOcmCtl", "a b"]

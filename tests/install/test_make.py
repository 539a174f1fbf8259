"""What ``make`` and its helpers say on a machine where something is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import CHECKOUT, SYSTEM_PATH


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make(folder: Path, *arguments: str) -> str:
    """Run a make that has to fail in a folder with nothing but the Makefile; return its line."""
    shutil.copy(CHECKOUT / "Makefile", folder)
    (folder / "lib" / "daqlib").mkdir(parents=True)
    for name in ("pyproject.toml", "hatch_build.py", "lib/daqlib/__init__.py",
                 "lib/daqlib/_native.c"):
        (folder / name).touch()
    done = subprocess.run(["make", "install-dev", *arguments], cwd=folder, text=True,
                          capture_output=True, env={"PATH": SYSTEM_PATH}, check=False)
    assert done.returncode == 2, done
    assert not (folder / ".venv").exists()
    said = [line for line in done.stderr.splitlines() if "***" not in line]
    assert len(said) == 1, done
    return said[0]


@pytest.mark.needs("make")
def test_no_python(tmp_path: Path) -> None:
    assert make(tmp_path, "PYTHON=") == (
        "make: Python 3.11 or later is missing: apt-get install python3 python3-venv")


@pytest.mark.needs("make")
def test_old_python(tmp_path: Path) -> None:
    old = script(tmp_path / "old" / "python3", "exit 1")
    assert make(tmp_path, f"PYTHON={old}") == (
        f"make: {old} is not there or older than 3.11: apt-get install python3 python3-venv")


@pytest.mark.needs("make")
def test_no_venv(tmp_path: Path) -> None:
    bare = script(tmp_path / "bare" / "python3.12", 'case $2 in *ensurepip*) exit 1 ;; esac')
    assert make(tmp_path, f"PYTHON={bare}") == (
        f"make: {bare} has no venv: apt-get install python3.12-venv")


@pytest.mark.needs("make")
def test_python_is_found_behind_broken_ones(tmp_path: Path) -> None:
    script(tmp_path / "bin" / "python3", "exit 127")
    script(tmp_path / "bin" / "python3.14", "exit 1")
    script(tmp_path / "bin" / "python3.13", f'exec "{sys.executable}" "$@"')
    done = subprocess.run(
        ["make", "-n", "-f", CHECKOUT / "Makefile", "install-dev"], cwd=tmp_path, text=True,
        capture_output=True, env={"PATH": f"{tmp_path}/bin:{SYSTEM_PATH}"}, check=False)
    assert "python3.13" in done.stdout + done.stderr, done


@pytest.mark.needs("make")
def test_help_tells_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=CHECKOUT, text=True, capture_output=True,
                          check=True)
    for target in ("demo", "test", "lint", "bench", "clean", "install-dev"):
        assert f"\n{target} " in f"\n{done.stdout}"


def setup_system(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``tests/setup-system`` where nobody finds any program of the tests."""
    text = (CHECKOUT / "tests" / "setup-system").read_text()
    # else programs of this machine would be found in the folders for administrators
    copy = script(folder / "setup-system", text.replace("PATH=$PATH:", "true PATH=$PATH:"))
    return subprocess.run(["/bin/sh", copy], text=True, capture_output=True, check=False,
                          env={"PATH": str(folder / "bin"), **env})


def test_setup_for_a_user_names_what_is_missing(tmp_path: Path) -> None:
    script(tmp_path / "bin" / "id", "echo 1000")
    script(tmp_path / "bin" / "apt-get", "exit 9")
    script(tmp_path / "bin" / "rsync", "exit 0")
    done = setup_system(tmp_path)
    assert done.returncode == 0, done
    assert done.stderr.count("\n") == 1
    assert "install as root: apt-get install --no-install-recommends openssh-client" in done.stderr
    assert " rsync" not in done.stderr
    assert setup_system(tmp_path, CI="true").returncode == 1


def test_setup_without_apt(tmp_path: Path) -> None:
    script(tmp_path / "bin" / "id", "echo 0")
    done = setup_system(tmp_path)
    assert done.returncode == 0, done
    assert done.stderr.count("\n") == 1
    assert "no apt-get here: rsync" in done.stderr


def test_setup_with_everything_there_says_nothing(tmp_path: Path) -> None:
    text = (CHECKOUT / "tests" / "setup-system").read_text()
    table = text.partition("<<LIST\n")[2].partition("\nLIST\n")[0]
    for line in table.splitlines():
        script(tmp_path / "bin" / line.split()[0], "exit 0")
    done = setup_system(tmp_path, CI="true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

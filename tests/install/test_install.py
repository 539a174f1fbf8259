"""``pip install .`` and ``pip install -e .`` into fresh environments give working commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rooms
from harness import CHECKOUT, SYSTEM_PATH, Daq, fresh

# one worker installs, once
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("install")]


def install(folder: Path, *arguments: str) -> Path:
    """Make a virtual environment, install the project and return the folder of its scripts."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    words = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.fixture(scope="module")
def regular(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("regular") / "venv", ".")


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # what it depends on is the same as above and takes a while
    return install(tmp_path_factory.mktemp("editable") / "venv", "--no-deps", "-e", ".")


@pytest.fixture(params=["regular", "editable"])
def scripts(request: pytest.FixtureRequest) -> Path:
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, Path)
    return chosen


def tools(scripts: Path, folder: Path) -> Daq:
    return fresh(folder, scripts, installed=True)


@pytest.mark.parametrize("tool", [*rooms.TOOLS, *rooms.PROGRAMS])
def test_commands_answer(scripts: Path, tmp_path: Path, tool: str) -> None:
    daq = tools(scripts, tmp_path)
    version = daq.run(tool, "--version").ok().line()
    assert version.startswith(f"{tool} ")
    assert daq.run(tool, "--help").ok().out.startswith(f"usage: {tool}")


def test_files_of_the_user_are_not_imported(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger was imported')\n")
    tools(scripts, tmp_path).run("daq-status", "--json", cwd=tmp_path).ok().no_output()


def test_regular_install_is_complete(regular: Path) -> None:
    code = ("import daqlib, os; here = os.path.dirname(daqlib.__file__); print(here);"
            "print(*sorted(os.listdir(os.path.join(here, 'schema'))))")
    done = subprocess.run([regular / "python", "-P", "-c", code], cwd="/", text=True, check=True,
                          capture_output=True)
    where, schemas = done.stdout.splitlines()
    assert str(CHECKOUT) not in where
    assert (Path(where) / "py.typed").exists()
    shipped = [path.name for path in (CHECKOUT / "lib" / "daqlib" / "schema").glob("*.json")]
    assert [name for name in schemas.split() if name.endswith(".json")] == sorted(shipped)
    share = regular.parent / "share"
    for tool in [*rooms.TOOLS, *rooms.PROGRAMS]:
        assert (share / "man" / "man1" / f"{tool}.1").is_file()
    assert _names(share / "daqspool" / "config") == _names(CHECKOUT / "config")


def test_the_configuration_of_an_installation_is_found(regular: Path, tmp_path: Path) -> None:
    daq = tools(regular, tmp_path)
    daq.env["CFGPATH"] = str(regular.parent / "share" / "daqspool")
    daq.run("daq-status", "--config", "config/daqOcmServer/config.yaml").ok()


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_regular_install_brings_what_it_needs(regular: Path) -> None:
    names = ["astropy.io.fits", "fitsio", "inotify_simple", "jsonschema", "sh", "yaml", "zmq"]
    done = subprocess.run([regular / "python", "-c", f"import {', '.join(names)}"], cwd="/",
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check = subprocess.run([regular / "python", "-m", "pip", "check"], capture_output=True,
                           text=True, check=False)
    assert check.returncode == 0, check.stdout


def commands(page: str) -> list[tuple[str, str]]:
    """Return the commands of a page, each with what it prints."""
    blocks = re.findall(r"^```console\n(.*?)^```$", (CHECKOUT / page).read_text(),
                        re.MULTILINE | re.DOTALL)
    found: list[tuple[str, str]] = []
    for step in (step for block in blocks for step in re.split(r"^\$ ", block, flags=re.M)[1:]):
        command = re.match(r"(?:.*<<'END'\n(?s:.*?)^END\n|(?:.*\\\n)*.*\n)", step, re.MULTILINE)
        assert command, step
        found.append((command[0], step[command.end():]))
    return found


def test_a_source_of_ones_own(regular: Path, tmp_path: Path) -> None:
    subprocess.run([regular / "python", "-m", "pip", "install", "--quiet", "pytest"], check=True)
    (tmp_path / "docs").symlink_to(CHECKOUT / "docs")
    env = {"PATH": f"{regular}:{SYSTEM_PATH}", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    steps = commands("docs/sources.md")
    assert len(steps) > 5
    for command, shown in steps:
        done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, capture_output=True, text=True,
                              check=False, timeout=600, stdin=subprocess.DEVNULL, env=env)
        said = f"$ {command}{done.stdout}{done.stderr}"
        assert done.returncode == 0, said
        assert all(line in done.stdout for line in shown.splitlines()), said

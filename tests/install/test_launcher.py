"""The tools run from a checkout that nobody installed, from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

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


def words(folder: Path, *command: object) -> list[str]:
    """Return what the launcher gives to Python, and the folders that it tells."""
    python = folder / "a python"
    if not python.exists():
        python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" \"$DAQ_BIN\" \"$DAQ_CHECKOUT\"\n")
        python.chmod(0o755)
    result = run([*command], {"PATH": SYSTEM_PATH, "DAQ_PYTHON": str(python)}, folder)
    assert result.returncode == 0, result
    return result.stdout.splitlines()


FOLDERS = [str(CHECKOUT / "bin"), str(CHECKOUT)]
BEGIN = ["-P", "-S", str(CHECKOUT / "lib" / "daqlib" / "boot.py")]


def test_chosen_python_gets_the_arguments_as_they_are(tmp_path: Path) -> None:
    assert words(tmp_path, START, "--no such *", "", "-x") == [
        *BEGIN, "daq_start.__main__", "main", "--no such *", "", "-x", *FOLDERS]
    assert words(tmp_path, CHECKOUT / "bin" / "daqOcmCtl", "a b") == [
        *BEGIN, "daq_ctl.eso", "daqOcmCtl", "a b", *FOLDERS]


def test_the_checkout_is_told_without_links_and_dots(tmp_path: Path) -> None:
    (tmp_path / "checkout").symlink_to(CHECKOUT)
    (tmp_path / "bin").symlink_to(CHECKOUT / "bin")
    (tmp_path / "daq-start").symlink_to(START)
    (tmp_path / "launch").symlink_to(CHECKOUT / "bin" / "launch")
    ways = [tmp_path / "checkout" / "bin" / "daq-start", tmp_path / "bin" / "daq-start",
            tmp_path / "daq-start", f"{CHECKOUT}/bin/../bin//daq-start", "./daq-start",
            "checkout/bin/daq-start", os.path.relpath(START, tmp_path.resolve())]
    for way in ways:
        assert words(tmp_path, way, "x") == [
            *BEGIN, "daq_start.__main__", "main", "x", *FOLDERS], way
    inside = ["sh", "-c", f"cd '{tmp_path}/checkout/bin' && exec sh daq-start x"]
    assert words(tmp_path, *inside)[-2:] == FOLDERS


def test_another_checkout_beside_the_link_is_not_taken(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "tools" / "daq-start").mkdir(parents=True)
    (other / "bin" / "launch").write_text("#!/bin/sh\nexit 3\n")
    (other / "bin" / "daq-start").symlink_to(START)
    assert words(tmp_path, other / "bin" / "daq-start")[-2:] == FOLDERS


def test_no_process_is_started_on_the_way(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "readlink").write_text(f"#!/bin/sh\necho called >> '{tmp_path}/calls'\n"
                                    "exec /bin/readlink \"$@\"\n")
    (tools / "readlink").chmod(0o755)
    environment = {"PATH": f"{tools}:{SYSTEM_PATH}", "DAQ_PYTHON": sys.executable}
    assert_helps(run([START, "--help"], environment, tmp_path))
    plain = not any(folder.is_symlink() for folder in START.parents)
    assert (tmp_path / "calls").exists() is not plain


# -- the packages that are installed ---------------------------------------------------------------


def python(code: str, env: dict[str, str], cwd: Path, *options: str) -> str:
    """Run a tool that a test wrote the way that the launcher does; return what it printed."""
    (cwd / "daq_probe.py").write_text(f"def main():\n{indent(code, '    ')}\n    return 0\n")
    boot = CHECKOUT / "lib" / "daqlib" / "boot.py"
    result = run([sys.executable, "-P", *options, boot, "daq_probe", "main", "a", "b"],
                 {"PYTHONPATH": f"{CHECKOUT}/lib:{cwd}", **env}, cwd)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def test_installed_packages_are_found_when_wanted(tmp_path: Path) -> None:
    code = ("import sys\nbefore = 'site' in sys.modules\nimport yaml\n"
            "print(before, 'site' in sys.modules, sys.prefix, sys.path, sys.argv[1:])")
    for options in (["-S"], []):
        told = python(code, {}, tmp_path, *options)
        assert told.split()[:2] == [str(not options), "True"]
    plainly = python(code, {}, tmp_path).split(maxsplit=1)[1]
    assert python(code, {}, tmp_path, "-S").split(maxsplit=1)[1] == plainly


def test_paths_of_the_user_come_before_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "yaml.py").write_text("ours = True\n")
    path = f"{CHECKOUT}/lib:{tmp_path}:{tmp_path}/more"
    code = "import yaml\nimport jsonschema\nprint(yaml.ours)"
    assert python(code, {"PYTHONPATH": path}, tmp_path, "-S") == "True\n"


def test_a_module_that_nobody_has(tmp_path: Path) -> None:
    code = ("for name in ('no_such_module', 'other_module', 'yaml.no_such_part'):\n"
            "    try:\n        __import__(name)\n"
            "    except ModuleNotFoundError as error:\n        print(error.name)")
    assert python(code, {}, tmp_path, "-S").split() == [
        "no_such_module", "other_module", "yaml.no_such_part"]


def test_the_first_word_names_the_tool(tmp_path: Path) -> None:
    code = "import sys\nprint(sys.argv)"
    assert python(code, {}, tmp_path, "-S") == f"['{tmp_path}/daq_probe.py', 'a', 'b']\n"


@pytest.mark.parametrize("code", [
    "import atexit\natexit.register(print, 'last')\nprint('first')",
    "import threading, time\nprint('first')\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), print('last'))).start()",
    "import sys\nprint('first')\nsys.stdout.write('last\\n')",
    "import sys\nprint('first\\nlast')\nsys.exit()"])
def test_what_is_to_be_done_at_the_end_is_done(code: str, tmp_path: Path) -> None:
    assert python(code, {}, tmp_path, "-S") == "first\nlast\n"


def test_the_exit_code_is_that_of_the_tool(tmp_path: Path) -> None:
    (tmp_path / "daq_probe.py").write_text("def main():\n    return 75\n")
    boot = CHECKOUT / "lib" / "daqlib" / "boot.py"
    for more in ([], ["-X", "dev"]):
        made = run([sys.executable, *more, "-P", "-S", boot, "daq_probe", "main"],
                   {"PYTHONPATH": str(tmp_path)}, tmp_path)
        assert (made.returncode, made.stdout, made.stderr) == (75, "", "")

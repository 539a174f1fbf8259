"""The commands that a page of the documentation shows, and what they really print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from harness import CHECKOUT, SYSTEM_PATH


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a page in a language."""
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", page.read_text(), re.M | re.S)


def steps(page: Path) -> list[tuple[str, str]]:
    """Return the commands of the page, each with its here-document, and what is shown for it."""
    found: list[list[str]] = []
    inside = False
    for line in "".join(blocks(page, "console")).splitlines(keepends=True):
        if inside or line.startswith("$ "):
            found += [] if inside else [["", ""]]
            found[-1][0] += line if inside else line[2:]
            inside = line != "END\n" if inside else bool(re.search("<<'?END'?$", line))
        else:
            found[-1][1] += line
    return [(command, shown) for command, shown in found]


def assert_prints_what_is_shown(page: Path, folder: Path) -> int:
    """Run all commands of a page in one shell; return how many they are."""
    for name in ("bin", "config", "lib", "tools"):
        (folder / name).symlink_to(CHECKOUT / name)
    found = steps(page)
    script = "".join(f"{command}_code=$?; echo \"@@ $_code\"; (exit $_code)\n"
                     for command, _ in found)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120,
        env={"PATH": SYSTEM_PATH, "HOME": str(folder), "LC_ALL": "C.UTF-8",
             "DAQ_PYTHON": sys.executable, "DAQ_SPOOL": os.fspath(folder / "spool")}, check=False)
    outputs = re.findall(r"(.*?)@@ (\d+)\n", done.stdout, re.S)
    assert len(outputs) == len(found), done
    for (command, shown), (printed, _) in zip(found, outputs, strict=True):
        assert printed == shown, f"$ {command}\n{printed}\n{done.stderr}"
    return len(found)

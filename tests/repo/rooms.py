"""What the repository checks read: the tools, the packaging and the imports of every module."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import tomllib
from argparse import SUPPRESS, Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness import CHECKOUT

TOOLS = sorted(path.name for path in (CHECKOUT / "tools").iterdir() if path.is_dir())
#: ESO's programs, each with the tool whose front it is.
PROGRAMS = {"daqOcmServer": "daq-ctl", "daqOcmCtl": "daq-ctl", "daqDpmServer": "daq-watch",
            "daqDpmMerge": "daq-merge", "daqSimRecif": "daq-sim", "daqSimMetadaqif": "daq-sim"}
#: Imported only where they are needed: each costs more than a bare interpreter.
HEAVY = {"astropy", "asyncio", "fitsio", "inotify_simple", "jsonschema", "numpy", "sh", "yaml",
         "zmq"}


def package(tool: str) -> str:
    """Return the name of a tool's package."""
    return tool.replace("-", "_")


@cache
def pyproject() -> dict[str, Any]:
    """Return the packaging metadata."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


@cache
def modules() -> dict[str, Path]:
    """Return every module of ``lib/`` and ``tools/`` with its file, ``__init__`` written out."""
    found: dict[str, Path] = {}
    for root in (CHECKOUT / "lib", *(CHECKOUT / "tools" / tool for tool in TOOLS)):
        for path in sorted(root.rglob("*.py")):
            found[".".join(path.relative_to(root).with_suffix("").parts)] = path
    return found


@dataclass(frozen=True)
class Import:
    """An import statement: the full name, and whether it runs when the module is loaded."""

    name: str
    eager: bool


@cache
def imports(module: str) -> list[Import]:
    """Return what a module imports, leaving out what only the type checker sees."""
    tree = ast.parse(modules()[module].read_text())
    return [Import(name, eager) for node, eager in _statements(tree, True)
            for name in _names(node, module)]


def _statements(node: ast.AST, eager: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, eager
        yield from _statements(child, eager and not inside)


def _names(node: ast.AST, module: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    base = node.module or ""
    if node.level:
        base = ".".join([*module.split(".")[: -node.level], *filter(None, [base])])
    # "from package import module" and "from module import name" look alike
    return [f"{base}.{alias.name}" for alias in node.names]


def own(name: str) -> str:
    """Return the module of ours that an imported name belongs to, or an empty text."""
    known = modules()
    for candidate in (name, name.rpartition(".")[0], f"{name}.__init__",
                      f"{name.rpartition('.')[0]}.__init__"):
        if candidate in known:
            return candidate
    return ""


def reached(module: str, *, eager: bool) -> dict[str, str]:
    """Return the modules of ours reached from one, each with the module that imports it.

    Args:
        module: where to begin.
        eager: follow only the imports that run when a module is loaded.
    """
    found: dict[str, str] = {}
    todo = [module]
    while todo:
        here = todo.pop()
        for item in imports(here):
            there = own(item.name)
            if there and there not in found and (item.eager or not eager):
                found[there] = here
                todo.append(there)
    return found


def parser(name: str) -> ArgumentParser:
    """Return the argument parser of a tool or of one of ESO's programs."""
    if name in PROGRAMS:
        fronts = importlib.import_module(f"{package(PROGRAMS[name])}.eso").PROGRAMS
        made = fronts[name][0]()
    else:
        made = importlib.import_module(f"{package(name)}.__main__").build_parser()
    assert isinstance(made, ArgumentParser)
    return made


def options(made: ArgumentParser) -> set[str]:
    """Return the options of a parser and its subcommands; those without help text are secret."""
    found: set[str] = set()
    for action in made._actions:
        if isinstance(action, _SubParsersAction):
            for inner in action.choices.values():
                found |= options(inner)
        elif action.help != SUPPRESS:
            found.update(action.option_strings)
    return found


def arguments(made: ArgumentParser) -> list[Action]:
    """Return all actions of a parser and its subcommands."""
    found: list[Action] = []
    for action in made._actions:
        found.append(action)
        if isinstance(action, _SubParsersAction):
            for inner in action.choices.values():
                found += arguments(inner)
    return found


def page(name: str) -> str:
    """Return where the manual page of a tool or program lies."""
    return f"tools/{PROGRAMS.get(name, name)}/{name}.1"


def manual(name: str) -> dict[str, list[str]]:
    """Return the sections of the manual page of a tool or program, with plain hyphens."""
    path = CHECKOUT / page(name)
    sections: dict[str, list[str]] = {"": []}
    lines = sections[""]
    for line in path.read_text().replace(r"\-", "-").splitlines():
        if head := re.fullmatch(r'\.SH "?([A-Z ]+?)"?\s*', line):
            lines = sections[head[1]] = []
        else:
            lines.append(line)
    return sections


def files() -> list[Path]:
    """Return the files of the repository: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode:  # an unpacked source distribution
        skipped = {".git", ".venv", "build", "dist", "__pycache__"}
        found = [path for path in CHECKOUT.rglob("*")
                 if not skipped & set(path.relative_to(CHECKOUT).parts)]
    else:
        found = [CHECKOUT / name for name in listed.stdout.split("\0") if name]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def text(path: Path) -> str:
    """Return a file's text, or nothing when it is no text."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""

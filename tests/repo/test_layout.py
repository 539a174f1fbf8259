"""The rooms, the links, the packaging, the manuals and the tests of the tools agree."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re

import pytest

import rooms
from daqlib import spool
from harness import CHECKOUT, FOLDERS, MARKER
from rooms import HEAVY, PROGRAMS, TOOLS, package

SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES"]
NAMES = [*TOOLS, *PROGRAMS]
each_tool = pytest.mark.parametrize("tool", TOOLS)
each_name = pytest.mark.parametrize("name", NAMES)


def test_there_are_the_eight_tools() -> None:
    assert {"daq-collect", "daq-ctl", "daq-merge", "daq-release", "daq-sim", "daq-start",
            "daq-status", "daq-watch"} <= set(TOOLS)


def test_links_in_bin() -> None:
    links = {path.name: os.readlink(path) for path in (CHECKOUT / "bin").iterdir()
             if path.is_symlink()}
    assert set(links.values()) == {"launch"}
    assert sorted(links) == sorted(NAMES)
    assert os.access(CHECKOUT / "bin" / "launch", os.X_OK)


def test_console_scripts() -> None:
    wanted = {tool: f"{package(tool)}.__main__:main" for tool in TOOLS}
    fronts = {name: f"{package(tool)}.eso:{name}" for name, tool in PROGRAMS.items()}
    assert rooms.pyproject()["project"]["scripts"] == wanted | fronts


@pytest.mark.parametrize("tool", sorted(set(PROGRAMS.values())))
def test_fronts_of_a_room(tool: str) -> None:
    fronts = importlib.import_module(f"{package(tool)}.eso")
    assert set(fronts.PROGRAMS) == {name for name in PROGRAMS if PROGRAMS[name] == tool}
    for name, (_, program) in fronts.PROGRAMS.items():
        assert program is getattr(fronts, name)


def test_wheel_packages() -> None:
    wheel = rooms.pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = ["lib/daqlib", *(f"tools/{tool}/{package(tool)}" for tool in TOOLS)]
    assert sorted(wheel["packages"]) == sorted(wanted)


def test_manuals_in_wheel() -> None:
    wheel = rooms.pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    pages = {path: there for path, there in wheel["shared-data"].items() if path.endswith(".1")}
    assert pages == {rooms.page(name): f"share/man/man1/{name}.1" for name in NAMES}


def test_development_folders_and_typed_packages() -> None:
    roots = sorted(["lib", *(f"tools/{tool}" for tool in TOOLS)])
    tool = rooms.pyproject()["tool"]
    assert sorted(tool["hatch"]["build"]["dev-mode-dirs"]) == roots
    assert sorted(tool["mypy"]["mypy_path"]) == roots
    assert sorted(tool["mypy"]["packages"]) == sorted(["daqlib", *map(package, TOOLS)])


@each_tool
def test_room(tool: str) -> None:
    room = CHECKOUT / "tools" / tool
    wanted = [room / f"{tool}.1", room / package(tool) / "__init__.py",
              room / package(tool) / "__main__.py",
              CHECKOUT / "tests" / "by-tool" / f"test_{package(tool)}.py"]
    assert [str(path) for path in wanted if not path.is_file()] == []
    opening = ast.parse(wanted[1].read_text())
    assert len(opening.body) == 1 and ast.get_docstring(opening), "__init__: a docstring, no more"


@each_name
def test_manual_sections(name: str) -> None:
    page = rooms.manual(name)
    assert [section for section in SECTIONS if not "".join(page.get(section, []))] == []
    assert re.search(rf"{name}\b.* -+ \w", " ".join(page["NAME"])), "NAME: tool - what it does"
    assert page[""][0].startswith(f".TH {name.upper()} 1 ")


@each_name
def test_manual_options(name: str) -> None:
    page = rooms.manual(name)
    tagged: set[str] = set()
    for section, lines in page.items():
        if section not in ("SYNOPSIS", "EXAMPLES", "SEE ALSO"):
            for line in lines:
                tagged |= _tagged(line)
    options = rooms.options(rooms.parser(name))
    assert sorted(options - tagged) == [], f"not in {name}.1"
    assert sorted(tagged - options - {"--"}) == [], f"in {name}.1, but not in the parser"


def _tagged(line: str) -> set[str]:
    """Return the options that a line of a manual page introduces: those that it begins with."""
    body = re.sub(r"\\f.|[\"']", "", line)
    head = re.match(r"(?:\.(?:B|BR|BI|IP|OP|RB)\s+)?((?:-{1,2}[\w-]+(?:[ =]*\[?=?[A-Z]+\]?)?"
                    r"(?:\s*,\s*|\s+|$|(?=[\[=])))+)", body)
    if not head or not (line.startswith(".") or r"\f" in line):
        return set()
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", head[1]))


@each_name
def test_every_option_has_help(name: str) -> None:
    silent = [action.dest for action in rooms.arguments(rooms.parser(name)) if not action.help
              and action.option_strings]
    assert silent == []


@each_name
def test_help_shows_examples(name: str) -> None:
    made = rooms.parser(name)
    assert made.prog == name
    assert "examples:" in made.format_help()


def test_no_tool_imports_another() -> None:
    strangers = [
        (module, item.name) for module in rooms.modules() for item in rooms.imports(module)
        if item.name.partition(".")[0] in set(map(package, TOOLS)) - {module.partition(".")[0]}]
    assert strangers == []


def test_library_has_no_circles() -> None:
    circles = [module for module in rooms.modules() if module in rooms.reached(module, eager=False)]
    assert circles == []


def test_arrows_point_down() -> None:
    def reach(name: str) -> set[str]:
        return {module.removeprefix("daqlib.")
                for module in rooms.reached(f"daqlib.{name}", eager=False)} - {"__init__"}

    assert reach("errors") | reach("crashpoints") == set()
    assert reach("fsops") <= {"errors", "clock", "crashpoints"}
    assert not reach("history") & {"spool", "job", "stage"}
    assert not reach("spool") & {"job", "stage", "status"}


def test_nothing_heavy_at_the_top_of_a_module() -> None:
    wrong = []
    for module in rooms.modules():
        heavy = {item.name.partition(".")[0] for item in rooms.imports(module) if item.eager}
        wrong += [f"{module}: {name}" for name in sorted(heavy & HEAVY - _allowed(module))]
    assert wrong == []


#: Modules that only a program with an event loop loads.
EVENT_LOOP = {"daq_watch.dpm", "daq_watch.serving", *(
    f"daqlib.{name}" for name in ("daemon", "feed", "rpcserver", "rpcbound", "rpclink", "rpcloop"))}


def _allowed(module: str) -> set[str]:
    """Return the heavy packages for which a module exists: those of the daemons' inner parts."""
    room, _, name = module.partition(".")
    daemon = room in ("daq_ctl", "daq_sim") and name != "__main__"
    return {"asyncio", "zmq"} if daemon or module in EVENT_LOOP else set()


@each_name
def test_parsing_arguments_loads_nothing_heavy(name: str) -> None:
    main = (f"{package(PROGRAMS[name])}.eso" if name in PROGRAMS
            else f"{package(name)}.__main__")
    heavy = [f"{module} imports {item.name}"
             for module in (main, *rooms.reached(main, eager=True))
             for item in rooms.imports(module)
             if item.eager and item.name.partition(".")[0] in HEAVY]
    assert heavy == []


def test_files_stay_short() -> None:
    code = [path for path in rooms.files() if path.suffix == ".py" or path.parent.name == "bin"]
    lengths = {str(path): rooms.text(path).count("\n") for path in code}
    assert {path: lines for path, lines in lengths.items() if lines >= 600} == {}


# put together here so that this file does not hold what it looks for
UNWANTED = re.compile("|".join([
    r"(?<![\w.-])/(?:wor" + "k|roo" + "t)/",
    r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b",
    "NotImplemented" + "Error",
]))


def test_no_paths_of_one_machine_and_no_open_ends() -> None:
    found = [f"{path}:{number}: {line.strip()[:80]}" for path in rooms.files()
             for number, line in enumerate(rooms.text(path).splitlines(), 1)
             if UNWANTED.search(line)]
    assert found == []


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "manager.py", "misc.py"}
    assert [str(path) for path in rooms.files() if path.name in vague] == []


def test_spool_skeleton() -> None:
    skeleton = CHECKOUT / "spool"
    folders = {path.name for path in skeleton.iterdir() if path.is_dir()}
    assert folders == set(FOLDERS) == {*spool.STAGES, *spool.RESTS, *spool.STORES}
    assert all((skeleton / name / ".gitkeep").exists() for name in folders)
    assert (skeleton / MARKER).read_bytes() == spool.MARKER_TEXT
    assert MARKER == spool.MARKER


def test_schemas_are_json() -> None:
    schemas = sorted((CHECKOUT / "lib" / "daqlib" / "schema").glob("*.json"))
    assert schemas
    for path in schemas:
        assert "$schema" in json.loads(path.read_text()), path

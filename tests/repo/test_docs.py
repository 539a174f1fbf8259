"""The documentation is true: its tables are current, its examples valid, its commands run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

import rooms
from daq_ctl import client
from daqlib import config, schema
from harness import CHECKOUT, SYSTEM_PATH, free_port

PAGES = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])
SAMPLE = CHECKOUT / "config" / "daqspool.yaml"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))


def _generator() -> ModuleType:
    loader = SourceFileLoader("generate", str(CHECKOUT / "docs" / "generate"))
    spec = importlib.util.spec_from_loader("generate", loader)
    assert spec
    made = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(made)
    finally:
        sys.dont_write_bytecode = before
    return made


def _blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Return the rest of the opening line and the text of the page's blocks of a language."""
    found = re.findall(rf"^```{language}([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [(head.strip(), text) for head, text in found]


@each_page
def test_generated_parts_are_current(page: Path) -> None:
    assert _generator().current(page.read_text()) == page.read_text(), "run docs/generate"


def test_every_generated_part_is_shown() -> None:
    shown = set(re.findall(r"<!-- generated: ([a-z]+) -->", "".join(p.read_text() for p in PAGES)))
    assert shown == set(_generator().PARTS)


@each_page
def test_links_resolve(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    broken = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose)
              if "://" not in link and not _resolves(page, link)]
    assert broken == []


def _resolves(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists():
        return False
    return not anchor or anchor in _anchors(target.read_text())


def _anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:lib|tools|tests|docs|config|demo|bin|bench)/[\w./-]+)`",
                       page.read_text())
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


@each_page
def test_json_examples_are_valid(page: Path) -> None:
    for head, text in _blocks(page, "json"):
        document = json.loads(text)
        name = re.fullmatch(r"schema=([\w-]+)", head)
        assert name, f"say which schema: ```json schema=NAME, at {text[:60]!r}"
        if name[1] != "none":
            schema.check(name[1], document, f"example in {page.name}")


def test_every_document_has_an_example() -> None:
    heads = {head for head, _ in _blocks(CHECKOUT / "docs" / "formats.md", "json")}
    assert {f"schema={name}" for name in schema.NAMES} <= heads


def test_manual_of_daq_ctl_has_every_verb() -> None:
    commands = "\n".join(rooms.manual("daq-ctl")["COMMANDS"])
    told = re.findall(r"^\.TP\n\.BI? (\w+(?:\.\w+)?)", commands, re.M)
    assert sorted(told) == sorted(["serve", *client.VERBS])


def test_sample_configuration(capsys: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAROOT", raising=False)
    assert config.load(str(SAMPLE)).values == config.DEFAULTS
    assert capsys.readouterr().err == ""


def test_sample_configuration_has_every_key_with_a_comment() -> None:
    lines = SAMPLE.read_text().splitlines()
    groups = {key.partition(".")[0] for key in config.DEFAULTS if "." in key}
    found, group = [], ""
    for before, line in zip(lines, lines[1:], strict=False):
        match = re.match(r"( {2}| {4})(\w+):", line)
        if not match:
            continue
        if len(match[1]) == 2 and match[2] in groups:
            group = match[2]
            continue
        found.append(match[2] if len(match[1]) == 2 else f"{group}.{match[2]}")
        assert before.strip().startswith("# "), f"a comment above {line!r}"
    assert sorted(found) == sorted(config.DEFAULTS)


# -- the commands of the pages -----------------------------------------------------------------


@dataclass
class Step:
    """A command of a page and the output that is shown for it."""

    command: str
    shown: list[str] = field(default_factory=list)


def _goes_on(command: str) -> bool:
    document = bool(re.search(r"<<'?END", command)) and not command.endswith("\nEND")
    return command.endswith("\\") or document


def _steps(page: Path) -> list[Step]:
    steps: list[Step] = []
    for _, text in _blocks(page, "console"):
        if "$ indiserver" in text and not shutil.which("indiserver"):
            continue  # CI has it
        for line in text.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:]))
            elif steps and _goes_on(steps[-1].command) and not steps[-1].shown:
                steps[-1].command += "\n" + line
            else:
                steps[-1].shown.append(line)
    return steps


def _plain(line: str) -> str:
    """Return a line without what differs from run to run."""
    for pattern, word in ((r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME"),
                          (r"\b[0-9a-f]{64}\b", "DIGEST"), (r"\S*/spool\b", "SPOOL"),
                          (r"(process|PID) \d+", "process N"), (r"\b\d+ ?s\b", "N s"),
                          (r":\d{5}\b", ":PORT"), (r"\S+@\S+$", "USER"), (r"\s+", " ")):
        line = re.sub(pattern, word, line)
    return line.strip()


def _speaker(line: str) -> str:
    """Return the program whose message a line is: what two say at a time comes in any order."""
    found = re.match(r"(daq-\w+): ", line)
    return found[1] if found else ""


def _script(steps: list[Step], ports: dict[str, str]) -> str:
    lines = ["_end() { _code=$?; printf '\\n@@ %d %d\\n' \"$1\" $_code; return $_code; }"]
    for number, step in enumerate(steps):
        command = step.command
        for port, other in ports.items():
            command = re.sub(rf"(:|-p ){port}\b", rf"\g<1>{other}", command)
        lines.append(f"{command}\n_end {number}")
    return "\n".join(lines) + "\n"


def _alone(page: Path) -> list[str]:
    """Return what begins the command of a page whose server would listen on every network."""
    if "$ indiserver" not in page.read_text() or os.geteuid() or subprocess.run(
            ["unshare", "-n", "true"], stderr=subprocess.DEVNULL).returncode:
        return []
    return ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']


def _run(page: Path, folder: Path) -> tuple[list[Step], dict[int, tuple[int, list[str]]]]:
    """Run a page's commands in one shell, as a reader in a checkout would."""
    steps = _steps(page)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "bin").symlink_to(CHECKOUT / "bin")
    ports = {port: str(free_port()) for port in ("12081", "12082", "12090", "12091", "17624")}
    settings = folder / "ports.yaml"
    settings.write_text(f"cfg:\n  req_endpoint: zpb.rr://127.0.0.1:{ports['12081']}/\n"
                        f"  pub_endpoint: zpb.ps://127.0.0.1:{ports['12082']}/\n")
    (folder / "tmp").mkdir()
    words = folder / "words"
    with open(words, "xb") as out:
        shell = subprocess.Popen(
            [*_alone(page), "bash", "-c", _script(steps, ports)], cwd=folder,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env={"PATH": SYSTEM_PATH, "HOME": str(folder), "TMPDIR": str(folder / "tmp"),
                 "LC_ALL": "C.UTF-8", "TZ": "UTC", "DAQ_PYTHON": sys.executable,
                 "DAQ_CONFIG": str(settings)})
        try:
            shell.wait(90)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    told: dict[int, tuple[int, list[str]]] = {}
    for text, number, code in re.findall(r"(.*?)\n@@ (\d+) (\d+)\n", words.read_text(), re.S):
        told[int(number)] = (int(code), text.splitlines())
    return steps, told


@pytest.mark.parametrize("name", [
    "README.md", "docs/tutorial.md", "docs/merging.md", "docs/operators-guide.md",
    "docs/receivers.md", "docs/watching.md",
    pytest.param("docs/indi.md", marks=pytest.mark.needs("indiserver"))])
def test_commands_run_and_print_what_is_shown(name: str, tmp_path: Path) -> None:
    steps, told = _run(CHECKOUT / name, tmp_path)
    assert len(steps) > 5
    for number, step in enumerate(steps):
        assert number in told, f"never ended: {step.command}"
        code, lines = told[number]
        asked = number + 1 < len(steps) and steps[number + 1].command == "echo $?"
        said = f"$ {step.command}\n" + "\n".join(lines)
        assert code == 0 or asked, f"exit code {code}\n{said}"
        rest = {who: iter([_plain(line) for line in lines if _speaker(line) == who])
                for who in map(_speaker, step.shown)}
        for line in step.shown:
            assert line == "..." or _plain(line) in rest[_speaker(line)], (
                f"does not show {line!r}\n{said}")

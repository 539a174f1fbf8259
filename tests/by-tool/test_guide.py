"""The acquisition guide is true: its console sessions run as they stand, in real terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import CHECKOUT, SYSTEM_PATH, free_port, wait_until

GUIDE = CHECKOUT / "docs" / "guide.md"
#: What a program says when it can be used: a reader would wait for it as well.
READY = {"daqOcmServer ": "serving at", "daqDpmServer ": "watching", "daqSimRecif ": "ready at",
         "daqSimMetadaqif ": "ready at", "daqOcmCtl --status": "no command provided"}
KEYS = {"<Enter>": b"\n", "<Ctrl-C>": b"\x03"}
HERE = "first terminal"
LONG_S = 60.0


@dataclass
class Step:
    """A command, or a key, and the output that is shown for it."""

    terminal: str
    command: str
    shown: list[str] = field(default_factory=list)


def sections() -> list[list[list[Step]]]:
    """Return the steps of each section, once for each of the ways to do it that it shows."""
    found = []
    for section in re.split(r"^## ", GUIDE.read_text(), flags=re.M)[1:]:
        ways: list[list[Step]] = [[]]
        block: list[Step] = []
        for head, text in re.findall(r"^```console([^\n]*)\n(.*?)^```$", section, re.M | re.S):
            if head.strip() == "instead":
                ways.append([*ways[0][: len(ways[0]) - len(block)], *_steps(HERE, text)])
                continue
            block = _steps(head.strip() or HERE, text)
            for way in ways:
                way += block
        found.append(ways)
    return found


def _steps(terminal: str, text: str) -> list[Step]:
    steps: list[Step] = []
    inside = False  # of a here-document
    for line in text.splitlines():
        if line in KEYS:
            steps.append(Step(terminal, line))
        elif line.startswith("$ "):
            steps.append(Step(terminal, line[2:]))
            inside = line.endswith("<<EOF")
        elif inside:
            steps[-1].command += "\n" + line
            inside = line != "EOF"
        else:
            steps[-1].shown.append(line)
    return steps


class Terminal:
    """An interactive shell with a terminal of its own; what it prints goes to files."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        folder.mkdir()
        self.out_file, self.err_file = folder / "out", folder / "err"
        self.master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO  # nobody reads it
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        with open(self.out_file, "xb") as out, open(self.err_file, "xb") as err:
            self.shell = subprocess.Popen(
                ["setsid", "--ctty", "--wait", "bash", "--noprofile", "--norc", "--noediting",
                 "-i"], stdin=slave, stdout=out, stderr=err, env=env, cwd=folder)
        os.close(slave)
        self.number = 0
        self.begin = 0

    def type(self, keys: bytes) -> None:
        """Type some keys."""
        os.write(self.master, keys)

    def enter(self, command: str) -> None:
        """Type a command line and, for when it has ended, another that says so."""
        self.number += 1
        self.begin = len(self.out)
        self.type(f"{command}\nprintf '\\n@@ {self.number} %d\\n' $?\n".encode())

    @property
    def out(self) -> str:
        """What was printed on standard output."""
        return self.out_file.read_text(errors="replace")

    @property
    def err(self) -> str:
        """What was said on standard error."""
        return self.err_file.read_text(errors="replace")

    def ended(self) -> tuple[str, int]:
        """Wait for the end of the last command; return its output and exit code."""
        end = re.compile(rf"(.*)\n@@ {self.number} (\d+)\n", re.S)
        match = wait_until(lambda: end.match(self.out[self.begin:]), LONG_S,
                           lambda: f"never ended\n{self.out[-2000:]}\n{self.err[-2000:]}")
        assert match
        return match[1], int(match[2])

    def close(self) -> None:
        """End everything that was started here."""
        shells = {self.shell.pid, *(pid for pid in _processes()
                                    if _stat(pid)[1] == str(self.shell.pid))}
        members = [pid for pid in _processes() if int(_stat(pid)[3]) in shells]
        for pid in {*members, *shells}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.shell.wait()
        os.close(self.master)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on: state, parent, group, session."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return ["gone", "0", "0", "0"]


class Reader:
    """Somebody who does what the guide says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: dict[str, str] = {}
        self.exports: list[str] = []
        self.terminals: dict[str, Terminal] = {}
        self.waiting: dict[str, Step] = {}
        self.watched: list[tuple[Terminal, Step]] = []
        self.awaited = 0
        self.ports = {port: str(free_port()) for port in ("12081", "12082", "12090", "12091")}
        settings = folder / "cfg" / "config" / "daqOcmServer" / "config.yaml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f"cfg:\n  req_endpoint: zpb.rr://127.0.0.1:{self.ports['12081']}/\n"
                            f"  pub_endpoint: zpb.ps://127.0.0.1:{self.ports['12082']}/\n")
        self.env = {"PATH": SYSTEM_PATH, "HOME": str(folder), "TMPDIR": str(folder), "TZ": "UTC",
                    "LC_ALL": "C.UTF-8", "DAQ_PYTHON": sys.executable, "PS1": "", "PS2": "",
                    "HISTFILE": "/dev/null", "TERM": "dumb"}

    def terminal(self, name: str) -> Terminal:
        """Return a terminal; each has the same environment."""
        if name not in self.terminals:
            self.terminals[name] = Terminal(self.folder / name.replace(" ", "-"), self.env)
            for line in self.exports:
                self.terminals[name].enter(line)
                self.terminals[name].ended()
        return self.terminals[name]

    def close(self) -> None:
        """End everything."""
        for terminal in self.terminals.values():
            terminal.close()

    def does(self, step: Step) -> None:
        """Do one step, after what was done before in this terminal."""
        terminal = self.terminal(step.terminal)
        if step.command in KEYS:
            terminal.type(KEYS[step.command])
            return
        self.settle(step.terminal)
        said = len(terminal.err)
        terminal.enter(self.real(step))
        ready = next((text for start, text in READY.items() if step.command.startswith(start)), "")
        if ready:
            wait_until(lambda: ready in terminal.err[said:], LONG_S, lambda: terminal.err)
            printed = [self.ported(line) for line in step.shown if line.startswith("zpb")]
            wait_until(lambda: all(line in terminal.out.splitlines() for line in printed), LONG_S,
                       lambda: f"no {printed}\n{terminal.out}")
        if step.command == "daqOcmCtl --status":
            self.wait_until_heard(terminal)
            self.watched.append((terminal, step))
        elif "awaitstate" in step.command:
            self.waiting[step.terminal] = step  # something in another terminal will end it
            wait_until(lambda: "Note: " in terminal.err[said:], LONG_S)
            self.wait_until_awaited()  # a person takes longer to press Enter over there
        elif not ready:
            self.compare(terminal, step)

    def settle(self, name: str) -> None:
        """Wait for what still runs in a terminal."""
        step = self.waiting.pop(name, None)
        if step:
            self.compare(self.terminal(name), step)

    def wait_until_heard(self, terminal: Terminal) -> None:
        """Wait until a subscription has arrived: it shows a change of state."""
        from daqlib import rpc

        def heard() -> bool:
            for command in ("Disable", "Enable"):
                rpc.call(f"zpb.rr://127.0.0.1:{self.ports['12081']}/std", command)
            return "status: Operational" in terminal.err
        wait_until(heard, LONG_S)

    def wait_until_awaited(self) -> None:
        """Wait until the server knows that somebody waits."""
        wait_until(lambda: any(
            len(re.findall(r": \d+ wait, one more", terminal.err)) > self.awaited
            for terminal in self.terminals.values()), LONG_S)
        self.awaited += 1

    def real(self, step: Step) -> str:
        """Return a command as it is given here: with our ids; exports with our places."""
        command = step.command
        for shown, told in self.ids.items():
            command = command.replace(shown, told)
        if not command.startswith("export "):
            return command
        name, _, value = command.removeprefix("export ").partition("=")
        value = {"PATH": f"{CHECKOUT}/bin:$PATH", "CFGPATH": f"{self.folder}/cfg",
                 "DATAROOT": f"{self.folder}/dataroot"}.get(name, value)
        self.exports.append(f"export {name}={self.ported(value)}")
        return self.exports[-1]

    def ported(self, text: str) -> str:
        """Return a text with our ports."""
        for port, other in self.ports.items():
            text = text.replace(f":{port}", f":{other}")
        return text

    def compare(self, terminal: Terminal, step: Step) -> None:
        """Compare what a command printed with what is shown for it."""
        out, code = terminal.ended()
        words, shown = _split(step.shown)
        explain = f"$ {step.command}\n{out}\n{terminal.err[-2000:]}"
        assert code == 0, explain
        for word in words:
            assert word in terminal.err.splitlines(), explain
        if shown is None:
            assert out.strip() == "", explain
            return
        deadline = time.monotonic() + LONG_S
        # "soon over": who asks too early asks again
        while (isinstance(shown, dict) and "substate" in shown and time.monotonic() < deadline
               and json.loads(out)["substate"] != shown["substate"]):
            terminal.enter(self.real(step))
            out, code = terminal.ended()
        same(shown, json.loads(out), self.ids)
        assert out.strip("\n") == json.dumps(json.loads(out), indent=4), explain


def _split(lines: list[str]) -> tuple[list[str], Any]:
    """Return the words and the JSON document of an output."""
    first = next((n for n, line in enumerate(lines) if line[:1] in ("{", "[", '"')), len(lines))
    text = "\n".join(lines[first:])
    if not text:
        return lines, None
    document = json.loads(text)
    assert text == json.dumps(document, indent=4), "shown in another layout than it is printed"
    return lines[:first], document


def same(shown: Any, told: Any, ids: dict[str, str], key: str = "") -> None:
    """Assert that a document is like the one of the guide.

    Keys and their order, types, and values are the same but for ids, times and paths; an id of
    the guide stands for the same id of this run everywhere.
    """
    assert type(told) is type(shown), f"{key}: {told!r} is not like {shown!r}"
    if isinstance(shown, dict):
        assert list(told) == list(shown), f"{key}: other keys"
        for name in shown:
            same(shown[name], told[name], ids, name)
    elif isinstance(shown, list):
        assert len(told) == len(shown), f"{key}: {told!r} is not like {shown!r}"
        for one, other in zip(shown, told, strict=True):
            same(one, other, ids, key)
    else:
        _same_value(shown, told, ids, key)


def _same_value(shown: Any, told: Any, ids: dict[str, str], key: str) -> None:
    if key in ("id", "fileId"):
        assert ids.setdefault(shown, told) == told, f"{key}: not the id of before"
    elif key == "result" and shown:
        folder, name = os.path.split(shown)
        assert folder.endswith("/dataroot/spool/result")
        assert told.endswith(f"/dataroot/spool/result/{ids[name.removesuffix('.fits')]}.fits")
        assert os.path.getsize(told) > 0
    elif key == "timestamp":
        assert abs(told - time.time()) < 600, f"{key}: {told!r} is not now"
    else:
        assert told == shown, f"{key}: {told!r} is not {shown!r}"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_the_sessions_of_the_guide(reader: Reader) -> None:
    for ways in sections():
        for way in ways:
            reader.ids.clear()  # each section has acquisitions of its own
            for step in way:
                reader.does(step)
            for name in list(reader.terminals):
                reader.settle(name)
            if way is ways[0] and reader.ids:
                watch(reader)
    assert len(reader.terminals) == 3
    for terminal in reader.terminals.values():
        terminal.enter("wait; jobs")
        assert terminal.ended() == ("", 0), "everything ended"
        assert "Traceback" not in terminal.err


def watch(reader: Reader) -> None:
    """Compare the status lines with those of the guide: the same, in the same order."""
    while reader.watched:
        terminal, step = reader.watched.pop()
        shown = [reader.real(Step("", line)) for line in step.shown]

        def missing(file: Path = terminal.err_file, shown: list[str] = shown) -> str:
            lines = file.read_text()
            rest = iter(lines.splitlines())
            return next((f"{line}\n\n{lines}" for line in shown if line not in rest), "")
        wait_until(lambda: not missing(), LONG_S, missing)
        told = [line for line in terminal.err.splitlines() if line.startswith("daq:")]
        assert set(told) == {line for line in shown if line.startswith("daq:")}


def test_the_guide_has_the_sessions_of_the_manual() -> None:
    commands = [step.command for ways in sections() for way in ways for step in way]
    wanted = ["daqOcmServer -l DEBUG", "daqDpmServer -l DEBUG", "daqSimMetadaqif fcf",
              "daqSimRecif -v dcs", "daqOcmCtl std.init", "daqOcmCtl std.enable",
              "daqOcmCtl --status", "daqOcmCtl --json daq.start ",
              "daqOcmCtl --json daq.getactivelist", "daqOcmCtl --json daq.getstatus",
              "daqOcmCtl --json daq.awaitstate", "<Enter>", "daqOcmCtl --json daq.getstatus",
              "daqOcmCtl daq.startv2 @- <<EOF", 'daqOcmCtl --json daq.start ""',
              "daqOcmCtl --json daq.stop", "daqOcmCtl --json daq.getstatus",
              "daqOcmCtl --json daq.startv2 @- <<EOF", "daqOcmCtl --json cmd.startv2 @- <<EOF",
              "daqOcmCtl std.exit"]
    rest = iter(commands)
    for beginning in wanted:
        assert any(command.startswith(beginning) for command in rest), (
            f"{beginning}: missing or out of order")


@pytest.mark.parametrize("change", [
    {"fileID": "a"}, {"error": True}, {"message": ""}, {"substate": "Stopped"}, {"timeout": 0},
    {"timestamp": "now"}, {"result": "/x/dataroot/spool/result/a.fits"}, {"id": "b"}])
def test_a_difference_is_noticed(change: dict[str, Any]) -> None:
    told = {"id": "a", "fileId": "a", "error": False, "message": "[]", "substate": "Acquiring",
            "timeout": False, "timestamp": time.time(), "result": ""}
    same(told, dict(told), {"a": "a", "b": "c"})
    with pytest.raises((AssertionError, OSError)):
        same({**told, **change}, told, {"a": "a", "b": "c"})

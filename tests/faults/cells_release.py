"""Faults of receivers, each with the receiver required and not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from faults.engine import FILE_ID, NOTHING, Releasing, Steps, cell, digest
from faults.hosts import on_loopback
from harness import Daq
from releasing import olas
from remote import HOST, Sshd, script

WITH_SSH = ("rsync", "ssh", "sshd")


class Delivering(Releasing):
    """A product to be delivered; ``required`` or not."""

    required = False

    def __init__(self, daq: Daq, far: Sshd | None = None) -> None:
        super().__init__(daq)
        if far:
            self.far = far
            self.machine = on_loopback(far)
            self.config = far.plain_config(daq.folder / "ssh_config")

    def ask(self, *receivers: dict[str, Any], **settings: Any) -> None:
        self.submit(*receivers, required=self.required, **settings)

    def ask_far(self) -> None:
        self.ask(olas(self.box, HOST), ssh_config=self.config, transfer={"persist_sec": 0})


def releasing(fault: str, mend: str, *, slow: bool = False, needs: tuple[str, ...] = (),
              ) -> Callable[[Callable[[Any], Steps]], Any]:
    """Enter a cell twice; what is required is left to the long run, but for some."""
    def enter(work: Callable[[Any], Steps]) -> Any:
        def required(trial: Delivering) -> Steps:
            trial.required = True
            return work(trial)

        cell("release", fault, mend, slow=slow, needs=needs)(work)
        cell("required", fault, mend, slow=slow or fault not in QUICK, needs=needs)(required)
        return work
    return enter


QUICK = ("the directory is not there", "it has other content under this name")


@contextmanager
def small(place: Path) -> Iterator[None]:
    """Have a file system at a place with room for less than two products."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", place],
                                      check=False, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@releasing("the directory is not there", "make it, or mount it")
def gone(trial: Delivering) -> Steps:
    trial.box.rmdir()
    trial.ask()
    yield trial.run()
    trial.box.mkdir()


@releasing("its file system is full", "free some space")
def full(trial: Delivering) -> Steps:
    with small(trial.box):
        (trial.box / "ballast").write_bytes(bytes(8192))
        trial.contents.add(digest(trial.box / "ballast"))
        trial.ask(olas(trial.box, allowSymlink=False))
        yield trial.run()
        (trial.box / "ballast").unlink()
        yield None


@releasing("its file system is read-only", "remount it")
def read_only(trial: Delivering) -> Steps:
    with small(trial.box):
        subprocess.run(["mount", "-o", "remount,ro", trial.box], check=True)
        trial.ask(olas(trial.box, allowSymlink=False))
        yield trial.run()
        subprocess.run(["mount", "-o", "remount,rw", trial.box], check=True)
        yield None


@releasing("we may not write there", "`chmod`")
def denied(trial: Delivering) -> Steps:
    trial.daq.obey_permissions()
    trial.box.chmod(0o555)
    trial.ask()
    yield trial.run()
    trial.box.chmod(0o755)


@releasing("it has the product already", NOTHING)
def same(trial: Delivering) -> Steps:
    trial.ask()
    (trial.box / f"{FILE_ID}.fits").write_bytes(trial.product.read_bytes())
    yield trial.run()


def _another_there(trial: Delivering) -> Steps:
    there = trial.box / f"{FILE_ID}.fits"
    there.write_bytes(b"another night")
    trial.contents.add(digest(there))
    yield trial.run()
    assert there.read_bytes() == b"another night"
    there.unlink()


@releasing("it has other content under this name", "compare the two, move one away")
def other(trial: Delivering) -> Steps:
    trial.ask()
    yield from _another_there(trial)


@releasing("its host is down", "bring it up", slow=True, needs=WITH_SSH)
def down(trial: Delivering) -> Steps:
    trial.machine.down()
    trial.ask_far()
    told = trial.run()
    trial.machine.up()
    yield told


@releasing("its host does not let us in", "`ssh-copy-id far`", slow=True, needs=WITH_SSH)
def refused(trial: Delivering) -> Steps:
    trial.far.plain_config(trial.config, IdentityFile=str(trial.far.folder / "host_key"))
    trial.ask_far()
    yield trial.run()
    trial.far.plain_config(trial.config)


@releasing("on another host: the directory is not there", "make it there", slow=True,
           needs=WITH_SSH)
def far_gone(trial: Delivering) -> Steps:
    trial.box.rmdir()
    trial.ask_far()
    yield trial.run()
    trial.box.mkdir()


@releasing("on another host: its file system is full", "free some space there", slow=True,
           needs=WITH_SSH)
def far_full(trial: Delivering) -> Steps:
    with small(trial.box):
        (trial.box / "ballast").write_bytes(bytes(8192))
        trial.contents.add(digest(trial.box / "ballast"))
        trial.ask_far()
        yield trial.run()
        (trial.box / "ballast").unlink()
        yield None


@releasing("on another host: other content under this name", "compare the two, move one away",
           slow=True, needs=WITH_SSH)
def far_other(trial: Delivering) -> Steps:
    trial.ask_far()
    yield from _another_there(trial)


def program(fault: str, body: str, mend: str, slow: bool = True) -> None:
    """Enter a cell for a program that does something else than it should at first."""
    @releasing(fault, mend, slow=slow)
    def work(trial: Delivering) -> Steps:
        path = trial.daq.folder / "ingest"
        right = f'ln "$1" {trial.box}/{FILE_ID}.fits\n'
        if body:
            script(path, f"[ -e {trial.daq.folder}/mended ] || {{ {body}; }}\n{right}")
        trial.ask({"type": "commandReceiver", "command": str(path)},
                  release={"programs": [str(path)], "program_sec": 1})
        yield trial.run()
        (trial.daq.folder / "mended").touch()
        trial.settings(release={"programs": [str(path)], "required": trial.required})
        script(path, right)


program("a program ends with 1", "echo 'no such table' >&2; exit 1", "mend what it complains of",
        slow=False)
program("a program asks for more time (75)", "echo 'the archive is closed' >&2; exit 75", NOTHING)
program("a program hangs, `cfg/release/program_sec: 1`", "exec sleep 600", "mend it")
program("a program is not there", "", "install it")

"""Faults of handing over to another host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from faults.engine import BY_ITSELF, FILE_ID, NOTHING, Collecting, Steps, cell
from harness import CHECKOUT, SYSTEM_PATH, Daq, make_spool
from remote import HOST, Sshd
from two_hosts import FAR, Pair


class HandingOver(Collecting):
    """A job with a file of this host, which is to be collected by the other one."""

    def __init__(self, daq: Daq, far: Sshd) -> None:
        super().__init__(daq)
        self.server = far
        folder = daq.folder / "pair"
        folder.mkdir()
        self.pair = Pair(folder, daq.bin, daq.python)
        daq.spool = self.pair.near
        daq.env.update(self.pair.env("near"))
        self.words = [(str(self.pair.far), "/spool"), (FAR, "far"),
                      (str(far.folder), "/home/daq/.ssh")]

    @property
    def spools(self) -> list[Path]:
        return [self.pair.near, self.pair.far]

    def settings(self, **keys: Any) -> None:
        """Configure the tools of this host."""
        self.more = {**self.more, **keys}
        self.pair.configure(**{"breaker": {"failures": 3}, **self.more})

    def places(self) -> list[str]:
        """On the other host there is one at most, which is the same."""
        there = self.pair.tree("far")
        assert sum(map(len, there.values())) <= 1, there
        return super().places()

    def finish(self) -> str:
        """Let this host hand it over, the other one make the product, and hear of that."""
        then, place = self.give_back()
        if place == "collect":
            self.run().ok()
        assert self.places() == ["remote"]
        assert list(self.pair.tree("far").values()) == [["J1"]]
        self.daq.run("daq-watch", "-q", "--once", env=self.pair.env("far")).ok()
        self.daq.run("daq-watch", "-q", "--mirror-only", "--once").ok()
        received = [e for e in self.pair.history("far", "J1") if e["event"] == "received"]
        assert len(received) == 1, "it arrived twice"
        return BY_ITSELF if place == "remote" else then


def handing(fault: str, mend: str = NOTHING, *, slow: bool = True, needs: tuple[str, ...] = (),
            ) -> Callable[[Any], Any]:
    return cell("handover", fault, mend, slow=slow, needs=("rsync", *needs))


@handing("the other host is down", "bring it up", slow=False)
def down(trial: HandingOver) -> Steps:
    trial.make()
    trial.submit()
    trial.pair.fault("down")
    yield trial.run()
    trial.pair.mend()


@handing("it does not let us in", "there: enter the key in `authorized_keys`",
         needs=("ssh", "sshd"))
def refused(trial: HandingOver) -> Steps:
    trial.make()
    config = trial.server.plain_config(trial.daq.folder / "ssh_config",
                                       IdentityFile=str(trial.server.folder / "host_key"))
    there = {"hand_over": f"{HOST}:{trial.pair.far}", "rsh": "ssh", "ssh_config": str(config)}
    trial.submit(**there)
    told = trial.run()
    yield told
    trial.server.plain_config(config)
    environment = f"DAQ_PYTHON={sys.executable} DAQ_CONFIG={trial.pair.folder}/far.yaml"
    with trial.server.restricted(f'command="env {environment} {CHECKOUT}/bin/daq-start --import '
                                 f'--spool {trial.pair.far}"'):
        yield None


@handing("there is no daqspool there", "install it there")
def no_tools(trial: HandingOver) -> Steps:
    trial.make()
    trial.submit()
    trial.pair.far_env(PATH=SYSTEM_PATH)
    yield trial.run()
    trial.pair.far_env()


@handing("there is no spool there", "bring the spool back, or mount it")
def no_spool(trial: HandingOver) -> Steps:
    trial.make()
    trial.submit()
    shutil.rmtree(trial.pair.far)
    yield trial.run()
    make_spool(trial.pair.far)


@contextmanager
def small_spool(trial: HandingOver) -> Iterator[Path]:
    shutil.rmtree(trial.pair.far)
    trial.pair.far.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs",
                                       trial.pair.far], check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        yield trial.pair.far
    finally:
        subprocess.run(["umount", "-l", trial.pair.far], check=True)


@handing("its spool is full", "free some space there")
def full(trial: HandingOver) -> Steps:
    trial.make()
    with small_spool(trial) as place:
        make_spool(place)
        trial.submit()
        far = trial.pair.folder / "far.yaml"
        far.write_text(far.read_text() + "  floor: {spool_bytes: 0, result_bytes: 0}\n")
        trial.pair.far_env(DAQ_CONFIG=str(far))
        with open(place / "ballast", "wb") as ballast, pytest.raises(OSError):
            while True:
                os.write(ballast.fileno(), bytes(4096))
        yield trial.run()
        (place / "ballast").unlink()
        yield None


def _faulty(trial: HandingOver, *fault: str) -> Steps:
    trial.make()
    trial.submit()
    trial.pair.fault(*fault)
    yield trial.run()
    trial.pair.mend()


@handing("the connection breaks while the job is sent", slow=False)
def cut(trial: HandingOver) -> Steps:
    yield from _faulty(trial, "short", "300")


@handing("the connection breaks before its reply")
def deaf(trial: HandingOver) -> Steps:
    yield from _faulty(trial, "deaf", "1")


@handing("its tool is killed when the job lies there")
def far_killed(trial: HandingOver) -> Steps:
    trial.make()
    trial.submit()
    trial.pair.far_env(DAQ_CRASH="import.queued")
    yield trial.run()
    trial.pair.far_env()


@handing("the tool is killed when the job lies there")
def near_killed(trial: HandingOver) -> Steps:
    trial.make()
    trial.submit()
    yield trial.run(DAQ_CRASH="handover.delivered")


@handing("it has another job with this file id", "settle which one counts")
def taken(trial: HandingOver) -> Steps:
    trial.make()
    reserved = trial.pair.far / "log" / f".file-{FILE_ID}"
    reserved.write_text("other")
    trial.submit()
    yield trial.run()
    reserved.unlink()



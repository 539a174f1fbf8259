"""Faults of the files of another host, reached by ssh, and of the network to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from faults.engine import NOTHING, Collecting, Steps, cell, digest
from faults.hosts import Line, line, on_loopback
from harness import Daq, Process, wait_until
from remote import HOST, Sshd

#: Of 200 bytes each; with the bandwidth of :data:`SLOWLY` it takes some seconds.
BIG = 12_000
SLOWLY = {"bytes_per_sec": 600_000, "persist_sec": 0}
FREELY = {"persist_sec": 0}
WITH_SSH = ("rsync", "ssh", "sshd")


class Fetching(Collecting):
    """A job with a file of another host."""

    def __init__(self, daq: Daq, far: Sshd) -> None:
        super().__init__(daq)
        self.far = far
        self.machine = on_loopback(far)
        self.config = far.plain_config(daq.folder / "ssh_config")
        self.words = [(str(daq.folder / "ssh_config"), "SSHCONFIG"),
                      (str(far.folder), "/home/daq/.ssh")]

    def ask(self, **settings: Any) -> None:
        """Put the job into ``collect/``."""
        self.submit(f"{HOST}:{self.origin}",
                    **{"ssh_config": self.config, "transfer": FREELY, **settings})

    def begin(self) -> Process:
        """Begin a slow transfer of a large file, and wait until it is in the middle."""
        if not self.origin.exists():
            self.make(size=BIG)
        self.ask(transfer=SLOWLY)
        process = self.daq.spawn("daq-collect", "--job", "J1")
        folder = self.daq.spool / "data" / "J1" / "sources"
        wait_until(lambda: not process.running() or any(
            path.stat().st_size > 200_000 for path in folder.glob(".fetch-*/**/.a.fits*")))
        assert process.running(), process.result()
        return process

    def freely(self) -> None:
        self.settings(transfer=FREELY)


def fetching(fault: str, mend: str = NOTHING, *, slow: bool = False,
             needs: tuple[str, ...] = WITH_SSH) -> Callable[[Any], Any]:
    return cell("remote", fault, mend, slow=slow, needs=needs)


@fetching("nobody listens at the host's ssh port", "start sshd there", slow=True)
def nobody(trial: Fetching) -> Steps:
    trial.make()
    trial.machine.down()
    trial.ask()
    told = trial.run()
    trial.machine.up()
    yield told


@fetching("the host goes down meanwhile", "bring it up")
def dies(trial: Fetching) -> Steps:
    process = trial.begin()
    trial.machine.down()
    told = process.wait()
    trial.machine.up()
    yield told
    trial.freely()


def _configured(trial: Fetching, **ssh: str) -> Steps:
    """Have ssh configured so, and mend that."""
    trial.far.plain_config(trial.config, **ssh)
    trial.ask()
    yield trial.run()
    trial.far.plain_config(trial.config)


@fetching("its host key is not the one that is known", "find out why; `ssh-keygen -R far`, log in "
          "once by hand")
def other_key(trial: Fetching) -> Steps:
    trial.make()
    known = trial.daq.folder / "known_hosts"
    name, kind, _ = (trial.far.folder / "known_hosts").read_text().split()
    key = (trial.far.folder / "user_key.pub").read_text().split()[1]
    known.write_text(f"{name} {kind} {key}\n")
    yield from _configured(trial, UserKnownHostsFile=str(known))


@fetching("its host key is not known", "compare it, log in once by hand", slow=True)
def unknown_key(trial: Fetching) -> Steps:
    trial.make()
    yield from _configured(trial, UserKnownHostsFile="/dev/null")


@fetching("it does not let us in", "`ssh-copy-id far`")
def refused(trial: Fetching) -> Steps:
    trial.make()
    yield from _configured(trial, IdentityFile=str(trial.far.folder / "host_key"))


@fetching("there is no rsync there", "there: `apt-get install rsync`")
def no_rsync(trial: Fetching) -> Steps:
    trial.make()
    trial.ask()
    with trial.far.restricted('command="/usr/bin/env PATH=/nowhere /bin/sh -c '
                              '\\"$SSH_ORIGINAL_COMMAND\\""'):
        yield trial.run()


@fetching("a login script there prints something", "mend it: `ssh far true` must print nothing",
          slow=True)
def chatty(trial: Fetching) -> Steps:
    trial.make()
    trial.ask()
    with trial.far.restricted('command="echo Welcome; sh -c \\"$SSH_ORIGINAL_COMMAND\\""'):
        yield trial.run()


@fetching("the name of the host is not known", "mend the name, or DNS", slow=True)
def no_name(trial: Fetching) -> Steps:
    trial.make()
    yield from _configured(trial, HostName="no-such-host.invalid")


@fetching("the file is not there", "deliver it", slow=True)
def gone(trial: Fetching) -> Steps:
    trial.ask()
    yield trial.run()
    trial.make()


@fetching("a directory is there instead", "put the file there", slow=True)
def directory(trial: Fetching) -> Steps:
    trial.origin.mkdir()
    trial.ask()
    yield trial.run()
    trial.origin.rmdir()
    trial.make()


@fetching("it is a symbolic link", "name the file itself", slow=True)
def link(trial: Fetching) -> Steps:
    trial.make().rename(trial.data / "b.fits")
    trial.origin.symlink_to("b.fits")
    trial.ask()
    yield trial.run()
    trial.make()
    (trial.data / "b.fits").unlink()


@fetching("that account may not read it", "there: `chmod`", slow=True,
          needs=(*WITH_SSH, "setpriv"))
def unreadable(trial: Fetching) -> Steps:
    trial.make().chmod(0)
    trial.ask()
    with trial.far.restricted('command="exec setpriv --bounding-set=-all --inh-caps=-all '
                              'sh -c \\"$SSH_ORIGINAL_COMMAND\\""'):
        told = trial.run()
    yield told
    trial.origin.chmod(0o644)


@fetching("it is cut off", "deliver the whole of it", slow=True)
def short(trial: Fetching) -> Steps:
    path = trial.make()
    whole = path.read_bytes()
    path.write_bytes(whole[:-2881])
    trial.ask()
    yield trial.run()
    path.write_bytes(whole)


@fetching("data do not match DATASUM, `cfg/merge/sums: strict`", "deliver the right one", slow=True)
def damaged(trial: Fetching) -> Steps:
    path = trial.make(checksum=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2880] + bytes([whole[-2880] ^ 1]) + whole[-2879:])
    trial.contents.add(digest(path))
    trial.ask(merge={"sums": "strict"})
    yield trial.run()
    trial.make(checksum=True)


def meanwhile(change: Callable[[Fetching, bytes], object],
              after: Callable[[Fetching, bytes], object]) -> Callable[[Fetching], Steps]:
    def work(trial: Fetching) -> Steps:
        whole = trial.make(size=BIG).read_bytes()
        process = trial.begin()
        change(trial, whole)
        yield process.wait()
        after(trial, whole)
        trial.freely()
    return work


def _grow(trial: Fetching, _: bytes) -> None:
    with trial.origin.open("ab") as file:
        file.write(bytes(2880))


fetching("it grows meanwhile", "nothing: it will be complete")(
    meanwhile(_grow, lambda trial, whole: trial.origin.write_bytes(whole)))
fetching("it is removed meanwhile", "deliver it again", slow=True)(
    meanwhile(lambda trial, _: trial.origin.unlink(), lambda trial, _: trial.make(size=BIG)))
fetching("it is cut off meanwhile", "deliver the whole of it", slow=True)(
    meanwhile(lambda trial, _: os.truncate(trial.origin, 288_000),
              lambda trial, whole: trial.origin.write_bytes(whole)))
fetching("it is replaced by another one meanwhile", slow=True)(
    meanwhile(lambda trial, _: trial.make(size=BIG, first=1), lambda *_: None))


@fetching("the tool is killed meanwhile", slow=True)
def killed(trial: Fetching) -> Steps:
    process = trial.begin()
    lock = trial.daq.spool / "lock" / "J1"
    told = process.kill()
    from remote import holders

    wait_until(lambda: holders(lock) == [])  # rsync goes on to its end, and holds the lock
    yield told
    trial.freely()


# -- the network -----------------------------------------------------------------------------------


class Linked(Fetching):
    """A job with a file of a host behind a network of its own."""

    line: Line


def linked(fault: str, mend: str, work: Callable[[Linked], Steps]) -> None:
    def with_line(trial: Linked) -> Steps:
        folder = trial.daq.folder / "net"
        folder.mkdir()
        with line(trial.far, folder) as made:
            trial.line, trial.machine, trial.config = made, made.machine, made.ssh_config
            yield from work(trial)
            yield None
    cell("network", fault, mend, slow=True, needs=(*WITH_SSH, "ip"))(with_line)


def _before(trial: Linked) -> Steps:
    trial.make()
    trial.line.cut()
    trial.ask(transfer={"connect_sec": 2, "persist_sec": 0})
    yield trial.run()
    trial.line.join()


def _for_long(trial: Linked) -> Steps:
    SLOWLY["stall_sec"] = 2
    try:
        process = trial.begin()
    finally:
        del SLOWLY["stall_sec"]
    trial.line.cut()
    yield process.wait()
    trial.line.join()
    trial.freely()


def _for_a_moment(trial: Linked) -> Steps:
    import time

    process = trial.begin()
    trial.line.cut()
    time.sleep(0.5)
    trial.line.join()
    yield process.wait()


linked("the link is down before it begins", "bring it up", _before)
linked("the link goes down meanwhile, for long", "bring it up", _for_long)
linked("the link goes down meanwhile, and comes up in time", NOTHING, _for_a_moment)

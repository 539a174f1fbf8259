"""Faults of files of this host."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from faults.engine import NOTHING, Collecting, Steps, cell, digest
from harness import Result, wait_until

BIG = 30_000  # of 200 bytes each: more than one read


@cell("local", "the file is not there", "deliver it")
def gone(trial: Collecting) -> Steps:
    trial.submit()
    yield trial.run()
    trial.make()


@cell("local", "a directory is there instead", "put the file there")
def directory(trial: Collecting) -> Steps:
    trial.origin.mkdir()
    trial.submit()
    yield trial.run()
    trial.origin.rmdir()
    trial.make()


@cell("local", "a pipe is there instead", "put the file there", slow=True)
def pipe(trial: Collecting) -> Steps:
    os.mkfifo(trial.origin)
    trial.submit()
    yield trial.run()
    trial.make()


@cell("local", "it is a symbolic link to a file of another directory", "put the file there")
def link(trial: Collecting) -> Steps:
    (trial.daq.folder / "other").mkdir()
    os.rename(trial.make(), trial.daq.folder / "other" / "a.fits")
    trial.origin.symlink_to(trial.daq.folder / "other" / "a.fits")
    trial.submit()
    yield trial.run()
    trial.make()


@cell("local", "it is no FITS file", "deliver the right one")
def text(trial: Collecting) -> Steps:
    trial.origin.write_bytes(b"night log\n" * 576)
    trial.submit()
    yield trial.run()
    trial.make()


@cell("local", "it is empty", "deliver the right one", slow=True)
def empty(trial: Collecting) -> Steps:
    trial.origin.touch()
    trial.submit()
    yield trial.run()
    trial.make()


@cell("local", "it is cut off", "deliver the whole of it")
def short(trial: Collecting) -> Steps:
    path = trial.make()
    whole = path.read_bytes()
    path.write_bytes(whole[:-2881])
    trial.submit()
    yield trial.run()
    path.write_bytes(whole)


@cell("local", "data do not match DATASUM, `cfg/merge/sums: strict`", "deliver the right one")
def damaged(trial: Collecting) -> Steps:
    path = trial.make(checksum=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2880] + bytes([whole[-2880] ^ 1]) + whole[-2879:])
    trial.contents.add(digest(path))  # a whole copy of what is there
    trial.submit(merge={"sums": "strict"})
    yield trial.run()
    trial.make(checksum=True)


@cell("local", "data do not match DATASUM, `cfg/merge/sums: verify`",
      "nothing: the job goes on; or deliver the right one and `mv merge/ID.json collect/`")
def doubtful(trial: Collecting) -> Steps:
    path = trial.make(checksum=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2880] + bytes([whole[-2880] ^ 1]) + whole[-2879:])
    trial.contents.add(digest(path))
    trial.submit()
    yield trial.run()
    trial.make(checksum=True)
    os.rename(trial.daq.spool / "merge" / "J1.json", trial.daq.spool / "collect" / "J1.json")


@cell("local", "we may not read it", "`chmod`")
def unreadable(trial: Collecting) -> Steps:
    trial.daq.obey_permissions()
    trial.make().chmod(0)
    trial.submit()
    yield trial.run()
    trial.origin.chmod(0o644)


@cell("local", "we may not enter its directory", "`chmod`", slow=True)
def closed(trial: Collecting) -> Steps:
    trial.daq.obey_permissions()
    trial.make()
    trial.submit()
    trial.data.chmod(0)
    told = trial.run()
    trial.data.chmod(0o755)
    yield told


class Local(Collecting):
    """A job with a file of a disk that is slow or broken when it is wanted.

    Attributes:
        library: to be preloaded.
    """

    library: Path

    def broken(self, at: str, **more: str) -> dict[str, str]:
        """Return the environment in which that happens to the file."""
        return {"LD_PRELOAD": str(self.library), "BROKEN_FILE": str(self.origin), "BROKEN_AT": at,
                **more}


def caught(trial: Local, change: Callable[[], object]) -> Result:
    """Change the file in the middle of its copy."""
    gate = trial.daq.folder / "gate"
    gate.touch()
    process = trial.daq.spawn("daq-collect", "--job", "J1",
                              env=trial.broken("hold", BROKEN_GATE=str(gate)))
    wait_until(lambda: (trial.daq.folder / "gate.held").exists() or not process.running())
    assert process.running(), process.result()
    change()
    gate.unlink()
    return process.wait()


@cell("local", "it is removed while it is copied", "deliver it again", needs=("cc",))
def vanishes(trial: Local) -> Steps:
    trial.make(size=BIG)
    trial.submit()
    yield caught(trial, trial.origin.unlink)
    trial.make()


@cell("local", "it grows while it is copied", "nothing: it will be complete", needs=("cc",))
def grows(trial: Local) -> Steps:
    whole = trial.make(size=BIG).read_bytes()
    trial.submit()

    def grow() -> None:
        with trial.origin.open("ab") as file:
            file.write(bytes(2880))

    yield caught(trial, grow)
    trial.origin.write_bytes(whole)


@cell("local", "it is cut off while it is copied", "deliver the whole of it", needs=("cc",))
def shrinks(trial: Local) -> Steps:
    whole = trial.make(size=BIG).read_bytes()
    trial.submit()
    yield caught(trial, lambda: os.truncate(trial.origin, 2880 * 10))
    trial.origin.write_bytes(whole)


@cell("local", "it is replaced by another one while it is copied", NOTHING, needs=("cc",))
def replaced(trial: Local) -> Steps:
    trial.make(size=BIG)
    trial.submit()
    yield caught(trial, lambda: trial.make(size=BIG, first=1))


def broken(at: str, number: int) -> Callable[[Local], Steps]:
    def work(trial: Local) -> Steps:
        trial.make()
        trial.submit()
        yield trial.run(**trial.broken(at, BROKEN_ERRNO=str(number)))
    return work


for _at, _when in (("open", "opened"), ("read", "read")):
    for _number, _what, _mend in (
            (errno.ESTALE, "its file server forgot it (ESTALE)", "see to the file server"),
            (errno.ETIMEDOUT, "its file server does not answer (ETIMEDOUT)",
             "see to the file server"),
            (errno.EIO, "its disk is broken (EIO)", "bring the file back")):
        cell("local", f"{_what} when it is {_when}", _mend, needs=("cc",),
             slow=_number == errno.ETIMEDOUT)(broken(_at, _number))

"""A place to merge in again and again while the merge is disturbed, and what may be left then."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import (
    Passed,
    failures,
)
from forge import Forge

from daq_merge import undo
from harness import Result
from merge_samples import (
    file_source,
    image,
    keyword_source,
    primary,
    specification,
    value,
)
from reflinks import reflink_folder

WAYS = ("new", "in-place", "insert", "clone", "share")
INTO = ("in-place", "insert")
CODES = {"ENOSPC": 75, "EIO": 74}
GIBIBYTE = 1 << 30
MTIME = 10**18 + 7
#: What is left when the product is there; the target, too, unless it became the product.
LEFT = ["b.fits", "p.fits", "spec.json"]
ROOM = [" "] * 40

Content = bytes | str
State = tuple[Content, int, int]


@dataclass
class Yard:
    """A folder in which one file is merged into another one."""

    forge: Forge
    folder: Path
    way: str
    manifest: bool = False

    def __post_init__(self) -> None:
        self.target, self.product = self.folder / "t.fits", self.folder / "p.fits"
        dice = random.Random(4)
        large = dice.randbytes((1 << 20) + 100_000 if self.way == "share" else 100_000)
        # nothing fits and room is inserted, or all fits
        room = [] if self.way == "insert" else ROOM
        # behind END stands what should not, and the last block is not whole
        odd = primary(*room)[:-4] + b"JUNK"
        self._files = {
            "t.fits": odd + image(large, *ROOM) + image(b"abc", *ROOM)[:-1000],
            "b.fits": primary() + image(large[::-1]) + image(b"z"),
            "spec.json": json.dumps(specification(
                keyword_source("k", *[value(f"KEY{n}", n) for n in range(40)]),
                file_source("b", "b.fits"), target=file_source("t", "t.fits"))).encode()}
        self.clear()
        self.before = self.state()
        self.undisturbed = self.trace()
        self.expected = self.content(self.product)

    def clear(self) -> None:
        """Begin with the inputs alone."""
        for path in self.folder.iterdir():
            path.unlink()
        for name, content in self._files.items():
            (self.folder / name).write_bytes(content)
        self.target.chmod(0o640)
        os.utime(self.target, ns=(MTIME, MTIME))

    def content(self, path: Path) -> Content:
        """What is in a file, or something that tells it from all others."""
        return path.read_bytes()

    def state(self) -> State:
        status = self.target.stat()
        return self.content(self.target), status.st_mtime_ns, status.st_mode

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def journal(self) -> bool:
        return os.path.lexists(undo.path_of(str(self.target)))

    def left(self) -> list[str]:
        """What there is that no merge should leave."""
        return [name for name in self.names() if name.startswith(".")]

    def words(self, product: str = "p.fits") -> list[str]:
        more = ["--manifest", "m.json"] if self.manifest else []
        return ["-q", str(self.folder / "spec.json"), "--way", self.way, "-o", product, *more]

    def merge(self, **env: str) -> Result:
        return self.forge.run(self.folder, "daq-merge", *self.words(), env=env)

    def signalled(self, orders: str, **env: str) -> Result:
        """Merge, with signals at crash points."""
        return self.forge.run(self.folder, "signalled", orders, *self.words(), env=env)

    def undo(self, **env: str) -> Result:
        return self.forge.run(self.folder, "daq-merge", "-q", "--undo", self.target, env=env)

    def trace(self) -> Passed:
        """Merge undisturbed; return the points that were passed."""
        path = self.folder / "trace"
        made = self.merge(DAQ_CRASH_TRACE=str(path)).ok()
        assert "a new file was written" not in made.err
        pairs = [line.split(":") for line in path.read_text().splitlines()]
        path.unlink()
        return [(point, int(number)) for point, number in pairs]

    def named(self) -> bool:
        """Whether the product has its name; then it must be complete."""
        if not os.path.lexists(self.product):
            return False
        assert self.content(self.product) == self.expected, "half a product under its name"
        return True

    def is_given_back(self) -> None:
        """The target is what it was, and nothing tells of the merge."""
        assert self.state() == self.before, "the target is not what it was"
        assert self.left() == []

    def goes_on(self) -> None:
        """After a disturbance: run again, and all is as if there had been none."""
        done = self.named()
        again = self.merge()
        if done:
            again.fails(73, "never overwritten")
            assert self.named()
            to_undo = self.journal() and not self.target.exists()
            self.undo().exits(0 if to_undo else 1)
            assert self.named()
            self.product.unlink()
            (self.folder / "m.json").unlink(missing_ok=True)
            if not self.target.exists():
                return  # it had been forgotten already: the merge was over
            assert self.state() == self.before
            again = self.merge()
        again.ok()
        assert self.content(self.product) == self.expected, "another product than undisturbed"
        wanted = [*LEFT, *(["m.json"] if self.manifest else []),
                  *([] if self.way in INTO else ["t.fits"])]
        assert self.names() == sorted(wanted)


@contextmanager
def folder_for(way: str, scratch: Path, mib: int = 512) -> Iterator[Path]:
    """Lend a folder on a file system where a way of building can be had."""
    if way in ("clone", "share") or way == "insert" and not can_insert(scratch):
        with reflink_folder(scratch, mib) as place:
            (place / way).mkdir()
            yield place / way
        return
    (scratch / way).mkdir()
    yield scratch / way


def can_insert(folder: Path) -> bool:
    """Whether room can be inserted into files of a folder."""
    with (folder / "probe").open("w+b") as file:
        file.write(bytes(400_000))
        file.flush()
        return undo.insert(file.fileno(), 184320)


def run_all(cases: list[tuple[str, Any]]) -> None:
    assert cases
    wrong = failures(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)} cases\n" + "\n".join(wrong)


def one_of_two_wins(into: Yard, turns: int, apart: float) -> None:
    """Two merge the same target at the same time: one product, and a clear word from the other."""
    dice = random.Random(8)
    for turn in range(turns):
        into.clear()
        runs = []
        for product in ("p.fits", "q.fits"):
            runs.append(into.forge.start(into.folder, "signalled", f"LINGER@{turn}",
                                         *into.words(product)))
            time.sleep(dice.uniform(0.0, apart))
        ended = [run.wait() for run in runs]
        (winner,) = [number for number, one in enumerate(ended) if one.code == 0]
        loser = ended[1 - winner]
        loser.exits(loser.code)
        assert loser.code in (75, 110) and len(loser.err.splitlines()) == 1, loser
        product = ("p.fits", "q.fits")[winner]
        assert into.names() == sorted(["b.fits", product, "spec.json"])
        # the name of the product does not stand in it
        assert into.content(into.folder / product) == into.expected

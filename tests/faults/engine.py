"""A cell of the fault matrix: something goes wrong, a person mends it, the product arrives.

A cell is a generator: it brings the fault about and yields how the tool ended, then mends what is
broken; it may yield once more, to keep what the rest of the job's way needs. What must hold in
every cell is checked here, before the fault is mended and afterwards; what an operator sees is
returned as a row of the page.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from smalldisk import half_written

from daqlib import fsops
from faults.plain import plain
from harness import Daq, Result, make_fits
from remote import configure

JOB = "J1"
FILE_ID = "XYZ.2026-11-21T02:30:00.123"
NEXT = {"collect": "merge", "merge": "release", "release": "done"}
NOTHING = "nothing"
BY_ITSELF = "goes on by itself"

Steps = Generator[Result | None, None, None]


class Row(NamedTuple):
    """What an operator sees in a cell.

    Attributes:
        fault: what happens.
        code: exit code of the tool.
        job: where the job lies, whether a try counts, which alerts are there.
        said: the error line, in general form.
        mend: what is done about the cause.
        then: what is done about the job.
    """

    fault: str
    code: str
    job: str
    said: str
    mend: str
    then: str


@dataclass(frozen=True)
class Cell:
    """A fault.

    Attributes:
        section: of the page.
        fault: what happens, in plain words.
        mend: what a person does about the cause.
        work: brings it about, yields, and mends it; or returns a row, in sections of their own.
        slow: whether it is left out of the quick run.
        needs: programs without which it is skipped.
    """

    section: str
    fault: str
    mend: str
    work: Callable[[Any], Any]
    slow: bool = False
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return re.sub(r"\W+", "_", f"{self.section}-{self.fault}")


#: All cells, in the order of the page.
CELLS: list[Cell] = []


def cell(section: str, fault: str, mend: str = NOTHING, *, slow: bool = False,
         needs: tuple[str, ...] = ()) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Enter a cell into :data:`CELLS`."""
    def enter(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        CELLS.append(Cell(section, fault, mend, work, slow, needs))
        return work
    return enter


def unfinished(spool: Path) -> list[str]:
    """Return the files under a final name that are not whole; below a dot-name is no such name."""
    return [path for path in half_written(spool) if "/." not in path.removeprefix(str(spool))]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def drive(one: Cell, trial: Trial) -> Row:
    """Run a cell from its fault to the product; return what was seen."""
    steps = one.work(trial)
    told = next(steps)
    assert told is not None
    assert "Traceback" not in told.err, told
    trial.nothing_lost(told)
    job = trial.seen(told)
    said = trial.said(told)
    assert next(steps, None) is None, "a cell has one fault"
    then = trial.finish()
    trial.arrived()
    steps.close()
    return Row(one.fault, str(told.code), job, said, one.mend, then)


@dataclass
class Trial:
    """A job whose tool meets the fault, and what it must not lose.

    Attributes:
        daq: the tools.
        more: configuration of the cell.
    """

    daq: Daq
    more: dict[str, Any] = field(default_factory=dict)

    stage = ""

    def __post_init__(self) -> None:
        self.contents: set[str] = set()
        self.boxes: list[Path] = []
        self.text = b""
        self.words: list[tuple[str, str]] = []
        for name in ("data", "archive"):
            (self.daq.folder / name).mkdir()
        self.boxes.append(self.daq.folder / "archive")

    @property
    def data(self) -> Path:
        """Where the sources are."""
        return self.daq.folder / "data"

    @property
    def box(self) -> Path:
        """The receiver."""
        return self.boxes[0]

    @property
    def spools(self) -> list[Path]:
        return [self.daq.spool]

    def settings(self, **keys: Any) -> None:
        """Configure the tools; what is None goes back to its default."""
        self.more = {key: value for key, value in {**self.more, **keys}.items()
                     if value is not None}
        configure(self.daq, **{"retry": {"first_sec": 0}, "breaker": {"failures": 3}, **self.more})

    def run(self, stage: str = "", **env: str) -> Result:
        return self.daq.run(f"daq-{stage or self.stage}", "--job", JOB, env=env or None)

    # -- what must hold ------------------------------------------------------------------------

    def places(self) -> list[str]:
        return [place for place, ids in self.daq.tree().items() if JOB in ids]

    def nothing_lost(self, told: Result) -> None:
        """The job is there, once, as it was; nothing has a final name that is not whole."""
        places = self.places()
        assert len(places) == 1, f"the job is in {places}\n{told}"
        file = self.daq.spool / places[0] / f"{JOB}.json"
        assert file.read_bytes() == self.text, "the job file was changed"
        for spool in self.spools:
            assert unfinished(spool) == [], told
        assert not fsops.is_locked(str(self.daq.spool / "lock" / JOB)), "its lock is held"
        for path in self.sources():
            assert digest(path) in self.contents, f"{path} is not what was there"
        self.receivers_are_whole()

    def sources(self) -> list[Path]:
        return [path for spool in self.spools
                for path in (spool / "data" / JOB / "sources").glob("[!.]*")]

    def products(self) -> list[Path]:
        return [path for spool in self.spools for path in (spool / "result").glob("[!.]*")]

    def receivers_are_whole(self) -> None:
        whole = self.contents | set(map(digest, self.products()))
        for box in self.boxes:
            for path in box.glob("[!.]*"):
                assert digest(path) in whole, f"half of something at {path}"

    # -- what is seen --------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        made: dict[str, Any] = self.daq.run("daq-status", "--json", JOB).ok().json()
        return made

    def alerts(self) -> list[str]:
        return [alert["id"] for alert in json.loads(self.status()["message"])]

    def seen(self, told: Result) -> str:
        """Return where the job lies, in words."""
        place, = self.places()
        words = [f"`{place}/`"]
        if place == self.stage and told.code:
            words.append("the try counts" if self.status()["tries"] else "no try counts")
        names = dict.fromkeys(name.partition(":")[0] for name in self.alerts())
        words += [f"alert `{name}`" for name in names]
        return ", ".join(words)

    def said(self, told: Result) -> str:
        lines = [line for line in told.err.splitlines()
                 if line.strip() and (told.code or "not delivered" in line)]
        return plain(lines[-1], self.known()) if lines else "–"

    def known(self) -> list[tuple[str, str]]:
        folder = str(self.daq.folder)
        return [*self.words, (f"{self.daq.spool}", "SPOOL"), (folder, "")]

    # -- how it goes on ------------------------------------------------------------------------

    def finish(self) -> str:
        """Do what the error line says about the job; return it in words."""
        then, place = self.give_back()
        while place != "done":
            self.run(place).ok()
            place = NEXT[place]
        return then

    def give_back(self) -> tuple[str, str]:
        place, = self.places()
        if place == "failed":
            os.rename(self.daq.spool / "failed" / f"{JOB}.json",
                      self.daq.spool / self.stage / f"{JOB}.json")
            return f"`mv failed/ID.json {self.stage}/`", self.stage
        if place == "done" and self.alerts():
            self.run("release").ok()
            return "`daq-release --job ID`", "done"
        return BY_ITSELF if place == self.stage else NOTHING, place

    def arrived(self) -> None:
        """The product is there, once, and so are its deliveries; nothing else is left."""
        assert self.places() == ["done"]
        assert self.alerts() == [], "an alert stays"
        product, = self.products()
        self.check_product(product)
        for box in self.boxes:
            found = list(box.iterdir())
            assert [path.name for path in found] == [f"{FILE_ID}.fits"], found
            assert digest(found[0]) == digest(product)
        receipts = [event["receiver"] for event in self.daq.history(JOB)
                    if event["event"] == "delivered"]
        assert len(receipts) == len(set(receipts)) == len(self.boxes), receipts
        for spool in self.spools:
            assert unfinished(spool) == []
            left = [path for place in ("data", "result", *NEXT) for path in (
                spool / place).rglob(".*") if path.name.startswith((".tmp-", ".fetch-"))]
            assert left == [], left

    def check_product(self, product: Path) -> None:
        """Compare it with what it was made of."""
        raise AssertionError("each kind of trial has a way of its own")


class Collecting(Trial):
    """A job of two files, one of which is in trouble, in ``collect/``."""

    stage = "collect"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.good = make_fits(self.data / "good.fits", name="GOOD", shape=(5, 6))
        self.contents.add(digest(self.good))

    @property
    def origin(self) -> Path:
        return self.data / "a.fits"

    def make(self, *, size: int = 10, first: int = 0, checksum: bool = False) -> Path:
        """Make, or make anew, the file that is in trouble; 200 bytes for each of ``size``."""
        import numpy
        from astropy.io import fits

        pixels = (numpy.arange(size * 50, dtype="int32") + first).reshape(size, 50)
        embryo = self.data / ".a"
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels, name="A")]).writeto(
            embryo, checksum=checksum)
        embryo.rename(self.origin)
        self.contents.add(digest(self.origin))
        return self.origin

    def submit(self, location: object = "", **settings: Any) -> None:
        """Put the job into ``collect/``."""
        self.settings(**settings)
        path = self.daq.drop("collect", JOB, {
            "fileId": FILE_ID, "sources": [
                {"type": "fitsFile", "sourceName": "a", "location": str(location or self.origin)},
                {"type": "fitsFile", "sourceName": "good", "location": str(self.good)}],
            "receivers": [{"type": "olasReceiver", "path": str(self.box)}]})
        self.text = path.read_bytes()

    def check_product(self, product: Path) -> None:
        """Compare its data with the sources'."""
        from astropy.io import fits

        with fits.open(product) as made:
            data = [hdu.data.tobytes() for hdu in made if hdu.data is not None]
        wanted = [fits.getdata(path, 1).tobytes() for path in (self.origin, self.good)]
        assert data == wanted


class Releasing(Trial):
    """A job whose product is to be delivered."""

    stage = "release"

    def submit(self, *receivers: dict[str, Any], required: bool = False, **settings: Any) -> None:
        """Put the job into ``release/``; without receivers there is one, the directory."""
        from releasing import olas, put

        self.settings(release={"required": required, **settings.pop("release", {})}, **settings)
        self.product = put(self.daq, *(receivers or [olas(self.box)]), by="job")
        self.before = digest(self.product)
        self.text = (self.daq.spool / "release" / f"{JOB}.json").read_bytes()

    def check_product(self, product: Path) -> None:
        """It is the one that was merged."""
        assert digest(product) == self.before

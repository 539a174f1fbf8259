"""A merge with a target that has room in its headers, for tests of the ways of building."""

from __future__ import annotations

import os
from pathlib import Path

from daq_merge import build, undo
from daq_merge.how import How
from daqlib import fitsfile
from merge_samples import file_source, image, keyword_source, primary, specification, value

ROOM = [""] * 40
KEYS = keyword_source("k", *[value(f"KEY{n}", n) for n in range(30)])
SEAL = (b"CHECKSUM", b"DATASUM ")


class Case:
    """A target with room in its header, another source, and what they are made of."""

    def __init__(self, folder: Path, *room: str, data: int = 40_000) -> None:
        self.folder = folder
        self.target = folder / "t.fits"
        self.target.write_bytes(
            primary("OBJECT  = 'target'", *(room or ROOM)) + image(os.urandom(data), *ROOM)
            + image(b"abc", *ROOM) + image(b"", *ROOM))
        self.other = folder / "b.fits"
        self.other.write_bytes(primary() + image(os.urandom(data)) + image(b"z"))
        self.out = folder / "out.fits"
        self.document = specification(KEYS, file_source("b", self.other),
                                      target=file_source("a", self.target))

    def state(self):
        status = self.target.stat()
        return (self.target.read_bytes(), status.st_mtime_ns, status.st_ino, status.st_mode,
                self.other.read_bytes(), sorted(os.listdir(self.folder)))

    def build(self, *args, progress=None, **more):
        how = How(*args, product=str(self.folder / "final.fits"), **more)
        return build.build(self.document, "/", str(self.out), how, progress=progress)

    def product(self, *args, **more):
        """Build, name, and return the bytes, with what is told of them."""
        result = self.build(*args, **more)
        made = Path(result.path).read_bytes()
        assert len(made) == result.size == Path(result.path).stat().st_size
        return made, result


def undone(case, result):
    result.release()
    assert undo.restore(str(case.target)) is True
    assert undo.restore(str(case.target)) is False


def seal_cards(path, index):
    return {c[:8]: c for c in fitsfile.read_structure(str(path)).hdus[index].cards
            if c[:8] in SEAL}

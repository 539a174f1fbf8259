"""Merges by the hundred, each judged: a faithful product, or a clear refusal that leaves no trace.

``Worker`` runs daq-merge in forked children of one process that has its modules loaded: some 10 ms
a merge instead of 80, each with little memory and little time. That process is this file, run as a
script. ``Trials`` makes a folder with the files, merges, and judges what is there afterwards.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pkgutil
import re
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 1 << 20
#: Address space of a merge, bytes: a header may announce any size, nobody may believe it.
ROOM = 400 * MIB
#: What a merge may hold of memory, bytes: whatever comes, and whatever data come.
MEMORY, LITTLE = 64 * MIB, 48 * MIB
#: Seconds of life of a merge; only a hang takes them.
LIFE_S = 120
#: What a merge may answer when it does not make a product (manual page, "EXIT STATUS").
REFUSALS = (73, 74, 75, 77, 110, 111, 112)
#: What it may also answer when it is told a way that is not possible here.
NO_WAY = 78
#: The modification time of all inputs, ns: long ago, so that a change shows.
MTIME = 1_600_000_000_123_456_789

TARGET, SOURCE, PRODUCT = "case.fits", "case.fits", "product.fits"
MORE, LAST = "more.fits", "last.fits"
#: How the keywords of the specification begin in the product.
GIVEN = (b"GIVENKEY= 'O''Neil ", b"HIERARCH ESO GEN GIVEN ")
NAME = "TEST.2026-11-21T02:30:00.123"
WAYS = ("new", "in-place")
IN_PLACE = ("in-place", "insert")


@dataclass
class Outcome:
    """How a merge ended.

    Attributes:
        words: its arguments.
        code: exit code; negative for a signal.
        out: what it printed.
        err: what it said.
        peak: most memory that it held, bytes.
    """

    words: list[str]
    code: int
    out: str
    err: str
    peak: int

    def __str__(self) -> str:
        return f"daq-merge {' '.join(self.words)}\n  code {self.code}, {self.peak // MIB} MiB\n" \
               f"  stdout: {self.out!r}\n  stderr: {self.err!r}"


class Worker:
    """The front of the process that merges; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "worker.out", folder / "worker.err"
        checkout = Path(__file__).resolve().parent.parent
        path = [checkout / "lib", *(checkout / "tools").glob("daq-*")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC",
                            "PYTHONPATH": ":".join(map(str, path)), "HOME": str(folder),
                            "TMPDIR": str(folder), "SOURCE_DATE_EPOCH": "1795228200"})

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def merge(self, *arguments: object, room: int = ROOM) -> Outcome:
        """Run daq-merge to its end."""
        words = list(map(str, arguments))
        request = {"words": words, "out": str(self._out), "err": str(self._err), "room": room}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the worker is gone, see its words on stderr"
        code, peak = json.loads(answer)
        return Outcome(words, code, self._out.read_text(errors="replace"),
                       self._err.read_text(errors="replace"), peak)


@dataclass
class Trial:
    """A merge and what it left.

    Attributes:
        folder: with the inputs and, perhaps, the product.
        outcome: how it ended.
        wrong: what is wrong, in words; empty when the product is faithful or the refusal clean.
        in_place: whether the target itself became the product.
    """

    folder: Path
    outcome: Outcome
    wrong: list[str] = field(default_factory=list)
    in_place: bool = False

    @property
    def merged(self) -> bool:
        """Whether there is a product."""
        return self.outcome.code == 0

    @property
    def product(self) -> Path:
        """Where the product is, if any."""
        return self.folder / PRODUCT

    def told(self) -> str:
        """Everything about it, for the message of a failed test."""
        return "\n  ".join([f"{self.folder}: {self.outcome}", *self.wrong])


class Trials:
    """Makes trials, each in a folder of its own."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        self._worker = worker
        self._folder = folder
        self._numbers = itertools.count()

    def target(self, blob: bytes, *options: str) -> Trial:
        """Merge a file as the target, another file's extensions and keywords into it."""
        return self.run({TARGET: blob, MORE: companion()}, TARGET, [MORE], *options)

    def source(self, blob: bytes, *options: str) -> Trial:
        """Merge a file as a source beside another one into a new product."""
        return self.run({SOURCE: blob, MORE: companion()}, None, [SOURCE, MORE], *options)

    def image(self, blob: bytes, *options: str) -> Trial:
        """Merge a file as a source whose primary data become an extension, without a target."""
        return self.run({SOURCE: blob, MORE: companion()}, None, [SOURCE, MORE], *options,
                        images=True)

    def beside(self, blob: bytes, *options: str) -> Trial:
        """The same, into a target that has room."""
        return self.run({TARGET: roomy(), MORE: blob, LAST: companion()}, TARGET, [MORE, LAST],
                        *options, images=True)

    def run(self, files: dict[str, bytes], target: str | None, sources: Sequence[str],
            *options: str, images: bool = False) -> Trial:
        """Merge files and judge what is there afterwards.

        Args:
            files: name -> content.
            target: name of the target, or None.
            sources: names of the sources.
            options: of daq-merge.
            images: primary data of sources become extensions.
        """
        folder = self._folder / f"{next(self._numbers):04d}"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
            os.utime(folder / name, ns=(MTIME, MTIME))
        document = specification(target, sources, images)
        (folder / "spec.json").write_text(json.dumps(document))
        before = picture(folder)
        made = Trial(folder, self._worker.merge(folder / "spec.json", "-o", PRODUCT, *options))
        judge(made, before, files, target, sources, options, images)
        return made


def specification(target: str | None, sources: Sequence[str], images: bool = False
                  ) -> dict[str, Any]:
    """Return a Data Product Specification of files, with some keywords."""
    from merge_samples import eso, file_source, keyword_source, value
    from merge_samples import specification as specified

    keywords = keyword_source("ocm", value("GIVENKEY", "O'Neil"), eso("GEN GIVEN", 42))
    base = file_source("target", target, alertUnmergeable=False) if target else None
    more = {"primaryData": "extension"} if images else {}
    listed = [file_source(f"s{number}", name, alertUnmergeable=False, **more)
              for number, name in enumerate(sources)]
    return specified(keywords, *listed, target=base)


def companion() -> bytes:
    """Return a small sound file."""
    from merge_samples import image, primary

    return primary("MORE    =                    1") + image(
        bytes(range(100)), "EXTNAME = 'COMPANION'")


def roomy() -> bytes:
    """Return a small sound file with data in its primary HDU and room in its headers."""
    from merge_samples import image

    return image(bytes(range(200)), "OWN     =                    1", *[""] * 100,
                 first="SIMPLE  =                    T") + image(b"x", *[""] * 9)


Picture = dict[str, tuple[bytes, int, int]]


def picture(folder: Path) -> Picture:
    """Return content, time of modification and inode of every file of a folder."""
    found = {}
    for path in folder.iterdir():
        status = path.lstat()
        found[path.name] = (path.read_bytes(), status.st_mtime_ns, status.st_ino)
    return found


def judge(trial: Trial, before: Picture, files: dict[str, bytes], target: str | None,
          sources: Sequence[str], options: Sequence[str], images: bool = False) -> None:
    """Note what is wrong with the outcome of a merge and with what it left."""
    after = picture(trial.folder)
    if not trial.merged:
        trial.wrong += refusal_trouble(trial.outcome, "clone" in options)
    elif PRODUCT not in after:
        trial.wrong.append("there is no product")
    else:
        trial.wrong += _product_trouble(after.pop(PRODUCT), files, target, sources, options,
                                        images)
        if target not in after and any(way in options for way in IN_PLACE):
            trial.in_place = True
            before = {name: what for name, what in before.items() if name != target}
    if trial.outcome.peak > MEMORY:
        trial.wrong.append("took too much memory")
    if "Traceback" in trial.outcome.err:
        trial.wrong.append("a traceback")
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            trial.wrong.append(f"{name}: {_difference(before.get(name), after.get(name))}")


def refusal_trouble(outcome: Outcome, picky: bool) -> list[str]:
    """Return what is wrong with a refusal: its code, or that it is not one clear line."""
    wrong = []
    if outcome.code not in REFUSALS and not (picky and outcome.code == NO_WAY):
        wrong.append(f"code {outcome.code} is no refusal")
    lines = outcome.err.splitlines()
    if not outcome.err.startswith("daq-merge: ") or len(lines) != 1 or len(lines[0]) < 30:
        wrong.append("the refusal is not one clear line")
    if outcome.out:
        wrong.append("a refusal printed something")
    return wrong


def _product_trouble(product: tuple[bytes, int, int], files: dict[str, bytes], target: str | None,
                     sources: Sequence[str], options: Sequence[str], images: bool) -> list[str]:
    import fits_check

    if any(card not in product[0] for card in GIVEN):
        return ["a keyword of the specification is not there"]
    try:
        return fits_check.compare(
            product[0], None if target is None else files[target],
            [files[name] for name in sources], names=(f"{NAME}.fits", f"{NAME}.fits"),
            stamp_all="all" in options, images=[f"s{n}" for n in range(len(sources))]
            if images else [])
    except fits_check.Unreadable as error:
        return [f"a product of what is no FITS file: {error}"]


def _difference(before: tuple[bytes, int, int] | None, after: tuple[bytes, int, int] | None) -> str:
    if before is None or after is None:
        return "was left behind" if before is None else "is gone"
    words = ("content", "time of modification", "inode")
    return "another " + ", ".join(
        word for word, old, new in zip(words, before, after, strict=True) if old != new)


def readable(blob: bytes) -> str:
    """Return why a file cannot be merged, or an empty text."""
    import fits_check

    try:
        fits_check.units(fits_check.plain(blob))
    except fits_check.Unreadable as why:
        return str(why) or "unreadable"
    return ""


def merge(trials: Trials, role: str, blob: bytes, *options: str) -> Trial:
    """Merge a file as ``target`` or ``source``; nothing may be wrong with what comes of it."""
    made: Trial = getattr(trials, role)(blob, *options)
    assert made.wrong == [], made.told()
    return made


def ways(role: str) -> tuple[str, ...]:
    """Return the ways that differ for a role and work on every file system."""
    return WAYS if role in ("target", "beside") else ("new",)


# -- what others say ------------------------------------------------------------------------------


def fitsverify(paths: Sequence[Path]) -> list[int]:
    """Return how many errors fitsverify finds in each file; nothing when it crashes over one."""
    done = subprocess.run(["fitsverify", "-e", "-q", *map(str, paths)], capture_output=True,
                          check=False)
    said = done.stdout.decode("latin-1")
    found = re.findall(r"^verification (?:OK: |FAILED: .*? (\d+) errors)", said, re.MULTILINE)
    if done.returncode < 0:
        return []
    assert len(found) == len(paths), said
    return [int(count or 0) for count in found]


def astropy_trouble(path: Path) -> str:
    """Return what astropy finds wrong with a file or its sums, or an empty text."""
    import warnings

    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with fits.open(path, checksum=True, disable_image_compression=True,
                           do_not_scale_image_data=True) as hdus:
                sums = [(hdu.verify_checksum(), hdu.verify_datasum()) for hdu in hdus]
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "" if all(pair == (1, 1) for pair in sums) else f"sums {sums}"


def astropy_renders(path: Path) -> bool:
    """Whether astropy writes every header of a file as it is there: else its sums are others."""
    import warnings

    from astropy.io import fits

    blob = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with fits.open(path, disable_image_compression=True) as hdus:
                return all(
                    hdu.header.tostring().encode() == blob[info["hdrLoc"]:info["datLoc"]]
                    for hdu in hdus for info in [hdu.fileinfo()])
        except Exception:
            return False


# -- the process that merges ----------------------------------------------------------------------


def _child(request: dict[str, Any]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        fd = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(fd, number)
        os.close(fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_AS, (request["room"], request["room"]))
    signal.alarm(LIFE_S)
    sys.argv = ["daq-merge"]
    code = 70
    try:
        code = importlib.import_module("daq_merge.__main__").main(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    package = importlib.import_module("daq_merge")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in ("eso", "stagework"):
            importlib.import_module(f"daq_merge.{module.name}")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        _, status, usage = os.wait4(pid, 0)
        answer = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()

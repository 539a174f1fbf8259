"""daq-merge --verify: whether a product is whole, true to its sums, and the one of its manifest.

The bytes are read once, in order; digest and sums are taken from the same pass.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daq_merge import record
from daqlib import checksum, cli, errors, fitsfile, fsops, manifest, names, spool

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from daqlib.fitsfile import FitsFile, Hdu

Document = dict[str, Any]

_BUFFER = 512 * 1024
_GZIP = b"\x1f\x8b"
#: Member of a manifest's HDU -> how to call it.
_FACTS = {"kind": "kind", "extname": "EXTNAME", "header": "size of its header",
          "data": "size of its data", "datasum": "DATASUM", "checksum": "CHECKSUM"}
#: Of several files the worst code counts, the first of these.
_RANK = (errors.BadData.code, errors.IoFailure.code, errors.NoPermission.code, errors.Later.code,
         errors.NoJob.code, errors.NO, errors.OK)


class NoFile(errors.DaqError):
    """A file to verify is not there."""

    code = errors.NoJob.code


@dataclass
class Findings:
    """What verifying a file brought.

    Attributes:
        file: as it was named.
        manifest: the manifest that it was compared with, empty for none.
        hdus: their number, 0 when the structure is broken.
        differences: what is wrong, each with ``hdu`` (None for the file), ``what`` and ``text``.
        damaged: indices of the HDUs that were damaged before they were merged.
    """

    file: str
    manifest: str = ""
    hdus: int = 0
    differences: list[Document] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)

    def add(self, what: str, text: str, hdu: Hdu | None = None) -> None:
        """Note a difference."""
        self.differences.append({"hdu": None if hdu is None else hdu.index, "what": what,
                                 "text": f"{_label(hdu)}: {text}" if hdu else text})


def run(given: argparse.Namespace) -> int:
    """Verify files as the command line says; return 0, 1 when one is not as it should be, or more.

    Codes: 65 compressed or no manifest, 66 missing, 74 not readable, 75 changing, 77 forbidden.
    """
    codes = [_told(path, given.manifest or "", given.json) for path in given.files]
    return min(codes, key=_RANK.index)


def _told(path: str, stated: str, as_json: bool) -> int:
    try:
        found = verify(path, stated, cli.progress(f"verify {os.path.basename(path)}"))
    except errors.DaqError as error:
        return _failed(path, error, as_json)
    except OSError as error:
        return _failed(path, cli.from_os_error(error), as_json)
    if as_json:
        cli.emit({**vars(found), "ok": not found.differences})
    else:
        _say(found)
    return errors.NO if found.differences else errors.OK


def _failed(path: str, error: errors.DaqError, as_json: bool) -> int:
    if as_json:
        cli.emit({"file": path, "ok": False, "code": error.code, "message": error.message,
                  "remedy": error.remedy})
    return cli.fail(error)


def _say(found: Findings) -> None:
    for one in found.differences:
        cli.show(f"{found.file}: {one['text']}")
    if found.damaged:
        listed = ", ".join(map(str, found.damaged))
        cli.warn(f"{found.file}: the data of HDU {listed} did not match the sums of their source "
                 "when they were merged")
    if not found.manifest:
        cli.warn(f"{found.file}: no manifest is known; structure and sums only were verified")
    if not found.differences:
        told = " and the manifest" if found.manifest else ""
        cli.say(f"{found.file}: {found.hdus} HDUs, structure, sums{told} agree")


def verify(path: str, stated: str = "",
           progress: Callable[[int, int], None] = lambda done, total: None) -> Findings:
    """Verify one file.

    Args:
        path: the product.
        stated: its manifest; empty: that of the spool in whose ``result/`` it lies, if any.
        progress: told the bytes read and the bytes in all.

    Raises:
        NoFile: it is not there.
        errors.BadData: it is compressed, or ``stated`` is no manifest of a merge.
        errors.Later: it changed meanwhile.
        OSError: it cannot be read.
    """
    found = Findings(path)
    try:
        _refuse_compressed(path)
        file = fitsfile.read_structure(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoFile(f"{path}: there is no such file", "name a product") from error
    except _Compressed:
        raise
    except errors.BadData as error:
        found.add("structure", error.message.removeprefix(f"{path}: "))
        _compare_size(found, _expected(found, stated), os.stat(path).st_size)
        return found
    found.hdus = len(file.hdus)
    expected = _expected(found, stated)
    digest = _read(found, file, progress)
    _compare_size(found, expected, file.size)
    if expected.get("sha256") not in (None, digest):
        found.add("sha256", f"SHA-256 is {digest}, the manifest says {expected['sha256']}")
    _compare_parts(found, expected.get("parts", []), file)
    return found


class _Compressed(errors.BadData):
    """A product that somebody has compressed."""


def _refuse_compressed(path: str) -> None:
    fd = fitsfile.open_input(path)
    try:
        if os.pread(fd, 2, 0) == _GZIP:
            raise _Compressed(f"{path}: is compressed by gzip", "unpack it, then verify it")
    finally:
        os.close(fd)


# -- the file itself ------------------------------------------------------------------------------


def _read(found: Findings, file: FitsFile, progress: Callable[[int, int], None]) -> str:
    """Compare every sum with the bytes, and return the SHA-256 of the file."""
    sum_of = checksum.summing(file.size)
    digest, done = hashlib.sha256(), 0
    fd = fitsfile.open_input(file.path)
    try:
        for hdu in file.hdus:
            sums = []
            for begin, end in ((hdu.offset, hdu.data_offset), (hdu.data_offset, hdu.end)):
                total = 0
                for piece in _pieces(fd, begin, end):
                    digest.update(piece)
                    total = checksum.add(total, sum_of(piece))
                    done += len(piece)
                    progress(done, file.size)
                sums.append(total)
            _compare_sums(found, hdu, *sums)
        _check_end(found, file, fd)
    finally:
        os.close(fd)
    return digest.hexdigest()


def _pieces(fd: int, begin: int, end: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(_BUFFER, end - begin)))
    while begin < end:
        count = os.preadv(fd, [buffer[:end - begin]], begin)
        if not count:
            return
        # the sum goes by words of four bytes: a read that ends within one is completed
        while count % 4 and (more := os.preadv(fd, [buffer[count:end - begin]], begin + count)):
            count += more
        yield buffer[:count]
        begin += count


def _check_end(found: Findings, file: FitsFile, fd: int) -> None:
    if fitsfile.identity(fd) != file.identity:
        raise errors.Later(f"{file.path}: changed while it was verified",
                           "verify it again when it is complete")
    if file.size != file.hdus[-1].end:
        missing = file.hdus[-1].end - file.size
        found.add("structure", f"its last block is short by {missing} bytes", file.hdus[-1])


def _compare_sums(found: Findings, hdu: Hdu, header: int, data: int) -> None:
    stated = record.text(hdu, b"DATASUM ")
    if not stated:
        found.add("datasum", "has no DATASUM", hdu)
    elif not (stated.isascii() and stated.isdigit()) or _differ(int(stated), data):
        found.add("datasum", f"DATASUM is '{stated}', the data sum to {data}", hdu)
    if not record.text(hdu, b"CHECKSUM"):
        found.add("checksum", "has no CHECKSUM", hdu)
    elif _differ(checksum.add(header, data), 0):
        found.add("checksum", "CHECKSUM does not match header and data", hdu)


def _differ(one: int, other: int) -> bool:
    # 0 and 2^32 - 1 are the same number in this arithmetic
    return one % 0xFFFFFFFF != other % 0xFFFFFFFF


def _label(hdu: Hdu) -> str:
    name = record.text(hdu, b"EXTNAME ")
    return f"HDU {hdu.index} ({name})" if name else f"HDU {hdu.index}"


# -- the manifest ---------------------------------------------------------------------------------


def _compare_size(found: Findings, expected: Document, size: int) -> None:
    if expected.get("size") not in (None, size):
        found.add("size", f"size is {size} bytes, the manifest says {expected['size']}")


def _compare_parts(found: Findings, parts: list[Document], file: FitsFile) -> None:
    if parts and len(parts) != len(file.hdus):
        found.add("hdus", f"has {len(file.hdus)} HDUs, the manifest says {len(parts)}")
    for part, hdu in zip(parts, file.hdus, strict=False):
        now = record.facts(hdu)
        for member, name in _FACTS.items():
            if member in part and part[member] != now[member]:
                found.add(member, f"{name} is {now[member]!r}, the manifest says "
                          f"{part[member]!r}", hdu)
        if part.get("damaged"):
            found.damaged.append(hdu.index)


def _expected(found: Findings, stated: str) -> Document:
    """Return the ``result`` of the manifest; empty when none is known."""
    path = stated or _of_spool(found.file)
    document = manifest.read(path) if path else None
    result = (document or {}).get("result")
    if isinstance(result, dict) and isinstance(result.get("sha256"), str):
        if stated or result.get("product") == os.path.basename(_resolved(found.file)):
            found.manifest = path
            return result
    elif stated:
        raise errors.BadData(f"{stated} is no manifest of a product",
                             "name the file that --manifest wrote, or data/ID/merge.json")
    return {}


def _resolved(path: str) -> str:
    """Return where a symbolic link such as ``data/ID/result`` leads, with its own directory."""
    return os.path.join(os.path.dirname(path), os.readlink(path)) if os.path.islink(path) else path


def _of_spool(path: str) -> str:
    """Return the manifest of a product in a spool's ``result/``, found by its file id."""
    for place in (os.path.abspath(_resolved(path)), os.path.realpath(path)):
        folder, name = os.path.split(place)
        root = os.path.dirname(folder)
        if os.path.basename(folder) != "result" or not os.path.exists(
                os.path.join(root, spool.MARKER)):
            continue
        job = _owner(root, _file_ids(place, name.removesuffix(".fits")))
        return os.path.join(root, "data", job, "merge.json") if job else ""
    return ""


def _file_ids(path: str, stem: str) -> Iterator[str]:
    """Yield what the product's file id may be: by its header, or if that is damaged by its name."""
    fd = fitsfile.open_input(path)
    try:
        yield record.text_in(os.pread(fd, _BUFFER, 0), b"ARCFILE ").removesuffix(".fits")
    finally:
        os.close(fd)
    # the name is prefix and file id, and either may hold what the other may
    yield from (stem[at:] for at in range(len(stem)))


def _owner(root: str, candidates: Iterator[str]) -> str:
    """Return the job that has reserved one of these file ids in a spool."""
    for file_id in candidates:
        try:
            path = os.path.join(root, "log", f".file-{names.check_id(file_id)}")
            return names.check_id(fsops.read_regular(path)[0].decode("ascii", "replace").strip())
        except (OSError, errors.BadData):
            continue
    return ""

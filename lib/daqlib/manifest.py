"""The manifest of a stage, ``data/ID/STAGE.json``: what came out, from which inputs.

It is written last, whole and durably. While it is true, the stage has nothing to do but move the
job on; that makes every stage harmless to repeat.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from daqlib import __version__, clock, fsops

Document = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """A file that a stage made.

    Attributes:
        path: relative to the job's data directory.
        size: bytes.
        mtime_ns: modification time in nanoseconds.
        sha256: hexadecimal digest of the content; empty for a collected file.
        sum: of a collected file, as :mod:`daqlib.fitssums` takes it; None when its bytes did not
            pass through our hands (it was linked).
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str = ""
    sum: int | None = None


def output(folder: str, path: str, sha256: str = "") -> Output:
    """Describe a file as it is now.

    Args:
        folder: the job's data directory.
        path: of the file, absolute or relative to ``folder``.
        sha256: its digest when it is known already.
    """
    absolute = os.path.join(folder, path)
    status = os.stat(absolute)
    return Output(os.path.relpath(absolute, folder), status.st_size, status.st_mtime_ns,
                  sha256 or fsops.sha256(absolute))


def collected(folder: str, path: str, sum: int | None) -> Output:
    """Describe a collected file as it is now, without reading it.

    Args:
        folder: the job's data directory.
        path: of the file, relative to ``folder``.
        sum: of its bytes, if it was taken.
    """
    status = os.stat(os.path.join(folder, path))
    return Output(path, status.st_size, status.st_mtime_ns, sum=sum)


def write(path: str, job: str, stage: str, tool: str, inputs: dict[str, str],
          outputs: list[Output], result: Document, *, replace: bool = True) -> None:
    """Write a manifest durably, replacing an earlier one whole.

    Args:
        path: of the manifest.
        job: the job's id.
        stage: its stage.
        tool: the tool that did the work.
        inputs: digest (SHA-256, hexadecimal) of each input by name.
        outputs: the files made.
        result: what the stage has to say to the next one.
        replace: whether an earlier one may be replaced.

    Raises:
        FileExistsError: there is one, and it may not be replaced.
        OSError: it cannot be written.
    """
    document = {
        "id": job, "stage": stage, "tool": f"{tool} {__version__}",
        "time": clock.iso(clock.now()) + "Z", "inputs": inputs,
        "outputs": [_told(item) for item in outputs], "result": result,
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    # a name whose bytes are not UTF-8 is kept by the escapes that JSON has, which Python reads back
    fsops.put(path, text.encode("utf-8", "backslashreplace") + b"\n", replace=replace)


def _told(item: Output) -> Document:
    return {key: value for key, value in vars(item).items() if value not in ("", None)}


def read(path: str) -> Document | None:
    """Return a manifest, or None when there is none that can be read."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read())
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def digest(path: str) -> str:
    """Return the digest of a small file, or an empty text when it is not there."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return ""


def still_true(manifest: Document | None, folder: str, inputs: dict[str, str], *,
               verify: bool = False) -> bool:
    """Tell whether a manifest describes these inputs and outputs that are still there.

    Args:
        manifest: from :func:`read`.
        folder: the job's data directory.
        inputs: the digests of today's inputs.
        verify: compare the outputs' content, not only their size and mtime.
    """
    if manifest is None or manifest.get("inputs") != inputs:
        return False
    return all(is_true(item, folder, verify=verify) for item in manifest.get("outputs", []))


def is_true(item: Document, folder: str, *, verify: bool = False) -> bool:
    """Tell whether an output of a manifest is there as it was; see :func:`still_true`."""
    path = os.path.join(folder, item["path"])
    try:
        status = os.stat(path)
    except OSError:
        return False
    if (status.st_size, status.st_mtime_ns) != (item["size"], item["mtime_ns"]):
        return False
    return not verify or has_content(path, item)


def has_content(path: str, known: Document) -> bool:
    """Tell whether a file has the content that is known of it.

    Args:
        path: of the file.
        known: ``sha256`` or ``sum`` of its content; with neither the sums that it states itself
            have to be right.

    Raises:
        OSError: it cannot be read.
    """
    if known.get("sha256"):
        return fsops.sha256(path) == str(known["sha256"])
    from daqlib import fitssums

    if known.get("sum") is not None:
        return fitssums.total(path) == int(known["sum"])
    return fitssums.is_sound(path)

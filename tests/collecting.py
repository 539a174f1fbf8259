"""The vocabulary of the tests of daq-collect: put a job there, run the tool, look at the files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harness import Daq, Result

Document = dict[str, Any]


def put(daq: Daq, *locations: object, job: str = "J1", **members: object) -> str:
    """Drop a job into collect/ whose sources s0, s1, ... are these files; return its id."""
    sources = [{"type": "fitsFile", "sourceName": f"s{n}", "location": str(location)}
               for n, location in enumerate(locations)]
    daq.drop("collect", job, {"sources": sources, **members})
    return job


def collect(daq: Daq, *arguments: str, job: str = "J1", **options: Any) -> Result:
    """Run the tool on a job."""
    return daq.run("daq-collect", "--job", job, *arguments, **options)


def sources(daq: Daq, job: str = "J1") -> dict[str, Path]:
    """Return the collected files by name."""
    folder = daq.spool / "data" / job / "sources"
    return {path.name: path for path in folder.iterdir() if not path.name.startswith(".")}


def document(daq: Daq, name: str, job: str = "J1") -> Document:
    """Return a JSON file of the job's data directory."""
    made: Document = json.loads((daq.spool / "data" / job / name).read_text())
    return made


def total(path: Path) -> int:
    """Return the ones'-complement sum of a file's 32-bit words, by the definition."""
    data = path.read_bytes()
    data += b"\0" * (-len(data) % 4)
    words = sum(int.from_bytes(data[at:at + 4], "big") for at in range(0, len(data), 4))
    while words >> 32:
        words = (words & 0xFFFFFFFF) + (words >> 32)
    return words


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""FITS input for the tests of the merger: files that others wrote, and headers made by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

BLOCK, CARD = 2880, 80


def _folder() -> Path:
    # found without importing astropy, which takes half a second
    spec = importlib.util.find_spec("astropy")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "io" / "fits" / "tests" / "data"


FOLDER = _folder()
#: Every sample that ships with astropy; nobody of this project wrote them.
SAMPLES = sorted(FOLDER.glob("*.fits"))


def sample(name: str) -> Path:
    """The path of a sample."""
    return FOLDER / name


def header(*lines: str) -> bytes:
    """A header of these cards, END and fill."""
    raw = b"".join(line.ljust(CARD).encode("latin-1") for line in (*lines, "END"))
    return raw + b" " * (-len(raw) % BLOCK)


def primary(*lines: str) -> bytes:
    """An HDU without data."""
    return header("SIMPLE  =                    T", "BITPIX  =                    8",
                  "NAXIS   =                    0", *lines)


def image(data: bytes, *lines: str, first: str = "XTENSION= 'IMAGE   '") -> bytes:
    """An HDU with one row of bytes."""
    extra = [] if first.startswith("SIMPLE") else [
        "PCOUNT  =                    0", "GCOUNT  =                    1"]
    return header(first, "BITPIX  =                    8", "NAXIS   =                    1",
                  f"NAXIS1  = {len(data):20}", *extra, *lines) + data + bytes(-len(data) % BLOCK)


def file_source(name: str, location: Path | str, **more: Any) -> dict[str, Any]:
    """A source of type fitsFile."""
    return {"type": "fitsFile", "sourceName": name, "location": str(location), **more}


def keyword_source(name: str, *keywords: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A source of type fitsKeywords."""
    return {"type": "fitsKeywords", "sourceName": name, "keywords": list(keywords), **more}


def value(name: str, what: Any, **more: Any) -> dict[str, Any]:
    """A value keyword."""
    return {"type": "valueKeyword", "name": name, "value": what, **more}


def eso(name: str, what: Any, **more: Any) -> dict[str, Any]:
    """An ESO keyword."""
    return {"type": "esoKeyword", "name": name, "value": what, **more}


def literal(card: str) -> dict[str, Any]:
    """A literal keyword."""
    return {"type": "literalKeyword", "value": card}


def specification(*sources: dict[str, Any], target: dict[str, Any] | None = None,
                  **more: Any) -> dict[str, Any]:
    """A Data Product Specification."""
    into = {"fileId": "TEST.2026-11-21T02:30:00.123", **({"source": target} if target else {})}
    return {"id": "job", "sources": list(sources), "target": into, **more}

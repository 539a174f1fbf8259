"""The one clock of the project, so that tests can hold it still.

``SOURCE_DATE_EPOCH`` (seconds since the Unix epoch, the convention of reproducible builds)
freezes the time written into FITS headers; spool times always follow the real clock.
"""

from __future__ import annotations

import os
import time

_MS = 1000


def now() -> float:
    """Return the time in seconds since the Unix epoch."""
    return time.time()


def monotonic_of(seconds: float) -> float:
    """Return a time of day as one of :func:`time.monotonic`; one yet to come is now.

    Args:
        seconds: since the Unix epoch.
    """
    return time.monotonic() - max(0.0, now() - seconds)


def header_time() -> float:
    """Return the time to write into FITS headers: ``SOURCE_DATE_EPOCH`` when set, else now."""
    frozen = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        return float(frozen)
    except ValueError:
        return now()


def iso(seconds: float, digits: int = 3) -> str:
    """Format a time as ISO 8601 UTC without zone, ``YYYY-MM-DDThh:mm:ss[.sss]``.

    Args:
        seconds: since the Unix epoch.
        digits: decimals of the second, 0 or 3 (the file id has 3, ESO-396401 section 1.3).
    """
    ms = int(seconds * _MS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // _MS))
    return f"{text}.{ms % _MS:03d}" if digits else text


def from_iso(text: str) -> float:
    """Return the seconds since the epoch of a time written by :func:`iso` (``Z`` allowed).

    Raises:
        ValueError: the text is no such time.
    """
    import calendar

    body, _, fraction = text.rstrip("Z").partition(".")
    whole = calendar.timegm(time.strptime(body, "%Y-%m-%dT%H:%M:%S"))
    return whole + (int(fraction) / 10 ** len(fraction) if fraction else 0.0)

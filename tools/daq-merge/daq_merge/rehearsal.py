"""What a dry run says of the way of building: refused, another way, or how much it will add.

It asks as the merge itself does, but with a file that has no name and is gone at once.
"""

from __future__ import annotations

import os

from daq_merge import inplace, reflink, sharing, ways
from daqlib import fitsfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daq_merge.how import How
    from daq_merge.layout import Input
    from daq_merge.plan import Plan


def rehearse(planned: Plan, how: How) -> list[str]:
    """Foresee the way of building; room that the way adds is added to the plan.

    Args:
        planned: the product.
        how: how it is to be built, and its final path.

    Returns:
        Sentences for people: why it will be built in another way.

    Raises:
        ways.Impossible: it cannot be built in this way.
        OSError: a file cannot be asked.
    """
    base = planned.base
    if how.way == "clone":
        reason = ways.unfit(planned, base) or _not_cloned(base, how.product)
        if reason:
            raise ways.Impossible(f"{how.product} cannot be a clone of the merge target: {reason}",
                                  "build it in another way")
    elif how.way in ("in-place", "insert"):
        reason = _not_in_place(planned, base, how)
        return [f"a new file would be written: {reason}"] if reason else []
    elif how.way == "share":
        return _not_shared(planned, how.product)
    return []


def _not_in_place(planned: Plan, base: Input | None, how: How) -> str:
    reason = ways.unfit(planned, base)
    if base is None:
        return reason
    obstacle = inplace.obstacle(planned, base, how, how.product)
    if reason and not obstacle and how.way == "insert" and inplace.only_primary_grows(planned,
                                                                                     base):
        inplace.room_for(planned, base)  # whether the file system can is known when it did
        return ""
    return obstacle or reason


def _not_cloned(base: Input | None, product: str) -> str:
    if base is None or base.file.gzipped:
        return "it is compressed"
    fd = _nameless(product)
    if fd < 0:
        return ""
    source = fitsfile.open_input(base.file.path)
    try:
        return "" if reflink.clone(fd, source) else "its file system cannot share blocks"
    finally:
        os.close(source)
        os.close(fd)


def _not_shared(planned: Plan, product: str) -> list[str]:
    fd = _nameless(product)
    if fd < 0:
        return []
    try:
        if sharing.prepare(planned, fd):
            return []
    finally:
        os.close(fd)
    return [f"{product}: nothing would be shared with the sources: there is no large data unit, or "
            "the file system cannot"]


def _nameless(product: str) -> int:
    """Return a file beside the product that nobody sees, or -1 where there is no such thing."""
    try:
        return os.open(os.path.dirname(product), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1

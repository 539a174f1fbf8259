"""Chooses how a product is built, and says why when it is not the way that was asked for.

- ``clone``: the product shares the blocks of the merge target; its headers are written into it.
- ``in-place``, ``insert``: the target becomes the product, see :mod:`daq_merge.inplace`.
- ``share``: a new file, large data units of which share their blocks with the sources.
- ``new``: a new file in one pass; what the others fall back to.

Which bytes a product has does not depend on the way, but for the blank cards before END by which
``insert`` and ``share`` move data to where blocks begin.
"""

from __future__ import annotations

from daqlib import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daq_merge.layout import Input
    from daq_merge.plan import Plan


class Impossible(errors.BadConfig):
    """A product cannot be built in the way that was asked for."""


def unfit(planned: Plan, base: Input | None) -> str:
    """Return why headers do not fit where the merge target has theirs, or an empty string."""
    if base is None:
        return "there is no merge target"
    for part in planned.parts[:len(base.file.hdus)]:
        if not part.stays and part.hdu is not None:
            blocks = (part.header.size - part.hdu.header_size) // 2880
            return (f"the header of HDU {part.index} of {base.file.path} needs {blocks} more "
                    f"block{'s' if blocks > 1 else ''} than it has")
    return ""

"""Where each HDU of the product lies: known before any data is read, from headers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from daq_merge import headers
from daqlib import fitsfile


@dataclass(frozen=True, slots=True)
class Input:
    """A file that goes into the product.

    Attributes:
        source: name of the source that delivered it.
        location: as the specification says it.
        file: its path and structure.
    """

    source: str
    location: str
    file: fitsfile.FitsFile

    @property
    def label(self) -> str:
        """How to call it in alerts: source and file name."""
        return f"{self.source}:{os.path.basename(self.location)}"


@dataclass(frozen=True, slots=True)
class Part:
    """One HDU of the product.

    Attributes:
        index: of the HDU in the product.
        offset: where its header begins in the product, bytes.
        header: complete but for its seal.
        input: the file that its data come from; None for an empty primary HDU.
        hdu: the HDU that its data come from; None for an empty primary HDU.
    """

    index: int
    offset: int
    header: headers.Header
    input: Input | None
    hdu: fitsfile.Hdu | None

    @property
    def data_offset(self) -> int:
        """Where its data begin in the product, bytes."""
        return self.offset + len(self.header.raw)

    @property
    def end(self) -> int:
        """Where the next HDU begins in the product, bytes."""
        return self.data_offset + (self.hdu.padded_size if self.hdu else 0)


def lay_out(lines: list[bytes], base: Input | None, inputs: Sequence[Input]) -> list[Part]:
    """Return the HDUs of the product in order.

    Args:
        lines: the cards of the primary header, but for the seal.
        base: the file whose primary data the product gets; None for none.
        inputs: the files whose extensions follow, in order.
    """
    primary = base.file.hdus[0] if base else None
    parts = [Part(0, 0, headers.fresh(lines), base, primary)]
    for one in inputs:
        for hdu in one.file.hdus[1:]:
            parts.append(Part(len(parts), parts[-1].end, headers.kept(hdu), one, hdu))
    return parts

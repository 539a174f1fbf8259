"""Where each HDU of the product lies: known before any data is read, from headers alone."""

from __future__ import annotations

import os

from daq_merge import headers, promoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from daqlib import fitsfile


class Input:
    """A file that goes into the product.

    Attributes:
        source: name of the source that delivered it.
        location: as the specification says it.
        file: its path and structure.
        promoted: whether the data of its primary HDU become an extension.
    """

    __slots__ = ("file", "location", "promoted", "source")

    def __init__(self, source: str, location: str, file: fitsfile.FitsFile,
                 promoted: bool = False) -> None:
        self.source = source
        self.location = location
        self.file = file
        self.promoted = promoted

    @property
    def extensions(self) -> Sequence[fitsfile.Hdu]:
        """Those of its HDUs that are extensions of the product, in order."""
        return self.file.hdus[0 if self.promoted else 1:]

    @property
    def label(self) -> str:
        """How to call it in alerts: source and file name."""
        return f"{self.source}:{os.path.basename(self.location)}"


class Part:
    """One HDU of the product.

    Attributes:
        index: of the HDU in the product.
        offset: where its header begins in the product, bytes.
        header: complete but for its seal.
        input: the file that its data come from; None for an empty primary HDU.
        hdu: the HDU that its data come from; None for an empty primary HDU.
        data_offset: where its data begin in the product, bytes.
        end: where the next HDU begins in the product, bytes.
    """

    __slots__ = ("data_offset", "end", "hdu", "header", "index", "input", "offset")

    def __init__(self, index: int, offset: int, header: headers.Header, one: Input | None,
                 hdu: fitsfile.Hdu | None) -> None:
        self.index = index
        self.header = header
        self.input = one
        self.hdu = hdu
        self.place(offset)

    def place(self, offset: int) -> None:
        """Let the HDU begin there, bytes."""
        self.offset = offset
        self.data_offset = offset + self.header.size
        self.end = self.data_offset + (self.hdu.padded_size if self.hdu else 0)

    @property
    def data_bytes(self) -> int:
        """Length of its data unit in whole blocks."""
        return self.end - self.data_offset

    @property
    def is_promoted(self) -> bool:
        """Whether it was the primary HDU of its file and is an extension now."""
        return self.index > 0 and self.hdu is not None and self.hdu.index == 0

    @property
    def stays(self) -> bool:
        """Whether header and data keep the places that they have in their file."""
        return (self.hdu is not None and self.offset == self.hdu.offset
                and self.data_offset == self.hdu.data_offset)


def lay_out(lines: Sequence[bytes], base: Input | None, inputs: Sequence[Input],
            stamp_lines: Sequence[bytes] = ()) -> list[Part]:
    """Return the HDUs of the product in order.

    Args:
        lines: the cards of the primary header, but for the seal.
        base: the file whose primary data the product gets; None for none. Its primary header
            keeps the blocks that it has, so that data need not move.
        inputs: the files whose extensions follow, in order.
        stamp_lines: cards to write into every extension, too.
    """
    primary = base.file.hdus[0] if base else None
    part = Part(0, 0, headers.fresh(lines, primary), base, primary)
    parts = [part]
    versions: dict[str, int] = {}
    for one in inputs:
        for hdu in one.extensions:
            if hdu.index:
                header = headers.kept(hdu, stamp_lines)
            else:
                version = versions[one.source] = versions.get(one.source, 0) + 1
                header = promoted.header(hdu, one.source, version, stamp_lines)
            part = Part(part.index + 1, part.end, header, one, hdu)
            parts.append(part)
    return parts


def settle(parts: Sequence[Part]) -> None:
    """Let each HDU begin where the one before ends, after headers have grown."""
    offset = 0
    for part in parts:
        part.place(offset)
        offset = part.end

"""How a product is to be made, where there is a choice; see the ways in :mod:`daq_merge.ways`."""

from __future__ import annotations

#: Way of building -> what it does.
WAYS: dict[str, str] = {
    "auto": "clone where the file system can and the headers fit, else new",
    "new": "write a new file in one pass",
    "clone": "share the target's blocks with the product, write headers and the rest",
    "in-place": "make the target file itself the product, protected by an undo journal",
    "insert": "as in-place, and make room for a primary header that grows",
    "share": "write a new file that shares the blocks of large data units with its sources",
}
#: Treatment of the sums that sources state -> what it does.
SUMS: dict[str, str] = {
    "verify": "compare in the same pass; a mismatch is an alert and noted in the product",
    "trust": "believe a DATASUM, and do not read data for it that need not be copied",
    "strict": "compare; a mismatch is an error, and there is no product",
}


class How:
    """How a product is to be made.

    Attributes:
        way: one of :data:`WAYS`.
        sums: one of :data:`SUMS`.
        sync: whether everything is to be on disk before the product gets its name.
        digest: whether to compute the SHA-256 of the product.
        stamp: ``primary``: ORIGFILE and ARCFILE are written into the primary header; ``all``:
            into every header (ESO-396401 section 8.3 can be read both ways).
        in_place_ok: whether ``auto`` may turn the target file into the product.
        product: the final path of the product; needed to give a target back that became it.
        mode: permission bits of a product that is a new file; 0: those that the umask leaves.
    """

    __slots__ = ("digest", "in_place_ok", "mode", "product", "stamp", "sums", "sync", "way")

    def __init__(self, way: str = "auto", sums: str = "verify", sync: bool = True,
                 digest: bool = False, stamp: str = "primary", in_place_ok: bool = False,
                 product: str = "", mode: int = 0) -> None:
        self.way = way
        self.sums = sums
        self.sync = sync
        self.digest = digest
        self.stamp = stamp
        self.in_place_ok = in_place_ok
        self.product = product
        self.mode = mode

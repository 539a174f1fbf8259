"""The sums that seal an HDU: DATASUM and CHECKSUM (FITS Standard 4.0, 4.4.2.7 and appendix J).

The sum is the ones'-complement sum of big-endian 32-bit words: arithmetic modulo 2^32 - 1 in which
only bytes that are all zero sum to 0; any other multiple of the modulus is 0xFFFFFFFF ("-0").
Therefore parts can be summed in any order and added, as long as each begins at a multiple of
four bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

_MODULUS = 0xFFFFFFFF
#: Total bytes from which loading numpy (some 0.13 s) costs less than it saves (0.5 s per GB).
NUMPY_FROM = 256 * 2**20
_STOP_BITS = 1024
_PIECE = 32 * 1024
_ROW = 2048
_ROWS = 256


def add(left: int, right: int) -> int:
    """Return the sum of two partial sums."""
    total = left + right
    return (total & _MODULUS) + (total >> 32)


def data_sum(data: Buffer) -> int:
    """Return the sum of bytes, 0 to 0xFFFFFFFF; a last incomplete word is filled with zeros."""
    view = memoryview(data)
    whole = len(view) - len(view) % 4
    total = int.from_bytes(bytes(view[whole:]).ljust(4, b"\0"), "big")
    # adding pieces that fit the processor's cache is three times faster than one huge number
    for at in range(0, whole, _PIECE):
        total += int.from_bytes(view[at:min(at + _PIECE, whole)], "big")
    # 2^32 is 1 modulo 2^32 - 1: adding the upper half to the lower one keeps the residue and
    # costs less than dividing the whole number
    half = _PIECE * 4
    while half >= _STOP_BITS:
        total = (total & _mask(half)) + (total >> half)
        half >>= 1
    return total % _MODULUS or (_MODULUS if total else 0)


@functools.cache
def _mask(bits: int) -> int:
    return (1 << bits) - 1


def summing(total: int) -> Callable[[Buffer], int]:
    """Return the fastest function for summing that many bytes in all; every one gives the same."""
    if total < NUMPY_FROM:
        return data_sum
    try:
        return _by_numpy()
    except ImportError:
        return data_sum


def _by_numpy() -> Callable[[Buffer], int]:
    import numpy

    def numpy_sum(data: Buffer) -> int:
        size = len(data) - len(data) % _ROW
        whole = numpy.frombuffer(data, dtype=numpy.uint8, count=size).reshape(-1, _ROW)
        result = data_sum(memoryview(data)[size:])
        for at in range(0, len(whole), _ROWS):
            # 256 rows of bytes fit the 16 bits of a column's sum: no carry is lost
            column = numpy.add.reduce(whole[at:at + _ROWS], axis=0, dtype=numpy.uint16)
            parts = column.reshape(-1, 4).sum(axis=0, dtype=numpy.uint64)
            value = sum(int(part) << shift for part, shift in zip(parts, (24, 16, 8, 0),
                                                                  strict=True))
            result = add(result, value % _MODULUS or (_MODULUS if value else 0))
        return result

    return numpy_sum


def encode(total: int) -> str:
    """Return the 16 characters of CHECKSUM that bring an HDU's sum to -0.

    Args:
        total: the sum of the whole HDU with ``0000000000000000`` as value of CHECKSUM.
    """
    rest = _MODULUS - total
    rows = [_spread(rest >> shift & 0xFF) for shift in (24, 16, 8, 0)]
    text = "".join(chr(rows[byte][turn]) for turn in range(4) for byte in range(4))
    # the value begins at the last byte of a word: column 12 of a card
    return text[-1] + text[:-1]


@functools.cache
def _spread(byte: int) -> tuple[int, int, int, int]:
    """Share a byte out over four letters or digits whose offsets from '0' add up to it."""
    quarter, rest = divmod(byte, 4)
    shared = [quarter + 48 + rest, quarter + 48, quarter + 48, quarter + 48]
    for left, right in ((0, 1), (2, 3)):
        while not (chr(shared[left]).isalnum() and chr(shared[right]).isalnum()):
            shared[left] += 1
            shared[right] -= 1
    return (shared[0], shared[1], shared[2], shared[3])

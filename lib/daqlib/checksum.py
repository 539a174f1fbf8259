"""The sums that seal an HDU: DATASUM and CHECKSUM (FITS Standard 4.0, 4.4.2.7 and appendix J).

The sum is the ones'-complement sum of big-endian 32-bit words: arithmetic modulo 2^32 - 1 in which
only bytes that are all zero sum to 0; any other multiple of the modulus is 0xFFFFFFFF ("-0").
Therefore parts can be summed in any order and added, as long as each begins at a multiple of
four bytes.

There are three ways to the same number: the C extension ``daqlib._native`` where it could be
built, numpy for amounts that make up for loading it, and the interpreter's own big integers. The
environment variable ``DAQ_SUMS`` (``native``, ``numpy`` or ``bigint``) forces one for data units,
for tests and measurements; ``numpy`` leaves what is smaller than 16 KiB to big integers.
"""

from __future__ import annotations

import os

from daqlib import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Buffer = bytes | bytearray | memoryview
    Sum = Callable[[Buffer], int]

_native: Sum | None
try:
    # not there, of another architecture, broken or of an older release: all are an ImportError
    from daqlib._native import ones_sum as _native
except ImportError:
    _native = None

_MODULUS = 0xFFFFFFFF
#: Total bytes from which numpy saves more than the 0.1 s that loading it costs.
NUMPY_FROM = 96 * 2**20
#: Bytes below which one call of numpy costs more than big integers.
_NUMPY_PIECE = 16 * 1024
_PIECE = 16 * 1024
_ROW = 2048
_ROWS = 256
#: Numbers of bits to fold at, each with its mask; the first is half a piece.
_FOLDS = tuple((bits, (1 << bits) - 1) for bits in (65536, 32768, 16384, 8192, 4096, 2048, 1024))


def add(left: int, right: int) -> int:
    """Return the sum of two partial sums."""
    total = left + right
    return (total & _MODULUS) + (total >> 32)


def _big_sum(data: Buffer) -> int:
    view = memoryview(data).cast("B")
    size = len(view)
    rest = size % 4
    total = int.from_bytes(bytes(view[size - rest:]).ljust(4, b"\0"), "big") if rest else 0
    # adding pieces that fit the processor's cache is three times faster than one huge number
    for at in range(0, size - rest, _PIECE):
        total += int.from_bytes(view[at:min(at + _PIECE, size - rest)], "big")
    # 2^32 is 1 modulo 2^32 - 1: adding the upper half to the lower one keeps the residue and
    # costs less than dividing the whole number
    bits = min(size, _PIECE) * 8
    for half, mask in _FOLDS:
        if half < bits:
            total = (total & mask) + (total >> half)
    return total % _MODULUS or (_MODULUS if total else 0)


#: ``data_sum(buffer)``: the sum of contiguous bytes, 0 to 0xFFFFFFFF, at once and without loading
#: anything; a last incomplete word is filled with zeros.
data_sum: Sum = _native or _big_sum


def summing(total: int) -> Sum:
    """Return the fastest function for summing that many bytes in all; every one gives the same.

    Args:
        total: bytes to be summed, in as many calls as it takes.

    Raises:
        BadConfig: ``DAQ_SUMS`` names no way, or one that is not to be had here.
    """
    forced = os.environ.get("DAQ_SUMS", "")
    if forced:
        return _forced(forced)
    if _native or total < NUMPY_FROM:
        return data_sum
    try:
        return _by_numpy()
    except ImportError:
        return data_sum


def _forced(name: str) -> Sum:
    if name == "bigint":
        return _big_sum
    if name == "numpy":
        try:
            return _by_numpy()
        except ImportError as error:
            raise errors.BadConfig(f"DAQ_SUMS=numpy: {error}", "unset it") from None
    if name != "native":
        raise errors.BadConfig(f"DAQ_SUMS={name}: no such way to sum",
                               "set it to native, numpy or bigint, or unset it")
    if not _native:
        raise errors.BadConfig("DAQ_SUMS=native: the C extension is not there",
                               "install again with a C compiler and Python.h, or unset it")
    return _native


def _by_numpy() -> Sum:
    numpy = _load_numpy()

    def numpy_sum(data: Buffer) -> int:
        view = memoryview(data).cast("B")
        if len(view) < _NUMPY_PIECE:
            return _big_sum(view)
        size = len(view) - len(view) % _ROW
        whole = numpy.frombuffer(view, dtype=numpy.uint8, count=size).reshape(-1, _ROW)
        result = _big_sum(view[size:])
        for at in range(0, len(whole), _ROWS):
            # 256 rows of bytes fit the 16 bits of a column's sum: no carry is lost
            column = numpy.add.reduce(whole[at:at + _ROWS], axis=0, dtype=numpy.uint16)
            parts = column.reshape(-1, 4).sum(axis=0, dtype=numpy.uint64).tolist()
            value = (parts[0] << 24) + (parts[1] << 16) + (parts[2] << 8) + parts[3]
            result = add(result, value % _MODULUS or (_MODULUS if value else 0))
        return result

    return numpy_sum


def _load_numpy() -> Any:
    # linear algebra is not wanted: its threads are a fifth of the time that loading takes
    name = "OPENBLAS_NUM_THREADS"
    ours = name not in os.environ
    if ours:
        os.environ[name] = "1"
    try:
        import numpy
    finally:
        if ours:
            del os.environ[name]
    return numpy


def encode(total: int) -> str:
    """Return the 16 characters of CHECKSUM that bring an HDU's sum to -0.

    Args:
        total: the sum of the whole HDU with ``0000000000000000`` as value of CHECKSUM.
    """
    rest = _MODULUS - total
    text = (_SPREAD[rest >> 24] << 24 | _SPREAD[rest >> 16 & 255] << 16
            | _SPREAD[rest >> 8 & 255] << 8 | _SPREAD[rest & 255]).to_bytes(16, "big").decode()
    # the value begins at the last byte of a word: column 12 of a card
    return text[15] + text[:15]


class _Spread(dict[int, int]):
    """Each byte shared out over four letters or digits whose offsets from '0' add up to it.

    A row is a number with a character at the end of each of four 32-bit words; it is made when it
    is wanted for the first time.
    """

    def __missing__(self, byte: int) -> int:
        quarter, rest = divmod(byte, 4)
        shared = [quarter + 48 + rest, quarter + 48, quarter + 48, quarter + 48]
        for left, right in ((0, 1), (2, 3)):
            while not (chr(shared[left]).isalnum() and chr(shared[right]).isalnum()):
                shared[left] += 1
                shared[right] -= 1
        row = shared[0] << 96 | shared[1] << 64 | shared[2] << 32 | shared[3]
        self[byte] = row
        return row


_SPREAD = _Spread()

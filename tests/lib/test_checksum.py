"""The sums against astropy's own implementation and against the definition."""

from __future__ import annotations

import random

import pytest

from daqlib import checksum


def by_definition(data):
    total = 0
    for at in range(0, len(data), 4):
        total += int.from_bytes(data[at:at + 4].ljust(4, b"\0"), "big")
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def astropy_sum(data):
    import numpy
    from astropy.io import fits

    return int(fits.PrimaryHDU()._compute_checksum(numpy.frombuffer(data, dtype=numpy.uint8)))


@pytest.fixture(params=["big numbers", "numpy"])
def sum_of(request):
    return checksum.data_sum if request.param == "big numbers" else checksum._by_numpy()


@pytest.mark.parametrize("size", [0, 4, 1024, 2880, 32768, 32772, 2880 * 100, 512 * 1024,
                                  512 * 1024 + 2880])
def test_sums_are_those_of_the_definition_and_of_astropy(size, sum_of):
    data = random.Random(size).randbytes(size)
    last = bytes(max(size - 4, 0)) + b"\0\0\0\1"[:size]
    for sample in (data, bytes(size), b"\xff" * size, last):
        assert sum_of(memoryview(sample)) == by_definition(sample)
        if size and size % 2880 == 0:
            assert sum_of(sample) == astropy_sum(sample)


def test_only_zeros_sum_to_zero(sum_of):
    assert sum_of(bytes(2880)) == 0
    assert sum_of(b"\xff\xff\xff\xff" * 720) == 0xFFFFFFFF
    assert sum_of(b"\0\0\0\1\xff\xff\xff\xfe" * 360) == 0xFFFFFFFF


def test_parts_add_up_in_any_order():
    source = random.Random(5)
    data = source.randbytes(40_000)
    cuts = sorted({0, len(data), *(source.randrange(0, len(data), 4) for _ in range(9))})
    sums = [checksum.data_sum(data[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    source.shuffle(sums)
    total = 0
    for part in sums:
        total = checksum.add(total, part)
    assert total == checksum.data_sum(data)


def test_the_encoding_is_astropys():
    from astropy.io import fits

    hdu = fits.PrimaryHDU()
    source = random.Random(7)
    for total in [0, 1, 0xFFFFFFFF, 0xFFFFFFFE, *(source.getrandbits(32) for _ in range(2000))]:
        mine = checksum.encode(total)
        assert mine == hdu._char_encode(~total & 0xFFFFFFFF)
        assert len(mine) == 16
        assert mine.isalnum()


def test_few_bytes_need_no_numpy():
    assert checksum.summing(checksum.NUMPY_FROM - 1) is checksum.data_sum

"""Three ways to one sum: against each other, the definition, and astropy's implementation."""

from __future__ import annotations

import array
import os
import random
import shutil
import subprocess
import sys
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daqlib import checksum, errors
from harness import CHECKOUT

ALL = 0xFFFFFFFF
RANDOM = random.Random(11).randbytes(1_100_000)


def by_definition(data):
    """Add word after word, each carry at once (FITS Standard 4.0, appendix J)."""
    total = 0
    for at in range(0, len(data), 4):
        total += int.from_bytes(data[at:at + 4].ljust(4, b"\0"), "big")
        total = (total & ALL) + (total >> 32)
    return total


def astropy_sum(data):
    import numpy
    from astropy.io import fits

    return int(fits.PrimaryHDU()._compute_checksum(numpy.frombuffer(data, dtype=numpy.uint8)))


def way(name):
    """Return one of the ways; without a compiler there are two."""
    try:
        return checksum._forced(name)
    except errors.BadConfig as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(params=["native", "numpy", "bigint"])
def sum_of(request):
    return way(request.param)


@pytest.mark.parametrize("size", [0, 4, 1024, 2880, 16 * 1024, 16 * 1024 + 4, 32772, 2880 * 100,
                                  512 * 1024, 512 * 1024 + 2880, 1_048_576])
def test_sums_are_those_of_the_definition_and_of_astropy(size, sum_of):
    last = bytes(max(size - 4, 0)) + b"\0\0\0\1"[:size]
    for sample in (RANDOM[:size], bytes(size), b"\xff" * size, last):
        assert sum_of(memoryview(sample)) == by_definition(sample)
        if size and size % 2880 == 0:
            assert sum_of(sample) == astropy_sum(sample)


@pytest.mark.parametrize("size", [*range(40), *range(2040, 2070), 16383, 16385, 20001, 524289,
                                  524291, 530434])
def test_any_length(size, sum_of):
    """A last incomplete word is filled with zeros, whatever remainder it leaves."""
    assert sum_of(RANDOM[:size]) == by_definition(RANDOM[:size])
    assert sum_of(b"\xff" * size) == by_definition(b"\xff" * size)


@pytest.mark.parametrize("begin", range(1, 17))
def test_any_alignment(begin, sum_of):
    """A word begins where the buffer begins, not where the processor would like it."""
    view = memoryview(RANDOM)
    for size in (80, 2880, 16 * 1024 + 3, 525_000):
        assert sum_of(view[begin:begin + size]) == by_definition(RANDOM[begin:begin + size])


def test_only_zeros_sum_to_zero(sum_of):
    for size in (0, 1, 7, 8, 2880, 600_000):
        assert sum_of(bytes(size)) == 0
    for rest in (b"\xff\xff\xff\xff", b"\0\0\0\1\xff\xff\xff\xfe", b"\xff\xff\0\0\0\0\xff\xff"):
        for size in (16, 2880, 1_048_576):
            assert sum_of(rest * (size // len(rest))) == ALL


def test_lanes_do_not_run_over(sum_of):
    """The largest bytes, in each place of a word, over many blocks."""
    for place in range(8):
        word = bytearray(8)
        word[place] = 255
        data = bytes(word) * 140_000
        weight = 1 << 8 * (3 - place % 4)
        assert sum_of(data) == (255 * weight * 140_000) % ALL


def test_any_kind_of_buffer(sum_of):
    data = RANDOM[:40_000]
    wanted = by_definition(data)
    kinds = [data, bytearray(data), memoryview(data), memoryview(bytearray(data)),
             memoryview(array.array("d", data))]
    assert [sum_of(kind) for kind in kinds] == [wanted] * len(kinds)


def test_bytes_with_gaps_are_refused(sum_of):
    with pytest.raises((TypeError, BufferError)):
        sum_of(memoryview(RANDOM)[:40_000:2])
    with pytest.raises(TypeError):
        sum_of("text")


# a few letters, and long runs of one: both what random bytes never are
BYTES = st.one_of(st.binary(max_size=300), st.builds(
    lambda part, times, tail: part * times + tail, st.binary(min_size=1, max_size=9),
    st.integers(1, 9000), st.binary(max_size=9)))


@settings(max_examples=300, deadline=None)
@given(BYTES, st.integers(0, 9))
@example(b"\xff" * 2056 + b"\0" * 8, 0)
@example(b"\xff\xff\xff\xff", 0)
def test_all_ways_give_the_same(data, begin):
    sums = {name: checksum._forced(name)(memoryview(bytes(begin) + data)[begin:])
            for name in ("numpy", "bigint")}
    if checksum._native:
        sums["native"] = checksum._native(memoryview(bytes(begin) + data)[begin:])
    assert set(sums.values()) == {by_definition(data)}, sums


@settings(deadline=None)
@given(BYTES, st.lists(st.integers(0, 20_000), max_size=9), st.randoms(use_true_random=False))
def test_pieces_add_up_in_any_order(data, cuts, source):
    places = sorted({0, len(data), *(cut * 4 for cut in cuts if cut * 4 < len(data))})
    sums = [checksum.data_sum(data[a:b]) for a, b in zip(places, places[1:], strict=False)]
    source.shuffle(sums)
    total = 0
    for part in sums:
        total = checksum.add(total, part)
    assert total == checksum.data_sum(data) == by_definition(data)


@given(st.integers(0, ALL), st.integers(0, ALL))
def test_adding_keeps_the_rule_of_zero(left, right):
    total = checksum.add(left, right)
    assert 0 <= total <= ALL
    assert total % ALL == (left + right) % ALL
    assert (total == 0) == (left == right == 0)


def test_several_threads_sum_at_once(sum_of):
    data, found = memoryview(RANDOM), []
    wanted = [by_definition(RANDOM[at:at + 300_000]) for at in (0, 4, 8, 12)]
    threads = [threading.Thread(target=lambda at=at: found.append(sum_of(data[at:at + 300_000])))
               for at in (0, 4, 8, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(wanted)


# -- CHECKSUM --------------------------------------------------------------------------------------


def test_the_encoding_is_astropys():
    from astropy.io import fits

    hdu = fits.PrimaryHDU()
    source = random.Random(7)
    every_byte = [byte * 0x01010101 for byte in range(256)]
    for total in [1, 0xFFFFFFFE, *every_byte, *(source.getrandbits(32) for _ in range(2000))]:
        assert checksum.encode(total) == hdu._char_encode(~total & ALL)


@given(st.binary(max_size=4000), st.integers(0, 34))
def test_an_encoded_sum_brings_an_hdu_to_minus_zero(data, card):
    block = bytearray(b"%-80s" % b"SIMPLE  =                    T" + b" " * 2800)
    block[80 + 80 * card:160 + 80 * card] = b"%-80s" % b"CHECKSUM= '0000000000000000'"
    value = checksum.encode(checksum.data_sum(bytes(block) + data))
    assert len(value) == 16
    assert value.isascii() and value.isalnum()
    block[91 + 80 * card:107 + 80 * card] = value.encode()
    assert by_definition(bytes(block) + data) == ALL


# -- the choice ------------------------------------------------------------------------------------


def test_the_fastest_way_is_chosen(monkeypatch):
    monkeypatch.delenv("DAQ_SUMS", raising=False)
    assert checksum.summing(0) is checksum.data_sum
    monkeypatch.setattr(checksum, "_native", len)
    assert checksum.summing(2 ** 40) is checksum.data_sum
    monkeypatch.setattr(checksum, "_native", None)
    assert checksum.summing(checksum.NUMPY_FROM - 1) is checksum.data_sum
    assert checksum.summing(checksum.NUMPY_FROM) is not checksum.data_sum
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert checksum.summing(checksum.NUMPY_FROM) is checksum.data_sum


def test_a_way_can_be_forced(monkeypatch):
    monkeypatch.setenv("DAQ_SUMS", "bigint")
    assert checksum.summing(2 ** 40) is checksum._big_sum
    monkeypatch.setenv("DAQ_SUMS", "numpy")
    assert checksum.summing(0) not in (checksum.data_sum, checksum._big_sum)
    monkeypatch.setenv("DAQ_SUMS", "native")
    monkeypatch.setattr(checksum, "_native", len)
    assert checksum.summing(0) is len


@pytest.mark.parametrize(("name", "words"), [
    ("native", "the C extension is not there; install again with a C compiler and Python.h"),
    ("numpy", "numpy"),
    ("fast", "DAQ_SUMS=fast: no such way to sum; set it to native, numpy or bigint")])
def test_an_impossible_way_is_refused(monkeypatch, name, words):
    monkeypatch.setenv("DAQ_SUMS", name)
    monkeypatch.setattr(checksum, "_native", None)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(errors.BadConfig, match=words) as caught:
        checksum.summing(1)
    assert caught.value.code == 78


def run(code, folder, **env):
    """Run Python code in a fresh interpreter with a library of its own."""
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd="/", capture_output=True,
                          text=True, check=True, env={"PYTHONPATH": str(folder), **env})
    return done.stdout.strip()


@pytest.fixture
def library(tmp_path):
    shutil.copytree(CHECKOUT / "lib", tmp_path / "lib",
                    ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path / "lib"


TELL = ("from daqlib import checksum; import sys; print(checksum._native is None,"
        "checksum.data_sum(b'abcde'), 'numpy' in sys.modules)")


@pytest.mark.parametrize("content", [
    b"", b"\x7fELF", b"not a library\n" * 300,
    # of another machine: the header of a 64-bit shared object with an unknown processor
    b"\x7fELF\2\1\1" + bytes(9) + b"\3\0\xff\x0f\1\0\0\0" + bytes(4072)])
def test_a_broken_extension_counts_as_none(library, content):
    (library / "daqlib" / "_native.abi3.so").write_bytes(content)
    assert run(TELL, library) == f"True {by_definition(b'abcde')} False"


def test_an_extension_of_another_release_counts_as_none(library):
    (library / "daqlib" / "_native.py").write_text("def rename_noreplace(a, b): pass\n")
    assert run(TELL, library) == f"True {by_definition(b'abcde')} False"


def test_without_the_extension_nothing_is_missing(library):
    assert run(TELL, library) == f"True {by_definition(b'abcde')} False"


@pytest.mark.parametrize("given_threads", [None, "3"])
def test_numpy_is_loaded_without_threads_and_the_environment_stays(given_threads):
    code = ("import os, sys; from daqlib import checksum; s = checksum.summing(0);"
            "n = len(os.listdir('/proc/self/task'));"
            "print('numpy' in sys.modules, n, os.environ.get('OPENBLAS_NUM_THREADS'))")
    given_env = {"OPENBLAS_NUM_THREADS": given_threads} if given_threads else {}
    said = run(code, CHECKOUT / "lib", DAQ_SUMS="numpy", **given_env)
    loaded, threads, left = said.split()
    assert (loaded, left) == ("True", str(given_threads))
    assert given_threads or threads == "1"


def test_choosing_loads_next_to_nothing():
    """What a merge of keywords loads for its sums is only this module and the errors."""
    code = ("import __future__, sys; before = set(sys.modules); from daqlib import checksum;"
            "checksum.encode(checksum.summing(10)(b'x'));"
            "print(*sorted(set(sys.modules) - before - {'daqlib._native'}))")
    assert run(code, CHECKOUT / "lib") == "daqlib daqlib.checksum daqlib.errors"

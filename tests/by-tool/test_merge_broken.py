"""Files that broke on their way: cut, spoiled, or bent on eating the memory; refused or mended.

``fits_check`` says which can be told to be FITS. See ``test_merge_corpus.py`` for whole files.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fits_check
import fuzzing
from fits_check import BLOCK, CARD
from merge_corpus import cuts, one_image, victim, zipped
from merge_samples import header, image, primary
from merge_trials import (
    LITTLE,
    MIB,
    PRODUCT,
    TARGET,
    WAYS,
    Trials,
    Worker,
    merge,
    readable,
    specification,
    ways,
)

pytestmark = [pytest.mark.xdist_group("daq-merge-broken")]


# -- files that broke -----------------------------------------------------------------------------


def cut_everywhere(trials: Trials, lengths: Iterator[int], role: str, way: str) -> int:
    merged = 0
    for length in lengths:
        blob = victim()[:length]
        made = merge(trials, role, blob, "--way", way, "--no-sync")
        why = readable(blob)
        assert made.merged == (not why), f"cut to {length}: {why}\n  {made.told()}"
        merged += made.merged
        shutil.rmtree(made.folder)
    return merged


@pytest.mark.parametrize(("role", "way"), [("target", "new"), ("target", "in-place"),
                                           ("source", "new")])
def test_a_file_cut_anywhere(trials: Trials, role: str, way: str) -> None:
    """Whole HDUs are whole, a last block that is short is filled, all else is refused."""
    assert cut_everywhere(trials, cuts(8), role, way) > 8


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_file_cut_at_every_card(trials: Trials, way: str) -> None:
    assert cut_everywhere(trials, iter(range(0, len(victim()), CARD)), "target", way) > 36


def test_a_compressed_file_cut_anywhere(trials: Trials) -> None:
    whole = zipped(victim())
    chance = random.Random(5)
    for length in [1, 2, 9, 10, 17, 18, *chance.sample(range(len(whole)), 12), len(whole) - 1]:
        made = merge(trials, "source", whole[:length])
        assert not made.merged, made.told()


def _card_places() -> list[int]:
    """Where the cards of the victim's headers begin."""
    places, at = [], 0
    for unit in fits_check.units(victim()):
        places += range(at, at + (len(unit.cards) + 1) * CARD, CARD)
        at += len(unit.header) + len(unit.data) + len(unit.fill)
    return places


CARDS = _card_places()
SIZES = [b"-1", b"0", b"1", b"99", b"2881", b"9223372036854775807", b"18446744073709551616",
         b"1E3", b"1.0", b"'1'", b"", b"T", b"-0", b"+5", b"0x10", b"1 1", b"\xb2", b"1_0",
         b"9" * 60]
Change = Callable[[bytearray, int, int], None]


def _flip(blob: bytearray, where: int, what: int) -> None:
    at = CARDS[where % len(CARDS)] + where // len(CARDS) % CARD
    blob[at] ^= 1 + what % 255


def _flip_anywhere(blob: bytearray, where: int, what: int) -> None:
    blob[where * 977 % len(blob)] ^= 1 + what % 255


def _swap(blob: bytearray, where: int, what: int) -> None:
    one, two = CARDS[where % len(CARDS)], CARDS[what % len(CARDS)]
    blob[one:one + CARD], blob[two:two + CARD] = blob[two:two + CARD], blob[one:one + CARD]


def _copy(blob: bytearray, where: int, what: int) -> None:
    one, two = CARDS[where % len(CARDS)], CARDS[what % len(CARDS)]
    blob[one:one + CARD] = blob[two:two + CARD]


def _resize(blob: bytearray, where: int, what: int) -> None:
    names = (b"NAXIS", b"BITPI", b"PCOUN", b"GCOUN", b"TFIEL", b"THEAP")
    places = [at for at in CARDS if victim()[at:at + 5] in names]
    at = places[where % len(places)]
    blob[at + 10:at + CARD] = SIZES[what % len(SIZES)].rjust(20).ljust(CARD - 10)


def _blank(blob: bytearray, where: int, what: int) -> None:
    at = CARDS[where % len(CARDS)]
    blob[at:at + CARD] = bytes([what % 256]) * CARD


def _no_end(blob: bytearray, where: int, what: int) -> None:
    places = [at for at in CARDS if victim()[at:at + 8] == b"END     "]
    at = places[where % len(places)]
    blob[at:at + CARD] = (b" " * CARD, b"COMMENT".ljust(CARD), b"end".ljust(CARD),
                          b"END     x".ljust(CARD), b"END".ljust(CARD, b"\0"))[what % 5]


def _noise(blob: bytearray, where: int, what: int) -> None:
    at = CARDS[where % len(CARDS)]
    blob[at:at + CARD] = random.Random(what).randbytes(CARD)


def _lose_block(blob: bytearray, where: int, what: int) -> None:
    at = where % (len(blob) // BLOCK) * BLOCK
    del blob[at:at + BLOCK]


def _double_block(blob: bytearray, where: int, what: int) -> None:
    at = where % (len(blob) // BLOCK) * BLOCK
    blob[at:at] = blob[at:at + BLOCK]


def _cut(blob: bytearray, where: int, what: int) -> None:
    del blob[len(blob) - where % len(blob):]


CHANGES: list[Change] = [_flip, _flip_anywhere, _swap, _copy, _resize, _blank, _no_end, _noise,
                         _double_block, _lose_block, _cut]
SPOILED = st.tuples(
    st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 9999), st.integers(0, 9999)),
             min_size=1, max_size=3),
    st.sampled_from(["target", "source"]), st.sampled_from(WAYS))


def spoiled(changes: list[tuple[Change, int, int]]) -> bytes:
    """Return the victim after some changes, those last that make it shorter."""
    blob = bytearray(victim())
    for change, where, what in sorted(changes, key=lambda one: CHANGES.index(one[0])):
        change(blob, where, what)
    return bytes(blob)


def spoil(trials: Trials, what: tuple[list[tuple[Change, int, int]], str, str]) -> None:
    """Merge a spoiled file; what comes out is judged as always, the rest must be refused."""
    changes, role, way = what
    blob = spoiled(changes)
    made = merge(trials, role, blob, "--way", way, "--no-sync")
    why = readable(blob)
    if why:
        assert not made.merged, f"{why}\n  {made.told()}"
    shutil.rmtree(made.folder)


def test_spoiled_headers(trials: Trials) -> None:
    @fuzzing.quick(250)
    @given(SPOILED)
    def tried(what: tuple[list[tuple[Change, int, int]], str, str]) -> None:
        spoil(trials, what)

    tried()


@pytest.mark.slow
def test_spoiled_headers_of_all_sorts(trials: Trials) -> None:
    @fuzzing.thorough(5000)
    @given(SPOILED)
    def tried(what: tuple[list[tuple[Change, int, int]], str, str]) -> None:
        spoil(trials, what)

    tried()


@pytest.mark.parametrize("values", SIZES, ids=repr)
def test_every_size_card_with_every_odd_value(trials: Trials, values: bytes) -> None:
    what = SIZES.index(values)
    for where in range(10):
        spoil(trials, ([(_resize, where, what)], "source", "new"))


def test_bytes_are_never_taken_for_a_size(trials: Trials) -> None:
    """A value begins behind '= '; what stands there else is no number to build a file on."""
    for card in (b"NAXIS1  =x                 100", b"NAXIS1  =5                 100"):
        blob = one_image().replace(b"NAXIS1  =                  100", card)
        made = merge(trials, "source", blob)
        assert not made.merged, made.told()


# -- memory and size ------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["target", "source"])
def test_a_header_that_never_ends_is_given_up(trials: Trials, role: str) -> None:
    made = merge(trials, role, primary() + header("XTENSION= 'IMAGE   '")[:CARD].ljust(40 * MIB))
    assert not made.merged, made.told()


@pytest.mark.parametrize("role", ["target", "source"])
def test_much_data_takes_little_memory(trials: Trials, role: str) -> None:
    blob = one_image() + image(bytes(80 * MIB))
    for options in [("--way", way) for way in ways(role)]:
        made = merge(trials, role, blob, *options)
        assert made.merged and made.outcome.peak < LITTLE, made.told()
        shutil.rmtree(made.folder)


def test_what_unpacks_to_much_takes_little_memory(trials: Trials) -> None:
    for bomb in (one_image() + image(bytes(80 * MIB)), one_image() + b" " * (80 * MIB)):
        made = merge(trials, "source", zipped(bomb))
        assert made.merged == (not readable(bomb)) and made.outcome.peak < LITTLE, made.told()
        shutil.rmtree(made.folder)


GIB = 1 << 30


def big(path: Path, size: int) -> None:
    """A file with an image of that size, all holes but for its ends, and another HDU behind."""
    first = header("SIMPLE  =                    T", "BITPIX  =                    8",
                   "NAXIS   =                    1", f"NAXIS1  = {size:20}", "", "", "", "")
    tail = image(b"behind it")
    with open(path, "wb") as file:
        file.write(first + b"begin")
        file.seek(len(first) + size - 3)
        file.write(b"end" + bytes(-size % BLOCK) + tail)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_more_than_four_gibibytes(worker: Worker, tmp_path: Path, way: str) -> None:
    size = 4 * GIB + 12_345
    if shutil.disk_usage(tmp_path).free < 3 * size:
        pytest.skip("takes 13 GB of free space")
    big(tmp_path / TARGET, size)
    (tmp_path / "more.fits").write_bytes(one_image())
    (tmp_path / "spec.json").write_text(json.dumps(specification(TARGET, ["more.fits"])))
    made = worker.merge(tmp_path / "spec.json", "-o", PRODUCT, "--way", way, "--no-sync")
    assert made.code == 0 and made.peak < LITTLE, made
    with open(tmp_path / PRODUCT, "rb") as file:
        offsets = [file.seek(0)]
        first = file.read(BLOCK)
        assert f"NAXIS1  = {size:20}".encode() in first
        file.seek(BLOCK)
        assert file.read(5) == b"begin"
        file.seek(BLOCK + size - 3)
        assert file.read(3) == b"end"
        offsets.append(file.seek(BLOCK + size + -size % BLOCK))
        rest = file.read()
    begin = int.from_bytes(b"begin\0\0\0", "big")
    assert fits_check.units(primary() + rest)[1].data == b"behind it"
    assert len(fits_check.units(primary() + rest)) == 3
    assert (tmp_path / TARGET).exists() == (way == "new")
    place = (BLOCK + size - 3) % 4
    end = int.from_bytes((bytes(place) + b"end").ljust(8, b"\0")[:8], "big")
    card = first[first.index(b"DATASUM ="):][:CARD]
    total = (begin % 0xFFFFFFFF + end % 0xFFFFFFFF) % 0xFFFFFFFF
    assert int(card.split(b"'")[1]) == total, card

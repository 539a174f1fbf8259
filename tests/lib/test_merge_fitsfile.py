"""The structure reader: real files, and every way in which a file can be broken."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqlib import errors, fitsfile
from merge_samples import SAMPLES, header, image, primary, sample


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_structure_is_that_which_astropy_sees(path):
    from astropy.io import fits

    found = fitsfile.read_structure(str(path))
    with fits.open(path, disable_image_compression=True) as hdus:
        assert [(h.offset, h.data_offset, h.padded_size) for h in found.hdus] == [
            (i["hdrLoc"], i["datLoc"], i["datSpan"]) for i in (h.fileinfo() for h in hdus)]
        for ours, theirs in zip(found.hdus, hdus, strict=True):
            assert ours.kind == theirs.header.get("XTENSION", "SIMPLE").strip()
    assert fitsfile.verify_structure(str(path)) == len(found.hdus)
    assert found.hdus[-1].end == path.stat().st_size


def refused(tmp_path, content, *words):
    path = tmp_path / "broken.fits"
    path.write_bytes(content)
    with pytest.raises(errors.BadData) as caught:
        fitsfile.verify_structure(str(path))
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_every_damage_is_told_with_file_hdu_and_reason(tmp_path):
    whole = sample("o4sp040b0_raw.fits").read_bytes()
    data = header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 5000") + bytes(5760)
    refused(tmp_path, b"", "is empty")
    refused(tmp_path, b"hello" * 1000, "not FITS")
    refused(tmp_path, b"\x1f\x8b" + bytes(3000), "gzip data are damaged")
    refused(tmp_path, whole[:-2880], "HDU 6", "cut")
    refused(tmp_path, data[:-3000], "HDU 0", "cut", "only 2760 of 5000 bytes")
    refused(tmp_path, whole + b"garbage", "7 bytes after HDU 6")
    refused(tmp_path, whole + bytes(2880), "2880 bytes after HDU 6")
    refused(tmp_path, primary()[:242], "HDU 0", "no END")
    refused(tmp_path, header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 1")[:2000],
            "HDU 0", "cut", "only 0 of 1 bytes")
    refused(tmp_path, primary() + header("XTENSION= 'IMAGE   '", "BITPIX  = 8")[:80] + b" " * 2800,
            "HDU 1", "no END")
    refused(tmp_path, b"SIMPLE  = T".ljust(80) + b" " * 2800, "HDU 0", "no END")


@pytest.mark.parametrize(("cards", "reason"), [
    (["SIMPLE  = F", "BITPIX  = 8", "NAXIS   = 0"], "SIMPLE is not T"),
    (["SIMPLE  = T", "NAXIS   = 0"], "no BITPIX"),
    (["SIMPLE  = T", "BITPIX  = 7", "NAXIS   = 0"], "BITPIX is 7"),
    (["SIMPLE  = T", "BITPIX  = 8"], "no NAXIS"),
    (["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 1"], "no NAXIS2"),
    (["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = -1"], "NAXIS1 is '-1'"),
    (["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 1_0"], "NAXIS1 is '1_0'"),
    (["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1000"], "NAXIS is 1000"),
    (["SIMPLE  = T", "BITPIX  = 64", "NAXIS   = 2", f"NAXIS1  = {10**18}", f"NAXIS2  = {10**18}"],
     "cut"),
])
def test_a_header_that_does_not_give_the_size_is_refused(tmp_path, cards, reason):
    refused(tmp_path, header(*cards), "HDU 0", reason)


def test_files_beyond_four_gigabytes_cost_their_headers_only(tmp_path):
    size = 6 * 2**30
    path = tmp_path / "huge.fits"
    with path.open("wb") as file:
        file.write(primary())
        file.write(header("XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 1", f"NAXIS1  = {size}",
                          "PCOUNT  = 0", "GCOUNT  = 1"))
        file.seek(-(-size // 2880) * 2880, os.SEEK_CUR)
        file.write(header("XTENSION= 'DUMP    '", "BITPIX  = 8", "NAXIS   = 0"))
    found = fitsfile.read_structure(str(path))
    assert [h.data_size for h in found.hdus] == [0, size, 0]
    assert found.hdus[2].kind == "DUMP"
    assert found.hdus[2].offset > 2**32


def test_a_very_long_header_is_read_to_its_end(tmp_path):
    lines = [f"KEY{n:05d}= {n}" for n in range(3000)]
    path = tmp_path / "long.fits"
    path.write_bytes(header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", *lines))
    hdu, = fitsfile.read_structure(str(path)).hdus
    assert len(hdu.cards) == hdu.count == 3003
    assert hdu.cards[-1].startswith(b"KEY02999=")


def test_the_word_end_inside_a_card_ends_nothing(tmp_path):
    path = tmp_path / "end.fits"
    path.write_bytes(header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", "COMMENT THE END     OF",
                            "END     = 1", "ENDING  = 2"))
    hdu, = fitsfile.read_structure(str(path)).hdus
    assert hdu.count == 6


def test_only_regular_files_are_read(tmp_path):
    pipe = tmp_path / "pipe.fits"
    os.mkfifo(pipe)
    done = []

    def work():
        for path in (pipe, tmp_path):
            with pytest.raises(errors.BadData, match="not a regular file"):
                fitsfile.verify_structure(str(path))
        done.append(True)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    assert done, "waits for a writer of the FIFO"
    with pytest.raises(FileNotFoundError):
        fitsfile.verify_structure(str(tmp_path / "absent.fits"))


@pytest.mark.parametrize("cut", [1, 100, 759, 760])
def test_a_last_block_without_its_fill_is_told_and_accepted(tmp_path, cut):
    path = tmp_path / "short.fits"
    whole = primary() + image(bytes(range(200)) * 25, "EXTNAME = 'X'")
    path.write_bytes(whole[:-cut])
    found = fitsfile.read_structure(str(path))
    assert (found.short, found.length) == (cut, len(whole) - cut)
    assert [h.short for h in found.hdus] == [0, cut]
    assert (found.hdus[1].padded_size, found.hdus[1].end) == (5760, len(whole))
    assert fitsfile.verify_structure(str(path)) == 2


def test_one_byte_of_data_missing_is_refused(tmp_path):
    refused(tmp_path, (primary() + image(bytes(5000)))[:-761], "HDU 1", "only 4999 of 5000 bytes")


@pytest.mark.parametrize("left", [243, 260, 320, 2000, 2879])
def test_a_header_whose_end_is_there_may_lack_its_blanks(tmp_path, left):
    path = tmp_path / "short.fits"
    path.write_bytes(primary()[:left])
    hdu, = fitsfile.read_structure(str(path)).hdus
    assert (hdu.short, hdu.count, hdu.header) == (2880 - left, 3, primary())


def test_the_fill_of_an_ascii_table_is_blanks(tmp_path):
    path = tmp_path / "t.fits"
    for kind, fill in (("TABLE", b" "), ("BINTABLE", b"\0"), ("IMAGE", b"\0")):
        path.write_bytes(primary() + image(b"x" * 9, first=f"XTENSION= '{kind:8}'"))
        assert fitsfile.read_structure(str(path)).hdus[1].fill == fill


def test_size_cards_out_of_order_are_found_all_the_same(tmp_path):
    path = tmp_path / "odd.fits"
    one = header("XTENSION= 'IMAGE   '", "COMMENT in between", "GCOUNT  = 2", "PCOUNT  = 3",
                 "NAXIS2  = 5", "NAXIS1  = 4", "NAXIS   = 2 / axes", "BITPIX  = -32")
    path.write_bytes(primary() + one + bytes(2880))
    assert fitsfile.read_structure(str(path)).hdus[1].data_size == 4 * 2 * (3 + 20)
    for line, size in (("NAXIS1  = 0", 4 * 2 * 3), ("NAXIS1  = 4\0", None)):
        cards = one.replace(b"NAXIS1  = 4 ".ljust(12), line.encode().ljust(12))
        path.write_bytes(primary() + cards + bytes(2880))
        if size is None:
            with pytest.raises(errors.BadData, match="NAXIS1"):
                fitsfile.read_structure(str(path))
        else:
            assert fitsfile.read_structure(str(path)).hdus[1].data_size == size


AXES = st.lists(st.integers(0, 9), max_size=4)


@given(AXES, st.sampled_from([8, 16, 32, 64, -32, -64]), st.integers(0, 5), st.integers(0, 3),
       st.booleans(), st.randoms(use_true_random=False))
def test_the_quick_look_and_the_careful_one_agree(axes, bits, pcount, gcount, swapped, random):
    """Cards in the standard's order are read by place, others are searched; both say the same."""
    lines = [f"BITPIX  = {bits}", f"NAXIS   = {len(axes)}",
             *(f"NAXIS{n + 1:<3}= {axis:>20} / axis" for n, axis in enumerate(axes)),
             f"PCOUNT  = {pcount}", f"GCOUNT  = {gcount}", "EXTNAME = 'BITPIX  = 9'"]
    if swapped:
        random.shuffle(lines)
    raw = header("XTENSION= 'IMAGE   '", *lines)
    count = len(lines) + 1
    cards = [raw[at:at + 80] for at in range(0, count * 80, 80)]
    careful = fitsfile.data_size(cards, "here")
    assert fitsfile._quick_size(raw, count, 1) in (careful, -1)
    if not swapped:
        assert fitsfile._quick_size(raw, count, 1) == careful


def test_headers_longer_than_a_window_may_end_anywhere(tmp_path):
    path = tmp_path / "long.fits"
    for lines in (*range(280, 330), 36 * 16 - 4, 36 * 16 - 3):
        more = header("XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 0", "PCOUNT  = 0",
                      "GCOUNT  = 1")
        path.write_bytes(header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0",
                                *[f"K{n}" for n in range(lines)]) + more * 3)
        found = fitsfile.read_structure(str(path)).hdus
        assert [h.count for h in found] == [lines + 3, 5, 5, 5]
        assert found[1].header == found[3].header == more

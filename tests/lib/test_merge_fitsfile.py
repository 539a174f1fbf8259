"""The structure reader: real files, and every way in which a file can be broken."""

from __future__ import annotations

import os
import threading

import pytest

from daqlib import errors, fitsfile
from merge_samples import SAMPLES, header, primary, sample


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
    refused(tmp_path, b"\x1f\x8b" + bytes(3000), "gzip")
    refused(tmp_path, whole[:-2880], "HDU 6", "cut")
    refused(tmp_path, data[:-3000], "HDU 0", "cut", "only 2760 of 5000 bytes")
    refused(tmp_path, data[:-100], "HDU 0", "short by 100 bytes")
    refused(tmp_path, whole + b"garbage", "7 bytes after HDU 6")
    refused(tmp_path, whole + bytes(2880), "2880 bytes after HDU 6")
    refused(tmp_path, primary()[:2000], "HDU 0", "short by 880 bytes")
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

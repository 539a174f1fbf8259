from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import pytest

from collecting import total
from daqlib import checksum, fitsfile, fitssums
from harness import make_fits


def damage(path: Path, step: int = 0) -> dict[int, str]:
    """Return what is damaged, the sums being taken in pieces of some size; 0: as it comes."""
    fd = os.open(path, os.O_RDONLY)
    try:
        sums = fitssums.running(fd)
        if step:
            data = path.read_bytes()
            sums = fitssums.Running(len(data))
            for at in range(0, len(data), step):
                sums.add(memoryview(data[at:at + step]))
        assert (sums.size, sums.total) == (path.stat().st_size, fitssums.total(str(path)))
        return fitssums.damage(fitsfile.read_structure(str(path)), fd, sums)
    finally:
        os.close(fd)


@pytest.fixture
def fits(tmp_path: Path) -> Path:
    return make_fits(tmp_path / "a.fits", 4, shape=(37, 53), checksum=True)


@pytest.mark.parametrize("step", [0, 4, 2880, 5000, 8192, 2**20])
def test_a_sound_file(fits: Path, step: int) -> None:
    assert damage(fits, step) == {} and fitssums.is_sound(str(fits))


def test_the_sum_is_that_of_the_definition(fits: Path) -> None:
    assert fitssums.total(str(fits)) == total(fits)
    fits.write_bytes(fits.read_bytes() + b"abc")  # an incomplete word
    assert fitssums.total(str(fits)) == total(fits)
    fits.write_bytes(b"")
    assert fitssums.total(str(fits)) == 0


@pytest.mark.parametrize("step", [0, 4000])
def test_every_changed_byte_of_data_is_found_in_its_hdu(fits: Path, step: int) -> None:
    good, chance = fits.read_bytes(), random.Random(1)
    for hdu in fitsfile.read_structure(str(fits)).hdus[1:]:
        for _ in range(5):
            place = chance.randrange(hdu.data_offset, hdu.end)
            bad = bytearray(good)
            bad[place] ^= 1 << chance.randrange(8)
            fits.write_bytes(bad)
            assert list(damage(fits, step)) == [hdu.index], place
    assert not fitssums.is_sound(str(fits))


def test_a_header_alone_may_be_edited(fits: Path) -> None:
    """DATASUM decides where it is, as for the merger."""
    fits.write_bytes(fits.read_bytes().replace(b"EXTNAME = 'EXT2", b"EXTNAME = 'NEW2"))
    assert damage(fits) == {}


def test_checksum_decides_where_it_is_alone(fits: Path) -> None:
    data = fits.read_bytes().replace(b"DATASUM ", b"NOTASUM ")
    hdus = fitsfile.read_structure(str(fits)).hdus
    fits.write_bytes(data)
    assert sorted(damage(fits)) == [hdu.index for hdu in hdus]  # the headers were changed
    assert set(damage(fits).values()) == {"CHECKSUM does not match header and data"}
    for hdu in hdus:  # sealed again: the words of "NOTA" and "DATA" differ by this
        at = data.index(b"CHECKSUM= '", hdu.offset) + 11
        raw = bytearray(data[hdu.offset:hdu.data_offset])
        raw[at - hdu.offset:at - hdu.offset + 16] = b"0" * 16
        value = checksum.encode(checksum.add(checksum.data_sum(raw), checksum.data_sum(
            data[hdu.data_offset:hdu.end])))
        data = data[:at] + value.encode() + data[at + 16:]
    fits.write_bytes(data)
    assert damage(fits) == {}


@pytest.mark.parametrize("value", [b"'x'", b"'-1'", b"'1.5'"])
def test_a_sum_that_is_no_number(fits: Path, value: bytes) -> None:
    data = fits.read_bytes()
    at = data.index(b"DATASUM = ", 2880)
    fits.write_bytes(data[:at + 10] + value.ljust(20) + data[at + 30:])
    assert len(damage(fits)) == 1


@pytest.mark.parametrize("value", [b"''", b""])
def test_an_empty_sum_says_nothing(fits: Path, value: bytes) -> None:
    data = fits.read_bytes().replace(b"CHECKSUM=", b"CHECKSUX=")
    at = data.index(b"DATASUM = ", 2880)
    data = data[:at + 10] + value.ljust(20) + data[at + 30:]
    fits.write_bytes(data)
    assert damage(fits) == {}


@pytest.mark.parametrize("short", [1, 2, 3, 4, 100, 700])
def test_a_last_block_that_is_not_full(fits: Path, short: int) -> None:
    fits.write_bytes(fits.read_bytes()[:-short])
    assert damage(fits) == {} and damage(fits, 4096) == {}


def test_a_table_of_text_is_filled_with_blanks(tmp_path: Path) -> None:
    from astropy.io import fits

    path = tmp_path / "t.fits"
    table = fits.TableHDU.from_columns([fits.Column("A", "A5", array=["x", "yy", "zzz"])])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, checksum=True)
    assert damage(path) == {}
    path.write_bytes(path.read_bytes()[:-1001])
    assert damage(path) == {}


def test_what_is_in_a_gzip_file_has_check_values_of_its_own(tmp_path: Path, fits: Path) -> None:
    path = tmp_path / "a.fits.gz"
    data = bytearray(fits.read_bytes())
    data[-3000] ^= 1
    path.write_bytes(gzip.compress(bytes(data)))
    assert damage(path) == {} and fitssums.is_sound(str(path))
    path.write_bytes(path.read_bytes()[:-9])
    assert not fitssums.is_sound(str(path))


def test_nothing_but_the_last_piece_ends_within_a_word() -> None:
    sums = fitssums.Running(10)
    sums.add(memoryview(b"12345"))
    with pytest.raises(AssertionError):
        sums.add(memoryview(b"6789"))


@pytest.mark.parametrize("content", [b"", b"no FITS"])
def test_what_is_no_fits_is_not_sound(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not fitssums.is_sound(str(tmp_path / "x"))

"""Sources compressed by gzip: the same product as from the plain files, or a clear refusal."""

from __future__ import annotations

import gzip
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daq_merge import build, copying
from daq_merge.how import How
from daqlib import errors, fitsfile, gzipped
from merge_samples import (
    SAMPLES,
    file_source,
    header,
    image,
    keyword_source,
    primary,
    specification,
    value,
)

CONTENT = (primary("OBJECT  = 'x'") + image(os.urandom(3_000_017), "EXTNAME = 'BIG'")
           + image(b"abc") + image(b"", "EXTNAME = 'EMPTY'") + image(os.urandom(9999)))


def members(content: bytes, *sizes: int) -> bytes:
    """A gzip file of several members."""
    pieces, at = [], 0
    for size in (*sizes, len(content)):
        pieces.append(gzip.compress(content[at:at + size], 1))
        at += size
    return b"".join(pieces)


def product(tmp_path, monkeypatch, content, name, role, **more):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763692200.25")
    path = tmp_path / "in.fits"
    path.write_bytes(content)
    source = file_source("a", path)
    others = [] if role == "target" else [source]
    document = specification(keyword_source("k", value("K", 1)), *others,
                             target=source if role == "target" else None)
    out = tmp_path / name
    result = build.build(document, "/", str(out), **more)
    return out.read_bytes(), result


@pytest.mark.parametrize("role", ["target", "source"])
@pytest.mark.parametrize("pack", [gzip.compress, lambda c: members(c, 5, 2880, 0, 700_000, 1),
                                  lambda c: gzip.compress(c) + bytes(1000)],
                         ids=["one", "members", "zeros"])
def test_the_product_is_that_of_the_plain_file(tmp_path, monkeypatch, role, pack):
    want, _ = product(tmp_path, monkeypatch, CONTENT, "1.fits", role)
    got, result = product(tmp_path, monkeypatch, pack(CONTENT), "2.fits", role)
    assert got == want
    assert fitsfile.read_structure(str(tmp_path / "in.fits")).size == (
        tmp_path / "in.fits").stat().st_size
    monkeypatch.setattr(copying, "BUFFER", 2880)
    monkeypatch.setattr(copying, "SMALL", 2880)
    assert product(tmp_path, monkeypatch, pack(CONTENT), "3.fits", role)[0] == want


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_the_structure_is_that_of_the_plain_file(tmp_path, path):
    packed = tmp_path / "packed.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    plain, found = (fitsfile.read_structure(str(one)) for one in (path, packed))
    assert (found.gzipped, plain.gzipped) == (True, False)
    assert (found.size, found.length) == (packed.stat().st_size, path.stat().st_size)
    assert ([(h.kind, h.header, h.offset, h.data_size, h.count) for h in found.hdus]
            == [(h.kind, h.header, h.offset, h.data_size, h.count) for h in plain.hdus])


def test_a_compressed_target_is_not_changed_in_place(tmp_path, monkeypatch):
    packed = gzip.compress(CONTENT)
    _, result = product(tmp_path, monkeypatch, packed, "1.fits", "target", how=How("in-place"))
    assert (tmp_path / "in.fits").read_bytes() == packed
    assert result.way == "new"
    assert "compressed" in result.warnings[-1]


def refused(tmp_path, content, *words):
    path = tmp_path / "broken.fits.gz"
    path.write_bytes(content)
    with pytest.raises(errors.BadData) as caught:
        fitsfile.read_structure(str(path))
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_truncated_ones_are_refused_wherever_they_end(tmp_path):
    packed = gzip.compress(primary() + image(os.urandom(4000)))
    for length in [*range(2, 40), *range(40, len(packed), 97), *range(len(packed) - 30,
                                                                      len(packed))]:
        refused(tmp_path, packed[:length], "end early")


def test_a_wrong_check_value_is_refused(tmp_path):
    packed = bytearray(gzip.compress(primary() + image(os.urandom(4000))))
    for at in (len(packed) - 8, len(packed) - 1):
        broken = bytearray(packed)
        broken[at] ^= 1
        refused(tmp_path, broken, "damaged")
    two = bytearray(members(primary() + image(os.urandom(4000)), 2880))
    two[-5] ^= 1
    refused(tmp_path, two, "damaged")


def test_what_is_no_gzip_behind_it_is_refused(tmp_path):
    refused(tmp_path, gzip.compress(primary()) + b"\0\0garbage", "not gzip")
    refused(tmp_path, gzip.compress(primary()) + b"\x1f", "not gzip")
    refused(tmp_path, gzip.compress(primary()) + b"\x1f\x8b", "end early")


def test_the_content_is_judged_as_that_of_a_plain_file(tmp_path):
    refused(tmp_path, gzip.compress(b""), "empty")
    refused(tmp_path, gzip.compress(b"hello" * 1000), "not FITS")
    refused(tmp_path, gzip.compress(gzip.compress(primary())), "more than once")
    refused(tmp_path, gzip.compress(primary() + b"garbage"), "7 bytes after HDU 0")
    refused(tmp_path, gzip.compress((primary() + image(bytes(5000)))[:-761]), "HDU 1", "cut")
    refused(tmp_path, gzip.compress(header("SIMPLE  = T", "BITPIX  = 64", "NAXIS   = 2",
                                           f"NAXIS1  = {10**18}", f"NAXIS2  = {10**18}")), "cut")


def test_a_short_last_block_is_completed(tmp_path, monkeypatch):
    content = primary() + image(b"abc")
    want, _ = product(tmp_path, monkeypatch, content, "1.fits", "source")
    got, result = product(tmp_path, monkeypatch, gzip.compress(content[:-2800]), "2.fits",
                          "source")
    assert got == want
    assert [alert["id"] for alert in result.alerts] == ["short-block:a:in.fits[1]"]


@given(st.binary(max_size=5000), st.lists(st.integers(0, 3000), max_size=4),
       st.lists(st.integers(0, 4000), min_size=1, max_size=9))
def test_the_stream_gives_every_byte_once(tmp_path_factory, content, sizes, steps):
    path = tmp_path_factory.getbasetemp() / "stream.gz"
    path.write_bytes(members(content, *sizes))
    with path.open("rb") as file:
        stream = gzipped.Stream(file.fileno(), str(path))
        got, at = b"", 0
        while True:
            piece = stream.read(steps[at % len(steps)])
            at += 1
            got += piece
            assert stream.position == len(got)
            if not piece and steps[(at - 1) % len(steps)]:
                break
            if at > 20000:
                pytest.fail("does not end")
            if not any(steps):
                return
    assert got == content


def test_a_bomb_costs_no_memory(tmp_path):
    import resource

    path = tmp_path / "bomb.fits.gz"
    size = 400 * 2**20
    squeeze = zlib.compressobj(1, wbits=31)
    with path.open("wb") as file:
        file.write(squeeze.compress(primary() + header(
            "XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 1", f"NAXIS1  = {size}",
            "PCOUNT  = 0", "GCOUNT  = 1")))
        for _ in range(400):
            file.write(squeeze.compress(bytes(2**20)))
        file.write(squeeze.compress(bytes(-size % 2880)) + squeeze.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert [h.data_size for h in fitsfile.read_structure(str(path)).hdus] == [0, size]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024

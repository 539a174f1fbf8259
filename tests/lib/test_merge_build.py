"""Whole products, checked by programs that nobody here wrote and byte by byte."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daq_merge import build, copying, headers, layout, plan, seal
from daq_merge.how import How
from daqlib import checksum, errors, fitsfile
from merge_samples import (
    SAMPLES,
    eso,
    file_source,
    header,
    image,
    keyword_source,
    literal,
    primary,
    sample,
    specification,
    value,
)

# an error that fitsverify finds in the sample itself will be found in the product, too
FAULTY = {"fixed-1890.fits", "random_groups.fits", "theap-gap.fits", "verify.fits",
          "vla_logical_pre_fix.fits", "zerowidth.fits"}
SOUND = [path for path in SAMPLES if path.name not in FAULTY]
SEAL = (b"DATASUM ", b"CHECKSUM")
OCM = keyword_source("ocm", value("OBSERVER", "O'Neil & Co"), eso("OBS ID", 42, comment="[]"),
                     eso("TPL LONG", "t" * 150), value("LONGTEXT", "v " * 60),
                     literal("COMMENT by ocm"))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Build a product; returns its path and the result."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763692200.25")

    def run(document, name="product.fits", **more):
        out = tmp_path / name
        return out, build.build(document, str(tmp_path), str(out), **more)

    return run


def check_with_astropy(path):
    """Every checksum right, every card readable; astropy only warns, which is an error here."""
    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Cc]hecksum|.*[Dd]atasum")
        with fits.open(path, checksum=True, disable_image_compression=True) as hdus:
            for hdu in hdus:
                assert hdu.verify_checksum() == 1
                assert hdu.verify_datasum() == 1
            return hdus[0].header.copy()


def same_extension(source: Path, theirs: fitsfile.Hdu, product: Path, ours: fitsfile.Hdu):
    """Every card but those of the seal is there, in order; data and fill are the same."""
    want = [card for card in theirs.cards if card[:8] not in SEAL]
    got = [card for card in ours.cards if card[:8] not in SEAL]
    while want and not want[-1].strip():
        want.pop()
    while got and not got[-1].strip():
        got.pop()
    assert got == want
    with source.open("rb") as one, product.open("rb") as other:
        one.seek(theirs.data_offset)
        other.seek(ours.data_offset)
        assert one.read(theirs.padded_size) == other.read(ours.padded_size)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_real_files_as_target_and_as_source(path, make):
    others = sample("o4sp040b0_raw.fits")
    as_target, result = make(specification(OCM, file_source("b", others),
                                           target=file_source("a", path)))
    theirs = fitsfile.read_structure(str(path)).hdus
    more = fitsfile.read_structure(str(others)).hdus[1:]
    ours = fitsfile.read_structure(str(as_target)).hdus
    assert result.hdus == len(ours) == len(theirs) + len(more)
    assert ours[0].data_size == theirs[0].data_size
    with path.open("rb") as one, as_target.open("rb") as other:
        one.seek(theirs[0].data_offset)
        other.seek(ours[0].data_offset)
        assert one.read(theirs[0].padded_size) == other.read(ours[0].padded_size)
    for old, new in zip(theirs[1:], ours[1:len(theirs)], strict=True):
        same_extension(path, old, as_target, new)
    for old, new in zip(more, ours[len(theirs):], strict=True):
        same_extension(others, old, as_target, new)
    read = check_with_astropy(as_target)
    assert read["LONGTEXT"] == ("v " * 60).rstrip()
    as_source, result = make(specification(OCM, file_source("a", path)), "second.fits")
    ours = fitsfile.read_structure(str(as_source)).hdus
    assert [h.data_size for h in ours] == [0, *[h.data_size for h in theirs[1:]]]
    assert bool([a for a in result.alerts if a["id"].startswith("unmergeable")]) == bool(
        theirs[0].data_size)
    check_with_astropy(as_source)


@pytest.mark.needs("fitsverify")
def test_fitsverify_finds_no_error_in_products_of_sound_files(make):
    paths = [make(specification(OCM, file_source("b", sample("stddata.fits")),
                                target=file_source("a", path)), f"p{n}.fits")[0]
             for n, path in enumerate(SOUND)]
    paths.append(make(specification(OCM, *[file_source("s", path, alertUnmergeable=False)
                                           for path in SOUND]), "all.fits")[0])
    found = subprocess.run(["fitsverify", "-q", "-e", *paths], capture_output=True, text=True,
                           check=False)
    assert "FAILED" not in found.stdout, found.stdout
    assert found.stdout.count("OK") == len(paths)
    assert found.returncode == 0


def test_the_names_the_date_and_the_digest(make):
    out, result = make({"id": "j", "sources": [OCM],
                        "target": {"fileId": "TEST.2026-11-21T02:30:00.123", "filePrefix": "pre_"}},
                       how=How(digest=True))
    read = check_with_astropy(out)
    assert read["ARCFILE"] == "TEST.2026-11-21T02:30:00.123.fits"
    assert read["ORIGFILE"] == "pre_TEST.2026-11-21T02:30:00.123.fits"
    assert read["DATE"] == "2025-11-21T02:30:00.250"
    assert (read["OBSERVER"], read["ESO OBS ID"]) == ("O'Neil & Co", 42)
    assert list(read)[-2:] == ["DATASUM", "CHECKSUM"]
    assert (result.size, result.sha256) == (
        out.stat().st_size, hashlib.sha256(out.read_bytes()).hexdigest())


def test_the_bytes_depend_on_the_inputs_only(make):
    document = specification(OCM, file_source("b", sample("test0.fits")))
    first, _ = make(document, "1.fits")
    second, _ = make(document, "2.fits")
    assert first.read_bytes() == second.read_bytes()


def test_a_sealed_extension_leaves_as_it_came(make, monkeypatch):
    sealed, _ = make(specification(file_source("b", sample("stddata.fits"))), "sealed.fits")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    out, result = make(specification(OCM, file_source("a", "sealed.fits")))
    begin = fitsfile.read_structure(str(sealed)).hdus[1].offset
    ours = fitsfile.read_structure(str(out)).hdus[1].offset
    assert out.read_bytes()[ours:] == sealed.read_bytes()[begin:]
    assert result.alerts == []


def flip(path, offset):
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


def test_data_that_do_not_match_their_datasum_are_alerted_and_sealed_anew(tmp_path, make):
    sealed, _ = make(specification(file_source("b", sample("stddata.fits"))), "sealed.fits")
    flip(sealed, fitsfile.read_structure(str(sealed)).hdus[2].data_offset + 5)
    out, result = make(specification(file_source("a", "sealed.fits")))
    alert, = result.alerts
    assert (alert["id"], alert["severity"]) == ("datasum:a:sealed.fits[2]", "error")
    assert "HDU 2 of sealed.fits" in alert["description"]
    check_with_astropy(out)


def test_a_damaged_target_array_is_alerted_too(tmp_path, make):
    path = tmp_path / "t.fits"
    shutil.copy(sample("checksum_false.fits"), path)
    _, result = make(specification(target=file_source("a", "t.fits")))
    assert [a["id"] for a in result.alerts] == ["datasum:a:t.fits[0]", "datasum:a:t.fits[1]"]


def test_a_checksum_alone_covers_the_data(tmp_path, make):
    one, _ = make(specification(file_source("b", sample("tb.fits"))), "one.fits")
    hdu = fitsfile.read_structure(str(one)).hdus[1]
    at = hdu.offset + hdu.header.index(b"DATASUM ")
    raw = bytearray(one.read_bytes())
    raw[at:at + 80] = b" " * 80
    one.write_bytes(raw)
    _, result = make(specification(file_source("a", "one.fits")), "two.fits")
    assert len(result.alerts) == 1
    assert "CHECKSUM" in result.alerts[0]["description"]


def test_an_edited_header_with_sound_data_is_no_alert(make):
    one, _ = make(specification(file_source("b", sample("tb.fits"))), "one.fits")
    hdu = fitsfile.read_structure(str(one)).hdus[1]
    flip(one, hdu.offset + hdu.header.index(b"/ sum of the HDU") + 3)
    out, result = make(specification(file_source("a", "one.fits")), "two.fits")
    assert result.alerts == []
    check_with_astropy(out)


@pytest.mark.parametrize("unused", range(0, 40))
def test_the_seal_finds_room_in_any_header(tmp_path, make, unused):
    lines = [f"KEY{n:05d}= {n:20}" for n in range(unused)]
    blanks = [""] * (unused % 4)
    data = image(b"abc", *lines, *blanks)
    (tmp_path / "a.fits").write_bytes(primary() + data)
    out, result = make(specification(file_source("a", "a.fits")))
    theirs = fitsfile.read_structure(str(tmp_path / "a.fits")).hdus[1]
    ours = fitsfile.read_structure(str(out)).hdus[1]
    same_extension(tmp_path / "a.fits", theirs, out, ours)
    assert [card[:8] for card in ours.cards[5 + unused + 1:] if card.strip()] == list(SEAL)
    grown = len(ours.header) - len(theirs.header)
    used = 5 + 1 + unused + 3
    assert grown == (2880 if used > len(theirs.header) // 80 else 0)
    assert checksum.data_sum(ours.header + out.read_bytes()[ours.data_offset:]) == 0xFFFFFFFF


def test_cards_behind_end_are_no_seal(tmp_path, make):
    data = bytearray(image(b"abc"))
    data[2720:2880] = (b"CHECKSUM= 'x'".ljust(80) + b"DATASUM = '5'".ljust(80))
    (tmp_path / "a.fits").write_bytes(primary() + data)
    out, result = make(specification(file_source("a", "a.fits")))
    assert result.alerts == []
    assert [c[:8] for c in fitsfile.read_structure(str(out)).hdus[1].cards[-2:]] == list(SEAL)
    check_with_astropy(out)


def test_a_target_without_extend_gets_it_when_extensions_come(tmp_path, make):
    for number, line in enumerate([[], ["EXTEND  =                    F"]]):
        (tmp_path / "t.fits").write_bytes(primary(*line, "OBJECT  = 'x'"))
        out, _ = make(specification(file_source("b", sample("tb.fits")),
                                    target=file_source("a", "t.fits")), f"{number}.fits")
        cards = fitsfile.read_structure(str(out)).hdus[0].cards
        assert cards[3].startswith(b"EXTEND  =                    T")
        assert len([c for c in cards if c.startswith(b"EXTEND")]) == 1


def test_random_groups_and_their_parameters_stay_whole(make):
    out, _ = make(specification(target=file_source("a", sample("random_groups.fits"))))
    from astropy.io import fits

    with fits.open(out) as hdus, fits.open(sample("random_groups.fits")) as want:
        assert hdus[0].data.tobytes() == want[0].data.tobytes()
        assert hdus[0].parnames == want[0].parnames


def test_unsigned_pixels_mean_the_same_in_the_product(tmp_path, make):
    import numpy
    from astropy.io import fits

    pixels = numpy.arange(60000, 60100, dtype=numpy.uint16).reshape(10, 10)
    fits.HDUList([fits.PrimaryHDU(pixels), fits.ImageHDU(pixels + 1),
                  fits.CompImageHDU(pixels, compression_type="RICE_1")]).writeto(
                      tmp_path / "t.fits", checksum=True)
    fits.PrimaryHDU(pixels.astype(numpy.float32)).writeto(tmp_path / "b.fits")
    out, result = make(specification(file_source("b", "b.fits"),
                                     target=file_source("a", "t.fits")))
    assert [a["id"] for a in result.alerts] == ["unmergeable:b:b.fits"]
    with fits.open(out) as hdus:
        assert (hdus[0].data == pixels).all()
        assert (hdus[1].data == pixels + 1).all()
        assert (hdus[2].data == pixels).all()


def test_many_pieces_and_numpy_give_the_same_file(tmp_path, make, monkeypatch):
    data = os.urandom(1_300_001)
    (tmp_path / "a.fits").write_bytes(
        primary() + image(data) + image(b"z" * 5) + image(data[:9999]))
    document = specification(file_source("a", "a.fits"))
    seen = []
    one, result = make(document, "1.fits", progress=lambda done, total: seen.append((done, total)))
    monkeypatch.setenv("DAQ_SUMS", "numpy")
    two, _ = make(document, "2.fits")
    monkeypatch.setattr(copying, "BUFFER", 2880)
    monkeypatch.setattr(copying, "SMALL", 2880)
    three, _ = make(document, "3.fits")
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()
    assert seen[-1] == (result.size, result.size)
    assert seen == sorted(seen)
    check_with_astropy(one)


def refused(make, document, error, *words):
    with pytest.raises(error) as caught:
        make(document)
    for word in words:
        assert word in str(caught.value)


def test_what_cannot_be_merged_is_said_before_anything_is_written(tmp_path, make):
    sources = specification(file_source("dcs", "absent.fits"))
    refused(make, sources, plan.MissingSource, "dcs", "absent.fits")
    refused(make, specification(file_source("d", "host:/data/a.fits")), errors.BadData,
            "on host host", "collect")
    refused(make, specification(file_source("d", "TEST.2026-11-21T02:30:00.fits")),
            errors.BadData, "./")
    refused(make, specification(file_source("d", "a\nb")), errors.BadData, "no path")
    refused(make, specification({"type": "primarySource", "sourceName": "d"}), errors.BadData,
            "primarySource")
    refused(make, specification({"type": "fitsFile", "location": "x"}), errors.BadData,
            "sourceName")
    refused(make, {"id": "x", "sources": []}, errors.BadData, "no target")
    refused(make, {"id": "x", "target": {}}, errors.BadData, "no fileId")
    refused(make, {"id": "x", "target": {"fileId": "x"}, "sources": {}}, errors.BadData, "list")
    (tmp_path / "text.fits").write_text("no FITS")
    refused(make, specification(target=file_source("d", "text.fits")), errors.BadData, "not FITS")
    refused(make, specification(keyword_source("k", value("X", float("nan")))), errors.BadData,
            "source k", "keyword X", "NaN")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["text.fits"]


def test_local_locations_may_begin_with_a_colon_or_hold_one(tmp_path, make):
    name = "TEST.2026-11-21T02:30:00.fits"
    (tmp_path / name).write_bytes(primary("OBJECT  = 'x'"))
    for location in (f":{name}", f"./{name}", str(tmp_path / name), f":{tmp_path / name}"):
        out, _ = make(specification(file_source("d", location)))
        assert b"OBJECT  = 'x'" in out.read_bytes()


def test_an_input_that_changes_meanwhile_is_noticed_and_nothing_is_left(tmp_path):
    path, out = tmp_path / "a.fits", tmp_path / "out.fits"
    path.write_bytes(primary() + image(bytes(3_000_000)))
    planned = plan.plan(specification(file_source("a", path)), "/")
    os.utime(path, ns=(0, 0))
    with pytest.raises(errors.Later, match="changed while"):
        build.write(planned, str(out))
    planned = plan.plan(specification(file_source("a", path)), "/")

    def touch(done, total):
        path.touch()

    with pytest.raises(errors.Later, match="changed while"):
        build.write(planned, str(out), progress=touch)
    assert not out.exists()


def test_an_input_that_shrinks_meanwhile_is_noticed(tmp_path, monkeypatch):
    path, out = tmp_path / "a.fits", tmp_path / "out.fits"
    path.write_bytes(primary() + image(bytes(3_000_000)))
    planned = plan.plan(specification(file_source("a", path)), "/")
    real, calls = checksum.data_sum, []

    def shrink(data):
        if len(data) > 100_000:
            calls.append(len(data))
            os.truncate(path, 5760)
        return real(data)

    monkeypatch.setattr(checksum, "data_sum", shrink)
    with pytest.raises(errors.Later, match="became shorter"):
        build.write(planned, str(out))
    assert calls and not out.exists()


def test_the_product_never_overwrites_an_input(tmp_path):
    path = tmp_path / "a.fits"
    path.write_bytes(primary())
    before = path.read_bytes()
    (tmp_path / "link.fits").hardlink_to(path)
    with pytest.raises(errors.Conflict):
        build.build(specification(file_source("a", path)), "/", str(tmp_path / "link.fits"))
    assert path.read_bytes() == before


def test_inputs_stay_as_they_are(tmp_path, make):
    shutil.copy(sample("stddata.fits"), tmp_path / "t.fits")
    before = ((tmp_path / "t.fits").read_bytes(), (tmp_path / "t.fits").stat().st_mtime_ns)
    make(specification(OCM, target=file_source("a", "t.fits")))
    assert before == ((tmp_path / "t.fits").read_bytes(), (tmp_path / "t.fits").stat().st_mtime_ns)


@pytest.mark.parametrize(("call", "named"), [("posix_fallocate", "out"), ("pwrite", "out"),
                                             ("fsync", "out"), ("preadv", "a")])
def test_a_failed_system_call_names_its_file_and_leaves_nothing(tmp_path, monkeypatch, call, named):
    (tmp_path / "a.fits").write_bytes(primary() + image(b"abc"))
    out = tmp_path / "out.fits"

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space") as caught:
        build.build(specification(file_source("a", "a.fits")), str(tmp_path), str(out))
    assert caught.value.filename == str(tmp_path / f"{named}.fits")
    assert not out.exists()


def test_a_file_system_without_fallocate_is_no_obstacle(make, monkeypatch):
    def fail(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    out, _ = make(specification(file_source("a", sample("tb.fits"))))
    check_with_astropy(out)


def test_unknown_extensions_and_empty_ones_are_copied(tmp_path, make):
    odd = header("XTENSION= 'DUMP    '", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 0", "NAXIS2  = 5",
                 "PCOUNT  = 7", "GCOUNT  = 2", "WEIRD\tK = 1") + bytes(range(14)) + bytes(2866)
    empty = header("XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 0", "PCOUNT  = 0",
                   "GCOUNT  = 1")
    (tmp_path / "a.fits").write_bytes(primary() + odd + empty)
    out, _ = make(specification(file_source("a", "a.fits")))
    theirs = fitsfile.read_structure(str(tmp_path / "a.fits")).hdus
    ours = fitsfile.read_structure(str(out)).hdus
    assert ours[1].data_size == 14
    for old, new in zip(theirs[1:], ours[1:], strict=True):
        same_extension(tmp_path / "a.fits", old, out, new)


CARDS = st.one_of(
    st.just(b" " * 80), st.just(b"CHECKSUM= '0000000000000000'".ljust(80)),
    st.just(b"DATASUM = '12345'".ljust(80)), st.just(b"CONTINUE  'more'".ljust(80)),
    st.just(b"ORIGFILE= 'old.fits'".ljust(80)), st.just(b"ARCFILE = 'old&'".ljust(80)),
    st.just(b"COMMENT  DATASUM = '5'".ljust(80)),
    st.integers(0, 9).map(lambda n: b"DOC%d    = %d" % (n, n)).map(lambda c: c.ljust(80)),
    st.binary(min_size=8, max_size=80).map(lambda c: c.ljust(80)).filter(
        lambda c: not c.startswith(b"END ")))
OURS = (*SEAL, b"ORIGFILE", b"ARCFILE ")


def strangers(cards, own):
    """The cards that are none of ours, nor a continuation of one, nor blank."""
    found, mine = [], False
    for card in cards:
        mine = card[:8].upper() in own and card[8:9] == b"=" or (
            mine and card.startswith(b"CONTINUE"))
        if not mine and card.strip(b" "):
            found.append(card)
    return found


@given(st.lists(CARDS, max_size=80), st.booleans(), st.binary(max_size=30))
def test_any_header_keeps_what_is_not_ours_and_gets_one_seal(extra, stamped, behind):
    first = header("XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 3",
                   "PCOUNT  = 0", "GCOUNT  = 1")[:480]
    raw = first + b"".join(extra) + b"END".ljust(80)
    fill = -len(raw) % 2880
    raw += behind[:fill].ljust(fill)
    hdu = fitsfile.Hdu(1, "IMAGE", raw, 6 + len(extra), 2880, 3)
    assert hdu.header == raw
    stamps = [b"ORIGFILE= 'new&'".ljust(80), b"CONTINUE  '.fits'".ljust(80),
              b"ARCFILE = 'new.fits'".ljust(80)] if stamped else []
    made = headers.kept(hdu, stamps)
    part = layout.Part(1, 2880, made, layout.Input("s", "f", None), hdu)
    total = checksum.data_sum(b"abc")
    sealed = bytes(seal.Sealer("now", "verify").seal(part, total))
    assert len(sealed) == made.size >= len(raw)
    assert checksum.add(checksum.data_sum(sealed), total) == 0xFFFFFFFF
    cards = [sealed[at:at + 80] for at in range(0, len(sealed), 80)]
    end = cards.index(b"END".ljust(80))
    if made.size > len(raw) or end > 6 + len(extra):
        assert not b"".join(cards[end + 1:]).strip(b" ")
    own = OURS if stamped else SEAL
    names = [card[:9].upper() for card in cards[:end]]
    for name in own:
        assert names.count(name + b"=") == 1
    assert strangers(cards[:end], own) == strangers(hdu.cards, own)
    used = len([c for c in cards[:end] if c.strip(b" ")]) + 1
    assert made.size <= max(len(raw), -(-(used + len(extra)) * 80 // 2880) * 2880)
    # what was sealed once is not changed a second time
    again = fitsfile.Hdu(1, "IMAGE", sealed, end, 2880, 3)
    part = layout.Part(1, 2880, headers.kept(again, stamps), layout.Input("s", "f", None), again)
    second = bytes(seal.Sealer("later", "strict").seal(part, total))
    assert second == sealed or stamped

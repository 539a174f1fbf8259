"""The image of a source's primary HDU as an extension of the product."""

from __future__ import annotations

import gzip

import numpy
import pytest
from astropy.io import fits

from daq_merge import build, explain, plan, record
from daq_merge.how import How
from daq_merge.seal import Damaged
from daqlib import fitsfile
from merge_samples import file_source, header, image, primary, sample, specification

PIXELS = {
    "8 bits": numpy.arange(60, dtype=numpy.uint8).reshape(6, 10),
    "unsigned": numpy.arange(60000, 60100, dtype=numpy.uint16).reshape(10, 10),
    "one axis": numpy.linspace(0, 1, 33),
    "three axes": numpy.arange(120, dtype=numpy.int32).reshape(4, 5, 6),
}
CARDS = [("EXPTIME", 2.5, "seconds"), ("BUNIT", "adu"), ("CRVAL1", 12.5), ("MJD-OBS", 60000.25),
         ("HIERARCH ESO DET ID", "one"), ("LONG", "x" * 100), ("COMMENT", "first"),
         ("HISTORY", "second")]


@pytest.fixture(autouse=True)
def still(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763692200.25")


@pytest.fixture
def make(tmp_path):
    """Merge, and return the path of the product and what is told of it."""
    def made(document, how=None):
        out = tmp_path / "out.fits"
        result = build.build(document, str(tmp_path), str(out), how)
        return out, result
    return made


def camera(path, pixels, *cards, **more):
    hdu = fits.PrimaryHDU(pixels)
    hdu.header.extend(cards or CARDS)
    for name, value in more.items():
        hdu.header[name] = value
    hdu.writeto(path, checksum=True)


def promoting(name, location, **more):
    return file_source(name, location, primaryData="extension", **more)


def ids(result):
    return [alert["id"] for alert in result.alerts]


def cards_of(path, index):
    return [card[:8].rstrip() for card in fitsfile.read_structure(str(path)).hdus[index].cards]


def same_image(extension, original):
    """Every pixel as it is read, and every card but those of the structure and the seal."""
    assert extension.data.dtype == original.data.dtype
    assert (extension.data == original.data).all()
    gone = {"SIMPLE", "XTENSION", "EXTEND", "PCOUNT", "GCOUNT", "EXTNAME", "EXTVER", "LONGSTRN",
            "CHECKSUM", "DATASUM"}
    ours, theirs = ([tuple(card) for card in hdu.header.cards if card.keyword not in gone]
                    for hdu in (extension, original))
    assert ours == theirs
    assert extension.header["DATASUM"] == original.header["DATASUM"]


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("zipped", [False, True])
def test_the_image_is_an_extension_with_its_own_header(tmp_path, make, kind, zipped):
    camera(tmp_path / "a.fits", PIXELS[kind])
    if zipped:
        (tmp_path / "a.fits").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    out, result = make(specification(promoting("cam", "a.fits")), How(sums="strict"))
    assert result.alerts == result.warnings == []
    with fits.open(out, checksum=True) as got, fits.open(tmp_path / "a.fits") as want:
        assert [(hdu.verify_checksum(), hdu.verify_datasum()) for hdu in got] == [(1, 1)] * 2
        assert got[0].data is None and got[1].name == "cam"
        same_image(got[1], want[0])


def test_the_cards_of_the_structure_come_first(tmp_path, make):
    (tmp_path / "a.fits").write_bytes(header(
        "SIMPLE  =                    T", "COMMENT early", "BITPIX  =                    8 / bits",
        "NAXIS   =                    2", "NAXIS1  =                    3 / columns",
        "NAXIS2  = 2", "NAXIS7  = 9", "EXTEND  = T", "naxis3  = 4", "GROUPS  = F", "PCOUNT  = 5",
        "NEXTEND = 3", "BLOCKED = T", "BSCALE  = 2.0", "", "DATASUM =", "CONTINUE  'stray'",
        "PTYPE1  = 'U'", "") + b"abcdef".ljust(2880, b"\0"))
    out, _ = make(specification(promoting("cam", "a.fits")))
    hdu = fitsfile.read_structure(str(out)).hdus[1]
    told = b"".join(hdu.cards).rstrip()
    assert [told[at:at + 80].rstrip() for at in range(0, len(told), 80)][:-2] == [
        b"XTENSION= 'IMAGE   '           / image extension",
        b"BITPIX  =                    8 / bits", b"NAXIS   =                    2",
        b"NAXIS1  =                    3 / columns", b"NAXIS2  = 2",
        b"PCOUNT  =                    0 / no parameters",
        b"GCOUNT  =                    1 / one group",
        b"EXTNAME = 'cam     '           / source that delivered the image",
        b"COMMENT early", b"BSCALE  = 2.0", b"", b"PTYPE1  = 'U'"]
    assert cards_of(out, 1)[12:14] == [b"DATASUM", b"CHECKSUM"]
    assert out.read_bytes()[hdu.data_offset:][:6] == b"abcdef"


def test_keywords_are_merged_and_what_describes_the_array_goes_with_it(tmp_path, make):
    camera(tmp_path / "a.fits", PIXELS["unsigned"], EXTNAME="OWN")
    document = specification(promoting("cam", "a.fits"))
    out, _ = make(document)
    array = [b"BZERO", b"BSCALE", b"BUNIT", b"CRVAL1", b"EXTNAME"]
    assert [name for name in array if name in cards_of(out, 0)] == []
    assert [name for name in array if name in cards_of(out, 1)] == array
    with fits.open(out) as hdus:
        for hdu in hdus:
            assert (hdu.header["EXPTIME"], hdu.header["MJD-OBS"], hdu.header["ESO DET ID"]) == (
                2.5, 60000.25, "one")
        assert hdus[1].name == "OWN"
    # rules say otherwise of all but what would falsify another array
    document["sources"][0]["keywordRules"] = [{"type": "filter", "selectionPatterns": ["+evc *"]}]
    out, _ = make(document)
    assert [name for name in array if name in cards_of(out, 0)] == array[2:]


def test_several_images_have_names_of_their_own(tmp_path, make):
    for name in "abcd":
        camera(tmp_path / f"{name}.fits", PIXELS["8 bits"], ("DET", name))
    document = specification(*(promoting(source, f"{name}.fits") for source, name in (
        ("one", "a"), ("two", "b"), ("one", "c"), ("one", "d"))))
    out, _ = make(document)
    with fits.open(out) as hdus:
        assert [(hdu.name, hdu.ver, hdu.header["DET"]) for hdu in hdus[1:]] == [
            ("one", 1, "a"), ("two", 1, "b"), ("one", 2, "c"), ("one", 3, "d")]


@pytest.mark.parametrize(("name", "text"), [
    ("caméra", "cam?ra"), ("x" * 70, "x" * 70), ("it's", "it's")])
def test_any_source_name_becomes_a_name(tmp_path, make, name, text):
    camera(tmp_path / "a.fits", PIXELS["8 bits"], ("DET", 1))
    out, _ = make(specification(promoting(name, "a.fits")))
    assert fits.getval(out, "EXTNAME", 1) == text
    assert (b"LONGSTRN" in cards_of(out, 1)) == (len(name) > 68)


@pytest.mark.parametrize("way", ["new", "in-place", "auto", "insert", "share"])
def test_the_target_keeps_its_own_and_images_stand_before_the_extensions(tmp_path, way):
    camera(tmp_path / "a.fits", PIXELS["8 bits"])
    fits.HDUList([fits.PrimaryHDU(PIXELS["unsigned"]), fits.ImageHDU(PIXELS["8 bits"], name="E")
                  ]).writeto(tmp_path / "b.fits", checksum=True)
    (tmp_path / "t.fits").write_bytes(
        image(b"target", *[""] * 100, first="SIMPLE  =                    T"))
    document = specification(promoting("a", "a.fits"), promoting("b", "b.fits"),
                             target=promoting("t", "t.fits"))
    planned = plan.plan(document, str(tmp_path))
    files = record.origins(planned.base, planned.inputs)
    result = build.write(planned, str(tmp_path / "out.fits"), How(way))
    assert "unmergeable" not in str(result.alerts)
    assert (result.way == "in-place") == (way in ("in-place", "insert"))
    with fits.open(result.path) as hdus:
        assert hdus[0].data.tobytes() == b"target" and hdus[0].header["EXTEND"] is True
        assert [hdu.name for hdu in hdus[1:]] == ["a", "b", "E"]
        assert (hdus[2].data == PIXELS["unsigned"]).all()
    told = record.parts(result.path, files, {})
    assert [part["source"] for part in told] == ["t", "a", "b", "b"]


def test_the_target_among_the_sources_is_no_extension(tmp_path, make):
    camera(tmp_path / "a.fits", PIXELS["unsigned"])
    listed = promoting("cam", "a.fits")
    out, result = make(specification(listed, target=listed))
    assert (result.hdus, result.alerts) == (1, [])
    assert (fits.getdata(out) == PIXELS["unsigned"]).all()


@pytest.mark.parametrize("blob", [
    primary("EXTNAME = 'NONE'"),
    header("SIMPLE  =                    T", "BITPIX  =                   16",
           "NAXIS   =                    2", "NAXIS1  =                    5",
           "NAXIS2  =                    0")])
def test_without_data_there_is_no_extension(tmp_path, make, blob):
    (tmp_path / "a.fits").write_bytes(blob)
    _, result = make(specification(promoting("cam", "a.fits")))
    assert (result.hdus, result.alerts) == (1, [])


@pytest.mark.parametrize(("source", "reason"), [
    (promoting("g", sample("random_groups.fits")), "random groups cannot"),
    (file_source("g", sample("scale.fits")), "with primaryData extension they would"),
    (file_source("g", sample("scale.fits"), primaryData="leave"), "with primaryData extension")])
def test_what_is_left_out_is_told(make, source, reason):
    _, result = make(specification(source))
    assert ids(result)[0].startswith("unmergeable:g:")
    assert reason in result.alerts[0]["description"]


def test_damage_is_told(tmp_path, make):
    camera(tmp_path / "a.fits", PIXELS["8 bits"])
    blob = bytearray((tmp_path / "a.fits").read_bytes())
    blob[-2880] ^= 1
    (tmp_path / "a.fits").write_bytes(blob)
    document = specification(promoting("cam", "a.fits"))
    out, result = make(document)
    assert ids(result) == ["datasum:cam:a.fits[0]"] and list(result.damaged) == [1]
    assert "MISMATCH" in fits.open(out)[1].header.comments["DATASUM"]
    with pytest.raises(Damaged, match="HDU 0 of a.fits"):
        make(document, How(sums="strict"))
    stated = fits.getval(tmp_path / "a.fits", "DATASUM")
    out, result = make(document, How(sums="trust"))
    assert (fits.getval(out, "DATASUM", 1), result.alerts) == (stated, [])


def test_a_merge_is_repeated_to_the_byte_and_so_is_that_of_its_product(tmp_path, make):
    camera(tmp_path / "a.fits", PIXELS["unsigned"])
    document = specification(promoting("cam", "a.fits"))
    once = make(document)[0].read_bytes()
    assert make(document)[0].read_bytes() == once
    (tmp_path / "a.fits").write_bytes(once)
    assert make(document)[0].read_bytes() == once


def test_stamps_replace_what_the_image_says(tmp_path, make):
    camera(tmp_path / "a.fits", PIXELS["8 bits"], ("ORIGFILE", "old"), ("DET", 1))
    out, _ = make(specification(promoting("cam", "a.fits")), How(stamp="all"))
    assert cards_of(out, 1).count(b"ORIGFILE") == 1
    assert fits.getval(out, "ORIGFILE", 1) == "TEST.2026-11-21T02:30:00.123.fits"


def test_the_explanation_says_where_the_image_went(tmp_path):
    camera(tmp_path / "a.fits", PIXELS["unsigned"])
    told = explain.document(plan.plan(specification(promoting("cam", "a.fits")), str(tmp_path)),
                            sums=True)
    hdu = told["hdus"][1]
    assert (hdu["kind"], hdu["extname"], hdu["source"], hdu["sourceIndex"], hdu["agrees"]) == (
        "IMAGE", "cam", "cam", 0, True)
    rules = {item["name"]: item["rule"] for item in told["leftOut"]}
    assert "primary array, which is an extension of the product" in rules["CRVAL1"]
    assert "primary array" in rules["BZERO"]

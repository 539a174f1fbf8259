"""Files that a merger can easily damage, or choke on: each a few blocks long, made by hand.

``CASES`` holds them by name. Whether a case can be merged is not written here: ``fits_check`` says
which are FITS, and those must come out whole; the others must be refused.
"""

from __future__ import annotations

import functools
import gzip
import io
import random
import struct
from collections.abc import Callable, Iterator

from fits_check import total
from merge_samples import BLOCK, CARD, header, image, primary

Maker = Callable[[], bytes]

#: Name -> makes the file.
CASES: dict[str, Maker] = {}
#: What a merger may also refuse although its structure can be told.
DOUBTFUL = {"shape_twice"}

_NOISE = random.Random(20261121).randbytes(16_384)


def case(maker: Maker) -> Maker:
    """Put a maker into the corpus under its name."""
    CASES[maker.__name__.strip("_")] = maker
    return maker


def named(name: str, maker: Maker) -> None:
    """Put a maker into the corpus."""
    assert name not in CASES, name
    CASES[name] = maker


# -- building blocks ------------------------------------------------------------------------------


def number(name: str, value: object, comment: str = "") -> str:
    """A card with a number or a logical value, in fixed format."""
    return f"{name:8}= {value:>20}" + (f" / {comment}" if comment else "")


def filled(data: bytes, fill: bytes = b"\0") -> bytes:
    """Data in whole blocks."""
    return data + fill * (-len(data) % BLOCK)


def unit(kind: str, bits: int, axes: tuple[int, ...], data: bytes, *lines: str, pcount: int = 0,
         gcount: int = 1, fill: bytes = b"\0") -> bytes:
    """An extension."""
    return header(f"XTENSION= '{kind:8}'", *_shape(bits, axes), number("PCOUNT", pcount),
                  number("GCOUNT", gcount), *lines) + filled(data, fill)


def _shape(bits: int, axes: tuple[int, ...]) -> list[str]:
    return [number("BITPIX", bits), number("NAXIS", len(axes)),
            *(number(f"NAXIS{n}", axis) for n, axis in enumerate(axes, 1))]


def pixels(bits: int, *lines: str, data: bytes = _NOISE, name: str = "PIX") -> bytes:
    """A file with a 16 x 16 image extension of that BITPIX."""
    size = 256 * abs(bits) // 8
    return primary() + unit("IMAGE", bits, (16, 16), data[:size].ljust(size, b"\1"),
                            f"EXTNAME = '{name}'", *lines)


def table(rows: int, forms: list[str], width: int, data: bytes, *lines: str, heap: int = 0
          ) -> bytes:
    """A file with a binary table."""
    columns = [line for n, form in enumerate(forms, 1)
               for line in (f"TTYPE{n:<3}= 'COL{n}'", f"TFORM{n:<3}= '{form}'")]
    return primary() + unit("BINTABLE", 8, (width, rows), data, number("TFIELDS", len(forms)),
                            *columns, "EXTNAME = 'TABLE'", *lines, pcount=heap)


def both(*lines: str) -> bytes:
    """A file with the same cards in the primary header and in that of an extension."""
    return primary(*lines) + image(_NOISE[:100], "EXTNAME = 'BOTH'", *lines)


def one_image(*lines: str) -> bytes:
    """A small file with a small image extension."""
    return primary() + image(_NOISE[:100], *lines)


def sealed_image(*, data_sum: str = "{}", checksum: str = "0000000000000000") -> bytes:
    """A file whose extension has these sums; braces stand for the right one."""
    data = filled(_NOISE[:100])
    return primary() + image(_NOISE[:100], f"DATASUM = '{data_sum.format(total(data))}'",
                             f"CHECKSUM= '{checksum}'")


# -- images ---------------------------------------------------------------------------------------

for _bits, _zero, _name in ((16, 32768, "uint16"), (32, 2147483648, "uint32"),
                            (64, 9223372036854775808, "uint64"), (8, -128, "int8")):
    named(_name, functools.partial(pixels, _bits, number("BZERO", _zero), number("BSCALE", 1)))

_NANS = struct.pack(">8I", 0x7FA00001, 0xFFC12345, 0x7F800000, 0x80000000, 0x7FC00000, 0x7F800001,
                    0xFF800001, 1)
named("bscale_blank", lambda: pixels(16, number("BSCALE", 0.1), number("BZERO", 3.7),
                                     number("BLANK", -32768), data=b"\x80\0" * 4 + _NOISE))
named("nan_payloads", lambda: pixels(-32, data=_NANS + _NOISE))
named("signalling_nans", lambda: pixels(-64, data=struct.pack(">2Q", 0x7FF0000000000001,
                                                              0xFFF7FFFFFFFFFFFF) + _NOISE))
named("naxis_0", lambda: primary() + unit("IMAGE", 8, (), b"", "EXTNAME = 'NOTHING'"))
named("zero_axis", lambda: primary() + unit("IMAGE", 16, (0, 10), b""))
named("huge_times_zero", lambda: primary() + unit("IMAGE", 16, (2**62, 2**62, 0), b""))
named("axes_999", lambda: primary() + unit("IMAGE", 8, (1,) * 999, b"x"))
named("axes_1000", lambda: primary() + unit("IMAGE", 8, (1,) * 1000, b"x"))
named("fill_not_zero", lambda: primary() + unit("IMAGE", 8, (100,), _NOISE[:100], fill=b"\xA5"))
named("image_with_pcount", lambda: primary() + unit("IMAGE", 8, (10,), _NOISE[:52], pcount=3,
                                                    gcount=4))
named("foreign", lambda: primary() + unit("FOREIGN", 8, (100,), _NOISE[:256], pcount=28, gcount=2))
named("foreign_lower", lambda: primary() + unit("x y.z", 8, (100,), _NOISE[:100]))
named("iueimage", lambda: primary() + unit("IUEIMAGE", 8, (100,), _NOISE[:100]))


def _compressed(kind: str) -> bytes:
    import numpy
    from astropy.io import fits

    values = (numpy.arange(1024) % 97).astype("i2").reshape(32, 32)
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(values, compression_type=kind, name="COMP")]
                 ).writeto(file)
    return file.getvalue()


for _kind in ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1"):
    named(f"compressed_{_kind.lower()}", functools.partial(_compressed, _kind))


@case
def compressed_table() -> bytes:
    # one tile of two columns; what is in the heap only its reader knows
    heap = gzip.compress(_NOISE[:40], mtime=0)
    rows = struct.pack(">4i", len(heap), 0, len(heap), 0)
    return table(1, ["1PB(80)", "1PB(80)"], 16, rows + heap, number("ZTABLE", "T"),
                 number("ZNAXIS1", 8), number("ZNAXIS2", 5), number("ZPCOUNT", 0),
                 number("ZTILELEN", 5), "ZFORM1  = '1J'", "ZCTYP1  = 'GZIP_1'",
                 "ZFORM2  = '1E'", "ZCTYP2  = 'GZIP_2'", "ZDATASUM= '1234567890'",
                 heap=len(heap))


# -- tables ---------------------------------------------------------------------------------------


def _arrays(form: str, gap: int) -> bytes:
    packing = ">qq" if "Q" in form else ">ii"
    rows, heap = b"", b""
    for length in (3, 1, 0, 4):
        rows += struct.pack(packing, length, len(heap))
        heap = _NOISE[:4 * length] + b"hole" + heap  # out of order: the last row's come first
    theap = [number("THEAP", len(rows) + gap)] if gap else []
    return table(4, [form], len(rows) // 4, rows + b"\xAA" * gap + heap, *theap,
                 heap=gap + len(heap))


for _form, _gap in (("1PE(4)", 0), ("1PE(4)", 40), ("1QE(4)", 24), ("1PE", 0), ("1PE", 4),
                    ("PE()", 0)):
    named(f"heap_{_form.lower().translate({40: None, 41: None})}_{_gap}",
          functools.partial(_arrays, _form, _gap))

named("columns_1000", lambda: table(2, ["1B"] * 1000, 1000, _NOISE[:2000]))
named("columns_none", lambda: table(0, [], 0, b""))
named("columns_strange", lambda: table(3, ["8X", "1C", "1M", "3A", "0J", "2L"], 31, _NOISE[:93]))


def _ascii(fill: bytes) -> bytes:
    rows = b"   1   1.500   2  -2.250   3   0.125"
    return primary() + unit("TABLE", 8, (12, 3), rows, number("TFIELDS", 2),
                            "TTYPE1  = 'A'", number("TBCOL1", 1), "TFORM1  = 'I4'",
                            "TTYPE2  = 'B'", number("TBCOL2", 6), "TFORM2  = 'F7.3'", fill=fill)


named("ascii_table", functools.partial(_ascii, b" "))
named("ascii_table_zeros", functools.partial(_ascii, b"\0"))

# -- primary data ---------------------------------------------------------------------------------


@case
def primary_image() -> bytes:
    return header("SIMPLE  =                    T", *_shape(16, (16, 16)), number("EXTEND", "T"),
                  number("BZERO", 32768), number("BSCALE", 1), number("BLANK", -32768),
                  "BUNIT   = 'adu'") + filled(_NOISE[:512]) + image(_NOISE[:80])


@case
def primary_image_alone() -> bytes:
    return header("SIMPLE  =                    T", *_shape(-64, (4, 4))) + filled(_NOISE[:128])


@case
def primary_fill_not_zero() -> bytes:
    return header("SIMPLE  =                    T", *_shape(8, (80,))) + filled(_NOISE[:80], b"z")


@case
def primary_cube() -> bytes:
    return header("SIMPLE  =                    T", *_shape(32, (4, 3, 5)), number("EXTEND", "T"),
                  number("NAXIS9", 7), "EXTNAME = 'CUBE'", "", number("PCOUNT", 3),
                  number("GROUPS", "F"), number("NEXTEND", 4),
                  "HIERARCH ESO DET ID = 'cube'", "LONG    = 'a string that goes on &'",
                  "CONTINUE  'here&'", "CONTINUE  '' / and ends", "HISTORY of it", "", "",
                  number("extend", "T"), "DATASUM = '12'",
                  number("BSCALE", 2.5), "CTYPE1  = 'RA---TAN'", number("CRVAL1", 12.5)
                  ) + filled(_NOISE[:240]) + image(_NOISE[:80])


@case
def primary_full_of_cards() -> bytes:
    return header("SIMPLE  =                    T", *_shape(8, (100,)),
                  *(number(f"KEY{n}", n) for n in range(31))) + filled(_NOISE[:100])


named("primary_short", lambda: CASES["primary_image_alone"]()[:-100])
named("primary_gzip", lambda: zipped(CASES["primary_cube"]()))


@case
def random_groups() -> bytes:
    return header("SIMPLE  =                    T", *_shape(-32, (0, 3, 4)), number("GROUPS", "T"),
                  number("PCOUNT", 5), number("GCOUNT", 6), "PTYPE1  = 'UU'", number("PSCAL1", 2.0)
                  ) + filled(_NOISE[:4 * 6 * 17]) + image(_NOISE[:80])


named("primary_zero_axis", lambda: header("SIMPLE  =                    T", *_shape(16, (0, 5)))
      + image(b"x"))
named("primary_only", primary)
named("extend_false", lambda: primary("EXTEND  =                    F") + image(b"x"))
named("simple_false", lambda: one_image().replace(b"T", b"F", 1))
named("simple_missing", lambda: one_image().replace(b"SIMPLE  =", b"SAMPLE  =", 1))
named("simple_free_format", lambda: one_image().replace(b"SIMPLE  =                    T",
                                                        b"SIMPLE  = T                   "))
named("numbers_free_format", lambda: header(
    "SIMPLE  = T / free", "BITPIX  = +8/free", "NAXIS   =   1 / free", "NAXIS1  = 00100/"
) + filled(_NOISE[:100]) + image(_NOISE[:100]))

# -- headers --------------------------------------------------------------------------------------

named("blank_cards", lambda: both("ONE     =                    1", "", "", "  ",
                                  "TWO     =                    2", ""))
named("hierarch", lambda: both(
    "HIERARCH ESO DET lower Case = 'kept' / mixed case", "HIERARCH ESO DET TIGHT='no blanks'",
    "HIERARCH ESO DET WIDE        =              1.0 / aligned", "HIERARCH OTHER THING = 3",
    "HIERARCH ESO DET CPLX = (1.0, 2.0)", "HIERARCH no value here", "HIERARCH = 5",
    "HIERARCH ESO DET   BLANKS   IN = 'x' "))
named("odd_values", lambda: both(
    "SHORT   = 'ab'                 / short quoted string", "EMPTY   = ''",
    "NOVALUE =                      / undefined", "FREE    = 1 / free format integer",
    "DEXP    =  1.5D+03 / D exponent", "MANYDIG =  1.23456789012345678901234567890 / digits",
    "BIGINT  =  123456789012345678901234567890", "COMPLEXV=  (1.0, -2.5)", "QUOTE   = 'it''s'",
    "TRAIL   = 'abc     '", "NOSPACE = 'x'/no space", "INF     = inf", "NOTANUM = 1.2.3",
    "SLASH   = 'a / b' / c / d"))
named("long_strings", lambda: both(
    "LONGSTR = 'this string goes on for quite some length and then is continue&'",
    "CONTINUE  'd on the next card&'", "CONTINUE  '' / with a comment",
    "HIERARCH ESO LONG TEXT = 'a long text in a hierarch card that goes on&'",
    "CONTINUE  ' and on'", "AMPERSND= 'only an ampersand&'", "CONTINUE", "CONTINUE  'orphan'",
    "CONTINUE  'orphan&'", "LONGSTRN= 'OGIP 1.0'"))
named("doubles", lambda: both(
    "DUPL    =                    1", "DUPL    =                    2",
    "COMMENT first", "COMMENT first", "HISTORY one", "HISTORY one",
    "HIERARCH ESO A B = 1", "HIERARCH ESO A B = 2"))
named("records", lambda: both("DP1     = 'AXIS.1: 2'", "DP1     = 'NAXES: 3'",
                              "DQ1     = 'EXTVER: 1.0'"))
named("tab", lambda: both("TABCHAR = 'a\tb'               / a control character"))
named("lower_case", lambda: both("lowcase =                    1 / lower-case keyword"))
named("keywordless", lambda: both("A keyword-less card that some writers produce", "=", "= 1",
                                  "NOINDIC =1", "NOINDIC2 = 1", "SPACE IN= 1"))
named("eight_bits", lambda: both("OWNER   = 'M\xfcller'", "COMMENT \xb5m \xe4\xf6",
                                 "HIERARCH ESO \xc4 = 1"))
named("missing_quote", lambda: both("NOQUOTE = 'never closed", "QUOTES  = '''", "ODD     = 'a'b'"))
named("nul_bytes", lambda: both("NULS    = 'a\0b'", "COMMENT \0\0\0"))
named("end_in_texts", lambda: both("TEXT    = 'END'", "COMMENT END", "END     = 5",
                                   "ENDING  = 'END     '", "END of it", "        END"))
named("dates", lambda: both("DATE    = '1999-12-31'", "DATE-OBS= '31/12/99'",
                            "DATE-END= '2026-02-30T25:61:61'", "MJD-OBS = 61365.1"))
named("names_of_the_product", lambda: both("ORIGFILE= 'old.fits'", "ARCFILE = 'older.fits'",
                                           "DATE    = '2001-01-01'"))
named("inherit", lambda: primary("INHERIT =                    T") + image(
    b"x", "INHERIT =                    T", "EXTNAME = 'A'") + image(
    b"y", "INHERIT =                    F", "EXTNAME = 'A'"))
named("same_names", lambda: primary() + b"".join(image(bytes([n]), "EXTNAME = 'SAME'",
                                                       number("EXTVER", 1)) for n in range(4)))
named("names_at_odds", lambda: primary("EXTNAME = 'PRIMARY'") + image(b"x", "EXTNAME = ''") + image(
    b"x", "EXTNAME = 5", "EXTVER  = 'A'") + image(b"x", "EXTNAME = 'lower / case'"))
named("room", lambda: primary(*[""] * 100) + image(b"room", "EXTNAME = 'ROOM'", *[""] * 100))
named("structure_late", lambda: header(
    "SIMPLE  =                    T", "COMMENT between", *_shape(8, (10,)), "EXTEND  =           T",
    "COMMENT behind") + filled(b"0123456789"))
named("shape_twice", lambda: primary() + unit("IMAGE", 8, (10,), b"0123456789",
                                              number("NAXIS1", 9)))
named("after_end", lambda: one_image()[:-BLOCK - CARD] + b"RUBBISH".ljust(CARD) + filled(
    _NOISE[:100]))
named("many_extensions", lambda: primary() + b"".join(
    unit("IMAGE", 8, (), b"", f"EXTNAME = 'E{n}'") for n in range(300)))

for _count in range(32, 38):
    named(f"cards_{_count}", functools.partial(
        lambda count: primary(*(number(f"P{n}", n) for n in range(count - 3))) + image(
            b"x", *(number(f"E{n}", n) for n in range(count - 6))), _count))

# -- sums -----------------------------------------------------------------------------------------

named("sums_right_data_only", lambda: sealed_image(checksum="").replace(b"CHECKSUM", b"CHECKSOM"))
named("sums_stale", lambda: sealed_image(data_sum="12345"))
named("sums_empty", lambda: sealed_image(data_sum="", checksum=""))
named("sums_zero", lambda: primary() + image(bytes(100), "DATASUM = '0'"))
named("sums_padded", lambda: sealed_image(data_sum="   {}  "))
named("sums_in_words", lambda: sealed_image(data_sum="wrong"))
named("sums_long", lambda: sealed_image(data_sum="9" * 60))
named("sums_negative", lambda: sealed_image(data_sum="-1"))
named("sums_number", lambda: one_image(number("DATASUM", total(filled(_NOISE[:100])))))
named("sums_lower", lambda: one_image("datasum = '1'", "checksum= '2'"))
named("sums_checksum_only", lambda: one_image("CHECKSUM= 'abcdefgh12345678'"))
named("sums_commentary", lambda: one_image("CHECKSUM  not a value", "DATASUM   nor this"))
named("sums_twice", lambda: one_image("DATASUM = '1'", "DATASUM = '2'", "CHECKSUM= ''",
                                      "CHECKSUM= ''"))
named("sums_unclosed", lambda: one_image("DATASUM = '17", "CHECKSUM= 'abc"))
named("sums_without_value", lambda: one_image("DATASUM =", "CHECKSUM="))
named("sums_of_the_primary", lambda: primary("DATASUM = '77'", "CHECKSUM= 'abcdefgh12345678'"))


@case
def sums_from_astropy() -> bytes:
    import numpy
    from astropy.io import fits

    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(numpy.arange(99, dtype="i2"), name="A"),
                  fits.ImageHDU(name="EMPTY")]).writeto(file, checksum=True)
    return file.getvalue()


# -- ends -----------------------------------------------------------------------------------------

named("short_data", lambda: one_image()[:-BLOCK + 100])
named("short_data_one_byte", lambda: one_image()[:-1])
named("short_ascii_table", lambda: _ascii(b" ")[:-BLOCK + 36])
named("short_header", lambda: primary()[:4 * CARD])
named("short_last_header", lambda: (primary() + unit("IMAGE", 8, (), b""))[:-BLOCK + 7 * CARD])
named("cut_data", lambda: one_image()[:-BLOCK + 99])
named("cut_in_end_card", lambda: (primary() + unit("IMAGE", 8, (), b""))[:-BLOCK + 6 * CARD - 70])
named("garbage_after", lambda: one_image() + b"garbage")
named("zeros_after", lambda: one_image() + bytes(BLOCK))
named("blanks_after", lambda: one_image() + b" " * BLOCK)
named("special_records", lambda: one_image() + b"SPECIAL RECORD".ljust(BLOCK))
named("empty", lambda: b"")
named("no_fits", lambda: b"#!/bin/sh\necho hello\n" * 400)
named("no_end", lambda: b"SIMPLE  =                    T".ljust(CARD).ljust(6 * BLOCK))
named("axis_too_large", lambda: primary() + header("XTENSION= 'IMAGE   '", *_shape(64, (2**62, 9))))
named("axis_negative", lambda: primary() + header("XTENSION= 'IMAGE   '", *_shape(8, (-1,))))
named("axis_missing", lambda: one_image().replace(b"NAXIS1  ", b"NAXIS2  "))
named("axis_of_digits", lambda: primary() + header(
    "XTENSION= 'IMAGE   '", *_shape(8, (1,))[:2], f"NAXIS1  = {'9' * 70}"))
named("bitpix_7", lambda: one_image().replace(b"BITPIX  =                    8",
                                              b"BITPIX  =                    7"))

# -- gzip -----------------------------------------------------------------------------------------


def zipped(blob: bytes) -> bytes:
    """A file as gzip makes it."""
    return gzip.compress(blob, 6, mtime=0)


named("gzip", lambda: zipped(CASES["heap_1pe4_40"]()))
named("gzip_many_members", lambda: b"".join(
    zipped(one_image()[at:at + 1000]) for at in range(0, len(one_image()), 1000)))
named("gzip_short_data", lambda: zipped(CASES["short_data"]()))
named("gzip_cut", lambda: zipped(one_image())[:-50])
named("gzip_without_end", lambda: zipped(one_image())[:-8])
named("gzip_wrong_crc", lambda: _flipped(zipped(one_image()), -6))
named("gzip_wrong_length", lambda: _flipped(zipped(one_image()), -2))
named("gzip_damaged", lambda: _flipped(zipped(CASES["nan_payloads"]()), 900))
named("gzip_garbage_after", lambda: zipped(one_image()) + b"garbage")
named("gzip_of_no_fits", lambda: zipped(b"hello"))
named("gzip_of_nothing", lambda: zipped(b""))
named("gzip_head_only", lambda: b"\x1f\x8b")
named("gzip_twice", lambda: zipped(zipped(one_image())))
named("unix_compress", lambda: b"\x1f\x9d\x90" + _NOISE[:3000])


def _flipped(blob: bytes, at: int) -> bytes:
    made = bytearray(blob)
    made[at] ^= 0x55
    return bytes(made)


# -- a file to cut and to spoil -------------------------------------------------------------------


@functools.cache
def victim() -> bytes:
    """A file with an HDU of every common kind, as small as it can be."""
    tail = [CASES[name]()[BLOCK:] for name in ("heap_1pe4_40", "ascii_table", "uint16")]
    return primary("OBJECT  = 'victim'", "HIERARCH ESO DET ID = 7") + image(
        _NOISE[:3000], "EXTNAME = 'FIRST'") + b"".join(tail)


def cuts(count: int) -> Iterator[int]:
    """Lengths to cut the victim to: round every block boundary, and anywhere."""
    whole = len(victim())
    for edge in range(0, whole + 1, BLOCK):
        yield from (at for at in (edge - 1, edge, edge + 1, edge + CARD) if 0 <= at < whole)
    chance = random.Random(4)
    yield from (chance.randrange(whole) for _ in range(count))

"""Which keywords are special: the classes that decide what may enter the primary header.

The classes are those of CFITSIO (ESO-396401 section 1.3, "Keyword Classification"): what CFITSIO
does not know is of class *user*.
"""

from __future__ import annotations

import re

from daq_merge.cards import Keyword
from daqlib import cardname

#: Written by the merger; what sources say about them is overwritten (ESO-396401 section 8.3).
RESERVED = ("ORIGFILE", "ARCFILE", "DATE", "CHECKSUM", "DATASUM")

# they say what the numbers of the primary array mean: from another file they would falsify it
_BOUND = re.compile(r"BSCALE|BZERO|BLANK|(PTYPE|PSCAL|PZERO)\d+")

# the cards that old writers add to say what FITS is; part of the file format, not of the data
_BOILERPLATE = (
    b"FITS (Flexible Image Transport System) format",
    b"and Astrophysics', volume 376, page 359",
    b"Astrophysics Supplement Series v44/p363",
    b"Contact the NASA Science Office of Standards",
)

_NOT_USER = re.compile(
    # compression
    r"Z(IMAGE|CMPTYPE|MASKCMP|SIMPLE|TENSION|BITPIX|EXTEND|BLOCKED|PCOUNT|GCOUNT|QUANTIZ|DITHER0"
    r"|SCALE|ZERO|BLANK|TABLE|HECKSUM|DATASUM|NAXIS\d*|NAME\d+|VAL\d+|TILE\d+|FORM\d+|CTYP\d+)"
    # scaling, null values, dimensions, ranges, units, display
    r"|BSCALE|BZERO|BLANK|BUNIT|DATAMIN|DATAMAX"
    r"|T(SCAL|ZERO|NULL|DIM|LMIN|LMAX|DMIN|DMAX|UNIT|DISP|DESC)\d+|(PTYPE|PSCAL|PZERO)\d+"
    # identification of the HDU, sums
    r"|EXTNAME|EXTVER|EXTLEVEL|HDUNAME|HDUVER|HDULEVEL|CHECKSUM|DATASUM"
    # reference system
    r"|EQUINOX|EPOCH|MJD-OBS|RADECSYS|RADESYS|DATE-OBS"
    # world coordinates of images, then of table columns
    r"|(CTYPE|CUNIT|CRVAL|CRPIX|CROTA|CDELT)\d+[A-Z]?|(CD|PC|PV|PS)\d+_\d+[A-Z]?"
    r"|(WCSAXES|WCSNAME|LONPOLE|LATPOLE|EQUINOX|RADESYS|SPECSYS|RESTFRQ|RESTWAV)[A-Z]?"
    r"|T(CTYP|CUNI|CRVL|CRPX|CROT|CDLT|CDE)\d+[A-Z]?|T(CTY|CUN|CRV|CRP|CDE|CRO)\d+[A-Z]?"
    r"|T(CD|C|PC|P|PV|V|PS|S)\d+_\d+[A-Z]?|\d+(CTYP|CUNI|CRVL|CRPX|CDLT|CROT)\d+[A-Z]?")


def is_structural(keyword: Keyword) -> bool:
    """Whether the keyword belongs to the file's structure; such are never merged."""
    if keyword.kind == "eso":
        return False
    if keyword.name == "COMMENT":
        return keyword.cards[0][8:].strip().startswith(_BOILERPLATE)
    return cardname.is_structural(keyword.kind, keyword.name)


def is_reserved(keyword: Keyword) -> bool:
    """Whether the merger itself writes the keyword."""
    return keyword.kind == "value" and keyword.name in RESERVED


def is_bound(keyword: Keyword) -> bool:
    """Whether the keyword gives the primary array's numbers their meaning."""
    return keyword.kind == "value" and _BOUND.fullmatch(keyword.name) is not None


def is_user(keyword: Keyword) -> bool:
    """Whether the keyword is of class user, the only ones that StartDaq (V1) copies by default."""
    if keyword.kind == "commentary":
        return False
    return keyword.kind == "eso" or _NOT_USER.fullmatch(keyword.name) is None

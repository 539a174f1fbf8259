"""Which keywords are special: the classes that decide what may enter the primary header.

The classes are those of CFITSIO (ESO-396401 section 1.3, "Keyword Classification"): what CFITSIO
does not know is of class *user*. Names count whatever their case, because many readers ignore it.
"""

from __future__ import annotations

from daqlib import cardname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daq_merge.cards import Keyword
    from daqlib.cardname import Kind

#: Written by the merger; what sources say about them is overwritten (ESO-396401 section 8.3).
RESERVED = ("ORIGFILE", "ARCFILE", "DATE", "CHECKSUM", "DATASUM")

_RESERVED = frozenset(RESERVED)

# the cards that old writers add to say what FITS is; part of the file format, not of the data
_BOILERPLATE = (
    b"FITS (Flexible Image Transport System) format",
    b"and Astrophysics', volume 376, page 359",
    b"Astrophysics Supplement Series v44/p363",
    b"Contact the NASA Science Office of Standards",
)

# thousands of small files have the same keywords
_roles: dict[tuple[Kind, str], str] = {}
_ROLES_MAX = 2000

# reference system and time of the observation
_OBSERVED = frozenset(("EQUINOX", "EPOCH", "MJD-OBS", "RADECSYS", "RADESYS", "DATE-OBS"))

# what CFITSIO knows, as shapes: n stands for a number
_KNOWN = frozenset((
    # compression; and ZDITHER0, which is no ZDITHERn
    *(f"Z{name}" for name in (
        "IMAGE", "CMPTYPE", "MASKCMP", "SIMPLE", "TENSION", "BITPIX", "EXTEND", "BLOCKED",
        "PCOUNT", "GCOUNT", "QUANTIZ", "SCALE", "ZERO", "BLANK", "TABLE", "HECKSUM", "DATASUM",
        "NAXIS", "NAXISn", "NAMEn", "VALn", "TILEn", "FORMn", "CTYPn")),
    # scaling, null values, dimensions, ranges, units, display
    "BUNIT", "DATAMIN", "DATAMAX", "BSCALE", "BZERO", "BLANK", "PTYPEn", "PSCALn", "PZEROn",
    *(f"T{name}n" for name in ("SCAL", "ZERO", "NULL", "DIM", "LMIN", "LMAX", "DMIN", "DMAX",
                               "UNIT", "DISP", "DESC")),
    # identification of the HDU, sums
    "EXTNAME", "EXTVER", "EXTLEVEL", "HDUNAME", "HDUVER", "HDULEVEL", "CHECKSUM", "DATASUM",
    *_OBSERVED))

# likewise, and a letter may follow: that of an alternate description of the coordinates
_LETTERED = frozenset((
    "CTYPEn", "CUNITn", "CRVALn", "CRPIXn", "CROTAn", "CDELTn", "CDn_n", "PCn_n", "PVn_n", "PSn_n",
    "WCSAXES", "WCSNAME", "LONPOLE", "LATPOLE", "EQUINOX", "RADESYS", "SPECSYS", "RESTFRQ",
    "RESTWAV",
    # of table columns
    *(f"T{name}n" for name in ("CTYP", "CUNI", "CRVL", "CRPX", "CROT", "CDLT", "CDE",
                               "CTY", "CUN", "CRV", "CRP", "CRO")),
    *(f"T{name}n_n" for name in ("CD", "C", "PC", "P", "PV", "V", "PS", "S")),
    *(f"n{name}n" for name in ("CTYP", "CUNI", "CRVL", "CRPX", "CDLT", "CROT"))))


def role(keyword: Keyword) -> str:
    """Return what a keyword is for the merger.

    Returns:
        ``structural``: belongs to the file's structure, and is never merged. ``reserved``: the
        merger itself writes it. ``bound``: gives the primary array's numbers their meaning, and
        is taken from the merge target only. Empty: none of these.
    """
    kind, name = key = keyword.key
    if kind == "eso":
        return ""
    if name == "COMMENT":
        text = keyword.cards[0][8:].strip()
        return "structural" if text.startswith(_BOILERPLATE) else ""
    known = _roles.get(key)
    if known is None:
        if len(_roles) >= _ROLES_MAX:
            _roles.clear()
        known = _roles[key] = _role(kind, name)
    return known


def _role(kind: Kind, name: str) -> str:
    if cardname.is_structural(kind, name):
        return "structural"
    if kind != "value":
        return ""
    if cardname.shape(name) in _RESERVED:
        return "reserved"
    return "bound" if cardname.is_bound(kind, name) else ""


def is_of_array(keyword: Keyword) -> bool:
    """Whether the keyword describes an array: unit, range, coordinates, name.

    What tells when and in which system was observed holds for the whole product.
    """
    return (keyword.kind == "value" and not is_user(keyword)
            and cardname.shape(keyword.name) not in _OBSERVED)


def is_user(keyword: Keyword) -> bool:
    """Whether the keyword is of class user, the only ones that StartDaq (V1) copies by default."""
    if keyword.kind != "value":
        return keyword.kind == "eso"
    shape = cardname.shape(keyword.name)
    if shape in _KNOWN or shape in _LETTERED or keyword.name.upper() == "ZDITHER0":
        return False
    return not ("A" <= shape[-1:] <= "Z" and shape[:-1] in _LETTERED)

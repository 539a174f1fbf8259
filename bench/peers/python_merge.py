"""The yardsticks in Python: the same merge with astropy, and with fitsio.

    python python_merge.py astropy|fitsio SPECIFICATION PRODUCT

astropy is told to leave the data alone: mapped, not scaled, compressed images as the tables that
they are. fitsio cannot copy an HDU: its users read an array and write it again.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from typing import Any

AS_IT_IS = {"memmap": True, "do_not_scale_image_data": True, "disable_image_compression": True}
Document = dict[str, Any]


def with_astropy(job: Document, folder: str, product: str) -> None:
    """Merge with astropy into a new file."""
    from astropy.io import fits

    archive, hdus = f"{job['target']['fileId']}.fits", fits.HDUList()
    for source in _files(job):
        opened = fits.open(os.path.join(folder, source["location"]), **AS_IT_IS)
        if source is job["target"].get("source"):
            hdus.append(opened[0])
        elif not hdus:
            hdus.append(fits.PrimaryHDU())
        if opened[0] is not hdus[0]:
            hdus[0].header.extend((card for card in opened[0].header.cards
                                   if card.keyword.startswith("ESO ")), unique=True)
        for hdu in opened[1:]:
            hdu.header["ORIGFILE"] = (source["location"], "Original file name")
            hdu.header["ARCFILE"] = (archive, "Archive file name")
            hdus.append(hdu)
    head = hdus[0].header
    for one in _keywords(job):
        name = f"HIERARCH ESO {one['name']}" if one["type"] == "esoKeyword" else one["name"]
        head[name] = (one["value"], one["comment"])
    head["ORIGFILE"] = (os.path.basename(product), "Original file name")
    head["ARCFILE"] = (archive, "Archive file name")
    hdus.writeto(f"{product}.part", checksum=True, output_verify="ignore", overwrite=True)
    os.rename(f"{product}.part", product)


def with_fitsio(job: Document, folder: str, product: str) -> None:
    """Merge with fitsio into a new file."""
    import fitsio

    archive, base = f"{job['target']['fileId']}.fits", job["target"].get("source")

    def seal(hdu: Any, origin: str) -> None:
        hdu.write_key("ORIGFILE", origin, "Original file name")
        hdu.write_key("ARCFILE", archive, "Archive file name")
        hdu.write_checksum()

    opened = [fitsio.FITS(os.path.join(folder, one["location"])) for one in _files(job)]
    made = fitsio.FITS(f"{product}.part", "rw", clobber=True)
    made.create_image_hdu(None, header=opened[0][0].read_header() if base else None)
    for file in opened[1 if base else 0:]:
        for record in file[0].read_header().records():
            if "ESO " in record["name"]:
                made[0].write_key(record["name"], record["value"], record["comment"])
    for one in _keywords(job):
        name = f"ESO {one['name']}" if one["type"] == "esoKeyword" else one["name"]
        made[0].write_key(name, one["value"], one["comment"])
    seal(made[0], os.path.basename(product))
    for source, file in zip(_files(job), opened, strict=True):
        for hdu in file[1:]:
            made.write(hdu.read(), header=hdu.read_header(), extname=hdu.get_extname())
            seal(made[-1], source["location"])
    made.close()
    os.rename(f"{product}.part", product)


def _files(job: Document) -> list[Document]:
    base = job["target"].get("source")
    others = [one for one in job["sources"] if one["type"] == "fitsFile"]
    return [base, *others] if base else others


def _keywords(job: Document) -> list[Document]:
    return [one for source in job["sources"] for one in source.get("keywords", [])]


def main() -> None:
    """Merge; every input stays open until the end."""
    library, specification, product = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    warnings.simplefilter("ignore")
    with open(specification) as file:
        job = json.load(file)
    merge = {"astropy": with_astropy, "fitsio": with_fitsio}[library]
    merge(job, os.path.dirname(specification), product)


main()

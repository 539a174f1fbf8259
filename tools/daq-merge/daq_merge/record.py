"""What a manifest says of a product, HDU by HDU, and of the files that it was made from.

Everything is read from the headers of the finished product, so that a product which was built by
an earlier try is described like one of this try.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from daqlib import fitsfile, fsops, manifest
from daqlib.fitsfile import CARD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daq_merge.build import Built
    from daq_merge.layout import Input
    from daq_merge.plan import Plan
    from daqlib.fitsfile import Hdu

Document = dict[str, Any]


class Record:
    """The manifest of a merge without a spool; begun before the merge, which may change a file."""

    def __init__(self, planned: Plan, document: Document) -> None:
        """Take the digests of the inputs.

        Args:
            planned: the product; its inputs are as they were planned when the merge begins.
            document: the specification.

        Raises:
            OSError: an input cannot be read.
        """
        self._id = str(document["id"])
        self._file_id = str(document["target"]["fileId"])
        text = json.dumps(document, sort_keys=True, ensure_ascii=False)
        self._specification = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        self._inputs = origins(planned.base, planned.inputs)
        digests: dict[str, str] = {}
        for one, told in zip(planned.inputs, self._inputs, strict=True):
            path = one.file.path
            told["sha256"] = digests[path] = digests.get(path) or fsops.sha256(path)
        self._result: Document = {}

    def describe(self, built: Built, product: str) -> None:
        """Take down what was built, before it gets its name.

        Args:
            built: the finished product.
            product: the path that it will have.

        Raises:
            OSError: it cannot be read.
        """
        self._result = {
            **result(built, os.path.basename(product), self._file_id, self._inputs),
            "parts": parts(built.path, self._inputs, built.damaged)}

    def write(self, path: str, product: str) -> None:
        """Write the manifest; the product has its name.

        Raises:
            FileExistsError: there is a file of this name.
            OSError: it cannot be written.
        """
        folder = os.path.dirname(path)
        output = manifest.output(folder, product, self._result["sha256"])
        manifest.write(path, self._id, "merge", "daq-merge",
                       {"specification": self._specification}, [output], self._result,
                       replace=False)


def result(built: Built, product: str, file_id: str, inputs: Sequence[Document]) -> Document:
    """Return what a manifest says of a product, apart from its HDUs.

    Args:
        built: the finished product.
        product: its file name.
        file_id: its file id.
        inputs: from :func:`origins`.
    """
    return {"product": product, "size": built.size, "sha256": built.sha256, "fileId": file_id,
            "hdus": built.hdus, "way": built.way, "inputs": list(inputs)}


def origins(base: Input | None, inputs: Sequence[Input]) -> list[Document]:
    """Return the files of a product in the order in which their HDUs stand in it.

    Args:
        base: the merge target, whose primary data are the product's; None for none.
        inputs: all files, in order.

    Returns:
        For each ``sourceName``, ``location``, ``size`` in bytes, the number of ``hdus``,
        ``target`` true for the merge target, and ``primaryData`` when they are an extension.
    """
    return [{"sourceName": one.source, "location": one.location, "size": one.file.size,
             "hdus": len(one.file.hdus), **({"target": True} if one is base else {}),
             **({"primaryData": "extension"} if one.promoted else {})}
            for one in inputs]


def parts(path: str, inputs: Sequence[Document], damaged: Mapping[int, str]) -> list[Document]:
    """Describe the HDUs of a product.

    Args:
        path: the product.
        inputs: from :func:`origins`.
        damaged: index of each HDU that did not match the sums of its source, with the reason.

    Returns:
        For each HDU ``index``, ``kind`` (``SIMPLE`` or XTENSION), ``extname``, the ``source`` of
        its data (empty for none), ``header`` and ``data`` in bytes, ``datasum`` and ``checksum``
        as its cards say, and ``damaged``, empty when nothing was wrong.

    Raises:
        errors.BadData: the product is no whole FITS file.
        OSError: it cannot be read.
    """
    names = [next((str(one["sourceName"]) for one in inputs if one.get("target")), "")]
    for one in inputs:
        names += [str(one["sourceName"])] * (int(one["hdus"]) - ("primaryData" not in one))
    hdus = fitsfile.read_structure(path).hdus
    return [{**facts(hdu), "source": names[hdu.index] if hdu.index < len(names) else "",
             "damaged": damaged.get(hdu.index, "")} for hdu in hdus]


def facts(hdu: Hdu) -> Document:
    """Return what the header of an HDU says of it, see :func:`parts`."""
    return {"index": hdu.index, "kind": hdu.kind, "extname": text(hdu, b"EXTNAME "),
            "header": len(hdu.header), "data": hdu.data_size,
            "datasum": text(hdu, b"DATASUM "), "checksum": text(hdu, b"CHECKSUM")}


def text(hdu: Hdu, name: bytes) -> str:
    """Return the string value of the first card of a name (8 bytes), empty when there is none."""
    return text_in(hdu.header[:hdu.count * CARD], name)


def text_in(raw: bytes, name: bytes) -> str:
    """Return the same of the raw cards of a header, which may be cut."""
    at = raw.find(name + b"=")
    while at >= 0 and at % CARD:
        at = raw.find(name + b"=", at + 1)
    if at < 0:
        return ""
    found = raw[at + 9:at + CARD].decode("latin-1").strip()
    if not found.startswith("'"):
        return found.partition("/")[0].strip()
    # a doubled quote is one quote (FITS Standard 4.0, section 4.2.1)
    return found[1:].replace("''", "\0").partition("'")[0].replace("\0", "'").rstrip()

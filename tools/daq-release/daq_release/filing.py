"""Where a product goes in an archive: the path template of a ``directoryReceiver`` filled in."""

from __future__ import annotations

import os
from collections.abc import Mapping

from daq_release.delivery import Product, check_folder
from daqlib import cardname, cardvalue, errors, fitsfile, fsops, pathtemplate
from daqlib.cardvalue import Value

Keywords = dict[str, Value]


def keywords(path: str) -> Keywords:
    """Return the keywords of a primary header: ``OBJECT``, ``ESO DET NAME``; of one, the first.

    Cards that cannot be read and commentary are left out.

    Raises:
        errors.BadData: the file is not FITS.
        OSError: it cannot be read.
    """
    found: Keywords = {}
    name, open_string = "", ""
    for raw in fitsfile.read_structure(path).hdus[0].cards:
        card = raw.decode("ascii", "replace")
        if open_string and card.startswith("CONTINUE"):
            value = _read(card[8:])
        else:
            name, open_string = _name(card), ""
            value = _read(card.partition("=")[2]) if name and name not in found else None
        if value is None:
            name, open_string = "", ""
            continue
        whole = open_string + value if isinstance(value, str) else value
        # FITS Standard 4.0, section 4.2.1.2: a string that ends in & may go on in the next card
        open_string = whole[:-1] if isinstance(whole, str) and whole.endswith("&") else ""
        found[name] = whole
    return found


def _name(card: str) -> str:
    kind, name = cardname.classify(card)
    if kind == "eso":
        return name if name.startswith("HIERARCH ") else f"ESO {name}"
    return name if kind == "value" else ""


def _read(text: str) -> Value:
    try:
        return cardvalue.read(cardvalue.split(text, "")[0], "")
    except errors.BadData:
        return None


def relative(template: str, product: Product, facts: Mapping[str, str]) -> str:
    """Return the path of a product below a receiver's directory.

    Args:
        template: see :mod:`daqlib.pathtemplate`.
        product: whose primary header is read.
        facts: ``id``, ``prefix``, ``instrument``.

    Raises:
        errors.BadData: a keyword is missing, or is no date where one is wanted.
        OSError: the product cannot be read.
    """
    known: Keywords = {**keywords(product.path), **facts, "fileId": product.file_id}
    return pathtemplate.render(template, known.get)


def make_folders(root: str, path: str) -> str:
    """Make the directories for a file below a receiver's directory, durably.

    Args:
        root: the receiver's directory, which must be there.
        path: of the file, relative.

    Returns:
        The absolute path of the file.

    Raises:
        errors.BadConfig: the root is missing, something that is no directory is in the way, or a
            symbolic link leads out of the root.
        OSError: a directory cannot be made.
    """
    check_folder(root)
    inside, here = os.path.realpath(root), root
    for name in os.path.dirname(path).split("/"):
        if not name:
            break
        here = os.path.join(here, name)
        try:
            os.mkdir(here)
        except FileExistsError:
            check_folder(here)
        real = os.path.realpath(here)
        if not real.startswith(inside.rstrip("/") + "/"):
            raise errors.BadConfig(f"{here}: a symbolic link that leads out of {root}",
                                   "remove it, or mend the template")
        # also when it was there: who made it may have died before this
        fsops.fsync_dir(os.path.dirname(here))
    return os.path.join(root, path)

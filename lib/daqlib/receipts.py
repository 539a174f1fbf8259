"""Receipts: which receivers of a job have the product, and whether they have it still.

A receipt is the event ``delivered`` of the job's history: it is durable as soon as the receiver has
the product, and says who got what, where, how, when and by which try. It holds for a product of
these bytes only: one that was made anew is delivered anew.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from daqlib import errors, fsops, history, manifest, names, receivers
from daqlib.config import Config
from daqlib.spool import Spool

Document = dict[str, Any]


@dataclass(frozen=True)
class Receipt:
    """What is known of a delivery.

    Attributes:
        receiver: how the receiver is called, see :func:`daqlib.receivers.label`.
        type: its kind.
        host: the host, as transfers take it (:func:`daqlib.receivers.host`); empty for this one.
        path: absolute path of the product there, or the URL; empty for a program.
        how: ``hardlink``, ``symlink``, ``copy``, ``rsync`` or ``command``.
        size: bytes.
        sha256: hexadecimal digest of the product.
        time: ISO 8601, UTC.
        attempt: which try it was, from 1; 0 for a delivery after the job was done.
    """

    receiver: str
    type: str
    host: str
    path: str
    how: str
    size: int
    sha256: str
    time: str
    attempt: int

    def document(self) -> Document:
        """Return it as ``release.json`` and hooks have it."""
        made = dict(vars(self))
        made["try"] = made.pop("attempt")
        return made


@dataclass(frozen=True)
class Standing:
    """How it stands with a receiver.

    Attributes:
        label: how the receiver is called.
        receiver: what the job says of it.
        receipt: of the present product; None when it has not got it.
    """

    label: str
    receiver: Document
    receipt: Receipt | None


def of(on: Spool, job: str) -> list[Standing]:
    """Return how it stands with each receiver of a job, wherever the job is.

    Without a manifest of the merge no receiver has the product.
    """
    told = (manifest.read(on.data_path(job, "merge.json")) or {}).get("result") or {}
    sha256 = str(told.get("sha256", ""))
    specification = manifest.read(on.data_path(job, "specification.json")) or {}
    document = manifest.read(on.job_path(on.place(job), job)) or {}
    events = on.events(job)
    return [Standing(receivers.label(each), each, find(events, each, sha256))
            for each in receivers.in_effect(document, specification)]


def find(events: Iterable[history.Event], receiver: Document, sha256: str) -> Receipt | None:
    """Return the newest receipt of a receiver for a product of this digest, or None."""
    label, found = receivers.label(receiver), None
    for event in events:
        if event["event"] == "delivered" and event.get("receiver") == label:
            found = event if event.get("sha256") == sha256 != "" else None
    if found is None:
        return None
    return Receipt(label, str(receiver["type"]), receivers.host(receiver),
                   str(found.get("path", "")), str(found.get("how", "")), int(found["size"]),
                   sha256, str(found.get("time", "")), int(found.get("try", 0)))


def verify(on: Spool, settings: Config, job: str) -> list[str]:
    """Compare what each receiver has with the product, byte for byte where that can be done.

    A file of this host is read and its digest compared; one of another host is compared by rsync
    with the product in ``result/``, by checksum; of a program its word counts.

    Args:
        on: the spool.
        settings: the configuration, for transfers.
        job: the id.

    Returns:
        What is wrong, a sentence for each receiver that has not, or no more, the product; empty
        when all have it, or there are none.
    """
    told = (manifest.read(on.data_path(job, "merge.json")) or {}).get("result") or {}
    product = on.path("result", os.path.basename(str(told.get("product", ""))))
    found = ((standing.label, _problem(standing, settings, product)) for standing in of(on, job))
    return [f"{label}: {problem}" for label, problem in found if problem]


def dependent(on: Spool, job: str) -> list[str]:
    """Return the receivers whose product is a symbolic link, and lost with that in ``result/``."""
    return [standing.label for standing in of(on, job)
            if standing.receipt and not standing.receipt.host
            and (standing.receipt.how == "symlink" or os.path.islink(standing.receipt.path))]


def _problem(standing: Standing, settings: Config, product: str) -> str:
    if standing.receipt is None:
        return "it has not got the product"
    try:
        return check(standing.receipt, settings, product)
    except errors.DaqError as error:
        return f"it cannot be asked: {error}"
    except OSError as error:
        return f"{standing.receipt.path} cannot be read: {error.strerror or error}"


def check(receipt: Receipt, settings: Config, product: str) -> str:
    """Return why a receiver has the product no more, or an empty text; see :func:`verify`.

    Args:
        receipt: of the receiver.
        settings: the configuration, for transfers.
        product: path of the product in ``result/``.

    Raises:
        errors.DaqError: the host of the receiver cannot be asked.
        OSError: the file cannot be read.
    """
    if receipt.how == "command":
        return ""
    if receipt.how == "rsync":
        return _check_there(receipt, settings, product)
    try:
        there = os.stat(receipt.path)
    except (FileNotFoundError, NotADirectoryError):
        return f"{receipt.path} is gone"
    same = (stat.S_ISREG(there.st_mode) and there.st_size == receipt.size
            and fsops.sha256(receipt.path) == receipt.sha256)
    return "" if same else f"{receipt.path} has other content"


def _check_there(receipt: Receipt, settings: Config, product: str) -> str:
    from daqlib import transfer  # here: most jobs have no receiver on another host

    if not os.path.isfile(product):
        return f"{product} is gone, with which the file there is to be compared"
    link = transfer.Link(settings, receipt.host)
    return "" if transfer.holds(link, product, receipt.path) else (
        f"{names.location(receipt.host, receipt.path)} is gone or has other content")

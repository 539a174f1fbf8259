"""The release stage: deliver the product to each receiver; a failed one is an alert, no more."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from daq_release import delivery
from daq_release.delivery import Product
from daqlib import alerts, cli, errors, fsops, history, manifest, names, receivers, transfer
from daqlib.stage import Claim, Outcome, Stage

Document = dict[str, Any]


def work(claim: Claim) -> Outcome:
    """Deliver the product to all receivers.

    A receiver that cannot be served does not hold up the job (ESO-396401 section 9.3.6): it
    raises the alert ``release-failed``.

    Raises:
        errors.BadData: there is no product.
        errors.Conflict: the product is not the one that was merged.
    """
    product = _product(claim)
    receipts: list[Document] = []
    raised: list[alerts.Alert] = []
    failed: list[str] = []
    for receiver in _receivers(claim):
        try:
            receipts.append(_serve(claim, product, receiver))
        except (errors.DaqError, OSError) as trouble:
            error = cli.from_os_error(trouble) if isinstance(trouble, OSError) else trouble
            text = f"{label(receiver)}: not delivered: {error}"
            cli.warn(f"{claim.id}: {text}")
            raised.append(alerts.make("release-failed", label(receiver), text))
            failed.append(label(receiver))
    return Outcome([], {"receipts": receipts, "failed": failed}, raised)


def label(receiver: Document) -> str:
    """Return how to call a receiver in events, alerts and messages: ``[host:]path``."""
    host, path = receiver.get("host") or "", receiver.get("path", "?")
    return f"{host}:{path}" if host else str(path)


def _serve(claim: Claim, product: Product, receiver: Document) -> Document:
    _check(receiver)
    earlier = None if claim.force else _delivered(claim.events, product, receiver)
    if earlier is not None:
        _still_there(product, receiver)
        return {key: earlier[key] for key in ("receiver", "path", "how", "sha256")}
    how = _deliver(claim, product, receiver)
    receipt = {"receiver": label(receiver), "how": how, "sha256": product.sha256,
               "path": os.path.join(receiver["path"], product.archive)}
    claim.log("delivered", size=product.size, **receipt)
    return receipt


def _deliver(claim: Claim, product: Product, receiver: Document) -> str:
    if receiver.get("host"):
        transfer.check_tools(claim.settings)
        link = transfer.Link(claim.settings, receiver["host"], claim.descriptors)
        return delivery.upload(product, link, receiver["path"])
    symlink = bool((receiver.get("options") or {}).get("allowSymlink", True))
    return delivery.deliver(product, receiver["path"], symlink=symlink)


def _check(receiver: Document) -> None:
    receivers.check(receiver)


def _delivered(events: list[history.Event], product: Product, receiver: Document,
               ) -> history.Event | None:
    """Return the event by which an earlier try delivered this very product, or None."""
    path = os.path.join(receiver["path"], product.archive)
    for event in reversed(events):
        if (event["event"] == "delivered" and event.get("receiver") == label(receiver)
                and event.get("sha256") == product.sha256 and event.get("path") == path):
            return event
    return None


def _still_there(product: Product, receiver: Document) -> None:
    """Check what was delivered; gone is good: the archive may have taken it away.

    Raises:
        errors.Conflict: other content lies there now.
    """
    target = os.path.join(receiver["path"], product.archive)
    if not receiver.get("host") and os.path.lexists(target):
        delivery.present(product, target)


def _receivers(claim: Claim) -> list[Document]:
    """Return the receivers: those of the job as it is now, else those that collect put down."""
    found = claim.job.document.get("receivers")
    if found is None:
        found = _specification(claim).get("receivers", [])
    return [receiver for receiver in found if isinstance(receiver, dict)]


def _specification(claim: Claim) -> Document:
    return manifest.read(claim.spool.data_path(claim.id, "specification.json")) or {}


def _product(claim: Claim) -> Product:
    merged = claim.previous()
    if merged is None:
        raise errors.BadData("there is no product: merge.json is missing or cannot be read",
                             f"mv the job to merge/ to make it: mv failed/{claim.id}.json merge/")
    told = merged["result"]
    name = names.file_name(str(told["product"]))
    path = claim.spool.path("result", name)
    file_id = names.check_id(str(told.get("fileId") or history.file_id(claim.events)))
    product = Product(path, f"{file_id}.fits", int(told["size"]), str(told["sha256"]))
    _verify(claim, product)
    return product


def _verify(claim: Claim, product: Product) -> None:
    where = f"result/{os.path.basename(product.path)}"
    again = f"make it again: mv failed/{claim.id}.json merge/"
    try:
        status = os.lstat(product.path)
    except FileNotFoundError:
        raise errors.BadData(f"the product {where} is gone", again) from None
    if status.st_size != product.size or fsops.sha256(product.path) != product.sha256:
        raise errors.Conflict(f"the product {where} is not the one that was merged",
                              f"move it away and {again}")


def _preflight(claim: Claim) -> None:
    return None


def _limits(claim: Claim) -> list[str]:
    remote = any(receiver.get("host") for receiver in _receivers(claim))
    return ["net_send"] if remote else []


def _extra_inputs(claim: Claim) -> dict[str, str]:
    """Return digests of the receivers and, after a failed delivery, of the manifest that says so.

    The latter keeps that manifest from being taken for a reason not to try again.
    """
    text = json.dumps(_receivers(claim), sort_keys=True)
    made = {"receivers": hashlib.sha256(text.encode()).hexdigest()}
    path = claim.spool.data_path(claim.id, f"{claim.stage.name}.json")
    if ((manifest.read(path) or {}).get("result") or {}).get("failed"):
        made["undelivered"] = manifest.digest(path)
    return made


STAGE = Stage("release", "merge", "done", work, _preflight, _limits, _extra_inputs)

"""The release stage: deliver the product to each receiver; a failed one is an alert, no more.

Unless it is required: then the job stays in ``release/`` until the receiver has the product.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from daq_release import errands, hooks, late
from daq_release.delivery import Product
from daq_release.errands import Failure
from daqlib import breaker, cli, clock, errors, fsops, history, manifest, names, receivers
from daqlib.config import Config
from daqlib.spool import Spool
from daqlib.stage import Claim, Late, Outcome, Stage

Document = dict[str, Any]


class Undelivered(errors.HostDown):
    """A required receiver has not got the product: the job waits, however long that takes."""


def work(claim: Claim) -> Outcome:
    """Deliver the product to all receivers.

    A receiver that cannot be served raises the alert ``release-failed`` and does not hold up the
    job (ESO-396401 section 9.3.6), unless it is required.

    Raises:
        errors.BadData: there is no product.
        errors.Conflict: the product is not the one that was merged.
        Undelivered: a required receiver has not got it.
        errors.Later: a program asked to be run again.
    """
    product = find_product(claim)
    start = history.last(claim.events, "start", stage=claim.stage.name) or {}
    attempt = int(start.get("try", 1))
    made = errands.go_round(claim, product, attempt)
    required = [failure for failure in made.failures if failure.errand.required]
    again = [failure for failure in made.failures if failure.asks_again]
    if required or (again and attempt < int(claim.settings["retry.tries"])):
        for failure in made.failures:
            claim.log("alert", **failure.alert)
        waited_for = required or again
        _warn(claim, [failure for failure in made.failures if failure is not waited_for[0]])
        raise _undelivered(required) if required else errors.Later(again[0].text)
    refused = [failure for failure in made.failures if failure.is_refusal]
    _warn(claim, [failure for failure in made.failures if failure not in refused[:1]])
    if claim.settings["release.hook"]:
        hooks.owe(claim.spool, claim.id)
    result = late.result(made)
    return Outcome([], result, [failure.alert for failure in made.failures])


def _warn(claim: Claim, failures: Sequence[Failure]) -> None:
    """Tell of failures, but not of the one that the tool's last line is about."""
    for failure in failures:
        cli.warn(f"{claim.id}: {failure.text}")


def _undelivered(failures: Sequence[Failure]) -> Undelivered:
    more = f" (and {len(failures) - 1} more receivers)" if len(failures) > 1 else ""
    error = Undelivered(f"{failures[0].text}{more}", "the job waits for it in release/")
    if any(failure.is_refusal for failure in failures):
        error.code = errors.Conflict.code
    hosts = {failure.error.host if isinstance(failure.error, errors.HostDown) else ""
             for failure in failures}
    if len(hosts) == 1:  # of one host it is known when it is tried again, or has answered
        error.host = hosts.pop()
    return error


def find_product(claim: Claim) -> Product:
    """Return the product of a job.

    Raises:
        errors.BadData: there is none.
        errors.Conflict: it is not the one that was merged.
    """
    told = _merged(claim)
    if not told:
        raise errors.BadData("there is no product: merge.json is missing or cannot be read",
                             _again(claim))
    name = names.file_name(str(told["product"]))
    path = claim.spool.path("result", name)
    file_id = names.check_id(str(told.get("fileId") or history.file_id(claim.events)))
    product = Product(path, file_id, int(told["size"]), str(told["sha256"]))
    _verify(claim, product)
    return product


def _merged(claim: Claim) -> Document:
    found: Document = (claim.previous() or {}).get("result") or {}
    return found


def _again(claim: Claim) -> str:
    # after a failure the job lies in failed/; one that was done is there still
    place = "done" if claim.job.place == "done" else "failed"
    return f"make it again: mv {place}/{claim.id}.json merge/"


def _verify(claim: Claim, product: Product) -> None:
    where = f"result/{os.path.basename(product.path)}"
    try:
        status = os.lstat(product.path)
    except FileNotFoundError:
        raise errors.BadData(f"the product {where} is gone", _again(claim)) from None
    if status.st_size != product.size or fsops.sha256(product.path) != product.sha256:
        raise errors.Conflict(f"the product {where} is not the one that was merged",
                              f"move it away and {_again(claim)}")


def _preflight(claim: Claim) -> None:
    """Turn round when all that is left are required receivers on hosts that are left alone."""
    _, left = errands.all_of(claim, str(_merged(claim).get("sha256", "")))
    if not left or not all(errand.host and errand.required for errand in left):
        return
    hosts = [errand.host for errand in left]
    circuits = [breaker.of(claim.spool, host) for host in hosts]
    if all(circuit and circuit.wait(claim.settings, clock.now()) for circuit in circuits):
        breaker.check(claim.spool, claim.settings, *hosts)


def _limits(claim: Claim) -> list[str]:
    _, left = errands.all_of(claim, str(_merged(claim).get("sha256", "")))
    return [errands.SENDING] if any(errand.host for errand in left) else []


def _extra_inputs(claim: Claim) -> dict[str, str]:
    """Return digests of the receivers and, after a failed delivery, of the manifest that says so.

    The latter keeps that manifest from being taken for a reason not to try again.
    """
    specification = manifest.read(claim.spool.data_path(claim.id, "specification.json")) or {}
    found = receivers.in_effect(claim.job.document, specification)
    text = json.dumps(found, sort_keys=True)
    made = {"receivers": hashlib.sha256(text.encode()).hexdigest()}
    path = claim.spool.data_path(claim.id, f"{claim.stage.name}.json")
    if ((manifest.read(path) or {}).get("result") or {}).get("failed"):
        made["undelivered"] = manifest.digest(path)
    return made


def _completed(claim: Claim) -> None:
    """Run the hook; tell by the exit code that a receiver refused the product.

    Raises:
        errors.Conflict: a receiver has other content under this name; the job is done all the same.
    """
    hooks.after_release(claim, _for_hook)
    made = manifest.read(claim.spool.data_path(claim.id, f"{claim.stage.name}.json")) or {}
    refused = made.get("result", {}).get("refused", [])
    if refused:
        raise errors.Conflict(refused[0], "the job is done all the same; to deliver it then: "
                              f"daq-release --job {claim.id}")


def _for_hook(claim: Claim) -> Document:
    made = manifest.read(claim.spool.data_path(claim.id, f"{claim.stage.name}.json")) or {}
    result = made.get("result", {})
    return {**errands.told_of(claim, find_product(claim)),
            "receipts": result.get("receipts", []), "failed": result.get("failed", [])}


def _late_work(on: Spool, settings: Config, identifier: str, force: bool) -> None:
    with late.claimed(STAGE, on, settings, identifier) as claim:
        claim.force = force
        busy = hooks.make_up(claim, _for_hook)
        if not late.deliver(claim, find_product, _limits) and not busy:
            raise errors.NoJob("no such job in release/", "it is in done/, and all its receivers "
                               "have the product", identifier)


def _late_intention(on: Spool, settings: Config, identifier: str, force: bool) -> str:
    with late.claimed(STAGE, on, settings, identifier) as claim:
        claim.force = force
        _, left = errands.all_of(claim, str(_merged(claim).get("sha256", "")))
    if not left:
        return "would do nothing: all its receivers have the product"
    return f"would deliver to {', '.join(errand.label for errand in left)}"


STAGE = Stage("release", "merge", "done", work, _preflight, _limits, _extra_inputs,
              completed=_completed, late=Late(_late_intention, _late_work))

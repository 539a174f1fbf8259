"""Deliver what is missing for a job that is done already; it stays in ``done/``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from daq_release import errands
from daq_release.delivery import Product
from daq_release.errands import AFTERWARDS, Round
from daqlib import alerts, cli, errors, history, job, manifest
from daqlib.config import Config
from daqlib.spool import Spool
from daqlib.stage import Claim, Stage, take_slot

Document = dict[str, Any]


class Missing(errors.DaqError):
    """A receiver still has not got the product; the exit code is that of its failure."""


def result(made: Round) -> Document:
    """Return what ``release.json`` says of a round."""
    refused = [failure.text for failure in made.failures if failure.is_refusal]
    return {"receipts": [receipt.document() for receipt in made.receipts],
            "failed": [failure.errand.label for failure in made.failures], "refused": refused}


@contextlib.contextmanager
def claimed(stage: Stage, on: Spool, settings: Config, identifier: str) -> Iterator[Claim]:
    """Hold a job in ``done/`` within the block.

    Raises:
        errors.NoJob: it was aborted, or has left.
        errors.Later: somebody is at work on it.
        errors.BadData: its file is no job any more.
    """
    lock = on.lock(identifier, stage.name)
    if lock is None:
        raise errors.Later("somebody is at work on this job", "see daq-status", identifier)
    descriptors = [lock]
    try:
        events = on.events(identifier)
        ended = history.last(events, "ok", "aborted") or {}
        if ended.get("event") == "aborted":
            raise errors.NoJob("it was aborted: there is nothing to deliver", "see daq-status")
        read = job.read(on, identifier, stage.next)
        yield Claim(on, settings, stage, read, events, descriptors)
    except errors.DaqError as error:
        error.job = error.job or identifier
        raise
    finally:
        for fd in descriptors[1:]:
            os.close(fd)
        on.release(identifier, lock)


def deliver(claim: Claim, find_product: Callable[[Claim], Product],
            limits: Callable[[Claim], list[str]]) -> bool:
    """Deliver to the receivers that have not got the product, and clear their alerts.

    Args:
        claim: from :func:`claimed`.
        find_product: returns the product, after checking it.
        limits: the limits beside ``daq`` that this counts against.

    Returns:
        Whether there was anything to do.

    Raises:
        Missing: not all have it now.
        errors.DaqError: nothing could be delivered.
    """
    told = (claim.previous() or {}).get("result") or {}
    had, left = errands.all_of(claim, str(told.get("sha256", "")))
    made = Round(had)
    if left:
        product = find_product(claim)
        for limit in ["daq", *limits(claim)]:
            if not take_slot(claim, limit):
                raise errors.Later(f"all places of cfg/limits/{limit} are taken",
                                   "wait, or raise the limit")
        os.makedirs(claim.folder, exist_ok=True)
        made = errands.go_round(claim, product, AFTERWARDS)
        _write(claim, made)
    told_of = _tell(claim, made)
    if made.failures:
        raise _missing(claim, made)
    return bool(left or told_of)


def _write(claim: Claim, made: Round) -> None:
    path = claim.spool.data_path(claim.id, f"{claim.stage.name}.json")
    earlier = manifest.read(path) or {}
    manifest.write(path, claim.id, claim.stage.name, claim.spool.by, earlier.get("inputs", {}), [],
                   result(made))


def _tell(claim: Claim, made: Round) -> list[str]:
    """Clear the alerts of those who have the product now; raise those that are new or changed.

    Returns:
        The ids of these alerts.
    """
    active = {alert["id"]: alert for alert in alerts.active(claim.events, claim.job.place)}
    mine = {failure.alert["id"]: failure.alert for failure in made.failures}
    gone = [key for key in active if key.startswith("release-failed:") and key not in mine]
    for key in gone:
        claim.log("alert-cleared", id=key)
    new = [key for key, alert in mine.items()
           if key not in active or active[key]["description"] != alert["description"]]
    for key in new:
        claim.log("alert", **mine[key])
    return gone + new


def _missing(claim: Claim, made: Round) -> Missing:
    worst = next((failure for failure in made.failures if failure.is_refusal), made.failures[0])
    for failure in made.failures:
        if failure is not worst:
            cli.warn(f"{claim.id}: {failure.text}")
    error = Missing(worst.text)
    error.code = worst.error.code
    return error

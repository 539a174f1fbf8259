"""The merge stage: build the product of a job and publish it, once.

The product's name, size and digest are in the log before it gets its name, so that a try after a
crash recognises it instead of taking it for somebody else's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any

from daq_merge import build
from daq_merge.plan import Plan, plan
from daqlib import cli, errors, fsops, history, manifest
from daqlib.crashpoints import passing
from daqlib.stage import Claim, Outcome, Stage

Document = dict[str, Any]


def _specification(claim: Claim) -> Document:
    path = claim.spool.data_path(claim.id, "specification.json")
    try:
        with open(path, encoding="utf-8") as file:
            document: Document = json.load(file)
    except FileNotFoundError:
        raise errors.BadData(f"{path} is missing: the inputs were not collected",
                             f"mv merge/{claim.id}.json collect/") from None
    return document


def _product_name(specification: Document) -> str:
    target = specification["target"]
    return f"{target.get('filePrefix', '')}{target['fileId']}.fits"


def _preflight(claim: Claim) -> None:
    floor = int(claim.settings["floor.result_bytes"])
    needed = _input_bytes(claim) + floor
    free = claim.spool.free_bytes("result")
    if free < needed:
        raise errors.Later(f"the product needs {needed - floor} bytes and cfg/floor/result_bytes "
                           f"({floor}) must stay free, but only {free} are",
                           "free some space in result/")


def _input_bytes(claim: Claim) -> int:
    outputs = (claim.previous() or {}).get("outputs", [])
    return sum(int(item["size"]) for item in outputs)


def _work(claim: Claim) -> Outcome:
    specification = _specification(claim)
    name = _product_name(specification)
    path = claim.spool.path("result", name)
    _sweep_own(claim, name)
    inputs = hashlib.sha256(json.dumps(claim.inputs, sort_keys=True).encode()).hexdigest()
    planned = plan(specification, claim.folder)
    sealed = _sealed_before(claim, path, inputs)
    if sealed is not None and not claim.force:
        cli.detail(f"{claim.id}: {name} was published by an earlier try")
        return _outcome(claim, path, sealed, list(sealed.get("alerts", [])))
    embryo = fsops.temporary(path)
    try:
        return _build(claim, planned, embryo, path, inputs)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(embryo)  # on a full disk, a product that nobody will read must not stay
        raise


def _build(claim: Claim, planned: Plan, embryo: str, path: str, inputs: str) -> Outcome:
    built = build.write(planned, embryo, progress=cli.progress(f"{claim.id}: merge"))
    for text in built.warnings:
        cli.warn(f"{claim.id}: {text}")
    os.chmod(embryo, 0o444)
    facts = {"product": os.path.basename(path), "size": built.size, "sha256": built.sha256,
             "hdus": built.hdus, "fileId": history.file_id(claim.events), "inputs": built.inputs}
    claim.log("sealed", **{**facts, "inputs": inputs, "sources": built.inputs,
                           "alerts": built.alerts})
    passing("publish.sealed")
    _publish(claim, embryo, path, built.sha256)
    passing("publish.renamed")
    return _outcome(claim, path, facts, built.alerts)


def _sweep_own(claim: Claim, name: str) -> None:
    # only a holder of this job's lock makes temporaries of this product: those here are dead
    folder = claim.spool.path("result")
    for entry in os.listdir(folder):
        if fsops.is_temporary(entry) and entry.endswith(f"-{name}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, entry))


def _sealed_before(claim: Claim, path: str, inputs: str) -> Document | None:
    """Return what an earlier try logged of the product, if the file there is that product."""
    event = history.last(claim.events, "sealed", stage="merge")
    if event is None or event.get("inputs") != inputs or not os.path.isfile(path):
        return None
    if os.path.getsize(path) != event["size"] or fsops.sha256(path) != event["sha256"]:
        return None
    facts = {key: event[key] for key in ("product", "size", "sha256", "hdus", "fileId", "alerts")}
    return {**facts, "inputs": event.get("sources", [])}


def _publish(claim: Claim, embryo: str, path: str, sha256: str) -> None:
    try:
        fsops.move(embryo, path)
    except FileExistsError:
        same = os.path.isfile(path) and fsops.sha256(path) == sha256
        os.unlink(embryo)
        if not same:
            raise errors.Conflict(
                f"result/{os.path.basename(path)} exists with other content",
                "products are never overwritten: move it aside if this one shall take its place",
                claim.id) from None


def _link(name: str, target: str) -> None:
    """Let ``data/ID/result`` lead to the product, also when an edited job has a new one."""
    if os.path.islink(name) and os.readlink(name) == target:
        return
    embryo = fsops.temporary(name)
    os.symlink(target, embryo)
    os.replace(embryo, name)


def _outcome(claim: Claim, path: str, facts: Document, raised: list[Document]) -> Outcome:
    _link(claim.spool.data_path(claim.id, "result"), os.path.relpath(path, claim.folder))
    made = manifest.output(claim.folder, path, facts["sha256"])
    result = {key: value for key, value in facts.items() if key != "alerts"}
    return Outcome([made], result, raised)


STAGE = Stage(name="merge", previous="collect", next="release", work=_work, preflight=_preflight,
              limits=lambda claim: ["merge"], extra_inputs=lambda claim: {}, bound_to_job=True)

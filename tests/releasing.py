"""What the tests of daq-release share: a merged job, its product, and what was delivered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import Daq, make_fits

Document = dict[str, Any]

FILE_ID = "XYZ.2026-11-21T02:30:00.123"
ARCHIVE = f"{FILE_ID}.fits"


def olas(path: object, host: str | None = None, **options: object) -> Document:
    """Return a receiver."""
    made: Document = {"type": "olasReceiver", "path": str(path)}
    if host is not None:
        made["host"] = host
    return {**made, "options": options} if options else made


def put(daq: Daq, *receivers: Document, job: str = "J1", by: str = "specification",
        cards: Mapping[str, object] | None = None, **members: object) -> Path:
    """Put a merged job into release/; return its product.

    Args:
        daq: the tools.
        receivers: of the job.
        job: its id.
        by: who names them: the ``job`` file, or the ``specification`` that was derived from the
            configuration.
        cards: keywords of the product.
        members: further members of the job file.
    """
    stamp = FILE_ID if job == "J1" else f"{FILE_ID}-{job}"
    product = daq.spool / "result" / f"P_{stamp}.fits"
    if not product.exists():
        make_fits(product, cards=cards)
        product.chmod(0o444)
    folder = daq.spool / "data" / job
    folder.mkdir()
    digest = hashlib.sha256(product.read_bytes()).hexdigest()
    result = {"product": product.name, "size": product.stat().st_size, "sha256": digest,
              "fileId": stamp}
    (folder / "merge.json").write_text(json.dumps({
        "id": job, "stage": "merge", "inputs": {}, "outputs": [], "result": result}))
    (folder / "specification.json").write_text(json.dumps({
        "id": job, "sources": [], "target": {"fileId": stamp}, "receivers": list(receivers)}))
    if by == "job":
        members["receivers"] = list(receivers)
    daq.drop("release", job, {**members, "sources": [
        {"type": "fitsKeywords", "sourceName": "k", "keywords": []}]})
    return product


def release(daq: Daq, *arguments: str, job: str = "J1", **options: Any) -> Any:
    """Run the tool on a job."""
    return daq.run("daq-release", "--job", job, *arguments, **options)


def again(daq: Daq, place: str = "done") -> None:
    """Move the job back to release/, as a person does."""
    os.rename(daq.spool / place / "J1.json", daq.spool / "release" / "J1.json")


def delivered(daq: Daq, job: str = "J1") -> list[Document]:
    """Return the events of deliveries."""
    return [event for event in daq.history(job) if event["event"] == "delivered"]


def alerts(daq: Daq) -> list[str]:
    """Return the ids of the alerts that were raised."""
    return [str(event["id"]) for event in daq.history("J1") if event["event"] == "alert"]


def active(daq: Daq, job: str = "J1") -> list[str]:
    """Return the ids of the alerts that hold now, by what daq-status says."""
    told = daq.run("daq-status", "--json", job).ok().json()
    return [str(alert["id"]) for alert in json.loads(told["message"])]


def result(daq: Daq, job: str = "J1") -> Document:
    """Return what the manifest of the release says."""
    found: Document = json.loads((daq.spool / "data" / job / "release.json").read_text())["result"]
    return found

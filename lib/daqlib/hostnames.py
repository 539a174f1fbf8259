"""Which other hosts a job needs in its stage, as far as its file tells; for those who look on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from daqlib import manifest, names, receivers
from daqlib.config import Config
from daqlib.spool import Spool

Document = dict[str, Any]


def origins(on: Spool, settings: Config, job: str, document: Document) -> Iterator[str]:
    """Yield the hosts without which a job cannot be collected, or handed over.

    Args:
        on: the spool.
        settings: ``hand_over``.
        job: its id.
        document: the job.

    Raises:
        errors.BadData, TypeError, AttributeError, KeyError: the job is not as it must be.
    """
    if settings["hand_over"]:
        yield names.split_location(settings["hand_over"])[0]
        return
    acquired = manifest.read(on.data_path(job, "acquire.json")) or {}
    places = [source["location"] for source in document["sources"] if "location" in source]
    for source in acquired.get("result", {}).get("sources", []):
        places += source.get("files", [])
    for place in places:
        if host := names.split_location(place)[0]:
            yield host


def receiving(settings: Config, document: Document) -> tuple[set[str], set[str]]:
    """Return all hosts of the receivers, and the one that all wait for, if there is one.

    Args:
        settings: ``receivers``, ``release.required``.
        document: the job.

    Raises:
        errors.BadData, TypeError, AttributeError, KeyError: the job is not as it must be.
    """
    made = [(receivers.host(each), bool(receivers.option(
        each, "required", settings["release.required"])))
        for each in document.get("receivers", settings["receivers"])]
    hosts = {host for host, _ in made if host}
    alone = len(hosts) == 1 and all(host and required for host, required in made)
    return hosts, hosts if alone else set()

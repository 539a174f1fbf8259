"""The collect stage: fetch every input, check it, and write the specification for the merger."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from daq_collect import local, plan, remote
from daq_collect.origins import Entry, Origins
from daq_collect.plan import Input
from daqlib import (
    alerts,
    breaker,
    cli,
    errors,
    fitsfile,
    fsops,
    manifest,
    progress,
    transfer,
)
from daqlib.fitsfile import FitsFile
from daqlib.spool import LIVE
from daqlib.stage import Claim, Outcome, Stage

Document = dict[str, Any]

#: The Data Product Specification with local paths, in the job's data directory.
SPECIFICATION = "specification.json"

# the resolution of file times is a kernel tick, that of the log a millisecond
_CLOCK_SLACK = 0.02


def work(claim: Claim) -> Outcome:
    """Fetch what the job needs and write its specification.

    Raises:
        errors.DaqError: a file cannot be had; files that arrived are kept for the next try.
    """
    specification, raised = plan.derive(claim)
    wanted = plan.inputs(specification)
    folder = os.path.join(claim.folder, plan.SOURCES)
    os.makedirs(folder, exist_ok=True)
    progress.forget(claim.folder)
    origins = Origins(folder)
    for item in wanted:
        origins.adopt(item.name, item.origin, {other.name for other in wanted})
    _tidy(claim, folder, wanted, origins)
    _fetch_here(claim, folder, [item for item in wanted if not item.host], origins)
    for batch in remote.batches([item for item in wanted if item.host]):
        _fetch_there(claim, folder, batch, origins)
    specification = plan.with_policy(plan.local(specification), claim)
    text = json.dumps(specification, indent=1, ensure_ascii=False)
    fsops.put(os.path.join(claim.folder, SPECIFICATION), text.encode() + b"\n")
    entries = [origins.find(item.name, item.origin) or {} for item in wanted]
    outputs = [manifest.collected(claim.folder, os.path.join(plan.SOURCES, item.name),
                                  entry.get("sum"))
               for item, entry in zip(wanted, entries, strict=True)]
    files = [{"sourceName": item.source, "origin": item.origin, "path": made.path,
              "size": made.size, **({} if made.sum is None else {"sum": made.sum})}
             for item, made in zip(wanted, outputs, strict=True)]
    raised += _damaged(claim, wanted, entries)
    raised += _suspicious(claim, wanted, outputs)
    outputs.append(manifest.output(claim.folder, SPECIFICATION))
    return Outcome(outputs, {"files": files}, raised)


def _fetch_here(claim: Claim, folder: str, items: list[Input], origins: Origins) -> None:
    sizes = [there.st_size for item in items if (there := local.status(item))]
    told = _reporter(claim, items, "this host", sum(sizes))
    done = 0

    def copied(count: int) -> None:
        nonlocal done
        done += count
        told.at(done)

    try:
        with origins.saving():
            for item in items:
                _fetch(claim, folder, item, origins, copied)
    finally:
        told.close()


def _fetch_there(claim: Claim, folder: str, batch: list[Input], origins: Origins) -> None:
    host = batch[0].host
    told = _reporter(claim, batch, host)
    link = transfer.Link(claim.settings, host, claim.descriptors)
    try:
        with breaker.trying(claim.spool, claim.settings, host):
            remote.fetch(batch, folder, link, origins, check_structure, told, anew=claim.force)
    finally:
        told.close()


def _reporter(claim: Claim, items: list[Input], host: str, total: int = 0) -> progress.Reporter:
    what = items[0].origin if len(items) == 1 else f"{len(items)} files of {host}"
    return progress.Reporter(claim.folder, claim.stage.name, what, total)


def _tidy(claim: Claim, folder: str, wanted: list[Input], origins: Origins) -> None:
    """Remove what dead tries left, and the files of an earlier form of an edited job.

    A file that may be the only one of its content stays: one that was changed by hand, or whose
    origin is gone.
    """
    fsops.sweep(folder)
    batches = remote.batches([item for item in wanted if item.host])
    keep = {*(item.name for item in wanted), *map(remote.folder_name, batches)}
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(remote.PREFIX) and name not in keep:
            shutil.rmtree(path)
        elif name.startswith(".") or name in keep:
            continue
        elif origins.is_spare(name):
            os.unlink(path)
        else:
            cli.warn(f"{claim.id}: {path} is not used any more; it stays, as there may be no other "
                     "copy of it")


def _fetch(claim: Claim, folder: str, item: Input, origins: Origins,
           copied: Callable[[int], None]) -> None:
    if not claim.force and _is_here(item, origins) and origins.intact(item.name, item.origin):
        cli.detail(f"{claim.id}: {item.origin} is here already")
        return
    how = local.How(
        stable=_is_stable(claim, item.path),
        # what is merged in place may have to be given back, and then be told from what it was
        summed=item.in_place and claim.settings["merge.way"] == "in-place",
        check=lambda path: check_structure(item, path), told=copied)
    made = local.fetch(item, os.path.join(folder, item.name), how)
    origins.record(item.name, item.origin, made.sum, made.damaged)
    cli.detail(f"{claim.id}: {item.origin}: {made.how}")


def _is_here(item: Input, origins: Origins) -> bool:
    """Tell whether an earlier try fetched the file as its origin is now.

    Of an origin that is gone the copy is what we have.
    """
    entry = origins.find(item.name, item.origin)
    there = local.status(item)
    return entry is not None and (there is None or (there.st_size, there.st_mtime_ns) == (
        entry["size"], entry["mtime_ns"]))


def _is_stable(claim: Claim, path: str) -> bool:
    prefixes = [*claim.settings["stable_sources"], os.path.join(claim.folder, LIVE)]
    real = os.path.realpath(path)  # a symbolic link on the way can lead to what is rewritten
    return any(_is_below(path, prefix) and _is_below(real, os.path.realpath(prefix))
               for prefix in prefixes)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def check_structure(item: Input, path: str) -> FitsFile:
    """Check that a fetched file is a complete FITS file; return its structure.

    Raises:
        errors.BadData: it is not; names the origin.
    """
    try:
        return fitsfile.read_structure(path)
    except errors.BadData as error:
        message = error.message.replace(path, item.origin)
        raise errors.BadData(f"source {item.source}: {message}", error.remedy) from error


def _damaged(claim: Claim, wanted: list[Input], entries: list[Entry]) -> list[alerts.Alert]:
    """Alert to HDUs that do not match the sums that they state, as the merger would.

    What was fetched is what lies at the origin: rsync compares, and a copy is read once. So the
    origin is damaged, and fetching it again would not help.

    Raises:
        errors.BadData: one is, and sums are strict.
    """
    policy = claim.settings["merge.sums"]
    found = []
    for item, entry in zip(wanted, entries, strict=True):
        damaged = {} if policy == "trust" else entry.get("damaged") or {}
        for index, why in damaged.items():
            text = (f"source {item.source}: HDU {index} of {item.origin} is damaged or was changed "
                    f"after it was sealed: {why}")
            if policy == "strict":
                raise errors.BadData(text, "deliver the file again, or set cfg/merge/sums")
            found.append(alerts.make("datasum", f"{item.source}:{item.name}[{index}]", text))
    return found


def _suspicious(claim: Claim, wanted: list[Input], outputs: list[manifest.Output],
                ) -> list[alerts.Alert]:
    """Alert to files that changed after their acquisition ended."""
    sealed = plan.sealed_at(claim)
    if sealed is None:
        return []
    late = {item.source: item for item, made in zip(wanted, outputs, strict=True)
            if made.mtime_ns > (sealed + _CLOCK_SLACK) * 1e9}
    return [alerts.make("suspicious-time", source, f"{item.origin} was modified after the "
                        "acquisition had stopped") for source, item in late.items()]


def _wanted(claim: Claim) -> list[Input]:
    """List the inputs as far as they can be told; what is wrong is the work's to say."""
    with contextlib.suppress(errors.BadData):
        return plan.inputs(plan.derive(claim)[0])
    return []


def _preflight(claim: Claim) -> None:
    wanted = _wanted(claim)
    hosts = {item.host for item in wanted if item.host}
    if hosts:
        transfer.check_tools(claim.settings, hosts)
        breaker.check(claim.spool, claim.settings, *hosts)
    origins = Origins(os.path.join(claim.folder, plan.SOURCES))
    sizes = [there.st_size for item in wanted
             if not item.host and not _is_here(item, origins) and (there := local.status(item))
             and not _will_link(claim, item, there)]
    free, floor = claim.spool.free_bytes(), int(claim.settings["floor.spool_bytes"])
    if sum(sizes) + floor > free:
        raise errors.Later(f"the inputs have {sum(sizes)} bytes, {free} are free in the spool "
                           f"and cfg/floor/spool_bytes keeps {floor} of them",
                           "free some space", claim.id)


def _will_link(claim: Claim, item: Input, there: os.stat_result) -> bool:
    return (not item.in_place and _is_stable(claim, item.path)
            and there.st_dev == os.stat(claim.spool.path("data")).st_dev)


def _limits(claim: Claim) -> list[str]:
    return ["net_receive"] if any(item.host for item in _wanted(claim)) else []


def _extra_inputs(claim: Claim) -> dict[str, str]:
    """Return digests of settings, header policy and origins: a file delivered anew is fetched anew.

    An origin that is gone does not count as changed: the copy of it is what we have.
    """
    _have_given_back(claim)
    chosen = [claim.settings["instrument_id"], claim.settings["receivers"]]
    origins = Origins(os.path.join(claim.folder, plan.SOURCES))
    marks = [_mark(item, origins) for item in _wanted(claim)]
    made = {"settings": _digest_of(chosen), "origins": _digest_of(marks)}
    if policy := plan.policy(claim):
        made["policy"] = _digest_of(policy)
    return made


def _have_given_back(claim: Claim) -> None:
    """Let the merger give back the copies that it made products of: their origins may be gone.

    Raises:
        errors.Later: one cannot be given back now, for want of space perhaps.
    """
    folder = os.path.join(claim.folder, plan.SOURCES)
    changed: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        changed = list(filter(None, map(fsops.changed_by, os.listdir(folder))))
    for name in changed:
        done = subprocess.run([*cli.command("daq-merge"), "-q", "--undo",
                               os.path.join(folder, name)], check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, errors="replace",
                              pass_fds=claim.descriptors)
        told = "; ".join(line.removeprefix("daq-merge: ") for line in done.stderr.splitlines())
        if done.returncode == errors.Later.code:
            raise errors.Later(f"{name}, which became the product, is not given back yet: {told}")
        if told:
            cli.warn(f"{claim.id}: {told}")
        # what cannot be given back, or came back with other content, is fetched again
        Origins(folder).doubt(name)


def _mark(item: Input, origins: Origins) -> list[Any]:
    if item.host:
        return [item.name, item.origin]
    if there := local.status(item):
        return [item.name, item.origin, there.st_size, there.st_mtime_ns]
    entry = origins.find(item.name, item.origin) or {}
    return [item.name, item.origin, entry.get("size"), entry.get("mtime_ns")]


def _digest_of(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


STAGE = Stage("collect", "acquire", "merge", work, _preflight, _limits, _extra_inputs)

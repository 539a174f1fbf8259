"""The merge stage: build the product of a job and publish it, once.

The product's name, size and digest are in the log before it gets its name, so that a try after a
crash recognises it instead of taking it for somebody else's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from typing import Any

from daq_merge import build, record, undo
from daq_merge.build import Built
from daq_merge.how import How
from daq_merge.plan import Plan, locate, plan
from daqlib import alerts, cli, errors, fitssums, fsops, history, manifest
from daqlib.crashpoints import passing
from daqlib.stage import Claim, Outcome, Stage

Document = dict[str, Any]

#: What the manifest says of a product as the ``sealed`` event says it.
_FACTS = ("product", "size", "sha256", "fileId", "hdus", "way")
_MODE = 0o444  # of a product: nobody writes it again


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
    sealed = _sealed_before(claim, path, inputs)
    if sealed is not None and not claim.force:
        cli.detail(f"{claim.id}: {name} was published by an earlier try")
        return _outcome(claim, path, sealed, _target(claim, specification))
    target = _target(claim, specification)
    changed = _changed(claim, target if _give_back(claim, target) else "")
    how = _how(claim, target, path)
    planned = plan(specification, claim.folder, how)
    embryo = fsops.temporary(path)
    try:
        return _build(claim, planned, how, embryo, inputs, target, changed)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(embryo)  # on a full disk, a product that nobody will read must not stay
        if target and os.path.lexists(target):
            undo.let_go(error)
            undo.restore(target, cli.warn)  # it was to become the product, and did not
        raise


def _target(claim: Claim, specification: Document) -> str:
    """Return the path of the collected copy of the merge target, empty when there is none."""
    source = specification["target"].get("source")
    return locate(source["location"], claim.folder, "the merge target") if source else ""


def _give_back(claim: Claim, target: str) -> bool:
    """Have the collected copy of the merge target again, if an earlier merge made it the product.

    The manifest of its collection is true again then: it has its content, size and time.

    Returns:
        Whether it was given back.
    """
    if not target:
        return False
    with contextlib.suppress(FileNotFoundError):
        fsops.sweep(os.path.dirname(target))
    if undo.restore(target, cli.warn, copied=True):  # nobody else delivers files there
        cli.detail(f"{claim.id}: {os.path.basename(target)} was given back by an earlier merge")
        return True
    if os.path.lexists(target):
        fsops.remove(undo.kept_of(target))  # what a crash in the middle of giving back leaves
    return False


def _changed(claim: Claim, given_back: str) -> dict[str, int]:
    """Return what somebody changed since it was collected: its path in the job and its sum.

    Size and time tell. A file that was given back has those of its collection whatever was done to
    the product that it was, or to one of its links, so that its content is compared.
    """
    found: dict[str, int] = {}
    for item in (claim.previous() or {}).get("outputs", []):
        path = os.path.join(claim.folder, item["path"])
        if not os.path.isfile(path) or manifest.is_true(item, claim.folder,
                                                        verify=path == given_back):
            continue
        # a file that was linked has no sum of its own: what it states itself may be as new as it is
        known = item.get("sum") is not None or bool(item.get("sha256"))
        if not known or not manifest.has_content(path, item):
            found[item["path"]] = fitssums.total(path)
            if path == given_back:
                os.utime(path)  # or the next run would take it for what was collected
    return found


def _how(claim: Claim, target: str, path: str) -> How:
    """Return how to build: a job is never refused because its product cannot be built in a way."""
    wanted = str(claim.settings["merge.way"])
    ours = _lies_in_job(claim, target)
    if target and wanted == "in-place" and not ours:
        cli.warn(f"{claim.id}: {target} does not lie in data/{claim.id}/sources: it is left alone")
    # "auto" clones where it can, which is what "clone" asks for; a job without a target needs no
    # warning that it was not merged in place
    way = wanted if wanted == "new" or wanted == "in-place" and ours else "auto"
    return How(way, str(claim.settings["merge.sums"]), digest=True, product=path,
               in_place_ok=wanted == "auto" and ours and _is_only_name(target), mode=_MODE)


def _lies_in_job(claim: Claim, target: str) -> bool:
    """Tell whether the target is where copies of this job are: somebody's own file stays his.

    A person can lead a specification, or the directory of the copies, elsewhere.
    """
    here = os.path.join(os.path.realpath(claim.folder), "sources")
    return target != "" and os.path.realpath(os.path.dirname(target)) == here


def _is_only_name(target: str) -> bool:
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _build(claim: Claim, planned: Plan, how: How, embryo: str, inputs: str, target: str,
           changed: dict[str, int]) -> Outcome:
    built = build.write(planned, embryo, how, progress=cli.progress(f"{claim.id}: merge"))
    try:
        for text in built.warnings:
            cli.warn(f"{claim.id}: {text}")
        sources = _with_sums(claim, record.origins(planned.base, planned.inputs), changed)
        facts = record.result(built, os.path.basename(how.product), history.file_id(claim.events),
                              sources)
        told = {**facts, "inputs": inputs, "sources": sources,
                "alerts": built.alerts + [_suspicious(path) for path in changed],
                "damaged": {str(index): why for index, why in built.damaged.items()}}
        claim.log("sealed", **told)
        passing("publish.sealed")
        _publish(claim, built, how.product)
        passing("publish.renamed")
    finally:
        built.release()  # whoever gives the target back asks whether somebody is at work on it
        if built.undo and os.path.lexists(target):
            undo.restore(target, cli.warn)  # it did not become the product
    return _outcome(claim, how.product, told, target)


def _suspicious(path: str) -> alerts.Alert:
    return alerts.make("suspicious-time", path, f"{path} was changed after it had been collected; "
                       "the product was made of it as it is")


def _with_sums(claim: Claim, sources: list[Document], changed: dict[str, int],
               ) -> list[Document]:
    """Add to each source what its collection found out: its origin and its sum."""
    result = (claim.previous() or {}).get("result", {})
    known = {item["path"]: item for item in result.get("files", [])}
    for source in sources:
        item = known.get(source["location"], {})
        source.update({key: item[key] for key in ("origin", "sum", "sha256") if key in item})
        if source["location"] in changed:
            source.pop("sha256", None)
            source["sum"] = changed[source["location"]]
    return sources


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
    return event


def _publish(claim: Claim, built: Built, path: str) -> None:
    try:
        fsops.move(built.path, path)
    except FileExistsError:
        same = os.path.isfile(path) and fsops.sha256(path) == built.sha256
        if not built.undo:
            os.unlink(built.path)
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
    with fsops.Naming(name, target):
        os.symlink(target, embryo)
    os.replace(embryo, name)


def _keep(target: str, path: str) -> None:
    """Keep the file of a target that became the product, so that it can always be given back."""
    if not target or os.path.lexists(target):
        return
    journal = undo.read(undo.path_of(target))
    if journal is not None and os.stat(path).st_ino == journal.inode:
        try:
            undo.keep(target, path)
        except OSError as error:
            cli.detail(f"{target}: can be given back only while {path} is there: {error.strerror}")


def _protect(path: str) -> None:
    """Take the right to write from a product, durably, if it was not made without."""
    if stat.S_IMODE(os.stat(path).st_mode) == _MODE:
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(fd, _MODE)
        os.fsync(fd)
    finally:
        os.close(fd)


def _outcome(claim: Claim, path: str, sealed: Document, target: str) -> Outcome:
    """Return the outcome that the ``sealed`` event tells of a product that has its name."""
    _keep(target, path)
    _protect(path)
    _link(claim.spool.data_path(claim.id, "result"), os.path.relpath(path, claim.folder))
    made = manifest.output(claim.folder, path, sealed["sha256"])
    sources = sealed.get("sources", [])
    damaged = {int(index): str(why) for index, why in sealed.get("damaged", {}).items()}
    result = {key: sealed[key] for key in _FACTS if key in sealed}
    return Outcome([made], {**result, "inputs": sources,
                            "parts": record.parts(path, sources, damaged)},
                   list(sealed.get("alerts", [])))


STAGE = Stage(name="merge", previous="collect", next="release", work=_work, preflight=_preflight,
              limits=lambda claim: ["merge"], extra_inputs=lambda claim: {}, bound_to_job=True)

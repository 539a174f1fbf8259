"""Decide which finished jobs are past their time, and what of them may go.

Nothing is removed here, see :mod:`daq_status.removal`. A thing goes when it is old enough and when
it was shown, now and by its bytes, that every receiver has the product. In doubt it stays, and the
reason is told.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daqlib import errors, fsops, history, manifest, names, status
from daqlib.config import Config
from daqlib.spool import LIVE, Entry, Spool

if TYPE_CHECKING:
    from daqlib.receipts import Receipt, Standing

Document = dict[str, Any]

DAY = 86400.0
#: What can be removed of a job. ``job`` is all of it but the product: job file, history, data.
RESULT, SOURCES, JOB = "result", "sources", "job"
#: Folders of a job's data with the sources' files: as collected, as live sources brought them.
COLLECTED = ("sources", LIVE)
_FITS = (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz")
#: Deliveries whose bytes are files of this host.
_LOCAL = ("hardlink", "symlink", "copy")
#: Where sources go to in one step before they are removed one by one, below ``data/ID``.
DOOMED = ".pruned-sources"


@dataclass(frozen=True)
class Rules:
    """After how long what is removed.

    Attributes:
        days: of each kind, from the end of the job; 0 is never.
        keep: patterns of ids and file ids that are left alone.
        undelivered: whether the product of a job without receivers may go, too.
    """

    days: dict[str, float]
    keep: tuple[str, ...] = ()
    undelivered: bool = False

    def due(self, age: float) -> list[str]:
        """Return the kinds that go at this age, seconds."""
        found = [kind for kind in (RESULT, SOURCES) if self._is_due(kind, age)]
        # only the job knows its product: where products go, it goes with it or after it
        job = self._is_due(JOB, age) and (not self.days[RESULT] or RESULT in found)
        return [*found, JOB] if job else found

    def _is_due(self, kind: str, age: float) -> bool:
        return self.days[kind] > 0 and age >= self.days[kind] * DAY


@dataclass
class Case:
    """What is to become of a job.

    Attributes:
        id: the job.
        ended: when it was completed or aborted, seconds since the epoch.
        state: ``Completed`` or ``Aborted``.
        remove: what goes.
        kept: what is old enough and stays nevertheless -> why.
        bytes: what comes free.
        unverified: something stays because a receipt could not be verified now.
        product: name, size and sha256 of the product; empty when there is none.
        fileId: of the job.
    """

    id: str
    ended: float
    state: str
    fileId: str = ""  # noqa: N815 - the name that the ESO interface has
    remove: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    unverified: bool = False
    product: Document = field(default_factory=dict)

    def keep(self, kinds: Iterable[str], why: str) -> None:
        """Let some things stay that were to go."""
        self.kept.update({kind: why for kind in kinds if kind in self.remove})
        self.remove = [kind for kind in self.remove if kind not in self.kept]


def may_be_due(on: Spool, rules: Rules, entry: Entry, now: float) -> bool:
    """Tell, without reading anything, whether a job in ``done/`` is worth a look.

    No tool touches a job file after the job has ended, so that one is never older than its file.
    """
    due = rules.due(now - entry.due)
    if JOB in due:
        return True
    data = on.data_path(entry.id)
    left = SOURCES in due and any(os.path.lexists(os.path.join(data, name))
                                  for name in (*COLLECTED, DOOMED))
    return left or RESULT in due and os.path.exists(os.path.join(data, "result"))


def examine(on: Spool, settings: Config, rules: Rules, entry: Entry, now: float) -> Case:
    """Decide about a job in ``done/``.

    Args:
        on: the spool.
        settings: for the verification of receipts.
        rules: what is removed when.
        entry: the job.
        now: seconds since the epoch.
    """
    events = on.events(entry.id)
    case = Case(entry.id, _ended(events, entry),
                status.substate_of(on, entry.id, "done", events), history.file_id(events))
    case.product = product_of(on, entry.id)
    case.remove = _there(on, case, rules.due(now - case.ended))
    if case.remove:
        _exempt(on, rules, case)
    if case.remove:
        _ask_receivers(on, settings, rules, case, events)
    if case.remove:
        _measure(on, case)
    return case


def _ended(events: list[history.Event], entry: Entry) -> float:
    ends = [event for event in events if event["event"] == "aborted"
            or (event["event"], event.get("to")) == ("ok", "done")]
    newest = (ends or events)[-1:]
    return (history.seconds(newest[0]) if newest else 0.0) or entry.due


def product_of(on: Spool, job: str) -> Document:
    """Return name, size and sha256 of the product of a job; empty when it has none."""
    told = (manifest.read(on.data_path(job, "merge.json")) or {}).get("result")
    if not isinstance(told, dict):
        return {}
    try:
        return {"product": names.file_name(told["product"]), "size": int(told["size"]),
                "sha256": str(told["sha256"])}
    except (KeyError, TypeError, ValueError, AttributeError, errors.DaqError):
        return {}


def _there(on: Spool, case: Case, due: list[str]) -> list[str]:
    """Return what of the kinds that are due there is; sources go with the job when that goes."""
    found = []
    if RESULT in due and case.product and os.path.lexists(product_path(on, case)):
        found.append(RESULT)
    if JOB in due:
        found.append(JOB)
    elif SOURCES in due and any(os.path.lexists(on.data_path(case.id, name))
                                for name in (*COLLECTED, DOOMED)):
        found.append(SOURCES)
    return found


def product_path(on: Spool, case: Case) -> str:
    """Return where the product of a job lies."""
    return on.path("result", case.product["product"])


def _exempt(on: Spool, rules: Rules, case: Case) -> None:
    for pattern in rules.keep:
        if any(name and fnmatch.fnmatchcase(name, pattern) for name in (case.id, case.fileId)):
            case.keep(list(case.remove), f"{pattern} is to be kept")
            return
    others = [place for place in on.places(case.id) if place != "done"]
    if others:
        case.keep(list(case.remove), f"there is a copy of the job in {others[0]}/")


def _ask_receivers(on: Spool, settings: Config, rules: Rules, case: Case,
                   events: list[history.Event]) -> None:
    """Let stay what nobody is proved to have."""
    if case.state == "Aborted":
        if RESULT in case.remove:
            case.keep([RESULT], "the job was aborted, so that nobody is sure to have its product")
        return
    if why := _left_behind(on, case):
        case.keep([SOURCES, JOB], why)
    if history.handed_over(events) and not case.product:
        return  # product and receivers are the other host's
    from daqlib import receipts  # here: what is not due needs none

    standings = receipts.of(on, case.id)
    if standings:
        _delivered(on, settings, case, events, standings)
    else:
        _delivered_nowhere(on, rules, case, events)


def _left_behind(on: Spool, case: Case) -> str:
    """Return which file of a live source is in no product, as it was not delivered; or nothing."""
    data = on.data_path(case.id)
    told = (manifest.read(os.path.join(data, "acquire.json")) or {}).get("result")
    sources = told.get("sources", []) if isinstance(told, dict) else []
    known = {str(name) for source in sources for name in source.get("files", [])}
    for folder, _, found in os.walk(os.path.join(data, LIVE)):
        for name in found:
            path = os.path.relpath(os.path.join(folder, name), on.path())
            if name.lower().endswith(_FITS) and not any(each.endswith(f"/{path}")
                                                        for each in known):
                return f"{path} was not delivered, so that it is in no product"
    return ""


def _delivered_nowhere(on: Spool, rules: Rules, case: Case, events: list[history.Event]) -> None:
    if RESULT in case.remove and not rules.undelivered:
        # without the job nobody would know its product
        case.keep([RESULT, JOB], "it was delivered nowhere; --without-receivers removes it")
    if case.remove and not _is_pruned(on, case, events) and (why := _not_intact(on, case)):
        case.keep(list(case.remove), f"{why}, and nobody else has it")


def _is_pruned(on: Spool, case: Case, events: list[history.Event]) -> bool:
    """Tell whether the product was removed here, so that it cannot be compared any more.

    The receivers had it then.
    """
    removed = [event for event in events if event["event"] == "pruned"
               and event.get("what") == RESULT]
    return bool(removed) and removed[-1].get("sha256") == case.product.get("sha256") and (
        not os.path.lexists(product_path(on, case)))


def _delivered(on: Spool, settings: Config, case: Case, events: list[history.Event],
               standings: list[Standing]) -> None:
    from daqlib import receipts

    if not _is_pruned(on, case, events) and (problems := receipts.verify(on, settings, case.id)):
        case.unverified = True
        case.keep(list(case.remove), "; ".join(problems))
        return
    given = [standing.receipt for standing in standings if standing.receipt]
    paths = [os.path.realpath(receipt.path) for receipt in given if receipt.how in _LOCAL]
    data = os.path.realpath(on.data_path(case.id))
    if any(path.startswith(f"{data}/") for path in paths):
        case.keep(list(case.remove), f"a receiver lies in {data}")
    if RESULT in case.remove and (why := _needed(on, case, given)):
        case.keep([RESULT, JOB], why)


def _needed(on: Spool, case: Case, given: list[Receipt]) -> str:
    """Return why a product that was delivered must stay; empty when it need not."""
    if why := _not_intact(on, case):
        return why
    here = os.path.realpath(product_path(on, case))
    for receipt in given:
        # of another host, too: that may be a name of this one
        if receipt.how == "symlink" or receipt.path and _is_one_name(receipt.path, here):
            return f"{receipt.path} leads to it"
    if all(receipt.how == "command" for receipt in given):
        return "only programs have it, whose copies cannot be compared with it"
    return ""


def _is_one_name(path: str, here: str) -> bool:
    """Tell whether two paths are one name of a file, not two: through links, or a bind mount."""
    folder, name = os.path.split(os.path.realpath(path))
    try:
        same = os.path.samefile(folder, os.path.dirname(here))
    except OSError:
        return False  # of another host, and not here
    return same and name == os.path.basename(here)


def _not_intact(on: Spool, case: Case) -> str:
    """Return what is wrong with the product in ``result/``; empty when it is what was merged."""
    if not case.product:
        return "it has no product"
    path, name = product_path(on, case), f"result/{case.product['product']}"
    try:
        if os.path.islink(path) or os.path.getsize(path) != case.product["size"]:
            return f"{name} is not the product that was merged"
        same = fsops.sha256(path) == case.product["sha256"]
    except FileNotFoundError:
        return f"{name} is not there"
    return "" if same else f"{name} is not the product that was merged"


# -- what there is to remove ----------------------------------------------------------------------


def _measure(on: Spool, case: Case) -> None:
    """Find out how much comes free, and whether it can be removed at all."""
    links: dict[tuple[int, int], int] = {}
    device = os.stat(on.path("data")).st_dev
    for root in _roots(on, case):
        if why := _fixed(root):
            return case.keep(list(case.remove), why)
        for path, found in _walk(root):
            if stat.S_ISDIR(found.st_mode) and (why := _closed(path, found, device)):
                return case.keep(list(case.remove), why)
            if not stat.S_ISREG(found.st_mode):
                continue
            # a file that has a name elsewhere, at a receiver perhaps, keeps its space
            file = (found.st_dev, found.st_ino)
            links[file] = links.get(file, 0) + 1
            if links[file] == found.st_nlink:
                case.bytes += found.st_size
    return None


def _roots(on: Spool, case: Case) -> list[str]:
    data = on.data_path(case.id)
    roots = {RESULT: [product_path(on, case)] if case.product else [],
             SOURCES: [os.path.join(data, name) for name in (*COLLECTED, DOOMED)],
             JOB: [data, on.job_path("done", case.id), on.log_path(case.id)]}
    return [path for kind in case.remove for path in roots[kind] if os.path.lexists(path)]


def _walk(path: str) -> Iterator[tuple[str, os.stat_result]]:
    found = os.lstat(path)
    yield path, found
    if stat.S_ISDIR(found.st_mode):
        with os.scandir(path) as entries:
            for name in [entry.name for entry in entries]:
                yield from _walk(os.path.join(path, name))


def _fixed(root: str) -> str:
    """Return why a path cannot be removed from its directory, or an empty text."""
    if os.path.islink(root):
        return f"{root} is a symbolic link: what it leads to may not be ours"
    folder = os.path.dirname(root)
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"this user may not write to {folder}"


def _closed(path: str, found: os.stat_result, device: int) -> str:
    """Return why a directory cannot be emptied, or an empty text."""
    if found.st_dev != device:
        return f"another file system is mounted at {path}"
    ours = os.access(path, os.R_OK | os.W_OK | os.X_OK)
    return "" if ours else f"this user may not write to {path}"

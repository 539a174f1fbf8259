"""Deliver a product to each of its receivers, by what their kinds ask for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from daq_release import crew, delivery, filing, program
from daq_release.delivery import How, Product, Told
from daqlib import (
    alerts,
    breaker,
    cli,
    clock,
    errors,
    manifest,
    progress,
    receipts,
    receivers,
    stage,
    transfer,
)
from daqlib.receipts import Receipt
from daqlib.stage import Claim

Document = dict[str, Any]

#: The limit on deliveries to other hosts.
SENDING = "net_send"
#: The number of the try of a delivery after the job was done.
AFTERWARDS = 0


@dataclass(frozen=True)
class Errand:
    """A receiver that has not got the product.

    Attributes:
        label: how it is called.
        receiver: what the job says of it.
        host: the host that it is on; empty for this one.
        required: whether the job waits for it.
        number: its place among the receivers, from 1.
        of_job: whether the job names it, not the configuration.
    """

    label: str
    receiver: Document
    host: str
    required: bool
    number: int
    of_job: bool


@dataclass(frozen=True)
class Failure:
    """A delivery that did not succeed."""

    errand: Errand
    error: errors.DaqError

    @property
    def text(self) -> str:
        """What happened, in words."""
        # a directory that is not there, say, is called by the same name again
        reason = str(self.error).removeprefix(f"{self.errand.label}: ")
        return f"{self.errand.label}: not delivered: {reason}"

    @property
    def alert(self) -> alerts.Alert:
        """The alert that it raises."""
        return alerts.make("release-failed", self.errand.label, self.text)

    @property
    def is_refusal(self) -> bool:
        """Whether the receiver has other content under this name."""
        return isinstance(self.error, errors.Conflict)

    @property
    def asks_again(self) -> bool:
        """Whether a program asked to be run again later."""
        return (self.errand.receiver["type"] == "commandReceiver"
                and type(self.error) is errors.Later)


@dataclass
class Round:
    """What came of one round to the receivers.

    Attributes:
        receipts: of the receivers that have the product, of earlier rounds as well.
        failures: of the others.
    """

    receipts: list[Receipt] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def all_of(claim: Claim, sha256: str) -> tuple[list[Receipt], list[Errand]]:
    """Return the receipts that a job has for a product, and the errands that are left.

    Args:
        claim: the job; with ``force`` nothing counts that was delivered before.
        sha256: digest of the product.
    """
    document = claim.job.document
    specification = manifest.read(claim.spool.data_path(claim.id, "specification.json"))
    by_default = bool(claim.settings["release.required"])
    had: list[Receipt] = []
    left: list[Errand] = []
    for number, each in enumerate(receivers.in_effect(document, specification or {}), 1):
        receipt = None if claim.force else receipts.find(claim.events, each, sha256)
        if receipt is not None:
            had.append(receipt)
            continue
        left.append(Errand(receivers.label(each), each, receivers.host(each),
                           bool(receivers.option(each, "required", by_default)), number,
                           each not in claim.settings["receivers"]))
    return had, left


def go_round(claim: Claim, product: Product, attempt: int) -> Round:
    """Deliver to all receivers that have not got the product, several at once.

    Each gets its receipt, an event of the history, as soon as it has the product.

    Args:
        claim: the job.
        product: what to deliver.
        attempt: the number of the try, or :data:`AFTERWARDS`.

    Raises:
        crew.Died: a delivery was killed.
        OSError: a receipt could not be recorded.
    """
    had, left = all_of(claim, product.sha256)
    made = Round(had)
    reachable = _not_left_alone(claim, left, made)
    died: list[crew.Died] = []

    def work(errand: Errand, told: Told) -> Document:
        return _run(_Visit(claim, product, errand, attempt, told))

    meter = _Meter(claim, reachable, product.size)
    running = crew.serve(reachable, work, places=_Places(claim), progress=meter.at)
    with contextlib.closing(meter), contextlib.closing(running):
        for errand, answer in running:
            if isinstance(answer, crew.Died):
                died.append(answer)
            elif isinstance(answer, errors.DaqError):
                _note(claim, made, Failure(errand, answer))
            else:
                made.receipts.append(_record(claim, product, errand, answer, attempt))
            meter.at(errand, product.size)
    if died:
        raise died[0]
    return made


def _not_left_alone(claim: Claim, left: Sequence[Errand], made: Round) -> list[Errand]:
    """Ask once for each host whether it may be tried now; return the errands that may."""
    closed: dict[str, errors.DaqError | None] = {"": None}
    reachable = []
    for errand in left:
        name = breaker.name_of(errand.host)
        if name not in closed:
            closed[name] = _left_alone(claim, errand.host)
        if error := closed[name]:
            _note(claim, made, Failure(errand, error))
        else:
            reachable.append(errand)
    return reachable


def _left_alone(claim: Claim, host: str) -> errors.DaqError | None:
    try:
        breaker.check(claim.spool, claim.settings, host)
    except breaker.LeftAlone as error:
        return error
    return None


def _note(claim: Claim, made: Round, failure: Failure) -> None:
    made.failures.append(failure)
    cli.detail(f"{claim.id}: {failure.text}")


def _record(claim: Claim, product: Product, errand: Errand, brought: Document,
            attempt: int) -> Receipt:
    receipt = Receipt(errand.label, str(errand.receiver["type"]), errand.host, brought["path"],
                      brought["how"], product.size, product.sha256,
                      clock.iso(clock.now()) + "Z", attempt)
    claim.log("delivered", receiver=receipt.receiver, type=receipt.type, how=receipt.how,
              path=receipt.path, size=receipt.size, sha256=receipt.sha256, **{"try": attempt})
    cli.detail(f"{claim.id}: {errand.label}: {receipt.how}")
    return receipt


class _Places:
    """The places of ``cfg/limits/net_send`` that the job holds, and whether they are in use."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._limited = int(claim.settings[f"limits.{SENDING}"]) > 0
        self._held = 1  # the claim has one when there is something to send
        self._used = 0

    def take(self, errand: Errand) -> bool:
        if not errand.host or not self._limited:
            return True
        if self._used == self._held:
            if not stage.take_slot(self._claim, SENDING):
                return False
            self._held += 1
        self._used += 1
        return True

    def give(self, errand: Errand) -> None:
        self._used -= bool(errand.host) and self._limited


class _Meter:
    """Adds up what has arrived at all receivers, for those who look."""

    def __init__(self, claim: Claim, errands: Sequence[Errand], size: int) -> None:
        self._done = dict.fromkeys((errand.label for errand in errands), 0)
        what = f"{len(errands)} receivers" if errands[1:] else "".join(self._done)
        self._reporter = progress.Reporter(claim.folder, claim.stage.name, what,
                                           size * len(errands))

    def at(self, errand: Errand, done: int) -> None:
        self._done[errand.label] = done
        self._reporter.at(sum(self._done.values()))

    def close(self) -> None:
        self._reporter.close()


# -- each kind -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Visit:
    claim: Claim
    product: Product
    errand: Errand
    attempt: int
    told: Told

    def upload(self, target: str, *, make_path: bool = False) -> str:
        settings = self.claim.settings
        most = min(filter(None, (int(self.option("bandwidth", 0)),
                                 int(settings["transfer.bytes_per_sec"]))), default=0)
        link = transfer.Link(settings, self.errand.host, self.claim.descriptors, most)
        return delivery.upload(self.product, link, target, self.told, make_path=make_path)

    def option(self, name: str, default: Any) -> Any:
        return receivers.option(self.errand.receiver, name, default)

    def how(self, *, symlink: bool) -> How:
        # only who died can have left something: a receiver may hold a million files to look through
        tries = sum(event["event"] == "start" and event.get("stage") == self.claim.stage.name
                    for event in self.claim.events)
        return How(bool(self.option("allowSymlink", symlink)),
                   sweep=tries > 1 or self.attempt == AFTERWARDS)


def _run(visit: _Visit) -> Document:
    errand, claim = visit.errand, visit.claim
    receivers.check(errand.receiver)
    serve = _KINDS[errand.receiver["type"]]
    if not errand.host:
        return serve(visit)
    transfer.check_tools(claim.settings, [errand.host])
    with breaker.trying(claim.spool, claim.settings, errand.host):
        try:
            return serve(visit)
        except (errors.Conflict, errors.NoPermission):
            breaker.succeeded(claim.spool, errand.host)  # who refuses us has answered
            raise


def _to_directory(visit: _Visit) -> Document:
    target = os.path.join(receivers.place(visit.errand.receiver)[1], visit.product.archive)
    if visit.errand.host:
        return {"how": visit.upload(target), "path": target}
    how = delivery.deliver(visit.product, target, visit.how(symlink=True), visit.told)
    return {"how": how, "path": target}


def _to_archive(visit: _Visit) -> Document:
    document = visit.claim.job.document
    facts = {"id": visit.claim.id, "prefix": str(document.get("filePrefix", "")),
             "instrument": str(document.get("instrument")
                               or visit.claim.settings["instrument_id"])}
    root, template = visit.errand.receiver["path"], receivers.template(visit.errand.receiver)
    path = filing.relative(template, visit.product, facts)
    if visit.errand.host:
        target = os.path.join(root, path)
        return {"how": visit.upload(target, make_path=True), "path": target}
    target = filing.make_folders(root, path)
    how = delivery.deliver(visit.product, target, visit.how(symlink=False), visit.told)
    return {"how": how, "path": target}


def _to_program(visit: _Visit) -> Document:
    words = [visit.errand.receiver["command"], *visit.errand.receiver.get("args", [])]
    if visit.errand.of_job and words[0] not in visit.claim.settings["release.programs"]:
        raise errors.BadConfig(f"{words[0]}: receivers of jobs may not run this program",
                               "list it in cfg/release/programs, if it may be run by everybody who "
                               "may submit jobs")
    name = f"release-{visit.errand.number}-{os.path.basename(words[0])}"
    document = {**told_of(visit.claim, visit.product), "receiver": visit.errand.receiver,
                "try": visit.attempt}
    ended = program.run(call(visit.claim, [*words, visit.product.path], document, name))
    if ended.code == 0:
        return {"how": "command", "path": ""}
    if ended.code == program.LATER:
        raise errors.Later(f"it asks to be run again later: {ended.reason}",
                           "see to what it waits for")
    code = f"exit code {ended.code}: " if ended.code > 0 else ""
    raise errors.IoFailure(f"{code}{ended.reason}",
                           f"see data/{visit.claim.id}/logs/{name}.err")


def told_of(claim: Claim, product: Product) -> Document:
    """Return what programs are told of a product, on standard input."""
    keywords = {name: [value.real, value.imag] if isinstance(value, complex) else value
                for name, value in filing.keywords(product.path).items()}
    return {"id": claim.id, "fileId": product.file_id, "path": product.path,
            "archiveName": product.archive, "size": product.size, "sha256": product.sha256,
            "job": claim.job.document, "keywords": keywords}


def call(claim: Claim, words: Sequence[str], document: Document, log: str) -> program.Call:
    """Return how to run a program for a job."""
    environment = {"DAQ_SPOOL": claim.spool.root}
    if claim.settings.path:
        environment["DAQ_CONFIG"] = os.path.abspath(claim.settings.path)
    return program.Call(words, document, claim.folder, log,
                        float(claim.settings["release.program_sec"]), environment)


_KINDS = {"olasReceiver": _to_directory, "rsyncReceiver": _to_directory,
          "directoryReceiver": _to_archive, "commandReceiver": _to_program}

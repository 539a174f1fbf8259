"""Ask a group of sources at the same time, and say what their answers mean for the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from daq_ctl import keywords, live
from daq_ctl.live import Live
from daq_ctl.sources import Delivery
from daqlib import alerts, errors
from daqlib.dictionary import Dictionaries
from daqlib.history import Told

_MOST = 100  # remarks that an alert tells: it is part of each status that is published

T = TypeVar("T")
Answers = list[tuple[Live, T | errors.DaqError]]
Failures = list[tuple[Live, errors.DaqError]]


async def ask(group: list[Live], act: Callable[[Live], Awaitable[T]],
              under_way: set[asyncio.Task[Any]]) -> Answers[T]:
    """Ask sources concurrently; return what each answered, or its error.

    Args:
        group: the sources.
        act: asks one of them.
        under_way: holds the requests meanwhile; one that is cancelled there is left out of the
            answers.
    """
    requests = {asyncio.create_task(live.answered(each, act(each))): each for each in group}
    under_way.update(requests)
    try:
        if requests:
            await asyncio.wait(requests)
    finally:
        for request in requests:
            request.cancel()
        under_way.difference_update(requests)
    answers: Answers[T] = []
    for request, each in requests.items():
        if not request.cancelled():
            error = request.exception()
            assert error is None or isinstance(error, errors.DaqError)
            answers.append((each, error or request.result()))
    return answers


def told_of(event: str, group: Iterable[Live]) -> list[Told]:
    """Return an event for each of some sources."""
    return [(event, {"source": each.name}) for each in group]


def failures(answers: Answers[Any]) -> Failures:
    """Return the sources that failed and cannot be done without."""
    return [(each, answer) for each, answer in answers
            if isinstance(answer, errors.DaqError) and not each.optional]


def absent(answers: Answers[Any]) -> Failures:
    """Return the optional sources that failed."""
    return [(each, answer) for each, answer in answers
            if isinstance(answer, errors.DaqError) and each.optional]


def texts(failed: Failures, what: str = "") -> str:
    """Return the failures in words."""
    return "; ".join(f"source {each.name}{what}: {error.message}" for each, error in failed)


def troubles(answers: Answers[Any]) -> list[Told]:
    """Return what to record of sources that failed: an optional one is asked no more."""
    lost = absent(answers)
    return [*told_of("source-absent", (each for each, _ in lost)),
            *(told for each, error in lost for told in each.told(
                f"source {each.name}: {error.message}; the acquisition goes on without it")),
            *(told for each, error in failures(answers)
              for told in each.told(f"source {each.name}: {error.message}"))]


def aborted(answers: Answers[None]) -> list[Told]:
    """Return what to record of sources that were asked to abort."""
    return [*told_of("source-aborted", (each for each, answer in answers if answer is None)),
            *troubles(answers)]


def stopped(answers: Answers[Delivery], dictionaries: Dictionaries) -> list[Told]:
    """Return what to record of sources that were asked to stop, with what they brought."""
    told = troubles(answers)
    for each, answer in answers:
        if isinstance(answer, errors.DaqError):
            continue
        delivery = _complying(answer, dictionaries)
        told.append(("stopped", {
            "source": each.name, "files": delivery.files, "keywords": delivery.keywords,
            "fault": delivery.fault or None, "keywordFault": delivery.keyword_fault or None,
            "remarks": delivery.remarks or None}))
        remarks = delivery.remarks
        if delivery.keyword_fault:
            text = f"its keywords are not valid: {delivery.keyword_fault}"
            if each.optional:
                remarks = [text, *remarks]
            else:
                told.append(("alert", alerts.make("source-keywords", each.name,
                                                  f"source {each.name}: {text}")))
        if remarks:
            more = [f"and {len(remarks) - _MOST} more, in the log"] if len(remarks) > _MOST else []
            text = f"source {each.name}: {'; '.join([*remarks[:_MOST], *more])}"
            told.append(("alert", alerts.make("source-remarks", each.name, text)))
        told += each.told(delivery.fault and f"source {each.name}: {delivery.fault}")
    return told


def _complying(delivery: Delivery, dictionaries: Dictionaries) -> Delivery:
    """Return a delivery with its keywords as the dictionaries want them, or without any."""
    try:
        made = keywords.accepted(dictionaries, delivery.keywords, "the reply to StopDaq")
    except errors.BadData as error:
        return replace(delivery, keywords=[], keyword_fault=error.message)
    return replace(delivery, keywords=made)

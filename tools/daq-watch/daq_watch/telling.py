"""Tell the log file of what is recorded of jobs, by loggers with the names of ESO's server."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from daqlib import clock, history, logs
from daqlib.spool import Spool

#: ESO-396401, section 12.2.7.
_SCHEDULER, _CONTROLLER = "daq.dpm.scheduler", "daq.dpm.controller"
_TRANSFER, _MERGER = "daq.dpm.transfer", "daq.dpm.merger"
_OF_EVENT = {"submitted": _SCHEDULER, "accepted": _SCHEDULER, "abort-requested": _SCHEDULER,
             "aborted": _SCHEDULER, "delivered": _TRANSFER, "handed-over": _TRANSFER}
_OF_STAGE = {"collect": _TRANSFER, "merge": _MERGER}
_SEVERITY = {"fail": logs.ERROR, "bad": logs.ERROR, "alert": logs.WARNING, "killed": logs.WARNING,
             "defer": logs.WARNING, "overtime": logs.WARNING}
_PLAIN = ("time", "event", "by", "pid", "host", "keywords")
_LONGEST = 500  # characters of what an event says


class Teller:
    """Knows what has been told of each job."""

    def __init__(self, on: Spool) -> None:
        """Begin to tell: what was recorded before is not told."""
        self._spool = on
        self._since = math.floor(clock.now() * 1000) / 1000  # events tell milliseconds
        self._told: dict[str, int] = {}

    def tell(self, job: str, *, ended: bool) -> None:
        """Log what was recorded of a job since the last call.

        Args:
            job: its id.
            ended: whether this is the last call for it.
        """
        events = self._spool.events(job)
        known = self._told.pop(job, None)
        if not ended:
            self._told[job] = len(events)
        for event in events[known or 0:]:
            if event.get("stage") != "acquire" and (
                    known is not None or history.seconds(event) >= self._since):
                _log(job, event)

    def forget(self, job: str) -> None:
        """Forget a job that is gone."""
        self._told.pop(job, None)


def _log(job: str, event: history.Event) -> None:
    name = event["event"]
    facts: dict[str, Any] = {key: value for key, value in event.items() if key not in _PLAIN}
    logger = _OF_EVENT.get(name) or _OF_STAGE.get(str(event.get("stage")), _CONTROLLER)
    text = json.dumps(facts, ensure_ascii=False)
    logging.getLogger(logger).log(
        _SEVERITY.get(name, logs.DEBUG), "%s: %s %s", job, name,
        text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
    logs.event(name, **{**facts, "daq": job, "recorded": event.get("time")})

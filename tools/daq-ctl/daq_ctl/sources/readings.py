"""Values that a metadata source read: how good they are, and what became of them over an exposure.

A value that is not good is never recorded as if it were: its flag goes into the comment of its
keyword and into a remark for people, and a value that says nothing at all (never measured, not a
number) is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Value = float | int | str | bool

#: What of an item a keyword holds: its value at the start or the end, or one over the exposure.
POINTS = ("start", "end")
SPANS = ("mean", "min", "max")


@dataclass(frozen=True)
class Reading:
    """A value as it was read.

    Attributes:
        value: None when there is none.
        flag: why it is not as good as it should be, in one or two words such as ``ALERT`` or
            ``INVALID``; empty when it is good.
        unit: that the source gives, or empty.
        time: when it was measured or changed last, seconds since the epoch; 0 when that is unknown.
    """

    value: Value | None = None
    flag: str = ""
    unit: str = ""
    time: float = 0.0

    @property
    def good(self) -> bool:
        """Whether there is a value and nothing is wrong with it."""
        return self.value is not None and not self.flag

    def aged(self, now: float, most: float) -> Reading:
        """Return the reading, flagged when it is older than ``most`` seconds; 0 is without limit.

        One whose time is unknown is as old as can be.
        """
        age = now - self.time
        if not most or age <= most or self.value is None:
            return self
        told = f"STALE {age:.0f} s" if self.time else "STALE"
        return Reading(self.value, f"{self.flag} {told}".strip(), self.unit, self.time)


@dataclass
class Tally:
    """What an item was from the start of an exposure until now.

    A mean is weighted with time: each value holds until the next one comes, as sources tell changes
    only. Spans are made of good numbers; ``bad`` seconds, in which there was none, do not count.
    All times are of a clock that does not jump, in seconds.

    Attributes:
        first: the reading at the start.
        last: the newest reading.
        since: when that came.
        least: the smallest number.
        most: the largest number.
        weighted: integral of the value over the time.
        held: seconds that this integral covers.
        bad: seconds in which the value was flagged, missing, or not heard of.
        flags: all flags that were seen, in their order.
    """

    first: Reading
    last: Reading
    since: float
    least: float = math.inf
    most: float = -math.inf
    weighted: float = 0.0
    held: float = 0.0
    bad: float = 0.0
    flags: list[str] | None = None

    @classmethod
    def begin(cls, reading: Reading, now: float) -> Tally:
        """Return the tally that begins with a reading."""
        made = cls(reading, reading, now, flags=[])
        made._note(reading)
        return made

    def add(self, reading: Reading, now: float) -> None:
        """Take a newer reading."""
        self.hold(now)
        self.last = reading
        self._note(reading)

    def hold(self, now: float) -> None:
        """Let the newest reading have held until now."""
        lasted, self.since = max(0.0, now - self.since), now
        if _is_number(self.last):
            self.weighted += float(self.last.value or 0.0) * lasted
            self.held += lasted
        else:
            self.bad += lasted

    def _note(self, reading: Reading) -> None:
        if reading.flag and self.flags is not None and reading.flag not in self.flags:
            self.flags.append(reading.flag)
        if _is_number(reading):
            number = float(reading.value or 0.0)
            self.least, self.most = min(self.least, number), max(self.most, number)

    def over(self, when: str) -> Reading:
        """Return one of :data:`SPANS`, with a flag for what was wrong meanwhile."""
        told = [*(self.flags or []), *([f"{self.bad:.0f} s MISSING"] if self.bad >= 0.5 else [])]
        flag = ", ".join(told)
        if self.most < self.least:
            return Reading(None, flag or "NO NUMBER", self.last.unit, self.last.time)
        mean = self.weighted / self.held if self.held > 0 else float(self.last.value or 0.0) \
            if _is_number(self.last) else self.most
        value = {"mean": mean, "min": self.least, "max": self.most}[when]
        return Reading(value, flag, self.last.unit, self.last.time)

    def to_json(self) -> dict[str, Any]:
        """Return it as a document; the time since which the newest reading holds is left out."""
        return {"first": vars(self.first), "last": vars(self.last), "bad": self.bad,
                "least": None if math.isinf(self.least) else self.least,
                "most": None if math.isinf(self.most) else self.most,
                "weighted": self.weighted, "held": self.held, "flags": self.flags}

    @classmethod
    def of_json(cls, told: dict[str, Any], now: float, unheard: float) -> Tally:
        """Return what :meth:`to_json` wrote.

        Args:
            told: the document.
            now: of the clock that does not jump.
            unheard: seconds for which nobody listened.
        """
        return cls(Reading(**told["first"]), Reading(**told["last"]), now,
                   math.inf if told["least"] is None else told["least"],
                   -math.inf if told["most"] is None else told["most"],
                   told["weighted"], told["held"], told["bad"] + unheard, list(told["flags"]))


def _is_number(reading: Reading) -> bool:
    value = reading.value
    return reading.good and isinstance(value, int | float) and math.isfinite(value)

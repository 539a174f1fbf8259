"""Values that a metadata source read: how good they are, and what became of them over an exposure.

A value that is not good is never recorded as if it were: its flag goes into the comment of its
keyword and into a remark for people, and what says nothing at all (never measured, not a number)
is left out.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Value = float | int | str | bool

#: What of an item a keyword holds: its value at the start or the end, or one over the exposure.
POINTS = ("start", "end")
SPANS = ("mean", "min", "max")

_SHORTEST_S = 0.5  # of a time without a good value that is told


@dataclass(frozen=True)
class Reading:
    """A value as it was read; infinity and what is no number are no value.

    Attributes:
        value: None when there is none.
        flag: why it is not as good as it should be, in one or two words such as ``ALERT`` or
            ``INVALID``; empty when it is good.
        unit: that the source gives, or empty.
        time: when it was measured or changed last, seconds since the epoch; 0 when that is unknown.
        off_limits: the flag says that the value is not where it should be, not that it is wrong.
    """

    value: Value | None = None
    flag: str = ""
    unit: str = ""
    time: float = 0.0
    off_limits: bool = False

    def __post_init__(self) -> None:
        """Take no value for what no card can hold."""
        if isinstance(self.value, float) and not math.isfinite(self.value):
            object.__setattr__(self, "value", None)
            object.__setattr__(self, "flag", self.flag or "NO NUMBER")

    def flagged(self, flag: str) -> Reading:
        """Return the reading with one more flag."""
        return replace(self, flag=f"{self.flag} {flag}".strip())

    def aged(self, now: float, most: float) -> Reading:
        """Return the reading, flagged when it is older than ``most`` seconds; 0 is without limit.

        One whose time is unknown is as old as can be.
        """
        age = now - self.time
        if not most or age <= most or self.value is None:
            return self
        return self.flagged(f"STALE {age:.0f} s" if self.time else "STALE")


@dataclass
class Span:
    """What a number was from the start of an exposure until now.

    A mean is weighted with time: each number holds until the next one comes, as sources tell
    changes only. What is flagged, or no number, counts for nothing but the time that it lasts; a
    number that is flagged for being off its limits counts.
    A number that goes round, such as an angle, is followed beyond its bounds the shorter way
    from each value to the next, so that 359 and 1 degree have the mean 0: what comes out has to be
    brought back into the bounds. Times are in seconds of a clock that does not jump.

    Attributes:
        turn: what a number that goes round grows by on its way round; 0 when it does not.
        since: when the newest value came.
        now: the newest value, None when that was not good.
        last: the newest good number.
        least: the smallest good number.
        most: the largest good number.
        weighted: integral of the number over the time.
        held: seconds that this integral covers.
        bad: seconds in which there was no good number.
        flags: all that were seen, in their order.
    """

    turn: float = 0.0
    since: float = 0.0
    now: float | None = None
    last: float | None = None
    least: float | None = None
    most: float | None = None
    weighted: float = 0.0
    held: float = 0.0
    bad: float = 0.0
    flags: list[str] = field(default_factory=list)

    def add(self, reading: Reading, now: float) -> None:
        """Take a newer reading."""
        self.hold(now)
        flag = reading.flag
        if isinstance(reading.value, str):
            flag = flag or "NO NUMBER"
        if flag and flag not in self.flags:
            self.flags.append(flag)
        if flag and not reading.off_limits or reading.value is None or isinstance(
                reading.value, str):
            self.now = None
            return
        self.now = self.last = number = self._followed(reading.value)
        self.least = number if self.least is None else min(self.least, number)
        self.most = number if self.most is None else max(self.most, number)

    def _followed(self, number: float) -> float:
        if not self.turn or self.last is None:
            return number
        return self.last + math.remainder(number - self.last, self.turn)

    def hold(self, now: float) -> None:
        """Let the newest value have held until now."""
        lasted, self.since = max(0.0, now - self.since), now
        if self.now is None:
            self.bad += lasted
        else:
            self.weighted += self.now * lasted
            self.held += lasted

    def over(self, when: str, newest: Reading) -> Reading:
        """Return one of :data:`SPANS`, with a flag for what was wrong meanwhile.

        Unit and time are those of the newest reading.
        """
        missing = [f"{self.bad:.0f} s MISSING"] if self.bad >= _SHORTEST_S else []
        mean = self.weighted / self.held if self.held else self.last
        return replace(newest, value={"mean": mean, "min": self.least, "max": self.most}[when],
                       flag=", ".join([*self.flags, *missing]))

    def to_json(self) -> dict[str, Any]:
        """Return it as a document."""
        return asdict(self)

    @classmethod
    def of_json(cls, told: dict[str, Any], now: float, unheard: float) -> Span:
        """Return what :meth:`to_json` wrote, without a value until one comes.

        Args:
            told: the document.
            now: of the clock that does not jump.
            unheard: seconds for which nobody listened.
        """
        made = cls(**told)
        return replace(made, since=now, now=None, bad=made.bad + unheard)

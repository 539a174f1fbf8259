"""The errors that users see: one class per exit code, each with its meaning and a remedy.

The codes follow ``sysexits.h`` where it has a word for the case. Raise them where the fault is
found; :func:`daqlib.cli.entry` turns them into one line on stderr and the exit code.
"""

from __future__ import annotations

OK = 0
NO = 1


class DaqError(Exception):
    """An error that is told in one line: ``TOOL: ID: what is wrong, and what to do``.

    Args:
        message: what is wrong, naming the thing and the reason.
        remedy: what the reader can do about it, in the imperative.
        job: the job concerned, or empty.
    """

    code = 70
    meaning = "our bug"

    def __init__(self, message: str, remedy: str = "", job: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.job = job

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class Usage(DaqError):
    """The command line is wrong."""

    code = 64
    meaning = "wrong arguments"


class BadData(DaqError):
    """This job or its data is wrong; trying again cannot help."""

    code = 65
    meaning = "this job or its data is wrong"


class NoJob(DaqError):
    """There is no such job here."""

    code = 66
    meaning = "no such job"


class Unavailable(DaqError):
    """A daemon or a source does not answer."""

    code = 69
    meaning = "daemon or source not there"


class Bug(DaqError):
    """An internal error."""

    code = 70
    meaning = "our bug"


class Conflict(DaqError):
    """The target exists with other content and is never overwritten."""

    code = 73
    meaning = "target exists with other content"


class IoFailure(DaqError):
    """Reading or writing failed in a way that waiting does not mend."""

    code = 74
    meaning = "input/output error"


class Later(DaqError):
    """Not now: busy, no space, host down. The same call may succeed later."""

    code = 75
    meaning = "later: busy, no space, host down"


class Patience(Later):
    """Not now, and no job is at fault: the try does not count, so that it is never given up."""


class HostDown(Patience):
    """Another host does not answer.

    Attributes:
        host: which, as :func:`daqlib.breaker.name_of` has it; empty when nobody told.
    """

    host = ""


class NoPermission(DaqError):
    """The file system says no."""

    code = 77
    meaning = "permission denied"


class BadConfig(DaqError):
    """The configuration or the spool directory is not usable."""

    code = 78
    meaning = "configuration"


class WaitTimeout(DaqError):
    """A wait ran out of time."""

    code = 124
    meaning = "--wait ran out"


#: Every class with an exit code of its own, in order; manuals and tests are compared with it.
CODES: tuple[type[DaqError], ...] = (
    Usage, BadData, NoJob, Unavailable, Bug, Conflict, IoFailure, Later, NoPermission, BadConfig,
    WaitTimeout,
)

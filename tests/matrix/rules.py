"""What the manual promises in every cell, whatever the table says (ESO-396401, 9.2 and 13.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from daqlib import errors
from matrix.cells import BY_ITSELF, EVERY, FAULTY, Cell, Seen

#: Faults at the start with which no source may be said to have started.
START_FAILS = ("refuses", "lacks it", "hangs", "dies", "returns", "babbles", "acts late")
#: Faults at the stop or abort with which the source was certainly not stopped or aborted.
ENDING_FAILS = ("refuses", "lacks it", "hangs", "dies", "returns")
#: Faults of a query with which all other commands are still obeyed.
OBEDIENT = ("none", "refuses", "lacks it", "delays", "babbles", "replies late")
#: Faults that leave a source that knows nothing of the acquisition when it is there again.
FORGETFUL = ("dies", "returns")

Broken = Iterator[str]


def violations(cell: Cell, seen: Seen) -> list[str]:
    """Return the promises that a cell breaks, in words."""
    return [f"{cell}: {text}; seen: {seen}" for rule in _RULES for text in rule(cell, seen)]


def _command(cell: Cell) -> str:
    return cell.column.removeprefix("then ").partition(",")[0]


def _answer(_cell: Cell, seen: Seen) -> Broken:
    reply = seen.reply
    if reply.word == "fails":
        if reply.exception != "daqif::DaqException":
            yield "the exception is not the interface's"
        if reply.code not in (errors.BadData.code, errors.Unavailable.code):
            yield "the code is neither that of a refusal nor that of a source that is not there"
        if not reply.message:
            yield "the exception says nothing"
    if any("adapter" in text or "internal" in text for text in (*seen.texts, reply.message)):
        yield "an internal error"


def _flag(_cell: Cell, seen: Seen) -> Broken:
    if seen.error != bool(seen.alerts):
        yield "the error flag is not that of the alerts"
    if seen.reply.word == "ok" and seen.error:
        yield "an error that the reply does not tell"
    if {name.partition(":")[0] for name in seen.alerts} - {"source-failed", "failed"}:
        yield "an alert that has nothing to do with it"


def _alerts_name_the_source(cell: Cell, seen: Seen) -> Broken:
    faulty = {f"source-failed:{name}" for name in FAULTY[cell.role]}
    if set(seen.alerts) - faulty - {"failed"}:
        yield "an alert about a source without a fault"
    if cell.fault in ("none", "delays") and seen.alerts:
        yield "an alert although nothing is wrong"


def _started_once(_cell: Cell, seen: Seen) -> Broken:
    if seen.begun > 1:
        yield "a source was started twice"


def _others_at_rest(cell: Cell, seen: Seen) -> Broken:
    over = seen.substate in ("NotScheduled", "Aborted", "Aborting") or seen.place == "failed"
    if over and set(seen.left) - set(FAULTY[cell.role]):
        yield "a source without a fault was left recording"
    if seen.substate == "Aborted" and "stopped" in seen.others:
        yield "a source was stopped, not aborted"


def _place(_cell: Cell, seen: Seen) -> Broken:
    places = {"NotScheduled": ("collect",), "Aborted": ("done",), "Aborting": ("acquire", "failed")}
    if seen.place not in places.get(seen.substate, ("acquire",)):
        yield "the job lies elsewhere"
    if (seen.substate == "NotScheduled") != bool(seen.data):
        yield "a manifest without an end of the acquisition, or an end without one"


def _start(cell: Cell, seen: Seen) -> Broken:
    if cell.moment != "start" or cell.column.startswith("then"):
        return
    fails = cell.fault in START_FAILS
    if (seen.reply.word == "fails") != fails:
        yield "a start that must fail, or must not"
    elif not fails and (seen.substate != "Acquiring" or len(seen.left) != 4):
        yield "not everything records"
    elif fails and (seen.substate, seen.place, seen.error) != ("Aborting", "failed", True):
        yield "the DAQ that did not start is not to be seen in failed/"
    elif fails and not ("failed" in seen.alerts and FAULTY[cell.role][0] in seen.reply.message
                        and "did not start" in seen.reply.message):
        yield "it does not tell which source did not start"
    if fails and seen.left:
        yield "a source records after a start that failed"
    if fails and cell.role == "metadata" and "never began" not in seen.others:
        yield "the detector was started before the metadata sources"


def _stop(cell: Cell, seen: Seen) -> Broken:
    if _command(cell) != "StopDaq" or cell.moment not in ("wait", "stop", "stopping"):
        return
    if seen.reply.word != "fails":
        yield from _stopped(cell, seen)
    elif cell.role != EVERY:
        yield "it failed although sources delivered"
    elif seen.substate != "Stopping" and not (cell.fault == "babbles" and seen.data == "4 of 4"):
        yield "it failed and is not Stopping"
    if cell == Cell("stop", cell.fault, EVERY, "StopDaq") and (
            (seen.reply.word == "fails") < (cell.fault in ENDING_FAILS)):
        yield "it succeeded although no source was stopped"
    if "mended" in cell.column and cell.fault not in FORGETFUL and seen.reply.word == "fails":
        yield "it cannot be repeated"


def _force_stop(cell: Cell, seen: Seen) -> Broken:
    if _command(cell) == "ForceStopDaq" and cell.moment in ("wait", "stop", "stopping"):
        if seen.reply.word == "fails":
            yield "a force command failed"
        yield from _stopped(cell, seen)


def _stopped(cell: Cell, seen: Seen) -> Broken:
    if seen.substate != "NotScheduled":
        yield "it was not handed over"
    missing = 4 - int((seen.data or "0")[0])
    if missing > len(FAULTY[cell.role]):
        yield "data of a source without a fault is not in the product"
    if missing and not (seen.error and seen.reply.word in ("error", "none")):
        yield "data is missing, and nobody is told"
    if not missing and seen.left:
        yield "a source delivered and records"


def _by_itself(cell: Cell, seen: Seen) -> Broken:
    if cell.column != BY_ITSELF:
        return
    if seen.substate == "NotScheduled":
        yield from _stopped(cell, seen)
    elif seen.substate != "Acquiring" or not seen.error:
        yield "neither stopped nor waiting for a person, with an alert"
    elif cell.moment != "wait" or cell.role != "primary":
        yield "the primary sources have ended and it did not stop"


def _abort(cell: Cell, seen: Seen) -> Broken:
    if _command(cell) != "AbortDaq":
        return
    if seen.reply.word != "fails":
        if (seen.substate, seen.left) != ("Aborted", ()):
            yield "it was answered, and is not Aborted or a source records"
    elif seen.substate != "Aborting" or seen.place not in ("acquire", "failed"):
        yield "it failed and is not Aborting"
    certain = cell.moment == "abort" and cell.fault in ENDING_FAILS
    if certain and seen.reply.word != "fails":
        yield "it was answered although a source did not abort"
    if "mended" in cell.column and seen.reply.word == "fails":
        yield "it cannot be repeated"


def _force_abort(cell: Cell, seen: Seen) -> Broken:
    if _command(cell) == "ForceAbortDaq" and (seen.reply.word == "fails"
                                              or seen.substate != "Aborted"):
        yield "a force command did not do it"


def _keywords(cell: Cell, seen: Seen) -> Broken:
    if _command(cell) != "UpdateKeywords":
        return
    accepted = seen.reply.word != "fails"
    if accepted != (cell.moment in ("starting", "wait", "stopping")):
        yield "keywords are taken until the DAQ is stopped or aborted, and not afterwards"
    if seen.keywords != accepted:
        yield "the log does not hold what was taken, or holds what was refused"


def _told_to_end(cell: Cell, seen: Seen) -> Broken:
    """A source that cannot be queried is told to stop or abort all the same."""
    ends = _command(cell) in ("StopDaq", "ForceStopDaq", "AbortDaq", "ForceAbortDaq", BY_ITSELF)
    if cell.moment == "wait" and cell.fault in OBEDIENT and ends and seen.left:
        yield "a source that would have obeyed was not told to stop or abort"


def _refused(cell: Cell, seen: Seen) -> Broken:
    if cell.moment == "aborting" and _command(cell) in ("StopDaq", "ForceStopDaq") and (
            seen.reply.word, seen.reply.code, seen.substate) != ("fails", 65, "Aborting"):
        yield "a stop was not refused while it aborts"


_RULES: tuple[Callable[[Cell, Seen], Broken], ...] = (
    _answer, _flag, _alerts_name_the_source, _started_once, _others_at_rest, _place, _start, _stop,
    _force_stop, _by_itself, _abort, _force_abort, _keywords, _told_to_end,
    _refused)

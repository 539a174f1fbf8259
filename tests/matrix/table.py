"""The page of outcomes, made of what was seen."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from matrix.cells import (
    AFTER_ABORT,
    AFTER_STOP,
    BY_ITSELF,
    EVERY,
    MEANWHILE,
    METADATA,
    PRIMARY,
    STARTS,
    WHILE_RECORDING,
    Cell,
    Seen,
)
from matrix.peers import COMMANDS, FAULTS, LATE, LIMIT, SLOWLY

Outcomes = dict[Cell, Seen]

_HEAD = f"""# Outcomes of source faults

What a client sees when a source does something wrong. The page is written by the test run
(`tests/matrix/`, see its end), which drives every cell against a daemon and compares.

An acquisition has two primary and two metadata sources. One of them has the fault (*primary*,
*metadata*), or all four (*every*), at the command that the section names. The daemon waits
{LIMIT:g} s for a reply.

"""
_LEGEND = """
A cell tells the reply and the substate afterwards; its number leads to the table of outcomes below
it. *ok*: a reply; *error*: a reply with the error flag; *fails*: an exception; a substate alone: no
command was sent; –: it does not come to that. Commands of one section that begin with *then* are
sent to the same acquisition, one after the other. A source that *records* after its acquisition has
ended needs a person.
"""
_SECTIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("start", "A source is started",
     "The fault is at {start}. Metadata sources are started first; when one fails, the primary "
     "sources are never started. What was started is aborted, and the job waits in `failed/` for "
     "a person, who can also abort it.", STARTS),
    ("starting", "Another command while a source is slow to start",
     "The fault is at {start}, and the command is sent before the start is answered. After an "
     "abort the start fails: it is told that it was overtaken, or why a source did not start.",
     MEANWHILE),
    ("wait", "A source is in trouble while it records",
     "The fault is at the queries of a recording: {wait}. The command is sent when the alert is "
     "there. *" + BY_ITSELF + "*: every primary source ends its recording, no command is sent. An "
     "acquisition of which a primary source cannot be asked goes on until a person stops it.",
     WHILE_RECORDING),
    ("stop", "A source is stopped",
     "The fault is at {stop}. *" + BY_ITSELF + "*: every primary source ends its recording, so "
     "that only the metadata sources are told to stop.",
     (BY_ITSELF, "StopDaq", "ForceStopDaq")),
    ("stopping", "After a StopDaq that failed",
     "Every source has the fault at {stop}, and the acquisition is Stopping. *mended*: the fault "
     "is taken away first; a source that died is started again and has forgotten what it did.",
     AFTER_STOP),
    ("abort", "A source is aborted", "The fault is at {abort}.", ("AbortDaq", "ForceAbortDaq")),
    ("aborting", "After an AbortDaq that failed",
     "The fault is at {abort}, and the acquisition is Aborting. *mended*: as above.", AFTER_ABORT),
)
_TAIL = """
## How this page is made

`DAQ_WRITE_OUTCOMES=1 pytest tests/matrix` writes it; without the variable the run compares it. The
rules that every cell must obey, whatever this page says, are in `tests/matrix/rules.py`.
"""


def page(seen: Outcomes) -> str:
    """Return the whole page."""
    faults = _table(("fault", "the source"), ((f"*{name}*", text) for name, text in FAULTS.items()))
    limits = (f"*Delays* means {SLOWLY:g} s, *late* means {LATE:g} s.\n")
    sections = "".join(_section(seen, *section) for section in _SECTIONS)
    return f"{_HEAD}{faults}\n{limits}{_LEGEND}{sections}{_words(seen)}{_TAIL}"


def _section(seen: Outcomes, moment: str, title: str, text: str, columns: tuple[str, ...]) -> str:
    at = {name: f"`{primary}` and `{metadata}`" for name, (primary, metadata) in COMMANDS.items()}
    numbers: dict[tuple[str, ...], int] = {}
    rows = []
    for fault in FAULTS:
        for roles, outcomes in _rows(seen, moment, fault, columns).items():
            cells = [_cell(one, numbers.setdefault(_told(one), len(numbers) + 1)) if one else "–"
                     for one in outcomes]
            rows.append((f"*{fault}*", roles, *cells))
    details = ((str(number), *told) for told, number in numbers.items())
    heads = [column if column == BY_ITSELF else _command(column) for column in columns]
    return "\n".join((
        f"\n## {title}\n", textwrap.fill(text.format(**at), 100) + "\n",
        _table(("fault", "of", *heads), rows),
        _table(("", "reply", "the DAQ", "other sources", "faulty sources", "data of", "alerts"),
               details)))


def _command(column: str) -> str:
    return re.sub(r"(\w+Daq\w*|UpdateKeywords)", r"`\1`", column)


def _rows(seen: Outcomes, moment: str, fault: str, columns: tuple[str, ...],
          ) -> dict[str, list[Seen | None]]:
    """Return the rows of a fault; sources for which all is the same share one."""
    found: dict[tuple[tuple[str, ...], ...], tuple[list[str], list[Seen | None]]] = {}
    for role in (PRIMARY, METADATA, EVERY):
        outcomes = [seen.get(Cell(moment, fault, role, column)) for column in columns]
        if any(outcomes):
            key = tuple(_told(one) if one else () for one in outcomes)
            found.setdefault(key, ([], outcomes))[0].append(role)
    return {", ".join(roles): outcomes for roles, outcomes in found.values()}


def _cell(seen: Seen, number: int) -> str:
    word = "" if seen.reply.word == "none" else f"{seen.reply.word}, "
    return f"{word}{seen.substate} ({number})"


def _told(seen: Seen) -> tuple[str, ...]:
    conditions = dict.fromkeys(name.partition(":")[0] for name in seen.alerts)
    return (_reply(seen), f"{seen.substate}, `{seen.place}/`", seen.others or "–",
            seen.faulty, seen.data or "–", ", ".join(conditions) or "–")


def _reply(seen: Seen) -> str:
    reply = seen.reply
    if reply.word != "fails":
        return {"ok": "ok", "error": "error flag", "none": "–"}[reply.word]
    first = _plain(reply.message.partition(": ")[0])
    first = re.sub(r"^\w+ is not accepted", "not accepted", first)
    return f"`{reply.exception}`, exit code {reply.code}: {first}"


def _plain(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, word in ((r"zpb\.rr://\S+?(?=[,:;]?(\s|$))", "URI"), (r"\b[df]c[sf]\d-\d+\.", ""),
                          (r"\b[df]c[sf]\d\b", "NAME"), (r"\b[a-z]+\.\d+\b", "ID")):
        text = re.sub(pattern, word, text)
    return text


def _words(seen: Outcomes) -> str:
    """Return what the alert of a primary source says."""
    columns = (("start", "StartDaqV2"), ("wait", "UpdateKeywords"), ("stop", "StopDaq"),
               ("abort", "AbortDaq"))
    rows = []
    for fault in FAULTS:
        texts = [_alert(seen.get(Cell(moment, fault, PRIMARY, column)))
                 for moment, column in columns]
        if any(text != "–" for text in texts):
            rows.append((f"*{fault}*", *texts))
    heads = ("fault", *(f"at `{COMMANDS[moment][0]}`" for moment, _ in columns))
    return f"\n## What the alert of a primary source says\n\n{_table(heads, rows)}"


def _alert(seen: Seen | None) -> str:
    texts = [text for name, text in zip(seen.alerts, seen.texts, strict=True)
             if name.startswith("source-failed")] if seen else []
    return _plain(texts[0].partition(": ")[2] or texts[0]) if texts else "–"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

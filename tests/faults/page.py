"""The page of faults: written from the rows of the cells, and read back to be compared."""

from __future__ import annotations

import fcntl
import re

from faults.engine import CELLS, Row
from harness import CHECKOUT

PAGE = CHECKOUT / "docs" / "faults.md"

Rows = dict[tuple[str, str], Row]

_HEAD = """# Faults

What happens to a job when something goes wrong, and what an operator has to do. The tables are
written by a test run that brings every fault about with real parts, from the outside: a real sshd,
a real rsync daemon, real file systems that are full or read-only, network interfaces that go down.

In every line of these tables the run has seen that

- the job file is in one place, as it was submitted, and nobody holds its lock;
- no file under its final name is half of something: not in the spool, not at a receiver;
- nothing that was there before is overwritten;
- when the cause is mended the product arrives, complete and once, whatever was tried before, no
  alert stays, and no temporary file.

| column | tells |
| --- | --- |
| code | the exit code of the tool, see [exit codes](operators-guide.md#exit-codes) |
| the job | the directory that it lies in; whether the try counts: after `cfg/retry/tries` of them \
the job goes to `failed/`; [alerts](operators-guide.md#alerts) |
| what is said | the last line on standard error, without the name of the tool; the history and \
`daq-status ID` have it too |
| mend it | what is done about the cause |
| then | what is done about the job. *Goes on by itself*: `daq-watch`, or cron, tries again when \
the job is due; `touch collect/ID.json` is at once |

`far` is another host, `ADDRESS`, `PORT` and `N` stand for what differs.
"""

#: Section -> its title and what is told before the table.
SECTIONS: dict[str, tuple[str, str]] = {
    "local": ("Files of this host", "`daq-collect` fetches `/data/a.fits`."),
    "remote": ("Files of another host, by ssh",
               "`daq-collect` fetches `far:/data/a.fits`. *Meanwhile* is in the middle of the "
               "transfer. What\narrived before it broke is used by the next try."),
    "network": ("The network between the hosts",
                "The same, and the network interface goes down. `cfg/transfer/connect_sec` and "
                "`cfg/transfer/stall_sec`\nsay for how long nobody worries."),
    "daemon": ("Files of another host, from an rsync daemon",
               "`daq-collect` fetches `rsync://far/data/a.fits`."),
    "release": ("Receivers", "`daq-release` delivers to the receiver, which is not required: the "
                "job is completed without it."),
    "required": ("Receivers that are required", "The same with `cfg/release/required: true`: the "
                 "job waits."),
    "handover": ("Handing over to another host",
                 "`daq-collect` with `cfg/hand_over: far:/spool`; *there* is the other host."),
    "spool": ("The spool's own file system", "Each line stands for many runs: every stage fails at "
              "each of its writes."),
    "stage": ("What is dropped into a stage", "A good job lies beside it, and is done "
              "each time."),
    "killed": ("What is killed", "A kill leaves what a crash or a reset leaves. "
               "[What a crash leaves](operators-guide.md#what-a-crash-leaves) has\nevery "
               "instant at which that can happen, and who mends it; here is what an operator "
               "sees."),
}
_COLUMNS = ("what happens", "code", "the job", "what is said", "mend it", "then")
_TAIL = """
## How this page is made

`DAQ_WRITE_OUTCOMES=1 pytest tests/faults` writes the lines that it has seen; without the variable
each is compared. What needs root, mounts or network namespaces is skipped, with its reason, where
they are not allowed, and its line stays as it is. Other pages of this kind: [outcomes](outcomes.md)
of source faults, [states](states.md).
"""


def page(rows: Rows) -> str:
    """Return the page."""
    parts = [_HEAD]
    for section, (title, text) in SECTIONS.items():
        parts.append(f"\n## {title}\n\n{text}\n\n")
        lines = [_COLUMNS, ("---",) * len(_COLUMNS)]
        lines += [rows[one.section, one.fault] for one in CELLS
                  if one.section == section and (one.section, one.fault) in rows]
        parts += [f"| {' | '.join(line)} |\n" for line in lines]
    return "".join([*parts, _TAIL])


def read() -> Rows:
    """Return the rows of the page as it is."""
    found: Rows = {}
    titles = {title: section for section, (title, _) in SECTIONS.items()}
    section = ""
    for line in PAGE.read_text().splitlines() if PAGE.exists() else []:
        if line.startswith("## "):
            section = titles.get(line[3:], "")
        elif section and line.startswith("| "):
            cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            if len(cells) == len(_COLUMNS) and cells[0] not in (_COLUMNS[0], "---"):
                found[section, cells[0]] = Row(*cells)
    return found


def write(section: str, row: Row) -> None:
    """Put a row into the page; other processes may do so as well."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        PAGE.write_text(page({**read(), (section, row.fault): row}))

"""Named instants at which a test may kill or fail a tool; they do nothing otherwise.

Every durable primitive and every step of a stage announces itself with :func:`passing`. The
table :data:`POINTS` says for each what a death there leaves behind and who mends it: the crash
matrix of the tests walks it and the operator's guide prints it.

Set by tests only: ``DAQ_CRASH=POINT[:N]`` dies (SIGKILL) when the point is passed for the N-th
time, ``DAQ_FAULT=POINT=ERRNO[:N]`` fails there with that error, ``DAQ_CRASH_TRACE=FILE``
records the points passed.
"""

from __future__ import annotations

import errno
import os

#: Point -> (what a death there leaves, who mends it).
POINTS: dict[str, tuple[str, str]] = {
    "put.created": ("an empty dot-file", "nobody reads it; swept later"),
    "put.written": ("a dot-file, perhaps not durable", "nobody reads it; swept later"),
    "put.synced": ("a complete dot-file", "nobody reads it; swept later"),
    "put.renamed": ("the file, its name not yet durable", "the next run reads or repeats it"),
    "move.begin": ("nothing", "the next run repeats the step"),
    "move.renamed": ("the file moved, not yet durable", "the next run goes on from there"),
    "move.synced": ("the file moved", "the next run goes on from there"),
    "append.begin": ("a log without the line", "the next run repeats the step"),
    "append.torn": ("half a line in the log", "readers skip it, writers begin a new line"),
    "append.written": ("the line, not yet durable", "the next run reads it"),
    "lock.taken": ("a lock file that nobody holds", "the kernel: a lock dies with its holder"),
    "stage.claimed": ("a lock file that nobody holds", "the next run claims the job anew"),
    "stage.started": ("a try on record", "the next run; the try is counted"),
    "stage.worked": ("outputs without a manifest", "the next run does the work again"),
    "stage.manifest": ("a manifest, the job not moved", "the next run only moves the job"),
    "stage.committed": ("the job in the next stage, no 'ok' logged", "nobody needs to"),
    "stage.logged": ("the job in the next stage", "nobody needs to"),
    "inplace.journal": ("an undo journal beside the merge target, which is as it was",
                        "the next run undoes it and begins anew"),
    "inplace.inserted": ("a merge target with room at its beginning",
                         "the next run undoes it from the journal"),
    "inplace.appended": ("a merge target with HDUs appended to it",
                         "the next run undoes it from the journal"),
    "inplace.headers": ("the product under the target's name, perhaps not durable",
                        "the next run undoes it from the journal"),
    "inplace.synced": ("the product under the target's name",
                       "the next run undoes it from the journal"),
    "undo.cut": ("a merge target with room at its beginning, its end as it was",
                 "the next run goes on undoing"),
    "undo.length": ("a merge target of its old length with new headers",
                    "the next run goes on undoing"),
    "undo.headers": ("the merge target as it was, and its journal",
                     "the next run undoes it once more and removes the journal"),
    "undo.copied": ("a dot-file where the merge target was, which became the product",
                    "the next run sweeps it and makes the target again"),
    "undo.renamed": ("the merge target as it was, and a journal of the product",
                     "the next run removes the journal"),
    "publish.sealed": ("a finished temporary", "the next run sweeps it and builds anew"),
    "publish.renamed": ("the product, no manifest", "the next run knows it by the logged digest"),
    "prune.announced": ("a product, its removal on record", "the next prune decides anew"),
    "prune.result": ("a job without its product, which its receivers have", "nobody needs to"),
    "prune.sources": ("sources under a dot-name in the job's data",
                      "the next prune removes them"),
    "prune.marked": ("a dot-file in done/ instead of the job, its removal on record",
                     "the next prune finishes it"),
    "prune.data": ("a dot-file in done/ and the history of a job", "the next prune finishes it"),
    "prune.told": ("the same, and a line in log/_pruned.jsonl", "the next prune finishes it"),
    "prune.log": ("a dot-file in done/ for a job that is gone", "the next prune removes it"),
    "deliver.copied": ("a finished dot-file at a receiver", "the next run sweeps it, copies anew"),
    "deliver.placed": ("the product at a receiver, no receipt", "the next run finds it there"),
    "submit.reserved": ("an id without a job", "the same submission repeated takes it over"),
    "submit.queued": ("a job, its submitter not told", "the same submission repeated succeeds"),
    "handover.announced": ("the intention to send a job on record",
                           "the next run sends it; an abort asks the other host first"),
    "handover.delivered": ("the job in the spool of the other host, in collect/ here as well",
                           "the next run is told so, and moves it to remote/"),
    "handover.recorded": ("the same, on record", "the next run moves it to remote/"),
    "handover.news": ("news of the other host on record, the job still in remote/",
                      "the next look at the news moves it to done/"),
    "import.logged": ("a log without a job", "the same job sent again takes it over"),
    "import.data": ("a log and what belongs to it, no job", "the same job sent again goes on"),
    "import.queued": ("a job, its sender not told", "the same job sent again is known"),
    "acquire.starting": ("a group of sources announced, none commanded",
                         "daq-ctl: aborts what records, puts the job into failed/"),
    "acquire.started": ("sources that record, the client not told", "daq-ctl goes on"),
    "acquire.sealed": ("all sources stopped, the job in acquire/", "daq-ctl hands the job over"),
    "acquire.aborted": ("all sources aborted, the job in acquire/", "daq-ctl lays it to rest"),
}

_counts: dict[str, int] = {}


def passing(point: str) -> None:
    """Announce a point; dies or fails there when a test asked for it.

    Raises:
        OSError: a test asked for that error.
        AssertionError: the point is not in :data:`POINTS`.
    """
    if not _armed:
        return
    assert point in POINTS, point
    count = _counts[point] = _counts.get(point, 0) + 1
    if trace := os.environ.get("DAQ_CRASH_TRACE"):
        with open(trace, "a", encoding="ascii") as file:
            file.write(f"{point}:{count}\n")
    crash, _, nth = os.environ.get("DAQ_CRASH", "").partition(":")
    if crash == point and count == int(nth or 1):
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
    wanted, _, nth = os.environ.get("DAQ_FAULT", "").partition(":")
    fault, _, name = wanted.partition("=")
    if fault == point and count >= int(nth or 1):
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number), point)


_armed = any(os.environ.get(name) for name in ("DAQ_CRASH", "DAQ_FAULT", "DAQ_CRASH_TRACE"))

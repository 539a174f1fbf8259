from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from harness import CHECKOUT
from live import Live
from matrix.cells import (
    AFTER_ABORT,
    AFTER_STOP,
    BY_ITSELF,
    EVERY,
    FAULTS_OF_WAIT,
    MEANWHILE,
    METADATA,
    PRIMARY,
    SLOW_TO_START,
    STARTS,
    WHILE_RECORDING,
    Cell,
    Matrix,
    Reply,
)
from matrix.peers import FAULTS
from matrix.rules import ENDING_FAILS, violations
from matrix.table import page

PAGE = CHECKOUT / "docs" / "outcomes.md"
ONE = (PRIMARY, METADATA)

pytestmark = pytest.mark.xdist_group("matrix")


def cells(moment: str, faults: Iterable[str], roles: Iterable[str],
          columns: Iterable[str]) -> set[Cell]:
    return {Cell(moment, *rest) for rest in itertools.product(faults, roles, columns)}


def test_no_cell_is_left_out(matrix: Matrix) -> None:
    wanted = (cells("start", FAULTS, ONE, STARTS)
              | cells("starting", SLOW_TO_START, ONE, MEANWHILE)
              | cells("wait", FAULTS_OF_WAIT, ONE, WHILE_RECORDING)
              | cells("stop", FAULTS, (*ONE, EVERY), (BY_ITSELF, "StopDaq", "ForceStopDaq"))
              | cells("stopping", ENDING_FAILS, (EVERY,), AFTER_STOP)
              | cells("abort", FAULTS, ONE, ("AbortDaq", "ForceAbortDaq"))
              | cells("aborting", ENDING_FAILS, ONE, AFTER_ABORT))
    assert wanted - set(matrix.seen) == set()


def test_every_cell_keeps_the_promises_of_the_interface(matrix: Matrix) -> None:
    broken = [text for cell, seen in matrix.seen.items() for text in violations(cell, seen)]
    assert not broken, "\n".join(broken)


def test_a_broken_promise_is_noticed(matrix: Matrix) -> None:
    """Every cell, changed in one way or another, breaks a rule."""
    change: dict[str, Any]
    for cell, seen in matrix.seen.items():
        for change in ({"reply": Reply("fails", 70, "rpc::InternalError", "internal error")},
                       {"begun": 2}, {"place": "bad"}, {"error": not seen.error},
                       {"alerts": (*seen.alerts, "moved-away")}):
            assert violations(cell, replace(seen, **change)), (cell, change)
    for cell, change in (
            (Cell("start", "hangs", PRIMARY, "StartDaq"), {"left": ("fcf1",)}),
            (Cell("wait", "dies", METADATA, "StopDaq"), {"data": "2 of 4"}),
            (Cell("wait", "dies", METADATA, "UpdateKeywords"), {"keywords": 0}),
            (Cell("wait", "dies", PRIMARY, BY_ITSELF), {"substate": "Aborting"}),
            (Cell("stop", "refuses", EVERY, "StopDaq"), {"substate": "Acquiring"}),
            (Cell("stop", "refuses", PRIMARY, "StopDaq"), {"left": ("dcs2",)}),
            (Cell("stop", "refuses", PRIMARY, "ForceStopDaq"), {"substate": "Stopping"}),
            (Cell("stopping", "hangs", EVERY, "StopDaq, mended"),
             {"reply": Reply("fails", 69, "daqif::DaqException", "no")}),
            (Cell("abort", "refuses", METADATA, "AbortDaq"), {"reply": Reply("error")}),
            (Cell("abort", "hangs", METADATA, "ForceAbortDaq"), {"substate": "Aborting"}),
            (Cell("aborting", "hangs", METADATA, "StopDaq"), {"reply": Reply("error")})):
        assert violations(cell, replace(matrix.seen[cell], **change)), (cell, change)


def test_a_start_is_overtaken_by_an_abort_and_by_nothing_else(matrix: Matrix) -> None:
    for cell, reply in matrix.overtaken.items():
        if cell.column.endswith("AbortDaq"):
            assert reply.word == "fails", (cell, reply)
            assert re.search("overtaken|did not start", reply.message), (cell, reply)
        else:
            alone = matrix.seen[Cell("start", cell.fault, cell.role, "StartDaqV2")].reply
            assert (reply.word, reply.code) == (alone.word, alone.code), (cell, reply)


def test_a_hanging_source_delays_no_other_acquisition(matrix: Matrix) -> None:
    assert matrix.bystanders == [True]


def test_the_daemon_lives_and_has_nothing_to_complain_about(matrix: Matrix, daemon: Live) -> None:
    assert daemon.daemon.running()
    active = {status["id"] for status in daemon.call("GetActiveList")}
    assert {seen.place for seen in matrix.seen.values()} >= {"acquire", "collect", "done", "failed"}
    assert active >= set(daemon.daq.tree()["acquire"])
    odd = [line for line in daemon.daemon.err.splitlines()
           if re.search(r"Traceback|^\s|Exception|internal error|report this|adapter|never "
                        r"retrieved|never awaited|Too many open", line)]
    assert odd == []


def test_the_page_of_outcomes_is_what_was_seen(matrix: Matrix) -> None:
    made = page(matrix.seen)
    if os.environ.get("DAQ_WRITE_OUTCOMES"):
        PAGE.write_text(made)
    there = PAGE.read_text() if PAGE.exists() else ""
    changes = difflib.unified_diff(there.splitlines(), made.splitlines(), "as written", "as seen",
                                   lineterm="", n=0)
    assert there == made, "\n".join(
        [*changes, "look whether it is right; then DAQ_WRITE_OUTCOMES=1 writes it"])

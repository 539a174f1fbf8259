"""The crash matrix: die at every point, run again, and everything is as if nothing had happened.

Which points a tool passes is learned by running it undisturbed; then it dies (SIGKILL) at each
of them in a fresh spool and is run again. Afterwards there is one copy of the job in the right
directory, the product and the manifests are those of the undisturbed run, the number of tries is
right, and no temporary and no lock is left.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import Any

import pytest
from bench import FILE_ID, JOB, WAY, Bench, digests, failures, job
from deaths import Case, with_torn_lines

from daqlib.crashpoints import POINTS
from harness import EPOCH, Daq, make_fits


@pytest.mark.parametrize("stage", WAY)
def test_a_stage_dies_and_is_run_again(
        bench: Bench, undisturbed: dict[str, Any], stage: str) -> None:
    bench.clear(f"at-{stage}")
    passed = bench.trace(stage)
    assert {"stage.claimed", "stage.started", "stage.worked", "stage.manifest", "stage.committed",
            "stage.logged"} <= {point for point, _ in passed}
    cases = [Case(stage, passed, *pair) for pair in with_torn_lines(passed)]
    wrong = failures([(f"{c.point}:{c.number}", lambda c=c: c.check(bench, undisturbed))
                      for c in cases])
    assert not wrong, f"{len(wrong)} of {len(cases)} cases\n" + "\n".join(wrong)


def test_a_submission_dies_and_is_repeated(bench: Bench, undisturbed: dict[str, Any]) -> None:
    bench.clear()
    passed = bench.trace("start")
    assert {"submit.reserved", "submit.queued"} <= {point for point, _ in passed}
    queued = passed.index([p for p in passed if p[0] == "put.renamed"][-1])

    def check(point: str, number: int) -> None:
        bench.clear()
        bench.run("start", DAQ_CRASH=f"{point}:{number}").died(signal.SIGKILL)
        there = {"collect": [f"{JOB}.json"]} if passed.index((point, number)) >= queued else {}
        assert bench.tree() == there, "after the death"
        assert bench.run("start").ok().line() == JOB
        assert bench.tree() == {"collect": [f"{JOB}.json"]}, "after the second submission"
        owners = [p.read_text() for p in (bench.spool / "log").glob(".file-*")]
        assert owners == [JOB], "file ids reserved"
        bench.finish("collect")
        assert bench.picture() == undisturbed

    wrong = failures([(f"{p}:{n}", lambda p=p, n=n: check(p, n)) for p, n in passed])
    assert not wrong, f"{len(wrong)} of {len(passed)} cases\n" + "\n".join(wrong)


def test_a_submission_without_an_id_leaves_a_whole_job_or_none(bench: Bench) -> None:
    document = job(bench.folder)
    del document["id"], document["fileId"]
    (bench.folder / "nameless.json").write_text(json.dumps(document))

    def submit(**env: str) -> Any:
        return bench.forge.run(bench.spool, "daq-start", f"@{bench.folder}/nameless.json", env=env)

    for number in range(1, 5):
        for point in ("put.written", "put.renamed"):
            bench.clear()
            submit(DAQ_CRASH=f"{point}:{number}").died(signal.SIGKILL)
            left = bench.tree().get("collect", [])
            made = submit().ok().line()
            assert sorted(bench.tree()["collect"]) == sorted([*left, f"{made}.json"])
            bench.forge.run(bench.spool, "daq-collect", "--all").ok()
            assert sorted(bench.tree()["merge"]) == sorted([*left, f"{made}.json"])
            assert bench.temporaries() == []


def test_every_crash_point_is_passed_somewhere(bench: Bench) -> None:
    bench.clear()
    passed = {point for tool in ("start", *WAY) for point, _ in with_torn_lines(bench.trace(tool))}
    # those of daq-ctl, merges into the target, copies for receivers, two hosts and
    # pruning have tests of their own
    assert passed == {point for point in POINTS if not point.startswith(
        ("acquire.", "inplace.", "undo.", "deliver.copied", "handover.", "import.",
         "prune."))}


def test_a_retry_at_another_time_takes_over_the_published_product(bench: Bench) -> None:
    """The header's time of the second try is another; the product of the first one counts."""
    bench.clear("at-merge")
    bench.run("merge", DAQ_CRASH="publish.renamed").died(signal.SIGKILL)
    first = digests(bench.spool / "result")
    bench.run("merge", SOURCE_DATE_EPOCH=str(EPOCH + 3600)).ok()
    assert digests(bench.spool / "result") == first
    bench.run("release").ok()
    assert list(digests(bench.folder / "archive").values()) == list(first.values())


def test_a_retry_at_another_time_builds_anew_what_was_not_published(bench: Bench) -> None:
    bench.clear("at-merge")
    bench.run("merge", DAQ_CRASH="publish.sealed").died(signal.SIGKILL)
    assert bench.temporaries()
    bench.run("merge", SOURCE_DATE_EPOCH=str(EPOCH + 3600)).ok()
    assert bench.temporaries() == []
    assert len(digests(bench.spool / "result")) == 1
    bench.run("release").ok()


def test_deaths_use_up_the_tries(bench: Bench) -> None:
    """A job that kills its worker each time ends in failed/ and says so."""
    bench.clear("at-merge")
    for number in range(1, 6):
        bench.run("merge", DAQ_CRASH="stage.started").died(signal.SIGKILL)
        assert bench.starts("merge") == number
    bench.run("merge").fails(65, JOB, "given up after 5 tries", "mv failed/")
    assert bench.tree() == {"failed": [f"{JOB}.json"]}
    shutil.move(bench.spool / "failed" / f"{JOB}.json", bench.spool / "merge" / f"{JOB}.json")
    bench.run("merge").ok()


def test_dies_twice_in_a_row(bench: Bench, undisturbed: dict[str, Any]) -> None:
    bench.clear("at-merge")
    for point in ("publish.renamed", "stage.worked", "stage.manifest", "move.begin"):
        bench.run("merge", DAQ_CRASH=point).died(signal.SIGKILL)
    bench.finish("merge")
    assert bench.picture() == undisturbed
    assert bench.starts("merge") == 3


BLACK_BOX = [("start", "submit.reserved", 1), ("collect", "stage.started", 1),
             ("collect", "put.synced", 2), ("merge", "publish.renamed", 1),
             ("merge", "append.torn", 2), ("release", "stage.committed", 1)]


@pytest.mark.parametrize(("tool", "point", "number"), BLACK_BOX)
def test_the_real_tools_die_and_go_on(daq: Daq, tool: str, point: str, number: int) -> None:
    folder = daq.folder
    make_fits(folder / "a.fits", 2)
    make_fits(folder / "b.fits", 1)
    (folder / "archive").mkdir()
    (folder / "job.json").write_text(json.dumps(job(folder)))
    words = {name: ["--job", JOB] for name in WAY} | {"start": [f"@{folder}/job.json"]}
    for name in ("start", *WAY):
        if name == tool:
            crash = {"DAQ_CRASH": f"{point}:{number}"}
            daq.run(f"daq-{name}", *words[name], env=crash).died(signal.SIGKILL)
        if (name, point) == ("release", "stage.committed"):
            break
        daq.run(f"daq-{name}", *words[name]).ok()
    assert daq.tree() == {"done": [JOB]}
    assert daq.results() == [f"T_{FILE_ID}.fits"]
    assert os.listdir(folder / "archive") == [f"{FILE_ID}.fits"]

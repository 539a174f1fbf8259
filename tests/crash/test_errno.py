"""The errno matrix: every durable step fails with every plausible error, and a person can mend it.

One clear line, the right exit code, no traceback, one copy of the job; without the fault the next
run brings the same bytes as an undisturbed one. Full disks are also tested for real, on a tmpfs.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench import JOB, NEXT, WAY, Bench, failures, job

from harness import Daq, make_fits

CODES = {"ENOSPC": 75, "EDQUOT": 75, "EIO": 74, "EACCES": 77, "EROFS": 77}


def mend(bench: Bench, stage: str) -> str:
    """Do what the error line says: move the job back when it failed; return where it is."""
    tree = bench.tree()
    assert sum(map(len, tree.values())) == 1, f"copies of the job: {tree}"
    place = next(iter(tree))
    if place == "failed":
        os.rename(bench.spool / "failed" / f"{JOB}.json", bench.spool / stage / f"{JOB}.json")
        return stage
    assert place in (stage, NEXT[stage])
    return place


@pytest.mark.parametrize("errno", ["ENOSPC", "EIO", "EACCES"])
@pytest.mark.parametrize("stage", WAY)
def test_a_step_of_a_stage_fails(
        bench: Bench, undisturbed: dict[str, Any], stage: str, errno: str) -> None:
    bench.clear(f"at-{stage}")
    # what fails at a receiver is an alert, and no failure of the stage
    passed = [each for each in bench.trace(stage) if not each[0].startswith("deliver.")]

    def check(point: str, number: int) -> None:
        bench.clear(f"at-{stage}")
        told = bench.run(stage, DAQ_FAULT=f"{point}={errno}:{number}")
        told.fails(CODES[errno], os.strerror(getattr(__import__("errno"), errno)),
                   chatty=stage == "release")
        assert bench.locks() == []
        place = mend(bench, stage)
        if place == stage:
            bench.run(stage).ok()
        if stage != "release":
            bench.finish(NEXT[stage])
        assert bench.picture() == undisturbed

    wrong = failures([(f"{p}:{n}", lambda p=p, n=n: check(p, n)) for p, n in passed])
    assert not wrong, f"{len(wrong)} of {len(passed)} cases\n" + "\n".join(wrong)


@pytest.mark.parametrize("errno", ["EDQUOT", "EROFS"])
def test_a_submission_fails(bench: Bench, undisturbed: dict[str, Any], errno: str) -> None:
    bench.clear()
    passed = bench.trace("start")

    def check(point: str, number: int) -> None:
        bench.clear()
        bench.run("start", DAQ_FAULT=f"{point}={errno}:{number}").fails(CODES[errno]).no_output()
        assert bench.run("start").ok().line() == JOB
        assert bench.tree() == {"collect": [f"{JOB}.json"]}
        bench.finish("collect")
        assert bench.picture() == undisturbed

    wrong = failures([(f"{p}:{n}", lambda p=p, n=n: check(p, n)) for p, n in passed])
    assert not wrong, f"{len(wrong)} of {len(passed)} cases\n" + "\n".join(wrong)


def test_a_failed_try_is_told_in_the_log_and_waits(bench: Bench) -> None:
    """What waiting may mend is deferred, what it cannot mend lies in failed/ with the reason."""
    bench.clear("at-merge")
    bench.run("merge", DAQ_FAULT="publish.sealed=ENOSPC").fails(75, "free some space", "next try")
    event = bench.events()[-1]
    assert (event["event"], event["stage"], event["try"]) == ("defer", "merge", 1)
    assert "No space left" in event["reason"]
    due = (bench.spool / "merge" / f"{JOB}.json").stat().st_mtime
    assert due == pytest.approx(event["until"], abs=0.01)
    bench.run("merge", DAQ_FAULT="publish.sealed=EIO").fails(74, "mv failed/")
    event = bench.events()[-1]
    assert (event["event"], event["code"]) == ("fail", 74)
    assert bench.tree() == {"failed": [f"{JOB}.json"]}


def test_no_space_while_the_try_cannot_be_recorded(bench: Bench) -> None:
    """A start that cannot be logged does not happen."""
    bench.clear("at-collect")
    bench.run("collect", DAQ_FAULT="append.begin=ENOSPC").fails(75)
    assert not (bench.spool / "data" / JOB).exists()
    assert bench.starts("collect") == 0


# -- a real full disk ------------------------------------------------------------------------------


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small memory file system, or skip with the reason."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def configure(daq: Daq, floor: int = 0) -> None:
    path = daq.folder / "daq.yaml"
    path.write_text(f"cfg:\n  floor: {{spool_bytes: {floor}, result_bytes: {floor}}}\n")
    daq.env["DAQ_CONFIG"] = str(path)


def submit(daq: Daq, **more: object) -> None:
    for name, extensions in (("a", 2), ("b", 1)):
        make_fits(daq.folder / f"{name}.fits", extensions, name=name.upper())
    (daq.folder / "archive").mkdir()
    (daq.folder / "job.json").write_text(json.dumps(job(daq.folder, **more)))
    daq.run("daq-start", f"@{daq.folder}/job.json").ok()


def test_the_product_does_not_fit(daq: Daq) -> None:
    """The header is larger than what the preflight could know; then there is more room."""
    configure(daq)
    submit(daq, keywords=[{"type": "literalKeyword", "value": "COMMENT x"}] * 5000)
    daq.run("daq-collect", "--job", JOB).ok()
    collected = json.loads((daq.spool / "data" / JOB / "collect.json").read_text())
    size = sum(output["size"] for output in collected["outputs"])
    with tmpfs(daq.spool / "result", f"size={size + 4096}") as result:
        daq.run("daq-merge", "--job", JOB).fails(75, JOB, "No space left", "free some space")
        assert os.listdir(result) == []
        assert daq.tree() == {"merge": [JOB]}
        assert daq.events(JOB)[-1] == "defer"
        subprocess.run(["mount", "-o", "remount,size=8m", str(result)], check=True)
        daq.run("daq-merge", "--job", JOB).ok()
        assert len(daq.results()) == 1
        on_tmpfs = (result / daq.results()[0]).read_bytes()
        daq.run("daq-release", "--job", JOB).ok()
    (delivered,) = (daq.folder / "archive").iterdir()
    assert (delivered.is_symlink() or delivered.read_bytes() == on_tmpfs)
    assert daq.tree() == {"done": [JOB]}


def test_no_room_for_one_more_file(daq: Daq) -> None:
    configure(daq)
    submit(daq)
    daq.run("daq-collect", "--job", JOB).ok()
    with tmpfs(daq.spool / "result", "size=8m,nr_inodes=1") as result:
        daq.run("daq-merge", "--job", JOB).fails(75, "No space left")
        assert os.listdir(result) == []
    daq.run("daq-merge", "--job", JOB).ok()


def test_the_whole_spool_is_full(daq: Daq) -> None:
    """Nothing starts, nothing is lost, moving still works; with space it goes on."""
    configure(daq)
    with tmpfs(daq.folder / "small", "size=4m") as small:
        daq.spool = daq.env["DAQ_SPOOL"] = small / "spool"  # type: ignore[assignment]
        daq.env["DAQ_SPOOL"] = str(daq.spool)
        submit(daq)
        ballast = small / "ballast"
        for stage in WAY:
            with open(ballast, "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass
            before = (daq.spool / "log" / f"{JOB}.jsonl").read_bytes()
            told = daq.run(f"daq-{stage}", "--job", JOB).fails(75, JOB)
            assert "No space left" in told.err or " free" in told.err, told
            after = (daq.spool / "log" / f"{JOB}.jsonl").read_bytes()
            assert after.startswith(before)
            assert daq.tree() == {stage: [JOB]}
            os.rename(daq.spool / stage / f"{JOB}.json", daq.spool / "hold" / f"{JOB}.json")
            os.rename(daq.spool / "hold" / f"{JOB}.json", daq.spool / stage / f"{JOB}.json")
            ballast.unlink()
            daq.run(f"daq-{stage}", "--job", JOB).ok()
        assert daq.tree() == {"done": [JOB]}
        assert [json.loads(line) for line in after.splitlines()]
        assert len(daq.results()) == 1


def test_below_the_floor_nothing_begins(daq: Daq) -> None:
    configure(daq, floor=1 << 50)
    submit(daq)
    daq.run("daq-collect", "--job", JOB).fails(75, "bytes are free", "free some space")
    assert daq.events(JOB) == ["submitted"]


def test_a_directory_that_may_not_be_written(daq: Daq) -> None:
    """EACCES for real: takes a user who is not root."""
    submit(daq)
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (daq.spool / "data").chmod(0o555)
    daq.run("daq-collect", "--job", JOB).fails(77, "Permission denied", "check owner and mode")
    (daq.spool / "data").chmod(0o755)
    daq.run("daq-collect", "--job", JOB).ok()


def test_a_merge_that_fails_leaves_no_temporary(bench: Bench) -> None:
    """On a full disk a product that nobody will read must not stay."""
    for point in ("publish.sealed", "move.begin"):
        bench.clear("at-merge")
        bench.run("merge", DAQ_FAULT=f"{point}=ENOSPC").fails(75)
        assert bench.temporaries() == []

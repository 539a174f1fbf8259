"""An edit takes effect or is refused, wherever the job is put back; it is never half obeyed."""

from __future__ import annotations

import json
import os

from bench import JOB, Bench, job


def edit(bench: Bench, target: str) -> None:
    """Park a job, change its keywords, and give it back."""
    parked = bench.spool / "hold" / f"{JOB}.json"
    (place,) = bench.tree()
    os.rename(bench.spool / place / f"{JOB}.json", parked)
    text = job(bench.folder, keywords=[{"type": "esoKeyword", "name": "TEL EDIT", "value": 4711}])
    parked.write_text(json.dumps(text))
    os.rename(parked, bench.spool / target / f"{JOB}.json")


def product(bench: Bench) -> bytes:
    return b"".join(path.read_bytes() for path in (bench.spool / "result").glob("[!.]*"))


def test_an_edited_job_put_back_to_the_start(bench: Bench) -> None:
    bench.clear("at-merge")
    edit(bench, "collect")
    bench.finish("collect")
    assert b"HIERARCH ESO TEL EDIT" in product(bench)


def test_an_edited_job_put_back_to_merge_goes_back_to_collect(bench: Bench) -> None:
    bench.clear("at-merge")
    edit(bench, "merge")
    bench.run("merge").fails(75, "moved back to collect/")
    assert bench.tree() == {"collect": [f"{JOB}.json"]}
    assert product(bench) == b""
    bench.finish("collect")
    assert b"HIERARCH ESO TEL EDIT" in product(bench)


def test_new_receivers_take_effect_in_release(bench: Bench) -> None:
    bench.clear("at-release")
    parked = bench.spool / "release" / f"{JOB}.json"
    other = bench.folder / "other"
    other.mkdir(exist_ok=True)
    parked.write_text(json.dumps(job(bench.folder, receivers=[
        {"type": "olasReceiver", "path": str(other)}])))
    bench.run("release").ok()
    assert len(os.listdir(other)) == 1
    assert os.listdir(bench.folder / "archive") == []

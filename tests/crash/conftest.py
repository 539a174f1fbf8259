"""Fixtures of the crash tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# the vocabulary of these tests lies beside them
sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench import FILE_ID, JOB, NEXT, WAY, Bench, job  # noqa: E402
from forge import Forge  # noqa: E402

from harness import make_fits  # noqa: E402


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """Runs tools in forked children of one process that has everything imported."""
    with Forge(tmp_path_factory.mktemp("forge")) as made:
        yield made


@pytest.fixture(scope="module")
def bench(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("matrix")
    made = Bench(forge, folder)
    for name, extensions in (("a", 2), ("b", 1)):
        make_fits(folder / f"{name}.fits", extensions, cards={"OBJECT": name}, name=name.upper())
    (folder / "job.json").write_text(json.dumps(job(folder)))
    made.clear()
    made.run("start").ok()
    made.save("at-collect")
    for stage in WAY:
        made.run(stage).ok()
        made.save(f"at-{NEXT[stage]}")
    return made


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> dict[str, Any]:
    """The picture of a run in which nobody died."""
    bench.clear()
    bench.run("start").ok()
    bench.finish("collect")
    made = bench.picture()
    assert made["tree"] == {"done": [f"{JOB}.json"]}
    assert list(made["result"]) == [f"T_{FILE_ID}.fits"]
    assert list(made["archive"]) == [f"{FILE_ID}.fits"]
    assert made["locks"] == made["temporaries"] == []
    return made

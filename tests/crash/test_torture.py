"""Torture: whatever is killed at random, whatever an operator does by the rules: nothing is lost.

Seeded, though the scheduler has its say as well: ``DAQ_TORTURE_SEED`` repeats the choices of a
run that failed, which names its seed. ``DAQ_TORTURE_S`` is how many seconds the longest run takes:
600 of them are 2000 jobs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import storm
from forge import Forge
from torturing import SEED, by_the_rules, reproducible, torture

from harness import Daq

#: Seconds of the longest run.
LONG_S = float(os.environ.get("DAQ_TORTURE_S", "60"))
JOBS_A_SECOND = 2000 / 600


def test_nothing_is_lost_or_doubled(forge: Forge, tmp_path: Path) -> None:
    reproducible(SEED, lambda: by_the_rules(forge, tmp_path, 16, 8.0, SEED))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEED + 1, SEED + 4))
def test_nothing_is_lost_or_doubled_for_longer(forge: Forge, tmp_path: Path, seed: int) -> None:
    reproducible(seed, lambda: by_the_rules(forge, tmp_path, 50, 40.0, seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_careless_edits_lose_nothing(forge: Forge, tmp_path: Path, seed: int) -> None:
    """Saving in live directories can bring a job that moved on to life again: to bad/ with it."""
    reproducible(seed, lambda: torture(forge, tmp_path, 24, 12.0, seed, careless=True))


# -- with a real watcher ---------------------------------------------------------------------------


def test_a_watcher_in_a_storm(daq: Daq, forge: Forge) -> None:
    made = reproducible(SEED, lambda: storm.rage(daq, forge, 12, 5.0, SEED))
    assert made.watched.kills["worker"] > 0 and made.watched.kills.total() > 3


@pytest.mark.slow
def test_a_watcher_in_a_long_storm(daq: Daq, forge: Forge) -> None:
    jobs = int(LONG_S * JOBS_A_SECOND)
    made = reproducible(SEED + 1, lambda: storm.rage(daq, forge, jobs, LONG_S, SEED + 1,
                                                     serve=True))
    assert min(made.watched.kills[kind] for kind in (
        "watcher", "worker", "nursery", "companion")) > LONG_S / 60

"""Each test is a sentence of the contract; the adapter is that of ``--daq-source``."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
from pathlib import Path

import pytest

from daq_ctl import sources
from daq_ctl.conformance.bench import PATIENCE_S, Bench, holdings, refusal, turning
from daq_ctl.sources import ABSENT, ENDED, FAILED, RECORDING, Lacking, Source
from daqlib import config, errors


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Return the source to try."""
    option = request.config.getoption
    if not option("--daq-source"):
        pytest.skip("say which source: --daq-source=URI")
    file = option("--daq-source-config")
    return Bench(option("--daq-source-type"), option("--daq-source"),
                 json.loads(option("--daq-source-options")), tmp_path, config.load(file), file,
                 option("--daq-source-feeder") or "", option("--daq-source-ends"))


# -- before anything records ----------------------------------------------------------------------


def test_an_unknown_option_is_refused_and_nothing_was_done(bench: Bench) -> None:
    order = bench.order(**{"no-such-option": 1})
    with pytest.raises(errors.BadData) as caught:
        sources.make(order)
    assert "no-such-option" in caught.value.message and "'source'" in caught.value.message
    assert caught.value.remedy
    assert not os.path.lexists(order.folder), "it wrote something"


def test_to_make_one_does_nothing(bench: Bench) -> None:
    async def trial() -> None:
        order = bench.order()
        before = holdings()
        made = [sources.make(order) for _ in range(2)]
        assert not _more(before, holdings())
        assert not os.path.lexists(order.folder), "it wrote something"
        assert made[0].endpoint == made[1].endpoint
        assert made[0].endpoint and made[0].endpoint.isprintable()
    bench.run(trial)


def test_a_recording_that_never_began_is_absent(bench: Bench) -> None:
    async def trial() -> None:
        source = sources.make(bench.order())
        assert await source.status() == ABSENT
        assert not source.progress()
        await source.close()
    bench.run(trial)


def test_an_abort_is_harmless_when_nothing_records(bench: Bench) -> None:
    async def trial() -> None:
        source = sources.make(bench.order())
        for _ in range(2):
            await source.abort()
        await source.prepare()
        await source.abort()
        assert await source.status() != RECORDING
        await source.close()
    bench.run(trial)


def test_a_stop_is_refused_when_nothing_records(bench: Bench) -> None:
    async def trial() -> None:
        source = sources.make(bench.order())
        assert await refusal(source.stop(0))
        await source.close()
    bench.run(trial)


# -- a life ---------------------------------------------------------------------------------------


def test_it_records_from_start_to_stop(bench: Bench) -> None:
    async def trial() -> None:
        with turning():
            async with bench.recording() as source:
                assert await source.status() == RECORDING
                await bench.feed(source)
                await bench.stop(source)
                assert await source.status() in (ENDED, ABSENT)
    bench.run(trial)


def test_wait_tells_in_time_that_it_records(bench: Bench) -> None:
    async def trial() -> None:
        async with bench.recording() as source:
            async with asyncio.timeout(PATIENCE_S):
                assert await source.wait(0.2) is False
            assert await source.status() == RECORDING
    bench.run(trial)


def test_a_stop_can_be_repeated(bench: Bench) -> None:
    async def trial() -> None:
        order = bench.order()
        async with bench.recording(order) as source:
            await bench.feed(source)
            made = await bench.stop(source)
            assert await source.stop(PATIENCE_S) == made
        later = sources.make(order)
        assert await later.stop(PATIENCE_S) == made
        await later.close()
    bench.run(trial)


def test_it_ends_by_itself(bench: Bench) -> None:
    if bench.ends is None or not bench.primary:
        pytest.skip("it does not end by itself; if it does: --daq-source-ends=SECONDS")

    async def trial() -> None:
        async with bench.recording() as source:
            await bench.feed(source)
            async with asyncio.timeout((bench.ends or 0) + PATIENCE_S):
                while not await source.wait(1.0):
                    pass
            assert await source.status() == ENDED
            assert await source.wait(PATIENCE_S) is True
            await bench.stop(source)
    bench.run(trial)


def test_pause_is_harmless_or_lacking(bench: Bench) -> None:
    async def trial() -> None:
        async with bench.recording() as source:
            try:
                for act in (source.pause, source.pause, source.resume, source.resume):
                    await act()
            except Lacking:
                pass
            assert await source.status() == RECORDING
            await bench.feed(source)
            await bench.stop(source)
    bench.run(trial)


def test_progress_is_sane(bench: Bench) -> None:
    async def trial() -> None:
        async with bench.recording() as source:
            told = source.progress()
            assert told is None or all(math.isfinite(each) and each >= 0 for each in told)
            assert told is None or told[0] <= told[1]
    bench.run(trial)


def test_close_leaves_the_recording_alone(bench: Bench) -> None:
    async def trial() -> None:
        order = bench.order()
        async with bench.recording(order) as source:
            for _ in range(2):
                await source.close()
        later = sources.make(order)
        assert await later.status() == RECORDING
        await bench.feed(later)
        await bench.stop(later)
        await later.close()
    bench.run(trial)


def test_nothing_is_left_running(bench: Bench) -> None:
    async def life() -> None:
        async with bench.recording() as source:
            await bench.feed(source)
            await source.wait(0.1)
            await source.stop(PATIENCE_S)
        async with bench.recording() as source:
            await source.abort()

    async def trial() -> None:
        await life()  # loads modules and the like
        before = await _settled(dict.fromkeys(holdings(), 0))
        for _ in range(2):
            await life()
        more = _more(before, await _settled(before))
        assert not more, f"before, and now: {more}"
    bench.run(trial)


def _more(before: dict[str, int], now: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {what: (count, now[what]) for what, count in before.items() if now[what] > count}


async def _settled(wanted: dict[str, int]) -> dict[str, int]:
    """Return what the process holds when that is no more than wanted, or after a while."""
    for _ in range(100):
        gc.collect()
        now = holdings()
        if not _more(wanted, now):
            break
        await asyncio.sleep(0.02)
    return now


# -- abort ----------------------------------------------------------------------------------------


def test_abort_ends_it_and_can_be_repeated(bench: Bench) -> None:
    async def trial() -> None:
        order = bench.order()
        async with bench.recording(order) as source:
            with turning():
                for _ in range(2):
                    await source.abort()
            assert await source.status() in (ABSENT, FAILED)
        later = sources.make(order)
        await later.abort()
        assert await later.status() in (ABSENT, FAILED)
        await later.close()
        async with bench.recording() as source:  # the next one
            assert await source.status() == RECORDING
    bench.run(trial)


# -- a method that is cancelled -------------------------------------------------------------------


async def _cancelled(task: asyncio.Task[object]) -> None:
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])


def test_a_wait_that_is_cancelled_leaves_the_recording(bench: Bench) -> None:
    async def trial() -> None:
        async with bench.recording() as source:
            for _ in range(2):
                await _cancelled(asyncio.create_task(source.wait(PATIENCE_S)))
            assert await source.status() == RECORDING
            await bench.feed(source)
            await bench.stop(source)
    bench.run(trial)


def test_a_stop_that_is_cancelled_can_be_repeated(bench: Bench) -> None:
    async def trial() -> None:
        async with bench.recording() as source:
            await bench.feed(source)
            await _cancelled(asyncio.create_task(source.stop(PATIENCE_S)))
            assert await source.status() in (RECORDING, ENDED)
            await bench.stop(source)
    bench.run(trial)


# -- after kill -9 of the daemon ------------------------------------------------------------------


def test_killed_before_the_start_nothing_records(bench: Bench) -> None:
    async def trial() -> None:
        order = bench.order()
        async with bench.killed(order, "prepare"):
            source = sources.make(order)
            assert await source.status() in (ABSENT, FAILED)
            await source.abort()
            await source.close()
    bench.run(trial)


def test_killed_while_it_records_a_later_daemon_goes_on(bench: Bench) -> None:
    async def trial() -> None:
        order = bench.order()
        async with bench.killed(order, "prepare", "start"):
            source = sources.make(order)
            assert await source.status() == RECORDING
            assert await source.wait(0.1) is False
            await bench.feed(source)
            await bench.stop(source)
            await source.close()
    bench.run(trial)


def test_killed_while_it_records_a_later_daemon_stops_at_once(bench: Bench) -> None:
    async def trial() -> None:
        order = bench.order()
        async with bench.killed(order, "prepare", "start"):
            source = sources.make(order)
            await bench.feed(source)
            await bench.stop(source)
            await source.close()
    bench.run(trial)


def test_killed_while_it_records_a_later_daemon_aborts(bench: Bench) -> None:
    async def trial() -> None:
        order = bench.order()
        async with bench.killed(order, "prepare", "start"):
            source = sources.make(order)
            await source.abort()
            assert await source.status() in (ABSENT, FAILED)
            await source.close()
    bench.run(trial)


# -- somebody else's recording --------------------------------------------------------------------


def test_another_job_does_not_touch_the_recording(bench: Bench) -> None:
    async def trial() -> None:
        async with bench.recording() as ours:
            other = sources.make(bench.order())
            assert await other.status() == ABSENT
            await other.abort()
            await _begin_or_be_refused(other)
            await other.abort()
            await other.close()
            assert await ours.status() == RECORDING
            await bench.feed(ours)
            await bench.stop(ours)
    bench.run(trial)


async def _begin_or_be_refused(source: Source) -> None:
    """A source that can record for several jobs may begin; another has to say why not."""
    try:
        await source.prepare()
        await source.start()
    except errors.DaqError as error:
        assert error.message.isprintable()


# -- the delivery ---------------------------------------------------------------------------------


def test_what_it_brings_outlives_the_adapter(bench: Bench) -> None:
    async def trial() -> None:
        async with bench.recording() as source:
            await bench.feed(source)
            made = await bench.stop(source)
        bench.check(made)
    bench.run(trial)

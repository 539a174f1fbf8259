"""What a metadata source of named values does between start and stop, with a source of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daq_ctl.sources import ABSENT, ENDED, RECORDING, Order, sampled
from daq_ctl.sources.readings import Reading
from daq_ctl.sources.sampled import Sampled
from daqlib import clock, errors
from harness import PATIENCE_S


class World:
    """What the source is about; it outlives the daemon."""

    def __init__(self) -> None:
        self.values: dict[str, Reading] = {"t": Reading(10.0, "", "K"), "p": Reading(1000)}
        self.fault = ""
        self.listening: list[Scripted] = []
        self.limits: list[float] = []

    def set(self, item: str, reading: Reading) -> None:
        self.values[item] = reading
        for each in self.listening:
            each.heard(item, reading)

    def fall(self) -> None:
        self.fault = "it is switched off"
        for each in [*self.listening]:
            each.lost(self.fault)


class Scripted(Sampled):
    """Reads a world."""

    member = "item"
    world: World

    async def read(self, items: list[str], limit: float) -> dict[str, Reading]:
        self.world.limits.append(limit)
        self._check()
        return {item: self.world.values[item] for item in items if item in self.world.values}

    def _check(self) -> None:
        if self.world.fault:
            raise errors.Unavailable(self.world.fault, "switch it on")

    async def listen(self, items: list[str], limit: float) -> None:
        self._check()
        self.world.listening.append(self)
        for item, reading in (await self.read(items, 1.0)).items():
            self.heard(item, reading)

    async def hang_up(self) -> None:
        if self in self.world.listening:
            self.world.listening.remove(self)


class Aging(Scripted):
    """Knows the age of what it listens to only."""

    ages_by_hearing = True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_KEEP_S", "_AGAIN_S"):
        monkeypatch.setattr(sampled, name, 0.01)


Make = Callable[..., Scripted]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def make(tmp_path: Path, world: World) -> Make:
    folder = tmp_path / "data" / "j" / "live"
    folder.parent.parent.mkdir()

    def made(*rows: dict[str, Any], kind: type[Scripted] = Scripted,
             **options: Any) -> Scripted:
        description = {"type": "metadataSource", "sourceName": "m", "rrUri": "scripted:",
                       "options": {"keywords": list(rows), **options}}
        source = kind(Order(description, "j", 5.0, str(folder / "m")))
        source.world = world
        return source
    return made


T = {"item": "t", "keyword": "T"}
P = {"item": "p", "keyword": "P", "when": "end"}
OVER = {"item": "t", "keyword": "T{when}", "when": ["mean", "min", "max"]}


def values(keywords: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["name"]: each["value"] for each in keywords}


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def status(source: Scripted) -> str:
    try:
        return await source.status()
    except errors.Unavailable as error:
        return error.message


def test_nothing_to_record_is_refused(make: Make) -> None:
    with pytest.raises(errors.BadData, match="keywords: there are none"):
        make()


def test_start_and_end(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(T, {"item": "t", "keyword": "TEND", "when": "end"}, P)
        assert await source.status() == ABSENT
        await source.start()
        assert await source.status() == RECORDING
        world.values |= {"t": Reading(12.0, "", "K"), "p": Reading(1001)}
        made = await source.stop(30.0)
        assert values(made.keywords) == {"T": 10.0, "TEND": 12.0, "P": 1001}
        assert made.keywords[0]["comment"] == "[K]" and made.remarks == []
        assert await source.status() == ENDED
        world.fall()
        assert await source.stop(30.0) == made
        assert await make(T).stop(0) == made  # of a new daemon as well
        assert len(world.limits) == 2
    asyncio.run(run())


def test_a_forced_stop_does_not_wait_long(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(P)
        await source.start()
        await source.stop(0.0)
        assert world.limits[1] == 1.0
    asyncio.run(run())


def test_all_that_a_start_waits_for_together_leaves_time_to_answer(
        make: Make, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an optional source nobody waits for an answer longer than the limit for a reply, 5 s."""
    now = 1000.0
    monkeypatch.setattr(sampled.time, "monotonic", lambda: now)

    class Slow(Scripted):
        async def settle(self, limit: float) -> None:
            self.takes(limit)

        async def read(self, items: list[str], limit: float) -> dict[str, Reading]:
            self.takes(limit)
            return await super().read(items, limit)

        async def listen(self, items: list[str], limit: float) -> None:
            self.takes(limit)

        def takes(self, limit: float) -> None:
            nonlocal now
            now += limit

    async def run() -> None:
        source = make(OVER, {"item": "gone", "keyword": "GONE"}, kind=Slow)
        await source.start()
        assert now < 1004.9
        began = now
        assert set(values((await source.stop(30.0)).keywords)) == {"TMEAN", "TMIN", "TMAX"}
        assert now < began + 4.9
    asyncio.run(run())


def test_a_good_bye_that_hangs_does_not_cost_what_was_read(make: Make, world: World) -> None:
    class Clinging(Scripted):
        timeout = 0.1

        async def hang_up(self) -> None:
            await asyncio.Event().wait()

    async def run() -> None:
        source = make(OVER, kind=Clinging)
        await source.start()
        made = await source.stop(30.0)
        assert values(made.keywords)["TMEAN"] == 10.0
    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_what_is_only_of_the_start_is_not_read_again(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(T)
        await source.start()
        world.fault = "off"
        made = await source.stop(30.0)
        assert (values(made.keywords), made.remarks) == ({"T": 10.0}, [])
    asyncio.run(run())


def test_over_the_exposure(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(OVER)
        await source.start()
        for value in (30.0, -5.0, 20.0):
            world.set("t", Reading(value))
        made = await source.stop(30.0)
        found = values(made.keywords)
        assert (found["TMIN"], found["TMAX"]) == (-5.0, 30.0)
        assert -5.0 <= found["TMEAN"] <= 30.0
        assert (made.remarks, world.listening) == ([], [])
    asyncio.run(run())


def test_an_alarm_in_between_is_told(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(OVER)
        await source.start()
        world.set("t", Reading(500.0, "ALERT"))
        world.set("t", Reading(20.0))
        made = await source.stop(30.0)
        assert values(made.keywords)["TMAX"] == 20.0
        assert {each["comment"] for each in made.keywords} == {"[K] ALERT"}
        assert len(made.remarks) == 3
    asyncio.run(run())


@pytest.mark.parametrize(("reading", "options", "said"), [
    (None, {}, "x has no value (ABSENT)"), (Reading(None, "INVALID"), {}, "INVALID"),
    (Reading(float("nan")), {}, "NO NUMBER"),
    (Reading(1.0, "ALERT"), {"flagged": "leave-out"}, "ALERT"),
    (Reading(1.0, time=1.0), {"flagged": "leave-out", "maxAge": 60}, "STALE")])
@pytest.mark.parametrize("when", ["start", "end", "mean"])
def test_without_what_is_required_nothing_starts(
        make: Make, world: World, reading: Reading | None, options: dict[str, Any], said: str,
        when: str) -> None:
    async def run() -> None:
        if reading:
            world.values["x"] = reading
        source = make(T, {"item": "x", "keyword": "X", "required": True, "when": when}, **options)
        with pytest.raises(errors.BadData, match="required") as caught:
            await source.start()
        assert said in caught.value.message
        assert await source.status() == ABSENT and world.listening == []
        await source.abort()
    asyncio.run(run())


def test_a_flagged_value_will_do_where_such_are_kept(make: Make, world: World) -> None:
    async def run() -> None:
        world.values["t"] = Reading(1.0, "ALERT")
        source = make({**T, "required": True})
        await source.start()
        made = await source.stop(30.0)
        assert made.keywords[0]["comment"] == "ALERT"
        assert made.remarks == ["T: t is flagged ALERT"]
    asyncio.run(run())


def test_flagged_values_may_be_left_out(make: Make, world: World) -> None:
    async def run() -> None:
        source = make({**P}, T, flagged="leave-out")
        await source.start()
        world.values["p"] = Reading(1.0, "ALERT")
        made = await source.stop(30.0)
        assert values(made.keywords) == {"T": 10.0}
        assert made.remarks == ["P is left out: p is flagged ALERT"]
    asyncio.run(run())


def test_what_is_gone_at_the_end_has_no_value_then(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(T, P, OVER)
        await source.start()
        del world.values["p"]
        made = await source.stop(30.0)
        assert "P" not in values(made.keywords)
        assert made.remarks == ["P is left out: p has no value (ABSENT)"]
    asyncio.run(run())


def test_a_source_that_is_off_at_the_end_gives_what_it_gave_before(
        make: Make, world: World) -> None:
    async def run() -> None:
        source = make(T, P, OVER)
        await source.start()
        world.fall()
        made = await source.stop(30.0)
        assert values(made.keywords) == {"T": 10.0, "TMEAN": 10.0, "TMIN": 10.0, "TMAX": 10.0}
        assert made.remarks[0] == "it could not be read at the end: it is switched off"
        assert "P is left out: p has no value (LOST)" in made.remarks
        assert made.keywords[1]["comment"] == "[K] LOST"
    asyncio.run(run())


def test_a_lost_connection_is_told_and_made_again(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(OVER)
        await source.start()
        world.fall()
        assert await status(source) == "it is switched off"
        await until(lambda: not world.listening)
        world.fault = ""
        world.values["t"] = Reading(40.0)
        await until(lambda: world.listening == [source])
        assert await status(source) == RECORDING
        world.set("t", Reading(50.0))
        made = await source.stop(30.0)
        assert values(made.keywords)["TMAX"] == 50.0
        assert "LOST" in made.keywords[0]["comment"]
    asyncio.run(run())


def test_a_new_daemon_goes_on(make: Make, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        first = make(T, P, OVER)
        await first.start()
        world.set("t", Reading(30.0))
        await until(lambda: first._memo.facts["spans"]["TMAX"]["most"] == 30.0)
        await first._unfollow()  # killed: it says and writes nothing any more
        world.listening.clear()
        world.values["t"] = Reading(20.0)
        jumped = clock.now() + 7.0
        monkeypatch.setattr(clock, "now", lambda: jumped)

        second = make({"item": "other", "keyword": "OTHER"})  # the table was changed meanwhile
        assert await second.status() == RECORDING
        await until(lambda: world.listening == [second])
        world.set("t", Reading(5.0))
        made = await second.stop(30.0)
        found = values(made.keywords)
        assert (found["T"], found["P"]) == (10.0, 1000)
        assert (found["TMIN"], found["TMAX"]) == (5.0, 30.0)
        assert "LOST, 7 s MISSING" in made.keywords[2]["comment"]
    asyncio.run(run())


def test_a_new_daemon_may_stop_at_once(make: Make, world: World) -> None:
    async def run() -> None:
        first = make(T, P, OVER)
        await first.start()
        await first._unfollow()
        made = await make(T, P, OVER).stop(30.0)
        assert set(values(made.keywords)) == {"T", "P", "TMEAN", "TMIN", "TMAX"}
    asyncio.run(run())


def test_who_never_started_has_nothing_to_stop(make: Make) -> None:
    async def run() -> None:
        source = make(T)
        with pytest.raises(errors.Unavailable, match="does not know"):
            await source.stop(30.0)
        await source.abort()
        await source.close()
    asyncio.run(run())


def test_an_abort_forgets_all(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(OVER)
        await source.start()
        folder = Path(source.order.folder)
        assert folder.is_dir()
        await source.abort()
        await source.abort()
        assert not folder.exists() and world.listening == []
        assert await source.status() == ABSENT
    asyncio.run(run())


def test_a_stop_that_is_cancelled_leaves_it_recording(make: Make, world: World) -> None:
    async def run() -> None:
        source = make(P, OVER)
        await source.start()
        gate = asyncio.Event()
        read = source.read

        async def slow(items: list[str], limit: float) -> dict[str, Reading]:
            await gate.wait()
            return await read(items, limit)
        source.read = slow  # type: ignore[method-assign]
        stop = asyncio.create_task(source.stop(30.0))
        await asyncio.sleep(0)
        assert await source.status() == RECORDING
        stop.cancel()
        await asyncio.wait([stop])
        gate.set()
        assert await source.status() == RECORDING
        world.set("t", Reading(77.0))
        await until(lambda: source._memo.facts["spans"]["TMAX"]["most"] == 77.0)
        made = await source.stop(30.0)
        assert values(made.keywords)["TMAX"] == 77.0
    asyncio.run(run())


def test_a_delivery_that_cannot_be_written_can_be_repeated(
        make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        source = make(T, OVER)
        await source.start()

        def full(_facts: dict[str, Any]) -> None:
            raise OSError(28, "No space left on device")
        with monkeypatch.context() as patch:
            patch.setattr(source._memo, "_write", full)
            with pytest.raises(OSError, match="No space"):
                await source.stop(30.0)
            assert await source.status() == RECORDING
        assert values((await source.stop(30.0)).keywords)["T"] == 10.0
    asyncio.run(run())


def test_a_disk_that_is_full_for_a_while_does_no_harm(
        make: Make, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        source = make(OVER)
        await source.start()
        tries = []

        def full(_facts: dict[str, Any]) -> None:
            tries.append(1)
            raise OSError(28, "No space left on device")
        with monkeypatch.context() as patch:
            patch.setattr(source._memo, "_write", full)
            await until(lambda: len(tries) > 2)
        world.set("t", Reading(33.0))
        await until(lambda: source._memo.facts["spans"]["TMAX"]["most"] == 33.0)
        await source.abort()
    asyncio.run(run())


@pytest.mark.parametrize(("seconds", "flag"), [(30.0, ""), (90.0, "STALE 90 s")])
def test_what_was_not_heard_of_for_long_is_stale(
        make: Make, world: World, seconds: float, flag: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        world.values["p"] = Reading(7, time=clock.now())
        source = make({**P, "maxAge": 60}, kind=Aging)
        await source.start()
        assert world.listening == [source]
        later = clock.now() + seconds
        monkeypatch.setattr(clock, "now", lambda: later)
        (made,) = (await source.stop(30.0)).keywords
        assert made.get("comment", "") == flag
    asyncio.run(run())

"""The feed of the daemons by itself: who waits is answered, and nobody has to wait for that."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daqlib import errors
from daqlib.feed import ACTIVE, Feed
from daqlib.spool import Spool
from harness import make_spool
from rpc_peers import until

CROWD = 1000


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    made = Spool(str(make_spool(tmp_path / "spool")), "test")
    Path(made.job_path("acquire", "j")).write_text("{}")
    made.log("j", "state", stage="acquire", substate="Acquiring")
    return made


@asynccontextmanager
async def followed(on: Spool) -> AsyncIterator[Feed]:
    feed = Feed(on, lambda status: None, lambda job, place: None, 60.0)
    feed.start()
    try:
        yield feed
    finally:
        feed.close()


def waiting(feed: Feed, count: int, substate: str, seconds: float = 30.0,
            ) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(feed.wait("j", "StateAcquiring", substate, seconds))
            for _ in range(count)]


def enter(on: Spool, feed: Feed, substate: str) -> None:
    on.log("j", "state", stage="acquire", substate=substate)
    feed.refresh("j")


def test_a_crowd_is_woken_bit_by_bit(on: Spool) -> None:
    async def run() -> None:
        async with followed(on) as feed:
            crowd = waiting(feed, CROWD, "Stopped")
            await asyncio.sleep(0)
            enter(on, feed, "Stopping")
            await asyncio.sleep(0)
            assert not any(task.done() for task in crowd)
            enter(on, feed, "Stopped")
            turns = 0
            while not all(task.done() for task in crowd):
                await asyncio.sleep(0)  # what others get
                turns += 1
            assert turns >= CROWD / 50
            assert {(task.result()[0]["substate"], task.result()[1]) for task in crowd} == {
                ("Stopped", True)}
            assert not feed._waiters
    asyncio.run(run())


def test_the_answer_is_that_of_the_moment(on: Spool) -> None:
    """What happens until it is their turn does not change it."""
    async def run() -> None:
        async with followed(on) as feed:
            crowd = waiting(feed, 100, "Stopping")
            await asyncio.sleep(0)
            enter(on, feed, "Stopping")
            enter(on, feed, "Stopped")
            Path(on.job_path("acquire", "j")).unlink()
            feed.refresh("j")
            assert {(now["substate"], answer) for now, answer in await asyncio.gather(*crowd)} == {
                ("Stopping", True)}
    asyncio.run(run())


def test_the_first_answer_counts(on: Spool) -> None:
    async def run() -> None:
        async with followed(on) as feed:
            crowd = [asyncio.create_task(feed.wait("j", "StateMerging", "", 30.0))
                     for _ in range(100)]
            await asyncio.sleep(0)
            on.move("j", "acquire", "merge")
            feed.refresh("j")  # several substates were passed
            assert {now["substate"] for now, _ in await asyncio.gather(*crowd)} == {"NotScheduled"}
    asyncio.run(run())


def test_who_is_answered_has_not_run_out_of_time(on: Spool) -> None:
    async def run() -> None:
        async with followed(on) as feed:
            crowd = waiting(feed, CROWD, "Stopped", 0.2)
            await asyncio.sleep(0.01)
            enter(on, feed, "Stopped")
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            end = loop.time() + 0.3
            while loop.time() < end:
                pass  # all their times run out before the rest is woken
            assert {answer for _, answer in await asyncio.gather(*crowd)} == {True}
    asyncio.run(run())


def test_some_leave_and_others_come_while_a_crowd_is_woken(on: Spool) -> None:
    async def run() -> None:
        async with followed(on) as feed:
            crowd = waiting(feed, 200, "Stopping")
            aborted = waiting(feed, 1, "Aborting")
            await asyncio.sleep(0)
            enter(on, feed, "Stopping")
            for task in crowd[::2]:
                task.cancel()
            late = waiting(feed, 50, "Stopped")
            answers = await asyncio.gather(*crowd, return_exceptions=True)
            assert sum(isinstance(answer, tuple) for answer in answers) == 100
            assert not any(task.done() for task in (*late, *aborted))
            enter(on, feed, "Stopped")
            assert {answer for _, answer in await asyncio.gather(*late)} == {True}
            assert not aborted[0].done()
            aborted[0].cancel()
            await asyncio.wait(aborted)
            assert not feed._waiters
            assert not feed._answered
    asyncio.run(run())


def test_who_waits_for_a_job_that_vanishes_learns_it(on: Spool) -> None:
    async def run() -> None:
        async with followed(on) as feed:
            crowd = waiting(feed, 100, "Stopped")
            await asyncio.sleep(0)
            Path(on.job_path("acquire", "j")).unlink()
            feed.refresh("j")
            answers = await asyncio.gather(*crowd, return_exceptions=True)
            assert all(isinstance(answer, errors.NoJob) for answer in answers)
            assert not feed._waiters
    asyncio.run(run())


def test_time_runs_out(on: Spool) -> None:
    async def run() -> None:
        async with followed(on) as feed:
            now, answer = await feed.wait("j", "StateAcquiring", "Stopped", 0.05)
            assert (now["substate"], answer) == ("Acquiring", None)
    asyncio.run(run())


def test_histories_are_kept_while_a_job_is_on_its_way_only(on: Spool) -> None:
    async def run() -> None:
        async with followed(on) as feed:
            assert set(on._readers) == {"j"}
            on.move("j", "acquire", "hold")
            feed.refresh("j")
            assert not on._readers
            assert [found["id"] for found in await feed.active()] == ["j"]
            on.move("j", "hold", "merge")
            feed.refresh("j")
            assert set(on._readers) == {"j"}
            on.move("j", "merge", "done")
            feed.refresh("j")
            assert not on._readers
            assert await feed.active() == []
    asyncio.run(run())


def test_one_odd_job_keeps_no_other_from_being_followed(
        on: Spool, caplog: pytest.LogCaptureFixture) -> None:
    for job in ("i", "k"):
        Path(on.job_path("merge", job)).write_text("{}")
        on.log(job, "start", stage="merge")
    told: list[str] = []

    def seen(job: str, _place: str) -> None:
        if job == "i":
            raise KeyError("substate")

    async def never() -> None:
        raise KeyError("before")

    async def run() -> None:
        feed = Feed(on, lambda status: told.append(status["id"]), seen, 0.01)
        feed.before_scanning = never
        feed.start()
        await until(lambda: "k" in told)
        on.move("k", "merge", "release")
        for _ in range(3):
            await feed._scan()
        assert feed._scanner and not feed._scanner.done()
        feed.close()

    asyncio.run(run())
    words = [record.getMessage() for record in caplog.records]
    assert [word for word in words if word.startswith("i: ")] == [  # once, not with every look
        "i: internal error: KeyError: 'substate'; report this"]
    assert "internal error; report this" in words


def pass_through(on: Spool, job: str) -> None:
    """Let a job come and go, quicker than anybody can look."""
    Path(on.job_path("collect", job)).write_text("{}")
    on.log(job, "submitted", stage="collect", fileId=job)
    for stage, target in (("collect", "merge"), ("merge", "release"), ("release", "done")):
        on.log(job, "start", stage=stage)
        on.move(job, stage, target)
        on.log(job, "ok", stage=stage, to=target)


@pytest.mark.parametrize("places", [ACTIVE, ("collect", "merge", "release")])
def test_what_came_and_went_between_two_looks_is_told(on: Spool, places: tuple[str, ...]) -> None:
    told: list[str] = []

    def publish(now: dict[str, Any]) -> None:
        if now["id"] == "k":
            told.append(f"{now['state']} {now['substate']}")

    async def run() -> None:
        pass_through(on, "earlier")
        await asyncio.sleep(0.005)  # times are in milliseconds
        feed = Feed(on, publish, lambda job, place: None, 60.0, places=places)
        feed.start()
        pass_through(on, "k")
        feed.refresh("k")  # a scan would not see it
        assert told == []
        await until(lambda: len(told) == 5)
        assert told == ["StateMerging NotScheduled", "StateMerging Collecting",
                        "StateMerging Merging", "StateMerging Releasing",
                        "StateCompleted Completed"]
        for job in ("k", "earlier"):
            feed.refresh(job, hinted=True)  # once is enough; what was before is no news
        on.move("k", "done", "merge")
        feed.refresh("k", hinted=True)
        assert told[5:] == ["StateMerging Merging"]  # it is done again
        feed.close()

    asyncio.run(run())


def test_only_the_jobs_of_its_places_are_told_of(on: Spool) -> None:
    told: list[str] = []

    async def run() -> None:
        feed = Feed(on, lambda now: told.append(now["id"]), lambda job, place: None, 60.0,
                    places=("collect", "failed"))
        feed.start()
        assert await feed.active() == []
        on.log("j", "state", stage="acquire", substate="Stopped")
        on.move("j", "acquire", "done")
        feed.refresh("j", hinted=True)
        on.move("j", "done", "collect")
        await until(lambda: told == ["j"])
        feed.close()

    asyncio.run(run())


def test_of_many_jobs_that_rest_a_scan_looks_at_some(on: Spool) -> None:
    for number in range(600):
        Path(on.job_path("merge", f"m{number:03}")).write_text("{}")
    looked: list[str] = []

    async def run() -> None:
        feed = Feed(on, lambda now: None, lambda job, place: looked.append(job), 60.0)
        feed.start()
        await until(lambda: feed._scanned)
        assert len(set(looked)) == 601
        assert feed._follower
        feed._follower.changed()  # no hint comes from now on
        told: set[str] = set()
        for _ in range(4):
            looked.clear()
            await feed._scan()
            assert len(looked) <= 201
            told |= set(looked)
        assert len(told) == 601  # in turn
        os.rename(on.job_path("merge", "m599"), on.job_path("release", "m599"))
        Path(on.job_path("merge", "new")).write_text("{}")
        feed._follower.changed()  # the hints are lost
        looked.clear()
        await feed._scan()
        assert {"m599", "new"} <= set(looked) and len(looked) <= 203
        assert {now["id"]: now["substate"] for now in await feed.active()}["m599"] == "Releasing"
        feed.close()

    asyncio.run(run())

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daqlib import abort, alerts, cli, config, errors, fsops, history, manifest, stage
from daqlib.spool import Spool
from daqlib.stage import Claim, Outcome, Stage
from harness import make_spool, wait_until

FILE = {"type": "fitsFile", "sourceName": "a", "location": "/data/a.fits"}
Work = Callable[[Claim], Outcome]


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    made = Spool(str(make_spool(tmp_path / "spool")), "test")
    drop(made)
    return made


def drop(on: Spool, place: str = "merge", name: str = "j", **more: Any) -> Path:
    path = Path(on.job_path(place, name))
    path.write_text(json.dumps({"sources": [FILE], **more}))
    return path


def settings(**more: Any) -> config.Config:
    return config.Config({**config.DEFAULTS, "limits.daq": 0, "floor.spool_bytes": 0, **more})


def write_output(claim: Claim) -> Outcome:
    path = os.path.join(claim.folder, "out")
    fsops.put(path, b"content")
    return Outcome([manifest.output(claim.folder, "out")], {"said": "done"})


def made(work: Work = write_output, preflight: Callable[[Claim], None] = lambda _: None,
         limits: Callable[[Claim], list[str]] = lambda _: [],
         extra: Callable[[Claim], dict[str, str]] = lambda _: {}) -> Stage:
    return Stage("merge", "collect", "release", work, preflight, limits, extra)


def failing(error: BaseException) -> Work:
    def work(_: Claim) -> Outcome:
        raise error

    return work


def advance(on: Spool, work: Work = write_output, *, force: bool = False, verify: bool = False,
            name: str = "j", limits: tuple[str, ...] = (), **more: Any) -> str:
    return stage.advance(made(work, limits=lambda _: list(limits)), on, settings(**more), name,
                         force=force, verify=verify)


def names(on: Spool, job: str = "j") -> list[str]:
    return [str(event["event"]) for event in on.events(job)]


def mtime(on: Spool, place: str = "merge") -> float:
    return os.stat(on.job_path(place, "j")).st_mtime


# -- the good way ----------------------------------------------------------------------------------


def test_works_and_moves_on(on: Spool) -> None:
    assert advance(on) == "release"
    assert on.places("j") == ["release"]
    assert names(on) == ["accepted", "start", "ok"]
    written = manifest.read(on.data_path("j", "merge.json"))
    assert written is not None
    assert written["result"] == {"said": "done"}
    assert written["inputs"]["job"] and written["inputs"]["collect"] == ""
    assert not on.is_busy("j")
    assert history.tries(on.events("j"), "merge") == 0


def test_a_manifest_that_still_holds_is_believed(on: Spool) -> None:
    advance(on)
    on.move("j", "release", "merge")
    assert advance(on, failing(AssertionError("worked again"))) == "release"
    assert names(on).count("start") == 1


@pytest.mark.parametrize("change", ["job", "previous", "extra", "output", "gone", "force",
                                    "verify"])
def test_a_manifest_that_no_longer_holds_is_not(on: Spool, change: str) -> None:
    advance(on)
    on.move("j", "release", "merge")
    out = Path(on.data_path("j", "out"))
    if change == "job":
        drop(on, filePrefix="x")
    elif change == "previous":
        Path(on.data_path("j", "collect.json")).write_text("{}")
    elif change == "output":
        out.write_bytes(b"changed size")
    elif change == "gone":
        out.unlink()
    elif change == "verify":
        status = out.stat()
        out.write_bytes(b"CONTENT")
        os.utime(out, ns=(status.st_atime_ns, status.st_mtime_ns))
    extra = {"more": "x"} if change == "extra" else {}
    worked: list[bool] = []

    def work(claim: Claim) -> Outcome:
        worked.append(claim.force)
        return write_output(claim)

    stage.advance(made(work, extra=lambda _: extra), on, settings(), "j", force=change == "force",
                  verify=change == "verify")
    assert worked == [change == "force"]
    assert names(on).count("start") == 2


def test_alerts_of_the_work_are_logged(on: Spool) -> None:
    advance(on, lambda _: Outcome(alerts=[alerts.make("datasum", "a", "damaged")]))
    (alert,) = alerts.active(on.events("j"), "release")
    assert (alert["id"], alert["severity"], alert["stage"]) == ("datasum:a", "error", "merge")


# -- claim -----------------------------------------------------------------------------------------


def test_a_job_at_work_is_for_later(on: Spool) -> None:
    fd = on.lock("j", "merge")
    with pytest.raises(errors.Later, match="somebody is at work") as caught:
        advance(on)
    assert caught.value.job == "j"
    assert fd is not None
    os.close(fd)
    assert advance(on) == "release"


def test_a_job_that_is_elsewhere(on: Spool) -> None:
    on.move("j", "merge", "hold")
    with pytest.raises(errors.NoJob, match="it is in hold/"):
        advance(on)
    with pytest.raises(errors.NoJob, match="the spool does not hold it"):
        advance(on, name="k")
    assert not os.path.exists(on.lock_path("k"))
    with pytest.raises(errors.BadData, match="not allowed"):
        advance(on, name="../merge/j")


@pytest.mark.parametrize("target", ["hold", "release", "collect"])
def test_a_job_that_goes_while_it_is_claimed(
        on: Spool, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Parked by the operator, or worked on by somebody who was faster."""
    real = Spool.lock

    def gone(self: Spool, job: str, stage: str) -> int | None:
        os.rename(self.job_path("merge", job), self.job_path(target, job))
        return real(self, job, stage)

    monkeypatch.setattr(Spool, "lock", gone)
    with pytest.raises(errors.NoJob, match=f"it is in {target}/"):
        advance(on)
    assert on.places("j") == [target]
    assert os.listdir(on.path("bad")) == []
    assert not on.is_busy("j")


def test_what_is_no_job_goes_to_bad(on: Spool) -> None:
    drop(on, sources=[])
    with pytest.raises(errors.BadData, match=r"moved to bad/j.json.*mv it back to merge/"):
        advance(on)
    assert os.listdir(on.path("bad")) == ["j.json"]
    assert names(on) == ["bad"]
    assert on.places("j") == []


@pytest.mark.parametrize("name", ["a b", "-rf", "a..b", "x" * 129])
def test_a_file_with_a_name_that_is_no_id_goes_to_bad(on: Spool, name: str) -> None:
    drop(on, name=name)
    with pytest.raises(errors.BadData, match="moved to bad/"):
        advance(on, name=name)
    assert os.listdir(on.path("bad")) == [f"{name}.json"]
    assert on.events("_unnamed" if name != "a..b" else name)


def test_the_earlier_of_two_copies_goes_to_bad(on: Spool) -> None:
    drop(on, "release")
    with pytest.raises(errors.BadData, match="a copy of this job is in release/"):
        advance(on)
    assert on.places("j") == ["release"]
    assert os.listdir(on.path("bad")) == ["j.json"]
    assert "second copy" in on.events("j")[-1]["reason"]


def test_a_parked_copy_does_not_count(on: Spool) -> None:
    drop(on, "hold")
    assert advance(on) == "release"


def test_a_file_id_of_another_job_is_not_taken(on: Spool) -> None:
    drop(on, name="k", fileId="F.1")
    advance(on, name="k")
    drop(on, fileId="F.1")
    with pytest.raises(errors.BadData, match=r"belongs to job k.*mv failed/j.json"):
        advance(on)
    assert on.places("j") == ["failed"]


# -- preflight -------------------------------------------------------------------------------------


def test_a_preflight_that_says_later_is_not_recorded(on: Spool) -> None:
    def no(_: Claim) -> None:
        raise errors.Later("no space")

    before = mtime(on)
    with pytest.raises(errors.Later, match="no space"):
        stage.advance(made(preflight=no), on, settings(), "j")
    assert names(on) == ["accepted"]
    assert mtime(on) == before


def test_below_the_floor_nothing_begins(on: Spool) -> None:
    with pytest.raises(errors.Later, match="floor/spool_bytes"):
        advance(on, **{"floor.spool_bytes": 1 << 60})
    assert "start" not in names(on)


def test_limits_are_places_that_are_locked(on: Spool) -> None:
    first = fsops.lock(on.path("lock", ".slot-daq-0"))
    with pytest.raises(errors.Later, match="all 1 places of cfg/limits/daq are taken"):
        advance(on, **{"limits.daq": 1})
    assert advance(on, **{"limits.daq": 2}) == "release"
    assert first is not None
    os.close(first)
    assert not fsops.is_locked(on.path("lock", ".slot-daq-1")), "given back"


def test_a_stage_counts_against_its_own_limit_as_well(on: Spool) -> None:
    taken = fsops.lock(on.path("lock", ".slot-merge-0"))
    assert taken is not None
    with pytest.raises(errors.Later, match="limits/merge"):
        advance(on, limits=("merge",), **{"limits.daq": 1, "limits.merge": 1})
    assert not fsops.is_locked(on.path("lock", ".slot-daq-0")), "the other place is given back"
    os.close(taken)
    held: list[int] = []

    def work(claim: Claim) -> Outcome:
        held.extend(claim.descriptors)
        assert not any(os.get_inheritable(fd) for fd in claim.descriptors)
        return Outcome()

    advance(on, work, limits=("merge",), **{"limits.daq": 1, "limits.merge": 1})
    assert len(held) == 3


# -- errors ----------------------------------------------------------------------------------------

FINAL = [errors.BadData("x"), errors.Conflict("x"), errors.IoFailure("x"),
         OSError(5, "Input/output error", "f")]
PASSING = [(errors.Later("x"), 75), (errors.NoPermission("x"), 77), (errors.BadConfig("x"), 78),
           (errors.Unavailable("x"), 69), (OSError(28, "No space", "f"), 75),
           (OSError(13, "Permission denied", "f"), 77), (RuntimeError("x"), 70)]


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_an_error_that_waiting_does_not_mend(on: Spool, error: Exception) -> None:
    os.utime(on.job_path("merge", "j"), (1.0, 1.0))
    with pytest.raises(errors.DaqError, match=r"mv failed/j.json merge/") as caught:
        advance(on, failing(error))
    assert caught.value.code in (65, 73, 74)
    assert caught.value.job == "j"
    assert on.places("j") == ["failed"]
    event = on.events("j")[-1]
    assert (event["event"], event["stage"], event["code"]) == ("fail", "merge", caught.value.code)
    assert mtime(on, "failed") == pytest.approx(time.time(), abs=5)
    assert history.tries(on.events("j"), "merge") == 0


@pytest.mark.parametrize(("error", "code"), PASSING, ids=repr)
def test_an_error_that_may_pass(on: Spool, error: Exception, code: int) -> None:
    with pytest.raises(errors.DaqError, match="next try in") as caught:
        advance(on, failing(error))
    assert caught.value.code == code
    assert on.places("j") == ["merge"]
    event = on.events("j")[-1]
    assert (event["event"], event["code"], event["try"]) == ("defer", code, 1)
    assert 0.79 * 30 < mtime(on) - time.time() < 1.21 * 30
    assert mtime(on) == pytest.approx(event["until"], abs=0.001)


def test_the_backoff_doubles_up_to_a_limit() -> None:
    chosen = settings(**{"retry.first_sec": 30.0, "retry.longest_sec": 3600.0})
    for count, expected in ((1, 30), (2, 60), (4, 240), (8, 3600), (5000, 3600)):
        found = [stage._backoff(chosen, count) for _ in range(50)]
        assert 0.8 * expected <= min(found) <= max(found) <= 1.2 * expected
        assert len(set(found)) > 1, "jitter"


def test_after_the_last_try_it_fails(on: Spool) -> None:
    work = failing(errors.Later("no answer"))
    for count in (1, 2):
        with pytest.raises(errors.Later):
            advance(on, work, **{"retry.tries": 3})
        assert history.tries(on.events("j"), "merge") == count
    with pytest.raises(errors.BadData, match="given up after 3 tries: no answer"):
        advance(on, work, **{"retry.tries": 3})
    assert on.places("j") == ["failed"]
    on.move("j", "failed", "merge")
    with pytest.raises(errors.Later):
        advance(on, work, **{"retry.tries": 3})
    assert history.tries(on.events("j"), "merge") == 1, "starts afresh"
    assert advance(on) == "release"


def test_deaths_are_counted_before_the_work(on: Spool) -> None:
    for number in (1, 2):
        on.log("j", "start", stage="merge", **{"try": number})
    on.log("j", "killed", stage="merge", reason="killed by signal 9")
    with pytest.raises(errors.BadData, match="given up after 2 tries: killed by signal 9"):
        advance(on, failing(AssertionError("worked")), **{"retry.tries": 2})
    assert on.places("j") == ["failed"]


def test_failing_where_failed_holds_a_copy(on: Spool) -> None:
    drop(on, "failed")
    with pytest.raises(errors.BadData, match="bad/j.json"):
        advance(on, failing(errors.BadData("x")))
    assert on.places("j") == ["failed"]
    assert os.listdir(on.path("bad")) == ["j.json"]


def test_a_bug_shows_its_traceback_on_request(
        on: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAQ_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        advance(on, failing(ZeroDivisionError()))
    assert not on.is_busy("j")


# -- the operator meanwhile ------------------------------------------------------------------------


def meanwhile(act: Callable[[Claim], object], error: Exception | None = None) -> Work:
    def work(claim: Claim) -> Outcome:
        act(claim)
        if error:
            raise error
        return write_output(claim)

    return work


def test_edited_meanwhile(on: Spool) -> None:
    with pytest.raises(errors.Later, match="edited meanwhile"):
        advance(on, meanwhile(lambda _: drop(on, filePrefix="x")))
    assert on.places("j") == ["merge"]
    assert names(on)[-1] == "edited"
    assert history.tries(on.events("j"), "merge") == 0
    assert advance(on) == "release"
    assert names(on).count("start") == 2, "it ran again as it is now"


def test_saved_without_a_change_is_not_edited(on: Spool) -> None:
    text = Path(on.job_path("merge", "j")).read_text()

    def save(_: Claim) -> None:
        Path(on.job_path("merge", "j")).unlink()
        Path(on.job_path("merge", "j")).write_text(text)

    assert advance(on, meanwhile(save)) == "release"


@pytest.mark.parametrize("target", ["hold", "collect", "failed"])
def test_moved_away_meanwhile(on: Spool, target: str) -> None:
    with pytest.raises(errors.Later, match="moved away meanwhile"):
        advance(on, meanwhile(lambda _: on.move("j", "merge", target)))
    assert on.places("j") == [target]
    assert names(on)[-1] == "moved-away"
    assert history.tries(on.events("j"), "merge") == 0
    on.move("j", target, "merge")
    assert advance(on, failing(AssertionError("its results were kept"))) == "release"


def test_moved_away_from_a_worker_that_fails(on: Spool) -> None:
    with pytest.raises(errors.BadData, match="broken; the job was moved away meanwhile"):
        advance(on, meanwhile(lambda _: on.move("j", "merge", "hold"), errors.BadData("broken")))
    assert on.places("j") == ["hold"]


def test_deleted_meanwhile(on: Spool) -> None:
    with pytest.raises(errors.Later, match="moved away meanwhile"):
        advance(on, meanwhile(lambda _: os.unlink(on.job_path("merge", "j"))))
    assert on.places("j") == []


def test_a_copy_in_the_next_stage_meanwhile(on: Spool) -> None:
    with pytest.raises(errors.BadData, match="release/ holds a copy"):
        advance(on, meanwhile(lambda _: drop(on, "release")))
    assert on.places("j") == ["release"]
    assert os.listdir(on.path("bad")) == ["j.json"]


def test_touched_meanwhile_the_operators_time_counts(on: Spool) -> None:
    wish = time.time() + 7200

    def touch(_: Claim) -> None:
        os.utime(on.job_path("merge", "j"), (wish, wish))

    with pytest.raises(errors.Later):
        advance(on, meanwhile(touch, errors.Later("x")))
    assert mtime(on) == pytest.approx(wish, abs=0.001)


def test_a_due_time_of_this_stage_is_none_for_the_next(on: Spool) -> None:
    os.utime(on.job_path("merge", "j"), (time.time() + 3600,) * 2)
    advance(on)
    assert mtime(on, "release") <= time.time()


def test_an_old_mtime_survives_the_move(on: Spool) -> None:
    os.utime(on.job_path("merge", "j"), (1000.0, 1000.0))
    advance(on)
    assert mtime(on, "release") == 1000.0


# -- abort, signals --------------------------------------------------------------------------------


def test_an_abort_is_obeyed_at_the_claim(on: Spool) -> None:
    on.log("j", "abort-requested", stage="merge")
    assert advance(on, failing(AssertionError("worked"))) == "done"
    assert on.places("j") == ["done"]
    assert names(on) == ["abort-requested", "aborted"]
    assert not os.path.exists(on.lock_path("j"))


def test_an_abort_that_was_cut_short_is_finished(on: Spool) -> None:
    time.sleep(0.1)  # the record is younger than the job file, by more than a tick
    on.log("j", "abort-requested", stage="merge")
    on.log("j", "aborted", stage="merge")
    assert advance(on) == "done"
    assert names(on) == ["abort-requested", "aborted", "aborted"]
    time.sleep(0.1)
    on.move("j", "done", "merge")  # by a person who wants it after all
    assert advance(on) == "release"


def test_an_abort_is_obeyed_at_the_commit(on: Spool) -> None:
    assert advance(on, meanwhile(lambda _: on.log("j", "abort-requested"))) == "done"
    assert on.places("j") == ["done"]
    assert names(on)[-1] == "aborted"
    assert "ok" not in names(on)


def test_a_worker_told_to_end_by_an_abort(on: Spool) -> None:
    on_term = cli.Terminated(signal.SIGTERM)

    def work(claim: Claim) -> Outcome:
        on.log("j", "abort-requested")
        raise on_term

    with pytest.raises(errors.Later, match="aborted on request"):
        advance(on, work)
    assert on.places("j") == ["done"]
    assert history.tries(on.events("j"), "merge") == 0


def test_a_worker_told_to_end(on: Spool) -> None:
    with pytest.raises(cli.Terminated):
        advance(on, failing(cli.Terminated(signal.SIGINT)))
    assert names(on)[-1] == "interrupted"
    assert on.places("j") == ["merge"]
    assert not on.is_busy("j")
    assert history.tries(on.events("j"), "merge") == 0


@pytest.mark.parametrize("recorded", [True, False])
def test_a_worker_told_to_end_as_it_begins(
        on: Spool, monkeypatch: pytest.MonkeyPatch, recorded: bool) -> None:
    """What has begun is not taken for a worker that died, and what has not begun is no try."""
    real = Claim.log

    def log(claim: Claim, event: str, **facts: Any) -> None:
        if event == "start" and recorded:
            real(claim, event, **facts)
        if event == "start":
            raise cli.Terminated(signal.SIGTERM)
        real(claim, event, **facts)

    monkeypatch.setattr(Claim, "log", log)
    with pytest.raises(cli.Terminated):
        advance(on)
    assert [name for name in names(on) if name in ("start", "interrupted")] == (
        ["start", "interrupted"] if recorded else [])
    assert history.tries(on.events("j"), "merge") == 0
    assert on.places("j") == ["merge"]


def test_a_worker_out_of_time(on: Spool) -> None:
    def work(claim: Claim) -> Outcome:
        claim.log("overtime", reason="took longer than 60 s")
        raise cli.Terminated(signal.SIGTERM)

    with pytest.raises(errors.Later, match="took longer than 60 s"):
        advance(on, work)
    assert names(on)[-1] == "defer"
    assert history.tries(on.events("j"), "merge") == 1


# -- what dead tries left --------------------------------------------------------------------------


def test_temporaries_of_the_dead_are_swept(on: Spool) -> None:
    os.makedirs(on.data_path("j"))
    child = os.fork()
    if child == 0:
        Path(fsops.temporary(on.data_path("j", "merge.json"))).touch()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(os.listdir(on.data_path("j"))) == 1
    advance(on)
    assert sorted(os.listdir(on.data_path("j"))) == ["merge.json", "out"]


@pytest.mark.parametrize(("signum", "event"), [(9, "killed"), (None, "defer")])
def test_a_worker_that_ended_without_a_word(
        on: Spool, signum: int | None, event: str) -> None:
    on.log("j", "start", stage="merge", **{"try": 1})
    mark = os.stat(on.job_path("merge", "j")).st_mtime_ns
    place = stage.worker_died(on, settings(), "merge", "j", mark, "it died", signum)
    assert place == "merge"
    found = on.events("j")[-1]
    assert (found["event"], found["reason"], found["try"]) == (event, "it died", 1)
    assert mtime(on) == pytest.approx(found["until"], abs=0.001)
    assert history.tries(on.events("j"), "merge") == 1


def test_a_worker_that_dies_each_time_before_it_starts(on: Spool) -> None:
    places = [stage.worker_died(on, settings(**{"retry.tries": 3}), "merge", "j", 0, "it died", 11)
              for _ in range(3)]
    assert places == ["merge", "merge", "failed"]
    assert names(on) == ["killed", "killed", "killed", "fail"]


def test_a_worker_that_died_after_the_move(on: Spool) -> None:
    on.move("j", "merge", "release")
    assert stage.worker_died(on, settings(), "merge", "j", 0, "it died", 9) == ""
    assert names(on) == []


# -- abort from outside ----------------------------------------------------------------------------


def test_many_aborts_and_workers_at_once_end_in_one_place(on: Spool) -> None:
    def attempt(act: Callable[[], object]) -> int:
        child = os.fork()
        if child:
            return child
        code = 0
        try:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            act()
        except errors.DaqError:
            pass
        except BaseException:
            code = 1
        os._exit(code)

    def until_aborted(_claim: Claim) -> None:
        wait_until(lambda: history.abort_requested(on.events("j")))
        time.sleep(0.05)  # now it ends, while the aborters come

    slow = meanwhile(until_aborted)
    children = [attempt(lambda: advance(on, slow)) for _ in range(2)]
    wait_until(lambda: on.is_busy("j"))
    children += [attempt(lambda: abort.abort(on, "j", 60.0)) for _ in range(3)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * 5
    assert on.places("j") == ["done"]
    assert names(on).count("aborted") == 1

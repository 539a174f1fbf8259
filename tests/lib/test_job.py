from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from daqlib import clock, crashpoints, errors, history, job
from daqlib.spool import Spool
from harness import make_spool

FILE = {"type": "fitsFile", "sourceName": "a", "location": "/data/a.fits"}
_fork = multiprocessing.get_context("fork")


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    return Spool(str(make_spool(tmp_path / "spool")), "test")


def document(**more: Any) -> dict[str, Any]:
    return {"sources": [FILE], **more}


def submit(on: Spool, **more: Any) -> tuple[str, bool]:
    return job.submit(on, job.new(document(**more)), "collect", "TEST")


def write(on: Spool, text: str | bytes, name: str = "j", age: float = 0.0) -> Path:
    path = Path(on.job_path("collect", name))
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# -- read ------------------------------------------------------------------------------------------


def test_reads_a_job(on: Spool) -> None:
    path = write(on, json.dumps(document(id="j")))
    read = job.read(on, "j", "collect")
    assert (read.id, read.place, read.document["sources"]) == ("j", "collect", [FILE])
    assert read.status.st_ino == path.stat().st_ino
    assert len(read.digest) == 64


def test_a_job_that_is_gone(on: Spool) -> None:
    with pytest.raises(errors.NoJob, match="no such job in collect/"):
        job.read(on, "j", "collect")


@pytest.mark.parametrize("text", ["", "{", '{"sources": [', "[" * 100_000, b"\xff\xfe{}"])
def test_a_young_file_that_does_not_parse_is_still_being_written(
        on: Spool, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(on, text)
    with pytest.raises(errors.Later, match="still being written"):
        job.read(on, "j", "collect")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6)
    with pytest.raises(job.Unreadable, match="not JSON"):
        job.read(on, "j", "collect")


def test_youth_is_judged_by_ctime_not_mtime(on: Spool) -> None:
    """``cp -p`` and ``touch -d`` make old mtimes of files that are being written."""
    path = write(on, "{")
    os.utime(path, (1.0, 1.0))
    with pytest.raises(errors.Later):
        job.read(on, "j", "collect")


@pytest.mark.parametrize("text", ["[]", "null", "7", "{}", '{"sources": []}',
                                  '{"sources": [{"type": "fitsFile"}]}'])
def test_whole_json_that_is_no_job_is_bad_at_once(on: Spool, text: str) -> None:
    write(on, text)
    with pytest.raises(job.Unreadable):
        job.read(on, "j", "collect")


def test_the_name_is_authoritative(on: Spool) -> None:
    write(on, json.dumps(document(id="k")))
    with pytest.raises(job.Unreadable, match="the member id is 'k', the file is named 'j'"):
        job.read(on, "j", "collect")


def test_links_are_not_followed(on: Spool, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(json.dumps(document()))
    Path(on.job_path("collect", "j")).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.NoJob, match="no regular file"):
        job.read(on, "j", "collect")


# -- check -----------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    (document(id="../x"), "id '../x' is not allowed"),
    (document(id="-x"), "is not allowed"),
    (document(fileId=".x"), "is not allowed"),
    (document(filePrefix="a/b"), "filePrefix"),
    (document(filePrefix=".."), "filePrefix"),
    (document(instrument="a.b"), "instrument_id"),
    ({"sources": [{**FILE, "sourceName": "a/b"}]}, "sourceName"),
    ({"sources": [{**FILE, "sourceName": "-x"}]}, "sourceName"),
    ({"sources": [{**FILE, "location": "a.fits"}]}, "location"),
    ({"sources": [{**FILE, "location": "/a/../b"}]}, "location"),
    ({"sources": [{**FILE, "location": "-oX:/b"}]}, "host"),
    ({"sources": [FILE, FILE]}, "two sources are named 'a'"),
    (document(mergeTarget={"sourceName": "z"}), "mergeTarget 'z' names no source"),
    (document(receivers=[{"type": "olasReceiver", "path": "x"}]), "receiver path"),
    (document(receivers=[{"type": "olasReceiver", "path": "/x", "host": "-h"}]), "host"),
    ({"sources": [{"type": "primarySource", "sourceName": "p", "rrUri": "-x y"}]}, "rrUri"),
    ({"sources": [{"type": "strange", "sourceName": "p"}]}, "not valid"),
    ({"sources": "a"}, "not valid"),
]


@pytest.mark.parametrize(("wrong", "text"), WRONG)
def test_refuses(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.BadData, match=text):
        job.check(wrong)


@pytest.mark.parametrize("wrong", [wrong for wrong, _ in WRONG])
def test_a_refused_job_leaves_no_trace(on: Spool, wrong: dict[str, Any]) -> None:
    before = sorted(Path(on.root).rglob("*"))
    with pytest.raises(errors.BadData):
        job.submit(on, job.new(wrong), "collect", "TEST")
    assert sorted(Path(on.root).rglob("*")) == before


def test_unknown_members_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    job.check(document(filePerfix="x"))
    assert "unknown member 'filePerfix'" in capsys.readouterr().err
    job.check(document(startBy="2026-11-21T02:30:00Z", keywords=[], heuristics="v1"))
    assert capsys.readouterr().err == ""


def test_knows_live_jobs() -> None:
    assert not job.is_live(document())
    assert job.is_live({"sources": [FILE, {"type": "metadataSource", "sourceName": "m"}]})


# -- submit ----------------------------------------------------------------------------------------


def jobs(on: Spool) -> list[str]:
    return [entry.id for entry in on.scan("collect")]


def test_submits_with_an_id_of_its_own(on: Spool) -> None:
    made, fresh = submit(on)
    assert fresh
    assert made.startswith("TEST.20")
    read = job.read(on, made, "collect")
    assert (read.document["id"], read.document["fileId"]) == (made, made)
    (event,) = on.events(made)
    assert (event["event"], event["fileId"], event["digest"]) == ("submitted", made, read.digest)


def test_submits_with_the_id_asked_for(on: Spool) -> None:
    assert submit(on, id="j") == ("j", True)
    stamp = history.file_id(on.events("j"))
    assert stamp.startswith("TEST.20")
    assert job.read(on, "j", "collect").document["fileId"] == stamp
    assert Path(on.path("log", f".file-{stamp}")).read_text() == "j"


def test_the_same_request_may_be_repeated(on: Spool) -> None:
    submit(on, id="j")
    before = Path(on.job_path("collect", "j")).read_bytes(), len(on.events("j"))
    time.sleep(0.002)
    assert submit(on, id="j") == ("j", False)
    on.move("j", "collect", "merge")
    assert submit(on, id="j") == ("j", False)
    assert (Path(on.job_path("merge", "j")).read_bytes(), len(on.events("j"))) == before
    assert jobs(on) == []


def test_another_request_of_this_id_is_refused(on: Spool) -> None:
    submit(on, id="j")
    with pytest.raises(job.Taken, match="the id j is known to this spool"):
        submit(on, id="j", filePrefix="x")
    on.move("j", "collect", "done")
    with pytest.raises(job.Taken):
        submit(on, id="j", filePrefix="x")


def test_the_id_of_a_dropped_job_is_taken(on: Spool) -> None:
    write(on, json.dumps(document()))
    with pytest.raises(job.Taken):
        submit(on, id="j")


def test_a_file_id_belongs_to_one_job(on: Spool) -> None:
    submit(on, id="j", fileId="F.1")
    with pytest.raises(job.Taken, match=r"the file id F.1 belongs to job j"):
        submit(on, id="k", fileId="F.1")
    assert jobs(on) == ["j"]
    assert submit(on, id="k", fileId="F.2") == ("k", True)


def test_an_id_under_work_is_for_later(on: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = on.lock("j", "merge")
    monkeypatch.setattr(Spool, "wait_lock", lambda self, *_: None)
    with pytest.raises(errors.Later, match="somebody is at work"):
        submit(on, id="j")
    assert fd is not None
    os.close(fd)


def in_four_processes(act: Any) -> list[Any]:
    queue = _fork.SimpleQueue()
    start = _fork.Barrier(4)

    def one(number: int) -> None:
        start.wait()
        queue.put(act(number))

    processes = [_fork.Process(target=one, args=(n,)) for n in range(4)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join(120)
    return found


@pytest.mark.parametrize("alike", [True, False])
def test_starts_in_one_millisecond_do_not_collide(
        on: Spool, monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    """Every process reads the same few milliseconds; also equal requests are different jobs."""
    ticks = iter(range(1_000_000))
    monkeypatch.setattr(clock, "now", lambda: 1795228200.0 + next(ticks) // 4 / 1000)

    def act(number: int) -> list[str]:
        return [submit(on, filePrefix="" if alike else f"p{number}")[0] for _ in range(5)]

    made = [name for names in in_four_processes(act) for name in names]
    assert len(set(made)) == 20
    assert sorted(made) == jobs(on)
    assert {job.read(on, name, "collect").document["fileId"] for name in made} == set(made)


def test_one_submission_of_many_equal_ones_with_an_id_wins(on: Spool) -> None:
    for number in range(5):
        found = in_four_processes(lambda _who, n=number: submit(on, id=f"j{n}")[1])
        assert sorted(found) == [False, False, False, True]
    assert jobs(on) == [f"j{n}" for n in range(5)]


@pytest.mark.parametrize("point", ["submit.reserved", "put.created", "put.synced"])
def test_a_dead_submission_is_taken_over_by_its_repetition(
        on: Spool, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(crashpoints, "_armed", True)
        monkeypatch.setattr(crashpoints, "_counts", {})
        nth = 1 if point == "submit.reserved" else 3
        monkeypatch.setenv("DAQ_CRASH", f"{point}:{nth}")
        submit(on, id="j")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert jobs(on) == []
    stamp = history.file_id(on.events("j"))
    with pytest.raises(job.Taken):
        submit(on, id="j", filePrefix="other")
    assert submit(on, id="j") == ("j", True)
    assert history.file_id(on.events("j")) == stamp
    assert job.read(on, "j", "collect").document["fileId"] == stamp
    assert submit(on, id="j") == ("j", False)


# -- accept ----------------------------------------------------------------------------------------


def test_a_dropped_job_gets_its_file_id_once(on: Spool) -> None:
    job.accept(on, "j", document(), "collect", "TEST")
    job.accept(on, "j", document(), "merge", "OTHER")
    (event,) = on.events("j")
    assert event["event"] == "accepted"
    assert event["fileId"].startswith("TEST.20")


def test_a_dropped_job_may_name_instrument_and_file_id(on: Spool) -> None:
    job.accept(on, "j", document(instrument="OWN"), "collect", "TEST")
    assert history.file_id(on.events("j")).startswith("OWN.20")
    job.accept(on, "k", document(fileId="F.1"), "collect", "TEST")
    assert history.file_id(on.events("k")) == "F.1"
    with pytest.raises(job.Taken):
        job.accept(on, "l", document(fileId="F.1"), "collect", "TEST")
    assert on.events("l") == []


# -- what lives need -------------------------------------------------------------------------------


def test_a_submission_can_keep_the_lock(on: Spool) -> None:
    made = job.submit_locked(on, job.new(document()), "acquire", "TEST")
    assert made.fresh and on.is_busy(made.id) and on.place(made.id) == "acquire"
    assert history.file_id(on.events(made.id)) == made.id
    on.release(made.id, made.lock)
    again = job.submit_locked(on, job.new(document(id="x")), "acquire", "TEST")
    on.release("x", again.lock)
    once_more = job.submit_locked(on, job.new(document(id="x")), "acquire", "TEST")
    assert (again.fresh, once_more.fresh) == (True, False) and on.is_busy("x")
    on.release("x", once_more.lock)
    with pytest.raises(job.Taken):
        job.submit_locked(on, job.new(document(id="x", filePrefix="A")), "acquire", "TEST")
    assert not on.is_busy("x")


@pytest.mark.parametrize(("when", "good"), [
    ("2026-11-21T02:30:00Z", True), ("2026-11-21T02:30:00.123456", True),
    ("2026-11-21 02:30:00", False), ("2026-11-21T02:30:00+01:00", False), ("noon", False),
    ("2026-02-30T00:00:00Z", False), ("", False), (5, False), (None, False)])
def test_an_absolute_start(when: Any, good: bool) -> None:
    source = {"type": "primarySource", "sourceName": "d", "rrUri": "zpb.rr://127.0.0.1:1/rec",
              "startTime": when}
    if good:
        job.check({"sources": [source]})
    else:
        with pytest.raises(errors.BadData, match="startTime"):
            job.check({"sources": [source]})


def test_only_a_primary_source_starts_at_a_time(on: Spool) -> None:
    for source in ({**FILE}, {"type": "metadataSource", "sourceName": "m",
                              "rrUri": "zpb.rr://127.0.0.1:1/daq"}):
        with pytest.raises(errors.BadData, match="primary sources only"):
            job.check({"sources": [{**source, "startTime": "2026-11-21T02:30:00Z"}]})


def test_allow_shared_is_a_boolean() -> None:
    job.check(document(allowShared=True))
    with pytest.raises(errors.BadData, match="allowShared"):
        job.check(document(allowShared="yes"))

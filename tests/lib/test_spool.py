from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from daqlib import config, errors, fsops, history, spool
from daqlib.spool import Spool
from harness import make_spool


@pytest.fixture
def on(tmp_path: Path) -> Spool:
    return Spool(str(make_spool(tmp_path / "spool")), "test")


def put(on: Spool, place: str, job: str, due: float | None = None) -> Path:
    path = Path(on.job_path(place, job))
    path.write_text("{}")
    if due is not None:
        os.utime(path, (due, due))
    return path


# -- what is a spool -------------------------------------------------------------------------------


def opened(path: Path) -> Spool:
    return spool.open_spool(str(path), config.Config(), "test")


def test_a_new_spool_is_made(tmp_path: Path) -> None:
    on = opened(tmp_path / "deep" / "new")
    assert sorted(os.listdir(on.root)) == sorted(
        [spool.MARKER, *spool.STAGES, *spool.RESTS, *spool.STORES])
    assert json.loads(Path(on.path(spool.MARKER)).read_text()) == {"daqspool": 1}


def test_missing_directories_are_made_again(tmp_path: Path) -> None:
    on = opened(tmp_path / "s")
    os.rmdir(on.path("hold"))
    opened(tmp_path / "s")
    assert os.path.isdir(on.path("hold"))


def test_a_strange_directory_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(errors.BadConfig, match=r"is no spool: it holds 'thesis.tex'"):
        opened(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_dot_files_do_not_make_a_directory_strange(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    opened(tmp_path)


def test_many_first_starts_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(6)

    def one() -> None:
        for number in range(15):
            start.wait()
            opened(tmp_path / str(number))

    processes = [fork.Process(target=one) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6


def test_where_the_spool_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(option: str | None = None, **values: str) -> str:
        settings = config.Config({**config.DEFAULTS, **values})
        return spool.open_spool(option, settings, "t").root.removeprefix(f"{tmp_path}/")

    for name in ("DAQ_SPOOL", "DATAROOT", "DAQ_CHECKOUT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.BadConfig, match="no spool is named"):
        chosen()
    monkeypatch.setenv("DAQ_CHECKOUT", str(tmp_path / "checkout"))
    assert chosen() == "checkout/spool"
    assert chosen(dataroot=str(tmp_path / "root")) == "root/spool"
    assert chosen(dataroot=str(tmp_path / "root"), spool=str(tmp_path / "cfg")) == "cfg"
    monkeypatch.setenv("DAQ_SPOOL", str(tmp_path / "env"))
    assert chosen(spool=str(tmp_path / "cfg")) == "env"
    assert chosen(str(tmp_path / "option"), spool=str(tmp_path / "cfg")) == "option"


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_foreign", lambda _root: "nfs4")
    with pytest.raises(errors.BadConfig, match=r"network file system \(nfs4\)"):
        opened(tmp_path / "s")
    settings = config.Config({**config.DEFAULTS, "network_spool": True})
    spool.open_spool(str(tmp_path / "s"), settings, "t")


# -- scan, places ----------------------------------------------------------------------------------


def test_a_scan_lists_jobs_and_nothing_else(on: Spool) -> None:
    put(on, "merge", "b", due=5.0)
    put(on, "merge", "a")
    put(on, "collect", "c")
    folder = Path(on.path("merge"))
    for name in (".a.json", ".pause", "notes.txt", "json", "a.json~", "a.json.swp"):
        (folder / name).touch()
    (folder / "link.json").symlink_to("b.json")
    (folder / "dir.json").mkdir()
    os.mkfifo(folder / "fifo.json")
    assert [entry.id for entry in on.scan("merge")] == ["a", "b"]
    assert on.scan("merge")[1] == spool.Entry("b", "merge", 5.0, 2)
    assert [e.place for e in on.scan("merge", "collect", "nowhere")] == ["merge", "merge",
                                                                           "collect"]


@pytest.mark.parametrize(("where", "order"), [
    (["merge"], ["merge"]),
    (["collect", "release", "merge"], ["release", "merge", "collect"]),
    (["done", "acquire"], ["done", "acquire"]),
    (["hold", "collect"], ["collect", "hold"]),
    (["failed", "hold"], ["hold", "failed"]),
    (["bad"], []),
    (["remote"], ["remote"]),
    ([], []),
])
def test_of_two_copies_the_later_one_counts(
        on: Spool, where: list[str], order: list[str]) -> None:
    for place in where:
        put(on, place, "j")
    assert on.places("j") == order
    assert on.place("j") == (order[0] if order else "")


# -- due -------------------------------------------------------------------------------------------

DAY = 24 * 3600.0


@pytest.mark.parametrize(("ahead", "event", "due"), [
    (-10.0, None, True),
    (0.0, None, True),
    (10.0, None, False),
    (DAY - 60, None, False),
    (DAY + 60, None, True),  # a wrong clock
    (10 * DAY, "defer", False),
    (10 * DAY, "killed", False),
    (10 * DAY, "other", True),  # an event that explains another time
])
def test_when_a_job_is_due(on: Spool, ahead: float, event: str | None, due: bool) -> None:
    now = time.time()
    until = now + ahead
    put(on, "merge", "j", due=until)
    if event:
        on.log("j", "defer" if event == "other" else event, stage="merge",
               until=until + (100 if event == "other" else 0))
    (entry,) = on.scan("merge")
    assert on.is_due(entry, now) is due


def test_a_stage_can_be_paused(on: Spool) -> None:
    assert not on.paused("merge")
    Path(on.path("merge", ".pause")).touch()
    assert on.paused("merge")
    assert not on.paused("collect")


# -- moving ----------------------------------------------------------------------------------------


def test_moves_a_job(on: Spool) -> None:
    put(on, "merge", "j")
    assert on.move("j", "merge", "release") is True
    assert on.move("j", "merge", "release") is False
    put(on, "merge", "j")
    with pytest.raises(FileExistsError):
        on.move("j", "merge", "release")
    assert on.places("j") == ["release", "merge"]


def test_bad_files_are_numbered(on: Spool) -> None:
    for number in range(3):
        Path(on.path("merge", "j.json")).write_text(str(number))
        expected = "j.json" if number == 0 else f"j.{number}.json"
        assert on.to_bad("merge", "j.json", f"reason {number}") == expected
        assert Path(on.path("bad", expected)).read_text() == str(number)
    found = on.events("j")
    assert [(e["event"], e["stage"], e["reason"], e["file"]) for e in found] == [
        ("bad", "merge", f"reason {n}", f"bad/j{f'.{n}' if n else ''}.json") for n in range(3)]


def test_a_bad_file_without_a_usable_name_has_a_log_too(on: Spool) -> None:
    Path(on.path("merge", "a b.json")).touch()
    on.to_bad("merge", "a b.json", "no name")
    assert on.events("_unnamed")[0]["file"] == "bad/a b.json"


def test_a_bad_file_with_the_longest_name_is_numbered_too(on: Spool) -> None:
    long = "\u00e9" + "x" * 248
    for number in range(12):
        Path(on.path("merge", f"{long}.json")).write_text(str(number))
        name = on.to_bad("merge", f"{long}.json", "no id")
        assert Path(on.path("bad", name)).read_text() == str(number)
        assert name.endswith(f".{number}.json" if number else "x.json")


def test_a_bad_file_that_is_gone_is_not_recorded(on: Spool) -> None:
    on.to_bad("merge", "j.json", "gone")
    assert on.events("j") == []


def test_a_history_that_is_followed_is_parsed_once(
        on: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    on.log("j", "keywords", keywords=[1])
    on.log("j", "keywords", keywords=[2])
    assert len(on.events("j")) == 2
    on.follow_history("j")
    on.follow_history("j")
    assert [event["keywords"] for event in on.events("j")] == [[2]]
    with monkeypatch.context() as patch:
        patch.setattr(history, "parse", None)
        assert len(on.events("j")) == 1, "nothing is parsed again"
    on.leave_history("j")
    on.leave_history("j")
    assert len(on.events("j")) == 2


# -- locks -----------------------------------------------------------------------------------------


def test_a_lock_tells_its_holder(on: Spool) -> None:
    before = time.time()
    fd = on.lock("j", "merge")
    assert fd is not None
    facts = spool.holder(on.lock_path("j"))
    assert facts["pid"] == os.getpid()
    assert facts["started"] == spool.process_start(os.getpid())
    assert facts["stage"] == "merge"
    assert before <= facts["since"] <= time.time()
    assert on.is_busy("j")
    assert on.lock("j", "collect") is None
    assert on.wait_lock("j", "collect", 0.1) is None
    os.close(fd)
    assert not on.is_busy("j")


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "\udcff"])
def test_a_lock_may_say_nothing_readable(on: Spool, text: str) -> None:
    Path(on.lock_path("j")).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert spool.holder(on.lock_path("j")) == {}
    assert spool.holder(on.lock_path("none")) == {}


def test_a_process_is_named_by_its_start(on: Spool) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(600)
    mine, its = spool.process_start(os.getpid()), spool.process_start(child)
    assert mine.isdigit() and its.isdigit()
    assert int(its) >= int(mine)
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert spool.process_start(child) == ""


@pytest.mark.parametrize(("place", "kept"), [
    ("merge", True), ("failed", True), ("hold", True), ("remote", True), ("done", False),
    ("bad", False), ("", False)])
def test_the_lock_file_goes_when_the_job_is_at_rest(on: Spool, place: str, kept: bool) -> None:
    fd = on.lock("j", "release")
    assert fd is not None
    if place:
        put(on, place, "j")
    on.release("j", fd)
    assert os.path.exists(on.lock_path("j")) is kept
    assert not on.is_busy("j")


def test_the_lock_file_of_another_is_left_alone(on: Spool) -> None:
    """Ours was removed by hand and somebody has a new one by now."""
    fd = on.lock("j", "release")
    assert fd is not None
    os.unlink(on.lock_path("j"))
    other = on.lock("j", "merge")
    assert other is not None
    on.release("j", fd)
    assert on.is_busy("j")
    os.close(other)


def test_a_watcher_is_known_by_its_lock(on: Spool) -> None:
    assert not on.watched()
    fd = fsops.lock(on.path("lock", ".watch"))
    assert fd is not None
    assert on.watched()
    os.close(fd)


def test_logs_name_the_tool(on: Spool) -> None:
    on.log("j", "start", stage="merge")
    assert history.last(on.events("j"), "start", stage="merge")
    assert on.events("j")[0]["by"] == "test"


def test_free_bytes(on: Spool) -> None:
    assert on.free_bytes() > 0
    assert on.free_bytes("result") > 0


def test_logs_several_events_or_none(on: Spool) -> None:
    on.log_all("j", [])
    assert not os.path.exists(on.log_path("j"))
    on.log_all("j", [("alert", {"stage": "merge", "id": "a"}), ("fail", {"stage": "merge"})])
    assert [(event["event"], event["by"]) for event in on.events("j")] == [
        ("alert", "test"), ("fail", "test")]

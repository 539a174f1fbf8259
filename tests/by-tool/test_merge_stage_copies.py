"""What the merge stage does with collected copies that a person, or an archive, has touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from collecting import total
from harness import Daq, make_fits
from merge_samples import eso, file_source, specification

FILE_ID = "TEST.2026-11-21T02:30:00.123"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def job(daq: Daq) -> str:
    """A job with a merge target and a receiver, collected, to be merged in place."""
    for name, extensions in (("t", 2), ("b", 1)):
        make_fits(daq.folder / f"{name}.fits", extensions, name=name.upper())
    (daq.folder / "archive").mkdir()
    configure(daq, "in-place")
    daq.drop("collect", "j", {
        "fileId": FILE_ID, "sources": [file_source("t", daq.folder / "t.fits"),
                                       file_source("b", daq.folder / "b.fits")],
        "receivers": [{"type": "olasReceiver", "path": str(daq.folder / "archive")}],
        "mergeTarget": {"sourceName": "t"}})
    daq.run("daq-collect", "--job", "j").ok()
    return "j"


def configure(daq: Daq, way: str) -> None:
    path = daq.folder / f"{way}.yaml"
    path.write_text(f"cfg:\n  merge:\n    way: {way}\n")
    daq.env["DAQ_CONFIG"] = str(path)


def copies(daq: Daq) -> Path:
    return daq.spool / "data" / "j" / "sources"


def product(daq: Daq) -> Path:
    return daq.spool / "result" / f"{FILE_ID}.fits"


def put_back(daq: Daq, source: str, target: str, **changes: Any) -> None:
    path = daq.spool / source / "j.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    path.rename(daq.spool / target / "j.json")


def result(daq: Daq) -> Any:
    return json.loads((daq.spool / "data" / "j" / "merge.json").read_text())["result"]


def change(path: Path) -> None:
    """Change a byte of the data, as an editor does that knows nothing of sums."""
    path.chmod(0o644)  # products are read-only, which their owner can change
    with path.open("r+b") as file:
        file.seek(2 * 2880 + 5)
        file.write(b"\x55")


@pytest.mark.parametrize("way", ["new", "in-place"])
def test_a_copy_that_was_changed_by_hand_is_told(daq: Daq, job: str, way: str) -> None:
    configure(daq, way)
    change(copies(daq) / "0_t_t.fits")
    now = total(copies(daq) / "0_t_t.fits")
    os.utime(copies(daq) / "1_b_b.fits")  # was touched, and is what it was
    daq.run("daq-merge", "--job", job).ok()
    assert [one["sum"] for one in result(daq)["inputs"]] == [now, total(daq.folder / "b.fits")]
    assert [event["id"] for event in daq.history(job) if event["event"] == "alert"] == [
        "suspicious-time:sources/0_t_t.fits"]
    assert "0_t_t.fits was changed after it had been" in daq.run("daq-status", job).ok().out


def test_an_untouched_copy_raises_nothing(daq: Daq, job: str) -> None:
    daq.run("daq-merge", "--job", job).ok()
    put_back(daq, "release", "merge", keywords=[eso("OBS ID", 1)])
    product(daq).unlink()
    daq.run("daq-watch", "--once").ok()
    assert daq.tree() == {"done": ["j"]} and "alert" not in daq.events(job)


@pytest.mark.parametrize("way", ["in-place", "auto"])
def test_a_specification_that_leads_elsewhere(daq: Daq, job: str, way: str) -> None:
    """What does not lie in the job's directory is somebody's own, and stays what it is."""
    configure(daq, way)
    path = daq.spool / "data" / "j" / "specification.json"
    path.write_text(path.read_text().replace("sources/0_t_t.fits", str(daq.folder / "t.fits")))
    before = digest(daq.folder / "t.fits")
    told = daq.run("daq-merge", "--job", job).ok()
    assert ("left alone" in told.err) == (way == "in-place")
    assert digest(daq.folder / "t.fits") == before
    assert not list(daq.folder.glob(".t.fits.*"))


@pytest.mark.parametrize("way", ["in-place", "auto"])
def test_a_directory_of_copies_that_leads_elsewhere(daq: Daq, job: str, way: str) -> None:
    configure(daq, way)
    mine = daq.folder / "mine"
    copies(daq).rename(mine)
    copies(daq).symlink_to(mine)
    before = digest(mine / "0_t_t.fits")
    daq.run("daq-merge", "--job", job).ok()
    assert digest(mine / "0_t_t.fits") == before


def test_the_archive_s_link_is_never_written(daq: Daq, job: str) -> None:
    daq.run("daq-watch", "--once").ok()
    delivered = daq.folder / "archive" / f"{FILE_ID}.fits"
    assert delivered.stat().st_ino == product(daq).stat().st_ino
    before = digest(delivered)
    for number, name in enumerate(("aside.fits", "further.fits")):
        product(daq).rename(daq.folder / name)
        put_back(daq, "done", "merge", keywords=[eso("OBS ID", number)])
        daq.run("daq-watch", "--once")
        assert daq.tree() == {"done": ["j"]} and digest(delivered) == before
    assert delivered.stat().st_ino == (daq.folder / "aside.fits").stat().st_ino


@pytest.mark.parametrize("edited", [True, False])
@pytest.mark.parametrize("origin", [True, False])
def test_a_product_that_was_changed_does_not_come_back_as_the_copy(
        daq: Daq, job: str, edited: bool, origin: bool) -> None:
    """An archive may write through its link to the product; the copy was the same file."""
    daq.run("daq-watch", "--once").ok()
    good = digest(daq.folder / "t.fits")
    change(daq.folder / "archive" / f"{FILE_ID}.fits")
    product(daq).unlink()
    if not origin:
        (daq.folder / "t.fits").unlink()
    put_back(daq, "done", "collect", **({"keywords": [eso("OBS ID", 1)]} if edited else {}))
    told = daq.run("daq-collect", "--job", job)
    if origin:
        told.ok()
        assert digest(copies(daq) / ("1_t_t.fits" if edited else "0_t_t.fits")) == good
        return
    told.fails(65, "t.fits: No such file", chatty=True)
    # what came back may be the last of its kind
    [copy] = copies(daq).glob("?_t_t.fits")
    assert digest(copy) != good


def test_the_merger_looks_at_what_came_back(daq: Daq, job: str) -> None:
    daq.run("daq-watch", "--once").ok()
    change(daq.folder / "archive" / f"{FILE_ID}.fits")
    for _ in range(2):  # and does not forget it
        product(daq).unlink()
        (daq.spool / "done" / "j.json").rename(daq.spool / "merge" / "j.json")
        daq.run("daq-merge", "--job", job).ok()
        assert daq.history(job)[-2]["id"] == "suspicious-time:sources/0_t_t.fits"
        assert result(daq)["inputs"][0]["sum"] != total(daq.folder / "t.fits")
        (daq.spool / "release" / "j.json").rename(daq.spool / "done" / "j.json")


def test_no_space_to_give_a_copy_back(daq: Daq, job: str) -> None:
    """The origin is gone, so that fetching it again would put the job into failed/."""
    before = digest(copies(daq) / "0_t_t.fits")
    daq.run("daq-watch", "--once").ok()
    (daq.folder / "t.fits").unlink()
    put_back(daq, "done", "collect", keywords=[eso("OBS ID", 1)], filePrefix="NEW_")
    daq.run("daq-collect", "--job", job, env={"DAQ_FAULT": "undo.copied=ENOSPC"}).fails(
        75, "0_t_t.fits", "No space left")
    assert daq.tree() == {"collect": ["j"]}
    daq.run("daq-collect", "--job", job).ok()
    assert digest(copies(daq) / "1_t_t.fits") == before


def test_a_journal_that_was_never_finished_says_nothing(daq: Daq, job: str) -> None:
    daq.run("daq-merge", "--job", job, env={"DAQ_CRASH": "put.synced"}).died(9)
    assert [name for name in os.listdir(copies(daq)) if name.startswith(".tmp-")]
    (daq.spool / "merge" / "j.json").rename(daq.spool / "collect" / "j.json")
    assert "undo" not in daq.run("daq-collect", "--job", job).ok().err
    daq.run("daq-merge", "--job", job).ok()


def test_the_last_copy_of_a_file_is_not_tidied_away(daq: Daq, job: str) -> None:
    """One that was changed by hand, or whose origin is gone, as its name changes with the job."""
    change(copies(daq) / "0_t_t.fits")
    mended = digest(copies(daq) / "0_t_t.fits")
    (daq.folder / "t.fits").unlink()
    (daq.folder / "b.fits").unlink()
    put_back(daq, "merge", "collect", keywords=[eso("OBS ID", 1)])
    daq.run("daq-collect", "--job", job).fails(65, "t.fits: No such file", chatty=True)
    assert digest(copies(daq) / "0_t_t.fits") == mended
    make_fits(daq.folder / "c.fits")
    put_back(daq, "failed", "collect", sources=[file_source("c", daq.folder / "c.fits")],
             mergeTarget={"sourceName": "c"})
    told = daq.run("daq-collect", "--job", job).ok()
    assert "0_t_t.fits is not used any more; it stays" in told.err
    assert sorted(path.name for path in copies(daq).glob("*.fits")) == [
        "0_t_t.fits", "1_c_c.fits", "2_b_b.fits"]


@pytest.mark.parametrize("way", ["in-place", "auto"])
def test_a_result_directory_that_is_a_mount_of_its_own(daq: Daq, job: str, way: str) -> None:
    """A bind mount of the same file system, as containers have them, takes no rename."""
    configure(daq, way)
    (daq.folder / "other").mkdir()
    if os.geteuid() or subprocess.run(
            ["mount", "--bind", daq.folder / "other", daq.spool / "result"], check=False,
            capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        before = digest(copies(daq) / "0_t_t.fits")
        daq.run("daq-merge", "--job", job).ok()
        assert result(daq)["way"] in ("new", "clone")
        assert digest(copies(daq) / "0_t_t.fits") == before
        daq.run("daq-merge", "--verify", product(daq)).ok()
    finally:
        subprocess.run(["umount", daq.spool / "result"], check=True)


@pytest.mark.parametrize("place", ["merge", "collect"])
@pytest.mark.parametrize("point", ["inplace.journal", "inplace.appended", "inplace.headers",
                                   "inplace.synced"])
def test_a_spool_that_was_copied_to_another_disk(daq: Daq, job: str, point: str, place: str
                                                 ) -> None:
    """Half of a product is known as such by what it holds: the copy has another inode."""
    before = digest(copies(daq) / "0_t_t.fits")
    (daq.folder / "t.fits").unlink()
    daq.run("daq-merge", "--job", job, env={"DAQ_CRASH": point}).died(9)
    move_spool(daq)
    if place == "collect":
        (daq.spool / "merge" / "j.json").rename(daq.spool / "collect" / "j.json")
        daq.run("daq-collect", "--job", job).ok()
        assert digest(copies(daq) / "0_t_t.fits") == before
    daq.run("daq-merge", "--job", job).ok()
    assert result(daq)["hdus"] == 4 and "alert" not in daq.events(job)
    daq.run("daq-merge", "--undo", copies(daq) / "0_t_t.fits").ok()
    assert digest(copies(daq) / "0_t_t.fits") == before


def test_a_copy_is_given_back_in_a_spool_that_was_copied(daq: Daq, job: str) -> None:
    before = digest(copies(daq) / "0_t_t.fits")
    daq.run("daq-merge", "--job", job).ok()
    (daq.folder / "t.fits").unlink()
    move_spool(daq)
    product(daq).unlink()
    put_back(daq, "release", "collect", keywords=[eso("OBS ID", 1)])
    daq.run("daq-collect", "--job", job).ok()
    assert digest(copies(daq) / "1_t_t.fits") == before


def move_spool(daq: Daq) -> None:
    """Copy the spool as `cp -a` or a restored backup does, and remove the old one."""
    new = daq.folder / "moved"
    subprocess.run(["cp", "-a", daq.spool, new], check=True)
    shutil.rmtree(daq.spool)
    daq.spool = new


@pytest.fixture
def alone(daq: Daq) -> Path:
    """A merge without a spool, to be done in place."""
    folder = daq.folder / "alone"
    make_fits(folder / "t.fits", 2)
    make_fits(folder / "b.fits", 1)
    (folder / "spec.json").write_text(json.dumps(specification(
        file_source("b", "b.fits"), target=file_source("t", "t.fits"))))
    return folder


def test_a_target_that_may_be_a_copy_is_left_to_a_person(daq: Daq, alone: Path) -> None:
    before, arguments = digest(alone / "t.fits"), (alone / "spec.json", "-o", "p.fits")
    daq.run("daq-merge", *arguments, "--way", "in-place", env={"DAQ_CRASH": "inplace.headers"}
            ).died(9)
    shutil.copy(alone / "t.fits", alone / "copy.fits")
    (alone / "copy.fits").rename(alone / "t.fits")
    half = digest(alone / "t.fits")
    daq.run("daq-merge", *arguments).fails(111, "may be a copy", "--undo", "remove the journal")
    assert digest(alone / "t.fits") == half and not (alone / "p.fits").exists()
    daq.run("daq-merge", "--undo", alone / "t.fits").ok()
    assert digest(alone / "t.fits") == before
    daq.run("daq-merge", *arguments).ok()


@pytest.mark.parametrize("same", [True, False])
def test_a_target_that_was_delivered_anew_is_not_touched(daq: Daq, alone: Path, same: bool) -> None:
    new = make_fits(alone / "new.fits", 2 if same else 1, name="EXT" if same else "NEW")
    daq.run("daq-merge", alone / "spec.json", "-o", "p.fits", "--way", "in-place",
            env={"DAQ_CRASH": "inplace.headers"}).died(9)
    os.utime(new)
    new.rename(alone / "t.fits")
    before = digest(alone / "t.fits"), (alone / "t.fits").stat().st_mtime_ns
    daq.run("daq-merge", "--undo", alone / "t.fits").exits(1)
    assert (digest(alone / "t.fits"), (alone / "t.fits").stat().st_mtime_ns) == before
    assert not list(alone.glob(".t.fits.*"))

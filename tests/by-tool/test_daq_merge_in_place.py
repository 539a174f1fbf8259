"""Merges into the target itself: what becomes of it, of the product, and of the job's copy."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from collecting import total
from harness import Daq, make_fits
from merge_samples import (
    BLOCK,
    eso,
    file_source,
    image,
    keyword_source,
    primary,
    specification,
    value,
)

FILE_ID = "TEST.2026-11-21T02:30:00.123"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- without a spool -------------------------------------------------------------------------------


@pytest.fixture
def alone(daq: Daq) -> Path:
    """A folder with a merge target, another file, and a specification of both."""
    folder = daq.folder / "alone"
    folder.mkdir()
    make_fits(folder / "t.fits", 2, name="TARGET")
    make_fits(folder / "b.fits", 1, name="OTHER")
    write(folder)
    return folder


def write(folder: Path, **more: Any) -> None:
    document = specification(keyword_source("k", value("OBJECT", "M 31")),
                             file_source("b", "b.fits"), target=file_source("t", "t.fits"), **more)
    (folder / "spec.json").write_text(json.dumps(document))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_target_becomes_the_product(daq: Daq, alone: Path) -> None:
    inode = (alone / "t.fits").stat().st_ino
    daq.run("daq-merge", alone / "spec.json", "-o", "new.fits").ok()
    told = daq.run("daq-merge", alone / "spec.json", "-o", "in.fits", "--way", "in-place",
                   "--json").ok().jsonl()
    assert told[-1]["way"] == "in-place"
    assert names(alone) == ["b.fits", "in.fits", "new.fits", "spec.json"]
    assert (alone / "in.fits").stat().st_ino == inode
    assert digest(alone / "in.fits") == digest(alone / "new.fits")


def test_a_name_that_is_taken_leaves_the_target_alone(daq: Daq, alone: Path) -> None:
    before = digest(alone / "t.fits"), (alone / "t.fits").stat()
    (alone / "out.fits").write_text("mine")
    for out in ("out.fits", "t.fits"):
        daq.run("daq-merge", alone / "spec.json", "-o", out, "--way", "in-place").fails(
            73, "never overwritten")
    daq.run("daq-merge", alone / "spec.json", "-o", "p.fits", "--way", "in-place",
            "--dry-run").ok()
    (alone / "b.fits").write_bytes(b"no FITS")
    daq.run("daq-merge", alone / "spec.json", "-o", "p.fits", "--way", "in-place").fails(111)
    assert (digest(alone / "t.fits"), (alone / "t.fits").stat()) == before
    assert names(alone) == ["b.fits", "out.fits", "spec.json", "t.fits"]


@pytest.mark.parametrize("obstacle", ["hard link", "symbolic link", "read-only", "no room"])
def test_where_it_cannot_be_the_target_stays(daq: Daq, alone: Path, obstacle: str) -> None:
    target = alone / "t.fits"
    if obstacle == "hard link":
        os.link(target, alone / "other-name.fits")
    elif obstacle == "symbolic link":
        target.rename(alone / "real.fits")
        target.symlink_to("real.fits")
    elif obstacle == "read-only":
        target.chmod(0o444)
    else:
        many = [eso(f"TPL WORD{n}", "w" * 40) for n in range(100)]
        (alone / "spec.json").write_text(json.dumps(specification(
            keyword_source("k", *many), target=file_source("t", "t.fits"))))
    before = digest(target), target.lstat().st_mtime_ns
    daq.run("daq-merge", alone / "spec.json", "-o", "new.fits", "--way", "new").ok()
    told = daq.run("daq-merge", alone / "spec.json", "-o", "p.fits", "--way", "in-place").ok()
    assert "a new file was written: " in told.err
    assert (digest(target), target.lstat().st_mtime_ns) == before
    assert digest(alone / "p.fits") == digest(alone / "new.fits")


POINTS = ("inplace.journal", "inplace.headers", "inplace.appended", "inplace.synced", "move.begin")


@pytest.mark.parametrize("point", POINTS)
def test_a_merge_that_died_is_undone_by_the_next_one(daq: Daq, alone: Path, point: str) -> None:
    before, status = digest(alone / "t.fits"), (alone / "t.fits").stat()
    arguments = (alone / "spec.json", "-o", "p.fits", "--way", "in-place")
    daq.run("daq-merge", *arguments, env={"DAQ_CRASH": point}).died(9)
    assert ".t.fits.undo" in names(alone) and "p.fits" not in names(alone)
    # to look on changes nothing
    for option in ("--dry-run", "--explain"):
        daq.run("daq-merge", alone / "spec.json", option).fails(75, "undone first", "--undo")
    daq.run("daq-merge", "--undo", alone / "t.fits").ok()
    assert digest(alone / "t.fits") == before
    assert (alone / "t.fits").stat().st_mtime_ns == status.st_mtime_ns
    daq.run("daq-merge", "--undo", alone / "t.fits").exits(1)
    daq.run("daq-merge", *arguments, env={"DAQ_CRASH": point}).died(9)
    # a merge in another way undoes it, too, or it would read half of a product
    daq.run("daq-merge", alone / "spec.json", "-o", "new.fits").ok().says("undone")
    assert digest(alone / "t.fits") == before
    daq.run("daq-merge", *arguments, env={"DAQ_CRASH": point}).died(9)
    daq.run("daq-merge", *arguments).ok().says("undone")
    assert digest(alone / "p.fits") == digest(alone / "new.fits")
    assert names(alone) == ["b.fits", "new.fits", "p.fits", "spec.json"]


def test_death_after_the_product_has_its_name(daq: Daq, alone: Path) -> None:
    before = digest(alone / "t.fits")
    arguments = (alone / "spec.json", "-o", "p.fits", "--way", "in-place")
    daq.run("daq-merge", *arguments, env={"DAQ_CRASH": "move.renamed"}).died(9)
    made = digest(alone / "p.fits")
    assert names(alone) == [".t.fits.undo", "b.fits", "p.fits", "spec.json"]
    daq.run("daq-merge", *arguments).fails(73, "never overwritten")
    assert daq.run("daq-merge", "--undo", "--json", alone / "t.fits").ok().json() == {
        "file": str(alone / "t.fits"), "undone": True}
    assert (digest(alone / "t.fits"), digest(alone / "p.fits")) == (before, made)


@pytest.mark.parametrize("point", ["inplace.journal", "inplace.headers", "inplace.synced",
                                   "move.begin"])
def test_what_fails_is_undone_at_once(daq: Daq, alone: Path, point: str) -> None:
    before = digest(alone / "t.fits"), (alone / "t.fits").stat().st_mtime_ns
    daq.run("daq-merge", alone / "spec.json", "-o", "p.fits", "--way", "in-place",
            env={"DAQ_FAULT": f"{point}=EIO"}).fails(74)
    assert (digest(alone / "t.fits"), (alone / "t.fits").stat().st_mtime_ns) == before
    assert names(alone) == ["b.fits", "spec.json", "t.fits"]


def test_what_undo_refuses(daq: Daq, alone: Path) -> None:
    daq.run("daq-merge", "--undo").fails(64, "--undo needs a FILE")
    daq.run("daq-merge", "--undo", alone / "t.fits", "-o", "x").fails(64, "no place beside --undo")
    daq.run("daq-merge", "--undo", alone / "t.fits", "--job", "j").fails(64, "exclude each other")
    gone = daq.run("daq-merge", "--undo", alone / "gone.fits").exits(1)
    assert "there is no such file, and nothing to undo" in gone.err
    told = daq.run("daq-merge", "--undo", alone / "t.fits").exits(1)
    assert "t.fits: nothing to undo" in told.err
    (alone / ".t.fits.undo").write_bytes(b"not ours")
    before = digest(alone / "t.fits")
    daq.run("daq-merge", "--undo", alone / "t.fits").fails(65, "journal", "damaged")
    daq.run("daq-merge", alone / "spec.json").fails(111, "journal", "damaged")
    assert digest(alone / "t.fits") == before


@pytest.mark.parametrize("way", ["in-place", "insert", "new", "share"])
def test_a_full_disk_changes_nothing(daq: Daq, way: str) -> None:
    folder = daq.folder / "small"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder],
                                      check=False, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        (folder / "t.fits").write_bytes(primary(*[" "] * 60) + image(bytes(2 << 20)))
        # its origin is elsewhere, so that the disk is not full before
        (daq.folder / "b.fits").write_bytes(primary() + image(bytes(3 << 20)))
        (folder / "spec.json").write_text(json.dumps(specification(
            file_source("b", daq.folder / "b.fits"), target=file_source("t", "t.fits"))))
        before = digest(folder / "t.fits"), (folder / "t.fits").stat().st_mtime_ns
        for more in ([], ["--dry-run"] if way in ("new", "in-place") else []):
            daq.run("daq-merge", folder / "spec.json", "--way", way, *more).fails(
                75, "space", chatty=True)
            assert (digest(folder / "t.fits"), (folder / "t.fits").stat().st_mtime_ns) == before
            assert names(folder) == ["spec.json", "t.fits"]
    finally:
        subprocess.run(["umount", folder], check=True)


# -- a job -----------------------------------------------------------------------------------------


@pytest.fixture
def job(daq: Daq) -> str:
    """A job with a merge target, ready to be merged, whose files of origin are gone."""
    for name, extensions in (("t", 2), ("b", 1)):
        make_fits(daq.folder / f"{name}.fits", extensions, name=name.upper())
    daq.drop("collect", "j", {
        "fileId": FILE_ID, "sources": [file_source("t", daq.folder / "t.fits"),
                                       file_source("b", daq.folder / "b.fits")],
        "mergeTarget": {"sourceName": "t"}})
    daq.run("daq-collect", "--job", "j").ok()
    for name in "tb":
        (daq.folder / f"{name}.fits").unlink()
    daq.env["DAQ_CONFIG"] = str(configured(daq, "in-place"))
    return "j"


def configured(daq: Daq, way: str, sums: str = "verify") -> Path:
    path = daq.folder / f"{way}-{sums}.yaml"
    path.write_text(f"cfg:\n  merge:\n    way: {way}\n    sums: {sums}\n")
    return path


def collected(daq: Daq) -> Path:
    return daq.spool / "data" / "j" / "sources" / "0_t_t.fits"


def result(daq: Daq) -> Any:
    return json.loads((daq.spool / "data" / "j" / "merge.json").read_text())["result"]


def test_the_collected_copy_becomes_the_product(daq: Daq, job: str) -> None:
    inode, facts = collected(daq).stat().st_ino, collected(daq).stat()
    before, sum_before = digest(collected(daq)), total(collected(daq))
    daq.run("daq-merge", "--job", job).ok()
    product = daq.spool / "result" / f"{FILE_ID}.fits"
    assert (product.stat().st_ino, product.stat().st_mode & 0o777) == (inode, 0o444)
    assert not collected(daq).exists()
    told = result(daq)
    assert (told["way"], told["sha256"]) == ("in-place", digest(product))
    assert told["inputs"][0]["sum"] == sum_before
    daq.run("daq-merge", "--verify", product).ok()
    # a second run finds it done
    (daq.spool / "release" / "j.json").rename(daq.spool / "merge" / "j.json")
    daq.run("daq-merge", "--job", job).ok()
    assert daq.events(job).count("sealed") == 1 and not collected(daq).exists()
    # and the copy can be had again, as it was
    daq.run("daq-merge", "--undo", collected(daq)).ok()
    there = collected(daq).stat()
    assert (digest(collected(daq)), there.st_size, there.st_mtime_ns, there.st_mode) == (
        before, facts.st_size, facts.st_mtime_ns, facts.st_mode)
    assert digest(product) == told["sha256"]


def test_by_default_the_spool_s_own_copy_is_used(daq: Daq, job: str) -> None:
    del daq.env["DAQ_CONFIG"]
    daq.run("daq-merge", "--job", job).ok()
    assert result(daq)["way"] in ("clone", "in-place")  # as the file system can


@pytest.mark.parametrize("way", ["new", "clone"])
def test_in_other_ways_the_copy_stays(daq: Daq, job: str, way: str) -> None:
    before = digest(collected(daq)), collected(daq).stat()
    daq.run("daq-merge", "--job", job, "--config", configured(daq, way)).ok()
    assert (digest(collected(daq)), collected(daq).stat().st_mtime_ns) == (
        before[0], before[1].st_mtime_ns)
    assert result(daq)["way"] in ("new", way)


def test_a_copy_with_another_link_stays(daq: Daq, job: str) -> None:
    os.link(collected(daq), daq.folder / "mine.fits")
    before = digest(collected(daq))
    for config in (configured(daq, "auto"), configured(daq, "in-place")):
        daq.run("daq-merge", "--force", "--job", job, "--config", config).ok()
        assert digest(collected(daq)) == digest(daq.folder / "mine.fits") == before
        (daq.spool / "release" / "j.json").rename(daq.spool / "merge" / "j.json")


@pytest.mark.parametrize("place", ["merge", "collect"])
@pytest.mark.parametrize("moved", [True, False])
def test_an_edited_job_has_its_copy_again(daq: Daq, job: str, place: str, moved: bool) -> None:
    from astropy.io import fits

    daq.run("daq-merge", "--job", job).ok()
    product = daq.spool / "result" / f"{FILE_ID}.fits"
    first = digest(product)
    away = daq.folder / "away.fits"
    path = daq.spool / "release" / "j.json"
    document = json.loads(path.read_text())
    if moved:
        product.rename(away)
    else:
        document["filePrefix"], away = "EDITED_", product
    document["keywords"] = [eso("OBS ID", 42)]
    path.write_text(json.dumps(document))
    path.rename(daq.spool / place / "j.json")
    if place == "merge":
        daq.run("daq-merge", "--job", job).fails(75, "moved back to collect/")
    daq.run("daq-collect", "--job", job).ok()
    daq.run("daq-merge", "--job", job).ok()
    [name] = [name for name in daq.results() if moved or name.startswith("EDITED_")]
    assert fits.getval(daq.spool / "result" / name, "ESO OBS ID") == 42
    assert digest(away) == first  # products are never lost, wherever they are
    daq.run("daq-merge", "--verify", daq.spool / "result" / name).ok()
    assert len(fits.open(daq.spool / "result" / name)) == 4


def test_a_product_that_was_removed_can_be_built_again(daq: Daq, job: str) -> None:
    daq.run("daq-merge", "--job", job).ok()
    product = daq.spool / "result" / f"{FILE_ID}.fits"
    first = digest(product)
    product.unlink()
    (daq.spool / "release" / "j.json").rename(daq.spool / "merge" / "j.json")
    daq.run("daq-merge", "--job", job).ok()
    assert digest(product) == first


def test_a_name_that_is_taken_gives_the_copy_back(daq: Daq, job: str) -> None:
    before = digest(collected(daq)), collected(daq).stat().st_mtime_ns
    other = daq.spool / "result" / f"{FILE_ID}.fits"
    other.write_text("somebody else's")
    daq.run("daq-merge", "--job", job).fails(73, "exists with other content")
    assert (digest(collected(daq)), collected(daq).stat().st_mtime_ns) == before
    other.unlink()
    (daq.spool / "failed" / "j.json").rename(daq.spool / "merge" / "j.json")
    daq.run("daq-merge", "--job", job).ok()


def test_forced_again_the_product_is_the_same(daq: Daq, job: str) -> None:
    daq.run("daq-merge", "--job", job).ok()
    product = daq.spool / "result" / f"{FILE_ID}.fits"
    before = digest(product)
    (daq.spool / "release" / "j.json").rename(daq.spool / "merge" / "j.json")
    daq.run("daq-merge", "--force", "--job", job).ok()
    assert digest(product) == before and product.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("room", [0, 60])
def test_a_header_that_outgrows_its_blocks_is_told(daq: Daq, room: int) -> None:
    path = daq.folder / "t.fits"
    path.write_bytes(primary(*[" "] * room) + image(b"x", *[" "] * 10))
    daq.drop("collect", "j", {
        "fileId": FILE_ID, "sources": [file_source("t", path)], "mergeTarget": {"sourceName": "t"},
        "keywords": [value(f"K{number}", number) for number in range(40)]})
    daq.run("daq-collect", "--job", "j").ok()
    daq.run("daq-merge", "--job", "j", "--config", configured(daq, "in-place")).ok()
    assert result(daq)["way"] == ("in-place" if room else "new")
    found = [(event["id"], event["severity"]) for event in daq.history("j")
             if event["event"] == "alert"]
    assert found == ([] if room else [("header-resized:t:1_t_t.fits", "info")])
    shown = daq.run("daq-status", "--json", "j").ok().out
    assert ("was resized from 1 to 2 blocks" in shown) == (not room)


@pytest.mark.parametrize("way", ["new", "in-place"])
@pytest.mark.parametrize(("sums", "code"), [("verify", 0), ("trust", 0), ("strict", 65)])
def test_damaged_data(daq: Daq, way: str, sums: str, code: int) -> None:
    path = daq.folder / "bad.fits"
    path.write_bytes(primary(*[" "] * 30) + image(
        b"data", "EXTNAME = 'BAD     '", "DATASUM = '12345   '", *[" "] * 10))
    daq.drop("collect", "j", {"fileId": FILE_ID, "sources": [file_source("t", path)],
                              "mergeTarget": {"sourceName": "t"}})
    trusting = configured(daq, way, "trust")  # or daq-collect would tell it first
    daq.run("daq-collect", "--job", "j", "--config", trusting).ok()
    before = digest(daq.spool / "data" / "j" / "sources" / "0_t_bad.fits")
    daq.run("daq-merge", "--job", "j", "--config", configured(daq, way, sums)).exits(code)
    alerts = [event["id"] for event in daq.history("j") if event["event"] == "alert"]
    if sums == "strict":
        assert daq.tree() == {"failed": ["j"]} and daq.results() == []
        assert "DATASUM" in daq.history("j")[-1]["reason"]
        assert digest(daq.spool / "data" / "j" / "sources" / "0_t_bad.fits") == before
        return
    assert result(daq)["way"] == way
    assert bool(alerts) == (sums == "verify")
    assert bool(result(daq)["parts"][1]["damaged"]) == (sums == "verify")


# -- a large file ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_in_a_gibibyte(daq: Daq, alone: Path) -> None:
    size, target = 1 << 30, alone / "t.fits"
    head = image(b"", *[" "] * 10).replace(b"NAXIS1  =                    0",
                                           b"NAXIS1  =%21d" % size)
    with target.open("wb") as file:
        file.write(primary(*[" "] * 60) + head)
        for _ in range(64):
            file.write(os.urandom(1 << 18) * 64)
        file.write(bytes(-size % BLOCK))
    before, status = digest(target), target.stat()
    arguments = (alone / "spec.json", "--way", "in-place", "-o", "p.fits")
    daq.run("daq-merge", alone / "spec.json", "-o", "new.fits").ok()
    expected, dice = digest(alone / "new.fits"), random.Random(10)
    (alone / "new.fits").unlink()
    for _ in range(12):
        with daq.start("daq-merge", *arguments) as running:
            time.sleep(dice.uniform(0.05, 1.5))
            running.kill()
        if (alone / "p.fits").exists():
            break
        again = daq.run("daq-merge", "--undo", target)
        assert again.code in (0, 1)
        assert (digest(target), target.stat().st_mtime_ns) == (before, status.st_mtime_ns)
    else:
        daq.run("daq-merge", *arguments).ok()
    assert digest(alone / "p.fits") == expected

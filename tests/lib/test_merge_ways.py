"""The ways of building: each makes the same product, or says why not and leaves all as it was."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from daq_merge import build, inplace, plan, sharing, standing, undo, ways
from daq_merge.how import SUMS, WAYS, How
from daq_merge.seal import Damaged
from daqlib import checksum, errors, fitsfile
from merge_case import KEYS, ROOM, SEAL, Case, undone
from merge_samples import (
    file_source,
    image,
    keyword_source,
    primary,
    specification,
    value,
)
from reflinks import reflink_folder


@pytest.fixture(autouse=True)
def still(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763692200.25")


@pytest.fixture(scope="module")
def xfs(tmp_path_factory):
    """A directory whose files can share blocks."""
    with reflink_folder(tmp_path_factory.mktemp("reflink")) as folder:
        yield folder


@pytest.fixture
def shared(xfs, request):
    folder = xfs / f"{abs(hash(request.node.name))}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("digest", [False, True])
def test_in_place_makes_the_bytes_of_a_new_file(tmp_path, digest):
    case = Case(tmp_path)
    before = case.state()
    want, result = case.product("new", digest=digest)
    assert (result.way, result.path, result.undo) == ("new", str(case.out), "")
    case.out.unlink()
    got, result = case.product("in-place", digest=digest)
    assert got == want
    assert (result.way, result.path, result.warnings) == ("in-place", str(case.target), [])
    assert result.undo == undo.path_of(str(case.target))
    assert result.sha256 == (hashlib.sha256(want).hexdigest() if digest else "")
    assert not case.out.exists()
    undone(case, result)
    assert case.state() == before


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("digest", [False, True])
def test_a_clone_has_the_bytes_of_a_new_file(shared, digest, sync):
    case = Case(shared)
    before = case.state()
    want, _ = case.product("new")
    case.out.unlink()
    for way in ("clone", "auto"):
        got, result = case.product(way, digest=digest, sync=sync)
        assert (got, result.way) == (want, "clone")
        assert result.sha256 == (hashlib.sha256(want).hexdigest() if digest else "")
        case.out.unlink()
    assert case.state() == before


def test_auto_is_new_where_nothing_can_be_shared(tmp_path, monkeypatch):
    case = Case(tmp_path)
    monkeypatch.setattr("daq_merge.reflink.clone", lambda *_: False)
    _, result = case.product("auto")
    assert (result.way, result.warnings) == ("new", [])
    case.out.unlink()
    _, result = case.product("auto", in_place_ok=True)
    assert (result.way, result.warnings) == ("in-place", [])
    undone(case, result)
    with pytest.raises(ways.Impossible, match=r"final\.fits cannot be a clone"):
        case.build("clone")
    assert not case.out.exists()


def test_a_clone_needs_headers_that_fit(tmp_path):
    case = Case(tmp_path, "ONE     = 1")
    with pytest.raises(ways.Impossible, match="needs 1 more block than it has"):
        case.build("clone")
    case.document = specification(KEYS)
    with pytest.raises(ways.Impossible, match="no merge target"):
        case.build("clone")


def test_a_shorter_header_keeps_its_blocks(tmp_path):
    case = Case(tmp_path, *[""] * 150)
    for way in ("new", "in-place"):
        _, result = case.product(way)
        hdu = fitsfile.read_structure(result.path).hdus[0]
        assert (len(hdu.header), hdu.count) == (5 * 2880, 154)
        assert checksum.data_sum(hdu.header) == 0xFFFFFFFF


OBSTACLES = {
    "other names": lambda case: (case.folder / "link.fits").hardlink_to(case.target),
    "symbolic link": lambda case: (case.target.rename(case.folder / "real.fits"),
                                   case.target.symlink_to("real.fits")),
    "compressed": lambda case: case.target.write_bytes(gzip.compress(case.target.read_bytes())),
    "may not be written": lambda case: case.target.chmod(0o444),
    "another source": lambda case: case.document["sources"].append(
        file_source("again", case.target)),
    "no room for that of an undo journal": lambda case: (
        case.target.rename(case.folder / ("t" * 240)),
        case.document["target"]["source"].update(location=str(case.folder / ("t" * 240))),
        (case.folder / "t.fits").symlink_to("t" * 240)),
}


@pytest.mark.parametrize("way", ["in-place", "insert"])
@pytest.mark.parametrize("reason", OBSTACLES)
def test_what_speaks_against_in_place_is_told_and_a_new_file_is_written(tmp_path, reason, way):
    case = Case(tmp_path)
    OBSTACLES[reason](case)
    before = case.state()
    _, result = case.product(way)
    assert (result.way, result.undo) == ("new", "")
    assert "a new file was written" in result.warnings[-1]
    assert reason in result.warnings[-1]
    case.out.unlink()
    assert case.state() == before
    _, result = case.product("auto", in_place_ok=True)
    assert result.way in ("new", "clone")
    assert result.warnings == []


def test_another_file_system_speaks_against_in_place(tmp_path, shared):
    case = Case(tmp_path)
    case.out = shared / "out.fits"
    result = build.build(case.document, "/", str(case.out), How("in-place"))
    assert (result.way, result.path) == ("new", str(case.out))
    assert "different file systems" in result.warnings[-1]


def test_a_header_that_grows_speaks_against_in_place(tmp_path):
    case = Case(tmp_path, "ONE     = 1")
    _, result = case.product("in-place")
    assert result.way == "new"
    assert "HDU 0" in result.warnings[-1] and "1 more block" in result.warnings[-1]


def fail(monkeypatch, call, number, error):
    """Let the n-th call of a function of os fail."""
    real, calls = getattr(os, call), []

    def failing(*args, **more):
        calls.append(args)
        if len(calls) == number:
            raise error
        return real(*args, **more)

    monkeypatch.setattr(os, call, failing)
    return calls


@pytest.mark.parametrize("way", ["in-place", "new"])
@pytest.mark.parametrize("kind", [lambda: OSError(errno.ENOSPC, "full"), KeyboardInterrupt],
                         ids=["full", "interrupted"])
@pytest.mark.parametrize(("call", "number"), [
    *[("pwrite", n) for n in range(1, 8)], *[("preadv", n) for n in range(1, 4)],
    ("posix_fallocate", 1), ("fsync", 1), ("fsync", 2), ("fsync", 3)])
def test_whatever_fails_leaves_all_as_it_was(tmp_path, monkeypatch, way, call, number, kind):
    case, error = Case(tmp_path), kind()
    before = case.state()
    result = None
    with monkeypatch.context() as patch:
        calls = fail(patch, call, number, error)
        try:
            result = case.build(way)
        except (OSError, KeyboardInterrupt) as caught:
            assert caught is error
    if result is not None:
        assert len(calls) < number, "nothing failed"
        if result.undo:
            undone(case, result)
        else:
            case.out.unlink()
    assert case.state() == before


def test_no_space_for_what_is_appended_is_found_before_headers_change(tmp_path, monkeypatch):
    case = Case(tmp_path)
    before = case.state()
    seen = []

    def full(fd, offset, length):
        seen.append((offset, length))
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="full") as caught:
        case.build("in-place")
    assert caught.value.filename == str(case.target)
    assert seen == [(len(before[0]), (2880 + 40320) + (2880 + 2880))]
    assert case.state() == before


def test_a_target_that_changes_meanwhile_is_noticed_before_it_is_written(tmp_path, monkeypatch):
    case = Case(tmp_path)
    planned = plan.plan(case.document, "/")
    os.utime(case.target, ns=(0, 0))
    before = case.state()
    for way in ("in-place", "auto"):
        with pytest.raises(errors.Later, match="changed while"):
            build.write(planned, str(case.out), How(way))
    assert case.state() == before


def test_a_damaged_source_under_strict_sums_leaves_all_as_it_was(tmp_path):
    case = Case(tmp_path)
    sealed, _ = case.product("new")
    for path in (case.target, case.other):
        for flaw in (False, True):
            raw = bytearray(sealed)
            hdus = fitsfile.read_structure(str(case.out)).hdus
            if flaw:
                raw[hdus[1].data_offset] ^= 1
            shutil.copy(case.target, tmp_path / "keep")
            path.write_bytes(raw)
            before = case.state()
            for way in ("new", "in-place"):
                out = tmp_path / "strict.fits"
                how = How(way, "strict", product=str(out))
                if not flaw:
                    result = build.build(case.document, "/", str(out), how)
                    result.release()
                    if result.undo:
                        undo.restore(str(case.target))
                    else:
                        out.unlink()
                else:
                    with pytest.raises(Damaged, match="HDU 1 of"):
                        build.build(case.document, "/", str(out), how)
                assert case.state() == before
            shutil.copy(tmp_path / "keep", case.target)


def test_two_merges_of_one_target_never_meet(tmp_path):
    case = Case(tmp_path)
    planned = plan.plan(case.document, "/")
    first = case.build("in-place")
    with pytest.raises(errors.Later, match="another merge"):
        build.write(planned, str(case.out), How("in-place"))
    with pytest.raises(errors.Later, match="another merge"):
        case.build("in-place")
    os.rename(case.target, tmp_path / "final.fits")
    with pytest.raises(errors.Later, match="another merge"):
        undo.restore(str(case.target))
    first.release()
    assert undo.restore(str(case.target)) is True


@pytest.mark.parametrize("flaw", [KeyboardInterrupt, MemoryError])
def test_an_end_after_the_last_write_gives_the_target_back(tmp_path, monkeypatch, flaw):
    case = Case(tmp_path)
    before = case.state()

    def die(*_):
        raise flaw

    monkeypatch.setattr(build, "Built", die)
    with pytest.raises(flaw):
        case.build("in-place")
    assert case.state() == before


@pytest.mark.parametrize("digest", [False, True])
@pytest.mark.parametrize("grown", [1, 70])
def test_room_is_inserted_for_a_primary_header_that_grows(shared, grown, digest):
    case = Case(shared, "ONE     = 1")
    case.document["sources"].append(keyword_source("m", *[
        value(f"MORE{n}", n) for n in range(36 * grown)]))
    before = case.state()
    new, _ = case.product("new")
    case.out.unlink()
    made, result = case.product("insert", digest=digest)
    assert (result.way, result.warnings) == ("insert", [])
    if digest:
        assert result.sha256 == hashlib.sha256(made).hexdigest()
    ours, theirs = (fitsfile.read_structure(path).hdus for path in (
        result.path, _put(shared / "new.fits", new)))
    assert len(ours[0].header) == 2880 + 184320 * (1 if grown == 1 else 2)
    assert [c for c in ours[0].cards if c.strip() and c[:8] not in SEAL] == [
        c for c in theirs[0].cards if c.strip() and c[:8] not in SEAL]
    assert made[ours[0].end:] == new[theirs[0].end:]
    assert checksum.data_sum(ours[0].header) == 0xFFFFFFFF
    (shared / "new.fits").unlink()
    os.rename(result.path, shared / "final.fits")
    undone(case, result)
    (shared / "final.fits").unlink()
    after = case.state()
    assert (after[:2], after[3:]) == (before[:2], before[3:])


def _put(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_where_nothing_can_be_inserted_a_new_file_is_written(tmp_path, monkeypatch):
    case = Case(tmp_path, "ONE     = 1")
    before = case.state()
    want, _ = case.product("new")
    case.out.unlink()
    monkeypatch.setattr(undo, "insert", lambda *_: False)
    got, result = case.product("insert")
    assert (got, result.way) == (want, "new")
    assert "cannot insert" in result.warnings[-1]
    case.out.unlink()
    assert case.state() == before


def test_insert_is_in_place_when_there_is_room(tmp_path):
    case = Case(tmp_path)
    _, result = case.product("insert")
    assert result.way == "in-place"


def test_large_data_units_share_their_blocks(shared, monkeypatch):
    case = Case(shared, data=3_000_001)
    (shared / "short.fits").write_bytes((primary() + image(os.urandom(2_000_000)))[:-1500])
    case.document["sources"].append(file_source("c", shared / "short.fits"))
    want, _ = case.product("new")
    theirs = fitsfile.read_structure(str(case.out)).hdus
    made, result = case.product("share", digest=True)
    assert (result.way, result.sha256) == ("share", hashlib.sha256(made).hexdigest())
    ours = fitsfile.read_structure(str(case.out)).hdus
    sources = [*fitsfile.read_structure(str(case.target)).hdus,
               *fitsfile.read_structure(str(case.other)).hdus[1:],
               *fitsfile.read_structure(str(shared / "short.fits")).hdus[1:]]
    large = 0
    for one, other, source in zip(ours, theirs, sources, strict=True):
        data = made[one.data_offset:one.end]
        assert data == want[other.data_offset:other.end]
        assert [c for c in one.cards if c.strip() and c[:8] != b"CHECKSUM"] == [
            c for c in other.cards if c.strip() and c[:8] != b"CHECKSUM"]
        assert checksum.add(checksum.data_sum(one.header), checksum.data_sum(data)) in (
            0, 0xFFFFFFFF)
        if len(data) >= sharing.LARGE:
            large += 1
            assert (one.data_offset - source.data_offset) % 4096 == 0
        elif one.index:
            assert len(one.header) == len(other.header)
    assert large == 3


def test_share_says_when_nothing_is_shared(tmp_path):
    case = Case(tmp_path)
    want, _ = case.product("new")
    case.out.unlink()
    got, result = case.product("share")
    assert (got, result.way) == (want, "new")
    assert "nothing is shared" in result.warnings[-1]


@pytest.mark.parametrize("short", [1, 2800, 2879])
@pytest.mark.parametrize("kind", ["IMAGE", "TABLE"])
def test_a_short_last_block_of_the_target_is_completed(tmp_path, shared, kind, short):
    fill = b" " if kind == "TABLE" else b"\0"
    for folder, way in ((tmp_path, "new"), (tmp_path, "in-place"), (shared, "clone")):
        case = Case(folder)
        whole = primary(*ROOM) + image(b"x", *ROOM, first=f"XTENSION= '{kind:8}'")
        case.target.write_bytes(whole[:-short])
        before = case.state()
        made, result = case.product(way, digest=True)
        assert result.way == way
        hdu = fitsfile.read_structure(result.path).hdus[1]
        assert made[hdu.data_offset:hdu.end] == b"x" + (
            bytes(2879 - short) + fill * short if way else b"")
        assert checksum.add(checksum.data_sum(hdu.header), checksum.data_sum(
            made[hdu.data_offset:hdu.end])) == 0xFFFFFFFF
        assert result.sha256 == hashlib.sha256(made).hexdigest()
        assert [(a["id"], a["severity"]) for a in result.alerts] == [
            ("short-block:a:t.fits[1]", "info")]
        if way == "in-place":
            undone(case, result)
        else:
            case.out.unlink()
        assert case.state() == before


def test_a_header_without_its_blanks_is_completed_in_place(tmp_path):
    case = Case(tmp_path)
    case.target.write_bytes(primary(*ROOM)[:-1000])
    case.document["sources"] = [KEYS]
    before = case.state()
    for way in ("new", "in-place"):
        made, result = case.product(way)
        assert (result.way, len(made) % 2880, checksum.data_sum(made)) == (way, 0, 0xFFFFFFFF)
        if way == "in-place":
            undone(case, result)
        else:
            case.out.unlink()
        assert case.state() == before


@pytest.mark.parametrize("failing", [False, True])
def test_two_threads_give_the_sums_of_one(tmp_path, monkeypatch, failing):
    case = Case(tmp_path, data=3_000_000)
    before = case.state()
    want, _ = case.product("new")
    case.out.unlink()
    monkeypatch.setattr(standing, "TWO_THREADS_FROM", 1)
    monkeypatch.setattr(standing, "SHARE", 2880 * 100)
    monkeypatch.setattr(standing, "BUFFER", 2880 * 10)
    monkeypatch.setattr(standing, "SMALL", 2880 * 9)
    monkeypatch.setattr(standing._Sums, "_is_cached", lambda self: True)
    helped = []
    real = standing._Sums._help

    def help_out(self, done):
        helped.append(True)
        if failing:
            self._next = iter([standing._Share(0, 10**9, [SimpleNamespace(index=1)])])
        real(self, done)

    monkeypatch.setattr(standing._Sums, "_help", help_out)
    if failing:
        with pytest.raises(Exception, match="became shorter"):
            case.build("in-place")
        assert case.state() == before
    else:
        got, result = case.product("in-place")
        assert (got, result.way) == (want, "in-place")
    assert helped


def test_a_file_that_is_cached_is_known_as_such(tmp_path, monkeypatch):
    case = Case(tmp_path, data=3_000_000)
    case.target.read_bytes()
    asked = []
    real = standing._Sums._is_cached
    monkeypatch.setattr(standing, "TWO_THREADS_FROM", 1)
    monkeypatch.setattr(standing._Sums, "_is_cached",
                        lambda self: (asked.append(real(self)), False)[1])
    case.build("in-place")
    assert asked == [True]

    def cold(*_):
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", cold)
        sums = standing._Sums.__new__(standing._Sums)
        sums._shares = [standing._Share(0, 1000, [])]
        sums._reader = type("Reader", (), {"fd": 0})
        assert real(sums) is False


def test_the_words_for_ways_and_sums():
    assert list(WAYS) == ["auto", "new", "clone", "in-place", "insert", "share"]
    assert list(SUMS) == ["verify", "trust", "strict"]
    how = How()
    assert (how.way, how.sums, how.sync, how.digest, how.stamp, how.in_place_ok) == (
        "auto", "verify", True, False, "primary", False)
    assert build.How is How


def test_progress_reaches_the_end_in_every_way(tmp_path):
    for way in ("new", "in-place"):
        case, seen = Case(tmp_path, data=20_000_000), []
        result = case.build(way, progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen[-1] == (result.size, result.size)
        assert seen == sorted(seen)
        assert len(seen) > 2


def test_obstacles_are_found_without_a_word_about_headers(tmp_path):
    case = Case(tmp_path, "ONE     = 1")
    planned = plan.plan(case.document, "/")
    assert planned.parts[0].input is not None
    assert inplace.obstacle(planned, planned.parts[0].input, How(), str(case.out)) == ""
    assert "1 more block" in ways.unfit(planned, planned.parts[0].input)

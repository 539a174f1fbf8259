"""The undo journal: a merge target comes back whole, wherever a merge or its undoing dies."""

from __future__ import annotations

import os
import signal
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daq_merge import build, undo
from daq_merge.how import How
from daqlib import crashpoints, errors, fsops
from merge_samples import file_source, image, keyword_source, primary, specification, value

ROOM = [""] * 40
DATA = os.urandom(700_000)
STEPS = ["inplace.journal", "inplace.inserted", "inplace.appended", "inplace.headers",
         "inplace.synced"]
BACK = ["undo.cut", "undo.length", "undo.headers"]
AGAIN = ["undo.copied", "undo.renamed"]


class Bench:
    """A merge target in a folder, and what it was."""

    def __init__(self, folder, way="in-place"):
        self.folder, self.way = folder, way
        self.target, self.final = folder / "t.fits", folder / "final.fits"
        room = ROOM if way == "in-place" else ["ONE     = 1"]
        self.target.write_bytes(primary(*room) + image(DATA, *ROOM) + image(b"abc", *ROOM))
        (folder / "b.fits").write_bytes(primary() + image(DATA[::-1]) + image(b"z"))
        self.target.chmod(0o640)
        os.utime(self.target, ns=(10**18, 10**18 + 7))
        self.document = specification(
            keyword_source("k", *[value(f"KEY{n}", n) for n in range(40)]),
            file_source("b", folder / "b.fits"), target=file_source("a", self.target))
        self.before = self.state()

    def state(self):
        status = self.target.stat()
        return (self.target.read_bytes(), status.st_mtime_ns, status.st_mode)

    def merge(self, sync=True):
        """Merge in place and name the product, as the command does."""
        out = fsops.temporary(str(self.final))
        result = build.build(self.document, "/", out, How(self.way, sync=sync,
                                                          product=str(self.final)))
        fsops.move(result.path, str(self.final))
        undo.forget(result.undo)
        return result

    def rest(self):
        return sorted(name for name in os.listdir(self.folder)
                      if name not in ("t.fits", "b.fits", "final.fits"))

    def swept(self):
        fsops.sweep(str(self.folder))
        return self.rest()


@pytest.fixture(autouse=True)
def still(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763692200.25")


def dies(point, work):
    """Whether the work, in a process of its own, dies at a crash point; else it succeeds."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.environ["DAQ_CRASH"] = point
            crashpoints._armed = True
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def product(folder, way):
    clean = folder / "clean"
    clean.mkdir()
    bench = Bench(clean, way)
    assert bench.merge().way == way
    return bench.final.read_bytes()


@pytest.fixture(params=["in-place", "insert"])
def way(request, tmp_path):
    if request.param == "insert":
        with open(tmp_path / "probe", "w+b") as file:
            file.write(bytes(400_000))
            file.flush()
            if not undo.insert(file.fileno(), 184320):
                pytest.skip("this file system cannot insert into files")
    return request.param


@pytest.mark.parametrize("step", [*STEPS, "put.created", "put.written", "put.synced",
                                  "put.renamed", "move.begin"])
@pytest.mark.parametrize("second", ["", *BACK])
def test_a_death_before_the_product_has_its_name(tmp_path, way, step, second):
    want = product(tmp_path, way)
    bench = Bench(tmp_path, way)
    assert dies(step, bench.merge)
    if second:
        dies(second, lambda: undo.restore(str(bench.target)))
    journal = os.path.exists(undo.path_of(str(bench.target)))
    assert undo.restore(str(bench.target)) is journal
    assert bench.state() == bench.before
    assert [name for name in bench.swept() if name not in ("clean", "probe")] == []
    assert bench.merge().way == way
    assert bench.final.read_bytes() == want


@pytest.mark.parametrize("step", ["move.renamed", "move.synced"])
@pytest.mark.parametrize("second", ["", *AGAIN])
def test_a_death_after_the_product_has_its_name(tmp_path, way, step, second):
    want = product(tmp_path, way)
    bench = Bench(tmp_path, way)
    assert dies(step, bench.merge)
    assert bench.final.read_bytes() == want
    if second:
        assert dies(second, lambda: undo.restore(str(bench.target)))
    warned = []
    assert undo.restore(str(bench.target), warned.append) is (second != "undo.renamed")
    assert len(warned) == (second == "undo.renamed")
    assert bench.state() == bench.before
    assert bench.final.read_bytes() == want, "the product stays"
    assert [name for name in bench.swept() if name not in ("clean", "probe")] == []
    assert undo.restore(str(bench.target)) is False


def test_without_syncing_a_death_is_undone_as_well(tmp_path):
    bench = Bench(tmp_path)
    for step in STEPS:
        if step != "inplace.inserted":
            assert dies(step, lambda: bench.merge(sync=False))
        assert undo.restore(str(bench.target)) is (step != "inplace.inserted")
        assert bench.state() == bench.before
        assert bench.swept() == []


def test_after_a_merge_nothing_is_left_to_undo(tmp_path):
    bench = Bench(tmp_path)
    bench.merge()
    assert (undo.restore(str(bench.target)), bench.rest()) == (False, [])
    assert not bench.target.exists()
    undo.forget("")
    undo.forget(str(tmp_path / "absent"))


def interrupted(bench, step="inplace.headers"):
    assert dies(step, bench.merge)
    return undo.path_of(str(bench.target))


def test_a_journal_of_another_file_is_removed(tmp_path):
    bench = Bench(tmp_path)
    interrupted(bench)
    # ext4 uses the inode again at once
    bench.target.unlink()
    bench.target.write_bytes(bench.before[0])
    content, warned = bench.target.read_bytes(), []
    assert undo.restore(str(bench.target), warned.append) is False
    assert "another file now" in warned[0]
    assert bench.target.read_bytes() == content
    assert bench.rest() == []


def test_a_product_that_is_gone_is_told(tmp_path):
    bench = Bench(tmp_path)
    journal = interrupted(bench, "move.synced")
    bench.final.rename(tmp_path / "elsewhere.fits")
    for content in (None, b"something else"):
        if content:
            bench.final.write_bytes(content)
        with pytest.raises(errors.BadData, match="is not there any more"):
            undo.restore(str(bench.target))
        assert os.path.exists(journal)
        assert not bench.target.exists()
    os.replace(tmp_path / "elsewhere.fits", bench.final)
    assert undo.restore(str(bench.target)) is True
    assert bench.state() == bench.before


def test_a_kept_link_finds_a_product_that_was_moved(tmp_path):
    bench = Bench(tmp_path)
    interrupted(bench, "move.synced")
    undo.keep(str(bench.target), str(bench.final))
    undo.keep(str(bench.target), str(bench.final))
    bench.final.unlink()
    assert undo.restore(str(bench.target)) is True
    assert bench.state() == bench.before
    assert bench.rest() == []


def test_a_target_that_somebody_shortened_is_not_touched(tmp_path):
    bench = Bench(tmp_path)
    journal = interrupted(bench)
    os.truncate(bench.target, 100_000)
    content = bench.target.read_bytes()
    with pytest.raises(errors.BadData, match="before the merge that is to be undone"):
        undo.restore(str(bench.target))
    assert bench.target.read_bytes() == content
    assert os.path.exists(journal)


@pytest.mark.parametrize("change", [
    lambda raw: raw + b"more", lambda raw: raw[:5760] + bytes(len(raw) - 5760)],
    ids=["longer", "other headers"])
def test_a_target_that_somebody_rewrote_is_not_touched(tmp_path, change):
    bench = Bench(tmp_path)
    journal = interrupted(bench)
    content = change(bench.target.read_bytes())
    bench.target.write_bytes(content)
    with pytest.raises(errors.BadData, match="before the merge that is to be undone"):
        undo.restore(str(bench.target))
    assert bench.target.read_bytes() == content
    assert os.path.exists(journal)


def test_a_damaged_journal_changes_nothing(tmp_path):
    bench = Bench(tmp_path)
    path = interrupted(bench)
    with open(path, "rb") as file:
        journal = file.read()
    content = bench.target.read_bytes()
    broken = [journal[:at] for at in (*range(0, 300), *range(300, len(journal), 331))]
    for at in (*range(0, 300), *range(300, len(journal), 331)):
        flipped = bytearray(journal)
        flipped[at] ^= 4
        broken.append(bytes(flipped))
    broken.append(journal + b"x")
    for one in broken:
        with open(path, "wb") as file:
            file.write(one)
        with pytest.raises(errors.BadData, match="journal .* is damaged"):
            undo.restore(str(bench.target))
    assert bench.target.read_bytes() == content
    with open(path, "wb") as file:
        file.write(journal)
    assert undo.restore(str(bench.target)) is True
    assert bench.state() == bench.before


def test_where_no_journal_can_be_there_is_nothing_to_do(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "absent" / "t.fits", tmp_path / "file" / "t.fits",
                 tmp_path / ("t" * 252), tmp_path / "t.fits"):
        assert undo.restore(str(path)) is False


NUMBERS = st.integers(0, 2**63)


@given(st.lists(NUMBERS, min_size=8, max_size=8), st.text().filter(lambda t: "\0" not in t),
       st.lists(st.tuples(NUMBERS, NUMBERS, st.binary(max_size=300)), max_size=9))
def test_what_is_written_is_read(numbers, name, headers):
    name = name.encode("utf-8", "replace").decode()
    journal = undo.Journal(*numbers, name, headers)
    again = undo._unpacked(undo._packed(journal))
    for field in undo.Journal.__slots__:
        assert getattr(again, field) == getattr(journal, field)


def test_products_with_any_bytes_in_their_path_are_found(tmp_path):
    bench = Bench(tmp_path)
    folder = tmp_path / os.fsdecode(b"\xff\n \xe9")
    folder.mkdir()
    bench.final = folder / "final.fits"
    interrupted(bench, "move.synced")
    assert undo.restore(str(bench.target)) is True
    assert bench.state() == bench.before
    assert bench.final.exists()


def test_a_failed_undo_keeps_the_journal_and_can_be_repeated(tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    for step in ("inplace.headers", "move.synced"):
        journal = interrupted(bench, step)
        for call in ("ftruncate", "pwrite", "utime", "fsync"):
            with monkeypatch.context() as patch:
                def fail(*_, **__):
                    raise OSError(5, "disk")
                patch.setattr(os, call, fail)
                with pytest.raises(OSError, match="disk"):
                    undo.restore(str(bench.target))
            assert os.path.exists(journal)
            assert [name for name in bench.rest() if name.startswith(".tmp-")] == []
        assert undo.restore(str(bench.target)) is True
        assert bench.state() == bench.before
        bench.final.unlink(missing_ok=True)

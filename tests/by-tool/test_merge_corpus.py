"""Fidelity, shown on files that are easily damaged: the same bytes come out, or a clear refusal.

What must come out is decided by ``fits_check``, which shares no code with the tools; products are
shown to fitsverify and astropy as well. Most merges run in forked children (``merge_trials``);
that ``bin/daq-merge`` does the same is shown at the end.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fits_check
import merge_corpus
from fits_check import BLOCK, CARD
from harness import SYSTEM_PATH, Daq
from merge_corpus import CASES, one_image, victim, zipped
from merge_samples import FOLDER, SAMPLES, image, primary
from merge_trials import (
    LAST,
    MORE,
    NAME,
    PRODUCT,
    TARGET,
    Trial,
    Trials,
    Worker,
    astropy_renders,
    astropy_trouble,
    companion,
    fitsverify,
    merge,
    readable,
    roomy,
    specification,
    ways,
)
from reflinks import reflink_folder

pytestmark = [pytest.mark.xdist_group("daq-merge-corpus")]

#: The ways that are different on a file system whose files can share blocks.
SHARING = ("auto", "clone", "insert", "share")
#: What a file can be in a merge.
ROLES = ("target", "source", "image", "beside")
SEALS = (b"CHECKSUM=", b"DATASUM =")


@pytest.fixture(scope="module")
def sharing(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Trials on a file system whose files can share blocks."""
    with reflink_folder(tmp_path_factory.mktemp("reflink")) as folder:
        yield Trials(worker, folder)


# -- the corpus -----------------------------------------------------------------------------------


@pytest.mark.needs("fitsverify")
@pytest.mark.parametrize("name", CASES)
def test_every_case_comes_out_whole_or_is_refused(trials: Trials, tmp_path: Path, name: str
                                                  ) -> None:
    blob = CASES[name]()
    why = readable(blob)
    made = [merge(trials, role, blob, "--way", way)
            for role in ROLES for way in ways(role)]
    for one in made:
        if name not in merge_corpus.DOUBTFUL:
            assert one.merged == (not why), f"{why}\n  {one.told()}"
    others_agree(tmp_path, blob, [one.product for one in made if one.merged])


def others_agree(folder: Path, blob: bytes, products: list[Path]) -> None:
    """The product has no error that the file had not, and astropy finds its sums right."""
    seen: dict[bytes, Path] = {}
    for path in products:
        seen.setdefault(path.read_bytes(), path)
    if not seen:
        return
    # the file as it would be without the faults that a merge mends: a short block, wrong sums
    original = folder / "original.fits"
    original.write_bytes(b"".join(
        _unsealed(unit.header) + unit.data + unit.fill
        for unit in fits_check.units(fits_check.plain(blob))))
    found = fitsverify([original, *seen.values()])
    # fitsverify 4.20 dies of 999 axes
    assert max(found[1:] or [0]) <= found[0] if found else not fitsverify([original]), seen
    if astropy_renders(original):
        assert [astropy_trouble(path) for path in seen.values()] == [""] * len(seen)


def _unsealed(raw: bytes) -> bytes:
    lines = [raw[at:at + CARD] for at in range(0, len(raw), CARD)]
    return b"".join(b"COMMENT".ljust(CARD) if line[:9].upper() in SEALS else line
                    for line in lines)


@pytest.mark.parametrize("way", SHARING)
def test_where_blocks_can_be_shared_all_is_as_faithful(sharing: Trials, way: str) -> None:
    merged = 0
    for name, maker in CASES.items():
        blob = maker()
        if readable(blob):
            continue
        for role in ("target", "beside") if way in ("clone", "insert") else ROLES:
            made: Trial = getattr(sharing, role)(blob, "--way", way, "--no-sync")
            assert made.wrong == [], f"{name}\n  {made.told()}"
            # a clone has to fit its headers into the room that is there, the others never give up
            if way != "clone" and name not in merge_corpus.DOUBTFUL:
                assert made.merged, f"{name}\n  {made.told()}"
            merged += made.merged
            shutil.rmtree(made.folder)
    assert merged > 50


def test_room_is_made_in_the_middle_of_a_file(sharing: Trials) -> None:
    full = primary(*(f"K{n:<7}= {n:>20}" for n in range(32))) + image(b"x" * 600_000)
    made = merge(sharing, "target", full, "--way", "insert")
    assert made.merged and made.in_place, made.told()


@pytest.mark.parametrize("way", ["in-place", "insert"])
def test_in_place_is_in_place(trials: Trials, way: str) -> None:
    """Where there is room the target itself becomes the product, whatever lies in it."""
    names = ["room", "primary_image", "random_groups", "nan_payloads", "foreign", "sums_stale",
             "short_data", "hierarch"]
    for name in names:
        made = merge(trials, "target", CASES[name](), "--way", way)
        assert made.in_place, f"{name}\n  {made.told()}"


def test_in_place_leaves_what_it_cannot_use(trials: Trials) -> None:
    full = primary(*(f"K{n:<7}= {n:>20}" for n in range(32))) + image(b"x")
    for blob in (full, zipped(one_image())):
        made = merge(trials, "target", blob, "--way", "in-place")
        assert made.merged and not made.in_place, made.told()
        assert "case.fits" in made.outcome.err  # a warning says so, and why


@pytest.mark.parametrize("way", ["new", "in-place", "insert"])
def test_one_file_in_several_places(trials: Trials, way: str) -> None:
    """Also where the target is read as a source of its own while it is changed."""
    files = {TARGET: victim(), MORE: CASES["gzip"]()}
    for target, sources in ((TARGET, [TARGET, MORE]), (TARGET, [MORE, MORE]),
                            (None, [TARGET, TARGET, MORE])):
        made = trials.run(files, target, sources, "--way", way)
        assert made.merged and made.wrong == [], made.told()


@pytest.mark.parametrize("way", ["in-place", "insert"])
def test_in_place_gives_the_target_back(trials: Trials, way: str) -> None:
    """What is found wrong with a source after the target was changed changes nothing."""
    files = {TARGET: CASES["room"](), MORE: damaged()}
    made = trials.run(files, TARGET, [MORE], "--way", way, "--strict")
    assert made.outcome.code == 112 and made.wrong == [], made.told()
    again = trials.run(files, TARGET, [MORE], "--way", way)
    assert again.merged and again.in_place and again.wrong == [], again.told()


@pytest.mark.parametrize("role", ROLES)
def test_stamps_in_every_header(trials: Trials, role: str) -> None:
    for name in ("room", "cards_35", "cards_36", "sums_from_astropy", "names_of_the_product",
                 "compressed_rice_1", "random_groups", "long_strings", "primary_image"):
        for way in ways(role):
            assert merge(trials, role, CASES[name](), "--way", way, "--stamp", "all").merged


def test_twice_the_same_merge_gives_the_same_bytes(trials: Trials) -> None:
    for name in ("odd_values", "random_groups", "gzip", "short_ascii_table"):
        one, two = (merge(trials, "target", CASES[name](), "--way", "new").product.read_bytes()
                    for _ in range(2))
        assert one == two, name


def test_a_dry_run_foresees_the_refusal_and_leaves_no_trace(trials: Trials) -> None:
    for name, maker in CASES.items():
        blob = maker()
        made: Trial = trials.target(blob, "--dry-run")
        assert made.wrong == (["there is no product"] if made.merged else []), made.told()
        if name not in merge_corpus.DOUBTFUL:
            assert made.merged == (not readable(blob)), made.told()


# -- sums -----------------------------------------------------------------------------------------


def damaged() -> bytes:
    """A file that astropy sealed, one bit of its data changed since."""
    blob = bytearray(CASES["sums_from_astropy"]())
    blob[2 * BLOCK + 17] ^= 4
    return bytes(blob)


@pytest.mark.parametrize("blob", [CASES["sums_stale"](), damaged()], ids=["stale", "damaged"])
@pytest.mark.parametrize("role", ["target", "source"])
def test_damage_is_told_and_never_sealed_silently(trials: Trials, role: str, blob: bytes) -> None:
    stated = fits_check.stated_sum(fits_check.units(blob)[1])
    assert stated
    for way in ways(role):
        made = merge(trials, role, blob, "--way", way)
        assert made.merged and "case.fits" in made.outcome.err and "HDU 1" in made.outcome.err
        assert stated.decode() in made.outcome.err
        unit = fits_check.units(made.product.read_bytes())[1]
        [card] = [card for card in unit.cards if card.startswith(b"DATASUM =")]
        assert b"MISMATCH" in card and stated in card, card
        strict = merge(trials, role, blob, "--way", way, "--strict")
        assert strict.outcome.code == 112 and "HDU 1" in strict.outcome.err, strict.told()


def test_right_sums_are_no_matter(trials: Trials) -> None:
    for name in ("sums_from_astropy", "sums_right_data_only", "sums_padded", "sums_zero"):
        for option in ("--strict", "--trust-sums"):
            made = merge(trials, "source", CASES[name](), option)
            assert made.merged and made.outcome.err == "", made.told()


# -- files that others wrote ----------------------------------------------------------------------

INVALID = sorted((FOLDER / "invalid").glob("*.fits"))
OTHERS = [*SAMPLES, *INVALID, *sorted(FOLDER.glob("*.fits.Z"))]


@pytest.mark.needs("fitsverify")
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_the_samples_of_astropy(trials: Trials, tmp_path: Path, path: Path) -> None:
    blob = path.read_bytes()
    made = [merge(trials, role, blob, "--way", way)
            for role in ROLES for way in ways(role)]
    made.append(merge(trials, "source", zipped(blob)))
    for one in made:
        assert one.merged == (not readable(blob)), one.told()
    others_agree(tmp_path, blob, [one.product for one in made if one.merged])


@pytest.mark.needs("fitsverify")
def test_all_samples_of_astropy_together(trials: Trials) -> None:
    files = {path.name: path.read_bytes() for path in SAMPLES}
    made = [trials.run(files, None, list(files)),
            trials.run(files, "test0.fits", [name for name in files if name != "test0.fits"])]
    for one in made:
        assert one.merged and one.wrong == [], one.told()
        assert astropy_trouble(one.product) == ""
    paths = [path for one in made for path in one.folder.glob("*.fits")]
    found = dict(zip(paths, fitsverify(paths), strict=True))
    for one in made:
        theirs = sum(count for path, count in found.items()
                     if path.parent == one.folder and path.name != PRODUCT)
        assert found[one.product] <= theirs


def test_fitscheck_has_nothing_to_say(trials: Trials) -> None:
    """The program that astropy's users run; it looks at the image inside a compressed one."""
    made = [merge(trials, "target", path.read_bytes()) for path in SAMPLES]
    plain = [str(one.product) for one in made if b"ZIMAGE  =" not in one.product.read_bytes()]
    assert len(plain) > 20
    program = shutil.which("fitscheck", path=os.path.dirname(sys.executable))
    assert program, "astropy brings fitscheck"
    said = subprocess.run([program, *plain], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, ""), said.stdout + said.stderr


@pytest.mark.needs("fitsverify", "dfits")
@pytest.mark.parametrize("way", ["new", "in-place", *SHARING])
def test_images_of_cameras_are_extensions_for_everybody(sharing: Trials, way: str) -> None:
    from astropy.io import fits

    two = {MORE: CASES["primary_image"](), LAST: zipped(CASES["primary_full_of_cards"]())}
    made = sharing.run({TARGET: roomy(), **two}, TARGET, list(two), "--way", way, images=True)
    assert made.merged and made.wrong == [], made.told()
    assert made.in_place == (way in ("in-place", "insert"))
    assert fitsverify([made.product]) == [0]
    program = Path(sys.executable).with_name("fitscheck")
    subprocess.run([program, made.product], check=True, capture_output=True)
    listed = subprocess.run(["dfits", "-x", "0", made.product], capture_output=True, check=True)
    assert listed.stdout.count(b"XTENSION= 'IMAGE") == 4
    with fits.open(made.product) as hdus, fits.open(made.folder / MORE) as camera:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "", "s0", "", "s1"]
        assert (hdus["s0"].data == camera[0].data).all()
        assert hdus["s0"].data.dtype == camera[0].data.dtype


# -- the judge itself -----------------------------------------------------------------------------


def test_nothing_that_is_wrong_escapes_the_judge(trials: Trials) -> None:
    """Each byte of a product that is changed is noticed, and so is each HDU that is not there."""
    made = merge(trials, "target", victim(), "--way", "new")
    good, names = made.product.read_bytes(), (f"{NAME}.fits", f"{NAME}.fits")

    def seen(product: bytes, target: bytes | None = victim()) -> list[str]:
        return fits_check.compare(product, target, [companion()], names=names)

    assert seen(good) == []
    chance = random.Random(6)
    for _ in range(200):
        at = chance.randrange(len(good))
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(7)
        assert seen(bytes(bad)), at
    assert seen(good[:-BLOCK * 2]) and seen(good[:-1]) and seen(good + bytes(BLOCK))
    assert seen(good, None) and seen(good, one_image())


DATA = bytes(fits_check.units(victim())[1].data[1000:1008])


def test_nothing_that_is_resealed_escapes_the_judge(trials: Trials) -> None:
    """A change that both sums were made to fit is seen by comparing with the file it came from."""
    changed = [(b"'FIRST'", b"'THIRD'"), (DATA, b"\1" * 8), (b"'victim'", b"'cousin'"),
               (b"DET ID = 7", b"DET ID = 8"), (b"TFORM1", b"TFORM1")]
    for old, new in changed:
        other = victim().replace(old, new)
        made = merge(trials, "target", other, "--way", "new")
        wrong = fits_check.compare(made.product.read_bytes(), victim(), [companion()],
                                   names=(f"{NAME}.fits", f"{NAME}.fits"))
        assert bool(wrong) == (old != new), (old, wrong)


# -- as a user runs it ----------------------------------------------------------------------------


@pytest.fixture
def alone(daq: Daq) -> Path:
    """A folder with a specification of one source, ``case.fits``, which is not there yet."""
    folder = daq.folder / "alone"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(specification(None, [TARGET])))
    return folder


@pytest.mark.parametrize("name", ["random_groups", "hierarch", "short_data", "gzip", "eight_bits",
                                  "sums_stale", "compressed_rice_1", "heap_1pe_4"])
def test_the_command_makes_the_same(daq: Daq, trials: Trials, alone: Path, name: str) -> None:
    made = merge(trials, "target", CASES[name](), "--way", "new")
    said = daq.run("daq-merge", made.folder / "spec.json", "-o", alone / PRODUCT, "--way", "new")
    assert said.ok().line() == str(alone / PRODUCT)
    assert (alone / PRODUCT).read_bytes() == made.product.read_bytes()


@pytest.mark.parametrize(("name", "code", "text"), [
    ("cut_data", 111, "cut"), ("empty", 111, "empty"), ("no_fits", 111, "not FITS"),
    ("no_end", 111, "END"), ("garbage_after", 111, "7 bytes"), ("gzip_wrong_crc", 111, "gzip"),
    ("gzip_cut", 111, "gzip"), ("simple_false", 111, "SIMPLE"), ("axis_negative", 111, "NAXIS1"),
])
def test_the_command_refuses_with_the_reason(daq: Daq, alone: Path, name: str, code: int,
                                             text: str) -> None:
    (alone / TARGET).write_bytes(CASES[name]())
    before = sorted(os.listdir(alone))
    daq.run("daq-merge", alone / "spec.json").fails(code, TARGET, text).no_output()
    assert sorted(os.listdir(alone)) == before


def test_what_is_no_file(daq: Daq, alone: Path) -> None:
    path, spec = alone / TARGET, alone / "spec.json"

    def refused(code: int, text: str) -> None:
        for role in (None, TARGET):
            spec.write_text(json.dumps(specification(role, [] if role else [TARGET])))
            for way in ("new", "in-place"):
                if role or way == "new":
                    daq.run("daq-merge", spec, "--way", way).fails(code, str(path), text)
            assert sorted(os.listdir(alone)) == sorted({"spec.json", *([TARGET] if there else [])})

    there = False
    refused(110, "no such file")
    there = True
    path.mkdir()
    refused(111, "not a regular file")
    path.rmdir()
    os.mkfifo(path)
    refused(111, "not a regular file")
    path.unlink()
    path.symlink_to("nowhere")
    refused(110, "no such file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(111, "not a regular file")
    path.unlink()
    path.symlink_to(TARGET)
    refused(74, "symbolic links")


def test_a_link_is_followed_for_reading_only(daq: Daq, alone: Path) -> None:
    """In place needs the file itself: a link's target may belong to somebody else."""
    real = alone / "real.fits"
    real.write_bytes(CASES["room"]())
    (alone / TARGET).symlink_to(real)
    (alone / "spec.json").write_text(json.dumps(specification(TARGET, [])))
    daq.run("daq-merge", alone / "spec.json", "-o", PRODUCT, "--way", "in-place").ok().says(TARGET)
    assert real.read_bytes() == CASES["room"]() and (alone / TARGET).is_symlink()
    os.link(real, alone / "other.fits")
    (alone / TARGET).unlink()
    os.link(real, alone / TARGET)
    daq.run("daq-merge", alone / "spec.json", "-o", "two.fits", "--way", "in-place").ok().says(
        TARGET)
    assert real.read_bytes() == CASES["room"]()
    assert (alone / "two.fits").read_bytes() == (alone / PRODUCT).read_bytes()


def test_a_file_without_permission(daq: Daq, alone: Path) -> None:
    """Root reads everything, unless it gives up the right to."""
    path = alone / TARGET
    path.write_bytes(one_image())
    path.chmod(0)
    command = daq.command("daq-merge", alone / "spec.json")
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv", path=SYSTEM_PATH)
        if not setpriv:
            pytest.skip("root may read everything, and there is no setpriv")
        command = [setpriv, "--bounding-set=-all", "--inh-caps=-all", *command]
    said = subprocess.run(command, env=daq.environment(), capture_output=True, text=True,
                          check=False, cwd=alone)
    assert said.returncode == 77 and said.stderr.count("\n") == 1, said.stderr
    assert str(path) in said.stderr and "Permission denied" in said.stderr
    assert sorted(os.listdir(alone)) == [TARGET, "spec.json"]

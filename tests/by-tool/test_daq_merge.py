from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daqlib import fitsfile
from harness import Daq, make_fits
from merge_samples import (
    CARD,
    SAMPLES,
    eso,
    file_source,
    keyword_source,
    sample,
    specification,
    value,
)

# an error that fitsverify finds in the sample itself will be found in the product, too
FAULTY = {"fixed-1890.fits", "random_groups.fits", "theap-gap.fits", "verify.fits",
          "vla_logical_pre_fix.fits", "zerowidth.fits"}


# -- stand-alone ----------------------------------------------------------------------------------


def write(folder: Path, document: object, name: str = "spec.json") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.fixture
def alone(daq: Daq) -> Path:
    """A folder with a file and a specification that names it by a relative path."""
    folder = daq.folder / "alone"
    folder.mkdir()
    make_fits(folder / "a.fits", 2)
    write(folder, specification(file_source("a", "a.fits"), keyword_source("k", value("OBJECT",
                                                                                     "M 31"))))
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_specification_makes_a_product_beside_it(daq: Daq, alone: Path) -> None:
    from astropy.io import fits

    made = daq.run("daq-merge", alone / "spec.json").ok()
    product = alone / "TEST.2026-11-21T02:30:00.123.fits"
    assert made.line() == str(product) and made.err == ""
    with fits.open(product, checksum=True) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "EXT1", "EXT2"]
        assert hdus[0].header["OBJECT"] == "M 31"
        assert hdus[0].header["DATE"] == "2026-11-21T02:30:00.000"
    assert daq.tree() == {}
    again = daq.run("daq-merge", alone / "spec.json").fails(73, "never overwritten", "--outfile")
    assert str(product) in again.err


def test_outfile_root_and_stdin(daq: Daq, alone: Path) -> None:
    text = (alone / "spec.json").read_text()
    daq.run("daq-merge", "-", "--root", alone, "-o", "b.fits", stdin=text).ok()
    daq.run("daq-merge", "-", "-o", "c.fits", stdin=text, cwd=alone).ok()  # the current directory
    elsewhere = write(daq.folder, text)
    daq.run("daq-merge", elsewhere).fails(110, str(daq.folder / "a.fits"))
    daq.run("daq-merge", elsewhere, "--root", alone, "-o", alone / "d.fits").ok()
    products = {(alone / name).read_bytes() for name in ("b.fits", "c.fits", "d.fits")}
    assert len(products) == 1


@pytest.mark.parametrize(("document", "code", "text"), [
    (None, 100, "spec.json: No such file"),
    ("{", 101, "not JSON"),
    ("[" * 100_000, 101, "not JSON"),
    ("\xff", 101, "not JSON"),
    ({}, 102, "'target' is a required property"),
    ([], 102, "is not of type 'object'"),
    (specification(), None, ""),
    (specification({"type": "fitsFile", "sourceName": "a"}), 102, "location"),
    ({"id": "x", "target": {"fileId": "../x"}}, 102, "'../x'"),
    ({"id": "x", "target": {"fileId": "x", "filePrefix": "/"}}, 102, "filePrefix"),
    (specification(file_source("a", "none.fits")), 110, "there is no such file"),
    (specification(target=file_source("a", "none.fits")), 110, "none.fits"),
    (specification(file_source("a", "spec.json")), 111, "is not FITS"),
    (specification(file_source("a", "cut.fits")), 111, "cut.fits"),
    (specification(keyword_source("k", value("NAXIS", 7))), 111, "NAXIS"),
])
def test_the_codes_of_the_manual(daq: Daq, alone: Path, document: Any, code: int | None,
                                 text: str) -> None:
    (alone / "cut.fits").write_bytes((alone / "a.fits").read_bytes()[:-2980])
    (alone / "spec.json").unlink()
    if document is not None:
        write(alone, document)
    before = listing(alone)
    done = daq.run("daq-merge", alone / "spec.json", "-o", "out.fits")
    if code is None:
        done.ok()
        return
    done.fails(code, text).no_output()
    assert listing(alone) == before


def test_usage(daq: Daq, alone: Path) -> None:
    daq.run("daq-merge").fails(64, "--job")
    daq.run("daq-merge", alone / "spec.json", "--job", "x").fails(64, "exclude each other")
    daq.run("daq-merge", alone / "spec.json", "--all").fails(64, "exclude each other")
    daq.run("daq-merge", alone / "spec.json", "-o", "none/x.fits").fails(
        74, "none: no such directory")


def test_a_dry_run_leaves_no_trace(daq: Daq, alone: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in alone.iterdir()}
    said = daq.run("daq-merge", "--dry-run", alone / "spec.json").ok().no_output()
    assert "would write" in said.err and "3 HDUs" in said.err
    planned = daq.run("daq-merge", "-n", "--json", alone / "spec.json", "-l", "log").json()
    assert (planned["event"], planned["hdus"]) == ("plan", 3)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in alone.iterdir()}
    assert after == before
    daq.run("daq-merge", alone / "spec.json").ok()
    assert planned["size"] == Path(planned["product"]).stat().st_size
    daq.run("daq-merge", "-n", alone / "spec.json").fails(73, "never overwritten")


def test_status_messages(daq: Daq, alone: Path) -> None:
    document = specification(file_source("a", "a.fits"),
                             file_source("b", sample("test0.fits")),
                             file_source("c", sample("arange.fits")))
    write(alone, document)
    said = daq.run("daq-merge", "--json", alone / "spec.json", "-l", "merge.log").ok()
    lines = said.jsonl()
    assert [line["event"] for line in lines if line["event"] != "progress"] == [
        "plan", "alert", "done"]
    assert "arange.fits" in said.err and "arange.fits" in lines[-2]["message"]
    assert all(line["time"].endswith("Z") for line in lines)
    assert (alone / "merge.log").read_text().splitlines() == said.out.splitlines()
    done = lines[-1]
    assert done["size"] == os.path.getsize(done["product"])
    daq.run("daq-merge", alone / "spec.json", "-o", "again.fits", "-l", "merge.log").ok()
    logged = [json.loads(line) for line in (alone / "merge.log").read_text().splitlines()]
    assert [line["event"] for line in logged[len(lines):]] == ["plan", "alert", "done"]


# -- a job ----------------------------------------------------------------------------------------


def collected(daq: Daq, job: str = "j", **members: Any) -> str:
    """A job in merge/, ready to be merged."""
    path = daq.folder / "a.fits"
    if not path.exists():
        make_fits(path, 2)
    daq.drop("collect", job, {"sources": [file_source("a", path)], **members})
    daq.run("daq-collect", "--job", job).ok()
    return job


def sealed(daq: Daq, job: str = "j") -> dict[str, Any]:
    [event] = [event for event in daq.history(job) if event["event"] == "sealed"]
    return event


def test_a_job_is_merged_and_moved_on(daq: Daq) -> None:
    job = collected(daq, filePrefix="P_")
    told = daq.run("daq-merge", "--json", "--job", job).ok().json()
    assert (told["id"], told["code"], told["place"]) == (job, 0, "release")
    assert daq.tree() == {"release": [job]}
    [name] = daq.results()
    product = daq.spool / "result" / name
    facts = sealed(daq)
    assert name.startswith("P_UNDEF.") and facts["product"] == name
    assert facts["size"] == product.stat().st_size and product.stat().st_mode & 0o222 == 0
    assert os.path.samefile(daq.spool / "data" / job / "result", product)
    assert daq.events(job)[-3:] == ["start", "sealed", "ok"]
    daq.run("daq-merge", "--job", job).fails(66, "release/")
    daq.run("daq-merge", "--job", "nobody").fails(66, "nobody")


def test_a_second_run_does_nothing_unless_forced(daq: Daq) -> None:
    job = collected(daq)
    daq.run("daq-merge", "--job", job).ok()
    [name] = daq.results()
    product = daq.spool / "result" / name
    before = product.stat().st_ino, product.read_bytes()
    back = (daq.spool / "release" / f"{job}.json"), (daq.spool / "merge" / f"{job}.json")
    back[0].rename(back[1])
    daq.run("daq-merge", "--job", job).ok()
    assert daq.events(job).count("start") == 2  # one of collect, one of merge
    back[0].rename(back[1])
    daq.run("daq-merge", "--job", job, "--force").ok()
    assert daq.events(job).count("sealed") == 2
    assert (product.stat().st_ino, product.read_bytes()) == before  # the same again: left alone


@pytest.mark.parametrize("point", ["publish.sealed", "publish.renamed", "stage.worked",
                                   "stage.manifest", "stage.committed"])
def test_a_try_that_died_is_taken_up(daq: Daq, point: str) -> None:
    job = collected(daq)
    daq.run("daq-merge", "--job", job, env={"DAQ_CRASH": point}).died(9)
    published = daq.results()
    assert len(published) == (point != "publish.sealed")
    if point != "stage.committed":
        daq.run("daq-merge", "--job", job).ok()
    assert daq.tree() == {"release": [job]} and len(daq.results()) == 1
    assert all(not name.startswith(".tmp") for name in os.listdir(daq.spool / "result"))
    # the product of the first try is recognised by its digest and not built again
    assert daq.events(job).count("sealed") == (2 if point == "publish.sealed" else 1)


def test_a_name_that_is_taken_by_other_content(daq: Daq) -> None:
    job = collected(daq, fileId="TAKEN.2026-11-21T02:30:00.000")
    other = daq.spool / "result" / "TAKEN.2026-11-21T02:30:00.000.fits"
    other.write_text("somebody else's")
    daq.run("daq-merge", "--job", job).fails(73, job, "exists with other content",
                                             f"mv failed/{job}.json merge/")
    assert daq.tree() == {"failed": [job]} and other.read_text() == "somebody else's"
    assert daq.results() == [other.name] and "defer" not in daq.events(job)  # no retries
    other.unlink()
    (daq.spool / "failed" / f"{job}.json").rename(daq.spool / "merge" / f"{job}.json")
    daq.run("daq-merge", "--job", job).ok()


def test_a_job_that_was_edited_is_built_anew(daq: Daq) -> None:
    from astropy.io import fits

    job = collected(daq)
    daq.run("daq-merge", "--job", job).ok()
    [first] = daq.results()
    path = daq.spool / "release" / f"{job}.json"
    document = json.loads(path.read_text())
    document["filePrefix"] = "EDITED_"
    document["keywords"] = [eso("OBS ID", 42)]
    path.write_text(json.dumps(document))
    path.rename(daq.spool / "collect" / f"{job}.json")
    daq.run("daq-collect", "--job", job).ok()
    daq.run("daq-merge", "--job", job).ok()
    assert sorted(daq.results()) == sorted([first, f"EDITED_{first}"])  # products are never lost
    assert fits.getval(daq.spool / "result" / f"EDITED_{first}", "ESO OBS ID") == 42
    assert os.readlink(daq.spool / "data" / job / "result").endswith(f"EDITED_{first}")


def test_an_input_that_is_damaged_after_collection(daq: Daq) -> None:
    job = collected(daq)
    [source] = (daq.spool / "data" / job / "sources").glob("*.fits")
    source.chmod(0o644)
    source.write_bytes(source.read_bytes()[:-2880])
    failed = daq.run("daq-merge", "--job", job)
    assert failed.code in (65, 75), failed
    assert daq.results() == []


def test_no_room_is_no_try(daq: Daq) -> None:
    job = collected(daq)
    config = daq.folder / "full.yaml"
    config.write_text("cfg:\n  floor:\n    result_bytes: 1000000000000000000\n")
    before = daq.events(job)
    daq.run("daq-merge", "--job", job, "--config", config).fails(75, "result_bytes", "free some")
    assert daq.events(job) == before and daq.tree() == {"merge": [job]}


def test_all_and_dry_run(daq: Daq) -> None:
    for job in ("a", "b"):
        collected(daq, job)
    planned = daq.run("daq-merge", "--all", "--dry-run").ok().out.splitlines()
    assert [line.partition(":")[0] for line in planned] == ["a", "b"]
    assert daq.tree() == {"merge": ["a", "b"]} and daq.results() == []
    daq.run("daq-merge", "--all").ok()
    assert daq.tree() == {"release": ["a", "b"]}


# -- real input -----------------------------------------------------------------------------------


@pytest.mark.needs("fitsverify")
def test_files_that_others_wrote_through_the_whole_chain(daq: Daq) -> None:
    """Each sample as the in-place target beside another file, and all of them in one product."""
    keywords = [value("OBSERVER", "O'Neil"), eso("OBS ID", 42)]
    for path in SAMPLES:
        daq.drop("collect", path.stem, {
            "sources": [file_source("own", path, alertUnmergeable=False),
                        file_source("more", sample("tb.fits"))],
            "mergeTarget": {"sourceName": "own"}, "keywords": keywords})
    sound = [path for path in SAMPLES if path.name not in FAULTY]
    daq.drop("collect", "everything", {"sources": [
        file_source(f"s{n}", path, alertUnmergeable=False) for n, path in enumerate(sound)]})
    for tool in ("daq-collect", "daq-merge", "daq-release"):
        daq.run(tool, "--all", timeout=120).ok()
    ids = sorted([*(path.stem for path in SAMPLES), "everything"])
    assert daq.tree() == {"done": ids}
    for path in SAMPLES:
        check_extensions(product(daq, path.stem), [path, sample("tb.fits")])
    check_extensions(product(daq, "everything"), sound)
    verify([product(daq, job) for job in ids if f"{job}.fits" not in FAULTY])
    check([product(daq, job) for job in ids])


def product(daq: Daq, job: str) -> Path:
    return (daq.spool / "data" / job / "result").resolve()


def check_extensions(made: Path, sources: list[Path]) -> None:
    """Every extension's bytes are those of its source apart from the checksum cards."""
    ours = fitsfile.read_structure(str(made)).hdus[1:]
    theirs = [(path, hdu) for path in sources
              for hdu in fitsfile.read_structure(str(path)).hdus[1:]]
    assert len(ours) == len(theirs)
    blob = made.read_bytes()
    for mine, (path, hdu) in zip(ours, theirs, strict=True):
        origin = path.read_bytes()
        assert cards(mine.header) == cards(hdu.header), (made, path, hdu.index)
        assert data(blob, mine) == data(origin, hdu), (made, path, hdu.index)


def cards(header: bytes) -> list[bytes]:
    lines = [header[n:n + CARD] for n in range(0, len(header), CARD)]
    return [line for line in lines
            if line.strip() and not line.startswith((b"CHECKSUM", b"DATASUM "))]


def data(blob: bytes, hdu: fitsfile.Hdu) -> bytes:
    return blob[hdu.data_offset:hdu.data_offset + hdu.data_size]


def verify(paths: list[Path]) -> None:
    found = subprocess.run(["fitsverify", "-e", "-q", *map(str, paths)], capture_output=True,
                           text=True, check=False)
    assert found.returncode == 0, found.stdout
    assert found.stdout.count("verification OK") == len(paths), found.stdout


def check(paths: list[Path]) -> None:
    from astropy.io import fits

    for path in paths:
        with fits.open(path, checksum=True, disable_image_compression=True,
                       do_not_scale_image_data=True) as hdus:
            for hdu in hdus:
                sums = hdu.verify_checksum(), hdu.verify_datasum()
                assert sums == (1, 1), (path, hdu.name, sums)
    # fitscheck itself looks at the image inside a compressed one, where the sums are not
    plain = [path for path in paths if b"ZIMAGE  =" not in path.read_bytes()]
    assert len(plain) > 20
    program = shutil.which("fitscheck", path=os.path.dirname(sys.executable))
    assert program, "astropy brings fitscheck"
    found = subprocess.run([program, *map(str, plain)], capture_output=True, text=True,
                           check=False)
    assert (found.returncode, found.stdout) == (0, ""), found.stdout + found.stderr

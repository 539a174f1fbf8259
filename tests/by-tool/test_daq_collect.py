"""daq-collect: the files of this host."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from collecting import collect, digest, document, put, sources, total
from daqlib import fitsfile
from harness import Daq, make_fits
from remote import configure


@pytest.fixture
def fits(daq: Daq) -> Path:
    """A FITS file with a modification time of its own."""
    path = make_fits(daq.folder / "in" / "a.fits")
    os.utime(path, ns=(10**18, 10**18 + 123456789))
    return path


def test_brings_files_and_specification(daq: Daq, fits: Path) -> None:
    second = make_fits(daq.folder / "in" / "b.fits", extensions=2)
    put(daq, fits, second, mergeTarget={"sourceName": "s1"}, filePrefix="P_",
        receivers=[{"type": "olasReceiver", "path": "/olas"}])
    collect(daq).ok().no_output()
    assert daq.tree() == {"merge": ["J1"]}
    found = sources(daq)
    assert sorted(found) == ["0_s0_a.fits", "1_s1_b.fits"]
    assert found["0_s0_a.fits"].read_bytes() == fits.read_bytes()
    assert found["0_s0_a.fits"].stat().st_mtime_ns == fits.stat().st_mtime_ns
    assert not found["0_s0_a.fits"].samefile(fits)
    made = document(daq, "specification.json")
    assert [source["location"] for source in made["sources"] if source["type"] == "fitsFile"] == [
        "sources/0_s0_a.fits", "sources/1_s1_b.fits"]
    assert made["target"]["source"] == made["sources"][1]
    assert made["target"]["filePrefix"] == "P_"
    assert made["receivers"] == [{"type": "olasReceiver", "path": "/olas"}]
    assert document(daq, "collect.json")["result"]["files"] == [
        {"sourceName": "s0", "origin": str(fits), "path": "sources/0_s0_a.fits",
         "size": fits.stat().st_size, "sum": total(fits)},
        {"sourceName": "s1", "origin": str(second), "path": "sources/1_s1_b.fits",
         "size": second.stat().st_size, "sum": total(second)}]
    assert daq.events("J1") == ["accepted", "start", "ok"]


def test_keywords_alone_make_a_specification(daq: Daq) -> None:
    keyword = {"type": "valueKeyword", "name": "OBJECT", "value": "M 1"}
    daq.drop("collect", "J1", {"sources": [
        {"type": "fitsKeywords", "sourceName": "k", "keywords": [keyword]}]})
    collect(daq).ok()
    made = document(daq, "specification.json")
    assert keyword in made["sources"][0]["keywords"] and "source" not in made["target"]


def test_settings_take_part(daq: Daq, fits: Path) -> None:
    receiver = {"type": "olasReceiver", "path": "/default"}
    configure(daq, instrument_id="XYZ", receivers=[receiver])
    put(daq, fits)
    collect(daq).ok()
    made = document(daq, "specification.json")
    assert made["receivers"] == [receiver]
    assert made["target"]["fileId"].startswith("XYZ.")


def test_missing_file(daq: Daq) -> None:
    put(daq, daq.folder / "nowhere" / "a.fits")
    collect(daq).fails(65, "source s0", "nowhere/a.fits", "No such file", "failed/")
    assert daq.tree() == {"failed": ["J1"]}


@pytest.mark.parametrize(("damage", "says"), [
    (lambda data: data[:-2880], "cut"),
    (lambda data: data[:3000], "cut"),
    (lambda data: b"no FITS at all", "not FITS"),
    (lambda data: b"", "empty"),
])
def test_damaged_file(daq: Daq, fits: Path, damage: Any, says: str) -> None:
    fits.write_bytes(damage(fits.read_bytes()))
    put(daq, fits)
    collect(daq).fails(65, "source s0", str(fits), says)
    assert daq.tree() == {"failed": ["J1"]} and sources(daq) == {}


def test_a_last_block_that_is_not_full_is_accepted(daq: Daq, fits: Path) -> None:
    """No data are missing; the merger fills it up, and an alert tells."""
    fits.write_bytes(fits.read_bytes()[:-100])
    put(daq, fits)
    collect(daq).ok()
    daq.run("daq-merge", "--job", "J1").ok()
    [alert] = [event for event in daq.history("J1") if event["event"] == "alert"]
    assert alert["id"].startswith("short-block") and "100 bytes" in alert["description"]
    [name] = daq.results()
    daq.run("daq-merge", "--verify", daq.spool / "result" / name).ok()


def test_an_edited_job_keeps_the_copies_whose_origins_are_gone(daq: Daq, fits: Path) -> None:
    """Keywords of the job are a source before all others, which shifts the names of the files."""
    put(daq, fits)
    collect(daq).ok()
    before = {digest(path) for path in sources(daq).values()}
    [name] = sources(daq)
    path = daq.spool / "merge" / "J1.json"
    job = json.loads(path.read_text())
    job["keywords"] = [{"type": "esoKeyword", "name": "OBS ID", "value": 42}]
    path.write_text(json.dumps(job))
    fits.unlink()
    for point in ("move.begin:1", "move.renamed:1", "put.renamed:2", "stage.worked", ""):
        if path.exists():
            path.rename(daq.spool / "collect" / "J1.json")
        daq.run("daq-collect", "--job", "J1", env={"DAQ_CRASH": point} if point else {})
        assert {digest(path) for path in sources(daq).values()} == before, point
    assert daq.tree() == {"merge": ["J1"]}
    assert len(sources(daq)) == 1 and name not in sources(daq)


def test_not_a_regular_file(daq: Daq) -> None:
    os.mkfifo(daq.folder / "pipe.fits")
    put(daq, daq.folder / "pipe.fits")
    collect(daq).fails(65, "not a regular file")
    put(daq, daq.folder, job="J2")
    collect(daq, job="J2").fails(65, "not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(daq: Daq, fits: Path) -> None:
    fits.chmod(0)
    put(daq, fits)
    collect(daq).fails(77, str(fits))
    assert daq.tree() == {"collect": ["J1"]}


def test_link_only_to_what_is_never_rewritten(daq: Daq, fits: Path) -> None:
    other = make_fits(daq.folder / "into" / "b.fits")
    target = make_fits(daq.folder / "in" / "t.fits")
    configure(daq, stable_sources=[str(fits.parent)])
    (daq.folder / "in" / "l.fits").symlink_to("a.fits")
    put(daq, daq.folder / "in" / "l.fits", other, target, mergeTarget={"sourceName": "s2"})
    collect(daq).ok()
    found = sources(daq)
    assert found["0_s0_l.fits"].samefile(fits) and not found["0_s0_l.fits"].is_symlink()
    assert not found["1_s1_b.fits"].samefile(other)  # "into" is not "in"
    assert not found["2_s2_t.fits"].samefile(target)  # the merger may write into it


def test_a_link_costs_the_same_whatever_its_size(daq: Daq) -> None:
    """It is not read, and takes no space: the file is larger than the disk."""
    big = make_fits(daq.folder / "in" / "big.fits", shape=(1, 1))
    hdu = fitsfile.read_structure(str(big)).hdus[1]
    head = big.read_bytes()[:hdu.data_offset]
    for axis, number in ((b"NAXIS1", 1 << 20), (b"NAXIS2", 1 << 20)):
        head = head.replace(b"%s  =%21d" % (axis, 1), b"%s  =%21d" % (axis, number))
    with open(big, "wb") as file:
        file.write(head)
        try:
            file.truncate(len(head) + -(-(hdu.data_size << 40) // 2880) * 2880)
        except OSError:
            pytest.skip("the file system has no files of some TiB")
    put(daq, big)
    collect(daq).fails(75, "are free in the spool")
    configure(daq, stable_sources=[str(big.parent)])
    collect(daq).ok()
    assert sources(daq)["0_s0_big.fits"].samefile(big)
    assert "sum" not in document(daq, "collect.json")["result"]["files"][0]


def test_a_symbolic_link_that_leads_elsewhere(daq: Daq, fits: Path) -> None:
    """Somebody who may write into a directory of data must not have us read what he may not."""
    secret = make_fits(daq.folder / "secret" / "a.fits")
    link = fits.with_name("link.fits")
    link.symlink_to("../secret/a.fits")
    put(daq, link)
    collect(daq).fails(65, "source s0", "symbolic link that leads out of its directory",
                       str(secret), "name the file itself")
    assert daq.tree() == {"failed": ["J1"]} and sources(daq) == {}
    below = make_fits(fits.parent / "2026" / "b.fits", extensions=2)
    fits.with_name("latest.fits").symlink_to(below)
    (daq.folder / "data").symlink_to(fits.parent)  # how a directory is reached is not asked
    put(daq, daq.folder / "data" / "latest.fits", daq.folder / "data" / "a.fits", job="J2")
    collect(daq, job="J2").ok()
    assert digest(sources(daq, "J2")["0_s0_latest.fits"]) == digest(below)
    fits.with_name("loop.fits").symlink_to("loop.fits")
    put(daq, fits.with_name("loop.fits"), job="J3")
    collect(daq, job="J3").fails(65, "loop.fits", "symbolic links")


def damaged(path: Path) -> Path:
    """Write a file whose second extension does not match its DATASUM any more."""
    data = bytearray(make_fits(path, extensions=3, checksum=True).read_bytes())
    at = fitsfile.read_structure(str(path)).hdus[2].data_offset
    data[at + 7] ^= 4
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("sums", ["verify", "strict", "trust"])
def test_data_that_do_not_match_their_sums(daq: Daq, sums: str) -> None:
    configure(daq, merge={"sums": sums})
    put(daq, damaged(daq.folder / "in" / "a.fits"))
    if sums == "strict":
        for _ in range(2):  # what is here already is judged again
            collect(daq).fails(65, "source s0: HDU 2 of", "a.fits is damaged", "DATASUM is",
                               "deliver the file again")
            os.rename(daq.spool / "failed" / "J1.json", daq.spool / "collect" / "J1.json")
        return
    for number in range(2):
        collect(daq).ok()
        found = [event for event in daq.history("J1") if event["event"] == "alert"]
        assert [event["id"] for event in found] == (
            ["datasum:s0:0_s0_a.fits[2]"] * (number + 1) if sums == "verify" else [])
        os.rename(daq.spool / "merge" / "J1.json", daq.spool / "collect" / "J1.json")
        (daq.spool / "data" / "J1" / "collect.json").unlink()  # all over again, of what is here
    if sums == "verify":
        assert daq.run("daq-status", "--json", "J1").ok().json()["error"]


def test_a_linked_file_is_verified_by_its_own_sums(daq: Daq) -> None:
    fits = make_fits(daq.folder / "in" / "a.fits", checksum=True)
    configure(daq, stable_sources=[str(fits.parent)])
    put(daq, fits)
    collect(daq).ok()
    assert "sum" not in document(daq, "collect.json")["outputs"][0]
    back = (daq.spool / "merge" / "J1.json", daq.spool / "collect" / "J1.json")
    os.rename(*back)
    collect(daq, "-v", "--verify").ok().says("nothing changed")
    status = fits.stat()
    data = bytearray(fits.read_bytes())
    data[-2880] ^= 1
    fits.write_bytes(data)  # in place, what must not happen to such a file
    os.utime(fits, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.rename(*back)
    collect(daq, "-v").ok().says("nothing changed")
    os.rename(*back)
    assert "nothing changed" not in collect(daq, "-v", "--verify").ok().err


def test_odd_names(daq: Daq) -> None:
    odd = ["a b.fits", "it's.fits", 'q"q.fits', "c:d.fits", "$(date).fits", "*[1]?.fits",
           "ä∂.fits", "back\\slash.fits", "%41.fits"]
    folder = daq.folder / "-i n" / "x:y"
    put(daq, *(make_fits(folder / name) for name in odd))
    collect(daq).ok()
    assert sorted(sources(daq)) == sorted(f"{n}_s{n}_{name}" for n, name in enumerate(odd))


def test_long_name(daq: Daq) -> None:
    put(daq, make_fits(daq.folder / ("ä" * 100 + "1.fits")))
    collect(daq).ok()
    name, = sources(daq)
    assert name.startswith("0_s0_ä") and name.endswith("ä1.fits") and len(name.encode()) <= 200


@pytest.mark.parametrize("name", ["-x.fits", ".x.fits"])
def test_names_that_cannot_be_ours(daq: Daq, name: str) -> None:
    put(daq, make_fits(daq.folder / name))
    collect(daq).fails(65, name)
    assert daq.tree() == {"failed": ["J1"]}


def test_file_that_is_being_written(daq: Daq) -> None:
    # big, so that the writer gets its turn while it is read
    fits = make_fits(daq.folder / "in" / "a.fits", shape=(3000, 4000))
    put(daq, fits)
    done = threading.Event()

    def write() -> None:
        now = 10**18
        while not done.is_set():
            now += 1000
            os.utime(fits, ns=(now, now))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        collect(daq).fails(75, str(fits), "still being written", "next try")
    finally:
        done.set()
        writer.join()
    assert daq.tree() == {"collect": ["J1"]} and sources(daq) == {}
    collect(daq).ok()


def test_no_space_leaves_no_try_on_record(daq: Daq) -> None:
    big = daq.folder / "big.fits"
    with open(big, "wb") as file:
        try:
            file.truncate(1 << 43)
        except OSError:
            pytest.skip("the file system has no files of 8 TiB")
    put(daq, big)
    collect(daq).fails(75, "free")
    assert "start" not in daq.events("J1") and daq.tree() == {"collect": ["J1"]}


def test_second_try_keeps_what_arrived(daq: Daq, fits: Path) -> None:
    second = daq.folder / "in" / "b.fits"
    put(daq, fits, second)
    collect(daq).fails(65, "b.fits")
    inode = sources(daq)["0_s0_a.fits"].stat().st_ino
    (daq.spool / "data" / "J1" / "sources" / ".tmp-999999999-1-x").write_text("dead")
    make_fits(second)
    os.rename(daq.spool / "failed" / "J1.json", daq.spool / "collect" / "J1.json")
    collect(daq).ok()
    assert sources(daq)["0_s0_a.fits"].stat().st_ino == inode
    assert sources(daq)["1_s1_b.fits"].read_bytes() == second.read_bytes()
    assert sorted(path.name for path in sources(daq)["0_s0_a.fits"].parent.iterdir()) == [
        ".origins.json", "0_s0_a.fits", "1_s1_b.fits"]


def test_repeats_only_what_changed(daq: Daq, fits: Path) -> None:
    put(daq, fits)
    collect(daq).ok()
    back = (daq.spool / "merge" / "J1.json", daq.spool / "collect" / "J1.json")
    os.rename(*back)
    collect(daq, "-v").ok().says("nothing changed")
    make_fits(fits.with_name("new.fits"), extensions=2).replace(fits)  # delivered anew
    os.rename(*back)
    collect(daq).ok()
    assert sources(daq)["0_s0_a.fits"].read_bytes() == fits.read_bytes()
    fits.unlink()  # what was collected is what we have
    os.rename(*back)
    collect(daq, "-v").ok().says("nothing changed")
    os.rename(*back)
    collect(daq, "--force").fails(65, "No such file")


def test_edited_job(daq: Daq, fits: Path) -> None:
    put(daq, fits, make_fits(daq.folder / "in" / "b.fits"))
    collect(daq).ok()
    (daq.spool / "merge" / "J1.json").unlink()
    put(daq, daq.folder / "in" / "b.fits")
    collect(daq).ok()
    assert sorted(sources(daq)) == ["0_s0_b.fits"]


def test_acquisition_must_have_ended(daq: Daq) -> None:
    daq.drop("collect", "J1", {"sources": [
        {"type": "primarySource", "sourceName": "dcs", "rrUri": "zpb.rr://127.0.0.1:9/rec"}]})
    collect(daq).fails(65, "acquisition never ended", "acquire.json")
    assert daq.tree() == {"failed": ["J1"]}


def test_files_of_live_sources(daq: Daq, fits: Path) -> None:
    late = make_fits(daq.folder / "in" / "late.fits")
    daq.drop("collect", "J1", {
        "sources": [{"type": "primarySource", "sourceName": "dcs", "rrUri": "zpb.rr://h:1/rec"},
                    {"type": "metadataSource", "sourceName": "tcs", "rrUri": "zpb.rr://h:2/m"}],
        "mergeTarget": {"sourceName": "dcs"}})
    keyword = {"type": "esoKeyword", "name": "TEL ALT", "value": 1.5}
    data = daq.spool / "data" / "J1"
    data.mkdir()
    (data / "acquire.json").write_text(json.dumps({"id": "J1", "stage": "acquire", "result": {
        "sources": [{"sourceName": "dcs", "files": [str(fits), str(late)], "keywords": []},
                    {"sourceName": "tcs", "files": [], "keywords": [keyword]}]}}))
    sealed = {"time": "2026-01-01T00:00:00.000Z", "event": "sealed", "stage": "acquire"}
    (daq.spool / "log" / "J1.jsonl").write_text(json.dumps(sealed) + "\n")
    collect(daq).ok()
    assert {"0_dcs_a.fits"} < set(sources(daq)) and len(sources(daq)) == 2
    assert document(daq, "specification.json")["target"]["source"]["sourceName"] == "dcs"
    alert, = [event for event in daq.history("J1") if event["event"] == "alert"]
    assert alert["id"] == "suspicious-time:dcs" and "late.fits" in alert["description"]

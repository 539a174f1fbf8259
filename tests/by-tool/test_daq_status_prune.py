"""daq-status --prune: what is past its time goes, what nobody is proved to have stays."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import remote
from daq_status import removal, retention
from daqlib import clock, crashpoints, fsops, spool
from harness import CHECKOUT, Daq, fresh, make_fits

#: Everything is older than this, and nothing as old as that.
OLD, NEVER = "0.0000001", "1000"
ALL = ("--jobs-days", OLD, "--sources-days", OLD, "--results-days", OLD)
POINTS = [point for point in crashpoints.POINTS if point.startswith("prune.")]


@pytest.fixture(scope="module")
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a spool of finished jobs, made once: ``two`` has two receivers."""
    chosen: Path | None = request.config.getoption("--daq-bin")
    folder = tmp_path_factory.mktemp("pruned")
    made = fresh(folder, (chosen or CHECKOUT / "bin").absolute(), installed=chosen is not None)
    for name in "ab":
        make_fits(folder / f"{name}.fits", 1, name=name.upper())
        (folder / name).mkdir()
    files = ("--file", folder / "a.fits", "--file", folder / "b.fits")
    for job, *words in (("one", "--receiver", folder / "a"),
                        ("two", "--receiver", folder / "a", "--receiver", folder / "b"),
                        ("nowhere", "--no-receivers")):
        made.run("daq-start", "--id", job, *files, *words).ok()
    for stage in ("collect", "merge", "release"):
        made.run(f"daq-{stage}", "--all").ok()
    assert made.tree() == {"done": ["nowhere", "one", "two"]}
    shutil.copytree(folder, folder.with_name("kept"), symlinks=True)
    return folder


@pytest.fixture
def done(request: pytest.FixtureRequest, template: Path) -> Iterator[Daq]:
    """The tools, bound to that place as it was; receivers are hard-linked to the products."""
    chosen: Path | None = request.config.getoption("--daq-bin")
    shutil.rmtree(template)
    shutil.copytree(template.with_name("kept"), template, symlinks=True)
    for product in (template / "spool" / "result").iterdir():
        for copy in (template / "a" / product.name, template / "b" / product.name):
            if copy.exists():
                copy.unlink()
                os.link(product, copy)
    made = Daq((chosen or CHECKOUT / "bin").absolute(), template, template / "spool",
               chosen is not None)
    yield made
    made.close()


def prune(daq: Daq, *words: object, code: int = 0) -> dict[str, dict[str, Any]]:
    """Prune, and return what is told of each job."""
    told = daq.run("daq-status", "--prune", "--json", *words).exits(code).jsonl()
    return {line["id"]: line for line in told}


def picture(daq: Daq) -> dict[str, str]:
    """Return every file of the spool with its content, but for locks."""
    return {str(path.relative_to(daq.spool)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(daq.spool.rglob("*"))
            if path.is_file() and path.parent.name != "lock"}


def product(daq: Daq, job: str) -> Path:
    return daq.spool / "result" / json.loads(
        (daq.spool / "data" / job / "merge.json").read_text())["result"]["product"]


def audit(daq: Daq) -> list[tuple[str, str]]:
    path = daq.spool / "log" / "_pruned.jsonl"
    lines = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return [(line["id"], line["what"]) for line in lines]


def leftovers(daq: Daq, job: str) -> list[str]:
    """Return what is left of a job in the spool, but for its product and the record."""
    owners = [path for path in (daq.spool / "log").glob(".file-*") if path.read_text() == job]
    named = [path for path in daq.spool.rglob("*") if path.name in (
        job, f"{job}.json", f"{job}.jsonl", f".pruned-{job}.json")]
    return sorted(str(path.relative_to(daq.spool)) for path in (*owners, *named))


def settings(daq: Daq, **keys: object) -> dict[str, str | None]:
    path = daq.folder / "daq.yaml"
    path.write_text(yaml.safe_dump({"cfg": keys}))
    return {"DAQ_CONFIG": str(path)}


# -- what goes -------------------------------------------------------------------------------------


def test_without_yes_nothing_is_changed(done: Daq) -> None:
    before = picture(done)
    told = prune(done, *ALL)
    assert told["one"]["remove"] == ["result", "job"]
    assert told["one"]["removed"] is False
    assert told["nowhere"]["remove"] == []
    assert prune(done, *ALL, "--dry-run") == told
    done.run("daq-status", "--prune", *ALL).ok().prints("one: would remove product and job")
    assert picture(done) == before


def test_by_default_nothing_is_past_its_time(done: Daq) -> None:
    before = picture(done)
    done.run("daq-status", "--prune", "--yes").ok().no_output().says("set cfg/retention")
    assert prune(done, "--yes", "--jobs-days", NEVER, "--sources-days", NEVER) == {}
    assert picture(done) == before


def test_an_id_that_is_not_there(done: Daq) -> None:
    done.run("daq-status", "--prune", "--jobs-days", "1", "nosuch").exits(66).says(
        "nosuch: no such job in done/")


def test_sources(done: Daq) -> None:
    size = sum(path.stat().st_size for path in (done.spool / "data" / "one" / "sources").iterdir())
    told = prune(done, "--yes", "--sources-days", OLD)
    assert {job: line["remove"] for job, line in told.items()} == dict.fromkeys(
        ("nowhere", "one", "two"), ["sources"])
    assert told["one"]["bytes"] == size
    assert sorted(os.listdir(done.spool / "data" / "one")) == [
        "collect.json", "merge.json", "release.json", "result", "specification.json"]
    assert done.tree() == {"done": ["nowhere", "one", "two"]}
    assert len(done.results()) == 3
    assert done.history("one")[-1]["what"] == "sources"
    assert audit(done) == [(job, "sources") for job in ("nowhere", "one", "two")]
    done.run("daq-status", "one").ok().prints("its sources pruned on ")
    assert prune(done, "--yes", "--sources-days", OLD) == {}, "there is nothing left to do"


def brought(done: Daq, *delivered: str) -> Path:
    """Have a live source bring a file into the spool, and an outcome that tells of some."""
    file = done.spool / "data" / "one" / "live" / "cam" / "image.fits"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"SIMPLE")
    (file.parent / "recording.json").write_text("{}")
    (done.spool / "data" / "one" / "acquire.json").write_text(json.dumps(
        {"result": {"sources": [{"sourceName": "cam", "files": list(delivered)}]}}))
    return file


def test_what_live_sources_brought_goes_with_the_sources(done: Daq) -> None:
    file = brought(done, str(done.spool / "data/one/live/cam/image.fits"))
    assert prune(done, "--yes", "--sources-days", OLD, "one")["one"]["remove"] == ["sources"]
    assert not file.parent.parent.exists()


@pytest.mark.parametrize("words", [("--sources-days", OLD), ALL])
def test_what_a_live_source_did_not_deliver_stays(done: Daq, words: tuple[str, ...]) -> None:
    file = brought(done)
    kept = prune(done, "--yes", *words, "one")["one"]["kept"]
    assert "live/cam/image.fits was not delivered" in next(iter(kept.values()))
    assert file.exists() and (done.spool / "done" / "one.json").exists()


def test_products(done: Daq) -> None:
    """They go after the receivers have been asked; what receivers have stays."""
    (name,) = (path.name for path in (done.folder / "b").iterdir())
    told = prune(done, "--yes", "--results-days", OLD)
    assert told["two"]["remove"] == ["result"]
    assert told["nowhere"]["kept"] == {
        "result": "it was delivered nowhere; --without-receivers removes it"}
    assert len(done.results()) == 1
    assert (done.folder / "a" / name).read_bytes() == (done.folder / "b" / name).read_bytes()
    assert (done.folder / "a" / name).stat().st_nlink == 2
    done.run("daq-status", "two").ok().prints("its product pruned on ")
    # the rest goes later, when nothing is left that the receivers' copies could be compared with
    assert prune(done, "--yes", "--jobs-days", OLD)["two"]["removed"] is True


def test_jobs(done: Daq) -> None:
    told = prune(done, "--yes", "--jobs-days", OLD)
    assert all(line["removed"] for line in told.values())
    assert done.tree() == {}
    assert [leftovers(done, job) for job in ("one", "two", "nowhere")] == [[], [], []]
    assert len(done.results()) == 3, "products stay"
    assert audit(done) == [(job, "job") for job in ("nowhere", "one", "two")]
    done.run("daq-status", "one").fails(66, "one: no such job any more: pruned on ",
                                        "it was Completed on ", "its product was result/")
    done.run("daq-status", "other").fails(66, "other: no such job")


def test_ids_may_recur_once_the_job_was_pruned(done: Daq) -> None:
    source = done.folder / "b.fits"
    done.run("daq-start", "--id", "one", "--file", source).fails(65, "known to this spool")
    prune(done, "--yes", "--jobs-days", OLD, "one")
    assert done.tree() == {"done": ["nowhere", "two"]}, "only the job that was named"
    assert done.run("daq-start", "--id", "one", "--file", source).ok().line() == "one"
    done.run("daq-status", "one").ok().prints("in collect/")


def test_a_configuration_and_options_that_overrule_it(done: Daq) -> None:
    env = settings(done, retention={"sources_days": float(OLD), "keep": ["t*"]})
    listed = done.run("daq-status", "--prune", "--json", "--keep", "no?here", env=env).ok().jsonl()
    assert {line["id"]: (line["remove"], line["kept"]) for line in listed} == {
        "one": (["sources"], {}), "two": ([], {"sources": "t* is to be kept"}),
        "nowhere": ([], {"sources": "no?here is to be kept"})}
    done.run("daq-status", "--prune", "--yes", "--sources-days", "0", env=env).ok().no_output()
    done.run("daq-status", "--prune", "--yes", "--quiet", env=env).ok().silent()
    assert audit(done) == [("nowhere", "sources"), ("one", "sources")]


def test_the_age_counts_from_the_end(done: Daq) -> None:
    ended = time.time() - 10 * 86400
    log = done.spool / "log" / "one.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        line["time"] = clock.iso(ended - (0 if line.get("to") == "done" else 86400)) + "Z"
    lines.append({**lines[-1], "event": "pruned", "what": "x", "time": clock.iso(time.time())})
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(done.spool / "done" / "one.json", (ended - 86400, ended - 86400))
    assert prune(done, "--jobs-days", "10.5") == {}
    assert list(prune(done, "--jobs-days", "9.5")) == ["one"]
    # with products, a job goes not before its product: nobody else knows that
    assert prune(done, "--jobs-days", "9.5", "--results-days", "10.5") == {}


def test_histories_of_young_jobs_are_not_read(done: Daq) -> None:
    for job in ("one", "two"):
        (done.spool / "log" / f"{job}.jsonl").unlink()
        (done.spool / "log" / f"{job}.jsonl").mkdir()  # whoever reads it fails
    assert prune(done, "--yes", "--jobs-days", "1", "--sources-days", "1") == {}


# -- what stays ------------------------------------------------------------------------------------


def no_receiver_file(daq: Daq) -> str:
    for path in (daq.folder / "b").iterdir():
        path.unlink()
    return "is gone"


def other_content(daq: Daq) -> str:
    (path,) = (daq.folder / "b").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    return "has other content"


def never_delivered(daq: Daq) -> str:
    log = daq.spool / "log" / "two.jsonl"
    lines = [line for line in log.read_text().splitlines()
             if not (json.loads(line)["event"] == "delivered" and f"{daq.folder}/b" in line)]
    log.write_text("\n".join(lines) + "\n")
    return "it has not got the product"


@pytest.mark.parametrize("spoil", [no_receiver_file, other_content, never_delivered])
def test_a_receipt_that_cannot_be_verified_keeps_everything(done: Daq, spoil: Any) -> None:
    told = spoil(done)
    before = picture(done)
    line = prune(done, "--yes", *ALL, "two", code=75)["two"]
    assert line["remove"] == []
    assert set(line["kept"]) == {"result", "job"}
    assert f"{done.folder}/b" in line["kept"]["job"] and told in line["kept"]["job"]
    assert picture(done) == before
    done.run("daq-status", "--prune", "--yes", "-q", *ALL, "two").fails(
        75, "could not be verified", "daq-release --job ID").no_output()


def test_a_receiver_that_cannot_be_asked(done: Daq) -> None:
    """Of another host; and what would be removed beside it goes nevertheless."""
    job = done.spool / "done" / "two.json"
    document = json.loads(job.read_text())
    document["receivers"][1]["host"] = "far"
    job.write_text(json.dumps(document))
    log = done.spool / "log" / "two.jsonl"
    log.write_text(log.read_text().replace(f'"{done.folder}/b"', f'"far:{done.folder}/b"').replace(
        '"how": "hardlink"', '"how": "rsync"'))
    env = settings(done, rsh="false")
    told = {line["id"]: line for line in done.run(
        "daq-status", "--prune", "--yes", "--json", *ALL, env=env).exits(75).jsonl()}
    assert told["two"]["kept"]["job"].startswith(f"far:{done.folder}/b: ")
    assert told["one"]["removed"] is True


@pytest.mark.needs("rsync")
def test_a_receiver_of_another_host_is_asked_for_the_bytes(done: Daq) -> None:
    remote.configure(done, rsh=remote.stand_in(done.folder).command)
    there = done.folder / "b" / "there"
    there.mkdir()
    done.run("daq-start", "--id", "far", "--file", done.folder / "a.fits", "--receiver",
             f"far:{there}").ok()
    for stage in ("collect", "merge", "release"):
        done.run(f"daq-{stage}", "--job", "far").ok()
    (file,) = there.iterdir()
    data = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(data[:-1] + b"x")
    assert "is gone or has other content" in prune(done, "--yes", *ALL, "far", code=75)["far"][
        "kept"]["result"]
    file.write_bytes(data)
    assert prune(done, "--yes", "--results-days", OLD, "far")["far"]["remove"] == ["result"]
    # there is nothing left here that it could be compared with
    assert prune(done, "--yes", "--jobs-days", OLD, "far")["far"]["removed"] is True
    assert file.read_bytes() == data


def symbolic_link(daq: Daq) -> str:
    (path,) = (daq.folder / "b").iterdir()
    path.unlink()
    path.symlink_to(product(daq, "two"))
    return f"{path} leads to it"


def told_to_be_a_link(daq: Daq) -> str:
    log = daq.spool / "log" / "two.jsonl"
    log.write_text(log.read_text().replace('"how": "hardlink"', '"how": "symlink"'))
    return "leads to it"


def a_link_to_the_directory(daq: Daq) -> str:
    shutil.rmtree(daq.folder / "b")
    (daq.folder / "b").symlink_to(daq.spool / "result")
    return "leads to it"


def another_product(daq: Daq) -> str:
    path = product(daq, "two")
    path.unlink()
    path.write_bytes(b"x")
    return "is not the product that was merged"


@pytest.mark.parametrize("spoil", [symbolic_link, told_to_be_a_link, a_link_to_the_directory,
                                   another_product])
def test_a_product_that_must_stay(done: Daq, spoil: Any) -> None:
    why = spoil(done)
    line = prune(done, "--yes", "--results-days", OLD, "--sources-days", OLD, "two")["two"]
    assert why in line["kept"]["result"]
    assert line["remove"] == ["sources"]
    assert product(done, "two").exists()
    assert why in prune(done, "--yes", *ALL, "two")["two"]["kept"]["job"], "who knows it stays"


def test_a_receiver_that_is_the_directory_of_products_by_a_mount(done: Daq) -> None:
    olas = done.folder / "b"
    shutil.rmtree(olas)
    olas.mkdir()
    if os.geteuid() or subprocess.run(["mount", "--bind", done.spool / "result", olas],
                                      check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        line = prune(done, "--yes", "--results-days", OLD, "two")["two"]
        assert line["remove"] == [] and f"{olas}/" in line["kept"]["result"]
        assert "leads to it" in line["kept"]["result"] and product(done, "two").exists()
    finally:
        subprocess.run(["umount", olas], check=True)


def test_what_was_delivered_nowhere(done: Daq) -> None:
    line = prune(done, "--yes", "--without-receivers", "--results-days", OLD, "nowhere")["nowhere"]
    assert line["remove"] == ["result"]
    assert len(done.results()) == 2
    assert prune(done, "--yes", "--jobs-days", OLD, "nowhere")["nowhere"]["removed"] is True


def test_sources_stay_while_there_is_no_product(done: Daq) -> None:
    product(done, "nowhere").unlink()
    line = prune(done, "--yes", "--sources-days", OLD, "--without-receivers", "nowhere")["nowhere"]
    assert "is not there, and nobody else has it" in line["kept"]["sources"]
    assert (done.spool / "data" / "nowhere" / "sources").is_dir()


def in_failed(daq: Daq) -> None:
    (daq.spool / "done" / "one.json").rename(daq.spool / "failed" / "one.json")


def in_hold(daq: Daq) -> None:
    (daq.spool / "done" / "one.json").rename(daq.spool / "hold" / "one.json")


def strange(daq: Daq) -> None:
    (daq.spool / "done" / "one.json").rename(daq.spool / "done" / "..a person's.json")


@pytest.mark.parametrize("place", [in_failed, in_hold, strange])
def test_only_jobs_in_done_are_touched(done: Daq, place: Any) -> None:
    place(done)
    before = picture(done)
    result = done.run("daq-status", "--prune", "--json", "--yes", *ALL, "one")
    assert result.exits(66).says("no such job in done/").out == ""
    assert picture(done) == before


def twice(daq: Daq) -> str:
    shutil.copy(daq.spool / "done" / "one.json", daq.spool / "hold" / "one.json")
    return "there is a copy of the job in hold/"


def led_elsewhere(daq: Daq) -> str:
    (daq.spool / "data" / "one").rename(daq.folder / "elsewhere")
    (daq.spool / "data" / "one").symlink_to(daq.folder / "elsewhere")
    return "is a symbolic link"


def unreleased(daq: Daq) -> str:
    """Moved into done/ by hand before it was merged, and without receivers."""
    document = json.loads((daq.spool / "done" / "one.json").read_text())
    (daq.spool / "done" / "one.json").write_text(json.dumps({**document, "receivers": []}))
    (daq.spool / "data" / "one" / "merge.json").unlink()
    return "it has no product, and nobody else has it"


@pytest.mark.parametrize("spoil", [twice, led_elsewhere, unreleased])
def test_a_job_that_stays(done: Daq, spoil: Any) -> None:
    why = spoil(done)
    before = picture(done)
    assert why in prune(done, "--yes", "--jobs-days", OLD, "one")["one"]["kept"]["job"]
    assert picture(done) == before


def test_a_job_that_somebody_works_on(done: Daq) -> None:
    lock = fsops.lock(str(done.spool / "lock" / "one"))
    assert lock is not None
    assert prune(done, "--yes", *ALL, "one")["one"]["kept"] == {"job": "somebody is at work on it"}
    os.close(lock)
    assert prune(done, "--yes", *ALL, "one")["one"]["removed"] is True
    assert os.listdir(done.spool / "lock").count("one") == 0


def test_of_an_aborted_job_the_product_stays(done: Daq) -> None:
    (done.spool / "done" / "two.json").rename(done.spool / "release" / "two.json")
    done.run("daq-ctl", "daq.abort", "two").ok()
    line = prune(done, "--yes", *ALL, "two")["two"]
    assert (line["state"], line["remove"], list(line["kept"])) == ("Aborted", ["job"], ["result"])
    assert len(done.results()) == 3
    done.run("daq-status", "two").fails(66, "it was Aborted on ")


def test_a_job_that_another_host_had(done: Daq) -> None:
    """Product and receivers were there; what is here is the record."""
    done.drop("done", "far", {"sources": [], "receivers": [
        {"type": "olasReceiver", "path": "/there"}]})
    (done.spool / "data" / "far").mkdir()
    events = ({"event": "handed-over"}, {"event": "ok", "stage": "release", "to": "done"})
    (done.spool / "log" / "far.jsonl").write_text("".join(
        json.dumps({"time": clock.iso(time.time()) + "Z", **event}) + "\n" for event in events))
    assert prune(done, "--yes", *ALL, "far")["far"]["removed"] is True
    assert leftovers(done, "far") == []


def test_a_source_that_became_the_product(done: Daq) -> None:
    """Merged in place: the further name of the product goes with the sources, not the product."""
    env = settings(done, merge={"way": "in-place"})
    done.run("daq-start", "--id", "place", "--file", done.folder / "a.fits", "--target", "a",
             "--receiver", done.folder / "a", env=env).ok()
    for stage in ("collect", "merge", "release"):
        done.run(f"daq-{stage}", "--job", "place", env=env).ok()
    sources = done.spool / "data" / "place" / "sources"
    assert len(list(sources.glob(".*.kept"))) == 1
    line = prune(done, "--yes", "--sources-days", OLD, "place")["place"]
    assert line["bytes"] < product(done, "place").stat().st_size, "it keeps its space"
    assert not sources.exists()
    assert product(done, "place").stat().st_nlink == 2, "product and receiver"
    assert prune(done, "--yes", *ALL, "place")["place"]["remove"] == ["result", "job"]


# -- killed anywhere -------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_the_next_prune_finishes(done: Daq, point: str) -> None:
    delivered = sorted((path.name, path.read_bytes()) for path in (done.folder / "a").iterdir())
    words = ("--sources-days", OLD) if point == "prune.sources" else ALL
    done.run("daq-status", "--prune", "--yes", *words, "one",
             env={"DAQ_CRASH": point}).died(signal.SIGKILL)
    assert not {"acquire", "collect", "merge", "release", "failed"} & done.tree().keys()
    done.run("daq-status").ok().no_output()
    known = done.run("daq-status", "one")
    assert known.code in (0, 66)
    if known.code == 66:
        known.fails(66, "pruned on")
    done.run("daq-status", "--prune", *words, "one").ok()  # listing touches nothing
    done.run("daq-status", "--prune", "--yes", *words, "one").ok()
    if point == "prune.sources":
        assert sorted(os.listdir(done.spool / "data" / "one")) == [
            "collect.json", "merge.json", "release.json", "result", "specification.json"]
        prune(done, "--yes", *ALL, "one")
    assert leftovers(done, "one") == []
    assert ("one", "job") in audit(done)
    assert sorted((path.name, path.read_bytes())
                  for path in (done.folder / "a").iterdir()) == delivered
    assert done.tree() == {"done": ["nowhere", "two"]}


def test_an_id_that_is_used_anew_before_the_prune_was_finished(done: Daq) -> None:
    done.run("daq-status", "--prune", "--yes", "--jobs-days", OLD, "one",
             env={"DAQ_CRASH": "prune.log"}).died(signal.SIGKILL)
    done.run("daq-start", "--id", "one", "--file", done.folder / "b.fits").ok()
    done.run("daq-collect", "--job", "one").ok()
    before = {name: text for name, text in picture(done).items() if ".pruned-" not in name}
    prune(done, "--yes", *ALL, "one")
    assert picture(done) == before
    assert done.tree() == {"done": ["nowhere", "two"], "merge": ["one"]}


def test_a_removal_that_is_not_on_record_is_taken_back(done: Daq) -> None:
    mark = done.spool / "done" / ".pruned-one.json"
    (done.spool / "done" / "one.json").rename(mark)
    prune(done, "--yes", "--jobs-days", NEVER)
    assert done.tree() == {"done": ["nowhere", "one", "two"]}
    assert not mark.exists()


def test_a_job_that_is_moved_while_it_is_decided_about(done: Daq) -> None:
    on = spool.Spool(str(done.spool), "test")
    case = retention.Case("one", 0.0, "Completed", remove=["result", "sources", "job"],
                          product=retention.product_of(on, "one"))
    in_hold(done)
    before = picture(done)
    assert removal.carry_out(on, case) is False
    assert picture(done) == before


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "told"), [
    (("--yes",), "--yes belongs to --prune"), (("--jobs-days", "1"), "--jobs-days belongs"),
    (("--keep", "x", "j"), "--keep belongs"), (("--without-receivers",), "belongs to --prune"),
    (("--prune", "--yes", "--dry-run"), "contradict"), (("--prune", "--follow"), "go together"),
    (("--prune", "--jobs-days", "-1"), "from 0"), (("--prune", "--jobs-days", "nan"), "from 0"),
    (("--storage", "ID"), "go together"), (("--storage", "--prune"), "go together")])
def test_options_that_make_no_sense(daq: Daq, words: tuple[str, ...], told: str) -> None:
    daq.run("daq-status", *words).fails(64, told)

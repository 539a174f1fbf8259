from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from daqlib import clock
from harness import CHECKOUT, Daq, free_port, make_fits

ID = re.compile(r"UNDEF\.\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}")
KEYWORDS = [{"type": "valueKeyword", "name": "OBJECT", "value": "M 31"}]


def job(daq: Daq, stage: str, identifier: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((daq.spool / stage / f"{identifier}.json").read_text())
    return made


def everything(daq: Daq) -> dict[str, bytes]:
    """Every file of the spool with its content; who held a lock last does not matter."""
    return {str(path.relative_to(daq.spool)): path.read_bytes() * (path.parent.name != "lock")
            for path in daq.spool.rglob("*") if path.is_file()}


# -- what is submitted ----------------------------------------------------------------------------


def test_files_make_a_job(daq: Daq) -> None:
    first = make_fits(daq.folder / "first.fits")
    second = make_fits(daq.folder / "home" / "first.new.fits")
    identifier = daq.run("daq-start", "--file", first, "--file", "first.new.fits",
                         "--file", "far:/data/c.fits").ok().line()
    assert ID.fullmatch(identifier) and daq.tree() == {"collect": [identifier]}
    made = job(daq, "collect", identifier)
    assert [(s["type"], s["sourceName"], s["location"]) for s in made["sources"]] == [
        ("fitsFile", "first", str(first)), ("fitsFile", "first-2", str(second)),
        ("fitsFile", "c", "far:/data/c.fits")]
    assert made["id"] == made["fileId"] == identifier and "@" in made["by"]
    assert abs(clock.from_iso(made["created"]) - time.time()) < 30
    [event] = daq.history(identifier)
    assert (event["event"], event["by"], event["fileId"]) == ("submitted", "daq-start", identifier)


def test_a_product_with_no_daemon(daq: Daq) -> None:
    from astropy.io import fits

    path = make_fits(daq.folder / "UNDEF.2026-01-01T00:00:00.000.fits", 2)  # colons, and no host
    keywords = daq.folder / "kw.json"
    keywords.write_text(json.dumps(KEYWORDS))
    identifier = daq.run("daq-start", "--file", path, "--keywords", f"@{keywords}", "--prefix",
                         "P_", "--instrument", "CAM").line()
    for tool in ("daq-collect", "daq-merge", "daq-release"):
        daq.run(tool, "--job", identifier).ok()
    assert daq.results() == [f"P_{identifier}.fits"] and daq.tree() == {"done": [identifier]}
    with fits.open(daq.spool / "result" / f"P_{identifier}.fits") as hdus:
        header = hdus[0].header
        assert (header["OBJECT"], header["INSTRUME"], len(hdus)) == ("M 31", "CAM", 3)
        assert header["ARCFILE"] == f"{identifier}.fits"


def test_a_specification_from_text_a_file_and_stdin(daq: Daq) -> None:
    path = make_fits(daq.folder / "a.fits")
    document = {"sources": [{"type": "fitsFile", "sourceName": "a", "location": str(path)}],
                "mergeTarget": {"sourceName": "a"}}
    text = json.dumps(document)
    (daq.folder / "home" / "spec.json").write_text(text)
    ids = [daq.run("daq-start", text).line(), daq.run("daq-start", "@spec.json").line(),
           daq.run("daq-start", "-", stdin=text).line(),
           daq.run("daq-start", "@-", stdin=text).line()]
    assert len(set(ids)) == 4 and daq.tree() == {"collect": sorted(ids)}
    for identifier in ids:
        made = job(daq, "collect", identifier)
        assert made["sources"] == document["sources"]
        assert made["mergeTarget"] == {"sourceName": "a"}


def test_options_add_to_a_specification(daq: Daq) -> None:
    path = make_fits(daq.folder / "a.fits")
    document = {"sources": [{"type": "fitsKeywords", "sourceName": "k", "keywords": KEYWORDS}],
                "keywords": KEYWORDS, "filePrefix": "A"}
    identifier = daq.run("daq-start", "-", "--file", path, "--target", "a", "--prefix", "B",
                         "--keywords", json.dumps(KEYWORDS), "--receiver", "out", "--receiver",
                         "far:/in", stdin=json.dumps(document)).line()
    made = job(daq, "collect", identifier)
    assert [source["sourceName"] for source in made["sources"]] == ["k", "a"]
    assert made["keywords"] == KEYWORDS * 2 and made["filePrefix"] == "B"
    assert made["mergeTarget"] == {"sourceName": "a"}
    assert made["receivers"] == [
        {"type": "olasReceiver", "path": str(daq.folder / "home" / "out")},
        {"type": "olasReceiver", "path": "/in", "host": "far"}]
    none = daq.run("daq-start", "--file", path, "--no-receivers").line()
    assert job(daq, "collect", none)["receivers"] == []


def test_keywords_alone_are_a_product(daq: Daq) -> None:
    identifier = daq.run("daq-start", "--keywords", "-", stdin=json.dumps(KEYWORDS)).line()
    assert job(daq, "collect", identifier)["sources"][0]["type"] == "fitsKeywords"


def test_ids(daq: Daq) -> None:
    path = make_fits(daq.folder / "a.fits")
    request = ("daq-start", "--id", "night-1", "--file", path)
    assert daq.run(*request).line() == "night-1"
    before = everything(daq)
    again = daq.run(*request).ok()  # the same request: the same job
    assert again.line() == "night-1" and "submitted before, now in collect/" in again.err
    assert everything(daq) == before
    other = make_fits(daq.folder / "b.fits")
    daq.run("daq-start", "--id", "night-1", "--file", other).fails(65, "night-1", "another id")
    assert everything(daq) == before
    (daq.spool / "collect" / "night-1.json").rename(daq.spool / "done" / "night-1.json")
    assert "now in done/" in daq.run(*request).ok().err  # also when it is over
    assert daq.tree() == {"done": ["night-1"]}
    stamp = job(daq, "done", "night-1")["fileId"]
    assert stamp != "night-1" and ID.fullmatch(stamp)
    taken = {"fileId": stamp, "id": "night-2", "sources": job(daq, "done", "night-1")["sources"]}
    daq.run("daq-start", json.dumps(taken)).fails(65, stamp, "belongs to job night-1")


def test_a_submission_that_died_is_repeated(daq: Daq) -> None:
    request = ("daq-start", "--id", "again", "--file", make_fits(daq.folder / "a.fits"))
    for point in ("submit.reserved", "submit.queued"):
        daq.run(*request, env={"DAQ_CRASH": point}).died(9)
        assert daq.run(*request).line() == "again"
        assert daq.tree() == {"collect": ["again"]} and daq.events("again").count("submitted") < 3
        for path in daq.spool.rglob("*again*"):
            path.unlink()


def test_many_at_once_never_share_an_id(daq: Daq) -> None:
    path = make_fits(daq.folder / "a.fits")
    started = [daq.spawn("daq-start", "--file", path) for _ in range(12)]
    ids = [process.wait().ok().line() for process in started]
    assert len(set(ids)) == 12 and daq.tree() == {"collect": sorted(ids)}


# -- how it is submitted --------------------------------------------------------------------------


def test_hold(daq: Daq) -> None:
    held = daq.run("daq-start", "--hold", "--file", make_fits(daq.folder / "a.fits")).line()
    assert daq.tree() == {"hold": [held]}
    (daq.spool / "hold" / f"{held}.json").rename(daq.spool / "collect" / f"{held}.json")
    daq.run("daq-collect", "--job", held).ok()


def test_queue(daq: Daq) -> None:
    source = "dcs@zpb.rr://127.0.0.1:1/rec"
    before = time.time()
    queued = daq.run("daq-start", "--queue", "--start-by", "60", "--primary", source,
                     "--metadata", "fcf@zpb.rr://127.0.0.1:2/daq").line()
    made = job(daq, "acquire", queued)
    assert before + 59 < clock.from_iso(made["startBy"]) < time.time() + 61
    assert [s["type"] for s in made["sources"]] == ["primarySource", "metadataSource"]
    daq.run("daq-start", "--queue", "--start-by", "-1", "--primary", source).fails(64, "start-by")
    assert daq.tree() == {"acquire": [queued]}


def test_a_daemon_that_is_not_there(daq: Daq) -> None:
    before = everything(daq)
    daq.run("daq-start", "--rep", f"zpb.rr://127.0.0.1:{free_port()}", "--primary",
            "dcs@zpb.rr://127.0.0.1:1/rec").fails(69, "nobody answers", "nothing was started",
                                                  "--queue").no_output()
    assert everything(daq) == before


def test_wait(daq: Daq) -> None:
    path = make_fits(daq.folder / "a.fits")
    late = daq.run("daq-start", "--file", path, "--wait", "--timeout", "0.2").exits(124)
    assert ID.fullmatch(late.line())  # the id is on stdout and nothing else
    collecting = daq.run("daq-start", "--file", path, "--wait=StateMerging", "--timeout", "5").ok()
    assert ID.fullmatch(collecting.line())
    with daq.start("daq-watch"):
        done = daq.run("daq-start", "--file", path, "--wait", "--timeout", "20").ok()
        assert done.line() in daq.tree()["done"]
        broken = daq.folder / "broken.fits"
        broken.write_text("no FITS")
        failed = daq.run("daq-start", "--file", broken, "--wait", "--timeout", "20")
        assert failed.code in (1, 65) and failed.line() in daq.tree()["failed"]


def test_dry_run_and_json(daq: Daq) -> None:
    path = make_fits(daq.folder / "a.fits")
    before = everything(daq)
    made = daq.run("daq-start", "-n", "--file", path, "--id", "x").json()
    assert made["id"] == "x" and made["sources"][0]["location"] == str(path)
    daq.run("daq-start", "-n", "--file", "/no/such.fits").fails(65, "/no/such.fits")
    assert everything(daq) == before
    answer = daq.run("daq-start", "--json", "--file", path, "--id", "x").json()
    assert answer == {"id": "x", "error": False}


def test_cron_and_a_link(daq: Daq, tmp_path: Path) -> None:
    if daq.installed:
        pytest.skip("the launcher belongs to a checkout")
    path = make_fits(daq.folder / "a.fits")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = elsewhere / "daq-start"
    link.symlink_to(CHECKOUT / "bin" / "daq-start")
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SHELL": "/bin/sh"}
    done = subprocess.run(["/bin/sh", "-c", f"{link} --spool {daq.spool} --file {path}"],
                          env=bare, cwd="/", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert daq.tree() == {"collect": [done.stdout.strip()]}


# -- what is refused before anything is written ---------------------------------------------------

BAD_NAMES = ["../x", "a/b", "..", ".x", "-x", "a..b", "a\nb", "a\x00b", "a b", "é", "x" * 200]
BAD_LOCATIONS = ["relative.fits", "/a/../b.fits", "/a\n.fits", "-e sh:/a.fits", "far:relative",
                 "far:/a/../b", "-oProxyCommand=x:/a", "a b:/x", "", "far:", "user@-x:/a"]


@pytest.mark.parametrize("turn", range(len(BAD_NAMES)))
def test_names_that_could_leave_the_spool(daq: Daq, turn: int) -> None:
    name = BAD_NAMES[turn]
    path = str(make_fits(daq.folder / "a.fits"))
    before = everything(daq)
    good = {"type": "fitsFile", "sourceName": "a", "location": path}
    members = [
        ({"id": name, "sources": [good]}, "id"),
        ({"filePrefix": name, "sources": [good]}, "filePrefix"),
        ({"sources": [{**good, "sourceName": name}]}, "sourceName"),
        ({"fileId": name, "sources": [good]}, "id"),
        ({"instrument": name, "sources": [good]}, "instrument"),
    ]
    for step in (0, 2):  # each name in two places, each place with several names
        document, what = members[(turn + step) % len(members)]
        daq.run("daq-start", "-", stdin=json.dumps(document)).fails(65, what).no_output()
    assert everything(daq) == before


@pytest.mark.parametrize("location", BAD_LOCATIONS)
def test_locations_that_are_not_plain(daq: Daq, location: str) -> None:
    before = everything(daq)
    source = {"type": "fitsFile", "sourceName": "a", "location": location}
    daq.run("daq-start", "-", stdin=json.dumps({"sources": [source]})).fails(65).no_output()
    host, _, path = location.rpartition(":")
    receiver = {"type": "olasReceiver", "path": path, **({"host": host} if host else {})}
    document = {"sources": [{"type": "fitsKeywords", "sourceName": "k", "keywords": KEYWORDS}],
                "receivers": [receiver]}
    daq.run("daq-start", "-", stdin=json.dumps(document)).fails(65).no_output()
    assert everything(daq) == before


@pytest.mark.parametrize(("arguments", "code", "text"), [
    ([], 64, "nothing to acquire"),
    (["{"], 65, "not JSON"),
    (["[]"], 65, "no JSON object"),
    (['{"sources": {}}'], 65, "sources"),
    (['{"sources": []}'], 64, "nothing to acquire"),
    (['{"sources": [{}]}'], 65, "sources"),
    (['{"sources": [{"type": "tape", "sourceName": "a"}]}'], 65, "type"),
    (["@/no/such/file"], 64, "/no/such/file"),
    (["--file", "/no/such.fits"], 65, "no such file: /no/such.fits"),
    (["--file", "/tmp"], 65, "/tmp"),
    (["--file", "/dev/null"], 65, "/dev/null"),
    (["--primary", "dcs"], 64, "NAME@URI"),
    (["--queue", "--primary", "dcs@zpb.rr://127.0.0.1:1/rec -x"], 65, "rrUri"),
    (["--keywords", "{}"], 65, "no JSON list"),
    (["--keywords", '[{"type": "valueKeyword", "name": "lower", "value": 1}]'], 65, "lower"),
    (["--keywords", '[{"type": "esoKeyword", "name": "OBS ID"}]'], 65, "value"),
    (["--target", "b", "--keywords", "[]", "--file", __file__], 65, "mergeTarget 'b'"),
    (["--bogus"], 64, "--bogus"),
    (["--wait", "--timeout", "soon"], 64, "soon"),
])
def test_refusals_are_one_clear_line(daq: Daq, arguments: list[str], code: int, text: str,
                                     ) -> None:
    before = everything(daq)
    daq.run("daq-start", *arguments).fails(code, text).no_output()
    assert everything(daq) == before


def test_a_spool_that_is_none(daq: Daq) -> None:
    path = make_fits(daq.folder / "a.fits")
    daq.run("daq-start", "--spool", daq.folder, "--file", path).fails(78, "is no spool")
    fresh = daq.folder / "new" / "spool"
    identifier = daq.run("daq-start", "--spool", fresh, "--file", path).line()
    assert os.listdir(fresh / "collect") == [f"{identifier}.json"]
    daq.run("daq-start", "--file", path, env={"DAQ_SPOOL": None, "DAQ_CHECKOUT": None,
                                              "DAQ_CONFIG": "/no/config"}).fails(78, "/no/config")

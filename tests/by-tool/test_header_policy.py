"""Header policies of products, jobs and sites, from the outside; the commands of the page."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from astropy.io import fits
from astropy.io.fits.scripts import fitscheck

from consolepage import assert_prints_what_is_shown
from daqlib import errors, rpc
from dpmserver import Dpm
from harness import CHECKOUT, Daq, free_port, make_fits
from live import Live
from merge_samples import eso, file_source, keyword_source, specification, value
from reflinks import reflink_folder

TABLE: list[dict[str, Any]] = [
    {"name": "OBJECT", "type": "string", "required": True, "default": "UNKNOWN", "source": "tcs"},
    {"name": "RA", "type": "float", "required": True, "unit": "deg", "source": "tcs"},
    {"name": "TEL ALT", "type": "float", "required": True, "comment": "altitude"},
    {"name": "TEL AMBI RHUM", "type": "float", "default": -1, "source": "weather"},
    {"name": "AIRMASS", "type": "float", "min": 1}]
#: Enough to need more blocks than a target has room for.
MANY = [{"name": f"INS OPTI{n} NAME", "type": "string", "default": f"wheel {n}"}
        for n in range(120)]


def write_policy(folder: Path, *entries: dict[str, Any], name: str = "policy.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump({"keywords": list(entries)}))
    return path


def configured(daq: Daq, policy: object, **more: object) -> None:
    path = daq.folder / "site.yaml"
    path.write_text(yaml.safe_dump({"cfg": {"header": {"policy": str(policy)}, **more}}))
    daq.env["DAQ_CONFIG"] = str(path)


def alerts(daq: Daq, job: str) -> dict[str, str]:
    return {told["id"]: told["description"] for told in daq.history(job)
            if told["event"] == "alert"}


def merged(daq: Daq, job: str) -> fits.Header:
    """Collect and merge a job; return the header of its product."""
    for tool in ("daq-collect", "daq-merge"):
        daq.run(tool, "--job", job).ok()
    return fits.getheader(daq.spool / "data" / job / "result")


@pytest.fixture
def job(daq: Daq) -> dict[str, Any]:
    make_fits(daq.folder / "a.fits", cards={"AIRMASS": 0.5})
    return {"sources": [{"type": "fitsFile", "sourceName": "a",
                         "location": str(daq.folder / "a.fits")}],
            "mergeTarget": {"sourceName": "a"}}


# -- every way of building -------------------------------------------------------------------------


@pytest.mark.needs("fitsverify")
@pytest.mark.parametrize("more", [[], MANY], ids=["fits", "grows"])
@pytest.mark.parametrize("way", ["new", "clone", "in-place", "insert", "share"])
def test_every_way_writes_it_and_others_read_it(daq: Daq, way: str, more: list[dict[str, Any]],
                                                ) -> None:
    def merge(folder: Path) -> None:
        make_fits(folder / "t.fits", 2, shape=(300, 200), checksum=True)
        make_fits(folder / "b.fits", 1, shape=(300, 200), name="OTHER")
        document = specification(
            keyword_source("k", value("AIRMASS", 0.5), eso("TEL AZ", 12.5)),
            file_source("b", "b.fits"), target=file_source("t", "t.fits"),
            headerPolicy={"file": "p", "keywords": [*TABLE, *more]})
        (folder / "s.json").write_text(json.dumps(document))
        done = daq.run("daq-merge", folder / "s.json", "--way", way, "-o", "p.fits")
        if way == "clone" and more:
            done.fails(78, "p.fits cannot be a clone")  # as ever: it has no room
            return
        product = folder / "p.fits"
        assert done.ok().line() == str(product)
        assert [text in done.err for text in (
            "required keywords are", ": keywords are", "values are not allowed")] == [True] * 3
        subprocess.run(["fitsverify", "-e", "-q", product], check=True, capture_output=True)
        assert fitscheck.main([str(product)]) == 0
        header = fits.getheader(product)
        assert (header["OBJECT"], header["AIRMASS"], header["ESO TEL AMBI RHUM"]) == (
            "UNKNOWN", 0.5, -1.0)
        assert header["RA"] is None and header.comments["RA"] == "[deg]"
        assert header["ESO TEL ALT"] is None
        names = [card.keyword for card in header.cards]
        assert names.index("ESO TEL ALT") < names.index("ESO TEL AZ"), "ESO keywords are sorted"
        assert all(header[f"ESO {item['name']}"] == item["default"] for item in more)

    if way in ("clone", "share", "insert"):
        with reflink_folder(daq.folder) as folder:
            merge(folder)
    else:
        merge(daq.folder)


def test_a_damaged_policy_of_a_specification_is_refused(daq: Daq) -> None:
    (daq.folder / "s.json").write_text(json.dumps(specification(headerPolicy={
        "keywords": [{"name": "RA", "type": "real"}]})))
    daq.run("daq-merge", daq.folder / "s.json").fails(102, "headerPolicy, number 1: entry RA",
                                                      "type is 'real'")


# -- jobs ------------------------------------------------------------------------------------------


def test_the_policy_of_the_site_goes_with_the_job(daq: Daq, job: dict[str, Any]) -> None:
    configured(daq, write_policy(daq.folder, *TABLE))
    daq.drop("collect", "j", job)
    header = merged(daq, "j")
    assert header["OBJECT"] == "UNKNOWN"
    assert alerts(daq, "j").keys() == {"header-missing", "header-default", "header-invalid"}
    assert alerts(daq, "j")["header-missing"].startswith(
        "required keywords are missing: OBJECT, RA (tcs); TEL ALT; ")
    (status,) = daq.run("daq-status", "--json", "j").ok().jsonl()
    assert status["error"] is True, "a required keyword is missing"
    folder = daq.spool / "data" / "j"
    daq.run("daq-merge", folder / "specification.json", "-o", daq.folder / "again.fits").ok()
    again = fits.getheader(daq.folder / "again.fits")
    assert [card.image for card in again.cards] == [card.image for card in header.cards]


def test_a_job_can_have_its_own_or_none(daq: Daq, job: dict[str, Any]) -> None:
    configured(daq, write_policy(daq.folder, *TABLE))
    write_policy(daq.folder, {"name": "MINE", "type": "integer", "default": 7}, name="own.yaml")
    daq.env["CFGPATH"] = str(daq.folder)
    daq.drop("collect", "own", {**job, "headerPolicy": "own.yaml"})
    header = merged(daq, "own")
    assert header["MINE"] == 7 and "RA" not in header
    daq.drop("collect", "none", {**job, "headerPolicy": ""})
    assert "RA" not in merged(daq, "none") and not alerts(daq, "none")


@pytest.mark.parametrize("path", ["/etc/policy.yaml", "../policy.yaml", "a\nb"])
def test_a_path_that_is_not_allowed(daq: Daq, job: dict[str, Any], path: str) -> None:
    daq.run("daq-start", json.dumps({**job, "headerPolicy": path})).fails(
        65, "the headerPolicy", "is not allowed")
    assert daq.tree() == {}


def test_a_policy_that_was_changed_is_read_anew(daq: Daq, job: dict[str, Any]) -> None:
    path = write_policy(daq.folder, *TABLE)
    configured(daq, path)
    daq.drop("collect", "j", job)
    daq.run("daq-collect", "--job", "j").ok()
    (daq.spool / "merge" / "j.json").rename(daq.spool / "collect" / "j.json")
    write_policy(daq.folder, {"name": "NEW", "type": "integer", "default": 1})
    assert merged(daq, "j")["NEW"] == 1


def test_a_job_waits_for_a_policy_that_is_not_right(daq: Daq, job: dict[str, Any]) -> None:
    path = write_policy(daq.folder, {"name": "RA", "type": "real"})
    configured(daq, path)
    daq.drop("collect", "j", job)
    for _ in range(7):  # more often than a job may fail
        daq.run("daq-collect", "--job", "j").fails(78, f"{path}:2: entry RA", "'real'")
    path.unlink()
    daq.run("daq-collect", "--job", "j").fails(78, "not found", "cfg/header/policy")
    assert daq.tree() == {"collect": ["j"]}
    write_policy(daq.folder, *TABLE)
    assert merged(daq, "j")["OBJECT"] == "UNKNOWN"


def test_dictionaries_fill_in_comments(daq: Daq, job: dict[str, Any]) -> None:
    daq.env["CFGPATH"] = str(CHECKOUT)
    configured(daq, write_policy(daq.folder, {"name": "RA", "type": "float", "default": 0}),
               dictionaries=["config/dictionary/primary.did.yaml"])
    daq.drop("collect", "j", job)
    assert merged(daq, "j").cards["RA"].image.rstrip() == (
        "RA      =             0.000000 / [deg] Right ascension")


def test_a_queued_specification_is_complete(daq: Daq) -> None:
    path = write_policy(daq.folder, *TABLE)
    dpm = Dpm(daq, header={"policy": str(path)})
    dpm.serve()
    mine = {"name": "MINE", "type": "integer", "default": 7}
    bare, own = dpm.queue(), dpm.queue(headerPolicy={"keywords": [mine]})
    assert "RA" not in merged(daq, bare) and not alerts(daq, bare)
    assert merged(daq, own)["MINE"] == 7 and alerts(daq, own).keys() == {"header-default"}
    with pytest.raises(errors.DaqError, match="headerPolicy, number 1: an entry has no name"):
        dpm.queue(headerPolicy={"keywords": [{}]})


# -- live ------------------------------------------------------------------------------------------


def test_an_exposure_without_its_weather_station(daq: Daq) -> None:
    policy = write_policy(daq.folder, TABLE[3])
    live = Live(daq, header={"policy": str(policy)})
    live.serve()
    job = live.begin(live.sim("recif", "dcs"), {
        "type": "metadataSource", "sourceName": "weather", "optional": True,
        "rrUri": f"zpb.rr://127.0.0.1:{free_port()}/daq"})
    assert live.call("StopDaq", id=job) == {"id": job, "error": False}
    assert fits.getheader(live.product(job))["ESO TEL AMBI RHUM"] == -1.0
    assert live.alerts(job).keys() >= {"source-absent:weather", "header-default"}
    assert live.status(job)["error"] is False


def test_the_daemon_does_not_start_with_a_policy_that_is_not_right(daq: Daq) -> None:
    live = Live(daq, header={"policy": str(write_policy(daq.folder, {"name": "RA"}))})
    live.serve(until=None).wait().fails(78, "entry RA", "its type is None",
                                          chatty=True)


def test_the_daemon_refuses_a_path_that_is_not_allowed(daq: Daq) -> None:
    live = Live(daq)
    live.serve()
    with pytest.raises(rpc.RemoteError, match="headerPolicy '/etc/passwd' is not allowed"):
        live.begin({"type": "fitsKeywords", "sourceName": "k", "keywords": []},
                   headerPolicy="/etc/passwd")


# -- the check -------------------------------------------------------------------------------------


def test_a_policy_is_checked_without_a_product(daq: Daq) -> None:
    daq.env["CFGPATH"] = str(CHECKOUT)
    words = ("daq-ctl", "keywords", "policy")
    shown = daq.run(*words, "config/policy/primary.yaml").ok().out
    daq.run(*words).fails(64, "cfg/header/policy names no policy")
    configured(daq, "config/policy/primary.yaml")
    assert daq.run(*words).ok().out == shown and shown.startswith("OBJECT  = 'UNKNOWN '")
    told = daq.run(*words, "--json").ok().json()
    assert [card.rstrip() for card in told["cards"]] == shown.splitlines()
    assert told["file"] == "config/policy/primary.yaml" and len(told["keywords"]) == 5
    daq.run(*words, "a", "b").fails(64, "takes one file")
    daq.run(*words, "none.yaml").fails(78, "none.yaml not found")


def test_the_commands_of_the_page_print_what_is_shown(tmp_path: Path) -> None:
    assert assert_prints_what_is_shown(CHECKOUT / "docs" / "header-policy.md", tmp_path) == 8

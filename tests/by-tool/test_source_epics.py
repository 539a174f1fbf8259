"""Metadata of real IOCs: EPICS Base's, and caproto's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daq_ctl.sources import epicsclient
from daqlib import rpc
from harness import PATIENCE_S, Daq, wait_until
from ioc import LONG, Ioc, Liar, required, serving, settings
from live import Live, Simulator

pytestmark = [pytest.mark.xdist_group("source-epics")]

#: What most acquisitions here record: item, keyword, other members of the row.
ROWS: list[dict[str, Any]] = [
    {"pv": "temp", "keyword": "ESO INS TEMP1 VAL", "comment": "Bench"},
    {"pv": "hot", "keyword": "HOT"},
    {"pv": "warm", "keyword": "WARM", "unit": "deg", "format": "%.3f"},
    {"pv": "unlinked", "keyword": "UNLINKED"},
    {"pv": "never", "keyword": "NEVER"},
    {"pv": "inf", "keyword": "INFINITE"},
    {"pv": "nan", "keyword": "NOTANUM"},
    {"pv": "filter", "keyword": "FILTER"},
    {"pv": "shutter", "keyword": "SHUTTER", "type": "boolean", "names": {"OPEN": True}},
    {"pv": "nameless", "keyword": "NAMELESS"},
    {"pv": "whole", "keyword": "WHOLE"},
    {"pv": "observer", "keyword": "OBSERVER"},
    {"pv": "long", "keyword": "ESO OBS NAME"},
    {"pv": "path", "keyword": "ESO INS PATH"},
    {"pv": "wave[1]", "keyword": "WAVE1"},
    {"pv": "wave[7]", "keyword": "WAVE7"},
    {"pv": "wave", "keyword": "WAVE"},
    {"pv": "gone", "keyword": "GONE"},
    {"pv": "temp.SCAN", "keyword": "SCAN"},
]
COUNTS = [{"pv": "count", "keyword": "N{when}", "when": ["start", "min", "mean", "max", "end"]}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    required("pvxslibs", "caproto")
    with serving(tmp_path_factory.mktemp("base")) as made:
        made.base()
        yield made


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Ioc]:
    """An IOC of the test's own, with other names than those of the other."""
    required("pvxslibs", "caproto")
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def live(daq: Daq, base: Ioc, mortal: Ioc) -> Live:
    required(daq=daq)
    daq.env.update(settings(base, mortal))
    made = Live(daq)
    made.serve()
    return made


@pytest.fixture
def dcs(live: Live) -> Simulator:
    return live.sim("recif", "dcs", "--extensions", 1)


def lab(rows: list[dict[str, Any]], uri: str = "epics:LAB:", **options: Any) -> dict[str, Any]:
    return {"type": "metadataSource", "sourceName": "lab", "rrUri": uri,
            "options": {"keywords": rows, **options}}


def remarks(live: Live, job: str) -> str:
    return live.alerts(job).get("source-remarks:lab", "")


def cards(product: Path) -> dict[str, tuple[Any, str]]:
    from astropy.io import fits

    header = fits.getheader(product)
    return {card.keyword: (card.value, card.comment) for card in header.cards}


def descriptors(live: Live) -> int:
    """Return how many files and sockets the daemon has open; an event loop has some as well."""
    return len(os.listdir(f"/proc/{live.daemon.pid}/fd"))


def kept(live: Live, job: str, member: str = "value") -> dict[str, Any]:
    [source] = live.manifest(job)["sources"]
    return {each["name"]: each.get(member, "") for each in source["keywords"]}


class Count:
    """A look at the servers with our own client, in the process of the test."""

    def grows(self, name: str, by: int = 3) -> None:
        """Wait until a counter is that much larger."""
        first = self.now(name)
        wait_until(lambda: self.now(name) >= first + by)

    def now(self, name: str) -> float:
        """Return what a process variable is."""
        async def look() -> Any:
            client = epicsclient.Client(lambda _item, _reading: None)
            try:
                return (await client.read([name], PATIENCE_S))[name].value
            finally:
                await client.close()
        return float(asyncio.run(look()))


@pytest.fixture
def count(base: Ioc, mortal: Ioc, monkeypatch: pytest.MonkeyPatch) -> Count:
    for name, value in settings(base, mortal).items():
        monkeypatch.setenv(name, value)
    return Count()


# -- what is recorded -----------------------------------------------------------------------------


@pytest.mark.needs("fitsverify")
def test_a_product_with_units_states_and_flags(live: Live, dcs: Simulator) -> None:
    job = live.begin(dcs, lab(ROWS))
    live.call("StopDaq", id=job)
    told = remarks(live, job)
    for text in ("LAB:unlinked is flagged INVALID LINK", "LAB:never has no value (UNDEFINED)",
                 "LAB:inf has no value (NO NUMBER)", "LAB:nan has no value (UNDEFINED)",
                 "LAB:wave[7] has no value (NO ELEMENT 7)", "LAB:wave has no value (ARRAY OF 5)",
                 "LAB:gone has no value (ABSENT)", "LAB:shutter is flagged MAJOR STATE"):
        assert text in told
    product = live.product(job)
    found = cards(product)
    assert {name: found[name] for name in (
        "ESO INS TEMP1 VAL", "HOT", "WARM", "FILTER", "SHUTTER", "NAMELESS", "WHOLE", "OBSERVER",
        "ESO INS PATH", "WAVE1", "SCAN")} == {
            "ESO INS TEMP1 VAL": (21.5, "[degC] Bench"), "HOT": (25.0, "[degC] MAJOR HIHI"),
            "WARM": (24.5, "[deg] MINOR HIGH"), "FILTER": ("H-alpha", ""),
            "SHUTTER": (True, "MAJOR STATE"), "NAMELESS": (1, ""), "WHOLE": (42, ""),
            "OBSERVER": ("Anna Tester", ""), "ESO INS PATH": ("/data/a.fits", ""),
            "WAVE1": (23.7, "[mm]"), "SCAN": ("Passive", "")}
    assert found["ESO OBS NAME"][0] == LONG
    assert "INVALID LINK" in found["UNLINKED"][1]
    assert not {"NEVER", "INFINITE", "NOTANUM", "WAVE7", "WAVE", "GONE"} & set(found)
    subprocess.run(["fitsverify", "-e", "-q", product], check=True)
    checked = subprocess.run([Path(live.daq.python).parent / "fitscheck", product], check=False,
                             capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_an_alert_does_not_tell_thousands_of_remarks(live: Live) -> None:
    job = live.begin(lab([{"pv": f"gone{n}", "keyword": f"G{n}"} for n in range(2000)]))
    live.call("StopDaq", id=job)
    told = remarks(live, job)
    assert told.endswith("; and 1900 more, in the log") and told.count("left out") == 100
    assert "G1999 is left out" in live.told(job)


def test_flagged_values_can_be_left_out(live: Live) -> None:
    job = live.begin(lab([{"pv": "hot", "keyword": "HOT"}, {"pv": "temp", "keyword": "TEMP"}],
                         flagged="leave-out"))
    live.call("StopDaq", id=job)
    assert "HOT is left out: LAB:hot is flagged MAJOR HIHI" in remarks(live, job)
    assert list(kept(live, job)) == ["TEMP"]


def test_what_became_of_a_value_over_an_exposure(live: Live, count: Count) -> None:
    job = live.begin(lab(COUNTS))
    count.grows("LAB:count")
    live.call("StopDaq", id=job)
    found = kept(live, job)
    assert found["NMIN"] == found["NSTART"] < found["NMEAN"] < found["NMAX"] == found["NEND"]
    assert set(kept(live, job, "comment").values()) == {"[counts]"}
    assert not remarks(live, job)


def test_a_value_beyond_its_limits_counts(live: Live, count: Count) -> None:
    job = live.begin(lab([{"pv": "rising", "keyword": "N{when}", "when": ["min", "max"]}]))
    count.grows("LAB:rising")
    live.call("StopDaq", id=job)
    found = kept(live, job)
    assert found["NMAX"] > found["NMIN"]
    assert kept(live, job, "comment") == {"NMIN": "MINOR HIGH", "NMAX": "MINOR HIGH"}


def test_required_and_absent(live: Live) -> None:
    rows = [{"pv": "temp", "keyword": "TEMP"}, {"pv": "gone", "keyword": "GONE", "required": True}]
    with pytest.raises(rpc.RemoteError, match="required, but GONE is left out: LAB:gone"):
        live.begin(lab(rows))


def test_what_an_optional_source_has_is_kept_however_long_it_searches_for_the_rest(
        live: Live, mortal: Ioc) -> None:
    mortal.base(prefix="DIE:")
    rows = [*COUNTS, {"pv": "gone", "keyword": "X{when}", "when": ["start", "end"]}]
    job = live.begin({**lab(rows, uri="epics:DIE:", search=60), "optional": True})
    assert live.alerts(job) == {}
    mortal.hang()
    live.call("StopDaq", id=job)
    assert list(live.alerts(job)) == ["source-remarks:lab"]
    assert set(kept(live, job)) == {"NSTART", "NMIN", "NMEAN", "NMAX"}


def test_what_is_old_is_flagged(live: Live, count: Count) -> None:
    count.grows("LAB:count")
    job = live.begin(lab([{"pv": "temp", "keyword": "TEMP", "maxAge": 0.001},
                          {"pv": "temp.DESC", "keyword": "DESC"}], maxAge=1000))
    live.call("StopDaq", id=job)
    assert "TEMP: LAB:temp is flagged STALE" in remarks(live, job)


def test_a_bad_request_is_refused(live: Live) -> None:
    for source, text in (
            (lab(ROWS, uri="epics://ioc.example/"), "names a host"), (lab([]), "there are none"),
            (lab([{"pv": "a b", "keyword": "A"}]), "'LAB:a b' is no name"),
            (lab(ROWS, search="soon"), "option search")):
        with pytest.raises(rpc.RemoteError, match=text):
            live.begin(source)


def test_an_environment_that_is_not_right(daq: Daq, base: Ioc) -> None:
    required(daq=daq)
    daq.env |= settings(base) | {"EPICS_CA_SERVER_PORT": "many"}
    live = Live(daq)
    live.serve()
    with pytest.raises(rpc.RemoteError, match="EPICS_CA_SERVER_PORT"):
        live.begin(lab(ROWS))


# -- what goes wrong meanwhile --------------------------------------------------------------------


def test_an_ioc_that_dies_and_comes_back(live: Live, mortal: Ioc, count: Count) -> None:
    mortal.base(prefix="DIE:")
    job = live.begin(lab(COUNTS, uri="epics:DIE:"))
    mortal.die()
    wait_until(lambda: any("lost its connection to DIE:count" in each
                           for each in live.alerts(job).values()))
    mortal.base(prefix="DIE:")
    wait_until(lambda: not live.alerts(job))
    count.grows("DIE:count")
    live.call("StopDaq", id=job)
    assert "NMEAN: DIE:count is flagged LOST" in remarks(live, job)
    found = kept(live, job)
    assert found["NMIN"] < found["NMEAN"] < found["NMAX"]  # it counts from 1 again
    comments = kept(live, job, "comment")
    assert comments["NMEAN"].startswith("[counts] LOST")
    assert comments["NSTART"] == comments["NEND"] == "[counts]"
    assert "caproto" not in live.daemon.err and "Traceback" not in live.daemon.err


@pytest.mark.parametrize("end", [Ioc.die, Ioc.hang])
def test_an_ioc_that_is_gone_at_the_end(live: Live, mortal: Ioc, end: Callable[[Ioc], None],
                                        ) -> None:
    mortal.base(prefix="DIE:")
    job = live.begin(lab([*COUNTS, {"pv": "temp", "keyword": "T{when}", "when": ["start", "end"]}],
                         uri="epics:DIE:"))
    end(mortal)
    live.call("StopDaq", id=job)
    found = kept(live, job)
    assert found["TSTART"] == 21.5
    assert set(found) == {"NSTART", "NMIN", "NMEAN", "NMAX", "TSTART"}
    assert "TEND is left out: DIE:temp has no value (ABSENT)" in remarks(live, job)


def test_a_killed_daemon_goes_on(live: Live, count: Count) -> None:
    job = live.begin(lab([*COUNTS, *ROWS]))
    before = live.crash()
    assert before.running()
    assert live.until(job, "Acquiring")
    count.grows("LAB:count")
    live.call("StopDaq", id=job)
    found = kept(live, job)
    assert found["INS TEMP1 VAL"] == 21.5 and found["OBS NAME"] == LONG
    assert found["NSTART"] == found["NMIN"] < found["NMAX"] == found["NEND"]
    assert "NMEAN: LAB:count is flagged LOST" in remarks(live, job)


def test_acquisitions_at_the_same_time_leave_nothing(live: Live, count: Count) -> None:
    rows = [*COUNTS, {"pv": "gone", "keyword": "GONE"}]
    live.call("AbortDaq", id=live.begin(lab(rows)))
    before = descriptors(live)
    jobs = [live.begin(lab(rows)) for _ in range(4)]
    assert descriptors(live) > before
    count.grows("LAB:count")
    for each in jobs[:3]:
        live.call("StopDaq", id=each)
        assert kept(live, each)["NMAX"] > kept(live, each)["NSTART"]
    live.call("AbortDaq", id=jobs[3])
    wait_until(lambda: descriptors(live) <= before)
    assert not Path(f"/proc/{live.daemon.pid}/task/{live.daemon.pid}/children").read_text()
    assert "caproto" not in live.daemon.err and "Traceback" not in live.daemon.err


def test_a_server_that_does_not_take_the_connection(
        mortal: Ioc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epicsclient, "_LOOK_S", 0.2)
    for name, value in settings(mortal).items():
        monkeypatch.setenv(name, value)
    liar, heard = Liar(mortal), threading.Event()

    async def run() -> None:
        client = epicsclient.Client(lambda _item, reading: heard.set() if reading.value else None)
        try:
            await client.listen(["DIE:count"])
            await asyncio.to_thread(liar.answer)
            liar.close()
            await asyncio.to_thread(mortal.base, prefix="DIE:")
            await asyncio.to_thread(wait_until, heard.is_set)
        finally:
            await client.close()

    asyncio.run(run())


# -- another server -------------------------------------------------------------------------------


def test_the_ioc_of_caproto(live: Live, mortal: Ioc) -> None:
    mortal.caproto("thermo_sim", "lab:thermo:")
    job = live.begin(lab([{"pv": "SP", "keyword": "SETPOINT"}, {"pv": "I", "keyword": "READBACK"},
                          {"pv": "gone", "keyword": "GONE"}], uri="epics:lab:thermo:"))
    live.call("StopDaq", id=job)
    assert kept(live, job) == {"SETPOINT": 100, "READBACK": pytest.approx(100, abs=100)}
    assert "GONE is left out: lab:thermo:gone has no value (ABSENT)" in remarks(live, job)

"""What becomes of a value that comes over Channel Access, and of options that are not right."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from daq_ctl import sources
from daq_ctl.sources import epicsvalues
from daq_ctl.sources.epicsvalues import Alarm, Control, reading
from daq_ctl.sources.readings import Span
from daqlib import errors
from harness import CHECKOUT
from ioc import required

NOW = 1_800_000_000.0
FINE = Alarm(0, 0, NOW)


@pytest.mark.parametrize(("value", "control", "expected"), [
    (21.5, Control("degC"), 21.5), (42, Control(), 42), (True, Control(), 1),
    (b"Anna Tester", Control(), "Anna Tester"), (b"cut\0rest", Control(), "cut"),
    ("23 °C".encode(), Control(), "23 °C"), (b"23 \xb0C", Control(), "23 °C"),
    (1, Control("", ("OPEN", "H-alpha")), "H-alpha"),
    (1, Control("", ("", "")), 1), (7, Control("", ("OPEN", "H-alpha")), 7)])
def test_a_good_value(value: Any, control: Control, expected: Any) -> None:
    found = reading([value], FINE, control)
    assert (found.value, found.flag, found.unit, found.time) == (expected, "", control.unit, NOW)
    assert type(found.value) is type(expected)


@pytest.mark.parametrize(("status", "severity", "flag"), [
    (3, 2, "MAJOR HIHI"), (4, 1, "MINOR HIGH"), (14, 3, "INVALID LINK"), (9, 3, "INVALID COMM"),
    (4, 0, ""), (99, 2, "MAJOR"), (3, 9, "INVALID HIHI")])
def test_an_alarm_is_a_flag(status: int, severity: int, flag: str) -> None:
    found = reading([1.0], Alarm(status, severity, NOW), Control("V"))
    assert (found.value, found.flag) == (1.0, flag)
    span = Span()
    span.add(found, 0.0)
    assert span.most == (None if "INVALID" in flag else 1.0)


@pytest.mark.parametrize("alarm", [
    Alarm(17, 0, NOW), Alarm(17, 3, NOW), Alarm(0, 0, 631152000.0), Alarm(0, 3, 0.0)])
def test_a_record_that_was_never_processed_has_no_value(alarm: Alarm) -> None:
    found = reading([3.0], alarm, Control("V"))
    assert (found.value, found.flag, found.unit) == (None, "UNDEFINED", "V")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_fits_cannot_hold_is_no_value(value: float) -> None:
    assert (reading([value], FINE, Control()).value,
            reading([value], FINE, Control(), single=True).flag) == (None, "NO NUMBER")


def test_elements_of_arrays() -> None:
    wave = [1.5, 2.5, 3.5]
    assert reading(wave, FINE, Control("mm"), 2).value == 3.5
    assert reading(wave, FINE, Control("mm"), 3).flag == "NO ELEMENT 3"
    assert reading(wave, FINE, Control("mm")).flag == "ARRAY OF 3"
    assert reading([], FINE, Control()).flag == "ARRAY OF 0"
    assert reading([], FINE, Control(), 0).flag == "NO ELEMENT 0"


def test_single_precision_as_people_write_it() -> None:
    import struct

    for text in ("23.7", "0.1", "1e+30", "3.4028235e+38", "16777216.0", "-273.15"):
        [single] = struct.unpack("f", struct.pack("f", float(text)))
        assert reading([single], FINE, Control(), single=True).value == float(text)
        assert reading([single], FINE, Control()).value == single


def test_units_are_ascii() -> None:
    texts = ["°C", "µm", "m/s", "V]", "\x1b[31m"]
    assert [epicsvalues.unit(text.encode()) for text in texts] == [
        "degC", "um", "m/s", "V)", "?(31m"]
    assert epicsvalues.unit(b"\xb0C") == "degC"


def test_names() -> None:
    assert epicsvalues.split("LAB:wave[12]") == ("LAB:wave", 12)
    assert epicsvalues.split("LAB:wave.VAL") == ("LAB:wave.VAL", None)
    assert (epicsvalues.long_name("LAB:a"), epicsvalues.long_name("LAB:a.DESC")) == (
        "LAB:a.VAL$", "LAB:a.DESC$")
    for name in ("LAB:t", "SR:C01{Mtr:1}Pos.RBV", "a/b<x>;y-z$", "a" * 200):
        assert epicsvalues.allowed(name)
    for name in ("", "LAB: t", "LAB:\n", "LAB:é", 'a"b', "a'b", "a" * 201):
        assert not epicsvalues.allowed(name)


def made(uri: str = "epics:LAB:", **options: Any) -> Any:
    rows = [{"pv": "temp", "keyword": "TEMP"}]
    description = {"type": "metadataSource", "sourceName": "lab", "rrUri": uri,
                   "options": {"keywords": rows, **options}}
    return sources.make(sources.Order(description, "job", 5.0))


def test_the_prefix_of_the_uri_begins_all_names() -> None:
    required("caproto")
    assert [row.item for row in made("epics:SR%3AC01%7B?search=2").rows] == ["SR:C01{temp"]
    assert [row.item for row in made("epics:").rows] == ["temp"]


@pytest.mark.parametrize(("uri", "options", "text"), [
    ("epics://host/", {}, "names a host"),
    ("epics:LAB:", {"keywords": []}, "there are none"),
    ("epics:LAB:", {"keywords": [{"pv": "a b", "keyword": "A"}]}, "'LAB:a b' is no name"),
    ("epics:%0a", {}, "is no name"),
    ("epics:LAB:", {"keywords": [{"property": "a", "keyword": "A"}]}, "property is not known"),
    ("epics:LAB:?search=0", {}, "out of bounds"),
    ("epics:LAB:?colour=red", {}, "colour")])
def test_what_is_wrong_is_told_before_anything_starts(uri: str, options: dict[str, Any],
                                                      text: str) -> None:
    with pytest.raises(errors.BadData, match=text):
        made(uri, **options)


def test_without_caproto_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "caproto", None)
    with pytest.raises(errors.BadConfig, match=r"pip install 'daqspool\[epics\]'"):
        made()


def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required("caproto")
    page = (CHECKOUT / "docs" / "epics.md").read_text()
    [job] = re.findall(r"```json schema=startdaqv2\n(.*?)```", page, re.DOTALL)
    [table] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "lab.yaml").write_text(table)
    monkeypatch.setenv("CFGPATH", str(tmp_path))
    [source] = json.loads(job)["sources"]
    assert len(sources.make(sources.Order(source)).rows) == 6
    source["options"] = {"mapping": "lab.yaml"}
    assert [row.item for row in sources.make(sources.Order(source)).rows] == [
        "LAB:temp", "LAB:shutter"]

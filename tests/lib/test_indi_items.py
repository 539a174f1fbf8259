"""Elements of INDI properties: their names, and what becomes of their values."""

from __future__ import annotations

from typing import Any

import pytest

from daq_ctl.sources.indi import metadata
from daq_ctl.sources.indi.client import Vector
from daq_ctl.sources.indi.items import Item
from daq_ctl.sources.readings import Reading, Value
from daqlib import clock

STAMP = "2026-11-22T01:35:05"
AT = clock.from_iso(STAMP)


def vectors(*extra: Vector, connected: bool = True) -> dict[tuple[str, str], Vector]:
    made = [Vector("D", "CONNECTION", "Switch", "Ok",
                   elements={"CONNECT": connected, "DISCONNECT": not connected}), *extra]
    return {(vector.device, vector.name): vector for vector in made}


def vector(kind: str, state: str = "Ok", /, name: str = "P", **elements: Value) -> Vector:
    return Vector("D", name, kind, state, elements=dict(elements), timestamp=STAMP)


def reading(item: str, *extra: Vector, connected: bool = True, **how: Any) -> Reading | None:
    return Item.parse(item, "D").reading(vectors(*extra, connected=connected), **how)


@pytest.mark.parametrize(("text", "device", "name", "element"), [
    ("P.E", "D", "P", "E"), ("P", "D", "P", ""), ("Focuser 2/P.E", "Focuser 2", "P", "E"),
    ("A/B/P", "A/B", "P", ""), ("v1.2/P.E", "v1.2", "P", "E"), ("P.E.1", "D", "P", "E.1"),
    ("N.SLOT_{S.V}", "D", "N", "SLOT_{S.V}")])
def test_names(text: str, device: str, name: str, element: str) -> None:
    made = Item.parse(text, "D")
    assert (made.device, made.name, made.element) == (device, name, element)
    assert Item.parse(str(made), "") == made


@pytest.mark.parametrize("text", [
    "", ".E", "P.", "/P", "D/", "P.{X}", "N.S_{S.V}x", "P{A.B}", "D/.E"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no property"):
        Item.parse(text, "D")


def test_a_device_is_needed() -> None:
    with pytest.raises(ValueError, match="Device Name/P.E"):
        Item.parse("P.E", "")


@pytest.mark.parametrize(("item", "told", "value", "flag"), [
    ("P.E", vector("Number", E=1.5), 1.5, ""), ("P", vector("Number", E=1.5), 1.5, ""),
    ("P.E", vector("Text", E="x"), "x", ""), ("P.E", vector("Number", "Idle", E=1.0), 1.0, ""),
    ("P", vector("Number", E=1.0, F=2.0), None, "NO ELEMENT NAMED"),
    ("P.X", vector("Number", E=1.0), None, "ABSENT"),
    ("P.E", vector("Number", E=float("nan")), None, "NO NUMBER"),
    ("P", vector("Switch", A=False, B=True), "B", ""),
    ("P.A", vector("Switch", A=False), False, ""),
    ("P", vector("Switch", A=True, B=True), "A,B", ""), ("P", vector("Switch", A=False), None, ""),
    ("P.E", vector("Light", "Alert", E="Alert"), "Alert", ""),
    ("P._STATE", vector("Number", "Alert", E=1.0), "Alert", ""),
    ("P.E", vector("BLOB", E="x"), None, "BLOB"),
    ("P.E", vector("Number", "Alert", E=1.5), 1.5, "ALERT"),
    ("P.E", vector("Number", "Busy", E=1.5), 1.5, "")])
def test_values(item: str, told: Vector, value: Value | None, flag: str) -> None:
    assert reading(item, told) == Reading(value, flag, "", AT)


def test_what_is_still_moving_is_flagged_on_request() -> None:
    assert reading("P.E", vector("Number", "Busy", E=1.0), busy=True) == Reading(
        1.0, "BUSY", "", AT, off_limits=True)
    told = [vector("Number", "Busy", E=1.0)]
    assert reading("P.E", *told, connected=False, busy=True) == Reading(
        1.0, "DISCONNECTED BUSY", "", AT)


@pytest.mark.parametrize(("item", "name", "value"), [
    ("FILTER_SLOT.V", "FILTER_SLOT", 2.0), ("FILTER_NAME.F{FILTER_SLOT.V}", "FILTER_SLOT", "B"),
    ("DOME_SHUTTER", "DOME_SHUTTER", "OPEN")])
def test_what_is_still_being_chosen_is_always_flagged(item: str, name: str, value: Value) -> None:
    told = [Vector("D", "FILTER_NAME", "Text", "Ok", "rw", {"F2": "B"}, STAMP),
            Vector("D", "FILTER_SLOT", "Number", "Busy", "rw", {"V": 2.0}, STAMP),
            Vector("D", "DOME_SHUTTER", "Switch", "Busy", "rw", {"OPEN": True}, STAMP)]
    assert reading(item, *told) == Reading(value, "BUSY", "", AT)


@pytest.mark.parametrize("kind", ["Number", "Light"])
def test_a_state_that_is_busy_is_a_good_value(kind: str) -> None:
    made = reading("P._STATE", vector(kind, "Busy", E="Busy"), busy=True)
    assert made == Reading("Busy", "", "", AT)


def test_what_is_not_there() -> None:
    assert reading("P.E") is None
    assert reading("P.E", connected=False) == Reading(None, "DISCONNECTED")
    assert reading("P.E", vector("Number", E=1.0), connected=False) == Reading(
        1.0, "DISCONNECTED", "", AT)


@pytest.mark.parametrize("stamp", ["", "yesterday", "2026-11-22 01:35:05"])
def test_a_time_stamp_may_be_missing(stamp: str) -> None:
    told = vector("Number", E=1.0)
    told.timestamp = stamp
    assert reading("P.E", told) == Reading(1.0)


@pytest.mark.parametrize(("slot", "state", "value", "flag"), [
    (2.0, "Ok", "Blue", ""), (7.0, "Ok", None, "ABSENT"), (2.0, "Alert", "Blue", "ALERT"),
    ("two", "Ok", None, "ABSENT"), (float("nan"), "Ok", None, "ABSENT")])
def test_an_element_that_another_one_chooses(
        slot: Value, state: str, value: Value | None, flag: str) -> None:
    names = vector("Text", name="N", SLOT_1="Red", SLOT_2="Blue")
    choice = vector("Number", state, name="S", V=slot)
    assert reading("N.SLOT_{S.V}", names, choice) == Reading(value, flag, "", AT)
    assert reading("N.SLOT_{S.V}", names) is None


def test_tables_of_standard_devices_are_right() -> None:
    tables = {kind: metadata.table(kind) for kind in metadata.KINDS}
    assert all(tables.values())
    for row in (row for rows in tables.values() for row in rows):
        Item.parse(row.item, "D")
        assert row.comment, f"{row.keyword} has no comment"

"""Readings, and what becomes of a number over an exposure."""

from __future__ import annotations

import json
import math

import pytest

from daq_ctl.sources.readings import Reading, Span

NEWEST = Reading(None, "", "m", 7.0)


def span(*told: tuple[float, Reading], turn: float = 0.0) -> Span:
    made = Span(turn)
    for now, reading in told:
        made.add(reading, now)
    return made


def good(*told: tuple[float, float], turn: float = 0.0) -> Span:
    return span(*((now, Reading(value)) for now, value in told), turn=turn)


def over(made: Span, when: str) -> Reading:
    return made.over(when, NEWEST)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_value(value: float) -> None:
    assert Reading(value) == Reading(None, "NO NUMBER")
    assert Reading(value, "ALERT").flag == "ALERT"


def test_a_reading_may_be_told_as_json() -> None:
    told = json.dumps(vars(Reading(math.inf, "", "K", 3.0)), allow_nan=False)
    assert Reading(**json.loads(told)) == Reading(None, "NO NUMBER", "K", 3.0)


@pytest.mark.parametrize(("reading", "most", "flag"), [
    (Reading(1.0, time=90.0), 0.0, ""),
    (Reading(1.0, time=90.0), 10.0, ""),
    (Reading(1.0, time=89.0), 10.0, "STALE 11 s"),
    (Reading(1.0, "ALERT", time=89.0), 10.0, "ALERT STALE 11 s"),
    (Reading(1.0, time=0.0), 10.0, "STALE"),
    (Reading(1.0, time=500.0), 10.0, ""),  # its clock is ahead of ours
    (Reading(None, "ABSENT"), 10.0, "ABSENT")])
def test_an_old_reading_is_flagged(reading: Reading, most: float, flag: str) -> None:
    assert reading.aged(100.0, most).flag == flag


def test_a_mean_is_weighted_with_the_time_that_each_value_lasted() -> None:
    made = good((0, 10.0), (1, 20.0), (9, 10.0), (10, 10.0))
    assert over(made, "mean").value == pytest.approx(18.0)
    assert (over(made, "min").value, over(made, "max").value) == (10.0, 20.0)


def test_what_comes_out_has_unit_and_time_of_the_newest_reading() -> None:
    assert over(good((0, 1.0), (1, 3.0)), "max") == Reading(3.0, "", "m", 7.0)


def test_a_mean_over_no_time_is_the_last_value() -> None:
    assert over(good((5, 3.0)), "mean").value == 3.0


def test_of_logicals_the_mean_is_the_part_of_the_time() -> None:
    made = span((0, Reading(True)), (3, Reading(False)), (4, Reading(False)))
    assert over(made, "mean").value == pytest.approx(0.75)


def test_a_flagged_value_counts_for_its_time_only() -> None:
    made = span((0, Reading(1.0)), (4, Reading(100.0, "ALERT")), (6, Reading(3.0)),
                (10, Reading(3.0)))
    assert over(made, "mean") == Reading(2.0, "ALERT, 2 s MISSING", "m", 7.0)
    assert over(made, "max").value == 3.0


def test_each_flag_is_told_once() -> None:
    made = span((0, Reading(1.0)), (1, Reading(2.0, "ALERT")), (1.1, Reading(1.0)),
                (1.2, Reading(3.0, "ALERT")), (1.3, Reading(None, "LOST")), (1.4, Reading(1.0)))
    assert over(made, "mean").flag == "ALERT, LOST"


@pytest.mark.parametrize(("reading", "flag"), [
    (Reading("text"), "NO NUMBER"), (Reading(None, "ABSENT"), "ABSENT"),
    (Reading(2.0, "INVALID"), "INVALID"), (Reading(math.nan), "NO NUMBER")])
def test_without_a_good_number_there_is_no_value(reading: Reading, flag: str) -> None:
    made = span((0, reading), (0.1, reading))
    for when in ("mean", "min", "max"):
        assert over(made, when) == Reading(None, flag, "m", 7.0)


@pytest.mark.parametrize(("turn", "values", "mean", "least", "most"), [
    (360.0, (359.0, 1.0), 360.0, 359.0, 361.0),
    (360.0, (1.0, 359.0), 0.0, -1.0, 1.0),
    (360.0, (10.0, 350.0), 0.0, -10.0, 10.0),
    (24.0, (23.9, 0.1), 24.0, 23.9, 24.1),
    (0.0, (359.0, 1.0), 180.0, 1.0, 359.0)])
def test_an_angle_is_followed_the_shorter_way_round(
        turn: float, values: tuple[float, float], mean: float, least: float, most: float) -> None:
    made = good((0, values[0]), (1, values[1]), (2, values[1]), turn=turn)
    assert over(made, "mean").value == pytest.approx(mean)
    assert over(made, "min").value == pytest.approx(least)
    assert over(made, "max").value == pytest.approx(most)


def test_a_number_may_go_round_several_times() -> None:
    made = good(*((step, step * 100.0 % 360) for step in range(9)), turn=360.0)
    assert over(made, "max").value == pytest.approx(800.0)


def test_after_a_restart_the_time_between_is_missing() -> None:
    before = good((0, 10.0), (4, 10.0))
    told = json.loads(json.dumps(before.to_json(), allow_nan=False))
    made = Span.of_json(told, now=1000.0, unheard=3.0)
    made.add(Reading(30.0), 1002.0)
    made.hold(1006.0)
    assert over(made, "mean").value == pytest.approx((10 * 4 + 30 * 4) / 8)
    assert over(made, "mean").flag == "5 s MISSING"
    assert (made.least, made.most) == (10.0, 30.0)


def test_an_angle_is_followed_over_a_restart() -> None:
    made = Span.of_json(good((0, 359.0), turn=360.0).to_json(), 0.0, 0.0)
    made.add(Reading(2.0), 1.0)
    assert over(made, "max").value == pytest.approx(362.0)


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    made = good((5, 1.0), (4, 1.0), (5, 1.0))
    assert (made.held, made.bad) == (1.0, 5.0)

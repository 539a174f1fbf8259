from __future__ import annotations

from typing import Any

import pytest

from daqlib import alerts


def raised(condition: str, subject: str = "", stage: str = "merge") -> dict[str, Any]:
    return {"event": "alert", "stage": stage, "time": "2026-11-21T02:30:00.000Z",
            **alerts.make(condition, subject, "why")}


def ids(events: list[dict[str, Any]], place: str = "merge") -> list[str]:
    return [alert["id"] for alert in alerts.active(events, place)]


@pytest.mark.parametrize("condition", alerts.CONDITIONS)
def test_a_condition_names_and_weighs_its_alert(condition: str) -> None:
    made = alerts.make(condition, "a", "why")
    assert made["id"] == f"{condition}:a"
    assert made["severity"] in (alerts.ERROR, alerts.WARNING, alerts.INFO)
    assert alerts.make(condition, "", "why")["id"] == condition


def test_an_unknown_condition_is_a_bug() -> None:
    with pytest.raises(KeyError):
        alerts.make("mood", "", "bad")


def test_raised_twice_is_one_alert() -> None:
    assert ids([raised("datasum", "a"), raised("datasum", "b"), raised("datasum", "a")]) == [
        "datasum:a", "datasum:b"]


def test_a_new_try_of_the_stage_that_raised_it_clears_an_alert() -> None:
    found = [raised("datasum", "a"), raised("source-failed", "s", "acquire")]
    assert ids([*found, {"event": "start", "stage": "release"}]) == ["datasum:a",
                                                                    "source-failed:s"]
    assert ids([*found, {"event": "start", "stage": "merge"}]) == ["source-failed:s"]


def test_an_alert_can_be_cleared() -> None:
    found = [raised("datasum", "a"), {"event": "alert-cleared", "id": "datasum:a"}]
    assert ids(found) == []
    assert ids([*found, raised("datasum", "a")]) == ["datasum:a"]
    assert ids([{"event": "alert-cleared", "id": "never"}]) == []


def test_places_have_alerts_of_their_own() -> None:
    failed = [{"event": "fail", "stage": "merge", "reason": "first"},
              {"event": "fail", "stage": "merge", "reason": "the disk"}]
    (alert,) = alerts.active(failed, "failed")
    assert (alert["id"], alert["description"], alert["stage"]) == ("failed", "the disk", "merge")
    assert alerts.active(failed, "merge") == [], "it clears itself when the job is moved back"
    assert "by hand" in alerts.active([], "failed")[0]["description"]
    assert ids([], "hold") == ["held"]


def test_only_errors_are_errors() -> None:
    assert alerts.is_error(alerts.active([raised("datasum")], "merge"))
    assert not alerts.is_error(alerts.active([raised("unmergeable")], "merge"))
    assert not alerts.is_error(alerts.active([], "hold"))
    assert alerts.is_error(alerts.active([], "failed"))

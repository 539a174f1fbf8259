"""What the fuzz tests share: profiles, odd values, and what a well-formed reply is."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from daqlib import errors

_HEALTH = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture,
           HealthCheck.differing_executors]


def quick(examples: int) -> settings:
    """Return the profile of make test: the same examples every time."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None,
                    suppress_health_check=_HEALTH)


def thorough(examples: int) -> settings:
    """Return the profile of the slow tests: other examples every time.

    ``DAQ_FUZZ=10`` in the environment makes it ten times as many.
    """
    times = int(os.environ.get("DAQ_FUZZ", "1"))
    return settings(max_examples=examples * times, deadline=None, database=None,
                    suppress_health_check=_HEALTH)


TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", " ", "\0", "\n", "../x", "/etc/passwd", "-x", ".", "..", "a/b", "a\\b",
                     "ä", "☃" * 50, "x" * 300, "x" * 5000, "\x1b[31m", "%s%n", "{}", "null",
                     "NaN", "1e999", "$(reboot)", "; true", "a@b", "CON", "id.json", ".tmp-1"]))
NUMBERS = st.one_of(
    st.integers(-10, 10), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**63, 2**64, 10**299, -10**299]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
#: Any JSON document, of no great size.
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4),
                                     st.dictionaries(TEXTS, inner, max_size=4)), max_leaves=8)


def mutated(document: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return documents with one part replaced, left out, doubled or added."""
    return st.builds(_mutate, document, st.integers(0, 1000), VALUES,
                     st.sampled_from(["replace", "drop", "add", "double", "wrap"]))


def _mutate(document: Any, where: int, value: Any, how: str) -> Any:
    copy = json.loads(json.dumps(document))
    places = list(_places(copy))
    if not places:
        return value
    container, key = places[where % len(places)]
    if how == "replace":
        container[key] = value
    elif how == "drop":
        del container[key]
    elif how == "wrap":
        container[key] = [container[key]]
    elif how == "double" and isinstance(container, list):
        container.append(container[key])
    elif isinstance(container, dict):
        container[str(value)[:20]] = value
    else:
        container.append(value)
    return copy


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(
        value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def check_reply(reply: Any) -> bool:
    """Check that a reply is well-formed; tell whether the request was carried out."""
    assert isinstance(reply, dict) and reply["jsonrpc"] == "2.0" and "id" in reply, reply
    assert ("result" in reply) != ("error" in reply), reply
    if "result" in reply:
        return True
    error = reply["error"]
    assert isinstance(error["code"], int) and error["message"], reply
    data = error["data"]
    assert set(data) == {"exception", "id", "message", "code", "remedy"}, reply
    assert data["message"] == error["message"] and data["exception"], reply
    assert isinstance(data["id"], str) and isinstance(data["remedy"], str), reply
    assert data["code"] in {kind.code for kind in errors.CODES} - {errors.Bug.code}, reply
    assert "internal error" not in error["message"], reply
    return False

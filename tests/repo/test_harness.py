"""The vocabulary of the tests can fail: an assertion that always holds would prove nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Daq, Result, free_port, fresh, group, wait_until


def ended(code: int = 0, out: str = "", err: str = "") -> Result:
    return Result(["bin/daq-x"], code, out, err)


@pytest.mark.parametrize("wrong", [
    lambda: ended(1).ok(),
    lambda: ended(0, err="Traceback (most recent call last):\n").ok(),
    lambda: ended(65, err="daq-x: j: broken, mend it\n").fails(66),
    lambda: ended(65).fails(65),
    lambda: ended(65, err="something is wrong here\n").fails(65),
    lambda: ended(65, err="daq-x: no\n").fails(65),
    lambda: ended(65, err="reading\ndaq-x: j: broken, mend it\n").fails(65),
    lambda: ended(65, err="daq-x: j: broken, mend it\n").fails(65, "whole"),
    lambda: ended(70, err="Traceback (most recent call last):\ndaq-x: broken, mend\n").fails(70),
    lambda: ended(0).died(signal.SIGKILL),
    lambda: ended(out="x").no_output(),
    lambda: ended(err="x").silent(),
    lambda: ended(out="a\nb\n").line(),
    lambda: ended(out="a").json(),
    lambda: ended(out="{}\na").jsonl(),
    lambda: ended().says("x"),
    lambda: ended().prints("x"),
    lambda: wait_until(lambda: False, 0.05),
])
def test_says_no(wrong: Callable[[], object]) -> None:
    with pytest.raises(AssertionError):
        wrong()


def test_says_yes() -> None:
    ended(65, err="reading\ndaq-x: j: broken, mend it\n").fails(65, "broken", chatty=True)
    ended(-9).died(signal.SIGKILL)
    assert ended(out="{}\n[1]\n").jsonl() == [{}, [1]]


@pytest.fixture
def tools(tmp_path: Path) -> Daq:
    """Tools of sh, bound to a spool."""
    scripts = {
        "daq-env": "env",
        "daq-cat": "cat",
        "daq-live": "echo ready >&2\nread -r line\necho got $line\nexec sleep 60",
        "daq-deaf": "trap '' TERM\necho ready\nwhile :; do sleep 0.1; done",
    }
    (tmp_path / "bin").mkdir()
    for name, script in scripts.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return fresh(tmp_path, tmp_path / "bin")


def test_environment_is_clean(tools: Daq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAQ_CONFIG", "elsewhere")
    text = tools.run("daq-env", env={"HOME": None, "MORE": "1"}).ok().out
    assert f"DAQ_SPOOL={tools.spool}" in text and "MORE=1" in text
    assert "DAQ_CONFIG" not in text and "HOME" not in text


def test_standard_input(tools: Daq) -> None:
    assert tools.run("daq-cat", stdin="a\n").ok().out == "a\n"
    tools.run("daq-cat").ok().silent()


def test_time_limit_ends_the_tool(tools: Daq) -> None:
    with pytest.raises(AssertionError, match="still running"):
        tools.run("daq-live", stdin="x\n", timeout=0.3)
    assert tools.processes == []


def test_background(tools: Daq) -> None:
    with tools.start("daq-live", stdin=True, until="^ready$") as live:
        live.press_enter()
        assert live.wait_for("got") == "got"
    assert live.result().died(signal.SIGTERM)


def test_background_that_ends_early(tools: Daq) -> None:
    with pytest.raises(AssertionError, match="ended before"):
        tools.spawn("daq-env", until="never")


def test_deaf_background_is_killed(tools: Daq) -> None:
    process = tools.spawn("daq-deaf", until="ready")
    assert process.stop(timeout=0.3).died(signal.SIGKILL)
    tools.close()


def test_tree(tools: Daq) -> None:
    tools.drop("merge", "B", {})
    tools.drop("merge", "A", {})
    (tools.spool / "done" / ".hidden.json").touch()
    assert tools.tree() == {"merge": ["A", "B"]}


def test_a_group_of_tests_is_known_by_its_file() -> None:
    assert group("tests/matrix/test_outcomes.py") == "matrix"
    assert group("tests/by-tool/test_daq_ctl_states.py") == "daq-ctl-states"
    assert group("tests/repo/test_harness.py") == ""


def test_ports_differ() -> None:
    assert len({free_port() for _ in range(20)}) == 20

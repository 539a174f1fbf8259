"""The parts of the adapter of programs: lines, words, processes, and a daemon that dies early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fuzzing
from daq_ctl.sources.program import keeper, process, tail
from daq_ctl.sources.program.dialogue import LONGEST, Dialogue
from harness import CHECKOUT, wait_until


def heard(*pieces: bytes) -> Dialogue:
    made = Dialogue()
    for piece in pieces:
        made.feed(piece)
    made.end()
    return made


def line(**event: Any) -> bytes:
    return json.dumps(event).encode() + b"\n"


# -- lines ----------------------------------------------------------------------------------------


def test_a_whole_recording() -> None:
    said = heard(line(event="started", more=1), b"words\n", line(event="progress", done=1, total=2),
                 line(event="file", path="a.fits"), line(event="file", path="a.fits"),
                 line(event="keywords", keywords={"A": 1}), line(event="remark", text="cold\nhere"),
                 line(event="ended"), line(event="file", path="late.fits"))
    assert (said.started, said.done, said.failure, said.progress) == (True, True, None, (1.0, 2.0))
    assert (said.files, said.keywords, said.remarks) == (["a.fits"], [{"A": 1}], ["cold here"])
    assert said.faults == []


def test_the_last_line_may_lack_its_end() -> None:
    said = heard(line(event="failed", reason="no film")[:-1])
    assert (said.done, said.failure) == (True, "no film")


@pytest.mark.parametrize("wrong", [
    b"{", b'{"event"', b'{"event": "dance"}', b"{}", b'{"event": "file"}',
    b'{"event": "file", "path": 5}', b'{"event": "progress", "done": "1", "total": 2}',
    b'{"event": "progress", "done": 1, "total": 1e999}', b'{"event": "remark"}',
    b'{"event": "progress", "done": NaN, "total": 1}', b'{"event": "keywords", "keywords": 5}',
    b'{"event": ' + b"[" * 100_000, b"{\xff\xfe}", b'{"event": ["started"]}',
    b'{"event": "progress", "done": 1, "total": ' + b"9" * 400 + b"}",
    b'{"event": "progress", "done": 1, "total": ' + b"9" * 5000 + b"}"])
def test_an_object_that_cannot_be_used_is_a_fault(wrong: bytes) -> None:
    said = heard(wrong + b"\n", line(event="started"))
    assert said.started and len(said.faults) == 1 and said.progress is None
    assert said.faults[0].isprintable()


def test_a_line_that_is_too_long() -> None:
    said = heard(line(event="started"), b"{" * LONGEST, b"{{", b'}\n{"event": "ended"}\n')
    assert said.done and len(said.faults) == 1 and "1048576 bytes" in said.faults[0]


def test_faults_and_remarks_are_bounded() -> None:
    said = heard(line(event="keywords", keywords={}) * 6000,
                 *(line(event="file", path=str(number)) for number in range(6000)),
                 b"{\n" * 1000, line(event="remark", text="x" * 10_000) * 1000)
    assert len(said.files) == len(said.keywords) == 5000
    assert len(said.faults) == 3 and len(said.remarks) == 100
    assert max(map(len, said.remarks)) == 500


@fuzzing.quick(100)
@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=5))
def test_pieces_make_no_difference(noise: bytes, cuts: list[int]) -> None:
    text = noise + b"\n" + line(event="started") + line(event="file", path="a") + noise
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert vars(heard(*pieces)) == vars(heard(text))


# -- words ----------------------------------------------------------------------------------------


def test_the_first_words_are_told_and_the_others_counted(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    path.write_bytes(b"one\n\ntw")
    follow, words = tail.Tail(str(path), 0, 1000), tail.Words()
    assert words.of(follow.more(), over=False) == ["one"]
    again = tail.Tail(str(path), follow.offset - words.kept_back, 1000)  # a later daemon
    assert again.offset == 5
    path.write_bytes(b"one\n\ntwo\x1b\n" + b"more\n" * 100)
    told = tail.Words(words.said).of(again.more(), over=True)
    assert told == ["two ", *["more"] * 48]
    assert follow.last_line() == "more"


def test_no_more_is_read_than_was_agreed(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    path.write_bytes(b"x" * 100)
    follow = tail.Tail(str(path), 0, 60)
    assert (len(follow.more()), follow.more(), follow.offset) == (60, b"", 60)


# -- processes ------------------------------------------------------------------------------------


def test_a_process_is_known_by_more_than_its_number() -> None:
    child = subprocess.Popen(["sleep", "300"])
    try:
        known = process.identity(child.pid)
        assert process.is_alive(known)
        for other in ({**known, "start": "1"}, {**known, "boot": "another"}, {}):
            assert not process.is_alive(other)
        process.send({**known, "start": "1"}, signal.SIGKILL)
        assert child.poll() is None
        process.send(known, signal.SIGKILL)
        wait_until(lambda: not process.is_alive(known))  # a zombie
    finally:
        child.kill()
        child.wait()
    process.send(known, signal.SIGKILL)


def test_a_signal_is_passed_on_once(tmp_path: Path) -> None:
    script = "trap 'echo INT' INT; trap 'echo USR1' USR1; echo begun; while :; do sleep 0.02; done"
    process.lay_out(str(tmp_path))
    reader, writer = os.pipe()
    made = process.spawn(str(tmp_path), ["/bin/sh", "-c", script], {}, 0, hears=False, go=reader)
    os.close(reader)
    known, out = process.identity(made.pid), tmp_path / process.OUT
    try:
        os.write(writer, keeper.GO)
        wait_until(lambda: "begun" in out.read_text())
        for _ in range(3):
            process.send(known, signal.SIGINT)
        process.send(known, signal.SIGUSR1)
        wait_until(lambda: "USR1" in out.read_text())
        process.send(known, keeper.KILL)
        assert made.wait() == 0
    finally:
        os.close(writer)
        made.kill()
    assert sorted(out.read_text().split()) == ["INT", "USR1", "begun"]
    assert process.ended(str(tmp_path), known) == process.Ended(-signal.SIGKILL)


_DIES = """
import asyncio, os, signal, sys
from daq_ctl import sources
from daqlib.config import Config

program, folder, when = sys.argv[1:]
os.makedirs(os.path.dirname(os.path.dirname(folder)))
settings = Config()
settings.values["sources.programs"] = [program]
order = sources.Order({"type": "primarySource", "sourceName": "s", "rrUri": "exec:" + program,
                       "options": {"speaks": "nothing"}}, "job", 5.0, folder, settings)
made = sources.make(order)
if when == "memo":
    def keep(**facts):
        print(facts["pid"], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    made._memo.keep = keep
asyncio.run(made.prepare())
print(made._memo.facts["pid"], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["memo", "go"])
def test_nothing_runs_when_the_word_to_go_never_comes(tmp_path: Path, when: str) -> None:
    """The daemon dies before it wrote down whom to look for, or right after."""
    program, folder = tmp_path / "program", tmp_path / "data" / "job" / "live" / "s"
    program.write_text("#!/bin/sh\ntouch ran\n")
    program.chmod(0o755)
    places = f"{CHECKOUT}/lib:{CHECKOUT}/tools/daq-ctl"
    done = subprocess.run([sys.executable, "-c", _DIES, program, folder, when],
                          env={**os.environ, "PYTHONPATH": places}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    keeper = int(done.stdout)
    wait_until(lambda: not Path(f"/proc/{keeper}/stat").exists()
               or ") Z" in Path(f"/proc/{keeper}/stat").read_text())
    assert sorted(os.listdir(folder)) == ["commands", *(["recording.json"] if when == "go" else []),
                                          "stderr", "stdout"]

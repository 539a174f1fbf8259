"""What is dropped into a stage and is no job: watcher and tools go on with what is one.

Anything but a regular file is left alone; a file that is no job goes to ``bad/``, however large it
is and however many there are.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import Daq, Result, wait_until

GIBIBYTE = 1 << 30
LONG_AGO = 1_000_000_000


def good(daq: Daq, name: str, stage: str = "collect") -> None:
    daq.drop(stage, name, {"sources": [{
        "type": "fitsKeywords", "sourceName": "k",
        "keywords": [{"type": "esoKeyword", "name": "OBS ID", "value": 42}]}]})


def litter(folder: Path) -> list[str]:
    """Put into a stage what can lie in a directory and is no job file; return the names."""
    os.mkfifo(folder / "fifo.json")
    (folder / "folder.json").mkdir()
    (folder / "folder.json" / "in.json").write_text("{}")
    (folder / "link.json").symlink_to("/dev/zero")
    (folder / "dangling.json").symlink_to("nowhere")
    (folder / ".hidden.json").write_text("{")
    (folder / "note.txt").write_text("not for you")
    (folder / "no-suffix").write_text("{")
    with socket.socket(socket.AF_UNIX) as door:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may have 107 bytes only
        try:
            door.bind("door.json")
        finally:
            os.chdir(here)
    return sorted(path.name for path in folder.iterdir())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_no_file_is_left_alone(daq: Daq) -> None:
    left = {stage: litter(daq.spool / stage) for stage in ("collect", "merge", "release")}
    good(daq, "J1")
    daq.run("daq-watch", "--once", "-q").ok()
    for stage in left:
        daq.run(f"daq-{stage}", "-q", "--all").ok()
    for name in ("fifo", "folder", "link", "dangling"):
        daq.run("daq-release", "-q", "--job", name).fails(66, "no regular file")
    assert daq.tree()["done"] == ["J1"]
    assert {stage: names(daq.spool / stage) for stage in left} == left


def test_what_is_no_file_does_not_hold_up_a_watcher(daq: Daq) -> None:
    with daq.start("daq-watch", "-q") as watcher:
        litter(daq.spool / "collect")
        good(daq, "J1")
        wait_until(lambda: daq.tree().get("done") == ["J1"])
        good(daq, "J2")
        wait_until(lambda: daq.tree().get("done") == ["J1", "J2"])
        watcher.stop().ok()


@contextmanager
def large(path: Path) -> Iterator[None]:
    """Drop a file of 2 GiB that takes no space."""
    embryo = path.with_name(f".{path.name}")
    with embryo.open("wb") as file:
        file.truncate(2 * GIBIBYTE)
    os.utime(embryo, (LONG_AGO, LONG_AGO))
    embryo.rename(path)
    yield
    for place in ("collect", "bad"):
        (path.parents[1] / place / path.name).unlink(missing_ok=True)


def in_little_memory(daq: Daq, tool: str, *arguments: object) -> Result:
    """Run a tool that cannot have as much memory as the file is large."""
    command = ["/bin/sh", "-c", f'ulimit -v {GIBIBYTE // 1024}; exec "$@"', "sh",
               *daq.command(tool, *arguments)]
    return daq._spawn(command, False, None, None).wait()


#: Files that are all taken up, each by a worker; ``DAQ_DROPS`` is another number.
MANY = int(os.environ.get("DAQ_DROPS", "2000"))


@pytest.mark.parametrize("words", [["daq-collect", "--job", "large"],
                                   ["daq-watch", "--once", "-q"]])
def test_a_large_file_is_not_read(daq: Daq, words: list[str]) -> None:
    good(daq, "J1")
    with large(daq.spool / "collect" / "large.json"):
        in_little_memory(daq, *words).exits(65)
        assert daq.tree()["bad"] == ["large"]
        daq.run("daq-status", "large").ok()
    if words[0] == "daq-watch":
        assert daq.tree() == {"done": ["J1"]}


def many(daq: Daq, number: int) -> None:
    """Drop so many files: every tenth is a job, the others are none."""
    folder = daq.spool / "collect"
    for index in range(number):
        if index % 10 == 0:
            good(daq, f"J{index:05d}")
        else:
            path = folder / f"N{index:05d}.json"
            path.write_text(("{", "[]", "", json.dumps({"sources": []}))[index % 4])
            os.utime(path, (LONG_AGO, LONG_AGO))


def goes_on(daq: Daq, number: int, patience: float) -> None:
    """All come to their end, and a job that comes later does not wait for them all."""
    wrong = number - (number + 9) // 10
    with daq.start("daq-watch", "-q") as watcher:
        many(daq, number)
        wait_until(lambda: len(names(daq.spool / "bad")) >= wrong
                   and not daq.tree().keys() - {"bad", "done"}, patience)
        watcher.stop().ok()
    tree = daq.tree()
    assert set(tree) == {"bad", "done"}
    assert tree["done"] == [f"J{index:05d}" for index in range(0, number, 10)]
    assert len(tree["bad"]) == wrong
    assert len(daq.results()) == number // 10


def test_many_files_at_once(daq: Daq) -> None:
    goes_on(daq, 20, 600)


@pytest.mark.slow
def test_thousands_of_files_at_once(daq: Daq) -> None:
    began = time.monotonic()
    goes_on(daq, MANY, 4 * 3600)
    print(f"{MANY} files in {time.monotonic() - began:.0f} s")

"""daq-release: several receivers at once, and receivers that are full, shut or out of bounds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Daq, Process, wait_until
from releasing import ARCHIVE, FILE_ID, Document, active, alerts, delivered, olas, put, release
from remote import HOST, configure, holders, script, stand_in


@pytest.fixture
def box(daq: Daq) -> Path:
    """A receiver's directory."""
    path = daq.folder / "olas"
    path.mkdir()
    return path


def slow(daq: Daq, name: str = "slow") -> Document:
    """Return a receiver that is at work until a file ``gate`` is there; it notes its process."""
    tool = script(daq.folder / name, f"""echo $$ >{daq.folder}/{name}.pid
until [ -e {daq.folder}/gate ]; do sleep 0.05; done
""")
    configure(daq, release={"programs": [str(tool)]})
    return {"type": "commandReceiver", "command": str(tool)}


def started(daq: Daq, name: str = "slow") -> int:
    """Wait for a slow receiver to be at work; return its process id."""
    path = daq.folder / f"{name}.pid"
    return int(wait_until(lambda: path.exists() and path.read_text().strip()))


def offspring(process: Process) -> list[int]:
    """Return the children of a tool."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return list(map(int, children.read_text().split()))


def test_a_slow_receiver_delays_no_other(daq: Daq, box: Path) -> None:
    put(daq, slow(daq), olas(daq.folder / "none"), olas(box), by="job")
    process = daq.spawn("daq-release", "--job", "J1")
    started(daq)
    wait_until(lambda: len(delivered(daq)) == 1)  # its receipt is durable while the other is at it
    assert (box / ARCHIVE).exists() and process.running()
    (daq.folder / "gate").touch()
    process.wait().ok()
    assert len(delivered(daq)) == 2 and len(alerts(daq)) == 1 and daq.tree() == {"done": ["J1"]}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_children_end_with_the_tool(daq: Daq, box: Path, signum: int) -> None:
    put(daq, slow(daq), olas(box), by="job")
    lock = daq.spool / "lock" / "J1"
    process = daq.spawn("daq-release", "--job", "J1")
    pid = started(daq)
    wait_until(lambda: len(delivered(daq)) == 1)
    process.signal(signum)
    assert process.wait().code == (143 if signum == signal.SIGTERM else -signum)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}") and not holders(lock))
    assert daq.tree() == {"release": ["J1"]}
    (daq.folder / "gate").touch()
    release(daq).ok()
    assert len(delivered(daq)) == 2 and os.listdir(box) == [ARCHIVE]


def test_an_abort_ends_all(daq: Daq, box: Path) -> None:
    put(daq, slow(daq), olas(box), by="job")
    process = daq.spawn("daq-release", "--job", "J1")
    pid = started(daq)
    wait_until(lambda: len(delivered(daq)) == 1)
    daq.run("daq-ctl", "daq.abort", "J1")
    process.wait()
    assert daq.tree() == {"done": ["J1"]} and daq.events("J1")[-1] == "aborted"
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_a_child_that_is_killed_costs_a_try_and_no_receiver(daq: Daq, box: Path) -> None:
    put(daq, slow(daq), olas(box), by="job")
    process = daq.spawn("daq-release", "--job", "J1")
    started(daq)
    wait_until(lambda: len(delivered(daq)) == 1)
    child, = offspring(process)
    os.kill(child, signal.SIGKILL)
    process.wait().fails(75, "was killed by signal 9")
    assert daq.tree() == {"release": ["J1"]} and alerts(daq) == []
    (daq.folder / "gate").touch()
    release(daq).ok()
    assert [event["try"] for event in delivered(daq)] == [1, 2]


@pytest.mark.needs("rsync")
@pytest.mark.parametrize(("most", "at_once"), [(0, 3), (1, 1), (2, 2)])
def test_limit_of_deliveries_to_other_hosts(daq: Daq, most: int, at_once: int) -> None:
    stand = stand_in(daq.folder)
    configure(daq, rsh=stand.command, limits={"daq": 0, "net_send": most})
    stand.gate.unlink()
    boxes = [daq.folder / name for name in "abc"]
    for each in boxes:
        each.mkdir()
    near = daq.folder / "near"
    near.mkdir()
    put(daq, *(olas(each, HOST) for each in boxes), olas(near))
    process = daq.spawn("daq-release", "--job", "J1")
    wait_until(lambda: len(stand.calls.read_text().splitlines()) == at_once)
    wait_until(lambda: len(delivered(daq)) == 1)
    assert len(stand.calls.read_text().splitlines()) == at_once
    if most:
        put(daq, olas(boxes[0], HOST), job="J2")
        release(daq, job="J2").fails(75, "cfg/limits/net_send")
    stand.gate.touch()
    process.wait().ok()
    assert [os.listdir(each) for each in boxes] == [[ARCHIVE]] * 3


def test_one_directory_named_in_two_ways(daq: Daq, box: Path) -> None:
    put(daq, olas(box), olas(f"{box}/"), olas(f"{box}/."),
        {"type": "directoryReceiver", "path": str(box)})
    release(daq).ok()
    assert os.listdir(box) == [ARCHIVE] and alerts(daq) == [] and len(delivered(daq)) == 4


def test_many_receivers(daq: Daq) -> None:
    boxes = [daq.folder / f"box{number}" for number in range(40)]
    for each in boxes[::2]:
        each.mkdir()
    put(daq, *map(olas, boxes))
    release(daq).ok()
    assert len(delivered(daq)) == len(alerts(daq)) == 20


# --- receivers that cannot take it ----------------------------------------------------------------


@pytest.fixture
def small(daq: Daq) -> Iterator[Path]:
    """A file system with room for less than a product."""
    path = daq.folder / "small"
    path.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", path],
                                      check=False, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("required", [False, True])
def test_receiver_is_full(daq: Daq, small: Path, required: bool) -> None:
    product = put(daq, olas(small, allowSymlink=False, required=required))
    (small / "other").write_bytes(b"x" * 8192)
    result = release(daq).exits(75 if required else 0).says("No space left").says("free some space")
    assert os.listdir(small) == ["other"], result
    assert daq.tree() == {"release" if required else "done": ["J1"]}
    assert active(daq) == [f"release-failed:{small}"]
    (small / "other").unlink()
    release(daq).ok()
    assert (small / ARCHIVE).read_bytes() == product.read_bytes() and active(daq) == []
    assert daq.tree() == {"done": ["J1"]}


def test_receiver_is_read_only(daq: Daq, small: Path) -> None:
    put(daq, olas(small))
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    release(daq).ok().says("Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    release(daq).ok()
    assert (small / ARCHIVE).exists() and active(daq) == []


@pytest.mark.parametrize("kind", ["olas", "archive", "far"])
def test_permission_is_denied(daq: Daq, box: Path, kind: str) -> None:
    daq.obey_permissions()
    receiver = {"olas": olas(box), "far": olas(box, HOST), "archive": {
        "type": "directoryReceiver", "path": str(box), "template": "a/b.fits"}}[kind]
    if kind == "far":
        if not shutil.which("rsync"):
            pytest.skip("rsync not installed")
        configure(daq, rsh=stand_in(daq.folder).command)
    put(daq, receiver)
    box.chmod(0o555)
    release(daq).ok().says("ermission denied")
    assert len(active(daq)) == 1 and os.listdir(box) == []
    box.chmod(0o755)
    release(daq).ok()
    assert active(daq) == [] and len(delivered(daq)) == 1


def test_something_else_in_place_of_the_directory(daq: Daq) -> None:
    for name in ("file", "fifo", "loop"):
        path = daq.folder / name
        {"file": path.touch, "fifo": lambda p=path: os.mkfifo(p),
         "loop": lambda p=path: p.symlink_to(p)}[name]()
    put(daq, *(olas(daq.folder / name) for name in ("file", "fifo", "loop")))
    release(daq).ok().says("file: not delivered: is no directory").says(
        "fifo: not delivered: is no directory").says("loop: not delivered: ")
    assert len(alerts(daq)) == 3


def test_a_pipe_under_the_name_of_the_product(daq: Daq, box: Path) -> None:
    put(daq, olas(box))
    os.mkfifo(box / ARCHIVE)
    release(daq).fails(73, FILE_ID, "exists with other content")

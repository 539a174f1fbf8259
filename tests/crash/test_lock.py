"""Who holds a job's lock: the tool at work, the children that do its work, and nobody else."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daqlib import fsops, history, status
from daqlib.spool import Spool, holder
from harness import CHECKOUT, Daq, end, make_fits, wait_until

JOB = "far-1"

# as the real one it prints nothing, and puts the file where its last argument says
_RSYNC = """#!/bin/sh
case " $* " in *" --dry-run "*) exit 0 ;; esac
if [ -e {hang} ]; then
    echo $$ >{pid}.new && mv {pid}.new {pid}
    exec sleep 600
fi
for last; do :; done
mkdir -p "$last/data"
cp -p {source} "$last/data"
"""


@dataclass
class Far:
    """A job whose file lies on another host, and an rsync that takes as long as we want."""

    daq: Daq
    hang: Path
    pid_file: Path

    @property
    def lock(self) -> Path:
        return self.daq.spool / "lock" / JOB

    @property
    def slot(self) -> Path:
        return self.daq.spool / "lock" / ".slot-daq-0"

    def rsync(self) -> int:
        """The process id of the rsync at work."""
        return int(wait_until(lambda: self.pid_file.exists() and self.pid_file.read_text()))


@pytest.fixture
def far(daq: Daq) -> Iterator[Far]:
    folder = daq.folder
    make_fits(folder / "a.fits")
    made = Far(daq, folder / "hang", folder / "rsync.pid")
    made.hang.touch()
    program = folder / "rsync"
    program.write_text(_RSYNC.format(hang=shlex.quote(str(made.hang)),
                                     pid=shlex.quote(str(made.pid_file)),
                                     source=shlex.quote(str(folder / "a.fits"))))
    program.chmod(0o755)
    (folder / "daq.yaml").write_text(
        f"cfg: {{bin_rsync: '{program}', rsh: 'true', retry: {{first_sec: 0.0}}}}\n")
    daq.env["DAQ_CONFIG"] = str(folder / "daq.yaml")
    daq.drop("collect", JOB, {"sources": [
        {"type": "fitsFile", "sourceName": "a", "location": "far:/data/a.fits"}]})
    yield made
    if made.pid_file.exists():
        end(int(made.pid_file.read_text()))


def holders(path: Path) -> set[int]:
    """Every process that has this very file open, by its inode."""
    wanted = (path.stat().st_dev, path.stat().st_ino)
    found = set()
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            there = fd.stat()
        except OSError:
            continue
        if (there.st_dev, there.st_ino) == wanted:
            found.add(int(fd.parts[2]))
    return found


def test_only_the_tool_and_its_rsync_hold_the_lock(far: Far) -> None:
    with far.daq.start("daq-collect", "--job", JOB) as tool:
        rsync = far.rsync()
        assert holders(far.lock) == {tool.pid, rsync}
        assert holders(far.slot) == {tool.pid, rsync}
        assert holder(str(far.lock))["pid"] == tool.pid
        assert holder(str(far.lock))["stage"] == "collect"


def test_the_child_of_a_killed_tool_keeps_the_claim(far: Far) -> None:
    daq = far.daq
    tool = daq.spawn("daq-collect", "--job", JOB)
    rsync = far.rsync()
    tool.kill().died(signal.SIGKILL)
    assert holders(far.lock) == {rsync}
    far.hang.unlink()
    daq.run("daq-collect", "--job", JOB).fails(75, JOB, "somebody is at work")
    assert daq.run("daq-status", "--json", JOB).ok().json()["substate"] == "Collecting"
    assert holders(far.lock) == {rsync}, "a status probe must not keep the lock"
    os.kill(rsync, signal.SIGKILL)
    wait_until(lambda: not holders(far.lock))
    assert not fsops.is_locked(str(far.lock))
    daq.run("daq-collect", "--job", JOB).ok()
    assert daq.tree() == {"merge": [JOB]}
    assert daq.events(JOB).count("start") == 2


def test_the_child_of_a_killed_tool_keeps_its_place(far: Far) -> None:
    """With limits.daq 1 nothing else runs while the orphan is at work."""
    daq = far.daq
    daq.drop("collect", "near", {"sources": [
        {"type": "fitsFile", "sourceName": "a", "location": f"{daq.folder}/a.fits"}]})
    tool = daq.spawn("daq-collect", "--job", JOB)
    rsync = far.rsync()
    tool.kill()
    daq.run("daq-collect", "--job", "near").fails(75, "near", "limits/daq are taken")
    os.kill(rsync, signal.SIGKILL)
    wait_until(lambda: not holders(far.slot))
    daq.run("daq-collect", "--job", "near").ok()


def test_the_watcher_never_holds_a_job(far: Far) -> None:
    with far.daq.start("daq-watch") as watcher:
        rsync = far.rsync()
        found = holders(far.lock)
        assert rsync in found
        assert watcher.pid not in found
        assert len(found) == 2
        watcher.kill()
        assert holders(far.lock) == found, "its workers go on"
        far.daq.run("daq-collect", "--job", JOB).fails(75, "somebody is at work")
    for pid in found:
        end(pid)


def test_terminating_the_tool_ends_its_rsync(far: Far) -> None:
    with far.daq.start("daq-collect", "--job", JOB) as tool:
        rsync = far.rsync()
        tool.signal(signal.SIGTERM)
        assert tool.wait().code == 128 + signal.SIGTERM
    assert not Path(f"/proc/{rsync}").exists()
    assert not fsops.is_locked(str(far.lock))
    assert far.daq.events(JOB)[-1] == "interrupted"
    assert history.tries(far.daq.history(JOB), "collect") == 0
    assert far.daq.tree() == {"collect": [JOB]}


def test_abort_ends_the_worker_and_lays_the_job_to_rest(far: Far) -> None:
    daq = far.daq
    with daq.start("daq-collect", "--job", JOB) as tool:
        rsync = far.rsync()
        call = (f"import sys; sys.path.insert(0, {str(CHECKOUT / 'lib')!r})\n"
                "from daqlib import abort, spool\n"
                f"abort.abort(spool.Spool({str(daq.spool)!r}, 'test'), {JOB!r})")
        subprocess.run([sys.executable, "-c", call], check=True, timeout=60)
        tool.wait().fails(75, JOB, "aborted")
    assert daq.tree() == {"done": [JOB]}
    assert not Path(f"/proc/{rsync}").exists()
    assert not far.lock.exists()
    assert daq.events(JOB)[-2:] == ["abort-requested", "aborted"]
    on = Spool(str(daq.spool), "test")
    made = status.derive(on, JOB)
    assert made is not None
    assert (made["state"], made["substate"]) == ("StateCompleted", "Aborted")
    assert history.tries(on.events(JOB), "collect") == 0


def test_abort_when_the_worker_is_gone_and_its_child_lives(far: Far) -> None:
    """Nobody answers the TERM; the request stands, and the next claim obeys it."""
    from daqlib import abort, errors

    daq = far.daq
    tool = daq.spawn("daq-collect", "--job", JOB)
    rsync = far.rsync()
    tool.kill()
    on = Spool(str(daq.spool), "test")
    with pytest.raises(errors.Later, match="the abort stands"):
        abort.abort(on, JOB, patience=0.2)
    assert daq.tree() == {"collect": [JOB]}
    end(rsync)
    wait_until(lambda: not holders(far.lock))
    daq.run("daq-collect", "--job", JOB).ok()
    assert daq.tree() == {"done": [JOB]}
    assert daq.events(JOB)[-1] == "aborted"

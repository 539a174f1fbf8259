"""daq-release: archives with path templates, programs, and rsync targets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Daq, end, free_port, wait_until
from releasing import (
    ARCHIVE,
    FILE_ID,
    Document,
    active,
    alerts,
    delivered,
    olas,
    put,
    release,
    result,
)
from remote import HOST, configure, script, stand_in

CARDS = {"OBJECT": "NGC 1365/West", "DATE-OBS": "2026-03-14T15:09:26.535", "EXPTIME": 12.5,
         "HIERARCH ESO DET NAME": "..hidden", "HIERARCH ESO DET ID": 7, "FLAG": True,
         "DAY": "2026-12-31", "EMPTY": " ", "AUTHOR": "x" * 90}


def archive(path: object, template: str = "", **more: Any) -> Document:
    """Return a receiver with a path template."""
    made = {"type": "directoryReceiver", "path": str(path), **more}
    return {**made, "template": template} if template else made


def command(path: object, *args: str, **options: object) -> Document:
    """Return a receiver that is a program."""
    made: Document = {"type": "commandReceiver", "command": str(path)}
    if args:
        made["args"] = list(args)
    return {**made, "options": options} if options else made


def files(folder: Path) -> list[str]:
    """Return the files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if not path.is_dir() or path.is_symlink())


# --- path templates -------------------------------------------------------------------------------


@pytest.fixture
def shelf(daq: Daq) -> Path:
    """An archive's directory."""
    path = daq.folder / "archive"
    path.mkdir()
    return path


def test_templates(daq: Daq, shelf: Path) -> None:
    wanted = {
        "": ARCHIVE,
        "{DATE-OBS:%Y/%m/%d}/{OBJECT|unknown}/{fileId}.fits":
            f"2026/03/14/NGC_1365_West/{ARCHIVE}",
        "{ESO.DET.NAME}/{ESO DET ID}.fits": "_.hidden/7.fits",
        "{NOPE|none}/{EMPTY|empty}/{instrument}-{id}.fits": "none/empty/OMEGA-J1.fits",
        "{DAY:%j}_{DATE-OBS:%H-%M-%S}/{prefix}{EXPTIME}{FLAG}.fits": "365_15-09-26/T_12.5T.fits",
        "{AUTHOR}/x.fits": f"{'x' * 80}/x.fits",
        "v1.0/{DATE-OBS}.fits": "v1.0/2026-03-14T15:09:26.535.fits",
    }
    product = put(daq, *(archive(shelf, template) for template in wanted), cards=CARDS,
                  instrument="OMEGA", filePrefix="T_")
    release(daq).ok()
    assert alerts(daq) == []
    assert files(shelf) == sorted(wanted.values())
    assert all((shelf / name).samefile(product) for name in wanted.values())
    assert {event["path"] for event in delivered(daq)} == {
        str(shelf / name) for name in wanted.values()}


def test_what_a_header_lacks_is_named(daq: Daq, shelf: Path) -> None:
    put(daq, *(archive(shelf, f"{each}.fits") for each in (
        "{NOPE}/{fileId}", "{OBJECT:%Y}/x", "{DAY:%H}/x", "{EMPTY}/x", "ok")), cards=CARDS)
    release(daq).ok().says("has no value of NOPE; write {NOPE|unknown}").says(
        "OBJECT is 'NGC 1365/West', which is no date").says("no time of day").says("of EMPTY")
    assert len(alerts(daq)) == 4 and files(shelf) == ["ok.fits"]


def test_archive_elsewhere_gets_a_copy(daq: Daq, tmp_path_factory: pytest.TempPathFactory) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        if os.stat(made).st_dev == os.stat(daq.folder).st_dev:
            pytest.skip("/dev/shm is no other file system")
        product = put(daq, archive(made, "a/b.fits"),
                      archive(made, "link.fits", options={"allowSymlink": True}))
        release(daq).ok()
        assert (Path(made) / "a/b.fits").read_bytes() == product.read_bytes()
        assert not (Path(made) / "a/b.fits").is_symlink()
        assert (Path(made) / "link.fits").is_symlink()
    assert sorted(event["how"] for event in delivered(daq)) == ["copy", "symlink"]


def test_links_that_lead_out_of_the_archive_are_refused(daq: Daq, shelf: Path) -> None:
    outside = daq.folder / "outside"
    outside.mkdir()
    (shelf / "out").symlink_to(outside)
    (shelf / "up").symlink_to("..")
    (shelf / "dangling").symlink_to(daq.folder / "nowhere")
    (shelf / "file").touch()
    (shelf / "in").mkdir()
    (shelf / "alias").symlink_to("in")
    put(daq, *(archive(shelf, f"{name}/sub/x.fits")
               for name in ("out", "up", "dangling", "file", "alias")))
    release(daq).ok().says("leads out of").says("file: is no directory")
    assert len(alerts(daq)) == 4
    assert os.listdir(outside) == [] and not (daq.folder / "nowhere").exists()
    assert not (daq.folder / "sub").exists() and files(shelf / "in") == ["sub/x.fits"]


def test_archive_that_is_gone_is_not_made(daq: Daq) -> None:
    put(daq, archive(daq.folder / "none", "a/{fileId}.fits"))
    release(daq).ok().says("no such directory")
    assert not (daq.folder / "none").exists()


@pytest.mark.needs("rsync")
def test_archive_of_another_host(daq: Daq, shelf: Path) -> None:
    configure(daq, rsh=stand_in(daq.folder).command)
    product = put(daq, archive(shelf, "{OBJECT}/{fileId}.fits", host=HOST), cards=CARDS)
    release(daq).ok()
    assert files(shelf) == [f"NGC_1365_West/{ARCHIVE}"]
    assert (shelf / "NGC_1365_West" / ARCHIVE).read_bytes() == product.read_bytes()
    event, = delivered(daq)
    assert event["how"] == "rsync" and event["receiver"] == (
        f"{HOST}:{shelf}/{{OBJECT}}/{{fileId}}.fits")


# --- rsync ----------------------------------------------------------------------------------------


@pytest.mark.needs("rsync")
def test_rsync_receiver(daq: Daq, shelf: Path) -> None:
    configure(daq, rsh=stand_in(daq.folder).command)
    product = put(daq, {"type": "rsyncReceiver", "host": HOST, "path": f"{shelf}/",
                        "options": {"bandwidth": 1 << 30}})
    release(daq).ok()
    assert files(shelf) == [ARCHIVE]
    assert (shelf / ARCHIVE).read_bytes() == product.read_bytes()


@pytest.mark.needs("rsync")
def test_other_host_has_an_older_rsync(daq: Daq, shelf: Path) -> None:
    """It cannot make durable what it writes, and says so of the option."""
    old = script(daq.folder / "old", f"""shift
echo "$*" >>{daq.folder}/calls
case "$*" in *--fsync*) echo "rsync: --fsync: unknown option" >&2; exit 1;; esac
exec sh -c "$*"
""")
    configure(daq, rsh=old)
    product = put(daq, {"type": "rsyncReceiver", "host": HOST, "path": str(shelf)})
    release(daq).ok()
    assert (shelf / ARCHIVE).read_bytes() == product.read_bytes() and alerts(daq) == []
    assert "--fsync" in (daq.folder / "calls").read_text()


@pytest.fixture
def daemon(daq: Daq, shelf: Path) -> Iterator[str]:
    """An rsync daemon with a module that may be written; yields the URL of the module."""
    port = free_port()
    settings = daq.folder / "rsyncd.conf"
    (daq.folder / "secrets").write_text("daq:word\n")
    (daq.folder / "password").write_text("word\n")
    for name in ("secrets", "password"):
        (daq.folder / name).chmod(0o600)
    settings.write_text(f"""use chroot = no
log file = {daq.folder}/rsyncd.log
[in]
path = {shelf}
read only = no
auth users = daq
secrets file = {daq.folder}/secrets
uid = {os.geteuid()}
gid = {os.getegid()}
""")
    server = subprocess.Popen(["rsync", "--daemon", "--no-detach", f"--config={settings}",
                               "--address=127.0.0.1", f"--port={port}"],
                              stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port))
        yield f"rsync://daq@127.0.0.1:{port}/in"
    finally:
        server.terminate()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.needs("rsync")
def test_rsync_daemon(daq: Daq, shelf: Path, daemon: str) -> None:
    (shelf / "sub dir").mkdir()
    configure(daq, transfer={"password_file": str(daq.folder / "password")})
    product = put(daq, {"type": "rsyncReceiver", "url": daemon},
                  {"type": "rsyncReceiver", "url": f"{daemon}/sub dir/"})
    release(daq).ok()
    assert alerts(daq) == [] and files(shelf) == [ARCHIVE, f"sub dir/{ARCHIVE}"]
    assert (shelf / ARCHIVE).read_bytes() == product.read_bytes()
    assert {event["path"] for event in delivered(daq)} == {f"/{ARCHIVE}", f"/sub dir/{ARCHIVE}"}
    release(daq, "--force").ok()  # it is there already
    (shelf / ARCHIVE).write_text("other")
    release(daq, "--force").fails(73, f"{daemon}/{ARCHIVE} exists with other content")
    assert (shelf / ARCHIVE).read_text() == "other"


@pytest.mark.needs("rsync")
def test_rsync_daemon_that_refuses_us(daq: Daq, shelf: Path, daemon: str) -> None:
    (daq.folder / "password").write_text("wrong\n")
    configure(daq, transfer={"password_file": str(daq.folder / "password")})
    put(daq, {"type": "rsyncReceiver", "url": daemon})
    release(daq).ok().says("not delivered")
    assert files(shelf) == [] and len(alerts(daq)) == 1 and daq.tree() == {"done": ["J1"]}


# --- programs -------------------------------------------------------------------------------------


@pytest.fixture
def ingest(daq: Daq) -> Path:
    """A program that notes how it was called."""
    seen = daq.folder / "seen"
    seen.mkdir()
    return script(daq.folder / "ingest", f"""cat >{seen}/stdin
printf '%s\\n' "$@" >{seen}/args
pwd >{seen}/cwd
env >{seen}/env
ls -l /proc/$$/fd >{seen}/fds
echo words
echo complaint >&2
""")


def allow(daq: Daq, *programs: object, **keys: Any) -> None:
    """Let receivers of jobs run programs."""
    own = {"programs": list(map(str, programs)), **keys.pop("release", {})}
    configure(daq, release=own, **keys)


def test_program(daq: Daq, ingest: Path) -> None:
    allow(daq, ingest)
    receiver = command(ingest, "--set", "a b; $(touch pwned)")
    product = put(daq, receiver, by="job", cards=CARDS, filePrefix="P_")
    release(daq, env={"SECRET": "x", "PYTHONPATH": "/nowhere"}).ok().no_output()
    seen = daq.folder / "seen"
    assert (seen / "args").read_text().splitlines() == [
        "--set", "a b; $(touch pwned)", str(product)]
    told = json.loads((seen / "stdin").read_text())
    assert told["keywords"]["ESO DET ID"] == 7 and told["keywords"]["OBJECT"] == "NGC 1365/West"
    event, = delivered(daq)
    assert {key: told[key] for key in (
        "id", "fileId", "path", "archiveName", "size", "sha256", "receiver", "try")} == {
        "id": "J1", "fileId": FILE_ID, "path": str(product), "archiveName": ARCHIVE,
        "size": product.stat().st_size, "sha256": event["sha256"], "receiver": receiver, "try": 1}
    assert told["job"]["filePrefix"] == "P_"
    folder = daq.spool / "data" / "J1"
    assert (seen / "cwd").read_text().strip() == str(folder)
    environment = (seen / "env").read_text()
    assert f"DAQ_SPOOL={daq.spool}\n" in environment and "SECRET" not in environment
    assert "PYTHON" not in environment
    assert str(daq.spool / "lock") not in (seen / "fds").read_text()
    assert (folder / "logs" / "release-1-ingest.out").read_text() == "words\n"
    assert (folder / "logs" / "release-1-ingest.err").read_text() == "complaint\n"
    assert event["how"] == "command" and result(daq)["receipts"][0]["type"] == "commandReceiver"


def test_job_may_only_run_what_is_listed(daq: Daq, ingest: Path) -> None:
    allow(daq, "/bin/true")
    put(daq, command(ingest), command("/bin/true"), by="job")
    release(daq).ok().says("receivers of jobs may not run this").says("cfg/release/programs")
    assert os.listdir(daq.folder / "seen") == [] and len(alerts(daq)) == 1
    assert [event["receiver"] for event in delivered(daq)] == ["/bin/true"]


def test_configuration_may_run_any(daq: Daq, ingest: Path) -> None:
    configure(daq, receivers=[command(ingest)])
    put(daq, command(ingest))
    release(daq).ok()
    assert len(delivered(daq)) == 1


@pytest.mark.parametrize(("body", "told"), [
    ("echo first >&2; echo 'the tape is full' >&2; exit 3", "exit code 3: the tape is full"),
    ("exit 1", "exit code 1: it gave no reason"),
    ("kill -9 $$", "killed by signal 9"),
    pytest.param("trap '' TERM; sleep 1000 & wait", "took longer than 0.3 s",
                 marks=pytest.mark.slow),
])
def test_program_fails(daq: Daq, body: str, told: str) -> None:
    tool = script(daq.folder / "tool", body)
    allow(daq, tool, release={"program_sec": 0.3})
    put(daq, command(tool), by="job")
    release(daq).ok().says(told).says("data/J1/logs/release-1-tool.err")
    assert alerts(daq) == [f"release-failed:{tool}"] and daq.tree() == {"done": ["J1"]}


@pytest.mark.parametrize(("text", "mode", "told"), [
    (None, 0, "no such program; install it"),
    ("#!/bin/sh\n", 0o644, "may not be run; chmod +x"),
    ("\0\1", 0o755, "is no program of this system; begin a script with #!/bin/sh"),
    ("exit 0\n", 0o755, "is no program of this system; begin a script with #!/bin/sh"),
    ("#!/nowhere/sh\n", 0o755, "the interpreter that it needs is not there; install what its"),
])
def test_program_cannot_be_run(daq: Daq, text: str | None, mode: int, told: str) -> None:
    tool = daq.folder / "tool"
    if text is not None:
        tool.write_text(text)
        tool.chmod(mode)
    allow(daq, tool)
    put(daq, command(tool), by="job")
    release(daq).ok().says(f"{tool}: not delivered: {told}")
    assert len(alerts(daq)) == 1
    release(daq).fails(78, told)


def test_program_that_asks_for_more_time_gets_its_tries(daq: Daq) -> None:
    tool = script(daq.folder / "tool", "echo 'robot is busy' >&2; exit 75")
    box = daq.folder / "box"
    box.mkdir()
    allow(daq, tool, retry={"tries": 2, "first_sec": 0})
    put(daq, command(tool), olas(box), by="job")
    release(daq).fails(75, "robot is busy", "next try")
    assert daq.tree() == {"release": ["J1"]} and active(daq) == [f"release-failed:{tool}"]
    release(daq).ok().says("robot is busy")
    assert daq.tree() == {"done": ["J1"]} and active(daq) == [f"release-failed:{tool}"]
    assert len(delivered(daq)) == 1  # the other receiver was served once


@pytest.mark.parametrize("kind", ["receiver", "hook"])
def test_watcher_leaves_a_program_its_time(daq: Daq, kind: str) -> None:
    """Its own limit counts, on top of that of a worker."""
    tool = script(daq.folder / "tool", f"echo $$ >{daq.folder}/pid; sleep 2")
    own = {"program_sec": 1000, **({"hook": str(tool)} if kind == "hook" else {})}
    allow(daq, tool, release=own, timeout={"base_sec": 0.5, "bytes_per_sec": 1 << 40})
    put(daq, *([command(tool)] if kind == "receiver" else []), by="job")
    with daq.start("daq-watch"):
        wait_until(lambda: daq.tree() == {"done": ["J1"]} and daq.events("J1")[-1] in (
            "ok" if kind == "receiver" else "hook"))
    assert "overtime" not in daq.events("J1") and "killed" not in daq.events("J1")


@pytest.mark.parametrize("several", [False, True])
def test_told_to_end_ends_the_program(daq: Daq, several: bool) -> None:
    tool = script(daq.folder / "tool", f"""trap 'echo TERM >{daq.folder}/told; exit 1' TERM
echo $$ >{daq.folder}/pid
while :; do sleep 0.1; done
""")
    allow(daq, tool)
    box = daq.folder / "box"
    box.mkdir()
    put(daq, command(tool), *([olas(box)] if several else []), by="job")
    process = daq.spawn("daq-release", "--job", "J1")
    wait_until(lambda: (daq.folder / "pid").exists() and (daq.folder / "pid").read_text())
    process.signal(signal.SIGTERM)
    assert process.wait().code == 128 + signal.SIGTERM
    assert (daq.folder / "told").exists()
    pid = int((daq.folder / "pid").read_text())
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert daq.events("J1")[-1] == "interrupted" and daq.tree() == {"release": ["J1"]}
    script(tool, "exit 0")
    release(daq).ok()
    assert len(delivered(daq)) == 1 + several


@pytest.mark.slow
@pytest.mark.parametrize("begun_by", ["limit", "TERM"])
def test_a_program_that_ignores_its_end_is_killed_nevertheless(daq: Daq, begun_by: str) -> None:
    """Told to end while the program is already being ended, the tool still sees it through."""
    tool = script(daq.folder / "tool", f"""trap 'echo TERM >>{daq.folder}/told' TERM
echo $$ >{daq.folder}/pid
while :; do sleep 0.1; done
""")
    allow(daq, tool, release={"program_sec": 0.3 if begun_by == "limit" else 1000})
    put(daq, command(tool), by="job")
    process = daq.spawn("daq-release", "--job", "J1")
    wait_until(lambda: (daq.folder / "pid").exists() and (daq.folder / "pid").read_text())
    if begun_by == "TERM":
        process.signal(signal.SIGTERM)
    wait_until((daq.folder / "told").exists)
    process.signal(signal.SIGTERM)
    assert process.wait().code == 128 + signal.SIGTERM
    pid = int((daq.folder / "pid").read_text())
    left = os.path.exists(f"/proc/{pid}")
    end(pid)
    assert not left and daq.events("J1")[-1] == "interrupted"


def test_killed_tool_takes_the_program_along(daq: Daq) -> None:
    tool = script(daq.folder / "tool", f"echo $$ >{daq.folder}/pid; exec sleep 1000")
    allow(daq, tool)
    put(daq, command(tool), by="job")
    process = daq.spawn("daq-release", "--job", "J1")
    wait_until(lambda: (daq.folder / "pid").exists() and (daq.folder / "pid").read_text())
    process.kill()
    pid = int((daq.folder / "pid").read_text())
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


# --- what a receiver may say ----------------------------------------------------------------------


def test_wrong_receivers_are_refused_at_once(daq: Daq) -> None:
    source = {"type": "fitsKeywords", "sourceName": "k", "keywords": []}
    daq.run("daq-start", "-", stdin=json.dumps({
        "sources": [source], "receivers": [archive("/a", "../{OBJECT}.fits")]})).fails(65, "'..'")
    assert daq.tree() == {}


def test_unknown_members_are_reported_and_ignored(daq: Daq) -> None:
    box = daq.folder / "box"
    box.mkdir()
    put(daq, {**olas(box, requird=True), "paht": "/x"}, by="job")
    release(daq).ok().says("receivers/0/options/requird").says("receivers/0/paht")
    assert (box / ARCHIVE).exists()


def test_one_receiver_named_twice_is_one(daq: Daq, ingest: Path) -> None:
    allow(daq, ingest)
    put(daq, command(ingest), command(ingest), by="job")
    release(daq).ok()
    assert len(delivered(daq)) == 1

"""daq-merge without a spool: options, status messages, signals, and what is left behind."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import random
import shutil
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from daqlib import fsops, schema
from harness import Daq, make_fits, wait_until
from merge_samples import BLOCK, file_source, image, keyword_source, primary, specification, value

NAME = "TEST.2026-11-21T02:30:00.123.fits"
TOOLS = ("daq-merge", "daqDpmMerge")


@pytest.fixture
def folder(daq: Daq) -> Path:
    """A folder with a file and a specification that names it."""
    made = daq.folder / "alone"
    made.mkdir()
    make_fits(made / "a.fits", 2)
    write(made, specification(file_source("a", "a.fits"),
                              keyword_source("k", value("OBJECT", "M"))))
    return made


def write(folder: Path, document: object) -> None:
    (folder / "spec.json").write_text(json.dumps(document))


def listing(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a visible side effect would change."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns,
                            status.st_ctime_ns)
    status = folder.stat()
    return {**found, ".": (status.st_mtime_ns, status.st_ctime_ns)}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def damaged(folder: Path) -> None:
    """A file whose second extension does not match its DATASUM."""
    (folder / "bad.fits").write_bytes(
        primary() + image(b"good", "EXTNAME = 'GOOD    '")
        + image(b"data", "EXTNAME = 'BAD     '", "DATASUM = '12345   '"))
    write(folder, specification(file_source("a", "bad.fits")))


# -- a dry run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_a_dry_run_changes_nothing_at_all(daq: Daq, folder: Path, tool: str) -> None:
    (folder / "old.log").write_text("before\n")
    before = listing(folder)
    for more in ([], ["-l", "new.log"], ["-l", "old.log", "--json"], ["--manifest", "m.json"],
                 ["--way", "in-place"], ["-o", "p.fits", "--strict", "--no-sync"]):
        daq.run(tool, folder / "spec.json", "--dry-run", *more).ok()
        if "--manifest" not in more:
            daq.run(tool, folder / "spec.json", "--explain", *more).ok()
    assert listing(folder) == before


@pytest.mark.parametrize(("options", "code", "text"), [
    (["-o", "taken.fits"], 73, "exists and is never overwritten"),
    (["-o", "a.fits"], 73, "is one of the inputs"),
    (["-o", "link.fits"], 73, "is one of the inputs"),
    (["-o", "dangling.fits"], 73, "exists and is never overwritten"),
    (["-o", "none/p.fits"], 74, "no such directory"),
    (["-o", "a.fits/p.fits"], 74, "no such directory"),
    (["--manifest", "taken.fits"], 73, "exists and is never overwritten"),
    (["--manifest", "none/m.json"], 74, "no such directory"),
    (["--manifest", "p.fits", "-o", "p.fits"], 64, "the same file"),
    (["--manifest", "sub/../p.fits", "-o", "p.fits"], 64, "the same file"),
    (["-l", "a.fits"], 64, "another file of this merge"),
    (["-l", "link.fits"], 64, "another file of this merge"),
    (["-l", "spec.json"], 64, "another file of this merge"),
    (["-l", "p.fits", "-o", "p.fits"], 64, "another file of this merge"),
    (["-l", "m.json", "--manifest", "m.json"], 64, "another file of this merge"),
    (["-l", "other.fits"], 64, "would damage"),
    (["-o", "n" * 300], 74, "too long"),
])
def test_what_is_refused_is_refused_dry_as_well(daq: Daq, folder: Path, options: list[str],
                                                code: int, text: str) -> None:
    (folder / "sub").mkdir()
    (folder / "taken.fits").write_text("mine")
    (folder / "link.fits").symlink_to("a.fits")
    (folder / "dangling.fits").symlink_to("nowhere")
    make_fits(folder / "other.fits", 1)
    before = listing(folder)
    for dry in (["--dry-run"], []):
        daq.run("daq-merge", folder / "spec.json", *options, *dry).fails(code, text)
        assert listing(folder) == before


def test_no_room_is_known_before_the_work(daq: Daq, folder: Path) -> None:
    size = shutil.disk_usage(folder).total + (1 << 30)
    head = primary() + image(b"").replace(b"NAXIS1  =                    0",
                                          b"NAXIS1  =%21d" % size)
    with (folder / "huge.fits").open("wb") as file:
        file.write(head)
        try:
            file.truncate(len(head) + -(-size // BLOCK) * BLOCK)
        except OSError:
            pytest.skip(f"no sparse file of {size} bytes here")
    write(folder, specification(file_source("a", "huge.fits")))
    before = listing(folder)
    for dry in (["--dry-run"], []):
        daq.run("daq-merge", folder / "spec.json", *dry).fails(75, "bytes", "free some space")
        assert listing(folder) == before


def test_a_dry_run_tells_the_way(daq: Daq, folder: Path) -> None:
    """It refuses a way that cannot be, and says when it would be another one."""
    (folder / "t.fits").write_bytes(primary(*[" "] * 20) + image(bytes(2 << 20)))
    write(folder, specification(file_source("a", "a.fits"), target=file_source("t", "t.fits")))
    run = ("daq-merge", "--dry-run", folder / "spec.json", "--way")
    before = listing(folder)
    assert "new file" not in daq.run(*run, "in-place").ok().err
    clone = daq.run(*run, "clone")
    shared = daq.run(*run, "share").ok()
    assert listing(folder) == before
    can = clone.code == 0
    if not can:
        clone.fails(78, "cannot be a clone", "share blocks")
    assert ("nothing would be shared" in shared.err) == (not can)
    (folder / "link").hardlink_to(folder / "t.fits")
    before = listing(folder)
    for way in ("in-place", "insert"):
        assert "a new file would be written" in daq.run(*run, way).ok().err
    assert listing(folder) == before
    really = daq.run("daq-merge", folder / "spec.json", "--way", "clone")
    assert really.code == clone.code
    write(folder, specification(file_source("a", "a.fits")))
    daq.run(*run, "clone").fails(78, "there is no merge target")


# -- usage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "text"), [
    (["--trust-sums", "--strict"], "exclude each other"),
    (["--explain", "--manifest", "m"], "writes nothing"),
    (["--explain", "-n"], "writes nothing"),
    (["--way", "fast"], "--way"),
    (["--stamp", "none"], "--stamp"),
    (["spec.json"], "too many"),
    (["-o", ""], "--outfile is empty"),
    (["--root="], "--root is empty"),
    (["--manifest", ""], "--manifest is empty"),
    (["-l", ""], "--logfile is empty"),
    (["--explain", "--verify"], "no place beside --verify"),
    (["--explain", "--undo"], "no place beside --undo"),
])
@pytest.mark.parametrize("tool", TOOLS)
def test_options_that_do_not_go_together(daq: Daq, folder: Path, tool: str, options: list[str],
                                         text: str) -> None:
    before = listing(folder)
    daq.run(tool, folder / "spec.json", *options).fails(64, text)
    assert listing(folder) == before


def test_options_of_a_merge_without_a_spool_are_not_for_jobs(daq: Daq, folder: Path) -> None:
    for options in (["--way", "new"], ["--strict"], ["--trust-sums"], ["--no-sync"],
                    ["--stamp", "all"], ["--manifest", "m"], ["--explain"], ["--root", "."],
                    ["-o", "x"], ["-l", "x"], ["--undo"]):
        daq.run("daq-merge", "--job", "x", *options).fails(64, options[0], "cfg/merge") if (
            options[0].startswith("--")) else daq.run("daq-merge", "--job", "x", *options).fails(64)
    daq.run("daq-merge", "--force", folder / "spec.json").fails(64, "--force is for jobs")


# -- status messages -------------------------------------------------------------------------------


def test_events_of_success_and_of_failure(daq: Daq, folder: Path) -> None:
    damaged(folder)
    (folder / "spec.json").write_text(json.dumps(specification(
        keyword_source("k", value("DATE", "x")), file_source("a", "bad.fits"))))
    told = daq.run("daq-merge", "--json", "-l", "log", folder / "spec.json").ok()
    events = told.jsonl()
    assert [event["event"] for event in events if event["event"] != "progress"] == [
        "plan", "warning", "alert", "done"]
    assert events[-2]["severity"] == "error" and events[-2]["id"].startswith("datasum:")
    done = events[-1]
    assert (done["product"], done["hdus"], done["way"], done["sha256"]) == (
        str(folder / NAME), 3, "new", "")
    again = daq.run("daq-merge", "--json", "-l", "log", folder / "spec.json").exits(73)
    [event] = again.jsonl()
    assert (event["event"], event["code"]) == ("error", 73) and event["remedy"]
    assert event["message"] in again.err
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == [
        "plan", "warning", "alert", "done", "error"]
    assert all(line["time"].endswith("Z") for line in lines)


@pytest.mark.parametrize(("document", "code"), [("{", 101), ("{}", 102), (None, 100)])
def test_errors_of_the_specification_are_logged_too(daq: Daq, folder: Path, document: str | None,
                                                    code: int) -> None:
    spec = folder / "spec.json"
    if document is None:
        spec.unlink()
    else:
        spec.write_text(document)
    for tool in TOOLS:
        told = daq.run(tool, "--json", "--root", folder, "-l", "log", spec).exits(code).json()
        assert (told["event"], told["code"]) == ("error", code)
    assert len((folder / "log").read_text().splitlines()) == 2
    (folder / "data.fits").write_bytes(primary())
    before = (folder / "data.fits").read_bytes()
    daq.run("daq-merge", "--root", folder, "-l", "data.fits", spec).fails(64, "would damage")
    assert (folder / "data.fits").read_bytes() == before


def test_words_for_people(daq: Daq, folder: Path) -> None:
    told = daq.run("daqDpmMerge", folder / "spec.json", "-v", "-o", "v.fits").ok()
    assert told.line() == str(folder / "v.fits") and "3 HDUs" in told.err
    assert daq.run("daq-merge", folder / "spec.json", "-o", "w.fits").ok().err == ""


def test_nothing_is_named(daq: Daq, folder: Path) -> None:
    daq.run("daq-merge").fails(64, "neither a specification nor a job is named")
    daq.run("daq-merge", "--explain").fails(64, "--explain needs a SPECIFICATION")
    daq.run("daqDpmMerge").fails(64, "one SPECIFICATION is needed")
    (folder / "spec.json").rename(folder / "-spec.json")
    daq.run("daq-merge", "-o", "p.fits", "--", "-spec.json", cwd=folder).ok()


def test_names_that_are_not_utf8(daq: Daq, folder: Path) -> None:
    name = os.fsdecode(b"p\xff.fits")
    told = daq.run("daq-merge", "--json", folder / "spec.json", "-o", name, "-l",
                   os.fsdecode(b"l\xff"), "--manifest", os.fsdecode(b"m\xff")).ok().jsonl()
    logged = os.fsencode(folder) + b"/l\xff"
    with open(logged, encoding="utf-8") as file:
        last = json.loads(file.readlines()[-1])
    assert told[-1] == last and last["event"] == "done"
    assert os.path.exists(last["product"]) and os.path.exists(last["manifest"])
    with open(last["manifest"], encoding="utf-8") as file:
        assert json.load(file)["result"]["product"] == name
    daq.run("daq-merge", "--verify", last["product"], "--manifest", last["manifest"]).ok()


def test_a_reader_that_has_seen_enough(daq: Daq, folder: Path) -> None:
    """Of an explanation: the end, without a word. Of a path: all was done."""
    for options, code in ((["--explain"], 128 + signal.SIGPIPE), ([], 0)):
        read, written = os.pipe()
        os.close(read)
        made = subprocess.run(daq.command("daq-merge", folder / "spec.json", *options),
                              check=False, env=daq.environment(), stdout=written,
                              stderr=subprocess.PIPE, timeout=60)
        os.close(written)
        assert (made.returncode, made.stderr) == (code, b"")
    assert names(folder) == [NAME, "a.fits", "spec.json"]


def test_what_cannot_be_told(daq: Daq, folder: Path) -> None:
    """A product that is there is not taken for one that failed; errors name what is full."""
    with open("/dev/full", "w") as full:
        made = subprocess.run(daq.command("daq-merge", folder / "spec.json"), check=False,
                              env=daq.environment(), stdout=full, stderr=subprocess.PIPE,
                              timeout=60, text=True)
    assert made.returncode == 74 and (folder / NAME).exists()
    assert "standard output: No space" in made.stderr and "is complete" in made.stderr
    daq.run("daq-merge", folder / "spec.json", "-o", "b.fits", "-l", "/dev/full").fails(
        75, "/dev/full: No space")
    assert not (folder / "b.fits").exists()


def test_a_file_that_becomes_too_large(daq: Daq, folder: Path) -> None:
    command = " ".join(daq.command("daq-merge", folder / "spec.json"))
    made = subprocess.run(["sh", "-c", f"ulimit -f 5; exec {command}"], check=False, timeout=60,
                          env=daq.environment(), capture_output=True, text=True)
    assert made.returncode == 74 and f"{folder / NAME}: File too large" in made.stderr
    assert "ulimit" in made.stderr and names(folder) == ["a.fits", "spec.json"]


def test_a_reader_that_leaves_does_not_end_the_work(daq: Daq, folder: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    subprocess.run(daq.command("daq-merge", "--json", folder / "spec.json"), check=False,
                   env=daq.environment(), stdout=written, timeout=60)
    os.close(written)
    assert (folder / NAME).exists() and names(folder) == [NAME, "a.fits", "spec.json"]


def test_progress_on_a_terminal_only(daq: Daq, folder: Path) -> None:
    ours, theirs = pty.openpty()
    subprocess.run(daq.command("daq-merge", folder / "spec.json"), check=True, stderr=theirs,
                   env=daq.environment(), stdout=subprocess.DEVNULL, timeout=60)
    os.close(theirs)
    assert b"100 %" in os.read(ours, 10_000)
    os.close(ours)
    assert "%" not in daq.run("daq-merge", folder / "spec.json", "-o", "b.fits").ok().err
    for way in ("new", "in-place"):
        write(folder, specification(target=file_source("a", "a.fits")))
        events = daq.run("daq-merge", "--json", folder / "spec.json", "--way", way, "-o",
                         f"{way}.fits").ok().jsonl()
        ends = [event for event in events if event.get("done") == event.get("total", -1)]
        assert len(ends) == 1, "the end is told once"


# -- sums, stamps, manifest ------------------------------------------------------------------------


def test_damaged_data(daq: Daq, folder: Path) -> None:
    from astropy.io import fits

    damaged(folder)
    run = ("daq-merge", folder / "spec.json", "-o")
    daq.run(*run, "strict.fits", "--strict").fails(112, "DATASUM", "bad.fits")
    told = daq.run(*run, "verify.fits", "--manifest", "v.json").ok()
    assert "12345" in told.err
    daq.run(*run, "trust.fits", "--trust-sums").ok()
    assert names(folder) == ["a.fits", "bad.fits", "spec.json", "trust.fits", "v.json",
                             "verify.fits"]
    card = fits.getheader(folder / "verify.fits", 2).cards["DATASUM"]
    assert card.value != "12345" and "12345" in card.comment
    with fits.open(folder / "verify.fits", checksum=True) as opened:
        assert [hdu.verify_checksum() for hdu in opened] == [1, 1, 1]
    parts = json.loads((folder / "v.json").read_text())["result"]["parts"]
    assert [bool(part["damaged"]) for part in parts] == [False, False, True]
    verified = daq.run("daq-merge", "--verify", "--manifest", folder / "v.json",
                       folder / "verify.fits").ok()
    assert "HDU 2 did not match" in verified.err


@pytest.mark.parametrize("way", ["new", "in-place", "insert", "share"])
def test_the_manifest(daq: Daq, folder: Path, way: str) -> None:
    make_fits(folder / "t.fits", 1, name="T")
    write(folder, specification(file_source("a", "a.fits"), target=file_source("t", "t.fits")))
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
               for name in ("a.fits", "t.fits")}
    done = daq.run("daq-merge", "--json", folder / "spec.json", "--manifest", "m.json", "--way",
                   way).ok().jsonl()[-1]
    document = json.loads((folder / "m.json").read_text())
    schema.check("manifest", document, "the manifest")
    result = document["result"]
    product = folder / NAME
    assert result["sha256"] == done["sha256"] == hashlib.sha256(product.read_bytes()).hexdigest()
    assert (done["manifest"], result["way"]) == (str(folder / "m.json"), done["way"])
    assert {one["location"]: one["sha256"] for one in result["inputs"]} == digests
    assert [one.get("target", False) for one in result["inputs"]] == [True, False]
    assert [part["source"] for part in result["parts"]] == ["t", "t", "a", "a"]
    [output] = document["outputs"]
    assert (output["path"], output["size"]) == (NAME, product.stat().st_size)
    daq.run("daq-merge", "--verify", "--manifest", folder / "m.json", product).ok()
    product.chmod(0o644)
    with product.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"#")
    daq.run("daq-merge", "--verify", "--manifest", folder / "m.json", product).exits(1)


def test_stamps(daq: Daq, folder: Path) -> None:
    from astropy.io import fits

    for stamp, there in (("primary", [True, False, False]), ("all", [True, True, True])):
        out = folder / f"{stamp}.fits"
        daq.run("daq-merge", folder / "spec.json", "-o", out, "--stamp", stamp).ok()
        with fits.open(out, checksum=True) as opened:
            assert ["ARCFILE" in hdu.header and "ORIGFILE" in hdu.header
                    for hdu in opened] == there


def test_a_way_that_cannot_be(daq: Daq, folder: Path) -> None:
    daq.run("daq-merge", folder / "spec.json", "--way", "clone").fails(78, "clone")
    for way in ("in-place", "insert", "share"):
        daq.run("daq-merge", folder / "spec.json", "-o", f"{way}.fits", "--way", way).ok()


def test_a_header_that_outgrows_its_blocks(daq: Daq, folder: Path) -> None:
    (folder / "t.fits").write_bytes(primary() + image(b"x"))
    keywords = [value(f"K{number}", number) for number in range(40)]
    write(folder, specification(keyword_source("k", *keywords),
                                target=file_source("t", "t.fits")))
    run = ("daq-merge", folder / "spec.json")
    assert "was resized from 1 to 2 blocks" in daq.run(*run, "--explain").ok().out
    for options in (["--dry-run"], []):
        told = daq.run(*run, "--json", *options).ok()
        (alert,) = [event for event in told.jsonl() if event["event"] == "alert"]
        assert (alert["id"], alert["severity"]) == ("header-resized:t:t.fits", "info")
        assert "was resized" in told.err
    # which is no error
    assert daq.run(*run, "-q", "-o", "quiet.fits").ok().err == ""


def test_explain(daq: Daq, folder: Path) -> None:
    before = listing(folder)
    told = daq.run("daq-merge", "--explain", folder / "spec.json").ok().out
    assert "OBJECT" in told and "EXT1" in told and max(map(len, told.splitlines())) <= 100
    events = daq.run("daqDpmMerge", "--explain", "--json", folder / "spec.json").ok().jsonl()
    assert {"OBJECT", "DATE"} <= {event.get("name") for event in events}
    assert listing(folder) == before
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    subprocess.run(daq.command("daq-merge", "--explain", folder / "spec.json"), check=True,
                   stdout=theirs, env=daq.environment(), timeout=60)
    os.close(theirs)
    shown = b""
    while b"EXT2" not in shown:
        shown += os.read(ours, 10_000)
    os.close(ours)
    assert max(map(len, shown.decode().splitlines())) <= 80 < max(map(len, told.splitlines()))
    (folder / "a.fits").unlink()
    daq.run("daq-merge", "--explain", folder / "spec.json").fails(110, "a.fits")


# -- signals, deaths, rivals -----------------------------------------------------------------------


def big(folder: Path, mib: int = 48) -> None:
    data = os.urandom(1 << 20) * mib
    (folder / "t.fits").write_bytes(primary(*["COMMENT room"] * 40, *[" "] * 60) + image(data))
    (folder / "b.fits").write_bytes(primary() + image(data[:8 << 20]))
    write(folder, specification(file_source("b", "b.fits"), target=file_source("t", "t.fits")))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("way", ["new", "in-place"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_all_or_nothing(daq: Daq, folder: Path, way: str, signum: int) -> None:
    big(folder)
    before, dice, codes = digest(folder / "t.fits"), random.Random(signum), set()
    for _ in range(8):
        with daq.start("daq-merge", folder / "spec.json", "--json", "--way", way, "-o",
                       "p.fits") as running:
            wait_until(lambda running=running: running.out or not running.running())
            time.sleep(dice.uniform(0, 0.08))
            running.signal(signum)
            code = running.wait().code
        codes.add(code)
        left = set(names(folder)) - {"a.fits", "b.fits", "spec.json"}
        if code == 128 + signum:
            assert left == {"t.fits"} and digest(folder / "t.fits") == before
            continue
        assert code == 0 and left == {"p.fits"} | ({"t.fits"} if way == "new" else set())
        (folder / "p.fits").unlink()
        if way != "new":
            big(folder)
            before = digest(folder / "t.fits")
    assert codes <= {0, 128 + signum}


def test_what_a_killed_run_left_is_swept_when_it_is_certainly_dead(daq: Daq, folder: Path) -> None:
    daq.run("daq-merge", folder / "spec.json", env={"DAQ_CRASH": "move.begin"}).died(9)
    [left] = [name for name in names(folder) if fsops.is_temporary(name)]
    strangers = {
        left.replace(left.split("-")[3], "0123456740265318369"),  # another boot, or another host
        left.replace(left.split("-")[1], str(os.getpid()), 1),  # alive
        f"{left}.other", ".tmp-1-2-3", f".tmp-999999999-1-{NAME}"}
    for name in strangers:
        (folder / name).write_text("not ours")
    daq.run("daq-merge", folder / "spec.json", "--dry-run").ok()
    assert left in names(folder)
    daq.run("daq-merge", folder / "spec.json").ok()
    assert set(names(folder)) == strangers | {"a.fits", "spec.json", NAME}


def test_of_several_runs_one_wins(daq: Daq, folder: Path) -> None:
    for way in ("new", "in-place"):
        (folder / "t.fits").unlink(missing_ok=True)
        make_fits(folder / "t.fits", 1, name="T")
        write(folder, specification(file_source("a", "a.fits"), target=file_source("t", "t.fits")))
        running = [daq.spawn("daq-merge", folder / "spec.json", "--way", way, "-o", f"{way}.fits")
                   for _ in range(6)]
        codes = sorted(process.wait().code for process in running)
        assert codes[0] == 0 and set(codes[1:]) <= {73, 75, 110}, codes
        assert codes.count(0) == 1
        if way == "new":
            assert set(codes[1:]) == {73}
        daq.run("daq-merge", "--verify", folder / f"{way}.fits").ok()
    assert names(folder) == ["a.fits", "in-place.fits", "new.fits", "spec.json"]


# -- internal errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(("tool", "code"), [("daq-merge", 70), ("daqDpmMerge", 255)])
def test_the_code_of_an_internal_error(folder: Path, tool: str, code: int,
                                       monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    from daq_merge import __main__, build, eso

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.delenv("DAQ_DEBUG", raising=False)
    monkeypatch.setattr(build, "write", broken)
    program = __main__.main if tool == "daq-merge" else eso.daqDpmMerge
    before = listing(folder)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert program(["--json", str(folder / "spec.json")]) == code
    finally:
        signal.signal(signal.SIGTERM, handlers[0])
        signal.signal(signal.SIGINT, handlers[1])
    told = capsys.readouterr()
    event = json.loads(told.out.splitlines()[-1])
    assert (event["event"], event["code"]) == ("error", code) and "a bug" in event["message"]
    assert told.err.startswith(f"{tool}: internal error") and "DAQ_DEBUG" in told.err
    assert listing(folder) == before


def test_a_log_that_is_a_pipe(daq: Daq, folder: Path) -> None:
    """A log may be a pipe or a terminal: nothing of it is read, and nothing is truncated."""
    fifo = folder / "log.fifo"
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    daq.run("daq-merge", folder / "spec.json", "-l", fifo).ok()
    events = [json.loads(line)["event"] for line in os.read(fd, 65536).splitlines()]
    os.close(fd)
    assert events == ["plan", "done"]

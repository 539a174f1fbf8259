"""Plain programs as sources: both ways of working, whatever they do and whoever is killed."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from daqlib import errors, rpc
from harness import CHECKOUT, end, make_fits, wait_until
from live import Live, sharing

pytestmark = [pytest.mark.installed, pytest.mark.xdist_group("source-exec")]

PAGE = (CHECKOUT / "docs" / "programs.md").read_text()
#: The examples of the page, as they stand there.
EXAMPLES = dict(re.findall(r"^```\w+ example=(\w+)\n(.*?)^```$", PAGE, re.M | re.S))

_TALK = """\
#!/bin/sh
say() { printf '{"event": "%s"%s}\\n' "$1" "${2:+, $2}"; }
read -r start; say started
"""
#: What is run besides; sh unless said otherwise.
SCRIPTS = {
    "wrong": "#!/bin/sh\necho begin >&2; echo 'no light' >&2; exit 3\n",
    "killed": "#!/bin/sh\nkill -USR1 $$\n",
    "empty": "#!/bin/sh\n",
    "long": "#!/bin/sh\ntouch here.fits; cp $0 copy.fits; echo careful >&2; exec sleep 300\n",
    "tidy": "#!/bin/sh\ntrap 'cp \"$1\" image.fits; exit 130' INT\ntouch begun\n"
            "while :; do sleep 0.05; done\n",
    "deaf": "#!/bin/sh\ntrap '' INT TERM HUP\n(while :; do sleep 1; done) &\ntouch begun\nwait\n"
            "while :; do sleep 1; done\n",
    "gate": "#!/bin/sh\ntouch begun\nwhile [ ! -e \"$1\" ]; do sleep 0.02; done\n"
            "cp \"$2\" image.fits\n",
    "litter": "#!/bin/sh\nsleep 300 &\ncp \"$1\" image.fits\n",
    "dated": "#!/bin/sh\ncp \"$1\" image.fits; echo '{\"AGE\": 1}' > keywords.json\n"
             "touch -d 2020-01-01 image.fits keywords.json\n",
    "twice": _TALK + "cp \"$1\" image.fits\nsay file '\"path\": \"image.fits\"'\n"
             "say file '\"path\": \"./image.fits\"'\n",
    "noexec": "no program\n",
    "nointerpreter": "#!/nowhere/sh\n",
    "closed": "#!/bin/sh\n",
    "mute": "#!/bin/sh\nexec sleep 300\n",
    "early": "#!/bin/sh\nexit 0\n",
    "unable": "#!/bin/sh\nread -r start\necho '{\"event\": \"failed\", \"reason\": \"no film\"}'\n",
    "waiter": _TALK + "read -r stop\nsay keywords '\"keywords\": {\"STOPPED\": true}'\n",
    "slowly": _TALK + "read -r stop\ntouch stopping\nwhile [ ! -e \"$1\" ]; do sleep 0.02; done\n"
              "say keywords '\"keywords\": {\"SLOW\": 1}'\n",
    "stubborn": _TALK + "trap '' TERM\nsay keywords '\"keywords\": {\"KEPT\": 1}'\n"
                "while :; do sleep 1; done\n",
    "babble": _TALK + "echo just words\necho '{\"event\": \"start'\necho '{\"event\": \"dance\"}'\n"
              "say progress '\"done\": \"x\"'\nsay file '\"path\": \"gone.fits\"'\n"
              "say file '\"path\": \"../../../acquire.json\"'\n"
              "say remark '\"text\": \"the dome was closed\"'\nsay ended\nexec sleep 300\n",
    "badkeys": _TALK + "read -r stop\nsay keywords '\"keywords\": {\"lower case\": 1}'\n",
    "sensible": _TALK + "say keywords '\"keywords\": {\"TWICE\": 1}'\nread -r stop\n"
                "say keywords '\"keywords\": {\"TWICE\": 2, \"ESO TEL ALT\": 45.5}'\n",
    "loud": _TALK + "yes 'a line of words' >&2\n",
    "louder": _TALK + "yes\n",
    "show": "#!/bin/sh\nenv > env.txt; printf '%s|' \"$@\" > args.txt; pwd > where.txt\n",
    "two": _TALK + "while [ ! -e \"$1\" ]; do sleep 0.02; done\ncp \"$2\" \"$DAQ_SOURCE.fits\"\n"
           "say file \"\\\"path\\\": \\\"$DAQ_SOURCE.fits\\\"\"\n",
}


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
         ) -> Iterator[Live]:
    """Serve a daemon that may run the programs of this module."""
    folder = tmp_path_factory.mktemp("exec")
    programs = folder / "programs"
    programs.mkdir()
    for name, text in {**EXAMPLES, **SCRIPTS}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o644 if name == "closed" else 0o755)
    (programs / "unlisted").write_text("#!/bin/sh\n")
    listed = [str(programs / name) for name in (*EXAMPLES, *SCRIPTS, "missing")]
    with sharing(folder, request.config.getoption("--daq-bin"),
                 sources={"programs": listed}) as made:
        yield made


@pytest.fixture(autouse=True)
def tidy(live: Live) -> Iterator[None]:
    """Leave a running daemon, no acquisition and no program to the next test."""
    yield
    if not live.daemon.running():
        live.serve()
    for now in live.call("GetActiveList"):
        if now["state"] in ("StateAcquiring", "StateNotStarted"):
            live.call("ForceAbortDaq", id=now["id"])
    wait_until(lambda: not running(live))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_fits(tmp_path / "origin.fits")


def program(live: Live, name: str, *args: object, kind: str = "primarySource", source: str = "",
            **options: Any) -> dict[str, Any]:
    """Return a source that runs a program; without options that of a program that is mute."""
    if args:
        options["args"] = [str(arg) for arg in args]
    return {"type": kind, "sourceName": source or name, "options": options,
            "rrUri": f"exec:{live.daq.folder / 'programs' / name}"}


def leaves(live: Live, name: str, *args: object, **options: Any) -> dict[str, Any]:
    return program(live, name, *args, speaks="nothing", **options)


def senses(live: Live, name: str, *args: object, **options: Any) -> dict[str, Any]:
    return program(live, name, *args, kind="metadataSource", **options)


def place(live: Live, job: str, source: str) -> Path:
    return live.daq.spool / "data" / job / "live" / source


def running(live: Live, job: str = "") -> list[int]:
    """Return the processes that were started for a job, or for any."""
    wanted = f"DAQ_FOLDER={live.daq.spool}/data/{job}".encode()
    found = []
    for name in os.listdir("/proc"):
        try:
            if wanted in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except (OSError, ValueError):
            continue
    return found


def refused(live: Live, *sources: dict[str, Any]) -> str:
    with pytest.raises(rpc.RemoteError) as caught:
        live.begin(*sources, id=live.id("refused"))
    return str(caught.value)


def keywords(live: Live, job: str) -> dict[str, Any]:
    """Return the keywords that the sources of a job brought."""
    return {each["name"]: each["value"] for source in live.manifest(job)["sources"]
            for each in source["keywords"]}


def files(live: Live, job: str) -> list[str]:
    return [Path(path).name for source in live.manifest(job)["sources"]
            for path in source["files"]]


def said(live: Live, job: str) -> list[str]:
    """Return what was told of a job's sources in its log."""
    return [event["text"] for event in live.daq.history(job) if event["event"] == "said"]


# -- both ways of working -------------------------------------------------------------------------


def test_the_examples_of_the_page(live: Live, image: Path) -> None:
    assert all(len(text.splitlines()) <= 12 for text in EXAMPLES.values())
    job = live.begin(program(live, "expose", 0.3, image),
                     leaves(live, "snap", 0.2, image, keywords="keywords.json"),
                     senses(live, "elapsed"))
    live.until(job, "NotScheduled")
    assert live.status(job)["error"] is False
    assert sorted(files(live, job)) == ["image.fits", "image.fits"]
    made = keywords(live, job)
    assert made["EXPTIME"] == 0.2 and made["DET ID"] == "snap" and made["ELAPSED"] >= 0
    with fits.open(live.product(job)) as product:
        assert product[0].header["EXPTIME"] == 0.2 and product[0].header["ELAPSED"] >= 0
        assert len(product) > 1


def test_progress_and_an_early_stop(live: Live, image: Path) -> None:
    job = live.begin(program(live, "expose", 100, image))
    assert running(live, job)
    live.call("StopDaq", id=job)
    assert files(live, job) == ["image.fits"] and not running(live, job)


def test_a_metadata_source_speaks_until_it_is_stopped(live: Live) -> None:
    job = live.begin(senses(live, "sensible"), senses(live, "waiter"))
    live.call("StopDaq", id=job)
    assert keywords(live, job) == {"TWICE": 2, "TEL ALT": 45.5, "STOPPED": True}


def test_what_a_program_gets(live: Live) -> None:
    source = program(live, "show", "a b", "$(id)", "-x", kind="metadataSource", source="s",
                     speaks="nothing", environment={"GAIN": 2, "PATH": "/evil"})
    job = live.begin(source)
    folder = place(live, job, "s")
    wait_until(lambda: (folder / "where.txt").exists())
    live.call("StopDaq", id=job)
    assert (folder / "args.txt").read_text() == "a b|$(id)|-x|"
    assert (folder / "where.txt").read_text() == f"{folder}\n"
    made = dict(line.split("=", 1) for line in (folder / "env.txt").read_text().splitlines())
    assert made["OPT_GAIN"] == "2" and made["OPT_PATH"] == "/evil" and "evil" not in made["PATH"]
    assert (made["DAQ_ID"], made["DAQ_SOURCE"], made["DAQ_FOLDER"]) == (job, "s", str(folder))
    assert set(made) - {"PWD", "_", "OLDPWD", "SHLVL"} <= {
        "PATH", "HOME", "TMPDIR", "LC_ALL", "TZ", "DAQ_ID", "DAQ_SOURCE", "DAQ_FOLDER",
        "OPT_GAIN", "OPT_PATH"}


def test_the_same_program_twice(live: Live, image: Path, tmp_path: Path) -> None:
    word = tmp_path / "go"
    one, other = (program(live, "two", word, image, source=name) for name in ("a", "b"))
    assert "two primary sources are the same" in refused(live, one, other)
    other["options"]["device"] = "b"
    first = live.begin(one)
    assert f"in use by {first}" in refused(live, one)
    second = live.begin(other)
    word.touch()
    for job, name in ((first, "a.fits"), (second, "b.fits")):
        live.until(job, "NotScheduled")
        assert files(live, job) == [name]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options", "text"), [
    ("unlisted", {}, "list it in cfg/sources/programs"),
    ("missing", {}, "no such program"),
    ("closed", {}, "chmod +x"),
    ("%2e%2e/mute", {}, "is not allowed"),
    ("mute", {"args": 5}, "option args"),
    ("mute", {"args": ["a\0b"]}, "option args"),
    ("mute", {"args": ["x" * 5000]}, "4096"),
    ("mute", {"args": [""] * 5000}, "4096"),
    ("mute", {"speaks": "shell"}, "lines, nothing"),
    ("mute", {"stopSignal": "INT"}, "speaks: nothing"),
    ("mute", {"speaks": "nothing", "stopSignal": "KILL"}, "INT"),
    ("mute", {"speaks": "nothing", "files": ["../../../*"]}, "without '..'"),
    ("mute", {"speaks": "nothing", "files": ["/*/*/*"]}, "has a pattern for directories"),
    ("mute", {"speaks": "nothing", "files": [""]}, "names no file"),
    ("mute", {"speaks": "nothing", "keywords": "a\nb"}, "control characters"),
    ("mute", {"environment": {"A=B": "1"}}, "no name of a variable"),
    ("mute", {"environment": {"A": ["1"]}}, "environment.A"),
    ("mute", {"environment": {f"A{n}": "x" * 4096 for n in range(16)}}, "65536"),
    ("mute", {"maxSec": -1}, "maxSec"),
    ("mute", {"maxSecs": 1}, "known here"),
])
def test_refused_before_anything_starts(live: Live, name: str, options: dict[str, Any],
                                        text: str) -> None:
    told = refused(live, program(live, name, source="cam", **options))
    assert text in told and "source 'cam'" in told
    assert running(live) == []
    assert not list((live.daq.spool / "log").glob("refused.*"))


@pytest.mark.parametrize(("name", "text"), [
    ("noexec", "is no program of this system"),
    ("nointerpreter", "the interpreter that it needs is not there"),
    ("mute", "did not say within 0.3 s"),
    ("early", "did not say that it has started"),
    ("unable", "it failed: no film"),
    ("wrong", "exit code 3: no light"),
])
def test_a_program_that_does_not_start(live: Live, name: str, text: str) -> None:
    job = live.id("bad")
    with pytest.raises(rpc.RemoteError, match=text):
        live.begin(program(live, name, source="cam", startSec=0.3 if name == "mute" else 30),
                   senses(live, "waiter"), id=job)
    assert job in live.daq.tree()["failed"] and not running(live, job)


# -- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text"), [
    ("wrong", "it ended with exit code 3: no light"),
    ("killed", "it was killed by signal SIGUSR1"),
    ("empty", "it wrote no file *.fits"),
])
def test_a_program_that_fails(live: Live, name: str, text: str) -> None:
    job = live.begin(leaves(live, name))
    assert live.until(job, "NotScheduled")["error"] is True
    assert text in live.alerts(job)[f"source-failed:{name}"]
    assert files(live, job) == []


def test_words_on_standard_error_are_in_the_log(live: Live) -> None:
    job = live.begin(leaves(live, "wrong"))
    live.until(job, "NotScheduled")
    assert said(live, job) == ["begin", "no light", "it ended with exit code 3: no light"]


def test_a_stop_by_signal_lets_a_program_finish_its_file(live: Live, image: Path) -> None:
    job = live.begin(leaves(live, "tidy", image))
    wait_until(lambda: (place(live, job, "tidy") / "begun").exists())
    live.call("StopDaq", id=job)
    assert live.status(job)["error"] is False and files(live, job) == ["image.fits"]


def test_a_stop_that_waits(live: Live, image: Path, tmp_path: Path) -> None:
    word = tmp_path / "go"
    job = live.begin(leaves(live, "gate", word, image, stop="wait"))
    word.touch()
    live.call("StopDaq", id=job)
    assert live.status(job)["error"] is False and files(live, job) == ["image.fits"]


def test_files_that_were_there_before_do_not_count(live: Live, image: Path,
                                                   tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    job = live.begin(leaves(live, "gate", tmp_path / "go", image, files=[str(image), "*.fits"]))
    live.until(job, "NotScheduled")
    assert files(live, job) == ["image.fits"]


def test_what_has_the_time_of_the_exposure_is_of_this_run(live: Live, image: Path) -> None:
    job = live.begin(leaves(live, "dated", image, files=["./*.fits", "image.fits"],
                            keywords="keywords.json"))
    assert live.until(job, "NotScheduled")["error"] is False
    assert files(live, job) == ["image.fits"] and keywords(live, job) == {"AGE": 1}


def test_each_file_that_is_named_has_to_be_there(live: Live, image: Path) -> None:
    job = live.begin(leaves(live, "dated", image, files=["image.fits", "second.fits"]))
    live.until(job, "NotScheduled")
    assert "it wrote no file second.fits" in live.alerts(job)["source-failed:dated"]
    assert files(live, job) == ["image.fits"]


@pytest.mark.parametrize("command", ["StopDaq", "ForceStopDaq"])
def test_a_deaf_program_is_killed_with_its_children(live: Live, command: str) -> None:
    job = live.begin(leaves(live, "deaf", stopSec=0.2))
    wait_until(lambda: (place(live, job, "deaf") / "begun").exists())
    assert len(running(live, job)) > 2
    live.call(command, id=job)
    assert "did not heed the stop" in live.alerts(job)["source-failed:deaf"]
    assert not running(live, job)


def test_what_a_stubborn_program_said_is_kept(live: Live) -> None:
    job = live.begin(senses(live, "stubborn", stopSec=0.2))
    assert live.call("StopDaq", id=job)["error"] is True
    assert "did not heed the stop within 0.2 s" in live.alerts(job)["source-failed:stubborn"]
    assert keywords(live, job) == {"KEPT": 1} and not running(live, job)


def test_a_program_that_takes_too_long(live: Live) -> None:
    job = live.begin(leaves(live, "mute", maxSec=0.3))
    live.until(job, "NotScheduled")
    assert "longer than 0.3 s (maxSec)" in live.alerts(job)["source-failed:mute"]


def test_what_a_program_leaves_running_ends_with_it(live: Live, image: Path) -> None:
    job = live.begin(leaves(live, "litter", image))
    live.until(job, "NotScheduled")
    assert files(live, job) == ["image.fits"] and not running(live, job)


def test_an_abort_removes_what_was_written(live: Live) -> None:
    job = live.begin(leaves(live, "long"), senses(live, "waiter"))
    folder = place(live, job, "long")
    wait_until(lambda: (folder / "copy.fits").exists())
    live.call("AbortDaq", id=job)
    assert live.status(job)["substate"] == "Aborted" and not running(live, job)
    assert os.listdir(folder) == ["stderr"]


def test_a_file_that_is_told_in_two_spellings_is_one(live: Live, image: Path) -> None:
    job = live.begin(program(live, "twice", image))
    live.until(job, "NotScheduled")
    assert files(live, job) == ["image.fits"]


def test_lines_that_cannot_be_used(live: Live) -> None:
    job = live.begin(program(live, "babble"))
    live.until(job, "NotScheduled")
    told = live.alerts(job)
    for text in ("gone.fits' ", "is no JSON", "is no event that is known", "lacks what belongs"):
        assert text.strip() in told["source-failed:babble"], told
    assert "the dome was closed" in told["source-remarks:babble"]
    assert files(live, job) == [] and not running(live, job)


def test_keywords_that_are_not_valid(live: Live) -> None:
    job = live.begin(senses(live, "badkeys"))
    assert live.call("StopDaq", id=job)["error"] is True
    assert "keywords are not valid" in live.alerts(job)["source-keywords:badkeys"]


@pytest.mark.parametrize(("name", "stream"), [("loud", "error"), ("louder", "output")])
def test_a_flood_ends_the_program_and_harms_nobody(live: Live, name: str, stream: str) -> None:
    job = live.begin(program(live, name))
    live.until(job, "NotScheduled")
    assert f"bytes to its standard {stream}" in live.alerts(job)[f"source-failed:{name}"]
    assert max(path.stat().st_size for path in place(live, job, name).iterdir()) <= 64 << 20
    told = said(live, job)
    assert len(told) <= 53
    if stream == "error":
        assert told[:50] == ["a line of words"] * 50
        assert told[50].endswith(f"standard error is in {place(live, job, name) / 'stderr'}")
        assert re.fullmatch(r"it said \d+ more lines on standard error", told[51])
    for path in place(live, job, name).iterdir():
        path.unlink()


# -- kill -9 --------------------------------------------------------------------------------------


def test_a_program_goes_on_without_the_daemon(live: Live, image: Path, tmp_path: Path) -> None:
    word = tmp_path / "go"
    job = live.begin(leaves(live, "gate", word, image), senses(live, "waiter"))
    live.crash()
    assert live.until(job, "Acquiring")["error"] is False
    word.touch()
    live.until(job, "NotScheduled")
    assert files(live, job) == ["image.fits"] and keywords(live, job) == {"STOPPED": True}


@pytest.mark.parametrize(("name", "told"), [("gate", []), ("two", ["a.fits"])])
def test_a_program_that_ends_while_there_is_no_daemon(
        live: Live, image: Path, tmp_path: Path, name: str, told: list[str]) -> None:
    word = tmp_path / "go"
    make = program if told else leaves
    job = live.begin(make(live, name, word, image, source="a"))
    live.daemon.kill()
    word.touch()
    wait_until(lambda: not running(live, job))
    live.serve()
    live.until(job, "NotScheduled")
    assert live.status(job)["error"] is False and files(live, job) == (told or ["image.fits"])


def test_a_kill_during_a_stop(live: Live, tmp_path: Path) -> None:
    word = tmp_path / "go"
    job = live.begin(senses(live, "slowly", word, source="s"))
    with pytest.raises(errors.Unavailable):
        stop_and_kill(live, job)
    live.serve()
    word.touch()
    live.until(job, "NotScheduled")
    assert live.status(job)["error"] is False and keywords(live, job) == {"SLOW": 1}


def test_a_kill_between_the_note_of_a_stop_and_the_word(live: Live) -> None:
    job = live.begin(senses(live, "waiter"))
    live.daemon.kill()
    memo = place(live, job, "waiter") / "recording.json"
    memo.write_text(json.dumps({**json.loads(memo.read_text()), "stopped": True}))
    live.serve()
    live.until(job, "Acquiring")
    assert live.call("StopDaq", id=job)["error"] is False
    assert keywords(live, job) == {"STOPPED": True}


def stop_and_kill(live: Live, job: str) -> None:
    """Stop a job, and kill the daemon when its source has been told."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(live.call, "StopDaq", id=job)
        wait_until(lambda: (place(live, job, "s") / "stopping").exists())
        live.daemon.kill()
        asked.result(60)


def test_an_abort_after_a_kill(live: Live) -> None:
    job = live.begin(leaves(live, "deaf"))
    wait_until(lambda: (place(live, job, "deaf") / "begun").exists())
    live.crash()
    live.until(job, "Acquiring")
    live.call("AbortDaq", id=job)
    assert live.status(job)["substate"] == "Aborted" and not running(live, job)


def test_a_kill_while_a_program_has_not_said_that_it_started(live: Live) -> None:
    job = live.id()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(live.begin, program(live, "mute", startSec=60), id=job)
        wait_until(lambda: len(running(live, job)) == 2)
        live.daemon.kill()
        with pytest.raises(errors.Unavailable):
            asked.result(60)
    live.serve()
    wait_until(lambda: job in live.daq.tree().get("failed", []) and not running(live, job))


def test_a_keeper_that_is_killed_takes_its_program_with_it(live: Live) -> None:
    """As after a restart of the machine: the process is gone, and nothing tells how it ended."""
    job = live.begin(leaves(live, "long"))
    folder = place(live, job, "long")
    wait_until(lambda: (folder / "copy.fits").exists())
    live.daemon.kill()
    end(json.loads((folder / "recording.json").read_text())["pid"])
    wait_until(lambda: not running(live, job))
    live.serve()
    live.until(job, "NotScheduled")
    text = live.alerts(job)["source-failed:long"]
    assert "nobody knows how it ended" in text and str(folder) in text
    assert files(live, job) == [] and (folder / "copy.fits").exists()


def test_a_program_that_is_not_listed_any_more_can_still_be_ended(live: Live) -> None:
    job = live.begin(senses(live, "waiter"))
    path = live.daq.folder / "programs" / "waiter"
    path.chmod(0o644)
    try:
        live.crash()
        live.until(job, "Acquiring")
        live.call("StopDaq", id=job)
    finally:
        path.chmod(0o755)
    assert keywords(live, job) == {"STOPPED": True}


def test_a_program_that_dies_by_itself_is_told_of(live: Live) -> None:
    job = live.begin(senses(live, "waiter"))
    for pid in running(live, job):
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        if comm == "waiter":
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "has failed" in live.alerts(job).get("source-failed:waiter", ""))
    assert said(live, job) == ["it was killed by signal SIGKILL"]

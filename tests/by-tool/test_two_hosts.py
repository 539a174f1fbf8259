"""Two hosts: jobs that are handed over, what the first host sees of them, and the page about it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import CHECKOUT, SYSTEM_PATH, Daq, Process, Result, end, make_fits, wait_until
from live import Live
from remote import sshd
from two_hosts import FAR, NEAR, Pair, acquired

PAGE = CHECKOUT / "docs" / "two-hosts.md"
#: What is to be seen of a job on the first host, in order.
SEEN = ("NotScheduled", "Scheduled", "Collecting", "Merging", "Releasing", "Completed")


@pytest.fixture
def pair(daq: Daq) -> Pair:
    """Two spools, the environment of the tools being that of the first host."""
    folder = daq.folder / "pair"
    folder.mkdir()
    made = Pair(folder, daq.bin, daq.python)
    daq.spool = made.near
    daq.env.update(made.env("near"))
    make_fits(daq.folder / "a.fits")
    return made


def far(daq: Daq, pair: Pair, tool: str, *words: object) -> Result:
    """Run a tool on the other host."""
    return daq.run(tool, *words, env=pair.env("far"))


def hand_over(daq: Daq, pair: Pair, *jobs: str) -> None:
    for job in jobs:
        acquired(pair, job, daq.folder / "a.fits")
    daq.run("daq-collect", "-q", "--all").ok()
    assert set(jobs) <= set(pair.tree("near")["remote"])


def news(daq: Daq) -> Result:
    return daq.run("daq-watch", "-q", "--mirror-only", "--once")


def status(daq: Daq, job: str) -> dict[str, object]:
    found: dict[str, object] = daq.run("daq-status", "--json", job).ok().json()
    return found


# -- what is sent ----------------------------------------------------------------------------------


def test_paths_get_hosts_on_the_way(daq: Daq, pair: Pair) -> None:
    files = [{"type": "fitsFile", "sourceName": f"s{n}", "location": location}
             for n, location in enumerate((
                 "/d/a:b.fits", "other:/d/a.fits", f"{FAR}:/d/b.fits", "u@other:/x.fits"))]
    daq.drop("collect", "J1", {"sources": files})
    daq.run("daq-collect", "--job", "J1").ok().says("hand-over done, now in remote/")
    sent = json.loads((pair.far / "collect" / "J1.json").read_text())
    assert [source["location"] for source in sent["sources"]] == [
        f"{NEAR}:/d/a:b.fits", "other:/d/a.fits", "/d/b.fits", "u@other:/x.fits"]
    assert sent["instrument"] == "TEST"
    acquired(pair, "J2", Path("/d/c.fits"))
    daq.run("daq-collect", "--job", "J2").ok()
    made = json.loads((pair.far / "data" / "J2" / "acquire.json").read_text())
    assert made["result"]["sources"][0]["files"] == [f"{NEAR}:/d/c.fits"]
    # the file that was sent is the one that was checked, and its file id is reserved
    received = [e for e in pair.history("far", "J2") if e["event"] == "received"]
    assert [e["from"] for e in received] == [NEAR]
    assert (pair.far / "log" / ".file-TEST.J2").read_text() == "J2"
    assert [e["event"] for e in pair.history("far", "J2")][:5] == [
        "submitted", "state", "keywords", "state", "sealed"]


def test_a_job_that_cannot_be_collected_is_not_sent(daq: Daq, pair: Pair) -> None:
    acquired(pair, "J1", daq.folder / "a.fits")
    (pair.near / "data" / "J1" / "acquire.json").unlink()
    daq.run("daq-collect", "--job", "J1").fails(65, "never ended", "mv failed/")
    assert pair.calls() == 0
    daq.run("daq-status", "J1").ok().prints("try       mv")


def test_dry_run_and_json(daq: Daq, pair: Pair) -> None:
    acquired(pair, "J1", daq.folder / "a.fits")
    daq.run("daq-collect", "--dry-run", "--all").ok().prints("would hand-over (try 1 of 5)")
    assert pair.calls() == 0
    told = daq.run("daq-collect", "--json", "--job", "J1").ok().json()
    assert (told["code"], told["place"]) == (0, "remote")
    daq.run("daq-collect", "--job", "J1").fails(66, "it is in remote/")


def test_a_second_spool_with_the_same_file_id(daq: Daq, pair: Pair) -> None:
    (pair.far / "log" / ".file-TEST.J1").write_text("other")
    acquired(pair, "J1", daq.folder / "a.fits")
    daq.run("daq-collect", "--job", "J1").fails(73, "belongs to job other", "mv failed/")
    assert pair.trees() == ({"failed": ["J1"]}, {})


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda pair: shutil.rmtree(pair.far), "is no spool"),
    (lambda pair: pair.far_env(PATH="/usr/bin:/bin"), "not found"),
    (lambda pair: pair.fault("down"), "Connection refused")])
def test_the_other_host_is_not_ready(daq: Daq, pair: Pair, spoil: object, says: str) -> None:
    acquired(pair, "J1", daq.folder / "a.fits")
    spoil(pair)  # type: ignore[operator]
    for _ in range(6):  # more than there are tries
        daq.run("daq-collect", "--job", "J1").fails(75, FAR, says, "next try")
    assert pair.tree("near") == {"collect": ["J1"]}
    assert status(daq, "J1")["substate"] == "NotScheduled"
    daq.run("daq-ctl", "daq.abort", "J1").ok()  # which does not need the other host
    assert status(daq, "J1")["substate"] == "Aborted"


# -- what is seen of it ----------------------------------------------------------------------------


@pytest.fixture
def watched(daq: Daq, pair: Pair) -> Iterator[Process]:
    """A watcher on each host."""
    with daq.start("daq-watch", until="watching") as near, daq.start(
            "daq-watch", until="watching", env=pair.env("far")):
        yield near


@pytest.mark.usefixtures("watched")
def test_a_whole_life_is_seen_from_the_first_host(daq: Daq, pair: Pair) -> None:
    (daq.folder / "in").mkdir()
    pair.fault("down")
    daq.run("daq-start", "--id", "J1", "--file", daq.folder / "a.fits").ok()
    wait_until(lambda: "defer" in [e["event"] for e in pair.history("near", "J1")])
    assert status(daq, "J1")["substate"] == "NotScheduled"  # though a watcher runs
    with daq.start("daq-status", "--json", "--follow", "J1") as follower:
        pair.mend()
        os.utime(pair.near / "collect" / "J1.json")
        daq.run("daq-status", "--wait", "J1").ok()
        follower.wait()
    seen = list(dict.fromkeys(json.loads(line)["substate"]
                              for line in follower.out.splitlines()))
    assert seen == [each for each in SEEN if each in seen] and seen[-1] == "Completed"
    found = status(daq, "J1")
    product = f"{pair.far}/result/{found['fileId']}.fits"
    assert (found["result"], found["place"]) == (f"{FAR}:{product}", "done")
    assert os.path.exists(product)
    for state in ("StateMerging/Collecting", "StateMerging/Merging", "StateCompleted"):
        daq.run("daq-status", f"--wait={state}", "--timeout", 0, "J1").ok()
    # nothing was told twice
    ends = [e["farEnd"] for e in pair.history("near", "J1") if "far" in e and e["event"] != "state"]
    assert ends == sorted(set(ends))
    assert list((pair.near / "lock").glob("J1")) == []


@pytest.mark.usefixtures("watched")
def test_one_session_for_many_jobs_which_is_begun_anew(daq: Daq, pair: Pair) -> None:
    (pair.far / "collect" / ".pause").touch()
    for number in range(12):
        acquired(pair, f"J{number}", daq.folder / "a.fits")
    wait_until(lambda: all(any(e["event"] == "state" and "far" in e for e in pair.history(
        "near", f"J{n}")) for n in range(12)))
    listening = _importers(pair)
    assert len(listening) == 1
    end(listening[0])
    wait_until(lambda: _importers(pair) not in ([], listening))
    (pair.far / "collect" / ".pause").unlink()
    daq.run("daq-status", "-q", "--wait", *(f"J{n}" for n in range(12))).ok()
    assert pair.tree("near") == {"done": sorted(f"J{n}" for n in range(12))}


def _importers(pair: Pair) -> list[int]:
    """Return the processes on the other host that answer the first one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--import" in words and str(pair.far).encode() in words:
                found.append(int(entry.name))
    return found


def test_alerts_and_failures_there_are_seen_here(daq: Daq, pair: Pair) -> None:
    acquired(pair, "J1", daq.folder / "gone.fits")
    daq.run("daq-collect", "-q", "--all").ok()
    far(daq, pair, "daq-collect", "-q", "--all").fails(65, "gone.fits")
    news(daq).exits(75)
    found = status(daq, "J1")
    assert (found["state"], found["error"], found["place"]) == ("StateMerging", True, "remote")
    assert found["far"]["place"] == "failed"  # type: ignore[index]
    assert "gone.fits" in str(found["message"])
    daq.run("daq-status", "--wait", "J1").fails(65, "failed/ on the other host", chatty=True)
    daq.run("daq-status", "J1").ok().prints(f"at {pair.to}, in failed/ there")
    daq.run("daq-status").ok().prints(f"at {FAR}")
    # it is repaired there, and goes on here by itself
    make_fits(daq.folder / "gone.fits")
    os.rename(pair.far / "failed" / "J1.json", pair.far / "collect" / "J1.json")
    far(daq, pair, "daq-watch", "-q", "--once").ok()
    news(daq).ok()
    found = status(daq, "J1")
    assert (found["substate"], found["error"], found["place"]) == ("Completed", False, "done")


def test_the_news_are_old(daq: Daq, pair: Pair) -> None:
    hand_over(daq, pair, "J1")
    pair.fault("down")
    news(daq).fails(75, "Connection refused")
    daq.run("daq-status", "J1").ok().prints("is not heard of: dhs: ssh: connect")
    assert "refused" in str(status(daq, "J1")["far"])


def test_what_is_told_of_a_job_there_can_be_done(daq: Daq, pair: Pair) -> None:
    hand_over(daq, pair, "J1")
    news(daq).exits(75)
    why = next(line for line in daq.run("daq-status", "J1").ok().out.splitlines()
               if line.startswith("why"))
    assert "has it in collect/" in why and "ssh" not in why, "the key may permit nothing else"
    tool, *words = why.partition(f"told on {FAR} by: ")[2].split()
    far(daq, pair, tool, *words).ok().prints("J1")


def test_a_spool_that_was_lost_there(daq: Daq, pair: Pair) -> None:
    hand_over(daq, pair, "J1")
    for name in ("log/J1.jsonl", "log/.file-TEST.J1", "collect/J1.json"):
        (pair.far / name).unlink()
    for _ in range(2):
        news(daq).exits(75)
    events = [e["event"] for e in pair.history("near", "J1")]
    assert events.count("alert") == 1
    assert "does not know it" in str(status(daq, "J1")["message"])
    told = daq.run("daq-status", "J1").ok()
    told.prints(f"why       {pair.to} does not know it").prints(
        f"try       mv {pair.near}/remote/J1.json {pair.near}/collect/")
    assert "has it" not in told.out
    # as the alert says
    os.rename(pair.near / "remote" / "J1.json", pair.near / "collect" / "J1.json")
    daq.run("daq-collect", "-q", "--job", "J1").ok()
    far(daq, pair, "daq-watch", "-q", "--once").ok()
    news(daq).ok()
    found = status(daq, "J1")
    assert (found["substate"], found["error"]) == ("Completed", False)


def test_what_was_handed_over_is_made_here_after_all(daq: Daq, pair: Pair) -> None:
    hand_over(daq, pair, "J1")
    pair.configure(hand_over="")
    os.rename(pair.near / "remote" / "J1.json", pair.near / "collect" / "J1.json")
    daq.run("daq-watch", "-q", "--once").ok()
    found = status(daq, "J1")
    assert found["substate"] == "Completed"
    assert str(found["result"]).startswith(str(pair.near))


@pytest.mark.parametrize("kept", [True, False])
def test_a_job_is_pruned_there_before_the_news_of_its_end(
        daq: Daq, pair: Pair, kept: bool) -> None:
    hand_over(daq, pair, "J1")
    far(daq, pair, "daq-watch", "-q", "--once").ok()
    product, = (pair.far / "result").glob("*.fits")
    far(daq, pair, "daq-status", "--prune", "--yes", "--jobs-days", "0.0000001").ok()
    if not kept:
        product.unlink()
    assert pair.tree("far") == {}
    news(daq).ok()
    found = status(daq, "J1")
    assert (found["substate"], found["place"], found["alerts"]) == ("Completed", "done", [])
    assert found["result"] == (f"{FAR}:{product}" if kept else "")


# -- aborts ----------------------------------------------------------------------------------------


def test_an_abort_is_passed_on(daq: Daq, pair: Pair) -> None:
    hand_over(daq, pair, "J1", "J2")
    daq.run("daq-ctl", "daq.abort", "J1").ok()
    assert pair.tree("near") == {"done": ["J1"], "remote": ["J2"]}
    assert pair.tree("far") == {"done": ["J1"], "collect": ["J2"]}
    assert status(daq, "J1")["substate"] == "Aborted"
    far(daq, pair, "daq-watch", "-q", "--once").ok()
    daq.run("daq-ctl", "daq.abort", "J2").fails(66, "it ended before")
    assert status(daq, "J2")["substate"] == "Completed"


@pytest.mark.parametrize("ends", ["Completed", "Aborted"])
def test_a_forced_abort_while_the_host_is_down(daq: Daq, pair: Pair, ends: str) -> None:
    """ESO-396401, section 9.3: the other host does not learn of it, and may complete the job."""
    hand_over(daq, pair, "J1")
    pair.fault("down")
    before = pair.history("near", "J1")
    daq.run("daq-ctl", "daq.abort", "J1").fails(69, FAR, "Connection refused", "force")
    assert pair.history("near", "J1") == before
    assert pair.trees() == ({"remote": ["J1"]}, {"collect": ["J1"]})
    daq.run("daq-ctl", "daq.forceabort", "J1").ok()
    assert pair.trees() == ({"done": ["J1"]}, {"collect": ["J1"]})
    assert status(daq, "J1")["substate"] == "Aborted"
    pair.mend()
    news(daq).exits(75)
    assert status(daq, "J1")["substate"] == "Aborted"
    if ends == "Completed":
        far(daq, pair, "daq-watch", "-q", "--once").ok()
    else:
        far(daq, pair, "daq-ctl", "daq.abort", "J1").ok()
    news(daq).ok()
    found = status(daq, "J1")
    assert (found["substate"], found["place"]) == (ends, "done")
    assert list((pair.near / "remote").iterdir()) == []


# -- the daemon of live sources --------------------------------------------------------------------


def test_the_daemon_publishes_and_awaits_what_happens_there(daq: Daq, pair: Pair) -> None:
    shared = {"hand_over": pair.to, "hand_over_as": NEAR, "rsh": str(pair.folder / "rsh")}
    site = Live(daq, **shared)
    source = site.sim("recif", "dcs", "--extensions", 1)
    site.serve()
    with (daq.start("daq-watch", until="watching"), site.subscribed() as samples, daq.start(
            "daq-watch", until="watching", env=pair.env("far"))):
        job = site.id()
        first = site.ctl("--json", "daq.startv2", json.dumps(
            {"id": job, "sources": [source.source()]})).ok().json()
        assert first["id"] == job
        site.ctl("daq.stop", job).ok()
        answer = site.ctl("--json", "daq.awaitstate", job, "StateCompleted", "Completed", 60)
        assert answer.ok().json()["status"]["result"].startswith(f"{FAR}:{pair.far}")
        seen = wait_until(lambda: _substates(samples(), "Completed"))
    assert [each for each in dict.fromkeys(seen) if each in SEEN] == list(SEEN)


def _substates(lines: list[str], last: str) -> list[str]:
    """Return the substates of the samples when the last one is among them."""
    found = re.findall(r"substate=(\w+)", "\n".join(lines))
    return found if last in found else []


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.needs("sshd", "ssh-keygen", "ssh-keyscan", "rrsync", "rsync")
def test_the_page_is_true(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its files are written and its sessions run as they stand, through a real sshd."""
    folder = tmp_path_factory.mktemp("page")
    with sshd(folder) as server:
        site = _Site(folder, int(re.search(r"Port (\d+)", server.ssh_config.read_text())[1]))
        for number, (language, host, text) in enumerate(_parts()):
            if language == "file":
                site.write(host, text)
            else:
                site.session(host, text, f"block {number}")
            site.carry_keys()
    assert site.commands > 20
    # the restricted keys do nothing else
    for path in ("daq", "obs"):
        keys = (folder / "home" / path / ".ssh" / "authorized_keys").read_text()
        assert keys.startswith("restrict,command=")


def _parts() -> list[tuple[str, str, str]]:
    """Return the files and the console sessions of the page in their order."""
    pattern = re.compile(r"^`(/home/\S+)` on `\w+`:\n\n```\n(.*?)^```$|"
                         r"^```console (\w+)\n(.*?)^```$", re.M | re.S)
    return [("file", path, text) if path else ("console", host, session)
            for path, text, host, session in pattern.findall(PAGE.read_text())]


class _Site:
    """Both hosts of the page, in a folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port, self.commands = folder, port, 0
        for name in ("obs", "daq"):
            (folder / "home" / name / ".ssh").mkdir(parents=True)
        (folder / "home" / "obs" / "data").mkdir()
        make_fits(folder / "home" / "obs" / "data" / "a.fits")
        config = folder / "sshd_config"
        keys = " ".join(f"{folder}/home/{name}/.ssh/authorized_keys" for name in ("daq", "obs"))
        text = config.read_text().replace(f"AuthorizedKeysFile {folder}/authorized",
                                          f"AuthorizedKeysFile {keys}")
        config.write_text(text.replace("SetEnv ", f"SetEnv DAQ_PYTHON={sys.executable} "))
        os.kill(int((folder / "sshd.pid").read_text()), signal.SIGHUP)
        wait_until(lambda: (folder / "sshd.log").read_text().count("Server listening") >= 2)

    def here(self, text: str) -> str:
        """Return what a text of the page means on this machine."""
        text = text.replace("/home/", f"{self.folder}/home/")
        text = text.replace("/opt/daqspool/bin", str(CHECKOUT / "bin"))
        text = re.sub(r"HostName \w+\.example\.org", f"HostName 127.0.0.1\n  Port {self.port}",
                      text)
        text = re.sub(r"User \w+", f"User {os.environ.get('USER') or 'root'}", text)
        return re.sub(r"(ssh-keyscan [^>]*)\b\w+\.example\.org",
                      rf"\1-p {self.port} 127.0.0.1 2>/dev/null", text)

    def write(self, path: str, text: str) -> None:
        Path(self.here(path)).write_text(self.here(text))

    def carry_keys(self) -> None:
        """Bring public keys where the page says that they are."""
        home = self.folder / "home"
        for source, target in (("obs/ssh/handover.pub", "daq/handover.pub"),
                               ("daq/ssh/files.pub", "obs/files.pub")):
            if (home / source).exists():
                shutil.copy(home / source, home / target)

    def session(self, host: str, text: str, label: str) -> None:
        for command, shown in _commands(text):
            self.commands += 1
            done = subprocess.run(
                ["bash", "-c", self.here(command)], capture_output=True, text=True, timeout=120,
                check=False, stdin=subprocess.DEVNULL, env=self.environment(host))
            what = f"{label} on {host}: {command}\n{done}"
            assert done.returncode == 0, what
            pattern = r"[^\n]*".join(map(re.escape, self.here(shown).split("...")))
            if shown.endswith("...\n"):
                pattern = pattern.removesuffix(r"\n").removesuffix("\\\n") + r"(.|\n)*"
            assert re.fullmatch(re.sub(r"(\\ )+", r"\\s+", pattern), done.stdout), what

    def environment(self, host: str) -> dict[str, str]:
        user = {"ins": "obs", "dhs": "daq"}[host]
        home = self.folder / "home" / user
        return {"PATH": f"{CHECKOUT / 'bin'}:{SYSTEM_PATH}", "HOME": str(home), "TZ": "UTC",
                "LC_ALL": "C.UTF-8", "DAQ_PYTHON": sys.executable,
                "DAQ_CONFIG": str(home / "daq.yaml")}


def _commands(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith("> "):
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", "")
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found

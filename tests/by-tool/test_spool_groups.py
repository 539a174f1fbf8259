"""A spool that a group shares: whoever of the group comes along can go on, and nobody else."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness import Daq, Result, free_port, make_fits

GROUP = 60100
ANNA, BERT, EVE = 60001, 60002, 60003  # Eve is of another group


class People:
    """Users who run the tools on one spool, each with a umask."""

    def __init__(self, daq: Daq) -> None:
        self.daq = daq
        self.more: list[str] = []

    def command(self, user: int, umask: int, *words: str) -> list[str]:
        group = GROUP if user != EVE else EVE
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *self.more,
                "sh", "-c", f'umask {umask:03o}; exec "$@"', "sh", *words]

    def run(self, user: int, umask: int, tool: str, *words: object) -> Result:
        command = self.command(user, umask, *self.daq.command(tool, *words))
        ended = subprocess.run(command, env=self.daq.environment(), cwd="/", check=False,
                               capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return Result(self.daq.command(tool, *words), ended.returncode, ended.stdout, ended.stderr)

    def does(self, user: int, *words: object) -> None:
        """Do something without the tools, as an operator does."""
        subprocess.run(self.command(user, 0o022, *map(str, words)), check=True)


@pytest.fixture
def place(daq: Daq) -> Iterator[Path]:
    """A directory that everybody may enter: those of pytest are for their owner."""
    folder = Path(tempfile.mkdtemp(prefix="daq-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def people(daq: Daq, place: Path) -> People:
    if os.geteuid() != 0:
        pytest.skip("to be several users takes root")
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv")
    daq.spool = place / "spool"
    daq.env.update(DAQ_SPOOL=str(daq.spool), HOME="/", TMPDIR=str(place))
    made = People(daq)
    tried = made.run(ANNA, 0o022, "daq-status", "--version")
    if tried.code:
        # an interpreter in the home of root: let them read all, which gives no right to change
        made.more = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        tried = made.run(ANNA, 0o022, "daq-status", "--version")
    if tried.code:
        pytest.skip(f"another user cannot run the tools here: {tried.err.strip()[-200:]}")
    make_fits(place / "a.fits")
    (place / "archive").mkdir()
    for name, mode in (("a.fits", 0o644), ("archive", 0o2775)):
        os.chown(place / name, ANNA, GROUP)
        (place / name).chmod(mode)
    return made


def shared(people: People) -> None:
    """Make a spool as an administrator does for a group."""
    people.daq.spool.mkdir()
    os.chown(people.daq.spool, ANNA, GROUP)
    people.daq.spool.chmod(0o2775)


def submit(people: People, user: int, umask: int, job: str) -> Result:
    place = people.daq.spool.parent
    return people.run(user, umask, "daq-start", "--id", job, "--file", place / "a.fits",
                      "--receiver", place / "archive")


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode)
            for path in (folder, *folder.rglob("*")) if not path.is_symlink()}


def test_two_users_of_one_group(people: People) -> None:
    """Each does every other step, with umasks that shut the other out; nobody needs root."""
    shared(people)
    daq, place = people.daq, people.daq.spool.parent
    submit(people, ANNA, 0o077, "j").ok()
    people.run(BERT, 0o022, "daq-collect", "--job", "j").ok()
    people.run(ANNA, 0o077, "daq-merge", "--job", "j").ok()
    people.run(BERT, 0o077, "daq-release", "--job", "j").ok()
    assert daq.tree() == {"done": ["j"]}
    (product,) = (place / "archive").iterdir()
    assert product.read_bytes() == (daq.spool / "result" / product.name).read_bytes()
    # the umask of each decides only what those outside the group may do
    wrong = {name: oct(mode) for name, mode in modes(daq.spool).items()
             if mode | 0o005 & _wanted(daq.spool / name) != _wanted(daq.spool / name)}
    assert wrong == {}
    assert {path.lstat().st_gid for path in daq.spool.rglob("*")} == {GROUP}
    people.run(BERT, 0o022, "daq-status", "--prune", "--yes", "--jobs-days", "0.0000001").ok()
    assert daq.tree() == {}
    assert list((daq.spool / "data").iterdir()) == []


def _wanted(path: Path) -> int:
    if path.is_dir():
        return 0o2770 if path.name == "run" else 0o2775
    return 0o444 if path.parent.name == "result" else 0o664


def test_an_operator_repairs_what_another_one_submitted(people: People) -> None:
    """Edits, moves and touches; what waits for its next try waits whoever owns the file."""
    shared(people)
    daq, place = people.daq, people.daq.spool.parent
    submit(people, ANNA, 0o077, "j").ok()
    (place / "a.fits").rename(place / "away.fits")
    people.run(BERT, 0o022, "daq-collect", "--job", "j").fails(65)
    assert daq.tree() == {"failed": ["j"]}
    people.does(BERT, "sed", "-i", "s/a.fits/b.fits/", daq.spool / "failed" / "j.json")
    people.does(BERT, "mv", daq.spool / "failed" / "j.json", daq.spool / "collect" / "j.json")
    people.does(ANNA, "touch", daq.spool / "collect" / "j.json")
    make_fits(place / "b.fits")
    people.run(ANNA, 0o077, "daq-collect", "--job", "j").ok()


def test_a_job_of_somebody_else_waits_for_its_next_try(people: People) -> None:
    """Only the owner of a file may set its time; the job is as it was, and there is one of it."""
    shared(people)
    daq = people.daq
    submit(people, ANNA, 0o077, "j").ok()
    job = daq.spool / "collect" / "j.json"
    before = job.read_bytes()
    daq.env["DAQ_FAULT"] = "stage.worked=ENOSPC"
    people.run(BERT, 0o022, "daq-collect", "--job", "j").fails(75, "next try in")
    del daq.env["DAQ_FAULT"]
    assert job.stat().st_mtime == pytest.approx(daq.history("j")[-1]["until"], abs=0.01)
    assert job.stat().st_mtime > time.time()
    assert job.read_bytes() == before
    assert stat.S_IMODE(job.stat().st_mode) == 0o660, "as it was"
    assert os.listdir(job.parent) == ["j.json"]
    people.does(ANNA, "touch", job)
    people.run(ANNA, 0o022, "daq-collect", "--job", "j").ok()


def test_a_merge_in_place_of_what_somebody_else_collected(people: People) -> None:
    """Nobody may change mode and times of another one's file: the product is made anew."""
    shared(people)
    daq, place = people.daq, people.daq.spool.parent
    config = place / "daq.yaml"
    config.write_text(yaml.safe_dump({"cfg": {"merge": {"way": "in-place"}}}))
    daq.env["DAQ_CONFIG"] = str(config)
    people.run(ANNA, 0o022, "daq-start", "--id", "j", "--file", place / "a.fits", "--target",
               "a").ok()
    people.run(ANNA, 0o022, "daq-collect", "--job", "j").ok()
    people.run(BERT, 0o022, "daq-merge", "--job", "j").ok()
    (product,) = daq.results()
    assert stat.S_IMODE((daq.spool / "result" / product).stat().st_mode) == 0o444
    assert (daq.spool / "result" / product).stat().st_uid == BERT


def test_an_operator_takes_over_after_a_crash_of_another_one(people: People) -> None:
    shared(people)
    daq = people.daq
    submit(people, ANNA, 0o022, "j").ok()
    people.run(ANNA, 0o022, "daq-collect", "--job", "j").ok()
    daq.env["DAQ_CRASH"] = "publish.renamed"
    people.run(ANNA, 0o022, "daq-merge", "--job", "j").died(9)
    del daq.env["DAQ_CRASH"]
    people.run(BERT, 0o022, "daq-merge", "--job", "j").ok()
    people.run(BERT, 0o022, "daq-release", "--job", "j").ok()
    assert len(daq.results()) == 1


def test_a_watcher_goes_on_with_what_others_submit(people: People) -> None:
    shared(people)
    submit(people, ANNA, 0o077, "j").ok()
    people.run(BERT, 0o027, "daq-watch", "--once").ok()
    assert people.daq.tree() == {"done": ["j"]}
    people.run(ANNA, 0o027, "daq-watch", "--once").ok()  # its lock, too


def test_nobody_else_may_do_anything(people: People) -> None:
    shared(people)
    submit(people, ANNA, 0o000, "j").ok()
    people.run(EVE, 0o022, "daq-collect", "--job", "j").fails(77)
    submit(people, EVE, 0o022, "k").fails(77)
    people.run(EVE, 0o022, "daq-status", "j").ok()
    people.run(EVE, 0o022, "daq-status", "--prune", "--yes", "--jobs-days", "0.0000001").ok()
    assert people.daq.tree() == {"collect": ["j"]}
    assert [name for name, mode in modes(people.daq.spool).items() if mode & 0o002] == []


def test_a_job_that_may_not_be_removed_is_left_whole(people: People) -> None:
    shared(people)
    daq = people.daq
    submit(people, ANNA, 0o022, "j").ok()
    people.run(ANNA, 0o022, "daq-watch", "--once").ok()
    (daq.spool / "lock").chmod(0o2777)  # or she could not even ask whether somebody is at work
    before = modes(daq.spool)
    told = people.run(EVE, 0o022, "daq-status", "--prune", "--json", "--jobs-days",
                      "0.0000001").ok().jsonl()
    assert "this user may not write" in told[0]["kept"]["job"]
    assert modes(daq.spool) == before


# -- without being several users -------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A directory for spools, with the umask of the test given back."""
    before = os.umask(0o022)
    os.umask(before)
    (tmp_path / "own").mkdir()
    yield tmp_path / "own"
    os.umask(before)


@pytest.mark.parametrize(("umask", "root", "file"), [
    (0o022, 0o2775, 0o664), (0o002, 0o2775, 0o664), (0o027, 0o2770, 0o660), (0o000, 0o2775, 0o664),
    (0o077, 0o700, 0o600)])
def test_the_modes_of_a_new_spool(daq: Daq, own: Path, umask: int, root: int, file: int) -> None:
    """Its group shares it, unless the umask shuts groups out; directories above keep their mode."""
    (own / "above").mkdir(mode=0o711)
    (own / "above").chmod(0o711)
    os.umask(umask)
    path = own / "above" / "spool"
    source = make_fits(own / "a.fits")
    daq.run("daq-start", "--spool", path, "--id", "j", "--file", source).ok()
    assert stat.S_IMODE((own / "above").stat().st_mode) == 0o711
    found = modes(path)
    assert found["."] == root
    assert {found[f"{place}"] for place in ("collect", "log", "data", "result")} == {root}
    assert found["run"] == root & ~0o005
    assert {found["collect/j.json"], found["log/j.jsonl"], found[".daqspool"]} == {file}


@pytest.mark.parametrize(("mode", "file"), [
    (0o755, 0o644), (0o700, 0o644), (0o775, 0o644), (0o2755, 0o644), (0o2775, 0o664),
    (0o2770, 0o664)])
def test_who_made_the_directory_decides_who_shares_it(
        daq: Daq, own: Path, mode: int, file: int) -> None:
    os.umask(0o022)
    path = own / "spool"
    path.mkdir()
    path.chmod(mode)
    daq.run("daq-start", "--spool", path, "--id", "j", "--file", make_fits(own / "a.fits")).ok()
    found = modes(path)
    assert found["."] == mode
    assert {found["collect/j.json"], found["log/j.jsonl"]} == {file}
    assert found["run"] & 0o007 == 0


@pytest.mark.parametrize(("mode", "wanted"), [(0o2775, 0o660), (0o775, 0o600)])
def test_a_socket_is_for_those_who_share_the_directory(
        daq: Daq, own: Path, mode: int, wanted: int) -> None:
    folder = own / "run"
    folder.mkdir()
    folder.chmod(mode)
    endpoint = folder / "ctl.sock"
    with daq.start("daq-ctl", "serve", "--rep", f"ipc://{endpoint}/", "--pep",
                   f"zpb.ps://127.0.0.1:{free_port()}", until="serving"):
        assert stat.S_IMODE(endpoint.stat().st_mode) == wanted

"""daq-collect: the files of other hosts."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from collecting import collect, digest, put, sources
from harness import Daq, make_fits, wait_until
from remote import HOST, Sshd, Stand, configure, holders, script, sshd, stand_in


@pytest.fixture
def fits(daq: Daq) -> Path:
    """A FITS file with a modification time of its own."""
    path = make_fits(daq.folder / "in" / "a.fits")
    os.utime(path, ns=(10**18, 10**18 + 123456789))
    return path


@pytest.fixture
def stand(daq: Daq) -> Stand:
    """A stand-in for ssh, configured."""
    made = stand_in(daq.folder)
    configure(daq, rsh=made.command)
    return made


@pytest.mark.needs("rsync")
def test_odd_names_over_rsync(daq: Daq, stand: Stand) -> None:
    odd = ["a b.fits", "it's.fits", 'q"q.fits', "c:d.fits", "$(touch pwned).fits", "*[1]?.fits",
           "ä∂.fits", "back\\slash.fits", "%41.fits", "`id`.fits", "a;b|c&d.fits"]
    folder = daq.folder / "-e sh [1]*" / "--rsh=x:y"
    make_fits(daq.folder / "-e sh [1]*" / "--rsh=x:y" / "1.fits")  # what "*[1]?" could mean
    paths = [make_fits(folder / name, extensions=n + 1) for n, name in enumerate(odd)]
    put(daq, *(f"{HOST}:{path}" for path in paths))
    collect(daq).ok()
    found = sources(daq)
    assert {name: digest(path) for name, path in found.items()} == {
        f"{n}_s{n}_{path.name}": digest(path) for n, path in enumerate(paths)}
    assert not list(daq.folder.rglob("pwned"))
    assert len(stand.calls.read_text().splitlines()) == 2  # one connection each, not one a file
    assert {path.stat().st_mtime_ns for path in found.values()} == {
        path.stat().st_mtime_ns for path in paths}


@pytest.mark.needs("rsync", "rrsync")
def test_key_that_may_only_read_one_directory(daq: Daq, fits: Path) -> None:
    forced = script(daq.folder / "forced", f"""while [ "${{1#-}}" != "$1" ]; do shift; done; shift
SSH_ORIGINAL_COMMAND="$*" exec rrsync -ro {daq.folder / "in"}
""")
    configure(daq, rsh=forced)
    put(daq, f"{HOST}:/a.fits")
    collect(daq).ok()
    assert digest(sources(daq)["0_s0_a.fits"]) == digest(fits)
    put(daq, f"{HOST}:/b.fits", job="J2")
    collect(daq, job="J2").fails(65, f"{HOST}:/b.fits", "no such file")


@pytest.mark.needs("rsync")
def test_same_name_twice(daq: Daq, stand: Stand) -> None:
    paths = [make_fits(daq.folder / place / "a.fits", extensions=n + 1)
             for n, place in enumerate("xyz")]
    put(daq, *(f"{HOST}:{path}" for path in paths))
    collect(daq).ok()
    assert [digest(path) for _, path in sorted(sources(daq).items())] == list(map(digest, paths))


@pytest.mark.needs("rsync")
def test_missing_over_rsync(daq: Daq, stand: Stand, fits: Path) -> None:
    gone = daq.folder / "in" / "gone.fits"
    put(daq, f"{HOST}:{fits}", f"{HOST}:{gone}")
    collect(daq).fails(65, f"{HOST}:{gone}", "no such file")
    assert daq.tree() == {"failed": ["J1"]}
    make_fits(gone)
    os.rename(daq.spool / "failed" / "J1.json", daq.spool / "collect" / "J1.json")
    collect(daq).ok()
    assert sorted(sources(daq)) == ["0_s0_a.fits", "1_s1_gone.fits"]
    leftovers = [path for path in (daq.spool / "data" / "J1" / "sources").iterdir()
                 if path.name.startswith(".fetch")]
    assert leftovers == []


@pytest.mark.needs("rsync")
def test_no_file_over_rsync(daq: Daq, stand: Stand, fits: Path) -> None:
    (daq.folder / "in" / "link.fits").symlink_to(fits)
    put(daq, f"{HOST}:{daq.folder / 'in'}")
    collect(daq).fails(65, f"{HOST}:{daq.folder / 'in'}", "not a regular file")
    put(daq, f"{HOST}:{daq.folder / 'in' / 'link.fits'}", job="J2")
    collect(daq, job="J2").fails(65, "link.fits", "not a regular file")


@pytest.mark.needs("rsync")
def test_damaged_over_rsync(daq: Daq, stand: Stand, fits: Path) -> None:
    fits.write_bytes(fits.read_bytes()[:-2881])
    put(daq, f"{HOST}:{fits}")
    collect(daq).fails(65, f"{HOST}:{fits}", "cut")
    assert sources(daq) == {}


@pytest.mark.needs("rsync")
def test_being_written_over_rsync(daq: Daq, fits: Path) -> None:
    lsh = stand_in(daq.folder).command
    # the source grows right after the transfer, which itself is a success
    rsync = script(daq.folder / "rsync", f'rsync "$@" && [ -e {fits}.done ] || '
                   f'{{ head -c 2880 /dev/zero >>{fits}; touch {fits}.done; }}\n')
    configure(daq, rsh=lsh, bin_rsync=rsync)
    put(daq, f"{HOST}:{fits}")
    collect(daq).fails(75, "a.fits", "still being written")
    assert daq.tree() == {"collect": ["J1"]}


@pytest.mark.needs("rsync")
@pytest.mark.parametrize(("rsh", "code", "says"), [
    ("sh -c 'echo no route to host >&2; exit 255' x", 75, "no route to host"),
    ("nosuchshell", 78, "nosuchshell (cfg/rsh) is not installed"),
    ("sh -c 'exec nosuchrsync' x", 78, "rsync is not installed on far"),
    ("'", 78, "cfg/rsh"),
])
def test_host_trouble(daq: Daq, fits: Path, rsh: str, code: int, says: str) -> None:
    configure(daq, rsh=rsh)
    put(daq, f"{HOST}:{fits}")
    collect(daq).fails(code, says)
    assert daq.tree() == {"collect": ["J1"]}


@pytest.mark.needs("rsync")
def test_a_host_that_is_down_for_long_costs_no_tries(daq: Daq, fits: Path) -> None:
    configure(daq, rsh="sh -c 'echo no route to host >&2; exit 255' x", breaker={"failures": 0})
    put(daq, f"{HOST}:{fits}")
    for _ in range(7):
        collect(daq).fails(75, "no route to host", "next try in")
    assert daq.tree() == {"collect": ["J1"]}
    assert daq.run("daq-status", "--json", "J1").ok().json()["tries"] == 0
    configure(daq, rsh=stand_in(daq.folder).command)
    collect(daq).ok()


def test_rsync_is_not_installed(daq: Daq, fits: Path) -> None:
    configure(daq, bin_rsync="no-such-rsync")
    put(daq, f"{HOST}:{fits}")
    collect(daq).fails(78, "no-such-rsync (cfg/bin_rsync) is not installed", "apt-get install")
    assert "start" not in daq.events("J1")
    put(daq, fits, job="J2")  # nobody needs it here
    collect(daq, job="J2").ok()


@pytest.mark.needs("rsync", "ssh")
def test_missing_ssh_configuration(daq: Daq, fits: Path) -> None:
    configure(daq, ssh_config="/nowhere/ssh_config")
    put(daq, f"{HOST}:{fits}")
    collect(daq).fails(78, "/nowhere/ssh_config", "no such file")


@pytest.mark.needs("rsync")
def test_limit_counts_remote_jobs_only(daq: Daq, stand: Stand, fits: Path) -> None:
    configure(daq, rsh=stand.command, limits={"daq": 0, "net_receive": 1})
    for number in (1, 2):
        put(daq, f"{HOST}:{fits}", job=f"J{number}")
    put(daq, fits, job="J3")
    stand.gate.unlink()
    with daq.start("daq-collect", "--job", "J1") as first:
        wait_until(stand.calls.read_text)
        collect(daq, job="J2").fails(75, "net_receive")
        collect(daq, job="J3").ok()
        stand.gate.touch()
        first.wait().ok()
    collect(daq, job="J2").ok()


@pytest.mark.needs("rsync")
def test_transfer_that_outlives_its_tool_keeps_the_claim(
        daq: Daq, stand: Stand, fits: Path) -> None:
    put(daq, f"{HOST}:{fits}")
    lock = daq.spool / "lock" / "J1"
    stand.gate.unlink()
    process = daq.spawn("daq-collect", "--job", "J1")
    wait_until(stand.calls.read_text)
    process.kill().died(signal.SIGKILL)
    assert len(holders(lock)) >= 2  # rsync and its remote shell
    collect(daq).fails(75, "somebody is at work")
    stand.gate.touch()
    wait_until(lambda: not holders(lock))
    stand.calls.write_text("")
    collect(daq).ok()
    assert sources(daq)["0_s0_a.fits"].read_bytes() == fits.read_bytes()
    starts = [event["try"] for event in daq.history("J1") if event["event"] == "start"]
    assert starts == [1, 2]


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_end_on_request_ends_the_transfer(
        daq: Daq, stand: Stand, fits: Path, signum: int) -> None:
    put(daq, f"{HOST}:{fits}")
    stand.gate.unlink()
    process = daq.spawn("daq-collect", "--job", "J1")
    wait_until(stand.calls.read_text)
    process.signal(signum)
    assert process.wait().code == 128 + signum
    assert stand.told.exists()  # nobody had to be killed
    wait_until(lambda: not holders(daq.spool / "lock" / "J1"))
    assert daq.events("J1") == ["accepted", "start", "interrupted"]
    assert daq.tree() == {"collect": ["J1"]}
    stand.gate.touch()
    collect(daq).ok()


@pytest.mark.needs("rsync")
def test_half_a_transfer_is_gone_on_with(daq: Daq, fits: Path) -> None:
    big = make_fits(daq.folder / "in" / "big.fits", extensions=1, shape=(1000, 1000))
    lsh = stand_in(daq.folder).command
    slow = script(daq.folder / "slow", 'exec rsync --bwlimit=400 "$@"\n')
    fast = script(daq.folder / "fast", f'rsync --stats "$@" >>{daq.folder}/stats\n')
    configure(daq, rsh=lsh, bin_rsync=slow)
    put(daq, f"{HOST}:{big}")
    process = daq.spawn("daq-collect", "--job", "J1")
    folder = daq.spool / "data" / "J1" / "sources"
    wait_until(lambda: any(path.stat().st_size > 500_000
                           for path in folder.glob(".fetch-*/**/.b*")))
    process.signal(signal.SIGTERM)
    assert process.wait().code == 143
    assert [path.name for path in folder.glob(".fetch-*/**/.*")] == [".rsync-part"]
    assert sources(daq) == {}
    configure(daq, rsh=lsh, bin_rsync=fast)
    collect(daq).ok()
    assert digest(sources(daq)["0_s0_big.fits"]) == digest(big)
    matched = re.findall(r"Matched data: ([\d,]+)", (daq.folder / "stats").read_text())
    assert int(matched[0].replace(",", "")) > 100_000


@pytest.mark.needs("rsync")
def test_progress_is_shown_while_it_lasts(daq: Daq) -> None:
    big = make_fits(daq.folder / "in" / "big.fits", extensions=1, shape=(1000, 1000))
    configure(daq, rsh=stand_in(daq.folder).command, transfer={"bytes_per_sec": 600_000})
    put(daq, f"{HOST}:{big}")
    process = daq.spawn("daq-collect", "--job", "J1")
    shown = wait_until(lambda: re.search(
        r"collecting (\d+) %, [\d.]+ [kM]B/s, \d+s left", daq.run("daq-status").ok().out))
    assert 0 < int(shown[1]) < 100
    daq.run("daq-status", "J1").ok().prints(f": {HOST}:{big})")
    told = daq.run("daq-status", "--json", "J1").ok().json()["progress"]
    assert (told["stage"], told["pid"]) == ("collect", process.pid)
    assert 0 < told["done"] < told["total"]
    process.signal(signal.SIGTERM)
    assert process.wait().code == 143
    assert not (daq.spool / "data" / "J1" / ".progress.json").exists()
    assert "#" not in process.err  # a bar is for terminals


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real ssh server on loopback."""
    with sshd(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.mark.needs("rsync", "ssh", "sshd")
class TestRealSsh:
    """With a real sshd, and connection sharing as users have it."""

    def test_fetches(self, daq: Daq, far: Sshd) -> None:
        paths = [make_fits(daq.folder / "i n" / name) for name in ("a b.fits", "$(id)'.fits")]
        configure(daq, ssh_config=far.ssh_config)
        put(daq, *(f"{HOST}:{path}" for path in paths))
        collect(daq).ok()
        assert [digest(path) for _, path in sorted(sources(daq).items())] == list(
            map(digest, paths))
        # no connection-sharing master was left behind with our lock
        assert holders(daq.spool / "lock" / "J1") == []
        assert list(far.folder.glob("cm-*")) == []

    def test_missing(self, daq: Daq, far: Sshd) -> None:
        configure(daq, ssh_config=far.ssh_config)
        put(daq, f"{HOST}:{daq.folder}/none.fits")
        collect(daq).fails(65, f"{HOST}:{daq.folder}/none.fits", "no such file")

    def test_refused(self, daq: Daq, far: Sshd, fits: Path) -> None:
        config = daq.folder / "ssh_config"
        config.write_text(far.ssh_config.read_text().replace("user_key", "host_key"))
        configure(daq, ssh_config=config)
        put(daq, f"{HOST}:{fits}")
        collect(daq).fails(75, HOST, "Permission denied", "without a password")
        assert daq.tree() == {"collect": ["J1"]}

    def test_ssh_does_not_hold_the_lock(self, daq: Daq, far: Sshd) -> None:
        big = make_fits(daq.folder / "in" / "big.fits", shape=(1000, 1000))
        slow = script(daq.folder / "slow", 'exec rsync --bwlimit=1000 "$@"\n')
        configure(daq, ssh_config=far.ssh_config, bin_rsync=slow)
        put(daq, f"{HOST}:{big}")
        folder = daq.spool / "data" / "J1" / "sources"
        with daq.start("daq-collect", "--job", "J1") as process:
            wait_until(lambda: list(folder.glob(".fetch-*/**/.big*")))
            names = {Path(f"/proc/{pid}/comm").read_text().strip()
                     for pid in holders(daq.spool / "lock" / "J1")}
            assert "rsync" in names and "ssh" not in names
            process.wait().ok()


@pytest.mark.needs("rsync")
def test_verify_finds_silent_damage(daq: Daq, stand: Stand, fits: Path) -> None:
    other = make_fits(daq.folder / "in" / "b.fits", extensions=2)
    put(daq, fits, f"{HOST}:{other}")
    collect(daq).ok()
    for path in sources(daq).values():
        status, data = path.stat(), path.read_bytes()
        path.write_bytes(data[:-1] + b"x")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    back = (daq.spool / "merge" / "J1.json", daq.spool / "collect" / "J1.json")
    os.rename(*back)
    collect(daq, "-v").ok().says("nothing changed")
    os.rename(*back)
    collect(daq, "--verify").ok()
    assert [digest(path) for _, path in sorted(sources(daq).items())] == [
        digest(fits), digest(other)]

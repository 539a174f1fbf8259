"""daq-collect with a real sshd and a real rsync daemon: sharing, restrictions, refusals, names."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collecting import collect, digest, put, sources
from daqlib import errors, names
from harness import Daq, make_fits, wait_until
from remote import HOST, Rsyncd, Sshd, configure, holders, rsyncd, script, sshd

pytestmark = pytest.mark.xdist_group("hosts")

PERSIST_S = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with files that have the same name."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(64):
        make_fits(folder / f"det{number}" / "img.fits", cards={"NUMBER": number})
    return folder


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real ssh server on loopback."""
    with sshd(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Rsyncd]:
    """A real rsync daemon on loopback."""
    with rsyncd(tmp_path_factory.mktemp("rsyncd"), data) as made:
        yield made


@pytest.fixture
def plain(daq: Daq, far: Sshd) -> Path:
    """An ssh configuration without sharing of its own, and a place for ours."""
    daq.env["XDG_RUNTIME_DIR"] = str(far.folder)
    path = far.plain_config(daq.folder / "ssh_config")
    configure(daq, ssh_config=path, transfer={"persist_sec": PERSIST_S})
    return path


def sockets(far: Sshd) -> list[Path]:
    """Return the sockets of shared connections."""
    return [path for path in (far.folder / "daqspool").glob("*") if path.is_socket()]


def master(daq: Daq, far: Sshd) -> int:
    """Return the process that owns the shared connection of this test."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()
             and "ControlMaster=yes" in _command(entry)
             and str(daq.folder / "ssh_config") in _command(entry)]
    assert len(found) == 1
    return found[0]


def _command(entry: Path) -> str:
    with suppress(OSError):
        return (entry / "cmdline").read_text().replace("\0", " ")
    return ""


@pytest.mark.needs("rsync", "ssh", "sshd")
class TestSharing:
    """One ssh connection for all transfers."""

    def test_sixty_four_files_in_one_connection(
            self, daq: Daq, far: Sshd, plain: Path, data: Path) -> None:
        paths = [data / f"det{number}" / "img.fits" for number in range(64)]
        before = far.logins()
        put(daq, *(f"{HOST}:{path}" for path in paths))
        collect(daq).ok()
        assert far.logins() == before + 1
        assert {digest(path) for path in sources(daq).values()} == set(map(digest, paths))
        put(daq, f"{HOST}:{paths[0]}", job="J2")
        collect(daq, job="J2").ok()
        assert far.logins() == before + 1  # another job, the same connection
        [path] = [path for path in sockets(far) if path.stat().st_uid == os.geteuid()
                  and path.parent.stat().st_mode & 0o777 == 0o700][-1:]
        assert path.is_socket()

    def test_the_connection_holds_nothing_of_a_job(
            self, daq: Daq, far: Sshd, plain: Path, data: Path) -> None:
        put(daq, f"{HOST}:{data}/det0/img.fits")
        collect(daq).ok()
        pid = master(daq, far)
        assert os.getsid(pid) != os.getsid(0) and os.readlink(f"/proc/{pid}/cwd") == "/"
        held = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert not [path for path in held if path.startswith((str(daq.folder), "pipe:"))]
        assert holders(daq.spool / "lock" / "J1") == []

    def test_a_dead_connection_is_replaced(
            self, daq: Daq, far: Sshd, plain: Path, data: Path) -> None:
        put(daq, f"{HOST}:{data}/det0/img.fits")
        collect(daq).ok()
        before = far.logins()
        os.kill(master(daq, far), signal.SIGKILL)  # its socket stays
        put(daq, f"{HOST}:{data}/det1/img.fits", job="J2")
        collect(daq, job="J2").ok()
        assert far.logins() == before + 1

    def test_a_connection_that_hangs_is_not_waited_for(
            self, daq: Daq, far: Sshd, plain: Path, data: Path) -> None:
        put(daq, f"{HOST}:{data}/det0/img.fits")
        collect(daq).ok()
        pid = master(daq, far)
        os.kill(pid, signal.SIGSTOP)
        try:
            configure(daq, ssh_config=plain, transfer={"persist_sec": PERSIST_S, "stall_sec": 1})
            # of other settings, but found by the hanging socket
            put(daq, f"{HOST}:{data}/det1/img.fits", job="J2")
            collect(daq, job="J2").ok()
            assert digest(sources(daq, "J2")["0_s0_img.fits"]) == digest(
                data / "det1" / "img.fits")
        finally:
            os.kill(pid, signal.SIGKILL)

    def test_what_lies_in_the_way_of_the_socket(
            self, daq: Daq, far: Sshd, plain: Path, data: Path) -> None:
        """A directory that others can enter could hold anybody's socket."""
        place = daq.folder / "open"
        (place / "daqspool").mkdir(parents=True)
        (place / "daqspool").chmod(0o755)
        daq.env["XDG_RUNTIME_DIR"] = str(place)
        before = far.logins()
        put(daq, f"{HOST}:{data}/det0/img.fits")
        collect(daq).ok()
        assert far.logins() == before + 2 and list((place / "daqspool").iterdir()) == []

    def test_switched_off(self, daq: Daq, far: Sshd, plain: Path, data: Path) -> None:
        configure(daq, ssh_config=plain, transfer={"persist_sec": 0})
        before = far.logins()
        put(daq, f"{HOST}:{data}/det0/img.fits")
        collect(daq).ok()
        assert far.logins() == before + 2


@pytest.mark.needs("rsync", "ssh", "sshd")
class TestRefusals:
    """What ssh refuses is told as what it is, and mended by a person."""

    @pytest.mark.parametrize(("persist", "change", "says"), [
        (0, {"IdentityFile": "{folder}/host_key"}, ("Permission denied", "ssh-copy-id far")),
        (5, {"IdentityFile": "{folder}/host_key"}, ("Permission denied", "ssh-copy-id far")),
        (0, {"UserKnownHostsFile": "{folder}/other_hosts"},
         ("host key is not the one that is known", "ssh-keygen -R far")),
        (5, {"UserKnownHostsFile": "/dev/null"}, ("host key is not known", "ssh far")),
        (5, {"Port": "1"}, ("Connection refused", "see that the host is up")),
        (0, {"Ciphers": "aes128-cbc", "LogLevel": "INFO"}, ("no matching cipher", "ssh_config(5)")),
    ])
    def test_told(self, daq: Daq, far: Sshd, data: Path, persist: int, change: dict[str, str],
                  says: tuple[str, ...]) -> None:
        known = (far.folder / "known_hosts").read_text().split()[0]
        key = " ".join((far.folder / "user_key.pub").read_text().split()[:2])
        (far.folder / "other_hosts").write_text(f"{known} {key}\n")
        given = {name: value.format(folder=far.folder) for name, value in change.items()}
        daq.env["XDG_RUNTIME_DIR"] = str(far.folder)
        configure(daq, ssh_config=far.plain_config(daq.folder / "ssh_config", **given),
                  transfer={"persist_sec": persist})
        put(daq, f"{HOST}:{data}/det0/img.fits")
        collect(daq).fails(78 if "Ciphers" in change else 75, HOST, *says)
        assert daq.tree() == {"collect": ["J1"]}

    def test_a_host_that_is_down_is_left_alone(self, daq: Daq, far: Sshd, data: Path) -> None:
        configure(daq, ssh_config=far.plain_config(daq.folder / "ssh_config", Port="1"),
                  breaker={"failures": 2}, transfer={"persist_sec": 0})
        for job in ("J1", "J2"):
            put(daq, f"{HOST}:{data}/det0/img.fits", job=job)
            collect(daq, job=job).fails(75, "Connection refused")
        put(daq, f"{HOST}:{data}/det0/img.fits", job="J3")
        collect(daq, job="J3").fails(75, "left alone until")
        assert "start" not in daq.events("J3")
        put(daq, make_fits(daq.folder / "a.fits"), job="J4")  # who needs no other host goes on
        collect(daq, job="J4").ok()
        configure(daq, ssh_config=far.plain_config(daq.folder / "ssh_config"),
                  breaker={"failures": 2}, transfer={"persist_sec": 0})
        (daq.spool / "lock" / ".host-far").unlink()
        collect(daq, job="J3").ok()


@pytest.mark.needs("rsync", "rrsync", "ssh", "sshd")
class TestRestrictedKey:
    """A key that may only read one directory: command="rrsync -ro DIR",restrict."""

    @pytest.fixture
    def restricted(self, daq: Daq, far: Sshd, plain: Path, data: Path) -> Iterator[Path]:
        with far.restricted(f'restrict,command="rrsync -ro {data}"'):
            yield plain

    def test_reads(self, daq: Daq, restricted: Path, data: Path) -> None:
        put(daq, f"{HOST}:/det1/img.fits", f"{HOST}:/det2/img.fits")
        collect(daq).ok()
        assert digest(sources(daq)["0_s0_img.fits"]) == digest(data / "det1" / "img.fits")
        put(daq, f"{HOST}:/det1/none.fits", job="J2")
        collect(daq, job="J2").fails(65, f"{HOST}:/det1/none.fits", "no such file")

    def test_leads_nowhere_else(self, daq: Daq, restricted: Path, data: Path) -> None:
        secret = make_fits(daq.folder / "secret.fits")
        put(daq, f"{HOST}:{secret}")
        collect(daq).fails(65, "no such file")
        put(daq, f"{HOST}:/../{secret.name}", job="J2")
        collect(daq, job="J2").fails(65, "without '..'")
        for words in (["true"], ["cat", str(secret)], ["rsync --server . /"]):
            told = subprocess.run(["ssh", "-F", restricted, HOST, *words], capture_output=True,
                                  text=True, check=False)
            assert told.returncode and not told.stdout and "rrsync error" in told.stderr

    def test_writes_nothing(self, daq: Daq, restricted: Path, data: Path) -> None:
        """Releasing to a place that may only be read says so."""
        before = sorted(data.rglob("*"))
        product = make_fits(daq.folder / "a.fits")
        told = subprocess.run(["rsync", "-e", f"ssh -F {restricted}", product, f"{HOST}:/w.fits"],
                              capture_output=True, text=True, check=False)
        assert told.returncode == 12 and "read-only" in told.stderr
        daq.drop("collect", "J1", {"sources": [
            {"type": "fitsFile", "sourceName": "s", "location": str(product)}],
            "receivers": [{"type": "olasReceiver", "host": HOST, "path": "/"}]})
        for tool in ("daq-collect", "daq-merge"):
            daq.run(tool, "--job", "J1").ok()
        assert "sending to read-only server is not allowed" in daq.run(
            "daq-release", "--job", "J1").err
        assert sorted(data.rglob("*")) == before


@pytest.mark.needs("rsync")
class TestDaemon:
    """rsync://[user@]host[:port]/module/path."""

    def test_fetches(self, daq: Daq, served: Rsyncd, data: Path) -> None:
        put(daq, *(f"{served.url}/data/det{n}/img.fits" for n in range(3)))
        collect(daq).ok()
        assert [digest(path) for _, path in sorted(sources(daq).items())] == [
            digest(data / f"det{n}" / "img.fits") for n in range(3)]
        assert not [path for path in (daq.spool / "data" / "J1" / "sources").iterdir()
                    if path.name.startswith(".fetch")]

    def test_missing(self, daq: Daq, served: Rsyncd) -> None:
        put(daq, f"{served.url}/data/none.fits")
        collect(daq).fails(65, f"{served.url}/data/none.fits: no such file")

    @pytest.mark.parametrize(("module", "says"), [
        ("nosuch", ("Unknown module", "check the module")), ("locked", ("auth failed", "user"))])
    def test_not_let_in(self, daq: Daq, served: Rsyncd, module: str, says: tuple[str, str]) -> None:
        put(daq, f"{served.url}/{module}/det0/img.fits")
        collect(daq).fails(78, *says)
        assert daq.tree() == {"collect": ["J1"]}

    def test_a_daemon_that_is_busy_costs_no_tries(self, daq: Daq, served: Rsyncd) -> None:
        put(daq, f"{served.url}/busy/det0/img.fits")
        collect(daq).fails(75, "max connections", "net_receive")
        assert daq.run("daq-status", "--json", "J1").ok().json()["tries"] == 0

    def test_password(self, daq: Daq, served: Rsyncd, data: Path) -> None:
        url = served.url.replace("//", "//daq@")
        mine = daq.folder / "password"
        mine.write_text(served.password.read_text())
        configure(daq, transfer={"password_file": str(mine)})
        mine.chmod(0o644)
        put(daq, f"{url}/locked/det0/img.fits")
        collect(daq).fails(78, "password_file", "chmod 600")
        assert "start" not in daq.events("J1")
        mine.chmod(0o600)
        collect(daq).ok()
        assert digest(sources(daq)["0_s0_img.fits"]) == digest(data / "det0" / "img.fits")

    def test_nobody_listens(self, daq: Daq) -> None:
        put(daq, "rsync://127.0.0.1:1/data/a.fits")
        collect(daq).fails(75, "Connection refused", "rsync daemon")

    def test_a_daemon_that_says_nothing(self, daq: Daq) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            configure(daq, transfer={"connect_sec": 1, "stall_sec": 1})
            put(daq, f"rsync://127.0.0.1:{mute.getsockname()[1]}/data/a.fits")
            collect(daq).fails(75, "127.0.0.1")

    @pytest.mark.parametrize("location", [
        "rsync://h/m", "rsync://h/m/", "rsync:///m/a.fits", "rsync://h:0/m/a.fits",
        "rsync://h:x/m/a.fits", "rsync://-h/m/a.fits", "rsync://-u@h/m/a.fits", "rsync://h/-m/a.fits",
        "rsync://h/m*/a.fits", "rsync://h/m/../a.fits", "rsync://h/m/a\n.fits", "rsync://h h/m/a",
        "rsync://h;x/m/a.fits", "rsync://h/../a.fits", "rsync://h:99999/m/a.fits"])
    def test_urls_that_are_none(self, location: str) -> None:
        with pytest.raises(errors.BadData, match="is not allowed"):
            names.split_location(location)


EVIL = st.text(st.sampled_from("-a/ '\"$(`\\):;|&<>*?[]{}@~#!%\n\t\0é☃=.,"), min_size=1,
               max_size=12)


@pytest.mark.needs("rsync")
class TestNames:
    """Nothing that a job says becomes an option or reaches a shell."""

    @given(host=EVIL, path=EVIL)
    @settings(max_examples=200, deadline=None)
    def test_a_location_is_refused_or_is_plain(self, host: str, path: str) -> None:
        for location in (f"{host}:/{path}", f"rsync://{host}/m/{path}", f"rsync://h/{host}/{path}"):
            try:
                found, where = names.split_location(location)
            except errors.BadData:
                continue
            assert where.startswith("/") and ".." not in where.split("/")
            assert where.isprintable() and found.isascii() and not found.startswith("-")
            assert not set(found) & set(" '\"$(`\\);|&<>*?[]{}~#!%\n\t\0=,")

    @given(name=EVIL)
    @example("*").via("a pattern")
    @example("\\*").via("a pattern of another name")
    @example("[\\?]").via("the same")
    @settings(max_examples=8, deadline=None,
              suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_odd_names_reach_no_shell(
            self, tmp_path_factory: pytest.TempPathFactory, data: Path, name: str) -> None:
        """The remote shell is asked for the same, whatever the files are called."""
        from daqlib import transfer

        folder = tmp_path_factory.mktemp("odd")
        odd = f"{name}$(touch {folder}/pwned)`touch {folder}/pwned`;a.fits".replace("/", "_")
        if not odd.isprintable() or odd.startswith("."):
            return
        make_fits(folder / "in" / odd)
        calls = folder / "calls"
        rsh = script(folder / "rsh", f"""while [ "${{1#-}}" != "$1" ]; do shift; done; shift
echo "$*" >>{calls}; exec sh -c "$*"
""")
        own = folder / "own"
        own.mkdir()
        from daqlib import config

        made = config.load(_configured(folder, rsh))
        transfer.fetch(transfer.Link(made, HOST), [str(folder / "in" / odd)], str(own))
        assert (own / str(folder / "in").lstrip("/") / odd).is_file()
        assert not (folder / "pwned").exists()
        [call] = calls.read_text().splitlines()
        assert odd not in call and str(folder / "in") not in call


def _configured(folder: Path, rsh: Path) -> str:
    path = folder / "daq.yaml"
    path.write_text(json.dumps({"cfg": {"rsh": str(rsh)}}))
    return str(path)


@pytest.mark.needs("rsync", "ssh", "sshd")
def test_sshd_dies_in_the_middle(daq: Daq, far: Sshd, data: Path) -> None:
    """The transfer is gone on with when the host is back, in another connection."""
    big = make_fits(daq.folder / "big.fits", shape=(1500, 1000))
    daq.env["XDG_RUNTIME_DIR"] = str(far.folder)
    plain = far.plain_config(daq.folder / "ssh_config")
    configure(daq, ssh_config=plain, transfer={"bytes_per_sec": 2_000_000, "persist_sec": 60})
    daq.drop("collect", "J1", {"sources": [
        {"type": "fitsFile", "sourceName": "s0", "location": f"{HOST}:{big}"}]})
    folder = daq.spool / "data" / "J1" / "sources"
    before = far.logins()
    process = daq.spawn("daq-collect", "--job", "J1")
    wait_until(lambda: any(path.stat().st_size > 300_000
                           for path in folder.glob(".fetch-*/**/.big*")))
    os.kill(master(daq, far), signal.SIGKILL)  # as a host that goes down
    process.wait().ok()  # it went on by itself, without the connection that was shared
    assert far.logins() > before + 1
    assert digest(sources(daq)["0_s0_big.fits"]) == digest(big)
    for path in sockets(far):
        path.unlink()

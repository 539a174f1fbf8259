"""Who may command daq-ctl, and what those who may not can do to it: nothing."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import zmtp
from daqlib import rpc
from harness import Daq, free_port, wait_until
from live import Live

pytestmark = [pytest.mark.installed, pytest.mark.xdist_group("daq-ctl-security")]


# -- keys -----------------------------------------------------------------------------------------


def test_keygen_makes_a_pair(daq: Daq) -> None:
    folder = daq.folder / "my keys"
    folder.mkdir()
    made = daq.run("daq-ctl", "keygen", "friend", "--directory", folder).ok()
    public, secret = made.out.splitlines()
    assert [public, secret] == [f"{folder}/friend.key", f"{folder}/friend.key_secret"]
    made.says(f'server: curve: {{certificate: "{secret}", authorized: "{folder}/authorized"}}')
    made.says(f"client: export DAQ_CURVE_CERTIFICATE='{secret}' DAQ_CURVE_SERVER_KEY=")
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (public, secret)]
    assert modes == [0o644, 0o600]
    assert "secret-key" not in Path(public).read_text()
    assert sorted(os.listdir(folder)) == ["friend.key", "friend.key_secret"]
    import zmq.auth  # the format is that of ZeroMQ's other programs

    keys = zmq.auth.load_certificate(secret)
    assert keys[1] and zmq.curve_public(keys[1]) == keys[0] == zmq.auth.load_certificate(public)[0]


def test_keygen_never_overwrites(daq: Daq) -> None:
    folder = daq.folder / "keys"
    folder.mkdir()
    told = daq.run("daq-ctl", "--json", "keygen", "--directory", folder).ok().json()
    assert (told["public"], told["secret"]) == (f"{folder}/daq-ctl.key",
                                                f"{folder}/daq-ctl.key_secret")
    before = {path: path.read_text() for path in folder.iterdir()}
    daq.run("daq-ctl", "keygen", "--directory", folder).fails(73, "daq-ctl.key", "not overwritten")
    (folder / "daq-ctl.key").unlink()
    daq.run("daq-ctl", "keygen", "--directory", folder).fails(73, "daq-ctl.key_secret")
    assert (folder / "daq-ctl.key_secret").read_text() == before[folder / "daq-ctl.key_secret"]
    assert os.listdir(folder) == ["daq-ctl.key_secret"]


@pytest.mark.parametrize(("words", "code", "text"), [
    (["../x"], 65, "id '../x' is not allowed"),
    (["a", "b"], 64, "takes one name"),
    (["x", "--directory", "/nonexistent"], 64, "/nonexistent is no directory"),
])
def test_keygen_refuses(daq: Daq, words: list[str], code: int, text: str) -> None:
    daq.run("daq-ctl", "keygen", *words, cwd=daq.folder).fails(code, text).no_output()


@pytest.mark.parametrize("option", ["--rep", "--pep", "configuration"])
@pytest.mark.parametrize("host", ["0.0.0.0", "*"])
def test_a_server_that_others_can_reach_needs_keys(daq: Daq, option: str, host: str) -> None:
    kind = "ps" if option == "--pep" else "rr"
    endpoint = f"zpb.{kind}://{host}:{free_port()}"
    settings = {"req_endpoint": endpoint} if option == "configuration" else {}
    Live(daq, **settings)
    words = [] if settings else [option, endpoint]
    failed = daq.run("daq-ctl", "serve", *words)
    failed.fails(78, endpoint, "no CURVE keys", "insecure: true", chatty=True)
    Live(daq, **settings, insecure=True).serve(*words)  # spelled out, it is served


class Keys:
    """The keys of a server and of clients, and the environment of those who use them."""

    def __init__(self, daq: Daq) -> None:
        self.daq, self.folder = daq, daq.folder / "keys"
        self.authorized = self.folder / "authorized"
        self.authorized.mkdir(parents=True)
        for name in ("server", "friend", "stranger"):
            daq.run("daq-ctl", "keygen", name, "--directory", self.folder).ok()
        self.let_in("friend")

    def let_in(self, name: str) -> None:
        (self.authorized / f"{name}.key").write_bytes((self.folder / f"{name}.key").read_bytes())

    def of(self, client: str, server: str = "server") -> dict[str, str | None]:
        return {"DAQ_CURVE_CERTIFICATE": str(self.folder / f"{client}.key_secret"),
                "DAQ_CURVE_SERVER_KEY": str(self.folder / f"{server}.key")}


@pytest.fixture
def keys(daq: Daq) -> Keys:
    return Keys(daq)


@pytest.fixture
def guarded(daq: Daq, keys: Keys) -> Live:
    """A daemon that other hosts can reach, for those whose keys it has."""
    live = Live(daq, curve={"certificate": str(keys.folder / "server.key_secret"),
                            "authorized": str(keys.authorized)})
    ports = [live.requests.rpartition(":")[2], live.topics.rpartition(":")[2]]
    live.serve("--rep", f"zpb.rr://0.0.0.0:{ports[0]}", "--pep", f"zpb.ps://0.0.0.0:{ports[1]}")
    return live


def test_keys_decide_who_commands(guarded: Live, keys: Keys) -> None:
    daq = guarded.daq
    daq.run("daq-ctl", "std.getstate", env=keys.of("friend")).ok().prints("Operational")
    for env, text in [({}, "not as one of ours"),
                      (keys.of("friend", "stranger"), "not as one of ours"),
                      (keys.of("stranger"), "does not let our key in")]:
        daq.run("daq-ctl", "std.exit", env=env).fails(69, text).no_output()
    # a key that is added counts at once, one that is taken away does no longer
    keys.let_in("stranger")
    daq.run("daq-ctl", "std.getstate", env=keys.of("stranger")).ok()
    (keys.authorized / "friend.key").unlink()
    daq.run("daq-ctl", "std.getstate", env=keys.of("friend")).fails(69, "does not let our key in")
    # a file that is no key lets in nobody and keeps nobody out
    (keys.authorized / "junk.key").write_text("junk")
    daq.run("daq-ctl", "std.getstate", env=keys.of("stranger")).ok()
    wait_until(lambda: "junk.key: it is no CURVE certificate" in guarded.daemon.err)
    assert guarded.daemon.running()


def test_keys_decide_who_hears(guarded: Live, keys: Keys) -> None:
    daq = guarded.daq
    with daq.start("daq-ctl", "--status", until="no command", env=keys.of("friend")) as friend, \
         daq.start("daq-ctl", "--status", until="no command", env=keys.of("stranger")) as stranger:
        def heard() -> bool:
            for command in ("std.disable", "std.enable"):
                daq.run("daq-ctl", command, env=keys.of("friend")).ok()
            return "status: Operational" in friend.err
        wait_until(heard)
        assert "status: Operational" not in stranger.err


def test_the_log_tells_who_commanded(guarded: Live, keys: Keys) -> None:
    guarded.daq.run("daq-ctl", "std.disable", env=keys.of("friend")).ok()
    wait_until(lambda: [line for line in guarded.daemon.err.splitlines()
                        if "friend" in line and "std.Disable" in line],
               explain=lambda: guarded.daemon.err)


def test_keys_that_anybody_could_add_are_refused(daq: Daq, keys: Keys) -> None:
    Live(daq, curve={"certificate": str(keys.folder / "server.key_secret"),
                     "authorized": str(keys.authorized)})
    keys.authorized.chmod(0o777)
    daq.run("daq-ctl", "serve").fails(78, "can be written by anybody", "chmod o-w", chatty=True)
    keys.authorized.chmod(0o755)
    (keys.folder / "server.key_secret").chmod(0o644)
    daq.run("daq-ctl", "serve").fails(78, "can be read by others", "chmod 600", chatty=True)


# -- those who do not behave ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each attack the shared daemon still runs, and has said no traceback."""
    yield
    if "live" in request.fixturenames:
        live: Live = request.getfixturevalue("live")
        assert live.daemon.running()
        assert "Traceback" not in live.daemon.err and "internal error" not in live.daemon.err


def port(live: Live) -> int:
    return int(live.requests.rpartition(":")[2])


def resident(live: Live) -> int:
    """Return the memory of the daemon, MiB."""
    text = Path(f"/proc/{live.daemon.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) // 1024


@contextmanager
def under(attack: Callable[[threading.Event], None], number: int = 2) -> Iterator[None]:
    """Attack from several threads during the block."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            with suppress(OSError):
                attack(over)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(10)


def served(live: Live, times: int = 20) -> None:
    """A well-behaved client is served."""
    for _ in range(times):
        assert live.call("GetState").startswith("Operational")


def test_garbage_on_the_port(live: Live) -> None:
    def attack(_over: threading.Event) -> None:
        for head in (b"", b"GET / HTTP/1.1\r\n", zmtp.GREETING, zmtp.GREETING[:12],
                     zmtp.GREETING + zmtp.ready(b"DEALER")):
            with zmtp.dial(port(live)) as peer:
                peer.sendall(head + os.urandom(300))

    with under(attack):
        served(live)


def test_connections_that_never_say_anything(live: Live) -> None:
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # of which others need some, too
    most = min(1000, ours // 4)

    def attack(over: threading.Event) -> None:
        crowd = []
        while not over.is_set() and len(crowd) < most:
            with suppress(OSError):
                crowd.append(socket.create_connection(("127.0.0.1", port(live)), 0.5))
        for one in crowd:
            one.close()

    with under(attack):
        served(live)


def test_connections_that_come_and_go(live: Live) -> None:
    def attack(_over: threading.Event) -> None:
        zmtp.shake(port(live)).close()

    with under(attack):
        served(live)


def test_a_flood_of_requests_whose_replies_nobody_reads(live: Live) -> None:
    before = resident(live)

    def attack(over: threading.Event) -> None:
        with zmtp.shake(port(live)) as peer:
            peer.settimeout(1)
            while not over.is_set():
                peer.sendall(zmtp.request("daq.GetActiveList") * 200)

    with under(attack):
        served(live)
        assert resident(live) < before + 200
    wait_until(lambda: resident(live) < before + 200)


def test_long_messages(live: Live) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"std.X' + b"x" * (rpc.MESSAGE_LIMIT - 100) + b'"}'
    longer = zmtp.frame(b"x" * (rpc.MESSAGE_LIMIT + 1))

    def attack(over: threading.Event) -> None:
        with zmtp.shake(port(live)) as peer:
            for _ in range(5):
                if not over.is_set():
                    peer.sendall(zmtp.frame(body))
            peer.sendall(longer)

    taken = []
    for _ in range(3):  # the allocator keeps what it once had, but it does not grow
        with under(attack):
            served(live)
        taken.append(resident(live))
    assert taken[2] < max(taken[:2]) + 250, taken


def test_a_message_of_very_many_frames(live: Live) -> None:
    many = zmtp.frame(b"", more=True) * 50_000 + zmtp.request("std.GetState")

    def attack(over: threading.Event) -> None:
        with zmtp.shake(port(live)) as peer:
            peer.sendall(many)
            assert zmtp.reply(peer)["error"]["data"]["code"] == 65
            over.wait(0.3)

    with under(attack, 1):
        served(live)


def test_waits_of_clients_that_vanish_do_not_pile_up(live: Live, dcs: Any) -> None:
    job = live.begin(dcs)
    wait = zmtp.request("daq.AwaitDaqState", {
        "id": job, "state": "StateCompleted", "substate": "Completed", "timeout": 1e6})
    for _ in range(5):
        with zmtp.shake(port(live)) as peer:
            peer.sendall(wait * 500 + zmtp.request("std.GetState", number=2))
            assert zmtp.reply(peer)["id"] == 2
    served(live)
    live.call("ForceAbortDaq", id=job)


@pytest.mark.parametrize("crowd", [2000, pytest.param(8000, marks=pytest.mark.slow)])
def test_many_may_wait(live: Live, dcs: Any, crowd: int) -> None:
    job = live.begin(dcs)
    with zmtp.shake(port(live)) as peer:
        peer.sendall(b"".join(zmtp.request("daq.AwaitDaqState", {
            "id": job, "state": "StateAcquiring", "substate": "Stopped", "timeout": 60}, number)
            for number in range(crowd)))
        served(live)
        live.call("StopDaq", id=job)
        told = [zmtp.reply(peer) for _ in range(crowd)]
    assert sorted(one["id"] for one in told) == list(range(crowd))
    assert all(one["result"]["reached"] for one in told)
    # those that are read only after the stop are told what there is then
    substates = {one["result"]["status"]["substate"] for one in told}
    assert "Stopped" in substates and substates <= {"Stopped", "NotScheduled"}
    live.finish()


def test_subscribers_that_do_not_behave(live: Live, dcs: Any) -> None:
    topics = int(live.topics.rpartition(":")[2])

    def attack(over: threading.Event) -> None:
        with zmtp.shake(topics, b"SUB") as deaf:
            deaf.sendall(zmtp.frame(b"\x01"))
            number = 0
            while not over.is_set():
                number += 1
                deaf.sendall(zmtp.frame(b"\x01" + number.to_bytes(8, "big")) * 10)

    with under(attack), live.subscribed() as lines:
        job = live.begin(dcs)
        served(live)
        live.call("ForceAbortDaq", id=job)
        wait_until(lambda: any(job in line and "Aborted" in line for line in lines()))


def test_a_client_imports_little(live: Live) -> None:
    told = live.daq.run("daq-ctl", "std.getstate", env={"PYTHONPROFILEIMPORTTIME": "1"}).ok()
    loaded = {line.rpartition("|")[2].strip() for line in told.err.splitlines()}
    assert "zmq" in loaded
    assert not loaded & {"asyncio", "zmq.asyncio", "zmq.auth", "jsonschema", "numpy"}
    assert json.loads(json.dumps(told.out))

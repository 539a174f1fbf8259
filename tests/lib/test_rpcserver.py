from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

from daqlib import errors, rpc, rpcbound, rpcserver
from rpc_peers import LIB, LOCAL, Service, in_process, refused, serving, until

TOPICS = "zpb.ps://127.0.0.1:0"


def test_serves_a_unix_socket_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "daq.sock"

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert endpoint == f"ipc://{file}/daq"
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work, f"ipc://{file}")
    assert not file.exists()


def test_a_stale_socket_file_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/daq.sock"
    with in_process(endpoint) as (_, process):
        with pytest.raises(errors.Later, match="in use"):
            serving(None, endpoint)  # type: ignore[arg-type]
        assert rpc.call(f"{endpoint}/daq", "Wait", {"seconds": 0}, 60) is None
        process.kill()
        process.wait()
        assert (tmp_path / "daq.sock").exists()

    async def work(address: str, _server: rpcserver.Server) -> None:
        assert await rpc.acall(address, "Echo", {"value": 1}) == 1

    serving(work, endpoint)


def test_a_file_in_the_place_of_the_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "daq.sock").write_text("precious")
    with pytest.raises(errors.BadConfig, match="no socket"):
        serving(None, f"ipc://{tmp_path}/daq.sock")  # type: ignore[arg-type]
    assert (tmp_path / "daq.sock").read_text() == "precious"


def test_services_come_and_go() -> None:
    async def work(endpoint: str, server: rpcserver.Server) -> None:
        server.disable("daq")
        error = await refused(endpoint, "Echo", {"value": 1})
        assert (error.exception, error.code) == ("rpc::NotEnabled", 69)
        assert "not enabled" in error.message

        async def answer() -> int:
            return 42

        server.enable("daq", {"Answer": answer})
        assert await rpc.acall(endpoint, "Answer") == 42
        assert (await refused(endpoint, "Echo", {"value": 1})).rpc_code == rpc.METHOD_NOT_FOUND

    serving(work)


def test_closing_answers_those_who_wait() -> None:
    async def work() -> None:
        server = rpcserver.Server(LOCAL, {"daq": Service()})
        endpoint = f"{server.start()}/daq"
        waiting = asyncio.create_task(rpc.acall(endpoint, "Wait", {"seconds": 300}, 300))
        await until(lambda: len(server._requests) == 1)
        begin = time.monotonic()
        await server.close()
        with pytest.raises(rpc.RemoteError, match="shutting down") as caught:
            await waiting
        assert caught.value.exception == "rpc::ShuttingDown"
        assert time.monotonic() - begin < 60

    asyncio.run(work())


def test_one_endpoint_has_one_server() -> None:
    async def work(_endpoint: str, server: rpcserver.Server) -> None:
        second = rpcserver.Server(str(server.endpoint))
        with pytest.raises(errors.Later, match="in use by another program"):
            second.start()
        await second.close()

    serving(work)


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("zpb.rr://*:0", "no CURVE keys"),
        ("zpb.rr://0.0.0.0:0", "no CURVE keys"),
        ("zpb.rr://host.invalid:0", "no CURVE keys"),
        ("zpb.ps://127.0.0.1:0", "no endpoint for requests"),
        ("ipc:///nonexistent/x.sock", "no directory /nonexistent"),
    ],
)
def test_what_must_not_be_served(endpoint: str, text: str) -> None:
    with pytest.raises(errors.BadConfig, match=text.replace("*", r"\*")):
        serving(None, endpoint)  # type: ignore[arg-type]


def test_insecure_has_to_be_spelled_out() -> None:
    async def work(endpoint: str, server: rpcserver.Server) -> None:
        here = f"zpb.rr://127.0.0.1:{server.endpoint.port}/daq"
        assert await rpc.acall(here, "Echo", {"value": 1}) == 1

    serving(work, "zpb.rr://*:0", insecure=True)


@pytest.mark.parametrize("endpoint", ["zpb.rr://192.0.2.1:0", "zpb.rr://host.invalid:0"])
def test_an_address_of_another_host(endpoint: str) -> None:
    with pytest.raises(errors.BadConfig):
        serving(None, endpoint, insecure=True)  # type: ignore[arg-type]


Samples = list[tuple[str, Any]]


async def collect(endpoint: str, topics: list[str], got: Samples) -> None:
    async for sample in rpc.asubscribe(endpoint, topics, 60):
        got.append(sample)
        if sample[0] == "/std/end":
            return


def collect_here(endpoint: str, topics: list[str], got: Samples) -> None:
    for sample in rpc.subscribe(endpoint, topics, 60):
        got.append(sample)
        if sample[0] == "/std/end":
            return


def told(got: Samples) -> Samples:
    return [sample for sample in got if sample[0] not in ("/std/begin", "/std/end")]


def test_topics_reach_their_subscribers() -> None:
    some: Samples = []
    every: Samples = []
    sync: Samples = []

    async def work() -> None:
        publisher = rpcserver.Publisher(TOPICS)
        endpoint = str(publisher.endpoint)
        collecting = [asyncio.create_task(collect(endpoint, ["/daq/", "/std/"], some)),
                      asyncio.create_task(collect(endpoint, [""], every)),
                      asyncio.create_task(
                          asyncio.to_thread(collect_here, endpoint, ["/std"], sync))]
        while not (some and every and sync):  # a subscription takes a moment to arrive
            publisher.publish("/std/begin", {})
            await asyncio.sleep(0.02)
        for topic in ("/daq/status", "/std/status", "/other"):
            publisher.publish(topic, {"is": topic})
        publisher._bound.socket.send(b"one frame only")
        publisher._bound.socket.send_multipart([b"/daq/status", b"no JSON"])
        publisher.publish("/std/end", {})
        await asyncio.gather(*collecting)
        publisher.close()

    asyncio.run(work())
    assert told(some) == [(t, {"is": t}) for t in ("/daq/status", "/std/status")]
    assert told(every) == [(t, {"is": t}) for t in ("/daq/status", "/std/status", "/other")]
    assert told(sync) == [("/std/status", {"is": "/std/status"})]


def test_subscribing_ends_with_the_time() -> None:
    begin = time.monotonic()
    assert list(rpc.subscribe("zpb.ps://127.0.0.1:9", timeout=0.2)) == []
    assert time.monotonic() - begin < 60
    with pytest.raises(errors.BadData, match="publishes nothing"):
        list(rpc.subscribe("zpb.rr://127.0.0.1:9"))


def test_a_subscriber_survives_the_publisher(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/pub.sock"
    got: list[Any] = []

    async def work() -> None:
        async def collect() -> None:
            async for _, document in rpc.asubscribe(endpoint, timeout=60):
                got.append(document)
                if document == "second":
                    return

        task = asyncio.create_task(collect())
        for text in ("first", "second"):
            publisher = rpcserver.Publisher(endpoint)
            while text not in got:
                publisher.publish("/t", text)
                await asyncio.sleep(0.02)
            publisher.close()
        await task

    asyncio.run(work())


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Key pairs of a server and of two clients, one of which is authorized."""
    for name in ("server", "friend", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)
        (tmp_path / f"{name}.key_secret").chmod(0o600)
    (tmp_path / "authorized").mkdir()
    os.link(tmp_path / "friend.key", tmp_path / "authorized" / "friend.key")
    return tmp_path


def use_keys(monkeypatch: pytest.MonkeyPatch, own: Path | None, server: Path | None) -> None:
    for name, path in (("DAQ_CURVE_CERTIFICATE", own), ("DAQ_CURVE_SERVER_KEY", server)):
        if path:
            monkeypatch.setenv(name, str(path))
        else:
            monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("own", "server", "served"),
    [
        ("friend.key_secret", "server.key", True),
        ("stranger.key_secret", "server.key", False),
        ("friend.key_secret", "stranger.key", False),
        ("", "", False),
    ],
)
def test_keys_decide_who_is_served(keys: Path, monkeypatch: pytest.MonkeyPatch, own: str,
                                   server: str, served: bool) -> None:
    curve = rpcserver.Curve(str(keys / "server.key_secret"), str(keys / "authorized"))
    use_keys(monkeypatch, keys / own if own else None, keys / server if server else None)

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        publisher = rpcserver.Publisher(TOPICS, curve=curve)

        async def hears() -> bool:
            patience = 60 if served else 1
            async for _ in rpc.asubscribe(str(publisher.endpoint), [""], patience):
                return True
            return False

        heard = asyncio.create_task(hears())
        if served:
            assert await rpc.acall(endpoint, "Echo", {"value": 1}, 60) == 1
        else:
            with pytest.raises(rpc.Unreachable, match="not as one of ours|does not let our key in"):
                await rpc.acall(endpoint, "Echo", {"value": 1}, 2)
        while not heard.done():
            publisher.publish("/t", 1)
            await asyncio.sleep(0.02)
        assert await heard is served
        publisher.close()

    serving(work, curve=curve)


def test_without_a_directory_every_key_is_served(
        keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_keys(monkeypatch, keys / "stranger.key_secret", keys / "server.key")

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        assert await rpc.acall(endpoint, "Echo", {"value": 1}, 60) == 1

    serving(work, curve=rpcserver.Curve(str(keys / "server.key_secret")))


def test_a_directory_has_the_key_of_each_server(
        keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = keys / "servers"
    servers.mkdir()
    use_keys(monkeypatch, keys / "friend.key_secret", servers)

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        async with rpcserver.Server(LOCAL, {"daq": Service()}) as plain:
            name = f"127.0.0.1:{server.endpoint.port}.key"
            os.link(keys / "server.key", servers / name)
            assert await rpc.acall(endpoint, "Echo", {"value": 1}, 60) == 1
            assert await rpc.acall(f"{plain.endpoint}/daq", "Echo", {"value": 2}, 60) == 2
        with pytest.raises(errors.BadConfig, match=r"has no key for zpb.rr://192.0.2.1:7/daq"):
            await rpc.acall("zpb.rr://192.0.2.1:7/daq", "Echo")

    serving(work, curve=rpcserver.Curve(str(keys / "server.key_secret")))


def test_keys_that_cannot_be_used(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(own: Path | None, server: Path | None) -> str:
        use_keys(monkeypatch, own, server)
        with pytest.raises(errors.BadConfig) as caught:
            rpc.call("zpb.rr://127.0.0.1:9/daq", "Echo")
        return str(caught.value)

    own, server = keys / "friend.key_secret", keys / "server.key"
    assert "only one of" in complaint(own, None)
    assert "no secret key" in complaint(keys / "friend.key", server)
    assert "nobody.key_secret: there is no such" in complaint(keys / "nobody.key_secret", server)
    (keys / "junk.key").write_text("junk")
    assert str(keys / "junk.key") in complaint(own, keys / "junk.key")
    own.chmod(0o640)
    assert f"chmod 600 {own}" in complaint(own, server)


def test_a_missing_directory_of_clients_is_told(keys: Path) -> None:
    curve = rpcserver.Curve(str(keys / "server.key_secret"), str(keys / "nowhere"))
    with pytest.raises(errors.BadConfig, match="nowhere is no directory"):
        serving(None, curve=curve)  # type: ignore[arg-type]


def test_what_was_not_closed_does_not_hang_the_program() -> None:
    code = """
import asyncio, gc
from daqlib import rpcserver
async def main():
    publisher = rpcserver.Publisher("zpb.ps://127.0.0.1:0")
    publisher.itself = publisher
    rpcserver.Server("zpb.rr://127.0.0.1:0").start()
    raise ValueError("in mid air")
try:
    asyncio.run(main())
except ValueError:
    pass
gc.collect()
"""
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": LIB}, timeout=60, check=True)


def test_an_idle_server_costs_nothing() -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        await rpc.acall(endpoint, "Echo", {"value": 1})
        spent = 1.0
        end = time.monotonic() + 60
        while spent >= 0.02 and time.monotonic() < end:  # others may still be ending their work
            before = time.process_time()
            await asyncio.sleep(0.5)
            spent = time.process_time() - before
        assert spent < 0.02

    serving(work)


def test_a_context_that_never_ends_does_not_hold_up_the_end(
        monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(rpcbound, "_LINGER_MS", 50)
    monkeypatch.setattr(zmq.Context, "term", lambda _context: never.wait())
    begin = time.monotonic()

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work)
    assert time.monotonic() - begin < 60
    never.set()

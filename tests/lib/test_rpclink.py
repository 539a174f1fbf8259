"""One connection for many requests: what is shared, what is not, and what is never sent twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from daqlib import errors, rpc, rpcexchange, rpclink, rpcserver
from harness import free_port
from rpc_peers import LOCAL, Service, Waiting, in_process, serving, until


def connections(server: rpcserver.Server) -> int:
    assert server._bound and server._bound.door
    server._bound.door.look()
    return server._bound.door.connections


def free_endpoint() -> str:
    return f"zpb.rr://127.0.0.1:{free_port()}"


def test_requests_share_a_connection() -> None:
    async def work(endpoint: str, server: rpcserver.Server) -> None:
        service = Waiting()
        server.enable("daq", service)
        waits = [asyncio.create_task(rpc.acall(endpoint, "WaitForAll")) for _ in range(500)]
        answers = await asyncio.gather(
            *(rpc.acall(endpoint, "Echo", {"value": number}) for number in range(500)))
        assert answers == list(range(500))
        assert not any(task.done() for task in waits)
        assert connections(server) == 1
        service.all_at_once.set()
        assert await asyncio.gather(*waits) == ["woke"] * 500

    serving(work)


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpclink, "IDLE_S", 1.0)

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        # a request under way keeps it open
        assert await rpc.acall(endpoint, "Wait", {"seconds": 2}) == "woke"
        assert connections(server) == 1
        await until(lambda: connections(server) == 0)
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work)


def await_(condition: Callable[[], bool]) -> bool:
    """Wait for what libzmq does in a thread of its own."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_loop_that_ends_leaves_nothing_open() -> None:
    with in_process() as (endpoint, _):
        async def once() -> None:
            waiting = [asyncio.create_task(rpc.acall(endpoint, "Wait", {"seconds": 9}))
                       for _ in range(3)]
            await rpc.acall(endpoint, "Wait", {"seconds": 0})
            asyncio.get_running_loop().call_soon(waiting[0].cancel)
            with pytest.raises(asyncio.CancelledError):
                await waiting[0]

        async def nobody() -> None:
            with pytest.raises(rpc.Unreachable):
                await rpc.acall("zpb.rr://127.0.0.1:9/daq", "Wait", {"seconds": 0}, 0.1)

        asyncio.run(once())
        before = descriptors()
        for _ in range(3):
            asyncio.run(once())
            asyncio.run(nobody())
        assert await_(lambda: descriptors() <= before), (before, descriptors())


def test_a_request_given_up_disturbs_no_other() -> None:
    async def work(endpoint: str, server: rpcserver.Server) -> None:
        given_up = asyncio.create_task(rpc.acall(endpoint, "Wait", {"seconds": 0.2}))
        other = asyncio.create_task(rpc.acall(endpoint, "Wait", {"seconds": 0.4}))
        await asyncio.sleep(0.1)
        given_up.cancel()
        assert await other == "woke"
        assert connections(server) == 1

    serving(work)


def test_after_a_late_reply_another_connection_is_tried() -> None:
    async def work(endpoint: str, server: rpcserver.Server) -> None:
        service = Waiting()
        server.enable("daq", service)
        long = asyncio.create_task(rpc.acall(endpoint, "WaitForAll"))
        await until(lambda: service.calls == ["WaitForAll"])  # so there is a connection
        with pytest.raises(rpc.RpcTimeout):
            await rpc.acall(endpoint, "Wait", {"seconds": 0.3}, 0.1)
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1
        assert connections(server) == 2  # what was under way goes on
        service.all_at_once.set()
        assert await long == "woke"
        await until(lambda: connections(server) == 1)

    serving(work)


def test_what_could_not_be_delivered_is_not_delivered_later(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcexchange, "CONNECT_S", 0.3)
    endpoint, service = free_endpoint(), Service()

    async def work() -> None:
        requests = [rpc.acall(f"{endpoint}/daq", "Echo", {"value": number}) for number in range(9)]
        fates = await asyncio.gather(*requests, return_exceptions=True)
        assert {type(fate) for fate in fates} == {rpc.Unreachable}
        monkeypatch.setattr(rpcexchange, "CONNECT_S", 60.0)
        async with rpcserver.Server(endpoint, {"daq": service}):
            await asyncio.sleep(0.5)
            assert service.calls == []
            assert await rpc.acall(f"{endpoint}/daq", "Echo", {"value": 1}) == 1
            assert service.calls == ["Echo"]

    asyncio.run(work())


def test_a_peer_that_dies_and_comes_back() -> None:
    endpoint, service = free_endpoint(), Service()

    async def work() -> None:
        with in_process(endpoint) as (_, process):
            waits = [asyncio.create_task(rpc.acall(f"{endpoint}/daq", "Wait", {"seconds": 99},
                                               99)) for _ in range(5)]
            await rpc.acall(f"{endpoint}/daq", "Wait", {"seconds": 0})
            process.kill()
            fates = await asyncio.gather(*waits, return_exceptions=True)
            assert {type(fate) for fate in fates} == {rpc.Lost}
        with pytest.raises(rpc.Unreachable):
            await rpc.acall(f"{endpoint}/daq", "Echo", {"value": 1}, 0.2)
        async with rpcserver.Server(endpoint, {"daq": service}):
            assert await rpc.acall(f"{endpoint}/daq", "Echo", {"value": 2}, 60) == 2
        assert service.calls == ["Echo"]

    asyncio.run(work())


@pytest.mark.parametrize(("answer", "error"), [
    (b"garbage", rpc.BadReply),
    (b'{"jsonrpc": "2.0", "id": null, "error": {"code": 1, "message": "?"}}', rpc.BadReply),
    (b'{"jsonrpc": "2.0", "id": "7", "result": NaN}', rpc.BadReply),
    (b'{"jsonrpc": "2.0", "id": ["7"], "result": 1}', rpc.RpcTimeout),
    (b'{"jsonrpc": "2.0", "id": 7, "result": 1}', rpc.RpcTimeout),
    (b'{"jsonrpc": "2.0", "id": "7", "result": 1}', rpc.RpcTimeout),
])
def test_an_answer_that_is_nobodys(answer: bytes, error: type[Exception]) -> None:
    async def work() -> None:
        router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        limit = 2 if error is rpc.RpcTimeout else 60
        calls = [asyncio.create_task(rpc.acall(f"zpb.rr://127.0.0.1:{port}/daq", "Get", {}, limit))
                 for _ in range(2)]
        for _ in range(2):
            peer, _ = await router.recv_multipart()
        await router.send_multipart([peer, answer])
        fates = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(fate) for fate in fates] == [error, error]
        # the next request has a connection of its own
        task = asyncio.create_task(rpc.acall(f"zpb.rr://127.0.0.1:{port}/daq", "Get", {}, 60))
        other, request = await router.recv_multipart()
        assert other != peer
        await router.send_multipart([other, json.dumps(
            {"id": json.loads(request)["id"], "result": 5}).encode()])
        assert await task == 5
        router.close()

    asyncio.run(work())


def test_a_refusal_without_an_id_is_that_of_the_only_request() -> None:
    async def work() -> None:
        with zmq.asyncio.Context.instance().socket(zmq.ROUTER) as router:
            router.linger = 0
            port = router.bind_to_random_port("tcp://127.0.0.1")
            call = asyncio.create_task(rpc.acall(f"zpb.rr://127.0.0.1:{port}/daq", "Get", {}, 60))
            peer, _ = await router.recv_multipart()
            await router.send_multipart([peer, b'{"id": null, "error": {"message": "no"}}'])
            with pytest.raises(rpc.RemoteError, match="no"):
                await call

    asyncio.run(work())


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_time_limit_that_is_none(limit: float) -> None:
    with pytest.raises(errors.BadData, match="time limit"):
        rpc.call("zpb.rr://127.0.0.1:9/daq", "Echo", {}, limit)


@pytest.mark.parametrize("limit", [1e308, float("inf"), 1e15])
def test_a_time_limit_without_end(limit: float) -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        assert await rpc.acall(endpoint, "Echo", {"value": 1}, limit) == 1
        assert await asyncio.to_thread(rpc.call, endpoint, "Echo", {"value": 1}, limit) == 1

    serving(work)


def test_loops_in_several_threads() -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        async def some() -> list[Any]:
            return await asyncio.gather(
                *(rpc.acall(endpoint, "Echo", {"value": number}) for number in range(50)))

        threads = [asyncio.to_thread(asyncio.run, some()) for _ in range(4)]
        assert await asyncio.gather(*threads) == [list(range(50))] * 4

    serving(work)


def test_the_last_words_of_a_server_are_heard() -> None:
    async def once(ask: Callable[..., Awaitable[Any]]) -> list[Any]:
        server = rpcserver.Server(LOCAL, {"daq": Service()})
        endpoint = f"{server.start()}/daq"
        waits = [asyncio.create_task(ask(endpoint, "Wait", {"seconds": 99}, 99)) for _ in range(3)]
        await until(lambda: len(server._requests) == 3)
        await server.close()
        return await asyncio.gather(*waits, return_exceptions=True)

    async def in_thread(*words: Any) -> Any:
        return await asyncio.to_thread(rpc.call, *words)

    for ask in (rpc.acall, in_thread):
        for _ in range(25):
            fates = asyncio.run(once(ask))
            assert {getattr(fate, "exception", fate) for fate in fates} == {"rpc::ShuttingDown"}


def test_nothing_is_kept_for_the_successor_of_a_peer() -> None:
    endpoint, service = free_endpoint(), Service()

    async def work() -> None:
        with in_process(endpoint) as (_, process):
            await rpc.acall(f"{endpoint}/daq", "Wait", {"seconds": 0})
            asyncio.get_running_loop().call_soon(process.kill)
            await asyncio.sleep(0)
            process.wait()
            # the loop is busy and has not noticed yet
            late = [asyncio.create_task(rpc.acall(f"{endpoint}/daq", "Echo", {"value": number}, 60))
                    for number in range(3)]
        async with rpcserver.Server(endpoint, {"daq": service}):
            time.sleep(0.5)
            fates = await asyncio.gather(*late, return_exceptions=True)
            await asyncio.sleep(0.3)
        # told as not done and not done, or done by the one who is there now
        done = [fate for fate in fates if isinstance(fate, int)]
        assert len(service.calls) == len(done)
        assert {type(fate) for fate in fates} <= {int, rpc.Lost}

    asyncio.run(work())


class Wire:
    """A relay that breaks connections at any moment."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.port, self.chance = port, chance
        self.broken = 0

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        lasting = self.chance.choice((0.0, 0.005, 0.02, 0.1, 0.2))
        pumps = [asyncio.create_task(self._pump(reader, far_writer)),
                 asyncio.create_task(self._pump(far_reader, writer))]
        await asyncio.wait(pumps, timeout=lasting)
        self.broken += 1
        for task in pumps:
            task.cancel()
        for end in (writer, far_writer):
            end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(self.chance.choice((1, 40, 4096))):
            writer.write(data)
            await writer.drain()


class Counting:
    """Counts how often each request was executed."""

    def __init__(self) -> None:
        self.done: Counter[int] = Counter()

    async def Count(self, number: int) -> int:
        self.done[number] += 1
        await asyncio.sleep(0.002 * (number % 3))
        return number


def check(fate: object, number: int, done: int) -> str:
    """Check that what the client was told is true, and return it."""
    name = type(fate).__name__
    allowed = {"int": {1}, "Unreachable": {0}, "Lost": {0, 1}, "RpcTimeout": {0, 1}}
    assert done in allowed[name], f"request {number} was executed {done} times: {fate!r}"
    assert name != "int" or fate == number
    return name


def torture(ask: Callable[[str, int], Awaitable[Any]], rounds: int, width: int,
            *wanted: str) -> Counter[str]:
    """Send requests over a wire that breaks all the time; return their fates.

    It depends on the machine how many are hit: there are more rounds until each wanted fate was
    that of some.
    """
    fates: Counter[str] = Counter()
    service, chance = Counting(), random.Random(7)

    async def work() -> None:
        async with rpcserver.Server(LOCAL, {"daq": service}) as server:
            wire = Wire(server.endpoint.port, chance)
            relay = await asyncio.start_server(wire.relay, "127.0.0.1", 0)
            endpoint = f"zpb.rr://127.0.0.1:{relay.sockets[0].getsockname()[1]}/daq"
            told: dict[int, object] = {}
            for begin in range(0, 50 * rounds * width, width):
                names = Counter(type(fate).__name__ for fate in told.values())
                if begin >= rounds * width and min(names[name] for name in wanted) > 5:
                    break
                numbers = range(begin, begin + width)
                got = await asyncio.gather(*(ask(endpoint, number) for number in numbers),
                                           return_exceptions=True)
                told.update(zip(numbers, got, strict=True))
                await asyncio.sleep(chance.choice((0, 0.001, 0.03)))
            relay.close()
            await asyncio.sleep(0.3)  # what is late would come now
            for number, fate in told.items():
                fates[check(fate, number, service.done[number])] += 1
            assert wire.broken > 5

    asyncio.run(work())
    return fates


def test_nothing_is_sent_twice_or_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcexchange, "CONNECT_S", 0.1)

    async def ask(endpoint: str, number: int) -> Any:
        return await rpc.acall(endpoint, "Count", {"number": number}, 2)

    fates = torture(ask, 40, 10, "int", "Lost")
    assert min(fates["int"], fates["Lost"]) > 5, fates


def test_nothing_is_sent_twice_or_late_without_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcexchange, "CONNECT_S", 0.1)

    async def ask(endpoint: str, number: int) -> Any:
        return await asyncio.to_thread(rpc.call, endpoint, "Count", {"number": number}, 2)

    fates = torture(ask, 40, 5, "int", "Unreachable")
    assert min(fates["int"], fates["Unreachable"]) > 5, fates


def test_a_connection_refused_by_key_is_told_at_once(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zmq.auth

    for name in ("server", "friend"):
        zmq.auth.create_certificates(tmp_path, name)
        (tmp_path / f"{name}.key_secret").chmod(0o600)
    (tmp_path / "authorized").mkdir()
    monkeypatch.setenv("DAQ_CURVE_CERTIFICATE", str(tmp_path / "friend.key_secret"))
    monkeypatch.setenv("DAQ_CURVE_SERVER_KEY", str(tmp_path / "server.key"))
    curve = rpcserver.Curve(str(tmp_path / "server.key_secret"), str(tmp_path / "authorized"))

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        for ask in (rpc.acall, lambda *words: asyncio.to_thread(rpc.call, *words)):
            with pytest.raises(rpc.Unreachable, match="does not let our key in"):
                await ask(endpoint, "Echo", {"value": 1}, 60)
        # a key that comes later counts from then on, one that goes does not any more
        key = tmp_path / "authorized" / "friend.key"
        os.link(tmp_path / "friend.key", key)
        assert await rpc.acall(endpoint, "Echo", {"value": 1}, 60) == 1
        key.unlink()
        with pytest.raises(rpc.Unreachable):
            await asyncio.to_thread(rpc.call, endpoint, "Echo", {"value": 1}, 1)

    serving(work, curve=curve)


def test_many_peers_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon with hundreds of sources, each with a long request under way."""
    monkeypatch.setattr(rpcexchange, "CONNECT_S", 20.0)  # the relay is in this process, too

    async def run() -> None:
        service = Service()
        async with rpcserver.Server(LOCAL, {"daq": service}) as server:
            port = server.endpoint.port
            relay = await asyncio.start_server(_relay_to(port), "0.0.0.0", 0)
            far = relay.sockets[0].getsockname()[1]
            # one server under many names is enough: a connection belongs to an address
            count = min(300, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 10)
            peers = [f"zpb.rr://127.0.{number // 250}.{number % 250 + 1}:{far}/daq"
                     for number in range(count)]
            waits = [rpc.acall(peer, "Wait", {"seconds": 1}, 60) for peer in peers]
            assert await asyncio.gather(*waits) == ["woke"] * len(peers)
            relay.close()

    asyncio.run(run())


def _relay_to(port: int) -> Callable[[Any, Any], Awaitable[None]]:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.transport.abort()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    return relay

"""What a client can cost: requests in hand, replies that nobody takes, connections; the audit."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

import zmtp
from daqlib import errors, rpc, rpcloop, rpcserver, rpcsocket
from rpc_peers import LOCAL, Service, Waiting, raw, refused, serving, until


def door(server: rpcserver.Server) -> Any:
    assert server._bound and server._bound.door is not None
    server._bound.door.look()
    return server._bound.door


async def shaken(server: rpcserver.Server | rpcserver.Publisher,
                 kind: bytes = b"DEALER") -> socket.socket:
    return await asyncio.to_thread(zmtp.shake, server.endpoint.port, kind)


# -- requests in hand -----------------------------------------------------------------------------


def test_more_than_can_be_in_hand_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcserver, "IN_HAND", 10)
    said: list[str] = []

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        service = Waiting()
        server.enable("daq", service)
        waits = [asyncio.create_task(rpc.acall(endpoint, "WaitForAll")) for _ in range(13)]
        await until(lambda: sum(task.done() for task in waits) == 3)
        service.all_at_once.set()
        fates = await asyncio.gather(*waits, return_exceptions=True)
        busy = [fate for fate in fates if isinstance(fate, rpc.RemoteError)]
        assert fates.count("woke") == 10 and len(busy) == 3
        assert {(fate.code, fate.exception) for fate in busy} == {(75, "rpc::Busy")}
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work, log=said.append)
    assert len(said) == 1 and "busy: 10 requests" in said[0]


def test_one_client_cannot_take_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcserver, "IN_HAND_OF_ONE", 5)

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        greedy = await shaken(server)
        greedy.sendall(zmtp.request("daq.Wait", {"seconds": 99}) * 50)
        await until(lambda: len(server._requests) == 5)
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1
        assert (await asyncio.to_thread(zmtp.reply, greedy))["error"]["data"]["code"] == 75
        greedy.close()

    serving(work, log=lambda _line: None)


def test_the_bytes_in_hand_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcserver, "BYTES_IN_HAND", 2 << 20)

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        service = Waiting()
        server.enable("daq", service)
        holds = [asyncio.create_task(rpc.acall(
            endpoint, "WaitForAll", {"ballast": "x" * (1 << 19)})) for _ in range(6)]
        await until(lambda: sum(task.done() for task in holds) == 3)
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1
        service.all_at_once.set()
        fates = await asyncio.gather(*holds, return_exceptions=True)
        assert fates.count("woke") == 3
        assert {getattr(fate, "code", None) for fate in fates if fate != "woke"} == {75}
        assert server._bytes == 0 and not server._of_peer

    serving(work, log=lambda _line: None)


def test_waits_of_a_client_that_went_away_are_given_up() -> None:
    told: list[rpcserver.Handled] = []

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        async def wait() -> None:
            await asyncio.sleep(60)

        server.enable("daq", {"AwaitDaqState": wait, "StopDaq": wait, "Echo": Service().Echo})
        for _ in range(3):
            peer = await shaken(server)
            peer.sendall(zmtp.request("daq.AwaitDaqState") * 20 + zmtp.request("daq.StopDaq"))
            await until(lambda: len(server._requests) >= 21)
            peer.close()
            # what changes something is carried out whether anybody waits for the reply or not
            await until(lambda: {r.document["method"] for r in server._requests} == {"daq.StopDaq"})
        assert len(server._requests) == 3 and not server._waiting
        assert {(one.method, one.code, one.text) for one in told} == {
            ("daq.AwaitDaqState", 69, "the client went away")}
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work, audit=told.append)


def test_a_wait_is_not_taken_for_that_of_the_connection_before() -> None:
    async def work(_endpoint: str, server: rpcserver.Server) -> None:
        async def wait() -> str:
            await asyncio.sleep(0.3)
            return "woke"

        server.enable("daq", {"AwaitDaqState": wait})
        for _ in range(5):  # the next connection gets the descriptor of the last one
            (await shaken(server)).close()
            peer = await shaken(server)
            peer.sendall(zmtp.request("daq.AwaitDaqState"))
            zmtp.dial(server.endpoint.port).close()
            assert (await asyncio.to_thread(zmtp.reply, peer))["result"] == "woke"
            peer.close()

    serving(work)


# -- replies that nobody takes --------------------------------------------------------------------


def test_a_client_that_does_not_read_costs_a_bounded_amount(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcloop, "BYTES_UNSENT", 1 << 20)
    monkeypatch.setattr(rpcloop, "SLOW_S", 5)
    monkeypatch.setattr(rpcserver, "_QUEUE", 5)
    value = "x" * 100_000

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        deaf = await shaken(server)
        asked = zmtp.request("daq.Echo", {"value": value}) * 400
        sending = threading.Thread(target=lambda: deaf.sendall(asked), daemon=True)
        sending.start()
        await until(lambda: not sending.is_alive())
        assert await rpc.acall(endpoint, "Echo", {"value": value}) == value
        assert 0 < server._outbox._bytes <= 1 << 20
        await until(lambda: not server._outbox._unsent)  # dropped at last
        assert server._outbox._bytes == 0
        deaf.close()

    serving(work)


def test_a_burst_of_replies_reaches_a_client_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcserver, "_QUEUE", 5)

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        all_at_once = asyncio.Event()

        async def wait(number: int) -> int:
            await all_at_once.wait()
            return number

        server.enable("daq", {"AwaitDaqState": wait})
        waits = [asyncio.create_task(rpc.acall(endpoint, "AwaitDaqState", {"number": number}))
                 for number in range(300)]
        await until(lambda: len(server._requests) == 300)
        all_at_once.set()
        assert await asyncio.gather(*waits) == list(range(300))

    serving(work)


# -- connections ----------------------------------------------------------------------------------


def test_who_says_nothing_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcsocket, "HANDSHAKE_S", 1.5)

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        mute, half = zmtp.dial(server.endpoint.port), zmtp.dial(server.endpoint.port)
        half.sendall(zmtp.GREETING)
        assert await asyncio.to_thread(zmtp.is_closed, mute)
        assert await asyncio.to_thread(zmtp.is_closed, half)
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work)


def test_who_does_not_answer_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcsocket, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(rpcsocket, "HEARTBEAT_PATIENCE_S", 2.0)

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        dead = await shaken(server)
        dead.sendall(zmtp.request("daq.Echo", {"value": 2}))
        assert (await asyncio.to_thread(zmtp.reply, dead))["result"] == 2
        # one of ours may wait as long as it likes
        assert await rpc.acall(endpoint, "Wait", {"seconds": 4}) == "woke"
        assert await asyncio.to_thread(zmtp.is_closed, dead)
        await until(lambda: door(server).connections == 1)

    serving(work)


def test_a_crowd_does_not_keep_a_client_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (60, 60))

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1
        crowd = [zmtp.dial(server.endpoint.port) for _ in range(100)]
        await until(lambda: door(server).connections <= 20)
        assert await asyncio.to_thread(rpc.call, endpoint, "Echo", {"value": 2}) == 2
        assert await rpc.acall(endpoint, "Echo", {"value": 3}) == 3
        for one in crowd:
            one.close()
        await until(lambda: door(server).connections == 1)

    serving(work)


@pytest.mark.parametrize("said", [
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST /daq HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"\0" * 500, b"\xff" * 500,
    b"\xff" + bytes(8) + b"\x7f\x09\x09" + bytes(52),  # of the future
    b"\xff" + bytes(8) + b"\x7f\x01\x05\0\0",  # ZMTP 2.0 as a DEALER, then nothing
    zmtp.GREETING + zmtp.ready(b"PUB"),
    zmtp.GREETING + zmtp.frame(b"\x05HELLO", command=True),
    zmtp.GREETING + b"\x06" + b"\xff" * 8,  # a command of all bytes that there are
    zmtp.GREETING + zmtp.ready(b"DEALER") + b"\x02" + b"\x7f" + b"\xff" * 7,
    zmtp.GREETING + zmtp.ready(b"DEALER") + b"\x02" + (rpc.MESSAGE_LIMIT + 1).to_bytes(8, "big"),
    # ZMTP 1.0, which has no greeting: a form of a web page can be made to look like it
    b"\x01\x00" + zmtp.OLD_REQUEST,
])
def test_who_speaks_another_language_is_not_heard(said: bytes) -> None:
    service = Service()

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        server.enable("daq", service)
        strangers = [zmtp.dial(server.endpoint.port) for _ in range(5)]
        for stranger in strangers:
            stranger.sendall(said)
        await asyncio.sleep(0.1)
        assert await rpc.acall(endpoint, "Wait", {"seconds": 0}) == "woke"
        assert service.calls == []
        for stranger in strangers:
            stranger.close()

    serving(work)


def test_a_message_of_very_many_frames() -> None:
    async def work(endpoint: str, server: rpcserver.Server) -> None:
        peer = await shaken(server)
        await asyncio.to_thread(peer.sendall, zmtp.frame(b"", more=True) * 100_000
                                + zmtp.request("daq.Echo", {"value": 1}))
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1
        reply = await asyncio.to_thread(zmtp.reply, peer)
        assert reply["error"]["code"] == rpc.INVALID_REQUEST and reply["id"] is None
        peer.close()

    serving(work)


# -- what a request may hold ----------------------------------------------------------------------


@pytest.mark.parametrize(("body", "rpc_code"), [
    (b'{"id":1,"method":"daq.Echo","params":{"value":NaN}}', rpc.PARSE_ERROR),
    (b'{"id":1,"method":"daq.Echo","params":{"value":-Infinity}}', rpc.PARSE_ERROR),
    (b'{"id":1,"method":"daq.Echo","params":{"value":1e999}}', rpc.PARSE_ERROR),
    (b'{"id":1,"method":"daq.Echo","params":{"value":' + b"9" * 301 + b"}}", rpc.PARSE_ERROR),
    (b'{"id":1,"method":"daq.Echo","params":{"value":"\\ud800"}}', rpc.PARSE_ERROR),
    (b'{"id":"\\udc00","method":"daq.Echo","params":{"value":1}}', rpc.PARSE_ERROR),
    (b'{"id":1,"id":2,"method":"daq.Echo","params":{"value":1}}', rpc.PARSE_ERROR),
    (b'{"id":1,"method":"daq.Echo","params":{"value":1,"value":2}}', rpc.PARSE_ERROR),
    (b'{"id":1,"method":"daq.Echo","params":{"value":' + b"[" * 70 + b"]" * 70 + b"}}",
     rpc.PARSE_ERROR),
    ('{"id":1,"method":"daq.Echo","params":{"value":1}}'.encode("utf-16"), rpc.PARSE_ERROR),
    (b'\xef\xbb\xbf{"id":1,"method":"daq.Echo","params":{"value":1}}', rpc.PARSE_ERROR),
    (b'{"id":{},"method":"daq.Echo","params":{"value":1}}', rpc.INVALID_REQUEST),
    (b'{"id":true,"method":"daq.Echo","params":{"value":1}}', rpc.INVALID_REQUEST),
    (b'{"id":"' + b"x" * 300 + b'","method":"daq.Echo","params":{"value":1}}', rpc.INVALID_REQUEST),
    (b'{"id":1,"method":"daq.Echo","params":{"value":"\\ud83d\\ude00"}}', 0),
    (b'{"id":1.5,"method":"daq.Echo","params":{"value":' + b"[" * 60 + b"]" * 60 + b"}}", 0),
])
def test_json_is_read_strictly(body: bytes, rpc_code: int) -> None:
    service = Service()

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        server.enable("daq", service)
        reply = await raw(endpoint, body)
        assert reply.get("error", {}).get("code", 0) == rpc_code
        assert len(service.calls) == (0 if rpc_code else 1)

    serving(work)


@pytest.mark.parametrize(("command", "params"), [
    ("x" * 3_000_000, {}), ("Echo", {"x" * 3_000_000: 1}), ("Echo", {"value": 1, "\x00": 1}),
])
def test_a_refusal_that_quotes_fits_into_a_reply(command: str, params: dict[str, Any]) -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        error = await refused(endpoint, command, params)
        assert error.rpc_code in (rpc.METHOD_NOT_FOUND, rpc.INVALID_PARAMS)
        assert len(error.message) < 20_000

    serving(work)


def test_a_failing_system_is_told_as_it_is() -> None:
    async def work(endpoint: str, server: rpcserver.Server) -> None:
        async def fill() -> None:
            raise OSError(28, "No space left on device", "/some/file")

        server.enable("daq", {"Fill": fill})
        error = await refused(endpoint, "Fill")
        assert (error.code, error.remedy) == (75, "free some space")
        assert "/some/file: No space left" in error.message

    serving(work, log=lambda _line: None)


# -- the audit ------------------------------------------------------------------------------------


def test_every_request_is_told_to_the_audit() -> None:
    told: list[rpcserver.Handled] = []

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        await rpc.acall(endpoint, "Echo", {"value": 1})
        await refused(endpoint, "Refuse")
        await refused(endpoint, "Nothing", {"a": 1})
        await raw(endpoint, b"{")
        await raw(endpoint, b'{"id":1,"method":7,"params":[],"from":["x"]}')
        await raw(endpoint, b'{"id":1,"method":"daq.Wait\\n","from":"a\\nb' + b"x" * 500 + b'"}')
        await until(lambda: len(told) == 6)

    serving(work, audit=told.append)
    me = f"127.0.0.1 ({rpc_whoami()})"
    assert [(one.who, one.method, one.params, one.code, one.text) for one in told[:3]] == [
        (me, "daq.Echo", {"value": 1}, 0, ""),
        (me, "daq.Refuse", {}, 66, "no such job"),
        (me, "daq.Nothing", {"a": 1}, 69, told[2].text)]
    assert [(one.who, one.method, one.code) for one in told[3:5]] == [("127.0.0.1", "", 65)] * 2
    assert told[5].who == f"127.0.0.1 (a?b{'x' * 97})" and told[5].method == "daq.Wait?"
    assert all(0 <= one.seconds < 60 for one in told)


def rpc_whoami() -> str:
    from daqlib import rpcexchange

    return rpcexchange.whoami()


def test_an_audit_that_fails_stops_nothing() -> None:
    said: list[str] = []

    def fail(_handled: rpcserver.Handled) -> None:
        raise ValueError("the log is gone")

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1
        assert await rpc.acall(endpoint, "Echo", {"value": 2}) == 2

    serving(work, audit=fail, log=said.append)
    assert said[-1] == "ValueError: the log is gone"


def test_a_client_of_a_unix_socket_is_known_by_its_process(tmp_path: Any) -> None:
    told: list[rpcserver.Handled] = []

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        await rpc.acall(endpoint, "Echo", {"value": 1})
        await until(lambda: len(told) == 1)

    serving(work, f"ipc://{tmp_path}/x.sock", audit=told.append)
    # what the kernel says: user, group and process
    assert told[0].who == f"localhost:{os.getuid()}:{os.getgid()}:{os.getpid()} ({rpc_whoami()})"


# -- topics ---------------------------------------------------------------------------------------


def test_a_slow_subscriber_misses_samples_and_holds_up_nobody() -> None:
    async def work() -> None:
        publisher = rpcserver.Publisher("zpb.ps://127.0.0.1:0")
        slow = await shaken(publisher, b"SUB")
        slow.sendall(zmtp.frame(b"\x01"))
        got: list[int] = []

        async def collect() -> None:
            async for _, document in rpc.asubscribe(str(publisher.endpoint)):
                got.append(document["number"])

        task = asyncio.create_task(collect())
        while not got:
            publisher.publish("/t", {"number": -1})
            await asyncio.sleep(0.02)
        ballast = "x" * 10_000
        for number in range(3000):
            publisher.publish("/t", {"number": number, "ballast": ballast})
            if number % 100 == 99:  # who reads keeps up, however busy the machine is
                await until(lambda last=number: got[-1] == last)
        assert got[got.index(0):] == list(range(3000))
        slow.close()
        task.cancel()
        publisher.close()

    asyncio.run(work())


def test_a_subscriber_sends_no_long_messages() -> None:
    async def work() -> None:
        publisher = rpcserver.Publisher("zpb.ps://127.0.0.1:0")
        greedy = await shaken(publisher, b"SUB")
        greedy.sendall(zmtp.frame(b"\x01" + b"x" * 10_000))
        assert await asyncio.to_thread(zmtp.is_closed, greedy)
        publisher.close()

    asyncio.run(work())


def test_the_limits_leave_room_for_those_who_wait() -> None:
    assert rpcserver.IN_HAND >= 10_000 and rpcserver.IN_HAND_OF_ONE < rpcserver.IN_HAND
    assert errors.Later.code == 75
    assert rpcserver.BYTES_IN_HAND > 4 * rpc.MESSAGE_LIMIT
    assert LOCAL.startswith("zpb.rr://127.")


class _Clients:
    """A socket whose clients take nothing until they are told to read."""

    def __init__(self) -> None:
        self.tries = 0
        self.reading: set[bytes] = set()
        self.taken: list[list[bytes]] = []

    def send_multipart(self, frames: list[bytes], _flags: int) -> None:
        self.tries += 1
        if frames[0] not in self.reading:
            raise zmq.Again
        self.taken.append(frames)


class _Body(bytes):
    looks = 0

    def __len__(self) -> int:
        type(self).looks += 1
        return super().__len__()


def test_replies_that_wait_cost_nothing_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Body, "looks", 0)
    sent = [[client, _Body(b"%d" % number)] for number in range(1000)
            for client in (b"a", b"b")]

    async def run() -> None:
        clients, outbox = _Clients(), rpcloop.Outbox()
        outbox.open(clients, SimpleNamespace(look=lambda: None))  # type: ignore[arg-type]
        for frames in sent:
            outbox.send(frames)
        clients.tries = _Body.looks = 0
        for _ in range(100):
            outbox._retry()
        assert clients.tries == 200
        assert _Body.looks == 0
        clients.reading = {b"b"}
        outbox.send([b"b", b"last"])
        await until(lambda: set(outbox._unsent) == {b"a"})
        # in order, also what came when there was room again
        assert clients.taken == [*(each for each in sent if each[0] == b"b"), [b"b", b"last"]]
        clients.reading = {b"a"}
        await until(lambda: not outbox._unsent)
        assert outbox._bytes == 0
        outbox.close()

    asyncio.run(run())

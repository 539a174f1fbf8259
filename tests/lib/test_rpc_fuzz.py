"""The wire under random messages: one well-formed reply to each request, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

import zmtp
from daqlib import errors, rpc, rpcexchange, rpcserver, strictjson
from fuzzing import TEXTS, VALUES, check_reply, mutated, quick, thorough
from rpc_peers import LOCAL, Service, context


class Served:
    """A server in a thread, and a client that sends what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.numbers = itertools.count()
        self.endpoint = ""
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        bound = threading.Event()

        async def serve() -> None:
            async with rpcserver.Server(LOCAL, {"daq": Service()}, log=self.said.append,
                                        audit=lambda handled: None) as server:
                self.endpoint = str(server.endpoint)
                bound.set()
                await self._over.wait()

        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[serve()])
        self._thread.start()
        bound.wait(10)
        self.port = int(self.endpoint.rpartition(":")[2])
        self._dealer = context().socket(zmq.DEALER)
        self._dealer.linger = 0
        self._dealer.connect(f"tcp://127.0.0.1:{self.port}")

    def replies(self, *frames: bytes) -> list[Any]:
        """Send frames, then a request that is sound; return the replies to the frames."""
        number = f"sentinel-{next(self.numbers)}"
        weight = number.ljust(rpcserver.LIGHT)  # a light one could overtake a heavy one
        self._dealer.send_multipart(frames)
        self._dealer.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "daq.Echo",
                                      "params": {"value": weight}}).encode())
        found = []
        while True:
            assert self._dealer.poll(5000), f"no reply after {frames!r}"
            *envelope, body = self._dealer.recv_multipart()
            reply = json.loads(body)
            if reply["id"] == number:
                assert reply["result"] == weight
                return found
            # what came before the body is sent back, as a router needs it
            assert envelope == list(frames[:-1])[-len(envelope):] if envelope else True
            found.append(reply)

    def close(self) -> None:
        self._dealer.close()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = Served()
    try:
        yield made
        assert made.said == []
    finally:
        made.close()


REQUESTS = st.fixed_dictionaries({
    "jsonrpc": st.just("2.0"),
    "id": st.one_of(st.integers(), st.text(max_size=10)),
    "method": st.sampled_from(["daq.Echo", "daq.Refuse", "daq.Later", "std.Init", "daq._hidden"]),
    "params": st.one_of(st.just({"value": 1}), st.dictionaries(TEXTS, VALUES, max_size=3)),
    "from": TEXTS,
})
RAW = st.sampled_from([
    b"", b"{}", b"[]", b"null", b"NaN", b"\xff", b"{", b'{"id":1}', b'{"id":1,"id":2}',
    b'{"id":1,"method":"daq.Echo","params":{"value":NaN}}',
    b'{"id":"\\ud800","method":"daq.Echo","params":{"value":1}}',
    b'{"id":1,"method":"daq.Echo","params":{"value":"\\udfff\\ud800"}}',
    b'{"id":1,"method":"daq.Echo","params":{"value":1' + b"0" * 5000 + b"}}",
    b'{"id":1,"method":"daq.Echo","params":{"value":1e400}}', b"[" * 3000,
    b'{"a":' * 3000, b'{"id":1,"method":"daq.Echo","params":{"value":' + b"[" * 500 + b"]" * 500
    + b"}}", b'{"id":1,"method":"daq.Echo","params":{"__class__":1}}',
    b'{"id":1,"method":"daq.__init__","params":{}}', b'{"id":1,"method":"."}'])


def _damage(data: bytes, where: int, how: str, extra: bytes) -> bytes:
    at = where % (len(data) + 1)
    return {"cut": data[:at], "insert": data[:at] + extra + data[at:],
            "flip": data[:at] + bytes([data[at] ^ (1 + where % 255)]) + data[at + 1:]
            if at < len(data) else data,
            "repeat": data[:at] + data[at // 2:]}[how]


BODIES = st.one_of(
    RAW, st.binary(max_size=200), VALUES.map(lambda value: json.dumps(value).encode()),
    mutated(REQUESTS).map(lambda value: json.dumps(value).encode()),
    st.builds(_damage, REQUESTS.map(lambda value: json.dumps(value).encode()), st.integers(0, 500),
              st.sampled_from(["cut", "insert", "flip", "repeat"]), st.binary(max_size=8)))
ENVELOPES = st.one_of(st.just([]), st.lists(st.binary(max_size=20), max_size=20))


def _is_notification(body: bytes) -> bool:
    try:
        request = strictjson.loads(body)
    except ValueError:
        return False
    return isinstance(request, dict) and bool(request) and "id" not in request


def answered(served: Served, envelope: list[bytes], body: bytes) -> None:
    replies = served.replies(*envelope, body)
    # a message of too many frames is refused unread
    silent = _is_notification(body) and len(envelope) < 15
    assert len(replies) == (0 if silent else 1), (body, replies)
    for reply in replies:
        check_reply(reply)
    assert served.said == [], body


@quick(400)
@given(envelope=ENVELOPES, body=BODIES)
def test_every_message_is_answered(served: Served, envelope: list[bytes], body: bytes) -> None:
    answered(served, envelope, body)


@pytest.mark.slow
@thorough(4000)
@given(envelope=ENVELOPES, body=BODIES)
def test_every_message_is_answered_at_length(
        served: Served, envelope: list[bytes], body: bytes) -> None:
    answered(served, envelope, body)


CHUNKS = st.lists(st.one_of(
    st.binary(max_size=100), st.just(zmtp.GREETING), st.just(zmtp.ready(b"DEALER")),
    st.sampled_from([zmtp.ready(b"REQ"), zmtp.ready(b"SUB"), zmtp.GREETING[:11],
                     zmtp.frame(b"{}"), zmtp.frame(b"x", more=True),
                     zmtp.frame(b"\x04PING\x00\x00", command=True), zmtp.request("daq.Echo"),
                     b"\x02" + b"\xff" * 8, zmtp.OLD_REQUEST])), max_size=6)


def survives(served: Served, chunks: list[bytes]) -> None:
    with zmtp.dial(served.port) as peer:
        peer.sendall(b"".join(chunks))
    # exactly the reply to the sound request comes to the one who made it
    assert served.replies(b"") and served.said == []


@quick(100)
@given(chunks=CHUNKS)
def test_random_bytes_on_the_port(served: Served, chunks: list[bytes]) -> None:
    survives(served, chunks)


@pytest.mark.slow
@thorough(1000)
@given(chunks=CHUNKS)
def test_random_bytes_on_the_port_at_length(served: Served, chunks: list[bytes]) -> None:
    survives(served, chunks)


def read(frame: bytes) -> None:
    """A reply is one that can be worked with, or none."""
    answer = rpcexchange.reply(frame)
    if answer is not None:
        exchange = rpcexchange.Exchange("zpb.rr://127.0.0.1:1/daq", "Get", {}, 1)
        try:
            result = exchange.result(answer)
        except rpc.RemoteError as error:
            assert error.message and error.code
            rpc.encode([error.message, error.exception, error.id, error.remedy])
        else:
            rpc.encode(result)


REPLIES = st.one_of(BODIES, mutated(st.one_of(
    st.just({"jsonrpc": "2.0", "id": "7", "result": {"id": "a", "error": False}}),
    st.just({"jsonrpc": "2.0", "id": "7", "error": {"code": -32000, "message": "no", "data": {
        "exception": "x", "id": "a", "message": "no", "code": 65, "remedy": "b"}}}),
)).map(lambda value: json.dumps(value).encode()))


@quick(300)
@given(frame=REPLIES)
def test_any_reply_can_be_read(frame: bytes) -> None:
    read(frame)


@pytest.mark.slow
@thorough(4000)
@given(frame=REPLIES)
def test_any_reply_can_be_read_at_length(frame: bytes) -> None:
    read(frame)


@quick(150)
@given(value=VALUES)
def test_what_is_written_can_be_read(value: Any) -> None:
    try:
        data = rpc.encode(value)
    except errors.BadData:
        return
    assert strictjson.loads(data) == value

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from daqlib import errors, rpc, rpcexchange, rpcserver, rpcsocket
from harness import free_port
from rpc_peers import Service, Waiting, context, in_process, raw, refused, serving, until


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "Ärger ☃\n", [1, [2]], {"a": {"b": []}}, ""])
def test_a_value_comes_back(value: Any) -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        assert await rpc.acall(endpoint, "Echo", {"value": value}) == value
        assert await asyncio.to_thread(rpc.call, endpoint, "Echo", {"value": value}) == value

    serving(work)


def test_errors_carry_what_the_client_needs() -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        error = await refused(endpoint, "Refuse")
        assert (error.exception, error.id, error.message, error.code, error.remedy) == (
            "daqif::DaqException", "J.1", "no such job", 66, "look at the list")
        later = await refused(endpoint, "Later")
        assert (later.code, later.id, later.exception) == (75, "J.2", "daqif::DaqException")

    serving(work)


@pytest.mark.parametrize(
    ("command", "params", "rpc_code", "text"),
    [
        ("Nothing", {}, rpc.METHOD_NOT_FOUND, "daq.Nothing is not known"),
        ("_hidden", {}, rpc.METHOD_NOT_FOUND, "not known"),
        ("__init__", {}, rpc.METHOD_NOT_FOUND, "not known"),
        ("calls", {}, rpc.METHOD_NOT_FOUND, "not known"),
        ("Echo", {}, rpc.INVALID_PARAMS, "missing a required argument: 'value'"),
        ("Echo", {"value": 1, "self": 2}, rpc.INVALID_PARAMS, "unexpected keyword argument 'self'"),
        ("Cancel", {}, rpc.INTERNAL_ERROR, "CancelledError"),
        ("Nan", {}, rpc.INTERNAL_ERROR, "JSON"),
        ("Huge", {}, rpc.INTERNAL_ERROR, "longer than"),
    ],
)
def test_refuses(command: str, params: rpc.Document, rpc_code: int, text: str) -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        error = await refused(endpoint, command, params)
        assert error.rpc_code == rpc_code
        assert text in error.message
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work)


def test_an_unexpected_exception_is_logged_and_its_text_is_not_sent() -> None:
    lines: list[str] = []

    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        error = await refused(endpoint, "Break")
        assert (error.rpc_code, error.code) == (rpc.INTERNAL_ERROR, 70)
        assert "KeyError" in error.message and "secret" not in error.message

    serving(work, log=lines.append)
    assert lines[0].startswith("Traceback") and lines[-1] == "KeyError: 'secret'"


@pytest.mark.parametrize(
    ("frames", "rpc_code"),
    [
        ([b"\xff\xfe"], rpc.PARSE_ERROR),
        ([b"{"], rpc.PARSE_ERROR),
        ([b""], rpc.PARSE_ERROR),
        ([b"[" * 100_000], rpc.PARSE_ERROR),
        ([b"[]"], rpc.INVALID_REQUEST),
        ([b"7"], rpc.INVALID_REQUEST),
        ([b"{}"], rpc.INVALID_REQUEST),
        ([b'{"jsonrpc":"2.0","id":1}'], rpc.INVALID_REQUEST),
        ([b'{"jsonrpc":"2.0","id":1,"method":7}'], rpc.INVALID_REQUEST),
        ([b'{"jsonrpc":"2.0","id":1,"method":"x"}'], rpc.METHOD_NOT_FOUND),
        ([b'{"jsonrpc":"2.0","id":1,"method":"no.Echo"}'], rpc.METHOD_NOT_FOUND),
        ([b'{"jsonrpc":"2.0","id":1,"method":"daq.Echo","params":[1]}'], rpc.INVALID_PARAMS),
        ([b"", b'{"jsonrpc":"2.0","id":1,"method":"daq.Echo","params":{"value":5}}'], 0),
    ],
)
def test_answers_malformed_requests(frames: list[bytes], rpc_code: int) -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        reply = await raw(endpoint, *frames)
        assert reply["error"]["code"] == rpc_code if rpc_code else reply["result"] == 5
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work)


def test_a_notification_is_done_and_not_answered() -> None:
    service = Service()

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        server.enable("daq", service)
        with zmq.asyncio.Context.instance().socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(server.endpoint.address)
            await dealer.send(b'{"jsonrpc":"2.0","method":"daq.Echo","params":{"value":5}}')
            await until(lambda: bool(service.calls))
            assert not await dealer.poll(200)
        assert service.calls == ["Echo"]

    serving(work)


def test_a_request_that_waits_delays_no_other() -> None:
    async def work(endpoint: str, server: rpcserver.Server) -> None:
        service = Waiting()
        server.enable("daq", service)
        slow = asyncio.create_task(rpc.acall(endpoint, "WaitForAll"))
        await until(lambda: service.calls == ["WaitForAll"])
        for number in range(20):
            assert await rpc.acall(endpoint, "Echo", {"value": number}) == number
        assert not slow.done()
        service.all_at_once.set()
        assert await slow == "woke"

    serving(work)


def test_many_clients_get_their_own_replies() -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        calls = [rpc.acall(endpoint, "Echo", {"value": number}) for number in range(100)]
        assert await asyncio.gather(*calls) == list(range(100))

    serving(work)


def test_time_runs_out() -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        with pytest.raises(rpc.RpcTimeout, match=r"did not reply to daq.Wait within 0.2 s") as got:
            await rpc.acall(endpoint, "Wait", {"seconds": 5}, 0.2)
        assert endpoint in got.value.message
        with pytest.raises(rpc.RpcTimeout):
            await asyncio.to_thread(rpc.call, endpoint, "Wait", {"seconds": 5}, 0.2)

    serving(work)


def test_nobody_there() -> None:
    port = free_port()
    begin = time.monotonic()
    with pytest.raises(rpc.Unreachable, match=f"nobody answers at .*:{port}/daq") as caught:
        rpc.call(f"zpb.rr://127.0.0.1:{port}/daq", "Echo", timeout_s=0.3)
    assert 0.2 < time.monotonic() - begin < 60
    assert caught.value.code == 69


def test_the_wait_for_a_dead_endpoint_is_shorter_than_that_for_a_reply(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rpcexchange, "CONNECT_S", 0.2)
    begin = time.monotonic()
    with pytest.raises(rpc.Unreachable):
        rpc.call(f"ipc://{tmp_path}/none.sock/daq", "Echo", timeout_s=300)
    assert time.monotonic() - begin < 60


def test_a_service_that_starts_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcexchange, "CONNECT_S", 60.0)
    endpoint = f"zpb.rr://127.0.0.1:{free_port()}"

    async def work() -> None:
        early = asyncio.create_task(rpc.acall(f"{endpoint}/daq", "Echo", {"value": 3}, 60))
        await asyncio.sleep(0.3)
        async with rpcserver.Server(endpoint, {"daq": Service()}):
            assert await early == 3

    asyncio.run(work())


def test_something_else_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        def speak() -> None:
            while True:
                try:
                    accepted = server.accept()[0]
                except OSError:
                    return
                with accepted:
                    accepted.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=speak, daemon=True).start()
        with pytest.raises(rpc.Unreachable, match="not as one of ours"):
            rpc.call(f"zpb.rr://127.0.0.1:{server.getsockname()[1]}/daq", "Echo", timeout_s=2)
        server.shutdown(socket.SHUT_RDWR)


def test_a_server_that_dies_before_it_replies_is_noticed_at_once() -> None:
    with in_process() as (endpoint, process):
        assert process.stdout
        told = process.stdout.readline  # that a request has come
        threading.Thread(target=lambda: (told(), process.kill())).start()
        begin = time.monotonic()
        with pytest.raises(rpc.Lost, match="closed the connection before it replied to daq.Wait"):
            rpc.call(endpoint, "Wait", {"seconds": 200}, 200)
        assert time.monotonic() - begin < 60


@pytest.mark.parametrize("reply", [b"\xff", b"[]", b"{}", b'"x"', b"{"])
def test_a_reply_that_is_not_json_rpc(reply: bytes) -> None:
    with pytest.raises(rpc.BadReply, match="not JSON-RPC"):
        _call_router(lambda _request: [reply])


def test_replies_to_other_requests_are_ignored() -> None:
    def answers(request: rpc.Document) -> list[bytes]:
        return [json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode()
                for id, result in (("other", "wrong"), (None, "wrong"), (request["id"], "right"))]

    assert _call_router(answers) == "right"


@pytest.mark.parametrize("error", [None, "text", {}, {"data": 7}, {"code": "x", "data": None}])
def test_a_poor_error_reply_is_still_an_error(error: Any) -> None:
    def answers(request: rpc.Document) -> list[bytes]:
        return [json.dumps({"id": request["id"], "error": error}).encode()]

    with pytest.raises(rpc.RemoteError, match="refused the request"):
        _call_router(answers)


def _call_router(answers: Callable[[rpc.Document], list[bytes]]) -> Any:
    """Call a server that answers what it is told."""
    with context().socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def serve() -> None:
            identity, body = router.recv_multipart()
            for answer in answers(json.loads(body)):
                router.send_multipart([identity, answer])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return rpc.call(f"zpb.rr://127.0.0.1:{port}/daq", "Echo", timeout_s=60)
        finally:
            thread.join()


@pytest.mark.parametrize("endpoint", ["zpb.rr://127.0.0.1:1", "zpb.ps://127.0.0.1:1/daq", "x"])
def test_an_endpoint_that_takes_no_requests(endpoint: str) -> None:
    with pytest.raises(errors.BadData):
        rpc.call(endpoint, "Echo")


@pytest.mark.parametrize("value", [float("inf"), {1, 2}, "x" * (rpc.MESSAGE_LIMIT + 1)])
def test_parameters_that_cannot_be_sent(value: Any) -> None:
    with pytest.raises(errors.BadData):
        rpc.call("zpb.rr://127.0.0.1:1/daq", "Echo", {"value": value})


def test_an_oversized_request_breaks_the_connection_not_the_server() -> None:
    async def work(endpoint: str, _server: rpcserver.Server) -> None:
        assert await raw(endpoint, b"x" * (rpc.MESSAGE_LIMIT + 1), patience_ms=300) is None
        assert await rpc.acall(endpoint, "Echo", {"value": 1}) == 1

    serving(work)


def test_an_interrupt_while_it_connects_is_that_and_leaves_nothing_open(
        monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[zmq.Socket[bytes]] = []
    dial = rpcsocket.dial

    def interrupted(_attempt: rpcsocket.Attempt, _frame: bytes) -> None:
        raise KeyboardInterrupt

    def kept(*given: Any) -> Any:
        dialled.extend(made := dial(*given))
        return made

    monkeypatch.setattr(rpcsocket, "dial", kept)
    monkeypatch.setattr(rpcsocket.Attempt, "note", interrupted)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"zpb.rr://127.0.0.1:{silent.getsockname()[1]}/daq"
        with pytest.raises(KeyboardInterrupt):
            rpc.call(endpoint, "Echo")
    assert len(dialled) == 2
    assert all(each.closed for each in dialled)


def test_without_a_socket_left_nothing_was_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_given: Any) -> Any:
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr(rpcsocket, "watch", none_left)
    for ask in (rpc.call, lambda *given: asyncio.run(rpc.acall(*given))):
        with pytest.raises(rpc.Unreachable, match=r"Too many open files; .*ulimit -n"):
            ask("zpb.rr://127.0.0.1:9/daq", "Echo")


@pytest.mark.parametrize(("text", "shown"), [
    ("caf\udce9", "caf\\udce9"), ("\\\udce9\"", "\\\\udce9\""), ("\u00e9 \u2603", "\u00e9 \u2603")])
def test_what_is_no_text_is_told_in_escapes(text: str, shown: str) -> None:
    async def tell() -> Any:
        return {text: [text]}

    async def work(endpoint: str, server: rpcserver.Server) -> None:
        server.enable("daq", {"Tell": tell})
        assert await rpc.acall(endpoint, "Tell") == {shown: [shown]}

    serving(work)
    assert json.loads(rpc.encode([text], escape=True)) == [shown]

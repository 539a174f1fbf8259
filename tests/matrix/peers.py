"""Scripted sources: each takes part in one acquisition, and does one thing wrong at one command.

They live in the loop of the test, on ROUTER sockets of their own making, because a fault may be
one that no good server makes: bytes that are no JSON, a connection that is closed in the middle.
Sources share a :class:`Host`, told apart by the path of their URI, unless their fault needs a
socket that they have for themselves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq
import zmq.asyncio

from daqlib import rpc
from harness import free_port

#: Seconds that the daemon gives a source for a reply.
LIMIT = 1.5
#: Seconds of a reply that is slow but in time, and of one that is not.
SLOWLY, LATE = 0.2, 2.5
#: Seconds that one wait for the end of a recording covers where its length matters, the margin
#: that the daemon adds to it, and the seconds of a reply that comes after both.
INTERVAL, WAIT_MARGIN, WAIT_LATE = 0.5, 2.0, 3.5
#: Seconds between death and return.
ABSENCE = 0.2

#: What a source can do wrong, and what that means.
FAULTS: dict[str, str] = {
    "none": "nothing goes wrong",
    "refuses": "answers with an error and does nothing",
    "lacks it": "does not know the command",
    "delays": "does it and replies late, but within the time limit",
    "hangs": "does nothing, and answers nothing from then on",
    "dies": "closes the connection and is gone",
    "returns": "closes the connection and is gone, and soon comes back; it remembers nothing",
    "babbles": "does it, and answers bytes that are no reply",
    "replies late": "does it at once and replies after the time limit",
    "acts late": "does it, and replies, only after the time limit",
}
#: The faults for which a source needs a socket for itself.
OWN_SOCKET = ("dies", "returns", "babbles")
#: The command that goes wrong at a moment, of a primary source and of a metadata source.
COMMANDS = {
    "start": ("RecStart", "StartDaq"),
    "wait": ("RecWait", "GetDaqStatus"),
    "stop": ("RecStop", "StopDaq"),
    "abort": ("RecAbort", "AbortDaq"),
}
_GARBAGE = b"\x00\xffgarbage{"
_QUERIES = ("RecWait", "RecStatus", "GetDaqStatus")
_LIVE = ("Active", "Acquiring")


class _Silence(Exception):
    """There is no answer."""


class Host:
    """A ROUTER socket and the sources behind it."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self.context = context
        self.port = free_port()
        self.sources: dict[str, Source] = {}
        self.waits = 0  # requests that wait for the end of a recording
        self._tasks: set[asyncio.Task[Any]] = set()
        self._socket: zmq.asyncio.Socket | None = None
        self.open()

    def open(self) -> None:
        socket = self.context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.bind(f"tcp://127.0.0.1:{self.port}")
        self._socket = socket
        self._spawn(self._receive(socket))

    def close(self) -> None:
        """Be gone, as when the process dies."""
        if self._socket:
            self._socket.close(linger=0)
        self._socket = None

    def come_back(self) -> None:
        """Serve again after a death, knowing nothing of what was."""
        for source in self.sources.values():
            source.state, source.fault, source.mute = "", "none", False
        if not self._socket:
            self.open()

    def source(self, path: str, *, primary: bool) -> Source:
        """Put a source here."""
        made = self.sources[path] = Source(self, path, primary)
        return made

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        with suppress(zmq.ZMQError):  # closed meanwhile
            while not socket.closed:
                frames = await socket.recv_multipart()
                self._spawn(self._answer(socket, frames[:-1], json.loads(frames[-1])))

    async def _answer(self, socket: zmq.asyncio.Socket, envelope: list[bytes],
                      request: dict[str, Any]) -> None:
        path, _, command = request["method"].rpartition(".")
        try:
            body = await self.sources[path].take(command, request.get("params", {}))
        except _Silence:
            return
        if isinstance(body, dict):
            body = rpc.encode({"jsonrpc": "2.0", "id": request["id"], **body})
        with suppress(zmq.ZMQError):  # closed meanwhile
            await socket.send_multipart([*envelope, body])

    def end(self) -> None:
        """Close for good."""
        self.close()
        for task in self._tasks:
            task.cancel()


class Source:
    """A recif or metadaqif source that records at most once.

    Attributes:
        state: its interface's word for its recording, empty while it knows of none.
        job: the id that it was started with.
        fault: one of :data:`FAULTS`.
        at: the command that goes wrong.
        mute: whether it answers nothing any more.
        struck: set when the fault has shown.
        begun: how often it began to record.
        asked: the commands that it received.
    """

    def __init__(self, host: Host, path: str, primary: bool) -> None:
        self.host, self.path, self.primary = host, path, primary
        self.name = path
        self.state = self.job = ""
        self.fault, self.at = "none", ""
        self.mute = False
        self.struck = asyncio.Event()
        self.begun = 0
        self.asked: list[str] = []
        self._ended = asyncio.Event()
        self._busy = 0

    @property
    def uri(self) -> str:
        return f"zpb.rr://127.0.0.1:{self.host.port}/{self.path}"

    def described(self, name: str) -> dict[str, str]:
        """Return it as a source of a specification."""
        self.name = name
        kind = "primarySource" if self.primary else "metadataSource"
        return {"type": kind, "sourceName": name, "rrUri": self.uri}

    def goes_wrong(self, fault: str, moment: str) -> None:
        """Let it do something wrong at a moment."""
        self.fault, self.at = fault, COMMANDS[moment][not self.primary]

    def mended(self) -> None:
        """Take the fault away, as a person does who mends or restarts it."""
        dead = self.fault == "dies"
        self.fault, self.mute = "none", False
        if dead:
            self.host.come_back()

    def complete(self) -> None:
        """Let the recording end by itself."""
        if self.state == "Active":
            self._become("Completed")

    @property
    def records(self) -> bool:
        return self.state in _LIVE

    def fate(self) -> str:
        """Return what became of it in one word or two."""
        if not self.begun:
            return "never began"
        if not self.state:
            return "forgot it"
        return {"Active": "records", "Acquiring": "records", "Succeeded": "stopped",
                "Completed": "ended"}.get(self.state, self.state.lower())

    async def at_rest(self) -> None:
        """Wait until it has done everything that it was asked to do, and is back."""
        while self._busy or (self.mute and self.fault == "returns"):
            await asyncio.sleep(0.02)

    def _become(self, state: str) -> None:
        self.state = state
        if state not in _LIVE:
            self._ended.set()

    # -- commands ---------------------------------------------------------------------------------

    async def take(self, command: str, params: dict[str, Any]) -> dict[str, Any] | bytes:
        """Carry a command out, in its own way."""
        self.asked.append(command)
        if self.mute:
            raise _Silence
        acting = command not in _QUERIES
        self._busy += acting
        try:
            if command == self.at and self.fault != "none":
                self.struck.set()
                return await self._wrong(command, params)
            return await self._do(command, params)
        finally:
            self._busy -= acting

    async def _wrong(self, command: str, params: dict[str, Any]) -> dict[str, Any] | bytes:
        late = WAIT_LATE if command == "RecWait" else LATE
        before = {"delays": SLOWLY, "acts late": late}.get(self.fault, 0.0)
        if self.fault == "refuses":
            return self._error("the shutter is stuck")
        if self.fault == "lacks it":
            return self._unknown(command)
        if self.fault in ("hangs", "dies", "returns"):
            self._vanish()
            raise _Silence
        if self.fault == "babbles" and command in _QUERIES:
            return _GARBAGE  # one that waited for the end of the recording first would be no fault
        await asyncio.sleep(before)
        reply = await self._do(command, params)
        if self.fault == "babbles":
            await self._undisturbed()
            return _GARBAGE
        await asyncio.sleep(late if self.fault == "replies late" else 0.0)
        return reply

    async def _undisturbed(self) -> None:
        """Let waits be answered: bytes that belong to no request spoil all that are under way."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT / 2):
                while self.host.waits:
                    await asyncio.sleep(0.01)

    def _vanish(self) -> None:
        self.mute = True
        if self.fault == "hangs":
            return
        self.host.close()
        if self.fault == "returns":
            asyncio.get_running_loop().call_later(ABSENCE, self.host.come_back)

    async def _do(self, command: str, params: dict[str, Any]) -> dict[str, Any]:
        act: Callable[[dict[str, Any]], Any] | None = getattr(self, f"_{command}", None)
        if act is None or command.startswith("Rec") != self.primary:
            return self._unknown(command)
        made = act(params)
        reply: dict[str, Any] = await made if asyncio.iscoroutine(made) else made
        return reply

    def _error(self, message: str) -> dict[str, Any]:
        kind = "recif::ExceptionErr" if self.primary else "metadaqif::DaqException"
        return {"error": {"code": rpc.REFUSED, "message": message, "data": {
            "exception": kind, "id": self.job, "message": message, "code": 65}}}

    def _unknown(self, command: str) -> dict[str, Any]:
        message = f"{self.path}.{command} is not known here"
        return {"error": {"code": rpc.METHOD_NOT_FOUND, "message": message, "data": {
            "exception": "rpc::MethodNotFound", "id": "", "message": message, "code": 69}}}

    def _begin(self, job: str, state: str) -> bool:
        if self.state:
            return False
        self.job, self.begun = job, self.begun + 1
        self._ended.clear()
        self._become(state)
        return True

    # recif, ESO-396401 section 11.1; the state is RecStatus.status

    def _recording(self) -> dict[str, Any]:
        files = [f"/nowhere/{self.path}.fits"] if self.state in ("Stopped", "Completed") else []
        return {"id": self.job, "info": "", "status": self.state, "dpFiles": files}

    def _RecStart(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if not self._begin(params["properties"]["id"], "Active"):
            return self._error("a recording is active")
        return {"result": self._recording()}

    def _RecStatus(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if not self.state or params.get("id", "") not in ("", self.job):
            return self._error("no such recording")
        return {"result": self._recording()}

    async def _RecWait(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if not self.state:
            return self._error("nothing was recorded yet")
        self.host.waits += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), float(params["timeout"]))
        asyncio.get_running_loop().call_soon(self._waited)
        word = "Success" if self._ended.is_set() else "Timeout"
        return {"result": {"status": word, "recStatus": self._recording()}}

    def _waited(self) -> None:
        self.host.waits -= 1

    def _RecStop(self, _params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if self.state != "Active":
            return self._error("no recording is active")
        self._become("Stopped")
        return {"result": self._recording()}

    def _RecAbort(self, _params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if self.state != "Active":
            return self._error("no recording is active")
        self._become("Aborted")
        return {"result": "OK"}

    # metadaqif, ESO-396401 section 11.1; the state is DaqStatus.state

    def _session(self) -> dict[str, Any]:
        files = [f"/nowhere/{self.path}.fits"] if self.state == "Succeeded" else []
        return {"id": self.job, "state": self.state, "files": files, "keywords": "[]",
                "message": "", "timestamp": 0.0}

    def _StartDaq(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if not self._begin(params["id"], "Acquiring"):
            return self._error("the id was used already")
        return {"result": {"id": self.job}}

    def _GetDaqStatus(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if not self.state or params.get("id") != self.job:
            return self._error("no such session")
        return {"result": self._session()}

    def _StopDaq(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if self.state != "Acquiring" or params.get("id") != self.job:
            return self._error("no such session is running")
        self._become("Succeeded")
        return {"result": self._session()}

    def _AbortDaq(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if self.state not in ("Acquiring", "Aborted") or params.get("id") != self.job:
            return self._error("no such session")
        self._become("Aborted")
        return {"result": {"id": self.job}}

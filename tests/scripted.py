"""Sources inside the test process whose every answer the test decides; one port, many sources."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from daqlib import rpc
from daqlib.rpcserver import Server
from harness import free_port

Handler = Callable[..., Awaitable[Any]]

_RECIF = ("RecStart", "RecStop", "RecAbort", "RecPause", "RecContinue", "RecStatus", "RecWait")
_METADAQIF = ("StartDaq", "StopDaq", "AbortDaq", "GetDaqStatus")
_AFTER = {"RecStart": "Active", "RecStop": "Stopped", "RecAbort": "Aborted", "RecPause": "Paused",
          "RecContinue": "Active", "StartDaq": "Acquiring", "StopDaq": "Succeeded",
          "AbortDaq": "Aborted"}


class Script:
    """A source of one acquisition.

    Attributes:
        path: of its service.
        plan: what a command does instead of obeying: "refuse", "hang" (obeys nothing, answers when
            released), "late" (obeys when released, too late for its answer) or "lacks".
        calls: the commands received, in order.
        state: of its recording.
        params: of the last start.
    """

    def __init__(self, endpoint: str, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.uri, self.primary = path, f"{endpoint}/{path}", path.startswith("rec")
        self.plan: dict[str, str] = {}
        self.calls: list[str] = []
        self.state = ""
        self.id = ""
        self.params: dict[str, Any] = {}
        self.keywords = "[]"
        self._loop = loop
        self._released = asyncio.Event()

    def source(self, **more: Any) -> dict[str, Any]:
        """Return it as a source of a specification."""
        kind = "primarySource" if self.primary else "metadataSource"
        return {"type": kind, "sourceName": self.path, "rrUri": self.uri, **more}

    def release(self) -> None:
        """Let go on what hangs or comes late."""
        self._loop.call_soon_threadsafe(self._released.set)

    def complete(self) -> None:
        """End the recording as if it had reached its end."""
        self.state = "Completed"

    def commands(self) -> dict[str, Handler]:
        names = _RECIF if self.primary else _METADAQIF
        return {name: self._command(name) for name in names}

    def _command(self, name: str) -> Handler:
        async def run(**params: Any) -> Any:
            self.calls.append(name)
            plan = self.plan.get(name, "")
            if plan == "refuse":
                raise rpc.RemoteError(f"{name} is refused", exception="test::Refused")
            if plan == "lacks":
                raise rpc.RemoteError(f"{name}: Not Implemented", exception="test::Lacks")
            if plan in ("hang", "late"):
                await self._released.wait()
            if name in _AFTER and plan != "hang":
                self._obey(name, params)
            return await self._answer(name, params)
        return run

    def _obey(self, name: str, params: dict[str, Any]) -> None:
        if name in ("RecStart", "StartDaq"):
            self.params = params.get("properties", params)
            self.id = self.params["id"]
        self.state = _AFTER[name]

    async def _answer(self, name: str, params: dict[str, Any]) -> Any:
        if name == "RecAbort":
            return "OK"
        if name == "RecWait":
            for _ in range(int(params["timeout"] / 0.05)):
                if self.state not in ("Active", "Paused"):
                    break
                await asyncio.sleep(0.05)
            return {"status": "Success", "recStatus": self.status()}
        wanted = params.get("id")
        if name in ("RecStatus", "GetDaqStatus") and (not self.state or wanted != self.id):
            raise rpc.RemoteError("unknown", exception="test::Unknown", code=66)
        return self.status()

    def status(self) -> dict[str, Any]:
        if self.primary:
            return {"id": self.id, "status": self.state, "dpFiles": []}
        return {"id": self.id, "state": self.state, "files": [], "keywords": self.keywords}


class Stage:
    """The scripted sources of a test module."""

    def __init__(self) -> None:
        self.endpoint = f"zpb.rr://127.0.0.1:{free_port()}"
        self._loop = asyncio.new_event_loop()
        self._leave = asyncio.Event()
        self._number = 0
        self._ready = threading.Event()
        self._server: Server
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))

    async def _run(self) -> None:
        async with Server(self.endpoint, {}) as self._server:
            self._ready.set()
            await self._leave.wait()

    def _new(self, kind: str, **plan: str) -> Script:
        self._number += 1
        made = Script(self.endpoint, f"{kind}{self._number}", self._loop)
        made.plan.update(plan)
        self._server.enable(made.path, made.commands())
        return made

    def recif(self, **plan: str) -> Script:
        """Return a new primary source."""
        return self._new("rec", **plan)

    def metadaqif(self, **plan: str) -> Script:
        """Return a new metadata source."""
        return self._new("meta", **plan)

    def without(self, script: Script, command: str) -> None:
        """Take a command away from a source."""
        kept = {name: run for name, run in script.commands().items() if name != command}
        self._server.enable(script.path, kept)

    @contextmanager
    def running(self) -> Iterator[Stage]:
        """Serve them."""
        self._thread.start()
        self._ready.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._leave.set)
            self._thread.join()
            self._loop.close()

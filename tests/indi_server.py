"""A server that speaks INDI as a test says, for what no simulator does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from harness import PATIENCE_S

#: Seconds for what never comes.
SHORT_S = 0.3


class Server:
    """A server that says what the test says; keeps what clients say."""

    def __init__(self) -> None:
        self.port, self.heard = 0, ""
        self.answers: dict[str, bytes] = {}
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear a client."""
        self.writers.append(writer)
        while data := await reader.read(65536):
            self.heard += data.decode()
            writer.write(self.answer(data.decode()))

    def answer(self, text: str) -> bytes:
        """Return what is said to what a client says."""
        return b"".join(answer for part, answer in self.answers.items() if part in text)

    def say(self, data: bytes) -> None:
        """Say something to the client that came first."""
        self.writers[0].write(data)

    async def until_heard(self, text: str) -> None:
        """Wait until a client has said a text."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.heard:
                await asyncio.sleep(0.01)


S = TypeVar("S", bound=Server)


@asynccontextmanager
async def serving(server: S) -> AsyncIterator[S]:
    """Have a server serve on a free port."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        for writer in server.writers:
            writer.transport.abort()
        listener.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in an event loop."""
    asyncio.run(test())


def defined(name: str, kind: str = "Number", state: str = "Idle", **elements: object) -> bytes:
    """Return the definition of a property of the device CCD."""
    return _vector("def", f"def{kind}", name, kind, state, elements)


def changed(name: str, kind: str = "Number", state: str = "Ok", **elements: object) -> bytes:
    """Return what tells new values of a property of the device CCD."""
    return _vector("set", f"one{kind}", name, kind, state, elements)


def _vector(what: str, one: str, name: str, kind: str, state: str,
            elements: dict[str, object]) -> bytes:
    inner = "".join(f'<{one} name="{element}">{value}</{one}>'
                    for element, value in elements.items())
    return (f'<{what}{kind}Vector device="CCD" name="{name}" state="{state}" perm="rw">{inner}'
            f"</{what}{kind}Vector>\n").encode()

"""When a device of an INDI server has told all: with a server that answers as the test says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from daq_ctl.sources.indi import listing
from daq_ctl.sources.indi.client import Client
from daq_ctl.sources.indi.listing import Listing
from daqlib import errors
from harness import PATIENCE_S

#: What is answered to a question for a device and perhaps a property: pauses in seconds, and
#: properties; None ends the connection.
Script = Callable[[str, str], list[float | str | None]]


#: Seconds that no listing may need: one that ends by them has not seen that it is complete.
NEVER_S = 10 * PATIENCE_S


def listed(script: Script, *devices: str, silence: float = NEVER_S, limit: float = NEVER_S,
           enough: str = "") -> list[str]:
    """Return the properties that are there when a listing is complete."""
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            question = (await reader.readuntil(b">")).decode()
            asked = dict(re.findall(r'(\w+)="([^"]*)"', question))
            for told in script(asked.get("device", ""), asked.get("name", "")):
                if told is None:
                    writer.close()
                    return
                if isinstance(told, float):
                    await asyncio.sleep(told)
                    continue
                device, _, name = told.rpartition("/")
                writer.write(f'<defTextVector device="{device or "D"}" name="{name}" state="Ok" '
                             'perm="ro"></defTextVector>\n'.encode())

    async def run() -> list[str]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = Client()
        try:
            await client.connect("127.0.0.1", server.sockets[0].getsockname()[1], PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S):
                await Listing(client, list(devices), silence).complete(
                    lambda: ("D", enough) in client.vectors, limit)
            return [name for _, name in client.vectors]
        finally:
            await client.close()
            server.close()

    return asyncio.run(run())


def test_a_driver_that_answers_again_has_told_all() -> None:
    assert listed(lambda _, name: [name] if name else ["A", 0.2, "B", 0.2, "C"], "D") == [
        "A", "B", "C"]


def test_what_is_wanted_is_enough() -> None:
    def script(_device: str, name: str) -> list[float | str | None]:
        return [] if name else ["A", "B", 2 * PATIENCE_S]
    assert listed(script, "D", enough="B")[:2] == ["A", "B"]


def test_the_answer_to_another_client_in_between_ends_nothing(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_PAUSE_S", 1.0)  # for a machine that has other things to do

    def script(_device: str, name: str) -> list[float | str | None]:
        return [name] if name else ["A", 0.05, "A", "B", 0.02, "C"]
    assert listed(script, "D") == ["A", "B", "C"]


def test_a_device_that_says_nothing_is_absent() -> None:
    assert listed(lambda device, name: ["A"] if device == "D" else [], "D", "Gone",
                  silence=1.0) == ["A"]
    assert listed(lambda _device, _name: [], silence=0.1) == []


def test_a_driver_that_does_not_answer_again_is_waited_for_until_the_limit() -> None:
    assert listed(lambda _, name: [] if name else ["A", 0.2, "B"], "D", limit=0.5) == ["A", "B"]


def test_all_devices_are_waited_for() -> None:
    def script(device: str, name: str) -> list[float | str | None]:
        return [f"{device}/{name}"] if name else ["One/A", "One/B", "Two/A", 0.1, "Two/C"]
    assert listed(script) == ["A", "B", "A", "C"]


def test_the_end_of_the_connection_is_told() -> None:
    with pytest.raises(errors.Unavailable, match="closed the connection"):
        listed(lambda _device, _name: ["A", None], "D")

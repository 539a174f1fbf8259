"""The adapters of ESO's source interfaces by themselves: what a refusal says, and what not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daq_ctl.sources import ABSENT, Order
from daq_ctl.sources.metadaqif import Metadaqif
from daq_ctl.sources.recif import Recif
from daqlib import errors, rpc, rpcserver
from rpc_peers import LOCAL


class Detector:
    """Records for us, and may have reasons not to tell."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.state = "Active"

    async def RecStatus(self, id: str = "") -> dict[str, Any]:
        if self.refusal:
            raise self.refusal
        return {"id": id, "status": self.state, "dpFiles": []}

    async def RecAbort(self) -> str:
        self.state = "Aborted"
        return "OK"

    async def GetDaqStatus(self, id: str) -> dict[str, Any]:
        return {**await self.RecStatus(id), "state": "Acquiring"}

    async def AbortDaq(self, id: str) -> dict[str, str]:
        await self.RecAbort()
        return {"id": id}


def asking(work: Any) -> None:
    async def run() -> None:
        detector = Detector()
        async with rpcserver.Server(LOCAL, {"rec": detector, "daq": detector},
                                    log=lambda _text: None) as server:
            uri = str(server.endpoint)
            named = {"sourceName": "dcs", "rrUri": uri}
            order = Order(named, "j")
            await work(detector, server, Recif(order), Metadaqif(order))
    asyncio.run(run())


@pytest.mark.parametrize("refusal", [
    rpc.RemoteError("suspended", exception="rpc::NotEnabled", code=errors.Unavailable.code),
    rpc.RemoteError("too much to do", exception="rpc::Busy", code=errors.Later.code),
    ZeroDivisionError()])
def test_a_source_that_cannot_tell_is_not_one_that_knows_nothing(refusal: Exception) -> None:
    async def work(detector: Detector, _server: rpcserver.Server, recif: Recif,
                   metadaqif: Metadaqif) -> None:
        detector.refusal = refusal
        with pytest.raises(rpc.RemoteError):
            await recif.abort()
        with pytest.raises(rpc.RemoteError):
            await recif.status()
        assert detector.state == "Active"
        await metadaqif.abort()  # names its session, so nothing need be asked before
        assert detector.state == "Aborted"

    asking(work)


def test_a_source_that_knows_no_such_recording_has_nothing_to_abort() -> None:
    async def work(detector: Detector, _server: rpcserver.Server, recif: Recif,
                   _metadaqif: Metadaqif) -> None:
        detector.refusal = rpc.RemoteError("no recording j", code=errors.NoJob.code)
        assert await recif.status() == ABSENT
        await recif.abort()
        assert detector.state == "Active"

    asking(work)


def test_a_service_that_is_suspended_still_records() -> None:
    async def work(detector: Detector, server: rpcserver.Server, recif: Recif,
                   _metadaqif: Metadaqif) -> None:
        server.disable("rec")
        with pytest.raises(rpc.RemoteError, match="not enabled"):
            await recif.abort()
        server.enable("rec", detector)
        await recif.abort()
        assert detector.state == "Aborted"

    asking(work)

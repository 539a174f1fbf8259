from __future__ import annotations

import json
from pathlib import Path

import pytest

from daqlib import rpc
from harness import PATIENCE_S, Daq

READY = "ready at"


def test_many_sources_in_one_process(daq: Daq) -> None:
    endpoint = f"ipc://{daq.folder}/many.sock"
    with daq.start("daq-sim", "recif", "ccs", endpoint, "--count", 3, "-v", "--size", "4K",
                   "--fail", "RecStart:2=stuck", "--directory", daq.folder / "out", until=READY,
                   stdin=True) as process:
        uris = process.out.split()
        assert uris == [f"{endpoint}/rec{number}" for number in (1, 2, 3)]
        for uri in uris:  # each has a recording of its own under the same id
            begun = rpc.call(uri, "RecStart", {"properties": {"id": "E"}}, PATIENCE_S)
            assert begun["status"] == "Active"
        with pytest.raises(rpc.RemoteError, match="stuck"):  # and calls are counted for each
            rpc.call(f"{endpoint}/RecCmds2", "RecStart", {}, PATIENCE_S)
        assert rpc.call(f"{endpoint}/RecCmds2", "RecStop", {}, PATIENCE_S)["dpFiles"] == [
            str(daq.folder / "out" / "ccs2_E.fits")]
        assert rpc.call(uris[0], "RecStatus", {}, PATIENCE_S)["status"] == "Active"
        assert rpc.call(f"{endpoint}/std", "GetState", {}, PATIENCE_S) == "Operational;Active"
        process.press_enter()
        for uri in (uris[0], uris[2]):
            waited = rpc.call(uri, "RecWait", {"timeout": 50}, PATIENCE_S)
            assert waited["recStatus"]["status"] == "Completed"
        assert rpc.call(f"{endpoint}/std", "GetState", {}, PATIENCE_S) == "Operational;Idle"
        assert 'daq-sim: ccs2: RecStart {"properties": {"id": "E"}}' in process.err
        with pytest.raises(rpc.RemoteError, match="rec4"):
            rpc.call(f"{endpoint}/rec4", "RecStatus", {}, PATIENCE_S)


def test_many_metadata_sources(daq: Daq) -> None:
    endpoint = f"ipc://{daq.folder}/many.sock"
    with daq.start("daq-sim", "metadaqif", "lcs", endpoint, "--count", 2, "--json", "--size", "4K",
                   "--directory", daq.folder / "out", until=READY) as process:
        told = [json.loads(line) for line in process.out.splitlines()]
        assert [(each["name"], each["uri"]) for each in told] == [
            ("lcs1", f"{endpoint}/daq1"), ("lcs2", f"{endpoint}/daq2")]
        for each in told:
            rpc.call(each["uri"], "StartDaq", {"id": "S"}, PATIENCE_S)
            [path] = rpc.call(each["uri"], "StopDaq", {"id": "S"}, PATIENCE_S)["files"]
            assert Path(path).name == f"{each['name']}_S.fits"

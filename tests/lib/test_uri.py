from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daqlib import errors, uri


@pytest.mark.parametrize(
    ("text", "shown", "address", "path"),
    [
        ("zpb.rr://127.0.0.1:12081/", "zpb.rr://127.0.0.1:12081", "tcp://127.0.0.1:12081", ""),
        ("zpb.rr://127.0.0.1:12081", "zpb.rr://127.0.0.1:12081", "tcp://127.0.0.1:12081", ""),
        ("zpb.rr://insws1:1/daq", "zpb.rr://insws1:1/daq", "tcp://insws1:1", "daq"),
        ("zpb.rr://a.b-c:65535/daq/", "zpb.rr://a.b-c:65535/daq", "tcp://a.b-c:65535", "daq"),
        ("zpb.rr://h:7/a/b_c", "zpb.rr://h:7/a/b_c", "tcp://h:7", "a/b_c"),
        ("zpb.ps://h:12082/", "zpb.ps://h:12082", "tcp://h:12082", ""),
        ("zpb://h:7/daq", "zpb.rr://h:7/daq", "tcp://h:7", "daq"),
        ("ipc:///run/daq.sock", "ipc:///run/daq.sock", "ipc:///run/daq.sock", ""),
        ("ipc:///run/daq.sock/", "ipc:///run/daq.sock", "ipc:///run/daq.sock", ""),
        ("ipc:///run/a.sock/daq", "ipc:///run/a.sock/daq", "ipc:///run/a.sock", "daq"),
        ("ipc:///a.sock/b.sock/rec/x", "ipc:///a.sock/b.sock/rec/x", "ipc:///a.sock/b.sock",
         "rec/x"),
    ],
)
def test_parses(text: str, shown: str, address: str, path: str) -> None:
    endpoint = uri.parse(text)
    assert (str(endpoint), endpoint.address, endpoint.path) == (shown, address, path)
    assert uri.parse(str(endpoint)) == uri.dataclasses.replace(endpoint, note="")


def test_the_alias_is_noted() -> None:
    assert "zpb.rr" in uri.parse("zpb://h:7/daq").note
    assert uri.parse("zpb.rr://h:7/daq").note == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "scheme"),
        ("127.0.0.1:12081", "scheme"),
        ("http://127.0.0.1:80/", "scheme"),
        ("tcp://127.0.0.1:80", "scheme"),
        ("ZPB.RR://127.0.0.1:80", "scheme"),
        ("zpb.rr://127.0.0.1", "HOST:PORT"),
        ("zpb.rr://127.0.0.1:", "HOST:PORT"),
        ("zpb.rr://127.0.0.1:x", "HOST:PORT"),
        ("zpb.rr://127.0.0.1:-1", "HOST:PORT"),
        ("zpb.rr://127.0.0.1:+80", "HOST:PORT"),
        ("zpb.rr://[::1]:80", "HOST:PORT"),
        ("zpb.rr://127.0.0.1:0", "between 1 and 65535"),
        ("zpb.rr://127.0.0.1:65536", "between 1 and 65535"),
        ("zpb.rr://:80", "host"),
        ("zpb.rr://-h:80", "host"),
        ("zpb.rr://h-:80", "host"),
        ("zpb.rr://ho/st:80", "HOST:PORT"),
        ("zpb.rr://*:80", "serving only"),
        ("zpb.rr://user@host:80", "user names"),
        ("zpb.rr://user:secret@host:80", "user names"),
        ("zpb.rr://h:80/a b", "blanks"),
        ("zpb.rr://h:80/daq\n", "blanks or control"),
        ("zpb.rr://h:80/daq\x00", "blanks or control"),
        (" zpb.rr://h:80", "blanks"),
        ("-zpb.rr://h:80", "begins with '-'"),
        ("zpb.rr://h:80/a//b", "path"),
        ("zpb.rr://h:80/a.b", "path"),
        ("zpb.rr://h:80/daq?x=1", "path"),
        ("zpb.rr://h:80/../x", "path"),
        ("zpb.rr://h:80/-x", "path"),
        ("ipc://run/daq.sock", "absolute path"),
        ("ipc:///run/daq", ".sock"),
        ("ipc://@abstract.sock", "absolute path"),
        ("ipc:///run/../daq.sock", "'..'"),
        ("ipc:///run/daq.sock/a.b", ".sock"),
    ],
)
def test_refuses(text: str, why: str) -> None:
    with pytest.raises(errors.BadData) as caught:
        uri.parse(text)
    assert why in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("text", [None, 7, b"zpb.rr://h:80", ["x"]])
def test_refuses_what_is_no_text(text: object) -> None:
    with pytest.raises(errors.BadData):
        uri.parse(text)  # type: ignore[arg-type]


def test_serving_may_use_any_interface_and_any_port() -> None:
    endpoint = uri.parse("zpb.rr://*:0", bind=True)
    assert (endpoint.host, endpoint.port, endpoint.loopback) == ("*", 0, False)
    assert str(uri.with_port(endpoint, 4711)) == "zpb.rr://*:4711"
    assert uri.with_port(endpoint, 4711).address == "tcp://*:4711"


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("zpb.rr://127.0.0.1:1", True),
        ("zpb.rr://127.8.9.1:1", True),
        ("zpb.rr://localhost:1", True),
        ("ipc:///a.sock", True),
        ("zpb.rr://0.0.0.0:1", False),
        ("zpb.rr://10.0.0.1:1", False),
        ("zpb.rr://127.0.0.1.example.org:1", False),
        ("zpb.rr://localhost.example.org:1", False),
    ],
)
def test_knows_what_stays_on_this_host(text: str, loopback: bool) -> None:
    assert uri.parse(text).loopback is loopback


def test_the_socket_path_has_a_limit() -> None:
    longest = "/" + "x" * (uri.IPC_LIMIT - 6) + ".sock"
    assert uri.parse(f"ipc://{longest}/daq").file == longest
    with pytest.raises(errors.BadData, match="108 bytes, and the system takes 107"):
        uri.parse(f"ipc:///y{longest[1:]}/daq")
    with pytest.raises(errors.BadData, match="bytes"):  # two bytes a letter
        uri.parse("ipc:///" + "é" * 60 + ".sock")


def test_with_path_sets_the_service() -> None:
    endpoint = uri.parse("zpb.rr://h:7/rec")
    assert str(uri.with_path(endpoint, "/daq/")) == "zpb.rr://h:7/daq"
    assert str(uri.with_path(endpoint, "")) == "zpb.rr://h:7"
    with pytest.raises(errors.BadData):
        uri.with_path(endpoint, "a b")


@pytest.mark.parametrize("module", ["uri", "rpc"])
def test_the_client_loads_nothing_heavy(module: str) -> None:
    code = (f"import sys, daqlib.{module}; "
            "print(*{'zmq', 'asyncio', 'numpy', 'socket'} & set(sys.modules))")
    lib = str(Path(uri.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": lib}, text=True,
                          capture_output=True, check=True)
    assert done.stdout.strip() == ""

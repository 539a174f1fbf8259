from __future__ import annotations

import os
from pathlib import Path

import pytest
import zmq
import zmq.auth

from daqlib import curve, errors


@pytest.mark.parametrize("secret", [False, True])
def test_reads_what_others_write(tmp_path: Path, secret: bool) -> None:
    zmq.auth.create_certificates(tmp_path, "a", metadata={"email": "x"})
    path = str(tmp_path / ("a.key_secret" if secret else "a.key"))
    assert curve.certificate(path) == zmq.auth.load_certificate(path)


def test_others_read_what_it_writes(tmp_path: Path) -> None:
    for _ in range(20):  # a key may hold any of 85 characters, among them # = and brackets
        public, secret = zmq.curve_keypair()
        path = tmp_path / "a.key_secret"
        path.write_bytes(curve.text("a", public, secret))
        assert curve.certificate(str(path)) == zmq.auth.load_certificate(path) == (public, secret)
        path.write_bytes(curve.text("a", public))
        assert curve.certificate(str(path)) == zmq.auth.load_certificate(path) == (public, None)


@pytest.mark.parametrize("content", [
    b"", b"junk", b"\xff\xfe", b'public-key = ""', b'public-key = "short"',
    b'public-key = "' + b"~" * 40 + b'"', b'secret-key = "' + b"a" * 40 + b'"',
    b'public-key = "' + b"a" * 40 + b'"\nsecret-key = "b"',
])
def test_what_is_no_certificate(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.key"
    path.write_bytes(content)
    with pytest.raises(errors.BadConfig, match="a.key") as caught:
        curve.certificate(str(path))
    assert caught.value.remedy
    with pytest.raises(errors.BadConfig, match="no such"):
        curve.certificate(str(tmp_path / "b.key"))
    with pytest.raises(errors.BadConfig):
        curve.certificate(str(tmp_path))


def test_a_directory_of_clients_is_followed(tmp_path: Path) -> None:
    pairs = {name: zmq.curve_keypair()[0] for name in ("a", "b")}
    clients = curve.Authorized(str(tmp_path))
    assert clients.name_of(pairs["a"]) == ""
    for name, public in pairs.items():
        (tmp_path / f"{name}.key").write_bytes(curve.text(name, public))
        assert clients.name_of(public) == name
    # hidden ones, secret ones and other files are no clients
    other = zmq.curve_keypair()
    (tmp_path / ".c.key").write_bytes(curve.text("c", other[0]))
    (tmp_path / "c.key_secret").write_bytes(curve.text("c", *other))
    assert clients.name_of(other[0]) == "" and clients.faults == []
    (tmp_path / "d.key").symlink_to(tmp_path / "nowhere")
    (tmp_path / "e.key").write_text("junk")
    assert clients.name_of(pairs["b"]) == "b"
    assert [os.path.basename(fault.partition(":")[0]) for fault in clients.faults] == ["e.key"]
    (tmp_path / "b.key").unlink()
    assert clients.name_of(pairs["b"]) == "" and clients.name_of(pairs["a"]) == "a"
    (tmp_path / "a.key").rename(tmp_path / "z.key")
    assert clients.name_of(pairs["a"]) == "z"

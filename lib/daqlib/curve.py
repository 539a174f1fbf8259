"""Keys of the transport: CURVE certificates in files (zmq_curve(7)).

A certificate has the format that ZeroMQ's other programs use: lines ``public-key = "..."`` and, in
a ``.key_secret`` file, ``secret-key = "..."``, each key in the 40 characters of Z85.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat

from daqlib import errors, uri

PUBLIC, SECRET = ".key", ".key_secret"

_LINE = re.compile(r"""^[ \t]*(public|secret)-key[ \t]*=[ \t]*["']([^"'\s]*)["'][ \t]*$""", re.M)
# ZeroMQ RFC 32
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_LARGEST = 1 << 16  # bytes of a file that can be a certificate
_MAKE = "make a key pair with daq-ctl keygen"


def text(name: str, public: bytes, secret: bytes | None = None) -> bytes:
    """Return the content of a certificate file.

    Args:
        name: whose it is.
        public: the public key, Z85.
        secret: the secret one; None makes the file that may be given away.
    """
    lines = [f"# CURVE key pair of {name}: keep this file to yourself" if secret else
             f"# CURVE public key of {name}", "curve", f'    public-key = "{public.decode()}"']
    if secret:
        lines.append(f'    secret-key = "{secret.decode()}"')
    return ("\n".join(lines) + "\n").encode()


def certificate(path: str) -> tuple[bytes, bytes | None]:
    """Load a certificate: the public key and, if the file has it, the secret one.

    Raises:
        errors.BadConfig: the file is missing or no certificate.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = dict(_LINE.findall(file.read(_LARGEST)))
    except FileNotFoundError:
        raise errors.BadConfig(f"{path}: there is no such certificate",
                               "correct its path") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise errors.BadConfig(f"{path}: {reason}", _MAKE) from error
    keys = [found.get("public", ""), found.get("secret", "")]
    if not keys[0] or any(key and not _Z85.fullmatch(key) for key in keys):
        raise errors.BadConfig(f"{path}: it is no CURVE certificate", _MAKE)
    return keys[0].encode(), keys[1].encode() or None


def secret_certificate(path: str) -> tuple[bytes, bytes]:
    """Load our own certificate, which nobody else may read.

    Raises:
        errors.BadConfig: it is missing, holds no secret key, or others can read it.
    """
    public, secret = certificate(path)
    if secret is None:
        raise errors.BadConfig(f"{path} holds no secret key", f"name the {SECRET} file")
    if os.stat(path).st_mode & 0o077:
        raise errors.BadConfig(f"{path} can be read by others", f"chmod 600 {path}")
    return public, secret


def check_folder(folder: str) -> None:
    """Check a directory of clients' keys.

    Raises:
        errors.BadConfig: it is none, or anybody could put a key into it.
    """
    if not os.path.isdir(folder):
        raise errors.BadConfig(f"{folder} is no directory of clients' keys",
                               f"make it and put the clients' {PUBLIC} files into it")
    if os.stat(folder).st_mode & stat.S_IWOTH:
        raise errors.BadConfig(f"{folder} can be written by anybody, who could let in anybody",
                               f"chmod o-w {folder}")


class Authorized:
    """The clients of a directory, as it is now: a key file counts as soon as it is there.

    Attributes:
        faults: why files of the directory do not count.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: object = None
        self._names: dict[bytes, str] = {}
        self.faults: list[str] = []

    def name_of(self, key: bytes) -> str:
        """Return the name of the client with a public key (Z85), empty when there is none."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._read([name for name, *_ in seen])
        return self._names.get(key, "")

    def _look(self) -> list[tuple[str, int, int]]:
        found = []
        with contextlib.suppress(OSError):  # gone: nobody is let in until it is back
            for name in os.listdir(self._folder):
                if name.endswith(PUBLIC) and not name.startswith("."):
                    with contextlib.suppress(OSError):
                        facts = os.stat(os.path.join(self._folder, name))
                        found.append((name, facts.st_mtime_ns, facts.st_ino))
        return sorted(found)

    def _read(self, files: list[str]) -> None:
        self._names, self.faults = {}, []
        for name in files:
            try:
                key = certificate(os.path.join(self._folder, name))[0]
            except errors.BadConfig as error:
                self.faults.append(error.message)
            else:
                self._names[key] = name.removesuffix(PUBLIC)


def client_keys(endpoint: uri.Endpoint) -> tuple[tuple[bytes, bytes], bytes] | None:
    """Return our key pair and the server's public key for an endpoint; None is for plain text.

    They come from ``DAQ_CURVE_CERTIFICATE`` and ``DAQ_CURVE_SERVER_KEY``, see :mod:`daqlib.rpc`.

    Raises:
        errors.BadConfig: the keys of the environment are not usable.
    """
    own = os.environ.get("DAQ_CURVE_CERTIFICATE", "")
    server = os.environ.get("DAQ_CURVE_SERVER_KEY", "")
    if endpoint.file or not (own or server):
        return None
    if not (own and server):
        raise errors.BadConfig("only one of DAQ_CURVE_CERTIFICATE and DAQ_CURVE_SERVER_KEY is set",
                               "set both, or none")
    if os.path.isdir(server):
        server = _key_of(endpoint, server)
        if not server:
            return None
    return secret_certificate(own), certificate(server)[0]


def _key_of(endpoint: uri.Endpoint, folder: str) -> str:
    for name in (f"{endpoint.host}:{endpoint.port}{PUBLIC}", f"{endpoint.host}{PUBLIC}"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    if endpoint.loopback:
        return ""
    raise errors.BadConfig(f"{folder} has no key for {endpoint}",
                           f"copy the server's public key to {folder}/{endpoint.host}{PUBLIC}")

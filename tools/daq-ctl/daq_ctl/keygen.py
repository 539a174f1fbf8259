"""Make a CURVE key pair, for a server that others can reach or for one of its clients."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex

from daqlib import cli, curve, errors, fsops, names

_DEFAULT = "daq-ctl"


def run(options: argparse.Namespace, words: list[str]) -> int:
    """Write ``NAME.key`` and ``NAME.key_secret`` durably and print their paths.

    Args:
        options: ``directory`` (default: the current one) and ``json``.
        words: the name, by default that of the server; a client is known by its.

    Raises:
        errors.Usage: more than one name, or no such directory.
        errors.BadData: the name is not fit for a file.
        errors.Conflict: a key of that name exists; it is never overwritten.
        OSError: the files could not be written.
    """
    if len(words) > 1:
        raise errors.Usage(f"keygen takes one name, not {' '.join(words)!r}",
                           "try 'daq-ctl --help'")
    name = names.check_id(words[0] if words else _DEFAULT)
    folder = os.path.abspath(getattr(options, "directory", None) or os.curdir)
    if not os.path.isdir(folder):
        raise errors.Usage(f"{folder} is no directory", f"mkdir -m 700 {folder}")
    stem = os.path.join(folder, name)
    key = _write(stem, name)
    if getattr(options, "json", False):
        cli.emit({"public": stem + curve.PUBLIC, "secret": stem + curve.SECRET, "key": key})
        return errors.OK
    cli.show(stem + curve.PUBLIC)
    cli.show(stem + curve.SECRET)
    for line in _advice(stem):
        cli.say(line)
    return errors.OK


def _write(stem: str, name: str) -> str:
    """Make and write a key pair; return the public key."""
    import zmq

    public, secret = zmq.curve_keypair()
    for path in (stem + curve.PUBLIC, stem + curve.SECRET):
        if os.path.lexists(path):
            raise _exists(path)
    written = stem + curve.SECRET
    try:
        fsops.put(written, curve.text(name, public, secret), mode=0o600, replace=False)
    except FileExistsError:
        raise _exists(written) from None
    try:
        fsops.put(stem + curve.PUBLIC, curve.text(name, public), mode=0o644, replace=False)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the half of a pair is of no use
            os.unlink(written)
        if isinstance(error, FileExistsError):
            raise _exists(stem + curve.PUBLIC) from None
        raise
    return public.decode()


def _exists(path: str) -> errors.Conflict:
    return errors.Conflict(f"{path} exists and is not overwritten",
                           "use another name, or move the old pair away")


def _advice(stem: str) -> list[str]:
    """Return the lines that use the pair: in a server's configuration, in a client's shell."""
    secret = stem + curve.SECRET
    folder = os.path.join(os.path.dirname(stem), "authorized")
    return [f'server: curve: {{certificate: "{secret}", authorized: "{folder}"}}',
            f"client: export DAQ_CURVE_CERTIFICATE={shlex.quote(secret)} "
            f"DAQ_CURVE_SERVER_KEY=SERVER{curve.PUBLIC}"]

"""Names that come from outside, checked before anything is written.

A name that is used as a file name never holds ``/``, never is or holds ``..``, never begins with
``-`` or ``.``, and holds no control characters; a location is absolute and cannot be read as an
option by rsync or ssh.
"""

from __future__ import annotations

from daqlib import errors

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LONGEST = 200  # characters of a file name


class Form:
    """Which names are allowed; a regular expression in effect, but without loading ``re``.

    Args:
        first: what the first character may be beside letters and digits.
        others: what may stand behind the first character beside letters and digits.
        longest: number of characters.
    """

    __slots__ = ("_first", "_others", "_longest")

    def __init__(self, first: str, others: str, longest: int) -> None:
        self._first = _LETTERS + first
        self._others = _LETTERS + others
        self._longest = longest

    def fullmatch(self, text: str) -> bool:
        """Tell whether a whole text has the form."""
        return (0 < len(text) <= self._longest and text[0] in self._first
                and not text.strip(self._others))


class _Host(Form):
    def fullmatch(self, text: str) -> bool:
        user, at, host = text.rpartition("@")
        return super().fullmatch(host) and (not at or len(user) <= 64 and super().fullmatch(user))


#: A job id, and with it a file name in the spool.
ID = Form("", "._:+-", 128)
#: ``filePrefix``: the characters that ifw-daq accepts: letters, digits, ``-_.``.
PREFIX = Form("_", "._-", 64)
SOURCE = Form("_", "._+-", 64)
INSTRUMENT = Form("_", "_+-", 32)
#: A host name, an address or an alias of the ssh configuration, optionally ``user@``.
HOST = _Host("_", "._-", 253)
#: A module of an rsync daemon.
MODULE = Form("_", "._+-", 64)
#: How the location of a file begins that an rsync daemon serves.
DAEMON = "rsync://"


def _check(form: Form, what: str, value: str, allowed: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value) or ".." in value:
        raise errors.BadData(f"{what} {value!r} is not allowed", f"use {allowed}")
    return value


def check_id(value: str) -> str:
    """Return a valid job id.

    Raises:
        errors.BadData: the id could not be a file name in the spool.
    """
    return _check(ID, "id", value, "1 to 128 letters, digits and ._:+- beginning with a letter "
                  "or digit, without '..'")


def check_prefix(value: str) -> str:
    """Return a valid ``filePrefix``; empty is valid.

    Raises:
        errors.BadData: it holds other characters or could leave the result directory.
    """
    return value and _check(PREFIX, "filePrefix", value, "up to 64 letters, digits and -_. "
                            "beginning with a letter, digit or _, without '..'")


def check_source(value: str) -> str:
    """Return a valid ``sourceName``.

    Raises:
        errors.BadData: it could not be part of a file name.
    """
    return _check(SOURCE, "sourceName", value, "1 to 64 letters, digits and ._+- beginning with "
                  "a letter, digit or _, without '..'")


def check_instrument(value: str) -> str:
    """Return a valid instrument id, the first part of every file id.

    Raises:
        errors.BadData: it could not be part of a file name.
    """
    return _check(INSTRUMENT, "instrument_id", value, "1 to 32 letters, digits and _+-")


def check_host(value: str) -> str:
    """Return a valid host or ssh alias.

    Raises:
        errors.BadData: ssh or rsync could take it for something else.
    """
    return _check(HOST, "host", value, "a host name, address or ssh alias, optionally user@host")


def check_path(value: str, what: str = "path") -> str:
    """Return a valid absolute path.

    Raises:
        errors.BadData: it is relative, holds ``..`` as a component, or control characters.
    """
    text = isinstance(value, str) and value
    if not text or not text.startswith("/") or not text.isprintable() or ".." in text.split("/"):
        raise errors.BadData(f"{what} {value!r} is not allowed",
                             "use an absolute path without '..' and control characters")
    return text


def split_location(value: str) -> tuple[str, str]:
    """Split ``host:path`` or a plain path into (host, path); an empty host means this one.

    A plain path may hold colons, as file ids do: only what stands before the first colon and
    holds no slash is a host, the rule that scp and rsync follow. Of the URL of an rsync daemon,
    ``rsync://[user@]host[:port]/module/path``, all up to the module counts as the host.

    Raises:
        errors.BadData: host or path are not allowed.
    """
    if isinstance(value, str) and value.startswith(DAEMON):
        return _split_url(value)
    host, colon, path = value.partition(":") if isinstance(value, str) else ("", "", value)
    if not colon or "/" in host:
        return "", check_path(value, "location")
    return (check_host(host) if host else ""), check_path(path, "location")


def _split_url(value: str) -> tuple[str, str]:
    where, slash, rest = value[len(DAEMON):].partition("/")
    module, _, path = rest.partition("/")
    host, colon, port = where.partition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if colon and not 0 < number < 65536 or not path.strip("/") or ".." in module:
        raise errors.BadData(f"location {value!r} is not allowed",
                             "use rsync://[user@]host[:port]/module/path")
    check_host(host)
    _check(MODULE, "module", module, "the name of a module of the rsync daemon: letters, digits "
           "and ._+-")
    return f"{DAEMON}{where}/{module}", check_path("/" + path, "location")


def location(host: str, path: str) -> str:
    """Return the location that :func:`split_location` splits into a host and a path."""
    if host.startswith(DAEMON):
        return host + path
    return f"{host}:{path}" if host else path


def file_name(value: str) -> str:
    """Return a file name fit for the spool, made from the last component of a foreign path.

    Raises:
        errors.BadData: nothing is left of it, or it could be taken for an option or a dot-file.
    """
    name = value.rstrip("/").rpartition("/")[2]
    if len(name) > _LONGEST:
        raise errors.BadData(f"file name {name[:40] + '...'!r} is not allowed: it has {len(name)} "
                             f"characters", f"rename it: at most {_LONGEST} characters")
    if not name or name.startswith((".", "-")) or not name.isprintable():
        raise errors.BadData(f"file name {name!r} is not allowed",
                             "rename it: no leading '.' or '-', no control characters")
    return name

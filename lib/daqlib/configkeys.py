"""The keys of the configuration: what each may say and what it says by default.

The sample configuration, ``config/daqspool.yaml``, explains them; :mod:`daqlib.config` reads the
file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daqlib import errors, names, receivers

Values = dict[str, Any]

MOST = 1 << 62  # of any number: what the system calls take


def _anything(_value: Any) -> str:
    return ""


@dataclass(frozen=True)
class Key:
    """What is known of a key.

    Attributes:
        default: its type is the type of the value.
        allowed: what to give, after the words "give" or "allowed is".
        refuse: returns why a value of the right type is not allowed, or an empty text.
        effect: False for keys that ESO's programs have and ours do not need.
    """

    default: Any
    allowed: str
    refuse: Callable[[Any], str] = _anything
    effect: bool = True


# -- what is allowed ------------------------------------------------------------------------------


def _number(default: float, least: float = 0, *, above: bool = False, effect: bool = True) -> Key:
    kind = "an integer" if isinstance(default, int) else "a number"
    limit = f"above {least:g}" if above else f"from {least:g}"

    def refuse(value: float) -> str:
        if not value < MOST:  # neither is "not a number"
            return "too much"
        return f"not {limit}" if above and value <= least else (
            f"less than {least:g}" if value < least else "")

    return Key(default, f"{kind} {limit}", refuse, effect)


def _choice(*allowed: str) -> Key:
    told = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
    return Key(allowed[0], told, lambda value: "" if value in allowed else "none of these")


def _flag() -> Key:
    return Key(False, "true or false")


def _text(default: str = "", allowed: str = "text", *, effect: bool = True) -> Key:
    return Key(default, allowed, effect=effect)


def _program(default: str, *, effect: bool = True) -> Key:
    return Key(default, "the name or path of a program",
               lambda value: "" if value.strip() else "empty", effect)


def _told(check: Callable[[Any], object], value: Any) -> str:
    try:
        check(value)
    except errors.DaqError as error:
        return error.message
    return ""


def _instrument(value: str) -> str:
    return "" if names.INSTRUMENT.fullmatch(value) else "not allowed"


def _endpoint(default: str, scheme: str, *, effect: bool = True) -> Key:
    def refuse(value: str) -> str:
        from daqlib import uri  # here: only files that name an endpoint pay for it

        def check(text: str) -> None:
            if uri.parse(text, bind=True).scheme not in (scheme, "ipc"):
                raise errors.BadData(f"no {scheme}:// endpoint")

        return _told(check, value) if value or default else ""

    return Key(default, f"{scheme}://HOST:PORT or ipc:///DIRECTORY/NAME.sock", refuse, effect)


def absolute(value: str) -> str:
    """Return why a text is not an absolute path, or an empty text; empty is allowed."""
    return _told(names.check_path, value) if value else ""


def _dictionaries(value: list[Any]) -> str:
    for each in value:
        if not isinstance(each, str) or not each:
            return f"{each!r} is no text"
        if os.path.isabs(each) or ".." in each.split("/"):
            return f"{each!r} is not relative"
    return ""


def _database(value: str) -> str:
    return "" if not value or value.startswith("cii.oldb:/") else "not a path of the database"


def _folders(value: list[Any]) -> str:
    return next((told for each in value if (told := _told(names.check_path, each))), "")


def _receivers(value: list[Any]) -> str:
    for number, each in enumerate(value, 1):
        for member in receivers.unknown([each]):
            return f"entry {number}: {member.partition('/0/')[2]} is not known"
        if told := _told(receivers.check, each):
            return f"entry {number}: {told}"
    return ""


def _hand_over(value: str) -> str:
    if not value:
        return ""
    host, path = "", ""

    def check(text: str) -> None:
        nonlocal host, path
        host, path = names.split_location(text)

    told = _told(check, value)
    plain = host and not host.startswith(names.DAEMON)
    return told or ("" if plain else "no HOST:DIRECTORY")


def _host(value: str) -> str:
    return _told(names.check_host, value) if value else ""


def _texts(value: list[Any]) -> str:
    return next((f"{each!r} is no text" for each in value if not isinstance(each, str) or not each),
                "")


#: Every key, dotted; the sample configuration explains them.
KEYS: dict[str, Key] = {
    "instrument_id": Key("UNDEF", "1 to 32 letters, digits and _+-", _instrument),
    "spool": _text(allowed="a directory"),
    "dataroot": Key("", "an absolute path", absolute),
    "network_spool": _flag(),
    "req_endpoint": _endpoint("zpb.rr://127.0.0.1:12081/", "zpb.rr"),
    "pub_endpoint": _endpoint("zpb.ps://127.0.0.1:12082/", "zpb.ps"),
    "insecure": _flag(),
    "curve.certificate": _text(allowed="a .key_secret file"),
    "curve.authorized": _text(allowed="a directory of .key files"),
    "request_timeout_sec": _number(5.0, above=True),
    "log_properties": _text(allowed="a Config Path"),
    "dictionaries": Key([], "a list of paths relative to $CFGPATH", _dictionaries),
    "header.policy": _text(allowed="a Config Path"),
    "daq.stale_acquiring_hours": _number(14),
    "daq.stale_merging_hours": _number(48),
    "limits.daq": _number(1),
    "limits.merge": _number(1),
    "limits.net_receive": _number(0),
    "limits.net_send": _number(0),
    "merge.way": _choice("auto", "new", "clone", "in-place"),
    "merge.sums": _choice("verify", "trust", "strict"),
    "release.required": _flag(),
    "release.programs": Key([], "a list of absolute paths of programs", _folders),
    "release.program_sec": _number(300.0, above=True),
    "release.hook": Key("", "the absolute path of a program", absolute),
    "retry.tries": _number(5, 1),
    "retry.first_sec": _number(30.0),
    "retry.longest_sec": _number(3600.0),
    "floor.spool_bytes": _number(64 << 20),
    "floor.result_bytes": _number(64 << 20),
    "breaker.failures": _number(3),
    "breaker.probe_sec": _number(60.0, above=True),
    "scan_interval_sec": _number(5.0, above=True),
    "storage_interval_sec": _number(10.0, above=True),
    "timeout.base_sec": _number(120.0),
    "timeout.bytes_per_sec": _number(1 << 20),
    "ssh_config": _text(allowed="a file"),
    "rsh": _program("ssh"),
    "bin_rsync": _program("rsync"),
    "transfer.bytes_per_sec": _number(0),
    "transfer.connect_sec": _number(20),
    "transfer.stall_sec": _number(60),
    "transfer.persist_sec": _number(30),
    "transfer.password_file": _text(allowed="a file"),
    "hand_over": Key("", "HOST:DIRECTORY, the spool of another host", _hand_over),
    "hand_over_as": Key("", "a host name or ssh alias", _host),
    "retention.every_hours": _number(0.0),
    "retention.jobs_days": _number(0.0),
    "retention.sources_days": _number(0.0),
    "retention.results_days": _number(0.0),
    "retention.keep": Key([], "a list of patterns of ids", _texts),
    "sources.programs": Key([], "a list of absolute paths of programs", _folders),
    "receivers": Key([], "a list of receivers, such as {type: olasReceiver, path: DIR}",
                     _receivers),
    "stable_sources": Key([], "a list of absolute paths", _folders),
    "daq.workspace": _text(effect=False),
    "dpm.req_endpoint": _endpoint("zpb.rr://127.0.0.1:12083/", "zpb.rr"),
    "dpm.pub_endpoint": _endpoint("zpb.ps://127.0.0.1:12084/", "zpb.ps"),
    "dpm.timeout_sec": _number(5, effect=False),
    "oldb_uri_prefix": Key("", "cii.oldb:/PATH", _database, effect=False),
    "oldb_conn_timeout": _number(2, effect=False),
    "sm_scxml": _text(allowed="a Config Path", effect=False),
    "bin_merge": _program("daqDpmMerge", effect=False),
}

#: Every key with its default.
DEFAULTS: Values = {name: key.default for name, key in KEYS.items()}

#: Other spellings that the manual uses in places, and the key that gets their value.
ALIASES: dict[str, str] = {
    **{f"limit.{name}": f"limits.{name}" for name in ("daq", "merge", "net_receive", "net_send")},
    "workspace": "daq.workspace",
    "db_timeout_sec": "oldb_conn_timeout",
}

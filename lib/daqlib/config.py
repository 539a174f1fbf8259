"""The configuration: one YAML file with the manual's keys under ``cfg``, and our defaults.

Precedence: command line, then file, then environment, then default (ESO-396401, 11.3.5).
The file is ``--config``, else ``$DAQ_CONFIG``, else none; a relative name is tried against every
entry of ``$CFGPATH`` (section 1.3, Config Path).
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from typing import Any

from daqlib import cli, errors, names

Values = dict[str, Any]

#: Every key with its default; the type of the default is the type of the value.
DEFAULTS: Values = {
    "instrument_id": "UNDEF",
    "spool": "",
    "dataroot": "",
    "network_spool": False,
    "req_endpoint": "zpb.rr://127.0.0.1:12081/",
    "pub_endpoint": "zpb.ps://127.0.0.1:12082/",
    "insecure": False,
    "curve.certificate": "",
    "curve.authorized": "",
    "request_timeout_sec": 5.0,
    "daq.stale_acquiring_hours": 14,
    "daq.stale_merging_hours": 48,
    "limits.daq": 1,
    "limits.merge": 1,
    "limits.net_receive": 0,
    "limits.net_send": 0,
    "retry.tries": 5,
    "retry.first_sec": 30.0,
    "retry.longest_sec": 3600.0,
    "floor.spool_bytes": 64 << 20,
    "floor.result_bytes": 64 << 20,
    "scan_interval_sec": 5.0,
    "timeout.base_sec": 120.0,
    "timeout.bytes_per_sec": 1 << 20,
    "ssh_config": "",
    "rsh": "ssh",
    "bin_rsync": "rsync",
    "receivers": [],
    "stable_sources": [],
}


@dataclass(frozen=True)
class Config:
    """The settings in force.

    Attributes:
        values: every key of :data:`DEFAULTS`, dotted, with its value.
        path: the file they came from, or empty.
    """

    values: Values = field(default_factory=lambda: dict(DEFAULTS))
    path: str = ""

    def __getitem__(self, key: str) -> Any:
        """Return a value by its dotted key."""
        return self.values[key]


def load(option: str | None) -> Config:
    """Load the configuration.

    Args:
        option: the ``--config`` argument, or None.

    Raises:
        errors.BadConfig: the file is missing, not YAML, or a value is not allowed.
    """
    wanted = option or os.environ.get("DAQ_CONFIG", "")
    if not wanted:
        return Config(_with_environment({}))
    path = _find(wanted)
    return Config(_with_environment(_flatten(_read(path), path)), path)


def _find(wanted: str) -> str:
    if os.path.isabs(wanted):
        tried = [wanted]
    else:
        folders = [folder for folder in os.environ.get("CFGPATH", "").split(":") if folder]
        tried = [os.path.join(folder, wanted) for folder in folders] + [wanted]
    for path in tried:
        if os.path.isfile(path):
            return os.path.abspath(path)
    raise errors.BadConfig(f"configuration {wanted} not found (tried {', '.join(tried)})",
                           "give --config FILE or set CFGPATH")


def _read(path: str) -> Values:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise errors.BadConfig(f"{path}: {reason}", "mend the file") from error
    body = document.get("cfg") if isinstance(document, dict) else None
    if not isinstance(body, dict):
        raise errors.BadConfig(f"{path}: has no mapping 'cfg' at the top", "see daqspool.yaml")
    return body


def _flatten(body: Values, path: str) -> Values:
    flat: Values = {}
    for key, value in body.items():
        nested = isinstance(value, dict)
        pairs = {f"{key}.{inner}": v for inner, v in value.items()} if nested else {str(key): value}
        for dotted, given in pairs.items():
            if dotted not in DEFAULTS:
                near = difflib.get_close_matches(dotted, DEFAULTS, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                cli.warn(f"{path}: unknown key cfg/{dotted.replace('.', '/')} ignored{hint}")
                continue
            flat[dotted] = _checked(dotted, given, path)
    return flat


def _checked(key: str, value: Any, path: str) -> Any:
    default = DEFAULTS[key]
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise errors.BadConfig(f"{path}: cfg/{key.replace('.', '/')} is {value!r}",
                               f"give a value of type {kind.__name__}, such as {default!r}")
    if kind in (int, float) and value < 0:
        raise errors.BadConfig(f"{path}: cfg/{key.replace('.', '/')} is {value!r}",
                               "give a number that is not negative")
    return value


def _with_environment(given: Values) -> Values:
    merged = {**DEFAULTS, **given}
    merged["dataroot"] = merged["dataroot"] or os.environ.get("DATAROOT", "")
    try:
        names.check_instrument(merged["instrument_id"])
    except errors.BadData as error:
        raise errors.BadConfig(f"cfg/{error.message}", error.remedy) from error
    return merged

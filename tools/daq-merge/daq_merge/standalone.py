"""daq-merge without a spool, as ESO's daqDpmMerge (ESO-396401 section 12.3)."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from typing import Any

from daq_merge import build
from daq_merge.plan import MissingSource, plan
from daqlib import cli, clock, errors, fsops, names, schema

Document = dict[str, Any]

#: Exit code -> meaning; 111 and those of sysexits are ours, the others the manual's (12.3.3).
CODES: dict[int, str] = {
    0: "success",
    100: "specification file not found",
    101: "invalid JSON",
    102: "invalid schema",
    110: "a source file was not found",
    111: "a source file or keyword cannot be merged",
    73: "the output file exists; it is never overwritten",
    255: "internal error",
}
_PROGRESS_S = 0.5


class _Refused(errors.DaqError):
    """The specification is not usable; carries the manual's code."""

    def __init__(self, code: int, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.code = code


class _Report:
    """Where status messages go: words or JSON lines, and the log file."""

    def __init__(self, as_json: bool, logfile: str) -> None:
        self._json = as_json
        self._log = logfile
        self._last = 0.0
        self._bar = cli.progress("merge")

    def __call__(self, event: str, **facts: Any) -> None:
        line = {"time": clock.iso(clock.now()) + "Z", "event": event, **facts}
        if self._log:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self._json:
            cli.emit(line)

    def progress(self, done: int, total: int) -> None:
        """Report progress now and then."""
        self._bar(done, total)
        now = time.monotonic()
        if self._json and (now - self._last > _PROGRESS_S or done == total):
            self._last = now
            self("progress", done=done, total=total)


def run(options: argparse.Namespace) -> int:
    """Merge as a specification file says; return the manual's exit code."""
    try:
        return _merge(options)
    except _Refused as error:
        return cli.fail(error)
    except MissingSource as error:
        cli.fail(error)
        return 110
    except errors.BadData as error:
        cli.fail(error)
        return 111


def _merge(options: argparse.Namespace) -> int:
    document = _load(options.specification)
    root = os.path.abspath(options.root or _default_root(options.specification))
    report = _Report(options.json, _below(root, options.logfile))
    planned = plan(document, root)
    out = _below(root, options.outfile or f"{document['target']['fileId']}.fits")
    if os.path.lexists(out):
        raise errors.Conflict(f"{out} exists and is never overwritten",
                              "name another file with --outfile, or move it aside")
    if options.dry_run:
        cli.say(f"would write {out}: {len(planned.parts)} HDUs, {planned.size} bytes")
        if options.json:
            cli.emit({"event": "plan", "product": out, "size": planned.size,
                      "hdus": len(planned.parts), "alerts": planned.alerts,
                      "warnings": planned.warnings})
        return errors.OK
    report("plan", product=out, size=planned.size, hdus=len(planned.parts))
    embryo = fsops.temporary(out)
    built = build.write(planned, embryo, progress=report.progress)
    try:
        fsops.move(embryo, out)
    except FileExistsError:
        with contextlib.suppress(OSError):
            os.unlink(embryo)
        raise errors.Conflict(f"{out} appeared meanwhile and is never overwritten",
                              "name another file with --outfile") from None
    for text in [*built.warnings, *(alert["description"] for alert in built.alerts)]:
        cli.warn(text)
        report("alert", message=text)
    report("done", product=out, size=built.size, sha256=built.sha256, hdus=built.hdus)
    if not options.json:
        cli.show(out)
    return errors.OK


def _default_root(specification: str) -> str:
    # manual 12.3.1: the folder of the specification if that is a regular file, else the current
    return os.path.dirname(specification) if os.path.isfile(specification) else "."


def _below(root: str, path: str | None) -> str:
    return os.path.join(root, path) if path else ""


def _load(path: str) -> Document:
    try:
        text = sys.stdin.read() if path == "-" else _text(path)
    except OSError as error:
        raise _Refused(100, f"specification {path}: {error.strerror}",
                       "give the path of a Data Product Specification, or -") from error
    try:
        document: Document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Refused(101, f"specification {path} is not JSON: {error}", "mend it") from error
    try:
        schema.check("dpspec", document, "the specification")
        names.check_id(document["target"]["fileId"])
        names.check_prefix(document["target"].get("filePrefix", ""))
    except errors.BadData as error:
        raise _Refused(102, error.message, error.remedy) from error
    return document


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()

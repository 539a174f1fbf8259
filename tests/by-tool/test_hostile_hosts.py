"""What another host says is data: it breaks no tool, obeys no rule of a terminal, leads nowhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import Daq, Result, make_fits

#: What a terminal would obey: a title, an erased screen, a colour by one character.
ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m"
NOTES = {"type": "fitsKeywords", "sourceName": "n", "keywords": [
    {"type": "valueKeyword", "name": "OBJECT", "value": "x"}]}
#: Events that no tool writes so.
FORGED: list[dict[str, Any]] = [
    {"event": "alert", "severity": ["x"], "id": {"a": 1}, "description": ESCAPES},
    {"event": "defer", "stage": "collect", "until": "soon", "reason": ESCAPES},
    {"event": "defer", "stage": "collect", "until": 1e300},
    {"event": ESCAPES, "time": ESCAPES}, {"event": "start", "stage": ["collect"]},
    {"event": "keywords", "keywords": [7]}, {"event": "state", "substate": 5},
    {"event": "delivered", "receiver": [1], "sha256": {}}, {"event": "fail", "reason": ESCAPES},
    {"event": "starting", "source": [1]}, {"event": "stopped", "source": {"a": 1}},
    {"event": "pruned", "what": ["job"], "time": ESCAPES}]


def request(identifier: str, *, log: bytes = b"", manifest: bytes = b"") -> bytes:
    """Return the bytes by which a host hands a job over."""
    text = json.dumps({"id": identifier, "sources": [NOTES], "receivers": []}).encode()
    bodies = (manifest, log, text)
    sizes = dict(zip(("manifest", "log", "job"), map(len, bodies), strict=True))
    head = {"do": "import", "id": identifier, "from": "other", "request": identifier,
            "sizes": sizes, "sha256": hashlib.sha256(b"".join(bodies)).hexdigest()}
    return json.dumps(head).encode() + b"\n" + b"".join(bodies)


def imported(daq: Daq, data: bytes) -> list[dict[str, Any]]:
    """Return what the far end answers, without its greeting."""
    done = subprocess.run([daq.bin / "daq-start", "--import", "--spool", daq.spool], input=data,
                          capture_output=True, check=False,
                          env={**os.environ, **daq.env})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[1:]]


def is_harmless(result: Result) -> bool:
    return (result.out + result.err).replace("\n", "").isprintable()


def look(daq: Daq, job: str) -> None:
    """Ask for a job in every way; nothing fails, and nothing speaks to the terminal."""
    for words in ((), ("--all",), ("--json",), (job,), ("--json", job)):
        assert is_harmless(daq.run("daq-status", *words).ok())


def test_history_that_another_host_made_up(daq: Daq) -> None:
    daq.run("daq-watch", "-q", "--once").ok()
    log = b"".join(json.dumps(event).encode() + b"\n" for event in FORGED)
    assert imported(daq, request("J1", log=log + b'{"event":"x","a":' + b"[" * 100_000))[0]["ok"]
    look(daq, "J1")
    daq.run("daq-watch", "-q", "--once").ok()
    assert daq.tree() == {"done": ["J1"]}
    look(daq, "J1")


@pytest.mark.parametrize("source", [
    7, {}, {"sourceName": ["x"]}, {"sourceName": "../x"}, {"sourceName": "s", "files": "/a"},
    {"sourceName": "s", "files": ["../a"]}, {"sourceName": "s", "files": ["-x:/a"]},
    {"sourceName": "s", "keywords": [[1]]}])
def test_manifest_that_is_none(daq: Daq, source: object) -> None:
    daq.run("daq-watch", "-q", "--once").ok()
    manifest = json.dumps({"result": {"sources": [source]}}).encode()
    reply, = imported(daq, request("J1", manifest=manifest))
    assert (reply["ok"], reply["code"]) == (False, 65)
    assert daq.tree() == {} and not (daq.spool / "data" / "J1").exists()


def test_nobody_else_aborts_what_has_half_arrived(daq: Daq) -> None:
    daq.run("daq-watch", "-q", "--once").ok()
    assert imported(daq, request("J1"))[0]["ok"]
    (daq.spool / "collect" / "J1.json").unlink()  # as if it were yet to come
    asked = {"do": "abort", "id": "J1", "from": "third", "request": "another"}
    reply, = imported(daq, json.dumps(asked).encode() + b"\n")
    assert reply["code"] == 73
    assert imported(daq, request("J1"))[0]["place"] == "collect"


def test_news_that_another_host_made_up(daq: Daq) -> None:
    state = {"substate": ESCAPES, "place": f"../{ESCAPES}", "result": f"/r{ESCAPES}", "time": "",
             "by": 7}
    script = daq.folder / "far.py"
    script.write_text(f"""#!{sys.executable}
import json, sys
def say(document): print(json.dumps(document), flush=True)
say({{"daqspool": 1}})
for line in sys.stdin.buffer:
    asked = json.loads(line)
    if asked["do"] == "import":
        sys.stdin.buffer.read(sum(asked["sizes"].values()))
        say({{"ok": True, "known": False, "place": "collect", "end": 10}})
        continue
    print("noise" * 1000, "[" * 100000, sep="\\n")
    for job in asked.get("jobs", {{}}):
        say({{"id": job, "events": [[20 + n, e] for n, e in enumerate({FORGED!r})],
             "end": 2 ** 70, "state": {state!r}}})
    done = {{"substate": "Completed", "place": "done", "result": ""}}
    for job in ("../../x", "-rf", "J2"):
        say({{"id": job, "events": [[1, {{"event": "aborted"}}]], "end": 5, "state": done}})
    say({{"ok": False, "code": 65, "error": {ESCAPES!r}, "remedy": {ESCAPES!r}}}
        if asked["do"] == "abort" else {{"ok": True}})
""")
    script.chmod(0o755)
    config = daq.folder / "near.yaml"
    config.write_text(json.dumps({"cfg": {"hand_over": "far:/x", "hand_over_as": "near",
                                          "rsh": str(script)}}))
    daq.env["DAQ_CONFIG"] = str(config)
    daq.drop("collect", "J1", {"sources": [NOTES]})
    daq.drop("hold", "J2", {"sources": [NOTES]})
    daq.run("daq-collect", "-q", "--job", "J1").ok()
    daq.run("daq-watch", "-q", "--mirror-only", "--once").exits(75)
    assert daq.tree() == {"hold": ["J2"], "remote": ["J1"]}
    look(daq, "J1")
    result = daq.run("daq-ctl", "daq.abort", "J1")
    assert result.code == 65 and is_harmless(result)


def test_a_link_does_not_lead_out_of_what_is_stable(daq: Daq) -> None:
    stable, elsewhere = daq.folder / "stable", daq.folder / "elsewhere"
    for folder in (stable, elsewhere):
        folder.mkdir()
        make_fits(folder / "a.fits")
    (stable / "sub").symlink_to(elsewhere)
    config = daq.folder / "stable.yaml"
    config.write_text(json.dumps({"cfg": {"stable_sources": [str(stable)]}}))
    daq.env["DAQ_CONFIG"] = str(config)
    for job, path in (("J1", stable / "a.fits"), ("J2", stable / "sub" / "a.fits")):
        daq.drop("collect", job, {"sources": [
            {"type": "fitsFile", "sourceName": "s", "location": str(path)}]})
        daq.run("daq-collect", "-q", "--job", job).ok()
    linked = {job: [path.stat().st_nlink for path in _sources(daq, job)] for job in ("J1", "J2")}
    assert linked == {"J1": [2], "J2": [1]}


def _sources(daq: Daq, job: str) -> list[Path]:
    return sorted((daq.spool / "data" / job / "sources").glob("[0-9]*"))

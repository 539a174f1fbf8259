"""The client: one request for each verb of ESO's command line client (ESO-396401 section 11.2)."""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daqlib import abort, cli, config, errors, names, rpc, spool, uri

_LAST_SAMPLES_S = 0.1  # for the samples that the command itself caused
_MARGIN_S = 2.0  # what a request may take longer than the wait that it asks for


@dataclass(frozen=True)
class Verb:
    """A command of the client.

    Attributes:
        arguments: names of its arguments on the command line.
        params: makes the parameters of the request from them and the options.
        summary: for the help.
    """

    arguments: tuple[str, ...]
    params: Callable[[argparse.Namespace, list[str]], dict[str, Any]]
    summary: str


def _none(_options: argparse.Namespace, _words: list[str]) -> dict[str, Any]:
    return {}


def _id(_options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    return {"id": words[0]}


def _start(options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    return {"id": options.id or "", "file_prefix": options.file_prefix or "",
            "prim_sources": words[0], "meta_sources": words[1],
            "properties": cli.text_argument(options.properties or "")}


def _startv2(options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    document = cli.json_argument(words[0], "the specification")
    if options.id and isinstance(document, dict):
        document["id"] = options.id
    return {"specification": json.dumps(document)}


def _keywords(_options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    return {"id": words[0], "keywords": json.dumps(cli.json_argument(words[1], "keywords"))}


def _await(_options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    try:
        seconds = float(words[3])
    except ValueError:
        raise errors.Usage(f"timeout {words[3]!r} is no number of seconds") from None
    return {"id": words[0], "state": words[1], "substate": words[2], "timeout": seconds}


def _level(_options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    return {"info": {"logger": words[0], "level": words[1]}}


#: Verb -> (command of the interface, what it takes).
VERBS: dict[str, tuple[str, Verb]] = {
    "std.init": ("Init", Verb((), _none, "go to NotOperational;Ready")),
    "std.enable": ("Enable", Verb((), _none, "go to Operational")),
    "std.disable": ("Disable", Verb((), _none, "leave Operational")),
    "std.reset": ("Reset", Verb((), _none, "go back to NotOperational;NotReady")),
    "std.stop": ("Stop", Verb((), _none, "leave Operational")),
    "std.exit": ("Exit", Verb((), _none, "end the daemon; sources go on")),
    "std.setloglevel": ("SetLogLevel", Verb(("logger", "level"), _level, "set the log level")),
    "std.getstate": ("GetState", Verb((), _none, "print the state")),
    "std.getstatus": ("GetStatus", Verb((), _none, "print the status")),
    "std.getversion": ("GetVersion", Verb((), _none, "print the version")),
    "daq.start": ("StartDaq", Verb(("primary-sources", "metadata-sources"), _start,
                                   "start; each list is 'name@uri name@uri ...' or empty")),
    "daq.startv2": ("StartDaqV2", Verb(("specification",), _startv2,
                                       "start; JSON, @file, or @- for stdin")),
    "daq.stop": ("StopDaq", Verb(("id",), _id, "stop and keep the data")),
    "daq.forcestop": ("ForceStopDaq", Verb(("id",), _id, "stop even if sources fail")),
    "daq.abort": ("AbortDaq", Verb(("id",), _id, "abort and discard the data")),
    "daq.forceabort": ("ForceAbortDaq", Verb(("id",), _id, "abort even if sources fail")),
    "daq.getstatus": ("GetStatus", Verb(("id",), _id, "print the status of a DAQ")),
    "daq.awaitstate": ("AwaitDaqState", Verb(("id", "state", "substate", "timeout"), _await,
                                             "wait for a state, timeout in seconds")),
    "daq.updatekeywords": ("UpdateKeywords", Verb(("id", "keywords"), _keywords,
                                                  "add or replace keywords; JSON or @file")),
    "daq.getactivelist": ("GetActiveList", Verb((), _none, "print the DAQs not yet completed")),
}


def run(options: argparse.Namespace) -> int:
    """Send the request of a verb and print the answer; return the exit code.

    Raises:
        errors.DaqError: the request was refused or could not be delivered.
    """
    settings = config.load(options.config)
    topics = options.pep or os.environ.get("OCM_PUBLISH_EP") or settings["pub_endpoint"]
    if not options.command:
        cli.say("no command provided -> will subscribe indefinitely")
        for topic, document in rpc.subscribe(topics):
            cli.note(sample_line(topic, document))
        return errors.OK
    requests = options.rep or os.environ.get("OCM_REQUEST_EP") or settings["req_endpoint"]
    with _samples(topics if options.status else ""):
        return _request(options, requests)


def _request(options: argparse.Namespace, endpoint: str) -> int:
    if options.command not in VERBS:
        raise errors.Usage(f"unknown command {options.command!r}", "try 'daq-ctl --help'")
    command, verb = VERBS[options.command]
    if len(options.arguments) != len(verb.arguments):
        wanted = " ".join(f"<{name}>" for name in verb.arguments) or "no arguments"
        raise errors.Usage(f"{options.command} takes {wanted}", "try 'daq-ctl --help'")
    params = verb.params(options, options.arguments)
    where = uri.with_path(uri.parse(endpoint), options.command.partition(".")[0])
    limit = options.timeout
    if "timeout" in params and params["timeout"] > limit - _MARGIN_S:
        limit = params["timeout"] + _MARGIN_S
        cli.note(f"Note: Setting request timeout to {limit:.0f}s due to await timeout exceeding "
                 "request timeout")
    try:
        answer = rpc.call(str(where), command, params, timeout_s=limit)
    except rpc.Unreachable:
        if command not in ("AbortDaq", "ForceAbortDaq") or not _abort_in_spool(options, params):
            raise
        answer = {"id": params["id"], "error": False}
    if command != "AwaitDaqState":
        _print(answer, as_json=options.json)
        return errors.OK
    reached = answer.pop("reached", True)  # for our exit code; the manual's document has it not
    _print(answer if options.json else answer["status"], as_json=options.json)
    return errors.WaitTimeout.code if answer["timeout"] else errors.OK if reached else errors.NO


def _abort_in_spool(options: argparse.Namespace, params: dict[str, Any]) -> bool:
    """Abort a job that needs no live source, without the daemon; tell whether it was one.

    Raises:
        errors.DaqError: it could not be aborted.
    """
    settings = config.load(options.config)
    try:
        on = spool.open_spool(options.spool, settings, "daq-ctl", create=False)
    except errors.BadConfig:
        return False  # no spool here: the daemon is what is missing
    if on.place(names.check_id(params["id"])) not in ("collect", "merge", "release", "failed",
                                                     "hold"):
        return False
    abort.abort(on, params["id"])
    return True


def _print(answer: Any, *, as_json: bool) -> None:
    is_status = isinstance(answer, dict) and "substate" in answer
    if not as_json and is_status:
        cli.show(daq_line(answer))
    elif not as_json and isinstance(answer, list):
        for status in answer:
            cli.show(daq_line(status))
    else:
        # as the manual prints them: statuses sorted, a reply with the id first
        is_reply = isinstance(answer, dict) and "id" in answer and not is_status
        cli.show(json.dumps(answer, indent=4, ensure_ascii=False, sort_keys=not is_reply))


def daq_line(status: dict[str, Any]) -> str:
    """Return the line of a DAQ's status as ESO's client prints it (section 10.3)."""
    return (f"daq: id={status['id']}, file_id={status['fileId']}, state={status['state']}, "
            f"substate={status['substate']}, error={str(status['error']).lower()}, "
            f"message={status['message']}")


def sample_line(topic: str, document: dict[str, Any]) -> str:
    """Return the line of a topic sample as ESO's client prints it."""
    if "substate" in document:
        return daq_line(document)
    return f"status: {document.get('status', document)}"


@contextmanager
def _samples(endpoint: str) -> Iterator[None]:
    """Print topic samples to stderr while a command runs."""
    if not endpoint:
        yield
        return

    def listen() -> None:
        for topic, document in rpc.subscribe(endpoint):
            cli.note(sample_line(topic, document))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    yield
    thread.join(_LAST_SAMPLES_S)

"""The client: one request for each verb of ESO's command line client (ESO-396401 section 11.2)."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daqlib import cli, client, errors, rpc, schema, uri
from daqlib.interface import LogInfo, OcmDaqControl, Request, StdCmds

_FIRST_SAMPLES_S = 0.1  # for a subscription to arrive before the command is carried out
_LAST_SAMPLES_S = 0.1  # for the samples that the command itself caused
_LEFT_TO_THE_SPOOL = ("collect", "merge", "release", "failed", "hold", "remote", "done")

Make = Callable[[argparse.Namespace, list[str]], Request[Any]]


@dataclass(frozen=True)
class Verb:
    """A command of the client.

    Attributes:
        arguments: names of its arguments on the command line.
        request: makes the request from the options and the arguments.
        summary: for the help.
    """

    arguments: tuple[str, ...]
    request: Make
    summary: str


def _bare(command: Callable[[], Request[Any]], summary: str) -> Verb:
    return Verb((), lambda _options, _words: command(), summary)


def _on_id(command: Callable[[str], Request[Any]], summary: str) -> Verb:
    return Verb(("id",), lambda _options, words: command(words[0]), summary)


def _start(options: argparse.Namespace, words: list[str]) -> Request[Any]:
    properties = ""
    if options.properties:
        document = cli.json_argument(options.properties, "properties")
        if isinstance(document, dict):
            _tell_ignored(schema.unknown("startdaqv1", document), "properties")
        properties = json.dumps(document)
    return OcmDaqControl.StartDaq(
        options.id or "", options.file_prefix or "", words[0], words[1], properties,
        allow_shared=options.allow_shared)


def _tell_ignored(members: Iterable[str], what: str) -> None:
    """Tell the one who typed a document which members of it have no effect."""
    for member in members:
        cli.warn(f"unknown member {member!r} of {what} ignored")


def _startv2(options: argparse.Namespace, words: list[str]) -> Request[Any]:
    document = cli.json_argument(words[0], "the specification")
    if isinstance(document, dict):
        document.update({"id": options.id} if options.id else {})
        _tell_ignored(schema.unknown_in_job(document), "the specification")
    return OcmDaqControl.StartDaqV2(json.dumps(document), allow_shared=options.allow_shared)


def _keywords(_options: argparse.Namespace, words: list[str]) -> Request[Any]:
    return OcmDaqControl.UpdateKeywords(
        words[0], json.dumps(cli.json_argument(words[1], "keywords")))


def _await(_options: argparse.Namespace, words: list[str]) -> Request[Any]:
    try:
        seconds = float(words[3])
    except ValueError:
        seconds = float("nan")
    if not abs(seconds) < float("inf"):
        raise errors.Usage(f"timeout {words[3]!r} is no number of seconds")
    return OcmDaqControl.AwaitDaqState(words[0], words[1], words[2], seconds)


def _level(_options: argparse.Namespace, words: list[str]) -> Request[Any]:
    return StdCmds.SetLogLevel(LogInfo(logger=words[0], level=words[1]))


#: Verb -> what it takes and sends.
VERBS: dict[str, Verb] = {
    "std.init": _bare(StdCmds.Init, "go to NotOperational;Ready"),
    "std.enable": _bare(StdCmds.Enable, "go to Operational"),
    "std.disable": _bare(StdCmds.Disable, "leave Operational"),
    "std.reset": _bare(StdCmds.Reset, "go back to NotOperational;NotReady"),
    "std.stop": _bare(StdCmds.Stop, "leave Operational"),
    "std.exit": _bare(StdCmds.Exit, "end the daemon; sources go on"),
    "std.setloglevel": Verb(("logger", "level"), _level, "set the log level"),
    "std.getstate": _bare(StdCmds.GetState, "print the state"),
    "std.getstatus": _bare(StdCmds.GetStatus, "print the status"),
    "std.getversion": _bare(StdCmds.GetVersion, "print the version"),
    "daq.start": Verb(("primary-sources", "metadata-sources"), _start,
                      "start; each list is 'name@uri name@uri ...' or empty"),
    "daq.startv2": Verb(("specification",), _startv2, "start; JSON, @FILE, or @- or - for stdin"),
    "daq.stop": _on_id(OcmDaqControl.StopDaq, "stop and keep the data"),
    "daq.forcestop": _on_id(OcmDaqControl.ForceStopDaq, "stop even if sources fail"),
    "daq.abort": _on_id(OcmDaqControl.AbortDaq, "abort and discard the data"),
    "daq.forceabort": _on_id(OcmDaqControl.ForceAbortDaq, "abort even if sources fail"),
    "daq.pause": _on_id(OcmDaqControl.PauseDaq, "pause the primary sources"),
    "daq.continue": _on_id(OcmDaqControl.ContinueDaq, "continue after a pause"),
    "daq.getstatus": _on_id(OcmDaqControl.GetStatus, "print the status of a DAQ"),
    "daq.awaitstate": Verb(("id", "state", "substate", "timeout"), _await,
                           "wait for a state, timeout in seconds"),
    "daq.updatekeywords": Verb(("id", "keywords"), _keywords,
                               "add or replace keywords; JSON, @FILE or @-"),
    "daq.getactivelist": _bare(OcmDaqControl.GetActiveList, "print the DAQs not yet completed"),
}
#: Other spellings of verbs; this one stands in an example of section 11.2.2.
ALIASES: dict[str, str] = {"cmd.startv2": "daq.startv2"}


def add_arguments(made: argparse.ArgumentParser, more: Mapping[str, str] | None = None) -> None:
    """Add the client's arguments and options to a parser, and its commands to the help.

    Args:
        made: the parser.
        more: other commands than the verbs, each with a summary.
    """
    made.add_argument("command", nargs="?", metavar="COMMAND", help="see below")
    made.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="of the command")
    told = {**(more or {}), **{_usage(name): verb.summary for name, verb in VERBS.items()}}
    lines = "".join(f"  {usage}\n      {summary}\n" for usage, summary in told.items())
    made.epilog = f"commands:\n{lines}\n{made.epilog}"
    group = made.add_argument_group("client")
    group.add_argument("--rep", metavar="URI",
                       help="request endpoint (default: $OCM_REQUEST_EP, then configuration)")
    group.add_argument("--pep", metavar="URI",
                       help="publish endpoint (default: $OCM_PUBLISH_EP, then configuration)")
    group.add_argument("--json", action="store_true", help="print results as JSON")
    group.add_argument("--status", action="store_true",
                       help="print status changes on stderr while the command runs; without a "
                            "command: until Ctrl-c")
    group.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=60.0,
                       help="the longest to wait for a reply (default: 60)")
    group.add_argument("--id", help="daq.start, daq.startv2: the id of the new DAQ")
    group.add_argument("--allow-shared", action="store_true",
                       help="daq.start, daq.startv2: permit primary sources that another DAQ uses")
    group.add_argument("--file-prefix", metavar="TEXT", help="daq.start: file name prefix")
    group.add_argument("--properties", metavar="JSON",
                       help="daq.start: StartDaq properties; JSON, @FILE or @-")


def _usage(name: str) -> str:
    return " ".join([name, *(f"<{argument}>" for argument in VERBS[name].arguments)])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def run(options: argparse.Namespace) -> int:
    """Send the request of a verb and print the answer; return the exit code.

    Raises:
        errors.DaqError: the request was refused or could not be delivered.
    """
    if options.command is None:
        return _follow(client.topic_endpoint(options.pep, options.config))
    verb = _verb(options.command, getattr(options, "others", ()))
    if len(options.arguments) != len(verb.arguments):
        wanted = " ".join(f"<{name}>" for name in verb.arguments) or "no arguments"
        raise errors.Usage(f"{options.command} takes {wanted}", f"try '{options.prog} --help'")
    request = verb.request(options, options.arguments)
    requests = client.request_endpoint(options.rep, options.config)
    topics = client.topic_endpoint(options.pep, options.config) if options.status else ""
    with _samples(topics):
        return _send(options, request, requests)


def _follow(endpoint: str) -> int:
    """Print topic samples on stderr until nobody reads them."""
    cli.note("no command provided -> will subscribe indefinitely")

    def unheard() -> None:
        cli.say(f"nobody lets us in at {endpoint} so far, still trying; check the endpoint, "
                "DAQ_CURVE_CERTIFICATE and DAQ_CURVE_SERVER_KEY, and whether the server runs")

    for topic, document in rpc.subscribe(endpoint, unheard=unheard):
        if not cli.note(sample_line(topic, document)):
            raise BrokenPipeError
    return errors.OK


def _verb(word: str, others: Iterable[str]) -> Verb:
    verb = VERBS.get(ALIASES.get(word, word))
    if verb is None:
        import difflib

        known = [*others, *VERBS]
        near = difflib.get_close_matches(word.lower(), known, 1)
        raise errors.Usage(f"unknown command {word!r}", f"did you mean {near[0]}?" if near
                           else f"use one of {', '.join(known)}")
    return verb


def _send(options: argparse.Namespace, request: Request[Any], endpoint: str) -> int:
    where = uri.with_path(uri.parse(endpoint), request.service)
    limit = options.timeout
    if request.patience_s > limit:
        limit = request.patience_s
        cli.note(f"Note: Setting request timeout to {limit:.15g}s due to await timeout exceeding "
                 "request timeout")
    try:
        answer = rpc.call(str(where), request.command, request.params, timeout_s=limit)
    except rpc.Unreachable:
        if not _abort_in_spool(options, request):
            raise
        answer = {"id": request.params["id"], "error": False}
    except rpc.Lost:
        if request.command != "Exit":
            raise
        answer = "OK"  # it has ended, faster than its reply
    if request.command != "AwaitDaqState":
        _print(answer, as_json=options.json)
        return errors.OK
    reached = answer.pop("reached", True)  # for our exit code; the manual's document has it not
    _print(answer if options.json else answer["status"], as_json=options.json)
    return errors.WaitTimeout.code if answer["timeout"] else errors.OK if reached else errors.NO


def _abort_in_spool(options: argparse.Namespace, request: Request[Any]) -> bool:
    """Abort a job that needs no live source, without the daemon; tell whether it was one.

    Raises:
        errors.DaqError: it could not be aborted.
    """
    if request.command not in ("AbortDaq", "ForceAbortDaq"):
        return False
    from daqlib import abort, config, names, spool

    job = request.params["id"]
    settings = config.load(options.config)
    try:
        on = spool.open_spool(options.spool, settings, "daq-ctl", create=False)
    except errors.BadConfig:
        return False  # no spool here: the daemon is what is missing
    if on.place(names.check_id(job)) not in _LEFT_TO_THE_SPOOL:
        return False
    # what may record still is daq-ctl's to end, forced or not
    force = request.command == "ForceAbortDaq" and not abort.recording(on.events(job))
    abort.abort(on, job, force=force, settings=settings)
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
        text = json.dumps(answer, indent=4, ensure_ascii=False, sort_keys=not is_reply)
        cli.show("\n".join(map(_plain, text.split("\n"))))


def daq_line(status: dict[str, Any]) -> str:
    """Return the line of a DAQ's status as ESO's client prints it (section 10.3)."""
    return _plain(
        f"daq: id={status['id']}, file_id={status['fileId']}, state={status['state']}, "
        f"substate={status['substate']}, error={str(status['error']).lower()}, "
        f"message={status['message']}")


def _plain(text: str) -> str:
    """Return a line without what a terminal would obey, told by the escapes of JSON."""
    return text if text.isprintable() else "".join(
        c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def sample_line(topic: str, document: Any) -> str:
    """Return the line of a topic sample as ESO's client prints it."""
    try:
        return daq_line(document) if "substate" in document else f"status: {document['status']}"
    except (KeyError, TypeError):
        return f"{topic}: {json.dumps(document, ensure_ascii=False)}"


@contextmanager
def _samples(endpoint: str) -> Iterator[None]:
    """Print topic samples to stderr while a command runs."""
    if not endpoint:
        yield
        return
    import zmq  # noqa: F401 - here, so that the thread subscribes at once

    def listen() -> None:
        try:
            for topic, document in rpc.subscribe(endpoint):
                cli.note(sample_line(topic, document))
        except errors.DaqError as error:
            cli.warn(str(error))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    time.sleep(_FIRST_SAMPLES_S)
    yield
    thread.join(_LAST_SAMPLES_S)

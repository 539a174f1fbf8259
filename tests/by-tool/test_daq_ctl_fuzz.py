"""Every command with every odd argument: one well-formed reply, and a refusal changes nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from daqlib import errors, strictjson
from fuzzing import SCALARS, TEXTS, VALUES, check_reply, mutated, quick, thorough
from harness import make_fits
from live import Live, Simulator
from rpc_peers import context

pytestmark = [pytest.mark.installed, pytest.mark.xdist_group("daq-ctl-fuzz")]

JOB = "fuzz.job"
Tree = dict[str, tuple[int, int, int]]


class Target:
    """The daemon with one acquisition that goes on, and a client that sends what it is told."""

    def __init__(self, live: Live, dcs: Simulator, fcf: Simulator) -> None:
        self.live = live
        self.file = make_fits(live.daq.folder / "input.fits")
        self.fcf = fcf
        self.heard = 0  # characters of what the daemon said
        live.begin(dcs, id=JOB)
        self._context = context()
        self._connect()

    def _connect(self) -> None:
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.linger = 0
        self._dealer.connect(self.live.requests.replace("zpb.rr", "tcp", 1))

    def ask(self, method: str, params: Any) -> dict[str, Any] | None:
        """Send a request; None when it waits for something that may come."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._dealer.send(json.dumps(body).encode())
        if method.endswith("AwaitDaqState") and not self._dealer.poll(500):
            self._dealer.close()  # as a client does that gives up
            self._connect()
            return None
        assert self._dealer.poll(15_000), f"no reply to {body}"
        reply: dict[str, Any] = json.loads(self._dealer.recv())
        assert not self._dealer.poll(0)
        return reply

    def close(self) -> None:
        """End the acquisition and the connection."""
        self._dealer.close()
        self.live.call("ForceAbortDaq", id=JOB)

    def tree(self) -> Tree:
        """Return every file of the spool but the locks, with what changes when it is touched."""
        found: Tree = {}
        for folder, _, names in os.walk(self.live.daq.spool):
            for name in names if Path(folder).name not in ("lock", "run") else ():
                facts = os.stat(os.path.join(folder, name))
                found[os.path.join(folder, name)] = (
                    facts.st_size, facts.st_mtime_ns, facts.st_ino)
        return found

    def check(self, method: str, params: Any) -> None:
        """Send a request and check what comes back, and what it did."""
        before = self.tree()
        reply = self.ask(method, params)
        done = reply is None or check_reply(reply)
        assert self.live.daemon.running()
        said, self.heard = self.live.daemon.err[self.heard:], len(self.live.daemon.err)
        assert "Traceback" not in said, said[-3000:]
        if method.startswith("std."):
            if self.live.call("GetState").partition(";")[0] != "Operational":
                self.live.call("Init")
                self.live.call("Enable")
        elif not done:
            assert reply
            self._unchanged(before, reply["error"]["data"]["id"])
        elif method == "daq.UpdateKeywords":
            *_, last = (self.live.daq.spool / "log" / f"{JOB}.jsonl").read_bytes().splitlines()
            assert strictjson.loads(last)["event"] == "keywords"
        elif "StartDaq" in method:
            assert reply
            self.live.call("ForceAbortDaq", id=reply["result"]["id"])

    def _unchanged(self, before: Tree, job: str) -> None:
        changed = set(before.items()) ^ set(self.tree().items())
        paths = {path for path, _ in changed}
        new = job != JOB and not any(job in path for path in before) and any(
            os.path.basename(path) == f"{job}.jsonl" for path in paths)
        # a start that fails leaves its job where a person sees it
        foreign = {path for path in paths
                   if not (new and (job in path or os.path.basename(path).startswith(".file-")))}
        assert not foreign, (job, foreign)


@pytest.fixture(scope="module")
def target(live: Live, dcs: Simulator, fcf: Simulator) -> Iterator[Target]:
    """Serve a daemon that records."""
    made = Target(live, dcs, fcf)
    yield made
    made.close()


# what texts of JSON can hold that a document cannot
NASTY = st.sampled_from([
    "", " ", "{", "[]", "{}", "null", "7", '"x"', "NaN", "[NaN]", "Infinity", "[1e999]",
    '{"a":1,"a":2}', '["\\ud800"]', "[" * 2000, "[" * 300 + "]" * 300, "1" * 5000, "\0", "\ufeff{}",
    '[{"type":"valueKeyword","name":"A","value":NaN}]',
    '[{"type":"valueKeyword","name":"A","value":1e999}]',
    '[{"type":"valueKeyword","name":"A","value":"\\ud800"}]',
    '[{"type":"valueKeyword","name":"A","value":' + "9" * 400 + "}]",
    '[{"type":"esoKeyword","name":"\\udfff B","value":1}]',
])
KEYWORDS = st.lists(st.sampled_from([
    {"type": "valueKeyword", "name": "OBJECT", "value": "M 31", "comment": "target"},
    {"type": "valueKeyword", "name": "EXPTIME", "value": 1.5},
    {"type": "esoKeyword", "name": "DPR CATG", "value": "SCIENCE"},
    {"type": "commentaryKeyword", "name": "COMMENT", "value": "free text"},
    {"type": "literalKeyword", "value": "OBSERVER= 'Galilei'"},
]), min_size=1, max_size=3)
IDS = st.one_of(st.just(JOB), st.just("nobody"), TEXTS, SCALARS, VALUES)
OTHERS = IDS.filter(lambda value: value != JOB)


def as_text(documents: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return documents as they are, as JSON texts, and what is neither."""
    return st.one_of(documents, documents.map(json.dumps), NASTY, VALUES)


def specifications(target: Target) -> st.SearchStrategy[Any]:
    """Return specifications, most of them wrong in one place."""
    sound = st.fixed_dictionaries({
        "sources": st.lists(st.sampled_from([
            {"type": "metadataSource", "sourceName": "fcf", "rrUri": target.fcf.uri,
             "keywordRules": [{"type": "keep", "keyword": "INS.*"}]},
            {"type": "fitsFile", "sourceName": "file", "origin": str(target.file)},
            {"type": "fitsKeywords", "sourceName": "words", "keywords": [
                {"type": "valueKeyword", "name": "A", "value": 1}]},
        ]), min_size=1, max_size=2),
        "filePrefix": st.sampled_from(["", "P_"]),
        "awaitCompletionInterval": st.just(1.0),
    }, optional={"keywords": KEYWORDS, "mergeTarget": st.just({"sourceName": "file"}),
                 "receivers": st.just([{"type": "olasReceiver", "path": "/nowhere"}])})
    more = st.builds(
        lambda document, name, value: {**document, name: value}, sound, st.sampled_from([
            "id", "fileId", "created", "by", "startBy", "heuristics", "instrument", "allowShared",
            "startTime", "hold", "_", "awaitCompletionInterval", "filePrefix"]), VALUES)
    return st.one_of(sound, mutated(sound), mutated(mutated(sound)), more)


Valid = dict[str, st.SearchStrategy[Any]]


@st.composite
def one_is_odd(draw: st.DrawFn, valid: Valid, odd: Valid) -> Any:
    """Return parameters of which one is odd, left out or unknown; now and then none or all."""
    params = {name: draw(values) for name, values in valid.items()}
    how = draw(st.sampled_from(["odd"] * 8 + ["none", "drop", "add", "all"]))
    name = draw(st.sampled_from(list(valid)))
    if how == "odd":
        params[name] = draw(odd[name])
    elif how == "drop":
        del params[name]
    elif how == "add":
        params[draw(TEXTS)] = draw(SCALARS)
    elif how == "all":
        return draw(VALUES)
    return params


def commands(target: Target) -> dict[str, st.SearchStrategy[tuple[str, Any]]]:
    """Return the commands, by what is odd in them."""
    def of(command: str, valid: Valid, odd: Valid) -> st.SearchStrategy[tuple[str, Any]]:
        return st.tuples(st.just(command), one_is_odd(valid, odd))

    just, job = st.just, st.just(JOB)
    fcf = f"fcf@{target.fcf.uri}"
    lists = st.one_of(st.sampled_from(["", fcf, f"{fcf} {fcf}", "x@", "@x", "a@b@c", "a@http://x",
                                       "a@zpb.rr://127.0.0.1:99999/daq", "a@ipc:///x"]), VALUES)
    properties = mutated(just({"keywords": [{"type": "valueKeyword", "name": "A", "value": 1}],
                               "awaitInterval": 1.0}))
    seconds = st.sampled_from([0.05, 0, -1, -0.0, 5e-324, 1e308, 10**299, "1", "inf", "nan", True])
    states = st.sampled_from(["StateAcquiring", "StateMerging", "StateCompleted", "acquiring"])
    return {
        "specification": of("daq.StartDaqV2", {"specification": specifications(target)},
                            {"specification": as_text(specifications(target))}),
        "StartDaq": of("daq.StartDaq", {
            "id": just(""), "file_prefix": just("P_"), "prim_sources": just(""),
            "meta_sources": just(fcf), "properties": just(""), "allow_shared": just(False),
        }, {"id": OTHERS, "file_prefix": VALUES, "prim_sources": lists, "meta_sources": lists,
            "properties": as_text(properties), "allow_shared": SCALARS}),
        "keywords": of("daq.UpdateKeywords", {"id": job, "keywords": KEYWORDS}, {
            "id": OTHERS, "keywords": as_text(st.one_of(mutated(KEYWORDS),
                                                        mutated(mutated(KEYWORDS))))}),
        "await": of("daq.AwaitDaqState", {
            "id": job, "state": just("StateAcquiring"), "substate": just("Acquiring"),
            "timeout": just(0.05),
        }, {"id": IDS, "state": st.one_of(states, VALUES), "timeout": st.one_of(seconds, SCALARS),
            "substate": st.one_of(st.sampled_from(["Merging", "", "Aborted"]), VALUES)}),
        "ids": st.one_of(*(of(f"daq.{command}", {"id": just("nobody")}, {"id": OTHERS})
                           for command in ("StopDaq", "ForceStopDaq", "AbortDaq", "ForceAbortDaq",
                                           "PauseDaq", "ContinueDaq", "GetStatus",
                                           "GetDaqStatus"))),
        "level": of("std.SetLogLevel", {"info": just({"logger": "daq.ocm", "level": "INFO"})},
                    {"info": st.one_of(VALUES, mutated(just({"logger": "root",
                                                             "level": "INFO"})))}),
        "nothing": st.tuples(st.sampled_from([
            "daq.GetActiveList", "std.Init", "std.Enable", "std.Disable", "std.Reset", "std.Stop",
            "std.GetState", "std.GetStatus", "std.GetVersion", "daq.Nothing", "nowhere.Init"]),
            st.one_of(just({}), VALUES)),
    }


#: What is odd -> examples in make test.
ODD = {"specification": 250, "StartDaq": 120, "keywords": 250, "await": 120, "ids": 80,
       "level": 60, "nothing": 60}


@pytest.mark.parametrize("odd", ODD)
def test_every_command_with_odd_parameters(target: Target, odd: str) -> None:
    @quick(ODD[odd])
    @given(request=commands(target)[odd])
    def check(request: tuple[str, Any]) -> None:
        target.check(*request)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_every_command_with_odd_parameters_at_length(target: Target, odd: str) -> None:
    @thorough(3 * ODD[odd])
    @given(request=commands(target)[odd])
    def check(request: tuple[str, Any]) -> None:
        target.check(*request)

    check()


@pytest.mark.parametrize(("command", "params"), [
    ("AwaitDaqState", {"id": JOB, "state": "StateAcquiring", "substate": {}, "timeout": 1}),
    ("AwaitDaqState", {"id": JOB, "state": "StateAcquiring", "substate": ["a"], "timeout": 1}),
    ("StartDaqV2", {"specification": '{"sources": SOURCES, "by": "\\ud800"}'}),
    ("StartDaqV2", {"specification": '{"sources": SOURCES, "by": "a", "by": "b"}'}),
    ("StartDaqV2", {"specification": '{"sources": SOURCES, "other": NaN}'}),
    ("StartDaqV2", {"specification": '{"sources": SOURCES, "other": 1e999}'}),
    ("StartDaqV2", {"specification": '{"sources": SOURCES, "other": ' + "[" * 500 + "]" * 500
                    + "}"}),
    ("UpdateKeywords", {"id": JOB, "keywords":
                        '[{"type": "valueKeyword", "name": "A", "value": 1, "value": 2}]'}),
])
def test_what_went_wrong_before(target: Target, command: str, params: dict[str, Any]) -> None:
    sources = json.dumps([{"type": "metadataSource", "sourceName": "fcf",
                           "rrUri": target.fcf.uri}])
    made = {name: value.replace("SOURCES", sources) if isinstance(value, str) else value
            for name, value in params.items()}
    before = target.tree()
    reply = target.ask(f"daq.{command}", made)
    assert reply is None or not check_reply(reply)
    assert target.tree() == before


# -- the client -----------------------------------------------------------------------------------


def run(live: Live, words: list[str], stdin: str) -> None:
    """Run the client in this process; check its code and its words."""
    from daq_ctl.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    kept, kept_stdin = dict(os.environ), sys.stdin
    os.environ.update(live.daq.environment())
    try:
        sys.stdin = io.StringIO(stdin)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    finally:
        sys.stdin = kept_stdin
        os.environ.clear()
        os.environ.update(kept)
        for number, handler in before.items():
            signal.signal(number, handler)
    codes = {kind.code for kind in errors.CODES} - {errors.Bug.code} | {0, 1}
    assert code in codes, (words, code, err.getvalue())
    assert "Traceback" not in err.getvalue() and "internal error" not in err.getvalue(), words
    if code not in (0, 1, errors.WaitTimeout.code):
        last = err.getvalue().splitlines()[-1]
        assert last.startswith("daq-ctl: ") and len(last) > 20, (words, err.getvalue())


WORDS = st.one_of(
    TEXTS, NASTY, st.sampled_from([JOB, "nobody", "@", "@-", "@/nonexistent", "@/proc/self/mem",
                                   "@/", "StateAcquiring", "Acquiring", "0.1", "inf", "-1",
                                   "1e400"]),
    VALUES.map(json.dumps), KEYWORDS.map(json.dumps))
#: Verb -> how many arguments it takes.
VERBS = {
    "daq.start": 2, "daq.startv2": 1, "daq.stop": 1, "daq.forcestop": 1, "daq.abort": 1,
    "daq.forceabort": 1, "daq.pause": 1, "daq.continue": 1, "daq.getstatus": 1,
    "daq.updatekeywords": 2, "daq.getactivelist": 0, "daq.awaitstate": 4, "std.setloglevel": 2,
    "std.getstate": 0, "std.getstatus": 0, "std.getversion": 0, "daq.nothing": 1, "7": 0}
OPTIONS = st.lists(st.one_of(
    st.sampled_from([["--json"], ["--id"], ["--timeout", "x"], ["--timeout", "nan"],
                     ["--timeout", "-1"], ["--timeout", "0"], ["--timeout", "1e308"],
                     ["--timeout", "inf"], ["--rep", "x"], ["--rep", "zpb.ps://127.0.0.1:1"],
                     ["--rep", "zpb.rr://127.0.0.1:0/daq"], ["--pep", ""], ["-x"], ["--"]]),
    TEXTS.map(lambda text: ["--id", text]), WORDS.map(lambda text: ["--properties", text])),
    max_size=2)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Return a command line, most of them with as many arguments as the verb takes."""
    verb = draw(st.sampled_from(list(VERBS)))
    number = VERBS[verb] if draw(st.integers(0, 9)) else draw(st.integers(0, 4))
    words = [draw(WORDS) for _ in range(number)]
    if words and verb in ("daq.updatekeywords", "daq.awaitstate", "daq.getstatus"):
        words[0] = draw(st.sampled_from([JOB, words[0]]))
    elif verb.removeprefix("daq.force").removeprefix("daq.") in ("stop", "abort"):
        words = ["nobody" if word == JOB else word for word in words]  # it shall go on
    options = draw(OPTIONS) if not draw(st.integers(0, 2)) else []
    return [word for option in options for word in option] + [verb, *words]


@quick(400)
@given(words=command_lines(), stdin=WORDS)
def test_the_client_with_odd_arguments(target: Target, words: list[str], stdin: str) -> None:
    run(target.live, words, stdin)


@pytest.mark.slow
@thorough(300)
@given(words=command_lines(), stdin=WORDS)
def test_the_client_with_odd_arguments_at_length(
        target: Target, words: list[str], stdin: str) -> None:
    run(target.live, words, stdin)


URIS = st.builds("".join, st.lists(st.one_of(
    st.sampled_from(["zpb.rr", "zpb.ps", "zpb", "ipc", "://", "/", ":", "127.0.0.1", "localhost",
                     "*", "65535", "65536", "0", "..", ".sock", "daq", "@", "%", "[::1]", "\0"]),
    st.text(max_size=3)), max_size=8))


@quick(300)
@given(text=st.one_of(URIS, TEXTS, SCALARS), bind=st.booleans())
def test_a_uri_is_sound_or_refused(text: Any, bind: bool) -> None:
    from daqlib import uri

    try:
        endpoint = uri.parse(text, bind=bind)
    except errors.BadData as error:
        assert error.remedy and str(error).isprintable()
    else:
        assert uri.parse(str(endpoint), bind=bind).address == endpoint.address
        assert endpoint.address.isprintable() and " " not in endpoint.address

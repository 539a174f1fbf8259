from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daqlib import cli, errors
from harness import CHECKOUT, PATIENCE_S, SYSTEM_PATH, Daq, make_fits, wait_until


def run(act: object) -> int:
    """Run something as a tool's main; exceptions are raised, a number is returned."""

    @cli.entry("daq-test")
    def main(_argv: list[str]) -> int:
        if isinstance(act, BaseException):
            raise act
        return int(act)  # type: ignore[call-overload]

    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        return main([])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("kind", errors.CODES)
def test_an_error_is_one_line_and_its_code(
        kind: type[errors.DaqError], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(kind("what is wrong", "what to do", "job-1")) == kind.code
    assert capsys.readouterr() == ("", "daq-test: job-1: what is wrong; what to do\n")


def test_how_children_end_is_learnt_whatever_the_parent_ignores() -> None:
    tool = ("import subprocess; from daqlib import cli;"
            "print(cli.entry('daq-test')(lambda _: subprocess.call(['sh', '-c', 'exit 3']))())")
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        popen = subprocess.Popen([sys.executable, "-c", tool], stdout=subprocess.PIPE,
                                 env={**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")})
    finally:
        signal.signal(signal.SIGCHLD, old)
    assert popen.communicate()[0] == b"3\n"


@pytest.mark.parametrize(("missing", "code", "said"), [
    ("sh", 78, "the Python package sh is not installed for "),
    ("yaml.reader", 78, "the Python package yaml is not installed for "),
    ("daqlib.gone", 70, "internal error: ModuleNotFoundError")])
def test_a_package_that_is_missing(
        missing: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ModuleNotFoundError(f"No module named {missing!r}", name=missing)) == code
    assert said in capsys.readouterr().err


def test_codes_are_different_and_explained() -> None:
    codes = [kind.code for kind in errors.CODES]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 2} & set(codes)
    assert all(kind.meaning and kind.__doc__ for kind in errors.CODES)
    assert codes == sorted(codes)


@pytest.mark.parametrize(("number", "code"), [
    (errno.ENOSPC, 75), (errno.EDQUOT, 75), (errno.EACCES, 77), (errno.EPERM, 77),
    (errno.EROFS, 77), (errno.EIO, 74), (errno.ENOENT, 74), (errno.EISDIR, 74),
    (errno.ENAMETOOLONG, 74), (errno.EMFILE, 74)])
def test_system_errors_have_their_codes(
        number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(OSError(number, os.strerror(number), "/some/file")) == code
    told = capsys.readouterr().err
    assert told.startswith(f"daq-test: /some/file: {os.strerror(number)}")
    assert len(told.splitlines()) == 1


def test_a_bug_is_one_line_too(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(ZeroDivisionError("by\nzero")) == 70
    told = capsys.readouterr().err
    assert told.startswith(r"daq-test: internal error: ZeroDivisionError: by\nzero; run again with")
    assert len(told.splitlines()) == 1
    monkeypatch.setenv("DAQ_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError())


@pytest.mark.parametrize(("ending", "code"), [
    (0, 0), (75, 75), (cli.Terminated(signal.SIGTERM), 143), (KeyboardInterrupt(), 130),
    (SystemExit(0), 0), (SystemExit(), 0)])
def test_other_ends(ending: object, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ending) == code
    assert capsys.readouterr() == ("", "")


def test_an_error_line_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    run(errors.BadData("a\x1b[2Jb\nc\td\u202e"))
    assert capsys.readouterr().err == "daq-test: a\\x1b[2Jb\\nc\td\\u202e\n"


def test_a_closed_stderr_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "broken pipe")

    assert cli.note("read")
    monkeypatch.setattr(sys, "stderr", Closed())
    cli.warn("words")
    assert not cli.note("not read")
    assert run(errors.Later("x")) == 75


def test_signals_that_are_ignored_stay_ignored() -> None:
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run(0)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)


# -- arguments -------------------------------------------------------------------------------------


def parser() -> cli.Parser:
    made = cli.parser("daq-test", "Test.", "daq-test --really\n")
    made.add_argument("ids", nargs="*")
    made.add_argument("--really", action="store_true")
    return made


@pytest.mark.parametrize("argv", [["--unknown"], ["--reall"], ["--spool"]])
def test_wrong_arguments_point_to_the_help(argv: list[str]) -> None:
    with pytest.raises(errors.Usage, match="try 'daq-test --help'"):
        cli.parse(parser(), argv)


def test_options_may_stand_between_the_ids() -> None:
    options = cli.parse(parser(), ["a", "--really", "b", "--", "-c"])
    assert (options.ids, options.really) == (["a", "b", "-c"], True)
    options = cli.parse(parser(), ["--really", "--", "-c", "d"])
    assert (options.ids, options.really) == (["-c", "d"], True)
    with pytest.raises(errors.Usage, match="--bogus"):
        cli.parse(parser(), ["--bogus", "--", "-c"])


def test_the_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    told = capsys.readouterr().out
    assert "examples:\n  daq-test --really" in told
    assert "--spool DIR" in told


def test_talkativeness(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        for quiet, verbose, lines in ((True, 0, ["w"]), (False, 0, ["s", "w"]),
                                      (False, 1, ["s", "d", "w"])):
            cli.set_verbosity(verbose, quiet=quiet)
            cli.say("s")
            cli.detail("d")
            cli.warn("w")
            told = capsys.readouterr().err.splitlines()
            assert [line.rpartition(" ")[2] for line in told] == lines
            assert cli.verbosity() == (["-q"] if quiet else ["-v"] * verbose)
    finally:
        cli.set_verbosity(0)


def test_ids_come_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("b\n\n  c \n"))
    assert list(cli.ids(["a", "-", "d"])) == ["a", "b", "c", "d"]


def test_text_and_json_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text('{"a": 1}')
    (tmp_path / "b").write_bytes(b"\xff")
    assert cli.json_argument(f"@{tmp_path}/a", "it") == {"a": 1}
    assert cli.json_argument("[1]", "it") == [1]
    monkeypatch.setattr(sys, "stdin", io.StringIO("7"))
    assert cli.json_argument("@-", "it") == 7
    monkeypatch.setattr(sys, "stdin", io.StringIO("[8]"))
    assert cli.json_argument("-", "it") == [8]
    with pytest.raises(errors.BadData, match="it is not JSON"):
        cli.json_argument("{", "it")
    with pytest.raises(errors.BadData, match=f"write @{tmp_path}/a to read that file"):
        cli.json_argument(f"{tmp_path}/a", "it")
    with pytest.raises(errors.BadData, match="give JSON text, @FILE to read a file, or - "):
        cli.json_argument("none.json", "it")
    for name in ("none", "b", ""):
        with pytest.raises(errors.Usage, match="cannot read"):
            cli.text_argument(f"@{tmp_path}/{name}")
    with pytest.raises(errors.Usage, match="cannot read @: "):
        cli.text_argument("@")
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbf[]")
    assert cli.json_argument(f"@{tmp_path}/bom", "it") == []
    with pytest.raises(errors.BadData, match="it is not JSON: NaN"):
        cli.json_argument("[NaN]", "it")
    for argument in ("@-", "-", "\udcff"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\udcff"))
        with pytest.raises(errors.Usage, match="is not UTF-8"):
            cli.text_argument(argument)


def test_output_is_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    cli.emit({"é": "\n"})
    cli.show("text")
    assert capsys.readouterr().out == '{"é": "\\n"}\ntext\n'


def test_names_that_are_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON is ASCII or UTF-8 and reads back as the name; a name is the bytes that it is."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "utf-8", "surrogateescape"))
    cli.emit({"file": "a\udcff"})
    assert json.loads(raw.getvalue().decode()) == {"file": "a\udcff"}
    for encoding in ("ascii", "utf-8"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
        cli.show("é\udcff")
        assert raw.getvalue() == "é".encode() + b"\xff\n"


def test_an_error_of_standard_output_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space") as caught:
            cli.show("x")
        assert caught.value.filename == cli.STDOUT
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


def test_progress_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    for columns in (80, 40, 20):
        monkeypatch.setattr(os, "get_terminal_size", lambda _, c=columns: os.terminal_size((c, 24)))
        terminal.truncate(0)
        terminal.seek(0)
        monkeypatch.setattr(terminal, "fileno", lambda: 2)
        draw = cli.progress("verify NIGHT7_UNDEF.2026-03-14T15:09:26.535.fits")
        for done in (0, 50, 100, 100):
            draw(done, 100)
        first, *others = terminal.getvalue().split("\r")
        assert first == "" and others[-1].endswith("100 %\n")
        assert max(map(len, others[:-1])) < columns and len(others[-1]) <= columns
        assert terminal.getvalue().count("\n") == 1, "the end is told once"


def test_words_do_not_follow_an_unfinished_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    cli.progress("merge")(1, 2)
    cli.warn("trouble")
    cli.warn("more")
    bar, *words = terminal.getvalue().split("\n")
    assert bar.endswith(" 50 %")
    assert [word.partition(": ")[2] for word in words] == ["trouble", "more", ""]


def test_a_terminal_that_is_gone_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    terminal = os.fdopen(theirs, "w")
    monkeypatch.setattr(sys, "stderr", terminal)
    draw = cli.progress("merge")
    os.close(ours)
    with pytest.raises(OSError, match="Input/output"):
        os.write(theirs, b"x")
    draw(1, 2)
    draw(2, 2)
    with contextlib.suppress(OSError):
        terminal.close()


def test_no_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    draw = cli.progress("x")
    draw(1, 2)
    assert capsys.readouterr().err == ""


def test_a_sibling_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "daq-x"
    tool.write_text("#!/bin/sh\n")
    monkeypatch.delenv("DAQ_BIN", raising=False)
    monkeypatch.setenv("PATH", SYSTEM_PATH)
    with pytest.raises(errors.BadConfig, match="daq-x is not installed"):
        cli.command("daq-x")
    monkeypatch.setenv("DAQ_BIN", str(tmp_path))
    with pytest.raises(errors.BadConfig):
        cli.command("daq-x")
    tool.chmod(0o755)
    assert cli.command("daq-x") == [str(tool)]
    monkeypatch.delenv("DAQ_BIN")
    monkeypatch.setenv("PATH", f"{SYSTEM_PATH}:{tmp_path}")
    assert cli.command("daq-x") == [str(tool)]


def test_subcommands_are_parsed_as_well() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("-q", "--quiet", action="store_true")
    made.add_argument("-v", "--verbose", action="count", default=0)
    made.add_subparsers(dest="verb").add_parser("serve")
    assert cli.parse(made, ["serve"]).verb == "serve"


# -- whole tools -----------------------------------------------------------------------------------


def submit(daq: Daq, count: int) -> None:
    make_fits(daq.folder / "a.fits")
    for number in range(count):
        daq.drop("collect", f"j{number}", {"sources": [
            {"type": "fitsFile", "sourceName": "a", "location": f"{daq.folder}/a.fits"}]})


def test_a_stage_tool_goes_on_when_its_reader_leaves(daq: Daq) -> None:
    submit(daq, 3)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        made = subprocess.run(daq.command("daq-collect", "-q", "--all", "--json"), stdout=writer,
                              stderr=subprocess.PIPE, env=daq.environment(), timeout=60,
                              check=False)
    finally:
        os.close(writer)
    assert daq.tree() == {"merge": ["j0", "j1", "j2"]}
    assert made.stderr == b""
    assert made.returncode == 0


def test_a_lister_ends_quietly_when_its_reader_leaves(daq: Daq) -> None:
    submit(daq, 3)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        made = subprocess.run(daq.command("daq-status", "--json"), stdout=writer, timeout=60,
                              stderr=subprocess.PIPE, env=daq.environment(), check=False)
    finally:
        os.close(writer)
    assert (made.returncode, made.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(("words", "stream", "code"), [
    ("--version", "stdout", 75), ("--json", "stdout", 75), ("--bogus", "stderr", 64)])
def test_a_full_disk_does_not_hide_the_exit_code(daq: Daq, words: str, stream: str, code: int,
                                                 ) -> None:
    submit(daq, 1)
    environment = {**daq.environment(), "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        made = subprocess.run(daq.command("daq-status", words), env=environment, timeout=60,
                              check=False, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                                              stream: full})
    assert made.returncode == code
    if stream == "stdout":
        assert made.stderr == (
            b"daq-status: standard output: No space left on device; free some space\n")


def test_the_worst_of_several_jobs_decides(daq: Daq) -> None:
    submit(daq, 1)
    daq.drop("collect", "bad", "[]")
    told = daq.run("daq-collect", "--json", "--job", "j0", "--job", "bad", "--job", "gone")
    told.exits(65)
    assert [(o["id"], o["code"], o["place"]) for o in told.jsonl()] == [
        ("j0", 0, "merge"), ("bad", 65, ""), ("gone", 66, "")]
    assert daq.tree() == {"merge": ["j0"], "bad": ["bad"]}


def test_all_goes_on_after_a_job_that_is_wrong(daq: Daq) -> None:
    submit(daq, 2)
    daq.drop("collect", "a-bad", "[]")
    daq.drop("collect", "b bad", "{}")
    daq.run("daq-collect", "--all").exits(65)
    assert daq.tree() == {"merge": ["j0", "j1"], "bad": ["a-bad", "b bad"]}


def test_all_leaves_alone_what_is_paused_or_not_due(daq: Daq) -> None:
    submit(daq, 2)
    late = daq.spool / "collect" / "j1.json"
    os.utime(late, (os.stat(late).st_mtime + 600,) * 2)
    (daq.spool / "collect" / ".pause").touch()
    daq.run("daq-collect", "--all").ok().says("is paused")
    assert daq.tree() == {"collect": ["j0", "j1"]}
    (daq.spool / "collect" / ".pause").unlink()
    daq.run("daq-collect", "--all").ok()
    assert daq.tree() == {"collect": ["j1"], "merge": ["j0"]}
    daq.run("daq-collect", "--job", "j1").ok()


def test_a_dry_run_changes_nothing(daq: Daq) -> None:
    submit(daq, 1)
    before = {p: p.stat().st_mtime_ns for p in daq.spool.rglob("*")}
    daq.run("daq-collect", "-n", "--job", "j0").ok().prints("j0: would collect (try 1 of 5)")
    daq.run("daq-collect", "-n", "--job", "gone").fails(66, "gone")
    assert {p: p.stat().st_mtime_ns for p in daq.spool.rglob("*")} == before


def test_no_job_named(daq: Daq) -> None:
    daq.run("daq-collect").fails(64, "give --job ID or --all")


def test_termination_before_the_work_is_quiet(daq: Daq) -> None:
    with daq.start("daq-collect", "--job", "-", stdin=True) as tool:
        wait_until(lambda: re.search(
            "daq.collect", Path(f"/proc/{tool.pid}/cmdline").read_text()), 5)
        wait_until(lambda: int(next(
            line.split()[1] for line in Path(f"/proc/{tool.pid}/status").read_text().splitlines()
            if line.startswith("SigCgt")), 16) & (1 << (signal.SIGTERM - 1)), 5)
        tool.signal(signal.SIGTERM)
        assert tool.wait().code == 128 + signal.SIGTERM
        assert tool.err == ""


def test_a_signal_is_not_lost_where_nothing_can_be_raised() -> None:
    tool = """\
import os, signal, time
from daqlib import cli
class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
def main(_argv):
    Dying()
    time.sleep(600)
    return 0
raise SystemExit(cli.entry("daq-test")(main)())
"""
    done = subprocess.run([sys.executable, "-c", tool], capture_output=True, timeout=PATIENCE_S,
                          env={**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")})
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, b"", b"")


def test_the_version_is_the_packages() -> None:
    made = subprocess.run([CHECKOUT / "bin/daq-collect", "--version"], capture_output=True,
                          text=True, check=True, env={"DAQ_PYTHON": sys.executable})
    from daqlib import __version__

    assert made.stdout == f"daq-collect {__version__}\n"
    assert json.dumps(made.stderr) == '""'


@pytest.mark.parametrize(("name", "code", "remedy"), [
    ("ENOSPC", 75, "free some space"), ("EDQUOT", 75, "have the quota raised"),
    ("EROFS", 77, "remount it"), ("EACCES", 77, "check owner and mode"),
    ("EIO", 74, "look into the system's log")])
def test_what_a_failed_system_call_asks_of_a_person(name: str, code: int, remedy: str) -> None:
    number = getattr(errno, name)
    told = cli.from_os_error(OSError(number, os.strerror(number), "/data/x"))
    assert told.code == code
    assert told.message == f"/data/x: {os.strerror(number)}"
    assert remedy in told.remedy


def test_a_file_system_that_can_hold_no_more_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be space enough, and df shows it."""
    class Full:
        f_files, f_favail = 1000, 0

    monkeypatch.setattr(cli.os, "statvfs", lambda path: Full)
    told = cli.from_os_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"))
    assert "df -i" in told.remedy

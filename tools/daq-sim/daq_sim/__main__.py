"""daq-sim: simulate a primary (recif) or a metadata (metadaqif) source."""

from __future__ import annotations

import argparse
import sys

from daqlib import cli

_EXAMPLES = """
daq-sim recif dcs zpb.rr://127.0.0.1:12345            (Enter ends the recording)
daq-sim recif dcs zpb.rr://127.0.0.1:0 --exposure 2 --size 1G --extensions 4
daq-sim metadaqif fcf ipc:///tmp/fcf.sock --file /data/real.fits
daq-sim recif dcs zpb.rr://127.0.0.1:12345 --fail RecStop:1 --delay RecStart=3
daq-sim metadaqif lcs zpb.rr://127.0.0.1:12346 --count 600 --no-files
"""
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@cli.entry("daq-sim")
def main(argv: list[str]) -> int:
    """Run the simulator until a signal or the command Exit ends it."""
    options = cli.parse(build_parser(), argv)
    if options.kind == "recif":
        from daq_sim.recif import simulate
    else:
        from daq_sim.metadaqif import simulate
    return simulate(options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = cli.parser("daq-sim", "Simulate a data source: it serves the commands of a real one, "
                        "writes real FITS files and fails on demand.", _EXAMPLES, spool=False)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _recif(_add(kinds, "recif", "a primary source, such as a detector (path /rec)"))
    _metadaqif(_add(kinds, "metadaqif", "a metadata source, such as a device manager (path /daq)"))
    return parser


def _add(kinds: argparse._SubParsersAction[cli.Parser], kind: str, summary: str) -> cli.Parser:
    made = kinds.add_parser(kind, help=summary, description=f"Simulate {summary}.",
                            allow_abbrev=False)
    made.add_argument("name", metavar="NAME", help="the source's name, used in file names")
    made.add_argument("uri", metavar="URI", help="endpoint to serve; port 0 takes a free one")
    made.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS,
                      help="say errors and warnings only")
    made.add_argument("-v", "--verbose", action="count", default=argparse.SUPPRESS,
                      help="say every command")
    made.add_argument("--json", action="store_true",
                      help="print the endpoint of each source as a JSON object")
    made.add_argument("--count", metavar="N", type=_positive, default=0,
                      help="host N sources in one process: NAME1 ... NAMEN at paths 1 ... N")
    _output(made.add_argument_group("output"))
    _faults(made.add_argument_group(
        "faults", "CMD is a command such as RecStart; CMD:N means its N-th call only; repeatable"))
    _endpoint(made.add_argument_group("endpoint"))
    return made


def _output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--directory", metavar="DIR", default="",
                       help="where to write (default: $DATAROOT/NAME, else here)")
    group.add_argument("--host", metavar="HOST", default="",
                       help="report files as HOST:PATH instead of PATH")
    group.add_argument("--size", metavar="BYTES", type=_size, default=_size("64K"),
                       help="bytes of data in the file; suffixes K, M, G (default: 64K)")
    group.add_argument("--extensions", metavar="N", type=_count, default=None,
                       help="extensions that share the data (default: recif 0, metadaqif 1)")
    group.add_argument("--file", metavar="PATH", action="append", default=[],
                       help="deliver a copy of this FITS file instead; repeatable")
    group.add_argument("--seed", metavar="N", type=int, default=1, help="of the data (default: 1)")


def _faults(group: argparse._ArgumentGroup) -> None:
    def add(name: str, metavar: str, summary: str) -> None:
        group.add_argument(name, metavar=metavar, action="append", default=[], help=summary)

    add("--delay", "CMD[:N]=S", "act and reply S seconds late")
    add("--fail", "CMD[:N][=MESSAGE]", "refuse")
    add("--hang", "CMD[:N]", "never act nor reply")
    add("--die", "CMD[:N]", "exit at once")
    add("--die-after", "CMD[:N]", "act, then exit instead of replying")
    add("--without", "CMD", "do not have this command at all, as sources that do not implement it")


def _endpoint(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--insecure", action="store_true",
                       help="serve other hosts without CURVE keys")
    group.add_argument("--curve-certificate", metavar="FILE", default="",
                       help="our .key_secret file: serve with CURVE keys")
    group.add_argument("--curve-authorized", metavar="DIR", default=None,
                       help="let in only the clients whose .key files are there")


def _recif(made: cli.Parser) -> None:
    made.add_argument("--exposure", metavar="S", type=_seconds, default=0.0,
                      help="recordings end by themselves after S seconds")


def _metadaqif(made: cli.Parser) -> None:
    made.add_argument("--sessions", metavar="N", type=_count, default=1,
                      help="sessions that may run at a time (default: 1)")
    made.add_argument("--keywords", metavar="JSON", default="",
                      help="keywords to reply: a JSON list, @FILE or @-")
    made.add_argument("--no-keywords", action="store_true", help="reply no keywords")
    made.add_argument("--no-files", action="store_true", help="write no files")


def _size(text: str) -> int:
    number, factor = (text[:-1], _SUFFIXES[text[-1]]) if text[-1:] in _SUFFIXES else (text, 1)
    return _count(number) * factor


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number that is not negative")
    return int(text)


def _positive(text: str) -> int:
    number = _count(text)
    if not number:
        raise argparse.ArgumentTypeError("0 sources are none")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())

"""The options of the merge without a spool, which daq-merge and daqDpmMerge share.

This is the place that says which of them go together; the parsers only read them.
"""

from __future__ import annotations

from daq_merge import how
from daqlib import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from daqlib.cliplain import Adds

#: Which headers get ORIGFILE and ARCFILE.
STAMPS = ("primary", "all")

#: Option -> name in the parsed arguments, of what only a merge without a spool takes.
_OF_MERGE = {"--root": "root", "--outfile": "outfile", "--logfile": "logfile", "--way": "way",
             "--trust-sums": "trust_sums", "--strict": "strict", "--no-sync": "no_sync",
             "--stamp": "stamp"}
#: Those with a path; a script that gives an empty one has lost it.
_PATHS = {"--root": "root", "--outfile": "outfile", "--logfile": "logfile",
          "--manifest": "manifest"}
_ALONE = {**_OF_MERGE, "--manifest": "manifest", "--explain": "explain", "--undo": "undo"}


def add(made: Adds) -> None:
    """Add the positional arguments and the options of a merge without a spool to a parser."""
    made.add_argument("files", nargs="*", metavar="SPECIFICATION",
                      help="a Data Product Specification; - reads stdin; with --verify: products")
    made.add_argument("--root", metavar="DIR", help="base of relative paths "
                      "(default: the directory of SPECIFICATION)")
    made.add_argument("-o", "--outfile", metavar="FILE",
                      help="the product (default: FILEID.fits), relative to the root")
    made.add_argument("-l", "--logfile", metavar="FILE",
                      help="append status messages to it, relative to the root")
    made.add_argument("--way", choices=tuple(how.WAYS), help="how the product is built (default: "
                      "auto); in-place and insert make it of the merge target itself")
    made.add_argument("--trust-sums", action="store_true",
                      help="believe every DATASUM that a source carries")
    made.add_argument("--strict", action="store_true",
                      help="no product when data do not match their DATASUM")
    made.add_argument("--no-sync", action="store_true",
                      help="leave it to the kernel when the product reaches the disk")
    made.add_argument("--stamp", choices=STAMPS,
                      help="which headers get ORIGFILE and ARCFILE (default: primary)")
    made.add_argument("--manifest", metavar="FILE",
                      help="write a manifest of the product, relative to the root; "
                      "with --verify: compare with it")
    made.add_argument("--explain", action="store_true", help="say where each keyword and "
                      "extension of the product comes from; write nothing")
    made.add_argument("--undo", action="store_true", help="give back the files named instead, "
                      "which a merge in place changed or made the product of")


def refuse_with_jobs(given: Namespace) -> None:
    """Refuse what cannot stand beside ``--job`` or ``--all``.

    Raises:
        errors.Usage: something is given that belongs to a specification.
    """
    jobs = given.jobs or given.all
    if given.files and jobs:
        raise errors.Usage("a specification and --job or --all exclude each other",
                           "try 'daq-merge --help'")
    used = _used(given, _ALONE)
    if used:
        raise errors.Usage(f"{used[0]} needs a SPECIFICATION", "name it" if not jobs else
                           "cfg/merge of the configuration says how jobs are merged")
    if not jobs:
        raise errors.Usage("neither a specification nor a job is named",
                           "give a SPECIFICATION, --job ID or --all; try 'daq-merge --help'")


def refuse_alone(given: Namespace) -> None:
    """Refuse what makes no sense without a spool.

    Raises:
        errors.Usage: options that exclude each other, or not one SPECIFICATION.
    """
    if getattr(given, "force", False):
        raise errors.Usage("--force is for jobs; a product is never overwritten",
                           "name another file with --outfile")
    empty = [option for option, name in _PATHS.items() if getattr(given, name) == ""]
    if empty:
        raise errors.Usage(f"{empty[0]} is empty", "name a file or directory, or leave it out")
    if given.verify:
        return _refuse_verify(given)
    if given.undo:
        return _refuse_undo(given)
    if len(given.files) != 1:
        raise errors.Usage("one SPECIFICATION is needed" if not given.files else
                           f"{len(given.files)} specifications are too many",
                           "name one; - reads it from standard input")
    if given.trust_sums and given.strict:
        raise errors.Usage("--trust-sums and --strict exclude each other",
                           "leave one out; without both, sums are verified and told")
    writing = _used(given, {"--manifest": "manifest", "--dry-run": "dry_run"})
    if given.explain and writing:
        raise errors.Usage(f"--explain writes nothing: {writing[0]} has no place beside it",
                           f"leave {writing[0]} out")
    return None


def _refuse_verify(given: Namespace) -> None:
    used = _used(given, {**_OF_MERGE, "--explain": "explain", "--undo": "undo",
                         "--dry-run": "dry_run"})
    if used:
        raise errors.Usage(f"{used[0]} has no place beside --verify FILE",
                           "give --manifest, --json and the files only")
    if not given.files:
        raise errors.Usage("--verify needs a FILE", "name the products to verify")
    if given.manifest and len(given.files) != 1:
        raise errors.Usage("--manifest is of one FILE", "verify the files one at a time")


def _refuse_undo(given: Namespace) -> None:
    used = _used(given, {**_OF_MERGE, "--manifest": "manifest", "--explain": "explain",
                         "--dry-run": "dry_run"})
    if used:
        raise errors.Usage(f"{used[0]} has no place beside --undo FILE", "give the files only")
    if not given.files:
        raise errors.Usage("--undo needs a FILE", "name the merge targets to give back")


def _used(given: Namespace, among: dict[str, str]) -> list[str]:
    return [option for option, name in among.items() if getattr(given, name)]

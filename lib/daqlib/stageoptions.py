"""The options of ``daq-collect``, ``daq-merge`` and ``daq-release``, apart from what they do."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daqlib.cliplain import Adds


def add_arguments(made: Adds) -> None:
    """Add the options of a stage tool to its parser."""
    made.add_argument("--job", metavar="ID", action="append", default=[], dest="jobs",
                      help="work on this job; '-' reads ids from stdin; may be repeated")
    made.add_argument("--all", action="store_true",
                      help="work on every job of this stage that is due (for cron)")
    made.add_argument("--force", action="store_true", help="do the work again though it is done")
    made.add_argument("--verify", action="store_true",
                      help="compare checksums before believing that the work is done")
    made.add_argument("-n", "--dry-run", action="store_true", help="say what would be done")
    made.add_argument("--json", action="store_true", help="print one JSON object a job")

"""What the fronts with the names of ESO's programs share (ESO-396401, sections 11.3.3, 12.2.3)."""

from __future__ import annotations

import os
import sys

from daqlib import cli, errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    #: Name of a program -> what makes its parser, and its main function.
    Programs = dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[..., int]]]

#: Log levels, from the fewest messages to the most; those of daqlib.logs, which a client that
#: shows them in its help need not load.
LEVELS = ("ERROR", "WARNING", "STATE", "EVENT", "ACTION", "INFO", "DEBUG", "TRACE")


def add_config(made: argparse.ArgumentParser, default: str) -> None:
    """Add the option for the configuration, whose default is a Config Path."""
    made.add_argument("-c", "--config", metavar="FILE",
                      help=f"configuration, a Config Path (default: $DAQ_CONFIG, then {default} "
                           "if there is one, then the built-in defaults)")


def add_log_level(made: argparse._ActionsContainer) -> None:
    """Add the option for the log level; without it the level is None."""
    made.add_argument("-l", "--log-level", metavar="LEVEL", choices=LEVELS,
                      type=str.upper,
                      help=f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]} (default: INFO)")


def config_path(given: str | None, default: str) -> str | None:
    """Return the configuration to load; None leaves it to :func:`daqlib.config.load`.

    Args:
        given: by the option.
        default: the Config Path to use when nothing else names a configuration; that it is not
            there is no error, because the built-in defaults are those of ESO's file.
    """
    if given or os.environ.get("DAQ_CONFIG"):
        return given
    from daqlib import config

    try:
        return config.find(default, "configuration", "set CFGPATH to use it")
    except errors.BadConfig as error:
        cli.detail(f"{error}; the built-in defaults are used")
        return None


def launched(programs: Programs) -> int:
    """Run the program whose name ``bin/launch`` gives as the first argument."""
    name = sys.argv.pop(1)
    sys.argv[0] = os.path.join(os.path.dirname(sys.argv[0]), name)  # by which a client is known
    return programs[name][1]()

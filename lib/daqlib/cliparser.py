"""The argument parser of all tools: argparse with our exit code, and examples after the options."""

from __future__ import annotations

import argparse

from daqlib import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser with our exit code for usage errors."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line in one line with a pointer to the help.

        Raises:
            errors.Usage: always.
        """
        raise errors.Usage(message, f"try '{self.prog} --help'")


def make(tool: str, summary: str, examples: str) -> Parser:
    """Make a parser without options, see :func:`daqlib.cli.parser`."""
    shown = "\n".join("  " + line for line in examples.strip().splitlines())
    return Parser(prog=tool, description=summary, epilog="examples:\n" + shown,
                  formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

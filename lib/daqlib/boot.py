"""What ``bin/launch`` runs: the module of a tool, without the cost of a full start of Python.

The interpreter is started with ``-S``: looking through the installed packages (``site``) takes a
third of its start. The tools of this project need them late or never, so that is done when a module
is wanted that is not there. ``python -m`` would load the import system a second time, in Python;
importing the module takes its compiled form as well.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class _InstalledPackages:
    """The last finder: at the first module that nobody else finds, make ``site`` do its work."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if path is not None:
            return None  # inside a package that was found: an optional part that is missing
        sys.meta_path.remove(cls)
        import site

        site.main()
        for finder in sys.meta_path:
            found = finder.find_spec(name, path, target)
            if found is not None:
                return found
        return None


def run(module: str, function: str) -> int:
    """Run a tool.

    Args:
        module: where it is.
        function: what to call; of ESO's programs the name of the program.

    Returns:
        The exit code.
    """
    if sys.flags.no_site:
        sys.meta_path.append(_InstalledPackages)
    tool = __import__(module, fromlist=[function])
    file = str(tool.__file__)
    # the first word as "python -m" has it; a client is known by it
    sys.argv[0] = file if function == "main" else f"{file.rpartition('/')[0]}/{function}"
    return int(getattr(tool, function)())


def _leave(code: int) -> None:
    """Exit as the interpreter would, but at once: taking its modules down takes its time.

    Not when threads are left to be waited for, or messages to be sent.
    """
    loaded = sys.modules
    if "zmq" in loaded or "threading" in loaded and loaded["threading"].active_count() > 1:
        return
    import atexit
    import os

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    wanted = sys.argv[1:3]
    del sys.argv[1:3]
    result = run(*wanted)
    _leave(result)
    sys.exit(result)

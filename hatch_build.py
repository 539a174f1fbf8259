"""Build the C extension of ``daqlib`` where that can be done; an installation works without it.

A wheel then serves CPython 3.11 and all later ones (``cp311-abi3``) on platforms like this one; an
editable installation gets the extension beside its source. Where there is no C compiler or no
``Python.h``, where compiling fails, or with ``DAQ_NO_NATIVE=1``, one line says so and the wheel is
one for all platforms. ``CC``, ``CFLAGS`` and ``LDFLAGS`` count as usual.
"""

from __future__ import annotations

import filecmp
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

SOURCE = os.path.join("lib", "daqlib", "_native.c")
BINARY = "_native.abi3.so"
#: What a binary has to answer before it is used.
TRIAL = "import _native; raise SystemExit(_native.ones_sum(bytes(range(1, 10))) != 0x0F080A0C)"
PATIENCE = 300


class Impossible(Exception):
    """The extension cannot be built here; the message is the reason."""


class Hook(BuildHookInterface[Any]):
    """Adds the extension to wheels, or puts it beside its source for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the extension before the files of a wheel are collected."""
        if self.target_name != "wheel":
            return
        self.folder = tempfile.mkdtemp(prefix="daqspool-")
        editable = version == "editable"
        try:
            binary = build(os.path.join(self.root, SOURCE), self.folder)
            if editable:
                put_beside(os.path.join(self.root, SOURCE), binary)
            else:
                build_data["force_include"][binary] = f"daqlib/{BINARY}"
                build_data["pure_python"] = False
                build_data["tag"] = f"cp311-abi3-{platform_tag()}"
        except Impossible as reason:
            if editable:
                forget(os.path.join(self.root, SOURCE))
            self.app.display_warning(f"daqspool: no C extension, sums are slower: {reason}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was needed while the wheel was written."""
        if self.target_name == "wheel":
            shutil.rmtree(self.folder, ignore_errors=True)


def build(source: str, folder: str) -> str:
    """Compile the extension and try it; return its path.

    Args:
        source: path of the C source.
        folder: an empty folder for the binary.

    Raises:
        Impossible: there is no way to build it here, or it does not work.
    """
    if os.environ.get("DAQ_NO_NATIVE", "") not in ("", "0"):
        raise Impossible("DAQ_NO_NATIVE is set")
    if platform.python_implementation() != "CPython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise Impossible("this interpreter does not load the stable ABI of CPython")
    binary = os.path.join(folder, BINARY)
    _run([*compiler(), "-O3", "-shared", "-fPIC", *shlex.split(os.environ.get("CFLAGS", "")),
          *(f"-I{path}" for path in headers()), source, "-o", binary,
          *shlex.split(os.environ.get("LDFLAGS", ""))], "compiling failed")
    _run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {folder!r}); {TRIAL}"],
         "what was compiled does not work")
    return binary


def compiler() -> list[str]:
    """Return the command of the C compiler: ``CC``, that of the interpreter, or ``cc``.

    Raises:
        Impossible: there is none.
    """
    if given := shlex.split(os.environ.get("CC", "")):
        wanted = [given]
    else:
        wanted = [shlex.split(sysconfig.get_config_var("CC") or ""), ["cc"]]
    for words in wanted:
        if words and shutil.which(words[0]):
            return words
    raise Impossible(f"no C compiler ({wanted[0][0] if wanted[0] else 'cc'}) is found")


def headers() -> list[str]:
    """Return the folders with the interpreter's C headers.

    Raises:
        Impossible: they are not installed.
    """
    paths = sysconfig.get_paths()
    found = sorted({paths["include"], paths["platinclude"]})
    if not any(os.path.exists(os.path.join(path, "Python.h")) for path in found):
        raise Impossible(f"no Python.h in {paths['include']}: install python3-dev")
    return found


def _run(command: list[str], failure: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Impossible(f"{failure}: {error}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        told = next((line for line in said if "error" in line), said[0] if said else "")
        raise Impossible(f"{failure}: {told or f'exit code {done.returncode}'}")


def platform_tag() -> str:
    """Return this platform's tag, without a promise about other C libraries."""
    return next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))


def put_beside(source: str, binary: str) -> None:
    """Publish a binary beside its source in one step; running programs keep the old one.

    Raises:
        Impossible: the folder cannot be written to.
    """
    folder = os.path.dirname(source)
    place, embryo = os.path.join(folder, BINARY), os.path.join(folder, f".{os.getpid()}-{BINARY}")
    try:
        if os.path.exists(place) and filecmp.cmp(binary, place, shallow=False):
            return
        shutil.copyfile(binary, embryo)
        os.replace(embryo, place)
    except OSError as error:
        raise Impossible(f"{folder}: {error.strerror}") from None
    finally:
        if os.path.exists(embryo):
            os.unlink(embryo)


def forget(source: str) -> None:
    """Remove an extension built earlier, so that it does what the notice says."""
    try:
        os.unlink(os.path.join(os.path.dirname(source), BINARY))
    except OSError:
        return  # there is none, or the folder cannot be written to

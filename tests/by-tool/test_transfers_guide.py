"""The page about transfers is true: its commands run as they stand, with a real sshd."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

import test_docs as pages
from harness import CHECKOUT, PATIENCE_S, SYSTEM_PATH, Daq, free_port, make_fits
from remote import sshd

PAGE = CHECKOUT / "docs" / "transfers.md"
#: The port that the page gives to the rsync daemon.
PORT = "20873"


@pytest.mark.needs("rsync", "rrsync", "ssh", "sshd")
def test_commands_run_and_print_what_is_shown(daq: Daq, tmp_path_factory: pytest.TempPathFactory,
                                              ) -> None:
    steps = pages._steps(PAGE)
    assert len(steps) > 15
    there = tmp_path_factory.mktemp("there")
    for number in (1, 2):
        make_fits(there / f"det{number}" / "image.fits", cards={"NUMBER": number})
    script = pages._script(steps, {PORT: str(free_port())}).replace(
        f"--port={PORT}", "--port=$port")
    words = daq.folder / "told"
    with sshd(tmp_path_factory.mktemp("sshd")) as far:
        work = far.folder / "work"
        work.mkdir()
        os.rename(daq.spool, work / "spool")
        far.plain_config(work / "ssh_config")
        (daq.folder / "bin").symlink_to(daq.bin)
        port = script.partition("127.0.0.1:")[2].partition("/")[0]
        with open(words, "xb") as out:
            shell = subprocess.Popen(
                ["bash", "-c", script], cwd=daq.folder, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={"PATH": SYSTEM_PATH, "HOME": str(daq.folder / "home"), "LC_ALL": "C.UTF-8",
                     "TZ": "UTC", "DAQ_PYTHON": sys.executable, "work": str(work),
                     "there": str(there), "authorized_keys": str(far.folder / "authorized"),
                     "port": port, "XDG_RUNTIME_DIR": str(far.folder)})
            try:
                shell.wait(3 * PATIENCE_S)
            finally:
                with suppress(OSError, ValueError):  # if the page did not come to its end
                    os.kill(int((work / "rsyncd.pid").read_text()), signal.SIGTERM)
                with suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
    told = {int(number): (int(code), text.splitlines()) for text, number, code in re.findall(
        r"(.*?)\n@@ (\d+) (\d+)\n", words.read_text(), re.S)}
    for number, step in enumerate(steps):
        assert number in told, f"never ended: {step.command}"
        code, lines = told[number]
        said = f"$ {step.command}\n" + "\n".join(lines)
        assert code == 0, f"exit code {code}\n{said}"
        rest = iter([pages._plain(line) for line in lines])
        for line in step.shown:
            assert line == "..." or pages._plain(line) in rest, f"no {line!r}\n{said}"


def test_the_page_names_the_settings_that_there_are() -> None:
    from daqlib import config

    text = PAGE.read_text()
    for key in config.DEFAULTS:
        if key.startswith("transfer."):
            assert f"`{config.spelled(key)}`" in text, key


def test_folder_of_sources() -> None:
    """The names that the page mentions are those of the program."""
    from daq_collect import remote
    from daqlib import transfer

    text = PAGE.read_text()
    assert f"`{remote.PREFIX}*`" in text and f"`{transfer.PARTIAL}`" in text

"""The units for systemd and the lines for cron that come with daq-watch."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness import CHECKOUT, PATIENCE_S, Daq, make_fits

UNITS = CHECKOUT / "config" / "systemd"


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", ["daq-watch.service", "daq-watch@.service"])
def test_unit(tmp_path: Path, unit: str) -> None:
    text = (UNITS / unit).read_text()
    program = "/usr/local/bin/daq-watch"
    assert text.count(program) == 1
    made = tmp_path / unit
    made.write_text(text.replace(program, str(CHECKOUT / "bin" / "daq-watch")))
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", made], text=True,
                            capture_output=True, check=False, timeout=PATIENCE_S)
    # it complains of units of the system that are not installed, too
    told = [line for line in (result.stdout + result.stderr).splitlines()
            if "daq-watch" in line or str(tmp_path) in line]
    assert told == []
    made.write_text(made.read_text().replace("Restart=", "Restarts="))  # it does look
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", made], text=True,
                            capture_output=True, check=False, timeout=PATIENCE_S)
    assert "Restarts" in result.stdout + result.stderr


def test_units_differ_in_the_spool_only() -> None:
    one, many = ((UNITS / f"daq-watch{at}.service").read_text().splitlines() for at in ("", "@"))

    def body(lines: list[str]) -> list[str]:
        return lines[lines.index("[Unit]"):]
    differing = [pair for pair in zip(body(one), body(many), strict=True) if pair[0] != pair[1]]
    assert [re.sub(r"=.*", "", line) for line, _ in differing] == ["Description", "ExecStart"]


def test_crontab(daq: Daq) -> None:
    """Run the line as cron does: by sh, with next to no environment."""
    lines = (CHECKOUT / "config" / "crontab").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    jobs = [line.split(maxsplit=5)[5] for line in lines if line.startswith("*")]
    assert [*variables] == ["DAQ_CONFIG"] and len(jobs) == 1
    settings = daq.folder / "daqspool.yaml"
    settings.write_text(f"cfg:\n  spool: {daq.spool}\n")
    command = jobs[0].replace("/usr/local/bin", str(daq.bin))
    assert command != jobs[0]
    home = daq.folder / "home"
    home.mkdir(exist_ok=True)
    environment = {"HOME": str(home), "LOGNAME": "daq", "SHELL": "/bin/sh",
                   "PATH": "/usr/bin:/bin", "DAQ_CONFIG": str(settings),
                   **({} if daq.installed else {"DAQ_PYTHON": daq.python})}
    job = daq.run("daq-start", "--file", make_fits(daq.folder / "a.fits")).ok().line()

    def cron() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["/bin/sh", "-c", command], env=environment, cwd=home, text=True,
                              capture_output=True, check=False, timeout=PATIENCE_S)
    done = cron()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # else cron sends mail
    assert daq.tree() == {"done": [job]}
    watcher = daq.spawn("daq-watch", until="watching")
    assert (again := cron()).returncode == 75 and again.stderr == ""
    assert "is watched already" in (home / "daq-watch.log").read_text()
    watcher.stop().exits(0)

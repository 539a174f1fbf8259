"""Faults of the files of another host, reached by an rsync daemon."""

from __future__ import annotations

import subprocess
from typing import Any

from faults.engine import Collecting, Steps, cell
from harness import wait_until
from remote import answers, rsyncd

NEEDS = ("rsync",)


class Served(Collecting):
    """A job with a file of an rsync daemon."""

    def ask(self, url: str, module: str = "data", **settings: Any) -> None:
        """Put the job into ``collect/``."""
        self.words.append((url, "rsync://far"))
        self.words.append((url.removeprefix("rsync://"), "far"))
        self.submit(f"{url}/{module}/a.fits", **settings)


@cell("daemon", "nobody listens there", "start the daemon", slow=True, needs=NEEDS)
def gone(trial: Served) -> Steps:
    trial.make()
    with rsyncd(trial.daq.folder, trial.data) as served:
        pass
    trial.ask(served.url)
    yield trial.run()
    port = served.url.rpartition(":")[2]
    daemon = subprocess.Popen(["rsync", "--daemon", "--no-detach", "--address=127.0.0.1",
                               f"--config={trial.daq.folder}/rsyncd.conf", f"--port={port}"],
                              stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(int(port)))
        yield None
    finally:
        daemon.terminate()
        daemon.wait()


@cell("daemon", "wrong password", "mend `cfg/transfer/password_file`", needs=NEEDS)
def password(trial: Served) -> Steps:
    trial.make()
    with rsyncd(trial.daq.folder, trial.data) as served:
        wrong = trial.daq.folder / "wrong"
        wrong.write_text("open\n")
        wrong.chmod(0o600)
        url = served.url.replace("://", "://daq@")
        trial.ask(url, "locked", transfer={"password_file": str(wrong)})
        yield trial.run()
        trial.settings(transfer={"password_file": str(served.password)})
        yield None


@cell("daemon", "others may read the file with the password", "`chmod 600`", needs=NEEDS, slow=True)
def open_password(trial: Served) -> Steps:
    trial.make()
    with rsyncd(trial.daq.folder, trial.data) as served:
        served.password.chmod(0o644)
        url = served.url.replace("://", "://daq@")
        trial.ask(url, "locked", transfer={"password_file": str(served.password)})
        yield trial.run()
        served.password.chmod(0o600)
        yield None


def _served_wrongly(trial: Served, module: str, wrong: str, right: str) -> Steps:
    """Ask for a module, and mend the text in its configuration, which it reads for each client."""
    trial.make()
    with rsyncd(trial.daq.folder, trial.data) as served:
        trial.ask(served.url, module)
        yield trial.run()
        config = trial.daq.folder / "rsyncd.conf"
        config.write_text(config.read_text().replace(wrong, right))
        yield None


@cell("daemon", "it has no such module", "enter the module there, or mend the location",
      needs=NEEDS, slow=True)
def no_module(trial: Served) -> Steps:
    yield from _served_wrongly(trial, "night", "[data]", "[night]")


@cell("daemon", "it has as many clients as it may have", "nothing: it will have fewer",
      needs=NEEDS, slow=True)
def busy(trial: Served) -> Steps:
    yield from _served_wrongly(trial, "busy", "max connections = -1", "")


@cell("daemon", "the file is not there", "deliver it", needs=NEEDS, slow=True)
def no_file(trial: Served) -> Steps:
    with rsyncd(trial.daq.folder, trial.data) as served:
        trial.ask(served.url)
        yield trial.run()
        trial.make()
        yield None

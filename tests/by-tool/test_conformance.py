"""The conformance suite: our own sources pass it, and each of its tests finds what it is for."""

from __future__ import annotations

import ast
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import conformance
from harness import CHECKOUT, Daq, make_fits
from live import Live

TEMPLATE = CHECKOUT / "docs" / "source_template.py"
SUITE = CHECKOUT / "tools" / "daq-ctl" / "daq_ctl" / "conformance" / "test_contract.py"
TESTS = {node.name for node in ast.parse(SUITE.read_text()).body
         if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
ENDS = "test_it_ends_by_itself"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Install the template and its mutants as a package of other people."""
    folder = tmp_path / "packages"
    folder.mkdir()
    shutil.copy(TEMPLATE, folder)
    bodies = "\n\n".join(inspect.cleandoc(body) for _, _, body in MUTANTS.values())
    (folder / "mutants.py").write_text(f"{HEAD}\n\n{bodies}\n")
    return conformance.package(
        folder, "sample", sample="source_template:Camera",
        sample_metadata="source_template:Sensor",
        **{name.lower(): f"mutants:{name}" for name in MUTANTS})


def test_the_simulators_conform(daq: Daq) -> None:
    live = Live(daq)
    made = conformance.run(live.sim("recif", "dcs", "--extensions", 1).uri)
    assert made.skipped == {ENDS} and made.passed == TESTS - {ENDS}
    short = live.sim("recif", "short", "--extensions", 1, "--exposure", 0.3).uri
    assert conformance.run(short, ends=1, only=ENDS).passed == {ENDS}
    made = conformance.run(live.sim("metadaqif", "fcf", "--sessions", 20).uri, "metadataSource")
    assert made.passed == TESTS - {ENDS}


@pytest.mark.parametrize("complete", ["close", "stable"])
def test_a_directory_conforms(tmp_path: Path, complete: str) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    sample = make_fits(tmp_path / "sample.fits")
    feeder = conformance.DROP.format(python=sys.executable, file=sample, folder=folder)
    options = {"complete": complete, "stableSec": 0.2, "scanSec": 0.5}
    made = conformance.run(f"watch:{folder}", options=options, feeder=feeder)
    assert made.passed == TESTS - {ENDS}
    made = conformance.run(f"watch:{folder}?count=1", options=options, feeder=feeder, ends=5,
                           only=ENDS)
    assert made.passed == {ENDS}
    assert list(folder.glob("conformance-*.fits"))


def test_the_template_conforms(installed: Path) -> None:
    path = [installed]
    assert conformance.run("sample:/one", path=path).passed == TESTS - {ENDS}
    made = conformance.run("sample:/one?exposure=0.3", ends=1, path=path, only=ENDS)
    assert made.passed == {ENDS}
    assert conformance.run("sample:/one", "metadataSource", path=path).passed == TESTS - {ENDS}


def test_the_suite_alone_is_run_when_a_source_is_given(daq: Daq, installed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider",
         "--daq-source=sample:/one"], cwd=CHECKOUT, capture_output=True, text=True, check=False,
        env=daq.environment({"PYTHONPATH": str(installed)}))
    listed = [line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert set(listed) == TESTS and len(listed) == len(TESTS), done.stdout + done.stderr


def test_options_that_are_no_object_are_refused(daq: Daq) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--daq-source=sample:/one",
         "--daq-source-options=[]"], cwd=CHECKOUT, capture_output=True, text=True, check=False,
        env=daq.environment())
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--daq-source-options: give a JSON object" in done.stderr


# -- each test can fail ---------------------------------------------------------------------------

HEAD = '''
import asyncio, os, pathlib, shutil, time
from daq_ctl.sources import RECORDING, Delivery, Lacking
from daqlib import errors
from source_template import Camera
'''

#: Broken adapter -> the test that finds it out, what that says, and the adapter.
MUTANTS = {
    "Swallows": ("an_unknown_option_is_refused_and_nothing_was_done", "DID NOT RAISE BadData", """
        class Swallows(Camera):
            def configure(self, options):
                super().configure(options)
                options._given.clear()
        """),
    "Writes": ("to_make_one_does_nothing", "it wrote something", """
        class Writes(Camera):
            def configure(self, options):
                super().configure(options)
                self._memo.make()
        """),
    "Claims": ("a_recording_that_never_began_is_absent", "'recording' == 'absent'", """
        class Claims(Camera):
            async def status(self):
                return RECORDING
        """),
    "Refuses": ("an_abort_is_harmless_when_nothing_records", "does not know this recording", """
        class Refuses(Camera):
            async def abort(self):
                self._must_record()
                await super().abort()
        """),
    "Invents": ("a_stop_is_refused_when_nothing_records", "it was not refused", """
        class Invents(Camera):
            async def stop(self, patience):
                return Delivery()
        """),
    "Blocks": ("it_records_from_start_to_stop", "time.sleep(3)", """
        class Blocks(Camera):
            async def stop(self, patience):
                time.sleep(3)
                return await super().stop(patience)
        """),
    "Ends": ("wait_tells_in_time_that_it_records", "True is False", """
        class Ends(Camera):
            async def wait(self, seconds):
                return True
        """),
    "Forgets": ("a_stop_can_be_repeated", "does not know this recording", """
        class Forgets(Camera):
            async def stop(self, patience):
                made = await super().stop(patience)
                self._memo.facts = {}
                return made
        """),
    "Recording": ("it_ends_by_itself", "'recording' == 'ended'", """
        class Recording(Camera):
            async def wait(self, seconds):
                return True

            async def status(self):
                return RECORDING
        """),
    "Pauses": ("pause_is_harmless_or_lacking", "'absent' == 'recording'", """
        class Pauses(Camera):
            async def pause(self):
                await self.abort()
        """),
    "Counts": ("progress_is_sane", "2.0 <= 1.0", """
        class Counts(Camera):
            def progress(self):
                return 2.0, 1.0
        """),
    "Closes": ("close_leaves_the_recording_alone", "'absent' == 'recording'", """
        class Closes(Camera):
            async def close(self):
                await self._memo.discard()
        """),
    "Leaks": ("nothing_is_left_running", "'open files': (", """
        class Leaks(Camera):
            async def start(self):
                os.open("/", os.O_RDONLY)
                await super().start()
        """),
    "Leaves": ("nothing_is_left_running", "'tasks': (", """
        class Leaves(Camera):
            async def start(self):
                self.task = asyncio.create_task(asyncio.sleep(60))
                await super().start()
        """),
    "Aborts": ("abort_ends_it_and_can_be_repeated", "does not know this recording", """
        class Aborts(Camera):
            async def abort(self):
                self._must_record()
                await super().abort()
        """),
    "Waits": ("a_wait_that_is_cancelled_leaves_the_recording", "'absent' == 'recording'", """
        class Waits(Camera):
            async def wait(self, seconds):
                try:
                    return await super().wait(seconds)
                except asyncio.CancelledError:
                    await self.abort()
                    raise
        """),
    "Stops": ("a_stop_that_is_cancelled_can_be_repeated", "'absent' in ('recording', 'ended')", """
        class Stops(Camera):
            async def stop(self, patience):
                try:
                    await asyncio.sleep(0.2)
                except asyncio.CancelledError:
                    await self.abort()
                    raise
                return await super().stop(patience)
        """),
    "Prepares": ("killed_before_the_start_nothing_records",
                 "'recording' in ('absent', 'failed')", """
        class Prepares(Camera):
            async def prepare(self):
                await self.start()
        """),
    "Remembers": ("killed_while_it_records_a_later_daemon_goes_on", "'absent' == 'recording'", """
        class Remembers(Camera):
            began = {}

            async def start(self):
                self.began[self.job] = self._memo.facts = {"began": time.time()}
        """),
    "Delivers": ("killed_while_it_records_a_later_daemon_stops_at_once",
                 "begun by another daemon", """
        class Delivers(Camera):
            begun = False

            async def start(self):
                await super().start()
                self.begun = True

            async def stop(self, patience):
                made = await super().stop(patience)
                return made if self.begun else Delivery(fault="begun by another daemon")
        """),
    "Ignores": ("killed_while_it_records_a_later_daemon_aborts",
                 "'recording' in ('absent', 'failed')", """
        class Ignores(Camera):
            begun = False

            async def start(self):
                await super().start()
                self.begun = True

            async def abort(self):
                if self.begun:
                    await super().abort()
        """),
    "Tramples": ("another_job_does_not_touch_the_recording", "'absent' == 'recording'", """
        class Tramples(Camera):
            async def abort(self):
                for memo in pathlib.Path(self.order.folder).parents[2].rglob("recording.json"):
                    memo.unlink()

            async def status(self):
                return await Camera.status(type(self)(self.order))
        """),
    "Removes": ("what_it_brings_outlives_the_adapter", "No such file", """
        class Removes(Camera):
            async def close(self):
                shutil.rmtree(self.order.folder, ignore_errors=True)
        """),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.slow
def test_a_broken_adapter_is_found_out(installed: Path, mutant: str) -> None:
    name = f"test_{MUTANTS[mutant][0]}"
    made = conformance.tried(f"{mutant.lower()}:/one?exposure=3600", path=[installed], only=name,
                             ends=1 if name == ENDS else None)
    assert made.failed == {name}, made.words
    said = "\n".join(line for line in made.words.splitlines() if line.startswith("E  "))
    assert MUTANTS[mutant][1] in said, made.words


def test_every_test_of_the_suite_can_fail() -> None:
    assert {f"test_{name}" for name, _, _ in MUTANTS.values()} == TESTS

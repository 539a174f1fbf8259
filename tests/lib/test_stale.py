"""Jobs that are too old: a file that cannot be read keeps no other from being given up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daq_ctl import stale
from daqlib.spool import Spool
from harness import make_spool


@pytest.mark.parametrize("odd", ["[" * 100_000, "{", '{"created": NaN}', "", "\0"])
def test_an_odd_file_is_left_alone(tmp_path: Path, odd: str) -> None:
    on = Spool(str(make_spool(tmp_path / "spool")), "test")
    for job, text in (("a", odd), ("b", json.dumps({"created": "2001-01-01T00:00:00Z"}))):
        Path(on.job_path("collect", job)).write_text(text)
        on.log(job, "submitted", fileId=f"F.{job}")
    assert stale.archive(on, 1.0) == ["b"]
    assert on.place("a") == "collect" and on.place("b") == "failed"

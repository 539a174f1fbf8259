"""Places of limits that are numbers of no meaning, given for no limit."""

from __future__ import annotations

import os
from pathlib import Path

from daqlib import capacity, config, fsops
from daqlib.spool import Spool, holder_text
from harness import make_spool


def test_a_huge_limit_costs_what_is_taken(tmp_path: Path) -> None:
    on = Spool(str(make_spool(tmp_path / "spool")), "test")
    settings = config.Config({**config.DEFAULTS, "limits.daq": 10**15})
    assert capacity.taken(on, settings, "daq") == []
    fd = fsops.lock(on.path("lock", ".slot-daq-0"), holder_text("merge", "j"))
    assert fd is not None
    assert capacity.holders(on, settings, "daq") == [os.getpid()]
    os.close(fd)
    assert capacity.taken(on, settings, "daq") == []

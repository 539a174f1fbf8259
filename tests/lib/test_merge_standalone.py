"""What a merge without a spool says when another one has changed its inputs meanwhile."""

from __future__ import annotations

import json
import os

import pytest

from daq_merge import eso, standalone
from daqlib import errors, fsops
from merge_samples import file_source, image, primary, specification


@pytest.fixture
def given(tmp_path):
    (tmp_path / "t.fits").write_bytes(primary(*[" "] * 20) + image(b"x"))
    document = specification(file_source("b", "b.fits"), target=file_source("t", "t.fits"))
    (tmp_path / "b.fits").write_bytes(primary() + image(b"y"))
    (tmp_path / "spec.json").write_text(json.dumps(document))
    return eso.build_parser().parse_args(["--way", "in-place", str(tmp_path / "spec.json")])


@pytest.mark.parametrize("explain", [False, True])
def test_a_target_in_the_middle_of_another_merge_is_not_damaged(
        tmp_path, given, monkeypatch, explain):
    target = tmp_path / "t.fits"
    whole = target.read_bytes()
    target.write_bytes(whole + bytes(2880))
    given.explain = explain
    with pytest.raises(errors.BadData, match="no extension") as caught:
        standalone.run(given)
    assert caught.value.code == 111
    # the other merge begins after this one has looked for it
    monkeypatch.setattr(standalone, "_give_back", lambda *_: None)
    journal = fsops.journal_of(str(target))
    with open(journal, "w"):
        pass
    with pytest.raises(errors.Later, match=r"t\.fits: another merge is at work on it"):
        standalone.run(given)
    # what is wrong with another file is told as it is
    target.write_bytes(whole)
    (tmp_path / "b.fits").write_bytes(b"none")
    with pytest.raises(errors.BadData, match=r"b\.fits: .*FITS"):
        standalone.run(given)


def test_a_source_that_is_moved_away_after_it_was_planned(tmp_path, given, monkeypatch):
    write = standalone.build.write

    def late(*arguments, **words):
        os.rename(tmp_path / "t.fits", tmp_path / "moved.fits")
        return write(*arguments, **words)

    monkeypatch.setattr(standalone.build, "write", late)
    with pytest.raises(errors.Later, match=r"source t: .*t\.fits was moved away meanwhile"):
        standalone.run(given)
    assert sorted(os.listdir(tmp_path)) == ["b.fits", "moved.fits", "spec.json"]

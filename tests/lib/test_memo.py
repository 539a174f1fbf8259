"""What an adapter keeps for a later daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

from daq_ctl.sources.memo import Memo


def test_what_two_methods_keep_at_a_time_is_all_kept(tmp_path: Path) -> None:
    folder = str(tmp_path / "data" / "live" / "cam")
    (tmp_path / "data").mkdir()

    async def both() -> None:
        memo = Memo(folder)
        await asyncio.gather(*(memo.keep(**{f"fact{number}": number}) for number in range(20)))
        assert len(memo.facts) == 20

    asyncio.run(both())
    assert Memo(folder).facts == {f"fact{number}": number for number in range(20)}


def test_what_was_discarded_is_gone_with_all_files(tmp_path: Path) -> None:
    async def discarded() -> None:
        memo = Memo(str(tmp_path / "job" / "live" / "cam"))
        await memo.keep(began=1)
        Path(memo.path("image.fits")).touch()
        await memo.discard()
        assert memo.facts == {}

    asyncio.run(discarded())
    assert list(tmp_path.rglob("*.*")) == []


def test_a_torn_memo_is_none(tmp_path: Path) -> None:
    for torn in ("", "{", "[1]"):
        (tmp_path / "recording.json").write_text(torn)
        assert Memo(str(tmp_path)).facts == {}

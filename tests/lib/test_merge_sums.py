"""What becomes of the sums that sources state: verified, trusted, strict, and oddly written."""

from __future__ import annotations

import shutil

import pytest

from daq_merge import build, copying, undo
from daqlib import checksum, fitsfile
from merge_case import KEYS, SEAL, Case, seal_cards
from merge_samples import file_source, image, primary, specification


@pytest.fixture(autouse=True)
def still(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763692200.25")


def test_a_mismatch_is_written_into_the_product_and_stays_there(tmp_path):
    case = Case(tmp_path)
    raw = bytearray(case.product("new")[0])
    hdu = fitsfile.read_structure(str(case.out)).hdus[1]
    old = seal_cards(case.out, 1)[b"DATASUM "][11:].partition(b"'")[0].strip()
    raw[hdu.data_offset + 7] ^= 16
    case.out.unlink()
    case.other.write_bytes(raw)
    result = case.build("new")
    card = seal_cards(case.out, 4)[b"DATASUM "]
    assert b"MISMATCH: source had " + old in card
    assert list(result.damaged) == [4]
    # the sums are right now, but what happened can still be read
    shutil.move(case.out, case.other)
    result = case.build("new")
    assert result.alerts == []
    assert seal_cards(case.out, 7)[b"DATASUM "] == card


def test_a_right_datasum_card_keeps_its_bytes_when_the_header_changes(tmp_path, monkeypatch):
    case = Case(tmp_path)
    case.build("new")
    shutil.move(case.out, case.other)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    before = seal_cards(case.other, 1)
    case.build("new", stamp="all")
    after = seal_cards(case.out, 4)
    assert after[b"DATASUM "] == before[b"DATASUM "]
    assert after[b"CHECKSUM"] != before[b"CHECKSUM"]
    case.build("new")
    assert seal_cards(case.out, 4) == before


def trusting(case, monkeypatch, way):
    read = []
    real = copying.checksum.summing
    monkeypatch.setattr(copying.checksum, "summing", lambda total: lambda data: (
        read.append(len(data)), real(total)(data))[1])
    result = case.build(way, "trust")
    return result, read


@pytest.mark.parametrize("way", ["new", "in-place"])
def test_trusted_sums_are_believed(tmp_path, monkeypatch, way):
    case = Case(tmp_path)
    raw = bytearray(case.product("new")[0])
    hdu = fitsfile.read_structure(str(case.out)).hdus[1]
    stated = seal_cards(case.out, 1)[b"DATASUM "]
    raw[hdu.data_offset] ^= 1
    case.out.unlink()
    case.target.write_bytes(raw)
    case.document["sources"] = [KEYS]
    result, read = trusting(case, monkeypatch, way)
    assert (result.way, result.alerts, read) == (way, [], [])
    assert seal_cards(result.path, 1)[b"DATASUM "] == stated
    result.release()
    undo.restore(str(case.target))
    # what states no sum, or what is none, is summed
    text = bytes(raw).replace(stated, b"DATASUM = '99999999999'".ljust(80))
    case.target.write_bytes(text)
    result, read = trusting(case, monkeypatch, way)
    assert 40320 in read


@pytest.mark.parametrize(("cards", "kept", "alerted"), [
    (["DATASUM = '{}'"], True, False),
    (["DATASUM =                   {}"], False, False),
    (["datasum = '{}'"], False, False),
    (["DATASUM = '{}'", "DATASUM = '77'"], True, False),
    (["DATASUM = '77'", "DATASUM = '{}'"], False, True),
    (["DATASUM = '77&'", "CONTINUE  '{}'"], False, True),
    (["DATASUM = ''", "CHECKSUM= ''"], False, False),
    (["DATASUM = 'nonsense'"], False, True),
    (["DATASUM = '99999999999999999999'"], False, True),
    (["DATASUM = '-1'"], False, True),
    (["DATASUM ='{}'"], False, False),
    (["CHECKSUM= 'anything'"], False, True),
    (["CHECKSUM= 'anything'", "DATASUM = '{}'"], True, False),
    (["ZHECKSUM= 'x'", "ZDATASUM= '5'"], False, False),
    (["COMMENT DATASUM = '5'", "DATASUM   '5'"], False, False),
])
def test_sums_written_in_odd_ways(tmp_path, cards, kept, alerted):
    data = bytes(range(250)) * 20
    total = checksum.data_sum(data)
    lines = [card.format(total) for card in cards]
    (tmp_path / "a.fits").write_bytes(primary() + image(data, "ONE     = 1", *lines, "TWO     = 2"))
    out = tmp_path / "out.fits"
    result = build.build(specification(file_source("a", "a.fits")), str(tmp_path), str(out))
    assert bool(result.alerts) == alerted
    hdu = fitsfile.read_structure(str(out)).hdus[1]
    for name in SEAL:
        assert [c[:8].upper() for c in hdu.cards].count(name) == (
            2 if name == b"DATASUM " and "DATASUM   '5'" in cards else 1)
    mine = lines[-1 if kept and len(lines) == 2 and "'77'" not in lines[1] else 0]
    assert (mine.ljust(80).encode() in hdu.cards) == (
        kept or "Z" in cards[0] or "COMMENT" in cards[0])
    raw = out.read_bytes()[hdu.offset:]
    assert checksum.data_sum(raw) == 0xFFFFFFFF
    others = [c for c in hdu.cards if c.startswith((b"ONE ", b"TWO ", b"ZHECK", b"ZDATA",
                                                    b"COMMENT"))]
    assert len(others) == 2 + sum(line.startswith(("Z", "COMMENT")) for line in lines)


def test_stamps_go_into_every_header_when_wanted(tmp_path):
    case = Case(tmp_path)
    long = "x" * 100
    case.document["target"]["filePrefix"] = long
    for number in range(3):
        case.build("new", stamp="all")
        hdus = fitsfile.read_structure(str(case.out)).hdus
        for hdu in hdus[1:]:
            names = [card[:8] for card in hdu.cards]
            assert names.count(b"ORIGFILE") == names.count(b"ARCFILE ") == 1
            at = names.index(b"ORIGFILE")
            assert names[at + 1:at + 2] == ([b"CONTINUE"] if number < 2 else names[at + 1:at + 2])
            assert names.count(b"CONTINUE") == (1 if number < 2 else 0)
        case.document["target"]["filePrefix"] = "" if number else long
        shutil.copy(case.out, case.target)

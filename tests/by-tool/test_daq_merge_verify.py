"""daq-merge --verify: what was written is there, and what is not is named."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from daqlib import checksum, fitsfile
from harness import Daq, make_fits
from merge_samples import BLOCK, SAMPLES, file_source, image, primary, sample

FILE_ID = "VERIFY.2026-11-21T02:30:00.123"


@pytest.fixture
def product(daq: Daq) -> Path:
    """A product in a spool, with two extensions that have data."""
    make_fits(daq.folder / "a.fits", 2)
    daq.drop("collect", "j", {"sources": [file_source("a", daq.folder / "a.fits")],
                              "fileId": FILE_ID, "filePrefix": "P_"})
    for tool in ("daq-collect", "daq-merge"):
        daq.run(tool, "--job", "j").ok()
    made = daq.spool / "result" / f"P_{FILE_ID}.fits"
    made.chmod(0o644)
    return made


def hdus(path: Path) -> tuple[fitsfile.Hdu, ...]:
    return tuple(fitsfile.read_structure(str(path)).hdus)


def change(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def differences(daq: Daq, path: Path, *options: object, code: int = 1) -> set[tuple[Any, str]]:
    """What is wrong with a file: HDU and what; text and JSON say the same."""
    told = daq.run("daq-merge", "--verify", "--json", *options, path).exits(code).json()
    assert (told["file"], told["ok"]) == (str(path), code == 0)
    lines = daq.run("daq-merge", "--verify", *options, path).exits(code).out.splitlines()
    assert lines == [f"{path}: {one['text']}" for one in told["differences"]]
    return {(one["hdu"], one["what"]) for one in told["differences"]}


def test_a_product_agrees_with_its_manifest(daq: Daq, product: Path) -> None:
    before = daq.tree(), daq.history("j")
    told = daq.run("daq-merge", "--verify", product).ok().no_output()
    assert "3 HDUs" in told.err and "manifest agree" in told.err
    assert daq.run("daq-merge", "-q", "--verify", product).ok().silent()
    manifest = daq.spool / "data" / "j" / "merge.json"
    linked = daq.spool / "data" / "j" / "result"
    for path in (product, linked, os.path.relpath(product)):
        found = daq.run("daq-merge", "--verify", "--json", path, cwd=Path.cwd()).ok().json()
        assert found == {"file": str(path), "ok": True, "manifest": found["manifest"], "hdus": 3,
                         "differences": [], "damaged": []}
        assert os.path.samefile(found["manifest"], manifest)
    copied = daq.folder / "copy.fits"
    shutil.copy(product, copied)
    daq.run("daq-merge", "--verify", "--manifest", manifest, copied).ok()
    assert "no manifest is known" in daq.run("daq-merge", "--verify", copied).ok().err
    assert (daq.tree(), daq.history("j")) == before


def test_the_manifest_describes_every_hdu(daq: Daq, product: Path) -> None:
    result = json.loads((daq.spool / "data" / "j" / "merge.json").read_text())["result"]
    assert [part["index"] for part in result["parts"]] == [0, 1, 2]
    assert [part["extname"] for part in result["parts"]] == ["", "EXT1", "EXT2"]
    assert [part["source"] for part in result["parts"]] == ["", "a", "a"]
    for part, hdu in zip(result["parts"], hdus(product), strict=True):
        assert (part["kind"], part["header"], part["data"]) == (
            hdu.kind, len(hdu.header), hdu.data_size)
        total = checksum.data_sum(product.read_bytes()[hdu.data_offset:hdu.end])
        assert (part["datasum"], part["damaged"]) == (str(total), "")
        assert part["checksum"].encode() in hdu.header
    [one] = result["inputs"]
    files = json.loads((daq.spool / "data" / "j" / "collect.json").read_text())["result"]["files"]
    assert (one["sum"], one["size"]) == (files[0]["sum"], files[0]["size"])


def test_every_change_is_found(daq: Daq, product: Path) -> None:
    original = product.read_bytes()
    last = hdus(product)[2]
    broken = {("in data", last.data_offset + 7): {(2, "datasum"), (2, "checksum")},
              ("in the fill", last.end - 1): {(2, "datasum"), (2, "checksum")},
              ("in a header", last.offset + BLOCK - 1): {(2, "checksum")}}
    for (_, at), expected in broken.items():
        product.write_bytes(original)
        change(product, at, bytes([original[at] ^ 1]))
        assert differences(daq, product) == {*expected, (None, "sha256")}
    # bytes that change places within a word's position do not change the sums, but the digest
    begin = last.data_offset
    product.write_bytes(original)
    change(product, begin, b"abcdefgh")
    resealed = bytearray(product.read_bytes())
    resealed[begin:begin + 8] = b"efghabcd"
    known = differences(daq, product)
    product.write_bytes(resealed)
    assert differences(daq, product) == known >= {(None, "sha256")}


def test_a_product_that_was_changed_and_sealed_again(daq: Daq, product: Path) -> None:
    from astropy.io import fits

    with fits.open(product, mode="update", checksum=True) as opened:
        opened[1].data[0, 0] += 1
        for hdu in opened:
            hdu.add_checksum()
    found = differences(daq, product)
    assert {(None, "sha256"), (1, "datasum"), (1, "checksum")} <= found
    copied = daq.folder / "copy.fits"
    shutil.copy(product, copied)
    assert differences(daq, copied, code=0) == set()  # nothing but the manifest could tell


def test_a_product_that_is_cut_or_longer(daq: Daq, product: Path) -> None:
    original = product.read_bytes()
    for raw in (original[:-BLOCK], original[:BLOCK + 400], original + b"x" * BLOCK, b"SIMPLE"):
        product.write_bytes(raw)
        assert differences(daq, product) == {(None, "structure"), (None, "size")}
    product.write_bytes(original[:-1])
    found = differences(daq, product)
    assert (None, "size") in found and "structure" in {what for _, what in found}
    product.write_bytes(original + original[hdus(daq.folder / "a.fits")[1].offset:])
    assert (None, "size") in differences(daq, product)


def test_a_whole_hdu_less(daq: Daq, product: Path) -> None:
    product.write_bytes(product.read_bytes()[:hdus(product)[2].offset])
    assert differences(daq, product) == {(None, "size"), (None, "sha256"), (None, "hdus")}


def test_files_of_others(daq: Daq) -> None:
    path = daq.folder / "plain.fits"
    path.write_bytes(primary() + image(b"data"))
    assert differences(daq, path) == {(n, what) for n in (0, 1) for what in ("datasum", "checksum")}
    path.write_bytes(primary("DATASUM = '0       '", "CHECKSUM= 'nonsense        '"))
    assert differences(daq, path) == {(0, "checksum")}
    path.write_bytes(primary("DATASUM = 'much    '", "CHECKSUM= '0000000000000000'"))
    assert differences(daq, path) == {(0, "datasum"), (0, "checksum")}
    found = 0
    for each in SAMPLES:
        found += daq.run("daq-merge", "--verify", "-q", "--json", each).json()["hdus"]
        assert found
    sealed = sample("checksum.fits")
    assert "no manifest" in daq.run("daq-merge", "--verify", sealed).ok().err


def test_the_worst_of_several_counts(daq: Daq, product: Path) -> None:
    gone, packed, plain = (daq.folder / name for name in ("gone.fits", "p.fits.gz", "plain.fits"))
    packed.write_bytes(gzip.compress(product.read_bytes()))
    plain.write_bytes(primary())
    daq.run("daq-merge", "--verify", gone).fails(66, "gone.fits", "no such file")
    daq.run("daq-merge", "--verify", product / "x").fails(66, "no such file")
    daq.run("daq-merge", "--verify", packed).fails(65, "gzip", "unpack")
    daq.run("daq-merge", "--verify", product, plain).exits(1)
    daq.run("daq-merge", "--verify", product, gone).exits(66)
    told = daq.run("daq-merge", "--verify", "--json", plain, gone, packed, product).exits(65)
    assert [line["ok"] for line in told.jsonl()] == [False, False, False, True]
    assert [line.get("code") for line in told.jsonl()] == [None, 66, 65, None]


def test_manifests_that_are_none(daq: Daq, product: Path) -> None:
    collected = daq.spool / "data" / "j" / "collect.json"
    for wrong in (collected, product, daq.folder / "gone.json"):
        daq.run("daq-merge", "--verify", "--manifest", wrong, product).fails(65, "no manifest")
    (daq.spool / "data" / "j" / "merge.json").unlink()
    assert "no manifest is known" in daq.run("daq-merge", "--verify", product).ok().err


def test_a_manifest_of_another_product_is_none(daq: Daq, product: Path) -> None:
    other = product.with_name(f"OLD_{FILE_ID}.fits")
    shutil.copy(product, other)
    change(other, 2000, b"#")
    told = daq.run("daq-merge", "--verify", "--json", other).exits(1).json()
    assert told["manifest"] == "" and [one["what"] for one in told["differences"]] == ["checksum"]


def test_a_header_that_names_the_file_of_another(daq: Daq, product: Path) -> None:
    """What a product says of itself is used to find its manifest, never as a path."""
    path = product.with_name("evil.fits")
    path.write_bytes(primary("ARCFILE = '../../../etc/passwd'"))
    assert daq.run("daq-merge", "--verify", "--json", path).exits(1).json()["manifest"] == ""


def test_options_that_have_no_place_beside_verify(daq: Daq, product: Path) -> None:
    daq.run("daq-merge", "--verify").fails(64, "--verify needs a FILE")
    for option in (("-o", "x"), ("--root", "."), ("--way", "new"), ("--strict",), ("-n",)):
        daq.run("daq-merge", "--verify", product, *option).fails(64, "no place beside --verify")
    daq.run("daq-merge", "--verify", product, product, "--manifest", "m").fails(64, "one FILE")
    daq.run("daq-merge", "--verify", product, "--job", "j").fails(64, "exclude each other")
    daq.run("daqDpmMerge", "--verify", product).ok()
    daq.run("daqDpmMerge", "--verify").fails(64, "--verify needs a FILE")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(daq: Daq) -> None:
    path, size = daq.folder / "big.fits", 3 << 30
    head = primary("DATASUM = '0       '") + image(b"").replace(
        b"NAXIS1  =                    0", b"NAXIS1  =%21d" % size)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + -(-size // BLOCK) * BLOCK)
    # not getrusage: what the parent had before the exec counts in its peak
    code = ("import re, sys; from daq_merge.__main__ import main; "
            "main(['--verify', sys.argv[1]]); "
            "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])")
    import subprocess
    import sys

    from harness import CHECKOUT

    told = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{CHECKOUT}/lib:{CHECKOUT}/tools/daq-merge"})
    assert int(told.stdout.splitlines()[-1]) < 80 * 1024

"""Wheels with and without the C extension: what a machine can build, and what it says if not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from harness import CHECKOUT, SYSTEM_PATH

pytestmark = pytest.mark.xdist_group("native")

BINARY = "daqlib/_native.abi3.so"
PURE = "py3-none-any"
NOTICE = "daqspool: no C extension, sums are slower: "
TELL = ("from daqlib import checksum; print(checksum._native is not None,"
        "checksum.data_sum(bytes(range(1, 10))))")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", CHECKOUT / "hatch_build.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def build(root: Path, out: Path, target: str = "wheel", **env: str) -> tuple[Path, str]:
    """Build a distribution; return its path and what was said beside."""
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out],
                          cwd=root, env={"PATH": SYSTEM_PATH} | env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    *said, path = done.stdout.splitlines()
    return root / path, "\n".join(said)


def tag(wheel: Path) -> str:
    """Return the tag in a wheel's name, having compared it with what the wheel says itself."""
    told = wheel.stem.split("-", 2)[2]
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        inside = archive.read(name).decode().splitlines()
    assert f"Tag: {told}" in inside
    assert f"Root-Is-Purelib: {str(told == PURE).lower()}" in inside
    return told


def members(wheel: Path) -> dict[str, bytes]:
    """Return the content of a wheel but for the metadata that depend on its tag."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()
                if not name.endswith(("/WHEEL", "/RECORD"))}


def loads(folder: Path) -> str:
    """Return what an interpreter says that takes the library from a folder."""
    done = subprocess.run([sys.executable, "-P", "-c", TELL], env={"PYTHONPATH": str(folder)},
                          cwd="/", capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def compiler(hook: ModuleType) -> None:
    """Skip where nothing can be compiled; an automatic check has to have a compiler."""
    try:
        hook.compiler()
        hook.headers()
    except hook.Impossible as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def native(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheel, said = build(CHECKOUT, tmp_path_factory.mktemp("native"))
    assert said == ""
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack a source distribution."""
    folder = tmp_path_factory.mktemp("source")
    packed, _ = build(CHECKOUT, folder, "sdist")
    with tarfile.open(packed) as archive:
        # what the filter is for cannot be in our own archive; Python 3.11.3 and before lack it
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **safe)
    return folder / packed.name.removesuffix(".tar.gz")


@pytest.fixture
def tree(source: Path, tmp_path: Path) -> Path:
    """A source tree to change, which no version control tells what to leave out."""
    shutil.copytree(source, tmp_path / "tree", ignore=shutil.ignore_patterns(".gitignore"))
    return tmp_path / "tree"


def test_wheel_with_the_extension(native: Path, tmp_path: Path) -> None:
    from packaging import tags

    language, interface, platform = tag(native).split("-")
    assert (language, interface) == ("cp311", "abi3")
    assert not platform.startswith(("manylinux", "musllinux")), "a promise nobody checked"
    assert next(iter(tags.parse_tag(tag(native)))) in set(tags.sys_tags())
    inside = members(native)
    assert BINARY in inside
    assert "daqlib/_native.pyi" in inside
    assert [name for name in inside if name.endswith(".c")] == []
    with zipfile.ZipFile(native) as archive:
        archive.extractall(tmp_path)
    assert loads(tmp_path).startswith("True ")


def test_the_extension_is_the_only_difference(native: Path, tmp_path: Path) -> None:
    pure, _ = build(CHECKOUT, tmp_path, DAQ_NO_NATIVE="1")
    with_it, without = members(native), members(pure)
    assert set(with_it) - set(without) == {BINARY}
    assert {name: with_it[name] for name in without} == without
    with zipfile.ZipFile(pure) as archive:
        archive.extractall(tmp_path / "pure")
    with zipfile.ZipFile(native) as archive:
        archive.extractall(tmp_path / "native")
    sums = [loads(tmp_path / name).split() for name in ("native", "pure")]
    assert [had for had, _ in sums] == ["True", "False"]
    assert sums[0][1] == sums[1][1]


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("text", "reason"), [
    ("echo 'one.c: In function' >&2; echo 'one.c:7: error: no such luck' >&2; exit 1",
     "compiling failed: one.c:7: error: no such luck"),
    ("exit 3", "compiling failed: exit code 3"),
    ("exit 0", "what was compiled does not work: "),
    ('for word; do out=$word; done; echo "not a library" >"$out"',
     "what was compiled does not work: "),
    ("kill -9 $$", "compiling failed: exit code -9")])
@pytest.mark.usefixtures("compiler")
def test_a_compiler_that_fails(tmp_path: Path, text: str, reason: str) -> None:
    wheel, said = build(CHECKOUT, tmp_path, CC=script(tmp_path / "cc", text))
    assert tag(wheel) == PURE
    assert said.startswith(NOTICE + reason)
    assert "\n" not in said


@pytest.mark.parametrize("env", [{"CC": "no-such-compiler -m64"}, {"PATH": "/nonexistent"}])
def test_no_compiler(tmp_path: Path, env: dict[str, str]) -> None:
    wheel, said = build(CHECKOUT, tmp_path, **env)
    assert tag(wheel) == PURE
    assert said.startswith(f"{NOTICE}no C compiler (")
    assert "\n" not in said


def test_on_request_without(tmp_path: Path) -> None:
    wheel, said = build(CHECKOUT, tmp_path, DAQ_NO_NATIVE="1")
    assert (tag(wheel), said) == (PURE, f"{NOTICE}DAQ_NO_NATIVE is set")


def test_no_headers(hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where = {"include": str(tmp_path / "include"), "platinclude": str(tmp_path / "include")}
    monkeypatch.setattr(hook.sysconfig, "get_paths", lambda: where)
    with pytest.raises(hook.Impossible, match=r"no Python\.h in .*: install python3-dev"):
        hook.headers()


def test_other_interpreters_get_no_extension(
        hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DAQ_NO_NATIVE", raising=False)
    monkeypatch.setattr(hook.platform, "python_implementation", lambda: "PyPy")
    with pytest.raises(hook.Impossible, match="stable ABI"):
        hook.build(str(CHECKOUT / hook.SOURCE), str(tmp_path))


def test_flags_count(compiler: None, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    fake = script(tmp_path / "cc", f"echo \"$@\" >{seen}; exit 1")
    build(CHECKOUT, tmp_path, CC=f"{fake} -first", CFLAGS="-second '-D x=1'", LDFLAGS="-last")
    words = seen.read_text().strip()
    assert words.startswith("-first -O3 -shared -fPIC -second -D x=1 -I")
    assert words.endswith(" -last")


def test_source_distribution_builds_the_same(native: Path, source: Path, tmp_path: Path) -> None:
    assert (source / "hatch_build.py").is_file()
    assert (source / "lib" / "daqlib" / "_native.c").is_file()
    assert list(source.rglob("*.so")) == []
    wheel, said = build(source, tmp_path)
    assert said == ""
    assert tag(wheel) == tag(native)
    first, again = members(native), members(wheel)
    assert again[BINARY] == first[BINARY]
    assert set(again) == set(first)


def test_what_lies_beside_the_source_is_not_shipped(tree: Path, tmp_path: Path) -> None:
    (tree / "lib" / BINARY).write_bytes(b"of another machine")
    wheel, _ = build(tree, tmp_path, DAQ_NO_NATIVE="1")
    assert BINARY not in members(wheel)
    packed, _ = build(tree, tmp_path, "sdist")
    with tarfile.open(packed) as archive:
        assert [name for name in archive.getnames() if name.endswith(".so")] == []


def test_editable(compiler: None, tree: Path, tmp_path: Path) -> None:
    """The extension lies beside its source, the wheel only says where the sources are."""
    binary = tree / "lib" / BINARY
    binary.write_bytes(b"of another machine")
    wheel, said = build(tree, tmp_path, "wheel:editable")
    assert (tag(wheel), said) == (PURE, "")
    assert BINARY not in members(wheel)
    assert loads(tree / "lib").startswith("True ")
    first = binary.stat().st_ino
    build(tree, tmp_path, "wheel:editable")
    assert binary.stat().st_ino == first, "the same again was written"
    _, said = build(tree, tmp_path, "wheel:editable", CC="no-such-compiler")
    assert said.startswith(NOTICE)
    assert loads(tree / "lib").startswith("False ")
    assert [name for name in os.listdir(binary.parent) if name.endswith(".so")] == []


def test_a_folder_that_cannot_be_written_to(hook: ModuleType, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"x")
    source = tmp_path / "gone" / "_native.c"
    with pytest.raises(hook.Impossible, match="gone: No such file or directory"):
        hook.put_beside(str(source), str(binary))
    hook.forget(str(source))


@pytest.mark.parametrize("env", [{}, {"DAQ_NO_NATIVE": "1"}])
@pytest.mark.usefixtures("compiler")
def test_pip_installs_both(source: Path, tmp_path: Path, env: dict[str, str]) -> None:
    """From a source distribution, with the build backend that is here: no network is needed."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--no-build-isolation", "--disable-pip-version-check", "--target", tmp_path, source],
        cwd="/", env={"PATH": SYSTEM_PATH} | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / BINARY).exists() is not bool(env)
    assert loads(tmp_path).startswith(f"{not env} ")

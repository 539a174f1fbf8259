from __future__ import annotations

from pathlib import Path

import pytest

from daqlib import config, errors
from harness import CHECKOUT


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAQ_CONFIG", "CFGPATH", "DATAROOT"):
        monkeypatch.delenv(name, raising=False)


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def load(tmp_path: Path, text: str) -> config.Config:
    return config.load(write(tmp_path / "daq.yaml", text))


def test_without_a_file_the_defaults_hold() -> None:
    made = config.load(None)
    assert made.values == config.DEFAULTS
    assert made.path == ""


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    made = load(tmp_path, "cfg:\n  instrument_id: TEST\n  limits: {merge: 3}\n"
                          "  retry:\n    first_sec: 1\n")
    assert (made["instrument_id"], made["limits.merge"], made["limits.daq"]) == ("TEST", 3, 1)
    assert made["retry.first_sec"] == 1.0
    assert isinstance(made["retry.first_sec"], float)
    assert made.path == str(tmp_path / "daq.yaml")


def test_dotted_keys_are_keys_too(tmp_path: Path) -> None:
    assert load(tmp_path, "cfg: {limits.merge: 3}")["limits.merge"] == 3


def test_where_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path / "one/daq.yaml", "cfg: {instrument_id: ONE}")
    write(tmp_path / "two/daq.yaml", "cfg: {instrument_id: TWO}")
    monkeypatch.setenv("CFGPATH", f"{tmp_path}/none:{tmp_path}/two:{tmp_path}/one")
    assert config.load("daq.yaml")["instrument_id"] == "TWO"
    monkeypatch.setenv("DAQ_CONFIG", one)
    assert config.load(None)["instrument_id"] == "ONE"
    assert config.load("daq.yaml")["instrument_id"] == "TWO", "the option comes first"
    monkeypatch.chdir(tmp_path / "one")
    monkeypatch.delenv("CFGPATH")
    assert config.load("daq.yaml").path == one


def test_the_file_comes_before_the_environment(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAROOT", "/from/env")
    assert load(tmp_path, "cfg: {dataroot: /from/file}")["dataroot"] == "/from/file"
    assert load(tmp_path, "cfg: {instrument_id: X}")["dataroot"] == "/from/env"
    assert config.load(None)["dataroot"] == "/from/env"


@pytest.mark.parametrize(("key", "hint"), [
    ("limits: {merg: 1}", "cfg/limits/merg ignored; did you mean limits.merge?"),
    ("instrument: X", "did you mean instrument_id?"),
    ("colour: red", "cfg/colour ignored"),
])
def test_an_unknown_key_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str,
                                hint: str) -> None:
    assert load(tmp_path, f"cfg:\n  {key}\n").values == config.DEFAULTS
    told = capsys.readouterr().err
    assert hint in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(("text", "message"), [
    ("cfg: {limits: {merge: many}}", r"cfg/limits/merge is 'many'; give a value of type int"),
    ("cfg: {limits: {merge: 1.5}}", "cfg/limits/merge is 1.5"),
    ("cfg: {limits: {merge: true}}", "cfg/limits/merge is True"),
    ("cfg: {limits: {merge: -1}}", "not negative"),
    ("cfg: {retry: {first_sec: true}}", "cfg/retry/first_sec is True"),
    ("cfg: {receivers: here}", "type list"),
    ("cfg: {spool: 5}", "type str"),
    ("cfg: {insecure: 'yes'}", "type bool"),
    ("cfg: {instrument_id: a/b}", "cfg/instrument_id 'a/b' is not allowed"),
    ("cfg: {instrument_id: }", "cfg/instrument_id is None"),
    ("limits: {merge: 1}", "has no mapping 'cfg' at the top"),
    ("", "has no mapping"),
    ("[1, 2]", "has no mapping"),
    ("cfg: {a: [", "mend the file"),
    ("cfg: !!python/object/apply:os.system ['true']", "mend the file"),
])
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(errors.BadConfig, match=message) as caught:
        load(tmp_path, text)
    assert str(caught.value).isprintable(), "one line"


def test_a_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFGPATH", f"{tmp_path}/x")
    with pytest.raises(errors.BadConfig, match=f"tried {tmp_path}/x/none.yaml, none.yaml"):
        config.load("none.yaml")
    with pytest.raises(errors.BadConfig, match="not found"):
        config.load(str(tmp_path / "none.yaml"))


def test_a_directory_or_binary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(errors.BadConfig):
        config.load(str(tmp_path / "binary"))
    with pytest.raises(errors.BadConfig):
        config.load(str(tmp_path))


def test_the_samples_load(capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((CHECKOUT / "config").glob("*.yaml")):
        config.load(str(path))
    assert capsys.readouterr().err == ""

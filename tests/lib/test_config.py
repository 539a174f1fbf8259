from __future__ import annotations

import os
import stat
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


@pytest.mark.parametrize("key", ["limits.merge", "limits/merge", "limit/merge"])
def test_dotted_keys_are_keys_too(tmp_path: Path, key: str,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert load(tmp_path, f"cfg: {{{key}: 3}}")["limits.merge"] == 3
    assert "unknown" not in capsys.readouterr().err


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "daq.yaml", "cfg:\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)  # root, who may run this, is refused nothing
    with pytest.raises(errors.BadConfig) as caught:
        config.load(path)
    monkeypatch.undo()
    assert str(caught.value) == f"{path}: Permission denied; check owner and mode of the file"


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


@pytest.mark.parametrize(("text", "told"), [
    ("  limits: {merg: 1}", "line 2: unknown key cfg/limits/merg ignored; did you mean "
                            "cfg/limits/merge?"),
    ("  spool: /x\n  instrument: X", "line 3: unknown key cfg/instrument ignored; did you mean "
                                    "cfg/instrument_id?"),
    ("  net_send: 1", "unknown key cfg/net_send ignored; did you mean cfg/limits/net_send?"),
    ("  colour: red", "unknown key cfg/colour ignored\n"),
    ("  a: {b: {c: {d: 1}}}", "unknown key cfg/a/b/c/d ignored\n"),
    ("  retry: {tries: {first_sec: 1}}", None),
    ("  5: 6", "unknown key cfg/5 ignored\n"),
    ("  spool: /x\nlimits: {merge: 3}", "line 3: 'limits' ignored: it stands outside of cfg"),
])
def test_an_unknown_key_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str,
                                told: str | None) -> None:
    if told is None:
        with pytest.raises(errors.BadConfig, match="cfg/retry/tries is {.*not an integer"):
            load(tmp_path, f"cfg:\n{text}\n")
        return
    assert load(tmp_path, f"cfg:\n{text}\n")["limits.merge"] == 1
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(("text", "message"), [
    ("cfg: {limits: {merge: many}}",
     "line 1: cfg/limits/merge is 'many': not an integer; give an integer from 0, such as 1"),
    ("cfg:\n  limits:\n    merge: 1.5", "line 3: cfg/limits/merge is 1.5: not an integer"),
    ("cfg: {limits: {merge: true}}", "cfg/limits/merge is True: not an integer"),
    ("cfg: {limits: {merge: -1}}", "cfg/limits/merge is -1: less than 0"),
    ("cfg: {daq: {stale_acquiring_hours: -1}}", "stale_acquiring_hours is -1: less than 0"),
    (f"cfg: {{limits: {{merge: {10 ** 400}}}}}", r"is 10{98,99}\.\.\.: too much"),
    (f"cfg: {{limits: {{merge: {'9' * 5000}}}}}", "line 1: Exceeds the limit"),
    ("cfg: {retry: {tries: 0}}", "cfg/retry/tries is 0: less than 1"),
    ("cfg: {merge: {way: fast}}", "give auto, new, clone or in-place"),
    ("cfg: {merge: {sums: true}}", "cfg/merge/sums is True"),
    ("cfg: {request_timeout_sec: 0}", "is 0: not above 0; give a number above 0, such as 5.0"),
    ("cfg: {retry: {first_sec: true}}", "cfg/retry/first_sec is True: not a number"),
    ("cfg: {retry: {first_sec: .inf}}", "is inf: too much"),
    ("cfg: {retry: {first_sec: .nan}}", "is nan: too much"),
    ("cfg: {insecure: 'yes'}", "cfg/insecure is 'yes': not true or false; give true or false"),
    ("cfg: {spool: 5}", "cfg/spool is 5: not text; give a directory"),
    ("cfg: {spool: {a: 1}}", "cfg/spool is {'a': 1}: not text"),
    ("cfg: {spool: 2024-13-45}", "line 1: month must be in 1..12"),
    ("cfg: {dataroot: here}", "cfg/dataroot is 'here': .*; give an absolute path"),
    ("cfg: {dataroot: /a/../b}", "cfg/dataroot is '/a/../b'"),
    ("cfg: {instrument_id: a/b}", "cfg/instrument_id is 'a/b': not allowed; give 1 to 32 letters"),
    ("cfg: {instrument_id: }", "cfg/instrument_id is empty; give"),
    ("cfg: {rsh: ' '}", "cfg/rsh is ' ': empty"),
    ("cfg: {req_endpoint: 'http://h:1'}", "cfg/req_endpoint is 'http://h:1': .*scheme is not "
     "known; give zpb.rr://HOST:PORT"),
    ("cfg: {req_endpoint: 'zpb.ps://h:1'}", "no zpb.rr:// endpoint"),
    ("cfg: {pub_endpoint: 'zpb.rr://h:1'}", "no zpb.ps:// endpoint"),
    ("cfg: {pub_endpoint: ''}", "cfg/pub_endpoint is ''"),
    ("cfg: {dpm: {req_endpoint: nowhere}}", "cfg/dpm/req_endpoint is 'nowhere'"),
    ("cfg: {dictionaries: a.yaml}", "cfg/dictionaries is 'a.yaml': not a list"),
    ("cfg: {dictionaries: [a, 5]}", "5 is no text; give a list of paths relative to"),
    ("cfg: {dictionaries: [a, /b]}", "'/b' is not relative; give a list of paths relative to"),
    ("cfg: {dictionaries: [a/../../b]}", "'a/../../b' is not relative"),
    ("cfg: {oldb_uri_prefix: elt/ocm}", "cfg/oldb_uri_prefix is 'elt/ocm': .*; give cii.oldb:/"),
    ("cfg: {stable_sources: [data]}", "path 'data' is not allowed; give a list of absolute paths"),
    ("cfg: {receivers: here}", "cfg/receivers is 'here': not a list"),
    ("cfg: {receivers: [{type: olasReceiver, pth: /a}]}", "entry 1: pth is not known"),
    ("cfg: {receivers: [{type: olasReceiver}]}", "entry 1: olasReceiver: path is missing"),
    ("cfg: {receivers: [{type: commandReceiver}]}", "commandReceiver: command is missing"),
    ("cfg: {receivers: [{type: mail}]}", "entry 1: receivers of type 'mail' are not known"),
    ("cfg: {receivers: [{type: olasReceiver, path: /a}, {type: olasReceiver, path: b}]}",
     "entry 2: receiver path 'b' is not allowed"),
    ("cfg: {receivers: [{type: olasReceiver, path: /a, host: -oProxy}]}", "entry 1: host"),
    ("cfg: {limits: 3}", "cfg/limits is 3, but holds keys; indent below it: limits.daq"),
    ("cfg:\n  limits:\n    merge: 1\n    daq: 2\n    merge: 1",
     "line 5: key 'merge' is there twice, first in line 3; leave one of them"),
    ("cfg:\n  spool: /a\ncfg:\n  spool: /b", "line 3: key 'cfg' is there twice"),
    ("cfg:\n  receivers:\n  - {type: a,\n     type: b}", "line 4: key 'type' is there twice"),
    ("cfg:\n  limits.merge: 1\n  limits: {merge: 1}",
     "line 3: cfg/limits/merge is 1, and cfg/limits/merge in line 2 is 1; leave only"),
    ("cfg:\n  limit: {net_receive: 1}\n  limits: {net_receive: 2}",
     "line 3: cfg/limits/net_receive is 2, and cfg/limit/net_receive in line 2 is 1; leave only "
     "cfg/limits/net_receive"),
    ("cfg: {workspace: a, daq: {workspace: b}}", "leave only cfg/daq/workspace"),
    ("cfg: {? [a] : b}", "line 1: a key is no text"),
    ("cfg: &a {x: *a}", "nested too deeply"),
    ("cfg: {receivers: &a [*a]}", "line 1: found unconstructable recursive node"),
    ("limits: {merge: 1}", "has no mapping 'cfg' at the top; begin it with the line 'cfg:'"),
    ("cfg: ''", "has no mapping 'cfg'"),
    ("", "has no mapping"),
    ("[1, 2]", "has no mapping"),
    ("cfg:\n  a: [\n", "line 3: .*; mend the file"),
    ("cfg:\n  spool: /a\n odd\n", "line 3: .*; mend the file"),
    ("cfg: {a: 1}\n---\ncfg: {}", "line 2: expected a single document"),
    ("cfg:\n  spool: !!python/object/apply:os.system ['true']",
     "line 2: could not determine a constructor .*; mend the file"),
    ("cfg: " + "[" * 5000, "mend the file"),
])
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(errors.BadConfig, match=message) as caught:
        load(tmp_path, text)
    assert str(caught.value).isprintable(), "one line"
    assert str(tmp_path / "daq.yaml") in str(caught.value)


def test_a_group_without_keys_is_none(tmp_path: Path) -> None:
    assert load(tmp_path, "cfg:\n  limits:\n  #  merge: 3\n  retry: {}\n").values == config.DEFAULTS
    assert load(tmp_path, "cfg:\n  # limits:\n  #  merge: 3\n").values == config.DEFAULTS


def test_anchors_and_merged_mappings(tmp_path: Path) -> None:
    made = load(tmp_path, "cfg:\n  limits: &l {merge: 3, daq: 2}\n  limit:\n    <<: *l\n")
    assert (made["limits.merge"], made["limits.daq"]) == (3, 2)


@pytest.mark.parametrize(("text", "name", "value"), [
    ("limit: {net_receive: 4}", "limits.net_receive", 4),
    ("workspace: ocm", "daq.workspace", "ocm"),
    ("db_timeout_sec: 9", "oldb_conn_timeout", 9),
    ("{limit: {merge: 2}, limits: {merge: 2}}", "limits.merge", 2),
])
def test_other_spellings(tmp_path: Path, text: str, name: str, value: object) -> None:
    assert load(tmp_path, f"cfg:\n  {text}\n")[name] == value


def test_endpoints_for_serving(tmp_path: Path) -> None:
    made = load(tmp_path, "cfg: {req_endpoint: 'zpb.rr://*:0', pub_endpoint: 'ipc:///r/p.sock'}")
    assert (made["req_endpoint"], made["pub_endpoint"]) == ("zpb.rr://*:0", "ipc:///r/p.sock")


def test_keys_without_effect_are_noted_together(tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    made = load(tmp_path, "cfg: {sm_scxml: sm.xml, dpm: {timeout_sec: 9}, db_timeout_sec: 2}")
    note = made.note()
    assert "cfg/sm_scxml" in note and "cfg/dpm/timeout_sec" in note
    assert "oldb_conn_timeout" not in note, "it has its default"
    assert note.startswith(made.path) and "\n" not in note
    assert capsys.readouterr().err == "", "it is for daemons to say it"
    assert load(tmp_path, "cfg: {spool: /x}").note() == ""
    assert config.Config().note() == ""


def test_full_sample_of_the_manual(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = load(tmp_path, """
cfg:
  instrument_id: "TEST"
  dataroot: "/absolute/output/path"
  sm_scxml: "config/daqOcmServer/sm.xml"
  req_endpoint: "zpb.rr://127.0.0.1:12340/"
  pub_endpoint: "zpb.ps://127.0.0.1:12341/"
  db_timeout_sec: 2
  log_properties: "log.properties"
  daq:
    workspace: "ocm"
    stale_acquiring_hours: 18
    stale_merging_hours: 720
  dpm:
    req_endpoint: "zpb.rr://127.0.0.1:12350/"
    pub_endpoint: "zpb.ps://127.0.0.1:12351/"
    timeout_sec: 5
""")
    assert capsys.readouterr().err == ""
    assert made["daq.stale_merging_hours"] == 720
    assert made["log_properties"] == "log.properties"
    assert set(made.idle) == {"sm_scxml", "daq.workspace"}


def test_every_default_is_allowed(tmp_path: Path) -> None:
    import yaml

    assert load(tmp_path, yaml.safe_dump({"cfg": config.DEFAULTS})).values == config.DEFAULTS


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


def test_the_samples_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                          capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted((CHECKOUT / "config").glob("*.yaml"))
    paths += sorted((CHECKOUT / "config").glob("daq*/config.yaml"))
    assert len(paths) == 3
    for path in paths:
        assert config.load(str(path)).note() == ""
    monkeypatch.setenv("CFGPATH", f"/nowhere:{CHECKOUT}")
    monkeypatch.chdir(tmp_path)
    ocm = config.load("config/daqOcmServer/config.yaml")
    dpm = config.load("config/daqDpmServer/config.yaml")
    assert (ocm["instrument_id"], ocm["req_endpoint"]) == ("UNDEF", "zpb.rr://127.0.0.1:12081/")
    assert (dpm["req_endpoint"], dpm["pub_endpoint"]) == (
        "zpb.rr://127.0.0.1:12083/", "zpb.ps://127.0.0.1:12084/")
    assert capsys.readouterr().err == ""


# -- Config Paths and the data root --------------------------------------------------------------


def test_config_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = write(tmp_path / "one/a", ""), write(tmp_path / "two/a", "")
    (tmp_path / "none/a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "two")
    assert config.find("a", "thing", "") == two, "the current directory, without CFGPATH"
    monkeypatch.setenv("CFGPATH", f":{tmp_path}/none:{tmp_path}/one:{tmp_path}/two")
    assert config.find("a", "thing", "") == one
    assert config.find(two, "thing", "") == two, "an absolute path is used as it is"
    with pytest.raises(errors.BadConfig, match=f"thing b not found .tried {tmp_path}/none/b, .*;"):
        config.find("b", "thing", "do this")
    with pytest.raises(errors.BadConfig):
        config.find(f"{tmp_path}/a", "thing", "")


def test_a_relative_dataroot_of_the_environment_is_refused(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAROOT", "data")
    with pytest.raises(errors.BadConfig, match="DATAROOT: .*'data'.*; give an absolute path"):
        config.load(None)


def test_the_data_root_is_made_with_its_parents(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    before = os.umask(0o077)
    try:
        config.make_dataroot(str(tmp_path / "a/b/c"))
        config.make_dataroot(str(tmp_path / "a/b/c"))
        config.make_dataroot(str(tmp_path / "a/b/d"))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("", "a", "a/b/c", "a/b/d")]
    assert modes == [0o700, 0o774, 0o774, 0o774], "what was there keeps its mode"


def test_a_data_root_that_cannot_be(tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for wrong in ("file", "dangling"):
        with pytest.raises(errors.BadConfig, match="no directory that can be written; correct"):
            config.make_dataroot(str(tmp_path / wrong))
    with pytest.raises(errors.BadConfig, match="cannot be created: Not a directory: .*file/a"):
        config.make_dataroot(str(tmp_path / "file/a"))


def test_a_data_root_that_another_tool_makes_meanwhile(tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir

    def slower(path: str) -> None:
        if path == str(tmp_path / "a"):
            make(path)  # the other tool, between our look and our deed
        make(path)

    monkeypatch.setattr(os, "mkdir", slower)
    config.make_dataroot(str(tmp_path / "a/b"))
    assert (tmp_path / "a/b").is_dir()

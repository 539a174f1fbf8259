"""daq-release: delivery to directories of this host and of others."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Daq, wait_until
from releasing import ARCHIVE, again, alerts, delivered, olas, put, release, result
from remote import HOST, Sshd, Stand, configure, holders, script, sshd, stand_in


@pytest.fixture
def box(daq: Daq) -> Path:
    """A receiver's directory."""
    path = daq.folder / "olas"
    path.mkdir()
    return path


@pytest.fixture
def elsewhere(box: Path) -> Iterator[Path]:
    """A directory on another file system."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        if os.stat(made).st_dev == os.stat(box).st_dev:
            pytest.skip("/dev/shm is no other file system")
        yield Path(made)


@pytest.fixture
def stand(daq: Daq) -> Stand:
    """A stand-in for ssh, configured."""
    made = stand_in(daq.folder)
    configure(daq, rsh=made.command)
    return made


def test_hard_link_under_the_archive_name(daq: Daq, box: Path) -> None:
    product = put(daq, olas(box))
    release(daq).ok().no_output()
    assert daq.tree() == {"done": ["J1"]}
    assert (box / ARCHIVE).samefile(product) and not (box / ARCHIVE).is_symlink()
    event, = delivered(daq)
    assert (event["receiver"], event["path"], event["how"], event["size"]) == (
        str(box), str(box / ARCHIVE), "hardlink", product.stat().st_size)
    receipt, = result(daq)["receipts"]
    assert receipt.pop("time") <= event["time"] and receipt.pop("host") == ""
    assert receipt == {key: event[key] for key in (
        "receiver", "type", "path", "how", "size", "sha256", "try")}
    assert (event["type"], event["try"]) == ("olasReceiver", 1)


def test_nobody_to_deliver_to(daq: Daq) -> None:
    put(daq)
    release(daq).ok()
    assert daq.events("J1") == ["accepted", "start", "ok"]


def test_symbolic_link_across_file_systems(daq: Daq, elsewhere: Path) -> None:
    product = put(daq, olas(elsewhere))
    release(daq).ok()
    assert os.readlink(elsewhere / ARCHIVE) == str(product)
    assert delivered(daq)[0]["how"] == "symlink"


def test_copy_where_no_symbolic_link_is_wanted(daq: Daq, elsewhere: Path) -> None:
    product = put(daq, olas(elsewhere, allowSymlink=False))
    (elsewhere / ".tmp-999999999-1-other.fits").write_text("not ours")
    release(daq, env={"DAQ_CRASH": "deliver.copied"}).died(signal.SIGKILL)
    assert len(os.listdir(elsewhere)) == 2 and not (elsewhere / ARCHIVE).exists()
    release(daq).ok()
    assert (elsewhere / ARCHIVE).read_bytes() == product.read_bytes()
    assert (elsewhere / ARCHIVE).stat().st_mtime_ns == product.stat().st_mtime_ns
    assert sorted(os.listdir(elsewhere)) == [".tmp-999999999-1-other.fits", ARCHIVE]
    assert delivered(daq)[0]["how"] == "copy"


def test_same_content_there_is_a_success(daq: Daq, box: Path) -> None:
    product = put(daq, olas(box))
    (box / ARCHIVE).write_bytes(product.read_bytes())
    release(daq).ok()
    assert delivered(daq)[0]["how"] == "copy" and alerts(daq) == []


@pytest.mark.parametrize("there", ["file", "longer", "directory", "dangling"])
def test_other_content_is_never_overwritten(daq: Daq, box: Path, there: str) -> None:
    product = put(daq, olas(box))
    target = box / ARCHIVE
    if there == "file":
        target.write_bytes(product.read_bytes()[:-1] + b"x")
    elif there == "longer":
        target.write_bytes(product.read_bytes() + b"x")
    elif there == "directory":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    before = target.lstat()
    release(daq).fails(73, str(box), "exists with other content", "the job is done all the same")
    after = target.lstat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino, before.st_size, before.st_mtime_ns)
    assert alerts(daq) == [f"release-failed:{box}"] and delivered(daq) == []
    assert daq.tree() == {"done": ["J1"]}


def test_failed_receiver_does_not_hold_up_the_others(daq: Daq, box: Path) -> None:
    put(daq, olas(daq.folder / "none"), olas("relative"), olas(box), {"type": "fax", "path": "/x"})
    told = release(daq).ok().says("none: not delivered: no such directory")
    told.says("'fax'").says("'relative'")
    assert (box / ARCHIVE).exists() and len(alerts(daq)) == 3
    assert not (daq.folder / "none").exists()


def test_tried_again_when_moved_back(daq: Daq, box: Path) -> None:
    box.rmdir()
    put(daq, olas(box))
    release(daq).ok().says("no such directory")
    box.mkdir()
    again(daq)
    release(daq).ok()
    assert (box / ARCHIVE).exists() and len(delivered(daq)) == 1
    again(daq)
    release(daq).ok()
    assert len(delivered(daq)) == 1


def test_delivered_once_is_not_delivered_twice(daq: Daq, box: Path) -> None:
    put(daq, olas(box), olas(daq.folder / "none"))
    release(daq).ok()
    (box / ARCHIVE).unlink()  # the archive took it
    (daq.folder / "none").mkdir()
    again(daq)
    release(daq).ok()
    assert not (box / ARCHIVE).exists() and (daq.folder / "none" / ARCHIVE).exists()
    again(daq)
    release(daq, "--force").ok()
    assert (box / ARCHIVE).exists()


def test_crash_between_delivery_and_manifest(daq: Daq, box: Path) -> None:
    put(daq, olas(box))
    release(daq, env={"DAQ_CRASH": "stage.worked"}).died(signal.SIGKILL)
    release(daq).ok()
    assert len(delivered(daq)) == 1 and daq.tree() == {"done": ["J1"]}


def test_receivers_of_an_edited_job(daq: Daq, box: Path) -> None:
    put(daq, olas("/nowhere"))
    document = json.loads((daq.spool / "release" / "J1.json").read_text())
    daq.drop("release", "J1", {**document, "receivers": [olas(box)]})
    release(daq).ok()
    assert (box / ARCHIVE).exists() and alerts(daq) == []


def test_product_is_gone(daq: Daq, box: Path) -> None:
    put(daq, olas(box)).unlink()
    release(daq).fails(65, "product", "gone", "merge/")
    assert daq.tree() == {"failed": ["J1"]}


def test_product_was_changed(daq: Daq, box: Path) -> None:
    product = put(daq, olas(box))
    data = product.read_bytes()
    product.chmod(0o644)
    product.write_bytes(data[:-1] + b"x")
    release(daq).fails(73, "not the one that was merged")
    assert os.listdir(box) == [] and daq.tree() == {"failed": ["J1"]}


def test_never_merged(daq: Daq, box: Path) -> None:
    put(daq, olas(box))
    (daq.spool / "data" / "J1" / "merge.json").unlink()
    release(daq).fails(65, "merge.json")


# --- other hosts ------------------------------------------------------------------------------


@pytest.mark.needs("rsync")
def test_rsync(daq: Daq, stand: Stand, box: Path) -> None:
    product = put(daq, olas(box, HOST))
    release(daq).ok()
    assert (box / ARCHIVE).read_bytes() == product.read_bytes()
    assert (box / ARCHIVE).stat().st_mtime_ns == product.stat().st_mtime_ns
    assert os.listdir(box) == [ARCHIVE]
    event, = delivered(daq)
    assert (event["receiver"], event["path"], event["how"]) == (
        f"{HOST}:{box}", str(box / ARCHIVE), "rsync")
    assert len(stand.calls.read_text().splitlines()) == 1


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("name", ["a b", "it's", 'q"q', "c:d", "$(touch pwned)", "ä∂", "-x",
                                  "a;b|c&d", "`touch pwned`", "%41", "~", "a#!", "{a,b}",
                                  "$HOME", "<a>", "(x)", "^a^b", "a=b"])
def test_rsync_to_odd_directories(daq: Daq, stand: Stand, name: str) -> None:
    (daq.folder / name).mkdir()
    product = put(daq, olas(daq.folder / name, HOST))
    release(daq).ok()
    assert (daq.folder / name / ARCHIVE).read_bytes() == product.read_bytes()
    assert not list(daq.folder.rglob("pwned"))


@pytest.mark.needs("rsync", "rrsync")
@pytest.mark.parametrize("name", ["a b", "it's", "`touch pwned`", "{a,b}", "a;b"])
def test_key_that_may_only_write_to_one_directory(daq: Daq, name: str) -> None:
    inside = daq.folder / "in"
    (inside / name).mkdir(parents=True)
    configure(daq, rsh=script(daq.folder / "forced", f"""shift
SSH_ORIGINAL_COMMAND="$*" exec rrsync -wo {inside}
"""))
    product = put(daq, olas(f"/{name}", HOST))
    release(daq).ok()
    assert alerts(daq) == []
    assert (inside / name / ARCHIVE).read_bytes() == product.read_bytes()


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("name", ["a*", "a[b]", "a?", "a\\b"])
def test_rsync_to_what_could_mean_another_directory(daq: Daq, stand: Stand, name: str) -> None:
    for place in (name, "ab"):
        (daq.folder / place).mkdir()
    put(daq, olas(daq.folder / name, HOST))
    release(daq).ok().says("wildcards")
    assert stand.calls.read_text() == "" and len(alerts(daq)) == 1


@pytest.mark.needs("rsync")
def test_rsync_same_content_there(daq: Daq, stand: Stand, box: Path) -> None:
    product = put(daq, olas(box, HOST))
    (box / ARCHIVE).write_bytes(product.read_bytes())
    before = (box / ARCHIVE).stat()
    release(daq).ok()
    assert alerts(daq) == [] and len(delivered(daq)) == 1
    assert (box / ARCHIVE).stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("alike", [True, False])
def test_rsync_never_overwrites(daq: Daq, stand: Stand, box: Path, alike: bool) -> None:
    product = put(daq, olas(box, HOST))
    (box / ARCHIVE).write_bytes(product.read_bytes()[:-1] + b"x")
    if alike:
        status = product.stat()
        os.utime(box / ARCHIVE, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(box / ARCHIVE, (1, 1))
    release(daq).fails(73, "exists with other content")
    assert (box / ARCHIVE).read_bytes() != product.read_bytes()
    assert alerts(daq) == [f"release-failed:{HOST}:{box}"] and delivered(daq) == []


@pytest.mark.needs("rsync")
def test_rsync_makes_no_directory(daq: Daq, stand: Stand) -> None:
    put(daq, olas(daq.folder / "none", HOST))
    release(daq).ok().says("No such file or directory")
    assert not (daq.folder / "none").exists() and len(alerts(daq)) == 1


@pytest.mark.needs("rsync")
def test_host_is_down(daq: Daq, box: Path) -> None:
    configure(daq, rsh="sh -c 'echo no route to host >&2; exit 255' x")
    put(daq, olas(box, HOST), olas(box))
    release(daq).ok().says("no route to host")
    assert alerts(daq) == [f"release-failed:{HOST}:{box}"] and (box / ARCHIVE).exists()


def test_rsync_is_not_installed(daq: Daq, box: Path) -> None:
    configure(daq, bin_rsync="no-such-rsync")
    put(daq, olas(box, HOST))
    release(daq).ok().says("apt-get install")
    assert len(alerts(daq)) == 1


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_ended_in_the_middle(daq: Daq, stand: Stand, box: Path, signum: int) -> None:
    product = put(daq, olas(box, HOST))
    lock = daq.spool / "lock" / "J1"
    stand.gate.unlink()
    process = daq.spawn("daq-release", "--job", "J1")
    wait_until(stand.calls.read_text)
    process.signal(signum)
    process.wait(10)
    if signum == signal.SIGKILL:
        release(daq).fails(75, "somebody is at work")
        stand.gate.touch()
    wait_until(lambda: not holders(lock), 5)
    assert "delivered" not in daq.events("J1") and daq.tree() == {"release": ["J1"]}
    stand.gate.touch()
    release(daq).ok()
    assert (box / ARCHIVE).read_bytes() == product.read_bytes() and alerts(daq) == []


@pytest.mark.needs("rsync")
def test_older_rsync_leaves_the_path_to_the_shell_as_well(daq: Daq) -> None:
    lsh = stand_in(daq.folder)
    old = script(daq.folder / "rsync", """[ "$1" = --version ] && exec echo "rsync  version 3.1.3"
case "$*" in *--old-args*) echo "rsync: --old-args: unknown option" >&2; exit 1;; esac
exec rsync --old-args "$@"
""")
    configure(daq, rsh=lsh.command, bin_rsync=old)
    box = daq.folder / "a `touch pwned` $HOME"
    box.mkdir()
    put(daq, olas(box, HOST))
    release(daq).ok()
    assert (box / ARCHIVE).exists() and not list(daq.folder.rglob("pwned"))


@pytest.mark.needs("rsync", "ssh", "sshd")
def test_real_ssh(daq: Daq, tmp_path_factory: pytest.TempPathFactory) -> None:
    with sshd(tmp_path_factory.mktemp("sshd")) as far:
        configure(daq, ssh_config=far.ssh_config)
        _check_real_ssh(daq, far)


def _check_real_ssh(daq: Daq, far: Sshd) -> None:
    folder = daq.folder / "o $(las)'"
    folder.mkdir()
    beside = daq.folder / "beside"
    beside.mkdir()
    product = put(daq, olas(folder, HOST), olas(beside, HOST))
    release(daq).ok()
    assert (folder / ARCHIVE).read_bytes() == product.read_bytes()
    assert (beside / ARCHIVE).read_bytes() == product.read_bytes()
    assert holders(daq.spool / "lock" / "J1") == [] and list(far.folder.glob("cm-*")) == []
    (folder / ARCHIVE).unlink()
    (folder / ARCHIVE).write_text("other")
    again(daq)
    release(daq, "--force").fails(73, "exists with other content")
